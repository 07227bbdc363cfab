"""The journal: keep each callback item once, interpret MOs, and put the events in the outbox.

Webhooks, polling and operators' topics share this module. The caller owns the transaction, shared by arrivals of the
same moment.

Where inbound-svc is divided, an item is in the shard of the partition of its event's key (`parted`). So a repeat meets
the same journal, whichever process takes the repeat, and one relay numbers the records of a partition.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from asyncpg.pgproto import pgproto  # its UUID is made and compared in a fraction of the time
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS, Event
from common.contracts.inbound import Intent, MessageReceived, ReceiptReceived, ReceiptsReceived
from common.db.shards import Shard
from common.kafka import broker as kafka
from common.kafka import outbox
from common.keyring import FieldKeys
from common.privacy import erasing
from common.privacy.erasing import Erasure
from common.service import Resources
from common.sms.message_id import EPOCH, of_digits, written_around
from common.sms.msisdn import as_received
from common.telemetry import counter, histogram, traceparent
from inbound import codes, store
from inbound.keywords import ANYONE, Public, Remembered, Understanding
from inbound.providers import RETRIES_FOR, Kind, Message, Once, Receipt, ambiguous
from inbound.reviews import queue
from inbound.store import Item, KeptCallback, KeptPart, Origin

log = logging.getLogger(__name__)

EVENT_TEXT_CHARS = 4_096  # an SMS has 1,530 at most, and a record must fit Kafka; the journal keeps all
ACCOUNTS = 256  # whose beginnings of ids are remembered
TOGETHER = 100  # DLRs of an event: some 40 KB
MEANINGS = Remembered(secrets.token_bytes(32))
TIGHTENING = ("stop", "review")  # intents that count of a part on its own, and once more of an MO that may be a repeat

INTENTS = counter("sms_inbound_intents_total", "MOs journalled, by intent.", ["intent"])
LAG = histogram(
    "sms_inbound_lag_seconds",
    "Time from the operator's timestamp of an MO to its arrival; below 0: the operator's clock is fast.",
    ["provider", "account"],
    buckets=(-3600, -300, -60, -10, -2, 0, 1, 5, 15, 30, 60, 120, 300, 900, 3600, 14400),
)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An MO (with `message`) or DLR on its way into the journal. `retries_for`, `public`: as of `message_entry`."""

    item: Item
    event: Event
    message: Message | None = None
    retries_for: timedelta = RETRIES_FOR
    public: Public = ANYONE


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A request, a polled MO, or a batch of a topic.

    `content`: raw. `is_kept`: False where the content names people of several shards: an erasure in one would leave
    such a person in the database of another.
    """

    origin: Origin
    entries: Sequence[Entry]
    content: bytes
    received_at: datetime
    once: Once | None = None
    trace: str | None = msgspec.field(default_factory=traceparent)
    is_kept: bool = True


class Kept(msgspec.Struct):
    """The result of journalling an arrival.

    `stands_for`: the callbacks whose events the arrival waits for, with their outbox ids. `event_ids`: of new events,
    by outbox id. `replayed`: the nonce was used for other content, so the journal keeps no entry. `late`: an entry
    precedes the erasure of its person, so the journal keeps no body. `has_known`: an entry was known before.
    `callback_id`: shared by an account's arrivals of DLRs in one transaction.
    """

    arrival: Arrival
    callback_id: UUID
    replayed: bool = False
    late: bool = False
    has_known: bool = False
    fresh: list[Entry] = []
    outbox_ids: list[int] = []
    event_ids: dict[int, UUID] = {}
    stands_for: dict[UUID, Sequence[int]] = {}


async def write(tx: AsyncConnection, held: Resources[Any], arrivals: Sequence[Arrival]) -> list[Kept]:
    """Journal the arrivals in their order; return the result of each."""
    replayed = await are_replayed(tx, held, arrivals)
    ids = callback_ids(arrivals)
    answers = [Kept(arrival, id_, again) for arrival, id_, again in zip(arrivals, ids, replayed, strict=True)]
    kept = [one for one in answers if not one.replayed]
    if await _add(tx, [(one, entry) for one in kept for entry in one.arrival.entries]):
        await _empty_the_late(tx, held, kept)
    await _add(tx, await _wholes(tx, held, kept))
    await _publish_messages(tx, [(one, entry) for one in kept if _is_of(one, "messages") for entry in one.fresh])
    await _publish_receipts(tx, [(one, entry) for one in kept if _is_of(one, "receipts") for entry in one.fresh])
    await store.add_callbacks(tx, _sealed(held, [one for one in kept if one.fresh]))
    for one in kept:
        if one.fresh:
            one.stands_for[one.callback_id] = one.outbox_ids
    await _wait_for_those_known(tx, kept)
    return answers


def parted(held: Resources[Any], arrival: Arrival, *, is_whole: bool = True) -> list[tuple[Shard, Arrival]]:
    """Return the arrival's part for each shard of its items, without the nonce of a divided service.

    `is_whole`: every item of the content is among the entries. The content of a part with all items is kept.
    """
    if not held.shards.divided:
        return [(held.shards.own, arrival)]
    keys = [entry.event.key.encode() for entry in arrival.entries]
    parts: dict[str, tuple[Shard, list[Entry]]] = {}
    for entry, partition in zip(arrival.entries, kafka.partitions_of(keys, held.settings.partitions), strict=True):
        shard = held.shards.of(partition)
        parts.setdefault(shard.name, (shard, []))[1].append(entry)
    is_kept = is_whole and len(parts) == 1
    return [
        (shard, structs.replace(arrival, entries=some, once=None, is_kept=is_kept)) for shard, some in parts.values()
    ]


def own_entries(held: Resources[Any], entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries of the process's own shard."""
    if not held.shards.divided:
        return list(entries)
    return [entry for entry in entries if held.shard_of(entry.event.key) is held.shards.own]


