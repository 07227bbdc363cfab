"""Sum the projection, and own the table `comparison`. The caller owns the transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import ARRAY, Column, Integer, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import DIGEST_BYTES, SLICE, StatesSummed
from common.db.database import fetch_many
from dispatch.schema import instant, metadata

comparison = Table(
    "comparison",  # a single row
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("sums", Text, nullable=False),  # StatesSummed, JSON
    instant("begun_at", nullable=False),
    instant("seen_until", nullable=False),
    instant("compared_at"),  # null: comparison pending
    Column("compared", Integer, nullable=False, server_default=text("0")),  # slices
    Column("moving", Integer, nullable=False, server_default=text("0")),  # left out: changed since the snapshot
    Column("differing", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
)

_sums = msgspec.json.Decoder(StatesSummed)


async def put_sums(tx: AsyncConnection, told: StatesSummed, encoded: str) -> None:
    """Store newer checksums, to be compared."""
    await tx.execute(
        text(
            "INSERT INTO comparison (id, sums, begun_at, seen_until) VALUES (1, :sums, :begun_at, :seen_until)"
            " ON CONFLICT (id) DO UPDATE SET sums = excluded.sums, begun_at = excluded.begun_at,"
            " seen_until = excluded.seen_until, compared_at = NULL WHERE comparison.begun_at < excluded.begun_at"
        ),
        {"sums": encoded, "begun_at": told.begun_at, "seen_until": told.seen_until},
    )


async def sums_to_compare(tx: AsyncConnection) -> StatesSummed | None:
    """Lock and return checksums not compared yet; None also while another process compares."""
    encoded: str | None = await tx.scalar(
        text("SELECT sums FROM comparison WHERE compared_at IS NULL FOR UPDATE SKIP LOCKED")
    )
    return _sums.decode(encoded) if encoded else None


async def put_comparison(
    tx: AsyncConnection, now: datetime, compared: int, moving: int, differing: Sequence[str]
) -> None:
    await tx.execute(
        text(
            "UPDATE comparison SET compared_at = :now, compared = :compared, moving = :moving,"
            " differing = CAST(:differing AS text[])"
        ),
        {"now": now, "compared": compared, "moving": moving, "differing": list(differing)},
    )


class Comparison(NamedTuple):
    """The last comparison; `compared_at` is None while newer checksums wait."""

    begun_at: datetime
    compared_at: datetime | None
    compared: int
    moving: int
    differing: Sequence[str]


async def compared(tx: AsyncConnection) -> Comparison | None:
    rows = await fetch_many(tx, f"SELECT {', '.join(Comparison._fields)} FROM comparison")
    return Comparison(*rows[0]) if rows else None


_DIGEST = (
    f"('x' || encode(substring(sha256(convert_to(concat(s.subject_id, '|', s.version, lines.line), 'UTF8'))"
    f" FOR {DIGEST_BYTES}), 'hex'))::bit({8 * DIGEST_BYTES})::bigint"
)

_LINES = (
    "SELECT '|||' || CASE WHEN s.erased THEN 'erased' ELSE 'known' END AS line"
    " UNION ALL SELECT concat('|', c->>'sender_id', '|', c->>'purpose', '|', c->>'state')"
    " FROM jsonb_array_elements(s.consents) AS c WHERE c->>'state' <> 'opted_out' OR NOT EXISTS"
    " (SELECT FROM jsonb_array_elements(s.suppressions) AS p WHERE coalesce(p->>'sender_id', c->>'sender_id')"
    " = c->>'sender_id')"
    " UNION ALL SELECT concat('|', c->>'sender_id', '||suppressed') FROM jsonb_array_elements(s.suppressions) AS c"
)


async def sums(tx: AsyncConnection, since: datetime) -> dict[str, tuple[int, int, bool]]:
    """Return the checksums of `subject`, computed as in `StatesSummed`. Reads the whole table.

    By slice: subjects, sum of digests, and whether a state was published since `since`.
    """
    await tx.execute(text("SELECT pg_advisory_xact_lock_shared(hashtext('placet.generation'))"))
    rows = await tx.execute(
        text(
            f"SELECT right(s.subject_id, {SLICE}) AS slice, count(*) AS many, sum(d.digest)::bigint AS digest,"
            " bool_or(coalesce(s.published_at >= :since, false)) AS moving FROM subject AS s CROSS JOIN LATERAL"
            f" (SELECT sum({_DIGEST}) AS digest"
            f" FROM ({_LINES}) AS lines) AS d GROUP BY slice"
        ),
        {"since": since},
    )
    return {row.slice: (row.many, row.digest, row.moving) for row in rows}
