"""The mark writer: mark submits as begun in the ledger, many to a transaction (`messages.begin`).

Submits that get a slot while a transaction of their lane commits share the next transaction.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from dispatch.gate.clearance import Permit
from dispatch.messages.store import DecisionId

log = logging.getLogger(__name__)

Mark = Callable[[Mapping[DecisionId, Sequence[UUID]]], Awaitable[set[DecisionId]]]


@dataclass(slots=True)
class MarkWriter:
    """The mark writer of one lane. `mark` runs one transaction."""

    mark: Mark
    writer: asyncio.Task[None] | None = None
    _waiting: list[tuple[Sequence[Permit], "asyncio.Future[bool]"]] = field(default_factory=list)

    async def may_begin(self, permits: Sequence[Permit]) -> bool:
        """Mark the submit of these messages as begun. Return False if the submit must not begin.

        Recovery has then closed a decision, or the mark may not be stored: the caller has the messages decided again. A
        mark stored after all says nothing of the new decision.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((permits, answer))
        if self.writer is None or self.writer.done():
            self.writer = asyncio.create_task(self._write())
        return bool(await answer)

    async def _write(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting, []
            try:
                may = await self.mark(by_decision([permit for permits, _ in some for permit in permits]))
            except Exception:  # fail closed: no submit begins without its mark
                log.warning("submits are not marked as begun, and do not begin", exc_info=True)
                may = set()
            for permits, answer in some:
                if not answer.done():
                    answer.set_result(may.issuperset(by_decision(permits)))


def by_decision(permits: Sequence[Permit]) -> dict[DecisionId, list[UUID]]:
    """Return the messages by decision."""
    found: dict[DecisionId, list[UUID]] = defaultdict(list)
    for permit in permits:
        found[permit.candidate.partition, permit.decided_at].append(permit.candidate.message_id)
    return found
