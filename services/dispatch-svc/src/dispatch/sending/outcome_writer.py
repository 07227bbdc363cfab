"""The batch writer: store the outcomes of submits in the ledger, many to a transaction.

Outcomes that arrive while a transaction of their lane commits share the next transaction, in the trace of the first.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from common.telemetry import Trace, current_trace, resume_trace
from dispatch.messages.row import Outcome

log = logging.getLogger(__name__)

T = TypeVar("T")

STORE_BACK_OFF_S = (0.1, 5.0)
SETTLED_AT_ONCE = 1_000  # target size of a transaction; the last submit may exceed it
WRITERS = 3  # of one lane; another starts when the queue fills a transaction

_Waiting = tuple[Sequence[Outcome], "asyncio.Future[None]", Trace]
_Tasks = set["asyncio.Task[None]"]


@dataclass(slots=True)
class Storing:
    """The batch writer of one lane. `store` runs one transaction.

    A task that is cancelled leaves its outcomes to another task: the ledger must not lose the outcome of a message
    already handed off. At the end of the process the callers are cancelled as well, and the next process recovers.
    """

    store: Callable[[Sequence[Outcome]], Awaitable[None]]
    writers: _Tasks = field(default_factory=set)
    stubborn: _Tasks = field(default_factory=set)  # storing submit by submit
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _many: int = 0  # queued outcomes

    async def stored(self, outcomes: Sequence[Outcome]) -> None:
        """Queue the outcomes, and return after their commit."""
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((outcomes, stored, current_trace()))
        self._many += len(outcomes)
        if not self.writers or (len(self.writers) < WRITERS and self._many >= SETTLED_AT_ONCE):
            self._start(self._write, [], self.writers)
        await stored

    def _start(
        self, work: Callable[[list[_Waiting]], Coroutine[None, None, None]], hand: list[_Waiting], tasks: _Tasks
    ) -> None:
        """Start a task. `hand`: what the task has taken from the queue and not stored yet."""
        task = asyncio.create_task(work(hand))
        tasks.add(task)
        task.add_done_callback(partial(self._ended, hand, tasks))

    def _ended(self, hand: list[_Waiting], tasks: _Tasks, task: "asyncio.Task[None]") -> None:
        """Queue again what a cancelled task left, also a task cancelled before its first step."""
        tasks.discard(task)
        self._waiting.extendleft(reversed(hand))
        self._many += sum(len(outcomes) for outcomes, _, _ in hand)
        if not self.writers and any(not stored.done() for _, stored, _ in self._waiting):
            self._start(self._write, [], self.writers)

    async def _write(self, hand: list[_Waiting]) -> None:
        """Store queued outcomes until the queue is empty.

        Each transaction stays short: the enforcement of an opt-out may wait.
        """
        while self._waiting:
            together: list[Outcome] = []
            while self._waiting and len(together) < SETTLED_AT_ONCE:
                hand.append(self._waiting.popleft())
                together += hand[-1][0]
            self._many -= len(together)
            resume_trace(hand[0][2])
            try:
                await self.store(together)
            except Exception:
                self._start(self._store_one_by_one, hand.copy(), self.stubborn)
            else:
                for _, stored, _ in hand:
                    _done(stored)
            hand.clear()

    async def _store_one_by_one(self, hand: list[_Waiting]) -> None:
        """Store the outcomes of each submit alone: a failing submit then delays no other. The retry never ends."""

        async def store_one(one: _Waiting) -> None:
            outcomes, stored, trace = one
            resume_trace(trace)
            await until_stored(partial(self.store, outcomes))
            hand.remove(one)
            _done(stored)

        await asyncio.gather(*map(store_one, hand))


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
