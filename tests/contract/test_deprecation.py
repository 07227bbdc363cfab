"""An operation or a field that ends says so in each answer and in the document: `Deprecation`, `Sunset`, `Link`."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from common.service import create_app
from common.web.deprecation import Deprecated
from common.web.problems import NotFound
from tests.contract.test_http import built, openapi
from tests.unit.deploy.deployed import SERVICES

SINCE, ENDS_AT = datetime(2026, 3, 1, tzinfo=UTC), datetime(2027, 3, 1, 12, tzinfo=UTC)
PAGE = "https://placet.example/goes-on"
ENDING = Deprecated(SINCE, ENDS_AT, PAGE)
TOLD = {
    "deprecation": f"@{int(SINCE.timestamp())}",
    "sunset": "Mon, 01 Mar 2027 12:00:00 GMT",
    "link": f'<{PAGE}>; rel="deprecation"; type="text/html"',
}
METHODS = {"get", "put", "post", "delete", "options", "head", "patch"}


class Thing(BaseModel):
    """A thing."""

    name: str = Field(description="The name of the thing.")
    colour: str = Field("red", description="The colour of the thing.", deprecated=True)


router = APIRouter(prefix="/v1/things", tags=["things"])


@router.get("/old", operation_id="things.old", dependencies=[Depends(ENDING)])
async def old() -> str:
    """Return a word."""
    return "a word"


@router.get("/gone", operation_id="things.gone", dependencies=[Depends(ENDING)])
async def gone() -> str:
    """Return nothing."""
    raise NotFound("no such thing")


@router.get("/coloured", operation_id="things.coloured", dependencies=[Depends(replace(ENDING, fields=("colour",)))])
async def coloured() -> Thing:
    """Return a thing with its colour."""
    return Thing(name="a")


@router.get("/new", operation_id="things.new")
async def new() -> str:
    """Return a word."""
    return "a word"


@router.get("/untold", operation_id="things.untold")
async def untold() -> list[Thing]:
    """Return things."""
    return []


def app() -> FastAPI:
    return create_app(replace(built("inbound"), routers=[router], quick=()))


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the app as a server does, with a state."""
    await app()({**scope, "state": {}}, receive, send)


def silent(document: dict[str, Any]) -> Iterator[str]:
    """Yield each operation that ends, or has a field that ends, and declares no `Deprecation`."""
    for path, methods in document["paths"].items():
        for method in methods.keys() & METHODS:
            operation = methods[method]
            ends = operation.get("deprecated") or _ends(document, operation, frozenset())
            if ends and "Deprecation" not in operation["responses"].get("200", {}).get("headers", {}):
                yield f"{method.upper()} {path}"


def _ends(document: dict[str, Any], part: object, seen: frozenset[str]) -> bool:
    """Return whether a part of a document, or a model that the part refers to, has a mark."""
    match part:
        case {"$ref": str(target)}:
            folder, name = target.split("/")[2:]
            return target not in seen and _ends(document, document["components"][folder][name], seen | {target})
        case dict():
            return part.get("deprecated") is True or any(_ends(document, each, seen) for each in part.values())
        case list():
            return any(_ends(document, each, seen) for each in part)
    return False


@pytest.mark.parametrize("path", ["old", "gone", "coloured"])
async def test_each_answer_of_what_ends_says_since_when_until_when_and_how_to_go_on(path: str) -> None:
    transport = httpx.ASGITransport(app=served)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get(f"/v1/things/{path}")
        head = await client.head(f"/v1/things/{path}")
    assert answer.status_code == (404 if path == "gone" else 200)
    for each in (answer, head):
        assert {name: each.headers.get(name) for name in TOLD} == TOLD


async def test_an_answer_of_what_stays_says_nothing_of_an_end() -> None:
    transport = httpx.ASGITransport(app=served)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get("/v1/things/new")
    assert not TOLD.keys() & answer.headers.keys()


def test_the_document_marks_what_ends_and_declares_the_fields_of_each_answer() -> None:
    document = app().openapi()
    paths = {path.rpartition("/")[2]: methods["get"] for path, methods in document["paths"].items() if "things" in path}
    assert {name for name, operation in paths.items() if operation.get("deprecated")} == {"old", "gone"}
    assert document["components"]["schemas"]["Thing"]["properties"]["colour"]["deprecated"] is True
    for name in ("old", "gone", "coloured"):
        for status, answer in paths[name]["responses"].items():
            if "$ref" in answer:
                answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
            assert answer["headers"].keys() >= {"Deprecation", "Sunset", "Link"}, (name, status)
    assert list(silent(document)) == ["GET /v1/things/untold"]


@pytest.mark.parametrize("service", SERVICES)
def test_an_operation_that_ends_or_has_a_field_that_ends_declares_so(service: str) -> None:
    assert list(silent(openapi(service))) == []


def test_an_end_before_its_announcement_is_refused() -> None:
    with pytest.raises(ValueError, match="never earlier"):
        Deprecated(ENDS_AT, SINCE, PAGE)
