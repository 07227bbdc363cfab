"""The OpenAPI documents say what the code does: names, scopes, problems, parameters."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from common.service import create_app
from common.web.auth import PLATFORM, Authenticator, required_of
from common.web.auth.organisations import NO_SENDERS
from common.web.auth.rates import LimitReached
from common.web.openapi import kinds, meaning_of
from common.web.problems import MEDIA_TYPE, Forbidden, Invalid, Malformed, Problem, TooLarge, Unauthorised, Unavailable
from common.web.streaming import Streamed
from common.web.upload import OCTETS, OffsetMismatch, UploadComplete
from tests.contract.reach import raised
from tests.contract.test_callers import routes
from tests.contract.test_http import built, openapi, operations
from tests.service.firewall.operations import WITHOUT_A_TOKEN
from tests.support.running import ALL_SCOPES, bearer
from tests.unit.deploy.deployed import SERVICES

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("libs/*/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")])
OPERATION_ID = re.compile(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*")
IMPLIED: set[type[Problem]] = {
    *(Problem, Unauthorised, Forbidden, Invalid, Malformed, TooLarge, Unavailable, LimitReached),
}
ANSWERED_TO_PATCH = {OffsetMismatch, UploadComplete}  # raised by a method of the class that HEAD reads too


def declared(operation: dict[str, Any]) -> dict[str, int]:
    """Return the kinds of problems that an operation declares: the slug, and the status."""
    return {
        slug: int(status)
        for status, answer in operation["responses"].items()
        for slug in answer.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
    }


def described(service: str) -> Iterator[tuple[str, APIRoute, dict[str, Any]]]:
    documents = dict(operations(service))
    for route in routes(service):
        for method in (route.methods or ()) if route.include_in_schema else ():
            name = f"{method} {route.path}"
            yield name, route, documents[name]


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_has_an_id_of_its_resource_a_tag_and_words(service: str) -> None:
    seen = Counter(operation["operationId"] for _, operation in operations(service))
    assert [one for one, many in seen.items() if many > 1] == []
    told = {tag["name"]: tag["description"] for tag in openapi(service)["tags"]}
    assert all(told.values())
    for name, operation in operations(service):
        assert OPERATION_ID.fullmatch(operation["operationId"]), f'{name}: name it `operation_id="consents.create"`'
        assert operation["tags"] == [operation["operationId"].partition(".")[0]], name
        assert operation["tags"][0] in told, name
        assert operation["description"], f"{name}: write a docstring"


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_names_its_scopes_but_those_that_need_no_token(service: str) -> None:
    known = set(ALL_SCOPES.split())
    without = set()
    for name, operation in operations(service):
        if not operation["security"]:
            without.add(name)
        for alternative in operation["security"]:
            assert alternative.keys() == {"bearer"}, name
            assert {*alternative["bearer"]} <= known, name
            assert len({*alternative["bearer"]} - {PLATFORM}) == 1, name
    open_to_all = tuple(WITHOUT_A_TOKEN.get(service, ()))
    assert {name for name in without if not any(each in name for each in open_to_all)} == set()
    assert openapi(service)["components"]["securitySchemes"]["bearer"]["bearerFormat"] == "JWT"


@pytest.mark.parametrize("service", SERVICES)
def test_every_error_is_a_problem(service: str) -> None:
    for name, operation in operations(service):
        assert {"422", "500", "503"} <= operation["responses"].keys(), name
        for status, answer in operation["responses"].items():
            if int(status) < 400:
                continue
            assert answer["content"].keys() == {MEDIA_TYPE}, f"{name}: {status}"
            assert answer["content"][MEDIA_TYPE]["schema"] == {"$ref": "#/components/schemas/Problem"}, name
    assert not {"HTTPValidationError", "ValidationError"} & openapi(service)["components"]["schemas"].keys()


@pytest.mark.parametrize("service", SERVICES)
def test_an_operation_declares_each_problem_that_its_code_can_raise_and_no_other(service: str) -> None:
    found = []
    for name, route, operation in described(service):
        told, real = declared(operation), raised(route.endpoint)
        if name.startswith("HEAD"):
            real -= ANSWERED_TO_PATCH
        found += [f"{name} may raise {kind.__name__}: add it to `refuses`" for kind in real if kind.slug not in told]
        own = route.responses.values()
        listed = {slug for each in own for slug in each.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})}
        unheard = listed - {kind.slug for kind in real | IMPLIED} - {"unsupported-media-type"}  # of `UploadRoute`
        found += [f"{name} never raises {slug}: remove it from `refuses`" for slug in unheard]
    assert found == []


def test_each_kind_of_problem_has_one_slug_a_meaning_and_a_remedy_and_is_raised() -> None:
    for service in SERVICES:
        openapi(service)  # imports the service
    ours = [kind for kind in every(Problem) if kind.__module__.partition(".")[0] != "tests"]
    assert [slug for slug, many in Counter(kind.slug for kind in ours).items() if many > 1] == []
    for kind in ours:
        meaning, remedy = meaning_of(kind) if "__doc__" in vars(kind) else ("", "")
        assert all((meaning, remedy)), f"{kind.__name__}: write the meaning, an empty line, and what to do"
    named = {
        node.id
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    }
    assert {kind.__name__ for kind in ours} - named == set()
    answered = {slug for service in SERVICES for _, operation in operations(service) for slug in declared(operation)}
    assert answered <= kinds().keys()


def every(kind: type[Problem]) -> Iterator[type[Problem]]:
    yield kind
    for each in kind.__subclasses__():
        yield from every(each)


class Started:
    """The app of a service that has authenticated callers, and no database."""

    def __init__(self, service: str) -> None:
        self._service = built(service)
        self._app = create_app(self._service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {
            "authenticator": Authenticator(self._service.settings),
            "organisations": lambda _: NO_SENDERS,
            "resources": SimpleNamespace(database=None, shards=SimpleNamespace(divided=False)),
        }
        await self._app(scope, receive, send)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_parameter_that_the_operation_does_not_take_is_refused_by_name_but_for_an_opt_out(service: str) -> None:
    transport = httpx.ASGITransport(app=Started(service), raise_app_exceptions=False)
    required = {name: next(required_of(route.dependant), None) for name, route, _ in described(service)}
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for name, operation in operations(service):
            method, path = name.split()
            if path.startswith("/v1/callbacks/"):  # the provider's own parameters
                continue
            known = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
            query = {**dict.fromkeys(known, "x"), "sender_ids": "x"}
            headers = {"Content-Type": OCTETS} if method == "PATCH" else {}
            url, demanded = re.sub(r"\{\w+\}", "x", path), required.get(name)
            if demanded is not None:
                anonymous = await client.request(method, url, params=query, headers=headers)
                assert anonymous.status_code == 401, name
            answer = await client.request(method, url, params=query, headers=headers | bearer())
            refused = "unknown_parameter" in answer.text or (method == "HEAD" and answer.status_code == 422)
            assert refused == (demanded is None or demanded.limited), name
            if refused and method != "HEAD":
                fields = [(each["field"], each["reason"]) for each in answer.json()["reasons"]]
                assert fields == [("sender_ids", "unknown_parameter")], name


async def test_head_is_answered_as_get_without_the_body_and_never_runs_a_callback() -> None:
    transport = httpx.ASGITransport(app=create_app(built("consent")))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        head, got = await client.head("/.well-known/jwks.json"), await client.get("/.well-known/jwks.json")
        assert (head.status_code, head.content) == (200, b"")
        assert [head.headers[name] for name in ("content-length", "cache-control")] == [
            got.headers[name] for name in ("content-length", "cache-control")
        ]
        assert (await client.head("/v1/consents")).status_code == 405
    transport = httpx.ASGITransport(app=create_app(built("inbound")))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await client.head("/v1/callbacks/ovh/main/receipts")).status_code == 405


@pytest.mark.parametrize("service", SERVICES)
async def test_a_refused_method_is_answered_with_every_method_of_the_path(service: str) -> None:
    transport = httpx.ASGITransport(app=create_app(built(service)))
    found = []
    paths = openapi(service)["paths"]
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for path in paths:
            url = re.sub(r"\{\w+\}", "1", path)
            answer = await client.request("TRACE", url)
            serving = [each for each in paths if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each), url)]
            expected = {method.upper() for each in serving for method in paths[each]}
            if "GET" in expected and not path.startswith("/v1/callbacks/"):
                expected.add("HEAD")
            if (answer.status_code, {*answer.headers["allow"].split(", ")}) != (405, expected):
                found.append(f"{path}: {answer.status_code}, {answer.headers['allow']}")
    assert found == []


@pytest.mark.parametrize("service", SERVICES)
async def test_the_type_of_each_problem_is_a_page_of_the_service_that_answers_it(service: str) -> None:
    transport = httpx.ASGITransport(app=create_app(built(service)))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        listed = (await client.get("/problems")).text
        for slug in {slug for _, operation in operations(service) for slug in declared(operation)}:
            page = await client.get(f"/problems/{slug}")
            assert page.status_code == 200, slug
            assert "What to do" in page.text
            assert f"/problems/{slug}" in listed
        assert (await client.get("/problems/never-heard-of")).status_code == 404


@pytest.mark.parametrize("service", SERVICES)
def test_an_answer_in_pieces_is_one_of_which_a_head_produces_no_piece(service: str) -> None:
    """A HEAD is answered as GET: else it would read a whole export, or a stream until the stream ends."""
    in_pieces = {
        route.path: route.response_class
        for route in routes(service)
        if isinstance(route.response_class, type) and issubclass(route.response_class, StreamingResponse)
    }
    assert {path for path, kind in in_pieces.items() if kind is not Streamed} == set()
    assert in_pieces or service in ("dispatch", "inbound")
