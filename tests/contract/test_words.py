"""Comments, docstrings and texts on a screen name their subjects, and a commit's subject fits a line (CONTRIBUTING)."""

import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml

from common.web.openapi.meanings import BY_NAME
from tests.contract.words import Count, Shown, count, of_folder, of_texts, shown

ROOT = Path(__file__).parents[2]
PRONOUNS_PER_100 = 6.0
PERCENT_OF_STARTS = 2.0
ROOTS = [*ROOT.glob("services/*/src/*"), ROOT / "libs" / "common" / "src" / "common"]
PACKAGES = sorted(
    {root for root in ROOTS if root.is_dir()}
    | {path.parent for root in ROOTS for path in root.glob("*/__init__.py") if path.parent.name != "migrations"}
)
MODULES = [path for root in ("libs", "services", "bench", "chaos") for path in (ROOT / root).rglob("*.py")]
RULES = ROOT / "deploy" / "prometheus" / "placet.yaml"
SUBJECTS_SINCE = "2026-11-28T21:52:00+00:00"
SUBJECT_CHARS = 72


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_names_its_subjects(package: Path) -> None:
    found = of_folder(package, deep=package not in ROOTS)
    assert found.per_100_words <= PRONOUNS_PER_100, f"`python -m tests.contract.words {package}` lists each file"
    assert found.percent_of_starts <= PERCENT_OF_STARTS, "a sentence begins with the noun that it is about"


def _plain(found: Count) -> None:
    assert found.words > 0
    assert found.per_100_words <= PRONOUNS_PER_100
    assert found.percent_of_starts <= PERCENT_OF_STARTS


@pytest.mark.parametrize("kind", get_args(Shown))
def test_a_text_that_users_read_names_its_subject(kind: Shown) -> None:
    _plain(of_texts({said for path in MODULES for of, said in shown(path.read_text(encoding="utf-8")) if of == kind}))


def test_a_meaning_names_its_subject() -> None:
    _plain(of_texts(BY_NAME.values()))


def test_an_alert_names_its_subject() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    summaries = [rule["annotations"]["summary"] for group in groups for rule in group["rules"]]
    _plain(of_texts(re.sub(r"\{\{.*?\}\}", "X", summary) for summary in summaries))


def test_a_target_of_make_names_what_the_target_does() -> None:
    _plain(of_texts(re.findall(r"^[a-z -]+:.*## (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)))


def test_texts_on_a_screen_are_found() -> None:
    source = """GONE = counter("sms_gone_total", f"Rows {gone}.")
slug, title = "gone", "Gone"
log.error("a row is gone")
parser.add_argument("--row", help="a row")
"""
    assert list(shown(source)) == [
        ("api", "Gone"),
        ("metric help", "Rows X."),
        ("log", "a row is gone"),
        ("--help", "a row"),
    ]


def test_words_are_counted() -> None:
    source = '"""What it is. The relay deletes `that` row."""\nx = 1  # nobody knows\ny = 2  # noqa: E501\n'
    assert count(source) == Count(words=10, pronouns=3, sentences=3, starts=2)


def test_the_subject_of_a_commit_fits_a_line() -> None:
    log = ["git", "log", "--no-merges", f"--since={SUBJECTS_SINCE}", "--format=%s"]
    said = subprocess.run(log, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [subject for subject in said.splitlines() if len(subject) > SUBJECT_CHARS] == []
