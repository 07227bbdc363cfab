"""What the deployment files say, read as they are: no engine, no cluster, no kustomize."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import campaign.service
import consent.service
import dispatch.service
import inbound.service
from common.service import Service
from common.settings import HoursSettings, ServiceSettings

ROOT = Path(__file__).parents[3]
BASE = ROOT / "deploy" / "k8s" / "base"
SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "consent": consent.service.Settings,
    "inbound": inbound.service.Settings,
    "campaign": campaign.service.Settings,
    "dispatch": dispatch.service.Settings,
}
BUILD: Mapping[str, Callable[[Any], Service[Any]]] = {
    "consent": consent.service.build,
    "inbound": inbound.service.build,
    "campaign": campaign.service.build,
    "dispatch": dispatch.service.build,
}
SERVICES = tuple(SETTINGS)
KEEPING_HOURS = tuple(name for name, settings in SETTINGS.items() if issubclass(settings, HoursSettings))
ROLES = ("api", "worker", "projection", "relay")
PREFIX = "PLACET_"


def text(path: str) -> str:
    return (ROOT / path).read_text()


@cache
def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def compose() -> dict[str, Any]:
    """docker-compose.yml, with `${NAME:-default}` as the default."""
    whole = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text("docker-compose.yml"))
    read: dict[str, Any] = yaml.safe_load(whole)
    return read


def env_file(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def template(kind: str, name: str) -> dict[str, Any]:
    """An object that every service has."""
    found = [
        document
        for path in sorted((BASE / "service").glob("*.yaml"))
        for document in documents(path)
        if document["kind"] == kind and document["metadata"]["name"] == name
    ]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod of each role, and the migration's: name and pod spec."""
    yield "migrate", template("Job", "migrate")["spec"]["template"]["spec"]
    for role in ROLES:
        yield role, template("Deployment", role)["spec"]["template"]["spec"]


def secrets() -> dict[str, dict[str, str]]:
    """By Secret, its keys and what the README says of each."""
    rows = re.findall(r"^\| `([\w-]+)` \| `(PLACET_\w+)` \| (.*) \|$", text("deploy/k8s/README.md"), re.MULTILINE)
    documented: dict[str, dict[str, str]] = {}
    for secret, key, meaning in rows:
        documented.setdefault(secret, {})[key] = meaning
    return documented


def unknown(service: str, names: Iterable[str]) -> set[str]:
    """Variables that the service would silently ignore."""
    return {n for n in names if n.removeprefix(PREFIX).lower() not in SETTINGS[service].model_fields}
