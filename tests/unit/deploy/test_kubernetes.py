"""deploy/k8s/base says what the services read, and asks of a pod what the platform needs to keep its promises."""

import dataclasses
import json
import re
import tomllib
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from common.contracts import TOPICS
from common.service import Service
from common.web.server import ARRIVAL_S, GRACE_S
from dispatch.service import Settings as DispatchSettings
from inbound.service import Settings as InboundSettings
from tests.unit.deploy.conftest import Started
from tests.unit.deploy.deployed import (
    BASE,
    BUILD,
    KEEPING_HOURS,
    PREFIX,
    ROLES,
    SERVICES,
    SETTINGS,
    documents,
    env_file,
    pods,
    secrets,
    template,
    text,
    unknown,
)

POLICIES = {d["metadata"]["name"]: d["spec"] for d in documents(BASE / "network.yaml")}
PODS = dict(pods())
RING = json.dumps({"current": "k1", "keys": {"k1": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}})
SUBJECT_RING = json.dumps({**json.loads(RING), "outer": json.loads(RING.replace("k1", "o1"))})
EXAMPLES = {
    "PLACET_SUBJECT_KEYS": SUBJECT_RING,
    "PLACET_FIELD_KEYS": RING,
    "PLACET_SIGNING_KEYS": RING,
    "PLACET_OWNER_URL": "postgresql://owner:password@postgres.example.internal:5432/database",
    "PLACET_DATABASE_URL": "postgresql://role:password@postgres.example.internal:5432/database",
    "PLACET_GATEWAYS": json.dumps([{"provider": "twilio", "user": "an account", "secret": "a token"}]),
    "PLACET_PROVIDER_ACCOUNTS": "[]",
    "PLACET_OVH_SERVICES": "[]",
}
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=list(PODS))


def kustomization(folder: str = ".") -> dict[str, Any]:
    (read,) = documents(BASE / folder / "kustomization.yaml")
    return read


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


def config(service: str) -> dict[str, str]:
    return env_file(BASE / "placet.env") | env_file(BASE / service / "settings.env")


def selects(policy: str, **labels: str) -> bool:
    selector = POLICIES[policy]["podSelector"]
    known = {f"app.kubernetes.io/{name}": value for name, value in labels.items()}
    return all(known.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        known.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
    )


def left_out(service: str) -> list[dict[str, str]]:
    return [
        patch["target"] for patch in kustomization(service)["patches"] if patch["patch"].startswith("$patch: delete")
    ]


def ports(policy: str, direction: str) -> set[int | str]:
    return {port["port"] for rule in POLICIES[policy].get(direction, []) for port in rule["ports"]}


def test_every_file_is_named_by_a_kustomization() -> None:
    assert set(kustomization()["resources"]) == {"namespace.yaml", "network.yaml", *SERVICES}
    assert set(kustomization("service")["resources"]) == {"migrate.yaml", *(f"{role}.yaml" for role in ROLES)}
    files = {str(path.relative_to(BASE)) for path in BASE.rglob("*") if path.is_file()}
    named = {"kustomization.yaml", "service/kustomization.yaml", "placet.env", "namespace.yaml", "network.yaml"}
    named |= {f"service/{name}" for name in kustomization("service")["resources"]}
    named |= {f"{service}/{name}" for service in SERVICES for name in ("kustomization.yaml", "settings.env")}
    assert files == named


@pytest.mark.parametrize("service", SERVICES)
def test_the_services_differ_by_their_names_and_by_what_they_leave_out(service: str) -> None:
    common = (BASE / "dispatch" / "kustomization.yaml").read_text().replace("dispatch", service)
    assert (BASE / service / "kustomization.yaml").read_text().startswith(common)
    assert set(kustomization(service)) == set(kustomization("dispatch"))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_a_role_exactly_where_its_code_has_work_for_it(service: str, started: Started) -> None:
    secret = {key: EXAMPLES[key] for name in ("placet-keys", service) for key in secrets()[name]}
    built = BUILD[service](started(service, config(service) | secret))
    idle = {f.name: f.default for f in dataclasses.fields(Service)}
    roles = {"worker": "background", "projection": "projection"}
    without = [role for role, part in roles.items() if getattr(built, part) == idle[part]]
    assert left_out(service) == [{"kind": "Deployment|PodDisruptionBudget", "name": role} for role in without]


