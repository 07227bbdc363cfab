"""The way of a message, from Kafka to the operator and into the ledger. This file reads in the order of what happens:

    consume   `Intake.take_marketing`, `Intake.take`: a batch of one partition, in the transaction that steps its
              offset; what may not be taken yet stays in Kafka
    decide    `Clearance.decide`: what a decision stands on is read under the partition's lock, and `gate.py` decides
              [1]
    insert    `messages.insert_messages`: each with its verdict, what may go as `sending`. Commit [2, 3; codes 39, 40]
    submit    `Handoff.send`: in batches, each on permits that hold; no transaction is open. `_submit` is the one place
              where a message leaves [4, 5, 6; codes 41]. Who brings codes does not wait for it (`codes.py`)
    settle    `Handoff._store_outcomes`: what was answered meanwhile (`outcomes.py`) in one transaction (`storing.py`),
              with its events. Commit [7, 8; not accepted 37, 38]. Then the opt-outs that waited for these
              messages are enforced [21, 22], and the relay tells [9, 10]

[n]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process, in a transaction and right after
its commit. Not on the way of each message: a text put right [29, 30], a permit renewed [15, 16], what has not left
given back [31], a half of a batch that was refused [36], an opt-out while the process is away [45, 46].

What is not on the way of each message comes after that: waiting for a slot, deciding again once a permit has lapsed,
the gateway's rate, its failures. What was deferred, and what a crash left, joins at `Handoff.send` (`timers.py`): of
campaigns' no more than leaves soon, wherever it comes from. A submit whose end nobody knows is `unknown` and is never
blindly sent again. What we have in hand and have not begun is ours for as long as nobody has decided on it since
(`store.still_ours`), though it was made `unknown` meanwhile.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import CAMPAIGN_REQUESTS, DISPATCH_REQUESTS
from common.contracts.campaign import MessageRequested, MessageReworded
from common.db.database import Database, once_committed
from common.db.timer import uptime_s
from common.kafka.broker import partitions_of
from common.kafka.consumer import After, Hold, Poison, Received, Subscription
from common.sms.msisdn import territory_of
from common.telemetry import counter, histogram
from dispatch.gate.clearance import Candidate, Clearance, Permit, lacks_a_mention, requested, stored
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
from dispatch.gateways.circuit_breaker import Failure, Standing
from dispatch.gateways.pool import Traffic
from dispatch.messages import enforcement, events
from dispatch.messages import store as messages
from dispatch.messages.reasons import Reason
from dispatch.projection import store as projection
from dispatch.projection.limits import is_fresh
from dispatch.sending import outcomes, store
from dispatch.sending.outcome_writer import Storing, until_stored
from dispatch.sending.transactional import Codes

log = logging.getLogger(__name__)

OUTCOMES = counter("sms_dispatch_outcomes_total", "Hand-offs by outcome.", ["gateway", "outcome"])
SUBMIT = histogram("sms_dispatch_submit_seconds", "One submit, as the gateway answers it.", ["gateway"])
REDECIDED = counter("sms_dispatch_permits_lapsed_total", "Messages decided again: a permit lapsed, a gateway rests.")

_Lapsed = tuple[list[Permit], "asyncio.Task[dict[UUID, Permit]]"]  # what is to be decided again, and who does

ACCEPTED_TWICE = "accepted_twice"  # promise 4: nothing is sent twice; a rule beside those of `invariants.py`
SUBMITS_AHEAD = 4  # for each that may be in flight; more would wait until its permit has lapsed, with answers of 100 ms
SUBMIT_LATE_S = 2.0  # well within `settle_margin_s`; a gateway ends in time by itself, and knows what had begun


class Intake:
    """Both lanes: campaigns', and codes' (transactional and service messages), which never wait behind one."""

    def __init__(self, clearance: Clearance, handoff: "Handoff", *, batch: int, partitions: int) -> None:
        self._partitions = partitions
        self._clearance = clearance
        self._handoff = handoff
        self._batch = batch

    def campaigns(self) -> Subscription:
        return Subscription(
            "dispatch.campaign-requests",
            CAMPAIGN_REQUESTS,
            self.take_marketing,
            # all that is read at once is in hand soon after: what waits for its turn beyond its permit is decided
            # again, message by message where a submit has one
            max_records=min(self._batch, self._handoff.ahead // 2),
            on_assigned=self._handoff.traffic.holds,
            may_read=lambda: not self._handoff.is_behind,
        )

    def codes(self) -> Subscription:
        return Subscription(
            "dispatch.requests",
            DISPATCH_REQUESTS,
            self.take,
            max_records=self._batch,
            on_assigned=self._handoff.traffic.holds,
        )

    async def take_marketing(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """While the watermark is stale, all gateways are out of reach, or more is in hand than leaves soon, nothing is
        taken at all: it waits in Kafka, and no verdict is written."""
        if self._handoff.is_behind:
            raise Hold
        async with self._clearance.one_at_a_time:
            if self._handoff.is_behind:  # by now
                raise Hold
            as_of = await projection.watermark(tx, batch[0].partition)
            if not is_fresh(as_of, datetime.now(UTC), self._clearance.limits) or self._handoff.traffic.resting:
                raise Hold
            return await self._decide(tx, batch, marketing=True)

    async def take(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """What comes is taken: by a gateway that has no slot it waits in the ledger, as what came over HTTP does."""
        return await self._decide(tx, batch, marketing=False)

    async def _decide(self, tx: AsyncConnection, batch: list[Received], *, marketing: bool) -> After | None:
        partition = batch[0].partition
        candidates: dict[UUID, Candidate] = {}
        reworded: dict[UUID, MessageReworded] = {}
        whose = partitions_of([received.event.key.encode() for received in batch], self._partitions)
        if set(whose) != {partition}:
            raise Poison("in another partition than its subject's: its lock and its watermark are not the same")
        for event in (received.event for received in batch):
            if not isinstance(event, MessageRequested):
                assert isinstance(event, MessageReworded)
                self._reword(event, candidates, reworded)
                continue
            if event.category == "service" and event.campaign_id is not None:
                raise Poison("a campaign cannot send in the service category")
            try:
                candidate = requested(event, partition)
            except ValueError as error:
                raise Poison("the message id is not a UUID") from error
            # the first stands, as in the ledger: it may have been reworded since, and one that comes twice was not
            candidates.setdefault(candidate.message_id, candidate)
        if reworded:
            await messages.lock_partition(tx, partition, marketing=True)
            if not await messages.reword(tx, reworded):
                raise Hold  # one is being handed off: it has left, or it will wait again and be found then
        decisions = await self._clearance.decide(tx, partition, list(candidates.values()), locked=bool(reworded))
        if not marketing:
            decisions = self._handoff.codes.or_wait(decisions)
        new = await messages.insert_messages(tx, [d.row for d in decisions])
        decisions = [d for d in decisions if d.candidate.message_id in new]
        await events.append_changes(tx, [events.inserted(d.row) for d in decisions if d.permit is None])
        permits = [d.permit for d in decisions if d.permit]
        if not permits:
            return None

        async def hand_off() -> None:
            await (self._handoff.send(permits) if marketing else self._handoff.codes.begin(permits))

        return hand_off

    def _reword(
        self,
        event: MessageReworded,
        candidates: dict[UUID, Candidate],
        reworded: dict[UUID, MessageReworded],
    ) -> None:
        """What was requested in this batch is decided as it is to be said; what was before is looked up."""
        try:
            identity = UUID(event.message_id)
        except ValueError as error:
            raise Poison("the message id is not a UUID") from error
        reworded[identity] = event
        candidate = candidates.get(identity)
        if candidate is not None and candidate.subject_id == event.subject_id:
            region = candidate.region if event.region is None else event.region or None
            candidates[identity] = msgspec.structs.replace(candidate, text=event.text or "", region=region)


@dataclass(slots=True)
class Handoff:
    """`submits_in_flight`: how many calls of one gateway at once in each lane, over all partitions. The lanes share
    nothing: a code never waits behind a campaign, nor one gateway's messages behind another's. What tries a gateway
    that has rested is one message of each."""

    database: Database
    traffic: Traffic
    clearance: Clearance
    submits_in_flight: int
    codes: Codes = field(init=False)
    _lanes: dict[tuple[str, bool], asyncio.Semaphore] = field(init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _in_hand: int = 0  # messages
    _room: asyncio.Event = field(default_factory=asyncio.Event)  # for more
    _lapsed: dict[tuple[int, bool, bool], _Lapsed] = field(default_factory=dict)
    _waits: set[asyncio.Timeout] = field(default_factory=set)  # for a slot
    _storing: dict[bool, Storing] = field(init=False)  # marketing, or not

    def __post_init__(self) -> None:
        self.codes = Codes(self.send, self.traffic.gateways, self.submits_in_flight)
        self._room.set()
        self._lanes = {
            (name, marketing): asyncio.Semaphore(self.submits_in_flight)
            for name in self.traffic.gateways
            for marketing in (True, False)
        }
        self._storing = {marketing: Storing(self._store_outcomes) for marketing in (True, False)}
        messages.VIOLATIONS.labels(ACCEPTED_TWICE)
        for name in self.traffic.gateways:
            for status in ("accepted", "rejected", "unknown", "deferred"):
                OUTCOMES.labels(name, status)  # 0 from the start, so that the first is an increase

    async def send(self, permits: Sequence[Permit]) -> None:
        """Hand these off; returns when each has an outcome in the ledger."""
        self._have_in_hand(len(permits))
        try:
            await self._send(permits)
        finally:
            self._have_in_hand(-len(permits))

    async def _send(self, permits: Sequence[Permit]) -> None:
        """In batches of which all permits lapse at once: what ends before the others has its own."""
        lanes: dict[tuple[str, bool, float], list[Permit]] = {}
        for permit in permits:
            lanes.setdefault((*_lane(permit), permit.until), []).append(permit)
        batches = []
        for (name, *_), lane in lanes.items():
            size = self.traffic.gateways[name].batch
            batches += [lane[at : at + size] for at in range(0, len(lane), size)]
        await asyncio.gather(*(self._send_batch(batch) for batch in batches))

    async def _send_batch(self, permits: Sequence[Permit]) -> None:
        """One submit, begun on permits that hold, by one gateway. Waiting for a slot, lapsed permits are renewed: what
        waits is decided again every `permit_ttl`, so a STOP reaches it, and nobody takes it for the leavings of a
        crash. A gateway that has rested has one slot of each lane, for one message; one that rests has none."""
        until, marketing = permits[0].until, _lane(permits[0])[1]
        while permits:
            standing = self._standing(permits[0])
            trying = standing == "to be tried"
            slots = (self.traffic.trials if trying else self._lanes)[_lane(permits[0])]
            if standing == "resting" or not await self._slot(slots, until):
                if self._stopping.is_set():
                    await self._hand_back(permits)
                    return
                await self._send(await self._decide_again(permits))  # perhaps by other gateways
                return
            try:
                if uptime_s() > until or self._standing(permits[0]) != standing:
                    continue
                first = permits[:1] if trying else permits
                going, later = self._within_the_rate(first)
                answers, late = await self._submit(going) if going else ([], [])
            finally:
                slots.release()
            if answers is None:  # refused as a whole: find the message that is to blame
                half = len(going) // 2
                halves = (self._send_batch(going[:half]), self._send_batch(going[half:]))
                await asyncio.gather(self._settle(later, marketing=marketing), *halves)
            else:
                await self._settle([*later, *answers], marketing=marketing)
            permits = [*late, *permits[len(first) :]]  # what was late has lapsed: it is decided again

    async def _submit(self, permits: Sequence[Permit]) -> tuple[list[dict[str, Any]] | None, list[Permit]]:
        """The one place where a message leaves. Returns rows for `messages.settle`, and what could not begin while its
        permit lasted; None instead of rows when nothing was taken because of something in the batch, which had more
        than one message."""
        started, at = time.monotonic(), datetime.now(UTC)
        submits = [
            Submit(
                reference=str(p.candidate.message_id),
                subject_id=p.candidate.subject_id,
                to=p.number,
                sender=p.oadc,
                short_code=p.stop_code,
                category=p.candidate.category,
                text=p.text,
                begin_by=p.until,
            )
            for p in permits
        ]
        gateway = self.traffic.gateways[permits[0].gateway]
        results: Sequence[Result | SendError]
        try:
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
        self.traffic.counted(gateway.name, len(answered), sum(map(_is_no_answer, results)) if failed else 0)
        if answered:
            self.traffic.answered(gateway.name, set(answered), took_s)
            SUBMIT.labels(gateway.name).observe(took_s)
        if failed:
            self._note_failures(gateway.name, permits, results)
        echoes = gateway.capabilities.echoes_reference
        return [
            outcomes.answered(p, r, at, self._again(p, r), echoes_reference=echoes)
            for p, r in zip(permits, results, strict=True)
        ], late

    async def _settle(self, settled: Sequence[dict[str, Any]], *, marketing: bool) -> None:
        """Returns once these outcomes are in the ledger, perhaps with others of their lane in one transaction."""
        if not settled:
            return
        for (gateway, status), many in Counter((o["asked"], o["status"]) for o in settled).items():
            OUTCOMES.labels(gateway, status).inc(many)
        await self._storing[marketing].stored(settled)

    async def _store_outcomes(self, settled: Sequence[dict[str, Any]]) -> None:
        async with self.database.begin() as tx:
            plain = [o for o in settled if outcomes.went_as_it_should(o)]
            if len(plain) < len(settled):
                await store.lock_messages(tx, [o["message_id"] for o in settled])
            done = await messages.accept(tx, plain)
            changes = [events.accepted(o["permit"].row, o) for o in settled if o["message_id"] in done]
            changes += await messages.settle(tx, [o for o in settled if o["message_id"] not in done])
            await events.append_changes(tx, changes)
            await self._look_for_seconds(tx, settled, changes)
            await _tell_what_the_provider_refuses(tx, settled)
        await until_stored(lambda: self._enforce([o["subject_id"] for o in settled]))

    async def _look_for_seconds(
        self, tx: AsyncConnection, settled: Sequence[dict[str, Any]], changes: Sequence[events.Changed]
    ) -> None:
        """What is accepted and changes nothing, or comes twice in one transaction, may have left a second time. Nothing
        else would ever tell: the row keeps the first."""
        changed = {event.message_id for _, event in changes}
        if len(changed) == len(settled):
            return
        many = Counter(o["message_id"] for o in settled)
        unclear = [
            o
            for o in settled
            if o["status"] == "accepted"
            and o["handed_off_at"] is not None
            and (str(o["message_id"]) not in changed or many[o["message_id"]] > 1)
        ]
        if not unclear:
            return
        rows = await store.left_already(tx, [o["message_id"] for o in unclear])
        for one in unclear:
            row, by = rows.get(one["message_id"]), self.traffic.gateways.get(one["gateway"])
            idempotent = by is not None and by.capabilities.idempotent
            if row is not None and outcomes.is_a_second(one, row, idempotent=idempotent):
                told = {"rule": ACCEPTED_TWICE, "messages": str(one["message_id"]), "gateway": one["gateway"]}
                once_committed(tx, partial(log.critical, "a promise is broken", extra=told))
                once_committed(tx, messages.VIOLATIONS.labels(ACCEPTED_TWICE).inc)

    async def _enforce(self, subject_ids: Sequence[str]) -> None:
        """Once their outcomes are committed: an opt-out applied meanwhile has seen them `sending`, and left it to us to
        say when they are not. The few that see each other at the same instant are the sweep's."""
        async with self.database.begin() as tx:
            await enforcement.enforce(tx, subject_ids)

    # --- not on the way of each message

    @property
    def is_behind(self) -> bool:
        """More is in hand than leaves soon: what is taken now would wait until its permit has lapsed."""
        return self._in_hand >= self.ahead

    @property
    def ahead(self) -> int:
        """As many messages as may be in hand before it is: some submits for each that may be in flight."""
        batches = (gateway.batch for gateway in self.traffic.gateways.values())
        return SUBMITS_AHEAD * self.submits_in_flight * max(batches, default=1)

    async def room(self) -> None:
        """Returns once it is not behind: who only looked now and then would find that others had been there before."""
        await self._room.wait()

    def _have_in_hand(self, more: int) -> None:
        self._in_hand += more
        if self.is_behind:
            self._room.clear()
        else:
            self._room.set()

    def _standing(self, permit: Permit) -> Standing:
        """Of the gateway that it goes by. What it may have had already is not kept from it."""
        return "open" if permit.again else self.traffic.standing(permit.gateway)

    async def _slot(self, slots: asyncio.Semaphore, until: float) -> bool:
        """A free slot before `until` (`uptime_s`); False at that moment, or when the service stops."""
        if self._stopping.is_set() or uptime_s() >= until:
            # to take a free one is no turn of the loop: whoever then found that its permit has lapsed would spin
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
        """A worker: once the service stops, what has not left goes back to the queue instead of waiting for a slot."""
        await stop.wait()
        self._stopping.set()
        for waiting in self._waits:
            with contextlib.suppress(RuntimeError):  # it ends by itself at this moment
                waiting.reschedule(asyncio.get_running_loop().time())

    async def _hand_back(self, permits: Sequence[Permit]) -> None:
        """These have not left: whoever runs next decides them afresh. What a crash left, the sweep finds again."""
        if permits[0].again:
            return
        rows = [outcomes.outcome(p, "deferred", (Reason.SERVICE_STOPPING,), datetime.now(UTC)) for p in permits]
        await self._settle([{**row, "gateway": None} for row in rows], marketing=_lane(permits[0])[1])

    async def _decide_again(self, permits: Sequence[Permit]) -> list[Permit]:
        """Fresh permits for those that may still go; the others keep their new verdict. Permits of one decision lapse
        together, and what they are for waits in many batches: what lapses while others of its partition wait for their
        turn to be decided is decided with them."""
        REDECIDED.inc(len(permits))
        kind = permits[0].candidate.partition, _lane(permits[0])[1], permits[0].again
        if kind not in self._lapsed:
            self._lapsed[kind] = [], asyncio.create_task(self._decide_together(kind))
        lapsed, deciding = self._lapsed[kind]
        lapsed += permits
        fresh = await asyncio.shield(deciding)  # who is cancelled leaves it to the others
        return [fresh[p.candidate.message_id] for p in permits if p.candidate.message_id in fresh]

    async def _decide_together(self, kind: tuple[int, bool, bool]) -> dict[UUID, Permit]:
        _, marketing, _ = kind
        async with self.clearance.one_at_a_time if marketing else contextlib.nullcontext():
            lapsed, _ = self._lapsed.pop(kind)
            ours = {p.row["decided_at"] for p in lapsed}
            with contextlib.suppress(Exception):  # tried again below, where nobody waits for their turn meanwhile
                return {p.candidate.message_id: p for p in await self._redecide(lapsed, ours)}
        return {p.candidate.message_id: p for p in await until_stored(lambda: self._redecide(lapsed, ours))}

    async def _redecide(self, permits: Sequence[Permit], ours: set[datetime]) -> list[Permit]:
        """`ours`: the decisions that we have made of them. A new one is among these before its commit, which may be
        done though nobody tells us."""
        partition = permits[0].candidate.partition
        async with self.database.begin() as tx:
            await messages.lock_partition(tx, partition, marketing=_lane(permits[0])[1])
            again = permits[0].again
            rows = await store.still_ours(tx, [p.candidate.message_id for p in permits], ours, again=again)
            wanted = [stored(row) for row in rows]
            decisions = await self.clearance.decide(tx, partition, wanted, locked=True, again=again)
            ours.update(d.row["decided_at"] for d in decisions)
            refused = [d for d in decisions if d.permit is None]
            if again:  # whether it has left already nobody knows: as the sweep has it
                held = {d.candidate.message_id for d in refused}
                rests = [outcomes.nobody_knows(row) for row in rows if row.message_id in held]
                await events.append_changes(tx, await messages.settle(tx, rests))
            else:
                await events.append_changes(tx, await messages.update_decisions(tx, [d.row for d in refused]))
            await messages.update_decisions(tx, [d.row for d in decisions if d.permit])
            await enforcement.enforce(tx, [d.candidate.subject_id for d in refused])
        return [d.permit for d in decisions if d.permit]

    def _within_the_rate(self, permits: Sequence[Permit]) -> tuple[list[Permit], list[dict[str, Any]]]:
        """Those that may go now, and what becomes of the others: they come back one after the other, at the rate, to
        expire where their turn is too late."""
        now: list[Permit] = []
        later: list[dict[str, Any]] = []
        if permits[0].again:
            return list(permits), later
        when = self.traffic.admit(permits[0].gateway, [p.oadc for p in permits])
        for permit, due in zip(permits, when, strict=True):
            if due is None:
                now.append(permit)
            else:
                until = min(due, permit.candidate.send_before)
                later.append(outcomes.outcome(permit, "deferred", (Reason.GATEWAY_THROTTLED,), until))
        return now, later

    def _note_failures(self, name: str, permits: Sequence[Permit], results: Sequence[Result | SendError]) -> None:
        """Once for one that hit many."""
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
        """When what has not left may be decided again: at once while one of its own ways is open, and no later than it
        expires."""
        if not isinstance(result, (Throttled, Unreachable, Misconfigured)):
            return None
        if isinstance(result, NotNow):
            return min(datetime.now(UTC) + timedelta(seconds=result.after_s), permit.candidate.send_before)
        ways = self.traffic.ways(
            territory=territory_of(permit.number),
            sender_id=permit.candidate.sender_id,
            oadc=permit.oadc,
            category=permit.candidate.category,
            unfit=self.traffic.unfit(
                permit.text, lacks_stop=lacks_a_mention(permit.candidate.category, permit.text, permit.stop_code)
            ),
        )
        return min(ways.again(datetime.now(UTC)), permit.candidate.send_before)

    async def learn(self, row: Row[Any], result: Result) -> None:
        """What the gateway says of a message whose answer was lost (`message_id`, `subject_id`, `partition`,
        `gateway`)."""
        echoes = self.traffic.gateways[row.gateway].capabilities.echoes_reference
        await self._settle([outcomes.looked_up(row, result, echoes_reference=echoes)], marketing=True)


