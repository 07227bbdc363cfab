"""The tables of inbound-svc and their statements: the journal of callbacks. The caller owns the transaction.

A callback is one request of an operator, or the requests with DLRs of an account's moment. Its items are MOs, each once
per (provider, account, provider message id), or DLRs, each once per receipt state too. The primary key detects
duplicates, also between concurrent requests: the second waits for the first. No personal data is in clear.

Of a DLR the journal keeps 32 bytes: a hash of its identity, and its callback. dispatch-svc has its state, code and
time in the message's row; who has the provider's id and the state finds the DLR here, and when it came.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

import msgspec
from asyncpg import UniqueViolationError
from asyncpg.pgproto import pgproto  # its UUID is made and compared in a fraction of the time
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from common import division
from common.audit import store as audit
from common.db import allowances
from common.db.database import COPIED_MESSAGES, copy_encoded, fetch_many, new_metadata
from common.kafka import dead_letters, outbox, publisher_keys
from common.kafka.reading import offsets
from common.privacy import erasing
from common.privacy.erasing import TO_ERASE, Whom, columns, counted
from inbound.providers import Kind, Once, Part

log = logging.getLogger(__name__)

PARTS_KEPT = timedelta(hours=24)  # as a provider retries (Vonage, DOMAIN 3.1)
FORGOTTEN_AT_ONCE = 2  # per new nonce, so that the table does not grow
ID_BYTES = 16
# of COPY's binary format: no flags, no extension of the header; and of a row with two ids
COPY_BEGINS, COPY_ENDS = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
SIZE = b"\0\0\0\x10"
FIELDS = b"\0\2" + SIZE

metadata = new_metadata()
allowances.define(metadata)
audit.define(metadata)
outbox.define(metadata)
publisher_keys.define(metadata)
offsets.define(metadata)
dead_letters.define(metadata)
erasing.define(metadata)
division.define(metadata)

callback = Table(
    "callback",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("kind", Text, nullable=False),  # messages, receipts
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("body", Text, nullable=True),  # encrypted, context "callback:<id>"; null after retention or erasure
    # the relay deletes the rows once published
    Column("outbox_ids", ARRAY(BigInteger), nullable=False),
    Column("receipts", ARRAY(Uuid), nullable=True),  # the ids of its new DLRs, which go with it (`pruning.py`)
    # of `pruning.py`: each callback is in exactly one
    Index("callback_raw_ix", "received_at", postgresql_where=text("kind = 'messages' AND body IS NOT NULL")),
    Index("callback_bare_ix", "received_at", postgresql_where=text("kind = 'messages' AND body IS NULL")),
    Index("callback_receipts_ix", "received_at", postgresql_where=text("kind = 'receipts'")),
)

callback_item = Table(
    "callback_item",  # an MO
    metadata,
    Column("provider", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("provider_message_id", Text, nullable=False),
    # deferred: the items are inserted first, to learn which are new
    Column(
        "callback_id",
        Uuid,
        ForeignKey("callback.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED"),
        nullable=False,
    ),
    Column("subject_id", Text, nullable=True),
    Column("intent", Text, nullable=True),
    Column("rule", Text, nullable=True),
    Column("score", Double, nullable=True),
    Column("said_at", DateTime(timezone=True), nullable=True),  # the event's `occurred_at`
    Column("short_code", Text, nullable=True),
    PrimaryKeyConstraint("provider", "account", "provider_message_id"),
    Index("callback_item_callback_ix", "callback_id"),
    Index("callback_item_subject_ix", "subject_id", postgresql_where=text("subject_id IS NOT NULL")),
    Index("callback_item_code_ix", "short_code", "callback_id", postgresql_where=text("short_code IS NOT NULL")),
    Index("callback_item_start_ix", "subject_id", postgresql_where=text("intent = 'start'")),  # of `STANDING`
)

Table(
    "receipt",  # a DLR; an index by callback would cost more than the row, so the callback lists its DLRs
    metadata,
    Column("id", Uuid, primary_key=True),  # `receipt_id`
    Column("callback_id", Uuid, nullable=False),
)

part = Table(
    "part",
    metadata,
    Column("provider", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("short_code", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("provider_message_id", Text, nullable=False),
    Column("text", Text, nullable=False),  # encrypted, context "part:<provider message id>"
    Column("received_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("provider", "account", "subject_id", "short_code", "reference", "total", "number"),
    Index("part_received_at_ix", "received_at"),
)

nonce = Table(
    "nonce",
    metadata,
    Column("provider", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),  # hash of the signed content
    Column("forget_after", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("provider", "account", "nonce"),
    Index("nonce_forget_after_ix", "forget_after"),
)


# callbacks among $1 whose events are all published
PUBLISHED = """
SELECT c.id
FROM callback AS c
WHERE c.id = ANY($1::uuid[])
    AND NOT EXISTS (SELECT FROM outbox AS o WHERE o.id = ANY(c.outbox_ids))
