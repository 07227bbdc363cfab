"""The query of a replay: decisions with their records."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

_OF_A_DECISION = (
    "message_id, campaign_id, sender_id, purpose, category, requested_at, send_before, decided_at, as_of,"
    " policy_version, facts, status, reasons"
)


async def decided(
    tx: AsyncConnection, message_ids: Sequence[UUID], campaign_id: str | None, sample: int | None
) -> AsyncIterator[Row[Any]]:
    """Decisions with their records: of these messages, of a campaign, or so many at random. A campaign and a sample
    read the whole ledger."""
    wanted = "message_id = ANY(CAST(:ids AS uuid[]))"
    if campaign_id is not None:
        wanted = "campaign_id = :campaign_id"
    elif sample is not None:
        wanted = "decided_at IS NOT NULL ORDER BY random() LIMIT :sample"
    given: dict[str, Any] = {"ids": list(message_ids), "campaign_id": campaign_id, "sample": sample}
    statement = text(f"SELECT {_OF_A_DECISION} FROM message WHERE {wanted}")
    rows = await tx.stream(statement, {name: given[name] for name in statement.compile().params})
    async for row in rows:
        yield row
