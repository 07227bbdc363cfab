"""The events of messages: the current state of a message, from its row or its decision, and the publication."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged
from common.kafka import outbox


class Changed(NamedTuple):
    """The current state of a message, and the partition of its subject."""

    partition: int
    event: MessageChanged


# the columns of a row for `changed`, in this order
OF_A_CHANGE = ", ".join(
    f"m.{column}"
    for column in (
        *("partition", "message_id", "campaign_id", "sender_id", "subject_id", "category", "version", "status"),
        *("reasons", "due_at", "policy_version", "consent_version", "as_of", "decided_at", "gateway"),
        *("gateway_message_id", "receipt", "code", "receipt_at", "purpose", "handed_off_at"),
    )
)

OF_A_CHANGE += ", CASE WHEN m.receipt = 'opted_out' THEN m.number END"


def changed(row: Sequence[Any]) -> Changed:
    return Changed(
        row[0],
        MessageChanged(
            message_id=str(row[1]),
            campaign_id=row[2],
            sender_id=row[3],
            subject_id=row[4],
            category=row[5],
            version=row[6],
            status=row[7],
            reasons=tuple(row[8]),
            until=row[9],
            policy_version=row[10],
            consent_version=row[11],
            as_of=row[12],
            decided_at=row[13],
            gateway=row[14],
            gateway_message_id=row[15],
            receipt=row[16],
            code=row[17],
            receipt_at=row[18],
            purpose=row[19],
            handed_off_at=row[20],
            number=row[21],
        ),
    )


def inserted(row: Mapping[str, Any]) -> Changed:
    """Return the state of a new message after `insert_messages`. `row` is the decision."""
    return Changed(row["partition"], _as_decided(row, 1, row))


def _as_decided(row: Mapping[str, Any], version: int, state: Mapping[str, Any]) -> MessageChanged:
    """Return the event of a decision. `row` is the decision, `state` the outcome or the same decision."""
    return MessageChanged(
        message_id=str(row["message_id"]),
        campaign_id=row["campaign_id"],
        sender_id=row["sender_id"],
        subject_id=row["subject_id"],
        category=row["category"],
        version=version,
        status=state["status"],
        reasons=state["reasons"],
        until=state["due_at"],
        policy_version=row["policy_version"],
        consent_version=row["consent_version"],
        as_of=row["as_of"],
        decided_at=row["decided_at"],
        gateway=row["gateway"],
        gateway_message_id=state.get("gateway_message_id"),
        receipt=None,
        code=None,
        purpose=row["purpose"],
        handed_off_at=state.get("handed_off_at"),
    )


async def append_changes(tx: AsyncConnection, changes: Sequence[Changed]) -> None:
    """Publish the current state of each message, in this order; the events of a partition share rows."""
    together: dict[int, list[MessageChanged]] = defaultdict(list)
    for partition, event in changes:
        together[partition].append(event)
    await outbox.append_together(tx, DISPATCH_MESSAGES, *together.values())


def accepted(row: Mapping[str, Any], outcome: Mapping[str, Any]) -> Changed:
    """Return the state of a message after `accept`. `row` is the decision."""
    return Changed(row["partition"], _as_decided(row, row["version"] + 1, outcome))
