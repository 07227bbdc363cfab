"""What scales a cluster, beside its API server: KEDA, Kubernetes' controllers, and a Prometheus that reads two pods.

A Deployment makes its pods here. No node runs them: a scaler by a metric of Prometheus counts them all the same.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import yaml

from common.kafka.reading.lag import LAG
from common.telemetry import exposed
from dispatch.projection.freshness import STALENESS
from stack.processes import end, free_port, tail, wait_until
from tests.kubernetes.certificates import certify
from tests.kubernetes.cluster import BUILT, BUSY_S, NAMESPACE, Cluster, Json

PROGRAMS = ("kube-controller-manager", "keda-operator", "keda-adapter")
CONTROLLERS = ("deployment-controller", "replicaset-controller", "horizontal-pod-autoscaler-controller")
LOOKS_EVERY_S = 2  # a cluster's: 15
SYSTEM = "keda"
# KEDA watches these kinds too, and Placet has none of them
OTHER_KINDS = {
    "ScaledJob": ("keda.sh", "Namespaced"),
    "TriggerAuthentication": ("keda.sh", "Namespaced"),
    "ClusterTriggerAuthentication": ("keda.sh", "Cluster"),
    "CloudEventSource": ("eventing.keda.sh", "Namespaced"),
    "ClusterCloudEventSource": ("eventing.keda.sh", "Cluster"),
}


class Pod(BaseHTTPRequestHandler):
    """`/metrics` of a pod: the metrics of this process, as a service exposes its own."""

    def do_GET(self) -> None:
        body, kind = exposed(self.headers.get("Accept", ""))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write no line for a scrape."""


@dataclass
class Pods:
    """Two pods, which show the same."""

    _servers: list[ThreadingHTTPServer] = field(default_factory=list)

    def start(self) -> list[int]:
        """Return the ports of the pods."""
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), Pod) for _ in range(2)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return [server.server_port for server in self._servers]

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def show(self, lags: Mapping[str, float], age_s: float) -> None:
        """Have each pod show these lags, by topic, and this age of the oldest consents."""
        for topic, records in lags.items():
            LAG.labels(topic, "0").set(records)
        STALENESS.set(age_s)


