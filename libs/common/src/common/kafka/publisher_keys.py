"""Keep the fingerprints of the subject keys that the service makes ids with, for its watermarks (ADR-0061).

The relay publishes watermarks and has no key. So each process with keys stores their fingerprints at its start, before
it writes a fact; the last start wins.
"""

from collections.abc import Mapping

from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_alone, fetch_many


def define(metadata: MetaData) -> Table:
    """Add the table to a schema; migrations spell it out literally."""
    return Table(
        "subject_key",
        metadata,
        Column("key_id", Text, primary_key=True),
        Column("fingerprint", Text, nullable=False),
    )


async def told(session: AsyncConnection) -> dict[str, str]:
    """Return the fingerprint of each subject key, by key id; {} before the first process with keys.

    The session must not be within a transaction.
    """
    rows = await fetch_alone(session, "SELECT key_id, fingerprint FROM subject_key")
    return {row[0]: row[1] for row in rows}


async def tell(tx: AsyncConnection, prints: Mapping[str, str]) -> None:
    """Store the fingerprints of a ring in place of those of another."""
    await fetch_many(tx, "DELETE FROM subject_key WHERE key_id <> ALL($1::text[])", list(prints))
    await fetch_many(
        tx,
        """
        INSERT INTO subject_key (key_id, fingerprint)
        SELECT * FROM unnest($1::text[], $2::text[])
        ON CONFLICT (key_id) DO UPDATE SET fingerprint = excluded.fingerprint
        """,
        list(prints),
        list(prints.values()),
    )