async def kept_in_each(held: Resources[Any], arrivals: Sequence[Arrival]) -> list[Kept]:
    """Journal arrivals in the shards of their items, in a transaction of each; return the results, and tell of them."""
    by_shard: dict[str, tuple[Shard, list[Arrival]]] = {}
    for arrival in arrivals:
        for shard, part in parted(held, arrival):
            by_shard.setdefault(shard.name, (shard, []))[1].append(part)
    answers = list[Kept]()
    for shard, some in by_shard.values():
        async with shard.database.begin() as tx:
            kept = await write(tx, held.of_shard(shard), some)
        for one in kept:
            tell(one)
        answers += kept
    return answers


def _is_of(one: Kept, kind: Kind) -> bool:
    return one.arrival.origin.kind == kind


def callback_ids(arrivals: Sequence[Arrival]) -> list[UUID]:
    """Return the callback id of each arrival, by time, which keeps indexes warm.

    An account's DLRs share one: operators send a DLR a request, and a row for each would cost more than the DLR.
    """
    shared: dict[Origin, UUID] = {}
    found = []
    drawn = secrets.token_hex(16 * len(arrivals))
    for place, arrival in enumerate(arrivals):
        new = pgproto.UUID(of_digits(arrival.received_at, drawn[32 * place : 32 * place + 32]))
        found.append(shared.setdefault(arrival.origin, new) if arrival.origin.kind == "receipts" else new)
    return found


async def _publish_messages(tx: AsyncConnection, new: Sequence[tuple[Kept, Entry]]) -> None:
    """Publish new MOs, an event each, and queue those for a person."""
    events, drawn = [entry.event for _, entry in new], outbox.draw_ids(len(new))
    ids = await outbox.append(tx, INBOUND_MESSAGES, events, [one.arrival.trace for one, _ in new], drawn)
    for (one, _), row, event_id in zip(new, ids, drawn, strict=True):
        one.outbox_ids.append(row)
        one.event_ids[row] = event_id
    await queue.add(tx, events)


