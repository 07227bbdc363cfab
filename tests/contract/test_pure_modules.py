"""The modules that decide have no clock, dice, environment or file: the same question has the same answer for ever.

Import rules say which modules they may import; this looks at what they call, which import rules cannot see. The rule
follows no import of an import, so its list has to name every store, and the modules between are looked at here.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
[RULE] = [contract for contract in CONTRACTS if contract["name"] == "pure modules do no I/O"]
PURE = RULE["source_modules"]
SAYS_PURE = re.compile(r"(^|[.?!:]\s|\n)Pure\b")
CLOCKS = {"now", "utcnow", "today"}
IMPURE_MODULES = {"time", "random", "secrets", "os", "asyncio", "socket", "pathlib", "shutil", "tempfile"}
FILES = {"open", "write_text", "write_bytes"}  # reading is by `importlib.resources`: data of the package
DATABASE = ("sqlalchemy", "common.db")
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
            case ast.Attribute(attr=name) if name in CLOCKS | RANDOM_IDS | FILES:
                yield f"line {node.lineno}: .{name}"
            case ast.Call(func=ast.Name(id="open")):
                yield f"line {node.lineno}: open()"


def imports(source: str) -> Iterator[str]:
    """Yield the names that may be modules, of all imports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (a.name for a in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{a.name}" for a in names)


def reaches_the_database(source: str) -> bool:
    return any(f"{each}.".startswith(tuple(f"{one}." for one in DATABASE)) for each in imports(source))


def _root(module: str) -> str:
    return module.partition(".")[0]


def _paths(module: str) -> list[Path]:
    """Return the module's file, or all files of a package."""
    place = module.replace(".", "/")
    found = [*ROOT.glob(f"*/*/src/{place}.py"), *ROOT.glob(f"*/*/src/{place}/*.py")]
    assert found, f"{module} of pyproject.toml is not there"
    return sorted(found)


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[parts.index("src") + 1 :]).removesuffix(".__init__")


PATHS = [path for module in PURE for path in _paths(module)]
MODULES = {
    _name(path): path
    for path in [*ROOT.glob("services/*/src/**/*.py"), *ROOT.glob("libs/common/src/**/*.py")]
    if "migrations" not in path.parts
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_that_decides_reads_no_clock_no_dice_and_no_environment(path: Path) -> None:
    assert list(impurities(path.read_text())) == []


def test_a_module_that_says_it_is_pure_is_looked_at() -> None:
    said = {path for path in MODULES.values() if SAYS_PURE.search(ast.get_docstring(ast.parse(path.read_text())) or "")}
    assert said - set(PATHS) == set()


def test_the_list_of_what_no_pure_module_imports_names_every_store() -> None:
    stores = {name for name in MODULES if "store" in name.rpartition(".")[2]}
    assert stores - set(RULE["forbidden_modules"]) == set()


def test_a_pure_module_imports_no_module_that_reaches_the_database() -> None:
    """A store of another name, too: the rule of imports sees only the names in its list."""
    doors = {name for name, path in MODULES.items() if reaches_the_database(path.read_text())}
    found = {f"{_name(path)} -> {each}" for path in PATHS for each in imports(path.read_text()) if each in doors}
    assert found - set(RULE["ignore_imports"]) == set()


@pytest.mark.parametrize(
    "line",
    ["from sqlalchemy import text", "import sqlalchemy.ext.asyncio", "from common.db.database import fetch_many"],
)
def test_a_module_that_reaches_the_database_is_found(line: str) -> None:
    assert reaches_the_database(line)


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
        "said = open(name).read()",
        "said = io.open(name)",
        "from pathlib import Path",
        "import pathlib",
        "path.write_text(said)",
    ],
)
def test_the_look_finds(line: str) -> None:
    assert list(impurities(line)) != []
