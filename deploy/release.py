"""Make what a release holds, and make it again to compare: `make release VERSION=0.1.0 INTO=folder`.

Everything is made of the commit that HEAD names, never of the files beside it, and holds no time but the commit's. Two
runs on two machines with the same pins make the same bytes: `SHA256SUMS` says so.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SERVICES = ("consent", "inbound", "campaign", "dispatch")
PACKAGES = (
    "libs/common",
    *(f"services/{name}-svc" for name in SERVICES),
    "clients/python",
    "clients/cli",
    "clients/operator",
)
OVERLAYS = ("dev", "small", "production")
MANIFESTS = ("base", "components", "overlays", "README.md")
SUMS = "SHA256SUMS"
BUILD = "import sys, uv_build; uv_build.build_wheel(sys.argv[1])"


class Refused(RuntimeError):
    """A reason for which nothing is released, as a sentence that says what to do."""


def notes(changelog: str, version: str) -> str:
    """Return the section of a version. Raises Refused."""
    sections = re.split(r"^(?=## \[)", changelog, flags=re.MULTILINE)[1:]
    for section in sections:
        title, _, body = section.partition("\n")
        if title.startswith(f"## [{version}]") or title == f"## [Unreleased]: what {version} will hold":
            return f"# {version}\n\n{body.strip()}\n"
    raise Refused(f"CHANGELOG.md has no section of {version}: write `## [{version}] - <date>`")


def is_dated(changelog: str, version: str) -> bool:
    """Return whether the changelog says when the version was released."""
    return re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE) is not None


def check_versions(tree: Path, version: str) -> None:
    """Raise Refused unless each package and each image of the manifests has this version."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        path = f"{package}/pyproject.toml"
        found[path] = tomllib.loads((tree / path).read_text(encoding="utf-8"))["project"]["version"]
    for service in SERVICES:
        path = f"deploy/k8s/base/{service}/kustomization.yaml"
        [image] = yaml.safe_load((tree / path).read_text(encoding="utf-8"))["images"]
        found[path] = image["newTag"]
    if others := {path: told for path, told in found.items() if told != version}:
        listed = ", ".join(f"{path} ({told})" for path, told in sorted(others.items()))
        raise Refused(f"{version} is not the version of {listed}: change it there, and run `make manifests`")


def archive(files: Mapping[str, bytes], at: int) -> bytes:
    """Return a compressed archive whose bytes depend on the files and the time `at` alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(files[name]), at, 0o644
            out.addfile(entry, io.BytesIO(files[name]))
    return gzip.compress(packed.getvalue(), mtime=at)


def manifests(tree: Path, version: str, at: int) -> dict[str, bytes]:
    """Return the sources of the manifests as an archive, and each overlay as it is rendered."""
    k8s = tree / "deploy" / "k8s"
    paths = [path for name in MANIFESTS for path in [k8s / name, *(k8s / name).rglob("*")] if path.is_file()]
    top = f"placet-{version}"
    made = {
        f"placet-manifests-{version}.tar.gz": archive(
            {f"{top}/{path.relative_to(k8s).as_posix()}": path.read_bytes() for path in paths}, at
        )
    }
    for overlay in OVERLAYS:
        lines = (k8s / "rendered" / f"{overlay}.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        text = yaml.safe_dump_all([json.loads(line) for line in lines], sort_keys=False, allow_unicode=True, width=1000)
        made[f"placet-{overlay}-{version}.yaml"] = text.encode()
    return made


def wheels(tree: Path, into: Path, at: int) -> None:
    """Build the wheel of each package, with the builder that the pins name."""
    for package in PACKAGES:
        _run([sys.executable, "-c", BUILD, str(into)], cwd=tree / package, SOURCE_DATE_EPOCH=str(at))


def bill(tree: Path, into: Path) -> None:
    """Write the bill of materials of a service's packages, with their hashes (CycloneDX)."""
    options = ["--output-reproducible", "--output-format", "JSON", "--output-file", str(into)]
    _run(["cyclonedx-py", "requirements", *options, "requirements/run.txt"], cwd=tree)


def sums(folder: Path) -> str:
    """Return the digest of each file, as `sha256sum --check` reads it."""
    paths = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)


