"""Own the kinds of a sender's attributes (`contact_attribute`): declared by a caller, or inferred."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Column, DateTime, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience.attribute import Kind
from campaign.schema import metadata

contact_attribute = Table(
    "contact_attribute",
    metadata,
    Column("sender_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("declared_by", Text, nullable=True),  # NULL: inferred
    Column("changed_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("sender_id", "name"),
)


async def kinds_of(tx: AsyncConnection, sender_id: str) -> dict[str, Kind]:
    rows = await tx.execute(
        text("SELECT name, kind FROM contact_attribute WHERE sender_id = :id ORDER BY name"), {"id": sender_id}
    )
    return {row.name: Kind(row.kind) for row in rows}


async def declare(tx: AsyncConnection, sender_id: str, name: str, kind: Kind, by: str, now: datetime) -> None:
    """Declare a kind for later values. A stored value of another form stays, and meets no comparison."""
    await tx.execute(
        text(
            "INSERT INTO contact_attribute (sender_id, name, kind, declared_by, changed_at)"
            " VALUES (:id, :name, :kind, :by, :now) ON CONFLICT (sender_id, name) DO UPDATE"
            " SET kind = excluded.kind, declared_by = excluded.declared_by, changed_at = excluded.changed_at"
        ),
        {"id": sender_id, "name": name, "kind": kind.value, "by": by, "now": now},
    )


async def learn(tx: AsyncConnection, sender_id: str, kinds: Mapping[str, Kind], now: datetime) -> None:
    """Store the kinds of unknown attributes. A known attribute keeps its kind."""
    if not kinds:
        return
    await tx.execute(
        text(
            "INSERT INTO contact_attribute (sender_id, name, kind, changed_at)"
            " SELECT :id, n.name, n.kind, :now FROM unnest(CAST(:names AS text[]), CAST(:kinds AS text[]))"
            " AS n(name, kind) ORDER BY n.name ON CONFLICT DO NOTHING"
        ),
        {"id": sender_id, "names": list(kinds), "kinds": [kind.value for kind in kinds.values()], "now": now},
    )
