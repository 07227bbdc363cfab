"""Journal the MOs or the DLRs of a moment in one round trip: all are new, and no earlier fact stands against any.

The function `journal_messages` of the database takes the steps of `journal.write`, in their order, each with a snapshot
of its own. The function keeps nothing, and `journal.write` follows, where an MO or a nonce is known, a STOP stands
behind a START, a STOP's code has no sender, or an erasure of a person is known.

The function `journal_receipts` does the same for the DLRs of a moment, as many as one event holds. Of more DLRs, the
function keeps all but the DLRs themselves, and the transaction goes on with a COPY of them. A COPY of a known DLR takes
all back, at as much work as the journal then has again: while an operator repeats callbacks, a look comes before.

The first function looks for erasures once more after the journal has the MOs: an eraser waits only for transactions
with an id (`common.privacy.erasing`), and an erasure may have come between the first look and the id.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from uuid import UUID

from asyncpg import RaiseError, UniqueViolationError

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS
from common.contracts.inbound import MessageReceived, ReceiptReceived, ReceiptsReceived
from common.db.database import fetch_many
from common.kafka import broker as kafka
from common.kafka import outbox, packing
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
    $1::text, $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::text[],
    $9::uuid[], $10::text, $11::bytea[], $12::text[], $13::bytea[], $14::text[], $15::text,
    $16::text[], $17::text[], $18::text[], $19::bytea[], $20::timestamptz[], $21::timestamptz
)
"""


KNOWN = "SELECT EXISTS (SELECT FROM receipt WHERE id = ANY($1::text::uuid[]))"
REPEATING = set[tuple[str, str]]()  # the accounts whose last many DLRs were not all new


