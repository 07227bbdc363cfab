"""Run the local stack under `.placet/`: `python -m stack up | down | status | page | demo [--rotating] | kafka 1|3`.

`up` starts a supervisor in the background. HOURS=france applies the real sending hours instead of the demonstration
policy; KAFKA=1 (or 3) runs Apache Kafka instead of the local broker; GATEWAYS=file and ACCOUNTS=file take operators
beside the simulator; OPERATOR=kafka, smpp or kannel has the services reach the simulator that way. Settings of
services in the caller's environment are refused. The supervisor holds a lock on its pid file: a pid in an unlocked file
is stale.
"""

import asyncio
import fcntl
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO, cast, get_args

from stack.environment import SERVICES, Hours, operators_asked, refuse_settings
from stack.kafka import Kafka, fetch
from stack.preferences import link
from stack.processes import DidNotStart, Died, Supervisor, tail
from stack.running import STACK_ENV, kafka_asked, make_empty, running_stack

FOLDER = Path(".placet")
KAFKA = Path(".kafka")
PID = FOLDER / "supervisor.pid"
LOG = FOLDER / "supervisor.log"
UP_WITHIN_S = 180.0
DOWN_WITHIN_S = 60.0
POLL_S = 0.1
RESTARTS_PER_MINUTE = 5


def up() -> int:
    hours = os.environ.get("HOURS", "demonstration")
    if hours not in get_args(Hours):
        return _fail(f"HOURS is one of {', '.join(get_args(Hours))}")
    try:
        refuse_settings(os.environ)
        operators_asked(os.environ)
        brokers = kafka_asked(os.environ)
    except DidNotStart as error:
        return _fail(str(error))
    if supervisor_pid() is not None:
        print("already up")
        return status()
    make_empty(FOLDER)
    print("starting, from empty databases ...", flush=True)
    with LOG.open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "stack", "supervise", hours, str(brokers)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + UP_WITHIN_S
    try:
        while not (FOLDER / STACK_ENV).exists():
            if supervisor.poll() is not None:
                return _fail(f"the stack did not start:\n{tail(LOG, 60)}")
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(POLL_S)
    except (KeyboardInterrupt, TimeoutError):
        supervisor.terminate()
        supervisor.wait()
        return _fail(f"given up:\n{tail(LOG, 60)}")
    while any(_look().values()) and time.monotonic() < deadline:
        time.sleep(POLL_S)  # on a busy machine consent may be old again
    return status()


def down() -> int:
    pid = supervisor_pid()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_WITHIN_S
        while supervisor_pid() == pid:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)  # its children die with the supervisor
                deadline += DOWN_WITHIN_S
            time.sleep(POLL_S)
    if FOLDER.exists():
        make_empty(FOLDER)
    PID.unlink(missing_ok=True)
    print("down" if pid is not None else "was not up")
    return 0


def status() -> int:
    """Print the state of each process; return 0 when everything is ready."""
    if supervisor_pid() is None:
        return _fail(f"not up ({LOG} tells how it ended)" if LOG.exists() else "not up")
    try:
        told = _told()
    except FileNotFoundError:
        return _fail("starting, or going down")
    looked = _look()
    for name, why in looked.items():
        print(f"  {name:<10} {told[f'{name.upper()}_URL']}  {why or 'ready'}")
    print(f"  urls and a development token: {FOLDER / STACK_ENV}")
    hours = LOG.read_text().partition("hours: ")[2].split("\n", 1)[0]
    if hours == "demonstration":
        print("  DEMONSTRATION HOURS are in force: marketing goes out at any time. HOURS=france takes the real ones.")
    else:
        print(f"  sending hours: {hours}")
    return 1 if any(looked.values()) else 0


def _look() -> dict[str, str | None]:
    """Return by name why a process is not ready, None for a ready one."""
    told = _told()
    urls = {name: told[f"{name.upper()}_URL"] for name in (*SERVICES, "simulator")}
    return {name: _not_ready(f"{url}/{'livez' if name == 'simulator' else 'readyz'}") for name, url in urls.items()}


