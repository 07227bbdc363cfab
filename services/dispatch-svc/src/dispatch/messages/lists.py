"""Read lists of messages: of a sender by time, of a person, before a person's text. The caller owns the transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import NEWEST_FIRST, Direction, plan_now
from common.privacy.sent_before import Before
from dispatch.messages.by_day import of_people
from dispatch.messages.row import MessageRow, columns_of
from dispatch.messages.status import Status

_MESSAGE = f"SELECT {columns_of('m', {'number': 'NULL', 'text': 'NULL'})} FROM message AS m"
_BEFORE = f"""
SELECT b.place, s.controller, m.sent_at, {columns_of("m", {"number": "NULL"})}
FROM unnest(CAST(:subject_ids AS text[]), CAST(:codes AS text[]), CAST(:times AS timestamptz[]))
    WITH ORDINALITY AS b(subject_id, code, received_at, place)
CROSS JOIN LATERAL (
    SELECT coalesce(m.handed_off_at, m.decided_at) AS sent_at, m.*
    FROM message AS m
    WHERE {of_people("ARRAY[b.subject_id]")}
        AND coalesce(m.handed_off_at, m.decided_at) <= b.received_at
        AND m.status IN ('sending', 'accepted', 'unknown')
        AND (
            EXISTS (SELECT FROM sender AS o WHERE o.sender_id = m.sender_id AND o.stop_code = b.code)
            OR NOT EXISTS (SELECT FROM sender AS o WHERE o.stop_code = b.code)
        )
    ORDER BY sent_at DESC, m.message_id DESC
    LIMIT :most
) AS m
JOIN sender AS s ON s.sender_id = m.sender_id
ORDER BY b.place, m.sent_at DESC, m.message_id DESC
"""
_ORDERED = (
    " AND (CAST(:at AS timestamptz) IS NULL OR (m.requested_at, m.message_id) {0.beyond} (:at, CAST(:id AS uuid)))"
    " ORDER BY m.requested_at {0.order}, m.message_id {0.order} LIMIT :limit"
)


class Place(NamedTuple):
    """The place of a message in a list."""

    requested_at: datetime
    message_id: UUID


class Sent(NamedTuple):
    """A message that a person was sent.

    `place`: of the text, among those asked about. `controller`: of the sender. `at`: the start of the hand-off; of the
    decision, where a crash lost the start.
    """

    place: int
    controller: str
    at: datetime
    row: MessageRow


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
            f"{_MESSAGE} WHERE {of_people('ARRAY[CAST(:subject_id AS text)]')}"
            " AND m.sender_id = ANY(CAST(:sender_ids AS text[]))"
            f"{_ORDERED.format(NEWEST_FIRST)}"
        ),
        {"subject_id": subject_id, "sender_ids": sorted(sender_ids), **_behind(after, limit)},
    )
    return [MessageRow.read(row) for row in rows]


async def before(tx: AsyncConnection, texts: Sequence[Before], most: int) -> list[Sent]:
    """Return the last `most` messages handed off before each text, the newest first, without numbers.

    They are those of the senders of the text's code; of every sender, where no sender has the code.
    """
    await plan_now(tx)
    rows = await tx.execute(
        text(_BEFORE),
        {
            "subject_ids": [each.subject_id for each in texts],
            "codes": [each.short_code for each in texts],
            "times": [each.received_at for each in texts],
            "most": most,
        },
    )
    return [Sent(place - 1, controller, at, MessageRow.read(columns)) for place, controller, at, *columns in rows]


def _behind(after: Place | None, limit: int) -> Mapping[str, object]:
    return {
        "at": after.requested_at if after else None,
        "id": after.message_id if after else None,
        "limit": limit,
    }
