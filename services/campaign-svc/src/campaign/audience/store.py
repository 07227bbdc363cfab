"""Own contacts, each person's known consents, and opt-outs.

The caller owns the transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import Column, Index, Integer, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience.reach import Standing
from campaign.schema import instant, metadata
from common.contracts.loosening import NO_STOPS, Stops, stops
from common.db.database import copy_lines, escaped, fetch_many
from common.privacy.erasing import TO_ERASE, Whom, columns, counted, meant, not_lifted

CONTACTS = 0x636F6E74  # advisory lock ("cont"): shared to build requests, exclusive to rectify


standing = Table(
    "standing",  # latest, from consent-svc
    metadata,
    Column("subject_id", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("told", JSONB, nullable=False),  # reach.Standing
)


contact = Table(
    "contact",
    metadata,
    Column("sender_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("number", Text, nullable=False),  # encrypted, context "number:<subject_id>"
    Column("attributes", JSONB, nullable=False),
    Column("territory", Text, nullable=True),  # of the number; null until the contact is stored again
    # rectified attributes, null where removed: imports never overwrite these
    Column("corrected", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    instant("created_at"),
    instant("updated_at"),  # last import, API write, click or rectification
    PrimaryKeyConstraint("sender_id", "subject_id"),
    Index("contact_updated_ix", "updated_at"),
)


opt_out = Table(
    "opt_out",  # a row per sender and purpose closed
    metadata,
    Column("subject_id", Text, nullable=False),
    Column("evidence_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    instant("at"),  # time at source
    PrimaryKeyConstraint("subject_id", "evidence_id", "sender_id", "purpose"),
    Index("opt_out_at_ix", "at"),
)


class Known(NamedTuple):
    """The stored version of a subject's consents, and the STOPs."""

    version: int
    stops: Stops


NOT_KNOWN = Known(-1, NO_STOPS)
_standing = msgspec.json.Decoder(Standing)


async def known_standings(tx: AsyncConnection, subject_ids: Iterable[str]) -> dict[str, Known]:
    """Return the stored subjects among these."""
    rows = await tx.execute(
        text(
            'SELECT subject_id, version, CASE WHEN told @> \'{"consents": [{"state": "opted_out"}]}\''
            " OR told -> 'suppressions' <> '[]' THEN told::text END AS told"
            " FROM standing WHERE subject_id = ANY(CAST(:ids AS text[]))"
        ),
        {"ids": list(subject_ids)},
    )
    return {row.subject_id: Known(row.version, NO_STOPS if row.told is None else _stops(row.told)) for row in rows}


async def standings_of(tx: AsyncConnection, subject_ids: Iterable[str]) -> dict[str, Standing]:
    """Return the whole stored state of each known subject among these."""
    rows = await fetch_many(
        tx, "SELECT subject_id, told::text FROM standing WHERE subject_id = ANY($1::text[])", list(subject_ids)
    )
    return {subject_id: _standing.decode(told) for subject_id, told in rows}


async def versions_of(tx: AsyncConnection, subject_ids: Iterable[str]) -> dict[str, int]:
    """Return the stored version of each known subject among these."""
    rows = await fetch_many(
        tx, "SELECT subject_id, version FROM standing WHERE subject_id = ANY($1::text[])", list(subject_ids)
    )
    return {row[0]: row[1] for row in rows}


def _stops(told: str) -> Stops:
    held = _standing.decode(told)
    return stops(held.consents, held.suppressions)


async def put_standings(tx: AsyncConnection, told: Mapping[str, tuple[int, Standing]]) -> None:
    """Store each subject's consents, unless the same or a newer version is stored."""
    ids = sorted(told)
    await tx.execute(
        text(
            "INSERT INTO standing (subject_id, version, told) SELECT * FROM"
            " unnest(CAST(:ids AS text[]), CAST(:versions AS integer[]), CAST(:told AS jsonb[]))"
            " ON CONFLICT (subject_id) DO UPDATE SET version = excluded.version, told = excluded.told"
            " WHERE standing.version < excluded.version"
        ),
        {
            "ids": ids,
            "versions": [told[i][0] for i in ids],
            "told": [msgspec.json.encode(told[i][1]).decode() for i in ids],
        },
    )


async def mark_unreadable(tx: AsyncConnection, subject_id: str) -> None:
    """Mark a subject's consents unreadable, until the next readable event."""
    await tx.execute(
        text(
            "INSERT INTO standing (subject_id, version, told) VALUES (:id, -1, CAST(:told AS jsonb))"
            " ON CONFLICT (subject_id) DO UPDATE SET told = standing.told || excluded.told"
        ),
        {"id": subject_id, "told": '{"unreadable": true}'},
    )


ImportedRow = tuple[int, str, str, str, str]  # line, subject_id, encrypted number, attributes as JSON, territory
# one text: for an array, the driver checks each member, which takes most of the time
_AMONG = "subject_id = ANY(string_to_array($1, ' '))"
_ERASED = f"({not_lifted('$2')} OR a.erased_at IS NULL)"


