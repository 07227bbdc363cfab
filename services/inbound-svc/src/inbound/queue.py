"""The review queue: MOs for a person to read, each decided once. The caller owns the transaction.

A text no rule is sure of, a STOP which may be old (`MessageReceived.behind_start`), and a STOP to a code without a
sender (`no_sender`) enter in the transaction of the journal entry. The row holds the event as published, with number
and text encrypted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

import msgspec
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Table, Text, UniqueConstraint, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.inbound import Concern, Intent, MessageReceived
from common.privacy.erasing import TO_ERASE, Whom, columns
from common.web.pagination import whole_page
from inbound.store import metadata, to_a_code_of

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
_EVENT = "CAST(event AS jsonb)"
_CODE = f"{_EVENT} ->> 'short_code'"
_RECEIVED_AT = f"CAST({_EVENT} ->> 'received_at' AS timestamptz)"
_NO_SENDER = f"coalesce(CAST({_EVENT} ->> 'no_sender' AS boolean), false)"
# a STOP to a code that no sender had is no controller's: it waits for a person
_CONCERN = f"coalesce({_EVENT} ->> 'concern', 'doubt')"
_MEANT = f"{to_a_code_of(_CODE, _RECEIVED_AT)} AND (a.controller_id IS NULL OR NOT {_NO_SENDER})"
_REVIEW = "id, event, intent, note, decided_by, decided_at"  # in the order of `_review`


async def add(tx: AsyncConnection, events: Sequence[object]) -> None:
    """Queue the events a person has to read, in the transaction which publishes them."""
    messages = [event for event in events if isinstance(event, MessageReceived)]
    doubtful = [event for event in messages if event.intent == "review" or event.behind_start or event.no_sender]
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


async def page(
    tx: AsyncConnection, *, decided: bool, after: int, limit: int, concern: Concern | None = None
) -> list[Review]:
    """Return open or decided reviews, oldest first; of one concern where `concern` names it."""

    async def read() -> list[Review]:
        rows = await tx.execute(
            text(
                f"SELECT {_REVIEW} FROM review WHERE decided_at IS {'NOT NULL' if decided else 'NULL'} AND id > :after"
                f" AND (CAST(:concern AS text) IS NULL OR {_CONCERN} = :concern) ORDER BY id LIMIT :limit"
            ),
            {"after": after, "limit": limit, "concern": concern},
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


async def reviews_of(tx: AsyncConnection, subject_id: str, controller_id: str) -> list[Review]:
    """Return one person's reviews of texts to the controller's codes, oldest first."""
    rows = await tx.execute(
        text(
            f"SELECT {_REVIEW} FROM review CROSS JOIN (SELECT CAST(:controller AS text) AS controller_id) AS a"
            f" WHERE subject_id = :id AND {_MEANT} ORDER BY id"
        ),
        {"id": subject_id, "controller": controller_id},
    )
    return [_review(*row) for row in rows]


async def forget(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> list[tuple[Whom, Review]]:
    """Delete and return the reviews of texts up to each erasure request.

    Deleting an open review loses no opt-out: the person is opted out of every sender that the erasure concerns.
    """
    rows = await tx.execute(
        text(
            f"DELETE FROM review AS r USING {TO_ERASE} WHERE r.subject_id = a.subject_id"
            f" AND {_MEANT} AND CAST({_EVENT} ->> 'occurred_at' AS timestamptz) <= a.at"
            " RETURNING a.subject_id, a.controller_id, r.id, r.event, r.intent, r.note, r.decided_by, r.decided_at"
        ),
        columns(asked),
    )
    return [(Whom(subject_id, controller_id), _review(*review)) for subject_id, controller_id, *review in rows]


def _review(
    place: int, event: str, intent: Intent | None, note: str | None, by: str | None, at: datetime | None
) -> Review:
    decided = None
    if at is not None:
        assert intent is not None, "a decision has an intent"
        assert by is not None, "a decision has an author"
        decided = Decided(intent, note, by, at)
    return Review(place, _event.decode(event), decided)
