"""The review queue: MOs for a person to read, each decided once. The caller owns the transaction.

A decision takes effect when it is published (`told_at`): a STOP with the decision, others once their time to be undone
is over.

A text no rule is sure of, a STOP which may be old (`MessageReceived.behind_start`), and a STOP to a code without a
sender (`no_sender`) enter in the transaction of the journal entry. The row holds the event as published, with number
and text encrypted.
"""

from collections.abc import Collection, Mapping, Sequence
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
    Column("takes_effect_at", DateTime(timezone=True), nullable=True),
    Column("told_at", DateTime(timezone=True), nullable=True),  # published; until then the decision can be undone
    UniqueConstraint("mo_id"),
    Index("review_subject_ix", "subject_id"),
    Index("review_open_ix", "id", postgresql_where=text("decided_at IS NULL")),
    Index("review_decided_ix", "decided_at", postgresql_where=text("decided_at IS NOT NULL")),
    Index(
        "review_untold_ix",
        "takes_effect_at",
        postgresql_where=text("decided_at IS NOT NULL AND told_at IS NULL"),
    ),
)


@dataclass(frozen=True, slots=True)
class Decided:
    """A person's decision; `note` is encrypted. `told`: the decision is in effect, and stands."""

    intent: Intent
    note: str | None
    by: str
    at: datetime
    takes_effect_at: datetime
    told: bool


@dataclass(frozen=True, slots=True)
class Review:
    """A queued MO, at its place."""

    place: int
    event: MessageReceived
    decided: Decided | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The open reviews of a concern. `oldest`: the receipt of the text that has waited longest."""

    reviews: int
    oldest: datetime


_event = msgspec.json.Decoder(MessageReceived)
_EVENT = "CAST(event AS jsonb)"
_CODE = f"{_EVENT} ->> 'short_code'"
_RECEIVED_AT = f"CAST({_EVENT} ->> 'received_at' AS timestamptz)"
_NO_SENDER = f"coalesce(CAST({_EVENT} ->> 'no_sender' AS boolean), false)"
# a STOP to a code that no sender had is no controller's, and waits for a person
_CONCERN = f"coalesce({_EVENT} ->> 'concern', 'doubt')"
_MEANT = f"{to_a_code_of(_CODE, _RECEIVED_AT)} AND (a.controller_id IS NULL OR NOT {_NO_SENDER})"
_REVIEW = "id, event, intent, note, decided_by, decided_at, takes_effect_at, told_at"  # in the order of `_review`


async def add(tx: AsyncConnection, events: Sequence[object]) -> None:
    """Queue the events a person has to read, in the transaction which publishes them."""
    doubtful = of_doubt([event for event in events if isinstance(event, MessageReceived)])
    if doubtful:
        await tx.execute(
            text(
                "INSERT INTO review (mo_id, subject_id, event) SELECT * FROM unnest(CAST(:ids AS text[]),"
                " CAST(:subject_ids AS text[]), CAST(:events AS text[])) ON CONFLICT DO NOTHING"
            ),
            {
                "ids": [event.mo_id for event in doubtful],
                "subject_ids": [event.subject_id for event in doubtful],
                "events": [written(event) for event in doubtful],
            },
        )


def of_doubt(events: Sequence[MessageReceived]) -> list[MessageReceived]:
    """Return the events a person has to read."""
    return [event for event in events if event.intent == "review" or event.behind_start or event.no_sender]


def written(event: MessageReceived) -> str:
    """Return the event as the queue keeps it."""
    return msgspec.json.encode(event).decode()


async def page(
    tx: AsyncConnection,
    *,
    decided: bool,
    after: int,
    limit: int,
    concern: Concern | None = None,
    is_part: bool = False,
) -> list[Review]:
    """Return open or decided reviews, oldest first; of one concern where `concern` names it.

    `is_part`: of a page that is merged of several shards' (`whole_page`).
    """

    async def read() -> list[Review]:
        rows = await tx.execute(
            text(
                f"SELECT {_REVIEW} FROM review WHERE decided_at IS {'NOT NULL' if decided else 'NULL'} AND id > :after"
                f" AND (CAST(:concern AS text) IS NULL OR {_CONCERN} = :concern) ORDER BY id LIMIT :limit"
            ),
            {"after": after, "limit": limit, "concern": concern},
        )
        return [_review(*row) for row in rows]

    return list(await whole_page(tx, "review", limit, read, attrgetter("place"), is_part=is_part))


async def present(tx: AsyncConnection, mo_ids: Collection[str]) -> set[str]:
    """Return the MOs with a review."""
    rows = await tx.execute(
        text("SELECT mo_id FROM review WHERE mo_id = ANY(CAST(:ids AS text[]))"), {"ids": list(mo_ids)}
    )
    return set(rows.scalars())


async def lock(tx: AsyncConnection, mo_ids: Collection[str]) -> dict[str, Review]:
    """Return the reviews by MO, locked in the order of the queue.

    A second reviewer waits, and then reads the first decision.
    """
    rows = await tx.execute(
        text(f"SELECT {_REVIEW} FROM review WHERE mo_id = ANY(CAST(:ids AS text[])) ORDER BY id FOR UPDATE"),
        {"ids": list(mo_ids)},
    )
    return {review.event.mo_id: review for review in (_review(*row) for row in rows)}


async def decide(tx: AsyncConnection, mo_id: str, decided: Decided) -> None:
    """Store the decision on an open review. The caller holds its lock."""
    await tx.execute(
        text(
            "UPDATE review SET intent = :intent, note = :note, decided_by = :by, decided_at = :at,"
            " takes_effect_at = :takes_effect_at, told_at = CASE WHEN :told THEN CAST(:at AS timestamptz) END"
            " WHERE mo_id = :id AND decided_at IS NULL"
        ),
        {
            "id": mo_id,
            "intent": decided.intent,
            "note": decided.note,
            "by": decided.by,
            "at": decided.at,
            "takes_effect_at": decided.takes_effect_at,
            "told": decided.told,
        },
    )


async def undo(tx: AsyncConnection, mo_id: str) -> None:
    """Open a review again whose decision is not in effect. The caller holds its lock."""
    await tx.execute(
        text(
            "UPDATE review SET intent = NULL, note = NULL, decided_by = NULL, decided_at = NULL, takes_effect_at = NULL"
            " WHERE mo_id = :id AND told_at IS NULL"
        ),
        {"id": mo_id},
    )


async def lock_due(tx: AsyncConnection, now: datetime, limit: int) -> list[Review]:
    """Return decided reviews whose decision is to take effect by `now`, locked. Another process's are skipped."""
    rows = await tx.execute(
        text(
            f"SELECT {_REVIEW} FROM review WHERE decided_at IS NOT NULL AND told_at IS NULL AND takes_effect_at <= :now"
            " ORDER BY takes_effect_at, id LIMIT :limit FOR UPDATE SKIP LOCKED"
        ),
        {"now": now, "limit": limit},
    )
    return [_review(*row) for row in rows]


