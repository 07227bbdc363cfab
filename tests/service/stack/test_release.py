"""A whole release of a clone: made twice with the same bytes, and signed where there is a key."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from deploy import release
from tests.unit.deploy.deployed import ROOT
from tests.unit.deploy.test_release import VERSION


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """This repository's commit, with a changelog that says when the version is released."""
    root = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--no-local", "--depth=1", f"file://{ROOT}", str(root))
    for name, value in (("user.name", "Somebody"), ("user.email", "somebody@example.internal")):
        git(root, "config", name, value)
    log = root / "CHANGELOG.md"
    told = log.read_text(encoding="utf-8")
    log.write_text(told.replace(f"## [Unreleased]: what {VERSION} will hold", f"## [{VERSION}] - 2026-12-01"))
    git(root, "commit", "--quiet", "--all", "--message=release: date the version")
    return root


def with_key(root: Path, folder: Path) -> None:
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    allowed = folder / "allowed"
    allowed.write_text(f"somebody@example.internal {key.with_suffix('.pub').read_text()}")
    told = {"gpg.format": "ssh", "user.signingkey": str(key), "gpg.ssh.allowedSignersFile": str(allowed)}
    for name, value in told.items():
        git(root, "config", name, value)


def test_a_release_is_made_twice_alike_and_signed(clone: Path, tmp_path: Path) -> None:
    with_key(clone, tmp_path)
    into, said = tmp_path / "made", list[str]()
    release.release(clone, VERSION, into, said.append, engine=False, signed=True)

    wheels = sorted(path.name.partition("-")[0] for path in into.glob("*.whl"))
    assert wheels == sorted(
        ["common", "placet_client", "placet_cli", "placet_operator", *(f"{name}_svc" for name in release.SERVICES)]
    )
    with zipfile.ZipFile(into / f"consent_svc-{VERSION}-py3-none-any.whl") as wheel:
        assert "consent/service.py" in wheel.namelist()
    names = {line.partition("  ")[2] for line in (into / release.SUMS).read_text().splitlines()}
    assert names | {release.SUMS} == {path.name for path in into.iterdir()}
    assert "made twice, each file the same" in said[0]

    git(clone, "tag", "--verify", f"v{VERSION}")
    assert "### consent-svc" in git(clone, "tag", "--list", "--format=%(contents)", f"v{VERSION}")


def test_no_tag_is_made_without_a_date_or_a_key(clone: Path, tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_text("notes\n")
    git(clone, "config", "user.signingkey", "")
    git(clone, "config", "--unset", "user.signingkey")
    with pytest.raises(release.Refused, match="git knows no key to sign the tag with"):
        release.tag(clone, "HEAD", VERSION, message, print)
    with pytest.raises(release.Refused, match=r"write `## \[9\.9\.9\] - <date>`"):
        release.tag(clone, "HEAD", "9.9.9", message, print)
    assert git(clone, "tag", "--list") == ""
