"""Journal the MOs or the DLRs of a moment in one round trip: all are new, and no earlier fact stands against any.

The function `journal_messages` of the database takes the steps of `journal.write`, in their order, each with a snapshot
of its own. The function keeps nothing, and `journal.write` follows, where an MO or a nonce is known, a STOP stands
behind a START, a STOP's code has no sender, or an erasure of a person is known.

The function `journal_receipts` does the same for the DLRs of a moment, as many as one event holds.

The first function looks for erasures once more after the journal has the MOs: an eraser waits only for transactions
with an id (`common.privacy.erasing`), and an erasure may have come between the first look and the id.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any
from uuid import UUID

from asyncpg import RaiseError, UniqueViolationError

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS
from common.contracts.inbound import MessageReceived, ReceiptReceived, ReceiptsReceived
from common.kafka import broker as kafka
from common.kafka import outbox
from common.service import Resources
from inbound import journal, store
from inbound.journal import Arrival, Entry, Kept
from inbound.reviews import queue

JOURNAL = """
SELECT journal_messages(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::double precision[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::boolean[], $14::text[],
    $15::uuid[], $16::bytea[], $17::bytea[], $18::text[], $19::text, $20::text, $21::text,
    $22::text[], $23::text[], $24::text[],
    $25::text[], $26::text[], $27::text[], $28::bytea[], $29::timestamptz[], $30::timestamptz
)
"""

JOURNAL_RECEIPTS = """
SELECT journal_receipts(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[], $7::text[],
    $8::uuid, $9::text, $10::bytea, $11::text, $12::bytea, $13::text, $14::text
)
"""


async def write(held: Resources[Any], arrivals: Sequence[Arrival]) -> list[Kept] | None:
    """Journal the arrivals in their order; return the result of each, or None with nothing kept."""
    entries = list(chain.from_iterable([arrival.entries for arrival in arrivals]))
    events = [entry.event for entry in entries if isinstance(entry.event, MessageReceived)]
    payloads = [kafka.encode(event) for event in events]
    if not _is_usual(arrivals, entries, events, payloads):
        return None
    ids, drawn = journal.callback_ids(arrivals), outbox.draw_ids(len(arrivals))
    bodies = [journal.sealed_body(held, arrival, id_) for arrival, id_ in zip(arrivals, ids, strict=True)]
    signed = [(arrival, arrival.once) for arrival in arrivals if arrival.once is not None]
    doubtful = queue.of_doubt(events)
    try:
        [(rows,)] = await held.database.run(
            JOURNAL,
            ids,
            [event.provider for event in events],
            [event.account for event in events],
            [event.provider_message_id for event in events],
            [event.subject_id for event in events],
            [event.short_code for event in events],
            [event.intent for event in events],
            [event.rule for event in events],
            [event.score for event in events],
            [event.occurred_at for event in events],
            [event.received_at for event in events],
            bodies,
            [journal.is_stop(entry) for entry in entries],
            list({code for entry in entries if (code := journal.stopped_code(entry)) is not None}),
            drawn,
            [event.key.encode() for event in events],
            payloads,
            [arrival.trace for arrival in arrivals],
            INBOUND_MESSAGES.name,
            events[0].type,
            outbox.WAITING,
            [event.mo_id for event in doubtful],
            [event.subject_id for event in doubtful],
            [queue.written(event) for event in doubtful],
            [arrival.origin.provider for arrival, _ in signed],
            [arrival.origin.account for arrival, _ in signed],
            [once.nonce for _, once in signed],
            [journal.used_for(arrival) for arrival, _ in signed],
            [once.forget_after for _, once in signed],
            min([arrival.received_at for arrival in arrivals]),
        )
    except (UniqueViolationError, RaiseError):  # another transaction of this moment has come first
        return None
    if rows is None:
        return None
    told = zip(arrivals, ids, entries, rows, drawn, strict=True)
    return [
        Kept(arrival, id_, fresh=[entry], outbox_ids=[row], event_ids={row: event_id}, stands_for={id_: [row]})
        for arrival, id_, entry, row, event_id in told
    ]


async def write_receipts(held: Resources[Any], arrivals: Sequence[Arrival]) -> list[Kept] | None:
    """Journal the arrivals of DLRs in their order; return the result of each, or None with nothing kept."""
    entries = [entry for arrival in arrivals for entry in arrival.entries]
    told = tuple([entry.event for entry in entries if isinstance(entry.event, ReceiptReceived)])
    names = [entry.item.receipt for entry in entries if entry.item.receipt is not None]
    if not len(entries) == len(told) == len(set(names)) <= journal.TOGETHER or any(each.once for each in arrivals):
        return None
    ids = journal.callback_ids(arrivals)
    callbacks: dict[UUID, tuple[Arrival, list[UUID]]] = {}
    for arrival, id_ in zip(arrivals, ids, strict=True):
        listed = callbacks.setdefault(id_, (arrival, []))[1]
        listed.extend([entry.item.receipt for entry in arrival.entries if entry.item.receipt is not None])
    event, [event_id] = ReceiptsReceived(receipts=told), outbox.draw_ids(1)
    encoded = kafka.encode(event)
    if len(encoded) + len(event.key) > outbox.MAX_RECORD_BYTES:
        return None
    type_, payload = outbox.as_stored(event.type, encoded)
    # the same order in every transaction: no deadlock
    rows = sorted([(name, id_) for id_, (_, listed) in callbacks.items() for name in listed])
    try:
        [(row,)] = await held.database.run(
            JOURNAL_RECEIPTS,
            [name for name, _ in rows],
            [id_ for _, id_ in rows],
            list(callbacks),
            [arrival.origin.provider for arrival, _ in callbacks.values()],
            [arrival.origin.account for arrival, _ in callbacks.values()],
            [arrival.received_at for arrival, _ in callbacks.values()],
            [store.as_array(listed) for _, listed in callbacks.values()],
            event_id,
            INBOUND_RECEIPTS.name,
            event.key.encode(),
            type_,
            payload,
            arrivals[0].trace,
            outbox.WAITING,
        )
    except UniqueViolationError:  # another transaction of this moment has come first
        return None
    if row is None:
        return None
    return [
        Kept(
            arrival, id_, fresh=[*arrival.entries], outbox_ids=[row], event_ids={row: event_id}, stands_for={id_: [row]}
        )
        for arrival, id_ in zip(arrivals, ids, strict=True)
    ]


def _is_usual(
    arrivals: Sequence[Arrival], entries: Sequence[Entry], events: Sequence[MessageReceived], payloads: Sequence[bytes]
) -> bool:
    """Return whether each arrival is one whole MO with a name and a nonce of its own, and no STOP meets a START."""
    if not len(arrivals) == len(entries) == len(events) or not all(len(each.entries) == 1 for each in arrivals):
        return False
    if any(entry.message is None or entry.message.part is not None for entry in entries):
        return False
    if max(map(len, payloads)) >= outbox.PACK_BYTES:
        return False
    if len({(event.provider, event.account, event.provider_message_id) for event in events}) < len(events):
        return False
    nonces = [(each.origin, each.once.nonce) for each in arrivals if each.once is not None]
    if len(set(nonces)) < len(nonces):
        return False
    starts = {event.subject_id for event in events if event.intent == "start"}
    return not (starts and any(event.subject_id in starts and event.intent == "stop" for event in events))
