"""The transactional lane: hand-offs of transactional and service messages, from Kafka and from the ledger.

While all slots of a gateway are taken, its messages wait in the ledger as `pending`, and leave together once a slot is
free.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from dispatch.gate.candidate import Decision, Permit
from dispatch.messages.status import Status

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Codes:
    """The hand-offs in flight. `slots`: of each gateway; concurrent callers may exceed the slots."""

    send: Callable[[Sequence[Permit]], Awaitable[None]]
    gateways: Collection[str]
    slots: int
    _going: dict[str, set[asyncio.Task[None]]] = field(default_factory=lambda: defaultdict(set))
    _stopping: bool = False

    @property
    def going(self) -> list[asyncio.Task[None]]:
        """Return the hand-offs not collected by `free` yet."""
        return [task for tasks in self._going.values() for task in tasks]

    @property
    def full(self) -> set[str]:
        """Return the gateways without a free slot."""
        return {name for name, tasks in self._going.items() if sum(not task.done() for task in tasks) >= self.slots}

    def or_wait(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Turn each permit of a gateway without a free slot into a wait in the ledger."""
        full = self.full
        return [_waits(d) if d.permit is not None and d.permit.gateway in full else d for d in decisions]

    async def begin(self, permits: Sequence[Permit]) -> None:
        """Start the hand-offs, and return at once.

        After the stop has begun, await the hand-offs here: no later code would.
        """
        if self._stopping:
            await self.send(permits)
            return
        of_each: dict[str, list[Permit]] = defaultdict(list)
        for permit in permits:
            of_each[permit.gateway].append(permit)
        for name, some in of_each.items():
            self._going[name].add(asyncio.ensure_future(self.send(some)))

    async def free(self) -> None:
        """Return once a gateway has a free slot.

        Raise the error of a failed hand-off, once; the sweep recovers the messages.
        """
        if len(self.full) == len(self.gateways):
            await asyncio.wait(self.going, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in self.going if task.done()]
        for tasks in self._going.values():
            tasks.difference_update(ended)
        failed = [error for task in ended if (error := task.exception()) is not None]
        for each in failed[1:]:
            log.error("another transactional hand-off failed as well", exc_info=each)
        if failed:
            raise failed[0]

    async def end(self) -> None:
        """Wait for the running hand-offs."""
        self._stopping = True
        if self.going:
            await asyncio.wait(self.going)

    async def close(self) -> None:
        """Cancel the running hand-offs."""
        self._stopping = True
        left = self.going
        self._going.clear()
        for task in left:
            task.cancel()
        for ended in await asyncio.gather(*left, return_exceptions=True):
            if isinstance(ended, Exception):  # no timer counts the error any more
                log.error("a hand-off failed as the service stopped", exc_info=ended)


def _waits(decision: Decision) -> Decision:
    """Return the decision as `pending`, without a permit.

    The row names the gateway, so that the timer leaves the message while the gateway has no slot.
    """
    row = replace(decision.row, status=Status.PENDING, due_at=decision.row.decided_at)
    return replace(decision, row=row, permit=None)
