"""Waiting for what will be true, without sleeping for a guess."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

log = logging.getLogger(__name__)

T = TypeVar("T")

# Between two looks: a tenth of what the wait has taken. A look may open a connection to a server on the same cores
AT_LEAST_S, AT_MOST_S = 0.005, 0.1
WITHIN_S = 60.0  # a moment is ten times as long on a machine that is busy; only a test that fails waits for all of it


async def eventually(look: Callable[[], Awaitable[T]], within_s: float = WITHIN_S) -> T:
    """What `look` returns once it is truthy and raises no AssertionError; after `within_s` its last failure."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    never = asyncio.Event()
    while True:
        failure: AssertionError | None = None
        found: T | None = None
        try:
            found = await look()
            if found:
                return found
        except AssertionError as error:
            failure = error
        waited_s = loop.time() - begun
        if waited_s > within_s:
            raise failure or AssertionError(f"not within {within_s:g} s; last seen: {found!r}")
        try:
            await asyncio.wait_for(never.wait(), min(max(AT_LEAST_S, waited_s / 10), AT_MOST_S))
        except TimeoutError:
            continue


async def is_so(fact: bool) -> bool:
    """Wrap a fact for `eventually`: `lambda: is_so(list_of_calls != [])` looks at the fact anew each time."""
    return fact


async def answered(ask: Callable[[], Awaitable[httpx.Response]], within_s: float = WITHIN_S) -> httpx.Response:
    """Return the first answer that is no invitation to come back: 503 with `Retry-After`.

    While the machine stands still, a service is right to answer so, and its caller sends the same request again. The
    log counts the invitations. Every other failure is returned at once.
    """
    loop = asyncio.get_running_loop()
    back_at, invitations, said = loop.time(), 0, ""

    async def look() -> httpx.Response:
        nonlocal back_at, invitations, said
        assert loop.time() >= back_at, said
        answer = await ask()
        if answer.status_code != 503 or "retry-after" not in answer.headers:
            return answer
        back_at, invitations, said = loop.time() + float(answer.headers["retry-after"]), invitations + 1, answer.text
        log.warning("told to come back, %d times so far", invitations)
        raise AssertionError(said)

    return await eventually(look, within_s)