async def write(held: Resources[Any], arrivals: Sequence[Arrival]) -> list[Kept] | None:
    """Journal the arrivals in their order; return the result of each, or None with nothing kept."""
    entries = list(chain.from_iterable([arrival.entries for arrival in arrivals]))
    events = [entry.event for entry in entries if isinstance(entry.event, MessageReceived)]
    payloads = [kafka.encode(event) for event in events]
    if not _is_usual(arrivals, entries, events, payloads):
        return None
    ids, drawn = journal.callback_ids(arrivals), outbox.draw_ids(len(arrivals))
    bodies = journal.sealed_bodies(held, list(zip(arrivals, ids, strict=True)))
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
            *_nonces(arrivals),
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
    ids, callbacks, told = journal.callback_ids(arrivals), dict[UUID, _Callback](), list[ReceiptReceived]()
    brought, spans, traces = dict[bytes, UUID](), list[range](), list[str | None]()
    for arrival, id_ in zip(arrivals, ids, strict=True):
        before = len(told)
        told += [entry.event for entry in arrival.entries if isinstance(entry.event, ReceiptReceived)]
        dlrs = [entry.item.receipt for entry in arrival.entries if entry.item.receipt is not None]
        if not len(told) - before == len(dlrs) == len(arrival.entries) > 0:
            return None
        brought |= dict.fromkeys(dlrs, id_)
        spans.append(range(before // journal.TOGETHER, -(-len(told) // journal.TOGETHER)))
        traces += [arrival.trace] * (spans[-1].stop - len(traces))
        callbacks.setdefault(id_, _Callback(arrival)).add(dlrs, spans[-1])
    if len(brought) < len(told) or not _have_own_nonces(arrivals):
        return None
    if len(brought) > journal.TOGETHER and not REPEATING.isdisjoint(_accounts(arrivals)):
        [(are_known,)] = await held.database.read(KNOWN, store.as_array(map(bytes.hex, brought)))
        if are_known:
            return None
    events = [
        ReceiptsReceived(receipts=tuple(told[at : at + journal.TOGETHER]))
        for at in range(0, len(told), journal.TOGETHER)
    ]
    keys, payloads = [event.key.encode() for event in events], [kafka.encode(event) for event in events]
    if any(len(key) + len(payload) > outbox.MAX_RECORD_BYTES for key, payload in zip(keys, payloads, strict=True)):
        return None
    stored, drawn = [packing.as_stored(ReceiptsReceived.type, each) for each in payloads], outbox.draw_ids(len(events))
    try:
        rows = await _kept_receipts(
            held,
            [(id_, brought[id_]) for id_ in sorted(brought)],  # the same order in every transaction: no deadlock
            list(callbacks),
            [each.arrival.origin.provider for each in callbacks.values()],
            [each.arrival.origin.account for each in callbacks.values()],
            [each.arrival.received_at for each in callbacks.values()],
            [store.as_array(map(bytes.hex, each.dlrs)) for each in callbacks.values()],
            [store.as_array([place + 1 for place in sorted(each.events)]) for each in callbacks.values()],
            drawn,
            INBOUND_RECEIPTS.name,
            keys,
            [type_ for type_, _ in stored],
            [payload for _, payload in stored],
            traces,
            outbox.WAITING,
            *_nonces(arrivals),
        )
    except UniqueViolationError:  # the journal has one of many, or another transaction of this moment has come first
        REPEATING.update(_accounts(arrivals))
        return None
    if rows is None:
        return None
    REPEATING.difference_update(_accounts(arrivals))
    return [
        Kept(
            arrival,
            id_,
            fresh=[*arrival.entries],
            outbox_ids=rows[span.start : span.stop],
            event_ids={rows[place]: drawn[place] for place in span},
            stands_for={id_: rows[span.start : span.stop]},
        )
        for arrival, id_, span in zip(arrivals, ids, spans, strict=True)
    ]


@dataclass(slots=True)
class _Callback:
    """An account's arrivals of DLRs, a row of the journal: the ids of the DLRs, and the places of their events."""

    arrival: Arrival  # the first
    dlrs: list[bytes] = field(default_factory=list)
    events: set[int] = field(default_factory=set)

    def add(self, dlrs: Sequence[bytes], events: range) -> None:
        self.dlrs += dlrs
        self.events.update(events)


async def _kept_receipts(held: Resources[Any], dlrs: Sequence[tuple[bytes, UUID]], *values: object) -> list[int] | None:
    """Journal DLRs with their callbacks and events; return the outbox ids, or None with nothing kept.

    Few go by the function, in one round trip. Many go by COPY, which writes less WAL; the primary key finds the known.
    """
    rows: list[int] | None
    if len(dlrs) <= journal.TOGETHER:
        few = store.as_array([id_.hex() for id_, _ in dlrs]), [callback_id for _, callback_id in dlrs]
        [(rows,)] = await held.database.run(JOURNAL_RECEIPTS, *few, *values)
        return rows
    async with held.database.begin() as tx:
        [(rows,)] = await fetch_many(tx, JOURNAL_RECEIPTS, store.as_array(()), [], *values)
        if rows is not None:
            await store.copy_receipts(tx, dlrs)
    return rows


def _accounts(arrivals: Sequence[Arrival]) -> set[tuple[str, str]]:
    return {(arrival.origin.provider, arrival.origin.account) for arrival in arrivals}


def _nonces(arrivals: Sequence[Arrival]) -> tuple[object, ...]:
    """Return the last arguments of both functions: the columns of the nonces, and the earliest arrival."""
    signed = [(arrival, arrival.once) for arrival in arrivals if arrival.once is not None]
    return (
        [arrival.origin.provider for arrival, _ in signed],
        [arrival.origin.account for arrival, _ in signed],
        [once.nonce for _, once in signed],
        [journal.used_for(arrival) for arrival, _ in signed],
        [once.forget_after for _, once in signed],
        min([arrival.received_at for arrival in arrivals]),
    )


def _have_own_nonces(arrivals: Sequence[Arrival]) -> bool:
    nonces = [(each.origin.provider, each.origin.account, each.once.nonce) for each in arrivals if each.once]
    return len(set(nonces)) == len(nonces)


def _is_usual(
    arrivals: Sequence[Arrival], entries: Sequence[Entry], events: Sequence[MessageReceived], payloads: Sequence[bytes]
) -> bool:
    """Return whether each arrival is one whole MO with a name and a nonce of its own, and no STOP meets a START."""
    if not len(arrivals) == len(entries) == len(events) or not all(len(each.entries) == 1 for each in arrivals):
        return False
    if any(entry.message is None or entry.message.part is not None for entry in entries):
        return False
    if max(map(len, payloads)) >= packing.PACK_BYTES:
        return False
    if len({(event.provider, event.account, event.provider_message_id) for event in events}) < len(events):
        return False
    if not _have_own_nonces(arrivals):
        return False
    starts = {event.subject_id for event in events if event.intent == "start"}
    return not (starts and any(event.subject_id in starts and event.intent == "stop" for event in events))
