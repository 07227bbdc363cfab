"""docs/architecture.md names every room in the room's own words, and a room stays small enough to be known by heart."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired, TypedDict

import pytest

from tests.contract.rooms import HOUSES, PAGE, ROOT, first_sentence, rows, section, table

MODULES_IN_A_FOLDER = 15  # and packages beside them; `__init__.py` is the folder itself
LAYERS_IN_A_CONTRACT = 10
LINES_OF_A_MODULE = 600  # fewer
LINES_OF_THE_PAGE = 250
ONE_FOR_EACH = {"gateways", "keywords", "providers", "versions"}  # a provider, a language, a migration: found by name
WRITTEN = "Written by `make client`"
FOLDERS = ("services/*/src", "libs/*/src", "clients", "stack/src")
MODULES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))


class Layers(TypedDict):
    name: str
    layers: list[str]
    containers: NotRequired[list[str]]
    exhaustive: NotRequired[bool]


CONTRACTS: list[Layers] = [
    contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    if contract["type"] == "layers"
]


def crowded(modules: Iterable[Path]) -> dict[str, int]:
    """Return the folders with too many modules beside each other, and how many each has."""
    found = Counter(path.parent for path in modules if path.name != "__init__.py")
    return {
        str(folder): number
        for folder, number in found.items()
        if number > MODULES_IN_A_FOLDER and folder.name not in ONE_FOR_EACH
    }


def long(modules: Iterable[Path]) -> dict[str, int]:
    """Return the modules that are too long, and their lines: neither migrations nor the generated client."""
    sources = {path: path.read_text(encoding="utf-8") for path in modules if path.parent.name != "versions"}
    lines = {path: len(source.splitlines()) for path, source in sources.items()}
    return {
        str(path): number
        for path, number in lines.items()
        if number >= LINES_OF_A_MODULE and WRITTEN not in (ast.get_docstring(ast.parse(sources[path])) or "")
    }


def tall(contracts: Iterable[Layers]) -> dict[str, int]:
    """Return the contracts of import-linter with too many layers, and how many each has."""
    found = {contract["name"]: len(contract["layers"]) for contract in contracts}
    return {name: number for name, number in found.items() if number > LAYERS_IN_A_CONTRACT}


def test_a_folder_has_few_modules_beside_each_other() -> None:
    assert crowded(MODULES) == {}, "give a room (a package) to those that belong together"


def test_a_module_is_short() -> None:
    assert long(MODULES) == {}, "take a part that has a name of its own into a module of its own"


def test_a_service_has_few_layers_and_each_room_is_in_one() -> None:
    assert tall(CONTRACTS) == {}, "packages that need nothing of each other share a layer"
    whole = [contract for contract in CONTRACTS if contract.get("exhaustive")]
    ruled = {container for contract in whole for container in contract.get("containers", ())}
    assert {Path(folder).name for _, folder in HOUSES} <= ruled


def test_one_too_many_is_found(tmp_path: Path) -> None:
    folder, provided = tmp_path / "web", tmp_path / "providers"
    for path in (folder, provided):
        path.mkdir()
        for number in range(MODULES_IN_A_FOLDER):
            (path / f"m{number}.py").touch()
        (path / "__init__.py").touch()
    assert crowded(tmp_path.rglob("*.py")) == {}
    for path in (folder, provided):
        (path / "one_more.py").write_text("x = 1\n" * (LINES_OF_A_MODULE - 1))
    assert crowded(tmp_path.rglob("*.py")) == {str(folder): MODULES_IN_A_FOLDER + 1}
    assert long(tmp_path.rglob("*.py")) == {}
    (folder / "one_more.py").write_text("x = 1\n" * LINES_OF_A_MODULE)
    assert long(tmp_path.rglob("*.py")) == {str(folder / "one_more.py"): LINES_OF_A_MODULE}
    some: Layers = {"name": "some", "layers": ["a"] * LAYERS_IN_A_CONTRACT}
    more: Layers = {"name": "more", "layers": ["a"] * (LAYERS_IN_A_CONTRACT + 1)}
    assert tall([some, more]) == {"more": LAYERS_IN_A_CONTRACT + 1}


def test_the_page_has_each_room_as_its_docstring_says_it() -> None:
    said = section(PAGE.read_text(encoding="utf-8")).strip()
    assert said == table().strip(), "run `make rooms`, and commit docs/architecture.md"


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= LINES_OF_THE_PAGE


@pytest.mark.parametrize(("name", "folder"), HOUSES)
def test_every_room_says_what_is_in_it(name: str, folder: str) -> None:
    silent = [room for room, said in rows(ROOT / folder) if not said or said.startswith(" <br>")]
    assert silent == [], f"{name}: these need a docstring"


def test_only_the_first_sentence_is_taken() -> None:
    assert first_sentence('"""One thing: `a`, b. Another thing."""') == "One thing: `a`, b."
    assert first_sentence("x = 1") == ""
