"""`python -m stack up | status | down`, with the real services: it comes up, says where, and leaves nothing."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx

from stack.environment import SERVICES
from tests.support.eventually import WITHIN_S, eventually


async def stack(command: str, folder: Path, **env: str) -> tuple[int, str]:
    """Exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stack", command),
        cwd=folder,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def running_under(supervisor: str) -> list[str]:
    """Command lines of the process of that pid and of its children; zombies do not count."""
    listing = await asyncio.create_subprocess_exec("ps", "-axwwo", "pid=,ppid=,stat=,args=", stdout=subprocess.PIPE)
    lines = [line.split(None, 3) for line in (await listing.communicate())[0].decode().splitlines()]
    return [args for pid, parent, state, args in lines if supervisor in (pid, parent) and not state.startswith("Z")]


async def test_up_says_where_everything_is_and_down_leaves_nothing(tmp_path: Path) -> None:
    supervisor = "none"
    try:
        code, said = await stack("up", tmp_path)
        supervisor = (tmp_path / ".placet" / "supervisor.pid").read_text()
        assert (code, said.count("ready")) == (0, 5), said
        assert "DEMONSTRATION HOURS are in force" in said
        assert (tmp_path / ".placet" / "stack.env").stat().st_mode & 0o777 == 0o600
        running = await running_under(supervisor)
        for what in ("supervise", "postgres", "tansu", *(f"-m {name}" for name in (*SERVICES, "stack.simulator"))):
            assert any(what in args for args in running), what
        assert (await stack("up", tmp_path))[1].startswith("already up")
        for _ in range(2):  # the person is put on record once
            code, link = await stack("page", tmp_path)
            assert code == 0, link
            async with httpx.AsyncClient(timeout=WITHIN_S) as reader:
                shown = await reader.get(link.strip())
            assert "Vos SMS de Librairie de l’Aube" in shown.text
            assert shown.text.count("Ne plus recevoir") == 2
    finally:
        code, said = await stack("down", tmp_path)
    assert (code, said) == (0, "down\n")
    assert os.listdir(tmp_path / ".placet") == ["supervisor.log"]

    async def nothing_is_left() -> bool:
        assert await running_under(supervisor) == []
        return True

    await eventually(nothing_is_left)  # what lets go of its lock as it ends is listed for a moment


async def test_a_pid_that_no_supervisor_holds_is_left_alone(tmp_path: Path) -> None:
    """The file of a crashed run may name a process that is somebody else's by now."""
    (tmp_path / ".placet").mkdir()
    (tmp_path / ".placet" / "supervisor.pid").write_text(str(os.getpid()))
    assert await stack("status", tmp_path) == (1, "not up\n")
    assert await stack("page", tmp_path) == (1, "not up: `make up` first\n")
    assert await stack("down", tmp_path) == (0, "was not up\n")


async def test_unknown_hours_and_commands_are_refused(tmp_path: Path) -> None:
    assert "one of demonstration, france" in (await stack("up", tmp_path, HOURS="always"))[1]
    assert "unset PLACET_GATEWAYS: " in (await stack("up", tmp_path, PLACET_GATEWAYS="[]"))[1]
    assert "unset PLACET_GATEWAYS: " in (await stack("demo", tmp_path, PLACET_GATEWAYS="[]"))[1]
    assert "GATEWAYS: no-file cannot be read" in (await stack("up", tmp_path, GATEWAYS="no-file"))[1]
    assert "usage" in (await stack("start", tmp_path))[1]
    assert os.listdir(tmp_path) == []
