"""A database row has names and types once it is read: no `Row` and no `dict[str, Any]` in a service that is done."""

import re

import pytest

from tests.contract.rooms import HOUSES, ROOT

DONE = ("campaign-svc",)  # the goal: every house
UNTYPED = re.compile(r"\bRow\[|\bdict\[str, Any\]")


@pytest.mark.parametrize("name", DONE)
def test_no_untyped_row_is_left(name: str) -> None:
    folder = ROOT / dict(HOUSES)[name]
    found = [
        f"{path.relative_to(folder)}:{place}"
        for path in sorted(folder.rglob("*.py"))
        for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNTYPED.search(line)
    ]
    assert found == [], "define a struct beside the query, and return it"


@pytest.mark.parametrize("line", ["async def find(tx: T) -> Row[Any] | None:", "def written() -> dict[str, Any]:"])
def test_the_search_finds(line: str) -> None:
    assert UNTYPED.search(line)