@dataclass
class Scaling:
    """KEDA and the controllers on a started cluster; `pods` are all that their Prometheus reads."""

    cluster: Cluster
    pods: Pods = field(default_factory=Pods)
    prometheus_port: int = field(default_factory=free_port)
    _prometheus: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start all of them. Raises DidNotStart."""
        missing = [name for name in PROGRAMS if not (BUILT / name).exists()]
        assert not missing, f"{', '.join(missing)} missing in {BUILT}: run `make kubernetes`"
        self._configure()
        self._scrape()
        self.cluster.kubectl("create", "namespace", SYSTEM)
        given = [_kind(name, group, scope) for name, (group, scope) in OTHER_KINDS.items()]
        self.cluster.kubectl("create", "--filename=-", given=given)
        self.cluster.has_its_kinds()
        self._keda()
        self.cluster.run(
            "kube-controller-manager",
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={self.cluster.folder / 'controllers'}",
            f"--horizontal-pod-autoscaler-sync-period={LOOKS_EVERY_S}s",
        )

    def stop(self) -> None:
        """Stop the pods; the rest ends with the cluster."""
        self.pods.stop()

    @contextmanager
    def without_prometheus(self) -> Iterator[None]:
        """End Prometheus meanwhile."""
        assert self._prometheus is not None
        end(self._prometheus, 10.0)
        yield
        self._scrape()

    @property
    def address(self) -> str:
        """Return the URL at which KEDA asks Prometheus."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    def averages(self, scaled: str) -> list[str]:
        """Return what each trigger of a scaler last counted for a replica, as Kubernetes writes quantities."""
        [found] = [each for each in self._objects("horizontalpodautoscalers") if _scales(each) == scaled]
        metrics = found.get("status", {}).get("currentMetrics") or []
        return [each["external"]["current"]["averageValue"] for each in metrics if "external" in each]

    def replicas(self) -> dict[str, int]:
        """Return how many pods each Deployment of a ScaledObject asks for."""
        named = {each["spec"]["scaleTargetRef"]["name"] for each in self._objects("scaledobjects")}
        return {
            each["metadata"]["name"]: each["spec"]["replicas"]
            for each in self._objects("deployments")
            if each["metadata"]["name"] in named
        }

    def state(self) -> str:
        """Return what the scalers say, for a failure."""
        of_keda = f"--namespace={NAMESPACE}", "--selector=app.kubernetes.io/managed-by=keda-operator"
        said = self.cluster.kubectl("describe", "horizontalpodautoscalers", *of_keda)
        return f"{said}\n{tail(self.cluster.log_of('keda-operator'), 3)}"

    def _objects(self, kind: str) -> list[Json]:
        return self.cluster.objects(kind, f"--namespace={NAMESPACE}")

    @property
    def _settings(self) -> Path:
        return self.cluster.folder / "prometheus.yml"

    def _configure(self) -> None:
        """Have Prometheus scrape the pods each second, and label them as a PodMonitor does."""
        pods = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": NAMESPACE, "pod": f"pod-{number}"}}
            for number, port in enumerate(self.pods.start())
        ]
        settings = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "placet", "static_configs": pods}],
        }
        self._settings.write_text(yaml.safe_dump(settings))

    def _scrape(self) -> None:
        program = shutil.which("prometheus")
        assert program, "prometheus is missing: apt-get install --no-install-recommends prometheus"
        self._prometheus = self.cluster.run(
            program,
            f"--config.file={self._settings}",
            f"--storage.tsdb.path={self.cluster.folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.prometheus_port}",
            name="prometheus",
        )
        ready = f"{self.address}/-/ready"
        log = self.cluster.log_of("prometheus")
        wait_until(lambda: _is_well(ready), self._prometheus, "prometheus", log, BUSY_S)

    def _keda(self) -> None:
        certify(certificates := self.cluster.folder / "keda", "keda")
        env = {
            **os.environ,
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "WATCH_NAMESPACE": "",
            "POD_NAMESPACE": SYSTEM,
            "KEDA_CLUSTER_OBJECT_NAMESPACE": SYSTEM,
            "KEDA_RESTRICT_SECRET_ACCESS": "true",  # else KEDA reads each Secret that a scaled pod reads
        }
        metrics, health, answers = free_port(), free_port(), free_port()
        operator = self.cluster.run(
            "keda-operator",
            f"--metrics-service-bind-address=127.0.0.1:{metrics}",
            f"--health-probe-bind-address=127.0.0.1:{health}",
            f"--metrics-bind-address=127.0.0.1:{free_port()}",
            f"--cert-dir={certificates}",
            env=env,
        )
        ready = f"http://127.0.0.1:{health}/readyz"
        wait_until(lambda: _is_well(ready), operator, "KEDA", self.cluster.log_of("keda-operator"), BUSY_S)
        self.cluster.run(
            "keda-adapter",
            "--bind-address=127.0.0.1",
            f"--secure-port={answers}",
            f"--port={free_port()}",
            f"--cert-dir={certificates}",
            f"--tls-cert-file={certificates / 'tls.crt'}",
            f"--tls-private-key-file={certificates / 'tls.key'}",
            f"--metrics-service-address=localhost:{metrics}",
            f"--authentication-kubeconfig={self.cluster.kubeconfig}",
            f"--authorization-kubeconfig={self.cluster.kubeconfig}",
            f"--lister-kubeconfig={self.cluster.kubeconfig}",
            env=env,
        )
        self.cluster.kubectl("create", "--filename=-", given=_adapter_at(answers))
        name = "apiservice/v1beta1.external.metrics.k8s.io"
        self.cluster.kubectl("wait", name, "--for=condition=Available", f"--timeout={BUSY_S:g}s")


def _scales(autoscaler: Json) -> str:
    return str(autoscaler["spec"]["scaleTargetRef"]["name"])


def _adapter_at(port: int) -> list[Json]:
    """Return the objects by which an API server asks KEDA's adapter for metrics."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "keda-metrics-apiserver", "namespace": SYSTEM},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"name": "https", "port": port}]},
    }
    asked = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,  # a certificate of this run, on 127.0.0.1
            "service": {"name": "keda-metrics-apiserver", "namespace": SYSTEM, "port": port},
        },
    }
    return [service, asked]


def _kind(name: str, group: str, scope: str) -> Json:
    """Return the definition of a kind that takes any object."""
    any_object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    plural = f"{name.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": name, "listKind": f"{name}List", "plural": plural, "singular": name.lower()},
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": any_object},
                }
            ],
        },
    }


def _is_well(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
