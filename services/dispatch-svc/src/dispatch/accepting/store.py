"""The audits of texts, and the reports of costs and of messages to people who had stopped.

The caller owns the transaction.
"""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import Literal, NamedTuple
from uuid import UUID
from zlib import crc32

import msgspec
from sqlalchemy import ARRAY, BigInteger, Column, Identity, Index, Table, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import PLANNED_NOW, fetch_many, plan_now
from dispatch.accepting.rules import Had
from dispatch.messages.by_day import of_people
from dispatch.messages.row import own_facts_of
from dispatch.messages.status import CHARGED
from dispatch.schema import instant, metadata

text_audit = Table(
    "text_audit",  # refused and overridden texts, without the text and without the person
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    instant("at", nullable=False),
    Column("caller", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("template", Text, nullable=False),  # as of the message
    Column("result", Text, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    Column("message_id", Uuid, nullable=True),  # of an overridden text
    Column("override_reason", Text, nullable=True),
    # for `pruning.py`: each kind has a period of its own
    Index("text_audit_refused_ix", "at", postgresql_where=text("result = 'refused'")),
    Index("text_audit_overridden_ix", "at", postgresql_where=text("result = 'overridden'")),
)


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """A refused or overridden text: who asked, and the reasons."""

    at: datetime
    caller: str
    sender_id: str
    category: str
    template: str
    result: str
    reasons: Sequence[str]
    message_id: UUID | None = None
    override_reason: str | None = None


class Kept(NamedTuple):
    """A stored audit."""

    id: int
    at: datetime
    caller: str
    sender_id: str
    category: str
    template: str
    result: str
    reasons: Sequence[str]
    message_id: UUID | None
    override_reason: str | None


async def add_audits(tx: AsyncConnection, audits: Sequence[Audit]) -> None:
    if not audits:
        return
    await tx.execute(
        text_audit.insert(), [{**msgspec.structs.asdict(audit), "reasons": list(audit.reasons)} for audit in audits]
    )


async def audits_after(tx: AsyncConnection, after: int, senders: Sequence[str], limit: int) -> list[Kept]:
    """Return a page of the audits of these senders, oldest first."""
    rows = await fetch_many(
        tx,
        f"SELECT {', '.join(Kept._fields)} FROM text_audit WHERE id > $1"
        " AND sender_id = ANY($2::text[]) ORDER BY id LIMIT $3",
        after,
        list(senders),
        limit,
    )
    return [Kept(*row) for row in rows]


LOCKS = 64  # of an organisation's numbers: a batch of a thousand takes no more


async def lock_key(tx: AsyncConnection, account: str, key: str) -> None:
    """Lock a caller's Idempotency-Key until the transaction ends, before any of its other locks."""
    await fetch_many(tx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"placet.key\x1f{account}\x1f{key}")


async def lock_counts(tx: AsyncConnection, organisation: str, subject_ids: Collection[str]) -> None:
    """Lock the counts of these numbers until the transaction ends, before any of its locks but that of the key.

    Two requests for one number may not both take its last place.
    """
    keys = sorted({crc32(f"{organisation}\x1f{crc32(one.encode()) % LOCKS}".encode()) - 2**31 for one in subject_ids})
    await fetch_many(
        tx,
        f"SELECT {PLANNED_NOW}, count(pg_advisory_xact_lock(hashtext('placet.numbers'), key))"
        " FROM (SELECT key FROM unnest($1::integer[]) AS k(key) ORDER BY key) AS k",
        keys,
    )


async def had(
    tx: AsyncConnection, organisation: str, subject_ids: Collection[str], hour: datetime, day: datetime
) -> dict[str, Had]:
    """Count the messages that the organisation requested for each number since `hour`, and since `day`.

    A denied or expired message does not count. Reads a number's messages by their index.
    """
    rows = await fetch_many(
        tx,
        "SELECT m.subject_id, count(*) FILTER (WHERE m.requested_at > $3), count(*),"
        " min(m.requested_at) FILTER (WHERE m.requested_at > $3), min(m.requested_at)"
        f" FROM message AS m JOIN sender AS s USING (sender_id) WHERE {of_people('$1::text[]', since='$4')}"
        " AND s.organisation_id = $2 AND m.category <> 'marketing' AND m.template IS NOT NULL"
        " AND m.requested_at > $4 AND m.status NOT IN ('denied', 'expired') GROUP BY m.subject_id",
        list(subject_ids),
        organisation,
        hour,
        day,
    )
    return {subject_id: Had(*counted) for subject_id, *counted in rows}


class ToStopped(NamedTuple):
    """Messages of a sender and template: how many were handed off, and how many of these to people who had stopped."""

    sender_id: str
    category: str
    template: str
    messages: int
    to_stopped: int


# the newest STOP to a sender of the controller, as the decision knew it (`gate/record.py`)
_FACTS = own_facts_of("m")
_STOPPED = f"CASE WHEN {_FACTS} IS JSON OBJECT THEN ({_FACTS})::jsonb #>> '{{person,stopped}}' END IS NOT NULL"


async def to_stopped(tx: AsyncConnection, since: datetime, until: datetime, senders: Sequence[str]) -> list[ToStopped]:
    """Count messages handed off within [`since`, `until`) that callers requested outside the marketing lane.

    Reads the ledger of that time, by the index on the hand-off.
    """
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "SELECT m.sender_id, m.category, m.template, count(*) AS messages,"
            f" count(*) FILTER (WHERE {_STOPPED}) AS to_stopped FROM message AS m"
            " WHERE m.handed_off_at >= :since AND m.handed_off_at < :until AND m.template IS NOT NULL"
            " AND m.category <> 'marketing'"
            " AND m.sender_id = ANY(CAST(:senders AS text[]))"
            " GROUP BY m.sender_id, m.category, m.template ORDER BY to_stopped DESC, messages DESC, m.template"
        ),
        {"since": since, "until": until, "senders": list(senders)},
    )
    return [ToStopped(*row) for row in rows]


