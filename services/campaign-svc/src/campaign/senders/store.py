"""Own the senders published by consent-svc, and the rules for each sender's campaigns."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, Boolean, Column, Index, Integer, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.schema import instant, metadata
from common.contracts.consent import SenderChanged
from common.db.database import fetch_many

sender = Table(
    "sender",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("organisation_id", Text, nullable=False),
    Column("controller", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("brand", Text, nullable=False),
    Column("oadc", Text, nullable=False, server_default=text("''")),
    Column("country", Text, nullable=False),
    Column("stop_code", Text, nullable=False),
    Column("purposes", ARRAY(Text), nullable=False),
    Column("reachable_in", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("stop_page", Text, nullable=True),
    Column("countries", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),  # `country` first
    Index("sender_organisation_ix", "organisation_id"),
)


sender_rule = Table(
    "sender_rule",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("approval", Boolean, nullable=False),  # by another person, before scheduling
    Column("cap_messages", Integer, nullable=True),
    Column("cap_days", Integer, nullable=True),
    Column("link_host", Text, nullable=True),
    Column("stop_added", Text, nullable=True),  # the operator appends to each text
    Column("changed_by", Text, nullable=False),
    instant("changed_at"),
)


@dataclass(frozen=True, slots=True)
class Sender:
    brand: str
    oadc: str
    country: str
    stop_code: str
    purposes: frozenset[str]
    link_host: str | None = None
    stop_added: str = ""
    reachable_in: frozenset[str] = frozenset()
    stop_page: str | None = None
    organisation_id: str = ""
    countries: tuple[str, ...] = ()  # its own, then those abroad: the numbers of its people


async def put_sender(tx: AsyncConnection, event: SenderChanged) -> None:
    """Store a sender, unless a newer version is stored.

    A repeated event overwrites its own version: a replay fills columns added since.
    """
    await tx.execute(
        text(
            "INSERT INTO sender"
            " (sender_id, organisation_id, controller, version, brand, oadc, country, stop_code, purposes,"
            " reachable_in, stop_page, countries)"
            " VALUES (:id, :organisation_id, :controller, :version, :brand, :oadc, :country, :stop_code,"
            " CAST(:purposes AS text[]), CAST(:reachable_in AS text[]), :stop_page, CAST(:countries AS text[]))"
            " ON CONFLICT (sender_id) DO UPDATE SET version = excluded.version, brand = excluded.brand,"
            " oadc = excluded.oadc, country = excluded.country, stop_code = excluded.stop_code,"
            " purposes = excluded.purposes, reachable_in = excluded.reachable_in, stop_page = excluded.stop_page,"
            " countries = excluded.countries"
            " WHERE sender.version <= excluded.version"
        ),
        {
            "id": event.sender_id,
            "organisation_id": event.organisation_id,
            "controller": event.controller_id,
            "version": event.version,
            "brand": event.brand,
            "oadc": event.oadc,
            "country": event.country,
            "stop_code": event.stop_code,
            "purposes": [purpose.id for purpose in event.purposes],
            "reachable_in": list(event.reachable_in),
            "stop_page": event.stop_page,
            "countries": [event.country, *event.abroad],
        },
    )


async def find_sender(tx: AsyncConnection, sender_id: str) -> Sender | None:
    row = (
        await tx.execute(
            text(
                "SELECT s.brand, s.oadc, s.country, s.stop_code, s.purposes, s.reachable_in, s.stop_page,"
                " s.organisation_id, s.countries, r.link_host, coalesce(r.stop_added, '') AS stop_added"
                " FROM sender AS s"
                " LEFT JOIN sender_rule AS r ON r.sender_id = s.sender_id WHERE s.sender_id = :id"
            ),
            {"id": sender_id},
        )
    ).one_or_none()
    if row is None:
        return None
    return Sender(
        row.brand,
        row.oadc,
        row.country,
        row.stop_code,
        frozenset(row.purposes),
        row.link_host,
        row.stop_added,
        frozenset(row.reachable_in),
        row.stop_page,
        row.organisation_id,
        tuple(row.countries),
    )


async def organisations_of(tx: AsyncConnection, sender_ids: Collection[str]) -> dict[str, str]:
    """Return the organisation of each known sender among these."""
    rows = await fetch_many(
        tx, "SELECT sender_id, organisation_id FROM sender WHERE sender_id = ANY($1::text[])", list(sender_ids)
    )
    return {row[0]: row[1] for row in rows}


async def cap_of(tx: AsyncConnection, sender_id: str) -> tuple[int, int] | None:
    """Return the sender's cap as (messages, days), if any."""
    row = (
        await tx.execute(
            text("SELECT cap_messages, cap_days FROM sender_rule WHERE sender_id = :id AND cap_days IS NOT NULL"),
            {"id": sender_id},
        )
    ).one_or_none()
    return (row.cap_messages, row.cap_days) if row else None


async def put_sender_rule(
    tx: AsyncConnection,
    sender_id: str,
    *,
    approval: bool,
    cap: tuple[int, int] | None,
    link_host: str | None,
    stop_added: str | None,
    changed_by: str,
    now: datetime,
) -> None:
    messages, days = cap or (None, None)
    await tx.execute(
        text(
            "INSERT INTO sender_rule"
            " (sender_id, approval, cap_messages, cap_days, link_host, stop_added, changed_by, changed_at)"
            " VALUES (:id, :approval, :messages, :days, :host, :added, :by, :now) ON CONFLICT (sender_id) DO UPDATE"
            " SET approval = excluded.approval, cap_messages = excluded.cap_messages, cap_days = excluded.cap_days,"
            " link_host = excluded.link_host, stop_added = excluded.stop_added,"
            " changed_by = excluded.changed_by, changed_at = excluded.changed_at"
        ),
        {
            "id": sender_id,
            "approval": approval,
            "messages": messages,
            "days": days,
            "host": link_host,
            "added": stop_added,
            "by": changed_by,
            "now": now,
        },
    )
