"""Gather copies of a controller's data of a person from every service, through events, and keep the parts encrypted.

An erasure deletes a copy at once. A copy shows the controller's records, and, as facts, the opt-outs from every sender.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import Boolean, Column, DateTime, Index, Integer, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import COPIES, COPY_PARTS
from common.contracts.rights import CopyGathered, CopyRequested
from common.db.database import Database
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.kafka.subscription import After, Received, Subscription
from common.keyring import FieldKeys
from common.privacy.copying import Copier, Item, context, opened
from common.privacy.erasing import TO_ERASE, Whom, columns
from common.spreadsheet import cell
from common.telemetry import counter
from consent.ledger import corrections
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.rights import rectifications
from consent.rights.erasures import SERVICES
from consent.rights.parts import whole
from consent.schema import metadata
from consent.senders import store as senders_store

ASKED = counter("sms_consent_copies_total", "Copies of personal data requested.")
KEPT = timedelta(days=7)
LOOK_EVERY_S = 60.0
FORGOTTEN_AT_ONCE = 100
NOTHING = ""  # items of a part that a bare copy does not keep
RECTIFIED = (
    "rectification_id",
    "sender_id",
    "source",
    "asked",
    "evidence_id",
    "annulled",
    "requested_at",
    "completed_at",
    "rectified",
)

Table(
    "copy",
    metadata,
    Column("copy_id", Text, primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("controller_id", Text, nullable=False),
    Column("requested_at", DateTime(timezone=True), nullable=False),
    Column("completed_at", DateTime(timezone=True), nullable=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("bare", Boolean, nullable=False),  # begun during an erasure: without the other services' items
    Index("copy_subject_ix", "subject_id"),
    Index("copy_expires_ix", "expires_at"),
)

Table(
    "copy_part",
    metadata,
    Column("copy_id", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("place", Integer, nullable=False),
    Column("parts", Integer, nullable=False),  # of this service, or shard
    Column("items", Text, nullable=False),  # encrypted, context as of CopyGathered; or NOTHING
    Column("gathered_at", DateTime(timezone=True), nullable=False),
    Column("shard", Text, nullable=False, server_default=text("''::text")),
    Column("shards", Integer, nullable=False, server_default=text("1")),  # that answer for the service
    PrimaryKeyConstraint("copy_id", "service", "shards", "shard", "place"),
)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy and its progress. `items`: by service, once complete."""

    copy_id: str
    subject_id: str
    controller_id: str
    requested_at: datetime
    completed_at: datetime | None
    expires_at: datetime
    waiting_for: tuple[str, ...]
    items: Mapping[str, Sequence[Item]]


async def begin(
    tx: AsyncConnection,
    keys: FieldKeys,
    copy_id: str,
    subject_id: str,
    controller_id: str,
    now: datetime,
    *,
    bare: bool = False,
) -> None:
    """Begin a copy: store the row and consent-svc's part, and ask the other services, once per id.

    `bare`: an erasure is under way, of which the controller must not learn. The copy looks like any other, and keeps
    nothing that a service gathers before it erases.
    """
    added = await tx.execute(
        text(
            "INSERT INTO copy (copy_id, subject_id, controller_id, requested_at, expires_at, bare)"
            " VALUES (:id, :subject, :controller, :now, :until, :bare) ON CONFLICT DO NOTHING RETURNING copy_id"
        ),
        {
            "id": copy_id,
            "subject": subject_id,
            "controller": controller_id,
            "now": now,
            "until": now + KEPT,
            "bare": bare,
        },
    )
    if added.one_or_none() is None:
        return
    asked = CopyRequested(copy_id=copy_id, subject_id=subject_id, controller_id=controller_id, requested_at=now)
    await _put(tx, await copier(keys).parts(tx, asked))
    await outbox.append(tx, COPIES, [asked])
    ASKED.inc()