async def _publish_receipts(tx: AsyncConnection, new: Sequence[tuple[Kept, Entry]]) -> None:
    """Publish new DLRs, many an event, which bears the trace of its first."""
    together = [new[at : at + TOGETHER] for at in range(0, len(new), TOGETHER)]
    events = [
        ReceiptsReceived(receipts=tuple(e.event for _, e in some if isinstance(e.event, ReceiptReceived)))
        for some in together
    ]
    drawn = outbox.draw_ids(len(events))
    ids = await outbox.append(tx, INBOUND_RECEIPTS, events, [some[0][0].arrival.trace for some in together], drawn)
    for some, row, event_id in zip(together, ids, drawn, strict=True):
        for one in {id(one): one for one, _ in some}.values():
            one.outbox_ids.append(row)
            one.event_ids[row] = event_id


async def are_replayed(tx: AsyncConnection, held: Resources[Any], arrivals: Sequence[Arrival]) -> list[bool]:
    """Store the nonces; return for each arrival whether its nonce was used for other content."""
    signed = [(arrival, arrival.once) for arrival in arrivals if arrival.once is not None]
    if not signed:
        return [False] * len(arrivals)
    uses = [(arrival.origin, once, used_for(arrival)) for arrival, once in signed]
    good = iter(await store.use_nonces(tx, uses, min(arrival.received_at for arrival, _ in signed)))
    return [arrival.once is not None and not next(good) for arrival in arrivals]


def used_for(arrival: Arrival) -> bytes:
    return hashlib.sha256(arrival.origin.kind.encode() + b"\n" + arrival.content).digest()


async def _add(tx: AsyncConnection, entries: Sequence[tuple[Kept, Entry]]) -> bool:
    """Journal the entries; new entries become fresh, in the provider's order.

    A duplicate within one arrival counts once. Return whether an erasure of any of the new MOs' people is known.
    """
    if not entries:
        return False
    new = await store.add_items(tx, [(one.callback_id, one.arrival.origin, entry.item) for one, entry in entries])
    fresh: list[tuple[Kept, Entry]] = []
    seen = set[tuple[UUID, store.Identity]]()
    for one, entry in entries:
        name = one.callback_id, entry.item.identity
        if name in new:
            new.remove(name)
            seen.add(name)
            fresh.append((one, entry))
        elif name not in seen:
            one.has_known = True
    people = {entry.item.subject_id for _, entry in fresh if entry.item.subject_id}
    if not people:  # DLRs
        for one, entry in fresh:
            one.fresh.append(entry)
        return False
    stops = [(one.callback_id, one.arrival.origin, entry.item) for one, entry in fresh if is_stop(entry)]
    stopped = {code for _, entry in fresh if (code := stopped_code(entry)) is not None}
    standing = await store.standing(tx, stops, stopped, people)
    for one, entry in fresh:
        late = (one.callback_id, entry.item.identity) in standing.behind_starts
        one.fresh.append(_to_no_sender(_behind_start(entry) if late else entry, standing.to_no_sender))
    return standing.erased


def is_stop(entry: Entry) -> bool:
    """Return whether the entry is a STOP. A request for erasure is left out: the erasure settles the matter."""
    event = entry.event
    return isinstance(event, MessageReceived) and event.intent == "stop" and not event.erasure


def stopped_code(entry: Entry) -> str | None:
    """Return the code of a STOP for the senders of the code: neither for everyone, nor for an erasure."""
    event = entry.event
    return event.short_code if isinstance(event, MessageReceived) and is_stop(entry) and not event.everyone else None


def _to_no_sender(entry: Entry, unknown: Collection[str]) -> Entry:
    if stopped_code(entry) not in unknown:
        return entry
    return structs.replace(entry, event=structs.replace(entry.event, no_sender=True))


def _behind_start(entry: Entry) -> Entry:
    assert isinstance(entry.event, MessageReceived)
    return structs.replace(entry, event=structs.replace(entry.event, behind_start=True))


async def _wholes(tx: AsyncConnection, held: Resources[Any], kept: Sequence[Kept]) -> list[tuple[Kept, Entry]]:
    """Return the long MOs completed by new parts.

    Every process locks in the same order: no deadlock.
    """
    parts = [(one, entry) for one in kept for entry in one.fresh if entry.message and entry.message.part]
    parts.sort(key=lambda part: _long_mo(*part))
    return [(one, whole) for one, entry in parts if (whole := await _whole(tx, held, one.arrival, entry))]


