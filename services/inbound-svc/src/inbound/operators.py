"""Operators which integrate by Kafka: their topics feed the journal of the callbacks.

The provider is "kafka", the account the operator's name. The transaction which journals a batch also steps the offset.
Unreadable records go to the dead letters, however many: the mistake of one operator stops no other. An unreadable MO
may be a STOP: marketing to each number that can be made out in it waits for a reviewer (`unread.py`).

An operator's topics are keyed by its own ids, so each shard of inbound-svc reads all of them, with offsets of its own,
and journals the items of its own people alone.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import operator_topics
from common.contracts.operator import MessageDelivered, MessagePart, ReceiptDelivered
from common.kafka.broker import encode
from common.kafka.subscription import After, Handler, Poison, Received, Subscription, Unread, UnreadHandler
from common.service import Resources
from inbound import journal
from inbound.journal import Arrival, Entry
from inbound.keywords import Understanding
from inbound.providers import Message, Receipt, WrongField
from inbound.providers.provider import NUMBER_CHARS, Part, optional, required
from inbound.store import Origin
from inbound.unread import people_in

PROVIDER = "kafka"
MAX_RECORDS = 200  # a batch is one row of the journal
UNREADABLE = Understanding("review", "unreadable_record", 0.0, "", concern="unread")
FIRST_YEAR = 2000  # of a clock that was set
MAX_PARTS = 255  # octet of the user data header


def subscriptions(held: Resources[Any], names: Iterable[str]) -> list[Subscription]:
    """Return the subscriptions to both topics of each operator."""
    found = []
    for name in names:
        messages, receipts = operator_topics(name)
        for topic, origin in (
            (messages, Origin(PROVIDER, name, "messages")),
            (receipts, Origin(PROVIDER, name, "receipts")),
        ):
            found.append(
                Subscription(
                    f"inbound.{topic.name}",
                    topic,
                    _taker(held, origin),
                    max_records=MAX_RECORDS,
                    foreign=True,
                    on_unread=_holder(held, origin) if topic is messages else None,  # a DLR is no STOP by text
                )
            )
    return found


def _taker(held: Resources[Any], origin: Origin) -> Handler:
    async def take(tx: AsyncConnection, batch: list[Received]) -> After | None:
        received_at = datetime.now(UTC)
        read = [(_entry(held, origin, received, received_at), received) for received in batch]
        entries = journal.own_entries(held, [entry for entry, _ in read])
        if not entries:
            return None
        own = {id(entry) for entry in entries}
        content = b"\n".join(encode(received.event) for entry, received in read if id(entry) in own)
        (kept,) = await journal.write(tx, held, [Arrival(origin, entries, content, received_at)])

        async def tell() -> None:
            journal.tell(kept)

        return tell

    return take


def _holder(held: Resources[Any], origin: Origin) -> UnreadHandler:
    """Return the handler that holds the people of an unreadable MO: the record is in review, as a text of each.

    A record in which no number can be made out holds nobody; its dead letter pages all the same. Where a record names
    people of several shards, no review shows its text: an erasure in one shard would leave the number in the other's
    database. The review's MO id tells where the record stands in the topic.
    """

    async def hold(tx: AsyncConnection, unread: Unread) -> After | None:
        received_at = datetime.now(UTC)
        at = f"unreadable-{unread.partition}-{unread.offset}-{received_at:%Y%m%dT%H%M%S.%fZ}"
        people = people_in(unread.key, unread.value, held.settings.country)

        def as_texts(text: str) -> list[Entry]:
            return [
                journal.message_entry(
                    held,
                    origin,
                    Message(f"{at}-{n}", person.number, person.short_code, text, None),
                    received_at,
                    meant=UNREADABLE,
                )
                for n, person in enumerate(people)
            ]

        entries = as_texts((unread.value or b"").decode(errors="replace"))
        is_kept = len({held.shard_of(entry.event.key).name for entry in entries}) == 1
        if not is_kept:
            entries = as_texts("")
        entries = journal.own_entries(held, entries)
        if not entries:
            return None
        arrival = Arrival(origin, entries, unread.value or b"", received_at, is_kept=is_kept)
        (kept,) = await journal.write(tx, held, [arrival])

        async def tell() -> None:
            journal.tell(kept)

        return tell

    return hold


def _entry(held: Resources[Any], origin: Origin, received: Received, received_at: datetime) -> Entry:
    """Return the journal entry of a record. Raises Poison for an event of another topic, or an unstorable field."""
    try:
        match received.event:
            case MessageDelivered() as event if origin.kind == "messages":
                return _mo(held, origin, event, received_at)
            case ReceiptDelivered() as event if origin.kind == "receipts":
                return journal.receipt_entry(held, origin, _receipt(event), received_at)
    except WrongField as wrong:
        raise Poison(str(wrong)) from wrong
    raise Poison(f"{received.event.type} is not for this topic")


def _mo(held: Resources[Any], origin: Origin, event: MessageDelivered, received_at: datetime) -> Entry:
    """Return the entry of an MO.

    An MO that may be an earlier one again has the name of the earlier one, unless the text tightens: between two equal
    STOPs the person may have opted in.
    """
    message = _message(event)
    entry = journal.message_entry(held, origin, message, received_at)
    earlier = optional({"repeats": event.repeats}, "repeats")
    if earlier is None or entry.item.intent in journal.TIGHTENING:
        return entry
    return journal.message_entry(held, origin, structs.replace(message, provider_message_id=earlier), received_at)


def _message(event: MessageDelivered) -> Message:
    fields = {"message_id": event.message_id, "sender": event.sender, "recipient": event.recipient}
    return Message(
        provider_message_id=required(fields, "message_id"),
        sender=required(fields, "sender", most=NUMBER_CHARS),
        short_code=required(fields, "recipient", most=NUMBER_CHARS),
        text=event.text,
        sent_at=_set(event.sent_at),
        part=_part(event.part),
    )


def _part(said: MessagePart | None) -> Part | None:
    """Return the part, or None: implausible numbers make a text of its own."""
    if said is None or not (said.reference.isprintable() and 0 < len(said.reference) <= NUMBER_CHARS):
        return None
    plausible = 1 <= said.number <= said.total <= MAX_PARTS and said.total > 1
    return Part(said.reference, said.number, said.total) if plausible else None


def _receipt(event: ReceiptDelivered) -> Receipt:
    fields = {"message_id": event.message_id, "reference": event.reference, "code": event.code}
    return Receipt(
        provider_message_id=required(fields, "message_id"),
        reference=optional(fields, "reference"),
        state=event.state,
        code=optional(fields, "code"),
        at=_set(event.at),
        blocked=event.blocked,
    )


def _set(at: datetime | None) -> datetime | None:
    """Return the time of a clock that was set: another is no time, and the first year of all overflows in UTC."""
    return at if at is not None and at.year >= FIRST_YEAR else None
