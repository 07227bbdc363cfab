"""Own the marketing hold, and the planner's locks and reads. The caller owns the transaction."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Column, Integer, Row, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import Standing as Reported
from campaign.campaigns.store import AWAKE, CAMPAIGN, LOOK_AHEAD, MAY_BE_TRIED, PASSING_FAILURES
from campaign.message.variants import FirstGroups
from campaign.schedule.lifecycle import KEPT
from campaign.schema import instant, metadata
from common.contracts.dispatch import HoldChanged, MessageChanged
from common.db.database import fetch_many

AUDIENCES = 0x61756469  # advisory lock class ("audi"): a lock per sender
FOR_WINNER = datetime(1970, 1, 1, tzinfo=UTC)  # `waits_until` while waiting for the winner, before any real hour


hold = Table(
    "hold",  # the latest marketing hold published by dispatch-svc
    metadata,
    Column("category", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    instant("since"),
    instant("consents_as_of", nullable=True),
    instant("ended_at", nullable=True),
)


async def put_hold(tx: AsyncConnection, event: HoldChanged) -> None:
    """Store a hold, unless the same or a newer version is stored."""
    await tx.execute(
        text(
            "INSERT INTO hold (category, version, since, consents_as_of, ended_at)"
            " VALUES (:category, :version, :since, :consents_as_of, :ended_at)"
            " ON CONFLICT (category) DO UPDATE SET version = excluded.version, since = excluded.since,"
            " consents_as_of = excluded.consents_as_of, ended_at = excluded.ended_at"
            " WHERE hold.version < excluded.version"
        ),
        msgspec.structs.asdict(event),
    )


async def hold_of_marketing(tx: AsyncConnection) -> Row[Any] | None:
    """Return `since` and `consents_as_of` of the marketing hold in force, or `None`."""
    rows = await tx.execute(text("SELECT since, consents_as_of FROM hold WHERE ended_at IS NULL"))
    return rows.one_or_none()


async def wait_for_locks_within(tx: AsyncConnection, seconds: float) -> None:
    """Fail this transaction if any later lock takes longer than `seconds`."""
    await fetch_many(tx, f"SET LOCAL lock_timeout = {int(seconds * 1000)}")


async def lock_running(tx: AsyncConnection, campaign_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Lock and return the running ones among these campaigns, skipping rows locked by other transactions."""
    if not campaign_ids:
        return []
    rows = await tx.execute(
        text(
            f"{CAMPAIGN} WHERE c.campaign_id = ANY(CAST(:ids AS text[])) AND c.status = 'running'"
            " ORDER BY c.campaign_id FOR UPDATE OF c SKIP LOCKED"
        ),
        {"ids": list(campaign_ids)},
    )
    return rows.all()


async def lock_occurrences(
    tx: AsyncConnection, series_id: str, *, paused_because: str | None = None
) -> Sequence[Row[Any]]:
    """Lock the occurrences of a recurring campaign.

    Without `paused_because`: scheduled and running occurrences. Otherwise: occurrences paused for this reason.
    """
    rows = await tx.execute(
        text(
            f"{CAMPAIGN} WHERE c.series_id = :id AND (CASE WHEN CAST(:why AS text) IS NULL"
            " THEN c.status IN ('scheduled', 'running') ELSE c.status = 'paused' AND EXISTS (SELECT FROM"
            " campaign_reason AS p WHERE p.campaign_id = c.campaign_id AND p.kind = 'paused' AND p.reason = :why) END)"
            " ORDER BY c.position FOR UPDATE OF c"
        ),
        {"id": series_id, "why": paused_because},
    )
    return rows.all()


# Campaigns that may have recipients never to be requested: cancelled, or paused past their end.
_GIVEN_UP = (
    "(status = 'cancelled' AND NOT expanded OR status = 'paused' AND started_at IS NOT NULL AND NOT expanded"
    f" AND coalesce(send_before, starts_at + interval '{KEPT.total_seconds():.0f} seconds') <= :now)"
)
# The campaigns of `_GIVEN_UP` for which the sender's next campaign waits, except campaigns failing repeatedly. Their
# recipients count as messaged until denied, so the next campaign reaches fewer people and never more.
_SETTLING = f"{_GIVEN_UP} AND failures <= {PASSING_FAILURES}"


async def lock_due(tx: AsyncConnection, now: datetime) -> Row[Any] | None:
    """Return one due campaign that no other planner has, with its tallies locked.

    The campaign's own row stays unlocked, so that a cancellation, edit or pause never waits for the audience to be
    frozen (`lock_unchanged`). While recipients of the sender's cancelled campaign, or campaign paused past its end, are
    still to be denied, the sender's next campaign waits some seconds: such recipients would count as messaged. A
    failing campaign delays no other (`_SETTLING`).
    """
    rows = await tx.execute(
        text(
            f"{CAMPAIGN} WHERE c.status = 'scheduled' AND c.starts_at <= :now"
            f" AND NOT EXISTS (SELECT FROM campaign AS o WHERE o.sender_id = c.sender_id AND {_SETTLING})"
            f" AND {MAY_BE_TRIED} ORDER BY c.starts_at LIMIT 1 FOR UPDATE OF a SKIP LOCKED"
        ),
        {"now": now},
    )
    return rows.one_or_none()


