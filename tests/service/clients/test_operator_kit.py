"""The kit for operators against the example connector: the right one passes, and each bug that is put in is found."""

import asyncio
import base64
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from placet_operator.checking import Finding
from placet_operator.connector import run
from placet_operator.connector.run import Asked
from stack.processes import free_port

pytestmark = pytest.mark.brokerless

EXAMPLE = Path(__file__).parents[3] / "examples" / "operator" / "connector.py"
TOKEN = "a token of submits"
SECRET = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
PATIENT_S = 60.0
HASTY_S = 2.0  # a bug is found by waiting for what never comes
AT_ONCE = 4


@dataclass(frozen=True)
class Bug:
    """A change of the example, and the check that finds the bug.

    `says`: part of the finding; None where the bug is that something never comes, and the check only waits.
    `looks_at`: checks whose callbacks the one that finds the bug looks at.
    """

    name: str
    right: str
    wrong: str
    found_by: str
    says: str | None = None
    looks_at: tuple[str, ...] = ()


MADE = 'f"mo-{uuid.uuid4()}", datetime.now(UTC).isoformat()'
AHEAD = "fromtimestamp(time.time() + 7200, UTC)"
BUGS = (
    Bug("DLRs lost at a restart", '= WAL;" + SCHEMA', '= WAL;" + SCHEMA + "DELETE FROM event;"', "restart"),
    Bug(
        "an SMS for each repetition",
        "if known is None:",
        'if known is None or database.execute("DELETE FROM message WHERE reference = ?", (reference,)):',
        "once",
        "another id",
    ),
    Bug(
        "a reference that is committed before its SMS",
        "        if code is None:",
        '        database.execute("COMMIT")\n        time.sleep(0.05)\n        database.execute("BEGIN")\n'
        "        if code is None:",
        "killed in a submit",
    ),
    Bug("no repetition after a 503", "        if done:", "        if True:", "DLRs again"),
    Bug("a STOP is sent once", "        if done:", '        if done or kind == "received":', "MOs again"),
    Bug("a redirect is taken for success", ".status < 300", ".status < 400", "MOs again"),
    Bug("a wrong signature", 'f"{event}.{stamp}."', 'f"{event}{stamp}"', "signature", "not genuine", ("DLRs",)),
    Bug("a time without an offset", MADE, MADE.replace("UTC", ""), "clock", "no offset"),
    Bug("the local time, called UTC", MADE, MADE.replace("now(UTC)", AHEAD), "clock", "is the offset right"),
    Bug("parts in the order of arrival", "ORDER BY part", "ORDER BY rowid", "long MOs", "otherwise than texted"),
    Bug("long texts cut off", "enumerate(parts, start=1)", "enumerate(parts[:4], start=1)", "long texts"),
    Bug(
        "question marks",
        'c.encode("utf-16-be") for c in text',
        'c.encode("latin-1", "replace").rjust(2, b"\\0") for c in text',
        "texts",
        "the phone shows another text",
    ),
    Bug(
        "emoji cut in two",
        'c.encode("utf-16-be") for c in text',
        'text.encode("utf-16-be")[n : n + 2] for n in range(0, len(text.encode("utf-16-be")), 2)',
        "texts",
        "the phone shows another text",
    ),
    Bug(
        "DLRs without our reference",
        '"reference": reference, "status"',
        '"reference": None, "status"',
        "reference",
        "does not name our reference",
    ),
    Bug(
        "STOPs kept back",
        "    body = json.dumps({",
        '    if "STOP" in str(data.get("text")).upper():\n        return\n    body = json.dumps({',
        "STOPs",
    ),
    Bug("an id for each attempt", '"webhook-id": event', '"webhook-id": (event := f"ev-{uuid.uuid4()}")', "DLRs again"),
    Bug("one callback at a time", "ThreadPoolExecutor(16)", "ThreadPoolExecutor(1)", "slow answer"),
    Bug(
        "a batch refused for one",
        'else "invalid_number"',
        'else str(int("none"))',
        "wrong one of a batch",
        "answered with 400",
    ),
    Bug(
        "any token",
        'not hmac.compare_digest(given, f"Bearer {TOKEN}".encode())',
        'not given.startswith(b"Bearer ")',
        "token",
        "answered with 200",
    ),
)


async def checked(example: Path, folder: Path, within_s: float, only: Sequence[str] = ()) -> dict[str, Finding]:
    """Run the kit with a connector; return the findings by check."""
    at, callbacks = free_port(), free_port()
    told = {
        "PORT": at,
        "TOKEN": TOKEN,
        "SECRET": SECRET,
        "CALLBACKS": f"http://127.0.0.1:{callbacks}/v1/callbacks/standard/main",
        "DATABASE": folder / f"{example.stem}-{at}.db",
    }
    start = shlex.join(
        ["env", *(f"CONNECTOR_{name}={value}" for name, value in told.items()), sys.executable, str(example)]
    )
    asked = Asked(
        f"http://127.0.0.1:{at}", TOKEN, SECRET, "127.0.0.1", callbacks, start, within_s=within_s, only=frozenset(only)
    )
    return {each.name: each for each in await run.check(asked)}


def with_bug(bug: Bug, folder: Path) -> Path:
    right = EXAMPLE.read_text(encoding="utf-8")
    assert right.count(bug.right) == 1, f"the example has changed: {bug.name}"
    example = folder / f"{bug.name.replace(' ', '-')}.py"
    example.write_text(right.replace(bug.right, bug.wrong), encoding="utf-8")
    return example


async def test_the_right_example_passes_every_check(tmp_path: Path) -> None:
    found = await checked(EXAMPLE, tmp_path, PATIENT_S)
    assert {name: each.seen for name, each in found.items() if each.outcome != "holds"} == {}
    assert found.keys() == {each.name for each in run.CHECKS}


async def test_each_bug_that_is_put_in_is_found(tmp_path: Path) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def finding(bug: Bug) -> Finding:
        async with slots:
            within_s = HASTY_S if bug.says is None else PATIENT_S
            found = await checked(with_bug(bug, tmp_path), tmp_path, within_s, (bug.found_by, *bug.looks_at))
            return found[bug.found_by]

    found = list(zip(BUGS, await asyncio.gather(*map(finding, BUGS)), strict=True))
    assert {bug.name: each.seen for bug, each in found if each.outcome != "broken"} == {}
    assert {bug.name: each.seen for bug, each in found if (bug.says or "") not in each.seen} == {}
