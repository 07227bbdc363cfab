"""Every object of an overlay is like the schema of its kind, and a mistake of each kind is found without a cluster."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.kinds import KINDS, OWN_KINDS, RELEASES, kept
from tests.contract.manifests import OVERLAYS, rendered
from tests.unit.deploy.overlays import of
from tests.unit.deploy.schemas import by_kind, unlike

Json = dict[str, Any]
USED = {(each["apiVersion"], each["kind"]) for overlay in OVERLAYS for each in rendered(overlay)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_like_the_schema_of_its_kind(overlay: str) -> None:
    assert [fault for each in rendered(overlay) for fault in unlike(each)] == []


def test_the_schemas_are_those_of_the_kinds_in_use() -> None:
    assert set(by_kind()) == USED


def test_the_page_names_each_definition_and_its_release() -> None:
    page = (KINDS / "README.md").read_text(encoding="utf-8")
    for release in RELEASES:
        assert f"[{release.repository}]" in page
        assert f"| {release.tag} |" in page
    assert all(f"`{kind}`" in page for _, kind in USED)


def test_a_definition_has_one_version_and_no_description_and_keeps_a_property_of_that_name() -> None:
    schema = {"description": "x", "properties": {"description": {"type": "string", "description": "y"}}}
    version = {"name": "v1", "served": True, "storage": False, "schema": {"openAPIV3Schema": schema}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.org", "annotations": {"a": "b"}},
        "spec": {"group": "example.org", "names": {"kind": "Thing"}, "scope": "Namespaced", "versions": [version]},
    }
    assert kept(definition, "v1")["spec"]["versions"] == [
        {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": {"properties": {"description": {"type": "string"}}}},
        }
    ]


def container(workload: Json) -> Any:
    return workload["spec"]["template"]["spec"]["containers"][0]


def changed(*path: str | int, to: Any) -> Callable[[Json], None]:
    """Return a mistake: another value at this path."""

    def apply(each: Json) -> None:
        at: Any = each
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return apply


MISTAKES: dict[str, tuple[str, Callable[[Json], None]]] = {
    "a ConfigMap whose value is a number": ("ConfigMap", changed("data", "PLACET_PARTITIONS", to=12)),
    "a Namespace with a label that is no text": ("Namespace", changed("metadata", "labels", "audited", to=True)),
    "a Service with a port that is a name": ("Service", changed("spec", "ports", 0, "port", to="http")),
    "a Deployment with a field one level too high": ("Deployment", changed("spec", "containers", to=[])),
    "a Deployment with a probe of its seconds in words": (
        "Deployment",
        lambda each: container(each)["readinessProbe"].update(periodSeconds="5s"),
    ),
    "a Deployment with a misspelt security context": (
        "Deployment",
        lambda each: container(each)["securityContext"].update(readonlyRootFilesystem=True),
    ),
    "a Job that retries in words": ("Job", changed("spec", "backoffLimit", to="three")),
    "a PodDisruptionBudget with two words for one": ("PodDisruptionBudget", changed("spec", "maxUnavailble", to=1)),
    "a HorizontalPodAutoscaler of the version before": (
        "HorizontalPodAutoscaler",
        changed("spec", "targetCPUUtilizationPercentage", to=70),
    ),
    "a NetworkPolicy that names ports beside the rules": ("NetworkPolicy", changed("spec", "ports", to=[])),
    "a PriorityClass whose value is text": ("PriorityClass", changed("value", to="1000000")),
    "a Kafka of the version before, which Strimzi left out": (
        "Kafka",
        changed("spec", "kafka", "storage", to={"type": "ephemeral"}),
    ),
    "a Kafka with a listener of no kind": ("Kafka", changed("spec", "kafka", "listeners", 0, "type", to="public")),
    "a KafkaNodePool with a role that there is not": ("KafkaNodePool", changed("spec", "roles", 0, to="leader")),
    "a KafkaTopic with its partitions as text": ("KafkaTopic", changed("spec", "partitions", to="12")),
    "a KafkaUser that may what no broker knows": (
        "KafkaUser",
        changed("spec", "authorization", "acls", 0, "operations", to=["Publish"]),
    ),
    "a Cluster that waits for standbys in another way": (
        "Cluster",
        changed("spec", "postgresql", "synchronous", to={"method": "quorum", "number": 1}),
    ),
    "a Cluster with a misspelt backup": ("Cluster", changed("spec", "plugins", 0, "isWalArchiver", to=True)),
    "a Database without an owner": ("Database", lambda each: each["spec"].pop("owner")),
    "a ScheduledBackup by no method": ("ScheduledBackup", changed("spec", "method", to="barman")),
    "an ObjectStore with a retention of no unit": ("ObjectStore", changed("spec", "retentionPolicy", to="30")),
    "a ScaledObject with a threshold that is a number": (
        "ScaledObject",
        changed("spec", "triggers", 0, "metadata", "threshold", to=500),
    ),
    "a ScaledObject with a field of another scaler": ("ScaledObject", changed("spec", "minReplicas", to=2)),
    "a PodMonitor that scrapes every 15 somethings": (
        "PodMonitor",
        changed("spec", "podMetricsEndpoints", 0, "interval", to="15"),
    ),
    "a PrometheusRule that waits for no time": (
        "PrometheusRule",
        changed("spec", "groups", 0, "rules", 0, "for", to="five minutes"),
    ),
    "an HTTPRoute with a path of no kind": (
        "HTTPRoute",
        changed("spec", "rules", 0, "matches", 0, "path", "type", to="Prefix"),
    ),
    "an HTTPRoute with a time-out of no unit": (
        "HTTPRoute",
        changed("spec", "rules", 0, "timeouts", "request", to="15"),
    ),
    "an ExternalSecret from no kind of store": (
        "ExternalSecret",
        changed("spec", "secretStoreRef", "kind", to="Vault"),
    ),
}


@pytest.mark.parametrize(("kind", "mistake"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_of_each_kind_is_found(kind: str, mistake: Callable[[Json], None]) -> None:
    first = next(each for overlay in reversed(OVERLAYS) for each in of(rendered(overlay), kind))
    broken: Json = copy.deepcopy(dict(first))
    assert list(unlike(broken)) == []
    mistake(broken)
    [found, *_] = unlike(broken)
    assert found.startswith(f"{kind} {broken['metadata']['name']}: /"), found


def test_a_mistake_of_every_kind_is_among_them() -> None:
    assert {kind for kind, _ in MISTAKES.values()} == {kind for _, kind in USED}
    own = {kind for kinds in OWN_KINDS.values() for kind in kinds}
    assert own < {kind for _, kind in USED}


def test_an_object_of_a_kind_that_there_is_not_is_found() -> None:
    old = {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "consent-api"}}
    assert list(unlike(old)) == ["PodDisruptionBudget consent-api has no schema: policy/v1beta1"]


def test_a_definition_is_what_an_api_server_takes() -> None:
    for release in RELEASES:
        assert release.served.startswith("v1")
    for path in KINDS.glob("*.*.json"):
        definition = json.loads(path.read_text(encoding="utf-8"))
        names = definition["spec"]["names"]
        assert path.name == f"{names['plural']}.{definition['spec']['group']}.json"
        assert [each["storage"] for each in definition["spec"]["versions"]] == [True]
