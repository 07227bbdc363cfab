"""The shared tables of consent-svc and their queries. The store decides nothing; a batch travels as arrays.

`evidence` is append-only: triggers refuse a delete, and every update except an erasure. Every transaction locks
subjects in subject_id order, so that two batches over the same subjects cannot deadlock.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
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
    Row,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import Purpose, Replies, StopScope
from common.db.database import fetch_many, insert_many, new_metadata
from common.kafka import consumer, dead_letters, outbox
from common.privacy import erasing
from consent.double_opt_in.rules import WINDOW_HOURS
from consent.ledger.chain import GENESIS, PERSONAL, Entry
from consent.ledger.rules import NEVER_SEEN, RECTIFICATION, Evidence, SubjectState
from consent.proof.receipt import Party
from consent.retention.rules import Question, Rule, Rules, Term

IN_OUR_WORDS = Replies()
EARLIEST_END = datetime(1970, 1, 1, tzinfo=UTC)
HISTORY_ENTRIES = 1000  # the newest, in a lookup
READ_AT_ONCE = 2000  # rows in memory while a whole table is read

metadata = new_metadata()

Table(
    "sender",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("legal_name", Text, nullable=False),
    Column("brand", Text, nullable=False),
    Column("contact", Text, nullable=False),
    Column("country", Text, nullable=False),
    Column("oadc", Text, nullable=False),
    Column("stop_code", Text, nullable=False),
    Column("purposes", JSONB, nullable=False),
    # All codes and purposes ever: a STOP may answer an old message, a person may leave a purpose no longer offered.
    Column("stop_codes", ARRAY(Text), nullable=False),
    Column("purpose_ids", ARRAY(Text), nullable=False),
    Column("controller", Text, nullable=False),
    Column("stop_scope", Text, nullable=False),
    Column("replies", JSONB, nullable=False),
    Column("double_opt_in_hours", Integer, nullable=False, server_default=text(str(WINDOW_HOURS))),
    Column("renewal_days", Integer, nullable=True),
    Column("abroad", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)

Table(
    "sender_version",  # every version of a sender
    metadata,
    Column("sender_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("content", JSONB, nullable=False),
    Column("in_force_from", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("sender_id", "version"),
)

subject = Table(
    "subject",
    metadata,
    Column("subject_id", Text, primary_key=True),
    Column("number", Text, nullable=True),  # encrypted, context "number:<subject_id>"; null: erased, or never given
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    Column("state", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("entries", Integer, nullable=False, server_default=text("0")),
    Column("head", Text, nullable=False, server_default=text(f"'{GENESIS}'::text")),  # hash of the newest entry
    Column("held_since", DateTime(timezone=True), nullable=True),  # `since` of the oldest open review
    Column("erased_at", DateTime(timezone=True), nullable=True),  # null once a newer opt-in brings the person back
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

Table(
    "review",  # an MO in manual review, open or closed
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
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("salt", Text, nullable=True),  # null: erased, with every column of PERSONAL
    Column("sealed", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("ordinal", BigInteger, Identity(always=True), nullable=False),  # place in the whole ledger
    UniqueConstraint("subject_id", "position"),
    Index("evidence_ordinal_ix", "ordinal", unique=True),
    CheckConstraint("kind IN ('opt_in', 'opt_out', 'request', 'expiry', 'contact', 'correction')", name="kind"),
    CheckConstraint("kind <> 'opt_in' OR basis IS NOT NULL", name="opt_in"),
    CheckConstraint(
        "(sender_id IS NOT NULL OR (kind IN ('opt_out', 'correction') AND purpose IS NULL))"
        " AND (purpose IS NOT NULL OR kind IN ('opt_out', 'contact', 'correction'))",
        name="scope",
    ),
)

Table(
    "preference_link",  # target of a short link; the key which signs links is elsewhere
    metadata,
    Column("link_id", Text, primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("number", Text, nullable=False),  # encrypted as `subject.number`; the subject may have no row
    Column("sender_id", Text, nullable=True),  # null: every sender
    Column("browser", Text, nullable=True),  # SHA-256 of the cookie which did more than stop
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("whole", Boolean, nullable=False, server_default=text("false")),  # the link may do more than stop
    Column("given_to", Text, nullable=True),  # the caller; null: texted, or not recorded
    Index("preference_link_expires_at_ix", "expires_at"),
    Index("preference_link_subject_id_ix", "subject_id"),
)

Table(
    "handed_off",  # a marketing message which left, and the consent version behind the decision
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("campaign_id", Text, nullable=True),
    Column("handed_off_at", DateTime(timezone=True), nullable=False),
    Column("consent_version", BigInteger, nullable=True),
    Column("ordinal", BigInteger, Identity(always=True), nullable=False),  # order of writing (`proof/retroactive.py`)
    Index("handed_off_ordinal_ix", "ordinal", unique=True),
    Index("handed_off_campaign_ix", "campaign_id", "subject_id"),
    Index("handed_off_subject_ix", "subject_id", "handed_off_at"),
    Index("handed_off_at_ix", "handed_off_at"),
)

Table(
    "retention_due",  # end and next step of each open consent; no number
    metadata,
    Column("subject_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("last_contact", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("ask_at", DateTime(timezone=True), nullable=True),
    Column("question", Text, nullable=True),  # as texted; no personal data
    Column("asked_at", DateTime(timezone=True), nullable=True),
    Column("answer_before", DateTime(timezone=True), nullable=True),
    Column("open", Boolean, nullable=False, server_default=text("true")),  # false: ended, question pending
    PrimaryKeyConstraint("subject_id", "sender_id", "purpose"),
    Index("retention_due_due_at_ix", "due_at"),
    Index("retention_due_sender_ix", "sender_id", "expires_at", "subject_id"),
)

Table(
    "retention_recount",  # a sender whose retention rules changed: a worker recounts the consents once
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("after_xid", BigInteger, nullable=True),  # transactions up to this id end before the recount begins
    Column("cursor_at", DateTime(timezone=True), nullable=True),
    Column("cursor_subject", Text, nullable=True),
)

Table(
    "listed",  # newest suppression-list entry of a subject already opted out, by scope ('': all)
    metadata,
    Column("subject_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("evidence_id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("reference", Text, nullable=True),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("subject_id", "sender_id", "purpose"),
)

Table(
    "keyed_request",  # an Idempotency-Key of a caller
    metadata,
    Column("caller", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),  # keyed hash of path and body
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("caller", "key"),
    Index("keyed_request_created_at_ix", "created_at"),
)

outbox.define(metadata)
consumer.define(metadata)
dead_letters.define(metadata)
erasing.define(metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A registered sender. `version` counts the changes from 1; `controller` is the legal entity's id."""

    sender_id: str
    legal_name: str
    brand: str
    contact: str
    country: str
    oadc: str
    stop_code: str
    purposes: tuple[Purpose, ...]
    controller: str
    stop_scope: StopScope = "controller"
    replies: Replies = IN_OUR_WORDS
    double_opt_in_hours: int = WINDOW_HOURS  # how long the question of a double opt-in waits for an answer
    renewal_days: int | None = None  # days before a consent ends when the person is asked, if at all
    abroad: tuple[str, ...] = ()  # other countries open to marketing
    version: int = 1


