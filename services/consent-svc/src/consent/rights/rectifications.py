"""Run rectifications (RGPD art. 16): correct wrong data, and keep the request with its date.

contact   campaign-svc corrects the fields (first name, city) and updates the text of waiting messages
number    opted out for the sender or for all, each consent also by name, and the contact is deleted
evidence  another line is appended beside the wrong line (ADR-0024)
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Identity, Index, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import RECTIFICATION_ACKS, RECTIFICATIONS
from common.contracts.rights import RectificationAcknowledged, RectificationRequested
from common.db.database import Database, fetch_many
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.kafka.subscription import After, Received, Subscription
from common.keyring import FieldKeys
from common.privacy.copying import opened
from common.privacy.erasing import TO_ERASE, Whom, columns, counted
from common.telemetry import counter, gauge
from common.web.pagination import whole_page
from consent.rights.parts import whole
from consent.schema import metadata

log = logging.getLogger(__name__)

_parts = msgspec.json.Decoder(dict[str, dict[str, dict[str, dict[str, int]]]])

Kind = Literal["contact", "number", "evidence"]

SERVICES = ("campaign",)
ASKED = counter("sms_consent_rectifications_total", "Rectifications requested.", ["kind"])
OLDEST = gauge(
    "sms_consent_oldest_rectification_age_seconds",
    "Age of the oldest incomplete rectification; 0 without one.",
)
LOOK_EVERY_S = 60.0

Table(
    "rectification",
    metadata,
    Column("rectification_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("controller_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("sender_id", Text, nullable=True),  # NULL: every sender of the controller
    Column("source", Text, nullable=False),
    Column("asked", Text, nullable=True),  # JSON, encrypted, context "rectification:<id>"; null: erased or pruned
    Column("evidence_id", Text, nullable=True),  # appended to the ledger
    Column("annulled", Boolean, nullable=False),  # the line no longer counts
    Column("requested_at", DateTime(timezone=True), nullable=False),
    Column("completed_at", DateTime(timezone=True), nullable=True),
    Column("rectified", JSONB, nullable=False),  # by service, counts by kind
    # of services not all of whose shards have answered: by service, count of shards, and shard
    Column("parts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Index("rectification_position_ix", "position", unique=True),
    Index("rectification_subject_ix", "subject_id"),
    Index("rectification_asked_ix", "requested_at", postgresql_where=text("asked IS NOT NULL")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectification:
    """A rectification and its progress. `asked`: null once erased or pruned. `place`: in lists."""

    rectification_id: str
    place: int
    subject_id: str
    controller_id: str
    kind: Kind
    sender_id: str | None
    source: str
    asked: Mapping[str, object] | None
    evidence_id: str | None
    annulled: bool
    requested_at: datetime
    completed_at: datetime | None
    rectified: Mapping[str, Mapping[str, int]]

    @property
    def waiting_for(self) -> tuple[str, ...]:
        return () if self.completed_at else tuple(service for service in SERVICES if service not in self.rectified)


_COLUMNS = (
    "rectification_id, position AS place, subject_id, controller_id, kind, sender_id, source, asked, evidence_id,"
    " annulled, requested_at, completed_at, rectified::text AS rectified"
)


def context(rectification_id: str) -> str:
    """Return the encryption context of the request and of the event's fields."""
    return f"rectification:{rectification_id}"


async def begin(
    tx: AsyncConnection,
    keys: FieldKeys,
    new: Rectification,
    fields: Mapping[str, str | None] | None = None,
) -> None:
    """Store a rectification, and publish the request unless complete. `fields`: the right values of a contact."""
    sealed = keys.seal(msgspec.json.encode(new.asked).decode(), context(new.rectification_id))
    await tx.execute(
        text(
            "INSERT INTO rectification (rectification_id, subject_id, controller_id, kind, sender_id, source, asked,"
            " evidence_id, annulled, requested_at, completed_at, rectified) VALUES (:rectification_id, :subject_id,"
            " :controller_id, :kind, :sender_id, :source, :asked, :evidence_id, :annulled, :requested_at,"
            " :completed_at, CAST(:rectified AS jsonb))"
        ),
        {
            "rectification_id": new.rectification_id,
            "subject_id": new.subject_id,
            "controller_id": new.controller_id,
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
            controller_id=new.controller_id,
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
    """Store the first answer of each service; the last service's answer completes the rectification."""
    for received in batch:
        if isinstance(ack := received.event, RectificationAcknowledged):
            rectified = ack.rectified if ack.shards == 1 else await _of_every_shard(tx, ack)
            if rectified is None:
                continue
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
                    "done": msgspec.json.encode({ack.service: rectified}).decode(),
                    "all": list(SERVICES),
                    "now": datetime.now(UTC),
                },
            )
    return None


