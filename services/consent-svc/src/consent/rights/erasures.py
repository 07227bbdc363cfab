"""Run erasures: stop first, then each service erases and acknowledges; the last answer completes the certificate.

A single transaction records the opt-out and begins the erasure (ADR-0022). A controller's token begins the erasure of
that controller's data; the person's own page or text, and the end of all retention, begin the erasure of everything.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import msgspec
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Integer, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import CONSENT_NOTICES, ERASURE_ACKS, ERASURES
from common.contracts.rights import ErasureAcknowledged, ErasureFinished, ErasureRequested
from common.db.database import Database
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.kafka.subscription import After, Received, Subscription
from common.privacy import erasing
from common.privacy.erasing import Whom
from common.sms.message_id import EPOCH, message_id
from common.telemetry import counter, gauge, histogram
from common.web.pagination import whole_page
from consent.ledger import recorder
from consent.ledger.recorder import Recorded
from consent.ledger.rules import Verdict
from consent.rights.parts import whole
from consent.schema import metadata

log = logging.getLogger(__name__)

SERVICES = ("campaign", "consent", "dispatch", "inbound")
LOOK_EVERY_S = 30.0
LATE_AT_ONCE = 100

ASKED = counter("sms_consent_erasures_total", "Erasures requested.")
LATE = counter(
    "sms_consent_late_erasures_total", "Erasure requests repeated to a service that was late to answer.", ["service"]
)
OLDEST = gauge("sms_consent_oldest_erasure_age_seconds", "Age of the oldest incomplete erasure; 0 without one.")
TAKEN = histogram(
    "sms_consent_erasure_seconds",
    "Duration of an erasure, from the request to the last service's answer.",
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 3600, 86400),
)

Table(
    "erasure",
    metadata,
    Column("erasure_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("controller_id", Text, nullable=True),  # null: every controller
    Column("source", Text, nullable=False),
    Column("evidence_id", Text, nullable=False),  # the opt-out, or the occasion (`begin_unasked`)
    Column("requested_at", DateTime(timezone=True), nullable=False),
    Column("asked_again_at", DateTime(timezone=True), nullable=True),
    Column("completed_at", DateTime(timezone=True), nullable=True),
    Index("erasure_position_ix", "position", unique=True),
    Index("erasure_open_ix", "subject_id", postgresql_where=text("completed_at IS NULL")),
)

Table(
    "erasure_ack",
    metadata,
    Column("erasure_id", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("erased_at", DateTime(timezone=True), nullable=False),
    Column("acknowledged_at", DateTime(timezone=True), nullable=False),
    Column("erased", JSONB, nullable=False),
    Column("shard", Text, nullable=False, server_default=text("''::text")),
    Column("shards", Integer, nullable=False, server_default=text("1")),  # that answered when this one did
    PrimaryKeyConstraint("erasure_id", "service", "shards", "shard"),
)


@dataclass(frozen=True, slots=True)
class Ack:
    """A service's answer."""

    service: str
    erased_at: datetime
    acknowledged_at: datetime
    erased: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure and its progress. `place`: in lists. `controller_id` `None`: of every controller's data."""

    erasure_id: str
    place: int
    subject_id: str
    controller_id: str | None
    source: str
    evidence_id: str
    requested_at: datetime
    asked_again_at: datetime | None
    completed_at: datetime | None
    acks: tuple[Ack, ...] = ()
    partial: tuple[str, ...] = ()  # shards of services in `waiting_for`, for the log: "campaign a of 2"

    @property
    def waiting_for(self) -> tuple[str, ...]:
        answered = {ack.service for ack in self.acks}
        return tuple(service for service in SERVICES if service not in answered)


_ERASURE = (
    "erasure_id, position AS place, subject_id, controller_id, source, evidence_id, requested_at, asked_again_at,"
    " completed_at"
)


def named(evidence_id: str) -> str:
    """Return the erasure id for this evidence: repeats drop out."""
    return str(message_id(EPOCH, "erasure", evidence_id))


