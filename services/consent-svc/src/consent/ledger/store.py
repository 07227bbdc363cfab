"""Own subjects, evidence, reviews and the suppression-list entries beside the ledger.

`evidence` is append-only: triggers refuse a delete, and every update except an erasure. Every transaction locks
subjects in subject_id order, which avoids deadlocks.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import astuple
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import Purpose
from common.db.database import fetch_many, insert_many
from common.privacy.erasing import TO_ERASE, Erasure, Whom, columns, counted, meant
from consent.ledger.chain import GENESIS, PERSONAL, Entry
from consent.ledger.retention import Rule
from consent.ledger.rules import NEVER_SEEN, Evidence, SubjectState
from consent.ledger.statement import Registered as Registered
from consent.schema import metadata

HISTORY_ENTRIES = 1000
NEEDS_NUMBER = "e.kind IN ('opt_in', 'request')"  # as `recorder.OPENING`: an opt-out needs the keyed hash alone

subject = Table(
    "subject",
    metadata,
    Column("subject_id", Text, primary_key=True),
    Column("number", Text, nullable=True),  # encrypted, context "number:<subject_id>"; null: erased, or never given
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    Column("state", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("entries", Integer, nullable=False, server_default=text("0")),
    Column("head", Text, nullable=False, server_default=text(f"'{GENESIS}'::text")),  # hash of the newest entry
    Column("held_since", DateTime(timezone=True), nullable=True),
    Column("erased_at", DateTime(timezone=True), nullable=True),  # null once a newer opt-in brings the person back
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

Table(
    "review",
    metadata,
    Column("mo_id", Text, primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("open", Boolean, nullable=False),
    Index("review_open_ix", "subject_id", postgresql_where=text("open")),
    Index("review_closed_ix", "since", postgresql_where=text("NOT open")),
)

Table(
    "evidence",
    metadata,
    Column("evidence_id", Text, primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("sender_id", Text, nullable=True),
    Column("purpose", Text, nullable=True),
    Column("basis", Text, nullable=True),
    Column("source", Text, nullable=False),
    Column("form_id", Text, nullable=True),
    Column("form_version", Text, nullable=True),
    Column("text_shown", Text, nullable=True),
    Column("actor", Text, nullable=True),
    Column("sale_reference", Text, nullable=True),
    Column("reference", Text, nullable=True),
    Column("answers", Text, nullable=True),
    Column("controller", Text, nullable=True),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("arrived_at", DateTime(timezone=True), nullable=True),  # only of a STOP by SMS
    Column("clock", Text, nullable=True),  # only of a STOP or START by SMS
    Column("reopening_rule", Text, nullable=True),  # only of an asserted opt-in
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("salt", Text, nullable=True),  # null: erased, with every column of PERSONAL
    Column("sealed", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("ordinal", BigInteger, Identity(always=True), nullable=False),  # place in the whole ledger
    UniqueConstraint("subject_id", "position"),
    Index("evidence_ordinal_ix", "ordinal", unique=True),
    Index("evidence_opt_out_ix", "sender_id", "recorded_at", postgresql_where=text("kind = 'opt_out'")),
    Index(
        "evidence_wide_opt_out_ix",
        "controller",
        "recorded_at",
        postgresql_where=text("kind = 'opt_out' AND controller IS NOT NULL"),
    ),
    CheckConstraint("kind IN ('opt_in', 'opt_out', 'request', 'expiry', 'contact', 'correction')", name="kind"),
    CheckConstraint("kind <> 'opt_in' OR basis IS NOT NULL", name="opt_in"),
    CheckConstraint(
        "(sender_id IS NOT NULL OR (kind IN ('opt_out', 'correction') AND purpose IS NULL))"
        " AND (purpose IS NOT NULL OR kind IN ('opt_out', 'contact', 'correction'))",
        name="scope",
    ),
)

Table(
    "listed",  # newest per scope ('': all) and authority, of subjects opted out
    metadata,
    Column("subject_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("by_person", Boolean, nullable=False),
    Column("evidence_id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("reference", Text, nullable=True),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("subject_id", "sender_id", "purpose", "by_person"),
)


class Subject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A person known by a number. `erased_at`: when the erasure began."""

    subject_id: str
    version: int = 0
    state: SubjectState = NEVER_SEEN
    entries: int = 0
    head: str = GENESIS
    held_since: datetime | None = None
    number: str | None = None
    erased_at: datetime | None = None


