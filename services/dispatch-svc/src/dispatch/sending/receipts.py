"""What operators say afterwards: receipts out of order, twice, early, or about messages nobody knows.

A terminal state never moves back; but a person who opted out has, whatever was said before, and a message of several
parts is not delivered while one of them failed. A receipt is also proof that the operator had the message: it resolves
an `unknown`, also one whose repeat was refused because its person is out, which stands beside it. One of a number that
the provider will not deliver to, for a reason it does not tell (DOMAIN 4.3), is no opt-out, and may be the person's
wish: until somebody removes that block, no marketing goes to them by any gateway, and nothing else by that provider's.

[n]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process [19, 20].
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import INBOUND_RECEIPTS
from common.contracts.inbound import ReceiptReceived, ReceiptState
from common.kafka.consumer import After, Received, Subscription
from common.telemetry import counter
from dispatch.gateways import gateway_name, receipt_codes
from dispatch.gateways.pool import Traffic
from dispatch.messages import events
from dispatch.messages import store as messages
from dispatch.projection import store as projection
from dispatch.sending import store

log = logging.getLogger(__name__)

RECEIPTS = counter("sms_dispatch_receipts_total", "Receipts by what became of them.", ["state", "result"])

BLOCKS = counter(
    "sms_dispatch_provider_blocks_total",
    "Receipts that block a number, to marketing and to a gateway.",
    ["gateway"],
)

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
    """A receipt that says of its gateway, or of this sender on it (`oadc`), that somebody has to act."""

    gateway: str
    oadc: str
    code: str | None
    handed_off_at: datetime


HANDED_OFF = ("sending", "accepted", "rejected", "unknown")  # what an operator can have a receipt for


def advances(old: ReceiptState | None, new: ReceiptState, *, other_part: bool = False) -> bool:
    """Does `new` tell more than `old`? Among terminal states the first one stands, save `opted_out`. `other_part`: of
    the same message, under another id."""
    return RANK[new] > RANK[old] or (other_part and old == "delivered" and new in ("failed", "expired"))


def subscriptions(traffic: Traffic, of: Mapping[str, str] | None = None) -> list[Subscription]:
    """`of`: the gateway that an account's receipts are of, where they come another way than it took the messages."""

    async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
        complaints = await apply_receipts(tx, batch, of or {})

        async def tell() -> None:
            note(complaints, traffic)

        return tell if complaints else None

    return [Subscription("dispatch.receipts", INBOUND_RECEIPTS, apply)]


def note(complaints: Iterable[Complaint], traffic: Traffic) -> None:
    """The latest hand-off of each: what came before tells no more."""
    for each in sorted(complaints, key=lambda complaint: complaint.handed_off_at, reverse=True):
        if traffic.misconfigured_after_all(each.gateway, each.handed_off_at, each.oadc):
            log.error("a receipt says that somebody is needed", extra={"gateway": each.gateway, "code": each.code})


async def apply_receipts(tx: AsyncConnection, batch: list[Received], of: Mapping[str, str]) -> list[Complaint]:
    receipts = [
        {
            "gateway": of.get(by := gateway_name(r.event.provider, r.event.account), by),
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
    return await settle_receipts(tx, receipts, keep_early=True)


async def settle_receipts(
    tx: AsyncConnection, receipts: Sequence[Mapping[str, Any]], *, keep_early: bool
) -> list[Complaint]:
    """Apply what is known to the messages it is about; keep the rest for when the submit's answer arrives. Returns what
    is to be noted once that is committed."""
    if not receipts:
        return []
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
    blamed = []
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
        stands = not advances(standing["receipt"], receipt["receipt"], other_part=other_part)
        # a repeat was refused because its person is out, which stands; this is of the first, which may have arrived
        of_the_first = standing["status"] == "unknown" and receipt["receipt"] != "opted_out"
        if stands and not of_the_first:
            RECEIPTS.labels(receipt["receipt"], "old").inc()
            continue
        changes[row.message_id] = {
            "message_id": row.message_id,
            "status": "accepted" if row.status == "unknown" else row.status,
            "receipt": standing["receipt"] if stands else receipt["receipt"],
            "gateway": receipt["gateway"],
            "gateway_message_id": known_as or receipt["gateway_message_id"],
            "code": None if stands else receipt["code"],
            "receipt_at": standing["receipt_at"] if stands else receipt["occurred_at"],
        }
        if receipt["blocked"]:
            since = receipt["occurred_at"] or receipt["received_at"]
            blocks.append({**changes[row.message_id], "subject_id": row.subject_id, "since": since})
            BLOCKS.labels(receipt["gateway"]).inc()
        if row.handed_off_at is not None and _needs_somebody(receipt):
            blamed.append((receipt, row))
        RECEIPTS.labels(receipt["receipt"], "applied").inc()
    if changes:
        await events.append_changes(tx, await messages.put_receipts(tx, list(changes.values())))
    if blocks:
        await store.block(tx, blocks)
    if early and keep_early:
        await store.keep_early_receipts(tx, early)
        for receipt in early:
            RECEIPTS.labels(receipt["receipt"], "early").inc()
    if not blamed:
        return []
    senders = await projection.senders(tx, {row.sender_id for _, row in blamed})
    complaints = []
    for receipt, row in blamed:
        of_sender = receipt_codes.is_of_sender(_provider(receipt), receipt["code"])
        if not of_sender or row.sender_id in senders:
            oadc = senders[row.sender_id].oadc if of_sender else ""
            complaints.append(Complaint(receipt["gateway"], oadc, receipt["code"], row.handed_off_at))
    return complaints


def _needs_somebody(receipt: Mapping[str, Any]) -> bool:
    return receipt["receipt"] == "failed" and receipt_codes.needs_somebody(_provider(receipt), receipt["code"])


def _provider(receipt: Mapping[str, Any]) -> str:
    provider: str = receipt["gateway"].partition(".")[0]
    return provider


def _uuid(reference: str | None) -> UUID | None:
    try:
        return UUID(reference) if reference else None
    except ValueError:
        return None  # not one of ours
