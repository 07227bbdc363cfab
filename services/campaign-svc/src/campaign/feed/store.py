"""Own the events of each organisation's feed. The caller owns the transaction.

Positions are counted in each feed's row of `event_feed`, locked until the commit: the positions of a feed commit in
their order, without a gap. A reader's cursor never passes a row that is still being written, and no cursor tells how
many events other organisations have.

A feed begins when its organisation first reads it or adds a webhook; before, no event is stored.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, Table, Text, UniqueConstraint, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.feed.event import Event, Told, Type, id_of
from campaign.schema import instant, metadata
from common.db.database import fetch_many
from common.telemetry import counter

STORED = "event_stored"  # NOTIFY channel
TOLD = counter("sms_campaign_events_total", "Events stored in the feeds of organisations, by type.", ["kind"])

event_feed = Table(
    "event_feed",
    metadata,
    Column("organisation_id", Text, primary_key=True),
    Column("last_position", BigInteger, nullable=False),
    instant("begun_at"),
)

event = Table(
    "event",
    metadata,
    Column("organisation_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("sender_id", Text, nullable=True),  # null: about a controller, or a webhook
    Column("controller", Text, nullable=True),
    Column("subject_id", Text, nullable=True),
    Column("about", Text, nullable=False),  # events about the same thing keep their order
    Column("version", Integer, nullable=True),  # of the consent
    Column("webhook_id", Text, nullable=True),  # told to this webhook alone: a test
    Column("data", Text, nullable=False),  # JSON, without the person's id
    instant("at"),
    instant("stored_at"),
    PrimaryKeyConstraint("organisation_id", "position"),
    UniqueConstraint("organisation_id", "event_id"),
    Index("event_stored_ix", "stored_at"),
    Index(
        "event_opted_out_ix",
        "subject_id",
        "version",
        postgresql_where=text("type = 'consent.opted_out'"),
    ),
)

_EVENT = "e.position, e.event_id, e.type, e.sender_id, e.controller, e.subject_id, e.about, e.at, e.data"


class Owner(NamedTuple):
    """The owner of a sender, and whether its organisation has a feed."""

    organisation_id: str
    controller: str
    followed: bool


class OptOut(NamedTuple):
    """A stored opt-out."""

    event_id: str
    sender_id: str
    version: int


async def begin(tx: AsyncConnection, organisation_id: str, now: datetime) -> None:
    """Begin the feed of an organisation, unless it has begun.

    A feed that has begun is only read: an insertion would wait for the transaction that stores events.
    """
    await fetch_many(
        tx,
        "INSERT INTO event_feed (organisation_id, last_position, begun_at) SELECT $1::text, 0, $2::timestamptz"
        " WHERE NOT EXISTS (SELECT FROM event_feed WHERE organisation_id = $1) ON CONFLICT DO NOTHING",
        organisation_id,
        now,
    )


async def any_begun(tx: AsyncConnection) -> bool:
    """Return whether any organisation has a feed."""
    return bool(await fetch_many(tx, "SELECT 1 FROM event_feed LIMIT 1"))


async def owners(tx: AsyncConnection, sender_ids: Collection[str]) -> dict[str, Owner]:
    """Return the owner of each known sender."""
    rows = await fetch_many(
        tx,
        "SELECT s.sender_id, s.organisation_id, s.controller, f.organisation_id IS NOT NULL FROM sender AS s"
        " LEFT JOIN event_feed AS f ON f.organisation_id = s.organisation_id WHERE s.sender_id = ANY($1::text[])",
        list(sender_ids),
    )
    return {sender_id: Owner(*owner) for sender_id, *owner in rows}


async def organisations_of(tx: AsyncConnection, controllers: Collection[str]) -> dict[str, str]:
    """Return the organisation of each known controller that has a feed."""
    rows = await fetch_many(
        tx,
        "SELECT DISTINCT s.controller, s.organisation_id FROM sender AS s"
        " JOIN event_feed AS f ON f.organisation_id = s.organisation_id WHERE s.controller = ANY($1::text[])",
        list(controllers),
    )
    return {row[0]: row[1] for row in rows}


async def add(tx: AsyncConnection, told: Mapping[str, Sequence[tuple[Told, str | None]]]) -> None:
    """Store events, each with its controller, at the end of the organisations' feeds, in this order.

    An event that is stored already, under its id, is not stored again.
    """
    added: list[tuple[object, ...]] = []
    feeds = await fetch_many(
        tx,
        "SELECT organisation_id, last_position FROM event_feed WHERE organisation_id = ANY($1::text[])"
        " ORDER BY organisation_id FOR UPDATE",
        sorted(told),
    )
    ids = {
        organisation_id: [id_of(each, organisation_id) for each, _ in told[organisation_id]]
        for organisation_id, _ in feeds
    }
    known = await _known(tx, ids)
    ends: dict[str, int] = {}
    kinds: dict[str, int] = defaultdict(int)
    for organisation_id, position in feeds:
        for event_id, (each, controller) in zip(ids[organisation_id], told[organisation_id], strict=True):
            if (organisation_id, event_id) in known:
                continue
            known.add((organisation_id, event_id))
            position += 1
            kinds[each.type] += 1
            added.append(_row(organisation_id, position, event_id, each, controller))
        ends[organisation_id] = position
    if not added:
        return
    await fetch_many(
        tx,
        "WITH ended AS (UPDATE event_feed AS f SET last_position = n.position"
        " FROM unnest($1::text[], $2::bigint[]) AS n(organisation_id, position)"
        " WHERE f.organisation_id = n.organisation_id),"
        " stored AS (INSERT INTO event (organisation_id, position, event_id, type, sender_id, controller, subject_id,"
        " about, version, webhook_id, data, at, stored_at)"
        " SELECT n.*, clock_timestamp() FROM unnest($3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[],"
        " $8::text[], $9::text[], $10::text[], $11::integer[], $12::text[], $13::text[], $14::timestamptz[]) AS n)"
        f" SELECT pg_notify('{STORED}', '')",
        list(ends),
        list(ends.values()),
        *map(list, zip(*added, strict=True)),
    )
    for kind, many in kinds.items():
        TOLD.labels(kind).inc(many)


async def add_test(tx: AsyncConnection, organisation_id: str, webhook_id: str, told: Told) -> str:
    """Store an event for one webhook alone, and return the event's id."""
    event_id = id_of(told, organisation_id)
    await fetch_many(
        tx,
        "WITH next AS (UPDATE event_feed SET last_position = last_position + 1 WHERE organisation_id = $1"
        " RETURNING last_position)"
        " INSERT INTO event (organisation_id, position, event_id, type, about, webhook_id, data, at, stored_at)"
        " SELECT $1, last_position, $2, $3, $4, $5, $6, $7, clock_timestamp() FROM next",
        organisation_id,
        event_id,
        told.type.value,
        told.about,
        webhook_id,
        msgspec.json.encode(told.data).decode(),
        told.at,
    )
    await fetch_many(tx, f"SELECT pg_notify('{STORED}', '')")
    return event_id


