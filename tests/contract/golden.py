"""The frozen examples: one record's value per file, `golden/<event type>/<what it shows>.json`. Never rewritten: each
stands for records that are in somebody's topic. Fictional, and sealed fields are dummies."""

from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
EXAMPLES = {f"{path.parent.name}/{path.stem}": path for path in sorted(FOLDER.glob("*/*.json"))}


def event_type_of(path: Path) -> str:
    return path.parent.name
