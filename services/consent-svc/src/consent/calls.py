"""Own the Idempotency-Keys of callers."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import (
    Column,
    DateTime,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from consent.schema import metadata

Table(
    "keyed_request",  # an Idempotency-Key of a caller
    metadata,
    Column("caller", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),  # keyed hash of path and body
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("caller", "key"),
    Index("keyed_request_created_at_ix", "created_at"),
)


async def claim_key(tx: AsyncConnection, caller: str, key: str, fingerprint: str) -> datetime | None:
    """Claim an Idempotency-Key, or find the claim of the same request, and return when the key was claimed.

    Returns None where the key belongs to another request. Waits while another transaction holds the key. Old keys are
    pruned: the instant tells a new request under an old key from a repeat.
    """
    return (await claim_keys(tx, [(caller, key, fingerprint)]))[0]


async def claim_keys(tx: AsyncConnection, claims: Sequence[tuple[str, str, str]]) -> list[datetime | None]:
    """Run `claim_key` for each (caller, key, fingerprint). Of two claims on a key, the first counts."""
    if not claims:
        return []
    first: dict[tuple[str, str], str] = {}
    for caller, key, fingerprint in claims:
        first.setdefault((caller, key), fingerprint)
    names = sorted(first)  # every transaction claims in the same order: no deadlock
    rows = await tx.execute(
        text(
            "INSERT INTO keyed_request AS r (caller, key, fingerprint)"
            " SELECT * FROM unnest(CAST(:callers AS text[]), CAST(:keys AS text[]), CAST(:fingerprints AS text[]))"
            " ON CONFLICT (caller, key) DO UPDATE SET fingerprint = r.fingerprint"
            " RETURNING caller, key, fingerprint, created_at"
        ),
        {
            "callers": [caller for caller, _ in names],
            "keys": [key for _, key in names],
            "fingerprints": [first[name] for name in names],
        },
    )
    held = {(row.caller, row.key, row.fingerprint): row.created_at for row in rows}
    return [held.get(claim) for claim in claims]
