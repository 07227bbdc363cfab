"""One Dockerfile builds the image of each service and of the simulator, from the repository and the pinned packages."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import stack.simulator
from tests.unit.deploy.deployed import ROOT, SERVICES, compose, text

DOCKERFILE = "deploy/Dockerfile"
STAGES = {
    name: body
    for _, name, body in re.findall(
        r"^FROM (\S+) AS (\S+)$(.*?)(?=^FROM |\Z)", text(DOCKERFILE), flags=re.MULTILINE | re.DOTALL
    )
}
TARGETS = ("service", "simulator")
each_target = pytest.mark.parametrize("target", TARGETS)


def instructions(stage: str, name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", STAGES[stage].replace("\\\n", ""), re.MULTILINE)


def copied(stage: str) -> list[str]:
    """Return the folders and files of the repository that a stage copies."""
    return [source.split()[0] for source in instructions(stage, "COPY") if not source.startswith("--")]


def test_no_other_dockerfile_is_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "*Dockerfile*"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [DOCKERFILE]


def test_a_build_without_a_target_makes_a_service() -> None:
    assert list(STAGES)[-1] == "service"


@each_target
def test_packages_are_pinned_by_hash_and_come_from_wherever_pip_is_set_up_to_look(target: str) -> None:
    assert "--require-hashes --only-binary=:all: -r /build/run.txt" in STAGES["dependencies"]
    assert "--no-deps --no-build-isolation" in STAGES[f"{target}-code"]
    assert set(re.findall(r"https?://([^/:']+)", text(DOCKERFILE))) <= {"127.0.0.1"}


def test_a_build_needs_no_image_but_the_base_image() -> None:
    bases = re.findall(r"^FROM (\S+)", text(DOCKERFILE), re.MULTILINE)
    assert set(bases) - set(STAGES) == {"python:3.13-slim"}
    assert len(bases) == len(STAGES)
    assert "syntax=" not in text(DOCKERFILE)


@each_target
def test_what_builds_it_is_not_in_it(target: str) -> None:
    """The image takes two folders, and the tools that build were moved out of them."""
    last = STAGES["base"] + STAGES[target]
    taken = re.findall(r"^COPY --from=(\S+) (\S+) (\S+)$", last, re.MULTILINE)
    assert taken == [("dependencies", "/made/", "/"), (f"{target}-code", "/code/", "/")]
    assert "cp --archive /opt/placet /made/opt/" in STAGES["dependencies"]
    assert "--target /code/opt/code " in STAGES[f"{target}-code"]
    assert re.search(rf"^FROM base AS {target}$", text(DOCKERFILE), re.MULTILINE)
    assert "RUN" not in last
    assert "mv /opt/placet/bin/uv-build /opt/build/bin/" in STAGES["dependencies"]
    assert "site-packages/uv_build* /opt/build/" in STAGES["dependencies"]


@pytest.mark.parametrize(("stage", "folder"), [("dependencies", "/made"), *((f"{t}-code", "/code") for t in TARGETS)])
def test_every_file_of_a_layer_has_one_age_before_and_after_it_is_compiled(stage: str, folder: str) -> None:
    """Compiled code names the age of its source; `make compose` builds twice, and compares."""
    aged = [*re.finditer(r"find (\S+) -exec touch --no-dereference --date=@0 \{\} \+", STAGES[stage])]
    compiled = re.search(r'python -(?:c "import|m compileall)', STAGES[stage])
    assert compiled is not None
    before, after = aged
    assert before.end() < compiled.start() < after.start()
    assert after[1] == folder
    installs = re.findall(r"pip --python.*?(?= && |\Z)", STAGES[stage].replace("\\\n", ""), re.DOTALL)
    assert installs
    assert all("--no-compile" in each for each in installs)


@each_target
def test_no_folder_of_a_layer_has_one_name_that_begins_as_another(target: str) -> None:
    """`common` and `common-0.1.0.dist-info` have no order that all engines share, so a layer has not both."""
    steps = [step.strip() for run in instructions(f"{target}-code", "RUN") for step in run.split("&&")]
    [installs] = [n for n, step in enumerate(steps) if "--target /code/opt/code" in step]
    [moves] = [n for n, step in enumerate(steps) if step.startswith("mv /code/opt/code/*.dist-info /code/opt/placet/")]
    [first, *_] = [n for n, step in enumerate(steps) if "-exec touch" in step]
    assert installs < moves < first


def test_an_image_runs_as_a_number_that_is_not_root() -> None:
    (user,) = instructions("base", "USER")
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", user)


def test_an_image_of_a_service_says_what_it_is_and_of_which_commit() -> None:
    [labels] = instructions("service", "LABEL")
    told = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    assert told == {
        "title": "placet/${SERVICE}",
        "version": "${VERSION}",
        "revision": "${REVISION}",
        "licenses": "Apache-2.0",
    }
    assert {name.partition("=")[0] for name in instructions("service", "ARG")} == {"SERVICE", "VERSION", "REVISION"}
    assert text("LICENSE").lstrip().startswith("Apache License")


@each_target
def test_its_health_is_asked_in_python(target: str) -> None:
    (check,) = instructions(target, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    ast.parse(command[2])
    assert "/livez" in command[2]
    assert ("PLACET_HEALTH_PORT" in command[2]) == (target == "service")


def test_a_service_s_image_holds_its_own_code_and_what_all_share() -> None:
    assert copied("service-code") == ["libs/common", "services/${SERVICE}-svc"]
    assert copied("dependencies") == ["requirements/run.txt"]


@pytest.mark.parametrize("arguments", [[], ["migrate"]])
def test_a_service_s_image_starts_the_module_of_the_service_with_the_container_s_arguments(
    arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "consent.py").write_text("import os, sys; print(os.getpid(), sys.argv[1:])")
    (tmp_path / "python").symlink_to(sys.executable)
    (entry,) = instructions("service", "ENTRYPOINT")
    assert "SERVICE=${SERVICE}" in instructions("service", "ENV")[0].split()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path), "SERVICE": "consent"}
    with subprocess.Popen(
        [*json.loads(entry), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as started:
        told, _ = started.communicate()
    assert told.strip() == f"{started.pid} {arguments}", "the container's process itself, so that signals arrive"


def test_the_simulator_s_image_starts_what_the_simulator_s_module_has() -> None:
    (entry,) = instructions("simulator", "ENTRYPOINT")
    program = ast.parse(json.loads(entry)[2])
    imported = [n.name for i in program.body if isinstance(i, ast.ImportFrom) for n in i.names]
    assert imported == ["Settings", "create_app"]
    assert all(hasattr(stack.simulator, name) for name in imported)


@pytest.mark.parametrize("service", SERVICES)
def test_what_it_copies_reaches_the_engine(service: str) -> None:
    kept = {line.removeprefix("!") for line in text(".dockerignore").splitlines() if line.startswith("!")}
    for stage in STAGES:
        for named in copied(stage):
            folder = named.replace("${SERVICE}", service)
            assert (ROOT / folder).exists()
            assert any(folder == k or folder.startswith(f"{k}/") for k in kept)


@pytest.mark.parametrize("service", SERVICES)
def test_compose_builds_each_service_by_its_name(service: str) -> None:
    build = compose()["services"][service]["build"]
    assert build == {"context": ".", "dockerfile": DOCKERFILE, "args": {"SERVICE": service}}


def test_compose_builds_the_simulator() -> None:
    build = compose()["services"]["simulator"]["build"]
    assert build == {"context": ".", "dockerfile": DOCKERFILE, "target": "simulator"}


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
    [removed] = re.findall(r"rm -r ([^&]+) &&", STAGES["dependencies"].replace("\\\n", ""))
    assert len(removed.split()) > 8, "as the Dockerfile says it"
    gone = tuple(each.removesuffix("*").replace("/", ".") for each in removed.split())
    done = subprocess.run([sys.executable, "-c", WITHOUT % (gone,)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
