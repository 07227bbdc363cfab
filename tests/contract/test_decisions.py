"""docs/decisions/README.md lists each decision by its title."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
TITLE = re.compile(r"^# (\d{4}): (.+)$", re.MULTILINE)


def test_the_index_has_each_decision_by_its_title() -> None:
    pages = sorted(FOLDER.glob("[0-9]*.md"))
    titled = [(path.name, TITLE.search(path.read_text(encoding="utf-8"))) for path in pages]
    rows = [f"| [{title[1]}]({name}) | {title[2]} |" for name, title in titled if title is not None]
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(rows) == len(pages)
    assert [line for line in index.splitlines() if line.startswith("| [")] == rows
