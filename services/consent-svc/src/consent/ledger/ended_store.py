"""Own the stubs of ended entries, and move an entry to its stub: only `divide` deletes too (ADR-0092).

The database's triggers refuse the deletion of an entry without a stub, of an opt-out, of an entry that is not erased,
and of an entry younger than `YOUNGEST`. `divide` leaves a bare place of an entry, or of a stub (consent/division.py).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, DateTime, Integer, Table, Text, UniqueConstraint
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many
from consent.ledger.chain import Ended
from consent.schema import metadata

YOUNGEST = timedelta(days=1096)  # the trigger of the migrations has the same

Table(
    "ended_entry",
    metadata,
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    Column("evidence_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("hash", Text, nullable=False),
    Column("ended_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("evidence_id"),
    UniqueConstraint("subject_id", "position"),
)

Table(
    "moved_entry",  # of people whom another shard took over: the place alone, for the seals of before
    metadata,
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("hash", Text, nullable=False),
)


class Erased(NamedTuple):
    """An erased entry whose term of proof is over."""

    ordinal: int
    evidence_id: str
    subject_id: str


async def place_after(tx: AsyncConnection, after: int, before: datetime, limit: int) -> int | None:
    """Return the ordinal `limit` entries behind `after`, or of the last one recorded before `before`."""
    rows = await fetch_many(
        tx,
        """
        SELECT max(ordinal) FILTER (WHERE recorded_at < $2)
        FROM (SELECT ordinal, recorded_at FROM evidence WHERE ordinal > $1 ORDER BY ordinal LIMIT $3) AS looked
        """,
        after,
        before,
        limit,
    )
    found: int | None = rows[0][0]
    return found


async def over(tx: AsyncConnection, after: int, up_to: int, before: datetime) -> list[Erased]:
    """Return the entries that may end: erased with everything of their person, and sealed, all before `before`.

    An erasure asked for since makes the entries wait: no message left after the erasure, and each message can be proven
    for as long. An opt-out never ends.
    """
    rows = await fetch_many(
        tx,
        """
        SELECT e.ordinal, e.evidence_id, e.subject_id
        FROM evidence AS e
        WHERE e.ordinal > $1 AND e.ordinal <= $2
          AND e.ordinal <= (SELECT max(s.last) FROM seal AS s WHERE s.sealed_at < $3)
          AND e.salt IS NULL AND e.kind <> 'opt_out' AND e.recorded_at < $3
          AND EXISTS (
            SELECT FROM erasing AS a
            WHERE a.subject_id = e.subject_id AND a.controller_id IS NULL AND a.erased_at IS NOT NULL
              AND a.requested_at >= e.recorded_at
          )
          AND NOT EXISTS (
            SELECT FROM erasing AS a
            WHERE a.subject_id = e.subject_id AND a.controller_id IS NULL AND a.requested_at >= $3
          )
        ORDER BY e.ordinal
        """,
        after,
        up_to,
        before,
    )
    return [Erased(*row) for row in rows]


async def end(tx: AsyncConnection, entries: Sequence[Erased], now: datetime) -> int:
    """Replace entries by their stubs; return how many."""
    ordinals = [entry.ordinal for entry in entries]
    await fetch_many(
        tx,
        """
        INSERT INTO ended_entry (ordinal, evidence_id, subject_id, position, recorded_at, hash, ended_at)
        SELECT ordinal, evidence_id, subject_id, position, recorded_at, hash, $2
        FROM evidence
        WHERE ordinal = ANY($1::bigint[])
        ON CONFLICT DO NOTHING
        """,
        ordinals,
        now,
    )
    gone = await fetch_many(tx, "DELETE FROM evidence WHERE ordinal = ANY($1::bigint[]) RETURNING ordinal", ordinals)
    return len(gone)


async def of_subject(tx: AsyncConnection, subject_id: str) -> list[Ended]:
    """Return the stubs of a subject, by position."""
    rows = await fetch_many(
        tx,
        """
        SELECT evidence_id, subject_id, position, recorded_at, hash
        FROM ended_entry
        WHERE subject_id = $1
        ORDER BY position
        """,
        subject_id,
    )
    return [Ended(**dict(zip(Ended.__struct_fields__, row, strict=True))) for row in rows]