class Cost(NamedTuple):
    """The charged messages of a sender, category and price table. `cost`: in ten-thousandths of a euro."""

    sender_id: str
    category: str
    prices: str | None
    messages: int
    segments: int
    cost: int | None
    unpriced: int


async def costs(tx: AsyncConnection, since: datetime, until: datetime, senders: Sequence[str]) -> list[Cost]:
    """Sum the costs of messages decided within [`since`, `until`), by the index on the decision.

    The start of a hand-off would not do: a crash loses the start, and the operator may charge the message.
    """
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "SELECT m.sender_id, m.category, m.prices, count(*) AS messages,"
            " coalesce(sum(m.segments), 0) AS segments, sum(m.cost) AS cost,"
            " count(*) FILTER (WHERE m.cost IS NULL) AS unpriced FROM message AS m"
            " WHERE m.decided_at >= :since AND m.decided_at < :until AND m.status = ANY(CAST(:charged AS text[]))"
            " AND m.sender_id = ANY(CAST(:senders AS text[]))"
            " GROUP BY m.sender_id, m.category, m.prices ORDER BY m.sender_id, m.category, m.prices"
        ),
        {"since": since, "until": until, "charged": sorted(CHARGED), "senders": list(senders)},
    )
    return [Cost(*row) for row in rows]


class Total(NamedTuple):
    """The messages of a sender and category requested in a day or a week. `cost`: in ten-thousandths of a euro."""

    begins: date
    sender_id: str
    category: str
    messages: int
    pending: int
    denied: int
    deferred: int
    expired: int
    accepted: int
    rejected: int
    unknown: int
    delivered: int
    undelivered: int
    segments: int
    cost: int | None
    unpriced: int


_CHARGED = "m.status = ANY(CAST(:charged AS text[]))"


async def totals(
    tx: AsyncConnection, since: datetime, until: datetime, senders: Sequence[str], by: Literal["day", "week"], zone: str
) -> list[Total]:
    """Sum the messages of these senders requested within [`since`, `until`), by the days or weeks of a time zone.

    Reads each sender's messages of that time by their index.
    """
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "SELECT CAST(date_trunc(:by, m.requested_at AT TIME ZONE :zone) AS date) AS begins, m.sender_id,"
            " m.category, count(*) AS messages,"
            " count(*) FILTER (WHERE m.status IN ('pending', 'sending')) AS pending,"
            + "".join(f" count(*) FILTER (WHERE m.status = '{status}') AS {status}," for status in _SHOWN_ALONE)
            + " count(*) FILTER (WHERE m.receipt = 'delivered') AS delivered,"
            " count(*) FILTER (WHERE m.receipt IN ('failed', 'expired', 'opted_out')) AS undelivered,"
            f" coalesce(sum(m.segments) FILTER (WHERE {_CHARGED}), 0) AS segments,"
            f" sum(m.cost) FILTER (WHERE {_CHARGED}) AS cost,"
            f" count(*) FILTER (WHERE {_CHARGED} AND m.cost IS NULL) AS unpriced"
            " FROM message AS m WHERE m.sender_id = ANY(CAST(:senders AS text[]))"
            " AND m.requested_at >= :since AND m.requested_at < :until"
            " GROUP BY begins, m.sender_id, m.category ORDER BY begins, m.sender_id, m.category"
        ),
        {
            "by": by,
            "zone": zone,
            "senders": list(senders),
            "since": since,
            "until": until,
            "charged": sorted(CHARGED),
        },
    )
    return [Total(*row) for row in rows]


_SHOWN_ALONE = ("denied", "deferred", "expired", "accepted", "rejected", "unknown")