"""

ADD_MESSAGES = """
INSERT INTO callback_item (provider, account, provider_message_id,
    callback_id, subject_id, intent, rule, score, said_at, short_code)
SELECT *
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[],
    $8::double precision[], $9::timestamptz[], $10::text[])
ON CONFLICT DO NOTHING
RETURNING callback_id, provider_message_id
"""
ADD_CALLBACKS = """
INSERT INTO callback (id, provider, account, kind, received_at, body, outbox_ids, receipts)
SELECT c.id, c.provider, c.account, c.kind, c.received_at, c.body, c.outbox_ids::bigint[], c.receipts::uuid[]
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[])
    AS c(id, provider, account, kind, received_at, body, outbox_ids, receipts)
"""
# Of a transaction's new MOs: the STOPs of the arrays, each with a START of its account received before and said later;
# the codes that no sender has or once had, none while no sender is known; whether an erasure of any person is known.
# A subquery of one row for each STOP: an EXISTS becomes a join, whose plan from when the journal was empty reads the
# whole journal for every transaction.
STANDING = """
SELECT
    ARRAY(
        SELECT s.place
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
            WITH ORDINALITY AS s(callback_id, provider, account, subject_id, said_at, place)
        WHERE (
            SELECT true
            FROM callback_item AS i
            WHERE i.subject_id = s.subject_id
                AND i.intent = 'start'
                AND i.provider = s.provider
                AND i.account = s.account
                AND i.said_at > s.said_at
                AND i.callback_id < s.callback_id
            LIMIT 1
        )
    ),
    ARRAY(
        SELECT c
        FROM unnest($6::text[]) AS c
        WHERE EXISTS (SELECT FROM sender_code)
            AND NOT EXISTS (SELECT FROM sender_code AS k WHERE k.code = c)
    ),
    EXISTS (SELECT FROM erasing AS e WHERE e.subject_id = ANY($7::text[]))
"""
USE_NONCES = """
WITH used AS (
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::timestamptz[])
        AS u(provider, account, nonce, content, forget_after)
),
forgotten AS (
    DELETE FROM nonce
    WHERE (provider, account, nonce) IN (
        SELECT provider, account, nonce
        FROM nonce
        WHERE forget_after < $6 AND nonce <> ALL($3::text[])
        ORDER BY forget_after
        LIMIT $7
        FOR UPDATE SKIP LOCKED
    )
)
INSERT INTO nonce AS known (provider, account, nonce, content, forget_after)
SELECT * FROM used
ON CONFLICT (provider, account, nonce) DO UPDATE SET
    content = CASE WHEN known.forget_after < $6 THEN excluded.content ELSE known.content END,
    forget_after = greatest(known.forget_after, excluded.forget_after)
RETURNING provider, account, nonce, content
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """The provider account and kind of a callback."""

    provider: str
    account: str
    kind: Kind


class Item(msgspec.Struct, frozen=True, gc=False):
    """An MO, or a DLR with its `receipt_id`, in the journal."""

    provider_message_id: str
    state: str = ""
    subject_id: str | None = None
    intent: str | None = None
    rule: str | None = None
    score: float | None = None
    said_at: datetime | None = None
    short_code: str | None = None
    receipt: bytes | None = None

    @property
    def identity(self) -> "Identity":
        return self.provider_message_id, self.state


Identity = tuple[str, str]  # (provider message id, receipt state or "")


def receipt_id(origin: Origin, identity: Identity) -> bytes:
    """Return a hash of a DLR's identity."""
    return receipt_ids(origin)(*identity)


def receipt_ids(origin: Origin) -> Callable[[str, str], bytes]:
    """Return a function from a DLR's provider message id and state to its id: a hash of both and of the account."""
    provider, account = origin.provider, origin.account
    begins = f"{len(provider)}:{provider}{len(account)}:{account}"  # no part can pass for two
    return lambda name, state: sha256(f"{begins}{len(name)}:{name}{len(state)}:{state}".encode()).digest()[:ID_BYTES]