class Subject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A person known by a number: the folded state, and the head of the chain of entries.

    `number`: encrypted, unless erased or never given. `erased_at`: when the erasure began, by request or retention; a
    newer opt-in brings the person back and clears the field.
    """

    subject_id: str
    version: int = 0
    state: SubjectState = NEVER_SEEN
    entries: int = 0
    head: str = GENESIS
    held_since: datetime | None = None
    number: str | None = None
    erased_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOff:
    """A marketing message which left, and the version of the subject's consent behind the decision."""

    message_id: str
    subject_id: str
    sender_id: str
    purpose: str
    campaign_id: str | None
    handed_off_at: datetime
    consent_version: int | None


class Review(msgspec.Struct, frozen=True, gc=False):
    """An MO in manual review, as of `revision`. `open`: the MO still waits for a reader."""

    mo_id: str
    subject_id: str
    since: datetime
    revision: int
    open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceLink:
    """A short link to a subject's preference page. `number`: encrypted. `sender_id` None: the page shows every sender.

    `whole`: the holder counts as the person, also for an opt-in or an erasure: consent-svc texted the link to the
    person, or gave the link to a caller for every sender. `given_to`: the caller; None: texted where `whole`, else
    not recorded.
    """

    link_id: str
    subject_id: str
    number: str
    sender_id: str | None
    expires_at: datetime
    browser: str | None = None
    whole: bool = False
    given_to: str | None = None

    @property
    def only_stops(self) -> bool:
        """Return whether the link can only stop.

        A link for every sender counts as whole: only a caller for every sender could ever ask for such a link.
        """
        return not self.whole and self.sender_id is not None


_state = msgspec.json.Decoder(SubjectState)
_purposes = msgspec.json.Decoder(tuple[Purpose, ...])
_replies = msgspec.json.Decoder(Replies)
_sender_content = msgspec.json.Decoder(Sender)

# columns of `evidence` and their types, in field order
_EVIDENCE = {name: "timestamptz" if name.endswith("_at") else "text" for name in Evidence.__struct_fields__}
_ENTRY = {
    "subject_id": "text",
    "position": "integer",
    "recorded_at": "timestamptz",
    "salt": "text",
    "sealed": "text",
    "hash": "text",
}
_TERM = {
    "subject_id": "text",
    "sender_id": "text",
    "purpose": "text",
    "last_contact": "timestamptz",
    "expires_at": "timestamptz",
    "ask_at": "timestamptz",
    "due_at": "timestamptz",
}
_HANDED_OFF = {
    "message_id": "text",
    "subject_id": "text",
    "sender_id": "text",
    "purpose": "text",
    "campaign_id": "text",
    "handed_off_at": "timestamptz",
    "consent_version": "bigint",
}
_SUBJECT = "subject_id, version, state::text AS state, entries, head, held_since, number, erased_at"
_SENDER = (
    "sender_id, legal_name, brand, contact, country, oadc, stop_code, purposes::text AS purposes, controller,"
    " stop_scope, replies::text AS replies, double_opt_in_hours, renewal_days, abroad, version"
)


async def lock_subjects(
    tx: AsyncConnection, numbers: Mapping[str, str | None], known: Collection[str] = ()
) -> dict[str, Subject]:
    """Lock these subjects in subject_id order until the transaction ends.

    `numbers`: encrypted numbers by subject_id; a new subject gets a row. `known`: more subjects, locked only where a
    row exists. The inserts run in locking order too: an insert waits for a transaction which inserts the same row.
    """
    if created := sorted(numbers):
        await tx.execute(
            text(
                "INSERT INTO subject (subject_id, number)"
                " SELECT s.subject_id, s.number FROM unnest(CAST(:ids AS text[]), CAST(:numbers AS text[]))"
                " WITH ORDINALITY AS s(subject_id, number, place) ORDER BY s.place ON CONFLICT DO NOTHING"
            ),
            {"ids": created, "numbers": [numbers[subject_id] for subject_id in created]},
        )
    rows = await tx.execute(
        text(
            f"SELECT {_SUBJECT} FROM subject WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY subject_id FOR UPDATE"
        ),
        {"ids": sorted({*numbers, *known})},
    )
    return {row.subject_id: _subject(row) for row in rows}


async def find_subject(tx: AsyncConnection, subject_id: str) -> Subject | None:
    rows = await tx.execute(text(f"SELECT {_SUBJECT} FROM subject WHERE subject_id = :id"), {"id": subject_id})
    row = rows.one_or_none()
    return _subject(row) if row else None


class Standing(msgspec.Struct, frozen=True, gc=False):
    """The part of a subject on which permission depends."""

    state: SubjectState = NEVER_SEEN
    held_since: datetime | None = None


async def standing_of(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, Standing]:
    """Return the standing of these subjects, as far as on record, without locking."""
    return standing_in(await standing_rows(tx, subject_ids))


async def standing_rows(tx: AsyncConnection, subject_ids: Sequence[str]) -> Sequence[Sequence[Any]]:
    """Return the rows for `standing_in`, which can decode ten thousand rows in a thread."""
    sql = "SELECT subject_id, state::text, held_since FROM subject WHERE subject_id = ANY($1::text[])"
    return await fetch_many(tx, sql, subject_ids)


def standing_in(rows: Sequence[Sequence[Any]]) -> dict[str, Standing]:
    """Decode the rows of `standing_rows`, by subject_id."""
    return {subject_id: Standing(_state.decode(state), held_since) for subject_id, state, held_since in rows}


