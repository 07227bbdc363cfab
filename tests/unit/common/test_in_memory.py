"""Where a test's Postgres keeps its files: in memory, where there is room, and nothing of it is left."""

import os
from pathlib import Path

import pytest

from tests.support import infrastructure
from tests.support.infrastructure import in_memory


def test_the_folder_is_of_this_process_can_be_passed_by_others_and_goes(tmp_path: Path) -> None:
    with in_memory("postgres", tmp_path) as folder:
        assert folder == tmp_path / f"placet-tests-postgres-{os.getpid()}"
        assert folder.stat().st_mode & 0o777 == 0o711
        (folder / "file").touch()
    assert [*tmp_path.iterdir()] == []


def test_what_a_killed_run_has_left_goes_and_what_a_live_one_uses_stays(tmp_path: Path) -> None:
    names = (f"postgres-{2**22 + 1}", f"postgres-{os.getpid()}", f"broker-{os.getpid()}", "postgres-1")
    of_nobody, of_a_process_before, of_the_broker, of_another = (tmp_path / f"placet-tests-{name}" for name in names)
    for folder in (of_nobody, of_a_process_before, of_the_broker, of_another):
        (folder / "data").mkdir(parents=True)
    with in_memory("postgres", tmp_path) as ours:
        assert sorted(tmp_path.iterdir()) == sorted([of_another, of_the_broker, of_a_process_before])
        assert ours is not None
        assert [*ours.iterdir()] == []
    assert sorted(tmp_path.iterdir()) == sorted([of_another, of_the_broker])


def test_without_the_room_or_the_folder_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_memory("postgres", tmp_path / "missing") as folder:
        assert folder is None
    monkeypatch.setattr(infrastructure, "ROOM", 2**62)
    with in_memory("postgres", tmp_path) as folder:
        assert folder is None
    assert [*tmp_path.iterdir()] == []
