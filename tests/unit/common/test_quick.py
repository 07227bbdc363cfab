"""A raw route has in one layer what every other route has in a dozen: the same headers, limits, refusals and counts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import APIRouter
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Scope

from common.db.database import new_metadata
from common.service import Service, create_app
from common.settings import ServiceSettings
from common.web.edge.bodies import SMALL_BYTES, Memory
from common.web.edge.quick import Quick
from common.web.problems import NotFound, Reason, Unauthorised
from tests.support.running import KEY_RING, SUBJECT_RING

LIMIT = 4 * SMALL_BYTES
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
router = APIRouter(prefix="/v1")


@router.post("/usual/{account}")
async def usual(account: str) -> Response:
    return _answered(account)


async def quick(request: Request) -> Response:
    async for _ in request.stream():
        pass
    return _answered(request.path_params["account"])


def _answered(account: str) -> Response:
    if account == "stranger":
        raise Unauthorised("the callback is not genuine", reasons=[Reason(None, "signature_wrong")])
    if account == "nobody":
        raise NotFound("no such account")
    if account == "broken":
        raise RuntimeError("broken")
    return PlainTextResponse("taken")


@asynccontextmanager
async def probing(health_port: int | None = None, port: int = 80) -> AsyncIterator[httpx.AsyncClient]:
    settings = ServiceSettings(
        database_url="postgresql://nobody@127.0.0.1:1/nothing",
        kafka_bootstrap="127.0.0.1:1",
        subject_keys=SUBJECT_RING,
        field_keys=KEY_RING,
        auth_key="a key of thirty-two bytes or more, for tests",
        development=True,
        health_port=health_port,
    )
    service = Service(
        name="probe",
        settings=settings,
        metadata=new_metadata(),
        routers=[router],
        quick=[Route("/v1/quick/{account}", quick, methods=["POST"])],
        body_limits={"/v1/quick": LIMIT},
    )
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://probe:{port}") as opened:
        yield opened


@pytest.mark.parametrize("account", ["acme", "stranger", "nobody", "broken", "a%00b"])
async def test_a_raw_route_answers_as_every_other_route_does(account: str) -> None:
    told = {"traceparent": TRACE, "X-Forwarded-Prefix": "/inbound"}
    async with probing() as client:
        one = await client.post(f"/v1/usual/{account}", headers=told)
        other = await client.post(f"/v1/quick/{account}", headers=told)
    assert (other.status_code, dict(other.headers), other.text) == (one.status_code, dict(one.headers), one.text)


async def test_a_raw_route_takes_its_own_methods_alone() -> None:
    async with probing() as client:
        assert (await client.get("/v1/quick/acme")).status_code in (404, 405)
        assert (await client.request("HEAD", "/v1/quick/acme")).status_code in (404, 405)


async def test_a_raw_route_is_measured_and_its_refusals_are_counted() -> None:
    def seen(status: str) -> float:
        labels = {"method": "POST", "route": "/v1/quick/{account}", "status": status}
        return REGISTRY.get_sample_value("sms_http_request_duration_seconds_count", labels) or 0

    def refusals() -> float:
        return REGISTRY.get_sample_value("sms_calls_refused_total", {"reason": "unknown"}) or 0

    before = [seen(status) for status in ("2xx", "4xx", "5xx")], refusals()
    async with probing() as client:
        for account in ("acme", "stranger", "nobody", "broken"):
            await client.post(f"/v1/quick/{account}")
    assert [seen(status) for status in ("2xx", "4xx", "5xx")] == [
        n + m for n, m in zip(before[0], (1, 2, 1), strict=True)
    ]
    assert refusals() == before[1] + 2
    assert REGISTRY.get_sample_value("sms_http_in_progress_requests") == 0


async def test_the_port_of_health_answers_no_callback() -> None:
    async with probing(health_port=9000, port=9000) as client:
        assert (await client.post("/v1/quick/acme")).status_code == 404
    async with probing(health_port=9000, port=8000) as client:
        assert (await client.post("/v1/quick/acme")).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_beyond_the_limit_of_its_path_is_refused(announced: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(LIMIT // 4)

    async with probing() as client:
        body = bytes(LIMIT + 1) if announced else pieces()
        assert (await client.post("/v1/quick/acme", content=body)).status_code == 413
        assert (await client.post("/v1/quick/acme", content=bytes(LIMIT))).status_code == 200


async def test_large_bodies_share_a_memory_and_a_small_one_always_gets_in() -> None:
    memory, seen = Memory(2 * SMALL_BYTES), list[int]()

    async def endpoint(request: Request) -> Response:
        await request.body()
        seen.append(memory.held)
        return PlainTextResponse("taken")

    async def answered(size: int) -> int:
        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(size), "more_body": False}

        statuses = []

        async def send(message: Message) -> None:
            statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

        scope: Scope = {"type": "http", "method": "POST", "path": "/quick", "headers": [], "state": {}}
        await layer(scope, receive, send)
        return int(statuses[0])

    async def beyond(scope: object, receive: object, send: object) -> None:
        raise AssertionError("another layer answers")

    routes = [Route("/quick", endpoint, methods=["POST"])]
    layer = Quick(beyond, "probe", routes, {}, memory, lambda scope, status: None, None)
    assert await answered(2 * SMALL_BYTES) == 200
    assert (seen, memory.held) == ([2 * SMALL_BYTES], 0)
    memory.held = SMALL_BYTES  # of another request
    assert await answered(SMALL_BYTES + 1) == 503
    assert await answered(SMALL_BYTES) == 200
    assert memory.held == SMALL_BYTES
