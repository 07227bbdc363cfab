"""The pages of security name tests that there are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("docs/threats.md", "docs/asvs.md")
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
ROW = re.compile(r"^\| (?!asset|chapter|---)", re.MULTILINE)


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_security_names_tests_that_there_are(page: str) -> None:
    named = NAMED.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(named) > 15
    missing = [(path, test) for path, test in named if test and test not in functions_of(path)]
    assert missing == []
    assert [path for path, _ in named if not (ROOT / path).is_file()] == []


def test_each_threat_has_a_test() -> None:
    lines = [line for line in (ROOT / PAGES[0]).read_text(encoding="utf-8").splitlines() if ROW.match(line)]
    assert len(lines) > 30
    assert [line for line in lines if line != "|" and not NAMED.search(line)] == []


def test_the_standard_has_seventeen_chapters() -> None:
    chapters = re.findall(r"^\| V(\d+) ", (ROOT / PAGES[1]).read_text(encoding="utf-8"), re.MULTILINE)
    assert list(map(int, chapters)) == list(range(1, 18))