class Review(msgspec.Struct, frozen=True, gc=False):
    """An MO in manual review, as of `revision`."""

    mo_id: str
    subject_id: str
    since: datetime
    revision: int
    open: bool


_state = msgspec.json.Decoder(SubjectState)
_purposes = msgspec.json.Decoder(tuple[Purpose, ...])

# in field order
_EVIDENCE = {name: "timestamptz" if name.endswith("_at") else "text" for name in Evidence.__struct_fields__}
_ENTRY = {
    "subject_id": "text",
    "position": "integer",
    "recorded_at": "timestamptz",
    "salt": "text",
    "sealed": "text",
    "hash": "text",
}
# columns read by name: `SELECT *` would pass `entry` a column that a newer version has added
ENTRY_COLUMNS = ", ".join(_EVIDENCE | _ENTRY)

_SUBJECT = "subject_id, version, state::text AS state, entries, head, held_since, number, erased_at"


async def lock_subjects(
    tx: AsyncConnection, created: Collection[str], known: Collection[str] = ()
) -> dict[str, Subject]:
    """Lock these subjects in subject_id order until the transaction ends.

    A new subject of `created` gets a row, without a number; a subject of `known` is locked where a row exists. The
    inserts run in locking order too, because an insert waits as well.
    """
    if not created and not known:
        return {}
    if created:
        await tx.execute(
            text(
                "INSERT INTO subject (subject_id) SELECT s.subject_id FROM unnest(CAST(:ids AS text[]))"
                " WITH ORDINALITY AS s(subject_id, place) ORDER BY s.place ON CONFLICT DO NOTHING"
            ),
            {"ids": sorted(created)},
        )
    rows = await tx.execute(
        text(
            f"SELECT {_SUBJECT} FROM subject WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY subject_id FOR UPDATE"
        ),
        {"ids": sorted({*created, *known})},
    )
    return {row.subject_id: _subject(**row._mapping) for row in rows}


async def find_subject(tx: AsyncConnection, subject_id: str) -> Subject | None:
    rows = await tx.execute(text(f"SELECT {_SUBJECT} FROM subject WHERE subject_id = :id"), {"id": subject_id})
    row = rows.one_or_none()
    return _subject(**row._mapping) if row else None


class Standing(msgspec.Struct, frozen=True, gc=False):
    """The part of a subject on which permission depends."""

    state: SubjectState = NEVER_SEEN
    held_since: datetime | None = None
    erased: bool = False


async def standing_of(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, Standing]:
    """Return the standing of the subjects on record."""
    return (await stored_standings(tx, subject_ids)).decoded()


@dataclass(frozen=True, slots=True)
class StoredStandings:
    """Standings as stored, for a thread to decode."""

    _rows: Sequence[Sequence[Any]]

    def decoded(self) -> dict[str, Standing]:
        """Return the standings by subject_id."""
        return {subject_id: Standing(_state.decode(state), *more) for subject_id, state, *more in self._rows}


async def stored_standings(tx: AsyncConnection, subject_ids: Sequence[str]) -> StoredStandings:
    sql = (
        "SELECT subject_id, state::text, held_since, erased_at IS NOT NULL FROM subject"
        " WHERE subject_id = ANY($1::text[])"
    )
    return StoredStandings(await fetch_many(tx, sql, subject_ids))


