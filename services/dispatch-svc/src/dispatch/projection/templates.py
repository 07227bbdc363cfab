"""The table of approved templates, and its statements: the copy of what campaign-svc publishes.

The copy may be late: a retired version sends until its retirement arrives. A code may not depend on campaign-svc, so no
message waits for a fresher copy; the alert TemplatesBehind tells of a late one.
"""

from collections.abc import Collection
from typing import NamedTuple

import msgspec
from sqlalchemy import Column, Integer, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.campaign import TemplateChanged, TemplateField
from common.db.database import fetch_many
from dispatch.schema import metadata

UNREADABLE = "unreadable"  # besides the states of the event: no message leaves from such a version

template = Table(
    "template",
    metadata,
    Column("template_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("fields", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", Integer, nullable=False),
    PrimaryKeyConstraint("template_id", "number"),
)

_fields = msgspec.json.Decoder(tuple[TemplateField, ...])

Wanted = tuple[str, int | None]  # template_id, number; `None`: the newest approved version


class TemplateVersion(NamedTuple):
    template_id: str
    number: int
    sender_id: str
    category: str
    text: str
    fields: tuple[TemplateField, ...]
    state: str


async def put_template(tx: AsyncConnection, event: TemplateChanged) -> bool:
    """Store a state, unless a newer one is stored. An unreadable version stays so until a newer state.

    Return False if the stored version has another content: a restored campaign-svc has numbered another text alike.
    Such a version becomes unreadable, and keeps the content behind the messages already sent.
    """
    at = {"id": event.template_id, "number": event.number}
    rows = await tx.execute(
        text(
            "SELECT sender_id, category, text, fields::text AS fields FROM template"
            " WHERE template_id = :id AND number = :number FOR UPDATE"
        ),
        at,
    )
    stored = rows.one_or_none()
    same = stored is None or (stored.sender_id, stored.category, stored.text, _fields.decode(stored.fields)) == (
        event.sender_id,
        event.category,
        event.text,
        event.fields,
    )
    done = await tx.execute(
        text(
            "INSERT INTO template (template_id, number, sender_id, category, text, fields, state, version)"
            " VALUES (:id, :number, :sender_id, :category, :text, CAST(:fields AS jsonb), :state, :version)"
            " ON CONFLICT (template_id, number) DO UPDATE SET state = excluded.state, version = excluded.version"
            " WHERE template.version < excluded.version"
        ),
        {
            **at,
            "sender_id": event.sender_id,
            "category": event.category,
            "text": event.text,
            "fields": msgspec.json.encode(event.fields).decode(),
            "state": event.state if same else UNREADABLE,
            "version": event.version,
        },
    )
    return same or done.rowcount == 0


async def mark_unreadable(tx: AsyncConnection, template_version: str) -> None:
    """Let no message leave from the version, named as in the event: the unreadable record may retire the version."""
    template_id, _, number = template_version.rpartition("@")
    await tx.execute(
        text("UPDATE template SET state = :state WHERE template_id = :id AND CAST(number AS text) = :number"),
        {"state": UNREADABLE, "id": template_id, "number": number},
    )


async def templates(tx: AsyncConnection, wanted: Collection[Wanted]) -> dict[Wanted, TemplateVersion]:
    """Return the known versions among these. Without an approved version, the newest stands for the template."""
    rows = await fetch_many(
        tx,
        "SELECT w.number, t.template_id, t.number, t.sender_id, t.category, t.text, t.fields::text, t.state"
        " FROM unnest($1::text[], $2::integer[]) AS w(template_id, number) CROSS JOIN LATERAL"
        " (SELECT * FROM template AS t WHERE t.template_id = w.template_id AND t.number = coalesce(w.number, t.number)"
        " ORDER BY t.state = 'approved' DESC, t.number DESC LIMIT 1) AS t",
        [template_id for template_id, _ in wanted],
        [number for _, number in wanted],
    )
    return {
        (template_id, asked): TemplateVersion(
            template_id, number, sender_id, category, said, _fields.decode(fields), state
        )
        for asked, template_id, number, sender_id, category, said, fields, state in rows
    }
