"""Children that start, die, come back and never outlive their parent. The stand-ins are Python's own web server."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from stack import processes
from stack.postgres import Postgres
from stack.processes import DidNotStart, Supervisor, end, free_port, spawn
from tests.support.eventually import eventually

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
FAMILY = """
import asyncio, sys
from pathlib import Path
from stack.broker import Broker
from stack.postgres import Postgres
from stack import processes
from stack.processes import Supervisor

async def main(folder, port):
    supervisor = Supervisor(folder)
    server = [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"]
    await supervisor.start("web", server, ready=f"http://127.0.0.1:{port}/")
    database, broker = Postgres(folder, durable=False).start(), Broker(folder).start()
    print(supervisor.pid("web"), database._child.pid, broker._child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    async with Supervisor(tmp_path, grace_s=5) as supervisor:
        yield supervisor


async def start_web(supervisor: Supervisor, name: str = "web") -> int:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    await supervisor.start(name, command, ready=f"http://127.0.0.1:{port}/")
    return supervisor.pid(name)


def test_a_free_port_is_told_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on it yet: of two that are started together the second would not come up."""
    monkeypatch.setattr(processes, "PORTS", range(20_000, 20_600))
    told = [free_port() for _ in range(200)]
    assert len(set(told)) == len(told)


def alive(pid: int) -> bool:
    """A zombie is dead: its parent (init) has only not looked yet."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True).stdout
    return state.strip() != "" and not state.startswith("Z")


async def test_a_child_is_ready_when_it_answers_and_gone_after_stop(supervisor: Supervisor) -> None:
    one, other = await start_web(supervisor, "one"), await start_web(supervisor, "other")
    assert alive(one)
    assert alive(other)
    await supervisor.stop()
    assert not alive(one)
    assert not alive(other)


async def test_a_killed_child_comes_back_with_restart(supervisor: Supervisor) -> None:
    before = await start_web(supervisor)
    supervisor.kill("web")
    assert not alive(before)
    await supervisor.restart("web")
    assert alive(supervisor.pid("web"))
    assert supervisor.pid("web") != before


async def test_a_halted_child_is_down_until_its_restart_and_has_not_died(supervisor: Supervisor) -> None:
    before = await start_web(supervisor)
    await supervisor.halt("web")
    assert not alive(before)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(supervisor.died(), 0.2)
    await supervisor.restart("web")
    assert alive(supervisor.pid("web"))


async def test_a_restart_may_give_other_variables_which_stay(supervisor: Supervisor) -> None:
    command = [sys.executable, "-c", "import os, signal; print(os.environ['TOLD'], flush=True); signal.pause()"]
    told: list[str] = []

    async def printed() -> str | None:
        lines = supervisor.log("child").read_text().split()
        return None if lines == told else "silent"

    told.append("one")
    await supervisor.start("child", command, env={**os.environ, "TOLD": "one"}, ready=printed)
    told.append("other")
    await supervisor.restart("child", {**os.environ, "TOLD": "other"})
    told.append("other")
    await supervisor.restart("child")


async def test_a_child_that_fails_is_reported_with_its_log(supervisor: Supervisor) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such setting')"]
    with pytest.raises(DidNotStart, match=r"web ended with code 1:\n(.|\n)*no such setting"):
        await supervisor.start("web", command, ready="http://127.0.0.1:1/")


async def test_a_command_that_is_not_there_is_reported(supervisor: Supervisor) -> None:
    with pytest.raises(DidNotStart, match="No such file"):
        await supervisor.start("web", ["/nonexistent/server"], ready="http://127.0.0.1:1/")


async def test_a_silent_child_is_given_up_and_killed(supervisor: Supervisor) -> None:
    async def never() -> str:
        return "it says it is tired"

    command = [sys.executable, "-c", STUBBORN]
    with pytest.raises(DidNotStart, match=r"not ready after 0\.3 s \(it says it is tired\)"):
        await supervisor.start("web", command, ready=never, within_s=0.3)
    assert not alive(supervisor.pid("web"))


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, grace_s=0.2) as supervisor:

        async def printed() -> str | None:
            return None if "up" in supervisor.log("deaf").read_text() else "silent"

        await supervisor.start("deaf", [sys.executable, "-c", STUBBORN], ready=printed)
        pid = supervisor.pid("deaf")
    assert not alive(pid)


async def test_a_death_nobody_asked_for_is_noticed(supervisor: Supervisor) -> None:
    await start_web(supervisor, "asked")
    pid = await start_web(supervisor, "crashed")
    noticed = asyncio.create_task(supervisor.died())
    supervisor.kill("asked")
    os.kill(pid, signal.SIGKILL)
    died = await asyncio.wait_for(noticed, 30)
    assert died.name == "crashed"
    assert "code -9" in str(died)


async def test_an_error_says_which_child_had_ended_by_itself(tmp_path: Path) -> None:
    failed = ValueError("nobody answers")
    async with AsyncExitStack() as expecting:
        expecting.enter_context(pytest.raises(ValueError, match="nobody answers"))
        supervisor = await expecting.enter_async_context(Supervisor(tmp_path))
        await start_web(supervisor, "still here")
        await start_web(supervisor, "killed")
        supervisor.kill("killed")
        gone = await start_web(supervisor, "gone")
        os.kill(gone, signal.SIGTERM)
        await asyncio.to_thread(os.waitid, os.P_PID, gone, os.WEXITED | os.WNOWAIT)
        raise failed
    [note] = failed.__notes__
    assert note.startswith("gone ended with code")


async def test_an_exception_leaves_nothing_running(tmp_path: Path) -> None:
    pid = 0
    async with AsyncExitStack() as expecting:
        expecting.enter_context(pytest.raises(ZeroDivisionError))
        supervisor = await expecting.enter_async_context(Supervisor(tmp_path))
        pid = await start_web(supervisor)
        raise ZeroDivisionError
    assert not alive(pid)


async def test_a_task_that_must_end_well(supervisor: Supervisor) -> None:
    await supervisor.run("migrate", [sys.executable, "-c", "pass"], env={})
    with pytest.raises(DidNotStart, match="code 3"):
        await supervisor.run("migrate", [sys.executable, "-c", "raise SystemExit(3)"], env={})
    with pytest.raises(DidNotStart, match=r"not ended after 0\.2 s"):
        await supervisor.run("migrate", [sys.executable, "-c", STUBBORN], env={}, within_s=0.2)


async def test_kill_9_of_the_parent_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAMILY, str(tmp_path), str(free_port())]
    parent = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    children = [int(pid) for pid in (await asyncio.wait_for(parent.stdout.readline(), 30)).split()]
    assert len(children) == 3
    assert all(map(alive, children))
    parent.kill()
    await parent.wait()

    async def all_gone() -> bool:
        return not any(map(alive, children))

    await eventually(all_gone)
    Postgres(tmp_path).wipe()


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """Linux ties a child to the *thread* that forked it."""
    started: list[subprocess.Popen[bytes]] = []
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    thread = threading.Thread(target=lambda: started.append(spawn(command, tmp_path / "log")))
    thread.start()
    thread.join()
    with pytest.raises(subprocess.TimeoutExpired):
        started[0].wait(0.5)
    end(started[0], 5)
    assert started[0].returncode == -signal.SIGTERM
