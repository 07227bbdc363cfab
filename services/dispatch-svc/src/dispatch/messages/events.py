"""The events of messages: the current state of a message, and its publication."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.kafka import outbox
from dispatch.messages.row import MessageRow, Outcome
from dispatch.messages.status import CHARGED, TOLD, Status

MOST = 500  # changes of an event: a quarter of a Kafka record, or more where a gateway's ids are long


class Changed(NamedTuple):
    """The current state of a message, and the partition of its subject."""

    partition: int
    state: MessageChanged


def changed(row: MessageRow) -> Changed:
    return _changed(row, row.version, row.status, row.reasons, row.due_at, row.gateway_message_id, row.handed_off_at)


def accepted(decision: MessageRow, outcome: Outcome) -> Changed:
    """Return the state of a message after `accept`, from the row after the decision."""
    return _changed(
        decision,
        decision.version + 1,
        outcome.status,
        outcome.reasons,
        outcome.due_at,
        outcome.gateway_message_id,
        outcome.handed_off_at,
    )


def _changed(
    row: MessageRow,
    version: int,
    status: Status,
    reasons: tuple[str, ...],
    due_at: datetime | None,
    gateway_message_id: str | None,
    handed_off_at: datetime | None,
) -> Changed:
    """Return the state of a message: of the row, but for what an outcome changes."""
    charged = status in CHARGED
    return Changed(
        row.partition,
        MessageChanged(
            message_id=str(row.message_id),
            campaign_id=row.campaign_id,
            sender_id=row.sender_id,
            subject_id=row.subject_id,
            category=row.category,
            version=version,
            status=TOLD[status],
            reasons=reasons,
            until=due_at,
            policy_version=row.policy_version,
            consent_version=row.consent_version,
            as_of=row.as_of,
            decided_at=row.decided_at,
            gateway=row.gateway,
            gateway_message_id=gateway_message_id,
            receipt=row.receipt,
            code=row.code,
            receipt_at=row.receipt_at,
            purpose=row.purpose,
            handed_off_at=handed_off_at,
            number=row.number if row.receipt == "opted_out" else None,
            segments=row.segments if charged else None,
            cost=row.cost if charged else None,
        ),
    )


async def append_changes(tx: AsyncConnection, changes: Sequence[Changed]) -> None:
    """Publish the current state of each message, in this order; changes of a partition share an event."""
    by_partition: dict[int, list[MessageChanged]] = defaultdict(list)
    for partition, state in changes:
        by_partition[partition].append(state)
    most = MOST
    while True:
        try:
            await outbox.append(tx, DISPATCH_MESSAGES, list(batches(by_partition.values(), most)))
            return
        except outbox.TooLarge:
            if most == 1:
                raise
            most //= 2


def batches(groups: Iterable[Sequence[MessageChanged]], most: int) -> Iterator[MessagesChanged]:
    """Yield events of at most `most` changes, each of a single group. Pure."""
    for group in groups:
        for at in range(0, len(group), most):
            yield MessagesChanged(changes=tuple(group[at : at + most]))
