"""Own the templates and their versions. The caller owns the transaction."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.schema import instant, metadata
from common.contracts.campaign import Category, TemplateField
from common.texts.findings import Finding

template = Table(
    "template",
    metadata,
    Column("template_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),  # orders lists
    Column("sender_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("latest", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),  # of the request body
    Index("template_position_ix", "position", unique=True),
    Index("template_sender_ix", "sender_id", "position"),
)

template_version = Table(
    "template_version",
    metadata,
    Column("template_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("fields", JSONB, nullable=False),
    Column("findings", JSONB, nullable=False),  # in the text, at writing
    Column("written_by", Text, nullable=False),
    instant("written_at"),
    Column("approved_by", Text, nullable=True),
    instant("approved_at", nullable=True),
    Column("acknowledged", ARRAY(Text), nullable=True),  # findings, at the approval
    Column("signs", Text, nullable=True),  # the version of the signs, at the approval
    Column("retired_by", Text, nullable=True),
    instant("retired_at", nullable=True),
    PrimaryKeyConstraint("template_id", "number"),
)

_fields = msgspec.json.Decoder(tuple[TemplateField, ...])
_findings = msgspec.json.Decoder(tuple[Finding, ...])


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A template without its versions. `latest`: the number of the newest version."""

    template_id: str
    position: int
    sender_id: str
    name: str
    category: Category
    language: str
    latest: int
    fingerprint: str


class Version(msgspec.Struct, frozen=True, kw_only=True):
    template_id: str
    number: int
    text: str
    fields: tuple[TemplateField, ...]
    findings: tuple[Finding, ...]
    written_by: str
    written_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    acknowledged: Sequence[str] | None
    signs: str | None
    retired_by: str | None
    retired_at: datetime | None


_TEMPLATE = ", ".join(Template.__struct_fields__)
_VERSION = ", ".join(f"{name}::text" if name in ("fields", "findings") else name for name in Version.__struct_fields__)


async def insert(
    tx: AsyncConnection,
    template_id: str,
    sender_id: str,
    name: str,
    category: str,
    language: str,
    fingerprint: str,
) -> bool:
    """Insert a template without versions; False if the template exists."""
    done = await tx.execute(
        text(
            "INSERT INTO template (template_id, sender_id, name, category, language, latest, fingerprint)"
            " VALUES (:id, :sender_id, :name, :category, :language, 0, :fingerprint) ON CONFLICT DO NOTHING"
        ),
        {
            "id": template_id,
            "sender_id": sender_id,
            "name": name,
            "category": category,
            "language": language,
            "fingerprint": fingerprint,
        },
    )
    return done.rowcount == 1


async def found(tx: AsyncConnection, template_id: str, *, lock: bool = False) -> Template | None:
    rows = await tx.execute(
        text(f"SELECT {_TEMPLATE} FROM template WHERE template_id = :id{' FOR UPDATE' if lock else ''}"),
        {"id": template_id},
    )
    row = rows.one_or_none()
    return None if row is None else Template(**row._mapping)


async def templates_before(
    tx: AsyncConnection, position: int | None, senders: Sequence[str], limit: int
) -> list[Template]:
    """Return a page of the templates of these senders, newest first."""
    rows = await tx.execute(
        text(
            f"SELECT {_TEMPLATE} FROM template WHERE (CAST(:position AS bigint) IS NULL OR position < :position)"
            " AND sender_id = ANY(CAST(:senders AS text[]))"
            " ORDER BY position DESC LIMIT :limit"
        ),
        {"position": position, "senders": list(senders), "limit": limit},
    )
    return [Template(**row._mapping) for row in rows]


async def versions_of(tx: AsyncConnection, template_ids: Sequence[str], *, newest: bool = False) -> list[Version]:
    """Return the versions of these templates, newest first, or the newest of each alone."""
    only = "DISTINCT ON (template_id) " if newest else ""
    rows = await tx.execute(
        text(
            f"SELECT {only}{_VERSION} FROM template_version WHERE template_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY template_id, number DESC"
        ),
        {"ids": list(template_ids)},
    )
    return [
        Version(**{**row._mapping, "fields": _fields.decode(row.fields), "findings": _findings.decode(row.findings)})
        for row in rows
    ]


async def add_version(
    tx: AsyncConnection,
    template_id: str,
    written: str,
    fields: Sequence[TemplateField],
    findings: Sequence[Finding],
    *,
    written_by: str,
    now: datetime,
) -> None:
    """Add the next version of a template that the caller has locked, or inserted."""
    await tx.execute(
        text(
            "WITH next AS (UPDATE template SET latest = latest + 1 WHERE template_id = :id RETURNING latest)"
            " INSERT INTO template_version (template_id, number, text, fields, findings, written_by, written_at)"
            " SELECT :id, latest, :text, CAST(:fields AS jsonb), CAST(:findings AS jsonb), :by, :now FROM next"
        ),
        {
            "id": template_id,
            "text": written,
            "fields": msgspec.json.encode(list(fields)).decode(),
            "findings": msgspec.json.encode([{"rule": each.rule, "found": each.found} for each in findings]).decode(),
            "by": written_by,
            "now": now,
        },
    )


async def approve(
    tx: AsyncConnection, version: Version, acknowledged: Sequence[str], signs: str, *, by: str, now: datetime
) -> Version:
    """Store the approval, and return the version with it."""
    await tx.execute(
        text(
            "UPDATE template_version SET approved_by = :by, approved_at = :now,"
            " acknowledged = CAST(:acknowledged AS text[]), signs = :signs"
            " WHERE template_id = :id AND number = :number"
        ),
        {
            "id": version.template_id,
            "number": version.number,
            "by": by,
            "now": now,
            "acknowledged": list(acknowledged),
            "signs": signs,
        },
    )
    return replace(version, approved_by=by, approved_at=now, acknowledged=acknowledged, signs=signs)


async def retire(tx: AsyncConnection, version: Version, *, by: str, now: datetime) -> Version:
    """Store the retirement, and return the version with it."""
    await tx.execute(
        text(
            "UPDATE template_version SET retired_by = :by, retired_at = :now"
            " WHERE template_id = :id AND number = :number"
        ),
        {"id": version.template_id, "number": version.number, "by": by, "now": now},
    )
    return replace(version, retired_by=by, retired_at=now)
