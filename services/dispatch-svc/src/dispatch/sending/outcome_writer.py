"""Outcomes on their way to the ledger. What is answered while a transaction of its lane commits shares the next one,
whatever their partitions: with a request per message that is a hundred instead of one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

STORE_BACK_OFF_S = (0.1, 5.0)
SETTLED_AT_ONCE = 1_000  # outcomes of one transaction, and those of the submit that exceeds it
WRITERS = 3  # of one lane, as long as there is enough for each

_Waiting = tuple[Sequence[dict[str, Any]], "asyncio.Future[None]"]  # outcomes, and who waits until they are stored


@dataclass(slots=True)
class Storing:
    """Of one lane. `store`: the transaction."""

    store: Callable[[Sequence[dict[str, Any]]], Awaitable[None]]
    writers: list[asyncio.Task[None]] = field(default_factory=list)
    stubborn: set[asyncio.Task[None]] = field(default_factory=set)  # with what could not be stored together
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _many: int = 0  # outcomes that wait

    async def stored(self, outcomes: Sequence[dict[str, Any]]) -> None:
        """Returns once they are in the ledger."""
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((outcomes, stored))
        self._many += len(outcomes)
        self.writers = [writer for writer in self.writers if not writer.done()]
        if not self.writers or (len(self.writers) < WRITERS and self._many >= SETTLED_AT_ONCE):
            self.writers.append(asyncio.create_task(self._write()))
        await stored

    async def _write(self) -> None:
        """One transaction after the other, until nothing waits. None is long: an opt-out may be waiting for it."""
        while self._waiting:
            some: list[_Waiting] = []
            together: list[dict[str, Any]] = []
            while self._waiting and len(together) < SETTLED_AT_ONCE:
                some.append(self._waiting.popleft())
                together += some[-1][0]
            self._many -= len(together)
            try:
                await self.store(together)
            except Exception:
                task = asyncio.create_task(self._store_one_by_one(some))
                self.stubborn.add(task)
                task.add_done_callback(self.stubborn.discard)
            else:
                for _, stored in some:
                    _done(stored)

    async def _store_one_by_one(self, some: Sequence[_Waiting]) -> None:
        """What cannot be stored holds up nothing else. What was handed off must not be forgotten while this process
        lives."""

        async def store_one(outcomes: Sequence[dict[str, Any]], stored: "asyncio.Future[None]") -> None:
            await until_stored(partial(self.store, outcomes))
            _done(stored)

        await asyncio.gather(*(store_one(*one) for one in some))


def _done(stored: "asyncio.Future[None]") -> None:
    if not stored.done():
        stored.set_result(None)


async def until_stored(transaction: Callable[[], Awaitable[T]]) -> T:
    """Tries until the ledger has it: the database may be away for a while, and messages are in our hands."""
    failures = 0
    while True:
        try:
            return await transaction()
        except Exception:
            failures += 1
            if failures in (1, 10, 100):
                log.exception("not stored yet, trying again", extra={"failures": failures})
            await asyncio.sleep(min(STORE_BACK_OFF_S[0] * 2 ** min(failures, 8), STORE_BACK_OFF_S[1]))
