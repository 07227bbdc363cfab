"""Errors at the edge: each a problem+json with a stable type, and never what it was given: it may be a number."""

from typing import Annotated, Any, Literal

import asyncpg
import httpx
import pytest
from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from common.db.shards import OtherShard
from common.telemetry import continue_trace, trace_id
from common.web import problems
from common.web.problems import (
    Conflict,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    Problem,
    Reason,
    TooLarge,
    Unauthorised,
    Unavailable,
)

NUMBER = "06 39 98 00 01"


class Mail(BaseModel):
    kind: Literal["mail"]
    path: str


class Post(BaseModel):
    kind: Literal["post"]
    header: str


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: int = Field(1, le=10)
    name: str = Field("acme", pattern="^[a-z]+$")
    contact: Annotated[Mail | Post, Field(discriminator="kind")] | None = None
    lines: list[Annotated[str, Field(max_length=3)]] = []
    state: Literal["open", "closed"] = "open"


def app(raised: Exception | None = None) -> FastAPI:
    found = FastAPI()
    problems.install(found)

    @found.post("/orders")
    async def order(body: Order, limit: Annotated[int, Query(le=100)] = 10) -> dict[str, Any]:
        return {}

    @found.get("/raise")
    async def raises() -> None:
        assert raised is not None
        raise raised

    return found


async def ask(method: str, path: str, raised: Exception | None = None, **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=app(raised), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.request(method, path, **more)


def body_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert set(found) == {"type", "title", "status", "detail", "reasons", "trace_id"}
    assert found["status"] == response.status_code
    return found


@pytest.mark.parametrize(
    ("kind", "status", "slug"),
    [
        (Malformed, 400, "malformed"),
        (Unauthorised, 401, "unauthorised"),
        (Forbidden, 403, "forbidden"),
        (NotFound, 404, "not-found"),
        (Conflict, 409, "conflict"),
        (TooLarge, 413, "too-large"),
        (Invalid, 422, "invalid"),
        (Unavailable, 503, "unavailable"),
    ],
)
async def test_each_problem_has_its_status_and_its_type(kind: type[Problem], status: int, slug: str) -> None:
    continue_trace(None)
    reasons = [Reason("lines.0", "too_long", "at most 3"), Reason(None, "closed")]
    response = await ask("GET", "/raise", kind("in words", reasons=reasons, headers={"Retry-After": "2"}))
    assert response.status_code == status
    assert response.headers["retry-after"] == "2"
    assert body_of(response) == {
        "type": f"/problems/{slug}",
        "title": kind.title,
        "status": status,
        "detail": "in words",
        "reasons": [
            {"field": "lines.0", "reason": "too_long", "detail": "at most 3"},
            {"field": None, "reason": "closed", "detail": None},
        ],
        "trace_id": trace_id(),
    }


class NotEditable(Conflict):
    slug, title = "campaign-not-editable", "The campaign has already started"


async def test_a_service_names_its_own() -> None:
    found = body_of(await ask("GET", "/raise", NotEditable("it runs")))
    assert (found["type"], found["title"]) == ("/problems/campaign-not-editable", "The campaign has already started")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"count": NUMBER}, ["count"]),
        ({"count": 33639980001}, ["count"]),
        ({"name": NUMBER}, ["name"]),
        ({"lines": ["ok", NUMBER]}, ["lines.1"]),
        ({"lines": {NUMBER: NUMBER}}, ["lines"]),
        ({"state": NUMBER}, ["state"]),
        ({"contact": {"kind": NUMBER}}, ["contact"]),
        ({"contact": {"kind": "mail"}}, ["contact.mail.path"]),
        ({"contact": {"kind": "post", "header": 1}}, ["contact.post.header"]),
        ({"count": NUMBER, "state": NUMBER}, ["count", "state"]),
        ({NUMBER: 1}, ["[number]"]),
        ([NUMBER], ["body"]),
        (NUMBER, ["body"]),
    ],
)
async def test_a_field_that_is_wrong_is_named_and_its_value_never_repeated(body: object, fields: list[str]) -> None:
    response = await ask("POST", "/orders", json=body)
    assert response.status_code == 422
    found = body_of(response)
    assert [reason["field"] for reason in found["reasons"]] == fields
    assert all(field in found["detail"] for field in fields)
    assert "9980001" not in "".join(c for c in response.text if c.isdigit())


