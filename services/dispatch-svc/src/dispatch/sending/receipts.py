"""Delivery receipts (DLRs): out of order, duplicate, early, or about unknown messages.

A terminal state never moves back, with two exceptions: `opted_out` overrides every state, and a message of several
parts is not delivered while a part has failed. A DLR proves that the operator had the message, and resolves `unknown`.
A block without a reason (DOMAIN 4.3) is no opt-out, but may be the person's wish: until a member of staff removes the
block, the person gets no marketing by any gateway, and nothing by the blocking provider.

[name]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process [before-receipts-commit,
after-receipts-commit].
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from asyncpg.pgproto import pgproto
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import INBOUND_RECEIPTS
from common.contracts.inbound import ReceiptReceived, ReceiptsReceived, ReceiptState
from common.db.database import once_committed
from common.kafka.subscription import GATHER_S, After, Received, Subscription
from common.telemetry import counter, tracing
from dispatch.gateways import gateway_name, receipt_codes
from dispatch.gateways.pool import Traffic
from dispatch.messages import events
from dispatch.messages import store as messages
from dispatch.messages.events import Changed
from dispatch.messages.row import Outcome, ReceiptChange
from dispatch.messages.status import HANDED_OFF, Status
from dispatch.projection import store as projection
from dispatch.sending import store
from dispatch.sending.store import Block, Named, Receipt

log = logging.getLogger(__name__)

RECEIPTS = counter("sms_dispatch_receipts_total", "DLRs, by result.", ["state", "result"])
OF_GATEWAY = counter("sms_dispatch_gateway_receipts_total", "DLRs read, of any result.", ["gateway"])
BLOCKS = counter(
    "sms_dispatch_provider_blocks_total",
    "DLRs that block a number for marketing, and for other messages by the gateway.",
    ["gateway"],
)

OUR_VERSION = 8  # of the UUIDs of messages
READ_AT_ONCE = 2_000  # DLRs in a transaction

RANK: dict[ReceiptState | None, int] = {
    None: 0,
    "queued": 1,
    "unknown": 1,
    "sent": 2,
    "delivered": 3,
    "failed": 3,
    "expired": 3,
    "opted_out": 4,
}


@dataclass(frozen=True, slots=True)
class Complaint:
    """A DLR's report of a fault of our account, or of one sender there (`oadc`)."""

    gateway: str
    oadc: str
    code: str | None
    handed_off_at: datetime


def advances(old: ReceiptState | None, new: ReceiptState, *, other_part: bool = False) -> bool:
    """Return whether DLR state `new` replaces `old`. `other_part`: of the message."""
    return RANK[new] > RANK[old] or (other_part and old == "delivered" and new in ("failed", "expired"))


def subscriptions(
    traffic: Traffic, of: Mapping[str, str] | None = None, *, divided: bool = False
) -> list[Subscription]:
    """Return the subscription to DLRs. `of`: gateway by account of the DLRs, where the two differ.

    `divided`: every shard reads all DLRs, and one that names a message of ours by its id is of the shard that has the
    message. A message is stored before its submit, so the shard without it drops the DLR. A DLR that names only the
    gateway's id waits in each shard for the answer to a submit.
    """

    async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
        complaints = await apply_receipts(tx, batch, of or {}, divided=divided)

        async def tell() -> None:
            note(complaints, traffic)

        return tell if complaints else None

    for name in traffic.gateways:
        OF_GATEWAY.labels(name)  # from 0, so that the first DLR is an increase
    return [
        Subscription(
            "dispatch.receipts",
            INBOUND_RECEIPTS,
            apply,
            max_records=READ_AT_ONCE,
            weigh=dlrs_in,
            gather_s=GATHER_S,
            together=True,
        )
    ]


def dlrs_in(value: bytes) -> int:
    """Return how many DLRs a record holds: each names its message once."""
    return value.count(b'"provider_message_id"')


def note(complaints: Iterable[Complaint], traffic: Traffic) -> None:
    """Trip the breaker of each blamed gateway or sender. After the latest hand-off, an earlier adds nothing."""
    for each in sorted(complaints, key=lambda complaint: complaint.handed_off_at, reverse=True):
        if traffic.misconfigured_after_all(each.gateway, each.handed_off_at, each.oadc):
            log.error(
                "a DLR reports a gateway account that needs a person",
                extra={"gateway": each.gateway, "code": each.code},
            )


