"""One image per service, each built the same way, from the repository and the pinned packages alone."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest

import stack.simulator
from tests.unit.deploy.deployed import ROOT, SERVICES, text

DOCKERFILES = {**{name: f"services/{name}-svc/Dockerfile" for name in SERVICES}, "simulator": "stack/Dockerfile"}
each_image = pytest.mark.parametrize("path", DOCKERFILES.values(), ids=list(DOCKERFILES))


def instructions(path: str, name: str) -> list[str]:
    joined = text(path).replace("\\\n", "")
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def stages(path: str) -> list[str]:
    return re.split(r"^(?=FROM )", text(path), flags=re.MULTILINE)[1:]


def test_the_first_stage_is_the_same_in_every_image() -> None:
    assert len({stages(path)[0] for path in DOCKERFILES.values()}) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_the_dockerfiles_of_the_services_differ_by_their_names_alone(name: str) -> None:
    assert text(DOCKERFILES[name]).replace(name, "consent") == text(DOCKERFILES["consent"])


@each_image
def test_packages_are_pinned_by_hash_and_come_from_wherever_pip_is_set_up_to_look(path: str) -> None:
    dependencies, code, _ = stages(path)
    assert "--require-hashes --only-binary=:all: -r /build/run.txt" in dependencies
    assert "--no-deps --no-build-isolation" in code
    assert set(re.findall(r"https?://([^/:']+)", text(path))) <= {"127.0.0.1"}


@each_image
def test_it_needs_nothing_but_its_base_image_to_be_built(path: str) -> None:
    assert set(instructions(path, "FROM")) == {
        "python:3.13-slim",
        "python:3.13-slim AS dependencies",
        "dependencies AS code",
    }
    assert "syntax=" not in text(path)


@each_image
def test_what_builds_it_is_not_in_it(path: str) -> None:
    """The last stage takes two folders, and what builds was moved out of them."""
    dependencies, _, last = stages(path)
    taken = re.findall(r"^COPY --from=\w+ (\S+) (\S+)$", last, re.MULTILINE)
    assert taken == [("/opt/placet", "/opt/placet"), ("/opt/code", "/opt/code")]
    assert "RUN" not in last
    assert "mv /opt/placet/bin/uv-build /opt/build/bin/" in dependencies
    assert "site-packages/uv_build* /opt/build/" in dependencies


@each_image
def test_it_runs_as_a_number_that_is_not_root(path: str) -> None:
    (user,) = instructions(path, "USER")
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", user)


@each_image
def test_its_health_is_asked_in_python(path: str) -> None:
    (check,) = instructions(path, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    ast.parse(command[2])
    assert "/livez" in command[2]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_s_image_holds_its_own_code_and_what_all_share(name: str) -> None:
    copied = [source.split()[0] for source in instructions(DOCKERFILES[name], "COPY") if not source.startswith("--")]
    assert copied == ["requirements/run.txt", "libs/common", f"services/{name}-svc"]
    assert json.loads(instructions(DOCKERFILES[name], "ENTRYPOINT")[0]) == ["python", "-m", name]


def test_the_simulator_s_image_starts_what_the_simulator_s_module_has() -> None:
    (entry,) = instructions(DOCKERFILES["simulator"], "ENTRYPOINT")
    program = ast.parse(json.loads(entry)[2])
    imported = [n.name for i in program.body if isinstance(i, ast.ImportFrom) for n in i.names]
    assert imported == ["Settings", "create_app"]
    assert all(hasattr(stack.simulator, name) for name in imported)


@each_image
def test_what_it_copies_reaches_the_engine(path: str) -> None:
    kept = {line.removeprefix("!") for line in text(".dockerignore").splitlines() if line.startswith("!")}
    for source in instructions(path, "COPY"):
        if not source.startswith("--"):
            folder = source.split()[0]
            assert (ROOT / folder).exists()
            assert any(folder == k or folder.startswith(f"{k}/") for k in kept)


def test_the_packages_that_build_ours_are_among_the_pinned() -> None:
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", text("requirements/run.txt"), re.MULTILINE))
    for path in ("libs/common", "stack", *(f"services/{name}-svc" for name in SERVICES)):
        project = tomllib.loads(text(f"{path}/pyproject.toml"))
        assert project["build-system"]["requires"] == ["uv_build>=0.13,<0.14"]
    assert pinned["uv-build"].startswith("0.13.")


WITHOUT = """
import importlib, pkgutil, sys

class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(%r):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Gone())
for name in ("common", "consent", "inbound", "campaign", "dispatch"):
    for found in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
        if not found.name.endswith("__main__") and ".migrations." not in found.name:
            importlib.import_module(found.name)
import stack.simulator
import phonenumbers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
phonenumbers.is_valid_number(phonenumbers.parse("+33639980001"))
Ed25519PrivateKey.generate().sign(b"")
FastAPI().add_api_route("/", lambda: 1, response_model=int)
"""


def test_what_is_taken_out_of_the_packages_is_needed_by_nothing_of_ours() -> None:
    """Each module of each service is imported where it is not there; so is what packages load when they are used."""
    [removed] = re.findall(r"rm -r ([^&]+) &&", text(DOCKERFILES["consent"]).replace("\\\n", ""))
    assert len(removed.split()) > 8, "as the Dockerfile says it"
    gone = tuple(each.removesuffix("*").replace("/", ".") for each in removed.split())
    done = subprocess.run([sys.executable, "-c", WITHOUT % (gone,)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