def export(root: Path, commit: str, into: Path) -> None:
    """Write the files of a commit."""
    into.mkdir()
    packed = subprocess.run(["git", "archive", commit], cwd=root, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(into, filter="data")


def make(tree: Path, into: Path, version: str, at: int) -> None:
    """Write what a release of this tree holds. Raises Refused."""
    check_versions(tree, version)
    told = notes((tree / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    into.mkdir(parents=True)
    wheels(tree, into, at)
    for name, content in manifests(tree, version, at).items():
        (into / name).write_bytes(content)
    bill(tree, into / f"placet-{version}.cdx.json")
    (into / f"placet-{version}.md").write_text(told, encoding="utf-8")
    (into / SUMS).write_text(sums(into), encoding="utf-8")


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the files that two makings do not share byte for byte."""
    first, second = (set(sums(folder).splitlines()) for folder in (one, other))
    return sorted({line.partition("  ")[2] for line in first ^ second})


def images(root: Path, commit: str, version: str, at: int, say: Callable[[str], None]) -> None:
    """Build the image of each service where an engine answers, and say what its id is."""
    if subprocess.run(["docker", "version"], capture_output=True).returncode:
        say("images: no engine answers here, so none is built")
        return
    for service in SERVICES:
        name = f"placet/{service}:{version}"
        arguments = {"SERVICE": service, "VERSION": version, "REVISION": commit, "SOURCE_DATE_EPOCH": str(at)}
        told = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        _run(["docker", "build", "--network=host", "-f", "deploy/Dockerfile", *told, "-t", name, "."], cwd=root)
        found = _output(root, ["docker", "image", "inspect", "--format", "{{.Id}}", name])
        say(f"image: {name} {found}")


def tag(root: Path, commit: str, version: str, message: Path, say: Callable[[str], None]) -> None:
    """Sign a tag with the key that git is told of. Raises Refused."""
    if not is_dated((root / "CHANGELOG.md").read_text(encoding="utf-8"), version):
        raise Refused(f"CHANGELOG.md does not say when {version} is released: write `## [{version}] - <date>`")
    if subprocess.run(["git", "config", "user.signingkey"], cwd=root, capture_output=True).returncode:
        raise Refused("git knows no key to sign the tag with: set user.signingkey")
    _run(["git", "tag", "--sign", "--cleanup=verbatim", "--file", str(message), f"v{version}", commit], cwd=root)
    say(f"tag: v{version}, signed; push it with the files")


def _run(command: Sequence[str], *, cwd: Path, **variables: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the builder is a program beside Python
    told = {**os.environ, "PATH": path, **variables}
    done = subprocess.run(command, cwd=cwd, env=told, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{command[0]} ended with code {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _output(root: Path, command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def release(root: Path, version: str, into: Path, say: Callable[[str], None], *, engine: bool, signed: bool) -> None:
    """Make a release of a repository's HEAD into an empty folder, twice. Raises Refused."""
    if into.exists() and any(into.iterdir()):
        raise Refused(f"{into} is not empty: name another folder")
    commit = _output(root, ["git", "rev-parse", "HEAD"])
    at = int(_output(root, ["git", "show", "--no-patch", "--format=%ct", commit]))
    if _output(root, ["git", "status", "--porcelain", "--untracked-files=no"]):
        say("files differ from the commit: the release holds the commit's")
    with tempfile.TemporaryDirectory(prefix="placet-release-") as scratch:
        made = [Path(scratch) / name / "made" for name in ("first", "second")]
        for each in made:
            each.parent.mkdir()
            export(root, commit, each.parent / "tree")
            make(each.parent / "tree", each, version, at)
        if different := differences(*made):
            raise Refused(f"made twice, these differ: {', '.join(different)}")
        into.mkdir(parents=True, exist_ok=True)
        for path in made[0].iterdir():
            (into / path.name).write_bytes(path.read_bytes())
    say(f"{version} of {commit[:12]}, made twice, each file the same:")
    say((into / SUMS).read_text(encoding="utf-8").rstrip())
    if engine:
        images(root, commit, version, at, say)
    if signed:
        tag(root, commit, version, into / f"placet-{version}.md", say)
    else:
        say("no tag: SIGN=1 signs one")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--images", action="store_true")
    parser.add_argument("--sign", action="store_true")
    told = parser.parse_args()
    into = told.into or ROOT / "dist" / told.version
    try:
        release(ROOT, told.version, into, lambda line: print(line, flush=True), engine=told.images, signed=told.sign)
    except Refused as error:
        sys.stderr.write(f"nothing is released: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