def page() -> int:
    """Print the address of a preference page."""
    if supervisor_pid() is None:
        return _fail("not up: `make up` first")
    told = _told()
    try:
        print(link(told["CONSENT_URL"], told["TOKEN"]))
    except urllib.error.HTTPError as error:
        return _fail(f"consent-svc said {error.code}: {error.read().decode(errors='replace').strip()[:500]}")
    return 0


def supervise(hours: Hours, brokers: int) -> int:
    """Run the background process of `up`."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    with PID.open("ab") as held:
        if not _lock(held):
            return _fail("another supervisor is running here")
        held.truncate(0)
        held.write(str(os.getpid()).encode())
        held.flush()
        try:
            asyncio.run(_supervise(hours, brokers))
        except (DidNotStart, Died) as error:
            return _fail(str(error))
        except asyncio.CancelledError:
            print("stopped", flush=True)
    return 0


async def _supervise(hours: Hours, brokers: int) -> None:
    this = cast("asyncio.Task[None]", asyncio.current_task())
    for wanted in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(wanted, this.cancel)
    print(f"hours: {hours}", flush=True)
    async with running_stack(
        FOLDER,
        kafka=brokers,
        hours=hours,
        operators=operators_asked(os.environ),
        say=lambda what: print(f"starting {what}", flush=True),
    ) as stack:
        await _keep_running(stack.supervisor)


async def _keep_running(supervisor: Supervisor) -> None:
    """Restart each process that dies; raise the last Died after too many restarts."""
    restarts: list[float] = []
    while True:
        died: Died = await supervisor.died()
        print(f"restarting: {died}", flush=True)
        restarts = [at for at in restarts if at > time.monotonic() - 60] + [time.monotonic()]
        if len(restarts) > RESTARTS_PER_MINUTE:
            raise died
        await supervisor.restart(died.name)


def kafka(brokers: int) -> int:
    """Run Apache Kafka in the foreground, under `.kafka/`, where its log stays."""
    try:
        running = Kafka(KAFKA / f"{brokers}-brokers", fetch(), brokers).start()
    except DidNotStart as error:
        return _fail(str(error))
    print(f"PLACET_TEST_KAFKA={running.bootstrap}", flush=True)
    print(f"logs and data: {running.folder}; Ctrl-C stops it", flush=True)
    asked = threading.Event()
    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, lambda *_: asked.set())
    try:
        while not asked.wait(1.0):
            if (why := running.died()) is not None:
                return _fail(why)
    finally:
        running.stop()
    return 0


def supervisor_pid() -> int | None:
    """Return the pid of the running supervisor."""
    try:
        with PID.open("rb") as file:
            return None if _lock(file) else int(file.read() or 0) or None
    except FileNotFoundError:
        return None


def _told() -> dict[str, str]:
    """Return the values of stack.env."""
    return dict(line.split("=", 1) for line in (FOLDER / STACK_ENV).read_text().splitlines())


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _not_ready(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310  (our own http URL)
            return None
    except urllib.error.HTTPError as error:
        return f"NOT READY {error.read().decode(errors='replace').strip()[:300]}"
    except OSError as error:
        return f"NO ANSWER ({error})"


def _fail(why: str) -> int:
    print(why, file=sys.stderr, flush=True)
    return 1


def main(arguments: list[str]) -> int:
    match arguments:
        case ["up"]:
            return up()
        case ["down"]:
            return down()
        case ["status"]:
            return status()
        case ["page"]:
            return page()
        case ["demo"] | ["demo", "--rotating"]:
            return int(importlib.import_module("stack.demo.demonstration").run(arguments[1:]) or 0)
        case ["kafka", ("1" | "3") as brokers]:
            return kafka(int(brokers))
        case ["supervise", ("demonstration" | "france") as hours, ("0" | "1" | "3") as brokers]:
            return supervise(hours, int(brokers))
    return _fail("usage: python -m stack up | down | status | page | demo [--rotating] | kafka 1|3")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
