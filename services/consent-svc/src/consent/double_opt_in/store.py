"""Read the evidence of the requests for double opt-in. The table belongs to the ledger."""

from collections.abc import Collection

from sqlalchemy import (
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from consent.ledger import store as ledger_store
from consent.ledger.rules import Evidence


async def find_evidence(tx: AsyncConnection, evidence_ids: Collection[str]) -> dict[str, Evidence]:
    """Return the evidence on record, by id."""
    rows = await tx.execute(
        text(f"SELECT {ledger_store.ENTRY_COLUMNS} FROM evidence WHERE evidence_id = ANY(CAST(:ids AS text[]))"),
        {"ids": list(evidence_ids)},
    )
    return {row.evidence_id: ledger_store.entry(**row._mapping).evidence for row in rows}
