"""The timers: decide due messages afresh, wake messages after a pause, recover what a crash left, match early DLRs.

[name]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process: deciding afresh
[before-due-commit, after-due-commit, after-transactional-due-commit], the end of a pause [before-wake-commit,
after-wake-commit] and its note [before-woken-note-commit, after-woken-note-commit], messages a crash left `sending`
[before-recovery-commit, after-recovery-commit], also before their submit began [before-give-back-commit,
after-give-back-commit], open opt-outs [before-open-enforcement-commit, after-open-enforcement-commit], early DLRs
[before-early-receipts-commit, after-early-receipts-commit].
"""

import asyncio
import logging
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from common.db.database import Database, plan_now
from common.db.timer import Timer, Worker
from common.telemetry import counter, gauge
from dispatch.gate.candidate import Decision, shared_of, stored
from dispatch.gate.clearance import Clearance
from dispatch.gateways import Gateway, SendError
from dispatch.lane import Due, Lane
from dispatch.messages import enforcement, events, waking_store
from dispatch.messages import store as messages
from dispatch.messages.status import Status
from dispatch.projection import store as projection
from dispatch.projection.limits import is_fresh
from dispatch.sending import outcomes, store
from dispatch.sending.mark_writer import by_decision
from dispatch.sending.pipeline import Handoff
from dispatch.sending.receipts import note, settle_receipts

log = logging.getLogger(__name__)

RECOVERED = counter(
    "sms_dispatch_recovered_total", "Messages in doubt after a crash, by result of the recovery.", ["as"]
)
OLDEST_OPEN = gauge(
    "sms_dispatch_oldest_open_enforcement_seconds",
    "Seconds since the webhook of the oldest opt-out applied and not yet enforced; 0 without one.",
)

LOOK_EVERY_S = 0.25
IDLE_S = 1.0
WOKEN_AT_ONCE = 1000
TOLD_AT_ONCE = 4  # decisions on codes that a NOTIFY has named: a connection of the pool each
TOLD_OF_ONE = 2  # of them of one partition
QUESTIONS_AT_ONCE = 4  # partitions in which due questions are decided: likewise
SWEEP_EVERY_S = 1.0
FORGET_AFTER = timedelta(seconds=5)  # most messages have an outcome
LOOK_UP_EVERY_S = 30.0
LOOK_UPS = 4  # of one gateway, at once
LOOK_UP_AFTER = tuple(timedelta(minutes=minutes) for minutes in (1, 10, 60, 360))  # the first may be too soon


@dataclass(slots=True)
class _LookUp:
    """A pass over the `unknown` messages of one gateway. `after`: the last message asked about.

    A `failed` look-up rests the pass; a message failing twice in a row is skipped until due again. A `done` pass rests
    too, because the timer does not pause while other gateways have more.
    """

    begun_at: datetime
    spans: Sequence[tuple[datetime, datetime]]
    after: tuple[datetime, UUID]
    failed: UUID | None = None
    rests_until: datetime | None = None
    done: bool = False


