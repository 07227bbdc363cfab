"""Own the webhooks of each organisation, and the log of their deliveries. The caller owns the transaction.

A delivery is a row from the moment its event is due to the webhook; the log is the queue. `cursor` is the position in
the feed up to which every event that the webhook wants has its row. A webhook has at most WINDOW rows that wait: a
destination that is down leaves the rest in the feed.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.feed.event import Type
from campaign.schema import instant, metadata
from campaign.webhooks.rules import Attempt, Health
from campaign.webhooks.signing import Secret
from common.db.database import fetch_many, plan_now
from common.keyring import FieldKeys

WINDOW = 500  # waiting deliveries of a webhook at most
SPREAD_AT_ONCE = 100  # webhooks in a transaction

State = Literal["waiting", "delivered", "failed"]

webhook = Table(
    "webhook",
    metadata,
    Column("webhook_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),  # orders lists
    Column("organisation_id", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("types", ARRAY(Text), nullable=True),  # null: every type
    Column("senders", ARRAY(Text), nullable=True),  # null: every sender of the organisation
    Column("description", Text, nullable=False),
    Column("secrets", Text, nullable=False),  # encrypted, context "webhook:<webhook_id>"
    Column("enabled", Text, nullable=False),  # enabled, or why not: paused, failing, gone
    instant("disabled_at", nullable=True),
    Column("cursor", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    instant("failing_since", nullable=True),
    instant("rests_until", nullable=True),
    instant("accepted_at", nullable=True),
    Column("created_by", Text, nullable=False),
    instant("created_at"),
    Column("fingerprint", Text, nullable=False),
    Index("webhook_organisation_ix", "organisation_id", "position"),
)

webhook_delivery = Table(
    "webhook_delivery",
    metadata,
    Column("webhook_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),  # of the event in the feed
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("about", Text, nullable=False),  # deliveries about the same thing go one after the other
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    instant("due_at"),  # under way: when another process may try
    instant("first_at", nullable=True),
    instant("last_at", nullable=True),
    Column("code", Integer, nullable=True),  # HTTP status of the last answer
    Column("error", Text, nullable=True),
    Column("took_ms", Integer, nullable=True),
    instant("created_at"),
    PrimaryKeyConstraint("webhook_id", "position"),
    Index("webhook_delivery_created_ix", "created_at"),
    Index("webhook_delivery_due_ix", "webhook_id", "due_at", postgresql_where=text("state = 'waiting'")),
    Index("webhook_delivery_order_ix", "webhook_id", "about", "position", postgresql_where=text("state = 'waiting'")),
)


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook. `enabled`: "enabled", or why not."""

    webhook_id: str
    position: int
    organisation_id: str
    url: str
    types: Sequence[str] | None
    senders: Sequence[str] | None
    description: str
    secrets: str
    enabled: Literal["enabled", "paused", "failing", "gone"]
    disabled_at: datetime | None
    cursor: int
    failures: int
    failing_since: datetime | None
    rests_until: datetime | None
    accepted_at: datetime | None
    created_by: str
    created_at: datetime
    fingerprint: str

    @property
    def health(self) -> Health:
        return Health(
            failures=self.failures,
            failing_since=self.failing_since,
            rests_until=self.rests_until,
            accepted_at=self.accepted_at,
        )

    def opened(self, keys: FieldKeys) -> list[Secret]:
        """Return the secrets."""
        return _secrets.decode(keys.unseal(self.secrets, f"webhook:{self.webhook_id}"))


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the delivery log."""

    position: int
    event_id: str
    type: str
    state: State
    attempts: int
    due_at: datetime
    first_at: datetime | None
    last_at: datetime | None
    code: int | None
    error: str | None
    took_ms: int | None
    created_at: datetime


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery under way, until `due_at` has passed."""

    webhook_id: str
    position: int
    attempts: int
    first_at: datetime
    event_id: str
    type: Type
    sender_id: str | None
    controller: str | None
    subject_id: str | None
    about: str
    at: datetime
    data: str
    stored_at: datetime


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt. `due_at`: of the next attempt, if any."""

    delivery: Claimed
    attempt: Attempt
    due_at: datetime | None


_secrets = msgspec.json.Decoder(list[Secret])
_WEBHOOK = ", ".join(f'w."{name}"' for name in Webhook.__struct_fields__)
_DELIVERY = ", ".join(f'd."{name}"' for name in Delivery.__struct_fields__)


def sealed(secrets: Sequence[Secret], webhook_id: str, keys: FieldKeys) -> str:
    """Return the secrets as the table has them."""
    return keys.seal(msgspec.json.encode(secrets).decode(), f"webhook:{webhook_id}")


def _webhooks(rows: Sequence[Sequence[object]]) -> list[Webhook]:
    return [msgspec.convert(dict(zip(Webhook.__struct_fields__, row, strict=True)), Webhook) for row in rows]


async def insert(
    tx: AsyncConnection,
    webhook_id: str,
    organisation_id: str,
    *,
    url: str,
    types: Sequence[str] | None,
    senders: Sequence[str] | None,
    description: str,
    secrets: str,
    created_by: str,
    fingerprint: str,
    now: datetime,
) -> bool:
    """Insert a webhook that gets the events from now on; False if it exists. The feed has begun."""
    rows = await fetch_many(
        tx,
        "INSERT INTO webhook (webhook_id, organisation_id, url, types, senders, description, secrets, enabled, cursor,"
        " failures, created_by, created_at, fingerprint)"
        " SELECT $1, organisation_id, $3, $4, $5, $6, $7, 'enabled', last_position, 0, $8, $9, $10 FROM event_feed"
        " WHERE organisation_id = $2 ON CONFLICT DO NOTHING RETURNING webhook_id",
        webhook_id,
        organisation_id,
        url,
        None if types is None else list(types),
        None if senders is None else list(senders),
        description,
        secrets,
        created_by,
        now,
        fingerprint,
    )
    return bool(rows)


async def find(tx: AsyncConnection, organisation_id: str, webhook_id: str, *, lock: bool = False) -> Webhook | None:
    """Return a webhook of the organisation."""
    rows = await fetch_many(
        tx,
        f"SELECT {_WEBHOOK} FROM webhook AS w WHERE w.webhook_id = $1 AND w.organisation_id = $2"
        f"{' FOR UPDATE' if lock else ''}",
        webhook_id,
        organisation_id,
    )
    return next(iter(_webhooks(rows)), None)


async def webhooks_after(
    tx: AsyncConnection, organisation_id: str, after: int, senders: Sequence[str] | None, limit: int
) -> list[Webhook]:
    """Return a page of an organisation's webhooks, oldest first. `senders`: only those about no other sender."""
    rows = await fetch_many(
        tx,
        f"SELECT {_WEBHOOK} FROM webhook AS w WHERE w.organisation_id = $1 AND w.position > $2"
        " AND ($3::text[] IS NULL OR w.senders <@ $3::text[]) ORDER BY w.position LIMIT $4",
        organisation_id,
        after,
        None if senders is None else list(senders),
        limit,
    )
    return _webhooks(rows)


