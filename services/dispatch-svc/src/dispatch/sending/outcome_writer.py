"""The batch writer: store the outcomes of submits in the ledger, many to a transaction.

Outcomes that arrive while a transaction of their lane commits share the next transaction.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from dispatch.messages.row import Outcome

log = logging.getLogger(__name__)

T = TypeVar("T")

STORE_BACK_OFF_S = (0.1, 5.0)
SETTLED_AT_ONCE = 1_000  # target size of a transaction; the last submit may exceed it
WRITERS = 3  # of one lane; another starts when the queue fills a transaction

_Waiting = tuple[Sequence[Outcome], "asyncio.Future[None]"]


@dataclass(slots=True)
class Storing:
    """The batch writer of one lane. `store` runs one transaction."""

    store: Callable[[Sequence[Outcome]], Awaitable[None]]
    writers: list[asyncio.Task[None]] = field(default_factory=list)
    stubborn: set[asyncio.Task[None]] = field(default_factory=set)  # storing submit by submit
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _many: int = 0  # queued outcomes

    async def stored(self, outcomes: Sequence[Outcome]) -> None:
        """Queue the outcomes, and return after their commit."""
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((outcomes, stored))
        self._many += len(outcomes)
        self.writers = [writer for writer in self.writers if not writer.done()]
        if not self.writers or (len(self.writers) < WRITERS and self._many >= SETTLED_AT_ONCE):
            self.writers.append(asyncio.create_task(self._write()))
        await stored

    async def _write(self) -> None:
        """Store queued outcomes until the queue is empty.

        Each transaction stays short: the enforcement of an opt-out may wait.
        """
        while self._waiting:
            some: list[_Waiting] = []
            together: list[Outcome] = []
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
        """Store the outcomes of each submit alone: a failing submit then delays no other.

        The retry never ends: the ledger must not lose the outcome of a message already handed off.
        """

        async def store_one(outcomes: Sequence[Outcome], stored: "asyncio.Future[None]") -> None:
            await until_stored(partial(self.store, outcomes))
            _done(stored)

        await asyncio.gather(*(store_one(*one) for one in some))


def _done(stored: "asyncio.Future[None]") -> None:
    if not stored.done():
        stored.set_result(None)


async def until_stored(transaction: Callable[[], Awaitable[T]]) -> T:
    """Retry the transaction with back-off until its commit."""
    failures = 0
    while True:
        try:
            return await transaction()
        except Exception:
            failures += 1
            if failures in (1, 10, 100):
                log.exception("outcomes are not stored yet, trying again", extra={"failures": failures})
            await asyncio.sleep(back_off_s(failures))


def back_off_s(failures: int) -> float:
    """Return the seconds to rest after so many failures in a row."""
    return min(STORE_BACK_OFF_S[0] * 2.0 ** min(failures, 8), STORE_BACK_OFF_S[1])
