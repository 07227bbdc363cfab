"""The pipeline: a message from Kafka to the operator and into the ledger. The file follows the order of events:

    consume   `Intake.take_marketing`, `Intake.take`: a batch of one partition, in the transaction which steps its
              offset; marketing on hold stays in Kafka
    decide    `Clearance.decide`, under the partition's lock, codes without [before-decide]
    insert    `messages.insert_messages`: each message with its verdict, a permitted message as `sending`.
              Commit [before-insert-commit, after-insert-commit, before-transactional-insert-commit,
              after-transactional-insert-commit]
    begin     `Handoff.send`: in batches, each on valid permits. A batch with a slot is marked as begun
              (`mark_writer.py`) [before-mark, after-mark-then-opt-out]. Messages which wait for a slot or a rate have
              no mark [during-submit-others-waiting]
    submit    with no transaction open. `_submit` is the only place where a message leaves [before-submit,
              during-submit, after-submit, after-transactional-submit]
    record    `Handoff._store_outcomes`, with the events of the outcomes. Commit [before-outcomes-commit,
              after-outcomes-commit, before-throttled-commit, after-throttled-commit]. Then the waiting opt-outs of
              these subjects are enforced [before-enforcement-commit, after-enforcement-commit], and the relay
              publishes the events [before-publish, after-publish]

[name]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process. Off the common path: a text
updated [before-text-update-commit, after-text-update-commit], a permit renewed [before-renewal-commit,
after-renewal-commit], messages not yet submitted handed back [after-hand-back-commit], half of a refused batch
[after-half-batch-submit], an opt-out during a downtime [after-insert-commit-then-opt-out, after-submit-then-opt-out].

Deferred messages, and messages left `sending` by a crash, enter at `Handoff.send` (`timers.py`). A submit without a
known end is `unknown`, and dispatch never blindly sends the message again. A `sending` message without the mark never
left: after a crash it is decided afresh. A message in hand and not yet submitted stays with this process until another
process decides on the message (`store.still_ours`) or recovery gives the message back, even if recovery has marked it
`unknown`.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import CAMPAIGN_REQUESTS, DISPATCH_REQUESTS
from common.db.database import Database
from common.db.timer import uptime_s
from common.kafka.subscription import After, Hold, Received, Subscription
from common.sms.msisdn import territory_of
from common.telemetry import counter, histogram, tracing
from dispatch.gate.candidate import Candidate, Decision, Permit, shared_of, stored, undecided
from dispatch.gate.clearance import NOT_OPENED, Clearance, give_back
from dispatch.gate.deciding import Opened
from dispatch.gateways import (
    Late,
    Misconfigured,
    NotNow,
    Refused,
    Result,
    SendError,
    Submit,
    Throttled,
    ThrottledUntil,
    Unanswered,
    Unreachable,
)
from dispatch.gateways.circuit_breaker import BreakerState, Failure
from dispatch.gateways.pool import Traffic
from dispatch.lane import Lane
from dispatch.messages import enforcement, events, rights_store
from dispatch.messages import store as messages
from dispatch.messages.reasons import Reason
from dispatch.messages.row import MessageRow, Outcome
from dispatch.messages.status import Cause, Status, may_follow
from dispatch.messages.store import DecisionId
from dispatch.projection import store as projection
from dispatch.projection.limits import is_fresh
from dispatch.sending import outcomes, store
from dispatch.sending.in_hand import InHand
from dispatch.sending.mark_writer import MarkWriter, by_decision
from dispatch.sending.outcome_writer import Storing, until_stored
from dispatch.sending.reading import Requests, count_of, messages_in, read
from dispatch.sending.receipts import tell_what_the_provider_refuses
from dispatch.sending.requested import count_first_hand_offs
from dispatch.sending.second_sms import ACCEPTED_TWICE, look_for_second_sms
from dispatch.sending.transactional import Codes

log = logging.getLogger(__name__)

OUTCOMES = counter("sms_dispatch_outcomes_total", "Hand-offs by outcome.", ["gateway", "outcome"])
SUBMIT = histogram("sms_dispatch_submit_seconds", "Duration of a submit until the gateway's answer.", ["gateway"])
REDECIDED = counter(
    "sms_dispatch_permits_lapsed_total",
    "Messages that return to the gate, because a permit lapsed or a gateway refuses.",
)
REPEATED = counter(
    "sms_dispatch_repeated_requests_total",
    "Repeated requests: `answered` from the ledger; `in_hand`, an outcome follows; `new`, the first request was lost.",
    ["result"],
)

_Alike = tuple[int, Lane, bool]  # partition, lane, `again`
_Lapsed = tuple[list[Permit], "asyncio.Task[dict[UUID, Permit]]"]

# well within `settle_margin_s`; a gateway ends its submit in time, and knows which messages had begun
SUBMIT_LATE_S = 2.0


class _Decided(NamedTuple):
    """A batch decided and not stored.

    `elsewhere`: requests of other partitions. `known`: repeated requests on record, `repeated` the others.
    """

    decisions: list[Decision]
    elsewhere: Sequence[Candidate]
    known: Sequence[MessageRow]
    repeated: Mapping[UUID, bool]


class Intake:
    """The consumers of both lanes."""

    def __init__(
        self, clearance: Clearance, handoff: "Handoff", *, batch: int, partitions: int, settle_s: float = 0.0
    ) -> None:
        self._partitions = partitions
        self._settle_s = settle_s
        self._clearance = clearance
        self._handoff = handoff
        self._batch = batch

    def campaigns(self) -> Subscription:
        return Subscription(
            "dispatch.campaign-requests",
            CAMPAIGN_REQUESTS,
            self.take_marketing,
            max_records=self._batch,
            settle_s=self._settle_s,
            on_assigned=self._handoff.traffic.holds,
            may_take=lambda: self._handoff.in_hand.may_take,
            weigh=messages_in,
            handle_rest=partial(self.take_marketing, rest=True),
        )

    def codes(self) -> Subscription:
        return Subscription(
            "dispatch.requests",
            DISPATCH_REQUESTS,
            self.take,
            max_records=self._batch,
            on_assigned=self._handoff.traffic.holds,
        )

    async def take_marketing(self, tx: AsyncConnection, batch: list[Received], *, rest: bool = False) -> After | None:
        """Decide on a batch of marketing messages, and return their hand-off. `rest`: see `read`.

        Raise Hold while the watermark is stale, the gateways refuse marketing, or the hand-off is behind: the batch
        then waits in Kafka, without verdicts.
        """
        in_hand = self._handoff.in_hand
        if in_hand.is_behind or self._handoff.traffic.refuses_marketing:
            raise Hold
        with in_hand.deciding(count_of(batch)):
            await self._only_while_fresh(tx, batch[0].partition)
            requests = read(batch, self._partitions, rest=rest)
            opened = await self._clearance.open(list(requests.candidates.values()))
            async with self._clearance.one_at_a_time:
                if in_hand.is_behind or self._handoff.traffic.refuses_marketing:  # after waiting for the lock
                    raise Hold
                decided = await self._decide(tx, batch[0].partition, requests, opened, Lane.MARKETING)
            return await self._insert(tx, decided, Lane.MARKETING)  # while the next partition is decided

    async def take(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """Decide on a batch of transactional or service messages, and return their hand-off."""
        lane, requests = Lane.TRANSACTIONAL, read(batch, self._partitions)
        return await self._insert(tx, await self._decide(tx, batch[0].partition, requests, NOT_OPENED, lane), lane)

    async def _only_while_fresh(self, tx: AsyncConnection, partition: int) -> None:
        as_of = await projection.watermark(tx, partition, oldest_of=self._clearance.oldest_of)
        if not is_fresh(as_of, datetime.now(UTC), self._clearance.limits):
            raise Hold

    async def _decide(
        self, tx: AsyncConnection, partition: int, requests: Requests, opened: Mapping[UUID, Opened], lane: Lane
    ) -> _Decided:
        """Decide on the requests that the ledger does not have. Marketing: raise Hold while the watermark is stale."""
        candidates, reworded, repeated = requests.candidates, requests.reworded, requests.repeated
        locked = sorted(requests.partitions)
        if reworded:
            for each in locked:
                await messages.lock_partition(tx, each, Lane.MARKETING)
            if not await rights_store.reword(tx, reworded):
                raise Hold  # at the retry the message has left, or waits again
        if repeated:
            for each in locked:
                await messages.lock_partition(tx, each, lane)
            await messages.lift_versions(tx, requests.reported)
        known = await messages.on_record(tx, repeated) if repeated else []
        for row in known:
            del candidates[row.message_id], repeated[row.message_id]
        here = [candidate for candidate in candidates.values() if candidate.partition == partition]
        decisions: list[Decision] = []
        if here:
            held, marketing = bool(reworded or repeated), lane is Lane.MARKETING
            decisions = await self._clearance.decide(tx, partition, here, opened, locked=held, only_fresh=marketing)
        return _Decided(decisions, [c for c in candidates.values() if c.partition != partition], known, repeated)

    async def _insert(self, tx: AsyncConnection, decided: _Decided, lane: Lane) -> After | None:
        """Store the decisions, with the events of those without a permit, and return the hand-off of the others."""
        decisions, elsewhere, known, repeated = decided
        await self._leave_to_the_timers(tx, elsewhere)
        if lane is Lane.TRANSACTIONAL:
            decisions = self._handoff.codes.or_wait(decisions)
        new = await messages.insert_messages(tx, [d.row for d in decisions], shared_of(decisions))
        if len(new) < len(decisions):
            give_back([d for d in decisions if d.candidate.message_id not in new])
            decisions = [d for d in decisions if d.candidate.message_id in new]
        # an answer may follow a newer change: each reader of these events keeps the highest version
        answers = [events.changed(row) for row in known if row.status is not Status.SENDING]
        await events.append_changes(tx, answers + events.all_changed(d.row for d in decisions if d.permit is None))
        if known or repeated:
            lost = sum(repeated.values())
            _count_repeated(len(answers), len(known) - len(answers) + len(repeated) - lost, lost)
        permits = [d.permit for d in decisions if d.permit]
        if not permits:
            return None

        async def hand_off() -> None:
            await (self._handoff.send(permits) if lane is Lane.MARKETING else self._handoff.codes.begin(permits))

        return hand_off

    async def _leave_to_the_timers(self, tx: AsyncConnection, candidates: Sequence[Candidate]) -> None:
        """Store requests that name people by an older outer key: they are not of the partition of the decision.

        The timers decide each in the partition of its person: codes at once, questions within a second.
        """
        now, by_partition = datetime.now(UTC), defaultdict[int, list[Candidate]](list)
        for candidate in candidates:
            by_partition[candidate.partition].append(candidate)
        for some in by_partition.values():
            await messages.insert_messages(tx, [undecided(candidate, now) for candidate in some])


@dataclass(slots=True)
class Handoff:
    """The hand-off of permitted messages to gateways, up to their recorded outcomes.

    `submits_in_flight`: of one gateway in each lane, over all partitions. No lane waits for the other, and no gateway's
    messages for another gateway.
    """

    database: Database
    traffic: Traffic
    clearance: Clearance
    submits_in_flight: int
    codes: Codes = field(init=False)
    in_hand: InHand = field(init=False)
    _lanes: dict[tuple[str, Lane], asyncio.Semaphore] = field(init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _lapsed: dict[_Alike, _Lapsed] = field(default_factory=dict)
    _waits: set[asyncio.Timeout] = field(default_factory=set)  # for a slot
    _marks: dict[Lane, MarkWriter] = field(init=False)
    _storing: dict[Lane, Storing] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = Codes(self.send, self.traffic.gateways, self.submits_in_flight)
        slots = [self.submits_in_flight * gateway.batch for gateway in self.traffic.gateways.values()] or [1]
        self.in_hand = InHand(max(slots), sum(slots))
        self._lanes = {
            (name, lane): asyncio.Semaphore(self.submits_in_flight) for name in self.traffic.gateways for lane in Lane
        }
        self._marks = {lane: MarkWriter(self._mark_begun) for lane in Lane}
        self._storing = {lane: Storing(self._store_outcomes) for lane in Lane}
        messages.VIOLATIONS.labels(ACCEPTED_TWICE)
        for name in self.traffic.gateways:
            for status in may_follow(Status.SENDING, Cause.OUTCOME):
                OUTCOMES.labels(name, status)  # from 0, so that the first outcome is an increase
        _count_repeated(0, 0, 0)

    async def send(self, permits: Sequence[Permit]) -> None:
        """Hand off the permitted messages; return once the ledger has all outcomes."""
        with self.in_hand.holding(len(permits)):
            await self._send(permits)

    async def _send(self, permits: Sequence[Permit]) -> None:
        """Submit in batches of one gateway, lane and permit expiry."""
        lanes: dict[tuple[str, Lane, float], list[Permit]] = {}
        for permit in permits:
            lanes.setdefault((*_lane(permit), permit.until), []).append(permit)
        batches = []
        for (name, *_), lane in lanes.items():
            size = self.traffic.gateways[name].batch
            batches += [lane[at : at + size] for at in range(0, len(lane), size)]
        await asyncio.gather(*(self._send_batch(batch) for batch in batches))

    async def _send_batch(self, permits: Sequence[Permit]) -> None:
        """Submit a batch to one gateway, on permits which still hold.

        While the batch waits for a slot, lapsed permits are renewed: a STOP reaches a waiting message, and recovery
        does not mistake the message for a dead process's. A half-open gateway has one slot of each lane, for one
        message. The halves of a refused batch stay marked as begun until their next decision: after a crash before it,
        recovery calls them `unknown`. To unmark them would take a statement for each refused batch.
        """
        until, lane = permits[0].until, permits[0].candidate.lane
        while permits:
            breaker = self._breaker(permits[0])
            probing = breaker == "half_open"
            slots = (self.traffic.probes if probing else self._lanes)[_lane(permits[0])]
            if breaker == "open" or not await self._slot(slots, until):
                if self._stopping.is_set():
                    await self._hand_back(permits)
                    return
                await self._send(await self._decide_again(permits))
                return
            try:
                if uptime_s() > until or self._breaker(permits[0]) != breaker:
                    continue
                first = permits[:1] if probing else permits
                going, later = self._within_the_rate(first)
                began = uptime_s()
                begins = bool(going) and await self._marks[lane].may_begin(going)
                answers, late = await self._submit(going) if begins else ([], [])
                if begins:
                    self.in_hand.submitted(uptime_s() - began, self.clearance.permit_ttl_s)
            finally:
                slots.release()
            if answers is None:  # halve the batch to find the message to blame
                half = len(going) // 2
                halves = (self._send_batch(going[:half]), self._send_batch(going[half:]))
                await asyncio.gather(self._settle(later, lane), *halves)
            else:
                await self._settle([*later, *answers], lane)
            if going and not begins:
                await self._send(await self._decide_again(going))
            permits = [*late, *permits[len(first) :]]  # a late message is decided again

    async def _mark_begun(self, decisions: Mapping[DecisionId, Sequence[UUID]]) -> set[DecisionId]:
        return await messages.begin_at_once(self.database, decisions)

    async def _submit(self, permits: Sequence[Permit]) -> tuple[list[Outcome] | None, list[Permit]]:
        """Submit one batch: the only place where a message leaves.

        Return the outcomes, and the permits too late to begin. Return None instead of outcomes when the gateway refused
        several messages as a whole: then no message was taken.
        """
        started, at = time.monotonic(), datetime.now(UTC)
        submits = [submit_of(permit) for permit in permits]
        gateway = self.traffic.gateways[permits[0].gateway]
        results: Sequence[Result | SendError]
        try:
            with tracing.submitting("dispatch", gateway.name, submits):
                async with asyncio.timeout(gateway.timeout_s + SUBMIT_LATE_S):
                    results = await gateway.submit(submits)
        except TimeoutError:
            results = [Unanswered("a submit without an end")] * len(permits)
        except Refused as error:
            if len(permits) > 1:
                return None, []
            results = [error]
        except SendError as error:
            results = [error] * len(permits)
        took_s = time.monotonic() - started
        late = [p for p, r in zip(permits, results, strict=True) if isinstance(r, Late)]
        if late:
            begun = [(p, r) for p, r in zip(permits, results, strict=True) if not isinstance(r, Late)]
            permits, results = [p for p, _ in begun], [r for _, r in begun]
        answered = [p.oadc for p, r in zip(permits, results, strict=True) if isinstance(r, (Result, Refused))]
        failed = len(answered) < len(results)
        self.traffic.counted(gateway.name, len(answered), sum(map(outcomes.is_no_answer, results)) if failed else 0)
        if answered:
            self.traffic.answered(gateway.name, set(answered), took_s)
            SUBMIT.labels(gateway.name).observe(took_s, tracing.exemplar_of(permits[0].candidate.message_id))
        if failed:
            self._note_failures(gateway.name, permits, results)
        echoes = gateway.capabilities.echoes_reference
        done = [
            outcomes.answered(p, r, at, self._again(p, r), echoes_reference=echoes)
            for p, r in zip(permits, results, strict=True)
        ]
        count_first_hand_offs(permits, done)
        return done, late

    async def _settle(self, settled: Sequence[Outcome], lane: Lane) -> None:
        """Return once the ledger has these outcomes."""
        if not settled:
            return
        for (gateway, status), many in Counter((o.asked, o.status) for o in settled).items():
            OUTCOMES.labels(gateway, status).inc(many)
        await self._storing[lane].stored(settled)

    async def _store_outcomes(self, settled: Sequence[Outcome]) -> None:
        async with self.database.begin() as tx:
            usual = outcomes.usual(settled)
            if len(usual) < len(settled):
                await store.lock_messages(tx, [o.message_id for o in settled])
            done = await messages.accept(tx, usual)
            changes = events.all_accepted(each for each in usual if each[0].message_id in done)
            changes += await messages.settle(tx, [o for o in settled if o.message_id not in done])
            await events.append_changes(tx, changes)
            await look_for_second_sms(tx, settled, changes, self.traffic.gateways)
            await tell_what_the_provider_refuses(tx, settled)
        await until_stored(lambda: self._enforce([o.subject_id for o in settled]))

    async def _enforce(self, subject_ids: Sequence[str]) -> None:
        """Enforce the opt-outs of these subjects. The caller has committed the outcomes.

        An opt-out applied meanwhile has seen these messages `sending`. Two hand-offs of one subject which end at the
        same instant miss each other; the sweep enforces such an opt-out.
        """
        if await enforcement.any_open(self.database, subject_ids):
            async with self.database.begin() as tx:
                await enforcement.enforce(tx, subject_ids)

    # --- rarer steps

    def _breaker(self, permit: Permit) -> BreakerState:
        """Return the breaker's state; a resubmit ignores the breaker: the gateway may have the message."""
        return "closed" if permit.again else self.traffic.breaker(permit.gateway)

    async def _slot(self, slots: asyncio.Semaphore, until: float) -> bool:
        """Take a slot before `until` (`uptime_s`); return False then, or when the service stops."""
        if self._stopping.is_set() or uptime_s() >= until:
            # acquiring a free slot does not yield to the event loop: a caller with a lapsed permit would spin
            return False
        if not slots.locked():
            return await slots.acquire()
        try:
            async with asyncio.timeout(until - uptime_s()) as waiting:
                self._waits.add(waiting)
                await slots.acquire()
                return True
        except TimeoutError:
            return False
        finally:
            self._waits.discard(waiting)

    async def watch(self, stop: asyncio.Event) -> None:
        """Hand waiting messages back once the service stops."""
        await stop.wait()
        self._stopping.set()
        for waiting in self._waits:
            with contextlib.suppress(RuntimeError):  # the timeout expires at this very moment
                waiting.reschedule(asyncio.get_running_loop().time())

    async def _hand_back(self, permits: Sequence[Permit]) -> None:
        """Defer messages not submitted yet. A resubmit is left to the sweep."""
        if permits[0].again:
            return
        given = [outcomes.outcome(p, Status.DEFERRED, (Reason.SERVICE_STOPPING,), datetime.now(UTC)) for p in permits]
        await self._settle([replace(each, gateway=None) for each in given], permits[0].candidate.lane)

    async def _decide_again(self, permits: Sequence[Permit]) -> list[Permit]:
        """Return fresh permits for the messages still allowed.

        Permits which lapse while a decision of their partition and lane waits for its turn join the decision.
        """
        REDECIDED.inc(len(permits))
        kind = permits[0].candidate.partition, permits[0].candidate.lane, permits[0].again
        if kind not in self._lapsed:
            self._lapsed[kind] = [], asyncio.create_task(self._decide_together(kind))
        lapsed, deciding = self._lapsed[kind]
        lapsed += permits
        fresh = await asyncio.shield(deciding)  # a cancelled waiter leaves the decision to the others
        return [fresh[p.candidate.message_id] for p in permits if p.candidate.message_id in fresh]

    async def _decide_together(self, kind: _Alike) -> dict[UUID, Permit]:
        _, lane, _ = kind
        async with self.clearance.one_at_a_time if lane is Lane.MARKETING else contextlib.nullcontext():
            lapsed, _ = self._lapsed.pop(kind)
            ours = {p.decided_at for p in lapsed}
            with contextlib.suppress(Exception):  # retried below without the lock, so no other decision waits
                return {p.candidate.message_id: p for p in await self._redecide(lapsed, ours)}
        return {p.candidate.message_id: p for p in await until_stored(lambda: self._redecide(lapsed, ours))}

    async def _redecide(self, permits: Sequence[Permit], ours: set[datetime]) -> list[Permit]:
        """Decide on lapsed messages again, in one transaction, and return the new permits.

        `ours`: the `decided_at` of this process's decisions. A new decision joins `ours` before its commit, which may
        succeed without an acknowledgement.
        """
        partition = permits[0].candidate.partition
        async with self.database.begin() as tx:
            if locked := any(p.candidate.is_on_consent for p in permits):
                await messages.lock_partition(tx, partition, permits[0].candidate.lane)
            again = permits[0].again
            rows = await store.still_ours(tx, [p.candidate.message_id for p in permits], ours, again=again)
            wanted = [stored(row) for row in rows]
            decisions = await self.clearance.decide(tx, partition, wanted, locked=locked, again=again)
            ours.update(d.row.decided_at for d in decisions if d.row.decided_at)
            refused, shared = [d for d in decisions if d.permit is None], shared_of(decisions)
            if again:  # a resubmit may have left already: `unknown`, as in the sweep
                held = {d.candidate.message_id for d in refused}
                rests = [outcomes.nobody_knows(row) for row in rows if row.message_id in held]
                await events.append_changes(tx, await messages.settle(tx, rests))
            else:
                updated = await messages.update_decisions(tx, [d.row for d in refused], shared)
                await events.append_changes(tx, updated)
            await messages.update_decisions(tx, [d.row for d in decisions if d.permit], shared)
            if again:  # marked at once: the first submit may have left, whatever becomes of the resubmit
                await messages.begin(tx, by_decision([d.permit for d in decisions if d.permit]))
            await enforcement.enforce(tx, [d.candidate.subject_id for d in refused])
        return [d.permit for d in decisions if d.permit]

    def _within_the_rate(self, permits: Sequence[Permit]) -> tuple[list[Permit], list[Outcome]]:
        """Split the permits into those within the gateway's rate, and deferred outcomes for the rest."""
        now: list[Permit] = []
        later: list[Outcome] = []
        if permits[0].again:
            return list(permits), later
        when = self.traffic.admit(permits[0].gateway, [p.oadc for p in permits])
        for permit, due in zip(permits, when, strict=True):
            if due is None:
                now.append(permit)
            else:
                until = min(due, permit.candidate.send_before)
                later.append(outcomes.outcome(permit, Status.DEFERRED, (Reason.GATEWAY_THROTTLED,), until))
        return now, later

    def _note_failures(self, name: str, permits: Sequence[Permit], results: Sequence[Result | SendError]) -> None:
        """Report each error to the gateway pool once."""
        noted: set[SendError] = set()
        for permit, error in zip(permits, results, strict=True):
            if isinstance(error, (Result, Refused)) or error in noted:
                continue
            noted.add(error)
            if isinstance(error, NotNow):
                continue
            if isinstance(error, Throttled):
                self.traffic.pause(name, error.after_s, told=isinstance(error, ThrottledUntil))
                continue
            log_as = log.error if isinstance(error, Misconfigured) else log.warning
            log_as("a submit failed", extra={"gateway": name, "kind": type(error).__name__, "why": str(error)})
            if isinstance(error, Misconfigured):
                self.traffic.failed(name, "misconfigured", permit.oadc if error.of_sender else "")
            else:
                kind: Failure = "unreachable" if isinstance(error, Unreachable) else "unanswered"
                self.traffic.failed(name, kind)

    def _again(self, permit: Permit, result: Result | SendError) -> datetime | None:
        """Return when a message which has not left may be decided again; None where the result is final."""
        if not isinstance(result, (Throttled, Unreachable, Misconfigured)):
            return None
        if isinstance(result, NotNow):
            return min(datetime.now(UTC) + timedelta(seconds=result.after_s), permit.candidate.send_before)
        ways = self.traffic.ways(
            territory=territory_of(permit.number),
            sender_id=permit.candidate.sender_id,
            oadc=permit.oadc,
            category=permit.candidate.category,
            unfit=self.traffic.unfit(permit.text, lacks_stop=permit.lacks_stop),
        )
        return min(ways.again(datetime.now(UTC)), permit.candidate.send_before)

    async def learn(self, row: outcomes.LostAnswer, result: Result) -> None:
        """Record the look-up result of a lost answer."""
        echoes = self.traffic.gateways[row.gateway].capabilities.echoes_reference
        await self._settle([outcomes.looked_up(row, result, echoes_reference=echoes)], Lane.MARKETING)


def submit_of(permit: Permit) -> Submit:
    """Return the message for the operator."""
    one = permit.candidate
    return Submit(
        reference=str(one.message_id),
        subject_id=one.subject_id,
        to=permit.number,
        sender=permit.oadc,
        short_code=permit.stop_code,
        category=one.category,
        text=permit.text,
        begin_by=permit.until,
        deliver_by=permit.deliver_by,
    )


def _count_repeated(answered: int, in_hand: int, new: int) -> None:
    for result, many in (("answered", answered), ("in_hand", in_hand), ("new", new)):
        REPEATED.labels(result).inc(many)


def _lane(permit: Permit) -> tuple[str, Lane]:
    return permit.gateway, permit.candidate.lane
