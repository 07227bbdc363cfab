"""Comments speak plainly, and commit subjects fit a line: ceilings that only go down (HOUSE: 6 per 100, 2 %)."""

import subprocess
from pathlib import Path

import pytest

from tests.contract.words import Count, count, of_folder

ROOT = Path(__file__).parents[2]
GOAL = (6.0, 2.0)  # pronouns per 100 words; percent of sentences that begin with one
CEILINGS: dict[str, tuple[float, float]] = {}
SUBJECTS_SINCE = "2026-11-28T21:19:00+00:00"
SUBJECT_CHARS = 72


@pytest.mark.parametrize("folder", CEILINGS)
def test_a_package_speaks_no_less_plainly_than_before(folder: str) -> None:
    found = of_folder(ROOT / folder, deep=folder.count("/") > 3)
    pronouns, starts = CEILINGS[folder]
    assert found.per_100_words <= pronouns, f"{folder}: name the subject; `python -m tests.contract.words {folder}`"
    assert found.percent_of_starts <= starts, f"{folder}: begin with a noun"


def test_every_package_has_a_ceiling() -> None:
    roots = [*ROOT.glob("services/*/src/*"), ROOT / "libs/common/src/common"]
    packages = {root for root in roots if root.is_dir()}
    packages |= {
        path.parent for root in roots for path in root.glob("*/__init__.py") if path.parent.name != "migrations"
    }
    assert {str(path.relative_to(ROOT)) for path in packages} == set(CEILINGS)


def test_words_are_counted() -> None:
    source = '"""What it is. The relay deletes `that` row."""\nx = 1  # nobody knows\ny = 2  # noqa: E501\n'
    assert count(source) == Count(words=10, pronouns=3, sentences=3, starts=2)


def test_the_subject_of_a_commit_fits_a_line() -> None:
    log = ["git", "log", "--no-merges", f"--since={SUBJECTS_SINCE}", "--format=%s"]
    said = subprocess.run(log, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [subject for subject in said.splitlines() if len(subject) > SUBJECT_CHARS] == []
