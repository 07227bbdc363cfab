"""A real API server takes every object of every overlay, and refuses the mistakes that no schema knows."""

import copy
import re
from collections import Counter
from collections.abc import Callable

import pytest

from tests.contract.manifests import OVERLAYS, rendered
from tests.kubernetes.cluster import NAMESPACE, Cluster, Json
from tests.unit.deploy.overlays import Object, named, of

pytestmark = pytest.mark.timeout(600)

APPLIED = re.compile(r"^\S+/\S+ ([\w-]+)", re.MULTILINE)


@pytest.mark.parametrize("way", [(), ("--server-side",)], ids=["by the client", "by the server"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_dry_run_takes_every_object(cluster: Cluster, overlay: str, way: tuple[str, ...]) -> None:
    objects = rendered(overlay)
    said = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", *way, "--filename=-", given=objects)
    assert len(APPLIED.findall(said)) == len(objects), said


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_applied_and_applied_again_without_a_new_pod(fresh: Cluster, overlay: str) -> None:
    objects = rendered(overlay)
    said = fresh.kubectl("apply", "--filename=-", given=objects)
    assert Counter(APPLIED.findall(said)) == {"created": len(objects) - 1, "configured": 1}, said  # the namespace
    before = generations(fresh)
    again = fresh.kubectl("apply", "--filename=-", given=objects)
    assert "created" not in APPLIED.findall(again), again
    assert generations(fresh) == before


def generations(cluster: Cluster) -> dict[str, int]:
    """Return how often each Deployment's and each Job's specification has changed."""
    found = cluster.objects("deployments,jobs", f"--namespace={NAMESPACE}")
    return {f"{each['kind']} {each['metadata']['name']}": each["metadata"]["generation"] for each in found}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_admits_each_pod(fresh: Cluster, overlay: str) -> None:
    objects = rendered(overlay)
    if classes := of(objects, "PriorityClass"):
        fresh.kubectl("create", "--filename=-", given=[dict(each) for each in classes])
    pods = [pod_of_the(each) for each in of(objects, "Deployment", "Job")]
    said = fresh.kubectl("create", "--dry-run=server", "--filename=-", given=pods)
    assert len(APPLIED.findall(said)) == len(pods) > 0, said


def pod_of_the(workload: Object) -> Json:
    """Return the pod that a controller makes of a workload."""
    template: Json = copy.deepcopy(workload["spec"]["template"])
    metadata = {**template["metadata"], "name": workload["metadata"]["name"], "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


Mistake = Callable[[list[Json]], Json]


def broken(kind: str, name: str, change: Callable[[Json], object]) -> Mistake:
    def apply(objects: list[Json]) -> Json:
        found: Json = copy.deepcopy(dict(named(objects, kind)[name]))
        change(found)
        return found

    return apply


def pod(workload: Json) -> Json:
    found: Json = workload["spec"]["template"]["spec"]
    return found


def put(at: Json, key: str, value: object) -> None:
    at[key] = value


# What Kubernetes or an operator's own rules refuse, and a schema takes
REFUSED: dict[str, tuple[Mistake, str]] = {
    "a limit below the request": (
        broken(
            "Deployment", "consent-api", lambda d: put(pod(d)["containers"][0]["resources"]["limits"], "memory", "64Mi")
        ),
        "must be less than or equal to memory limit",
    ),
    "labels that the selector does not choose": (
        broken("Deployment", "consent-api", lambda d: d["spec"]["template"]["metadata"]["labels"].clear()),
        "`selector` does not match template `labels`",
    ),
    "a Job that restarts for ever": (
        broken("Job", "consent-migrate", lambda d: put(pod(d), "restartPolicy", "Always")),
        "Required value: valid values",
    ),
    "a probe of no port": (
        broken(
            "Deployment",
            "consent-api",
            lambda d: put(pod(d)["containers"][0]["livenessProbe"]["httpGet"], "port", "the health of it"),
        ),
        "livenessProbe.httpGet.port",
    ),
    "an API with two ports of one name": (
        broken("Service", "consent-api", lambda d: d["spec"]["ports"].append({"name": "http", "port": 81})),
        "Duplicate value",
    ),
    "a budget of both kinds": (
        broken("PodDisruptionBudget", "consent-api", lambda d: put(d["spec"], "minAvailable", 1)),
        "minAvailable and maxUnavailable cannot be both set",
    ),
    "a scaler whose least is above its most": (
        broken("HorizontalPodAutoscaler", "consent-api", lambda d: put(d["spec"], "minReplicas", 9)),
        "must be greater than or equal to `minReplicas`",
    ),
    "a policy of no port": (
        broken("NetworkPolicy", "traces", lambda d: put(d["spec"]["egress"][0]["ports"][0], "port", 70000)),
        "must be between 1 and 65535",
    ),
    "a policy of no direction": (
        broken("NetworkPolicy", "traces", lambda d: put(d["spec"], "policyTypes", ["Out"])),
        "Unsupported value",
    ),
    "a priority of the system's": (
        broken("PriorityClass", "placet-stop", lambda d: put(d, "value", 2_000_000_000)),
        "maximum allowed value of a user defined priority",
    ),
    "a setting under a name with a space": (
        broken("ConfigMap", "placet-dashboards", lambda d: put(d, "data", {"a name": "{}"})),
        "a valid config key",
    ),
    "a route whose parts take longer than the whole": (
        broken(
            "HTTPRoute",
            "pages",
            lambda d: put(d["spec"]["rules"][0]["timeouts"], "backendRequest", "30s"),
        ),
        "backendRequest timeout cannot be longer than request timeout",
    ),
}


@pytest.mark.parametrize(("mistake", "said"), REFUSED.values(), ids=list(REFUSED))
def test_a_mistake_is_refused(cluster: Cluster, mistake: Mistake, said: str) -> None:
    told = cluster.tried("apply", "--dry-run=server", "--filename=-", given=[mistake(rendered("production"))])
    assert told.returncode != 0
    assert said in told.stderr, told.stderr


# What the label `restricted` of the namespace refuses
UNSAFE: dict[str, tuple[Callable[[Json], object], str]] = {
    "root": (lambda spec: put(spec["securityContext"], "runAsNonRoot", False), "runAsNonRoot != true"),
    "no filter of system calls": (lambda spec: spec["securityContext"].pop("seccompProfile"), "seccompProfile"),
    "more rights later": (
        lambda spec: put(spec["containers"][0]["securityContext"], "allowPrivilegeEscalation", True),
        "allowPrivilegeEscalation != false",
    ),
    "capabilities": (
        lambda spec: put(spec["containers"][0]["securityContext"], "capabilities", {"add": ["NET_ADMIN"]}),
        "unrestricted capabilities",
    ),
    "a folder of the node": (
        lambda spec: spec["volumes"].append({"name": "node", "hostPath": {"path": "/"}}),
        "restricted volume types",
    ),
    "the network of the node": (lambda spec: put(spec, "hostNetwork", True), "host namespaces"),
}


@pytest.mark.parametrize(("change", "said"), UNSAFE.values(), ids=list(UNSAFE))
def test_the_namespace_admits_no_pod_that_may_more(
    cluster: Cluster, change: Callable[[Json], object], said: str
) -> None:
    one = pod_of_the(named(rendered("dev"), "Deployment")["inbound-relay"])
    cluster.kubectl("create", "--dry-run=server", "--filename=-", given=[one])
    change(one["spec"])
    told = cluster.tried("create", "--dry-run=server", "--filename=-", given=[one])
    assert told.returncode != 0
    assert "violates PodSecurity" in told.stderr
    assert said in told.stderr


def test_a_pod_that_is_spread_by_a_key_twice_is_refused_and_its_deployment_is_not(cluster: Cluster) -> None:
    """So `kubectl apply` says nothing, and no pod comes: `make check` looks for such a key."""
    deployment = copy.deepcopy(dict(named(rendered("dev"), "Deployment")["inbound-relay"]))
    pod(deployment)["topologySpreadConstraints"][0]["matchLabelKeys"] = ["app.kubernetes.io/component"]
    cluster.kubectl("apply", "--dry-run=server", "--filename=-", given=[deployment])
    told = cluster.tried("create", "--dry-run=server", "--filename=-", given=[pod_of_the(deployment)])
    assert told.returncode != 0
    assert "exists in both matchLabelKeys and labelSelector" in told.stderr


def test_a_label_that_a_deployment_chose_its_pods_by_cannot_change(fresh: Cluster) -> None:
    """So a release that renames one cannot be applied over the one before: it would have to say so."""
    [relay] = [each for each in of(rendered("dev"), "Deployment") if each["metadata"]["name"] == "consent-relay"]
    fresh.kubectl("apply", "--filename=-", given=[dict(relay)])
    renamed = copy.deepcopy(dict(relay))
    for labels in (renamed["spec"]["selector"]["matchLabels"], renamed["spec"]["template"]["metadata"]["labels"]):
        labels["app.kubernetes.io/name"] = "consents"
    told = fresh.tried("apply", "--filename=-", given=[renamed])
    assert told.returncode != 0
    assert "field is immutable" in told.stderr