async def with_opt_out_of(tx: AsyncConnection, sender_id: str, after: str, limit: int) -> list[Subject]:
    """Return subjects with an opt-out of this sender or of everyone, by id from after `after`."""
    marks = [{"marks": [{"kind": "opt_out", "sender_id": who}]} for who in (sender_id, None)]
    rows = await tx.execute(
        text(
            f"SELECT {_SUBJECT} FROM subject WHERE subject_id > :after"
            " AND (state @> CAST(:of_sender AS jsonb) OR state @> CAST(:of_all AS jsonb))"
            " ORDER BY subject_id LIMIT :limit"
        ),
        {
            "after": after,
            "of_sender": msgspec.json.encode(marks[0]).decode(),
            "of_all": msgspec.json.encode(marks[1]).decode(),
            "limit": limit,
        },
    )
    return [_subject(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Registered:
    """A sender's controller, and how far a STOP to the sender reaches."""

    controller: str
    stop_scope: StopScope


class Known(NamedTuple):
    """The ids on record among the ids asked for, and the retention rules by (sender_id, purpose)."""

    evidence: set[str]
    subjects: set[str]
    senders: dict[str, Registered]
    rules: dict[tuple[str, str], Rule]


async def known(
    tx: AsyncConnection,
    *,
    evidence: Collection[str] = (),
    subjects: Collection[str] = (),
    senders: Collection[str] = (),
) -> Known:
    """Look up these ids, without locking."""
    rows = await fetch_many(
        tx,
        "SELECT 'e', evidence_id, NULL, NULL, NULL, NULL::integer FROM evidence WHERE evidence_id = ANY($1::text[])"
        " UNION ALL SELECT 'p', subject_id, NULL, NULL, NULL, NULL FROM subject WHERE subject_id = ANY($2::text[])"
        " UNION ALL SELECT 's', sender_id, controller, stop_scope, purposes::text, renewal_days"
        " FROM sender WHERE sender_id = ANY($3::text[])",
        *(list(ids) for ids in (evidence, subjects, senders)),
    )
    found = Known(set(), set(), {}, {})
    for what, id_, controller, stop_scope, purposes, days in rows:
        if what == "e":
            found.evidence.add(id_)
        elif what == "p":
            found.subjects.add(id_)
        else:
            found.senders[id_] = Registered(controller, stop_scope)
            found.rules.update({(id_, p.id): Rule(p.retention_months, days) for p in _purposes.decode(purposes)})
    return found


async def put_listed(tx: AsyncConnection, opt_outs: Mapping[str, Sequence[Evidence]]) -> None:
    """Store suppression-list entries by subject_id, at most one per scope; the newer of two stays.

    The subjects must be locked.
    """
    rows = [(subject_id, one) for subject_id, some in opt_outs.items() for one in some]
    await tx.execute(
        text(
            "INSERT INTO listed AS l (subject_id, sender_id, purpose, evidence_id, source, reference, occurred_at,"
            " received_at) SELECT * FROM unnest(CAST(:subjects AS text[]), CAST(:senders AS text[]),"
            " CAST(:purposes AS text[]), CAST(:evidence AS text[]), CAST(:sources AS text[]),"
            " CAST(:references AS text[]), CAST(:occurred AS timestamptz[]), CAST(:received AS timestamptz[]))"
            " ON CONFLICT (subject_id, sender_id, purpose) DO UPDATE SET evidence_id = excluded.evidence_id,"
            " source = excluded.source, reference = excluded.reference, occurred_at = excluded.occurred_at,"
            " received_at = excluded.received_at WHERE least(l.occurred_at, l.received_at)"
            " < least(excluded.occurred_at, excluded.received_at)"
        ),
        {
            "subjects": [subject_id for subject_id, _ in rows],
            "senders": [one.sender_id or "" for _, one in rows],
            "purposes": [one.purpose or "" for _, one in rows],
            "evidence": [one.evidence_id for _, one in rows],
            "sources": [one.source for _, one in rows],
            "references": [one.reference for _, one in rows],
            "occurred": [one.occurred_at for _, one in rows],
            "received": [one.received_at for _, one in rows],
        },
    )


async def listed_of(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, list[Evidence]]:
    """Return the suppression-list entries beside the ledger, by subject_id. Without subjects, skip the query."""
    if not subject_ids:
        return {}
    rows = await tx.execute(
        text("SELECT * FROM listed WHERE subject_id = ANY(CAST(:ids AS text[])) ORDER BY sender_id, purpose"),
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
    """Insert new subjects in locking order, and return the ids inserted; the inserted rows are locked.

    A subject which another transaction has inserted meanwhile stays unchanged.
    """
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


async def add_terms(tx: AsyncConnection, began: Sequence[tuple[str, Term]]) -> None:
    """Insert the terms of subjects without stored terms."""
    rows = [
        (subject_id, t.sender_id, t.purpose, t.last_contact, t.expires_at, t.ask_at, t.ask_at or t.expires_at)
        for subject_id, t in began
    ]
    await insert_many(tx, "retention_due", _TERM, rows)


async def put_terms(tx: AsyncConnection, ended: Sequence[tuple[str, Term]], open_: Sequence[tuple[str, Term]]) -> None:
    """Delete the terms which ended, and store the terms which began or moved, each with a subject_id.

    The subjects must be locked: no other transaction then writes these rows. A question stays only while the last
    contact is the same: a later contact begins a new term, about which the person was not asked.
    """
    asked = "d.open AND d.asked_at IS NOT NULL AND d.last_contact = excluded.last_contact"
    rows = [(subject_id, term, False) for subject_id, term in ended]
    rows += [(subject_id, term, True) for subject_id, term in open_]
    await tx.execute(
        text(
            "WITH term AS MATERIALIZED (SELECT * FROM unnest(CAST(:subjects AS text[]), CAST(:senders AS text[]),"
            " CAST(:purposes AS text[]), CAST(:contacts AS timestamptz[]), CAST(:ends AS timestamptz[]),"
            " CAST(:asks AS timestamptz[]), CAST(:open AS boolean[]))"
            " AS t(subject_id, sender_id, purpose, last_contact, expires_at, ask_at, open)),"
            " ended AS (DELETE FROM retention_due AS d USING term AS t WHERE NOT t.open"
            " AND (d.subject_id, d.sender_id, d.purpose) = (t.subject_id, t.sender_id, t.purpose))"
            " INSERT INTO retention_due AS d"
            " (subject_id, sender_id, purpose, last_contact, expires_at, ask_at, due_at)"
            " SELECT subject_id, sender_id, purpose, last_contact, expires_at, ask_at, coalesce(ask_at, expires_at)"
            " FROM term WHERE open"
            " ON CONFLICT (subject_id, sender_id, purpose) DO UPDATE SET last_contact = excluded.last_contact,"
            " expires_at = excluded.expires_at, ask_at = excluded.ask_at, open = true,"
            f" due_at = CASE WHEN {asked} THEN excluded.expires_at ELSE excluded.due_at END,"
            f" question = CASE WHEN {asked} THEN d.question END, asked_at = CASE WHEN {asked} THEN d.asked_at END,"
            f" answer_before = CASE WHEN {asked} THEN d.answer_before END"
        ),
        {
            "subjects": [subject_id for subject_id, _, _ in rows],
            "senders": [term.sender_id for _, term, _ in rows],
            "purposes": [term.purpose for _, term, _ in rows],
            "contacts": [term.last_contact for _, term, _ in rows],
            "ends": [term.expires_at for _, term, _ in rows],
            "asks": [term.ask_at for _, term, _ in rows],
            "open": [open_ for _, _, open_ in rows],
        },
    )


async def terms_kept(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, list[Term]]:
    """Return the stored open terms by subject_id."""
    rows = await tx.execute(
        text(
            "SELECT subject_id, sender_id, purpose, last_contact, expires_at, ask_at FROM retention_due"
            " WHERE open AND subject_id = ANY(CAST(:ids AS text[])) ORDER BY subject_id, sender_id, purpose"
        ),
        {"ids": list(subject_ids)},
    )
    found: dict[str, list[Term]] = {}
    for row in rows:
        found.setdefault(row.subject_id, []).append(_term(row))
    return found


def _term(row: Row[Any]) -> Term:
    return Term(
        sender_id=row.sender_id,
        purpose=row.purpose,
        last_contact=row.last_contact,
        expires_at=row.expires_at,
        ask_at=row.ask_at,
    )


@dataclass(frozen=True, slots=True)
class Due:
    """A row of retention_due: a term, the question asked, and when to look again. `open`: the term has not ended."""

    subject_id: str
    term: Term
    question: Question | None
    open: bool
    due_at: datetime


async def due_of(tx: AsyncConnection, subject_ids: Collection[str]) -> list[Due]:
    """Return every row of these subjects."""
    rows = await tx.execute(
        text(
            "SELECT * FROM retention_due WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY subject_id, sender_id, purpose"
        ),
        {"ids": list(subject_ids)},
    )
    return [_due(row) for row in rows]


def _due(row: Row[Any]) -> Due:
    asked = None
    if row.asked_at is not None:
        asked = Question(text=row.question, asked_at=row.asked_at, answer_before=row.answer_before)
    return Due(row.subject_id, _term(row), asked, row.open, row.due_at)


async def endings_by_month(
    tx: AsyncConnection, sender_id: str, begins: datetime, until: datetime
) -> list[tuple[date, str, int, int]]:
    """Count a sender's open consents: (month of ending in UTC, purpose, consents, consents asked about)."""
    rows = await tx.execute(
        text(
            "SELECT CAST(date_trunc('month', expires_at AT TIME ZONE 'UTC') AS date) AS month, purpose,"
            " count(*) AS consents, count(asked_at) AS asked FROM retention_due"
            " WHERE sender_id = :id AND open AND expires_at >= :begins AND expires_at < :until"
            " GROUP BY 1, 2 ORDER BY 1, 2"
        ),
        {"id": sender_id, "begins": begins, "until": until},
    )
    return [(row.month, row.purpose, row.consents, row.asked) for row in rows]


async def endings(
    tx: AsyncConnection, sender_id: str, after: tuple[datetime, str, str] | None, until: datetime, limit: int
) -> list[Due]:
    """Return a sender's open consents which end before `until`, soonest first, from after `after`."""
    at, subject_id, purpose = after or (EARLIEST_END, "", "")
    rows = await tx.execute(
        text(
            "SELECT * FROM retention_due WHERE sender_id = :id AND open AND expires_at < :until AND expires_at >= :at"
            " AND (expires_at, subject_id, purpose) > (:at, :subject_id, :purpose)"
            " ORDER BY expires_at, subject_id, purpose LIMIT :limit"
        ),
        {"id": sender_id, "at": at, "subject_id": subject_id, "purpose": purpose, "until": until, "limit": limit},
    )
    return [_due(row) for row in rows]


async def questions_of(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, list[Due]]:
    """Return the rows with a question, by subject_id. Without subjects, skip the query."""
    found: dict[str, list[Due]] = {}
    for row in await due_of(tx, subject_ids) if subject_ids else ():
        if row.question is not None:
            found.setdefault(row.subject_id, []).append(row)
    return found


async def put_due(tx: AsyncConnection, rows: Sequence[Due]) -> None:
    """Insert these rows; of an existing row, update only due time and question. The subjects must be locked."""
    await tx.execute(
        text(
            "INSERT INTO retention_due (subject_id, sender_id, purpose, last_contact, expires_at, ask_at, due_at,"
            " question, asked_at, answer_before, open) SELECT * FROM unnest(CAST(:subjects AS text[]),"
            " CAST(:senders AS text[]), CAST(:purposes AS text[]), CAST(:contacts AS timestamptz[]),"
            " CAST(:ends AS timestamptz[]), CAST(:asks AS timestamptz[]), CAST(:due AS timestamptz[]),"
            " CAST(:questions AS text[]), CAST(:asked AS timestamptz[]), CAST(:until AS timestamptz[]),"
            " CAST(:open AS boolean[]))"
            " ON CONFLICT (subject_id, sender_id, purpose) DO UPDATE SET due_at = excluded.due_at,"
            " question = excluded.question, asked_at = excluded.asked_at, answer_before = excluded.answer_before"
        ),
        {
            "subjects": [row.subject_id for row in rows],
            "senders": [row.term.sender_id for row in rows],
            "purposes": [row.term.purpose for row in rows],
            "contacts": [row.term.last_contact for row in rows],
            "ends": [row.term.expires_at for row in rows],
            "asks": [row.term.ask_at for row in rows],
            "due": [row.due_at for row in rows],
            "questions": [row.question and row.question.text for row in rows],
            "asked": [row.question and row.question.asked_at for row in rows],
            "until": [row.question and row.question.answer_before for row in rows],
            "open": [row.open for row in rows],
        },
    )


async def forget_due(tx: AsyncConnection, rows: Sequence[Due]) -> None:
    await tx.execute(
        text(
            "DELETE FROM retention_due AS d USING unnest(CAST(:subjects AS text[]), CAST(:senders AS text[]),"
            " CAST(:purposes AS text[])) AS g(subject_id, sender_id, purpose)"
            " WHERE (d.subject_id, d.sender_id, d.purpose) = (g.subject_id, g.sender_id, g.purpose)"
        ),
        {
            "subjects": [row.subject_id for row in rows],
            "senders": [row.term.sender_id for row in rows],
            "purposes": [row.term.purpose for row in rows],
        },
    )


async def lock_due(tx: AsyncConnection, now: datetime, limit: int) -> list[str]:
    """Lock the subjects of up to `limit` due rows, longest due first, and return their ids.

    The query skips locked subjects until the next poll: retention waits for no transaction, and only new evidence of
    the subjects returned waits for retention.
    """
    rows = await tx.execute(
        text(
            "SELECT s.subject_id FROM retention_due AS d JOIN subject AS s ON s.subject_id = d.subject_id"
            " WHERE d.due_at <= :now ORDER BY d.due_at LIMIT :limit FOR UPDATE OF s SKIP LOCKED"
        ),
        {"now": now, "limit": limit},
    )
    return sorted({row.subject_id for row in rows})


async def rules_of(tx: AsyncConnection, sender_ids: Collection[str]) -> Rules:
    """Return the retention rules of these senders' purposes."""
    return (await known(tx, senders=sender_ids)).rules


async def ask_recount(tx: AsyncConnection, sender_id: str) -> None:
    """Request a recount for a sender whose retention rules change now. A running recount starts again."""
    await tx.execute(
        text(
            "INSERT INTO retention_recount (sender_id) VALUES (:id) ON CONFLICT (sender_id)"
            " DO UPDATE SET after_xid = NULL, cursor_at = NULL, cursor_subject = NULL"
        ),
        {"id": sender_id},
    )


async def note_recounts(tx: AsyncConnection) -> int:
    """Note a transaction id on each new recount, and return how many are new.

    A recount begins once every transaction up to the noted id has ended: an older transaction may use the old rules.
    """
    noted = await tx.execute(
        text(
            "UPDATE retention_recount SET after_xid = CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
            " WHERE after_xid IS NULL"
        )
    )
    return noted.rowcount


@dataclass(frozen=True, slots=True)
class Recounting:
    """The progress of a sender's recount. `cursor`: (old end, subject_id) of the last row counted."""

    sender_id: str
    cursor: tuple[datetime, str] | None


async def lock_recount(tx: AsyncConnection) -> Recounting | None:
    """Lock a recount which may proceed, unless another worker holds the row."""
    rows = await tx.execute(
        text(
            "SELECT sender_id, cursor_at, cursor_subject FROM retention_recount"
            " WHERE after_xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
            " ORDER BY sender_id LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
    )
    row = rows.one_or_none()
    if row is None:
        return None
    return Recounting(row.sender_id, (row.cursor_at, row.cursor_subject) if row.cursor_at else None)


async def terms_page(
    tx: AsyncConnection, sender_id: str, after: tuple[datetime, str] | None, limit: int
) -> list[tuple[datetime, str]]:
    """Return a page of (end, subject_id) after `after`: the sender's rows, and rows of people with nothing open.

    Of the latter, only the state says whether the subject knows the sender; a filter would read the whole table for
    each page.
    """
    page = (
        "(expires_at, subject_id) > (coalesce(CAST(:at AS timestamptz), '-infinity'), :subject)"
        " ORDER BY expires_at, subject_id LIMIT :limit"
    )
    rows = await tx.execute(
        text(
            f"(SELECT DISTINCT expires_at, subject_id FROM retention_due WHERE sender_id = :id AND {page})"
            f" UNION (SELECT expires_at, subject_id FROM retention_due WHERE sender_id = '' AND {page})"
            " ORDER BY expires_at, subject_id LIMIT :limit"
        ),
        {
            "id": sender_id,
            "at": after[0] if after else None,
            "subject": after[1] if after else "",
            "limit": limit,
        },
    )
    return [(row.expires_at, row.subject_id) for row in rows]


async def settle_recount(tx: AsyncConnection, sender_id: str, cursor: tuple[datetime, str] | None) -> None:
    """Store the cursor of a recount; without a cursor, delete the finished recount."""
    if cursor is None:
        await tx.execute(text("DELETE FROM retention_recount WHERE sender_id = :id"), {"id": sender_id})
        return
    await tx.execute(
        text("UPDATE retention_recount SET cursor_at = :at, cursor_subject = :subject WHERE sender_id = :id"),
        {"id": sender_id, "at": cursor[0], "subject": cursor[1]},
    )


async def oldest_due(tx: AsyncConnection) -> datetime | None:
    at = await tx.scalar(text("SELECT min(due_at) FROM retention_due"))
    assert at is None or isinstance(at, datetime)
    return at


async def erase_personal(tx: AsyncConnection, asked: Mapping[str, datetime]) -> dict[str, int]:
    """Erase PERSONAL and salt of the entries recorded up to `asked`, and return how many, by subject_id.

    The number goes as well, unless the subject has come back since. The subjects must be locked.
    """
    taken = ", ".join(f"{name} = NULL" for name in (*PERSONAL, "salt"))
    rows = await tx.execute(
        text(
            f"WITH taken AS (UPDATE evidence AS e SET {taken}"
            " FROM unnest(CAST(:ids AS text[]), CAST(:ats AS timestamptz[])) AS a(subject_id, at)"
            " WHERE e.subject_id = a.subject_id AND e.recorded_at <= a.at AND e.salt IS NOT NULL"
            " RETURNING e.subject_id) SELECT subject_id, count(*) AS entries FROM taken GROUP BY subject_id"
        ),
        {"ids": list(asked), "ats": list(asked.values())},
    )
    found = {row.subject_id: row.entries for row in rows}
    await tx.execute(
        text(
            "UPDATE subject SET number = NULL"
            " WHERE subject_id = ANY(CAST(:ids AS text[])) AND erased_at IS NOT NULL AND number IS NOT NULL"
        ),
        {"ids": list(asked)},
    )
    return found


async def close_reviews(tx: AsyncConnection, subject_ids: Collection[str]) -> None:
    """Close open reviews unread. The subjects must be locked."""
    await tx.execute(
        text("UPDATE review SET open = false WHERE open AND subject_id = ANY(CAST(:ids AS text[]))"),
        {"ids": list(subject_ids)},
    )


async def put_reviews(tx: AsyncConnection, reviews: Sequence[Review]) -> dict[str, datetime]:
    """Store the newest revision of each review, and return since when each subject with an open review is held.

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


async def history(tx: AsyncConnection, subject_id: str, up_to: int | None = None) -> list[Entry]:
    """Return the newest HISTORY_ENTRIES entries of a subject, newest last.

    `up_to`: the `entries` of a subject read without a lock, so that state and history show the same moment.
    """
    rows = await tx.execute(
        text(
            "SELECT * FROM evidence WHERE subject_id = :id AND position <= coalesce(:up_to, position)"
            " ORDER BY position DESC LIMIT :limit"
        ),
        {"id": subject_id, "up_to": up_to, "limit": HISTORY_ENTRIES},
    )
    return [_entry(row) for row in reversed(rows.all())]


async def whole_histories(tx: AsyncConnection, subject_ids: Collection[str]) -> list[tuple[Subject, list[Entry]]]:
    """Return these subjects in id order, each with every entry up to `entries`; an unknown subject comes empty."""
    rows = await tx.execute(
        text(f"SELECT {_SUBJECT} FROM subject WHERE subject_id = ANY(CAST(:ids AS text[]))"),
        {"ids": list(subject_ids)},
    )
    subjects = {row.subject_id: _subject(row) for row in rows}
    rows = await tx.execute(
        text("SELECT * FROM evidence WHERE subject_id = ANY(CAST(:ids AS text[])) ORDER BY subject_id, position"),
        {"ids": list(subjects)},
    )
    found = {subject_id: subjects.get(subject_id) or Subject(subject_id=subject_id) for subject_id in subject_ids}
    histories: dict[str, list[Entry]] = {subject_id: [] for subject_id in found}
    for row in rows:
        if row.position <= found[row.subject_id].entries:  # later entries were appended meanwhile
            histories[row.subject_id].append(_entry(row))
    return [(found[subject_id], histories[subject_id]) for subject_id in sorted(found)]


async def opt_outs_since(
    tx: AsyncConnection, subject_ids: Collection[str], since: datetime
) -> dict[str, list[Evidence]]:
    """Return the opt-outs recorded since `since`, oldest first, by subject_id."""
    rows = await tx.execute(
        text(
            "SELECT * FROM evidence WHERE subject_id = ANY(CAST(:ids AS text[])) AND kind = 'opt_out'"
            " AND recorded_at >= :since ORDER BY subject_id, position"
        ),
        {"ids": list(subject_ids), "since": since},
    )
    found: dict[str, list[Evidence]] = {}
    for row in rows:
        found.setdefault(row.subject_id, []).append(_entry(row).evidence)
    return found


async def told_after(tx: AsyncConnection, after: str, limit: int) -> list[str]:
    """Return ids of subjects with a published state, in order from after `after`."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id FROM subject WHERE subject_id > $1 AND version > 0 ORDER BY subject_id LIMIT $2",
        after,
        limit,
    )
    return [subject_id for (subject_id,) in rows]


async def find_evidence(tx: AsyncConnection, evidence_ids: Collection[str]) -> dict[str, Evidence]:
    """Return the evidence on record, by id."""
    rows = await tx.execute(
        text("SELECT * FROM evidence WHERE evidence_id = ANY(CAST(:ids AS text[]))"), {"ids": list(evidence_ids)}
    )
    return {row.evidence_id: _entry(row).evidence for row in rows}


async def streamed(tx: AsyncConnection, query: str) -> AsyncIterator[Row[Any]]:
    """Yield the rows of a query, with READ_AT_ONCE in memory."""
    rows = await tx.stream(text(query), execution_options={"yield_per": READ_AT_ONCE})
    async for some in rows.partitions():
        for row in some:
            yield row


async def told_states(tx: AsyncConnection, page: int) -> AsyncIterator[list[tuple[str, int, SubjectState, bool]]]:
    """Yield pages of (subject_id, version, state, erased) for every published state."""
    rows = await tx.stream(
        text("SELECT subject_id, version, state::text, erased_at IS NOT NULL FROM subject WHERE version > 0"),
        execution_options={"yield_per": page},
    )
    async for some in rows.partitions():
        yield [(row[0], row[1], _state.decode(row[2]), row[3]) for row in some]


async def whole_ledger(tx: AsyncConnection) -> AsyncIterator[Entry]:
    """Yield every entry, by subject and position."""
    async for row in streamed(tx, "SELECT * FROM evidence ORDER BY subject_id, position"):
        yield _entry(row)


async def places(tx: AsyncConnection) -> AsyncIterator[tuple[int, str, datetime]]:
    """Yield (ordinal, hash, recorded_at) of every entry, by ordinal."""
    async for row in streamed(tx, "SELECT ordinal, hash, recorded_at FROM evidence ORDER BY ordinal"):
        yield row.ordinal, row.hash, row.recorded_at


@dataclass(frozen=True, slots=True)
class Head:
    """The columns of a subject which follow from the ledger. `state`: stored JSON. `asked_at`: of the last erasure."""

    subject_id: str
    entries: int
    head: str
    state: str
    asked_at: datetime | None


async def heads(tx: AsyncConnection) -> AsyncIterator[Head]:
    """Yield every head, in the order of `whole_ledger`."""
    query = (
        "SELECT subject_id, entries, head, state::text AS state, (SELECT max(requested_at) FROM erasing AS e"
        " WHERE e.subject_id = s.subject_id) AS asked_at FROM subject AS s ORDER BY subject_id"
    )
    async for row in streamed(tx, query):
        yield Head(row.subject_id, row.entries, row.head, row.state, row.asked_at)


async def find_entry(tx: AsyncConnection, evidence_id: str) -> Entry | None:
    rows = await tx.execute(text("SELECT * FROM evidence WHERE evidence_id = :id"), {"id": evidence_id})
    row = rows.one_or_none()
    return _entry(row) if row else None


async def corrections_of(tx: AsyncConnection, line: Entry) -> list[Entry]:
    """Return the entries which correct this entry, oldest first."""
    rows = await tx.execute(
        text(
            "SELECT * FROM evidence WHERE subject_id = :subject_id AND position > :position AND answers = :id"
            " AND source = :source ORDER BY position"
        ),
        {
            "subject_id": line.subject_id,
            "position": line.position,
            "id": line.evidence.evidence_id,
            "source": RECTIFICATION,
        },
    )
    return [_entry(row) for row in rows]


async def add_handed_off(tx: AsyncConnection, messages: Sequence[HandedOff]) -> None:
    """Insert these messages. A message on record stays unchanged."""
    await tx.execute(
        text(
            f"INSERT INTO handed_off ({', '.join(_HANDED_OFF)}) SELECT * FROM unnest("
            + ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in _HANDED_OFF.items())
            + ") ON CONFLICT DO NOTHING"
        ),
        {name: [getattr(message, name) for message in messages] for name in _HANDED_OFF},
    )


async def handed_off_of(tx: AsyncConnection, campaign_id: str, after: str, limit: int) -> dict[str, list[HandedOff]]:
    """Return a campaign's messages by subject, for up to `limit` subjects in id order from after `after`."""
    rows = await tx.execute(
        text(
            f"SELECT {', '.join(f'm.{name}' for name in _HANDED_OFF)}"
            " FROM (SELECT DISTINCT subject_id FROM handed_off WHERE campaign_id = :campaign_id"
            " AND subject_id > :after ORDER BY subject_id LIMIT :limit) AS s"
            " JOIN handed_off AS m ON m.subject_id = s.subject_id AND m.campaign_id = :campaign_id"
            " ORDER BY m.subject_id, m.handed_off_at, m.message_id"
        ),
        {"campaign_id": campaign_id, "after": after, "limit": limit},
    )
    found: dict[str, list[HandedOff]] = {}
    for row in rows:
        found.setdefault(row.subject_id, []).append(HandedOff(**row._mapping))
    return found


async def add_sender(tx: AsyncConnection, sender: Sender, now: datetime) -> bool:
    """Insert a sender, or return False where the sender_id is taken. Waits for a concurrent registration."""
    rows = await tx.execute(
        text(
            "INSERT INTO sender (sender_id, legal_name, brand, contact, country, oadc, stop_code, purposes, controller,"
            " stop_scope, replies, double_opt_in_hours, renewal_days, abroad, version, stop_codes, purpose_ids,"
            " created_at, updated_at)"
            " VALUES (:sender_id, :legal_name, :brand, :contact, :country, :oadc, :stop_code,"
            " CAST(:purposes AS jsonb), :controller, :stop_scope, CAST(:replies AS jsonb), :double_opt_in_hours,"
            " :renewal_days, CAST(:abroad AS text[]), :version, CAST(:stop_codes AS text[]),"
            " CAST(:purpose_ids AS text[]), :now, :now)"
            " ON CONFLICT DO NOTHING RETURNING sender_id"
        ),
        _sender_row(sender) | {"now": now},
    )
    return rows.one_or_none() is not None


async def lock_sender(tx: AsyncConnection, sender_id: str) -> Sender | None:
    rows = await tx.execute(text(f"SELECT {_SENDER} FROM sender WHERE sender_id = :id FOR UPDATE"), {"id": sender_id})
    row = rows.one_or_none()
    return _sender(row) if row else None


async def find_sender(tx: AsyncConnection, sender_id: str) -> Sender | None:
    rows = await tx.execute(text(f"SELECT {_SENDER} FROM sender WHERE sender_id = :id"), {"id": sender_id})
    row = rows.one_or_none()
    return _sender(row) if row else None


async def put_sender(tx: AsyncConnection, sender: Sender, now: datetime) -> None:
    """Update a locked sender. Former codes and purposes stay in `stop_codes` and `purpose_ids`."""
    await tx.execute(
        text(
            "UPDATE sender SET legal_name = :legal_name, brand = :brand, contact = :contact, country = :country,"
            " oadc = :oadc, stop_code = :stop_code, purposes = CAST(:purposes AS jsonb), version = :version,"
            " controller = :controller, stop_scope = :stop_scope, replies = CAST(:replies AS jsonb),"
            " double_opt_in_hours = :double_opt_in_hours,"
            " renewal_days = :renewal_days, abroad = CAST(:abroad AS text[]),"
            " stop_codes = ARRAY(SELECT DISTINCT unnest(stop_codes || CAST(:stop_codes AS text[])) ORDER BY 1),"
            " purpose_ids = ARRAY(SELECT DISTINCT unnest(purpose_ids || CAST(:purpose_ids AS text[])) ORDER BY 1),"
            " updated_at = :now WHERE sender_id = :sender_id"
        ),
        _sender_row(sender) | {"now": now},
    )


async def add_sender_version(tx: AsyncConnection, sender: Sender, now: datetime) -> None:
    await tx.execute(
        text(
            "INSERT INTO sender_version (sender_id, version, content, in_force_from)"
            " VALUES (:sender_id, :version, CAST(:content AS jsonb), :now)"
        ),
        {
            "sender_id": sender.sender_id,
            "version": sender.version,
            "content": msgspec.json.encode(sender).decode(),
            "now": now,
        },
    )


async def sender_versions(tx: AsyncConnection, sender_id: str, after: int, limit: int) -> list[tuple[Sender, datetime]]:
    """Return a sender's versions after `after`, each with `in_force_from`."""
    rows = await tx.execute(
        text(
            "SELECT content::text AS content, in_force_from FROM sender_version"
            " WHERE sender_id = :sender_id AND version > :after ORDER BY version LIMIT :limit"
        ),
        {"sender_id": sender_id, "after": after, "limit": limit},
    )
    return [(_sender_content.decode(row.content), row.in_force_from) for row in rows]


async def parties(tx: AsyncConnection, sender_ids: Iterable[str]) -> list[Party]:
    """Return every version of these senders, in the form of receipts."""
    rows = await tx.execute(
        text(
            "SELECT content::text AS content, in_force_from FROM sender_version"
            " WHERE sender_id = ANY(CAST(:ids AS text[])) ORDER BY sender_id, version"
        ),
        {"ids": sorted(sender_ids)},
    )
    return [_party(_sender_content.decode(row.content), row.in_force_from) for row in rows]


@dataclass(frozen=True, slots=True)
class Purposes:
    """The purposes a sender offers, and ever offered. `months`: how long a consent holds."""

    offered: frozenset[str]
    ever: frozenset[str]
    months: Mapping[str, int]


async def purposes_of(tx: AsyncConnection, sender_ids: Collection[str]) -> dict[str, Purposes]:
    """Return the purposes of each sender on record."""
    rows = await tx.execute(
        text(
            "SELECT sender_id, purposes::text AS purposes, purpose_ids FROM sender"
            " WHERE sender_id = ANY(CAST(:ids AS text[]))"
        ),
        {"ids": sorted(sender_ids)},
    )
    found = {}
    for row in rows:
        months = {purpose.id: purpose.retention_months for purpose in _purposes.decode(row.purposes)}
        found[row.sender_id] = Purposes(frozenset(months), frozenset(row.purpose_ids), months)
    return found


async def owners_of(tx: AsyncConnection, stop_codes: Collection[str]) -> dict[str, dict[str, Sender]]:
    """Return, by STOP code, the senders which use or once used the code, in id order."""
    rows = await tx.execute(
        text(
            f"SELECT c.code, {_SENDER}"
            " FROM unnest(CAST(:codes AS text[])) AS c(code) JOIN sender s ON c.code = ANY(s.stop_codes)"
            " ORDER BY s.sender_id"
        ),
        {"codes": sorted(stop_codes)},
    )
    found: dict[str, dict[str, Sender]] = {}
    for row in rows:
        found.setdefault(row.code, {})[row.sender_id] = _sender(row)
    return found


async def lock_stop_code(tx: AsyncConnection, stop_code: str) -> None:
    """Lock a STOP code until the transaction ends: no other sender takes the code meanwhile."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext(:code))"), {"code": f"placet.stop-code.{stop_code}"})


async def senders_of(tx: AsyncConnection, sender_ids: Collection[str]) -> list[Sender]:
    """Return the senders on record, by brand."""
    rows = await tx.execute(
        text(f"SELECT {_SENDER} FROM sender WHERE sender_id = ANY(CAST(:ids AS text[])) ORDER BY brand, sender_id"),
        {"ids": sorted(sender_ids)},
    )
    return [_sender(row) for row in rows]


async def add_link(tx: AsyncConnection, link: PreferenceLink, now: datetime) -> datetime:
    """Store a link, or keep the link with this id, and return when the link expires; delete some expired links.

    `whole` only narrows: a link once stored stop-only stays so.
    """
    await tx.execute(
        text(
            "DELETE FROM preference_link WHERE expires_at < :now AND (link_id = :link_id OR link_id IN"
            " (SELECT link_id FROM preference_link WHERE expires_at < :now ORDER BY expires_at LIMIT 10"
            " FOR UPDATE SKIP LOCKED))"
        ),
        {"now": now, "link_id": link.link_id},
    )
    expires_at = await tx.scalar(
        text(
            "INSERT INTO preference_link AS l (link_id, subject_id, number, sender_id, created_at, expires_at, whole,"
            " given_to)"
            " VALUES (:link_id, :subject_id, :number, :sender_id, :now, :expires_at, :whole, :given_to)"
            " ON CONFLICT (link_id) DO UPDATE SET whole = l.whole AND excluded.whole RETURNING expires_at"
        ),
        {
            "link_id": link.link_id,
            "subject_id": link.subject_id,
            "number": link.number,
            "sender_id": link.sender_id,
            "now": now,
            "expires_at": link.expires_at,
            "whole": link.whole,
            "given_to": link.given_to,
        },
    )
    assert isinstance(expires_at, datetime)
    return expires_at


async def delete_links(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, int]:
    """Delete the links of these subjects, and return counts by subject_id."""
    rows = await tx.execute(
        text(
            "WITH gone AS (DELETE FROM preference_link WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " RETURNING subject_id) SELECT subject_id, count(*) AS links FROM gone GROUP BY subject_id"
        ),
        {"ids": list(subject_ids)},
    )
    return {row.subject_id: row.links for row in rows}


async def find_link(tx: AsyncConnection, link_id: str) -> PreferenceLink | None:
    rows = await tx.execute(
        text(
            "SELECT link_id, subject_id, number, sender_id, expires_at, browser, whole, given_to FROM preference_link"
            " WHERE link_id = :id"
        ),
        {"id": link_id},
    )
    row = rows.one_or_none()
    return PreferenceLink(**row._mapping) if row else None


async def bind_link(tx: AsyncConnection, link_id: str, browser: str) -> bool:
    """Bind the link to this browser; return False where the link belongs to another browser."""
    held = await tx.scalar(
        text("UPDATE preference_link SET browser = coalesce(browser, :browser) WHERE link_id = :id RETURNING browser"),
        {"id": link_id, "browser": browser},
    )
    return bool(held == browser)


async def claim_key(tx: AsyncConnection, caller: str, key: str, fingerprint: str) -> datetime | None:
    """Claim an Idempotency-Key, or find the claim of the same request, and return when the key was claimed.

    Returns None where the key belongs to another request. Waits while another transaction holds the key. Old keys are
    pruned: the instant tells a new request under an old key from a repeat.
    """
    return (await claim_keys(tx, [(caller, key, fingerprint)]))[0]


async def claim_keys(tx: AsyncConnection, claims: Sequence[tuple[str, str, str]]) -> list[datetime | None]:
    """Run `claim_key` for each (caller, key, fingerprint). Of two claims on a key, the first counts."""
    if not claims:
        return []
    first: dict[tuple[str, str], str] = {}
    for caller, key, fingerprint in claims:
        first.setdefault((caller, key), fingerprint)
    names = sorted(first)  # every transaction claims in the same order: no deadlock
    rows = await tx.execute(
        text(
            "INSERT INTO keyed_request AS r (caller, key, fingerprint)"
            " SELECT * FROM unnest(CAST(:callers AS text[]), CAST(:keys AS text[]), CAST(:fingerprints AS text[]))"
            " ON CONFLICT (caller, key) DO UPDATE SET fingerprint = r.fingerprint"
            " RETURNING caller, key, fingerprint, created_at"
        ),
        {
            "callers": [caller for caller, _ in names],
            "keys": [key for _, key in names],
            "fingerprints": [first[name] for name in names],
        },
    )
    held = {(row.caller, row.key, row.fingerprint): row.created_at for row in rows}
    return [held.get(claim) for claim in claims]


def _subject(row: Row[Any]) -> Subject:
    return Subject(
        subject_id=row.subject_id,
        version=row.version,
        state=_state.decode(row.state),
        entries=row.entries,
        head=row.head,
        held_since=row.held_since,
        number=row.number,
        erased_at=row.erased_at,
    )


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        subject_id=row.subject_id,
        position=row.position,
        evidence=Evidence(**{name: getattr(row, name) for name in _EVIDENCE}),
        recorded_at=row.recorded_at,
        salt=row.salt,
        sealed=row.sealed,
        hash=row.hash,
    )


def _sender(row: Row[Any]) -> Sender:
    return Sender(
        sender_id=row.sender_id,
        legal_name=row.legal_name,
        brand=row.brand,
        contact=row.contact,
        country=row.country,
        oadc=row.oadc,
        stop_code=row.stop_code,
        purposes=_purposes.decode(row.purposes),
        controller=row.controller,
        stop_scope=row.stop_scope,
        replies=_replies.decode(row.replies),
        double_opt_in_hours=row.double_opt_in_hours,
        renewal_days=row.renewal_days,
        abroad=tuple(row.abroad),
        version=row.version,
    )


def _party(sender: Sender, in_force_from: datetime) -> Party:
    return Party(
        sender_id=sender.sender_id,
        version=sender.version,
        in_force_from=in_force_from,
        controller=sender.controller,
        legal_name=sender.legal_name,
        brand=sender.brand,
        contact=sender.contact,
        country=sender.country,
        stop_code=sender.stop_code,
        purposes=sender.purposes,
    )


def _sender_row(sender: Sender) -> dict[str, Any]:
    return {
        "sender_id": sender.sender_id,
        "legal_name": sender.legal_name,
        "brand": sender.brand,
        "contact": sender.contact,
        "country": sender.country,
        "oadc": sender.oadc,
        "stop_code": sender.stop_code,
        "purposes": msgspec.json.encode(sender.purposes).decode(),
        "controller": sender.controller,
        "stop_scope": sender.stop_scope,
        "replies": msgspec.json.encode(sender.replies).decode(),
        "double_opt_in_hours": sender.double_opt_in_hours,
        "renewal_days": sender.renewal_days,
        "abroad": list(sender.abroad),
        "version": sender.version,
        "stop_codes": [sender.stop_code],
        "purpose_ids": [purpose.id for purpose in sender.purposes],
    }
