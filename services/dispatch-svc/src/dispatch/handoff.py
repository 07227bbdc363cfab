"""The hand-off: permitted messages go to the gateway, their outcomes to the ledger, and opt-outs become enforced.

No transaction is open while a gateway is asked. A submit begins only on a permit that still holds; else the messages
are decided again first. A submit whose end nobody knows is `unknown` and is never blindly sent again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from common.contracts.dispatch import OptOutEnforced
from common.database import Database
from common.telemetry import counter, histogram
from dispatch import store
from dispatch.clearance import Clearance, Permit, stored
from dispatch.gate import Reason
from dispatch.gateway import Gateway, Refused, Submit, Throttled, Unanswered, Unreachable

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
UNREACHABLE_PAUSE_S = 30.0


@dataclass(slots=True)
class Handoff:
    """`submits_in_flight`: how many gateway calls at once in each lane, over all partitions. The lanes share nothing: a
    code never waits behind a campaign."""

    database: Database
    gateway: Gateway
    clearance: Clearance
    submits_in_flight: int
    _lanes: dict[bool, asyncio.Semaphore] = field(init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _out_of_reach: int = 0  # submits in a row that found no gateway
    _rests_until: float = 0.0  # monotonic

    def __post_init__(self) -> None:
        self._lanes = {marketing: asyncio.Semaphore(self.submits_in_flight) for marketing in (True, False)}

    @property
    def resting(self) -> bool:
        """The gateway was out of reach a moment ago: no use in taking more."""
        return time.monotonic() < self._rests_until

    async def watch(self, stop: asyncio.Event) -> None:
        """A worker: once the service stops, what has not left goes back to the queue instead of waiting for a slot."""
        await stop.wait()
        self._stopping.set()

    async def send(self, permits: Sequence[Permit]) -> None:
        """Hand these off, in batches; returns when each has an outcome in the ledger."""
        size = self.gateway.batch
        lanes = [[p for p in permits if (p.candidate.category == "marketing") is lane] for lane in (False, True)]
        await asyncio.gather(
            *(self._send_batch(lane[at : at + size]) for lane in lanes for at in range(0, len(lane), size))
        )

    async def _send_batch(self, permits: Sequence[Permit]) -> None:
        """One submit, begun on permits that hold. Waiting for a slot, lapsed permits are renewed: what waits is decided
        again every `permit_ttl`, so a STOP reaches it, and nobody takes it for the leavings of a crash."""
        while permits:
            slots = self._lanes[permits[0].candidate.category == "marketing"]
            if not await self._slot(slots, min(p.until for p in permits)):
                if self._stopping.is_set():
                    await self._hand_back(permits)
                    return
                permits = await self._decide_again(permits)
                continue
            try:
                if time.monotonic() > min(p.until for p in permits):
                    continue
                outcomes = await self._submit(permits)
            finally:
                slots.release()
            if outcomes is None:  # refused as a whole: find the message that is to blame
                half = len(permits) // 2
                await asyncio.gather(self._send_batch(permits[:half]), self._send_batch(permits[half:]))
                return
            await self._settle(permits[0].candidate.partition, outcomes)
            return

    async def _slot(self, slots: asyncio.Semaphore, until: float) -> bool:
        """A free slot before `until` (monotonic); False at that moment, or when the service stops."""
        acquiring = asyncio.ensure_future(slots.acquire())
        stopping = asyncio.ensure_future(self._stopping.wait())
        got = False
        try:
            await asyncio.wait(
                (acquiring, stopping),
                timeout=max(0.0, until - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            got = acquiring.done()
            return got
        finally:
            stopping.cancel()
            if not acquiring.done():
                acquiring.cancel()
            elif not got:  # we were cancelled just as it came
                slots.release()

    async def _hand_back(self, permits: Sequence[Permit]) -> None:
        """These have not left: whoever runs next decides them afresh."""
        rows = [self._outcome(p, "deferred", (Reason.SERVICE_STOPPING,), datetime.now(UTC)) for p in permits]
        await self._settle(permits[0].candidate.partition, [{**row, "gateway": None} for row in rows])

    async def _decide_again(self, permits: Sequence[Permit]) -> list[Permit]:
        """Fresh permits for those that may still go; the others keep their new verdict."""
        REDECIDED.inc(len(permits))
        return await _until_stored(lambda: self._redecide(permits))

    async def _redecide(self, permits: Sequence[Permit]) -> list[Permit]:
        partition = permits[0].candidate.partition
        async with self.database.begin() as tx:
            await store.lock_partition(tx, partition)
            rows = await store.still_sending(tx, [p.candidate.message_id for p in permits])
            decisions = await self.clearance.decide(tx, partition, [stored(row) for row in rows])
            refused = [d for d in decisions if d.permit is None]
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
                to=p.number,
                sender=p.oadc,
                short_code=p.stop_code,
                category=p.candidate.category,
                text=p.text,
            )
            for p in permits
        ]
        try:
            results = await self.gateway.submit(submits)
            self._out_of_reach = 0
            SUBMIT.labels(self.gateway.name).observe(time.monotonic() - started)
        except Throttled as error:
            due = datetime.now(UTC) + timedelta(seconds=error.after_s)
            return [self._outcome(p, "deferred", (Reason.GATEWAY_THROTTLED,), due) for p in permits]
        except Unreachable as error:
            log.warning("the gateway is out of reach", extra={"gateway": self.gateway.name, "why": str(error)})
            self._out_of_reach += 1
            pause_s = min(2.0 ** (self._out_of_reach - 1), UNREACHABLE_PAUSE_S)
            self._rests_until = time.monotonic() + pause_s
            due = datetime.now(UTC) + timedelta(seconds=pause_s)
            return [self._outcome(p, "deferred", (Reason.GATEWAY_UNREACHABLE,), due) for p in permits]
        except Refused as error:
            if len(permits) > 1:
                return None
            return [self._outcome(p, "rejected", code=error.code, handed_off_at=at) for p in permits]
        except Unanswered as error:
            log.warning("no answer to a submit", extra={"gateway": self.gateway.name, "why": str(error)})
            return [self._outcome(p, "unknown", handed_off_at=at) for p in permits]
        return [
            self._outcome(p, r.outcome, code=r.code, gateway_message_id=r.gateway_message_id, handed_off_at=at)
            for p, r in zip(permits, results, strict=True)
        ]

    def _outcome(
        self,
        permit: Permit,
        status: str,
        reasons: tuple[Reason, ...] = (),
        due_at: datetime | None = None,
        *,
        code: str | None = None,
        gateway_message_id: str | None = None,
        handed_off_at: datetime | None = None,
    ) -> dict[str, Any]:
        OUTCOMES.labels(self.gateway.name, status).inc()
        return {
            "message_id": permit.candidate.message_id,
            "subject_id": permit.candidate.subject_id,
            "status": status,
            "reasons": msgspec.json.encode(reasons).decode(),
            "due_at": due_at,
            "gateway": self.gateway.name,
            "gateway_message_id": gateway_message_id,
            "code": code,
            "handed_off_at": handed_off_at,
        }

    async def _settle(self, partition: int, outcomes: Sequence[dict[str, Any]]) -> None:
        """What was handed off must not be forgotten while this process lives."""

        async def store_outcomes() -> list[OptOutEnforced]:
            async with self.database.begin() as tx:
                await store.lock_partition(tx, partition)
                await store.append_changes(tx, await store.settle(tx, outcomes))
                return await store.enforce(tx, [o["subject_id"] for o in outcomes], datetime.now(UTC))

        for event in await _until_stored(store_outcomes):
            ENFORCED.observe((event.enforced_at - event.received_at).total_seconds())


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