@pytest.mark.parametrize("service", SERVICES)
def test_the_image_is_of_this_version(service: str) -> None:
    version = tomllib.loads(text(f"services/{service}-svc/pyproject.toml"))["project"]["version"]
    assert kustomization(service)["images"] == [
        {"name": "placet/service", "newName": f"placet/{service}", "newTag": version}
    ]
    assert {container(pod)["image"] for pod in PODS.values()} == {"placet/service"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_starts_with_what_it_is_told_and_ignores_none_of_its_own(
    service: str, role: str, started: Started
) -> None:
    own = env_file(BASE / service / "settings.env")
    named = {s["secretRef"]["name"] for s in container(PODS[role])["envFrom"] if "secretRef" in s} | {service}
    secret = {key: EXAMPLES[key] for name in named for key in secrets()[name]}
    fixed = {e["name"]: e["value"] for e in container(PODS[role]).get("env", [])}
    assert unknown(service, own | secret | fixed | env_file(BASE / "placet.env")) == set()
    settings = started(service, config(service) | secret | fixed)
    assert settings.roles == {role}
    assert settings.keyless == (role == "relay")
    assert settings.auth_key is None
    assert not settings.fictional_numbers


@pytest.mark.parametrize("service", SERVICES)
def test_the_migration_alone_has_the_owner_and_no_key(service: str) -> None:
    of = {patch["target"]["kind"]: patch["patch"] for patch in kustomization(service)["patches"]}
    assert [re.findall(r"name: ([\w-]+)", of[kind]) for kind in ("Job", "Deployment")] == [
        [f"{service}-owner"],
        [service],
    ]
    assert not any("secretRef" in source for source in container(PODS["migrate"])["envFrom"])
    assert set(secrets()[f"{service}-owner"]) == {"PLACET_DATABASE_URL", "PLACET_OWNER_URL"}
    assert "PLACET_OWNER_URL" not in secrets()[service]


def test_the_secrets_that_are_read_are_those_the_readme_asks_for() -> None:
    read = {s["secretRef"]["name"] for pod in PODS.values() for s in container(pod)["envFrom"] if "secretRef" in s}
    for service in SERVICES:
        for each in kustomization(service)["patches"]:
            read |= set(re.findall(r"secretRef:\s+name: ([\w-]+)", each["patch"]))
    assert read == set(secrets()) == {"placet-keys", *SERVICES, *(f"{service}-owner" for service in SERVICES)}
    assert {key for keys in secrets().values() for key in keys} == set(EXAMPLES)


def test_with_databases_elsewhere_the_examples_bring_every_secret_that_the_readme_asks_for() -> None:
    made: dict[str, set[str]] = {}
    components = BASE.parent / "components"
    for example in ("secrets", "secrets-databases"):
        for each in documents(components / example / "secrets.yaml"):
            made.setdefault(each["spec"]["target"]["name"], set()).update(
                one["secretKey"] for one in each["spec"]["data"]
            )
    (added,) = documents(components / "secrets-databases" / "kustomization.yaml")
    for patch in added["patches"]:
        [one] = yaml.safe_load(patch["patch"])
        assert (one["op"], one["path"]) == ("add", "/spec/data/-")
        made[patch["target"]["name"]].add(one["value"]["secretKey"])
    of_one_provider = {"PLACET_OVH_SERVICES"}
    assert made == {name: keys.keys() - of_one_provider for name, keys in secrets().items()}


def test_messages_leave_by_the_gateways_of_the_secret_and_by_no_other(started: Started) -> None:
    secret = {key: EXAMPLES[key] for name in ("placet-keys", "dispatch") for key in secrets()[name]}
    settings = started("dispatch", config("dispatch") | secret)
    assert isinstance(settings, DispatchSettings)
    assert [gateway.name for gateway in settings.every_gateway] == ["twilio"]


@pytest.mark.parametrize("role", ROLES)
def test_without_a_gateway_nothing_of_dispatch_starts_and_it_says_why(role: str, started: Started) -> None:
    secret = {key: EXAMPLES[key] for name in ("placet-keys", "dispatch") for key in secrets()[name]}
    fixed = {e["name"]: e["value"] for e in container(PODS[role]).get("env", [])}
    del secret["PLACET_GATEWAYS"]
    with pytest.raises(ValidationError, match="there is no gateway: set PLACET_GATEWAYS"):
        started("dispatch", config("dispatch") | secret | fixed)


def test_the_providers_of_the_readme_are_taken_and_are_one_account(started: Started) -> None:
    told = {}
    for block in re.findall(r"```yaml\n(.*?)```", text("deploy/k8s/README.md"), re.DOTALL):
        for document in yaml.safe_load_all(block.replace("…", "0123456789abcdef")):
            if document.get("kind") == "Secret":
                told[document["metadata"]["name"]] = document["stringData"]
    assert {name: set(keys) for name, keys in told.items()} == {name: set(secrets()[name]) for name in told}
    keys = {key: EXAMPLES[key] for key in secrets()["placet-keys"]}
    sending = started("dispatch", config("dispatch") | keys | told["dispatch"])
    receiving = started("inbound", config("inbound") | keys | told["inbound"])
    assert isinstance(sending, DispatchSettings)
    assert isinstance(receiving, InboundSettings)
    [gateway], [account], [fetched] = sending.gateways, receiving.provider_accounts, receiving.ovh_services
    assert (gateway.provider, gateway.account) == (account.provider, account.account) == ("ovh", fetched.account)
    assert gateway.options["service"] == fetched.service


def test_a_route_of_the_readme_that_takes_a_part_of_the_path_off_tells_the_service() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", text("deploy/k8s/README.md"), re.DOTALL)
    routes = [each for block in blocks for each in yaml.safe_load_all(block) if each.get("kind") == "HTTPRoute"]
    rewriting = [rule for route in routes for rule in route["spec"]["rules"] if "filters" in rule]
    assert rewriting
    for rule in rewriting:
        [match] = rule["matches"]
        kinds = {each["type"]: each for each in rule["filters"]}
        assert kinds["URLRewrite"]["urlRewrite"]["path"]["replacePrefixMatch"] == "/"
        set_to = {
            each["name"]: each["value"] for each in kinds["RequestHeaderModifier"]["requestHeaderModifier"]["set"]
        }
        assert set_to == {"X-Forwarded-Prefix": match["path"]["value"]}


def test_no_file_holds_a_secret() -> None:
    for path in BASE.rglob("*.yaml"):
        assert all(document["kind"] != "Secret" for document in documents(path))
    for path in BASE.rglob("*.env"):
        assert set(env_file(path)).isdisjoint({*EXAMPLES, "PLACET_AUTH_KEY"})


def test_what_all_must_agree_on_is_said_once() -> None:
    shared = env_file(BASE / "placet.env")
    assert {"PLACET_PARTITIONS", "PLACET_KAFKA_REPLICATION", "PLACET_MAX_CLOCK_SKEW_S"} <= set(shared)
    for service in SERVICES:
        assert set(shared).isdisjoint(env_file(BASE / service / "settings.env"))
    assert {config(service)["PLACET_HOURS"] for service in KEEPING_HOURS} == {"france"}


def test_the_topics_have_many_divisors_and_survive_a_broker() -> None:
    shared = env_file(BASE / "placet.env")
    assert int(shared["PLACET_PARTITIONS"]) in (12, 24, 60)
    assert int(shared["PLACET_KAFKA_REPLICATION"]) >= 3


def test_whoever_publishes_a_topic_relays_and_whoever_reads_one_works_and_both_reach_kafka() -> None:
    for topic in TOPICS:
        assert topic.owner in SERVICES
        assert selects("kafka", name=topic.owner, component="relay")
        for consumer in topic.consumers:
            assert "worker" not in {target["name"] for target in left_out(consumer)}
            assert selects("kafka", name=consumer, component="worker")
    assert ports("kafka", "egress") == {9092}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_one_deployment_with_a_spare_and_a_budget(role: str) -> None:
    deployment, budget = template("Deployment", role), template("PodDisruptionBudget", role)
    label = {"app.kubernetes.io/component": role}
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["selector"]["matchLabels"] == label
    assert deployment["spec"]["template"]["metadata"]["labels"] == label
    assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": label}}
    assert container(PODS[role])["env"] == [{"name": f"{PREFIX}ROLES", "value": role}]


def test_only_the_routes_are_a_service() -> None:
    service = template("Service", "api")["spec"]
    assert service["selector"] == {"app.kubernetes.io/component": "api"}
    assert service["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_is_asked_whether_it_lives_and_whether_it_is_ready_where_it_listens(role: str) -> None:
    asked = container(PODS[role])
    assert asked["ports"] == [{"name": "http", "containerPort": 8000}, {"name": "health", "containerPort": 9000}]
    assert "PLACET_PORT=8000 PLACET_HEALTH_PORT=9000" in text("deploy/Dockerfile")
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert asked[probe]["httpGet"] == {"path": path, "port": "health"}
    assert asked["readinessProbe"]["timeoutSeconds"] > 2  # /readyz gives the database that long


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_is_given_the_time_it_takes_to_stop(service: str, role: str) -> None:
    leaving = container(PODS[role]).get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
    before_s = int(leaving["exec"]["command"][1])
    drain_s = float(config(service)["PLACET_DRAIN_S"])
    leave_s = SETTINGS[service].model_fields["leave_s"].default
    assert PODS[role]["terminationGracePeriodSeconds"] > before_s + leave_s + ARRIVAL_S + GRACE_S + drain_s


@each_pod
def test_a_pod_can_change_nothing_and_gain_nothing(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "a Service placet-x becomes the unknown setting PLACET_X_SERVICE_HOST"
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@each_pod
def test_a_pod_asks_for_what_it_takes_and_is_held_to_its_memory(pod: dict[str, Any]) -> None:
    resources = container(pod)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


def test_migrations_run_as_compose_runs_them() -> None:
    job = template("Job", "migrate")["spec"]
    assert container(PODS["migrate"])["args"] == ["migrate"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_nothing_passes_the_network_unless_it_is_named() -> None:
    assert POLICIES["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for role in ("migrate", *ROLES):
        assert selects("postgres", name="consent", component=role)
        assert selects("kafka", name="consent", component=role) == (role in ("worker", "projection", "relay"))
        assert selects("api", name="consent", component=role) == (role == "api")
    outside = {
        (service, role): policy
        for policy in ("gateways", "replies", "webhooks")
        for service in SERVICES
        for role in ROLES
        if selects(policy, name=service, component=role)
    }
    assert outside == {
        ("dispatch", "worker"): "gateways",
        ("dispatch", "projection"): "gateways",
        ("campaign", "projection"): "webhooks",
        ("inbound", "worker"): "replies",  # OVHcloud's are fetched
    }
    assert ports("gateways", "egress") == ports("replies", "egress") == ports("webhooks", "egress") == {443}
    assert ports("postgres", "egress") == {5432}
    assert ports("api", "ingress") == {"http"}
    assert ports("metrics", "ingress") == {"health"}


def test_the_namespace_refuses_pods_that_ask_for_more() -> None:
    (namespace,) = documents(BASE / "namespace.yaml")
    assert namespace["metadata"]["name"] == kustomization()["namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_each_service_takes_tokens_for_itself_alone() -> None:
    audiences = {service: env_file(BASE / service / "settings.env")["PLACET_AUTH_AUDIENCE"] for service in SERVICES}
    assert audiences == {service: f"placet-{service}" for service in SERVICES}
