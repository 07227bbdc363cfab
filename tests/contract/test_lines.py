"""What two people may take the same number for at once forms one line all the same: migrations, and decisions."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.name for path in (ROOT / "services").iterdir())
REVISION = re.compile(r'^(down_)?revision\b[^=]*= (?:"(\d+)"|None)', re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES)
def test_the_migrations_of_a_service_are_one_line_and_named_by_their_place(service: str) -> None:
    files = sorted((ROOT / "services" / service).glob("src/*/migrations/versions/0*.py"))
    assert files
    before = ""
    for place, path in enumerate(files, start=1):
        said = {bool(down): revision for down, revision in REVISION.findall(path.read_text())}
        assert path.name.startswith(f"{place:04d}_"), f"{path.name} is the {place}. of its service"
        assert (said[False], said[True]) == (f"{place:04d}", before), path.name
        before = said[False]


def test_every_decision_has_a_number_of_its_own() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    numbers = [path.name[:4] for path in decisions]
    assert len(set(numbers)) == len(numbers), numbers
    for path in decisions:
        assert path.read_text().startswith(f"# {path.name[:4]}: "), path.name
