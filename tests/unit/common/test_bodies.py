"""What goes wrong while a body is read has its own answer: FastAPI's is 400, after which a caller gives up."""

import gc
from typing import Annotated
from weakref import ref

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError
from starlette.types import Message, Receive, Scope, Send

from common.web import problems
from common.web.auth import Caller, Required
from common.web.edge.bodies import Bodies, Memory
from common.web.problems import Problem, Unauthorised


class Failing(Required):
    """A caller who cannot be asked for."""

    error: Exception

    async def __call__(self, request: Request) -> Caller:
        raise self.error


class Body(BaseModel):
    number: str


def service(error: Exception) -> httpx.AsyncClient:
    caller = Failing((type(error).__name__,), limited=False, looks_up=False, platform=False)  # equal ones are cached
    object.__setattr__(caller, "error", error)
    app = FastAPI()
    problems.install(app)

    @app.post("/v1/opt-outs")
    async def opt_out(body: Body, who: Annotated[Caller, Depends(caller)]) -> None:
        raise AssertionError("reached")

    app.add_middleware(Bodies, limits={}, memory=Memory(1024 * 1024))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("SELECT 1", None, OSError("the server is away")), 503),
        (ConnectionResetError(), 503),
        (TimeoutError(), 503),
        (Unauthorised("no token"), 401),
        (KeyError("a bug of ours"), 500),
    ],
)
async def test_a_body_whose_caller_cannot_be_asked_for_is_not_called_malformed(error: Exception, status: int) -> None:
    async with service(error) as client:
        answer = await client.post("/v1/opt-outs", json={"number": "+33639980001"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, problems.MEDIA_TYPE)
    assert isinstance(error, Problem) or answer.json()["detail"] != str(error)
    assert ("retry-after" in answer.headers) == (status == 503)


class Kept:
    """What a call holds while it reads its body."""


async def test_a_refused_body_is_let_go_at_once_without_the_collector() -> None:
    """An attack refuses more bodies than the collector, which a service has at 50,000 objects, comes to see."""
    kept, told = list[ref[Kept]](), list[Message]()

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        mine = Kept()
        kept.append(ref(mine))
        while True:
            await receive()

    async def piece() -> Message:
        return {"type": "http.request", "body": b"x" * 40_000, "more_body": True}

    async def send(message: Message) -> None:
        told.append(message)

    scope = {"type": "http", "path": "/v1/opt-outs", "method": "POST", "headers": []}
    edge = Bodies(reads, limits={}, memory=Memory(100_000))
    gc.collect()
    gc.disable()
    try:
        await edge(scope, piece, send)
        assert told[0]["status"] == 503
        assert [held() for held in kept] == [None]
    finally:
        gc.enable()