async def erased_among(tx: AsyncConnection, sender_id: str, subject_ids: Iterable[str]) -> set[str]:
    """Return the subjects with an erasure that concerns the sender: pending, or done and not lifted."""
    erased = f"SELECT subject_id FROM erasing AS a WHERE {_AMONG} AND {_ERASED} AND {meant('$2')}"
    return {row[0] for row in await fetch_many(tx, erased, " ".join(subject_ids), sender_id)}


class Contact(msgspec.Struct, frozen=True):
    """A contact, without its number. `territory` is `None` until the contact is stored again."""

    subject_id: str
    territory: str | None
    attributes: dict[str, str]
    created_at: datetime
    updated_at: datetime


_attributes = msgspec.json.Decoder(dict[str, str])


async def find_contact(tx: AsyncConnection, sender_id: str, subject_id: str) -> Contact | None:
    rows = await tx.execute(
        text(
            "SELECT subject_id, territory, attributes::text AS attributes, created_at, updated_at FROM contact"
            " WHERE sender_id = :sender_id AND subject_id = :id"
        ),
        {"sender_id": sender_id, "id": subject_id},
    )
    row = rows.one_or_none()
    return None if row is None else contact_of(*row)


async def contacts_after(tx: AsyncConnection, sender_id: str, after: str, limit: int) -> list[Contact]:
    """Return a sender's contacts behind the subject id `after`."""
    rows = await tx.execute(
        text(
            "SELECT subject_id, territory, attributes::text AS attributes, created_at, updated_at FROM contact"
            " WHERE sender_id = :sender_id AND subject_id > :after ORDER BY subject_id LIMIT :limit"
        ),
        {"sender_id": sender_id, "after": after, "limit": limit},
    )
    return [contact_of(*row) for row in rows]


def contact_of(
    subject_id: str, territory: str | None, attributes: str, created_at: datetime, updated_at: datetime
) -> Contact:
    """Return the contact of a row. `attributes`: JSON."""
    return Contact(subject_id, territory, _attributes.decode(attributes), created_at, updated_at)


async def delete_of_sender(tx: AsyncConnection, sender_id: str, subject_ids: Sequence[str]) -> int:
    """Delete these contacts of one sender, locked in an import's order; return how many."""
    gone = await tx.execute(
        text(
            "WITH found AS (SELECT subject_id FROM contact WHERE sender_id = :sender_id"
            " AND subject_id = ANY(CAST(:ids AS text[])) ORDER BY subject_id FOR UPDATE)"
            " DELETE FROM contact AS c USING found AS f WHERE c.sender_id = :sender_id AND c.subject_id = f.subject_id"
        ),
        {"sender_id": sender_id, "ids": list(subject_ids)},
    )
    return int(gone.rowcount)


