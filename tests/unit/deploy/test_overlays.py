"""The overlays of deploy/k8s refer to what there is, and each mistake that a hand could make is found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from common.contracts import TOPICS
from common.kafka.widening import published_by
from tests.contract.manifests import OVERLAYS, hash_of, of_sources, rendered, written
from tests.unit.deploy.conftest import Started
from tests.unit.deploy.overlays import container_of, faults, made_secrets, named, of, pod_of, service_of, variables
from tests.unit.deploy.test_kubernetes import EXAMPLES

Objects = list[dict[str, Any]]
Mistake = Callable[[Objects], None]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_rendered_is_what_the_sources_say(overlay: str) -> None:
    assert hash_of(overlay) == of_sources(), "run `make manifests`"


def test_topics_users_and_alerts_are_those_of_the_code() -> None:
    for path, text in written().items():
        assert path.read_text(encoding="utf-8") == text, "run `make manifests`"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_user_may_add_partitions_where_its_service_does_and_nowhere_else(overlay: str) -> None:
    """A relay without `Alter` publishes by the former count for ever."""
    users = of(rendered(overlay), "KafkaUser")
    may = {
        (each["metadata"]["name"], rule["resource"]["name"])
        for each in users
        for rule in each["spec"]["authorization"]["acls"]
        if {"Alter", "All"} & set(rule["operations"])
    }
    services = {service for topic in TOPICS for service in (topic.owner, *topic.consumers, *topic.publishers)}
    adds = {(f"kafka-{each}", topic.name) for each in services for topic in published_by(each)}
    assert may == (adds if users else set())
    assert len(adds) == 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_no_fault(overlay: str) -> None:
    assert faults(rendered(overlay)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_of_an_overlay_starts_with_what_it_is_told(overlay: str, started: Started) -> None:
    objects = rendered(overlay)
    for each in of(objects, "Deployment"):
        told = variables(objects, each)
        for source in container_of(each)["envFrom"]:
            if "secretRef" in source:
                told |= {key: EXAMPLES[key] for key in made_secrets(objects)[source["secretRef"]["name"]]}
        told |= {key["name"]: "0123456789abcdef" for key in container_of(each)["env"] if "valueFrom" in key}
        told |= {"PLACET_DATABASE_URL": EXAMPLES["PLACET_DATABASE_URL"], "PLACET_KAFKA_CA_FILE": __file__}
        settings = started(
            service_of(each), {name: value for name, value in told.items() if name.startswith("PLACET_")}
        )
        assert settings.kafka_tls
        assert not settings.fictional_numbers


def test_small_and_dev_run_one_of_each() -> None:
    for overlay in ("small", "dev"):
        objects = rendered(overlay)
        assert {each["spec"]["replicas"] for each in of(objects, "Deployment", "KafkaNodePool")} == {1}
        assert [each["spec"]["instances"] for each in of(objects, "Cluster")] == [1]


def test_the_way_of_a_stop_outlives_marketing_on_a_crowded_cluster() -> None:
    objects = rendered("production")
    values = {name: each["value"] for name, each in named(objects, "PriorityClass").items()}
    of_pods = {
        name: values[pod_of(each)["spec"]["priorityClassName"]] for name, each in named(objects, "Deployment").items()
    }
    way = {"inbound-api", "inbound-relay", "consent-worker", "consent-relay", "dispatch-projection"}
    assert min(of_pods[name] for name in way) > max(of_pods[name] for name in ("dispatch-worker", "campaign-worker"))


def test_what_is_public_is_what_operators_and_people_open() -> None:
    routes = named(rendered("production"), "HTTPRoute").values()
    paths = {match["path"]["value"] for route in routes for rule in route["spec"]["rules"] for match in rule["matches"]}
    assert paths == {"/v1/callbacks", "/p", "/c", "/s", "/m", "/l"}


def test_a_migration_runs_again_at_each_sync_and_before_the_services() -> None:
    objects = rendered("production")
    for job in of(objects, "Job"):
        told = job["metadata"]["annotations"]
        assert told["argocd.argoproj.io/hook"] == "Sync"
        assert told["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
    waves = {
        each["metadata"]["name"]: int(each["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for each in of(objects, "Job", "Deployment")
    }
    assert all(
        waves[f"{name}-migrate"] < waves[f"{name}-relay"] < waves[f"{name}-api"] for name in ("consent", "dispatch")
    )


def the(objects: Objects, kind: str, name: str) -> Any:
    return named(objects, kind)[name]


def container(objects: Objects, name: str, kind: str = "Deployment") -> Any:
    return container_of(the(objects, kind, name))


def without(objects: Objects, kind: str, name: str) -> None:
    objects.remove(the(objects, kind, name))


def put(at: Any, key: Any, value: Any) -> None:
    at[key] = value


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "a Service of another component": (
        lambda o: put(the(o, "Service", "consent-api")["spec"]["selector"], "app.kubernetes.io/component", "web"),
        "Service consent-api selects no pod",
    ),
    "a budget of nobody": (
        lambda o: put(the(o, "PodDisruptionBudget", "consent-api")["spec"]["selector"], "matchLabels", {"a": "b"}),
        "PodDisruptionBudget consent-api selects no pod",
    ),
    "a policy of nobody": (
        lambda o: put(
            the(o, "NetworkPolicy", "gateways")["spec"]["podSelector"]["matchLabels"], "app.kubernetes.io/name", "x"
        ),
        "NetworkPolicy gateways selects no pod",
    ),
    "a probe of another port": (
        lambda o: put(container(o, "dispatch-api")["readinessProbe"]["httpGet"], "port", "web"),
        "dispatch-api: readinessProbe",
    ),
    "a probe of another path": (
        lambda o: put(container(o, "dispatch-api")["livenessProbe"]["httpGet"], "path", "/health"),
        "dispatch-api: livenessProbe",
    ),
    "a Service to another port": (
        lambda o: put(the(o, "Service", "inbound-api")["spec"]["ports"][0], "targetPort", "web"),
        "Service inbound-api leads to no port",
    ),
    "a scrape of another port": (
        lambda o: put(the(o, "PodMonitor", "placet")["spec"]["podMetricsEndpoints"][0], "port", "metrics"),
        "the PodMonitor scrapes no port",
    ),
    "a role that is not scraped": (
        lambda o: the(o, "PodMonitor", "placet")["spec"]["selector"]["matchExpressions"][0]["values"].remove("relay"),
        "is scraped by 0 PodMonitors",
    ),
    "a route to no Service": (
        lambda o: put(the(o, "HTTPRoute", "pages")["spec"]["rules"][0]["backendRefs"][0], "name", "consent-page"),
        "HTTPRoute pages leads to no Service",
    ),
    "a route to another port": (
        lambda o: put(the(o, "HTTPRoute", "pages")["spec"]["rules"][0]["backendRefs"][0], "port", 8000),
        "HTTPRoute pages leads to no Service",
    ),
    "a ConfigMap of another name": (
        lambda o: put(container(o, "consent-api")["envFrom"][0]["configMapRef"], "name", "placet-old"),
        "consent-api reads no ConfigMap",
    ),
    "a Secret of another name": (
        lambda o: put(container(o, "consent-api")["envFrom"][2]["secretRef"], "name", "keys"),
        "consent-api reads no Secret",
    ),
    "a key of a Secret that is not there": (
        lambda o: put(container(o, "consent-api")["env"][0]["valueFrom"]["secretKeyRef"], "key", "url"),
        "consent-api reads no key of a Secret",
    ),
    "a volume of another Secret": (
        lambda o: put(
            the(o, "Deployment", "consent-api")["spec"]["template"]["spec"]["volumes"][0]["secret"], "secretName", "ca"
        ),
        "consent-api mounts no Secret",
    ),
    "a misspelt setting": (
        lambda o: container(o, "consent-api")["env"].append({"name": "PLACET_PARTITONS", "value": "12"}),
        "consent-api is told what consent-svc does not read",
    ),
    "a setting of another service": (
        lambda o: container(o, "consent-api")["env"].append({"name": "PLACET_GATEWAYS", "value": "[]"}),
        "consent-api is told what consent-svc does not read",
    ),
    "service links": (
        lambda o: the(o, "Deployment", "consent-api")["spec"]["template"]["spec"].pop("enableServiceLinks"),
        "consent-api has service links",
    ),
    "a secret that nothing reads": (
        lambda o: put(the(o, "ExternalSecret", "placet-keys")["spec"]["data"][0], "secretKey", "PLACET_KEY"),
        "ExternalSecret placet-keys has keys that nothing reads",
    ),
    "a listener of another port": (
        lambda o: put(the(o, "Kafka", "placet")["spec"]["kafka"]["listeners"][0], "port", 9094),
        "asks other brokers",
    ),
    "a user that is not there": (lambda o: without(o, "KafkaUser", "kafka-consent"), "has no KafkaUser"),
    "fewer brokers than replicas": (
        lambda o: put(the(o, "KafkaNodePool", "broker")["spec"], "replicas", 1),
        "has more replicas than there are brokers",
    ),
    "the database of another service": (
        lambda o: put(container(o, "consent-api")["env"][0]["valueFrom"]["secretKeyRef"], "name", "inbound-db"),
        "consent-api has the password of another service",
    ),
    "a service with the address of the owner": (
        lambda o: container(o, "consent-api")["env"].append(
            {"name": "PLACET_OWNER_URL", "valueFrom": {"secretKeyRef": {"name": "consent-db-app", "key": "uri"}}}
        ),
        "consent-api runs as the owner of its database",
    ),
    "a database that its service owns": (
        lambda o: put(the(o, "Cluster", "consent-db")["spec"]["bootstrap"]["initdb"], "owner", "consent"),
        "consent-migrate has the owner of another database",
    ),
    "a migration with keys": (
        lambda o: container(o, "consent-migrate", "Job")["envFrom"].append({"secretRef": {"name": "placet-keys"}}),
        "consent-migrate has keys",
    ),
    "a relay with keys": (
        lambda o: container(o, "consent-relay")["envFrom"].append({"secretRef": {"name": "placet-keys"}}),
        "consent-relay has keys of people",
    ),
    "no synchronous standby": (
        lambda o: the(o, "Cluster", "consent-db")["spec"]["postgresql"].pop("synchronous"),
        "consent-db loses commits at a failover",
    ),
    "no backup": (lambda o: without(o, "ScheduledBackup", "dispatch-db"), "dispatch-db has no backup"),
    "a scaler of nothing": (
        lambda o: put(the(o, "ScaledObject", "dispatch-worker")["spec"]["scaleTargetRef"], "name", "dispatch"),
        "ScaledObject dispatch-worker scales nothing",
    ),
    "a scaler by a metric that there is not": (
        lambda o: put(
            the(o, "ScaledObject", "dispatch-worker")["spec"]["triggers"][0]["metadata"], "query", "sms_lag_records"
        ),
        "asks a metric that there is not: sms_lag_records",
    ),
    "a scaler by a label that there is not": (
        lambda o: put(
            the(o, "ScaledObject", "dispatch-worker")["spec"]["triggers"][0]["metadata"],
            "query",
            'sum(sms_consumer_lag_records{group="dispatch"})',
        ),
        "for labels that it has not: group",
    ),
    "more replicas than partitions": (
        lambda o: put(the(o, "ScaledObject", "dispatch-worker")["spec"], "maxReplicaCount", 24),
        "makes more replicas than there are partitions",
    ),
    "a scaler down to nothing": (
        lambda o: put(the(o, "ScaledObject", "consent-worker")["spec"], "minReplicaCount", 0),
        "ScaledObject consent-worker leaves no spare",
    ),
    "a wait that KEDA does not read": (
        lambda o: put(the(o, "ScaledObject", "dispatch-worker")["spec"], "cooldownPeriod", 600),
        "KEDA does not read its cooldownPeriod",
    ),
    "a scaled Deployment with replicas": (
        lambda o: put(the(o, "Deployment", "dispatch-worker")["spec"], "replicas", 2),
        "each apply resets its replicas",
    ),
    "an alert on a metric that there is not": (
        lambda o: put(
            the(o, "PrometheusRule", "placet")["spec"]["groups"][0]["rules"][0], "expr", "sms_stop_seconds > 3"
        ),
        "asks a metric that there is not: sms_stop_seconds",
    ),
    "a priority that there is not": (lambda o: without(o, "PriorityClass", "placet-stop"), "has no PriorityClass"),
    "the newest image": (
        lambda o: put(container(o, "inbound-relay"), "image", "placet/inbound:latest"),
        "inbound-relay has no image of a version",
    ),
    "the image of another service": (
        lambda o: put(container(o, "inbound-relay"), "image", "placet/consent:0.1.0"),
        "inbound-relay has the image of another service",
    ),
    "a container that runs as root": (
        lambda o: put(the(o, "Deployment", "inbound-api")["spec"]["template"]["spec"], "securityContext", {}),
        "inbound-api may more than the namespace allows",
    ),
    "a file system that can be written": (
        lambda o: put(container(o, "inbound-api")["securityContext"], "readOnlyRootFilesystem", False),
        "inbound-api may more than the namespace allows",
    ),
    "a token of the API server": (
        lambda o: the(o, "Deployment", "inbound-api")["spec"]["template"]["spec"].pop("automountServiceAccountToken"),
        "inbound-api gets a token",
    ),
    "a spread by a key that is chosen already": (
        lambda o: put(
            pod_of(the(o, "Deployment", "inbound-api"))["spec"]["topologySpreadConstraints"][0],
            "matchLabelKeys",
            ["app.kubernetes.io/component"],
        ),
        "inbound-api is spread by a key twice",
    ),
    "no limit of memory": (
        lambda o: container(o, "inbound-api")["resources"].pop("limits"),
        "inbound-api has no limit of memory",
    ),
}


@pytest.mark.parametrize(("mistake", "said"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_found(mistake: Mistake, said: str) -> None:
    objects = copy.deepcopy(rendered("production"))
    mistake(objects)
    found = faults(objects)
    assert any(said in fault for fault in found), found