def _long_mo(one: Kept, entry: Entry) -> tuple[str, ...]:
    """Return the key of the part's long MO."""
    assert entry.message is not None
    assert entry.message.part is not None
    origin, part = one.arrival.origin, entry.message.part
    return (
        origin.provider,
        origin.account,
        str(entry.item.subject_id),
        entry.message.short_code,
        part.reference,
        str(part.total),
    )


def sealed_body(held: Resources[Any], arrival: Arrival, callback_id: UUID) -> str | None:
    """Return the raw content sealed, if kept. A character stands for each byte: decryption restores the bytes."""
    return sealed_bodies(held, [(arrival, callback_id)])[0]


def sealed_bodies(held: Resources[Any], kept: Sequence[tuple[Arrival, UUID]]) -> list[str | None]:
    """Return `sealed_body` of each arrival, encrypted together."""
    sealed = iter(
        held.field_keys.seal_all(
            [(one.content.decode("latin-1"), f"callback:{callback_id}") for one, callback_id in kept if one.is_kept]
        )
    )
    return [next(sealed) if one.is_kept else None for one, _ in kept]


def _sealed(held: Resources[Any], kept: Sequence[Kept]) -> list[KeptCallback]:
    """Return the rows of the callbacks; that of MOs with the raw content sealed.

    The raw content of DLRs is not kept: it proves nothing of a person's wish, and names numbers that an erasure could
    not find. Nor is that of MOs of which one is known: it belongs to its first callback, where an erasure looks.
    """
    callbacks: dict[UUID, list[Kept]] = {}
    for one in kept:
        callbacks.setdefault(one.callback_id, []).append(one)
    rows = []
    for callback_id, some in callbacks.items():
        arrival, body = some[0].arrival, None
        if arrival.origin.kind == "messages" and not (some[0].late or some[0].has_known):
            body = sealed_body(held, arrival, callback_id)
        ids = sorted({row for one in some for row in one.outbox_ids})
        dlrs = [
            entry.item.receipt or store.receipt_id(arrival.origin, entry.item.identity)
            for one in some
            for entry in one.fresh
            if arrival.origin.kind == "receipts"
        ]
        rows.append(KeptCallback(callback_id, arrival.origin, arrival.received_at, body, ids, dlrs))
    return rows


async def _wait_for_those_known(tx: AsyncConnection, kept: Sequence[Kept]) -> None:
    """Make each arrival with a known item wait also for the events of its first callback."""
    known = [
        (one, (one.arrival.origin, identity))
        for one in kept
        if not len(one.fresh) == len(one.arrival.entries) == 1
        for identity in {entry.item.identity for entry in one.arrival.entries}
        - {entry.item.identity for entry in one.fresh}
    ]
    if known:
        found = await store.brought_by(tx, {name for _, name in known})
        for one, name in known:
            if name in found:
                callback_id, ids = found[name]
                one.stands_for[callback_id] = ids


async def _empty_the_late(tx: AsyncConnection, held: Resources[Any], kept: Sequence[Kept]) -> None:
    """Remove the content of fresh entries which precede the erasure of their person."""
    people = {entry.item.subject_id for one in kept for entry in one.fresh if entry.item.subject_id}
    erased = await erasing.asked_of(tx, people) if people else {}
    if not erased:
        return
    texts = [entry.event for one in kept for entry in one.fresh if isinstance(entry.event, MessageReceived)]
    owners = await codes.controllers_of(tx, {text.short_code for text in texts})
    for one in kept:
        since = [_erasures_after(entry, erased, owners) for entry in one.fresh]
        one.late = any(since)
        one.fresh = [
            _without_text(held.field_keys, entry, erasures) if erasures else entry
            for entry, erasures in zip(one.fresh, since, strict=True)
        ]


def _erasures_after(
    entry: Entry, erased: Mapping[str, Sequence[Erasure]], owners: Mapping[str, frozenset[str]]
) -> list[Erasure]:
    """Return the erasures of the MO's person, said before, that concern its code.

    After one, the journal keeps only the arrival, and a STOP.
    """
    if not isinstance(event := entry.event, MessageReceived):
        return []
    only = owners.get(event.short_code)
    return [
        each
        for each in erased.get(event.subject_id, ())
        if event.occurred_at <= each.at and (each.controller_id is None or only == frozenset((each.controller_id,)))
    ]


