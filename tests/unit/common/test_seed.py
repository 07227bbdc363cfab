"""What random tests draw by: of other services and brokers something else, and the same whenever it is named."""

from pathlib import Path

import pytest

from tests.support.infrastructure import KAFKA
from tests.support.seed import NO_COMMIT, _of_the_services, seed


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources in a folder; and a git that says what is in `head`, wherever it is asked."""
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\ncat {tmp_path}/head\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:/usr/bin:/bin")
    (tmp_path / "sources").mkdir()
    return tmp_path / "sources"


def test_each_tree_has_its_own(sources: Path) -> None:
    (sources / ".git").touch()
    drawn = []
    for head in ("c7ba918" + "0" * 33, "eb5a72e" + "0" * 33):
        (sources.parent / "head").write_text(head)
        drawn.append(_of_the_services(sources))
    assert drawn == [0xC7BA91800000, 0xEB5A72E00000]


def test_an_archive_has_one_that_is_fixed_though_it_lies_within_a_repository(sources: Path) -> None:
    (sources.parent / "head").write_text("f" * 40)
    assert _of_the_services(sources) == NO_COMMIT


def test_where_git_says_nothing_it_is_that_one(sources: Path) -> None:
    (sources / ".git").touch()  # and no `head`: git fails
    assert _of_the_services(sources) == NO_COMMIT


def test_one_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACET_TEST_SEED", "42")
    assert seed() == 42
    monkeypatch.delenv("PLACET_TEST_SEED")
    assert seed() == seed() >= NO_COMMIT + KAFKA