async def apply_receipts(
    tx: AsyncConnection, batch: list[Received], of: Mapping[str, str], *, divided: bool = False
) -> list[Complaint]:
    """Apply the DLRs of a batch; `note` takes the complaints after the commit."""
    receipts = [
        Receipt(
            gateway=of.get(by := gateway_name(dlr.provider, dlr.account), by),
            gateway_message_id=dlr.provider_message_id,
            receipt=dlr.state,
            code=dlr.code,
            received_at=dlr.received_at,
            occurred_at=dlr.occurred_at,
            blocked=dlr.blocked,
            reference=_uuid(dlr.reference or dlr.provider_message_id),  # some gateways use our message id
        )
        for received in batch
        for dlr in _dlrs(received)
    ]
    of_gateway = Counter(receipt.gateway for receipt in receipts)

    def count() -> None:
        for name, many in of_gateway.items():
            OF_GATEWAY.labels(name).inc(many)

    once_committed(tx, count)
    return await settle_receipts(tx, receipts, keep_early=True, divided=divided)


async def settle_receipts(
    tx: AsyncConnection, receipts: Sequence[Receipt], *, keep_early: bool, divided: bool = False
) -> list[Complaint]:
    """Apply DLRs to their messages, and keep unmatched DLRs until the submit's answer names the message.

    `divided`: but not those that name a message, of another shard then. `note` takes the complaints after the commit.
    """
    if not receipts:
        return []
    try:
        async with tx.begin_nested():
            told, updated = await _store(tx, receipts, locked=False)
    except _Changed:
        told, updated = await _store(tx, receipts, locked=True)
    tracing.matched("dispatch", "DLR matched", told.matched)
    await events.append_changes(tx, updated)
    if told.blocks:
        await store.block(tx, told.blocks)
    early = [receipt for receipt in told.early if not (divided and _names_ours(receipt))]
    if early and keep_early:
        await store.keep_early_receipts(tx, early)
        told.results += [(receipt, "early") for receipt in early]
    once_committed(tx, told.count)
    if not told.blamed:
        return []
    senders = await projection.senders(tx, {sender_id for _, sender_id, _ in told.blamed})
    complaints = []
    for receipt, sender_id, handed_off_at in told.blamed:
        of_sender = receipt_codes.is_of_sender(_provider(receipt), receipt.code)
        if not of_sender or sender_id in senders:
            oadc = senders[sender_id].oadc if of_sender else ""
            complaints.append(Complaint(receipt.gateway, oadc, receipt.code, handed_off_at))
    return complaints


class _Changed(Exception):
    """A message has changed since it was read."""


@dataclass(slots=True)
class _Told:
    """The changes that DLRs make to messages as read. `early`: of no message. `blamed`: with sender and hand-off."""

    matched: list[UUID]
    changes: dict[UUID, ReceiptChange] = field(default_factory=dict)
    results: list[tuple[Receipt, str]] = field(default_factory=list)
    early: list[Receipt] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    blamed: list[tuple[Receipt, str, datetime]] = field(default_factory=list)

    def count(self) -> None:
        """Count the results: a batch that fails is handled again."""
        for labels, many in Counter((receipt.receipt, result) for receipt, result in self.results).items():
            RECEIPTS.labels(*labels).inc(many)
        for gateway, many in Counter(block.gateway for block in self.blocks).items():
            BLOCKS.labels(gateway).inc(many)


async def _store(tx: AsyncConnection, receipts: Sequence[Receipt], *, locked: bool) -> tuple[_Told, list[Changed]]:
    """Store what the DLRs change, and return both.

    A lock before the update costs a record of the WAL for each message, so the caller tries without. Raises _Changed
    where another transaction has changed a message meanwhile; the caller gives up the row locks and begins again.
    """
    found = await store.messages_of_receipts(
        tx,
        [r.reference for r in receipts if r.reference],
        [r.gateway_message_id for r in receipts],
        [r.gateway for r in receipts],
        locked=locked,
    )
    told = _read(receipts, found)
    updated = await messages.put_receipts(tx, list(told.changes.values())) if told.changes else []
    if len(updated) < len(told.changes):
        raise _Changed
    return told, updated