def _row(organisation_id: str, position: int, event_id: str, told: Told, controller: str | None) -> tuple[object, ...]:
    return (
        organisation_id,
        position,
        event_id,
        told.type.value,
        told.sender_id,
        controller,
        told.subject_id,
        told.about,
        told.version,
        None,
        msgspec.json.encode(told.data).decode(),
        told.at,
    )


async def _known(tx: AsyncConnection, ids: Mapping[str, Iterable[str]]) -> set[tuple[str, str]]:
    pairs = [(organisation_id, event_id) for organisation_id, some in ids.items() for event_id in some]
    if not pairs:
        return set()
    organisations, event_ids = map(list, zip(*pairs, strict=True))
    rows = await fetch_many(
        tx,
        "SELECT e.organisation_id, e.event_id FROM event AS e JOIN unnest($1::text[], $2::text[]) AS n(organisation_id,"
        " event_id) ON e.organisation_id = n.organisation_id AND e.event_id = n.event_id",
        organisations,
        event_ids,
    )
    return {(organisation_id, event_id) for organisation_id, event_id in rows}


async def opt_outs(tx: AsyncConnection, asked: Iterable[tuple[str, int]]) -> dict[tuple[str, int], list[OptOut]]:
    """Return the stored opt-outs of each (subject_id, version), up to the version."""
    pairs = sorted(set(asked))
    subjects, versions = [subject_id for subject_id, _ in pairs], [version for _, version in pairs]
    rows = await fetch_many(
        tx,
        "SELECT n.subject_id, n.version, e.event_id, e.sender_id, e.version FROM"
        " unnest($1::text[], $2::integer[]) AS n(subject_id, version)"
        " JOIN event AS e ON e.type = 'consent.opted_out' AND e.subject_id = n.subject_id AND e.version <= n.version"
        " ORDER BY e.organisation_id, e.position",
        subjects,
        versions,
    )
    found: dict[tuple[str, int], list[OptOut]] = defaultdict(list)
    for subject_id, version, *of in rows:
        found[subject_id, version].append(OptOut(*of))
    return found