async def delete_contacts(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Delete these people's contacts, in an import's order; return the numbers."""
    rows = await tx.execute(
        text(
            f"WITH found AS (SELECT c.sender_id, c.subject_id, a.controller_id FROM sender AS s CROSS JOIN {TO_ERASE}"
            " JOIN contact AS c ON c.sender_id = s.sender_id AND c.subject_id = a.subject_id"
            " WHERE a.controller_id IS NULL OR s.controller = a.controller_id"
            " ORDER BY c.sender_id, c.subject_id FOR UPDATE OF c),"
            " gone AS (DELETE FROM contact AS c USING found AS f WHERE c.sender_id = f.sender_id"
            " AND c.subject_id = f.subject_id RETURNING c.subject_id, f.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM gone GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    return counted(rows)


async def heard_of(tx: AsyncConnection, sender_id: str, subject_id: str, now: datetime) -> None:
    """Renew the contact's retention, as an import would: the person interacted with the sender."""
    await tx.execute(
        text(
            "UPDATE contact SET updated_at = :now"
            " WHERE sender_id = :sender_id AND subject_id = :id AND updated_at < :now"
        ),
        {"sender_id": sender_id, "id": subject_id, "now": now},
    )


async def reading_contacts(tx: AsyncConnection) -> None:
    """Take the shared contacts lock before building requests; a rectification waits meanwhile."""
    await tx.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": CONTACTS})


async def alone_with_contacts(tx: AsyncConnection) -> None:
    """Take the exclusive contacts lock: no transaction builds requests until this transaction ends."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CONTACTS})


async def correct_contact(
    tx: AsyncConnection, sender_id: str, subject_id: str, fields: Mapping[str, str | None], now: datetime
) -> None:
    """Rectify a contact locked by the caller. A null value removes the attribute."""
    await tx.execute(
        text(
            "UPDATE contact AS c SET corrected = c.corrected || CAST(:fields AS jsonb),"
            " attributes = jsonb_strip_nulls(c.attributes || CAST(:fields AS jsonb)), updated_at = :now"
            " WHERE c.sender_id = :sender_id AND c.subject_id = :id"
        ),
        {"id": subject_id, "sender_id": sender_id, "fields": msgspec.json.encode(fields).decode(), "now": now},
    )


async def delete_contact(tx: AsyncConnection, whom: Whom, sender_id: str | None, until: datetime) -> int:
    """Delete one person's contacts created by `until`, of one sender of the controller or of all; return how many."""
    gone = await tx.execute(
        text(
            "WITH found AS (SELECT c.sender_id FROM sender AS s JOIN contact AS c"
            " ON c.sender_id = s.sender_id AND c.subject_id = :id"
            " WHERE s.sender_id = coalesce(:sender_id, s.sender_id) AND s.controller = :controller"
            " AND c.created_at <= :until"
            " ORDER BY c.sender_id FOR UPDATE OF c)"
            " DELETE FROM contact AS c USING found AS f WHERE c.sender_id = f.sender_id AND c.subject_id = :id"
        ),
        {"id": whom.subject_id, "controller": whom.controller_id, "sender_id": sender_id, "until": until},
    )
    return int(gone.rowcount)


# Rows are written in key order: two writers of the same people never deadlock. Ids are lower-case letters and digits:
# "C" gives the order of every collation, faster. Absent attributes are kept, and rectified attributes win.
_PUT = (
    "INSERT INTO contact AS c (sender_id, subject_id, number, attributes, territory, created_at, updated_at)"
    " SELECT $1, b.subject_id, b.number, b.attributes::jsonb, b.territory, $2, $2"
    " FROM unnest($3::text[], $4::text[], $5::text[], $6::text[]) AS b(subject_id, number, attributes, territory)"
    ' ORDER BY b.subject_id COLLATE "C" ON CONFLICT (sender_id, subject_id) DO UPDATE SET number = excluded.number,'
    " attributes = jsonb_strip_nulls(c.attributes || excluded.attributes || c.corrected),"
    " territory = excluded.territory, updated_at = excluded.updated_at RETURNING {returned}"
)
# a file's rows share `updated_at`: a row already at $2 appeared earlier in the file
_BROUGHT = (
    "CASE WHEN c.xmax = 0 THEN 'created' WHEN (SELECT o.updated_at FROM contact AS o WHERE o.sender_id = c.sender_id"
    " AND o.subject_id = c.subject_id) = $2 THEN 'duplicates' ELSE 'updated' END AS became"
)


def copied(sender_id: str, rows: Iterable[ImportedRow], now: datetime) -> dict[str, str]:
    """Return a COPY line for each subject, from the last row."""
    begins, ends = f"{escaped(sender_id)}\t", f"\t{now.isoformat()}\t{now.isoformat()}\n"
    return {
        subject_id: f"{begins}{subject_id}\t{number}\t{escaped(attributes)}\t{territory}{ends}"
        for _, subject_id, number, attributes, territory in rows
    }


async def add_imported(tx: AsyncConnection, sender_id: str, lines: Mapping[str, str]) -> set[str]:
    """Insert the lines of `copied` whose subjects are new to the sender; return their ids.

    The caller passes lines in the order of `_PUT`, which takes twice the time. Raises asyncpg's UniqueViolationError
    where another transaction inserts a subject.
    """
    known = await fetch_many(
        tx, f"SELECT subject_id FROM contact WHERE {_AMONG} AND sender_id = $2", " ".join(lines), sender_id
    )
    if known:
        held = {row[0] for row in known}
        lines = {subject_id: line for subject_id, line in lines.items() if subject_id not in held}
    columns = ("sender_id", "subject_id", "number", "attributes", "territory", "created_at", "updated_at")
    await copy_lines(tx, "contact", columns, list(lines.values()))
    return set(lines)


async def put_imported(
    tx: AsyncConnection, sender_id: str, rows: Sequence[ImportedRow], now: datetime
) -> Mapping[str, int]:
    """Insert or update contacts; return how many were created, updated, or duplicates in the file.

    At most one row per subject; `now` is the same for the whole file.
    """
    put = _PUT.format(returned=_BROUGHT)
    counted = f"WITH put AS ({put}) SELECT became, count(*) FROM put GROUP BY became"
    return {row[0]: row[1] for row in await fetch_many(tx, counted, sender_id, now, *_columns_of(rows))}


async def put_contacts(
    tx: AsyncConnection, sender_id: str, rows: Sequence[ImportedRow], now: datetime
) -> dict[str, bool]:
    """Insert or update contacts, one row per subject; return by subject id whether the contact is new."""
    put = _PUT.format(returned="c.subject_id, c.xmax = 0")
    return {row[0]: row[1] for row in await fetch_many(tx, put, sender_id, now, *_columns_of(rows))}


def _columns_of(rows: Sequence[ImportedRow]) -> tuple[list[str], ...]:
    return [r[1] for r in rows], [r[2] for r in rows], [r[3] for r in rows], [r[4] for r in rows]
