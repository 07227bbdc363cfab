"""The only door to tracked links: kept as a message is written, found by their token, clicked, forgotten.

A campaign's targets are told when it starts (`put_targets`), then each message's tokens, in the transaction that asks
for it. A click moves counters in the row of its link, and once a day and link it makes the sender's contact younger and
is told to consent-svc: it is contact from the person, and more often would prove no more (ADR-0038).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import store as audience
from campaign.message import short_link
from campaign.schedule.lifecycle import ends_by, later, message_of
from common.contracts import CLICKS
from common.contracts.campaign import LinkClicked
from common.kafka import outbox
from common.privacy.keyring import LinkKeys


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one person's links in one campaign, made as their message is written: a `short_link.Token`."""

    keys: LinkKeys
    campaign_id: str
    subject_id: str
    made: dict[str, str] = field(default_factory=dict)  # by target

    def __call__(self, target: str) -> str:
        return self.made.setdefault(target, short_link.token(self.keys, self.campaign_id, self.subject_id, target))


@dataclass(frozen=True, slots=True)
class Link:
    """One person's. `expires_at`: from then on it leads nowhere."""

    campaign_id: str
    subject_id: str
    sender_id: str
    place: int
    target: str
    message_id: str
    expires_at: datetime
    last_clicked_at: datetime | None


async def put_targets(tx: AsyncConnection, campaign_id: str, targets: Sequence[str]) -> None:
    """Where the links of a campaign lead, each target once, in the order of its texts. It starts once."""
    await tx.execute(
        text(
            "INSERT INTO campaign_link (campaign_id, place, target) SELECT :id, t.place, t.target"
            " FROM unnest(CAST(:targets AS text[])) WITH ORDINALITY AS t(target, place)"
        ),
        {"id": campaign_id, "targets": list(targets)},
    )


async def keep(tx: AsyncConnection, made: Sequence[Tokens]) -> None:
    """Of messages that are asked for in this transaction, whose person's erasure nobody has asked for. Written again
    with another key, a link has another token, and the one that never left is forgotten."""
    rows = [(each.campaign_id, each.subject_id, *pair) for each in made for pair in each.made.items()]
    if not rows:
        return
    campaigns, subjects, targets, tokens = map(list, zip(*rows, strict=True))
    await tx.execute(
        text(
            "INSERT INTO link (campaign_id, subject_id, place, token)"
            " SELECT m.campaign_id, m.subject_id, t.place, m.token FROM unnest(CAST(:campaigns AS text[]),"
            " CAST(:subjects AS text[]), CAST(:targets AS text[]), CAST(:tokens AS text[]))"
            " AS m(campaign_id, subject_id, target, token)"
            " JOIN campaign_link AS t ON t.campaign_id = m.campaign_id AND t.target = m.target"
            " WHERE NOT EXISTS"
            " (SELECT FROM erasing AS e WHERE e.subject_id = m.subject_id AND e.lifted_at IS NULL)"
            " ON CONFLICT (campaign_id, subject_id, place) DO UPDATE SET token = excluded.token"
            " WHERE link.token <> excluded.token"
        ),
        {"campaigns": campaigns, "subjects": subjects, "targets": targets, "tokens": tokens},
    )


async def find(tx: AsyncConnection, token: str, keys: LinkKeys, days: int, *, lock: bool = False) -> Link | None:
    """The link, if a key of ours made it; it may have expired. It leads to what its campaign started with and nowhere
    else, for so many `days` after the last message of the campaign may leave. `lock`: its person's contact first, as
    who erases or corrects them."""
    if not short_link.TOKEN.fullmatch(token):
        return None
    if lock:
        await tx.execute(
            text(
                "SELECT 1 FROM link AS l JOIN campaign AS c USING (campaign_id) JOIN contact AS k"
                " ON k.sender_id = c.sender_id AND k.subject_id = l.subject_id"
                " WHERE l.token = :token FOR NO KEY UPDATE OF k"
            ),
            {"token": token},
        )
    row = (
        await tx.execute(
            text(
                "SELECT l.campaign_id, l.subject_id, l.place, l.last_clicked_at, t.target, c.sender_id, c.starts_at,"
                " c.send_before FROM link AS l JOIN campaign_link AS t USING (campaign_id, place)"
                f" JOIN campaign AS c USING (campaign_id) WHERE l.token = :token {'FOR UPDATE OF l' if lock else ''}"
            ),
            {"token": token},
        )
    ).one_or_none()
    if row is None or not short_link.is_ours(token, keys, row.campaign_id, row.subject_id, row.target):
        return None
    return Link(
        campaign_id=row.campaign_id,
        subject_id=row.subject_id,
        sender_id=row.sender_id,
        place=row.place,
        target=row.target,
        message_id=message_of(row.campaign_id, row.starts_at, row.subject_id),
        expires_at=later(ends_by(row.starts_at, row.send_before), timedelta(days=days)),
        last_clicked_at=row.last_clicked_at,
    )


async def click(tx: AsyncConnection, link: Link, now: datetime) -> None:
    """By the person. The link is locked, and their contact."""
    await tx.execute(
        text(
            "UPDATE link SET clicks = clicks + 1, first_clicked_at = coalesce(first_clicked_at, :now),"
            " last_clicked_at = :now WHERE campaign_id = :campaign_id AND subject_id = :subject_id AND place = :place"
        ),
        {"campaign_id": link.campaign_id, "subject_id": link.subject_id, "place": link.place, "now": now},
    )
    if link.last_clicked_at is None or link.last_clicked_at.astimezone(UTC).date() < now.date():
        await audience.heard_of(tx, link.sender_id, link.subject_id, now)
        event = LinkClicked(
            subject_id=link.subject_id,
            sender_id=link.sender_id,
            campaign_id=link.campaign_id,
            message_id=link.message_id,
            link=link.place,
            clicked_at=now,
        )
        await outbox.append(tx, CLICKS, [event])


async def forget(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, int]:
    """The links of these people with their clicks; how many by subject_id. Found campaign by campaign, by the primary
    key: only a campaign that has links has any."""
    rows = await tx.execute(
        text(
            "WITH gone AS (DELETE FROM link AS l USING (SELECT DISTINCT campaign_id FROM campaign_link) AS c"
            " WHERE l.campaign_id = c.campaign_id AND l.subject_id = ANY(CAST(:ids AS text[])) RETURNING l.subject_id)"
            " SELECT subject_id, count(*) AS links FROM gone GROUP BY subject_id"
        ),
        {"ids": list(subject_ids)},
    )
    return {row.subject_id: row.links for row in rows}


async def of_person(tx: AsyncConnection, subject_id: str) -> Sequence[Row[Any]]:
    """With where each leads, oldest campaign first."""
    rows = await tx.execute(
        text(
            "SELECT c.campaign_id, c.sender_id, t.place, t.target, l.clicks, l.first_clicked_at, l.last_clicked_at"
            " FROM campaign_link AS t JOIN campaign AS c USING (campaign_id)"
            " JOIN link AS l ON l.campaign_id = t.campaign_id AND l.place = t.place AND l.subject_id = :id"
            " ORDER BY c.position, t.place"
        ),
        {"id": subject_id},
    )
    return rows.all()
