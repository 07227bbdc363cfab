"""The Python client has every operation of the OpenAPI documents: each method is called, its request compared."""

import inspect
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import httpx
import pytest
import uv_build

from clients import generate
from placet_client import Download, Page, Pages, Placet
from placet_client.flow import read_answer
from placet_client.request import Request
from tests.contract.client import documents
from tests.contract.test_http import openapi, parameters
from tests.service.firewall.operations import TABLE
from tests.unit.deploy.deployed import ROOT, SERVICES

NAMED = list(generate.named(documents()))


class Called(Exception):
    """The request that a method sent."""

    def __init__(self, request: httpx.Request) -> None:
        self.request = request


def client() -> Placet:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise Called(request)

    urls = {f"{service}_url": f"http://{service}" for service in SERVICES}
    return Placet("t", http=httpx.Client(transport=httpx.MockTransport(refuse)), **urls)  # type: ignore[arg-type]


def call(method: Any, service: str) -> httpx.Request:
    """Call a method with a value for each of its arguments, and return what it sends."""
    arguments = inspect.signature(method).parameters
    values = {name: service if name == "service" else f"the-{name}" for name in arguments}
    try:
        found = method(**values)
        if isinstance(found, Pages):
            found.first()
        elif isinstance(found, Download):
            found.read()
    except Called as called:
        return called.request
    raise AssertionError("no request was sent")


def test_the_generated_files_are_those_of_the_documents() -> None:
    stale = [
        str(path.relative_to(ROOT)) for path, text in generate.files(documents()).items() if path.read_text() != text
    ]
    assert stale == [], "`make client` writes them"


def test_every_public_operation_has_a_method() -> None:
    """`upload` of the imports stands for three operations; operators' callbacks are no tenant's."""
    left = {
        f"{method.upper()} {path}"
        for service in SERVICES
        for path, methods in openapi(service)["paths"].items()
        for method in methods
        if (service, f"{method.upper()} {path}") not in {(each, operation) for each, operation, _ in NAMED}
        if not path.startswith("/v1/callbacks/")
    }
    assert left == {"HEAD /v1/imports/{import_id}", "PATCH /v1/imports/{import_id}", "OPTIONS /v1/imports"}
    assert callable(client().consent_imports.upload)
    assert callable(client().contact_imports.upload)


@pytest.mark.parametrize(("service", "operation", "name"), NAMED, ids=lambda each: getattr(each, "name", str(each)))
def test_a_method_sends_what_the_document_says(service: str, operation: str, name: generate.Named) -> None:
    verb, _, path = operation.partition(" ")
    said = openapi(service)["paths"][path][verb.lower()]
    placet = client()
    request = call(getattr(getattr(placet, name.resource), name.method), service)
    assert (request.method, request.url.host) == (verb, service)
    assert re.fullmatch(re.sub(r"\{(\w+)\}", r"the-\1", path), request.url.path)
    by_place: dict[str, set[str]] = {"query": set(), "header": set()}
    for each in parameters(said).values():
        if each["in"] != "path":
            by_place[each["in"]].add(each["name"].lower())
    assert set(request.url.params) | {*name.without} == by_place["query"] | {*name.without}
    assert all(request.headers.get(header) for header in by_place["header"])
    assert ("idempotency-key" in request.headers) == ("idempotency-key" in by_place["header"])
    schema = generate.body_of(said, name)
    if name.content is not None:
        assert request.headers["content-type"] == name.content
        assert request.content
    elif schema is None:
        assert request.content == b""
    else:
        fields = set(openapi(service)["components"]["schemas"][schema]["properties"])
        told = set(json.loads(request.content))
        assert fields - set(parameters(said)) <= told <= fields


@pytest.mark.parametrize(("folder", "package"), [("python", "placet_client"), ("cli", "placet_cli")])
def test_a_wheel_has_every_module_and_says_that_it_is_typed(
    folder: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # of uv-build
    monkeypatch.chdir(ROOT / "clients" / folder)
    with ZipFile(tmp_path / uv_build.build_wheel(str(tmp_path))) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith(package)}
    source = ROOT / "clients" / folder / "src"
    assert packed >= {str(path.relative_to(source)) for path in (source / package).rglob("*.py")}
    assert f"{package}/py.typed" in packed


def test_a_post_that_only_reads_is_the_firewall_s() -> None:
    reading = {
        (service, operation)
        for service, table in TABLE.items()
        for operation, told in table.items()
        if told.reads and operation.startswith("POST")
    }
    assert reading == generate.READS


def test_an_answer_of_several_forms_is_read_by_its_type_and_a_new_form_is_kept() -> None:
    """Of a document made up here: an event feed."""
    forms = {"a.done": "ADone", "b.done": "BDone", "b.begun": "BDone"}
    schemas = {
        name: {
            "type": "object",
            "properties": {"type": {"enum": of}, "n": {"type": "integer"}},
            "required": ["type", "n"],
        }
        for name, of in {"ADone": ["a.done"], "BDone": ["b.done", "b.begun"]}.items()
    }
    ref = "#/components/schemas/"
    item = {
        "oneOf": [{"$ref": f"{ref}ADone"}, {"$ref": f"{ref}BDone"}],
        "discriminator": {"propertyName": "type", "mapping": {value: f"{ref}{name}" for value, name in forms.items()}},
    }
    types = generate._Types("campaign", {"components": {"schemas": schemas}})
    assert types.answer(item) == "AnyDone"
    module = sys.modules["made_up"] = ModuleType("made_up")
    exec(types.answers(), module.__dict__)  # noqa: S102
    one = {"items": [{"type": "b.begun", "n": 1}, {"type": "a.done", "n": 2}, {"type": "c.new", "m": 3}], "next": "x"}
    page: Any = Page
    request: Request[Any] = Request("GET", "campaign", "/v1/events", answer=page[module.__dict__["AnyDone"]])
    found = read_answer(request, httpx.Response(200, json=one))
    del sys.modules["made_up"]
    assert [type(each).__name__ for each in found.items] == ["BDone", "ADone", "Unknown"]
    assert (found.items[2].type, found.items[2].m) == ("c.new", 3)


def test_every_example_of_an_answer_is_read() -> None:
    """FastAPI's models make the examples: a field of another type than the document's fails here."""
    read = set()
    for service, operation, name in NAMED:
        verb, _, path = operation.partition(" ")
        said = openapi(service)["paths"][path][verb.lower()]
        content = next(each for status, each in said["responses"].items() if status[0] == "2").get("content", {})
        example = content.get("application/json", {}).get("example")
        if example is None or name.kind == "download" or (service, operation) in read:  # of the first form alone
            continue
        resource = getattr(client(), name.resource)
        build = inspect.getattr_static(resource, name.method).build
        arguments = dict.fromkeys(list(inspect.signature(build).parameters)[1:], "x")
        request: Request[Any] = build(resource, **arguments)
        read_answer(request, httpx.Response(200, json=example))
        read.add((service, operation))
    assert len(read) > len(NAMED) / 2