def copier(keys: FieldKeys) -> Copier:
    async def gather(tx: AsyncConnection, subject_id: str, controller_id: str) -> Sequence[Item]:
        rectified = [
            {"kind": "rectification", "about": each.kind, **{name: getattr(each, name) for name in RECTIFIED}}
            for each in await rectifications.of_person(tx, keys, subject_id, controller_id)
        ]
        subject = await ledger_store.find_subject(tx, subject_id)
        if subject is None:
            return rectified
        theirs = await senders_store.of_controller(tx, controller_id)
        consents = [
            {"kind": "consent", **msgspec.structs.asdict(c)}
            for c in ledger.consents(subject.state)
            if c.sender_id in theirs
        ]
        opt_outs = [
            {"kind": "opt_out", **msgspec.structs.asdict(s)}
            for s in ledger.suppressions(subject.state)
            if s.sender_id is None or s.sender_id in theirs
        ]
        history = [
            entry
            for entry in await ledger_store.history(tx, subject_id, subject.entries, theirs)
            if entry.evidence.sender_id in theirs
        ]
        corrected_by = corrections.corrected_by(entry.evidence for entry in history)
        entries = [
            {
                "kind": "evidence",
                "position": place,  # among the lines shown: the others' are not counted
                "recorded_at": entry.recorded_at,
                "said": msgspec.structs.asdict(entry.evidence),
                "corrected_by": corrected_by.get(entry.evidence.evidence_id, []),
            }
            for place, entry in enumerate(history, start=1)
        ]
        listed = (await ledger_store.listed_of(tx, [subject_id])).get(subject_id, ())
        lists = [
            {"kind": "listed", "said": msgspec.structs.asdict(each)} for each in listed if each.sender_id in theirs
        ]
        known = [*consents, *lists, *entries]
        # the number alone would tell that another controller knows the person
        number = [{"kind": "number", "number": opened(keys, subject.number, f"number:{subject_id}")}] if known else []
        return [*number, *consents, *opt_outs, *lists, *entries, *rectified]

    return Copier("consent", keys, gather)


async def take_parts(tx: AsyncConnection, batch: list[Received]) -> After | None:
    await _put(tx, [received.event for received in batch if isinstance(received.event, CopyGathered)])
    return None


parts = Subscription("consent.copy-parts", COPY_PARTS, take_parts, max_records=20)  # each up to half a megabyte


async def _put(tx: AsyncConnection, gathered: Sequence[CopyGathered]) -> None:
    """Store parts: the first per place counts. Parts of a deleted copy are dropped."""
    if not gathered:
        return
    await tx.execute(
        text(
            "INSERT INTO copy_part (copy_id, service, place, parts, items, gathered_at, shard, shards)"
            " SELECT p.copy_id, p.service, p.place, p.parts,"
            " CASE WHEN c.bare AND p.service <> 'consent' THEN :nothing ELSE p.items END, p.at, p.shard, p.shards"
            " FROM unnest(CAST(:ids AS text[]), CAST(:services AS text[]), CAST(:places AS integer[]),"
            " CAST(:parts AS integer[]), CAST(:items AS text[]), CAST(:ats AS timestamptz[]), CAST(:shards AS text[]),"
            " CAST(:of AS integer[])) AS p(copy_id, service, place, parts, items, at, shard, shards)"
            " JOIN copy AS c USING (copy_id) FOR SHARE OF c ON CONFLICT DO NOTHING"
        ),
        {
            "nothing": NOTHING,
            "ids": [part.copy_id for part in gathered],
            "services": [part.service for part in gathered],
            "places": [part.place for part in gathered],
            "parts": [part.of for part in gathered],
            "items": [part.items for part in gathered],
            "ats": [part.gathered_at for part in gathered],
            "shards": [part.shard for part in gathered],
            "of": [part.shards for part in gathered],
        },
    )
    await tx.execute(
        text(
            "UPDATE copy AS c SET completed_at = :now WHERE c.copy_id = ANY(CAST(:ids AS text[]))"
            " AND c.completed_at IS NULL AND :services = (WITH s AS (SELECT p.service, p.shards, p.shard"
            " FROM copy_part AS p WHERE p.copy_id = c.copy_id AND p.service = ANY(CAST(:all AS text[]))"
            " GROUP BY p.service, p.shards, p.shard HAVING count(*) = max(p.parts))"
            " SELECT count(DISTINCT w.service) FROM (SELECT s.service FROM s WHERE s.shard <> ''"
            " GROUP BY s.service HAVING count(DISTINCT s.shard) >= max(s.shards) UNION ALL SELECT s.service FROM s"
            " GROUP BY s.service, s.shards HAVING count(*) = s.shards) AS w)"
        ),
        {
            "now": datetime.now(UTC),
            "ids": [part.copy_id for part in gathered],
            "all": list(SERVICES),
            "services": len(SERVICES),
        },
    )


