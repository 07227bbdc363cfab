"""What operators say afterwards: receipts out of order, twice, early, or about messages nobody knows.

A terminal state never moves back; but a person who opted out has, whatever was said before, and a message of several
parts is not delivered while one of them failed. A receipt is also proof that the operator had the message: it resolves
an `unknown`. One of a number that the provider will not deliver to, for a reason it does not tell (DOMAIN 4.3), closes
that provider to the person until somebody opens it again; it is no opt-out.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from common.consumer import After, Received, Subscription
from common.contracts import INBOUND_RECEIPTS
from common.contracts.inbound import ReceiptReceived, ReceiptState
from common.telemetry import counter
from dispatch import store
from dispatch.gateways import gateway_name

RECEIPTS = counter("sms_dispatch_receipts_total", "Receipts by what became of them.", ["state", "result"])

BLOCKS = counter("sms_dispatch_provider_blocks_total", "Receipts that close a provider to a number.", ["gateway"])

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


HANDED_OFF = ("sending", "accepted", "rejected", "unknown")  # what an operator can have a receipt for


def advances(old: ReceiptState | None, new: ReceiptState, *, other_part: bool = False) -> bool:
    """Does `new` tell more than `old`? Among terminal states the first one stands, save `opted_out`. `other_part`: of
    the same message, under another id."""
    return RANK[new] > RANK[old] or (other_part and old == "delivered" and new in ("failed", "expired"))


def subscriptions() -> list[Subscription]:
    return [Subscription("dispatch.receipts", INBOUND_RECEIPTS, apply_receipts)]


async def apply_receipts(tx: AsyncConnection, batch: list[Received]) -> After | None:
    receipts = [
        {
            "gateway": gateway_name(r.event.provider, r.event.account),
            "gateway_message_id": r.event.provider_message_id,
            "reference": _uuid(r.event.reference or r.event.provider_message_id),  # some call a message as we do
            "receipt": r.event.state,
            "code": r.event.code,
            "occurred_at": r.event.occurred_at,
            "received_at": r.event.received_at,
            "blocked": r.event.blocked,
        }
        for r in batch
        if isinstance(r.event, ReceiptReceived)
    ]
    await settle_receipts(tx, receipts, keep_early=True)
    return None


async def settle_receipts(tx: AsyncConnection, receipts: Sequence[Mapping[str, Any]], *, keep_early: bool) -> None:
    """Apply what is known to the messages it is about; keep the rest for when the submit's answer arrives."""
    if not receipts:
        return
    found = await store.messages_of_receipts(
        tx,
        [r["reference"] for r in receipts if r["reference"]],
        [r["gateway_message_id"] for r in receipts],
        [r["gateway"] for r in receipts],
    )
    by_reference = {row.message_id: row for row in found}
    by_gateway_id = {(row.gateway, row.gateway_message_id): row for row in found}
    changes: dict[UUID, dict[str, Any]] = {}
    early = []
    blocks = []
    for receipt in receipts:
        row = by_gateway_id.get((receipt["gateway"], receipt["gateway_message_id"]))
        row = row or by_reference.get(receipt["reference"])
        if row is None:
            early.append(receipt)
            continue
        if row.status not in HANDED_OFF or row.gateway not in (None, receipt["gateway"]):
            RECEIPTS.labels(receipt["receipt"], "foreign").inc()
            continue
        standing = changes.get(row.message_id, row._mapping)
        known_as = standing["gateway_message_id"]
        other_part = known_as is not None and known_as != receipt["gateway_message_id"]
        if not advances(standing["receipt"], receipt["receipt"], other_part=other_part):
            RECEIPTS.labels(receipt["receipt"], "old").inc()
            continue
        changes[row.message_id] = {
            "message_id": row.message_id,
            "status": "accepted" if row.status == "unknown" else row.status,
            "receipt": receipt["receipt"],
            "gateway": receipt["gateway"],
            "gateway_message_id": known_as or receipt["gateway_message_id"],
            "code": receipt["code"],
            "receipt_at": receipt["occurred_at"],
        }
        if receipt["blocked"]:
            since = receipt["occurred_at"] or receipt["received_at"]
            blocks.append({**changes[row.message_id], "subject_id": row.subject_id, "since": since})
            BLOCKS.labels(receipt["gateway"]).inc()
        RECEIPTS.labels(receipt["receipt"], "applied").inc()
    if changes:
        await store.append_changes(tx, await store.put_receipts(tx, list(changes.values())))
    if blocks:
        await store.block(tx, blocks)
    if early and keep_early:
        await store.keep_early_receipts(tx, early)
        for receipt in early:
            RECEIPTS.labels(receipt["receipt"], "early").inc()


def _uuid(reference: str | None) -> UUID | None:
    try:
        return UUID(reference) if reference else None
    except ValueError:
        return None  # not one of ours
