"""Own imports of contacts. The caller owns the transaction."""

from collections.abc import Mapping, Sequence
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
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.schema import instant, metadata
from common.contracts import CAMPAIGN_NOTICES
from common.contracts.campaign import ContactImportFinished
from common.db.database import NEWEST_FIRST, Direction, insert_many, may_idle
from common.kafka import outbox
from common.privacy.erasing import TO_ERASE, Whom, columns, meant

contact_import = Table(
    "contact_import",
    metadata,
    Column("import_id", Text, primary_key=True),
    Column("sender_id", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    instant("created_at"),
    Column("fingerprint", Text, nullable=False),  # keyed hash of sender and file
    Column("lines", Integer, nullable=False),
    Column("created", Integer, nullable=False),
    Column("updated", Integer, nullable=False),
    Column("duplicates", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("reasons", JSONB, nullable=False),
    Column("read_as", JSONB, nullable=False, server_default=text("'null'::jsonb")),  # contacts_file.ReadAs
    Column("bytes", BigInteger, nullable=True),  # of the whole file, where known
    Column("received_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("pieces", Integer, nullable=False, server_default=text("0")),
    Column("complete", Boolean, nullable=False, server_default=text("true")),  # the whole file is here and readable
    Column("line", Integer, nullable=False, server_default=text("0")),  # last line recorded
    Column("attempts", Integer, nullable=False, server_default=text("0")),  # since the last line recorded
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),  # until then: last bytes
    Column("failed", Boolean, nullable=False, server_default=text("false")),  # `finished` is true as well
    Column("finished", Boolean, nullable=False, server_default=text("true")),
    Column("country", Text, nullable=True),  # by whose plan national numbers are read; NULL: the sender's
    Index("contact_import_created_ix", "created_at"),
    Index("contact_import_sender_ix", "sender_id", "created_at"),
    Index("contact_import_waiting_ix", "import_id", postgresql_where=text("complete AND NOT finished")),
)


import_piece = Table(
    "import_piece",  # deleted once recorded in full
    metadata,
    Column("import_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),  # encrypted, context "import:<import_id>:<position>"
    PrimaryKeyConstraint("import_id", "position"),
)


import_refusal = Table(
    "import_refusal",
    metadata,
    Column("import_id", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("import_id", "line"),
)


RefusedRow = tuple[str, int, str]  # import_id, line, reason


async def claim_import(tx: AsyncConnection, import_id: str) -> bool:
    """Lock an import for this transaction; return False where it is locked.

    No caller waits, and the lock ends with the connection: after a process dies, another continues at once.
    """
    await may_idle(tx)
    return bool(await tx.scalar(text("SELECT pg_try_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": import_id}))


async def claim_waiting(tx: AsyncConnection, now: datetime) -> str | None:
    """Claim the complete import that has been due longest; return its id."""
    found: str | None = await tx.scalar(
        text(
            "WITH waiting AS MATERIALIZED (SELECT import_id FROM contact_import"
            " WHERE complete AND NOT finished AND due_at <= :now ORDER BY due_at)"
            " SELECT import_id FROM waiting WHERE pg_try_advisory_xact_lock(hashtextextended(import_id, 0)) LIMIT 1"
        ),
        {"now": now},
    )
    if found is not None:
        await may_idle(tx)
    return found


async def put_attempt(tx: AsyncConnection, import_id: str, attempts: int, due_at: datetime) -> None:
    """Store the attempts since the last progress. The caller has locked the import.

    The next attempt is due at `due_at`, unless this attempt records lines.
    """
    await tx.execute(
        text("UPDATE contact_import SET attempts = :attempts, due_at = :due_at WHERE import_id = :id"),
        {"id": import_id, "attempts": attempts, "due_at": due_at},
    )


async def open_import(
    tx: AsyncConnection,
    import_id: str,
    sender_id: str,
    created_by: str,
    length: int | None,
    country: str | None,
    now: datetime,
) -> None:
    """Insert an import without a file. The caller holds the claim."""
    await tx.execute(
        text(
            "INSERT INTO contact_import (import_id, sender_id, created_by, created_at, fingerprint, lines, created,"
            " updated, duplicates, refused, reasons, bytes, country, complete, finished)"
            " VALUES (:id, :sender_id, :created_by, :now, '', 0, 0, 0, 0, 0, '{}', :length, :country, false, false)"
        ),
        {
            "id": import_id,
            "sender_id": sender_id,
            "created_by": created_by,
            "length": length,
            "country": country,
            "now": now,
        },
    )


async def put_length(tx: AsyncConnection, import_id: str, length: int) -> None:
    """Store the length of the whole file of a claimed import. More bytes are still to come than are here."""
    await tx.execute(
        text("UPDATE contact_import SET bytes = :length WHERE import_id = :id"), {"id": import_id, "length": length}
    )


async def add_piece(tx: AsyncConnection, import_id: str, position: int, sealed: bytes, size: int) -> None:
    """Append a piece to the file of a claimed import. `size`: bytes before encryption."""
    await tx.execute(
        text("INSERT INTO import_piece (import_id, position, body) VALUES (:id, :position, :body)"),
        {"id": import_id, "position": position, "body": sealed},
    )
    await tx.execute(
        text(
            "UPDATE contact_import SET received_bytes = received_bytes + :size, pieces = pieces + 1, due_at = now()"
            " WHERE import_id = :id"
        ),
        {"id": import_id, "size": size},
    )


async def piece_of(tx: AsyncConnection, import_id: str, position: int) -> bytes:
    """Return an encrypted piece of the file."""
    found = await tx.execute(
        text("SELECT body FROM import_piece WHERE import_id = :id AND position = :position"),
        {"id": import_id, "position": position},
    )
    return bytes(found.scalar_one())


async def complete_import(tx: AsyncConnection, import_id: str, fingerprint: str, read_as: Mapping[str, object]) -> None:
    """Mark the file as complete and usable. `read_as`: how to read the pieces, as the check found."""
    await tx.execute(
        text(
            "UPDATE contact_import SET complete = true, bytes = received_bytes, fingerprint = :fingerprint,"
            " read_as = CAST(:read_as AS jsonb) WHERE import_id = :id"
        ),
        {"id": import_id, "fingerprint": fingerprint, "read_as": msgspec.json.encode(read_as).decode()},
    )


async def lock_import(tx: AsyncConnection, import_id: str) -> Mapping[str, Any] | None:
    return await _import(tx, import_id, " FOR UPDATE")


async def find_import(tx: AsyncConnection, import_id: str) -> Mapping[str, Any] | None:
    return await _import(tx, import_id)


_IMPORT = (
    "SELECT import_id, sender_id, country, created_at, fingerprint, lines, created, updated, duplicates, refused,"
    " reasons::text AS reasons, read_as::text AS read_as, bytes, received_bytes, pieces, complete, line,"
    " finished, attempts, failed FROM contact_import"
)


async def _import(tx: AsyncConnection, import_id: str, locked: str = "") -> Mapping[str, Any] | None:
    rows = await tx.execute(text(f"{_IMPORT} WHERE import_id = :id{locked}"), {"id": import_id})
    row = rows.one_or_none()
    return None if row is None else _read(row._mapping)


async def listed(
    tx: AsyncConnection,
    sender_ids: Sequence[str],
    after: tuple[datetime, str] | None,
    limit: int,
    direction: Direction = NEWEST_FIRST,
) -> list[Mapping[str, Any]]:
    """Return the imports of these senders behind `after`, by the time of their opening."""
    rows = await tx.execute(
        text(
            f"{_IMPORT} WHERE sender_id = ANY(CAST(:senders AS text[]))"
            f" AND (CAST(:at AS timestamptz) IS NULL OR (created_at, import_id) {direction.beyond} (:at, :id))"
            f" ORDER BY created_at {direction.order}, import_id {direction.order} LIMIT :limit"
        ),
        {
            "senders": list(sender_ids),
            "at": after[0] if after else None,
            "id": after[1] if after else "",
            "limit": limit,
        },
    )
    return [_read(row._mapping) for row in rows]


def _read(columns: Mapping[Any, Any]) -> Mapping[str, Any]:
    decoded = {name: msgspec.json.decode(columns[name]) for name in ("reasons", "read_as")}
    return {**columns, **decoded}


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """The last recorded line of an import, and the counts up to it."""

    import_id: str
    line: int
    lines: int
    created: int
    updated: int
    duplicates: int
    refused: int
    reasons: Mapping[str, int]


async def put_recorded(tx: AsyncConnection, done: Recorded, refused: Sequence[RefusedRow], now: datetime) -> None:
    """Store progress, counts and new refusals of a locked import.

    The attempts restart and the import is due at once, so that a crash delays nothing.
    """
    await insert_many(tx, "import_refusal", {"import_id": "text", "line": "integer", "reason": "text"}, refused)
    await tx.execute(
        text(
            "UPDATE contact_import SET line = :line, lines = :lines, created = :created, updated = :updated,"
            " duplicates = :duplicates, refused = :refused, reasons = CAST(:reasons AS jsonb), attempts = 0,"
            " due_at = :now WHERE import_id = :import_id"
        ),
        {**msgspec.structs.asdict(done), "reasons": msgspec.json.encode(done.reasons).decode(), "now": now},
    )


async def finish_import(tx: AsyncConnection, import_id: str, read_as: Mapping[str, object], now: datetime) -> None:
    """Mark an import finished, delete the file, and publish the end."""
    await tx.execute(
        text("UPDATE contact_import SET read_as = CAST(:read_as AS jsonb) WHERE import_id = :id"),
        {"id": import_id, "read_as": msgspec.json.encode(read_as).decode()},
    )
    await _end(tx, import_id, now, failed=False)


async def give_up_import(tx: AsyncConnection, import_id: str, now: datetime) -> None:
    """Mark an import failed, delete the file, and publish the end. Recorded lines stay."""
    await _end(tx, import_id, now, failed=True)


async def _end(tx: AsyncConnection, import_id: str, now: datetime, *, failed: bool) -> None:
    rows = await tx.execute(
        text(
            "UPDATE contact_import SET finished = true, failed = :failed WHERE import_id = :id"
            " RETURNING sender_id, lines, refused"
        ),
        {"id": import_id, "failed": failed},
    )
    await tx.execute(text("DELETE FROM import_piece WHERE import_id = :id"), {"id": import_id})
    notices = [
        ContactImportFinished(
            notice_id=import_id,
            sender_id=row.sender_id,
            lines=row.lines,
            refused=row.refused,
            given_up=failed,
            finished_at=now,
        )
        for row in rows
    ]
    await outbox.append(tx, CAMPAIGN_NOTICES, notices)


async def end_silent(tx: AsyncConnection, asked: Mapping[Whom, datetime], before: datetime) -> None:
    """Delete the unfinished imports of the senders that these erasures mean, without a byte since `before`.

    Nobody can tell whether a file holds a person before the file is read. An import in use is locked, and stays.
    """
    rows = await tx.execute(
        text(
            "WITH silent AS MATERIALIZED (SELECT import_id FROM contact_import AS i"
            " WHERE NOT i.complete AND i.due_at < :before"
            f" AND EXISTS (SELECT FROM {TO_ERASE} WHERE {meant('i.sender_id')})),"
            " free AS MATERIALIZED (SELECT import_id FROM silent"
            " WHERE pg_try_advisory_xact_lock(hashtextextended(import_id, 0)))"
            " DELETE FROM contact_import WHERE import_id IN (SELECT import_id FROM free) RETURNING import_id"
        ),
        {**columns(asked), "before": before},
    )
    await tx.execute(
        text("DELETE FROM import_piece WHERE import_id = ANY(CAST(:ids AS text[]))"),
        {"ids": [row.import_id for row in rows]},
    )


async def forget_import(tx: AsyncConnection, import_id: str) -> None:
    """Delete a claimed import of which no line is recorded."""
    for table in ("import_piece", "contact_import"):
        await tx.execute(text(f"DELETE FROM {table} WHERE import_id = :id"), {"id": import_id})


class Refusal(msgspec.Struct, frozen=True):
    line: int
    reason: str


async def refusals_after(tx: AsyncConnection, import_id: str, line: int, limit: int) -> list[Refusal]:
    rows = await tx.execute(
        text(
            "SELECT line, reason FROM import_refusal WHERE import_id = :id AND line > CAST(:line AS bigint)"
            " ORDER BY line LIMIT :limit"
        ),
        {"id": import_id, "line": line, "limit": limit},
    )
    return [Refusal(*row) for row in rows]
