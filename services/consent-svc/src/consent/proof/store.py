"""Own the messages handed off, and read the whole ledger for receipts, bundles, seals and checksums."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any, NamedTuple, TypeVar

import msgspec
from asyncpg import UniqueViolationError
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.dispatch import Status
from common.db.database import COPIED_MESSAGES, copy_encoded, fetch_many, insert_many
from consent.ledger import store as ledger_store
from consent.ledger.chain import Ended, Entry
from consent.ledger.rules import SubjectState
from consent.proof.receipt import Party
from consent.schema import metadata
from consent.senders import store as senders_store
from consent.senders.store import Sender

T = TypeVar("T")

READ_AT_ONCE = 2000


# The indexes hold hashes, a third of the bytes of ids: a message has an entry in each. An index tells which rows may be
# meant, and each statement compares the ids too.
def _short(of: str) -> str:
    """Return the SQL of a short hash, as in the indexes: of a person, or of a campaign."""
    return f"hashtext({of})"


def _long(message_id: str) -> str:
    """Return the SQL of a message's hash, as in the index: no two messages of a person share the hash."""
    return f"hashtextextended({message_id}, 0)"


def of_person(row: str, subject_id: str) -> str:
    """Return the SQL condition that a row of `handed_off` is of the person, with what the index needs."""
    return f"{_short(f'{row}.subject_id')} = {_short(subject_id)} AND {row}.subject_id = {subject_id}"


def is_message(row: str, named: str) -> str:
    """Return the SQL condition that a row of `handed_off` is the message named by a row with both its ids."""
    return (
        f"{of_person(row, f'{named}.subject_id')} AND {_long(f'{row}.message_id')} = {_long(f'{named}.message_id')}"
        f" AND {row}.message_id = {named}.message_id"
    )


Table(
    "handed_off",
    metadata,
    Column("message_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("campaign_id", Text, nullable=True),
    Column("handed_off_at", DateTime(timezone=True), nullable=False),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),  # dispatch-svc's, of the state
    Column("ordinal", BigInteger, Identity(always=True), nullable=False),  # order of writing (`proof/retroactive.py`)
    # serves what asks by person too
    Index("handed_off_message_ix", text(_short("subject_id")), text(_long("message_id")), unique=True),
    Index("handed_off_ordinal_ix", "ordinal", unique=True),
    Index("handed_off_campaign_ix", text(_short("campaign_id")), text(_short("subject_id"))),
    Index("handed_off_at_ix", "handed_off_at"),
)


