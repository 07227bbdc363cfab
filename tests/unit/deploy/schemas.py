"""The schemas of the kinds that the manifests use, made strict: a field that no version knows is a fault."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema_rs

from tests.contract.kinds import BUILT_IN, KINDS

Schema = dict[str, Any]
INT_OR_STRING, FREE = "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"


def strict(schema: Schema) -> Schema:
    """Return a schema of a definition as JSON Schema in which an object has the fields named and no others."""
    found: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: strict(each) for name, each in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            found[key] = strict(value)
        elif not key.startswith("x-") and key not in ("nullable", "default"):
            found[key] = value  # branches of allOf, anyOf, oneOf and not name some of the fields only
    if schema.get(INT_OR_STRING):
        found["type"] = ["integer", "string"]
    if schema.get("nullable") and "type" in found:
        found["type"] = [found["type"], "null"] if isinstance(found["type"], str) else [*found["type"], "null"]
    if "properties" in found and not schema.get(FREE):
        found.setdefault("additionalProperties", False)
    return found


@cache
def by_kind() -> Mapping[tuple[str, str], Schema]:
    """Return the strict schema of each kind, by the version of its API and its name."""
    found: dict[tuple[str, str], Schema] = {}
    schemas = json.loads(BUILT_IN.read_text(encoding="utf-8"))["components"]["schemas"]
    referred = {"components": {"schemas": {name: strict(schema) for name, schema in schemas.items()}}}
    for name, schema in schemas.items():
        for each in schema.get("x-kubernetes-group-version-kind", []):
            api = f"{each['group']}/{each['version']}".removeprefix("/")
            found[api, each["kind"]] = {"$ref": f"#/components/schemas/{name}", **referred}
    for path in {*KINDS.glob("*.json")} - {BUILT_IN}:
        spec = json.loads(path.read_text(encoding="utf-8"))["spec"]
        [version] = spec["versions"]
        api = f"{spec['group']}/{version['name']}"
        found[api, spec["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
    return found


@cache
def _validator(api: str, kind: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(by_kind()[api, kind])


def unlike(each: Mapping[str, Any]) -> Iterator[str]:
    """Yield where an object is unlike the schema of its kind."""
    api, kind, name = each["apiVersion"], each["kind"], each["metadata"]["name"]
    if (api, kind) not in by_kind():
        yield f"{kind} {name} has no schema: {api}"
        return
    for error in _validator(api, kind).iter_errors(each):
        yield f"{kind} {name}: /{'/'.join(map(str, error.instance_path))}: {error.message}"