async def with_opt_out_of(
    tx: AsyncConnection, sender_id: str, controller: str, after: str, limit: int
) -> list[Subject]:
    """Return subjects with an opt-out of this sender, of its whole controller or of everyone, by id after `after`."""
    scopes = ({"sender_id": sender_id}, {"controller": controller}, {"sender_id": None})
    marks = [msgspec.json.encode({"marks": [{"kind": "opt_out", **scope}]}).decode() for scope in scopes]
    rows = await tx.execute(
        text(
            f"SELECT {_SUBJECT} FROM subject WHERE subject_id > :after"
            " AND (state @> CAST(:of_sender AS jsonb) OR state @> CAST(:of_controller AS jsonb)"
            " OR state @> CAST(:of_all AS jsonb))"
            " ORDER BY subject_id LIMIT :limit"
        ),
        {"after": after, "of_sender": marks[0], "of_controller": marks[1], "of_all": marks[2], "limit": limit},
    )
    return [_subject(**row._mapping) for row in rows]


class Known(NamedTuple):
    """The ids on record among the ids asked for, and the retention rules."""

    evidence: set[str]
    subjects: set[str]
    senders: dict[str, Registered]
    rules: dict[tuple[str, str], Rule]
    erased: dict[str, list[Erasure]]


async def known(
    tx: AsyncConnection,
    *,
    evidence: Collection[str] = (),
    subjects: Collection[str] = (),
    senders: Collection[str] = (),
    erased: Collection[str] = (),
) -> Known:
    """Look up these ids. `erased`: the subjects whose erasures are of use."""
    rows = await fetch_many(
        tx,
        "SELECT 'e', evidence_id, NULL, NULL, NULL, NULL::integer, NULL::timestamptz, NULL::text[]"
        " FROM (SELECT evidence_id FROM evidence UNION ALL SELECT evidence_id FROM ended_entry) AS e"
        " WHERE evidence_id = ANY($1::text[])"
        " UNION ALL SELECT 'p', subject_id, NULL, NULL, NULL, NULL, NULL, NULL"
        " FROM subject WHERE subject_id = ANY($2::text[])"
        " UNION ALL SELECT 's', sender_id, controller, stop_scope, purposes::text, renewal_days, NULL, NULL"
        " FROM sender WHERE sender_id = ANY($3::text[])"
        " UNION ALL SELECT 'r', sender_id, purpose, rule_id, NULL, NULL, NULL, NULL FROM reopening_rule"
        " WHERE ended_at IS NULL AND sender_id = ANY($3::text[])"
        " UNION ALL SELECT 'g', subject_id, controller_id, NULL, NULL, NULL, requested_at, lifted_for"
        " FROM erasing WHERE subject_id = ANY($4::text[])",
        *(list(ids) for ids in (evidence, subjects, senders, erased)),
    )
    found = Known(set(), set(), {}, {}, {})
    reopening: dict[str, dict[str, str]] = {}
    for what, id_, purpose, rule_id, *_ in rows:
        if what == "r":
            reopening.setdefault(id_, {})[purpose] = rule_id
    for what, id_, controller, stop_scope, purposes, days, at, lifted_for in rows:
        if what == "e":
            found.evidence.add(id_)
        elif what == "p":
            found.subjects.add(id_)
        elif what == "g":
            found.erased.setdefault(id_, []).append(Erasure(controller, at, frozenset(lifted_for)))
        elif what == "s":
            found.senders[id_] = Registered(controller, stop_scope, reopening.get(id_, {}))
            found.rules.update({(id_, p.id): Rule(p.retention_months, days) for p in _purposes.decode(purposes)})
    return found


