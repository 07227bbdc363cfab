"""Read the terms due, the endings of a sender's consents, and the progress of recounts. The tables are the ledger's."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import (
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from consent.ledger import store as ledger_store
from consent.ledger import term_store
from consent.ledger.retention import Rules
from consent.ledger.term_store import Due

EARLIEST_END = datetime(1970, 1, 1, tzinfo=UTC)


class Ending(NamedTuple):
    """How many consents for a purpose end in a month (UTC), and how many of their people were asked."""

    month: date
    purpose: str
    consents: int
    asked: int


async def endings_by_month(tx: AsyncConnection, sender_id: str, begins: datetime, until: datetime) -> list[Ending]:
    """Count a sender's open consents by the month of their end and by purpose."""
    rows = await tx.execute(
        text(
            "SELECT CAST(date_trunc('month', expires_at AT TIME ZONE 'UTC') AS date) AS month, purpose,"
            " count(*) AS consents, count(asked_at) AS asked FROM retention_due"
            " WHERE sender_id = :id AND open AND expires_at >= :begins AND expires_at < :until"
            " GROUP BY 1, 2 ORDER BY 1, 2"
        ),
        {"id": sender_id, "begins": begins, "until": until},
    )
    return [Ending(row.month, row.purpose, row.consents, row.asked) for row in rows]


async def endings(
    tx: AsyncConnection, sender_id: str, after: tuple[datetime, str, str] | None, until: datetime, limit: int
) -> list[Due]:
    """Return a sender's open consents which end before `until`, soonest first, after `after`.

    People of one end stand in an order of the sender's own: by the subject id two organisations could join their lists,
    as a person would have the same rank in both.
    """
    at, subject_id, purpose = after or (EARLIEST_END, "", "")
    rows = await tx.execute(
        text(
            f"SELECT {term_store.DUE_COLUMNS} FROM retention_due"
            " WHERE sender_id = :id AND open AND expires_at < :until AND expires_at >= :at"
            " AND (expires_at, sha256(convert_to(sender_id || subject_id, 'UTF8')), purpose)"
            " > (:at, sha256(convert_to(:id || :subject_id, 'UTF8')), :purpose)"
            " ORDER BY expires_at, sha256(convert_to(sender_id || subject_id, 'UTF8')), purpose LIMIT :limit"
        ),
        {"id": sender_id, "at": at, "subject_id": subject_id, "purpose": purpose, "until": until, "limit": limit},
    )
    return [term_store.due(**row._mapping) for row in rows]


def order_of(sender_id: str, row: Due) -> tuple[datetime, bytes]:
    """Return the place of a row among those of other people, as `endings` orders them."""
    return row.term.expires_at, sha256(f"{sender_id}{row.subject_id}".encode()).digest()


async def lock_due(tx: AsyncConnection, now: datetime, limit: int) -> list[str]:
    """Lock the subjects of up to `limit` due rows, longest due first, and return their ids. Skip locked subjects."""
    rows = await tx.execute(
        text(
            "SELECT s.subject_id FROM retention_due AS d JOIN subject AS s ON s.subject_id = d.subject_id"
            " WHERE d.due_at <= :now ORDER BY d.due_at LIMIT :limit FOR UPDATE OF s SKIP LOCKED"
        ),
        {"now": now, "limit": limit},
    )
    return sorted({row.subject_id for row in rows})


async def rules_of(tx: AsyncConnection, sender_ids: Collection[str]) -> Rules:
    """Return the retention rules of these senders' purposes."""
    return (await ledger_store.known(tx, senders=sender_ids)).rules


@dataclass(frozen=True, slots=True)
class Recounting:
    """A sender's recount. `cursor`: (old end, subject_id) of the last row."""

    sender_id: str
    cursor: tuple[datetime, str] | None


async def lock_recount(tx: AsyncConnection) -> Recounting | None:
    """Lock a recount which may proceed, if no other worker has."""
    rows = await tx.execute(
        text(
            "SELECT sender_id, cursor_at, cursor_subject FROM retention_recount"
            " WHERE after_xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
            " ORDER BY sender_id LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
    )
    row = rows.one_or_none()
    if row is None:
        return None
    return Recounting(row.sender_id, (row.cursor_at, row.cursor_subject) if row.cursor_at else None)


async def terms_page(
    tx: AsyncConnection, sender_id: str, after: tuple[datetime, str] | None, limit: int
) -> list[tuple[datetime, str]]:
    """Return (end, subject_id) after `after`: the sender's rows, and rows of people with nothing open.

    Only the state says whether the latter know the sender; a filter would read the whole table.
    """
    page = (
        "(expires_at, subject_id) > (coalesce(CAST(:at AS timestamptz), '-infinity'), :subject)"
        " ORDER BY expires_at, subject_id LIMIT :limit"
    )
    rows = await tx.execute(
        text(
            f"(SELECT DISTINCT expires_at, subject_id FROM retention_due WHERE sender_id = :id AND {page})"
            f" UNION (SELECT expires_at, subject_id FROM retention_due WHERE sender_id = '' AND {page})"
            " ORDER BY expires_at, subject_id LIMIT :limit"
        ),
        {
            "id": sender_id,
            "at": after[0] if after else None,
            "subject": after[1] if after else "",
            "limit": limit,
        },
    )
    return [(row.expires_at, row.subject_id) for row in rows]


async def oldest_due(tx: AsyncConnection) -> datetime | None:
    at = await tx.scalar(text("SELECT min(due_at) FROM retention_due"))
    assert at is None or isinstance(at, datetime)
    return at