async def put(tx: AsyncConnection, changed: Webhook) -> None:
    """Store what a caller may change of a locked webhook; an enabled one is well, and its deliveries are due."""
    await fetch_many(
        tx,
        "UPDATE webhook SET url = $2, types = $3, description = $4, secrets = $5, enabled = $6, disabled_at = $7,"
        " failures = $8, failing_since = $9, rests_until = $10 WHERE webhook_id = $1",
        changed.webhook_id,
        changed.url,
        None if changed.types is None else list(changed.types),
        changed.description,
        changed.secrets,
        changed.enabled,
        changed.disabled_at,
        changed.failures,
        changed.failing_since,
        changed.rests_until,
    )


async def delete(tx: AsyncConnection, webhook_id: str) -> None:
    """Delete a webhook and its log."""
    await fetch_many(tx, "DELETE FROM webhook_delivery WHERE webhook_id = $1", webhook_id)
    await fetch_many(tx, "DELETE FROM webhook WHERE webhook_id = $1", webhook_id)


async def make_due(tx: AsyncConnection, webhook_ids: Collection[str], now: datetime, lease: timedelta) -> None:
    """Make the waiting deliveries of these webhooks due, but for those under way."""
    await fetch_many(
        tx,
        "UPDATE webhook_delivery SET due_at = $2 WHERE webhook_id = ANY($1::text[]) AND state = 'waiting'"
        " AND (last_at IS NULL OR due_at <> last_at + $3::interval)",
        list(webhook_ids),
        now,
        lease,
    )


