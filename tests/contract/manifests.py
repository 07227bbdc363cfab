"""Write what the manifests of deploy/k8s have from the code, and render the overlays: `make manifests`.

A rendered file has an object a line, after the hash of its sources: a test tells without kustomize whether the file is
current.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from common.contracts import TOPICS, Topic
from common.kafka.widening import published_by
from tests.contract import dashboards
from tests.unit.deploy.deployed import BASE, ROOT, SERVICES, env_file

K8S = ROOT / "deploy" / "k8s"
RENDERED = K8S / "rendered"
SOURCES = ("base", "components", "overlays")
OVERLAYS = ("dev", "small", "production")
RULES = ROOT / "deploy" / "prometheus" / "placet.yaml"
API = "kafka.strimzi.io/v1"
OF_CLUSTER = {"strimzi.io/cluster": "placet"}
DOCUMENTS = "https://docs.example.internal/placet/"  # an example: an overlay has its own
NOTE = "# written by `make manifests` from the {0}\n"


def topics() -> Iterator[dict[str, Any]]:
    """Yield a KafkaTopic for each topic of the table and its dead letters, as the services make them."""
    told = env_file(BASE / "placet.env")
    replicas = int(told["PLACET_KAFKA_REPLICATION"])
    in_sync = {"min.insync.replicas": str(replicas - 1), "unclean.leader.election.enable": "false"}
    people = told["PLACET_PARTITIONS"]
    for topic in TOPICS:
        of_topic = told.get("PLACET_WORK_PARTITIONS", people) if topic.wide else people
        for name, partitions, config in (
            (topic.name, int(of_topic), topic.config),
            (topic.dead_letters, 1, topic.dead_letters_config),
        ):
            yield {
                "apiVersion": API,
                "kind": "KafkaTopic",
                "metadata": {"name": name, "labels": OF_CLUSTER},
                "spec": {"partitions": partitions, "replicas": replicas, "config": {**config, **in_sync}},
            }


def _allows(kind: str, name: str, operations: list[str], pattern: str = "literal") -> dict[str, Any]:
    return {"resource": {"type": kind, "name": name, "patternType": pattern}, "operations": operations}


def users() -> Iterator[dict[str, Any]]:
    """Yield a KafkaUser for each service, with the operations of deploy/k8s/README.md and no more."""
    for service in SERVICES:
        acls = [rule for topic in TOPICS for rule in _of_topic(service, topic)]
        acls.append(_allows("group", f"{service}.", ["Read"], "prefix"))
        acls.append(_allows("transactionalId", f"{service}.relay", ["Describe", "Write"]))
        yield {
            "apiVersion": API,
            "kind": "KafkaUser",
            "metadata": {"name": f"kafka-{service}", "labels": OF_CLUSTER},
            "spec": {
                "authentication": {"type": "scram-sha-512"},
                "authorization": {"type": "simple", "acls": acls},
            },
        }


def _of_topic(service: str, topic: Topic) -> Iterator[dict[str, Any]]:
    reads, writes = service in topic.consumers, service in (topic.owner, *topic.publishers)
    if reads or writes:
        given = ["Describe", "DescribeConfigs"]
        widens = topic in published_by(service)
        yield _allows("topic", topic.name, [*["Alter"] * widens, *given, *["Read"] * reads, *["Write"] * writes])
        yield _allows("topic", topic.dead_letters, [*given, *["Write"] * (reads or writes)])


def rules() -> dict[str, Any]:
    """Return the alerts as the Prometheus operator takes them, with URLs that a pager can open."""
    spec = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in spec["groups"]:
        for rule in group["rules"]:
            told = rule["annotations"]
            told["runbook_url"] = told["runbook_url"].replace("docs/", DOCUMENTS)
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "placet"},
        "spec": spec,
    }


def written() -> Mapping[Path, str]:
    """Return the files written from the code."""
    kafka, monitoring = K8S / "components" / "kafka", K8S / "components" / "monitoring"
    return {
        kafka / "topics.yaml": NOTE.format("topic table") + _dumped(topics()),
        kafka / "users.yaml": NOTE.format("topic table") + _dumped(users()),
        monitoring / "rules.yaml": NOTE.format("rules of deploy/prometheus") + _dumped([rules()]),
        **dashboards.written(),
    }


def _dumped(documents: Any) -> str:
    text: str = yaml.safe_dump_all(documents, sort_keys=False, width=1000, allow_unicode=True, default_flow_style=None)
    return text


def of_sources() -> str:
    """Return the hash of all that the overlays are rendered from."""
    found = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (K8S / folder).rglob("*") if path.is_file()):
        found.update(path.relative_to(K8S).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def rendered(overlay: str) -> list[dict[str, Any]]:
    """Return the objects of a rendered overlay."""
    _, *lines = (RENDERED / f"{overlay}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def hash_of(overlay: str) -> str:
    """Return the hash of the sources that a rendered overlay was rendered from."""
    with (RENDERED / f"{overlay}.jsonl").open(encoding="utf-8") as lines:
        found: str = json.loads(next(lines))["sources"]
    return found


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
    RENDERED.mkdir(exist_ok=True)
    for overlay in OVERLAYS:
        command = [sys.argv[1], "build", str(K8S / "overlays" / overlay)]
        built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines = [{"overlay": overlay, "sources": of_sources()}, *yaml.safe_load_all(built)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (RENDERED / f"{overlay}.jsonl").write_text(text, encoding="utf-8")
