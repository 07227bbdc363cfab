"""The core of both clients: build requests, decide on retries, read answers, without any I/O.

A flow is a generator. A flow yields steps (send, read, wait), the session does each step and sends the answer back, and
the flow returns the result. `session` drives the same flows with a sync and with an async transport.
"""

import logging
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias, TypeVar
from uuid import uuid4

import httpx
from pydantic import TypeAdapter, ValidationError

from placet_client.answer import Answer
from placet_client.problem import Unreachable, UnreadableAnswer, problem_of
from placet_client.request import Request
from placet_client.retrying import Retrying

log = logging.getLogger("placet_client")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request. `stream`: leave the body unread."""

    request: httpx.Request
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Read the whole body of an answer."""

    response: httpx.Response


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


Step: TypeAlias = Send | Read | Wait
Flow: TypeAlias = Generator[Step, httpx.Response, T]
Build: TypeAlias = Callable[[Request[Any], str | None], httpx.Request]  # with the Idempotency-Key


def answered(request: Request[T], build: Build, retrying: Retrying) -> Flow[T]:
    """Send a call, again where needed, and return its answer. Raises Problem, Unreachable, UnreadableAnswer."""
    response = yield from opened(request, build, retrying, stream=False)
    return read_answer(request, response)


def opened(request: Request[Any], build: Build, retrying: Retrying, *, stream: bool) -> Flow[httpx.Response]:
    """Send a call, again where needed, and return a good response.

    A call that takes an Idempotency-Key has one, the same at each attempt.
    """
    key = (request.idempotency_key or str(uuid4())) if request.keyed else None
    call = f"{request.method} {request.path}"
    attempt = 0
    while True:
        began = time.monotonic()
        wait_s: float | None
        try:
            response = yield Send(build(request, key), stream)
        except httpx.TransportError as error:
            sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
            wait_s = retrying.after_break(attempt, request.repeatable, sent, random.random())  # noqa: S311
            log.debug("%s at %s-svc: %s, attempt %d", call, request.service, type(error).__name__, attempt + 1)
            if wait_s is None:
                raise Unreachable(call, type(error).__name__, key) from error
        else:
            took_ms = (time.monotonic() - began) * 1000
            log.debug(
                "%s at %s-svc: %d in %.0f ms, attempt %d",
                call,
                request.service,
                response.status_code,
                took_ms,
                attempt + 1,
            )
            if response.is_success:
                return response
            if stream:
                yield Read(response)
            status, headers = response.status_code, response.headers
            wait_s = retrying.after_status(
                attempt,
                status,
                headers,
                request.repeatable,
                datetime.now(UTC),
                random.random(),  # noqa: S311
            )
            if wait_s is None:
                raise problem_of(call, status, response.content, headers)
        yield Wait(wait_s)
        attempt += 1


def read_answer(request: Request[T], response: httpx.Response) -> T:
    """Return the body as the type of the answer. Raises UnreadableAnswer."""
    if request.answer is None:
        return None  # type: ignore[return-value]
    if request.answer is httpx.Headers:
        return response.headers  # type: ignore[return-value]
    try:
        found: T = _adapter(request.answer).validate_json(response.content)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, each["loc"])) for each in error.errors(include_input=False)}))
        raise UnreadableAnswer(
            f"{request.method} {request.path}: the answer has another form ({fields or 'no JSON'}); is the client newer"
            " or older than the service?"
        ) from None
    if isinstance(found, Answer) and (etag := response.headers.get("etag")):
        found._etag = etag
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
