"""The tables of imports: a file in sealed pieces, and what became of each. Nothing here decides anything.

A piece is uploaded in one transaction and recorded in another; then its bytes are gone, and its verdicts stay. What an
import amounts to is the sum of its pieces: there is no second account of it that could differ.
"""

import builtins
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

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
    Row,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from consent.imports.lines import Layout, Piece
from consent.store import metadata

Table(
    "import_file",
    metadata,
    Column("import_id", Text, primary_key=True),
    Column("created_by", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),  # a keyed hash of what was asked for
    Column("sender_id", Text, nullable=True),  # NULL: every sender
    Column("kind", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("terms", JSONB, nullable=False),  # what holds for every line that does not say otherwise
    Column("delimiter", Text, nullable=True),
    Column("columns", ARRAY(Text), nullable=True),
    Column("bytes", BigInteger, nullable=True),  # of the whole file, where the caller has said
    Column("received_bytes", BigInteger, nullable=False),
    Column("rest", LargeBinary, nullable=True),  # sealed: what has arrived behind the last whole piece
    Column("pieces", Integer, nullable=False),
    Column("next_line", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("touched_at", DateTime(timezone=True), nullable=False),
    Index("import_file_waiting_ix", "touched_at", postgresql_where=text("NOT complete")),
    Index("import_file_complete_ix", "touched_at", postgresql_where=text("complete")),
)

Table(
    "import_piece",
    metadata,
    Column("import_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("first_line", BigInteger, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("body", LargeBinary, nullable=True),  # sealed, context "import:<import_id>:<position>"; NULL once recorded
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=True),
    Column("created", Integer, nullable=False, server_default=text("0")),
    Column("unchanged", Integer, nullable=False, server_default=text("0")),
    Column("outvoted", Integer, nullable=False, server_default=text("0")),
    Column("refused", Integer, nullable=False, server_default=text("0")),
    Column("reasons", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("verdicts", LargeBinary, nullable=True),  # deflated CSV, a line each
    PrimaryKeyConstraint("import_id", "position"),
    Index("import_piece_waiting_ix", "import_id", "position", postgresql_where=text("recorded_at IS NULL")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFile:
    """One import as far as it has arrived. `terms`: JSON. `next_line`: where the next piece begins, from 1."""

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
    received_bytes: int = 0
    rest: builtins.bytes | None = None
    pieces: int = 0
    next_line: int = 1
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """The sum of an import's pieces. `recorded_at`: of the newest."""

    pieces: int
    lines: int
    created: int
    unchanged: int
    outvoted: int
    refused: int
    recorded_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPiece:
    """A piece to record, locked."""

    file: ImportFile
    position: int
    first_line: int
    body: bytes
    received_at: datetime


_FILE = (
    "f.import_id, f.created_by, f.fingerprint, f.sender_id, f.kind, f.format, f.terms::text AS terms, f.delimiter,"
    " f.columns, f.bytes, f.received_bytes, f.rest, f.pieces, f.next_line, f.complete, f.created_at"
)


async def add(tx: AsyncConnection, file: ImportFile) -> ImportFile:
    """The import as it stands: this one, or the one that has its id."""
    await tx.execute(
        text(
            "INSERT INTO import_file (import_id, created_by, fingerprint, sender_id, kind, format, terms, bytes,"
            " received_bytes, pieces, next_line, complete, created_at, touched_at)"
            " VALUES (:import_id, :created_by, :fingerprint, :sender_id, :kind, :format, CAST(:terms AS jsonb), :bytes,"
            " 0, 0, 1, false, :now, :now) ON CONFLICT DO NOTHING"
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
    return _file(row) if row else None


async def put_piece(tx: AsyncConnection, file: ImportFile, first_line: int, sealed: Piece, now: datetime) -> None:
    """The next piece of a locked import, its body sealed."""
    await tx.execute(
        text(
            "INSERT INTO import_piece (import_id, position, first_line, lines, body, received_at)"
            " VALUES (:id, :position, :first_line, :lines, :body, :now)"
        ),
        {
            "id": file.import_id,
            "position": file.pieces,
            "first_line": first_line,
            "lines": sealed.lines,
            "body": sealed.body,
            "now": now,
        },
    )


async def put_arrived(tx: AsyncConnection, file: ImportFile, now: datetime) -> None:
    """Write how far a locked import has arrived."""
    await tx.execute(
        text(
            "UPDATE import_file SET received_bytes = :received_bytes, rest = :rest, pieces = :pieces,"
            " next_line = :next_line, complete = :complete, delimiter = :delimiter, columns = :columns,"
            " touched_at = :now WHERE import_id = :id"
        ),
        {
            "id": file.import_id,
            "received_bytes": file.received_bytes,
            "rest": file.rest,
            "pieces": file.pieces,
            "next_line": file.next_line,
            "complete": file.complete,
            "delimiter": file.delimiter,
            "columns": list(file.columns) if file.columns is not None else None,
            "now": now,
        },
    )


async def lock_waiting(tx: AsyncConnection, put_off: Collection[str] = ()) -> WaitingPiece | None:
    """A piece of a complete import that nobody is at, in the order of the index. Of those `put_off`, none."""
    rows = await tx.execute(
        text(
            f"SELECT {_FILE}, p.position, p.first_line, p.body, p.received_at FROM import_piece AS p"
            " JOIN import_file AS f USING (import_id) WHERE p.recorded_at IS NULL AND f.complete"
            " AND p.import_id <> ALL(CAST(:put_off AS text[]))"
            " ORDER BY p.import_id, p.position LIMIT 1 FOR UPDATE OF p SKIP LOCKED"
        ),
        {"put_off": list(put_off)},
    )
    row = rows.one_or_none()
    if row is None:
        return None
    return WaitingPiece(
        file=_file(row),
        position=row.position,
        first_line=row.first_line,
        body=row.body,
        received_at=row.received_at,
    )


async def settle(
    tx: AsyncConnection,
    piece: WaitingPiece,
    counts: Mapping[str, int],
    reasons: Mapping[str, int],
    verdicts: bytes,
    now: datetime,
) -> None:
    """What became of a locked piece; its bytes go."""
    await tx.execute(
        text(
            "UPDATE import_piece SET body = NULL, recorded_at = :now, created = :created, unchanged = :unchanged,"
            " outvoted = :outvoted, refused = :refused, reasons = CAST(:reasons AS jsonb), verdicts = :verdicts"
            " WHERE import_id = :id AND position = :position"
        ),
        {
            "id": piece.file.import_id,
            "position": piece.position,
            "now": now,
            "created": counts.get("created", 0),
            "unchanged": counts.get("unchanged", 0),
            "outvoted": counts.get("outvoted", 0),
            "refused": counts.get("refused", 0),
            "reasons": msgspec.json.encode(dict(reasons)).decode(),
            "verdicts": verdicts,
        },
    )


async def progress(tx: AsyncConnection, import_id: str) -> tuple[Progress, dict[str, int]]:
    """How far it is recorded; and how many lines were refused, by reason."""
    rows = await tx.execute(
        text(
            "SELECT count(*) FILTER (WHERE recorded_at IS NOT NULL) AS pieces, coalesce(sum(lines), 0) AS lines,"
            " coalesce(sum(created), 0) AS created, coalesce(sum(unchanged), 0) AS unchanged,"
            " coalesce(sum(outvoted), 0) AS outvoted, coalesce(sum(refused), 0) AS refused,"
            " max(recorded_at) AS recorded_at FROM import_piece WHERE import_id = :id"
        ),
        {"id": import_id},
    )
    row = rows.one()
    why = await tx.execute(
        text(
            "SELECT r.key AS reason, sum(r.value::bigint) AS lines FROM import_piece AS p, jsonb_each_text(p.reasons)"
            " AS r WHERE p.import_id = :id GROUP BY r.key ORDER BY r.key"
        ),
        {"id": import_id},
    )
    found = Progress(
        row.pieces,
        int(row.lines),
        int(row.created),
        int(row.unchanged),
        int(row.outvoted),
        int(row.refused),
        row.recorded_at,
    )
    return found, {r.reason: int(r.lines) for r in why}


async def verdicts(tx: AsyncConnection, import_id: str, position: int) -> bytes | None:
    """Those of one piece; None where it is not recorded yet."""
    found: bytes | None = await tx.scalar(
        text("SELECT verdicts FROM import_piece WHERE import_id = :id AND position = :position"),
        {"id": import_id, "position": position},
    )
    return found


async def forget_abandoned(tx: AsyncConnection, before: datetime) -> int:
    """Take away the imports of which nothing more has arrived since `before`, and their bytes; returns how many."""
    rows = await tx.execute(
        text(
            "DELETE FROM import_file WHERE import_id IN (SELECT import_id FROM import_file"
            " WHERE NOT complete AND touched_at < :before FOR UPDATE SKIP LOCKED) RETURNING import_id"
        ),
        {"before": before},
    )
    ids = [row.import_id for row in rows]
    await tx.execute(text("DELETE FROM import_piece WHERE import_id = ANY(CAST(:ids AS text[]))"), {"ids": ids})
    return len(ids)


def layout(file: ImportFile) -> Layout:
    return Layout("csv" if file.format == "csv" else "ndjson", file.delimiter or "", file.columns or ())


def _file(row: Row[Any]) -> ImportFile:
    return ImportFile(
        import_id=row.import_id,
        created_by=row.created_by,
        fingerprint=row.fingerprint,
        sender_id=row.sender_id,
        kind=row.kind,
        format=row.format,
        terms=row.terms,
        delimiter=row.delimiter,
        columns=tuple(row.columns) if row.columns is not None else None,
        bytes=row.bytes,
        received_bytes=row.received_bytes,
        rest=row.rest,
        pieces=row.pieces,
        next_line=row.next_line,
        complete=row.complete,
        created_at=row.created_at,
    )