def _lane(permit: Permit) -> tuple[str, bool]:
    return permit.gateway, permit.candidate.category == "marketing"


def _is_no_answer(result: Result | SendError) -> bool:
    """That a gateway is asked to wait, or that it takes no message of one sender's, it has said itself."""
    if isinstance(result, Misconfigured):
        return not result.of_sender
    return isinstance(result, (Unreachable, Unanswered))


async def _tell_what_the_provider_refuses(tx: AsyncConnection, settled: Sequence[dict[str, Any]]) -> None:
    """Somebody who opted out with the provider has opted out: the receipt that says so is evidence for consent-svc.
    Until that has come round, and where the provider does not say why, the provider is closed to the person, which
    denies marketing by any gateway (fail closed)."""
    now = datetime.now(UTC)
    refused = [
        {
            **row,
            "status": None,  # what `settle` has made of it: it may be final already, or in another's hand
            "receipt": "opted_out",
            "receipt_at": row["handed_off_at"] or now,
            "since": row["handed_off_at"] or now,
            "opted_out": row["answer"].opted_out,
        }
        for row in settled
        if "answer" in row and (row["answer"].opted_out or row["answer"].blocked)
    ]
    if not refused:
        return
    await store.block(tx, refused)
    await events.append_changes(tx, await messages.put_receipts(tx, [row for row in refused if row["opted_out"]]))