def _without_text(keys: FieldKeys, entry: Entry, erasures: Sequence[Erasure]) -> Entry:
    """Return the MO without its text. Once everything is erased, its request for erasure has been met."""
    assert isinstance(entry.event, MessageReceived)
    event = emptied(keys, entry.event)
    if any(each.controller_id is None for each in erasures):
        event = structs.replace(event, named="", erasure=False, no_sender=False)
    return Entry(structs.replace(entry.item, intent=event.intent, rule=event.rule), event)


def emptied(keys: FieldKeys, event: MessageReceived) -> MessageReceived:
    """Return the MO without its text.

    No person will read the text: `review` becomes `stop`. Its reach stays: the person may mean several controllers.
    """
    return structs.replace(
        event,
        intent="stop" if event.intent in ("stop", "review") else "none",
        rule=f"{event.rule}:erased",
        text=keys.seal("", f"text:{event.mo_id}"),
        behind_start=False,
    )


def tell(kept: Kept) -> None:
    """Record metrics and log lines of new entries. The caller has committed.

    A log line is a twelfth of the cost of an MO, and the journal can be queried: hence debug level.
    """
    looked_for = log.isEnabledFor(logging.DEBUG)
    origin = kept.arrival.origin
    for entry in kept.fresh:
        if entry.message and entry.message.sent_at:
            lag = kept.arrival.received_at - entry.message.sent_at
            LAG.labels(origin.provider, origin.account).observe(lag.total_seconds())
        if entry.item.intent:
            INTENTS.labels(entry.item.intent).inc()
            if looked_for:
                extra = {"subject_id": entry.item.subject_id, **named(origin, entry.item)}
                log.debug("an MO is journalled", extra=extra)


async def _whole(tx: AsyncConnection, held: Resources[Any], arrival: Arrival, entry: Entry) -> Entry | None:
    """Return the MO which this part completes, or None.

    The id derives from all parts, not from the last part to arrive.
    """
    message, name = entry.message, entry.item.provider_message_id
    if message is None or message.part is None or entry.item.subject_id is None:
        return None
    kept = KeptPart(name, held.field_keys.seal(message.text, f"part:{name}"))
    origin, received_at = arrival.origin, arrival.received_at
    parts = await store.add_part(tx, origin, entry.item.subject_id, message.short_code, message.part, kept, received_at)
    if not parts:
        return None
    names = "\n".join(part.provider_message_id for part in parts)
    text = "".join(held.field_keys.unseal(part.text, f"part:{part.provider_message_id}") for part in parts)
    whole = f"{parts[0].provider_message_id[:150]}+{hashlib.sha256(names.encode()).hexdigest()[:16]}"
    message = structs.replace(message, provider_message_id=whole, text=text, part=None)
    answered = isinstance(entry.event, MessageReceived) and entry.event.answered
    return message_entry(
        held,
        origin,
        message,
        received_at,
        answered=answered,
        retries_for=entry.retries_for,
        public=entry.public,
    )


def named(origin: Origin, item: Item) -> dict[str, str]:
    """Return the log fields of an item, without personal data."""
    return {
        "provider": origin.provider,
        "account": origin.account,
        "provider_message_id": item.provider_message_id,
    }


