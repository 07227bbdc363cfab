"""A Docker engine with compose, and the containers of `docker-compose.yml` on it under a name of their own."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tests.unit.deploy.deployed import ROOT

PROJECT = "placet-tried"
BUSY_S = 900.0  # a build without a cache, on a machine that is busy
BACK_WITHIN_S = 180.0
LOOK_EVERY_S = 1.0
Json = dict[str, Any]


def missing() -> str | None:
    """Return what is not there as a sentence that says what to do, or None."""
    for command, what in (
        (("docker", "version"), "a Docker engine: start one, and let this user reach its socket"),
        (("docker", "compose", "version"), "compose 2: install the plugin `docker compose`"),
    ):
        try:
            done = subprocess.run(command, capture_output=True)
        except FileNotFoundError:
            return "the images and docker-compose.yml are tried with the program `docker`: install it"
        if done.returncode:
            return f"the images and docker-compose.yml are tried on {what}"
    return None


def docker(*arguments: str, told: Mapping[str, str] | None = None, within_s: float = BUSY_S) -> str:
    """Return what docker prints. Fails with the end of its error."""
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=within_s, env=told and {**told}
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def inspected(kind: str, *names: str) -> list[Json]:
    return cast(list[Json], json.loads(docker(kind, "inspect", *names)))


def composed(*arguments: str, told: Mapping[str, str] | None = None) -> str:
    return docker("compose", "--project-name", PROJECT, *arguments, told=told)


def containers() -> dict[str, Json]:
    """Return each container of the project by the name of its service."""
    ids = composed("ps", "--all", "--quiet").split()
    return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in inspected("container", *ids)}


def until_well(names: Sequence[str]) -> None:
    """Wait until these containers are healthy. Fails with the last word of those that are not."""
    deadline = time.monotonic() + BACK_WITHIN_S
    while True:
        found = containers()
        ill = {name: state for name in names if (state := health(found[name])) != "healthy"}
        if not ill:
            return
        if time.monotonic() > deadline:
            said = "\n".join(composed("logs", "--no-color", "--tail=20", name) for name in ill)
            raise AssertionError(f"not healthy after {BACK_WITHIN_S:.0f} s: {ill}\n{said}")
        time.sleep(LOOK_EVERY_S)


def health(container: Json) -> str:
    """Return `healthy`, another word for its health, or the state of a container that does not run."""
    state = container["State"]
    return str(state["Health"]["Status"] if state["Running"] and "Health" in state else state["Status"])