def _read(receipts: Sequence[Receipt], found: Sequence[Named]) -> _Told:
    told = _Told([row.message_id for row in found])
    by_reference = {row.message_id: row for row in found}
    by_gateway_id = {(row.gateway, row.gateway_message_id): row for row in found}
    changes = told.changes
    for receipt in receipts:
        row = by_gateway_id.get((receipt.gateway, receipt.gateway_message_id))
        row = row or (by_reference.get(receipt.reference) if receipt.reference else None)
        if row is None:
            told.early.append(receipt)
            continue
        if row.status not in HANDED_OFF or row.gateway not in (None, receipt.gateway):
            told.results.append((receipt, "foreign"))
            continue
        earlier = changes.get(row.message_id)
        standing = earlier or row
        known_as = standing.gateway_message_id
        other_part = known_as is not None and known_as != receipt.gateway_message_id
        stands = not advances(standing.receipt, receipt.receipt, other_part=other_part)
        # the resubmit was refused because the person is out, which stands; this DLR is of the first submit
        unknown = row.status is Status.UNKNOWN and row.message_id not in changes
        of_the_first = unknown and receipt.receipt != "opted_out"
        if stands and not of_the_first:
            told.results.append((receipt, "old"))
            continue
        changes[row.message_id] = change = ReceiptChange(
            message_id=row.message_id,
            proves=True,
            version=row.version,
            receipt=standing.receipt if stands and standing.receipt else receipt.receipt,
            gateway=receipt.gateway,
            gateway_message_id=known_as or receipt.gateway_message_id,
            code=(None if stands else receipt.code) or (earlier.code if earlier else None),
            receipt_at=standing.receipt_at if stands else receipt.occurred_at,
        )
        if receipt.blocked:
            since = receipt.occurred_at or receipt.received_at
            told.blocks.append(Block(change.gateway, row.subject_id, change.code, since))
        if row.handed_off_at is not None and _needs_somebody(receipt):
            told.blamed.append((receipt, row.sender_id, row.handed_off_at))
        told.results.append((receipt, "applied"))
    return told


async def tell_what_the_provider_refuses(tx: AsyncConnection, settled: Sequence[Outcome]) -> None:
    """Store the opt-outs and blocks in the gateways' answers.

    The DLR published here is consent-svc's evidence of an opt-out. Until consent-svc has applied the opt-out, a
    provider block denies the person marketing by every gateway (fail closed).
    """
    now = datetime.now(UTC)
    refused = [o for o in settled if o.opted_out or o.blocked]
    if not refused:
        return
    await store.block(tx, [Block(o.asked, o.subject_id, o.code, o.handed_off_at or now) for o in refused])
    changes = [
        ReceiptChange(
            message_id=o.message_id,
            proves=False,  # the status is as `settle` left it: perhaps final, or in the hand of another process
            receipt="opted_out",
            gateway=o.asked,
            gateway_message_id=o.gateway_message_id,
            code=o.code,
            receipt_at=o.handed_off_at or now,
        )
        for o in refused
        if o.opted_out
    ]
    await events.append_changes(tx, await messages.put_receipts(tx, changes))


def _dlrs(received: Received) -> Sequence[ReceiptReceived]:
    if isinstance(received.event, ReceiptsReceived):
        return received.event.receipts
    return (received.event,) if isinstance(received.event, ReceiptReceived) else ()


def _names_ours(receipt: Receipt) -> bool:
    """Return whether the DLR names a message by an id such as ours (`common/sms/message_id.py`)."""
    return receipt.reference is not None and receipt.reference.version == OUR_VERSION


def _needs_somebody(receipt: Receipt) -> bool:
    return receipt.receipt == "failed" and receipt_codes.needs_somebody(_provider(receipt), receipt.code)


def _provider(receipt: Receipt) -> str:
    return receipt.gateway.partition(".")[0]


def _uuid(reference: str | None) -> UUID | None:
    try:
        return pgproto.UUID(reference) if reference else None  # asyncpg's takes a sixth of the time
    except ValueError:
        return None  # not a message id of ours
