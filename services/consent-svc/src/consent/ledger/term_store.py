"""Own the term of each consent, with the question before the end, and the recounts after a change of retention."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Index, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import insert_many
from consent.ledger.retention import Question, Term
from consent.schema import metadata

Table(
    "retention_due",  # end and next step of each term; no number
    metadata,
    Column("subject_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("last_contact", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("ask_at", DateTime(timezone=True), nullable=True),
    Column("question", Text, nullable=True),  # no personal data
    Column("asked_at", DateTime(timezone=True), nullable=True),
    Column("answer_before", DateTime(timezone=True), nullable=True),
    Column("open", Boolean, nullable=False, server_default=text("true")),  # false: ended, question pending
    PrimaryKeyConstraint("subject_id", "sender_id", "purpose"),
    Index("retention_due_due_at_ix", "due_at"),
    Index("retention_due_sender_ix", "sender_id", "expires_at", "subject_id"),
)

Table(
    "retention_recount",  # a sender whose retention rules changed
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("after_xid", BigInteger, nullable=True),  # transactions up to this id end first
    Column("cursor_at", DateTime(timezone=True), nullable=True),
    Column("cursor_subject", Text, nullable=True),
)

_TERM = {
    "subject_id": "text",
    "sender_id": "text",
    "purpose": "text",
    "last_contact": "timestamptz",
    "expires_at": "timestamptz",
    "ask_at": "timestamptz",
    "due_at": "timestamptz",
}


async def add_terms(tx: AsyncConnection, began: Sequence[tuple[str, Term]]) -> None:
    """Insert the terms of subjects without stored terms."""
    rows = [
        (subject_id, t.sender_id, t.purpose, t.last_contact, t.expires_at, t.ask_at, t.ask_at or t.expires_at)
        for subject_id, t in began
    ]
    await insert_many(tx, "retention_due", _TERM, rows)


async def put_terms(tx: AsyncConnection, ended: Sequence[tuple[str, Term]], open_: Sequence[tuple[str, Term]]) -> None:
    """Delete the terms which ended, and store the terms which began or moved, each with a subject_id.

    The subjects must be locked. A question stays only while the last contact is the same.
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
    """Return the stored open terms."""
    rows = await tx.execute(
        text(
            "SELECT subject_id, sender_id, purpose, last_contact, expires_at, ask_at FROM retention_due"
            " WHERE open AND subject_id = ANY(CAST(:ids AS text[])) ORDER BY subject_id, sender_id, purpose"
        ),
        {"ids": list(subject_ids)},
    )
    found: dict[str, list[Term]] = {}
    for row in rows:
        found.setdefault(row.subject_id, []).append(
            Term(
                sender_id=row.sender_id,
                purpose=row.purpose,
                last_contact=row.last_contact,
                expires_at=row.expires_at,
                ask_at=row.ask_at,
            )
        )
    return found


# columns read by name, as ENTRY_COLUMNS
DUE_COLUMNS = ", ".join(
    ("subject_id", *Term.__struct_fields__, "due_at", "question", "asked_at", "answer_before", "open")
)


@dataclass(frozen=True, slots=True)
class Due:
    """A row of retention_due. `open`: the term has not ended."""

    subject_id: str
    term: Term
    question: Question | None
    open: bool
    due_at: datetime


async def due_of(tx: AsyncConnection, subject_ids: Collection[str]) -> list[Due]:
    """Return every row of these subjects."""
    rows = await tx.execute(
        text(
            f"SELECT {DUE_COLUMNS} FROM retention_due WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY subject_id, sender_id, purpose"
        ),
        {"ids": list(subject_ids)},
    )
    return [due(**row._mapping) for row in rows]


def due(
    *,
    subject_id: str,
    due_at: datetime,
    question: str | None,
    asked_at: datetime | None,
    answer_before: datetime | None,
    open: bool,
    **term: Any,
) -> Due:
    """Return a row of retention_due from DUE_COLUMNS. `term`: the columns of Term."""
    asked = None
    if asked_at is not None:
        assert question is not None, "a question asked has a text"
        assert answer_before is not None, "a question asked has an end"
        asked = Question(text=question, asked_at=asked_at, answer_before=answer_before)
    return Due(subject_id, Term(**term), asked, open, due_at)


async def put_due(tx: AsyncConnection, rows: Sequence[Due]) -> None:
    """Insert rows; of an existing row, update due time and question. The subjects must be locked."""
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


async def ask_recount(tx: AsyncConnection, sender_id: str) -> None:
    """Request a recount for a sender whose retention rules change now; a running recount starts again."""
    await tx.execute(
        text(
            "INSERT INTO retention_recount (sender_id) VALUES (:id) ON CONFLICT (sender_id)"
            " DO UPDATE SET after_xid = NULL, cursor_at = NULL, cursor_subject = NULL"
        ),
        {"id": sender_id},
    )


async def note_recounts(tx: AsyncConnection) -> int:
    """Note a transaction id on each new recount, and return how many are new.

    A transaction up to that id may use the old rules.
    """
    noted = await tx.execute(
        text(
            "UPDATE retention_recount SET after_xid = CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
            " WHERE after_xid IS NULL"
        )
    )
    return noted.rowcount


# A recount follows the order of the ids, which another outer key changes; to recount a term twice is harmless.
BEGIN_ANEW = ("UPDATE retention_recount SET cursor_at = NULL, cursor_subject = NULL",)


async def settle_recount(tx: AsyncConnection, sender_id: str, cursor: tuple[datetime, str] | None) -> None:
    """Store the cursor of a recount, or delete the finished recount."""
    if cursor is None:
        await tx.execute(text("DELETE FROM retention_recount WHERE sender_id = :id"), {"id": sender_id})
        return
    await tx.execute(
        text("UPDATE retention_recount SET cursor_at = :at, cursor_subject = :subject WHERE sender_id = :id"),
        {"id": sender_id, "at": cursor[0], "subject": cursor[1]},
    )
