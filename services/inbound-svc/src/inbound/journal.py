"""The journal: what comes in is kept once, understood, and put in the outbox, whatever way it came. The caller owns the
transaction.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from common import erasing, outbox
from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS, Event, Topic
from common.contracts.inbound import Intent, MessageReceived, ReceiptReceived
from common.erasing import Asked
from common.message_id import EPOCH, message_id
from common.msisdn import as_received
from common.service import Resources
from common.telemetry import counter
from inbound import queue, store
from inbound.keywords import Understanding, classify
from inbound.providers import Kind, Message, Receipt, ambiguous
from inbound.store import Identity, Item, KeptPart, Origin

log = logging.getLogger(__name__)

EVENT_TEXT_CHARS = 4_096  # an SMS has 1,530 at most; a record must fit Kafka. The journal keeps the whole body
TOPICS: Mapping[Kind, Topic] = {"messages": INBOUND_MESSAGES, "receipts": INBOUND_RECEIPTS}
PART_INTENTS = ("stop", "review")  # what a piece of a text may mean on its own: it can only tighten

INTENTS = counter("sms_inbound_intents_total", "MOs journalled, by what their text means.", ["intent"])


@dataclass(frozen=True, slots=True)
class Entry:
    """One MO or receipt on its way into the journal. `message`: of an MO."""

    item: Item
    event: Event
    message: Message | None = None


async def write(
    tx: AsyncConnection,
    held: Resources[Any],
    origin: Origin,
    entries: Sequence[Entry],
    content: bytes,
    received_at: datetime,
) -> tuple[list[Entry], list[int]]:
    """(what was new, outbox ids of all events these entries stand for). `content`: as it came, kept sealed."""
    callback_id = uuid4()
    fresh = await _add(tx, origin, callback_id, entries)
    erased = await erasing.asked_of(tx, people) if (people := {e.item.subject_id or "" for e in fresh} - {""}) else {}
    late = {entry.item.identity for entry in fresh if _is_late(entry, erased)}
    fresh = [_emptied(held, entry) if entry.item.identity in late else entry for entry in fresh]
    wholes = [whole for entry in fresh if (whole := await _whole(tx, held, origin, entry, received_at))]
    fresh += await _add(tx, origin, callback_id, wholes)
    outbox_ids: list[int] = []
    if fresh:
        outbox_ids += await outbox.append(tx, TOPICS[origin.kind], [entry.event for entry in fresh])
        await queue.add(tx, [entry.event for entry in fresh])
        raw = content.decode("latin-1")  # a character a byte: what is unsealed is what was sent
        sealed = None if late else held.field_keys.seal(raw, f"callback:{callback_id}")
        await store.add_callback(tx, origin, callback_id, received_at, sealed, outbox_ids)
    if known := {entry.item.identity for entry in entries} - {entry.item.identity for entry in fresh}:
        outbox_ids += await store.outbox_ids_of(tx, origin, known)
    return fresh, outbox_ids


def _is_late(entry: Entry, erased: Mapping[str, Asked]) -> bool:
    """Of before its person was erased: nothing of it is to be kept but that it came, and a STOP."""
    asked = erased.get(entry.item.subject_id or "")
    return asked is not None and isinstance(entry.event, MessageReceived) and entry.event.occurred_at <= asked.at


def _emptied(held: Resources[Any], entry: Entry) -> Entry:
    """The MO without its text, which nobody will read: what might have been a STOP is one. No part waits for others."""
    event = entry.event
    assert isinstance(event, MessageReceived)
    intent: Intent = "stop" if event.intent in ("stop", "review") else "none"
    rule = f"{event.rule}:erased"
    return Entry(
        replace(entry.item, intent=intent, rule=rule),
        structs.replace(
            event,
            intent=intent,
            rule=rule,
            text=held.field_keys.seal("", f"text:{event.mo_id}"),
            named="",
            erasure=False,
        ),
    )


def tell(origin: Origin, fresh: Sequence[Entry]) -> None:
    """The log and the metrics, once the transaction is committed."""
    for entry in fresh:
        if entry.item.intent:
            INTENTS.labels(entry.item.intent).inc()
            extra = {"subject_id": entry.item.subject_id, **named(origin, entry.item)}
            log.info("an MO is journalled", extra=extra)


async def _add(tx: AsyncConnection, origin: Origin, callback_id: UUID, entries: Sequence[Entry]) -> list[Entry]:
    """Those of the entries that are not in the journal yet, in the provider's order; once, should the body repeat
    itself."""
    if not entries:
        return []
    new = await store.add_items(tx, origin, callback_id, [entry.item for entry in entries])
    fresh: dict[Identity, Entry] = {}
    for entry in entries:
        if entry.item.identity in new:
            fresh.setdefault(entry.item.identity, entry)
    return list(fresh.values())


async def _whole(
    tx: AsyncConnection, held: Resources[Any], origin: Origin, entry: Entry, received_at: datetime
) -> Entry | None:
    """The MO that this part completes. It is named after its parts, so that it is the same whichever came last."""
    message, name = entry.message, entry.item.provider_message_id
    if message is None or message.part is None or entry.item.subject_id is None:
        return None
    kept = KeptPart(name, held.field_keys.seal(message.text, f"part:{name}"))
    parts = await store.add_part(tx, origin, entry.item.subject_id, message.short_code, message.part, kept, received_at)
    if not parts:
        return None
    names = "\n".join(part.provider_message_id for part in parts)
    text = "".join(held.field_keys.unseal(part.text, f"part:{part.provider_message_id}") for part in parts)
    whole = f"{parts[0].provider_message_id[:150]}+{hashlib.sha256(names.encode()).hexdigest()[:16]}"
    message = replace(message, provider_message_id=whole, text=text, part=None)
    answered = isinstance(entry.event, MessageReceived) and entry.event.answered
    return message_entry(held, origin, message, received_at, answered=answered)


def named(origin: Origin, item: Item) -> dict[str, str]:
    """How a log line names an item: nothing personal."""
    return {
        "provider": origin.provider,
        "account": origin.account,
        "provider_message_id": item.provider_message_id,
    }


def message_entry(
    held: Resources[Any], origin: Origin, message: Message, received_at: datetime, *, answered: bool = False
) -> Entry:
    """An MO understood. Its number is never refused: a STOP counts whoever sends it. `answered`: the provider confirms
    a STOP to the person itself."""
    name = message.provider_message_id or ""
    number = as_received(message.sender)
    subject_id = held.subject_keys.subject_id(number)
    mo_id = str(message_id(EPOCH, "mo", origin.provider, origin.account, name))
    meant = _meant(origin, message)
    event = MessageReceived(
        mo_id=mo_id,
        subject_id=subject_id,
        provider=origin.provider,
        account=origin.account,
        provider_message_id=name,
        number=held.field_keys.seal(number, f"number:{subject_id}"),
        short_code=message.short_code,
        text=held.field_keys.seal(message.text[:EVENT_TEXT_CHARS], f"text:{mo_id}"),
        intent=meant.intent,
        rule=meant.rule,
        score=meant.score,
        occurred_at=_not_after(message.sent_at, received_at),
        received_at=received_at,
        everyone=meant.everyone,
        named=held.field_keys.seal(" ".join(meant.named), f"named:{mo_id}") if meant.named else "",
        answered=answered,
        erasure=meant.erasure,
    )
    item = Item(name, subject_id=subject_id, intent=meant.intent, rule=meant.rule, score=meant.score)
    return Entry(item, event, message)


def _meant(origin: Origin, message: Message) -> Understanding:
    """A STOP in a part counts at once, should the other parts never come; nothing else does, and no name in a part
    narrows the STOP: who else is named may be in the next. A provider that takes a text for a STOP takes it for all."""
    if message.opted_out:
        return Understanding("stop", f"provider:{origin.provider}", 1.0, "")
    understood = classify(message.text)
    if message.part is None:
        return understood
    if understood.intent not in PART_INTENTS:
        return Understanding("none", f"{understood.rule}:part", 0.0, "")
    return replace(understood, named=())


def receipt_entry(held: Resources[Any], origin: Origin, receipt: Receipt, received_at: datetime) -> Entry:
    name = receipt.provider_message_id
    if receipt.recipient is not None:
        name = f"{name}/{held.subject_keys.subject_id(as_received(receipt.recipient))}"
    event = ReceiptReceived(
        provider=origin.provider,
        account=origin.account,
        provider_message_id=name,
        reference=receipt.reference,
        state=receipt.state,
        code=receipt.code,
        occurred_at=_not_after(receipt.at, received_at),
        received_at=received_at,
        blocked=ambiguous(receipt),
    )
    return Entry(Item(name, state=receipt.state), event)


def _not_after(provider_time: datetime | None, received_at: datetime) -> datetime:
    """The provider's time, but never in our future: it would outrank what the person does next."""
    return received_at if provider_time is None else min(provider_time, received_at)
