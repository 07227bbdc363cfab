"""The review queue: MOs for a person to read, each decided once. The caller owns the transaction.

A text no rule is sure of, and a STOP which may be old (`MessageReceived.behind_start`), enter in the transaction of the
journal entry. The row holds the event as published, with number and text encrypted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

import msgspec
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Table, Text, UniqueConstraint, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.inbound import Intent, MessageReceived
from common.web.pagination import whole_page
from inbound.store import metadata

review = Table(
    "review",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("mo_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("event", Text, nullable=False),  # as first published
    Column("intent", Text, nullable=True),  # by the decision, as below
    Column("note", Text, nullable=True),  # encrypted, context "note:<mo_id>"
    Column("decided_by", Text, nullable=True),
    Column("decided_at", DateTime(timezone=True), nullable=True),
    UniqueConstraint("mo_id"),
    Index("review_subject_ix", "subject_id"),
    Index("review_open_ix", "id", postgresql_where=text("decided_at IS NULL")),
    Index("review_decided_ix", "decided_at", postgresql_where=text("decided_at IS NOT NULL")),
)


@dataclass(frozen=True, slots=True)
class Decided:
    """A person's decision; `note` is encrypted."""

    intent: Intent
    note: str | None
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Review:
    """A queued MO, at its place."""

    place: int
    event: MessageReceived
    decided: Decided | None


_event = msgspec.json.Decoder(MessageReceived)
_REVIEW = "id, event, intent, note, decided_by, decided_at"  # in the order of `_review`


async def add(tx: AsyncConnection, events: Sequence[object]) -> None:
    """Queue the events a person has to read, in the transaction which publishes them."""
    messages = [event for event in events if isinstance(event, MessageReceived)]
    doubtful = [event for event in messages if event.intent == "review" or event.behind_start]
    if doubtful:
        await tx.execute(
            text(
                "INSERT INTO review (mo_id, subject_id, event) SELECT * FROM unnest(CAST(:ids AS text[]),"
                " CAST(:subject_ids AS text[]), CAST(:events AS text[])) ON CONFLICT DO NOTHING"
            ),
            {
                "ids": [event.mo_id for event in doubtful],
                "subject_ids": [event.subject_id for event in doubtful],
                "events": [msgspec.json.encode(event).decode() for event in doubtful],
            },
        )


async def page(tx: AsyncConnection, *, decided: bool, after: int, limit: int) -> list[Review]:
    """Return open or decided reviews, oldest first."""

    async def read() -> list[Review]:
        rows = await tx.execute(
            text(
                f"SELECT {_REVIEW} FROM review WHERE decided_at IS {'NOT NULL' if decided else 'NULL'} AND id > :after"
                " ORDER BY id LIMIT :limit"
            ),
            {"after": after, "limit": limit},
        )
        return [_review(*row) for row in rows]

    return list(await whole_page(tx, "review", limit, read, attrgetter("place")))


async def lock(tx: AsyncConnection, mo_id: str) -> Review | None:
    """Return a review, locked.

    A second reviewer waits, and then reads the first decision.
    """
    rows = await tx.execute(text(f"SELECT {_REVIEW} FROM review WHERE mo_id = :id FOR UPDATE"), {"id": mo_id})
    row = rows.one_or_none()
    return _review(*row) if row else None


async def decide(tx: AsyncConnection, mo_id: str, decided: Decided) -> None:
    """Store the decision on an open review. The caller holds its lock."""
    await tx.execute(
        text(
            "UPDATE review SET intent = :intent, note = :note, decided_by = :by, decided_at = :at"
            " WHERE mo_id = :id AND decided_at IS NULL"
        ),
        {"id": mo_id, "intent": decided.intent, "note": decided.note, "by": decided.by, "at": decided.at},
    )


async def reviews_of(tx: AsyncConnection, subject_id: str) -> list[Review]:
    """Return one person's reviews, oldest first."""
    rows = await tx.execute(
        text(f"SELECT {_REVIEW} FROM review WHERE subject_id = :id ORDER BY id"), {"id": subject_id}
    )
    return [_review(*row) for row in rows]


async def forget(tx: AsyncConnection, asked: Mapping[str, datetime]) -> dict[str, int]:
    """Delete the reviews of texts up to each erasure request; return the counts by subject_id.

    Deleting an open review loses no opt-out: an erased person is opted out of everything.
    """
    rows = await tx.execute(
        text(
            "WITH gone AS (DELETE FROM review AS r"
            " USING unnest(CAST(:ids AS text[]), CAST(:ats AS timestamptz[])) AS a(subject_id, at)"
            " WHERE r.subject_id = a.subject_id"
            " AND CAST(CAST(r.event AS jsonb) ->> 'occurred_at' AS timestamptz) <= a.at RETURNING r.subject_id)"
            " SELECT subject_id, count(*) AS reviews FROM gone GROUP BY subject_id"
        ),
        {"ids": list(asked), "ats": list(asked.values())},
    )
    return {row.subject_id: row.reviews for row in rows}


def _review(
    place: int, event: str, intent: Intent | None, note: str | None, by: str | None, at: datetime | None
) -> Review:
    decided = None
    if at is not None:
        assert intent is not None, "a decision has an intent"
        assert by is not None, "a decision has an author"
        decided = Decided(intent, note, by, at)
    return Review(place, _event.decode(event), decided)
