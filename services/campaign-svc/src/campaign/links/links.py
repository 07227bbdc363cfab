"""Own tracked links: store, find by token, click, forget.

The first click of a day on a link renews the sender's contact and is published to consent-svc, as contact from the
person; more clicks would prove no more (ADR-0038).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import store as audience
from campaign.message import short_link
from campaign.schedule.lifecycle import ends_by, later, message_of
from common.contracts import CLICKS
from common.contracts.campaign import LinkClicked
from common.kafka import outbox
from common.keyring import LinkKeys
from common.privacy import stop_link
from common.privacy.erasing import TO_ERASE, Whom, columns, counted, meant, not_lifted


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a person's links, a `short_link.Token`. Tokens without a target are not stored."""

    keys: LinkKeys
    campaign_id: str
    subject_id: str
    sender_id: str
    now: datetime
    made: dict[str, str] = field(default_factory=dict)  # by target

    def __call__(self, target: str) -> str:
        if target == short_link.STOP_LINK:
            return stop_link.token(self.keys, self.sender_id, self.subject_id, self.now)
        if target == short_link.PREFERENCES:
            return stop_link.token(self.keys, self.sender_id, self.subject_id, self.now, "preference link")
        return self.made.setdefault(target, short_link.token(self.keys, self.campaign_id, self.subject_id, target))


@dataclass(frozen=True, slots=True)
class Link:
    """A person's link, dead from `expires_at` on."""

    campaign_id: str
    subject_id: str
    sender_id: str
    place: int
    target: str
    message_id: str
    expires_at: datetime
    last_clicked_at: datetime | None


async def put_targets(tx: AsyncConnection, campaign_id: str, targets: Sequence[str]) -> None:
    """Store a campaign's targets in the order of its texts. Call once, at the start."""
    await tx.execute(
        text(
            "INSERT INTO campaign_link (campaign_id, place, target) SELECT :id, t.place, t.target"
            " FROM unnest(CAST(:targets AS text[])) WITH ORDINALITY AS t(target, place)"
        ),
        {"id": campaign_id, "targets": list(targets)},
    )


async def keep(tx: AsyncConnection, made: Sequence[Tokens]) -> None:
    """Store the tokens of messages requested in this transaction, except for persons being erased.

    A message rewritten under another key overwrites the old token, never sent.
    """
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
            " JOIN campaign AS c ON c.campaign_id = m.campaign_id WHERE NOT EXISTS (SELECT FROM erasing AS a"
            f" WHERE a.subject_id = m.subject_id AND {not_lifted('c.sender_id')} AND {meant('c.sender_id')})"
            " ON CONFLICT (campaign_id, subject_id, place) DO UPDATE SET token = excluded.token"
            " WHERE link.token <> excluded.token"
        ),
        {"campaigns": campaigns, "subjects": subjects, "targets": targets, "tokens": tokens},
    )


async def tokens_of(tx: AsyncConnection, campaign_id: str, subject_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the stored tokens of a campaign's recipients, by subject id and target."""
    rows = await tx.execute(
        text(
            "SELECT l.subject_id, t.target, l.token FROM campaign_link AS t JOIN link AS l"
            " ON l.campaign_id = t.campaign_id AND l.place = t.place AND l.subject_id = ANY(CAST(:ids AS text[]))"
            " WHERE t.campaign_id = :campaign_id"
        ),
        {"campaign_id": campaign_id, "ids": list(subject_ids)},
    )
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row.subject_id, {})[row.target] = row.token
    return found


async def find(tx: AsyncConnection, token: str, keys: LinkKeys, days: int, *, lock: bool = False) -> Link | None:
    """Return the link if a key of ours made its token, even an expired link.

    The link leads only to a target stored at the campaign's start. `expires_at` is `days` after the campaign's last
    message may leave. `lock`: lock the person's contact, then the link, the order of erasures and rectifications.
    """
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
        message_id=message_of(row.campaign_id, row.starts_at, keys.inner(row.subject_id)),
        expires_at=later(ends_by(row.starts_at, row.send_before), timedelta(days=days)),
        last_clicked_at=row.last_clicked_at,
    )


async def click(tx: AsyncConnection, link: Link, now: datetime) -> None:
    """Record a click by the person. The link and the contact are locked."""
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


async def forget(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Delete these people's links and clicks; return how many."""
    rows = await tx.execute(
        text(
            "WITH gone AS (DELETE FROM link AS l USING (SELECT DISTINCT t.campaign_id, g.sender_id"
            f" FROM campaign_link AS t JOIN campaign AS g USING (campaign_id)) AS c CROSS JOIN {TO_ERASE}"
            f" WHERE l.campaign_id = c.campaign_id AND l.subject_id = a.subject_id AND {meant('c.sender_id')}"
            " RETURNING a.subject_id, a.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM gone GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    return counted(rows)


@dataclass(frozen=True, slots=True)
class SentLink:
    """A link of a person, with the clicks."""

    campaign_id: str
    sender_id: str
    target: str
    clicks: int
    first_clicked_at: datetime | None
    last_clicked_at: datetime | None


async def of_person(tx: AsyncConnection, subject_id: str, controller_id: str) -> list[SentLink]:
    """Return a person's links of a controller's senders, oldest campaign first."""
    rows = await tx.execute(
        text(
            "SELECT c.campaign_id, c.sender_id, t.target, l.clicks, l.first_clicked_at, l.last_clicked_at"
            " FROM campaign_link AS t JOIN campaign AS c USING (campaign_id)"
            " JOIN link AS l ON l.campaign_id = t.campaign_id AND l.place = t.place AND l.subject_id = :id"
            " JOIN sender AS s ON s.sender_id = c.sender_id AND s.controller = :controller"
            " ORDER BY c.position, t.place"
        ),
        {"id": subject_id, "controller": controller_id},
    )
    return [SentLink(*row) for row in rows]