async def find(
    tx: AsyncConnection, keys: FieldKeys, copy_id: str, controllers: Collection[str], now: datetime
) -> Copy | None:
    """Return a copy of one of these controllers, or None if unknown, expired or erased."""
    found = await tx.execute(
        text("SELECT * FROM copy WHERE copy_id = :id AND expires_at > :now AND controller_id = ANY(:controllers)"),
        {"id": copy_id, "now": now, "controllers": list(controllers)},
    )
    row = found.one_or_none()
    if row is None:
        return None
    gathered = (
        await tx.execute(
            text("SELECT * FROM copy_part WHERE copy_id = :id ORDER BY service, shards, shard, place"), {"id": copy_id}
        )
    ).all()
    many = Counter((part.service, part.shards, part.shard) for part in gathered)
    told = {key for part in gathered if many[key := (part.service, part.shards, part.shard)] == part.parts}
    answers = {
        service: whole({(shards, shard): shards for of, shards, shard in told if of == service}) for service in SERVICES
    }
    answered = {service: of_shards for service, of_shards in answers.items() if of_shards}
    items: dict[str, list[Item]] = {}
    if row.completed_at is not None:
        for part in gathered:
            if answered.get(part.service, {}).get(part.shard) != part.shards:
                continue  # of before the shard was divided
            of_service = items.setdefault(part.service, [])
            if part.items != NOTHING:
                opened_part = keys.unseal(part.items, context(copy_id, part.service, part.place, part.shard))
                of_service += msgspec.json.decode(opened_part, type=list[Item])
    return Copy(
        copy_id=row.copy_id,
        subject_id=row.subject_id,
        controller_id=row.controller_id,
        requested_at=row.requested_at,
        completed_at=row.completed_at,
        expires_at=row.expires_at,
        waiting_for=tuple(service for service in SERVICES if service not in answered),
        items=items,
    )


async def delete(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Delete these people's copies; return the numbers. A concurrent part then finds no copy.

    A bare copy stays when everything is erased: its end would tell the controller of the erasure.
    """
    rows = await tx.execute(
        text(
            f"DELETE FROM copy AS c USING {TO_ERASE} WHERE c.subject_id = a.subject_id"
            " AND (c.controller_id = a.controller_id OR a.controller_id IS NULL AND NOT c.bare)"
            " RETURNING c.copy_id, a.subject_id, a.controller_id"
        ),
        columns(asked),
    )
    gone = rows.all()
    await _delete_parts(tx, [row.copy_id for row in gone])
    return Counter(Whom(row.subject_id, row.controller_id) for row in gone)


async def _delete_parts(tx: AsyncConnection, copy_ids: Sequence[str]) -> None:
    await tx.execute(text("DELETE FROM copy_part WHERE copy_id = ANY(CAST(:ids AS text[]))"), {"ids": list(copy_ids)})


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Deletes expired copies."""

    database: Database

    def worker(self) -> Worker:
        timer = Timer("forget copies", self.look, LOOK_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        async with self.database.begin() as tx:
            rows = await tx.execute(
                text(
                    "DELETE FROM copy WHERE copy_id IN (SELECT copy_id FROM copy WHERE expires_at <= :now"
                    " ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING copy_id"
                ),
                {"now": datetime.now(UTC), "limit": FORGOTTEN_AT_ONCE},
            )
            gone = [row.copy_id for row in rows]
            await _delete_parts(tx, gone)
        return bool(gone)


def csv_of(copy: Copy) -> str:
    """Return a row per value; items are numbered per service, a nested field is `outer.inner`."""
    written = io.StringIO()
    rows = csv.writer(written)
    rows.writerow(("service", "kind", "item", "field", "value"))
    for service, items in copy.items.items():
        for place, item in enumerate(items, start=1):
            for field, value in _flat(item):
                if field != "kind":
                    rows.writerow((service, item["kind"], place, field, cell(value)))
    return written.getvalue()


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, " ".join(str(one) for one in value)
    else:
        yield name, value
