"""What a release holds: everything of one version, with bytes that depend on the commit alone."""

import io
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from deploy import release
from tests.contract.manifests import OVERLAYS, rendered
from tests.unit.deploy.deployed import ROOT, text

VERSION: str = tomllib.loads(text("pyproject.toml"))["project"]["version"]
AT = 1_800_000_000


def test_every_package_that_is_released_has_the_version_of_the_images() -> None:
    release.check_versions(ROOT, VERSION)
    with pytest.raises(release.Refused, match=r"9\.9\.9 is not the version of clients/cli/pyproject.toml"):
        release.check_versions(ROOT, "9.9.9")


def test_what_is_released_is_every_package_but_the_local_stack() -> None:
    packages = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*/pyproject.toml")}
    assert set(release.PACKAGES) == packages - {"examples/shop", "examples/operator"}
    assert release.OVERLAYS == OVERLAYS


def test_the_notes_are_the_section_of_the_version() -> None:
    sections = ("# Changelog", "## [Unreleased]", "- later", "## [0.2.0] - 2027-01-02", "- this", "## [0.1.0]", "- old")
    log = "\n\n".join(sections)
    assert release.notes(log, "0.2.0") == "# 0.2.0\n\n- this\n"
    with pytest.raises(release.Refused, match=r"write `## \[0\.3\.0\] - <date>`"):
        release.notes(log, "0.3.0")


def test_a_section_of_what_a_version_will_hold_gives_notes_and_no_date() -> None:
    log = "## [Unreleased]: what 0.2.0 will hold\n\n- this\n"
    assert release.notes(log, "0.2.0") == "# 0.2.0\n\n- this\n"
    assert not release.is_dated(log, "0.2.0")
    assert release.is_dated("## [0.2.0] - 2027-01-02\n\n- this\n", "0.2.0")


def test_the_changelog_of_this_version_gives_notes() -> None:
    assert "### consent-svc" in release.notes(text("CHANGELOG.md"), VERSION)


def test_an_archive_depends_on_the_files_and_the_time_of_the_commit_alone() -> None:
    files = {"a/one": b"1", "a/two": b"2"}
    packed = release.archive(files, AT)
    assert packed == release.archive(dict(reversed(files.items())), AT)
    assert packed != release.archive(files, AT + 1)
    with tarfile.open(fileobj=io.BytesIO(packed)) as opened:
        found = {entry.name: (entry.mtime, entry.uid, entry.mode) for entry in opened}
    assert found == dict.fromkeys(files, (AT, 0, 0o644))


def test_the_manifests_are_the_sources_and_each_overlay_as_one_file() -> None:
    made = release.manifests(ROOT, VERSION, AT)
    assert set(made) == {f"placet-manifests-{VERSION}.tar.gz", *(f"placet-{each}-{VERSION}.yaml" for each in OVERLAYS)}
    for overlay in OVERLAYS:
        assert list(yaml.safe_load_all(made[f"placet-{overlay}-{VERSION}.yaml"])) == rendered(overlay)
    with tarfile.open(fileobj=io.BytesIO(made[f"placet-manifests-{VERSION}.tar.gz"])) as opened:
        names = set(opened.getnames())
    assert f"placet-{VERSION}/overlays/production/kustomization.yaml" in names
    assert f"placet-{VERSION}/README.md" in names


def test_a_file_that_two_makings_do_not_share_is_named(tmp_path: Path) -> None:
    for name, content in (("first", b"1"), ("second", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_bytes(b"0")
        (tmp_path / name / "other").write_bytes(content)
    assert release.differences(tmp_path / "first", tmp_path / "second") == ["other"]
    (tmp_path / "second" / "more").write_bytes(b"3")
    assert release.differences(tmp_path / "first", tmp_path / "second") == ["more", "other"]


def test_sums_are_what_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / release.SUMS).write_text(release.sums(tmp_path))
    subprocess.run(["sha256sum", "--check", "--strict", release.SUMS], cwd=tmp_path, check=True, capture_output=True)


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(release.Refused, match="is not empty: name another folder"):
        release.release(ROOT, VERSION, tmp_path, print, engine=False, signed=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
