"""Callbacks that arrive together are journalled together: while one transaction commits, those that come meanwhile wait
for the next. Alone, a callback waits for nobody; in a crowd, they share the cost of a commit.

One that cannot be kept takes no other with it: its transaction is tried again by halves. One that waits for a lock
holds up the others for PATIENCE_S.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.problems import DATABASE_DOWN
from common.service import Resources
from inbound import journal
from inbound.journal import Arrival, Kept

TOGETHER = 500  # in one transaction, at most
PATIENCE_S = 0.05  # a commit takes a tenth of that
GIVEN_UP_S = 5.0  # nobody waits for a transaction any more that takes so long, and Postgres may have fallen silent
AT_ONCE = 8  # transactions, of the pool's 20 connections


@dataclass(frozen=True, slots=True)
class _Waiting:
    arrival: Arrival
    answer: asyncio.Future[Kept]


class Arrivals:
    """The door of one process to the journal."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._doorkeeper: asyncio.Task[None] | None = None

    async def journalled(self, held: Resources[Any], arrival: Arrival) -> Kept:
        """Returns once it is committed. Raises what its own transaction raised; who gives up waiting is not journalled,
        unless it was on its way."""
        waiting = _Waiting(arrival, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._doorkeeper is None or self._doorkeeper.done():
            self._doorkeeper = asyncio.create_task(self._let_in(held))
        return await waiting.answer

    async def _let_in(self, held: Resources[Any]) -> None:
        """Until nobody waits."""
        going: set[asyncio.Task[None]] = set()
        while self._waiting:
            group, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
            task = asyncio.create_task(_journal(held, group))
            going.add(task)
            task.add_done_callback(going.discard)
            await asyncio.wait({task}, timeout=PATIENCE_S)
            if len(going) >= AT_ONCE:
                await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)


async def _journal(held: Resources[Any], group: Sequence[_Waiting]) -> None:
    """One transaction; if it fails, one for each half, so that what fails is alone in the end."""
    group = [waiting for waiting in group if not waiting.answer.done()]
    if not group:
        return
    try:
        async with asyncio.timeout(GIVEN_UP_S), held.database.begin() as tx:
            kept = await journal.write(tx, held, [waiting.arrival for waiting in group])
    except Exception as error:
        if len(group) == 1 or isinstance(error, DATABASE_DOWN):
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        middle = len(group) // 2
        await _journal(held, group[:middle])
        await _journal(held, group[middle:])
        return
    for waiting, one in zip(group, kept, strict=True):
        if not waiting.answer.done():
            waiting.answer.set_result(one)