async def test_a_query_parameter_is_named_too() -> None:
    found = body_of(await ask("POST", "/orders?limit=1000", json={}))
    assert [reason["field"] for reason in found["reasons"]] == ["limit"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"name": "06 39 98 00 01"'])
async def test_a_body_that_is_not_json_is_refused_and_not_repeated(content: bytes) -> None:
    response = await ask("POST", "/orders", content=content, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    body_of(response)
    assert "39 98" not in response.text


async def test_a_path_that_is_not_there_is_a_404() -> None:
    response = await ask("GET", "/nowhere")
    assert response.status_code == 404
    assert body_of(response)["type"] == "/problems/not-found"


async def test_a_method_that_is_not_allowed_is_a_405_that_says_which_are() -> None:
    response = await ask("DELETE", "/orders")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert body_of(response)["type"] == "/problems/method-not-allowed"


@pytest.mark.parametrize(
    "down",
    [
        OperationalError("SELECT 1", {}, Exception(NUMBER)),
        ConnectionRefusedError(NUMBER),
        asyncpg.TooManyConnectionsError(NUMBER),
        asyncpg.InternalClientError(NUMBER),
    ],
)
async def test_a_database_that_is_down_is_a_503_to_come_back_from(down: Exception) -> None:
    response = await ask("GET", "/raise", down)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    found = body_of(response)
    assert found["type"] == "/problems/unavailable"
    assert "whether the request was kept is unknown" in found["detail"], "the connection may have broken at the commit"
    assert NUMBER not in response.text


async def test_a_database_that_was_divided_has_kept_nothing() -> None:
    response = await ask("GET", "/raise", OtherShard("the database holds the partitions 0-1 of 3"))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "nothing was kept in that shard" in body_of(response)["detail"]
    assert "unknown" not in response.text


async def test_a_bug_says_nothing_of_itself() -> None:
    response = await ask("GET", "/raise", RuntimeError(f"could not send to {NUMBER}"))
    assert response.status_code == 500
    assert body_of(response)["type"] == "/problems/internal-error"
    assert NUMBER not in response.text
    assert "RuntimeError" not in response.text


@pytest.mark.parametrize("fault", [asyncpg.QueryCanceledError, asyncpg.ConfigurationLimitExceededError])
def test_what_exceeds_a_limit_of_the_database_is_no_database_that_is_away(fault: type[Exception]) -> None:
    assert not issubclass(fault, problems.DATABASE_DOWN)


@pytest.mark.parametrize("written", [NUMBER, "33639980001", "+33 6 39 98 00 01", "39980001"])
async def test_no_member_of_a_problem_repeats_a_number_whoever_raised_it(written: str) -> None:
    reasons = [Reason(f"lines.{written}", "taken", f"{written} is taken")]
    for raised in (Conflict(f"{written} is taken", reasons=reasons), HTTPException(409, f"{written} is taken")):
        response = await ask("GET", "/raise", raised)
        found = body_of(response)
        assert "[number] is taken" in found["detail"]
        said = [found["detail"], *(value for reason in found["reasons"] for value in reason.values())]
        assert not any("0001" in "".join(filter(str.isdigit, text)) for text in said)


async def test_a_problem_keeps_ids_instants_and_amounts() -> None:
    told = "cmp-0123456789abcdef01234567 of 2026-11-30T00:14:05+00:00 takes at most 1,000,000,000 bytes"
    assert body_of(await ask("GET", "/raise", Conflict(told)))["detail"] == told
