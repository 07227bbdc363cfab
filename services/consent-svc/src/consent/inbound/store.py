"""Read the renewal questions that an MO may answer. The table belongs to the ledger."""

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncConnection

from consent.ledger import term_store
from consent.ledger.term_store import Due


async def questions_of(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, list[Due]]:
    """Return the rows with a question, by subject_id."""
    found: dict[str, list[Due]] = {}
    for row in await term_store.due_of(tx, subject_ids) if subject_ids else ():
        if row.question is not None:
            found.setdefault(row.subject_id, []).append(row)
    return found
