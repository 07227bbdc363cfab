"""The events of messages: the current state of a message, and its publication."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged
from common.kafka import outbox
from dispatch.messages.row import MessageRow, Outcome
from dispatch.messages.status import TOLD


class Changed(NamedTuple):
    """The current state of a message, and the partition of its subject."""

    partition: int
    event: MessageChanged


def changed(row: MessageRow) -> Changed:
    return Changed(
        row.partition,
        MessageChanged(
            message_id=str(row.message_id),
            campaign_id=row.campaign_id,
            sender_id=row.sender_id,
            subject_id=row.subject_id,
            category=row.category,
            version=row.version,
            status=TOLD[row.status],
            reasons=row.reasons,
            until=row.due_at,
            policy_version=row.policy_version,
            consent_version=row.consent_version,
            as_of=row.as_of,
            decided_at=row.decided_at,
            gateway=row.gateway,
            gateway_message_id=row.gateway_message_id,
            receipt=row.receipt,
            code=row.code,
            receipt_at=row.receipt_at,
            purpose=row.purpose,
            handed_off_at=row.handed_off_at,
            number=row.number if row.receipt == "opted_out" else None,
        ),
    )


def accepted(decision: MessageRow, outcome: Outcome) -> Changed:
    """Return the state of a message after `accept`, from the row after the decision."""
    return changed(
        replace(
            decision,
            version=decision.version + 1,
            status=outcome.status,
            reasons=outcome.reasons,
            due_at=outcome.due_at,
            gateway_message_id=outcome.gateway_message_id,
            handed_off_at=outcome.handed_off_at,
        )
    )


async def append_changes(tx: AsyncConnection, changes: Sequence[Changed]) -> None:
    """Publish the current state of each message, in this order; a partition's events share rows."""
    together: dict[int, list[MessageChanged]] = defaultdict(list)
    for partition, event in changes:
        together[partition].append(event)
    await outbox.append_together(tx, DISPATCH_MESSAGES, *together.values())
