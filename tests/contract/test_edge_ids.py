"""No answer names a person by the platform's own id, but a few for the platform's operator: shown by OpenAPI.

An answer that has a field for a person says in its description whose id that is. The test of the four services
(`tests/service/rights/test_edge_ids.py`) calls every operation named here, and looks at what comes.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.contract.test_callers import SIGNED, compared, routes
from tests.contract.test_http import openapi, operations
from tests.unit.deploy.deployed import SERVICES

PERSON = re.compile(r"subject|person|hash|principal|recipient_id|contact_id")  # a field of such a name has an id
NO_PERSON = {"hash", "subject", "stopped_by_person"}  # of a seal; of a token; a count
THEIRS, OURS = "person's id with", "platform's own id"

# Answers in the platform's own id. Each operation asks `may_operate`, or says that `everywhere` decides.
OPERATORS = {
    "dispatch": {"Enforcement", "ProviderBlock"},
    "inbound": {"ReviewItem"},
}
BOTH = {"consent": {"Certificate", "ConsentAnswer", "LinkAnswer", "SubjectView"}}  # by the sender that the call names
AUDIT = "GET /v1/audit.jsonl"
FILES = {  # answers of no model
    "campaign": {"GET /v1/campaigns/{campaign_id}/recipients.csv", "GET /v1/events/stream", AUDIT},
    "dispatch": {AUDIT},
    "inbound": {AUDIT},
    "consent": {
        AUDIT,
        "GET /v1/opt-outs.csv",
        "POST /v1/proofs",
        "GET /v1/proofs/campaigns/{campaign_id}",
        "GET /v1/receipts/{evidence_id}",  # `record` is free
    },
}
NOBODYS = {  # files and pages without a person's id
    "consent": {"GET /v1/imports/{import_id}/verdicts", "GET /v1/copies/{copy_id}"},
}


def models(service: str, schema: Any, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names of the models that an answer of this schema has."""
    if isinstance(schema, list):
        for each in schema:
            yield from models(service, each, seen)
    elif isinstance(schema, dict):
        folder, _, name = str(schema.get("$ref", "")).rpartition("/")
        if folder.endswith("/schemas") and name not in seen:
            yield name
            yield from models(service, openapi(service)["components"]["schemas"][name], seen | {name})
        for each in schema.values():
            yield from models(service, each, seen)


def people(service: str, name: str) -> set[str]:
    """The fields of a model that name a person."""
    fields = openapi(service)["components"]["schemas"][name].get("properties", {})
    return {field for field in fields if PERSON.search(field)} - NO_PERSON


def answering(service: str) -> dict[str, set[str]]:
    """By operation, the models of its answers that name a person."""
    found: dict[str, set[str]] = {}
    for operation, said in operations(service):
        named = {each for each in models(service, said["responses"]) if people(service, each)}
        if named or operation in FILES.get(service, ()):
            found[operation] = named
    return found


def to_tenants(service: str) -> set[str]:
    """The operations that tell a tenant of people."""
    ours = OPERATORS.get(service, set())
    return {operation for operation, named in answering(service).items() if not named or named - ours}


@pytest.mark.parametrize("service", SERVICES)
def test_an_answer_that_names_a_person_says_whose_id_that_is(service: str) -> None:
    named = set().union(*answering(service).values())
    described = {
        name: openapi(service)["components"]["schemas"][name].get("description", "").replace("\n", " ")
        for name in named
    }
    ours = {name for name, text in described.items() if OURS in text}
    assert ours == OPERATORS.get(service, set()) | BOTH.get(service, set())
    assert named - ours == {name for name, text in described.items() if THEIRS in text} - ours
    assert {name for name in ours if THEIRS in described[name]} == BOTH.get(service, set())


@pytest.mark.parametrize("service", SERVICES)
def test_an_answer_of_no_model_is_known(service: str) -> None:
    free = {
        operation
        for operation, said in operations(service)
        for status, answer in said["responses"].items()
        if status == "200" and not operation.startswith(("HEAD", "OPTIONS"))
        if not operation.partition(" ")[2].startswith(SIGNED)
        if [*answer.get("content", {})] != ["application/json"] or not answer["content"]["application/json"]["schema"]
    }
    assert free - NOBODYS.get(service, set()) <= FILES.get(service, set())


@pytest.mark.parametrize("service", OPERATORS)
def test_the_platform_s_own_ids_are_told_by_routes_for_the_platform_s_operator_alone(service: str) -> None:
    telling = {operation for operation, named in answering(service).items() if named & OPERATORS[service]}
    of = {f"{method} {route.path}": route for route in routes(service) for method in route.methods or ()}
    assert telling
    assert [one for one in telling if not compared(of[one], {"may_operate"})] == []


def test_a_new_answer_with_a_person_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"properties": {"items": {"items": {"$ref": "#/components/schemas/New"}}}}
    schemas = {"Page": page, "New": {"properties": {"subject_id": {}}, "description": "Something."}}
    answer = {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Page"}}}}}
    described = {"paths": {"/v1/new": {"get": {"responses": answer}}}, "components": {"schemas": schemas}}
    for module in ("test_http", "test_edge_ids"):
        monkeypatch.setattr(f"tests.contract.{module}.openapi", lambda _: described)
    assert answering("dispatch") == {"GET /v1/new": {"New"}}
    with pytest.raises(AssertionError):
        partial(test_an_answer_that_names_a_person_says_whose_id_that_is, "dispatch")()
