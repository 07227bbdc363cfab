"""Rectifications (RGPD art. 16): what is wrong is put right, and who asked for it, when and what stays on record.

    contact   fields that campaign-svc holds (first name, city): it corrects them, and what waits to leave is reworded
    number    it was wrong, or is not theirs any more: shut for that sender or for all, each consent by its name
              as well, and its contact goes. Consent moves to no other number: that one starts from nothing, with
              evidence of its own
    evidence  a line of the ledger: another is appended that stands beside it, and takes from it what it opened

One transaction begins it: the row, the evidence, the event. campaign-svc's answer completes it; one of a line of the
ledger is complete at once. An erasure takes what was said.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Identity, Index, Row, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import RECTIFICATION_ACKS, RECTIFICATIONS
from common.contracts.rights import RectificationAcknowledged, RectificationRequested
from common.db.database import Database
from common.db.paging import whole_page
from common.db.timer import Timer
from common.kafka import outbox
from common.kafka.consumer import After, Received, Subscription
from common.privacy.copying import opened
from common.privacy.keyring import FieldKeys
from common.service import Worker
from common.telemetry import counter, gauge
from consent import store

log = logging.getLogger(__name__)

Kind = Literal["contact", "number", "evidence"]

SERVICES = ("campaign",)  # what of a person's others may correct is there
ASKED = counter("sms_consent_rectifications_total", "Rectifications asked for.", ["kind"])
OLDEST = gauge(
    "sms_consent_oldest_rectification_age_seconds",
    "Age of the oldest rectification not complete; 0 when there is none.",
)
LOOK_EVERY_S = 60.0

Table(
    "rectification",
    store.metadata,
    Column("rectification_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),  # the order of lists
    Column("subject_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("sender_id", Text, nullable=True),  # None: every sender
    Column("source", Text, nullable=False),
    Column("asked", Text, nullable=True),  # JSON, sealed, context "rectification:<id>"; null: erased, or old
    Column("evidence_id", Text, nullable=True),  # what it appended to the ledger
    Column("annulled", Boolean, nullable=False),  # the line it is about counts no more
    Column("requested_at", DateTime(timezone=True), nullable=False),
    Column("completed_at", DateTime(timezone=True), nullable=True),
    Column("rectified", JSONB, nullable=False),  # by service, how many of what
    Index("rectification_position_ix", "position", unique=True),
    Index("rectification_subject_ix", "subject_id"),
    Index("rectification_asked_ix", "requested_at", postgresql_where=text("asked IS NOT NULL")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectification:
    """One as it stands. `asked`: who, what and why, None once erased. `place`: its place in lists."""

    rectification_id: str
    place: int
    subject_id: str
    kind: Kind
    sender_id: str | None
    source: str
    asked: Mapping[str, Any] | None
    evidence_id: str | None
    annulled: bool
    requested_at: datetime
    completed_at: datetime | None
    rectified: Mapping[str, Mapping[str, int]]

    @property
    def waiting_for(self) -> tuple[str, ...]:
        return () if self.completed_at else tuple(service for service in SERVICES if service not in self.rectified)


def context(rectification_id: str) -> str:
    """Of what was asked, sealed; and of the fields in the event."""
    return f"rectification:{rectification_id}"


async def begin(
    tx: AsyncConnection,
    keys: FieldKeys,
    new: Rectification,
    fields: Mapping[str, str | None] | None = None,
) -> None:
    """`fields`: of a contact, what is right. The other services hear of it, unless it is complete already."""
    sealed = keys.seal(msgspec.json.encode(new.asked).decode(), context(new.rectification_id))
    await tx.execute(
        text(
            "INSERT INTO rectification (rectification_id, subject_id, kind, sender_id, source, asked, evidence_id,"
            " annulled, requested_at, completed_at, rectified) VALUES (:rectification_id, :subject_id, :kind,"
            " :sender_id, :source, :asked, :evidence_id, :annulled, :requested_at, :completed_at,"
            " CAST(:rectified AS jsonb))"
        ),
        {
            "rectification_id": new.rectification_id,
            "subject_id": new.subject_id,
            "kind": new.kind,
            "sender_id": new.sender_id,
            "source": new.source,
            "asked": sealed,
            "evidence_id": new.evidence_id,
            "annulled": new.annulled,
            "requested_at": new.requested_at,
            "completed_at": new.completed_at,
            "rectified": "{}",
        },
    )
    if new.completed_at is None:
        written = None if fields is None else msgspec.json.encode(fields).decode()
        event = RectificationRequested(
            rectification_id=new.rectification_id,
            subject_id=new.subject_id,
            sender_id=new.sender_id,
            fields=None if written is None else keys.seal(written, context(new.rectification_id)),
            requested_at=new.requested_at,
        )
        await outbox.append(tx, RECTIFICATIONS, [event])
    ASKED.labels(new.kind).inc()
    log.info(
        "a rectification is asked for",
        extra={"rectification_id": new.rectification_id, "subject_id": new.subject_id, "kind": new.kind},
    )


async def take_answers(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """The first answer of each service counts; the last service's completes the rectification."""
    for received in batch:
        if isinstance(ack := received.event, RectificationAcknowledged):
            await tx.execute(
                text(
                    "UPDATE rectification SET rectified = rectified || CAST(:done AS jsonb),"
                    " completed_at = CASE WHEN rectified || CAST(:done AS jsonb) ?& CAST(:all AS text[])"
                    " THEN CAST(:now AS timestamptz) END"
                    " WHERE rectification_id = :id AND completed_at IS NULL AND NOT rectified ? :service"
                ),
                {
                    "id": ack.rectification_id,
                    "service": ack.service,
                    "done": msgspec.json.encode({ack.service: ack.rectified}).decode(),
                    "all": list(SERVICES),
                    "now": datetime.now(UTC),
                },
            )
    return None


