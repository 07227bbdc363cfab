"""The OpenAPI documents are those checked in, break no client, have examples that hold, and generate a client."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for
from pydantic import TypeAdapter

from common.web.openapi import UNSAID, meanings
from common.web.openapi.examples import BY_NAME, NOTHING, Examples
from tests.contract.breaking import breaking
from tests.contract.documents import FOLDER, NAMES, WHOLE, accepted, breaks, document, released
from tests.contract.test_callers import routes
from tests.contract.test_http import openapi, operations
from tests.support.generated import generated, module_of
from tests.unit.deploy.deployed import SERVICES

Document = dict[str, Any]


@pytest.mark.parametrize("name", NAMES)
def test_a_document_is_the_one_checked_in(name: str) -> None:
    old = accepted(name)
    broken = [*breaks(name, old), *breaks(name, released(name))]
    assert not broken, f'{name} breaks clients. Keep what they use, or accept: `make schemas BREAKS="why"`: {broken}'
    assert old == document(name), f"{name} changed and breaks no client: run `make schemas` and commit"


def test_no_other_document_is_checked_in() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)


def test_the_document_of_all_has_every_operation_once() -> None:
    made = document(WHOLE)["paths"]
    ids = [operation["operationId"] for methods in made.values() for operation in methods.values()]
    assert len(ids) == len({*ids}) == sum(1 for service in SERVICES for _ in operations(service))
    assert {path.split("/")[1] for path in made} == {*SERVICES}


@pytest.mark.parametrize("name", NAMES)
def test_a_document_refers_to_nothing_that_is_not_there(name: str) -> None:
    assert dangling(document(name)) == set()


def dangling(made: Document) -> set[str]:
    """Return each reference to nothing."""
    components = made["components"]
    return {
        target for target in references(made) if target.split("/")[3] not in components.get(target.split("/")[2], {})
    }


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


OPERATION = {
    "operationId": "things.create",
    "security": [{"bearer": ["thing:write"]}],
    "parameters": [{"name": "limit", "in": "query", "required": False, "schema": {"type": "integer", "maximum": 9}}],
    "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/New"}}}},
    "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}},
}
OLD: Document = {
    "paths": {"/v1/things": {"post": OPERATION}},
    "components": {
        "schemas": {
            "New": {
                "type": "object",
                "required": ["kind"],
                "properties": {
                    "kind": {"enum": ["a", "b"]},
                    "name": {"anyOf": [{"type": "string", "maxLength": 40}, {"type": "null"}]},
                },
            },
            "Thing": {
                "type": "object",
                "required": ["id"],
                "properties": {"id": {"type": "string"}, "state": {"enum": ["open"]}},
            },
        }
    },
}
Edit = Callable[[Document, Document], None]  # of the operation, and of the schemas


def _set(path: str, value: object) -> Edit:
    """Set a part of a document, or remove it where the value is `...`."""

    def edit(operation: Document, schemas: Document) -> None:
        *folders, last = path.split("/")
        part: Any = {"operation": operation, **schemas}
        for each in folders:
            part = part[int(each) if isinstance(part, list) else each]
        if value is ...:
            del part[last]
        else:
            part[last] = value

    return edit


BREAKING: dict[str, Edit] = {
    "operationId was things.create, is things.make": _set("operation/operationId", "things.make"),
    "a token with thing:write no longer suffices": _set("operation/security", [{"bearer": ["thing:admin"]}]),
    "parameter limit (query) is gone": _set("operation/parameters", []),
    "parameter limit (query): maximum was 9, is 5": _set("operation/parameters/0/schema/maximum", 5),
    "parameter limit (query) is required": _set("operation/parameters/0/required", True),
    "body is required": _set("operation/requestBody/required", True),
    "body.kind: 'b' is no longer taken": _set("New/properties/kind/enum", ["a"]),
    "body.name is required": _set("New/required", ["kind", "name"]),
    "body.name is gone": _set("New/properties/name", ...),
    "body.name: null is no longer taken": _set("New/properties/name", {"type": "string", "maxLength": 40}),
    "body.name: maxLength was 40, is 20": _set("New/properties/name/anyOf/0/maxLength", 20),
    "answer 200 is gone": _set("operation/responses", {"201": {}}),
    "answer 200.state is gone": _set("Thing/properties/state", ...),
    "answer 200.state: 'done' is new": _set("Thing/properties/state/enum", ["open", "done"]),
    "answer 200.id may be missing": _set("Thing/required", []),
    "answer 200.id: null is new": _set("Thing/properties/id", {"type": ["string", "null"]}),
}
HARMLESS: dict[str, Edit] = {
    "a new field of a request": _set("New/properties/note", {"type": "string"}),
    "a new value of a request": _set("New/properties/kind/enum", ["a", "b", "c"]),
    "a larger bound of a request": _set("operation/parameters/0/schema/maximum", 90),
    "a new field of an answer": _set("Thing/properties/more", {"type": "string"}),
    "fewer values of an answer": _set("Thing/properties/state/enum", []),
    "another scope that suffices": _set("operation/security", [{"bearer": ["thing:write"]}, {"bearer": ["thing:all"]}]),
    "other words": _set("operation/description", "In other words."),
}


def _changed(edit: Edit) -> list[str]:
    new = copy.deepcopy(OLD)
    edit(new["paths"]["/v1/things"]["post"], new["components"]["schemas"])
    return [change.removeprefix("POST /v1/things: ") for change in breaking(OLD, new)]


@pytest.mark.parametrize("change", BREAKING)
def test_a_change_that_breaks_a_client_is_named(change: str) -> None:
    assert _changed(BREAKING[change]) == [change]


@pytest.mark.parametrize("change", HARMLESS)
def test_a_change_that_no_client_notices_breaks_nothing(change: str) -> None:
    assert _changed(HARMLESS[change]) == []


def test_an_operation_that_goes_breaks_its_callers() -> None:
    assert list(breaking(OLD, {"paths": {}, "components": {}})) == ["POST /v1/things: is gone"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_field_parameter_and_body_has_an_example_that_holds(service: str) -> None:
    components = openapi(service)["components"]
    examples, found = Examples(components["schemas"]), []

    def judge(where: str, schema: Document, example: object) -> None:
        plain = {key: said for key, said in schema.items() if key not in ("example", "examples")}
        if not validator_for({"components": components, **plain}).is_valid(example):
            found.append(f"{where}: {example!r} is no example: change `common.web.openapi.examples` or the field's own")

    for model, schema in components["schemas"].items():
        for name, field in schema.get("properties", {}).items():
            if examples.value(name, field) is NOTHING:
                found.append(f"{model}.{name} has no example: add its name to `common.web.openapi.examples`")
            for each in field.get("examples", ()):
                judge(f"{model}.{name}", field, each)
    for name, operation in operations(service):
        for each in operation.get("parameters", ()):
            if "example" not in each:
                found.append(f"{name}: the parameter {each['name']} has no example")
            else:
                judge(f"{name}: {each['name']}", each["schema"], each["example"])
        bodies = {"body": operation.get("requestBody", {}), **operation["responses"]}
        for where, body in bodies.items():
            for media_type, content in body.get("content", {}).items():
                told = [components["examples"][slug]["value"] for slug in content.get("examples", ())]
                for each in [*told, *([content["example"]] if "example" in content else [])]:
                    judge(f"{name}: {where}", content["schema"], each)
                if not content.keys() & {"example", "examples"}:
                    found.append(f"{name}: {where}, {media_type}, has no example")
    assert found == []


@pytest.mark.parametrize("service", SERVICES)
def test_the_example_of_each_body_is_taken_by_its_route(service: str) -> None:
    told = dict(operations(service))
    for route in routes(service):
        for method in (route.methods or ()) if route.body_field is not None else ():
            assert route.body_field is not None
            [content] = told[f"{method} {route.path}"]["requestBody"]["content"].values()
            model: Any = route.body_field.field_info.annotation
            TypeAdapter(model).validate_python(content["example"])


@pytest.mark.parametrize("service", SERVICES)
def test_every_model_field_parameter_and_answer_is_described(service: str) -> None:
    """A field of a model, or of a model or null, has the model's description."""
    found = []
    for model, schema in openapi(service)["components"]["schemas"].items():
        if not schema.get("description"):
            found.append(f"{model} has no description: write a docstring")
        for name, field in schema.get("properties", {}).items():
            every = [field, *(each for each in field.get("anyOf", ()) if each.get("type") != "null")]
            if not field.get("description") and not (len(every) <= 2 and "$ref" in every[-1]):
                found.append(f"{model}.{name} has no description: write `Field(description=…)`, or its word's meaning")
    for operation, said in operations(service):
        for each in said.get("parameters", ()):
            if not each.get("description"):
                found.append(f"{operation}: the parameter {each['name']} has no description")
        for status, answer in said["responses"].items():
            if answer["description"] in ("", UNSAID):
                found.append(f"{operation}: the answer {status} has no description")
    assert found == []


def test_every_word_with_an_example_or_a_meaning_is_a_field_or_a_parameter() -> None:
    named = {
        name
        for service in SERVICES
        for schema in openapi(service)["components"]["schemas"].values()
        for name in schema.get("properties", {})
    }
    named |= {
        each["name"]
        for service in SERVICES
        for _, operation in operations(service)
        for each in operation.get("parameters", ())
    }
    assert (BY_NAME.keys() | meanings.BY_NAME.keys()) - named == set()


@pytest.mark.timeout(600)
def test_a_python_client_is_generated_with_every_operation_and_passes_a_strict_type_check(tmp_path: Path) -> None:
    made = generated(tmp_path)
    modules = {path.stem for path in (made / "api").glob("*/*.py")} - {"__init__"}
    paths = document(WHOLE)["paths"].values()
    assert modules == {module_of(operation["operationId"]) for methods in paths for operation in methods.values()}
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", tmp_path / "cache", made],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert checked.returncode == 0, checked.stdout[-3000:] + checked.stderr[-3000:]
