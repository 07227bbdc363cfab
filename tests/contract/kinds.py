"""Take the schemas of the kinds that deploy/k8s uses from what their projects release: `make kinds CLONES=folder`.

Each stays a CustomResourceDefinition that an API server takes, with the one version that the manifests name and without
descriptions. `CLONES` holds a clone of each repository under its name; Kubernetes' own kinds come from the module that
`server/go.mod` pins.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.unit.deploy.deployed import ROOT

KINDS = ROOT / "deploy" / "k8s" / "kinds"
SERVER = ROOT / "deploy" / "k8s" / "server"
BUILT_IN = KINDS / "kubernetes.json"
OWN_KINDS: Mapping[str, tuple[str, ...]] = {
    "api__v1": ("ConfigMap", "Namespace", "Service"),
    "apis__apps__v1": ("Deployment",),
    "apis__autoscaling__v2": ("HorizontalPodAutoscaler",),
    "apis__batch__v1": ("Job",),
    "apis__networking.k8s.io__v1": ("NetworkPolicy",),
    "apis__policy__v1": ("PodDisruptionBudget",),
    "apis__scheduling.k8s.io__v1": ("PriorityClass",),
}
Json = dict[str, Any]


class Release(NamedTuple):
    """Where a project keeps its definitions. `served`: the version of the API that the manifests name."""

    repository: str
    tag: str
    folder: str
    served: str
    files: tuple[str, ...]


RELEASES = (
    Release(
        "strimzi/strimzi-kafka-operator",
        "1.0.1",
        "helm-charts/helm3/strimzi-kafka-operator/crds",
        "v1",
        ("040-Crd-kafka", "043-Crd-kafkatopic", "044-Crd-kafkauser", "045-Crd-kafkanodepool"),
    ),
    Release(
        "cloudnative-pg/cloudnative-pg",
        "v1.30.0",
        "config/crd/bases",
        "v1",
        tuple(f"postgresql.cnpg.io_{name}" for name in ("clusters", "databases", "scheduledbackups")),
    ),
    Release(
        "cloudnative-pg/plugin-barman-cloud",
        "v0.14.0",
        "config/crd/bases",
        "v1",
        ("barmancloud.cnpg.io_objectstores",),
    ),
    Release("kedacore/keda", "v2.20.2", "config/crd/bases", "v1alpha1", ("keda.sh_scaledobjects",)),
    Release(
        "prometheus-operator/prometheus-operator",
        "v0.93.0",
        "example/prometheus-operator-crd",
        "v1",
        ("monitoring.coreos.com_podmonitors", "monitoring.coreos.com_prometheusrules"),
    ),
    Release(
        "kubernetes-sigs/gateway-api",
        "v1.6.1",
        "config/crd/standard",
        "v1",
        ("gateway.networking.k8s.io_httproutes",),
    ),
    Release(
        "external-secrets/external-secrets",
        "v2.9.0",
        "config/crds/bases",
        "v1",
        ("external-secrets.io_externalsecrets",),
    ),
)
PAGE = """# Kinds

<!-- written by `make kinds` -->

The definitions of the kinds that the manifests use, as their projects release them: one version of the API each, and no
descriptions. All of these projects are under the Apache License 2.0.

| Project | Release | Kinds |
|---|---|---|
"""


def undescribed(schema: Json) -> Json:
    """Return a schema without descriptions; a property may be called `description`."""
    found: Json = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "definitions"):
            found[key] = {name: undescribed(each) for name, each in value.items()}
        elif key in ("items", "additionalProperties", "not") and isinstance(value, dict):
            found[key] = undescribed(value)
        elif key in ("allOf", "anyOf", "oneOf"):
            found[key] = [undescribed(each) for each in value]
        elif key not in ("description", "example", "externalDocs"):
            found[key] = value
    return found


def kept(definition: Json, served: str) -> Json:
    """Return a definition with the one version that is served."""
    spec, metadata = definition["spec"], definition["metadata"]
    [version] = [each for each in spec["versions"] if each["name"] == served]
    told = {key: version[key] for key in ("name", "served", "subresources") if key in version}
    schema = undescribed(version["schema"]["openAPIV3Schema"])
    # a reviewed group of Kubernetes says by whom: an API server asks for it
    notes = {
        key: value for key, value in metadata.get("annotations", {}).items() if key == "api-approved.kubernetes.io"
    }
    return {
        "apiVersion": definition["apiVersion"],
        "kind": definition["kind"],
        "metadata": {"name": metadata["name"], **({"annotations": notes} if notes else {})},
        "spec": {
            **{key: spec[key] for key in ("group", "names", "scope")},
            "versions": [{**told, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def released(clones: Path, release: Release, file: str) -> Json:
    """Return a definition of a release, from the clone of its repository."""
    clone = clones / release.repository.partition("/")[2]
    told = f"{release.tag}:{release.folder}/{file}.yaml"
    command = ["git", "-C", str(clone), "show", told]
    read: Json = yaml.safe_load(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return read


def kubernetes() -> tuple[str, Path]:
    """Return the version of Kubernetes that `server/go.mod` pins, and where its module is."""
    command = ["go", "mod", "download", "-json", "k8s.io/kubernetes"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=SERVER).stdout)
    return told["Version"], Path(told["Dir"])


def _referred(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from _referred(each)


def built_in(module: Path) -> Json:
    """Return the schemas of Kubernetes' own kinds that the manifests use, with those that they refer to."""
    found: Json = {}
    for file, kinds in OWN_KINDS.items():
        path = module / "api" / "openapi-spec" / "v3" / f"{file}_openapi.json"
        schemas = json.loads(path.read_text(encoding="utf-8"))["components"]["schemas"]
        waiting = [
            name
            for name, schema in schemas.items()
            if any(each["kind"] in kinds for each in schema.get("x-kubernetes-group-version-kind", []))
            and name.rpartition(".")[2] in kinds
        ]
        assert len(waiting) == len(kinds), (file, waiting)
        while waiting:
            if (name := waiting.pop()) not in found:
                found[name] = undescribed(schemas[name])
                waiting += _referred(found[name])
    return {"components": {"schemas": found}}


def written(clones: Path) -> Mapping[Path, str]:
    """Return the files written from the clones."""
    found: dict[Path, str] = {}
    page = PAGE
    for release in RELEASES:
        names = []
        for file in release.files:
            definition = kept(released(clones, release, file), release.served)
            path = KINDS / f"{definition['metadata']['name']}.json"
            found[path] = json.dumps(definition, separators=(",", ":"), sort_keys=True) + "\n"
            names.append(definition["spec"]["names"]["kind"])
        project = f"[{release.repository}](https://github.com/{release.repository})"
        page += f"| {project} | {release.tag} | {_listed(names)} |\n"
    version, module = kubernetes()
    found[BUILT_IN] = json.dumps(built_in(module), separators=(",", ":"), sort_keys=True) + "\n"
    own = sorted(name for names in OWN_KINDS.values() for name in names)
    page += f"| [kubernetes/kubernetes](https://github.com/kubernetes/kubernetes) | {version} | {_listed(own)} |\n"
    return {**found, KINDS / "README.md": page}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    KINDS.mkdir(exist_ok=True)
    for path, text in written(Path(sys.argv[1])).items():
        path.write_text(text, encoding="utf-8")