async def _of_every_shard(tx: AsyncConnection, ack: RectificationAcknowledged) -> Mapping[str, int] | None:
    """Keep the answer of a shard, and return the sums of all of them once the last has answered."""
    rows = await fetch_many(
        tx,
        "SELECT parts::text FROM rectification WHERE rectification_id = $1 AND completed_at IS NULL FOR UPDATE",
        ack.rectification_id,
    )
    if not rows:
        return None
    parts = _parts.decode(rows[0][0])
    counts = parts.setdefault(ack.service, {})
    counts.setdefault(str(ack.shards), {}).setdefault(ack.shard, ack.rectified)
    await fetch_many(
        tx,
        "UPDATE rectification SET parts = $2::jsonb WHERE rectification_id = $1",
        ack.rectification_id,
        msgspec.json.encode(parts).decode(),
    )
    of_shards = whole(
        {(int(count), shard): told for count, answers in counts.items() for shard, told in answers.items()}
    )
    if not of_shards:
        return None
    rectified = Counter[str]()
    for told in of_shards.values():
        rectified.update(told)  # a sum of counters has no zero
    return rectified


answers = Subscription("consent.rectification-acks", RECTIFICATION_ACKS, take_answers)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Measures the age of the oldest open rectification. No request is repeated."""

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
        text(f"SELECT {_COLUMNS} FROM rectification WHERE rectification_id = :id"),
        {"id": rectification_id},
    )
    return next((_read(keys, **row._mapping) for row in rows), None)


async def of_person(tx: AsyncConnection, keys: FieldKeys, subject_id: str, controller_id: str) -> list[Rectification]:
    """Return a person's rectifications of one controller, oldest first."""
    rows = await tx.execute(
        text(
            f"SELECT {_COLUMNS} FROM rectification WHERE subject_id = :id AND controller_id = :controller"
            " ORDER BY position"
        ),
        {"id": subject_id, "controller": controller_id},
    )
    return [_read(keys, **row._mapping) for row in rows]


async def page(
    tx: AsyncConnection,
    keys: FieldKeys,
    controllers: Collection[str],
    *,
    complete: bool,
    after: int,
    limit: int,
    is_part: bool = False,
) -> list[Rectification]:
    """Return these controllers' rectifications after the place `after`, oldest first.

    `is_part`: of a page that is merged of several shards' (`whole_page`).
    """

    async def read() -> list[Rectification]:
        rows = await tx.execute(
            text(
                f"SELECT {_COLUMNS} FROM rectification"
                f" WHERE completed_at IS {'NOT NULL' if complete else 'NULL'} AND position > :after"
                " AND controller_id = ANY(CAST(:controllers AS text[])) ORDER BY position LIMIT :limit"
            ),
            {"after": after, "limit": limit, "controllers": sorted(controllers)},
        )
        return [_read(keys, **row._mapping) for row in rows]

    return list(await whole_page(tx, "rectification", limit, read, attrgetter("place"), is_part=is_part))


async def empty(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Delete the content of these people's requests; return the numbers."""
    rows = await tx.execute(
        text(
            f"WITH gone AS (UPDATE rectification AS r SET asked = NULL FROM {TO_ERASE}"
            " WHERE r.subject_id = a.subject_id AND r.asked IS NOT NULL"
            " AND (a.controller_id IS NULL OR r.controller_id = a.controller_id)"
            " RETURNING a.subject_id, a.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM gone GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    return counted(rows)


def _read(
    keys: FieldKeys, *, rectification_id: str, asked: str | None, rectified: str, **columns: Any
) -> Rectification:
    said = opened(keys, asked, context(rectification_id))
    return Rectification(
        rectification_id=rectification_id,
        asked=None if said is None else msgspec.json.decode(said, type=dict[str, object]),
        rectified=msgspec.json.decode(rectified, type=dict[str, dict[str, int]]),
        **columns,
    )