async def begin(
    tx: AsyncConnection, recorded: Sequence[Recorded], now: datetime, controller_id: str | None = None
) -> None:
    """Begin the erasures that `recorded` statements ask for, in the transaction of their recording.

    `controller_id`: of the sender that the opt-out names; an opt-out from every sender erases everything.
    """
    asked = []
    for each in recorded:
        statement, evidence = each.statement, each.statement.evidence
        if statement.erases and each.decision.verdict not in (Verdict.DUPLICATE, Verdict.REFUSED):
            assert (evidence.sender_id is None) == (controller_id is None), "an erasure is as wide as its opt-out"
            asked.append(_Asked(Whom(statement.subject_id, controller_id), evidence.source, evidence.evidence_id))
    await _begin(tx, asked, now)


async def begin_unasked(tx: AsyncConnection, reasons: Mapping[str, str], source: str, now: datetime) -> None:
    """Begin erasures that no person has asked for. The caller has locked the subjects.

    `reasons`: by subject_id, an id of the occasion. `source`: why the data is no longer held.
    """
    await recorder.forget(tx, list(reasons), now)
    await _begin(tx, [_Asked(Whom(subject_id, None), source, reason) for subject_id, reason in reasons.items()], now)


@dataclass(frozen=True, slots=True)
class _Asked:
    whom: Whom
    source: str
    evidence_id: str


async def _begin(tx: AsyncConnection, asked: Sequence[_Asked], now: datetime) -> None:
    events = [
        ErasureRequested(
            erasure_id=named(each.evidence_id),
            subject_id=each.whom.subject_id,
            controller_id=each.whom.controller_id,
            requested_at=now,
        )
        for each in asked
    ]
    if not events:
        return
    await tx.execute(
        text(
            "INSERT INTO erasure (erasure_id, subject_id, controller_id, source, evidence_id, requested_at)"
            " SELECT e.*, :at FROM unnest(CAST(:ids AS text[]), CAST(:subjects AS text[]),"
            " CAST(:controllers AS text[]), CAST(:sources AS text[]), CAST(:evidence AS text[])) AS e"
        ),
        {
            "ids": [event.erasure_id for event in events],
            "subjects": [each.whom.subject_id for each in asked],
            "controllers": [each.whom.controller_id for each in asked],
            "sources": [each.source for each in asked],
            "evidence": [each.evidence_id for each in asked],
            "at": now,
        },
    )
    await erasing.put(tx, *events)
    for event in events:
        log.info("an erasure is asked for", extra={"erasure_id": event.erasure_id, "subject_id": event.subject_id})
    await outbox.append(tx, ERASURES, events)
    ASKED.inc(len(events))


