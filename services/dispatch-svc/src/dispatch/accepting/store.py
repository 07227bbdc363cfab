"""The audits of texts, and the report of messages to people who had stopped. The caller owns the transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, BigInteger, Column, Identity, Index, Table, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many, plan_now
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


async def audits_after(tx: AsyncConnection, after: int, senders: Sequence[str] | None, limit: int) -> list[Kept]:
    """Return a page of the audits of these senders, or of all, oldest first."""
    rows = await fetch_many(
        tx,
        f"SELECT {', '.join(Kept._fields)} FROM text_audit WHERE id > $1"
        " AND ($2::text[] IS NULL OR sender_id = ANY($2::text[])) ORDER BY id LIMIT $3",
        after,
        None if senders is None else list(senders),
        limit,
    )
    return [Kept(*row) for row in rows]


class ToStopped(NamedTuple):
    """Messages of a sender and template: how many were handed off, and how many of these to people who had stopped."""

    sender_id: str
    category: str
    template: str
    messages: int
    to_stopped: int


# the newest STOP to a sender of the controller, as the decision knew it (`gate/record.py`)
_STOPPED = "CASE WHEN m.facts IS JSON OBJECT THEN m.facts::jsonb #>> '{person,stopped}' END IS NOT NULL"


async def to_stopped(
    tx: AsyncConnection, since: datetime, until: datetime, senders: Sequence[str] | None
) -> list[ToStopped]:
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
            " AND (CAST(:senders AS text[]) IS NULL OR m.sender_id = ANY(CAST(:senders AS text[])))"
            " GROUP BY m.sender_id, m.category, m.template ORDER BY to_stopped DESC, messages DESC, m.template"
        ),
        {"since": since, "until": until, "senders": None if senders is None else list(senders)},
    )
    return [ToStopped(*row) for row in rows]
