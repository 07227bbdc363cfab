"""Comments and docstrings name their subjects, and the subject of a commit fits a line (CONTRIBUTING, house rules)."""

import subprocess
from pathlib import Path

import pytest

from tests.contract.words import Count, count, of_folder

ROOT = Path(__file__).parents[2]
PRONOUNS_PER_100 = 6.0
PERCENT_OF_STARTS = 2.0
ROOTS = [*ROOT.glob("services/*/src/*"), ROOT / "libs" / "common" / "src" / "common"]
PACKAGES = sorted(
    {root for root in ROOTS if root.is_dir()}
    | {path.parent for root in ROOTS for path in root.glob("*/__init__.py") if path.parent.name != "migrations"}
)
SUBJECTS_SINCE = "2026-11-28T21:52:00+00:00"
SUBJECT_CHARS = 72


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_names_its_subjects(package: Path) -> None:
    found = of_folder(package, deep=package not in ROOTS)
    assert found.per_100_words <= PRONOUNS_PER_100, f"`python -m tests.contract.words {package}` lists each file"
    assert found.percent_of_starts <= PERCENT_OF_STARTS, "a sentence begins with the noun that it is about"


def test_words_are_counted() -> None:
    source = '"""What it is. The relay deletes `that` row."""\nx = 1  # nobody knows\ny = 2  # noqa: E501\n'
    assert count(source) == Count(words=10, pronouns=3, sentences=3, starts=2)


def test_the_subject_of_a_commit_fits_a_line() -> None:
    log = ["git", "log", "--no-merges", f"--since={SUBJECTS_SINCE}", "--format=%s"]
    said = subprocess.run(log, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [subject for subject in said.splitlines() if len(subject) > SUBJECT_CHARS] == []
