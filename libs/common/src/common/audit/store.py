"""The table of the audit log, and its statements.

A trigger refuses each change of a line, and the deletion of a line younger than `YOUNGEST`: retention deletes older
lines. Writers take turns by an advisory lock, so that the chain has no fork.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, MetaData, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.audit.chain import GENESIS
from common.audit.line import Kept, Kind, Line, chained
from common.db.database import fetch_many

YOUNGEST = timedelta(days=180)  # retention deletes no younger line; the trigger of the migrations has the same
_COLUMNS = "at, organisation, caller, scope, method, route, kind, subject_id, people, verdict, trace_id"
_TYPES = ("timestamptz", *("text",) * 7, "integer", "text", "text")


def define(metadata: MetaData) -> Table:
    """Add the audit log to a schema; migrations spell it out literally, with its triggers."""
    return Table(
        "audit_line",
        metadata,
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("at", DateTime(timezone=True), nullable=False),
        Column("organisation", Text, nullable=False),
        Column("caller", Text, nullable=False),
        Column("scope", Text, nullable=False),
        Column("method", Text, nullable=False),
        Column("route", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("subject_id", Text),
        Column("people", Integer),
        Column("verdict", Text, nullable=False),
        Column("trace_id", Text),
        Column("previous", Text, nullable=False),
        Column("hash", Text, nullable=False),
        Index("audit_line_at_ix", "at"),
        Index("audit_line_organisation_ix", "organisation", "position"),
    )


async def append(tx: AsyncConnection, lines: Sequence[Line]) -> None:
    """Write the lines behind the newest line. The last statement of `tx`: other writers wait until its end."""
    await fetch_many(tx, "SELECT pg_advisory_xact_lock(hashtext('audit_line'))")
    found = await fetch_many(tx, "SELECT position, hash FROM audit_line ORDER BY position DESC LIMIT 1")
    position, previous = found[0] if found else (0, GENESIS)
    kept = list(chained(previous, position, lines))
    columns: list[list[Any]] = [
        *([getattr(each.line, name) for each in kept] for name in _COLUMNS.split(", ")),
        [each.position for each in kept],
        [each.previous for each in kept],
        [each.hash for each in kept],
    ]
    types = (*_TYPES, "bigint", "text", "text")
    arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(types, start=1))
    await fetch_many(
        tx,
        f"INSERT INTO audit_line ({_COLUMNS}, position, previous, hash) SELECT * FROM unnest({arrays})",
        *columns,
    )


class Asked(NamedTuple):
    """The lines of a list: of an organisation or of all, of an account, of a person, of a kind."""

    organisation: str | None = None
    caller: str | None = None
    subject_id: str | None = None
    kind: Kind | None = None
    since: datetime | None = None


async def page(tx: AsyncConnection, asked: Asked, after: int, limit: int) -> list[Kept]:
    """Return the lines behind a position, the oldest first."""
    rows = await fetch_many(
        tx,
        f"""
        SELECT position, previous, hash, {_COLUMNS}
        FROM audit_line
        WHERE position > $1
          AND ($3::text IS NULL OR organisation = $3)
          AND ($4::text IS NULL OR caller = $4)
          AND ($5::text IS NULL OR subject_id = $5)
          AND ($6::text IS NULL OR kind = $6)
          AND ($7::timestamptz IS NULL OR at >= $7)
        ORDER BY position
        LIMIT $2
        """,
        after,
        limit,
        *asked,
    )
    return [_kept(*row) for row in rows]


def _kept(position: int, previous: str, hashed: str, *values: Any) -> Kept:
    line = Line(**dict(zip(_COLUMNS.split(", "), values, strict=True)))
    return Kept(position=position, line=line, previous=previous, hash=hashed)