async def tell(tx: AsyncConnection, mo_ids: Collection[str]) -> None:
    """Store that these decisions are published. The caller holds the locks."""
    if mo_ids:
        await tx.execute(
            text("UPDATE review SET told_at = takes_effect_at WHERE mo_id = ANY(CAST(:ids AS text[]))"),
            {"ids": list(mo_ids)},
        )


async def waiting(tx: AsyncConnection) -> dict[Concern, Waiting]:
    """Count the open reviews of each concern that has one."""
    rows = await tx.execute(
        text(
            f"SELECT {_CONCERN} AS concern, count(*) AS reviews, min({_RECEIVED_AT}) AS oldest"
            " FROM review WHERE decided_at IS NULL GROUP BY 1"
        )
    )
    return {row.concern: Waiting(row.reviews, row.oldest) for row in rows}


async def newest_told(tx: AsyncConnection, limit: int) -> list[Review]:
    """Return the newest decisions in effect."""
    rows = await tx.execute(
        text(f"SELECT {_REVIEW} FROM review WHERE told_at IS NOT NULL ORDER BY decided_at DESC, id DESC LIMIT :limit"),
        {"limit": limit},
    )
    return [_review(*row) for row in rows]


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
            " RETURNING a.subject_id, a.controller_id, r.id, r.event, r.intent, r.note, r.decided_by, r.decided_at,"
            " r.takes_effect_at, r.told_at"
        ),
        columns(asked),
    )
    return [(Whom(subject_id, controller_id), _review(*review)) for subject_id, controller_id, *review in rows]


def _review(
    place: int,
    event: str,
    intent: Intent | None,
    note: str | None,
    by: str | None,
    at: datetime | None,
    takes_effect_at: datetime | None,
    told_at: datetime | None,
) -> Review:
    decided = None
    if at is not None:
        assert intent is not None, "a decision has an intent"
        assert by is not None, "a decision has an author"
        assert takes_effect_at is not None, "a decision has its time"
        decided = Decided(intent, note, by, at, takes_effect_at, told_at is not None)
    return Review(place, _event.decode(event), decided)
