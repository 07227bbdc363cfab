"""The query of a replay: decisions with their records."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.campaign import Category
from dispatch.messages.row import facts_of


class Decided(msgspec.Struct, gc=False):
    """A message with the record of its last decision. Without a record, `decided_at` may be None."""

    message_id: UUID
    campaign_id: str | None
    sender_id: str
    purpose: str | None
    category: Category
    requested_at: datetime
    send_before: datetime
    decided_at: datetime
    as_of: datetime | None
    policy_version: str
    facts: str | None
    status: str
    reasons: Sequence[str]


async def decided(
    tx: AsyncConnection, message_ids: Sequence[UUID], campaign_id: str | None, sample: int | None
) -> AsyncIterator[Decided]:
    """Yield decisions with their records: of these messages, of a campaign, or so many at random.

    A campaign and a sample read the whole ledger.
    """
    wanted = "message_id = ANY(CAST(:ids AS uuid[]))"
    if campaign_id is not None:
        wanted = "campaign_id = :campaign_id"
    elif sample is not None:
        wanted = "decided_at IS NOT NULL ORDER BY random() LIMIT :sample"
    given: dict[str, object] = {"ids": list(message_ids), "campaign_id": campaign_id, "sample": sample}
    columns = (facts_of("message") if name == "facts" else name for name in Decided.__struct_fields__)
    statement = text(f"SELECT {', '.join(columns)} FROM message WHERE {wanted}")
    rows = await tx.stream(statement, {name: given[name] for name in statement.compile().params})
    async for row in rows:
        yield Decided(*row)