async def put_listed(tx: AsyncConnection, opt_outs: Mapping[str, Sequence[Evidence]]) -> None:
    """Store suppression-list entries, at most one per scope and authority: the newer stays.

    The subjects must be locked. A caller's list never replaces a provider's, which holds asserted opt-ins.
    """
    rows = [(subject_id, one) for subject_id, some in opt_outs.items() for one in some]
    await tx.execute(
        text(
            "INSERT INTO listed AS l (subject_id, sender_id, purpose, by_person, evidence_id, source, reference,"
            " occurred_at, received_at) SELECT * FROM unnest(CAST(:subjects AS text[]), CAST(:senders AS text[]),"
            " CAST(:purposes AS text[]), CAST(:by_person AS boolean[]), CAST(:evidence AS text[]),"
            " CAST(:sources AS text[]), CAST(:references AS text[]), CAST(:occurred AS timestamptz[]),"
            " CAST(:received AS timestamptz[]))"
            " ON CONFLICT (subject_id, sender_id, purpose, by_person) DO UPDATE SET evidence_id = excluded.evidence_id,"
            " source = excluded.source, reference = excluded.reference, occurred_at = excluded.occurred_at,"
            " received_at = excluded.received_at WHERE least(l.occurred_at, l.received_at)"
            " < least(excluded.occurred_at, excluded.received_at)"
        ),
        {
            "subjects": [subject_id for subject_id, _ in rows],
            "senders": [one.sender_id or "" for _, one in rows],
            "purposes": [one.purpose or "" for _, one in rows],
            "by_person": [one.by_person for _, one in rows],
            "evidence": [one.evidence_id for _, one in rows],
            "sources": [one.source for _, one in rows],
            "references": [one.reference for _, one in rows],
            "occurred": [one.occurred_at for _, one in rows],
            "received": [one.received_at for _, one in rows],
        },
    )


async def listed_of(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, list[Evidence]]:
    """Return the suppression-list entries beside the ledger."""
    if not subject_ids:
        return {}
    rows = await tx.execute(
        text(
            "SELECT * FROM listed WHERE subject_id = ANY(CAST(:ids AS text[])) ORDER BY sender_id, purpose, by_person"
        ),
        {"ids": list(subject_ids)},
    )
    found: dict[str, list[Evidence]] = {}
    for row in rows:
        said = Evidence(
            evidence_id=row.evidence_id,
            kind="opt_out",
            sender_id=row.sender_id or None,
            purpose=row.purpose or None,
            source=row.source,
            reference=row.reference,
            occurred_at=row.occurred_at,
            received_at=row.received_at,
        )
        found.setdefault(row.subject_id, []).append(said)
    return found


async def append_entries(tx: AsyncConnection, entries: Sequence[Entry]) -> None:
    """Append entries to the ledger. The subjects must be locked."""
    rows = [(*astuple(e.evidence), e.subject_id, e.position, e.recorded_at, e.salt, e.sealed, e.hash) for e in entries]
    await insert_many(tx, "evidence", _EVIDENCE | _ENTRY, rows)


async def add_subjects(tx: AsyncConnection, subjects: Collection[Subject], now: datetime) -> set[str]:
    """Insert new subjects in locking order, and return the ids inserted, now locked. Known subjects stay unchanged."""
    ordered = sorted(subjects, key=lambda subject: subject.subject_id)
    rows = await fetch_many(
        tx,
        "INSERT INTO subject (subject_id, version, state, entries, head, held_since, number, erased_at, updated_at)"
        " SELECT s.subject_id, s.version, s.state::jsonb, s.entries, s.head, s.held_since, s.number, s.erased_at, $9"
        " FROM unnest($1::text[], $2::bigint[], $3::text[], $4::integer[], $5::text[], $6::timestamptz[], $7::text[],"
        " $8::timestamptz[]) WITH ORDINALITY"
        " AS s(subject_id, version, state, entries, head, held_since, number, erased_at, place)"
        " ORDER BY s.place ON CONFLICT DO NOTHING RETURNING subject_id",
        *_subject_columns(ordered),
        now,
    )
    return {subject_id for (subject_id,) in rows}