def message_entry(
    held: Resources[Any],
    origin: Origin,
    message: Message,
    received_at: datetime,
    *,
    answered: bool = False,
    retries_for: timedelta = RETRIES_FOR,
    meant: Understanding | None = None,
    public: Public = ANYONE,
) -> Entry:
    """Return the journal entry of an interpreted MO.

    A number is never refused: a STOP counts from any sender. `answered`: the provider itself confirms a STOP.
    `retries_for`: the greatest age of a text without a time. `meant`: the meaning, where the text does not decide.
    `public`: of the account, which decides the words that loosen, and whose plan a number without a code is of.
    """
    name = message.provider_message_id or ""
    number = as_received(message.sender, country=public.country or held.settings.country)
    [(subject_id, inner)] = held.subject_keys.both_ids([number])
    mo_id = _mo_ids(origin.provider, origin.account)(name)
    meant = meant or _meant(origin, message, public)
    texts = [(message.text[:EVENT_TEXT_CHARS], f"text:{mo_id}")]
    if meant.named:
        texts.append((" ".join(meant.named), f"named:{mo_id}"))
    sealed_number, text, *named = held.field_keys.seal_with_number(number, inner, texts)
    event = MessageReceived(
        mo_id=mo_id,
        subject_id=subject_id,
        provider=origin.provider,
        account=origin.account,
        provider_message_id=name,
        number=sealed_number,
        short_code=message.short_code,
        text=text,
        intent=meant.intent,
        rule=meant.rule,
        score=meant.score,
        occurred_at=_said_at(message.sent_at, received_at, meant.intent, retries_for),
        received_at=received_at,
        everyone=meant.everyone,
        named=named[0] if named else "",
        answered=answered,
        erasure=meant.erasure,
        concern=meant.concern,
    )
    item = Item(
        name,
        short_code=message.short_code,
        subject_id=subject_id,
        intent=meant.intent,
        rule=meant.rule,
        score=meant.score,
        said_at=event.occurred_at,
    )
    return Entry(item, event, message, retries_for, public)


@lru_cache(maxsize=ACCOUNTS)
def _mo_ids(provider: str, account: str) -> Callable[[str], str]:
    """Return a function from a provider message id to the MO's id."""
    return written_around(EPOCH, ("mo", provider, account), ())


def _meant(origin: Origin, message: Message, public: Public) -> Understanding:
    """Return the meaning of an MO, or of a part.

    A STOP (or a doubt) in a part counts at once, because the others may never come; no other intent does. A name in a
    part does not narrow the STOP: the next part may hold another. An opt-out of the provider is a STOP, narrowed by no
    name.
    """
    if message.opted_out:
        return Understanding("stop", f"provider:{origin.provider}", 1.0, "")
    understood = MEANINGS.understand(message.text, public)
    if message.part is None:
        return understood
    if understood.intent not in TIGHTENING:
        return Understanding("none", f"{understood.rule}:part", 0.0, "")
    return structs.replace(understood, named=())


def receipt_entry(held: Resources[Any], origin: Origin, receipt: Receipt, received_at: datetime) -> Entry:
    return receipt_entries(held, origin, [receipt], received_at)[0]


def receipt_entries(
    held: Resources[Any], origin: Origin, dlrs: Sequence[Receipt], received_at: datetime
) -> list[Entry]:
    """Return the journal entries of DLRs, in their order."""
    provider, account, id_of = origin.provider, origin.account, store.receipt_ids(origin)
    entries = []
    for receipt in dlrs:
        name, state, at = receipt.provider_message_id, receipt.state, receipt.at
        if receipt.recipient is not None:
            name = f"{name}/{held.subject_keys.of_text(as_received(receipt.recipient))}"
        event = ReceiptReceived(
            provider=provider,
            account=account,
            provider_message_id=name,
            reference=receipt.reference,
            state=state,
            code=receipt.code,
            occurred_at=received_at if at is None or at > received_at else at,
            received_at=received_at,
            blocked=ambiguous(receipt),
        )
        entries.append(Entry(Item(name, state=state, receipt=id_of(name, state)), event))
    return entries


def _said_at(provider_time: datetime | None, received_at: datetime, intent: Intent, retries_for: timedelta) -> datetime:
    """Return when the person sent the text.

    A START without a time gets the earliest possible: redelivered after a STOP, the START revokes nothing. Every other
    text without a time counts from its arrival, never too early for a STOP.
    """
    untimed = provider_time is None and intent == "start"
    return received_at - retries_for if untimed else _not_after(provider_time, received_at)


def _not_after(provider_time: datetime | None, received_at: datetime) -> datetime:
    """Return the provider's time, or `received_at` if earlier.

    A time in the future would outrank the person's next wish.
    """
    return received_at if provider_time is None else min(provider_time, received_at)