answers = Subscription("consent.rectification-acks", RECTIFICATION_ACKS, take_answers)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Says how long the oldest has been waiting for its answer. Nobody is asked again: campaign-svc reads the request
    where it lies, and answers it for as long as that takes."""

    database: Database

    def worker(self) -> Worker:
        timer = Timer("waiting rectifications", self.look, LOOK_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        async with self.database.begin() as tx:
            oldest = await tx.scalar(text("SELECT min(requested_at) FROM rectification WHERE completed_at IS NULL"))
        OLDEST.set((datetime.now(UTC) - oldest).total_seconds() if oldest else 0)
        return False


async def find(tx: AsyncConnection, keys: FieldKeys, rectification_id: str) -> Rectification | None:
    rows = await tx.execute(
        text("SELECT *, rectified::text AS counts FROM rectification WHERE rectification_id = :id"),
        {"id": rectification_id},
    )
    return next((_read(row, keys) for row in rows), None)


async def of_person(tx: AsyncConnection, keys: FieldKeys, subject_id: str) -> list[Rectification]:
    """Oldest first."""
    rows = await tx.execute(
        text("SELECT *, rectified::text AS counts FROM rectification WHERE subject_id = :id ORDER BY position"),
        {"id": subject_id},
    )
    return [_read(row, keys) for row in rows]


async def page(tx: AsyncConnection, keys: FieldKeys, *, complete: bool, after: int, limit: int) -> list[Rectification]:
    """Oldest first, from the place after `after`."""

    async def read() -> list[Rectification]:
        rows = await tx.execute(
            text(
                "SELECT *, rectified::text AS counts FROM rectification"
                f" WHERE completed_at IS {'NOT NULL' if complete else 'NULL'} AND position > :after"
                " ORDER BY position LIMIT :limit"
            ),
            {"after": after, "limit": limit},
        )
        return [_read(row, keys) for row in rows]

    return list(await whole_page(tx, "rectification", limit, read, attrgetter("place")))


async def empty(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, int]:
    """What these people said goes, that they asked stays; how many by subject_id."""
    rows = await tx.execute(
        text(
            "WITH gone AS (UPDATE rectification SET asked = NULL"
            " WHERE subject_id = ANY(CAST(:ids AS text[])) AND asked IS NOT NULL RETURNING subject_id)"
            " SELECT subject_id, count(*) AS emptied FROM gone GROUP BY subject_id"
        ),
        {"ids": list(subject_ids)},
    )
    return {row.subject_id: row.emptied for row in rows}


def _read(row: Row[Any], keys: FieldKeys) -> Rectification:
    said = opened(keys, row.asked, context(row.rectification_id))
    rectified: dict[str, dict[str, int]] = msgspec.json.decode(row.counts)
    return Rectification(
        rectification_id=row.rectification_id,
        place=row.position,
        subject_id=row.subject_id,
        kind=row.kind,
        sender_id=row.sender_id,
        source=row.source,
        asked=None if said is None else msgspec.json.decode(said),
        evidence_id=row.evidence_id,
        annulled=row.annulled,
        requested_at=row.requested_at,
        completed_at=row.completed_at,
        rectified=rectified,
    )
