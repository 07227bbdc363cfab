"""Own the links to preference pages, through which a person uses their rights; read the rights a person has used."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Index,
    Table,
    Text,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from common.privacy.erasing import TO_ERASE, Whom, columns, counted, meant
from consent.schema import metadata

Table(
    "preference_link",  # the key which signs links is elsewhere
    metadata,
    Column("link_id", Text, primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("number", Text, nullable=False),  # encrypted as `subject.number`; the subject may have no row
    Column("sender_id", Text, nullable=True),  # null: every sender
    Column("browser", Text, nullable=True),  # SHA-256 of the cookie which did more than stop
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("whole", Boolean, nullable=False, server_default=text("false")),
    Column("given_to", Text, nullable=True),  # null: texted, or not recorded
    Index("preference_link_expires_at_ix", "expires_at"),
    Index("preference_link_subject_id_ix", "subject_id"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceLink:
    """A short link to a subject's preference page. `number`: encrypted. `sender_id` None: the page shows every sender.

    `whole`: the holder counts as the person, also for an opt-in or an erasure (ADR-0058). `given_to`: the caller.
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
        """Return whether the link can only stop. Only a caller for every sender can ask for a link for every sender."""
        return not self.whole and self.sender_id is not None


async def add_link(tx: AsyncConnection, link: PreferenceLink, now: datetime) -> datetime:
    """Store a link, or keep the link with this id; return when the link expires. Delete some expired links.

    `whole` only narrows.
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


async def narrow_link(tx: AsyncConnection, link: PreferenceLink, now: datetime) -> bool:
    """Narrow `whole` of the stored link with this id; return whether the link lasts."""
    return bool(
        await tx.scalar(
            text(
                "UPDATE preference_link SET whole = whole AND :whole WHERE link_id = :link_id AND expires_at > :now"
                " RETURNING true"
            ),
            {"link_id": link.link_id, "whole": link.whole, "now": now},
        )
    )


async def add_texted(tx: AsyncConnection, links: Sequence[PreferenceLink], now: datetime) -> None:
    """Store whole links that answers tell of. A link once stored stays as it is."""
    if not links:
        return
    await tx.execute(
        text(
            "INSERT INTO preference_link (link_id, subject_id, number, sender_id, created_at, expires_at, whole)"
            " SELECT l.*, true FROM (SELECT l.link_id, l.subject_id, l.number, l.sender_id, CAST(:now AS timestamptz),"
            " l.expires_at FROM unnest(CAST(:ids AS text[]), CAST(:subjects AS text[]), CAST(:numbers AS text[]),"
            " CAST(:senders AS text[]), CAST(:ends AS timestamptz[]))"
            " AS l(link_id, subject_id, number, sender_id, expires_at)) AS l ON CONFLICT DO NOTHING"
        ),
        {
            "ids": [link.link_id for link in links],
            "subjects": [link.subject_id for link in links],
            "numbers": [link.number for link in links],
            "senders": [link.sender_id for link in links],
            "ends": [link.expires_at for link in links],
            "now": now,
        },
    )


async def delete_links(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Delete the links of these people; return counts. A link to the page of every sender is no controller's."""
    rows = await tx.execute(
        text(
            f"WITH gone AS (DELETE FROM preference_link AS l USING {TO_ERASE}"
            f" WHERE l.subject_id = a.subject_id AND {meant('l.sender_id')} RETURNING a.subject_id, a.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM gone GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    return counted(rows)


async def bind_link(tx: AsyncConnection, link_id: str, browser: str) -> bool:
    """Bind the link to this browser; return False for another browser's link."""
    held = await tx.scalar(
        text("UPDATE preference_link SET browser = coalesce(browser, :browser) WHERE link_id = :id RETURNING browser"),
        {"id": link_id, "browser": browser},
    )
    return bool(held == browser)


@dataclass(frozen=True, slots=True)
class AskedRight:
    """An erasure or a rectification that was asked of a controller. `detail`: the source of the request."""

    kind: str
    id: str
    controller_id: str
    sender_id: str | None
    requested_at: datetime
    completed_at: datetime | None
    detail: str


async def asked_of(tx: AsyncConnection, subject_id: str, controllers: Collection[str]) -> list[AskedRight]:
    """Return a person's erasures and rectifications that concern one of these controllers alone."""
    rows = await tx.execute(
        text(
            "SELECT 'erasure', e.erasure_id, e.controller_id, NULL, e.requested_at, e.completed_at, e.source"
            " FROM erasing AS g JOIN erasure AS e USING (erasure_id)"
            " WHERE g.subject_id = :id AND e.controller_id = ANY(CAST(:controllers AS text[]))"
            " UNION ALL SELECT 'rectification', rectification_id, controller_id, sender_id, requested_at,"
            " completed_at, source FROM rectification"
            " WHERE subject_id = :id AND controller_id = ANY(CAST(:controllers AS text[]))"
        ),
        {"id": subject_id, "controllers": sorted(controllers)},
    )
    return [AskedRight(*row) for row in rows]
