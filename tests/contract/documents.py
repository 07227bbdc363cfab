"""The OpenAPI documents of the services, and one of all, checked in under docs/openapi.

`python -m tests.contract.documents` (`make schemas`) writes those whose change breaks no client. A break is accepted on
purpose, with a reason: `make schemas BREAKS="why"` writes the change and the reason to docs/openapi/breaks.txt.
"""

import copy
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from common.web.openapi import MODELS, rename
from tests.contract.breaking import breaking
from tests.contract.test_http import openapi
from tests.unit.deploy.deployed import SERVICES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "openapi"
BREAKS = FOLDER / "breaks.txt"
WHOLE = "placet"
NAMES = (*SERVICES, WHOLE)
GATEWAY = {
    "url": "https://{gateway}",
    "description": "A gateway that passes /consent, /campaign, /dispatch and /inbound on to the services, without the"
    " first part of the path, and names that part in X-Forwarded-Prefix.",
    "variables": {"gateway": {"default": "placet.internal", "description": "The host of the gateway."}},
}

Document = dict[str, Any]


@cache
def document(name: str) -> Document:
    """Return the document that the code describes."""
    return merged({service: openapi(service) for service in SERVICES}) if name == WHOLE else openapi(name)


def merged(documents: Mapping[str, Document]) -> Document:
    """Return one document of all: a path begins with its service, and names that two services have name theirs."""
    schemas_of = [each["components"]["schemas"] for each in documents.values()]
    shared_schemas = _differing(schemas_of)
    while more := _referring(schemas_of, shared_schemas) - shared_schemas:  # a page of different things differs too
        shared_schemas |= more
    shared_ids = _differing([_ids(each) for each in documents.values()])
    tags: dict[str, Document] = {}
    paths: Document = {}
    schemas: Document = {}
    for service, one in documents.items():
        renamed = {
            name: f"{service.title()}{name}" if name in shared_schemas else name
            for name in one["components"]["schemas"]
        }
        whole = copy.deepcopy(one)
        rename(whole, renamed)
        named = whole["components"]["schemas"].items()
        schemas |= {renamed[name]: schema | {"title": renamed[name]} for name, schema in named}
        tags |= {each["name"]: each for each in whole["tags"]}
        for path, methods in whole["paths"].items():
            for operation in methods.values():
                if operation["operationId"] in shared_ids:
                    operation["operationId"] = f"{service}_{operation['operationId']}"
            paths[f"/{service}{path}"] = methods
    first = next(iter(documents.values()))
    info = first["info"] | {"title": "Placet", "description": "Every operation of the four services."}
    return {
        "openapi": first["openapi"],
        "info": info,
        "servers": [GATEWAY],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "examples": {
                slug: example
                for one in documents.values()
                for slug, example in sorted(one["components"]["examples"].items())
            },
            "responses": {
                name: answer
                for one in documents.values()
                for name, answer in sorted(one["components"]["responses"].items())
            },
            "headers": {
                name: header
                for one in documents.values()
                for name, header in sorted(one["components"]["headers"].items())
            },
            "securitySchemes": first["components"]["securitySchemes"],
        },
        "tags": [tags[name] for name in sorted(tags)],
    }


def _ids(one: Document) -> dict[str, str]:
    """Return the ids of a document's operations, each with a text that no other document has."""
    title = one["info"]["title"]
    return {operation["operationId"]: title for methods in one["paths"].values() for operation in methods.values()}


def _differing(documents: list[dict[str, Any]]) -> set[str]:
    """Return the names that stand for different things in two documents."""
    found: dict[str, Any] = {}
    differing = set()
    for each in documents:
        for name, thing in each.items():
            if found.setdefault(name, thing) != thing:
                differing.add(name)
    return differing


def _referring(documents: list[dict[str, Any]], names: set[str]) -> set[str]:
    """Return the models of several documents that refer to one of these models."""
    wanted = {f'"{MODELS}{name}"' for name in names}
    several = {name for name, many in Counter(chain.from_iterable(documents)).items() if many > 1}
    return {
        name
        for each in documents
        for name in several & each.keys()
        if any(reference in json.dumps(each[name]) for reference in wanted)
    }


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def written(made: Document) -> str:
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def accepted(name: str) -> Document | None:
    """Return the document that is checked in."""
    path = path_of(name)
    found: Document | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def released(name: str) -> Document | None:
    """Return the document of the last release, or, before the first release, of the last commit."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v*") or "HEAD"
    text = _git("show", f"{tag}:docs/openapi/{name}.json")
    found: Document | None = json.loads(text) if text else None
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()


def accepted_breaks() -> list[str]:
    """Return the breaks that are accepted, without their reasons."""
    return [line.partition("  # ")[0] for line in BREAKS.read_text(encoding="utf-8").splitlines()]


def breaks(name: str, old: Document | None) -> Iterator[str]:
    """Yield what breaks a client of `old`, and is not accepted."""
    known = accepted_breaks()
    for change in breaking(old, document(name)) if old is not None else ():
        if (line := f"{name}: {change}") not in known:
            yield line


def write(why: str) -> int:
    """Write the documents anew; returns how many were refused."""
    refused = 0
    for name in NAMES:
        broken = list(breaks(name, accepted(name)))
        if broken and not why:
            refused += 1
            print(f'{name}: this breaks clients; accept with BREAKS="why"\n  ' + "\n  ".join(broken))  # noqa: T201
            continue
        if broken:
            with BREAKS.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}  # {why}\n" for line in broken)
        if accepted(name) != document(name):
            path_of(name).write_text(written(document(name)), encoding="utf-8")
            print(f"docs/openapi/{name}.json written")  # noqa: T201
    return refused


if __name__ == "__main__":
    sys.exit(1 if write(" ".join(sys.argv[1:])) else 0)
