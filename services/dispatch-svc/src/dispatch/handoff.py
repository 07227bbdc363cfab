"""The hand-off: permitted messages go to the gateway, their outcomes to the ledger, and opt-outs become enforced.

No transaction is open while a gateway is asked. A submit begins only on a permit that still holds; else the messages
are decided again first. A submit whose end nobody knows is `unknown` and is never blindly sent again.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from common.database import Database
from common.telemetry import counter, histogram
from dispatch import store
from dispatch.clearance import Clearance, Permit, stored
from dispatch.gate import Reason
from dispatch.gateways import Misconfigured, Refused, Result, SendError, Submit, Throttled, Unreachable
from dispatch.gateways.health import Failure
from dispatch.traffic import Traffic

log = logging.getLogger(__name__)

T = TypeVar("T")

OUTCOMES = counter("sms_dispatch_outcomes_total", "Hand-offs by outcome.", ["gateway", "outcome"])
SUBMIT = histogram("sms_dispatch_submit_seconds", "One submit, as the gateway answers it.", ["gateway"])
REDECIDED = counter("sms_dispatch_permits_lapsed_total", "Messages decided again because their permit lapsed.")
ENFORCED = histogram(
    "sms_dispatch_enforcement_seconds",
    "From the webhook (or the API call) to the opt-out being enforced.",
    buckets=(0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0),
)

STORE_BACK_OFF_S = (0.1, 5.0)
SETTLED_AT_ONCE = 1_000  # outcomes of one transaction, and those of the submit that exceeds it
WRITERS = 3  # of one lane, as long as there is enough for each
SUBMITS_AHEAD = 4  # for each that may be in flight


@dataclass(slots=True)
class Handoff:
    """`submits_in_flight`: how many calls of one gateway at once in each lane, over all partitions. The lanes share
    nothing: a code never waits behind a campaign, nor one gateway's messages behind another's."""

    database: Database
    traffic: Traffic
    clearance: Clearance
    submits_in_flight: int
    _lanes: dict[tuple[str, bool], asyncio.Semaphore] = field(init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _in_hand: int = 0  # messages
    _waits: set[asyncio.Timeout] = field(default_factory=set)  # for a slot
    _settling: dict[bool, "_Settling"] = field(default_factory=lambda: defaultdict(_Settling))  # marketing, or not
    _stubborn: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lanes = {
            (name, marketing): asyncio.Semaphore(self.submits_in_flight)
            for name in self.traffic.gateways
            for marketing in (True, False)
        }

    @property
    def is_behind(self) -> bool:
        """More is in hand than leaves soon: what is taken now would wait until its permit has lapsed."""
        return self._in_hand >= self.ahead

    @property
    def ahead(self) -> int:
        """As many messages as may be in hand before it is: some submits for each that may be in flight."""
        return SUBMITS_AHEAD * self.submits_in_flight * max(gateway.batch for gateway in self.traffic.gateways.values())

    async def watch(self, stop: asyncio.Event) -> None:
        """A worker: once the service stops, what has not left goes back to the queue instead of waiting for a slot."""
        await stop.wait()
        self._stopping.set()
        for waiting in self._waits:
            waiting.reschedule(asyncio.get_running_loop().time())

    async def send(self, permits: Sequence[Permit]) -> None:
        """Hand these off, in batches; returns when each has an outcome in the ledger."""
        lanes: dict[tuple[str, bool], list[Permit]] = {}
        for permit in permits:
            lanes.setdefault(_lane(permit), []).append(permit)
        batches = []
        for (name, _), lane in lanes.items():
            size = self.traffic.gateways[name].batch
            batches += [lane[at : at + size] for at in range(0, len(lane), size)]
        self._in_hand += len(permits)
        try:
            await asyncio.gather(*(self._send_batch(batch) for batch in batches))
        finally:
            self._in_hand -= len(permits)

    async def _send_batch(self, permits: Sequence[Permit]) -> None:
        """One submit, begun on permits that hold, by one gateway. Waiting for a slot, lapsed permits are renewed: what
        waits is decided again every `permit_ttl`, so a STOP reaches it, and nobody takes it for the leavings of a
        crash."""
        while permits:
            slots = self._lanes[_lane(permits[0])]
            if not await self._slot(slots, min(p.until for p in permits)):
                if self._stopping.is_set():
                    await self._hand_back(permits)
                    return
                await self.send(await self._decide_again(permits))  # perhaps by other gateways
                return
            try:
                if time.monotonic() > min(p.until for p in permits):
                    continue
                going, outcomes = self._within_the_rate(permits)
                answers = await self._submit(going) if going else []
            finally:
                slots.release()
            if answers is None:  # refused as a whole: find the message that is to blame
                half = len(going) // 2
                await asyncio.gather(self._send_batch(going[:half]), self._send_batch(going[half:]))
            await self._settle([*outcomes, *(answers or [])], marketing=_lane(permits[0])[1])
            return

    async def _slot(self, slots: asyncio.Semaphore, until: float) -> bool:
        """A free slot before `until` (monotonic); False at that moment, or when the service stops."""
        if self._stopping.is_set() or time.monotonic() >= until:
            # to take a free one is no turn of the loop: whoever then found that its permit has lapsed would spin
            return False
        if not slots.locked():
            return await slots.acquire()
        try:
            async with asyncio.timeout(until - time.monotonic()) as waiting:
                self._waits.add(waiting)
                await slots.acquire()
                return True
        except TimeoutError:
            return False
        finally:
            self._waits.discard(waiting)

    async def _hand_back(self, permits: Sequence[Permit]) -> None:
        """These have not left: whoever runs next decides them afresh. What a crash left, the sweep finds again."""
        if permits[0].again:
            return
        rows = [self._outcome(p, "deferred", (Reason.SERVICE_STOPPING,), datetime.now(UTC)) for p in permits]
        await self._settle([{**row, "gateway": None} for row in rows], marketing=_lane(permits[0])[1])

    async def _decide_again(self, permits: Sequence[Permit]) -> list[Permit]:
        """Fresh permits for those that may still go; the others keep their new verdict."""
        REDECIDED.inc(len(permits))
        return await _until_stored(lambda: self._redecide(permits))

    async def _redecide(self, permits: Sequence[Permit]) -> list[Permit]:
        partition = permits[0].candidate.partition
        async with self.database.begin() as tx:
            await store.lock_partition(tx, partition)
            rows = await store.still_sending(tx, [p.candidate.message_id for p in permits])
            again = permits[0].again
            decisions = await self.clearance.decide(tx, partition, [stored(row) for row in rows], again=again)
            refused = [d for d in decisions if d.permit is None and not again]
            await store.append_changes(tx, await store.update_decisions(tx, [d.row for d in refused]))
            await store.update_decisions(tx, [d.row for d in decisions if d.permit])
            await store.enforce(tx, [d.candidate.subject_id for d in refused], datetime.now(UTC))
        return [d.permit for d in decisions if d.permit]

    async def _submit(self, permits: Sequence[Permit]) -> list[dict[str, Any]] | None:
        """The one place where a message leaves. Returns rows for `store.settle`; None when nothing was taken because of
        something in the batch, which had more than one message."""
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
            )
            for p in permits
        ]
        gateway = self.traffic.gateways[permits[0].gateway]
        results: Sequence[Result | SendError]
        try:
            results = await gateway.submit(submits)
        except Refused as error:
            if len(permits) > 1:
                return None
            results = [error]
        except SendError as error:
            results = [error] * len(permits)
        took_s = time.monotonic() - started
        if answered := {p.oadc for p, r in zip(permits, results, strict=True) if isinstance(r, (Result, Refused))}:
            self.traffic.answered(gateway.name, answered, took_s)
            SUBMIT.labels(gateway.name).observe(took_s)
        until = self._failed(gateway.name, permits, results)
        return [self._answered(p, r, at, until) for p, r in zip(permits, results, strict=True)]

    def _failed(
        self, name: str, permits: Sequence[Permit], results: Sequence[Result | SendError]
    ) -> dict[SendError, datetime]:
        """For each failure, when what it kept from leaving may be tried again; once for one that hit many."""
        until: dict[SendError, datetime] = {}
        for permit, error in zip(permits, results, strict=True):
            if isinstance(error, (Result, Refused)) or error in until:
                continue
            if isinstance(error, Throttled):
                until[error] = self.traffic.pause(name, error.after_s)
                continue
            log_as = log.error if isinstance(error, Misconfigured) else log.warning
            log_as("a submit failed", extra={"gateway": name, "kind": type(error).__name__, "why": str(error)})
            if isinstance(error, Misconfigured):
                until[error] = self.traffic.failed(name, "misconfigured", permit.oadc if error.of_sender else "")
            else:
                kind: Failure = "unreachable" if isinstance(error, Unreachable) else "unanswered"
                until[error] = self.traffic.failed(name, kind)
        return until

    def _answered(
        self, permit: Permit, answer: Result | SendError, at: datetime, until: Mapping[SendError, datetime]
    ) -> dict[str, Any]:
        match answer:
            case Result():
                row = self._outcome(permit, answer.outcome, code=answer.code, handed_off_at=at)
                return row | self._named(permit.gateway, answer) | {"answer": answer}
            case Refused():
                return self._outcome(permit, "rejected", code=answer.code, handed_off_at=at)
            case SendError() if permit.again:
                return self._outcome(permit, "unknown", handed_off_at=at)
            case Throttled():
                return self._outcome(permit, "deferred", (Reason.GATEWAY_THROTTLED,), until[answer])
            case Unreachable():
                return self._outcome(permit, "deferred", (Reason.GATEWAY_UNREACHABLE,), until[answer])
            case Misconfigured():
                reasons = (Reason.GATEWAY_NEEDS_SOMEBODY,)
                return self._outcome(permit, "deferred", reasons, until[answer], code=answer.code)
            case _:  # Unanswered, and whatever else we do not know
                return self._outcome(permit, "unknown", handed_off_at=at)

    def _within_the_rate(self, permits: Sequence[Permit]) -> tuple[list[Permit], list[dict[str, Any]]]:
        """Those that may go now, and what becomes of the others: they come back one after the other, at the rate."""
        now: list[Permit] = []
        later: list[dict[str, Any]] = []
        if permits[0].again:
            return list(permits), later
        when = self.traffic.admit(permits[0].gateway, [p.oadc for p in permits])
        for permit, due in zip(permits, when, strict=True):
            if due is None:
                now.append(permit)
            else:
                later.append(self._outcome(permit, "deferred", (Reason.GATEWAY_THROTTLED,), due))
        return now, later

    def _outcome(
        self,
        permit: Permit,
        status: str,
        reasons: tuple[Reason, ...] = (),
        due_at: datetime | None = None,
        *,
        code: str | None = None,
        handed_off_at: datetime | None = None,
    ) -> dict[str, Any]:
        return {
            "permit": permit,
            "asked": permit.gateway,
            "partition": permit.candidate.partition,
            "message_id": permit.candidate.message_id,
            "subject_id": permit.candidate.subject_id,
            "status": status,
            "reasons": msgspec.json.encode(reasons).decode() if reasons else "[]",
            "due_at": due_at,
            "gateway": permit.gateway,
            "gateway_message_id": None,
            "known_as": None,
            "code": code,
            "handed_off_at": handed_off_at,
        }

    def _named(self, gateway: str, result: Result) -> dict[str, str | None]:
        """What the gateway calls the message; `known_as` where its receipts will name nothing else."""
        echoes = self.traffic.gateways[gateway].capabilities.echoes_reference
        return {
            "gateway_message_id": result.gateway_message_id,
            "known_as": None if echoes else result.gateway_message_id,
        }

    async def learn(self, row: Row[Any], result: Result) -> None:
        """What the gateway says of a message whose answer was lost (`message_id`, `subject_id`, `partition`,
        `gateway`)."""
        outcome = {
            "asked": row.gateway,
            "partition": row.partition,
            "message_id": row.message_id,
            "subject_id": row.subject_id,
            "status": result.outcome,
            "reasons": "[]",
            "due_at": None,
            "gateway": row.gateway,
            "code": result.code,
            "handed_off_at": None,
            "answer": result,
            **self._named(row.gateway, result),
        }
        await self._settle([outcome], marketing=True)

    async def _settle(self, outcomes: Sequence[dict[str, Any]], *, marketing: bool) -> None:
        """Returns once they are in the ledger. What is answered while a transaction of its lane commits shares the next
        one, whatever their partitions: with a request per message that is a hundred instead of one."""
        if not outcomes:
            return
        for (gateway, status), many in Counter((o["asked"], o["status"]) for o in outcomes).items():
            OUTCOMES.labels(gateway, status).inc(many)
        settling, stored = self._settling[marketing], asyncio.get_running_loop().create_future()
        settling.waiting.append((outcomes, stored))
        settling.many += len(outcomes)
        settling.writers = [writer for writer in settling.writers if not writer.done()]
        if not settling.writers or (len(settling.writers) < WRITERS and settling.many >= SETTLED_AT_ONCE):
            settling.writers.append(asyncio.create_task(self._write(settling)))
        await asyncio.shield(stored)

    async def _write(self, settling: "_Settling") -> None:
        """One transaction after the other, until nothing waits. None is long: an opt-out may be waiting for it."""
        while settling.waiting:
            some: list[_Waiting] = []
            together: list[dict[str, Any]] = []
            while settling.waiting and len(together) < SETTLED_AT_ONCE:
                some.append(settling.waiting.popleft())
                together += some[-1][0]
            settling.many -= len(together)
            try:
                await self._store_outcomes(together)
            except Exception:
                task = asyncio.create_task(self._store_one_by_one(some))
                self._stubborn.add(task)
                task.add_done_callback(self._stubborn.discard)
            else:
                for _, stored in some:
                    _done(stored)

    async def _store_one_by_one(self, some: Sequence["_Waiting"]) -> None:
        """What cannot be stored holds up nothing else. What was handed off must not be forgotten while this process
        lives."""

        async def store_one(outcomes: Sequence[dict[str, Any]], stored: "asyncio.Future[None]") -> None:
            await _until_stored(partial(self._store_outcomes, outcomes))
            _done(stored)

        await asyncio.gather(*(store_one(*one) for one in some))

    async def _store_outcomes(self, outcomes: Sequence[dict[str, Any]]) -> None:
        async with self.database.begin() as tx:
            plain = [o for o in outcomes if _went_as_it_should(o)]
            if len(plain) < len(outcomes):
                await store.lock_messages(tx, [o["message_id"] for o in outcomes])
            done = await store.accept(tx, plain)
            changes = [store.accepted(o["permit"].row, o) for o in outcomes if o["message_id"] in done]
            changes += await store.settle(tx, [o for o in outcomes if o["message_id"] not in done])
            await store.append_changes(tx, changes)
            await _tell_what_the_provider_refuses(tx, outcomes)
        await _until_stored(lambda: self._enforce([o["subject_id"] for o in outcomes]))

    async def _enforce(self, subject_ids: Sequence[str]) -> None:
        """Once their outcomes are committed: an opt-out applied meanwhile has seen them `sending`, and left it to us to
        say when they are not. The few that see each other at the same instant are the sweep's."""
        async with self.database.begin() as tx:
            enforced = await store.enforce(tx, subject_ids, datetime.now(UTC))
        for event in enforced:
            ENFORCED.observe((event.enforced_at - event.received_at).total_seconds())


