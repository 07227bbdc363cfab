"""The faults of a rendered overlay: references to nothing, settings that no service reads, pods that may too much."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.contract.test_alerts import OF_THE_SCRAPER, SELECTED, known
from tests.unit.deploy.deployed import PREFIX, SERVICES, secrets, unknown

Object = Mapping[str, Any]
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
WORKLOADS = ("Deployment", "Job")
OF_MIGRATION = ("Job", "PLACET_OWNER_URL")  # what a running service refuses
KEYS = re.compile(r"PLACET_(\w+_KEYS|GATEWAYS|PROVIDER_ACCOUNTS|OVH_SERVICES)")
OF_OPERATORS = ("strimzi.io/", "cnpg.io/")  # labels of pods that operators make
SCALING_LABELS = {"namespace"}  # of the scraper, beside `job`
RESTRICTED = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def of(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in of(objects, kind)}


def pod_of(workload: Object) -> Object:
    found: Object = workload["spec"]["template"]
    return found


def container_of(workload: Object) -> Object:
    (only,) = pod_of(workload)["spec"]["containers"]
    found: Object = only
    return found


def chosen(selector: Object, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector chooses these labels."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        (labels.get(each["key"]) in each["values"]) if each["operator"] == "In" else each["key"] in labels
        for each in selector.get("matchExpressions", [])
    )


def faults(objects: Sequence[Object]) -> list[str]:
    """Return a sentence for each fault."""
    checks = (_selectors, _ports, _references, _settings, _kafka, _databases, _scalers, _alerts, _pods)
    return [fault for check in checks for fault in check(objects)]


def _selectors(objects: Sequence[Object]) -> Iterator[str]:
    pods = [pod_of(each)["metadata"]["labels"] for each in of(objects, *WORKLOADS)]
    for each in of(objects, "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "Deployment"):
        spec = each["spec"]
        selector = spec.get("podSelector") if each["kind"] == "NetworkPolicy" else spec["selector"]
        if each["kind"] == "Service":
            selector = {"matchLabels": selector}
        keys = [*selector.get("matchLabels", {}), *(one["key"] for one in selector.get("matchExpressions", []))]
        if not any(key.startswith(OF_OPERATORS) for key in keys) and not any(chosen(selector, pod) for pod in pods):
            yield f"{each['kind']} {each['metadata']['name']} selects no pod"
    for each in of(objects, "Deployment"):
        if not chosen(each["spec"]["selector"], pod_of(each)["metadata"]["labels"]):
            yield f"Deployment {each['metadata']['name']} does not select its own pods"


def _ports(objects: Sequence[Object]) -> Iterator[str]:
    services = named(objects, "Service")
    for each in of(objects, "Deployment"):
        container, name = container_of(each), each["metadata"]["name"]
        there = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container.get(probe, {}).get("httpGet", {})
            if asked.get("port") not in there or asked.get("path") not in ("/livez", "/readyz"):
                yield f"{name}: {probe} asks no port and path of the container"
        monitors = [
            one
            for one in of(objects, "PodMonitor")
            if chosen(one["spec"]["selector"], pod_of(each)["metadata"]["labels"])
        ]
        if of(objects, "PodMonitor") and len(monitors) != 1:
            yield f"{name} is scraped by {len(monitors)} PodMonitors"
        for monitor in monitors:
            if {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} - there:
                yield f"{name}: the PodMonitor scrapes no port of the container"
        for service in services.values():
            leads = chosen({"matchLabels": service["spec"]["selector"]}, pod_of(each)["metadata"]["labels"])
            if leads and {one["targetPort"] for one in service["spec"]["ports"]} - there:
                yield f"Service {service['metadata']['name']} leads to no port of {name}"
    for route in of(objects, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = services.get(backend["name"], {"spec": {"ports": []}})
                if backend["port"] not in {one["port"] for one in service["spec"]["ports"]}:
                    yield f"HTTPRoute {route['metadata']['name']} leads to no Service: {backend['name']}"


def made_secrets(objects: Sequence[Object]) -> dict[str, set[str]]:
    """Return the Secrets that there will be, with their keys: of the README, or made by an operator."""
    found = {name: set(keys) for name, keys in secrets().items()}
    found |= {name: {"password"} for name, each in named(objects, "KafkaUser").items()}
    found |= {f"{name}-app": {"uri"} for name in named(objects, "Cluster")}  # of the owner of the database
    found |= {f"{name}-cluster-ca-cert": {"ca.crt"} for name in named(objects, "Kafka")}
    for cluster in of(objects, "Cluster"):
        for role in cluster["spec"].get("managed", {}).get("roles", []):
            found[role["passwordSecret"]["name"]] = {"username", "password"}
    return found


def _references(objects: Sequence[Object]) -> Iterator[str]:
    maps, kept, classes = named(objects, "ConfigMap"), made_secrets(objects), named(objects, "PriorityClass")
    for each in of(objects, *WORKLOADS):
        name, pod, container = each["metadata"]["name"], pod_of(each)["spec"], container_of(each)
        for source in container["envFrom"]:
            if "configMapRef" in source and source["configMapRef"]["name"] not in maps:
                yield f"{name} reads no ConfigMap: {source['configMapRef']['name']}"
            if "secretRef" in source and source["secretRef"]["name"] not in kept:
                yield f"{name} reads no Secret: {source['secretRef']['name']}"
        for variable in container.get("env", []):
            key = variable.get("valueFrom", {}).get("secretKeyRef")
            if key is not None and key["key"] not in kept.get(key["name"], ()):
                yield f"{name} reads no key of a Secret: {key['name']}/{key['key']}"
        for volume in pod.get("volumes", []):
            if volume["secret"]["secretName"] not in kept:
                yield f"{name} mounts no Secret: {volume['secret']['secretName']}"
        if pod.get("priorityClassName", next(iter(classes), None)) not in {*classes, None}:
            yield f"{name} has no PriorityClass: {pod['priorityClassName']}"
    for each in of(objects, "ExternalSecret"):
        name = each["spec"]["target"]["name"]
        if stray := {one["secretKey"] for one in each["spec"]["data"]} - kept.get(name, set()):
            yield f"ExternalSecret {name} has keys that nothing reads: {', '.join(sorted(stray))}"


def service_of(workload: Object) -> str:
    found: str = pod_of(workload)["metadata"]["labels"][NAME]
    return found


def variables(objects: Sequence[Object], workload: Object) -> dict[str, str]:
    """Return the variables of a pod whose values are not secret, as Kubernetes lays them over each other."""
    maps, container = named(objects, "ConfigMap"), container_of(workload)
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            found |= maps.get(source["configMapRef"]["name"], {}).get("data") or {}
    return found | {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def _settings(objects: Sequence[Object]) -> Iterator[str]:
    for each in of(objects, *WORKLOADS):
        container, service = container_of(each), service_of(each)
        told = {*variables(objects, each), *(one["name"] for one in container.get("env", []))}
        for source in container["envFrom"]:
            if "secretRef" in source:
                told |= made_secrets(objects).get(source["secretRef"]["name"], set())
        names = (name for name in told if name.startswith(PREFIX) and (each["kind"], name) != OF_MIGRATION)
        if stray := unknown(service, names):
            yield f"{each['metadata']['name']} is told what {service}-svc does not read: {', '.join(sorted(stray))}"
        if each["spec"]["template"]["spec"].get("enableServiceLinks") is not False:
            yield f"{each['metadata']['name']} has service links: a Service placet-x becomes an unknown setting"


def _kafka(objects: Sequence[Object]) -> Iterator[str]:
    for kafka in of(objects, "Kafka"):
        (listener,) = kafka["spec"]["kafka"]["listeners"]
        replicas = sum(pool["spec"]["replicas"] for pool in of(objects, "KafkaNodePool"))
        address = f"{kafka['metadata']['name']}-kafka-bootstrap:{listener['port']}"
        policy = named(objects, "NetworkPolicy")["kafka"]["spec"]["egress"][0]["ports"]
        if [one["port"] for one in policy] != [listener["port"]]:
            yield "the NetworkPolicy kafka opens another port than the listener's"
        for topic in of(objects, "KafkaTopic"):
            if topic["spec"]["replicas"] > replicas:
                yield f"KafkaTopic {topic['metadata']['name']} has more replicas than there are brokers"
        for each in of(objects, "Deployment"):
            told, service, name = variables(objects, each), service_of(each), each["metadata"]["name"]
            if told.get("PLACET_KAFKA_BOOTSTRAP") != address:
                yield f"{name} asks other brokers than {address}"
            if (
                told.get("PLACET_KAFKA_USER") not in named(objects, "KafkaUser")
                or service not in told["PLACET_KAFKA_USER"]
            ):
                yield f"{name} has no KafkaUser of its service"
            if int(told.get("PLACET_KAFKA_REPLICATION", "3")) > replicas:
                yield f"{name} wants more replicas than there are brokers"


def _databases(objects: Sequence[Object]) -> Iterator[str]:
    clusters = named(objects, "Cluster")
    for each in of(objects, *WORKLOADS):
        service, name = service_of(each), each["metadata"]["name"]
        told = {one["name"]: one for one in container_of(each)["env"]}
        address = re.fullmatch(
            r"postgresql://(\w+):\$\(DATABASE_PASSWORD\)@([\w-]+)-rw:5432/(\w+)", told["PLACET_DATABASE_URL"]["value"]
        )
        if address is None or address[2] not in clusters or not address[1] == address[3] == service:
            yield f"{name} has no database of its own"
        elif told["DATABASE_PASSWORD"]["valueFrom"]["secretKeyRef"]["name"] != f"{service}-db":
            yield f"{name} has the password of another service"
        owner = told.get("PLACET_OWNER_URL", {})
        if ("PLACET_OWNER_URL" in told) != (each["kind"] == "Job"):
            yield f"{name} runs as the owner of its database, or migrates as none"
        elif owner and owner != _owner_of(objects, service):
            yield f"{name} has the owner of another database"
        secret = {source["secretRef"]["name"] for source in container_of(each)["envFrom"] if "secretRef" in source}
        keys = {key for one in secret for key in made_secrets(objects).get(one, ())}
        if each["kind"] == "Job" and any(map(KEYS.fullmatch, keys)):
            yield f"{name} has keys, which no migration reads"
        if variables(objects, each).get("PLACET_ROLES") == "relay" and "placet-keys" in secret:
            yield f"{name} has keys of people, which no relay reads"
    if len(clusters) > 1:
        for service in ("consent", "dispatch"):  # an acknowledged opt-out and a hand-off survive a failover
            cluster = clusters[f"{service}-db"]["spec"]
            if (
                cluster["postgresql"].get("synchronous", {}).get("dataDurability") != "required"
                or cluster["instances"] < 3
            ):
                yield f"{service}-db loses commits at a failover"
        backed_up = {each["spec"]["cluster"]["name"] for each in of(objects, "ScheduledBackup")}
        yield from (f"{name} has no backup" for name in clusters if name not in backed_up)


def _owner_of(objects: Sequence[Object], service: str) -> Object:
    """Return the variable with the address of the role that owns a service's database, and is not the service's."""
    for each in of(objects, "Database"):
        spec = each["spec"]
        if spec["name"] == service and spec["owner"] != service:
            value = f"postgresql://{spec['owner']}:$(OWNER_PASSWORD)@{spec['cluster']['name']}-rw:5432/{service}"
            return {"name": "PLACET_OWNER_URL", "value": value}
    begun = named(objects, "Cluster").get(f"{service}-db", {"spec": {}})["spec"].get("bootstrap", {}).get("initdb", {})
    if begun.get("owner") in (None, service):
        return {}
    of_cluster = {"secretKeyRef": {"key": "uri", "name": f"{service}-db-app"}}
    return {"name": "PLACET_OWNER_URL", "valueFrom": of_cluster}


def _scalers(objects: Sequence[Object]) -> Iterator[str]:
    deployments, scaled = named(objects, "Deployment"), []
    for each in of(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        spec, name = each["spec"], each["metadata"]["name"]
        target = deployments.get(spec["scaleTargetRef"]["name"])
        if target is None:
            yield f"{each['kind']} {name} scales nothing"
            continue
        scaled.append(spec["scaleTargetRef"]["name"])
        if "replicas" in target["spec"]:
            yield f"{name} is scaled, and each apply resets its replicas"
        least = spec.get("minReplicas", spec.get("minReplicaCount", 0))
        if least < 2:
            yield f"{each['kind']} {name} leaves no spare"
        if each["kind"] == "ScaledObject":
            if least > 0 and (unread := {"cooldownPeriod", "initialCooldownPeriod"} & spec.keys()):
                yield f"ScaledObject {name} never scales to zero, so KEDA does not read its {', '.join(sorted(unread))}"
            if spec["maxReplicaCount"] > int(variables(objects, target)["PLACET_PARTITIONS"]):
                yield f"ScaledObject {name} makes more replicas than there are partitions"
            for trigger in spec["triggers"]:
                yield from (f"ScaledObject {name} {said}" for said in _asked(trigger["metadata"]["query"]))
    yield from (f"{name} is scaled twice" for name in set(scaled) if scaled.count(name) > 1)


def _asked(query: str) -> Iterator[str]:
    """Yield what a query asks that no metric answers."""
    metrics, found = known(), SELECTED.findall(query)
    if not found:
        yield "asks no metric of ours"
    for metric, inside in found:
        labels = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", inside))
        if metric not in metrics:
            yield f"asks a metric that there is not: {metric}"
        elif stray := labels - metrics[metric] - OF_THE_SCRAPER - SCALING_LABELS:
            yield f"asks {metric} for labels that it has not: {', '.join(sorted(stray))}"


def _alerts(objects: Sequence[Object]) -> Iterator[str]:
    for each in of(objects, "PrometheusRule"):
        for rule in (rule for group in each["spec"]["groups"] for rule in group["rules"]):
            asked = [metric for metric, _ in SELECTED.findall(rule["expr"])]
            if not asked:
                yield f"{rule['alert']} asks no metric"
            yield from (
                f"{rule['alert']} asks a metric that there is not: {one}" for one in asked if one not in known()
            )
            if not rule["annotations"]["runbook_url"].startswith("https://"):
                yield f"{rule['alert']} leads to no runbook"


def _pods(objects: Sequence[Object]) -> Iterator[str]:
    for each in of(objects, *WORKLOADS):
        name, pod, container = each["metadata"]["name"], pod_of(each)["spec"], container_of(each)
        if not re.fullmatch(rf"placet/({'|'.join(SERVICES)}):\d+\.\d+\.\d+", container["image"]):
            yield f"{name} has no image of a version: {container['image']}"
        elif service_of(each) not in container["image"]:
            yield f"{name} has the image of another service"
        if pod.get("securityContext") != RESTRICTED or container.get("securityContext") != HARDENED:
            yield f"{name} may more than the namespace allows"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name} gets a token of the API server"
        if "memory" not in container["resources"].get("limits", {}):
            yield f"{name} has no limit of memory"
        for spread in pod.get("topologySpreadConstraints", []):
            selector = spread["labelSelector"]
            keys = {*selector.get("matchLabels", {}), *(one["key"] for one in selector.get("matchExpressions", []))}
            if keys & {*spread.get("matchLabelKeys", [])}:  # an API server refuses the pod
                yield f"{name} is spread by a key twice: matchLabelKeys and labelSelector"
