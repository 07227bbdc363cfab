"""Run child processes that end with this process, on return, exception, Ctrl-C or `kill -9`.

The module signals only its own children, by pid. Each child leads a session of its own, so its own children end too.
"""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import aiohttp

LAUNCHER = Path(__file__).with_name("launcher.py")
TAIL_LINES = 30
POLL_S = 0.02
STOP_GRACE_S = 17.0  # a service says farewell for 1 s, gives requests 5 s and drains for 10 s
# Below the ephemeral range of Linux (32768..) and macOS (49152..): no outgoing connection takes a port first.
PORTS = range(20_000, 32_000)

# A single thread forks every child, and must outlive them: see launcher.py.
_forks = ThreadPoolExecutor(1, thread_name_prefix="stack-forks")

Ready = Callable[[], Awaitable[str | None]]  # the reason for not being ready, or `None`


class DidNotStart(RuntimeError):
    """A child ended, or was not ready in time. The text ends with its log's tail."""


class Died(RuntimeError):
    """A running child ended by itself. The text ends with its log's tail."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        super().__init__(f"{name} ended with code {code}:\n{tail(log)}")
        self.name = name


@dataclass(frozen=True, slots=True)
class User:
    """The user and group of a child."""

    uid: int
    gid: int


_told: deque[int] = deque(maxlen=256)  # more than the number of ports requested together


def free_port() -> int:
    """Return a free TCP port, but none returned recently: its process may not listen yet."""
    while True:
        port = random.choice(PORTS)
        if port in _told:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _told.append(port)
        return port


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: User | None = None,
    death_signal: int = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `command` in its own session, output appended to `log`; `death_signal` ends it with this process."""
    who = (-1, -1) if user is None else (user.uid, user.gid)
    tied = [sys.executable, "-I", "-S", str(LAUNCHER), *map(str, (os.getpid(), int(death_signal), *who)), *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return _forks.submit(
            subprocess.Popen,
            tied,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        ).result()


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"


def wait_until(
    ready: Callable[[], bool], child: subprocess.Popen[bytes], name: str, log: Path, within_s: float
) -> None:
    """Block until `ready()` is true. Raises DidNotStart."""
    deadline = time.monotonic() + within_s
    while not ready():
        if (code := child.poll()) is not None:
            raise DidNotStart(f"{name} ended with code {code}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise DidNotStart(f"{name} is not ready after {within_s:g} s:\n{tail(log)}")
        time.sleep(POLL_S)


def end(child: subprocess.Popen[bytes], grace_s: float, first: int = signal.SIGTERM) -> None:
    """Send `first`, then SIGKILL to the whole session after `grace_s`. The child is reaped on return."""
    if child.poll() is None:
        child.send_signal(first)
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            kill(child)
    child.wait()


def kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and its own children, and reap the child."""
    if child.poll() is None:  # not reaped: the pid, and so the group, is still the child's
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@dataclass
class _Child:
    command: Sequence[str]
    env: Mapping[str, str] | None
    ready: Ready
    within_s: float
    process: subprocess.Popen[bytes]
    running: bool = False  # ready once, and not asked to end since


class Supervisor:
    """Runs named children. Leaving `async with` stops all children.

    An error gets notes about the children that ended by themselves. Logs are `<folder>/<name>.log`.
    """

    def __init__(self, folder: Path, grace_s: float = STOP_GRACE_S) -> None:
        self._folder = folder
        self._grace_s = grace_s
        self._children: dict[str, _Child] = {}

    async def __aenter__(self) -> "Supervisor":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, child in self._children.items():  # a dead child may be the cause of the error
            if error is not None and child.running and (code := child.process.poll()) is not None:
                error.add_note(str(Died(name, code, self.log(name))))
        await self.stop()

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._children[name].process.pid

    async def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        ready: str | Ready,
        within_s: float = 30.0,
    ) -> None:
        """Start a child, and return once it is ready: a URL answers 200, or a callable returns `None`.

        Raises DidNotStart, with the child killed.
        """
        if name in self._children:
            raise ValueError(f"{name} is already there: restart it")
        check = _answers(ready) if isinstance(ready, str) else ready
        child = _Child(command, env, check, within_s, spawn(command, self.log(name), env=env))
        self._children[name] = child
        await self._until_ready(name, child)

    async def run(self, name: str, command: Sequence[str], *, env: Mapping[str, str], within_s: float = 60.0) -> None:
        """Run a command to its end. Raises DidNotStart unless the command returns 0 in time."""
        process = spawn(command, self.log(name), env=env)
        try:
            if not await _ended(process, within_s):
                raise DidNotStart(f"{name} has not ended after {within_s:g} s:\n{tail(self.log(name))}")
        finally:
            kill(process)
        if process.returncode != 0:
            raise DidNotStart(f"{name} ended with code {process.returncode}:\n{tail(self.log(name))}")

    def kill(self, name: str) -> None:
        """Kill a child like a crash. The child stays down until `restart`."""
        child = self._children[name]
        child.running = False
        kill(child.process)

    async def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Run a child's command again, after SIGTERM if it still runs; return once ready. Raises DidNotStart.

        `env`: other variables from now on.
        """
        child = self._children[name]
        await self._end(child)
        child.env = child.env if env is None else env
        child.process = spawn(child.command, self.log(name), env=child.env)
        await self._until_ready(name, child)

    async def halt(self, name: str) -> None:
        """End a child with SIGTERM, as planned. The child stays down until `restart`."""
        await self._end(self._children[name])

    async def retire(self, name: str) -> None:
        """End a child with SIGTERM, as planned, and free its name."""
        await self._end(self._children.pop(name))

    async def died(self) -> Died:
        """Wait until a child ends unasked, and return its error."""
        while True:
            for name, child in self._children.items():
                if child.running and (code := child.process.poll()) is not None:
                    child.running = False
                    return Died(name, code, self.log(name))
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Send SIGTERM to all children at once, and SIGKILL after `grace_s`."""
        children, self._children = list(self._children.values()), {}
        try:
            await asyncio.gather(*(self._end(child) for child in children))
        finally:
            for child in children:
                kill(child.process)

    async def _until_ready(self, name: str, child: _Child) -> None:
        process, deadline = child.process, time.monotonic() + child.within_s
        try:
            while (why := await child.ready()) is not None:
                if (code := process.poll()) is not None:
                    raise DidNotStart(f"{name} ended with code {code}:\n{tail(self.log(name))}")
                if time.monotonic() > deadline:
                    late = f"{name} is not ready after {child.within_s:g} s ({why})"
                    raise DidNotStart(f"{late}:\n{tail(self.log(name))}")
                await asyncio.sleep(POLL_S)
        except BaseException:
            kill(process)
            raise
        child.running = True  # should another process have answered, `died` finds the child

    async def _end(self, child: _Child) -> None:
        child.running = False
        if child.process.poll() is None:
            child.process.terminate()
            await _ended(child.process, self._grace_s)
        kill(child.process)


async def _ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110  (a pid has no event to wait for)
        await asyncio.sleep(POLL_S)
    return process.poll() is not None


def _answers(url: str) -> Ready:
    async def ready() -> str | None:
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http, http.get(url) as answer:
                return None if answer.status == 200 else f"{answer.status} {(await answer.text()).strip()[:500]}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__

    return ready
