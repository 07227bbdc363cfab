"""Rows of dispatch's ledger, and what is done to them, as its statements take them."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec.structs import asdict, replace

from common.kafka.broker import partition_of
from dispatch.messages.enforcement import OptOut
from dispatch.messages.row import COLUMNS, MessageRow, Outcome, ReceiptChange
from dispatch.messages.status import Status
from dispatch.sending.store import Receipt
from tests.support.builders import now, requested


def message(n: int = 1, status: str = "sending", **more: Any) -> MessageRow:
    """The message of a request, decided just now."""
    wanted = requested(n)
    fields = {name: value for name, value in asdict(wanted).items() if name in COLUMNS}
    row = MessageRow(
        **{
            **fields,
            "message_id": UUID(wanted.message_id),
            "status": Status(status),
            "reasons": (),
            "partition": partition_of(wanted.subject_id, 3),
            "version": 1,
            "policy_version": "demonstration-3",
            "consent_version": 1,
            "as_of": now(),
            "decided_at": now(),
            "gateway": "simulator",
        }
    )
    return replace(row, **more)


def decided_at(row: MessageRow) -> datetime:
    assert row.decided_at is not None
    return row.decided_at


def accepted(row: MessageRow, **more: Any) -> Outcome:
    outcome = Outcome(
        message_id=row.message_id,
        subject_id=row.subject_id,
        status=Status.ACCEPTED,
        decided_at=row.decided_at,
        gateway="simulator",
        asked="simulator",
        gateway_message_id=f"op-{row.message_id}",
        handed_off_at=now(),
        decision=row,
    )
    return replace(outcome, **more)


def deferred(row: MessageRow, **more: Any) -> Outcome:
    """An outcome of a message that has not begun, as far as who tells of it knows."""
    return accepted(row, **{"status": Status.DEFERRED, "due_at": now() + timedelta(hours=1), **more})


def receipted(message_id: UUID, **more: Any) -> ReceiptChange:
    change = ReceiptChange(
        message_id=message_id,
        proves=True,
        receipt="delivered",
        gateway="simulator",
        gateway_message_id="op-1",
        code=None,
        receipt_at=now(),
    )
    return replace(change, **more)


def dlr(gateway_message_id: str, reference: UUID | None = None, **more: Any) -> Receipt:
    at = now()
    told = Receipt("simulator", gateway_message_id, "delivered", None, at, at, blocked=False, reference=reference)
    return told._replace(**more)


def opt_out(of: MessageRow, consent_version: int = 2) -> OptOut:
    return OptOut(of.subject_id, of.partition, consent_version, "mo", None, received_at=now(), applied_at=now())
