"""Read and lock one person's data across campaign-svc's tables. The caller owns the transaction."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.campaigns.store import UNREADABLE, decoded_texts
from campaign.message.variants import OWN
from campaign.message.wording import Wording

log = logging.getLogger(__name__)

_object = msgspec.json.Decoder(dict[str, object])
_attributes = msgspec.json.Decoder(dict[str, str])


class HeldContact(msgspec.Struct, frozen=True):
    """A contact of a sender. `number`: encrypted. `corrected`: rectified attributes, null where removed."""

    sender_id: str
    number: str
    attributes: dict[str, object]
    corrected: dict[str, object]
    created_at: datetime
    updated_at: datetime


async def contacts_of(tx: AsyncConnection, subject_id: str, controller_id: str) -> list[HeldContact]:
    """Return one person's contacts of the controller's senders."""
    rows = await tx.execute(
        text(
            "SELECT c.sender_id, c.number, c.attributes::text AS attributes, c.corrected::text AS corrected,"
            " c.created_at, c.updated_at"
            " FROM sender AS s JOIN contact AS c ON c.sender_id = s.sender_id AND c.subject_id = :id"
            " WHERE s.controller = :controller ORDER BY c.sender_id"
        ),
        {"id": subject_id, "controller": controller_id},
    )
    return [
        HeldContact(
            row.sender_id,
            row.number,
            _object.decode(row.attributes),
            _object.decode(row.corrected),
            row.created_at,
            row.updated_at,
        )
        for row in rows
    ]


class Membership(msgspec.Struct, frozen=True):
    """A person's place in the audience of a campaign."""

    campaign_id: str
    sender_id: str
    campaign: str
    purpose: str
    status: str
    reasons: Sequence[str]
    receipt: str | None
    handed_off_at: datetime | None


async def audiences_of(tx: AsyncConnection, subject_id: str, controller_id: str) -> list[Membership]:
    """Return one person's recipient rows with the controller's campaigns, oldest campaign first."""
    rows = await tx.execute(
        text(
            "SELECT c.campaign_id, c.sender_id, c.name, c.purpose, r.status, r.reasons, r.receipt, r.handed_off_at"
            " FROM campaign AS c JOIN recipient AS r ON r.campaign_id = c.campaign_id AND r.subject_id = :id"
            " JOIN sender AS s ON s.sender_id = c.sender_id AND s.controller = :controller"
            " ORDER BY c.position"
        ),
        {"id": subject_id, "controller": controller_id},
    )
    return [Membership(*row) for row in rows]


async def lock_contacts(
    tx: AsyncConnection, subject_id: str, controller_id: str, sender_id: str | None
) -> Sequence[str]:
    """Lock one person's contacts of one sender of the controller, or of all; return the sender ids."""
    found = await tx.execute(
        text(
            "SELECT c.sender_id FROM sender AS s JOIN contact AS c"
            " ON c.sender_id = s.sender_id AND c.subject_id = :id"
            " WHERE s.sender_id = coalesce(:sender_id, s.sender_id) AND s.controller = :controller"
            " ORDER BY c.sender_id FOR UPDATE OF c"
        ),
        {"id": subject_id, "controller": controller_id, "sender_id": sender_id},
    )
    return found.scalars().all()


@dataclass(frozen=True, kw_only=True)
class Requested:
    """A requested message of one person: the text of the variant, the sender, the contact's current attributes.

    `wording` `None`: unreadable.
    """

    campaign_id: str
    starts_at: datetime
    wording: Wording | None
    country: str
    stop_code: str
    stop_added: str
    sender_id: str
    stop_page: str | None
    attributes: dict[str, str]


async def asked_for(tx: AsyncConnection, subject_id: str, controller_id: str, sender_id: str | None) -> list[Requested]:
    """Return one person's requested messages of the controller's senders, or of one, not known to have left.

    The caller holds `alone_with_contacts`: the planner requests no further message.
    """
    rows = await tx.execute(
        text(
            "SELECT g.campaign_id, g.text, g.language, g.translations::text AS translations, g.folding, g.starts_at,"
            " g.trial::text AS trial, r.variant,"
            " s.sender_id, s.country, s.stop_code, s.stop_page, u.link_host, coalesce(u.stop_added, '') AS stop_added,"
            " c.attributes::text AS attributes"
            " FROM campaign AS g JOIN recipient AS r ON r.campaign_id = g.campaign_id AND r.subject_id = :id"
            " JOIN contact AS c ON c.sender_id = g.sender_id AND c.subject_id = :id"
            " JOIN sender AS s ON s.sender_id = g.sender_id AND s.controller = :controller"
            " LEFT JOIN sender_rule AS u ON u.sender_id = g.sender_id"
            " WHERE g.status IN ('running', 'paused') AND r.subject_id <= g.cursor AND r.waits_until IS NULL"
            " AND r.status IN ('pending', 'deferred') AND g.sender_id = coalesce(:sender_id, g.sender_id)"
            " ORDER BY g.campaign_id"
        ),
        {"id": subject_id, "controller": controller_id, "sender_id": sender_id},
    )
    return [
        Requested(
            campaign_id=row.campaign_id,
            starts_at=row.starts_at,
            wording=_wording(row.campaign_id, row.variant or OWN, row._asdict()),
            country=row.country,
            stop_code=row.stop_code,
            stop_added=row.stop_added,
            sender_id=row.sender_id,
            stop_page=row.stop_page,
            attributes=_attributes.decode(row.attributes),
        )
        for row in rows
    ]


def _wording(campaign_id: str, variant: str, columns: Mapping[str, Any]) -> Wording | None:
    """Decode the variant's text, or return None; the campaign's own text needs no A/B test."""
    try:
        texts = decoded_texts({**columns, "trial": None} if variant == OWN else columns)
        return texts.wording_of(variant, columns["link_host"], columns["stop_page"])
    except UNREADABLE:
        log.exception("a campaign's text cannot be read", extra={"campaign_id": campaign_id, "variant": variant})
        return None


class ReceivedTest(msgspec.Struct, frozen=True):
    campaign_id: str
    sender_id: str
    campaign: str
    message_id: str
    asked_at: datetime


async def tests_with(tx: AsyncConnection, subject_id: str, controller_id: str) -> list[ReceivedTest]:
    """Return one person's test sends of the controller's campaigns, oldest first."""
    rows = await tx.execute(
        text(
            "SELECT t.campaign_id, c.sender_id, c.name, t.message_id, t.asked_at FROM test_send AS t"
            " JOIN campaign AS c ON c.campaign_id = t.campaign_id"
            " JOIN sender AS s ON s.sender_id = c.sender_id AND s.controller = :controller"
            " WHERE t.subject_id = :id ORDER BY t.asked_at"
        ),
        {"id": subject_id, "controller": controller_id},
    )
    return [ReceivedTest(*row) for row in rows]
