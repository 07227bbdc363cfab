"""Codes, and answers to people, that are being handed off, whether Kafka brought them or the ledger: nobody who waits
for a code waits for the operator's answer to another.

Of each gateway there are as many of these hand-offs at once as it has slots. What would go by it while all are taken
waits in the ledger, `pending`, and leaves together once one is free; what goes by another gateway does not wait for it.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from dispatch.gate.clearance import Decision, Permit

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Codes:
    """`slots`: of each gateway. Who asks whether one is free and only then decides may be one too many."""

    send: Callable[[Sequence[Permit]], Awaitable[None]]
    gateways: Collection[str]
    slots: int
    _going: dict[str, set[asyncio.Task[None]]] = field(default_factory=lambda: defaultdict(set))
    _stopping: bool = False

    @property
    def going(self) -> list[asyncio.Task[None]]:
        """Those that have not ended, or failed and nobody was told of it."""
        return [task for tasks in self._going.values() for task in tasks]

    @property
    def full(self) -> set[str]:
        """The gateways of which every slot is taken."""
        return {name for name, tasks in self._going.items() if sum(not task.done() for task in tasks) >= self.slots}

    def or_wait(self, decisions: Sequence[Decision]) -> list[Decision]:
        """As decided; but what may go by a gateway that has no slot is to wait for one, in the ledger."""
        full = self.full
        return [_waits(d) if d.permit is not None and d.permit.gateway in full else d for d in decisions]

    async def begin(self, permits: Sequence[Permit]) -> None:
        """Returns at once; but once the service stops nobody would wait for what begins, so this does."""
        if self._stopping:
            await self.send(permits)
            return
        of_each: dict[str, list[Permit]] = defaultdict(list)
        for permit in permits:
            of_each[permit.gateway].append(permit)
        for name, some in of_each.items():
            self._going[name].add(asyncio.ensure_future(self.send(some)))

    async def free(self) -> None:
        """Returns once there is a gateway with a slot. Raises what ended a hand-off: it is told of once, and whoever
        asks counts it; what it left `sending` the sweep finds."""
        if len(self.full) == len(self.gateways):
            await asyncio.wait(self.going, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in self.going if task.done()]
        for tasks in self._going.values():
            tasks.difference_update(ended)
        failed = [error for task in ended if (error := task.exception()) is not None]
        for each in failed[1:]:
            log.error("another hand-off of codes failed as well", exc_info=each)
        if failed:
            raise failed[0]

    async def end(self) -> None:
        """A planned stop waits for the answers to what has begun."""
        self._stopping = True
        if self.going:
            await asyncio.wait(self.going)

    async def close(self) -> None:
        """One that is not planned, or has taken too long, does not."""
        self._stopping = True
        left = self.going
        self._going.clear()
        for task in left:
            task.cancel()
        for ended in await asyncio.gather(*left, return_exceptions=True):
            if isinstance(ended, Exception):  # no timer counts it any more
                log.error("a hand-off failed as the service stopped", exc_info=ended)


def _waits(decision: Decision) -> Decision:
    """Its row says by which gateway, so that it is not looked at again and again meanwhile."""
    row = {**decision.row, "status": "pending", "due_at": decision.row["decided_at"]}
    return msgspec.structs.replace(decision, row=row, permit=None)
