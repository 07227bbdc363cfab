"""Read lists of messages: of a sender by time, and of a person. The caller owns the transaction."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import NEWEST_FIRST, Direction, plan_now
from dispatch.messages.row import MessageRow, columns_of
from dispatch.messages.status import Status

_MESSAGE = f"SELECT {columns_of('m', {'number': 'NULL', 'text': 'NULL'})} FROM message AS m"
_ORDERED = (
    " AND (CAST(:at AS timestamptz) IS NULL OR (m.requested_at, m.message_id) {0.beyond} (:at, CAST(:id AS uuid)))"
    " ORDER BY m.requested_at {0.order}, m.message_id {0.order} LIMIT :limit"
)


class Place(NamedTuple):
    """The place of a message in a list."""

    requested_at: datetime
    message_id: UUID


class Listed(NamedTuple):
    """The messages wanted: of a sender, requested within [`since`, `until`)."""

    sender_id: str
    since: datetime
    until: datetime
    campaign_id: str | None = None
    status: Status | None = None


def place_of(row: MessageRow) -> Place:
    return Place(row.requested_at, row.message_id)


async def of_sender(
    tx: AsyncConnection, listed: Listed, after: Place | None, limit: int, direction: Direction = NEWEST_FIRST
) -> list[MessageRow]:
    """Return a sender's messages behind `after`, by the time of the request, without numbers and texts.

    Reads the sender's messages of the time by their index. `campaign_id` and `status` pass over the others.
    """
    await plan_now(tx)
    rows = await tx.execute(
        text(
            f"{_MESSAGE} WHERE m.sender_id = :sender_id AND m.requested_at >= :since AND m.requested_at < :until"
            f" AND m.requested_at {direction.beyond}= coalesce(CAST(:at AS timestamptz), '{direction.start}')"
            " AND (CAST(:campaign_id AS text) IS NULL OR m.campaign_id = :campaign_id)"
            f" AND (CAST(:status AS text) IS NULL OR m.status = :status){_ORDERED.format(direction)}"
        ),
        {
            **listed._asdict(),
            "status": listed.status.value if listed.status else None,
            **_behind(after, limit),
        },
    )
    return [MessageRow.read(row) for row in rows]


async def of_person(
    tx: AsyncConnection, subject_id: str, sender_ids: Collection[str], after: Place | None, limit: int
) -> list[MessageRow]:
    """Return a person's messages from these senders behind `after`, newest first, without number and texts."""
    await plan_now(tx)
    rows = await tx.execute(
        text(
            f"{_MESSAGE} WHERE m.subject_id = :subject_id AND m.sender_id = ANY(CAST(:sender_ids AS text[]))"
            f"{_ORDERED.format(NEWEST_FIRST)}"
        ),
        {"subject_id": subject_id, "sender_ids": sorted(sender_ids), **_behind(after, limit)},
    )
    return [MessageRow.read(row) for row in rows]


def _behind(after: Place | None, limit: int) -> Mapping[str, object]:
    return {
        "at": after.requested_at if after else None,
        "id": after.message_id if after else None,
        "limit": limit,
    }
