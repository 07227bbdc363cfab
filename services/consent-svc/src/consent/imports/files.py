"""Store imports: a file in encrypted pieces, and the verdicts of each piece. This module decides nothing.

Recording a piece deletes its bytes.
"""

import builtins
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import CONSENT_NOTICES
from common.contracts.consent import ConsentImportFinished
from common.db.database import NEWEST_FIRST, Direction, fetch_many
from common.files.charset import Seen
from common.files.cutting import Format, Shape
from common.kafka import outbox
from common.privacy.erasing import TO_ERASE, Whom, columns, meant
from consent.imports.lines import Layout
from consent.schema import metadata

Table(
    "import_file",
    metadata,
    Column("import_id", Text, primary_key=True),
    Column("created_by", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("sender_id", Text, nullable=True),  # NULL: every sender
    Column("kind", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("terms", JSONB, nullable=False),  # defaults for the lines
    Column("delimiter", Text, nullable=True),
    Column("columns", ARRAY(Text), nullable=True),  # by meaning
    Column("line_end", Text, nullable=True),
    Column("wide", Text, nullable=True),  # the UTF-16 encoding, or empty; pieces of such a file are UTF-8
    Column("seen", Integer, nullable=False),  # the evidence of the encoding, `common.files.charset.Seen`
    Column("bytes", BigInteger, nullable=True),  # if announced
    Column("received_bytes", BigInteger, nullable=False),
    Column("rest", LargeBinary, nullable=True),  # encrypted bytes after the last whole piece
    Column("pieces", Integer, nullable=False),
    Column("next_line", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("touched_at", DateTime(timezone=True), nullable=False),
    Index("import_file_waiting_ix", "touched_at", postgresql_where=text("NOT complete")),
    Index("import_file_complete_ix", "touched_at", postgresql_where=text("complete")),
    Index("import_file_sender_ix", "sender_id", "created_at"),
)

Table(
    "import_piece",
    metadata,
    Column("import_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("first_line", BigInteger, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("body", LargeBinary, nullable=True),  # encrypted, "import:<import_id>:<position>"; NULL once recorded
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=True),
    Column("created", Integer, nullable=False, server_default=text("0")),
    Column("unchanged", Integer, nullable=False, server_default=text("0")),
    Column("outvoted", Integer, nullable=False, server_default=text("0")),
    Column("refused", Integer, nullable=False, server_default=text("0")),
    Column("reasons", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("verdicts", LargeBinary, nullable=True),  # deflated CSV
    PrimaryKeyConstraint("import_id", "position"),
    Index("import_piece_waiting_ix", "import_id", "position", postgresql_where=text("recorded_at IS NULL")),
)

Table(
    "import_share",  # in the shard of the people: what became of their lines of a piece
    metadata,
    Column("import_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("verdicts", LargeBinary, nullable=True),  # deflated CSV; NULL only within the transaction that records
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("import_id", "position"),
    Index("import_share_at_ix", "recorded_at"),
)


COMPLETE = "import_complete"  # NOTIFY channel: the pieces of a file may be recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFile:
    """An import as far as arrived. `terms` is JSON; `next_line` counts from 1."""

    import_id: str
    created_by: str
    fingerprint: str
    sender_id: str | None
    kind: str
    format: str
    terms: str
    bytes: int | None
    created_at: datetime
    delimiter: str | None = None
    columns: tuple[str, ...] | None = None
    line_end: str | None = None
    wide: str | None = None
    seen: int = 0
    received_bytes: int = 0
    rest: builtins.bytes | None = None
    pieces: int = 0
    next_line: int = 1
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """The totals of an import. `recorded_at` is the latest; `reasons`: the lines by reason."""

    pieces: int
    lines: int
    created: int
    unchanged: int
    outvoted: int
    refused: int
    recorded_at: datetime | None
    reasons: Mapping[str, int]


class SealedPiece(NamedTuple):
    """A piece to store. `lines` counts as in `Piece`; `body` is encrypted."""

    position: int
    first_line: int
    lines: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPiece:
    """A locked piece to record."""

    file: ImportFile
    position: int
    first_line: int
    body: bytes
    received_at: datetime


_FILE = (
    "f.import_id, f.created_by, f.fingerprint, f.sender_id, f.kind, f.format, f.terms::text AS terms, f.delimiter,"
    " f.columns, f.line_end, f.wide, f.seen, f.bytes, f.received_bytes, f.rest, f.pieces, f.next_line, f.complete,"
    " f.created_at"
)


_WAITING = (
    *("import_id", "created_by", "fingerprint", "sender_id", "kind", "format", "terms", "delimiter", "columns"),
    *("line_end", "wide", "seen", "bytes", "received_bytes", "rest", "pieces", "next_line", "complete", "created_at"),
    *("position", "first_line", "body", "received_at"),
)


async def add(tx: AsyncConnection, file: ImportFile) -> ImportFile:
    """Store an import, or keep the row with this id, and return the row."""
    await tx.execute(
        text(
            "INSERT INTO import_file (import_id, created_by, fingerprint, sender_id, kind, format, terms, bytes,"
            " received_bytes, pieces, next_line, complete, seen, created_at, touched_at)"
            " VALUES (:import_id, :created_by, :fingerprint, :sender_id, :kind, :format, CAST(:terms AS jsonb), :bytes,"
            " 0, 0, 1, false, 0, :now, :now) ON CONFLICT DO NOTHING"
        ),
        {
            "import_id": file.import_id,
            "created_by": file.created_by,
            "fingerprint": file.fingerprint,
            "sender_id": file.sender_id,
            "kind": file.kind,
            "format": file.format,
            "terms": file.terms,
            "bytes": file.bytes,
            "now": file.created_at,
        },
    )
    held = await find(tx, file.import_id)
    assert held is not None
    return held


async def find(tx: AsyncConnection, import_id: str, *, lock: bool = False) -> ImportFile | None:
    rows = await tx.execute(
        text(f"SELECT {_FILE} FROM import_file AS f WHERE import_id = :id" + (" FOR UPDATE" if lock else "")),
        {"id": import_id},
    )
    row = rows.one_or_none()
    return _file(**row._mapping) if row else None


async def put_pieces(tx: AsyncConnection, import_id: str, pieces: Sequence[SealedPiece], now: datetime) -> None:
    """Store the next pieces of a locked import."""
    if pieces:
        await fetch_many(
            tx,
            "INSERT INTO import_piece (import_id, position, first_line, lines, body, received_at)"
            " SELECT $1, p.position, p.first_line, p.lines, p.body, $2"
            " FROM unnest($3::integer[], $4::bigint[], $5::integer[], $6::bytea[])"
            " AS p(position, first_line, lines, body) RETURNING position",
            import_id,
            now,
            *map(list, zip(*pieces, strict=True)),
        )


async def put_arrived(tx: AsyncConnection, file: ImportFile, now: datetime) -> None:
    """Store the progress of a locked import."""
    await tx.execute(
        text(
            "UPDATE import_file SET received_bytes = :received_bytes, rest = :rest, pieces = :pieces,"
            " next_line = :next_line, bytes = :bytes, complete = :complete, delimiter = :delimiter, columns = :columns,"
            " line_end = :line_end, wide = :wide, seen = :seen, touched_at = :now WHERE import_id = :id"
        ),
        {
            "id": file.import_id,
            "received_bytes": file.received_bytes,
            "rest": file.rest,
            "pieces": file.pieces,
            "next_line": file.next_line,
            "bytes": file.bytes,
            "complete": file.complete,
            "delimiter": file.delimiter,
            "columns": list(file.columns) if file.columns is not None else None,
            "line_end": file.line_end,
            "wide": file.wide,
            "seen": file.seen,
            "now": now,
        },
    )
    if file.complete:
        await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": COMPLETE})


WAITING = "SELECT FROM import_piece JOIN import_file USING (import_id) WHERE recorded_at IS NULL AND complete LIMIT 1"


async def lock_waiting(tx: AsyncConnection, put_off: Collection[str] = ()) -> WaitingPiece | None:
    """Lock the next unrecorded piece of a complete import, in index order, outside `put_off`. Skip locked pieces."""
    rows = await fetch_many(
        tx,
        f"SELECT {_FILE}, p.position, p.first_line, p.body, p.received_at FROM import_piece AS p"
        " JOIN import_file AS f USING (import_id) WHERE p.recorded_at IS NULL AND f.complete"
        " AND p.import_id <> ALL($1::text[])"
        " ORDER BY p.import_id, p.position LIMIT 1 FOR UPDATE OF p SKIP LOCKED",
        list(put_off),
    )
    return _waiting(**dict(zip(_WAITING, rows[0], strict=True))) if rows else None


async def settle(
    tx: AsyncConnection,
    piece: WaitingPiece,
    counts: Mapping[str, int],
    reasons: Mapping[str, int],
    verdicts: bytes,
    now: datetime,
) -> None:
    """Store a locked piece's outcome and delete its bytes; the last piece publishes the end of the import."""
    await fetch_many(
        tx,
        "UPDATE import_piece SET body = NULL, recorded_at = $3, created = $4, unchanged = $5, outvoted = $6,"
        " refused = $7, reasons = $8::text::jsonb, verdicts = $9 WHERE import_id = $1 AND position = $2"
        " RETURNING import_id",
        piece.file.import_id,
        piece.position,
        now,
        *(counts.get(verdict, 0) for verdict in ("created", "unchanged", "outvoted", "refused")),
        msgspec.json.encode(dict(reasons)).decode(),
        verdicts,
    )
    await _end(tx, piece.file, now)


async def _end(tx: AsyncConnection, file: ImportFile, now: datetime) -> None:
    """Publish the end of an import without a waiting piece.

    The lock on the file lets one transaction at a time look, so that the last one sees every other piece.
    """
    await fetch_many(tx, "SELECT import_id FROM import_file WHERE import_id = $1 FOR UPDATE", file.import_id)
    rows = await fetch_many(
        tx,
        "SELECT sum(lines), sum(refused) FROM import_piece WHERE import_id = $1"
        " AND NOT EXISTS (SELECT FROM import_piece WHERE import_id = $1 AND recorded_at IS NULL)"
        " HAVING count(*) > 0",
        file.import_id,
    )
    notices = [
        ConsentImportFinished(
            notice_id=file.import_id,
            sender_id=file.sender_id,
            kind="suppressions" if file.kind == "suppressions" else "consents",
            lines=int(lines),
            refused=int(refused),
            finished_at=now,
        )
        for lines, refused in rows
    ]
    await outbox.append(tx, CONSENT_NOTICES, notices)


async def claim_share(tx: AsyncConnection, piece: WaitingPiece, now: datetime) -> bytes | None:
    """Claim the lines of a piece whose people are in this shard, or return the verdicts of a recording before.

    Waits for another worker that records the lines: one whose lock on the piece is lost may still be at work.
    """
    rows = await fetch_many(
        tx,
        "INSERT INTO import_share (import_id, position, recorded_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
        " RETURNING import_id",
        piece.file.import_id,
        piece.position,
        now,
    )
    if rows:
        return None
    [(kept,)] = await fetch_many(
        tx,
        "SELECT verdicts FROM import_share WHERE import_id = $1 AND position = $2 FOR UPDATE",
        piece.file.import_id,
        piece.position,
    )
    found: bytes = kept
    return found


async def keep_share(tx: AsyncConnection, piece: WaitingPiece, verdicts: bytes) -> None:
    """Store the verdicts of a claimed share."""
    await fetch_many(
        tx,
        "UPDATE import_share SET verdicts = $3 WHERE import_id = $1 AND position = $2",
        piece.file.import_id,
        piece.position,
        verdicts,
    )


NOTHING_YET = Progress(0, 0, 0, 0, 0, 0, None, {})


async def progress(tx: AsyncConnection, import_ids: Collection[str]) -> dict[str, Progress]:
    """Return the totals of the imports with a piece, and their reasons, as of one instant."""
    rows = await tx.execute(
        text(
            "WITH refusal AS (SELECT p.import_id, r.key AS reason, sum(r.value::bigint)::bigint AS lines"
            " FROM import_piece AS p, jsonb_each_text(p.reasons) AS r WHERE p.import_id = ANY(CAST(:ids AS text[]))"
            " GROUP BY p.import_id, r.key), by_reason AS (SELECT import_id,"
            " array_agg(reason ORDER BY reason) AS reasons,"
            " array_agg(lines ORDER BY reason) AS of_reasons FROM refusal GROUP BY import_id)"
            " SELECT import_id, count(*) FILTER (WHERE recorded_at IS NOT NULL) AS pieces, sum(lines) AS lines,"
            " sum(created) AS created, sum(unchanged) AS unchanged, sum(outvoted) AS outvoted,"
            " sum(refused) AS refused, max(recorded_at) AS recorded_at,"
            " coalesce(max(by_reason.reasons), '{}') AS reasons,"
            " coalesce(max(by_reason.of_reasons), '{}') AS of_reasons"
            " FROM import_piece LEFT JOIN by_reason USING (import_id)"
            " WHERE import_id = ANY(CAST(:ids AS text[])) GROUP BY import_id"
        ),
        {"ids": list(import_ids)},
    )
    return {
        row.import_id: Progress(
            row.pieces,
            int(row.lines),
            int(row.created),
            int(row.unchanged),
            int(row.outvoted),
            int(row.refused),
            row.recorded_at,
            dict(zip(row.reasons, row.of_reasons, strict=True)),
        )
        for row in rows
    }


async def listed(
    tx: AsyncConnection,
    sender_ids: Collection[str],
    after: tuple[datetime, str] | None,
    limit: int,
    direction: Direction = NEWEST_FIRST,
    *,
    of_every_sender: bool,
) -> list[ImportFile]:
    """Return the imports of these senders behind `after`, by the time of their opening.

    `of_every_sender`: and those without one.
    """
    rows = await tx.execute(
        text(
            f"SELECT {_FILE} FROM import_file AS f"
            " WHERE (f.sender_id = ANY(CAST(:senders AS text[])) OR (:whole AND f.sender_id IS NULL))"
            f" AND (CAST(:at AS timestamptz) IS NULL OR (f.created_at, f.import_id) {direction.beyond} (:at, :id))"
            f" ORDER BY f.created_at {direction.order}, f.import_id {direction.order} LIMIT :limit"
        ),
        {
            "senders": sorted(sender_ids),
            "whole": of_every_sender,
            "at": after[0] if after else None,
            "id": after[1] if after else "",
            "limit": limit,
        },
    )
    return [_file(**row._mapping) for row in rows]


async def verdicts(tx: AsyncConnection, import_id: str, position: int) -> bytes | None:
    """Return a piece's verdicts, None before recording."""
    found: bytes | None = await tx.scalar(
        text("SELECT verdicts FROM import_piece WHERE import_id = :id AND position = :position"),
        {"id": import_id, "position": position},
    )
    return found


async def forget_abandoned(tx: AsyncConnection, before: datetime, asked: Mapping[Whom, datetime] | None = None) -> int:
    """Delete incomplete imports untouched since `before`; return their number.

    `asked`: only those of the senders that these erasures mean: the person may be in a file that is not yet read.
    """
    only = "" if asked is None else f" AND EXISTS (SELECT FROM {TO_ERASE} WHERE {meant('f.sender_id')})"
    rows = await tx.execute(
        text(
            "DELETE FROM import_file WHERE import_id IN (SELECT import_id FROM import_file AS f"
            f" WHERE NOT complete AND touched_at < :before{only} FOR UPDATE SKIP LOCKED) RETURNING import_id"
        ),
        {"before": before, **({} if asked is None else columns(asked))},
    )
    ids = [row.import_id for row in rows]
    await tx.execute(text("DELETE FROM import_piece WHERE import_id = ANY(CAST(:ids AS text[]))"), {"ids": ids})
    return len(ids)


def shape(file: ImportFile) -> Shape | None:
    """Return the shape of the file, or `None` before the first piece."""
    if file.line_end is None:
        return None
    file_format: Format = "csv" if file.format == "csv" else "ndjson"
    return Shape(file_format, file.wide or "", file.line_end, file.delimiter or "")


def layout(file: ImportFile) -> Layout:
    """Return what reads the pieces of a file of which one is here."""
    found = shape(file)
    assert found is not None, "a piece is here"
    return Layout(found, file.columns or (), Seen(file.seen))


def _file(*, columns: Sequence[str] | None, **more: Any) -> ImportFile:
    return ImportFile(columns=tuple(columns) if columns is not None else None, **more)


def _waiting(*, position: int, first_line: int, body: bytes, received_at: datetime, **file: Any) -> WaitingPiece:
    return WaitingPiece(
        file=_file(**file), position=position, first_line=first_line, body=body, received_at=received_at
    )
