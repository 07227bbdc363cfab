"""The tests that take long begin first, and are still the ones that are named."""

from dataclasses import dataclass
from pathlib import Path, PurePath

from tests.support.order import LONG, long_ones_first

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Test:
    __test__ = False
    path: PurePath
    name: str


def test_each_file_that_goes_first_is_there_and_is_named_once() -> None:
    assert [name for name in LONG if not (ROOT / "tests" / name).is_file()] == []
    assert len(set(LONG)) == len(LONG)


def test_long_files_come_as_they_are_listed_and_all_else_as_it_came() -> None:
    tests = PurePath("/tests")
    short, other = tests / "service" / "zebra.py", tests / "contract" / "apple.py"
    came = [
        Test(path, name) for path in (short, tests / LONG[2], other, tests / LONG[0]) for name in ("second", "first")
    ]
    assert long_ones_first(came, tests) == [*came[6:], *came[2:4], *came[:2], *came[4:6]]


def test_nothing_puts_them_in_another_order() -> None:
    """By itself xdist begins with the files that have most tests."""
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "--numprocesses" in line]
    assert lines
    assert all("--no-loadscope-reorder" in line for line in lines)