async def take_answers(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """Store the first answer of each service; the last service's answer completes the erasure and publishes its end.

    A service has answered once as many of its shards have as each of them counts, or as the highest count says: a
    shard may have answered before another was divided, and is not asked again.
    """
    acks = [received.event for received in batch if isinstance(received.event, ErasureAcknowledged)]
    if not acks:
        return None
    now = datetime.now(UTC)
    await tx.execute(
        text(
            "INSERT INTO erasure_ack (erasure_id, service, erased_at, acknowledged_at, erased, shard, shards)"
            " SELECT a.erasure_id, a.service, a.erased_at, :now, CAST(a.erased AS jsonb), a.shard, a.shards"
            " FROM unnest(CAST(:ids AS text[]), CAST(:services AS text[]), CAST(:ats AS timestamptz[]),"
            " CAST(:erased AS text[]), CAST(:parts AS text[]), CAST(:of AS integer[]))"
            " AS a(erasure_id, service, erased_at, erased, shard, shards) ON CONFLICT DO NOTHING"
        ),
        {
            "now": now,
            "ids": [ack.erasure_id for ack in acks],
            "services": [ack.service for ack in acks],
            "ats": [ack.erased_at for ack in acks],
            "erased": [msgspec.json.encode(ack.erased).decode() for ack in acks],
            "parts": [ack.shard for ack in acks],
            "of": [ack.shards for ack in acks],
        },
    )
    completed = await tx.execute(
        text(
            "UPDATE erasure AS e SET completed_at = :now"
            " WHERE e.erasure_id = ANY(CAST(:ids AS text[])) AND e.completed_at IS NULL"
            " AND (SELECT count(DISTINCT w.service) FROM (SELECT a.service FROM erasure_ack AS a"
            " WHERE a.erasure_id = e.erasure_id AND a.service = ANY(CAST(:services AS text[]))"
            " AND a.shard <> '' GROUP BY a.service HAVING count(DISTINCT a.shard) >= max(a.shards)"
            " UNION ALL SELECT a.service FROM erasure_ack AS a"
            " WHERE a.erasure_id = e.erasure_id AND a.service = ANY(CAST(:services AS text[]))"
            " GROUP BY a.service, a.shards HAVING count(*) = a.shards) AS w) = :all"
            " RETURNING e.erasure_id, e.requested_at, e.subject_id, e.controller_id"
        ),
        {"now": now, "ids": [ack.erasure_id for ack in acks], "services": list(SERVICES), "all": len(SERVICES)},
    )
    done = completed.all()
    notices = [
        ErasureFinished(
            notice_id=row.erasure_id, subject_id=row.subject_id, controller_id=row.controller_id, finished_at=now
        )
        for row in done
    ]
    await outbox.append(tx, CONSENT_NOTICES, notices)

    async def tell() -> None:
        for row in done:
            TAKEN.observe((now - row.requested_at).total_seconds())
            log.info("an erasure is complete", extra={"erasure_id": row.erasure_id})

    return tell


answers = Subscription("consent.erasure-acks", ERASURE_ACKS, take_answers)


@dataclass(frozen=True, slots=True)
class Lateness:
    """Requests late answers again."""

    database: Database
    late_after: timedelta

    def worker(self) -> Worker:
        timer = Timer("late erasures", self.look, min(LOOK_EVERY_S, self.late_after.total_seconds()), self.database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        now = datetime.now(UTC)
        async with self.database.begin() as tx:
            oldest = await tx.scalar(text("SELECT min(requested_at) FROM erasure WHERE completed_at IS NULL"))
            OLDEST.set((now - oldest).total_seconds() if oldest else 0)
            rows = await tx.execute(
                text(
                    "UPDATE erasure SET asked_again_at = :now WHERE erasure_id IN (SELECT erasure_id FROM erasure"
                    " WHERE completed_at IS NULL AND coalesce(asked_again_at, requested_at) < :before"
                    " ORDER BY requested_at LIMIT :limit FOR UPDATE SKIP LOCKED)"
                    " RETURNING erasure_id, subject_id, controller_id, requested_at"
                ),
                {"now": now, "before": now - self.late_after, "limit": LATE_AT_ONCE},
            )
            late = [
                ErasureRequested(
                    erasure_id=row.erasure_id,
                    subject_id=row.subject_id,
                    controller_id=row.controller_id,
                    requested_at=row.requested_at,
                )
                for row in rows
            ]
            await outbox.append(tx, ERASURES, late)
            missing = {each.erasure_id: each for each in await find(tx, [event.erasure_id for event in late])}
            for event in late:
                if "consent" in missing[event.erasure_id].waiting_for:
                    await erasing.put(tx, event)
        for event in late:
            who, partial = missing[event.erasure_id].waiting_for, missing[event.erasure_id].partial
            told = {"erasure_id": event.erasure_id, "waiting_for": list(who), "answered": list(partial)}
            log.error("an erasure is late", extra=told)
            for service in who:
                LATE.labels(service).inc()
        return len(late) == LATE_AT_ONCE


async def find(tx: AsyncConnection, erasure_ids: Sequence[str]) -> list[Erasure]:
    """Return the erasures that exist, oldest first."""
    rows = await tx.execute(
        text(f"SELECT {_ERASURE} FROM erasure WHERE erasure_id = ANY(CAST(:ids AS text[])) ORDER BY position"),
        {"ids": list(erasure_ids)},
    )
    return await _with_acks(tx, [Erasure(**row._mapping) for row in rows])


async def open_of(tx: AsyncConnection, whom: Whom) -> Erasure | None:
    """Return a person's newest open erasure by this controller."""
    rows = await tx.execute(
        text(
            f"SELECT {_ERASURE} FROM erasure WHERE subject_id = :id AND completed_at IS NULL"
            " AND controller_id IS NOT DISTINCT FROM CAST(:controller AS text) ORDER BY position DESC LIMIT 1"
        ),
        {"id": whom.subject_id, "controller": whom.controller_id},
    )
    return next(iter(await _with_acks(tx, [Erasure(**row._mapping) for row in rows])), None)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """An open erasure that reaches a controller's data. `known`: the controller may learn of the erasure."""

    known: bool


async def under_way(tx: AsyncConnection, subject_id: str, controller_id: str) -> UnderWay | None:
    """Return the open erasure that reaches this controller's data, if any.

    An erasure of everything tells that Placet knows the person: a controller learns of it only with a line about the
    person from before. A line recorded since may be a probe.
    """
    rows = await tx.execute(
        text(
            """
            SELECT e.controller_id IS NOT NULL OR EXISTS (
                SELECT FROM evidence AS l JOIN sender AS s USING (sender_id)
                WHERE l.subject_id = e.subject_id AND s.controller = :controller AND l.recorded_at <= e.requested_at
            ) OR EXISTS (
                SELECT FROM listed AS l JOIN sender AS s USING (sender_id)
                WHERE l.subject_id = e.subject_id AND s.controller = :controller AND l.received_at <= e.requested_at
            ) OR EXISTS (
                SELECT FROM rectification AS r
                WHERE r.subject_id = e.subject_id AND r.controller_id = :controller
                    AND r.requested_at <= e.requested_at
            ) AS known
            FROM erasure AS e
            WHERE e.subject_id = :id AND e.completed_at IS NULL
                AND (e.controller_id IS NULL OR e.controller_id = :controller)
            ORDER BY known DESC
            LIMIT 1
            """
        ),
        {"id": subject_id, "controller": controller_id},
    )
    row = rows.one_or_none()
    return UnderWay(row.known) if row else None


async def page(
    tx: AsyncConnection,
    controllers: Collection[str] | None,
    *,
    complete: bool,
    after: int,
    limit: int,
    is_part: bool = False,
) -> list[Erasure]:
    """Return these controllers' erasures after the place `after`, oldest first; `None`: all erasures.

    `is_part`: of a page that is merged of several shards' (`whole_page`).
    """

    async def read() -> list[Erasure]:
        rows = await tx.execute(
            text(
                f"SELECT {_ERASURE} FROM erasure WHERE completed_at IS {'NOT NULL' if complete else 'NULL'}"
                " AND (:every OR controller_id = ANY(CAST(:controllers AS text[])))"
                " AND position > :after ORDER BY position LIMIT :limit"
            ),
            {"after": after, "limit": limit, "every": controllers is None, "controllers": sorted(controllers or ())},
        )
        return await _with_acks(tx, [Erasure(**row._mapping) for row in rows])

    return list(await whole_page(tx, "erasure", limit, read, attrgetter("place"), is_part=is_part))


async def _with_acks(tx: AsyncConnection, erasures: Sequence[Erasure]) -> list[Erasure]:
    found = await tx.execute(
        text(
            "SELECT erasure_id, service, shards, shard, erased_at, acknowledged_at, erased::text AS erased"
            " FROM erasure_ack"
            " WHERE erasure_id = ANY(CAST(:ids AS text[])) ORDER BY service, shards, shard"
        ),
        {"ids": [each.erasure_id for each in erasures]},
    )
    answers: dict[tuple[str, str], dict[tuple[int, str], Ack]] = {}
    for row in found:
        ack = Ack(row.service, row.erased_at, row.acknowledged_at, msgspec.json.decode(row.erased))
        answers.setdefault((row.erasure_id, row.service), {})[row.shards, row.shard] = ack
    acks: dict[str, list[Ack]] = {}
    partial: dict[str, list[str]] = {}
    for (erasure_id, service), of_service in answers.items():
        if of_shards := whole(of_service):
            acks.setdefault(erasure_id, []).append(_whole(of_shards.values()))
        else:
            partial.setdefault(erasure_id, []).extend(f"{service} {shard} of {of}" for of, shard in of_service)
    return [
        replace(each, acks=tuple(acks.get(each.erasure_id, ())), partial=tuple(partial.get(each.erasure_id, ())))
        for each in erasures
    ]


def _whole(answers: Collection[Ack]) -> Ack:
    """Return the answer of a service from those of all its shards."""
    erased = Counter[str]()
    for part in answers:
        erased.update(part.erased)
    last = max(answers, key=attrgetter("acknowledged_at"))
    return Ack(last.service, max(part.erased_at for part in answers), last.acknowledged_at, dict(erased))