class Spread(msgspec.Struct, frozen=True):
    """The new deliveries of a webhook. `full`: events are left. `lost`: events that were past their retention."""

    webhook_id: str
    deliveries: int
    full: bool
    lost: int


async def spread(tx: AsyncConnection, now: datetime) -> list[Spread]:
    """Add the next events of each enabled webhook that is behind its feed to its deliveries, due since their storage.

    At most SPREAD_AT_ONCE webhooks, drawn anew each time: none waits for the same others. A webhook that another
    process has locked is left to the process.
    """
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "WITH late AS (SELECT w.webhook_id, w.organisation_id, w.types, w.senders, w.cursor, f.last_position"
        " FROM webhook AS w JOIN event_feed AS f ON f.organisation_id = w.organisation_id"
        " WHERE w.enabled = 'enabled' AND w.cursor < f.last_position"
        " AND (w.rests_until IS NULL OR w.rests_until <= $1) ORDER BY random() LIMIT $3 FOR UPDATE OF w SKIP LOCKED),"
        " counted AS (SELECT l.*, $2 - (SELECT count(*) FROM webhook_delivery AS d WHERE d.webhook_id = l.webhook_id"
        " AND d.state = 'waiting') AS room, coalesce((SELECT min(position) FROM event AS e"
        " WHERE e.organisation_id = l.organisation_id), l.last_position + 1) AS first FROM late AS l),"
        " added AS (INSERT INTO webhook_delivery"
        " (webhook_id, position, event_id, type, about, state, attempts, due_at, created_at)"
        " SELECT c.webhook_id, e.position, e.event_id, e.type, e.about, 'waiting', 0, least($1, e.stored_at), $1"
        " FROM counted AS c CROSS JOIN LATERAL (SELECT e.* FROM event AS e"
        " WHERE e.organisation_id = c.organisation_id AND e.position > c.cursor AND e.position <= c.last_position"
        " AND (e.webhook_id = c.webhook_id OR (e.webhook_id IS NULL AND (c.types IS NULL OR e.type = ANY(c.types))"
        " AND (c.senders IS NULL OR e.sender_id = ANY(c.senders)))) ORDER BY e.position LIMIT greatest(c.room, 0)) AS e"
        " RETURNING webhook_id, position),"
        " ended AS (SELECT c.webhook_id, c.cursor, c.first, count(a.position) AS many, count(a.position) = c.room"
        " AS full, CASE WHEN count(a.position) = c.room THEN max(a.position) ELSE c.last_position END AS reached"
        " FROM counted AS c LEFT JOIN added AS a ON a.webhook_id = c.webhook_id WHERE c.room > 0"
        " GROUP BY c.webhook_id, c.cursor, c.first, c.room, c.last_position)"
        " UPDATE webhook AS w SET cursor = e.reached FROM ended AS e WHERE w.webhook_id = e.webhook_id"
        " RETURNING w.webhook_id, e.many, e.full, greatest(0, e.first - 1 - e.cursor)",
        now,
        WINDOW,
        SPREAD_AT_ONCE,
    )
    return [Spread(*row) for row in rows]


