"""Call the services over HTTP with a token."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec

STANDSTILL_S = 180.0  # a failure even where the broker was killed, on a busy machine
CALL_AGAIN_S = 0.3  # repeated calls are safe
BRIEF_S = 5.0  # a limit of calls opens again so soon
CALL_WITHIN_S = 120.0  # four services may be starting

T = TypeVar("T")


class DemoFailed(RuntimeError):
    """An expected change did not happen in time, or an answer was not as expected."""


@dataclass(slots=True)
class Patience:
    """Detects a standstill: a run may be slow, but must progress.

    Patience ends once `seen` stays the same for STANDSTILL_S. `now`: seconds on a monotonic clock.
    """

    seen: object = None
    since: float = 0.0

    def ends(self, seen: object, now: float) -> bool:
        if self.seen is None or seen != self.seen:
            self.seen, self.since = seen, now
        return now - self.since > STANDSTILL_S


@dataclass(frozen=True, slots=True)
class Answer:
    """A service's answer, good or a refusal."""

    status: int
    content: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.content) if self.content else None


@dataclass(slots=True)
class Api:
    """Calls the services; repeats a call while a service is away or counts too many (all are idempotent).

    `token`: of the caller; without a token the session has its own.
    """

    session: aiohttp.ClientSession
    urls: Mapping[str, str]
    token: str | None = None

    async def call(
        self,
        method: str,
        service: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        csv: bytes | None = None,
    ) -> Any:
        """Return the body of a good answer. Raises DemoFailed for a refusal."""
        answer = await self.answer(method, service, path, body, key=key, csv=csv)
        if answer.status >= 400:
            raise DemoFailed(f"{method} {path}: {answer.status} {answer.content.decode()[:500]}")
        return answer.body

    async def answer(
        self,
        method: str,
        service: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        csv: bytes | None = None,
    ) -> Answer:
        """Return the answer, also a refusal. Raises DemoFailed without one."""
        headers = {"Idempotency-Key": key} if key else {}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = csv if csv is not None else (msgspec.json.encode(body) if body is not None else None)
        if data is not None:
            headers["Content-Type"] = "text/csv" if csv is not None else "application/json"
        deadline = asyncio.get_running_loop().time() + CALL_WITHIN_S
        while True:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                async with self.session.request(
                    method, self.urls[service] + path, data=data, headers=headers
                ) as answer:
                    content = await answer.read()
                    wait_s = float(answer.headers.get("Retry-After", 0))
                    if answer.status < 500 and (answer.status != 429 or wait_s > BRIEF_S):
                        return Answer(answer.status, content)
            if asyncio.get_running_loop().time() > deadline:
                raise DemoFailed(f"{method} {path}: no good answer within {CALL_WITHIN_S:g} s")
            await asyncio.sleep(CALL_AGAIN_S)

    async def pages(self, service: str, path: str) -> AsyncIterator[Any]:
        """Yield every item of a list."""
        cursor = ""
        while True:
            page = await self.call("GET", service, path + cursor)
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return
            cursor = f"{'&' if '?' in path else '?'}cursor={page['next']}"


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run all coroutines at once, and return their results; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # without the group
    return [task.result() for task in tasks]