class Timers:
    """The workers which act without an event.

    `sending_timeout`: longer than any live hand-off, with its permit and recording.
    """

    def __init__(
        self,
        database: Database,
        clearance: Clearance,
        handoff: Handoff,
        *,
        batch: int,
        partitions: Sequence[int],
        sending_timeout: timedelta,
    ) -> None:
        self._database = database
        self._clearance = clearance
        self._handoff = handoff
        self._batch = batch
        self._partitions = partitions
        self._sending_timeout = sending_timeout
        self._told: set[int] = set()  # partitions a NOTIFY has named
        self._deciding_told: dict[asyncio.Task[None], int] = {}  # the partition of each
        self._looks: dict[str, _LookUp] = {}  # by gateway

    def codes(self) -> Worker:
        """Return the worker of the transactional lane."""
        looking = Timer("due codes", self.wake_codes, LOOK_EVERY_S, self._database, idle_s=IDLE_S)
        questions = Timer("due questions", self.wake_questions, LOOK_EVERY_S, self._database, idle_s=IDLE_S)
        told = Timer("codes", self.wake_told_codes, IDLE_S, self._database, waking_store.CODES_DUE, self._hear)

        async def run(stop: asyncio.Event) -> None:
            try:
                await asyncio.gather(looking.run(stop), questions.run(stop), told.run(stop))
                if self._deciding_told:
                    await asyncio.wait(self._deciding_told)
                await self._handoff.codes.end()
            finally:
                for deciding in self._deciding_told:
                    deciding.cancel()
                for ended in await asyncio.gather(*self._deciding_told, return_exceptions=True):
                    if isinstance(ended, Exception):  # no timer counts the error any more
                        log.error("a decision on codes failed as the service stopped", exc_info=ended)
                await self._handoff.codes.close()

        return Worker(looking.name, run)

    def workers(self) -> list[Worker]:
        """Return all other workers."""
        timers = (
            Timer("due marketing", self.wake_marketing, LOOK_EVERY_S, self._database, waking_store.DUE, idle_s=IDLE_S),
            Timer("paused no more", self.wake_controlled, LOOK_EVERY_S, self._database, idle_s=IDLE_S),
            Timer("sweep", self.sweep, SWEEP_EVERY_S, self._database),
            Timer("look up", self.look_up, LOOK_UP_EVERY_S, self._database),
        )
        return [Worker(timer.name, timer.run) for timer in timers]

    async def wake_marketing(self) -> bool:
        """Hand off due marketing messages, and return whether any row changed.

        While the gateways refuse marketing, a decision would only defer the messages again.
        """
        await self._handoff.in_hand.room()
        if self._handoff.traffic.refuses_marketing:
            return False
        return await _any([self._wake_marketing_of(partition) for partition in await self._due(Due.MARKETING)])

    async def wake_codes(self) -> bool:
        """Hand off due messages that no opt-out may forbid, and return whether any row changed."""
        await self._handoff.codes.free()
        return await _any([self._wake_codes_of(partition, Due.CODES) for partition in await self._due(Due.CODES)])

    async def wake_questions(self) -> bool:
        """Hand off due questions, and return whether any row changed. An opt-out holds up questions, and no code."""
        await self._handoff.codes.free()
        at_once = asyncio.Semaphore(QUESTIONS_AT_ONCE)

        async def wake(partition: int) -> bool:
            async with at_once:
                return await self._wake_codes_of(partition, Due.QUESTIONS)

        return await _any([wake(partition) for partition in await self._due(Due.QUESTIONS)])

    async def wake_told_codes(self) -> bool:
        """Begin to hand off messages in the partitions named by a NOTIFY. Always return False.

        A search for due partitions would cost four round trips for each message. A code waits for the decision on
        another only where TOLD_OF_ONE of its partition, or TOLD_AT_ONCE of all, are under way. The error of a failed
        decision is raised once, by a later call; the search finds its messages.
        """
        await self._handoff.codes.free()
        failed = self._ended_told()
        for partition in sorted(self._told):
            if list(self._deciding_told.values()).count(partition) >= TOLD_OF_ONE:
                continue  # one of them goes on with it
            while len(self._deciding_told) >= TOLD_AT_ONCE:
                await asyncio.wait(self._deciding_told, return_when=asyncio.FIRST_COMPLETED)
                failed += self._ended_told()
            self._deciding_told[asyncio.create_task(self._decide_told(partition))] = partition
        _raise_first(failed)
        return False

    async def _decide_told(self, partition: int) -> None:
        """Decide the due codes of a partition, and again where a NOTIFY names the partition meanwhile."""
        while partition in self._told:
            self._told.discard(partition)
            await self._wake_codes_of(partition, Due.CODES)

    def _ended_told(self) -> list[BaseException | None]:
        """Forget the decisions that have ended, and return their errors."""
        ended = [deciding for deciding in self._deciding_told if deciding.done()]
        for deciding in ended:
            del self._deciding_told[deciding]
        return [deciding.exception() for deciding in ended]

    def _hear(self, partition: str) -> None:
        if partition:  # a NOTIFY without a payload names no partition
            self._told.add(int(partition))

    async def _due(self, due: Due) -> Collection[int]:
        async with self._database.begin() as tx:
            return await store.due_partitions(tx, self._partitions, datetime.now(UTC), due)

    async def _wake_marketing_of(self, partition: int) -> bool:
        """Decide one batch of due messages afresh, and hand off the permitted."""
        async with self._clearance.one_at_a_time:
            # checked after the wait: another partition may have filled the hand-off
            if self._handoff.in_hand.is_behind or self._handoff.traffic.refuses_marketing:
                return False
            decisions = await self._decide_due(partition, Due.MARKETING)
        if permits := [d.permit for d in decisions if d.permit]:
            await self._handoff.send(permits)
        return bool(decisions)

    async def _wake_codes_of(self, partition: int, due: Due) -> bool:
        decisions = await self._decide_due(partition, due)
        if permits := [d.permit for d in decisions if d.permit]:
            await self._handoff.codes.begin(permits)
        return any(d.row.status is not Status.PENDING for d in decisions)  # `pending`: waits for a slot

    async def _decide_due(self, partition: int, due: Due) -> list[Decision]:
        """Decide a batch of due messages afresh; codes without the partition's lock, which opt-outs hold."""
        codes, traffic, marketing = self._handoff.codes, self._handoff.traffic, due is Due.MARKETING
        limit = min(self._batch, self._handoff.in_hand.at_once)  # as at intake
        async with self._database.begin() as tx:
            if due is Due.CODES:
                await plan_now(tx)
            else:
                await messages.lock_partition(tx, partition, due.lane, planned_now=True)
            now = datetime.now(UTC)
            if marketing:
                as_of = await projection.watermark(tx, partition, oldest_of=self._clearance.oldest_of)
                if not is_fresh(as_of, now, self._clearance.limits):
                    return []  # no verdict could be an Allow
            waited_for = [] if marketing else [name for name in codes.full if traffic.breaker(name) != "open"]
            rows = await store.claim_due(tx, partition, now, limit, due, waited_for=waited_for)
            if not rows:
                return []
            decisions = await self._clearance.decide(
                tx, partition, [stored(row) for row in rows], locked=due is not Due.CODES
            )
            if not marketing:
                decisions = codes.or_wait(decisions)
            changed = await messages.update_decisions(tx, [d.row for d in decisions], shared_of(decisions))
            await events.append_changes(tx, [change for change in changed if change.state.status != "sending"])
        return decisions

    async def wake_controlled(self) -> bool:
        """Make messages due whose campaign may go on, or is cancelled; return whether there were any.

        A page per campaign and tick keeps transactions short.
        """
        async with self._database.begin() as tx:
            campaigns = await store.campaigns_to_wake(tx)
        any_woken = False
        for campaign_id, version, cancelled in campaigns:
            async with self._database.begin() as tx:
                woken = await waking_store.wake_controlled(tx, campaign_id, WOKEN_AT_ONCE, cancelled=cancelled)
            if woken < WOKEN_AT_ONCE:
                async with self._database.begin() as tx:
                    await projection.note_woken(tx, campaign_id, version, cancelled=cancelled)
            any_woken |= woken > 0
        return any_woken

    async def sweep(self) -> bool:
        """Resolve messages a crash left, enforce opt-outs left open, match early DLRs.

        Return whether a message was resolved or a DLR matched.
        """
        again = await self._resolve_left_sending()
        await self._enforce_left_open()
        async with self._database.begin() as tx:
            matched = await store.take_matching_early_receipts(tx, self._batch)
            complaints = await settle_receipts(tx, matched, keep_early=False)
            await messages.forget_sending(tx, FORGET_AFTER)
        note(complaints, self._handoff.traffic)
        return again or bool(matched)

    async def look_up(self) -> bool:
        """Ask gateways about messages whose answer was lost, one page each; return whether there is more.

        A message stays `unknown` after a few look-ups in vain.
        """
        gateways = [g for g in self._handoff.traffic.gateways.values() if g.capabilities.looks_up]
        return any(await asyncio.gather(*map(self._look_up, gateways)))

    async def _look_up(self, gateway: Gateway) -> bool:
        look = self._looks.get(gateway.name)
        if look is not None and look.rests_until is not None and datetime.now(UTC) < look.rests_until:
            return False
        if look is None or look.done:
            look = self._looks[gateway.name] = _due_for_a_look(look)
        async with self._database.begin() as tx:
            rows = await store.unknown_of(tx, gateway.name, look.spans, look.after, self._batch)
        wanted = list({row.message_id: row for row in rows}.values())
        asked = await self._ask(gateway, wanted)
        rest = timedelta(seconds=LOOK_UP_EVERY_S / 2)
        if fails := asked < len(wanted):
            look.rests_until = datetime.now(UTC) + rest
            failed = wanted[asked].message_id
            asked, look.failed = asked + (look.failed == failed), failed
        elif len(rows) < self._batch:
            look.done, look.rests_until = True, look.begun_at + rest
            return False
        if asked:
            look.after = wanted[asked - 1].unknown_since, wanted[asked - 1].message_id
        return not fails

    async def _ask(self, gateway: Gateway, rows: Sequence[outcomes.LostAnswer]) -> int:
        """Look up the rows, until a look-up fails; return how many precede the failure."""
        left = iter(enumerate(rows))
        failed = len(rows)

        async def one_after_another() -> None:
            nonlocal failed
            for place, row in left:
                try:
                    found = await gateway.look_up(str(row.message_id), row.subject_id)
                except SendError as error:
                    failed = min(failed, place)
                    log.warning("the gateway's lookup failed", extra={"gateway": gateway.name, "why": str(error)})
                    return
                RECOVERED.labels("looked_up" if found else "not_found").inc()
                if found is not None:
                    await self._handoff.learn(row, found)
                if failed < len(rows):
                    return

        await asyncio.gather(*(one_after_another() for _ in range(LOOK_UPS)))
        return failed

    async def _enforce_left_open(self) -> None:
        """Enforce opt-outs which the hand-offs left open (`Handoff._enforce`)."""
        async with self._database.begin() as tx:
            waiting = await store.open_enforcements_of(tx, datetime.now(UTC) - timedelta(seconds=SWEEP_EVERY_S))
            enforced = {event.subject_id for event in await enforcement.enforce(tx, list(waiting))}
        left = [received_at for subject_id, received_at in waiting.items() if subject_id not in enforced]
        OLDEST_OPEN.set((datetime.now(UTC) - min(left)).total_seconds() if left else 0)

    def _remembers(self, left: store.LeftSending, now: datetime) -> bool:
        """Return whether the gateway still takes a second submit for the first."""
        gateway = self._handoff.traffic.gateways.get(left.row.gateway or "")
        if gateway is None or not gateway.capabilities.idempotent:
            return False
        return now - left.since < gateway.capabilities.idempotent_for

    async def _resolve_left_sending(self) -> bool:
        """Resolve a batch of the first partition with messages left by a crash; return whether there was any.

        A partition whose lock or rows are locked delays no other.
        """
        async with self._database.begin() as tx:
            partitions = await store.partitions_left_sending(tx, self._sending_timeout)
        for partition in partitions:
            if await self._resolve_left_in(partition):
                return True
        return False

    async def _resolve_left_in(self, partition: int) -> bool:
        """Resolve one batch of a partition; return whether there was any.

        A message whose submit never began is decided afresh. An idempotent gateway gets a begun message which may still
        go once more, under the same reference, for as long as the gateway surely remembers the reference. Every other
        message becomes `unknown` until a DLR, and is not sent again: it may have left.
        """
        async with self._database.begin() as tx:
            if not await messages.try_lock_partition(tx, partition, Lane.MARKETING):
                return False
            # read again under the lock: a live owner has renewed its decision meanwhile
            await messages.close_sending(tx, partition, self._sending_timeout)
            found = await store.claim_left_sending(tx, partition, self._batch)
            permits = []
            now = datetime.now(UTC)
            may_go_again = [left for left in found if left.begun and left.row.receipt is None]
            if again := [stored(left.row) for left in may_go_again if self._remembers(left, now)]:
                decisions = await self._clearance.decide(tx, partition, again, locked=True, again=True)
                allowed = [d for d in decisions if d.permit]
                await messages.update_decisions(tx, [d.row for d in allowed], shared_of(allowed))
                permits = [d.permit for d in allowed if d.permit]
                await messages.begin(tx, by_decision(permits))  # the first submit may have left
            permitted = {p.candidate.message_id for p in permits}
            ended = [
                outcomes.nobody_knows(left.row) if left.begun else outcomes.never_left(left.row, now)
                for left in found
                if left.row.message_id not in permitted
            ]
            settled = await messages.settle(tx, ended)
            await events.append_changes(tx, settled)
            await enforcement.enforce(tx, [change.state.subject_id for change in settled])
        if not found:
            return False
        due = sum(change.state.status == "deferred" for change in settled)
        became = {"unknown": len(settled) - due, "resubmitted": len(permits), "due": due}
        for status, many in became.items():
            RECOVERED.labels(status).inc(many)
        log.warning("resolved messages in doubt after a crash", extra=became)
        await self._handoff.send(permits)
        return True


async def _any(wakes: Sequence[Awaitable[bool]]) -> bool:
    """Return whether any of these changed a row. No wake outlives the call."""
    woken = await asyncio.gather(*wakes, return_exceptions=True)
    _raise_first(woken)
    return any(woken)


def _raise_first(ended: Sequence[object]) -> None:
    """Raise the first error among these, and log the others."""
    failed = [each for each in ended if isinstance(each, BaseException)]
    for each in failed[1:]:
        log.error("due messages of another partition failed as well", exc_info=each)
    if failed:
        raise failed[0]


def _due_for_a_look(last: _LookUp | None) -> _LookUp:
    now, width = datetime.now(UTC), timedelta(seconds=2 * LOOK_UP_EVERY_S)
    since = min(now - width, last.begun_at if last else now)  # no message is missed after a slow pass
    spans = [(since - age, now - age) for age in LOOK_UP_AFTER]
    return _LookUp(now, spans, after=(min(begin for begin, _ in spans), UUID(int=0)))