def _went_as_it_should(outcome: Mapping[str, Any]) -> bool:
    """Accepted, with nothing else to say, and we know what stands in its row."""
    return (
        outcome["status"] == "accepted"
        and outcome["code"] is None
        and "permit" in outcome
        and bool(outcome["permit"].row)
    )


def _lane(permit: Permit) -> tuple[str, bool]:
    return permit.gateway, permit.candidate.category == "marketing"


async def _tell_what_the_provider_refuses(tx: AsyncConnection, outcomes: Sequence[dict[str, Any]]) -> None:
    """Somebody who opted out with the provider has opted out: the receipt that says so is evidence for consent-svc.
    Until that has come round, and where the provider does not say why, the provider is closed to the person, which
    denies marketing by any gateway (fail closed)."""
    now = datetime.now(UTC)
    refused = [
        {
            **row,
            "receipt": "opted_out",
            "receipt_at": row["handed_off_at"] or now,
            "since": row["handed_off_at"] or now,
            "opted_out": row["answer"].opted_out,
        }
        for row in outcomes
        if "answer" in row and (row["answer"].opted_out or row["answer"].blocked)
    ]
    if not refused:
        return
    await store.block(tx, refused)
    await store.append_changes(tx, await store.put_receipts(tx, [row for row in refused if row["opted_out"]]))


_Waiting = tuple[Sequence[dict[str, Any]], "asyncio.Future[None]"]  # outcomes, and who waits until they are stored


@dataclass(slots=True)
class _Settling:
    """What waits of one lane for a transaction, and how many outcomes that is."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    many: int = 0
    writers: list[asyncio.Task[None]] = field(default_factory=list)


def _done(stored: "asyncio.Future[None]") -> None:
    if not stored.done():
        stored.set_result(None)


async def _until_stored(transaction: Callable[[], Awaitable[T]]) -> T:
    """Tries until the ledger has it: the database may be away for a while, and messages are in our hands."""
    failures = 0
    while True:
        try:
            return await transaction()
        except Exception:
            failures += 1
            if failures in (1, 10, 100):
                log.exception("not stored yet, trying again", extra={"failures": failures})
            await asyncio.sleep(min(STORE_BACK_OFF_S[0] * 2 ** min(failures, 8), STORE_BACK_OFF_S[1]))
