"""Write the rooms of docs/architecture.md from the first sentence of each package and module: `make rooms`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: written by `make rooms` -->\n", "<!-- end of rooms -->\n"
HOUSES = (
    ("inbound-svc", "services/inbound-svc/src/inbound"),
    ("consent-svc", "services/consent-svc/src/consent"),
    ("campaign-svc", "services/campaign-svc/src/campaign"),
    ("dispatch-svc", "services/dispatch-svc/src/dispatch"),
    ("common", "libs/common/src/common"),
)
ALIKE = {"__init__.py", "__main__.py", "migrations"}  # every service has them


def first_sentence(source: str) -> str:
    """Return the first sentence of a module's docstring on one line; empty where the module has none."""
    said = " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s+(?=[A-Z`*])", said)[0].replace("|", "\\|")


def rows(house: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the first sentence of each package and module directly in `house`, packages first."""
    inside = [
        path for path in sorted(house.iterdir()) if path.name not in ALIKE and not path.name.startswith(("_", "."))
    ]
    for package in (path for path in inside if (path / "__init__.py").exists()):
        modules = [path.stem for path in sorted(package.glob("*.py")) if path.name != "__init__.py"]
        inner = sorted(path.parent for path in package.glob("*/__init__.py"))
        named = ", ".join(f"`{name}`" for name in [*modules, *(f"{path.name}/" for path in inner)])
        yield f"`{package.name}/`", f"{first_sentence((package / '__init__.py').read_text())} <br> {named}"
    for module in (path for path in inside if path.suffix == ".py"):
        yield f"`{module.name}`", first_sentence(module.read_text())


def table() -> str:
    """Return the section between the markers: a table for each house."""
    parts = []
    for name, folder in HOUSES:
        lines = [f"| {room} | {said} |" for room, said in rows(ROOT / folder)]
        parts.append("\n".join([f"| {name} | `{folder}/` |", "|---|---|", *lines]))
    return "\n\n".join(parts) + "\n"


def section(page: str) -> str:
    """Return what stands between the markers of `page`."""
    return page.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(section(page), f"\n{table()}\n"), encoding="utf-8")
