"""The lines of docs/tutorial.md and docs/campaigns.md work as written: every bash block, in order, in one shell, as a
newcomer pastes them."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITHIN_S = 300


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This checkout, with a `.placet` of its own: what runs here does not touch what a developer has up."""
    for entry in ROOT.iterdir():
        if entry.name not in (".placet", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.mark.timeout(WITHIN_S + 60)
async def test_every_line_of_the_tutorial_works_as_written(checkout: Path) -> None:
    output = await _pasted(checkout, "docs/tutorial.md")
    for answer in (
        "HOLDS",
        "finished audience=2",
        '"own_template"',
        '"status":"accepted"',
        '"advertising:soldes"',
        "/problems/name-taken",
        '"unknown_campaign"',
        '"state":"opted_out"',
        '"effective":false',
    ):
        assert answer in output, output[-4000:]


@pytest.mark.timeout(WITHIN_S + 60)
async def test_every_line_of_the_campaigns_guide_works_as_written(checkout: Path) -> None:
    output = await _pasted(checkout, "docs/campaigns.md")
    for answer in (
        '"approval_missing"',
        '"own_campaign"',
        '"status":"finished"',
        '"variant":"b"',
        '"accepted":4',
        "campaign-edited",
    ):
        assert answer in output, output[-4000:]


async def _pasted(checkout: Path, document: str) -> str:
    """What one shell says to all of its blocks; blanks after colons left out."""
    script = "\n".join(BLOCK.findall((ROOT / document).read_text(encoding="utf-8")))
    assert "make up" in script
    assert "make down" in script
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script,
        cwd=checkout,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = await asyncio.wait_for(shell.communicate(), WITHIN_S)
    except TimeoutError:
        os.killpg(shell.pid, signal.SIGTERM)
        raise
    finally:
        await _down(checkout)
    output = said.decode()
    assert shell.returncode == 0, output[-4000:]
    return output.replace('": ', '":')


async def _down(checkout: Path) -> None:
    """Whatever happened, nothing is left running; `make down` twice is no error."""
    down = await asyncio.create_subprocess_exec("make", "down", cwd=checkout, stdout=asyncio.subprocess.DEVNULL)
    assert await down.wait() == 0
    assert not (checkout / ".placet" / "stack.env").exists()
