"""The mark writer: mark submits as begun in the ledger, many to a statement (`messages.begin_at_once`).

Submits that get a slot while a statement of their lane runs share the next statement, in the trace of the first.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from uuid import UUID

from common.telemetry import Trace, counter, current_trace, resume_trace
from dispatch.gate.candidate import Permit
from dispatch.messages.store import DecisionId
from dispatch.sending.outcome_writer import back_off_s

log = logging.getLogger(__name__)

NOT_BEGUN = counter(
    "sms_dispatch_submits_not_begun_total",
    "Submits that did not begin, by reason: recovery had closed a decision, or the mark failed.",
    ["result"],
)

Mark = Callable[[Mapping[DecisionId, Sequence[UUID]]], Awaitable[set[DecisionId]]]
_Waiting = tuple[Mapping[DecisionId, Sequence[UUID]], "asyncio.Future[bool]", Trace]


@dataclass(slots=True)
class MarkWriter:
    """The mark writer of one lane. `mark` runs one statement; `pause` rests after a failure."""

    mark: Mark
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    writer: asyncio.Task[None] | None = None
    _waiting: list[_Waiting] = field(default_factory=list)
    _failures: int = 0  # in a row

    async def may_begin(self, permits: Sequence[Permit]) -> bool:
        """Mark the submit of these messages as begun. Return False if the submit must not begin.

        Recovery has then closed a decision, or the mark may not be stored: the caller has the messages decided again. A
        mark stored after all says nothing of the new decision.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((by_decision(permits), answer, current_trace()))
        if self.writer is None or self.writer.done():
            self.writer = asyncio.create_task(self._write())
            self.writer.add_done_callback(self._ended)
        return bool(await answer)

    async def _write(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting, []
            may: set[DecisionId] | None = None
            resume_trace(some[0][2])
            try:
                may = await self._marked(some)
            finally:
                _answer(some, may)

    def _ended(self, writer: asyncio.Task[None]) -> None:
        """Refuse the submits that a cancelled writer left, also a writer cancelled before its first step."""
        if writer.cancelled() or writer.exception() is not None:
            some, self._waiting = self._waiting, []
            _answer(some, None)

    async def _marked(self, some: Sequence[_Waiting]) -> set[DecisionId] | None:
        """Return the decisions that may begin, or None after a failure and a rest: no submit begins without its mark.

        The callers have their messages decided again. Without the rest, a database that takes decisions and no marks
        would be asked for both again and again.
        """
        together: dict[DecisionId, list[UUID]] = defaultdict(list)
        for messages, _, _ in some:
            for decision, message_ids in messages.items():
                together[decision] += message_ids
        try:
            may = await self.mark(together)
        except Exception:
            self._failures += 1
            log.warning("submits are not marked as begun, and do not begin", exc_info=True)
            await self.pause(back_off_s(self._failures))
            return None
        self._failures = 0
        return may


def _answer(some: Sequence[_Waiting], may: Set[DecisionId] | None) -> None:
    """Answer the callers. `may`: the decisions that may begin; None: the mark failed."""
    for messages, answer, _ in some:
        begins = may is not None and messages.keys() <= may
        if not begins:
            NOT_BEGUN.labels("failed" if may is None else "closed").inc()
        if not answer.done():
            answer.set_result(begins)


def by_decision(permits: Sequence[Permit]) -> dict[DecisionId, list[UUID]]:
    """Return the messages by decision."""
    found: dict[DecisionId, list[UUID]] = defaultdict(list)
    for permit in permits:
        found[permit.candidate.partition, permit.decided_at].append(permit.candidate.message_id)
    return found
