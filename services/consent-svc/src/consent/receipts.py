"""What operators know and we do not: a receipt `opted_out` is an opt-out of the message's sender, with its evidence.

The person told the operator, or its blacklist, to stop (DOMAIN 4.3). It counts from the receipt's time, not before: an
opt-in given earlier is outvoted, since the operator would still not deliver; a newer one is not.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.consumer import After, Received, Subscription
from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged
from consent import recorder
from consent.chain import evidence_id
from consent.ledger import Evidence
from consent.recorder import Statement

GROUP = "consent.receipts"
SOURCE = "receipt"


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """One opt-out a message, however often its change is told."""
    if statements := list(opt_outs(batch)):
        await recorder.record(tx, statements, datetime.now(UTC))
    return None


def opt_outs(batch: Sequence[Received]) -> Iterator[Statement]:
    for received in batch:
        message = received.event
        if not isinstance(message, MessageChanged) or message.receipt != "opted_out":
            continue
        evidence = Evidence(
            evidence_id=evidence_id(SOURCE, message.message_id),
            kind="opt_out",
            sender_id=message.sender_id,
            purpose=None,
            source=SOURCE,
            reference=f"{message.gateway}/{message.gateway_message_id}",
            occurred_at=message.receipt_at or received.published_at,
            received_at=received.published_at,
        )
        yield Statement(message.subject_id, message.number, evidence)


dispatch_messages = Subscription(GROUP, DISPATCH_MESSAGES, apply)
