"""Operators which integrate by Kafka: their topics feed the journal of the callbacks.

The provider is "kafka", the account the operator's name. The transaction which journals a batch also steps the offset.
Unreadable records go to the dead letters, however many: the mistake of one operator stops no other.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import operator_topics
from common.contracts.operator import MessageDelivered, ReceiptDelivered
from common.kafka.broker import encode
from common.kafka.subscription import After, Handler, Poison, Received, Subscription
from common.service import Resources
from inbound import journal
from inbound.journal import Arrival, Entry
from inbound.providers import Message, Receipt, WrongField
from inbound.providers.provider import NUMBER_CHARS, optional, required
from inbound.store import Origin

PROVIDER = "kafka"
MAX_RECORDS = 200  # a batch is one row of the journal


def subscriptions(held: Resources[Any], names: Iterable[str]) -> list[Subscription]:
    """Return the subscriptions to both topics of each operator."""
    found = []
    for name in names:
        messages, receipts = operator_topics(name)
        for topic, kind in (
            (messages, Origin(PROVIDER, name, "messages")),
            (receipts, Origin(PROVIDER, name, "receipts")),
        ):
            found.append(
                Subscription(f"inbound.{topic.name}", topic, _taker(held, kind), max_records=MAX_RECORDS, foreign=True)
            )
    return found


def _taker(held: Resources[Any], origin: Origin) -> Handler:
    async def take(tx: AsyncConnection, batch: list[Received]) -> After:
        received_at = datetime.now(UTC)
        entries = [_entry(held, origin, received, received_at) for received in batch]
        content = b"\n".join(encode(received.event) for received in batch)
        (kept,) = await journal.write(tx, held, [Arrival(origin, entries, content, received_at)])

        async def tell() -> None:
            journal.tell(kept)

        return tell

    return take


def _entry(held: Resources[Any], origin: Origin, received: Received, received_at: datetime) -> Entry:
    """Return the journal entry of a record. Raises Poison for an event of another topic, or an unstorable field."""
    try:
        match received.event:
            case MessageDelivered() as event if origin.kind == "messages":
                return journal.message_entry(held, origin, _message(event), received_at)
            case ReceiptDelivered() as event if origin.kind == "receipts":
                return journal.receipt_entry(held, origin, _receipt(event), received_at)
    except WrongField as wrong:
        raise Poison(str(wrong)) from wrong
    raise Poison(f"{received.event.type} is not for this topic")


def _message(event: MessageDelivered) -> Message:
    fields = {"message_id": event.message_id, "sender": event.sender, "recipient": event.recipient}
    return Message(
        provider_message_id=required(fields, "message_id"),
        sender=required(fields, "sender", most=NUMBER_CHARS),
        short_code=required(fields, "recipient", most=NUMBER_CHARS),
        text=event.text,
        sent_at=event.sent_at,
    )


def _receipt(event: ReceiptDelivered) -> Receipt:
    fields = {"message_id": event.message_id, "reference": event.reference, "code": event.code}
    return Receipt(
        provider_message_id=required(fields, "message_id"),
        reference=optional(fields, "reference"),
        state=event.state,
        code=optional(fields, "code"),
        at=event.at,
        blocked=event.blocked,
    )