class HandedOff(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A marketing message which left.

    `status`: the outcome, as published with `version`.
    """

    message_id: str
    subject_id: str
    sender_id: str
    purpose: str
    campaign_id: str | None
    handed_off_at: datetime
    status: Status
    version: int


_state = msgspec.json.Decoder(SubjectState)

_NAMES = ("subject_id", "message_id")
_CHANGING = ("handed_off_at", "status", "version")  # of a message's later states
_HANDED_OFF = {
    "message_id": "text",
    "subject_id": "text",
    "sender_id": "text",
    "purpose": "text",
    "campaign_id": "text",
    "handed_off_at": "timestamptz",
    "status": "text",
    "version": "integer",
}

# COPY's binary format, with the columns in this order
_COPIED = ("sender_id", "purpose", "campaign_id", "status", "handed_off_at", "version", "message_id", "subject_id")
_COPY_BEGINS, _COPY_ENDS = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_FIELDS, _NULL = Struct("!h").pack(len(_COPIED)), b"\xff\xff\xff\xff"
_TIME, _INTEGER = Struct("!iq"), Struct("!ii")
_size = Struct("!i").pack
_EPOCH, _MICROSECOND = datetime(2000, 1, 1, tzinfo=UTC), timedelta(microseconds=1)

# OFFSET 0: a lookup for each message. Else the planner reads the whole table, as long as the table is small.
_KNOWN = f"""
SELECT k.message_id, k.handed_off_at, k.status, k.version
FROM unnest($1::text[], $2::text[]) AS t (subject_id, message_id)
CROSS JOIN LATERAL (
    SELECT h.message_id, h.handed_off_at, h.status, h.version FROM handed_off AS h WHERE {is_message("h", "t")} OFFSET 0
) AS k
"""
_CHANGED = f"""
UPDATE handed_off AS h
SET ({", ".join(_CHANGING)}) = ROW({", ".join(f"t.{name}" for name in _CHANGING)})
FROM unnest({", ".join(f"${n}::{_HANDED_OFF[name]}[]" for n, name in enumerate((*_NAMES, *_CHANGING), 1))})
    AS t ({", ".join((*_NAMES, *_CHANGING))})
WHERE {is_message("h", "t")}
"""
_MOVED = f"""
UPDATE handed_off AS h SET ordinal = DEFAULT
FROM unnest($1::text[], $2::text[]) AS t (subject_id, message_id)
WHERE {is_message("h", "t")}
"""


async def streamed(tx: AsyncConnection, query: str, read: Callable[..., T]) -> AsyncIterator[T]:
    """Yield `read` of each row's columns by name."""
    rows = await tx.stream(text(query), execution_options={"yield_per": READ_AT_ONCE})
    async for some in rows.partitions():
        for row in some:
            yield read(**row._mapping)


async def told_states(tx: AsyncConnection, page: int) -> AsyncIterator[list[tuple[str, int, SubjectState, bool]]]:
    """Yield pages of (subject_id, version, state, erased), published only."""
    rows = await tx.stream(
        text("SELECT subject_id, version, state::text, erased_at IS NOT NULL FROM subject WHERE version > 0"),
        execution_options={"yield_per": page},
    )
    async for some in rows.partitions():
        yield [(row[0], row[1], _state.decode(row[2]), row[3]) for row in some]


_STUB = ("evidence_id", "subject_id", "position", "recorded_at", "hash")  # the columns of Ended


def whole_ledger(tx: AsyncConnection) -> AsyncIterator[Entry | Ended]:
    """Yield every entry, or its stub, by subject and position."""
    columns = ledger_store.ENTRY_COLUMNS
    of_stub = ", ".join(name if name in _STUB else "NULL" for name in columns.split(", "))
    return streamed(
        tx,
        f"""
        SELECT {columns} FROM evidence
        UNION ALL SELECT {of_stub} FROM ended_entry
        ORDER BY subject_id, position
        """,
        _entry_or_stub,
    )


def _entry_or_stub(**columns: Any) -> Entry | Ended:
    if columns["kind"] is None:
        return Ended(**{name: columns[name] for name in _STUB})
    return ledger_store.entry(**columns)


class Place(NamedTuple):
    """The place of an entry in the ledger. `ended`: the entry has gone, and the place is its stub's.

    `moved`: the entry is in the ledger of another shard.
    """

    ordinal: int
    hash: str
    recorded_at: datetime
    ended: bool
    moved: bool


def places(tx: AsyncConnection) -> AsyncIterator[Place]:
    """Yield every place, by ordinal."""
    query = """
        SELECT ordinal, hash, recorded_at, false AS ended, false AS moved FROM evidence
        UNION ALL SELECT ordinal, hash, recorded_at, true, false FROM ended_entry
        UNION ALL SELECT ordinal, hash, recorded_at, false, true FROM moved_entry
        ORDER BY ordinal
    """
    return streamed(tx, query, Place)


@dataclass(frozen=True, slots=True)
class Head:
    """The columns of a subject which follow from the ledger.

    `asked`: JSON, the last erasure by sender; the sender "" stands for every sender.
    """

    subject_id: str
    entries: int
    head: str
    state: str
    asked: str | None

    def asked_at(self, sender_id: str | None) -> datetime | None:
        """Return when the last erasure was asked for that concerns this sender's lines."""
        if self.asked is None:
            return None
        asked = _instants.decode(self.asked)
        return max((asked[one] for one in ("", sender_id) if one in asked), default=None)


_instants = msgspec.json.Decoder(dict[str, datetime])


def heads(tx: AsyncConnection) -> AsyncIterator[Head]:
    """Yield every head, in the order of `whole_ledger`."""
    query = (
        "SELECT subject_id, entries, head, state::text AS state, (SELECT jsonb_object_agg(sender_id, at)::text FROM"
        " (SELECT coalesce(k.sender_id, '') AS sender_id, max(e.requested_at) AS at FROM erasing AS e"
        " LEFT JOIN sender AS k ON k.controller = e.controller_id WHERE e.subject_id = s.subject_id"
        " AND (e.controller_id IS NULL OR k.sender_id IS NOT NULL) GROUP BY 1) AS a) AS asked"
        " FROM subject AS s ORDER BY subject_id"
    )
    return streamed(tx, query, Head)


async def add_handed_off(
    tx: AsyncConnection, messages: Sequence[HandedOff], begun: Collection[str] = ()
) -> list[HandedOff]:
    """Store the state of each message, by version; return the messages with news: of a hand-off, or an outcome.

    `messages`: at most one state of each. `begun`: the ids of those which are most likely not stored. Many are added
    without a look, and looked up only where one is stored after all.

    The caller is the only writer of these messages: its transaction holds the offset of their people's partition. A
    state may come late or again. A message whose time of hand-off changes is compared again (`proof/retroactive.py`).
    A version that follows the stored one and changes nothing here, as most DLRs, is not stored: no version lies between
    the two, so none can come late.
    """
    likely = [message for message in messages if message.message_id in begun]
    if len(likely) < COPIED_MESSAGES:
        return await _store(tx, messages)
    try:
        async with tx.begin_nested():
            await _add(tx, likely)
    except UniqueViolationError:
        return await _store(tx, messages)
    return likely + await _store(tx, [message for message in messages if message.message_id not in begun])


async def _store(tx: AsyncConnection, messages: Sequence[HandedOff]) -> list[HandedOff]:
    """Store states as `add_handed_off`, looked up first."""
    if not messages:
        return []
    stored = {row[0]: row[1:] for row in await fetch_many(tx, _KNOWN, *_columns(messages, _NAMES))}
    new, changed, moved, news = [], [], [], []
    for message in messages:
        if message.message_id not in stored:
            new.append(message)
            news.append(message)
            continue
        handed_off_at, status, version = stored[message.message_id]
        same = (handed_off_at, status) == (message.handed_off_at, message.status)
        if message.version <= version or (same and message.version == version + 1):
            continue
        changed.append(message)
        if not same:
            news.append(message)
        if handed_off_at != message.handed_off_at:
            moved.append(message)
    if changed:
        await fetch_many(tx, _CHANGED, *_columns(changed, (*_NAMES, *_CHANGING)))
    if moved:
        await fetch_many(tx, _MOVED, *_columns(moved, _NAMES))
    await _add(tx, new)
    return news


async def _add(tx: AsyncConnection, new: Sequence[HandedOff]) -> None:
    """Add rows. No ON CONFLICT: PostgreSQL would confirm each row by a record of its own."""
    if len(new) < COPIED_MESSAGES:
        await insert_many(tx, "handed_off", _HANDED_OFF, [msgspec.structs.astuple(each) for each in new])
    else:
        await copy_encoded(tx, "handed_off", _COPIED, _encoded(new))


def _columns(messages: Iterable[HandedOff], names: Iterable[str]) -> list[list[object]]:
    messages = list(messages)
    return [[getattr(message, name) for message in messages] for name in names]


def _encoded(messages: Iterable[HandedOff]) -> bytes:
    """Return rows in COPY's binary format. Columns that the messages of a submit share are encoded once."""
    rows, shared, begin = [_COPY_BEGINS], None, b""
    for message in messages:
        columns = (
            message.sender_id,
            message.purpose,
            message.campaign_id,
            message.status,
            message.handed_off_at,
            message.version,
        )
        if columns != shared:
            shared, begin = columns, _begin(message)
        message_id, subject_id = message.message_id.encode(), message.subject_id.encode()
        rows += (begin, _size(len(message_id)), message_id, _size(len(subject_id)), subject_id)
    rows.append(_COPY_ENDS)
    return b"".join(rows)


def _begin(message: HandedOff) -> bytes:
    """Return the columns before the ids of a message and its person."""
    at = (message.handed_off_at - _EPOCH) // _MICROSECOND
    texts = (message.sender_id, message.purpose, message.campaign_id, message.status)
    return b"".join((_FIELDS, *map(_text, texts), _TIME.pack(_TIME.size - 4, at), _INTEGER.pack(4, message.version)))


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    raw = value.encode()
    return _size(len(raw)) + raw


async def handed_off_of(tx: AsyncConnection, campaign_id: str, after: str, limit: int) -> dict[str, list[HandedOff]]:
    """Return a campaign's messages by subject, for up to `limit` subjects after `after`, in the order of their hashes.

    "" stands before all.
    """
    order = f"{_short('m.subject_id')}, m.subject_id"
    behind = (  # only where there is a page before: under an OR no index would begin there
        f" AND {_short('m.subject_id')} >= {_short(':after')} AND ({order}) > ({_short(':after')}, :after)"
    )
    rows = await tx.execute(
        text(
            f"SELECT {', '.join(f'm.{name}' for name in _HANDED_OFF)}"
            f" FROM (SELECT DISTINCT {_short('m.subject_id')} AS place, m.subject_id FROM handed_off AS m"
            f" WHERE {_short('m.campaign_id')} = {_short(':campaign_id')} AND m.campaign_id = :campaign_id"
            f"{behind if after else ''} ORDER BY place, m.subject_id LIMIT :limit) AS s"
            f" JOIN handed_off AS m ON {of_person('m', 's.subject_id')} AND m.campaign_id = :campaign_id"
            f" ORDER BY {order}, m.handed_off_at, m.message_id"
        ),
        {"campaign_id": campaign_id, "limit": limit} | ({"after": after} if after else {}),
    )
    found: dict[str, list[HandedOff]] = {}
    for row in rows:
        found.setdefault(row.subject_id, []).append(HandedOff(**row._mapping))
    return found


async def parties(tx: AsyncConnection, sender_ids: Iterable[str]) -> list[Party]:
    """Return every version of these senders."""
    rows = await tx.execute(
        text(
            "SELECT content::text AS content, in_force_from FROM sender_version"
            " WHERE sender_id = ANY(CAST(:ids AS text[])) ORDER BY sender_id, version"
        ),
        {"ids": sorted(sender_ids)},
    )
    return [_party(senders_store.sender_content.decode(row.content), row.in_force_from) for row in rows]


def _party(sender: Sender, in_force_from: datetime) -> Party:
    return Party(
        sender_id=sender.sender_id,
        version=sender.version,
        in_force_from=in_force_from,
        controller=sender.controller,
        legal_name=sender.legal_name,
        brand=sender.brand,
        contact=sender.contact,
        country=sender.country,
        stop_code=sender.stop_code,
        purposes=sender.purposes,
    )
