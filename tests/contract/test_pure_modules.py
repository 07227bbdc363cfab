"""The modules that decide have no clock, no dice and no environment: the same question has the same answer for ever.

Import rules say which modules they may import; this looks at what they call, which import rules cannot see.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
[PURE] = [contract["source_modules"] for contract in CONTRACTS if contract["name"] == "pure modules do no I/O"]
SAYS_PURE = re.compile(r"(^|[.?!:]\s|\n)Pure\b")
CLOCKS = {"now", "utcnow", "today"}
IMPURE_MODULES = {"time", "random", "secrets", "os", "asyncio", "socket"}
RANDOM_IDS = {"uuid1", "uuid4"}


def impurities(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (f"line {node.lineno}: imports {a.name}" for a in names if _root(a.name) in IMPURE_MODULES)
            case ast.ImportFrom(module=str(module)) if _root(module) in IMPURE_MODULES:
                yield f"line {node.lineno}: imports from {module}"
            case ast.ImportFrom(module="uuid", names=names):
                yield from (f"line {node.lineno}: imports {a.name}" for a in names if a.name in RANDOM_IDS)
            case ast.Attribute(attr=name) if name in CLOCKS | RANDOM_IDS:
                yield f"line {node.lineno}: .{name}"


def _root(module: str) -> str:
    return module.partition(".")[0]


def _paths(module: str) -> list[Path]:
    """Return the module's file, or all files of a package."""
    place = module.replace(".", "/")
    found = [*ROOT.glob(f"*/*/src/{place}.py"), *ROOT.glob(f"*/*/src/{place}/*.py")]
    assert found, f"{module} of pyproject.toml is not there"
    return sorted(found)


PATHS = [path for module in PURE for path in _paths(module)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_that_decides_reads_no_clock_no_dice_and_no_environment(path: Path) -> None:
    assert list(impurities(path.read_text())) == []


def test_a_module_that_says_it_is_pure_is_looked_at() -> None:
    modules = [*ROOT.glob("services/*/src/**/*.py"), *ROOT.glob("libs/common/src/**/*.py")]
    said = {path for path in modules if SAYS_PURE.search(ast.get_docstring(ast.parse(path.read_text())) or "")}
    assert said - set(PATHS) == set()


@pytest.mark.parametrize(
    "line",
    [
        "at = datetime.now(UTC)",
        "at = dt.datetime.utcnow()",
        "at = date.today()",
        "from time import time",
        "import time",
        "import os.path",
        "from random import choice",
        "import secrets",
        "from uuid import uuid4",
        "import uuid\nx = uuid.uuid4()",
        "clock = datetime.now",
    ],
)
def test_the_look_finds(line: str) -> None:
    assert list(impurities(line)) != []