class Feed(NamedTuple):
    """Where a feed stands. `first`: the position of the oldest event kept, or the next position."""

    first: int
    last: int


async def feed_of(tx: AsyncConnection, organisation_id: str) -> Feed | None:
    rows = await fetch_many(
        tx,
        "SELECT coalesce((SELECT min(position) FROM event AS e WHERE e.organisation_id = f.organisation_id),"
        " f.last_position + 1), f.last_position FROM event_feed AS f WHERE f.organisation_id = $1",
        organisation_id,
    )
    return Feed(*rows[0]) if rows else None


async def last_positions(tx: AsyncConnection, organisation_ids: Collection[str]) -> dict[str, int]:
    """Return the last position of each of these feeds."""
    rows = await fetch_many(
        tx,
        "SELECT organisation_id, last_position FROM event_feed WHERE organisation_id = ANY($1::text[])",
        list(organisation_ids),
    )
    return {row[0]: row[1] for row in rows}


async def events_after(
    tx: AsyncConnection,
    organisation_id: str,
    after: int,
    up_to: int,
    limit: int,
    *,
    types: Collection[Type] | None,
    senders: Collection[str],
    whole: bool,
    webhook_id: str | None = None,
) -> list[Event]:
    """Return a feed's events of these types and senders, oldest first.

    `whole`: with the events about no sender; otherwise with the end of each webhook about no other senders.
    `webhook_id`: with the events for this webhook alone.
    """
    rows = await fetch_many(
        tx,
        f"SELECT {_EVENT} FROM event AS e WHERE e.organisation_id = $1 AND e.position > $2 AND e.position <= $3"
        " AND (($4::text[] IS NULL OR e.type = ANY($4)) AND e.webhook_id IS NULL"
        " AND (e.sender_id = ANY($5::text[]) OR ($6 AND e.sender_id IS NULL) OR (e.type = 'webhook.disabled'"
        " AND EXISTS (SELECT FROM webhook AS w WHERE w.webhook_id = e.about AND w.organisation_id = e.organisation_id"
        " AND w.senders <@ $5::text[]))) OR e.webhook_id = $7::text)"
        " ORDER BY e.position LIMIT $8",
        organisation_id,
        after,
        up_to,
        None if types is None else [each.value for each in types],
        list(senders),
        whole,
        webhook_id,
        limit,
    )
    return [event_of(row) for row in rows]


def event_of(row: Sequence[object]) -> Event:
    """Return the event of a row's columns, in the order of `_EVENT`."""
    return msgspec.convert(dict(zip(Event.__struct_fields__, row, strict=True)), Event)