async def add_items(tx: AsyncConnection, items: Sequence[tuple[UUID, Origin, Item]]) -> set[tuple[UUID, Identity]]:
    """Journal the items; return the new items.

    The first of two equal items counts. A concurrent transaction with equal items is waited for.
    """
    messages = [each for each in items if each[1].kind == "messages"]
    dlrs = [each for each in items if each[1].kind == "receipts"]
    return await _add_messages(tx, messages) | await _add_receipts(tx, dlrs)


async def _add_messages(tx: AsyncConnection, items: Sequence[tuple[UUID, Origin, Item]]) -> set[tuple[UUID, Identity]]:
    if not items:
        return set()
    first: dict[tuple[str, str, str], tuple[UUID, Item]] = {}
    for callback_id, origin, item in items:
        first.setdefault((origin.provider, origin.account, item.provider_message_id), (callback_id, item))
    rows = [
        (*name, callback_id, item.subject_id, item.intent, item.rule, item.score, item.said_at, item.short_code)
        for name, (callback_id, item) in sorted(first.items())  # the same order in every transaction: no deadlock
    ]
    new = await fetch_many(tx, ADD_MESSAGES, *zip(*rows, strict=True))
    return {(callback_id, (name, "")) for callback_id, name in new}


async def _add_receipts(tx: AsyncConnection, items: Sequence[tuple[UUID, Origin, Item]]) -> set[tuple[UUID, Identity]]:
    if not items:
        return set()
    first: dict[bytes, tuple[UUID, Identity]] = {}
    for callback_id, origin, item in items:
        first.setdefault(item.receipt or receipt_id(origin, item.identity), (callback_id, item.identity))
    rows = [(each, first[each][0]) for each in sorted(first)]  # the same order in every transaction: no deadlock
    if len(rows) >= COPIED_MESSAGES:
        try:
            async with tx.begin_nested():
                new = await _copy_receipts(tx, rows)
            return {first[each] for each in new}
        except UniqueViolationError:
            log.debug("another transaction has journalled some of the DLRs")
    added = await fetch_many(
        tx,
        "INSERT INTO receipt (id, callback_id) SELECT * FROM unnest($1::uuid[], $2::uuid[])"
        " ON CONFLICT DO NOTHING RETURNING id",
        [pgproto.UUID(each) for each, _ in rows],
        [callback_id for _, callback_id in rows],
    )
    return {first[each.bytes] for (each,) in added}


async def _copy_receipts(tx: AsyncConnection, rows: Sequence[tuple[bytes, UUID]]) -> list[bytes]:
    """Copy the DLRs that the journal has not: three fifths of the WAL of ON CONFLICT. Raise UniqueViolationError."""
    ids = [pgproto.UUID(each) for each, _ in rows]
    old = {each.bytes for (each,) in await fetch_many(tx, "SELECT id FROM receipt WHERE id = ANY($1::uuid[])", ids)}
    new = [row for row in rows if row[0] not in old]
    await copy_receipts(tx, new)
    return [each for each, _ in new]


async def copy_receipts(tx: AsyncConnection, rows: Sequence[tuple[bytes, UUID]]) -> None:
    """Copy DLRs and their callbacks, in this order. Raise UniqueViolationError where the journal has one of them."""
    parts = [part for id_, callback_id in rows for part in (FIELDS, id_, SIZE, callback_id.bytes)]
    await copy_encoded(tx, "receipt", ("id", "callback_id"), b"".join((COPY_BEGINS, *parts, COPY_ENDS)))


@dataclass(frozen=True, slots=True)
class Standing:
    """The earlier facts that a transaction's new MOs meet.

    `behind_starts`: the STOPs received after a START which the account's clock puts later. `to_no_sender`: the codes
    that no sender has or once had; none while no sender is known. `erased`: an erasure of some person is known.
    """

    behind_starts: Collection[tuple[UUID, Identity]]
    to_no_sender: Collection[str]
    erased: bool


async def standing(
    tx: AsyncConnection, stops: Sequence[tuple[UUID, Origin, Item]], codes: Collection[str], people: Collection[str]
) -> Standing:
    """Return what is known of these STOPs, codes and people. Call once the journal has the MOs.

    Callback ids are in the order of arrival.
    """
    [(behind, unknown, erased)] = await fetch_many(
        tx,
        STANDING,
        [callback_id for callback_id, *_ in stops],
        [origin.provider for _, origin, _ in stops],
        [origin.account for _, origin, _ in stops],
        [item.subject_id for *_, item in stops],
        [item.said_at for *_, item in stops],
        sorted(codes),
        list(people),
    )
    placed = [(callback_id, item.identity) for callback_id, _, item in stops]
    return Standing({placed[place - 1] for place in behind}, frozenset(unknown), erased)


