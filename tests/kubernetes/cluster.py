"""An API server with its store, built from the module `deploy/k8s/server`.

The API server admits as a cluster's does: defaults, Pod Security, the schemas and rules of the definitions in
`deploy/k8s/kinds`. No node runs, and no controller but for `scaling`: a Deployment makes no pod.
"""

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from stack.processes import end, free_port, spawn, wait_until
from tests.contract.kinds import KINDS
from tests.kubernetes.certificates import certify
from tests.unit.deploy.deployed import BASE, ROOT

BUILT = ROOT / ".kubernetes" / "bin"
NAMESPACE = "placet"
BUSY_S = 120.0  # a machine that stands still, or builds
TOKEN = "the-tests"  # of an API server on 127.0.0.1 that lives for a run
Json = dict[str, Any]


@dataclass
class Cluster:
    """An API server on 127.0.0.1, with its logs and its data in `folder`."""

    folder: Path
    port: int = field(default_factory=free_port)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start both, define the kinds that the manifests use, and make the namespace. Raises DidNotStart."""
        missing = [name for name in ("etcd", "kube-apiserver", "kubectl") if not (BUILT / name).exists()]
        assert not missing, f"{', '.join(missing)} missing in {BUILT}: run `make kubernetes`"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._serve(self._store())
            for path in sorted(KINDS.glob("*.*.json")):
                self.kubectl("create", "--filename", str(path))
            self.has_its_kinds()
            self.kubectl("create", "--filename", str(BASE / "namespace.yaml"))
            self.kubectl("create", "serviceaccount", "default", f"--namespace={NAMESPACE}")  # a controller's work
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for child in reversed(self._children):
            end(child, 10.0)
        self._children.clear()

    def has_its_kinds(self) -> None:
        """Wait until the API server serves the kinds that were defined."""
        kinds = "--all", "customresourcedefinitions", "--for=condition=Established"
        self.kubectl("wait", *kinds, f"--timeout={BUSY_S:g}s")

    def kubectl(self, *arguments: str, given: Sequence[Json] = ()) -> str:
        """Return what kubectl prints; `given` are objects on its standard input. Fails with its error."""
        done = self.tried(*arguments, given=given)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def tried(self, *arguments: str, given: Sequence[Json] = ()) -> subprocess.CompletedProcess[str]:
        """Return what kubectl prints, and how it ends."""
        text = "\n".join(json.dumps(each) for each in given)
        command = [str(BUILT / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT, timeout=2 * BUSY_S)

    def objects(self, kind: str, *arguments: str) -> list[Json]:
        found: list[Json] = json.loads(self.kubectl("get", kind, "--output=json", *arguments))["items"]
        return found

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig.json"

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def run(
        self, program: str, *arguments: str, name: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program beside the API server, one of BUILT or by its path. It ends with `stop`."""
        child = spawn([str(BUILT / program), *arguments], self.log_of(name or program), env=env)
        self._children.append(child)
        return child

    def _store(self) -> str:
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        child = self.run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        wait_until(lambda: _answers(f"{client}/health"), child, "etcd", self.log_of("etcd"), BUSY_S)
        return client

    def _serve(self, store: str) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        signing = self.folder / "service-accounts.pem"
        signing.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        certify(asked := self.folder / "aggregated", "front-proxy")  # with it, other API servers are asked
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f"{TOKEN},tests,tests,system:masters\n")
        address = f"https://127.0.0.1:{self.port}"
        child = self.run(
            "kube-apiserver",
            f"--etcd-servers={store}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-issuer={address}",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
            "--endpoint-reconciler-type=none",
            f"--requestheader-client-ca-file={asked / 'ca.crt'}",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={asked / 'tls.crt'}",
            f"--proxy-client-key-file={asked / 'tls.key'}",
        )
        log = self.log_of("kube-apiserver")
        wait_until(lambda: _answers(f"{address}/readyz"), child, "the API server", log, BUSY_S)
        authority = (self.folder / "certificates" / "apiserver.crt").read_bytes()
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": "tests",
                            "cluster": {
                                "server": address,
                                "certificate-authority-data": base64.b64encode(authority).decode(),
                            },
                        }
                    ],
                    "users": [{"name": "tests", "user": {"token": TOKEN}}],
                    "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
                    "current-context": "tests",
                }
            )
        )


def _answers(url: str) -> bool:
    try:  # a certificate of this run, on 127.0.0.1
        answer = httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"}, verify=False, timeout=5)  # noqa: S501
    except httpx.TransportError:
        return False
    return answer.status_code == 200
