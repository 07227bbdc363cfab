"""Every route of every service speaks of keys, pages and uploads in one way: shown by the services' own OpenAPI."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from common.service import Service, create_app
from tests.support.running import AUTH_KEY, ISSUER, KEY_RING, LIMITS, SIGNING_RING, SUBJECT_RING
from tests.unit.deploy.deployed import BUILD, SERVICES, SETTINGS

MORE: dict[str, dict[str, Any]] = {
    "consent": {"signing_keys": SIGNING_RING},
    "dispatch": {"gateway_url": "http://127.0.0.1:1", "gateway_token": "t"},
}


def built(service: str) -> Service[Any]:
    settings = SETTINGS[service].model_validate(
        {
            "roles": "api",
            "database_url": "postgresql://nobody@localhost/nowhere",
            "kafka_bootstrap": "localhost:9092",
            "subject_keys": SUBJECT_RING,
            "field_keys": KEY_RING,
            "development": True,
            "auth_key": AUTH_KEY,
            "auth_issuer": ISSUER,
            "auth_audience": ISSUER,
            "limits": LIMITS,
            **MORE.get(service, {}),
        }
    )
    return BUILD[service](settings)


@cache
def openapi(service: str) -> dict[str, Any]:
    found: dict[str, Any] = create_app(built(service)).openapi()
    return found


def operations(service: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (method and path, operation), with the answers in place of references to them."""
    shared = openapi(service)["components"].get("responses", {})
    for path, methods in openapi(service)["paths"].items():
        for method, operation in methods.items():
            answers = {
                status: shared[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
                for status, answer in operation["responses"].items()
            }
            yield f"{method.upper()} {path}", operation | {"responses": answers}


def parameters(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in operation.get("parameters", [])}


def test_an_idempotency_key_is_read_in_one_way_and_required_by_no_route() -> None:
    read = {
        json.dumps(parameter, sort_keys=True)
        for service in SERVICES
        for _, operation in operations(service)
        for name, parameter in parameters(operation).items()
        if name.lower() == "idempotency-key"
    }
    [only] = [json.loads(each) for each in read]
    assert (only["name"], only["in"], only["required"]) == ("Idempotency-Key", "header", False)


def test_every_list_that_pages_takes_the_same_parameters_and_answers_the_same_fields() -> None:
    asked, answered = set(), set()
    for service in SERVICES:
        for name, operation in operations(service):
            said = parameters(operation)
            lists = operation["operationId"].partition(".")[2].startswith("list")
            assert lists == bool(said.keys() & {"cursor", "limit"}), f"{name}: a list pages, and only a list"
            if not lists:
                continue
            asked.add(json.dumps([said.get("cursor"), said.get("limit")], sort_keys=True))
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            page = dict(openapi(service)["components"]["schemas"][schema]["properties"])
            assert page.pop("items")["type"] == "array", name
            answered.add(json.dumps(page, sort_keys=True))
    assert (len(asked), len(answered)) == (1, 1)
    [cursor, limit] = json.loads(asked.pop())
    assert (cursor["in"], limit["schema"]["maximum"]) == ("query", 1000)
    assert json.loads(answered.pop()).keys() == {"next"}


def test_every_upload_is_spoken_in_one_way() -> None:
    spoken = {
        service: json.dumps(
            [
                [
                    [p["name"], p["in"], p["required"], p["schema"]]
                    for p in operation["parameters"]
                    if p["in"] == "header"
                ]
                + list(operation["requestBody"]["content"])
                + sorted(operation["responses"].keys() - {"429", "409"})  # each has limits, and conflicts, of its own
            ]
        )
        for service in SERVICES
        for name, operation in operations(service)
        if name == "PATCH /v1/imports/{import_id}"
    }
    assert len(spoken) == 2
    assert len({*spoken.values()}) == 1
    for service in spoken:
        named = {name for name, _ in operations(service)}
        assert named >= {"HEAD /v1/imports/{import_id}", "POST /v1/imports", "OPTIONS /v1/imports"}
        for name, operation in operations(service):
            taken = {*parameters(operation)} & {"Upload-Offset", "Upload-Length"}
            assert not taken or name in ("POST /v1/imports", "PATCH /v1/imports/{import_id}"), name