@dataclass(frozen=True, slots=True)
class KeptCallback:
    """A request with new items, and its outbox ids.

    `body` is `None` of DLRs, and where an item precedes the erasure of its person. `receipts`: the new DLRs' ids.
    """

    id: UUID
    origin: Origin
    received_at: datetime
    body: str | None
    outbox_ids: Sequence[int]
    receipts: Sequence[bytes] = ()


async def add_callbacks(tx: AsyncConnection, callbacks: Sequence[KeptCallback]) -> None:
    if not callbacks:
        return
    # as texts: arrays of different lengths form no two-dimensional array
    events = [as_array(one.outbox_ids) for one in callbacks]
    dlrs = [as_array(map(bytes.hex, one.receipts)) if one.receipts else None for one in callbacks]
    origins = [(one.origin.provider, one.origin.account, one.origin.kind) for one in callbacks]
    said = [(one.id, *of, one.received_at, one.body) for one, of in zip(callbacks, origins, strict=True)]
    await fetch_many(tx, ADD_CALLBACKS, *zip(*said, strict=True), events, dlrs)


def as_array(values: Iterable[object]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


Brought = dict[tuple[Origin, Identity], tuple[UUID, list[int]]]


async def brought_by(tx: AsyncConnection, items: Collection[tuple[Origin, Identity]]) -> Brought:
    """Return the callback which brought each item, and its outbox ids, published or not."""
    messages = [each for each in items if each[0].kind == "messages"]
    dlrs = {receipt_id(*each): each for each in items if each[0].kind == "receipts"}
    return await _messages_by(tx, messages) | await _receipts_by(tx, dlrs)


async def _messages_by(tx: AsyncConnection, items: Sequence[tuple[Origin, Identity]]) -> Brought:
    if not items:
        return {}
    rows = await fetch_many(
        tx,
        "SELECT i.provider, i.account, i.provider_message_id, c.id, c.outbox_ids"
        " FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted(provider, account, provider_message_id)"
        " JOIN callback_item AS i USING (provider, account, provider_message_id)"
        " JOIN callback AS c ON c.id = i.callback_id",
        *zip(*[(origin.provider, origin.account, name) for origin, (name, _) in items], strict=True),
    )
    return {
        (Origin(provider, account, "messages"), (name, "")): (callback_id, ids)
        for provider, account, name, callback_id, ids in rows
    }


async def _receipts_by(tx: AsyncConnection, items: Mapping[bytes, tuple[Origin, Identity]]) -> Brought:
    if not items:
        return {}
    rows = await fetch_many(
        tx,
        "SELECT r.id, c.id, c.outbox_ids FROM receipt AS r JOIN callback AS c ON c.id = r.callback_id"
        " WHERE r.id = ANY($1::uuid[])",
        list(map(pgproto.UUID, items)),
    )
    return {items[receipt.bytes]: (callback_id, ids) for receipt, callback_id, ids in rows}


async def known_messages(tx: AsyncConnection, origin: Origin, names: Sequence[str]) -> set[str]:
    """Return the provider message ids of MOs in the journal."""
    rows = await fetch_many(
        tx,
        "SELECT provider_message_id FROM callback_item"
        " WHERE provider = $1 AND account = $2 AND provider_message_id = ANY($3::text[])",
        origin.provider,
        origin.account,
        list(names),
    )
    return {name for (name,) in rows}


def to_a_code_of(short_code: str, received_at: str) -> str:
    """Return the SQL condition that row `a`, an erasure or a copy, covers a text to this code.

    A controller's are the texts to a code of which it has every sender, ever, since its first sender had the code: the
    claim of a free code gives no controller the earlier texts to the code. Both arguments are SQL.
    """
    of_code = f"FROM sender_code AS k WHERE k.code = ({short_code}) AND k.controller"
    return (
        f"(a.controller_id IS NULL OR (EXISTS (SELECT {of_code} = a.controller_id AND k.since <= ({received_at}))"
        f" AND NOT EXISTS (SELECT {of_code} <> a.controller_id)))"
    )


async def empty_callbacks(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Delete the raw bodies with these people, including texts of others; return the counts.

    The items stay: a redelivered callback restores nothing.
    """
    rows = await tx.execute(
        text(
            "WITH theirs AS MATERIALIZED (SELECT DISTINCT a.subject_id, a.controller_id, i.callback_id"
            f" FROM callback_item AS i JOIN {TO_ERASE} ON a.subject_id = i.subject_id"
            f" JOIN callback AS c ON c.id = i.callback_id AND {to_a_code_of('i.short_code', 'c.received_at')}),"
            " emptied AS (UPDATE callback SET body = NULL WHERE body IS NOT NULL"
            " AND id IN (SELECT callback_id FROM theirs) RETURNING id)"
            " SELECT t.subject_id, t.controller_id, count(*) FROM theirs AS t JOIN emptied AS e"
            " ON e.id = t.callback_id GROUP BY t.subject_id, t.controller_id"
        ),
        columns(asked),
    )
    return counted(rows)


async def delete_parts(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Delete parts of incomplete MOs; return the counts."""
    rows = await tx.execute(
        text(
            f"WITH gone AS (DELETE FROM part AS p USING {TO_ERASE} WHERE p.subject_id = a.subject_id"
            f" AND {to_a_code_of('p.short_code', 'p.received_at')} RETURNING a.subject_id, a.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM gone GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    return counted(rows)


async def use_nonces(tx: AsyncConnection, uses: Sequence[tuple[Origin, Once, bytes]], now: datetime) -> list[bool]:
    """Store each nonce with the hash of its content; return False for each replay.

    A replay has other content; the same content is a retry. A concurrent use is waited for.
    """
    first: dict[tuple[str, ...], tuple[bytes, datetime]] = {}
    for origin, once, content in uses:
        name = (origin.provider, origin.account, once.nonce)
        used_for, forget_after = first.get(name, (content, once.forget_after))
        first[name] = used_for, max(forget_after, once.forget_after)
    rows = [(*name, *first[name]) for name in sorted(first)]  # the same order in every transaction: no deadlock
    some = FORGOTTEN_AT_ONCE * len(rows)
    kept = await fetch_many(tx, USE_NONCES, *zip(*rows, strict=True), now, some)
    used = {(provider, account, nonce): content for provider, account, nonce, content in kept}
    return [used[origin.provider, origin.account, once.nonce] == content for origin, once, content in uses]


@dataclass(frozen=True, slots=True)
class KeptPart:
    """A waiting part, encrypted, context "part:<provider message id>"."""

    provider_message_id: str
    text: str


async def add_part(
    tx: AsyncConnection,
    origin: Origin,
    subject_id: str,
    short_code: str,
    place: Part,
    kept: KeptPart,
    received_at: datetime,
) -> list[KeptPart]:
    """Keep a part. Return and delete all parts of a completed MO, in order; else return [].

    The MO is locked: two concurrent last parts would each miss the other.
    """
    old = received_at - PARTS_KEPT
    whose = {
        "provider": origin.provider,
        "account": origin.account,
        "subject_id": subject_id,
        "short_code": short_code,
        "reference": place.reference,
        "total": place.total,
    }
    await tx.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:group, 0))"),
        {"group": "\n".join(map(str, whose.values()))},
    )
    await tx.execute(
        text(
            "DELETE FROM part WHERE ctid = ANY(ARRAY("
            "SELECT ctid FROM part WHERE received_at < :old LIMIT 100 FOR UPDATE SKIP LOCKED))"
        ),
        {"old": old},
    )
    await tx.execute(
        text(
            "INSERT INTO part (provider, account, subject_id, short_code, reference, total, number,"
            " provider_message_id, text, received_at)"
            " VALUES (:provider, :account, :subject_id, :short_code, :reference, :total, :number,"
            " :provider_message_id, :text, :received_at)"
            # phones reuse the 255 references: the later part replaces the earlier
            " ON CONFLICT (provider, account, subject_id, short_code, reference, total, number) DO UPDATE SET"
            " provider_message_id = excluded.provider_message_id, text = excluded.text,"
            " received_at = excluded.received_at"
        ),
        {
            **whose,
            "number": place.number,
            "provider_message_id": kept.provider_message_id,
            "text": kept.text,
            "received_at": received_at,
        },
    )
    mine = (
        " FROM part WHERE provider = :provider AND account = :account AND subject_id = :subject_id"
        " AND short_code = :short_code AND reference = :reference AND total = :total AND received_at >= :old"
    )
    rows = (
        await tx.execute(text(f"SELECT provider_message_id, text{mine} ORDER BY number"), {**whose, "old": old})
    ).all()
    if len(rows) < place.total:
        return []
    await tx.execute(text(f"DELETE{mine}"), {**whose, "old": old})
    return [KeptPart(row.provider_message_id, row.text) for row in rows]
