"""The images, and `docker-compose.yml` with the demo on it while each container is killed: `make compose`.

In the order of the file: the stack of one test is that of the next.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.engine import (
    PROJECT,
    composed,
    containers,
    docker,
    health,
    inspected,
    missing,
    until_well,
)
from tests.unit.deploy.deployed import ROOT, SERVICES, compose

CONTAINERS = compose()["services"]
LASTING = sorted(name for name in CONTAINERS if not name.endswith("-migrate"))
OURS = sorted({*SERVICES, "dispatch-projection", "simulator"})
LARGEST_BYTES = 150 * 1000 * 1000  # of an image, without its base
BASE = "python:3.13-slim"
TOKEN = ROOT / "deploy" / "compose" / "token.py"
DEMO_WITHIN_S = 900.0
HOURS = {**os.environ, "PLACET_HOURS": "demonstration"}
BETWEEN_S = 3.0


def built_of(name: str) -> list[str]:
    """Return the options of a build, as the file has them. The network is the host's: a package index may be there."""
    told = CONTAINERS[name]["build"]
    options = [f"--build-arg={key}={value}" for key, value in told.get("args", {}).items()]
    options += [f"--target={told['target']}"] if "target" in told else []
    return ["--network=host", f"--file={told['dockerfile']}", *options]


@pytest.fixture(scope="module")
def up() -> Iterator[None]:
    """The stack, built and ready. Nothing of it is left."""
    if (why := missing()) is not None:
        pytest.exit(why, returncode=1)
    for name in (*SERVICES, "simulator"):
        docker("build", *built_of(name), f"--tag=placet/{name}", ".")
    composed("down", "--volumes", "--remove-orphans")
    try:
        composed("up", "--wait", told=HOURS)
        yield
    finally:
        composed("down", "--volumes", "--remove-orphans")
    label = f"label=com.docker.compose.project={PROJECT}"
    left = [docker(kind, "ls", "--quiet", "--filter", label) for kind in ("container", "volume", "network")]
    assert left == ["", "", ""]


def test_each_container_is_up_and_the_migrations_have_ended_well(up: None) -> None:
    found = containers()
    assert {name: health(found[name]) for name in LASTING} == dict.fromkeys(LASTING, "healthy")
    ended = {name: each["State"]["ExitCode"] for name, each in found.items() if name not in LASTING}
    assert ended == {f"{service}-migrate": 0 for service in SERVICES}


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_is_not_root_and_writes_no_file(up: None, name: str) -> None:
    found = containers()[name]
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert composed("exec", "-T", name, "id", "-u").strip() == "10001"
    writes = "open('/opt/code/placet', 'w')"
    done = subprocess.run(
        ["docker", "compose", "--project-name", PROJECT, "exec", "-T", name, "python", "-c", writes],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "OSError" in done.stderr or "PermissionError" in done.stderr


@pytest.mark.parametrize("name", [*SERVICES, "simulator"])
def test_an_image_is_small(up: None, name: str) -> None:
    [image, base] = inspected("image", f"placet/{name}", BASE)
    assert image["RootFS"]["Layers"][: len(base["RootFS"]["Layers"])] == base["RootFS"]["Layers"]
    ours = image["Size"] - base["Size"]
    assert ours < LARGEST_BYTES, f"placet/{name} adds {ours / 1e6:.0f} MB to {BASE}"


def test_an_image_built_again_is_the_same(up: None) -> None:
    """Without the cache: each layer has the same bytes, so the same digest."""
    again = "placet-again/consent"
    docker("build", "--no-cache", *built_of("consent"), f"--tag={again}", ".")
    try:
        first, second = inspected("image", "placet/consent", again)
        assert second["RootFS"]["Layers"] == first["RootFS"]["Layers"]
    finally:
        docker("image", "rm", "--force", again)


def test_the_demo_ends_well_although_each_container_is_killed_meanwhile(up: None, tmp_path: Path) -> None:
    told = composed("exec", "-T", "consent", "python", "-c", TOKEN.read_text(encoding="utf-8"), "stack.env")
    (on := tmp_path / "compose.env").write_text(told, encoding="utf-8")
    log = tmp_path / "demo.log"
    with log.open("wb") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "stack", "demo"],
            cwd=ROOT,
            env={**os.environ, "ON": str(on)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            for name in LASTING:
                if demo.poll() is not None:
                    break
                time.sleep(BETWEEN_S)
                composed("kill", name)
                composed("start", name, told=HOURS)
                until_well([name])
            until_well(LASTING)
            demo.wait(DEMO_WITHIN_S)
        finally:
            demo.kill()
            demo.wait()
    assert demo.returncode == 0, log.read_text(encoding="utf-8", errors="replace")[-4000:]


def test_a_container_that_is_killed_comes_back_by_itself_or_by_a_start(up: None) -> None:
    for name in LASTING:
        composed("kill", name)
        assert health(containers()[name]) in ("exited", "starting", "restarting"), name
        composed("start", name, told=HOURS)
    until_well(LASTING)