async def put_subjects(tx: AsyncConnection, subjects: Sequence[Subject], now: datetime) -> None:
    """Update locked subjects."""
    if not subjects:
        return
    await fetch_many(
        tx,
        "UPDATE subject SET version = s.version, state = s.state::jsonb, entries = s.entries, head = s.head,"
        " held_since = s.held_since, number = s.number, erased_at = s.erased_at, updated_at = $9"
        " FROM unnest($1::text[], $2::bigint[], $3::text[], $4::integer[], $5::text[], $6::timestamptz[], $7::text[],"
        " $8::timestamptz[]) AS s(subject_id, version, state, entries, head, held_since, number, erased_at)"
        " WHERE subject.subject_id = s.subject_id",
        *_subject_columns(subjects),
        now,
    )


def _subject_columns(subjects: Sequence[Subject]) -> tuple[list[object], ...]:
    return (
        [s.subject_id for s in subjects],
        [s.version for s in subjects],
        [msgspec.json.encode(s.state).decode() for s in subjects],
        [s.entries for s in subjects],
        [s.head for s in subjects],
        [s.held_since for s in subjects],
        [s.number for s in subjects],
        [s.erased_at for s in subjects],
    )


async def erase_personal(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Erase PERSONAL and salt of the entries recorded up to `asked`, and return how many.

    The number goes too, unless the subject is back, or another controller's line needs the number (`NEEDS_NUMBER`).
    The subjects must be locked.
    """
    taken = ", ".join(f"{name} = NULL" for name in (*PERSONAL, "salt"))
    rows = await tx.execute(
        text(
            f"WITH taken AS (UPDATE evidence AS e SET {taken} FROM {TO_ERASE}"
            f" WHERE e.subject_id = a.subject_id AND {meant('e.sender_id')}"
            " AND e.recorded_at <= a.at AND e.salt IS NOT NULL RETURNING a.subject_id, a.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM taken GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    found = counted(rows)
    await tx.execute(
        text(
            "UPDATE subject AS s SET number = NULL"
            " WHERE s.subject_id = ANY(CAST(:ids AS text[])) AND s.number IS NOT NULL AND (s.erased_at IS NOT NULL"
            " OR NOT EXISTS (SELECT FROM evidence AS e WHERE e.subject_id = s.subject_id AND e.salt IS NOT NULL"
            f" AND {NEEDS_NUMBER}))"
        ),
        {"ids": [whom.subject_id for whom in asked]},
    )
    return found


async def close_reviews(tx: AsyncConnection, subject_ids: Collection[str]) -> None:
    """Close open reviews unread. The subjects must be locked."""
    await tx.execute(
        text("UPDATE review SET open = false WHERE open AND subject_id = ANY(CAST(:ids AS text[]))"),
        {"ids": list(subject_ids)},
    )


async def put_reviews(tx: AsyncConnection, reviews: Sequence[Review]) -> dict[str, datetime]:
    """Store the newest revision of each review; return since when subjects with an open review are held.

    The subjects must be locked; an MO may occur once. A closed review stays: an older revision may still arrive.
    """
    await tx.execute(
        text(
            "INSERT INTO review (mo_id, subject_id, since, revision, open) SELECT * FROM unnest(CAST(:ids AS text[]),"
            " CAST(:subjects AS text[]), CAST(:since AS timestamptz[]), CAST(:revisions AS integer[]),"
            " CAST(:open AS boolean[]))"
            " ON CONFLICT (mo_id) DO UPDATE SET revision = excluded.revision, open = excluded.open"
            " WHERE review.revision < excluded.revision"
        ),
        {
            "ids": [r.mo_id for r in reviews],
            "subjects": [r.subject_id for r in reviews],
            "since": [r.since for r in reviews],
            "revisions": [r.revision for r in reviews],
            "open": [r.open for r in reviews],
        },
    )
    rows = await tx.execute(
        text(
            "SELECT subject_id, min(since) AS since FROM review"
            " WHERE open AND subject_id = ANY(CAST(:subjects AS text[])) GROUP BY subject_id"
        ),
        {"subjects": [r.subject_id for r in reviews]},
    )
    return {row.subject_id: row.since for row in rows}


async def history(
    tx: AsyncConnection, subject_id: str, up_to: int | None = None, senders: Collection[str] | None = None
) -> list[Entry]:
    """Return the newest HISTORY_ENTRIES entries of a subject, newest last.

    `up_to`: the `entries` of a subject read without a lock, for the same moment. `senders`: only entries of these
    senders, and those about every sender, so that the entries of others take no place.
    """
    rows = await tx.execute(
        text(
            f"SELECT {ENTRY_COLUMNS} FROM evidence WHERE subject_id = :id AND position <= coalesce(:up_to, position)"
            " AND (CAST(:senders AS text[]) IS NULL OR sender_id IS NULL OR sender_id = ANY(CAST(:senders AS text[])))"
            " ORDER BY position DESC LIMIT :limit"
        ),
        {
            "id": subject_id,
            "up_to": up_to,
            "senders": None if senders is None else list(senders),
            "limit": HISTORY_ENTRIES,
        },
    )
    return [entry(**row._mapping) for row in reversed(rows.all())]


async def whole_histories(tx: AsyncConnection, subject_ids: Collection[str]) -> list[tuple[Subject, list[Entry]]]:
    """Return these subjects in id order, each with its history; an unknown subject comes empty."""
    rows = await tx.execute(
        text(f"SELECT {_SUBJECT} FROM subject WHERE subject_id = ANY(CAST(:ids AS text[]))"),
        {"ids": list(subject_ids)},
    )
    subjects = {row.subject_id: _subject(**row._mapping) for row in rows}
    rows = await tx.execute(
        text(
            f"SELECT {ENTRY_COLUMNS} FROM evidence WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY subject_id, position"
        ),
        {"ids": list(subjects)},
    )
    found = {subject_id: subjects.get(subject_id) or Subject(subject_id=subject_id) for subject_id in subject_ids}
    histories: dict[str, list[Entry]] = {subject_id: [] for subject_id in found}
    for row in rows:
        if row.position <= found[row.subject_id].entries:  # the others were appended meanwhile
            histories[row.subject_id].append(entry(**row._mapping))
    return [(found[subject_id], histories[subject_id]) for subject_id in sorted(found)]


async def opt_outs_since(
    tx: AsyncConnection, subject_ids: Collection[str], since: datetime
) -> dict[str, list[Evidence]]:
    """Return the opt-outs recorded since `since`, oldest first."""
    rows = await tx.execute(
        text(
            f"SELECT {ENTRY_COLUMNS} FROM evidence WHERE subject_id = ANY(CAST(:ids AS text[])) AND kind = 'opt_out'"
            " AND recorded_at >= :since ORDER BY subject_id, position"
        ),
        {"ids": list(subject_ids), "since": since},
    )
    found: dict[str, list[Evidence]] = {}
    for row in rows:
        found.setdefault(row.subject_id, []).append(entry(**row._mapping).evidence)
    return found


async def told_after(tx: AsyncConnection, after: str, limit: int) -> list[str]:
    """Return ids of subjects with a published state, in order after `after`."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id FROM subject WHERE subject_id > $1 AND version > 0 ORDER BY subject_id LIMIT $2",
        after,
        limit,
    )
    return [subject_id for (subject_id,) in rows]


async def find_entry(tx: AsyncConnection, evidence_id: str) -> Entry | None:
    found = await tx.execute(text(f"SELECT {ENTRY_COLUMNS} FROM evidence WHERE evidence_id = :id"), {"id": evidence_id})
    return entry(**row._mapping) if (row := found.one_or_none()) else None


def _subject(*, state: str, **columns: Any) -> Subject:
    return Subject(state=_state.decode(state), **columns)


def entry(
    *,
    subject_id: str,
    position: int,
    recorded_at: datetime,
    salt: str | None,
    sealed: str,
    hash: str,
    **said: Any,
) -> Entry:
    """Return the entry of ENTRY_COLUMNS. `said`: the columns of Evidence."""
    return Entry(
        subject_id=subject_id,
        position=position,
        evidence=Evidence(**said),
        recorded_at=recorded_at,
        salt=salt,
        sealed=sealed,
        hash=hash,
    )