async def being_settled(tx: AsyncConnection, sender_ids: Sequence[str], now: datetime) -> dict[str, str]:
    """Return, by sender, a campaign the sender's next campaign waits for (`lock_due`)."""
    if not sender_ids:
        return {}
    rows = await tx.execute(
        text(
            "SELECT sender_id, min(campaign_id) AS campaign_id FROM campaign"
            f" WHERE sender_id = ANY(CAST(:ids AS text[])) AND {_SETTLING} GROUP BY sender_id"
        ),
        {"ids": list(sender_ids), "now": now},
    )
    return {row.sender_id: row.campaign_id for row in rows}


async def count_failing(tx: AsyncConnection) -> int:
    """Count the campaigns whose next step has failed more often than a passing fault explains."""
    return int(await tx.scalar(text(f"SELECT count(*) FROM campaign WHERE failures > {PASSING_FAILURES}")) or 0)


async def lock_unchanged(tx: AsyncConnection, row: Row[Any]) -> bool:
    """Lock the campaign; return False, without a lock, if the row changed since being read."""
    found = await tx.execute(
        text("SELECT 1 FROM campaign WHERE campaign_id = :id AND CAST(xmin AS text) = :written FOR UPDATE"),
        {"id": row.campaign_id, "written": row.written},
    )
    return found.one_or_none() is not None


async def alone_with_audiences(tx: AsyncConnection, sender_id: str) -> None:
    """Lock the audiences of a sender until this transaction ends.

    Two campaigns frozen at once would not see each other's recipients when applying the frequency limits.
    """
    await tx.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:id, :key))"), {"id": sender_id, "key": AUDIENCES}
    )


async def lock_expanding(tx: AsyncConnection, now: datetime) -> Row[Any] | None:
    """Lock the unlocked running campaign to expand next: the fewest turns used, weighted by priority."""
    rows = await tx.execute(
        text(
            f"{CAMPAIGN} WHERE c.status = 'running' AND NOT c.expanded AND {AWAKE}"
            " ORDER BY c.turn, c.position LIMIT 1 FOR UPDATE OF c SKIP LOCKED"
        ),
        {"now": now, "beyond": now + LOOK_AHEAD},
    )
    return rows.one_or_none()


class Recipient(msgspec.Struct, frozen=True, gc=False):
    """A recipient and contact. `number` (encrypted) and `attributes` (JSON) are `None` without a contact."""

    subject_id: str
    number: str | None
    attributes: str | None


def _with_contacts(page: str, order: str) -> str:
    """Return the statement joining a page of recipients with their contacts. $1: the sender.

    The array makes Postgres look up all contacts by key in one index scan, whatever the table's statistics: Postgres
    expects ten elements of an array built at run time.
    """
    return (
        f"WITH page AS MATERIALIZED ({page}), held AS MATERIALIZED"
        " (SELECT subject_id, number, attributes::text AS attributes FROM contact"
        " WHERE sender_id = $1 AND subject_id = ANY(ARRAY(SELECT subject_id FROM page)))"
        " SELECT r.subject_id, c.number, c.attributes FROM page AS r"
        f" LEFT JOIN held AS c ON c.subject_id = r.subject_id ORDER BY {order}"
    )


async def next_recipients(tx: AsyncConnection, row: Row[Any], after: str, limit: int) -> list[Recipient]:
    """Return the recipients after `after`, by subject id."""
    page = (
        "SELECT subject_id FROM recipient WHERE campaign_id = $2 AND subject_id > $3"
        f" ORDER BY subject_id LIMIT {limit:d}"
    )
    rows = await fetch_many(tx, _with_contacts(page, "r.subject_id"), row.sender_id, row.campaign_id, after)
    return [Recipient(*each) for each in rows]


async def waiting_recipients(tx: AsyncConnection, row: Row[Any], now: datetime, limit: int) -> list[Recipient]:
    """Return waiting recipients before the cursor, due by `now`.

    Recipients waiting for the A/B test's winner are due once the winner is known.
    """
    page = (
        "SELECT subject_id, waits_until FROM recipient WHERE campaign_id = $2 AND waits_until BETWEEN $3 AND $4"
        " ORDER BY waits_until, subject_id LIMIT $5"
    )
    ordered = _with_contacts(page, "r.waits_until, r.subject_id")
    since = FOR_WINNER if row.winner is not None else FOR_WINNER + timedelta.resolution
    rows = await fetch_many(tx, ordered, row.sender_id, row.campaign_id, since, now, limit)
    return [Recipient(*each) for each in rows]


