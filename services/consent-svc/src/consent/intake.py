"""What people answer by SMS, as evidence: STOP and START from `inbound.messages.v1`, a batch in one transaction.

STOP     an opt-out of every sender that uses, or once used, the code it was sent to; of those among them that it
         names and nobody else (STOP ACME); of everyone where it says so (STOP ALL), or the code is nobody's
START    takes a STOP back: an opt-in for what the person had opted in to with those senders (DOMAIN 2.4, France)
review   may mean STOP: marketing to the number is held until a person has read it, and then it means what they say

A record that cannot be read may have been a STOP: whoever its key names is out of everything until new evidence says
otherwise. In doubt the opt-out wins: it costs one contact, the reverse a fine (DOMAIN 2.4).

The other intents change no consent here yet: `confirm` belongs to double opt-in, `contact` to the replies, `erase` to
erasure.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from common.consumer import After, Received, Stopped, Subscription
from common.contracts import INBOUND_MESSAGES
from common.contracts.inbound import MessageReceived
from common.keyring import FieldKeys, Unreadable
from common.keywords_scope import scope
from common.telemetry import counter
from consent import ledger, recorder, store
from consent.chain import evidence_id
from consent.ledger import Evidence
from consent.recorder import Statement
from consent.store import Review, Subject

log = logging.getLogger(__name__)

GROUP = "consent.inbound"
SOURCE = "mo"
UNREADABLE = "unreadable_mo"

INTENTS = counter("sms_consent_inbound_total", "Messages from people, by what they mean.", ["intent"])


def inbound_messages(keys: FieldKeys) -> Subscription:
    return Subscription(GROUP, INBOUND_MESSAGES, partial(apply, keys), on_poison=shut_out)


async def apply(keys: FieldKeys, tx: AsyncConnection, batch: list[Received]) -> After | None:
    """Record what one partition's batch says. A repeated MO derives the same evidence ids and falls out."""
    messages = [r.event for r in batch if isinstance(r.event, MessageReceived)]
    for message in messages:
        INTENTS.labels(message.intent).inc()
    said = [m for m in messages if m.intent in ("stop", "start")]
    reviews = [review(m) for m in messages if m.intent == "review" or m.revision > 0]
    if not said and not reviews:
        return None
    owners = await store.owners_of(tx, {m.short_code for m in said})
    held = await _locked_for_starts(tx, said, reviews)
    statements = [
        Statement(m.subject_id, m.number, evidence)
        for m in said
        for evidence in (
            stops(m, concerned(keys, m, owners.get(m.short_code, {})))
            if m.intent == "stop"
            else starts(m, owners.get(m.short_code, {}), held)
        )
    ]
    await recorder.record(tx, statements, datetime.now(UTC), reviews)
    return None


def review(message: MessageReceived) -> Review:
    """A hold to open, or one to lift: the first revision asks for a person, the next is what they decided."""
    return Review(
        mo_id=message.mo_id,
        subject_id=message.subject_id,
        number=message.number,
        since=message.received_at,
        revision=message.revision,
        open=message.intent == "review",
    )


async def _locked_for_starts(
    tx: AsyncConnection, said: Sequence[MessageReceived], reviews: Sequence[Review]
) -> dict[str, Subject]:
    """A START speaks for what its subject holds, so that is read under the lock. All the batch's subjects are locked
    at once: taking the rest later would break the order of locking."""
    asking = [m.subject_id for m in said if m.intent == "start"]
    if not asking:
        return {}
    numbers = {r.subject_id: r.number for r in reviews} | {m.subject_id: m.number for m in said if m.intent == "stop"}
    return await store.lock_subjects(tx, numbers, asking)


def concerned(keys: FieldKeys, stop: MessageReceived, owners: Mapping[str, Sequence[str]]) -> Sequence[str | None]:
    """Whom a STOP is for; None: everyone. `owners`: the senders of its code, each with what people may call it. Words
    that do not unseal name nobody, and the STOP is the wider for it."""
    try:
        named = keys.unseal(stop.named, f"named:{stop.mo_id}").split() if stop.named else []
    except Unreadable:
        log.error("what a STOP names cannot be read: it is for the whole code", extra={"mo_id": stop.mo_id})
        named = []
    meant = scope(named, stop.everyone, owners)
    if meant.reach == "everyone" or not owners:
        return (None,)
    return meant.senders if meant.reach == "named" else tuple(owners)


def stops(message: MessageReceived, senders: Sequence[str | None]) -> Iterator[Evidence]:
    for sender_id in senders:
        yield Evidence(
            evidence_id=evidence_id(SOURCE, message.mo_id, sender_id),
            kind="opt_out",
            sender_id=sender_id,
            purpose=None,
            source=SOURCE,
            actor=message.decided_by,
            reference=message.reference,
            occurred_at=message.occurred_at,
            received_at=understood_at(message),
        )


def starts(message: MessageReceived, owners: Collection[str], held: Mapping[str, Subject]) -> Iterator[Evidence]:
    """Nothing for somebody never seen, or on a code that is nobody's."""
    if message.subject_id not in held:
        return
    for sender_id in owners:
        for purpose in ledger.reopened(held[message.subject_id].state, sender_id):
            yield Evidence(
                evidence_id=evidence_id(SOURCE, message.mo_id, sender_id, purpose),
                kind="opt_in",
                sender_id=sender_id,
                purpose=purpose,
                basis="opt_in",  # an express request, whatever the basis was before
                source=SOURCE,
                actor=message.decided_by,
                reference=message.reference,
                occurred_at=message.occurred_at,
                received_at=understood_at(message),
            )


def understood_at(message: MessageReceived) -> datetime:
    """When Placet first held the evidence: a text that nobody could read proves nothing before somebody did."""
    return message.decided_at or message.received_at


async def shut_out(tx: AsyncConnection, key: str | None, partition: int) -> None:
    """Poison: the person it came from is opted out of every sender. Raises Stopped where nobody can tell who that is:
    then the watermark stands still, and no marketing goes out until somebody has looked."""
    if key is None:
        raise Stopped(f"partition {partition} of {INBOUND_MESSAGES.name} holds a message whose sender cannot be read")
    if key not in await store.lock_subjects(tx, {}, [key]):
        log.error("unreadable message of nobody on record", extra={"subject_id": key})
        return  # nothing was consented to, so nothing can be sent
    now = datetime.now(UTC)
    evidence = Evidence(
        evidence_id=evidence_id(UNREADABLE, key, now.isoformat()),
        kind="opt_out",
        sender_id=None,
        purpose=None,
        source=UNREADABLE,
        occurred_at=now,
        received_at=now,
    )
    await recorder.record(tx, [Statement(key, None, evidence)], now)
    log.error("unreadable message: its sender is opted out of everything", extra={"subject_id": key})
