"""Waiting for what will be true, without sleeping for a guess."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_EVERY_S = 0.02
WITHIN_S = 60.0  # a moment is ten times as long on a machine that is busy; only a test that fails waits for all of it


async def eventually(look: Callable[[], Awaitable[T]], within_s: float = WITHIN_S) -> T:
    """What `look` returns once it is truthy and raises no AssertionError; after `within_s` its last failure."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
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
        if loop.time() > deadline:
            raise failure or AssertionError(f"not within {within_s:g} s; last seen: {found!r}")
        try:
            await asyncio.wait_for(never.wait(), LOOK_EVERY_S)
        except TimeoutError:
            continue


async def is_so(fact: bool) -> bool:
    """Wrap a fact for `eventually`: `lambda: is_so(list_of_calls != [])` looks at the fact anew each time."""
    return fact