async def first_groups(tx: AsyncConnection, row: Row[Any]) -> FirstGroups:
    """Return the progress of the recipients not waiting for the winner.

    The scan runs only once all are requested and no message is deferred.
    """
    found = await tx.execute(
        text(
            "SELECT s.asked AND g.going_on = 0 AS over, g.last_at"
            " FROM (SELECT NOT EXISTS (SELECT FROM recipient WHERE campaign_id = :id AND subject_id > :cursor)"
            " AND NOT EXISTS (SELECT FROM recipient WHERE campaign_id = :id AND waits_until > :for_winner)"
            " AND (SELECT deferred = 0 FROM campaign_accounts WHERE campaign_id = :id) AS asked) AS s"
            " CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE status IN ('pending', 'sending', 'deferred'))"
            " AS going_on, max(handed_off_at) AS last_at FROM recipient"
            " WHERE s.asked AND campaign_id = :id AND variant IS NOT NULL) AS g"
        ),
        {"id": row.campaign_id, "cursor": row.cursor, "for_winner": FOR_WINNER},
    )
    return FirstGroups(*found.one())


async def first_hours(tx: AsyncConnection, campaign_ids: Sequence[str]) -> dict[str, datetime]:
    """Return when the first recipient waiting for a local hour is due, by campaign with such a recipient."""
    if not campaign_ids:
        return {}
    rows = await tx.execute(
        text(
            "SELECT c.id, r.due FROM unnest(CAST(:ids AS text[])) AS c(id) CROSS JOIN LATERAL"
            " (SELECT min(waits_until) AS due FROM recipient WHERE campaign_id = c.id AND waits_until > :for_winner)"
            " AS r WHERE r.due IS NOT NULL"
        ),
        {"ids": list(campaign_ids), "for_winner": FOR_WINNER},
    )
    return {row.id: row.due for row in rows}


async def next_wait(tx: AsyncConnection, campaign_id: str, chosen_at: datetime | None) -> datetime | None:
    """Return when the first waiting recipient is due, or `None` without a waiting recipient.

    `chosen_at`: when recipients waiting for the winner are due.
    """
    found: datetime | None = await tx.scalar(
        text(
            "SELECT least((SELECT CAST(:chosen_at AS timestamptz) FROM recipient"
            " WHERE campaign_id = :id AND waits_until = :for_winner LIMIT 1),"
            " (SELECT min(waits_until) FROM recipient WHERE campaign_id = :id AND waits_until > :for_winner))"
        ),
        {"id": campaign_id, "chosen_at": chosen_at, "for_winner": FOR_WINNER},
    )
    return found


async def lock_given_up(tx: AsyncConnection, now: datetime) -> Row[Any] | None:
    """Lock one unlocked campaign with recipients left to deny: cancelled, or paused past its end."""
    rows = await tx.execute(
        text(f"{CAMPAIGN} WHERE {_GIVEN_UP} AND {MAY_BE_TRIED} LIMIT 1 FOR UPDATE OF c SKIP LOCKED"), {"now": now}
    )
    return rows.one_or_none()


async def lock_older(tx: AsyncConnection, events: Sequence[MessageChanged]) -> dict[tuple[str, str], Reported]:
    """Lock the recipients these events are newer for; return the stored state by (campaign_id, subject_id)."""
    rows = await tx.execute(
        text(
            "SELECT r.campaign_id, r.subject_id, r.status, r.reasons, r.receipt FROM recipient AS r"
            " JOIN unnest(CAST(:campaigns AS text[]), CAST(:subjects AS text[]), CAST(:versions AS integer[]))"
            " AS e(campaign_id, subject_id, version)"
            " ON r.campaign_id = e.campaign_id AND r.subject_id = e.subject_id AND r.version < e.version"
            " ORDER BY r.campaign_id, r.subject_id FOR UPDATE OF r"
        ),
        {
            "campaigns": [e.campaign_id for e in events],
            "subjects": [e.subject_id for e in events],
            "versions": [e.version for e in events],
        },
    )
    return {(r.campaign_id, r.subject_id): Reported(r.status, tuple(r.reasons), r.receipt) for r in rows}


async def lock_done(tx: AsyncConnection, now: datetime) -> Row[Any] | None:
    """Lock one unlocked campaign with every recipient requested and decided."""
    rows = await tx.execute(
        text(
            f"{CAMPAIGN} WHERE c.status IN ('running', 'paused') AND c.expanded AND a.pending = 0 AND a.deferred = 0"
            f" AND {MAY_BE_TRIED} LIMIT 1 FOR UPDATE OF c SKIP LOCKED"
        ),
        {"now": now},
    )
    return rows.one_or_none()
