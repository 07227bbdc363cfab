"""What every service's HTTP side does before a route sees anything."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, Request

from common.auth import require
from common.database import new_metadata
from common.service import BODY_BYTES, Service
from common.settings import ServiceSettings
from tests.eventually import eventually
from tests.running import Surroundings, running

JSON = {"Content-Type": "application/json"}

router = APIRouter(prefix="/v1")


@router.post("/things", dependencies=[Depends(require("message:send"))])
async def things(body: dict[str, str]) -> int:
    return sum(map(len, body.values()))


@router.get("/things/{name}")
async def thing(name: str) -> str:
    return name


@router.post("/things/many")
async def many(body: dict[str, str]) -> int:
    return sum(map(len, body.values()))


@router.post("/files")
async def files(request: Request) -> int:
    return sum([len(piece) async for piece in request.stream()])


@pytest.fixture
async def client(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    settings = ServiceSettings(**await surroundings.settings("dispatch", roles="api"))
    service: Service[Any] = Service(
        name="dispatch",
        settings=settings,
        metadata=new_metadata(),
        routers=[router],
        body_limits={"/v1/things/many": 2 * BODY_BYTES, "/v1/files": None},
    )
    async with running(service) as client:
        yield client


async def test_while_the_broker_is_away_nothing_piles_up(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"roles": "worker", "kafka_bootstrap": "127.0.0.1:1"}
    settings = ServiceSettings(**await surroundings.settings("dispatch", **more))
    service: Service[Any] = Service(name="dispatch", settings=settings, metadata=new_metadata())

    async def tried() -> bool:
        return [record.message for record in caplog.records].count("no topics yet") >= 4

    async with running(service):
        await eventually(tried)
        waiting = [task for task in asyncio.all_tasks() if "Event.wait" in repr(task.get_coro())]
    assert len(waiting) <= 1


def of(size: int) -> bytes:
    """A JSON body of this many bytes."""
    return b'{"x":"' + b"a" * (size - 8) + b'"}'


async def pieces(body: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    """Sent like this, a body announces no length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("things", BODY_BYTES, 200),
        ("things", BODY_BYTES + 1, 413),
        ("things/many", 2 * BODY_BYTES, 200),
        ("things/many", 2 * BODY_BYTES + 1, 413),
        ("thingsandmore", BODY_BYTES, 404),
        ("files", 3 * BODY_BYTES, 200),
    ],
)
async def test_a_body_is_as_large_as_its_path_allows(
    client: httpx.AsyncClient, path: str, size: int, status: int, chunked: bool
) -> None:
    body = of(size)
    answered = await client.post(f"/v1/{path}", content=pieces(body) if chunked else body, headers=JSON)
    assert answered.status_code == status
    if status == 413:
        assert answered.headers["content-type"] == "application/problem+json"
        assert answered.headers["connection"] == "close"
        problem = answered.json()
        assert problem["type"] == "/problems/too-large"
        assert [(r["field"], r["reason"]) for r in problem["reasons"]] == [("body", "too_large")]
        assert problem["trace_id"] in answered.headers["traceparent"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_stranger_cannot_make_us_read_on(client: httpx.AsyncClient, chunked: bool) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"[" * 64 * 1024

    headers = {"Authorization": ""} | ({} if chunked else {"Content-Length": str(10**12)})
    answered = await asyncio.wait_for(client.post("/v1/things", content=endless(), headers=headers), 20)
    assert answered.status_code == 413
    assert sent == (17 if chunked else 0)


@pytest.mark.parametrize("path", ["/v1/things/%00", "/v1/things/a%00b", "/%00"])
async def test_nothing_is_called_by_a_name_that_postgres_could_not_be_asked_for(
    client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.get("/v1/things/%C3%A9")).json() == "é"
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
