"""Commit items that arrive together in a shared transaction.

A transaction is in the trace of its first item. A failed transaction is tried again by halves, so a bad item takes no
other with it. A transaction that waits for a lock
delays the next by PATIENCE_S.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.service import Resources
from common.telemetry import Trace, current_trace, resume_trace
from common.web.problems import DATABASE_DOWN

AT_MOST = 500  # items in a transaction
PATIENCE_S = 0.05  # ten times a commit
GIVEN_UP_S = 5.0  # by then callers have left
AT_ONCE = 8  # of the pool's 20 connections
LINGER_S, LINGERS = 0.02, 2  # of items that may rest
ENOUGH = 25  # of them: half of what a transaction costs

T = TypeVar("T")
R = TypeVar("R")

Write = Callable[[AsyncConnection, Resources[Any], Sequence[T]], Awaitable[Sequence[R]]]
Shortcut = Callable[[Resources[Any], Sequence[T]], Awaitable[Sequence[R] | None]]


class _Waiting(msgspec.Struct, Generic[T, R], frozen=True):
    one: T
    answer: asyncio.Future[R]
    trace: Trace


class Together(Generic[T, R]):
    """The batch writer of a process. `write` returns a result per item, in order.

    `shortcut` comes first, with a transaction of its own: the results, or None where nothing was written. `at_once`:
    transactions at most. `rest` is awaited before the next transaction takes its items, so that more items come; then,
    where more came than answers can have brought, `pause` as long as others do. Callers that wait for an answer before
    they call again, over few connections, wait for nothing.
    """

    def __init__(
        self,
        write: Write[T, R],
        shortcut: Shortcut[T, R] | None = None,
        *,
        at_once: int = AT_ONCE,
        rest: Callable[[], Awaitable[None]] | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._write = write
        self._rest = rest
        self._pause = pause
        self._shortcut = shortcut
        self._at_once = at_once
        self._waiting: list[_Waiting[T, R]] = []
        self._doorkeeper: asyncio.Task[None] | None = None

    async def written(self, held: Resources[Any], one: T, within_s: float | None = None) -> R:
        """Return the result of `one` after the commit, or raise the transaction's error; TimeoutError after `within_s`.

        An item whose caller was cancelled, or given up on, is not written, unless its transaction has begun. Whether an
        item is kept is unknown after an error of `DATABASE_DOWN`: the commit itself may have failed, been given up or
        been cancelled. After OtherShard no item is.
        """
        loop = asyncio.get_running_loop()
        waiting: _Waiting[T, R] = _Waiting(one, loop.create_future(), current_trace())
        self._waiting.append(waiting)
        if self._doorkeeper is None or self._doorkeeper.done():
            self._doorkeeper = asyncio.create_task(self._let_in(held))
            self._doorkeeper.add_done_callback(self._left)
        if within_s is None:
            return await waiting.answer
        given_up = loop.call_later(within_s, _give_up, waiting.answer)  # far less than a timeout
        try:
            return await waiting.answer
        finally:
            given_up.cancel()

    async def _let_in(self, held: Resources[Any]) -> None:
        """Begin transactions while items wait."""
        going: set[asyncio.Task[None]] = set()
        while self._waiting:
            group, self._waiting = self._waiting[:AT_MOST], self._waiting[AT_MOST:]
            task = asyncio.create_task(self._commit(held, group))
            going.add(task)
            task.add_done_callback(going.discard)
            task.add_done_callback(partial(_answer_all, group))
            await asyncio.wait({task}, timeout=PATIENCE_S)
            if len(going) >= self._at_once:
                await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
            unasked = bool(self._waiting)
            if self._rest is not None:
                await self._rest()
            if self._rest is not None and (unasked or len(self._waiting) > len(group)):
                await self._while_more_come()

    async def _while_more_come(self) -> None:
        for _ in range(LINGERS):
            many = len(self._waiting)
            if many >= ENOUGH:
                return
            await self._pause(LINGER_S)
            if len(self._waiting) == many:
                return

    def _left(self, doorkeeper: asyncio.Task[None]) -> None:
        """Answer the items that a cancelled doorkeeper leaves; a new doorkeeper lets them in itself."""
        if doorkeeper is self._doorkeeper:
            left, self._waiting = self._waiting, []
            _answer_all(left, doorkeeper)

    async def _commit(self, held: Resources[Any], group: Sequence[_Waiting[T, R]]) -> None:
        """Write a group; on failure write each half, unless the database is down."""
        group = [waiting for waiting in group if not waiting.answer.done()]
        if not group:
            return
        resume_trace(group[0].trace)
        try:
            async with asyncio.timeout(GIVEN_UP_S):
                results = await self._written_all(held, [waiting.one for waiting in group])
        except Exception as error:
            if len(group) == 1 or isinstance(error, DATABASE_DOWN):
                for waiting in group:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                return
            middle = len(group) // 2
            await self._commit(held, group[:middle])
            await self._commit(held, group[middle:])
            return
        for waiting, result in zip(group, results, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(result)

    async def _written_all(self, held: Resources[Any], items: Sequence[T]) -> Sequence[R]:
        results = await self._shortcut(held, items) if self._shortcut is not None else None
        if results is None:
            async with held.database.begin() as tx:
                results = await self._write(tx, held, items)
        return results


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError("the transaction of the item takes too long: send the item again"))


def _answer_all(group: Sequence[_Waiting[Any, Any]], task: asyncio.Task[None]) -> None:
    """Answer each item of an ended task that has no answer yet, or its caller waits for ever."""
    for waiting in group:
        if not waiting.answer.done():
            cancelled = ConnectionAbortedError("the transaction was cancelled: send the item again")
            waiting.answer.set_exception((None if task.cancelled() else task.exception()) or cancelled)