async def with_due(tx: AsyncConnection, now: datetime) -> list[Webhook]:
    """Return the enabled webhooks with a due delivery, but for those that rest."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        f"SELECT {_WEBHOOK} FROM webhook AS w WHERE w.enabled = 'enabled'"
        " AND (w.rests_until IS NULL OR w.rests_until <= $1) AND EXISTS (SELECT FROM webhook_delivery AS d"
        " WHERE d.webhook_id = w.webhook_id AND d.state = 'waiting' AND d.due_at <= $1)",
        now,
    )
    return _webhooks(rows)


async def claim(tx: AsyncConnection, free: Mapping[str, int], now: datetime, lease: timedelta) -> list[Claimed]:
    """Take due deliveries, at most `free` of each webhook, until `lease` has passed, the longest due first.

    So a delivery that is refused each time does not probe a destination before new ones do. A delivery waits for every
    earlier one about the same thing. A delivery whose event is past its retention is gone with it.
    """
    rows = await fetch_many(
        tx,
        "WITH picked AS (SELECT d.webhook_id, d.position FROM unnest($1::text[], $2::integer[]) AS f(webhook_id, many)"
        " CROSS JOIN LATERAL (SELECT d.webhook_id, d.position FROM webhook_delivery AS d"
        " WHERE d.webhook_id = f.webhook_id AND d.state = 'waiting' AND d.due_at <= $3 AND NOT EXISTS (SELECT FROM"
        " webhook_delivery AS o WHERE o.webhook_id = d.webhook_id AND o.about = d.about AND o.state = 'waiting'"
        " AND o.position < d.position) ORDER BY d.due_at, d.position LIMIT f.many FOR UPDATE SKIP LOCKED) AS d),"
        " taken AS (UPDATE webhook_delivery AS d SET due_at = $4, attempts = d.attempts + 1,"
        " first_at = coalesce(d.first_at, $3), last_at = $3 FROM picked AS p"
        " WHERE d.webhook_id = p.webhook_id AND d.position = p.position"
        " RETURNING d.webhook_id, d.position, d.attempts, d.first_at)"
        " SELECT t.webhook_id, t.position, t.attempts, t.first_at, e.event_id, e.type, e.sender_id, e.controller,"
        " e.subject_id, e.about, e.at, e.data, e.stored_at FROM taken AS t"
        " JOIN webhook AS w ON w.webhook_id = t.webhook_id"
        " JOIN event AS e ON e.organisation_id = w.organisation_id AND e.position = t.position"
        " ORDER BY t.webhook_id, t.position",
        list(free),
        list(free.values()),
        now,
        now + lease,
    )
    return [msgspec.convert(dict(zip(Claimed.__struct_fields__, row, strict=True)), Claimed) for row in rows]


async def lock_health(tx: AsyncConnection, webhook_ids: Collection[str]) -> dict[str, Webhook]:
    """Lock these webhooks, in the order of their ids, and return those that exist."""
    rows = await fetch_many(
        tx,
        f"SELECT {_WEBHOOK} FROM webhook AS w WHERE w.webhook_id = ANY($1::text[]) ORDER BY w.webhook_id FOR UPDATE",
        sorted(webhook_ids),
    )
    return {each.webhook_id: each for each in _webhooks(rows)}


async def put_health(tx: AsyncConnection, webhook_id: str, health: Health, now: datetime) -> None:
    """Store the health of a locked webhook; with `disabled`, disable it."""
    await fetch_many(
        tx,
        "UPDATE webhook SET failures = $2, failing_since = $3, rests_until = $4, accepted_at = $5,"
        " disabled_at = CASE WHEN $6::text IS NOT NULL AND enabled = 'enabled' THEN $7 ELSE disabled_at END,"
        " enabled = CASE WHEN enabled = 'enabled' THEN coalesce($6, enabled) ELSE enabled END WHERE webhook_id = $1",
        webhook_id,
        health.failures,
        health.failing_since,
        health.rests_until,
        health.accepted_at,
        health.disabled,
        now,
    )


async def settle(tx: AsyncConnection, settled: Sequence[Settled]) -> None:
    """Store the ends of attempts; an attempt that another process has repeated meanwhile counts no more."""
    columns: list[tuple[object, ...]] = []
    for each in settled:
        attempt, delivery = each.attempt, each.delivery
        state: State = "delivered" if attempt.delivered else "waiting" if each.due_at else "failed"
        took = (attempt.ended_at - attempt.began_at) // timedelta(milliseconds=1)
        due_at = each.due_at or attempt.ended_at
        columns.append(
            (
                *(delivery.webhook_id, delivery.position, delivery.attempts),
                *(state, due_at, attempt.code, attempt.error, took),
            )
        )
    await plan_now(tx)
    await fetch_many(
        tx,
        "UPDATE webhook_delivery AS d SET state = n.state, due_at = n.due_at, code = n.code, error = n.error,"
        " took_ms = n.took FROM unnest($1::text[], $2::bigint[], $3::integer[], $4::text[], $5::timestamptz[],"
        " $6::integer[], $7::text[], $8::integer[])"
        " AS n(webhook_id, position, attempts, state, due_at, code, error, took)"
        " WHERE d.webhook_id = n.webhook_id AND d.position = n.position AND d.attempts = n.attempts"
        " AND d.state = 'waiting'",
        *map(list, zip(*columns, strict=True)),
    )


async def give_back(tx: AsyncConnection, deliveries: Sequence[Claimed], now: datetime) -> None:
    """Make deliveries due whose attempts were cut off."""
    await fetch_many(
        tx,
        "UPDATE webhook_delivery AS d SET due_at = $4 FROM unnest($1::text[], $2::bigint[], $3::integer[])"
        " AS n(webhook_id, position, attempts) WHERE d.webhook_id = n.webhook_id AND d.position = n.position"
        " AND d.attempts = n.attempts AND d.state = 'waiting'",
        [each.webhook_id for each in deliveries],
        [each.position for each in deliveries],
        [each.attempts for each in deliveries],
        now,
    )


async def deliveries_before(
    tx: AsyncConnection, webhook_id: str, before: int | None, state: State | None, limit: int
) -> list[Delivery]:
    """Return a page of the log, newest event first."""
    rows = await fetch_many(
        tx,
        f"SELECT {_DELIVERY} FROM webhook_delivery AS d WHERE d.webhook_id = $1"
        " AND ($2::bigint IS NULL OR d.position < $2) AND ($3::text IS NULL OR d.state = $3)"
        " ORDER BY d.position DESC LIMIT $4",
        webhook_id,
        before,
        state,
        limit,
    )
    return [msgspec.convert(dict(zip(Delivery.__struct_fields__, row, strict=True)), Delivery) for row in rows]


async def replay(
    tx: AsyncConnection, webhook_id: str, *, event_id: str | None, since: datetime | None, failed: bool, now: datetime
) -> int:
    """Make settled deliveries wait again, and return how many.

    `event_id`: of a single event. `since`: of events stored since. `failed`: only deliveries that failed.
    """
    rows = await fetch_many(
        tx,
        "UPDATE webhook_delivery AS d SET state = 'waiting', attempts = 0, due_at = $2, first_at = NULL"
        " WHERE d.webhook_id = $1 AND d.state <> 'waiting' AND ($3::text IS NULL OR d.event_id = $3)"
        " AND ($4::timestamptz IS NULL OR d.created_at >= $4) AND (NOT $5 OR d.state = 'failed')"
        " RETURNING d.position",
        webhook_id,
        now,
        event_id,
        since,
        failed,
    )
    return len(rows)
