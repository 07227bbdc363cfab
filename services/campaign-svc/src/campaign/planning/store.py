"""Own the marketing hold, and the planner's locks and reads. The caller owns the transaction."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import Column, Integer, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.campaigns.campaign import Campaign, Progress
from campaign.campaigns.store import AWAKE, LOOK_AHEAD, MAY_BE_TRIED, PASSING_FAILURES, progress_of
from campaign.campaigns.tallies import UNDECIDED
from campaign.message.variants import FirstGroups
from campaign.schedule.lifecycle import KEPT
from campaign.schema import instant, metadata
from common.contracts.dispatch import HoldChanged
from common.db.database import fetch_many

AUDIENCES = 0x61756469  # advisory lock ("audi") per sender
FOR_WINNER = datetime(1970, 1, 1, tzinfo=UTC)  # `waits_until` while waiting for the winner, before any real hour


hold = Table(
    "hold",  # latest, by dispatch-svc
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


class MarketingHold(msgspec.Struct, frozen=True):
    since: datetime
    consents_as_of: datetime | None


async def hold_of_marketing(tx: AsyncConnection) -> MarketingHold | None:
    """Return the marketing hold in force."""
    rows = await tx.execute(text("SELECT since, consents_as_of FROM hold WHERE ended_at IS NULL"))
    found = rows.one_or_none()
    return None if found is None else MarketingHold(*found)


async def wait_for_locks_within(tx: AsyncConnection, seconds: float) -> None:
    """Fail this transaction if a later lock takes longer."""
    await fetch_many(tx, f"SET LOCAL lock_timeout = {int(seconds * 1000)}")


async def lock_running(tx: AsyncConnection, campaign_ids: Sequence[str]) -> list[Progress]:
    """Lock the running campaigns among these, skipping locked rows."""
    if not campaign_ids:
        return []
    return await progress_of(
        tx,
        "WHERE c.campaign_id = ANY(CAST(:ids AS text[])) AND c.status = 'running'"
        " ORDER BY c.campaign_id FOR UPDATE OF c SKIP LOCKED",
        {"ids": list(campaign_ids)},
    )


async def lock_occurrences(tx: AsyncConnection, series_id: str, *, paused_because: str | None = None) -> list[Progress]:
    """Lock the occurrences of a recurring campaign; another campaign has none.

    Without `paused_because`: scheduled and running occurrences. Otherwise: occurrences paused for this reason.
    """
    return await progress_of(
        tx,
        "WHERE c.series_id = :id"
        " AND EXISTS (SELECT FROM campaign AS s WHERE s.campaign_id = c.series_id AND s.recurring IS NOT NULL)"
        " AND (CASE WHEN CAST(:why AS text) IS NULL"
        " THEN c.status IN ('scheduled', 'running') ELSE c.status = 'paused' AND EXISTS (SELECT FROM"
        " campaign_reason AS p WHERE p.campaign_id = c.campaign_id AND p.kind = 'paused' AND p.reason = :why) END)"
        " ORDER BY c.position FOR UPDATE OF c",
        {"id": series_id, "why": paused_because},
    )


_PAUSED_PAST_THE_END = (
    "status = 'paused' AND started_at IS NOT NULL"
    f" AND coalesce(send_before, starts_at + interval '{KEPT.total_seconds():.0f} seconds') <= :now"
)
# Recipients may remain that are never requested: cancelled, or paused past the end.
_GIVEN_UP = f"(status = 'cancelled' AND NOT expanded OR {_PAUSED_PAST_THE_END} AND NOT expanded)"
# The sender's next campaign waits for these campaigns, unless failing repeatedly. Their recipients count as messaged
# until denied: the next campaign reaches fewer people, never more.
_SETTLING = f"{_GIVEN_UP} AND failures <= {PASSING_FAILURES}"


async def lock_due(tx: AsyncConnection, now: datetime) -> Progress | None:
    """Return a due campaign that no other planner has, with the planner's row of its tallies locked.

    The campaign's row stays unlocked (`lock_unchanged`): a cancellation, edit or pause never waits for the audience to
    be frozen. The sender's next campaign waits some seconds for `_SETTLING`: recipients still to be denied would count
    as messaged.
    """
    return await _first(
        tx,
        "WHERE c.status = 'scheduled' AND c.starts_at <= :now"
        f" AND NOT EXISTS (SELECT FROM campaign AS o WHERE o.sender_id = c.sender_id AND {_SETTLING})"
        f" AND {MAY_BE_TRIED} ORDER BY c.starts_at LIMIT 1 FOR UPDATE OF a SKIP LOCKED",
        {"now": now},
    )


async def _first(tx: AsyncConnection, clauses: str, values: Mapping[str, object]) -> Progress | None:
    found = await progress_of(tx, clauses, values)
    return found[0] if found else None


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
    """Count the failing campaigns, passing faults aside."""
    return int(await tx.scalar(text(f"SELECT count(*) FROM campaign WHERE failures > {PASSING_FAILURES}")) or 0)


async def lock_unchanged(tx: AsyncConnection, campaign: Progress) -> bool:
    """Lock the campaign; return False, without a lock, if its row changed since being read."""
    found = await tx.execute(
        text("SELECT 1 FROM campaign WHERE campaign_id = :id AND CAST(xmin AS text) = :written FOR UPDATE"),
        {"id": campaign.campaign_id, "written": campaign.written},
    )
    return found.one_or_none() is not None


async def alone_with_audiences(tx: AsyncConnection, sender_id: str) -> None:
    """Lock the audiences of a sender until this transaction ends.

    Campaigns frozen at once would miss each other's recipients in the frequency limits.
    """
    await tx.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:id, :key))"), {"id": sender_id, "key": AUDIENCES}
    )


RUNNING = "SELECT FROM campaign WHERE status = 'running' AND NOT expanded LIMIT 1"


async def lock_expanding(tx: AsyncConnection, now: datetime) -> Progress | None:
    """Lock the running campaign to expand next: the fewest turns used, weighted by priority."""
    return await _first(
        tx,
        f"WHERE c.status = 'running' AND NOT c.expanded AND {AWAKE}"
        " ORDER BY c.turn, c.position LIMIT 1 FOR UPDATE OF c SKIP LOCKED",
        {"now": now, "beyond": now + LOOK_AHEAD},
    )


class Recipient(msgspec.Struct, frozen=True, gc=False):
    """A recipient and contact. `number` (encrypted), `attributes` (JSON): `None` without a contact.

    `variant`: of a requested recipient in an A/B test. `version`: of the newest report. `repeated_at`: of the last
    repeat without a report.
    """

    subject_id: str
    number: str | None
    attributes: str | None
    variant: str | None = None
    version: int = 0
    repeated_at: datetime | None = None


def _with_contacts(page: str, order: str, more: str = "") -> str:
    """Join a page of recipients with their contacts. $1: the sender. `more`: columns of the page.

    The array makes Postgres look up contacts by key in one index scan: Postgres expects ten elements of an array built
    at run time.
    """
    return (
        f"WITH page AS MATERIALIZED ({page}), held AS MATERIALIZED"
        " (SELECT subject_id, number, attributes::text AS attributes FROM contact"
        " WHERE sender_id = $1 AND subject_id = ANY(ARRAY(SELECT subject_id FROM page)))"
        f" SELECT r.subject_id, c.number, c.attributes{more} FROM page AS r"
        f" LEFT JOIN held AS c ON c.subject_id = r.subject_id ORDER BY {order}"
    )


async def next_recipients(tx: AsyncConnection, campaign: Progress, after: str, limit: int) -> list[Recipient]:
    """Return the recipients after `after`."""
    page = (
        "SELECT subject_id FROM recipient WHERE campaign_id = $2 AND subject_id > $3"
        f" ORDER BY subject_id LIMIT {limit:d}"
    )
    rows = await fetch_many(tx, _with_contacts(page, "r.subject_id"), campaign.sender_id, campaign.campaign_id, after)
    return [Recipient(*each) for each in rows]


async def waiting_recipients(tx: AsyncConnection, campaign: Campaign, now: datetime, limit: int) -> list[Recipient]:
    """Return waiting recipients due by `now`.

    Recipients waiting for the winner are due once the winner is known.
    """
    page = (
        "SELECT subject_id, waits_until FROM recipient WHERE campaign_id = $2 AND waits_until BETWEEN $3 AND $4"
        " ORDER BY waits_until, subject_id LIMIT $5"
    )
    ordered = _with_contacts(page, "r.waits_until, r.subject_id")
    since = FOR_WINNER if campaign.winner is not None else FOR_WINNER + timedelta.resolution
    rows = await fetch_many(tx, ordered, campaign.sender_id, campaign.campaign_id, since, now, limit)
    return [Recipient(*each) for each in rows]


FEWEST = 4  # requests in a page of repeats, so that a quarter is one
# Recipients without a report since a repeat of the newest page.
_SILENT = "(SELECT count(*) FROM recipient AS r WHERE r.campaign_id = c.campaign_id AND r.repeated_at >= c.page_at)"


async def lock_to_repeat(tx: AsyncConnection, now: datetime, latest: timedelta, page: int) -> Progress | None:
    """Lock a campaign whose requests are to be repeated: at `repeat_at`, or once most of its newest page has reports.

    Most of a page has reports once the recipients still silent are at most half of the page's limit. The limit is
    `page`, halved after each wait in vain, and never below FEWEST (the planner's `limit`).

    A running campaign with a pace waits for a slot, a paused campaign for its resumption or its end. A `repeat_at` more
    than `latest` ahead means a clock set back.
    """
    return await _first(
        tx,
        "WHERE repeat_at IS NOT NULL AND (status = 'running' AND coalesce(next_slot, :now) <= :now"
        f" OR status = 'cancelled' OR {_PAUSED_PAST_THE_END})"
        " AND (repeat_at <= :now OR repeat_at > :latest OR repeats > 0 AND NOT EXISTS"
        " (SELECT FROM recipient AS r WHERE r.campaign_id = c.campaign_id AND r.repeated_at IS NOT NULL)"
        f" OR repeats > 0 AND page_at IS NOT NULL AND 2 * {_SILENT}"
        f" <= greatest(CAST(:page AS integer) >> least(repeats - 1, 20), {FEWEST}))"
        f" AND {MAY_BE_TRIED} ORDER BY repeat_at LIMIT 1 FOR UPDATE OF c SKIP LOCKED",
        {"now": now, "latest": now + latest, "page": page},
    )


async def repeated_recipients(tx: AsyncConnection, campaign: Progress, limit: int) -> list[Recipient]:
    """Lock and return recipients without a report since the last repeat, the oldest repeats first.

    A report being stored is not waited for.
    """
    return await _requested(tx, campaign, "repeated_at IS NOT NULL AND subject_id > $3", "", limit, "repeated_at, ")


async def count_silent(tx: AsyncConnection, campaign_id: str) -> int:
    """Count the recipients without a report since a repeat of the newest page."""
    found = await tx.scalar(text(f"SELECT {_SILENT} FROM campaign AS c WHERE campaign_id = :id"), {"id": campaign_id})
    return int(found or 0)


async def unreported_recipients(
    tx: AsyncConnection, campaign: Progress, limit: int, *, undecided: bool
) -> list[Recipient]:
    """Lock and return requested recipients, not repeated yet, without any report, or `undecided` by the last report.

    A report being stored is not waited for.
    """
    which = "status IN ('pending', 'sending', 'deferred')" if undecided else "status = 'pending' AND version = 0"
    requested = f"subject_id <= $3 AND waits_until IS NULL AND repeated_at IS NULL AND {which}"
    return await _requested(tx, campaign, requested, campaign.cursor, limit)


async def _requested(
    tx: AsyncConnection, campaign: Progress, which: str, cursor: str, limit: int, order: str = ""
) -> list[Recipient]:
    page = (
        f"SELECT subject_id, variant, version, repeated_at FROM recipient WHERE campaign_id = $2 AND {which}"
        f" ORDER BY {order}subject_id LIMIT {limit:d} FOR UPDATE SKIP LOCKED"
    )
    ordered = _with_contacts(page, f"{order}r.subject_id", ", r.variant, r.version, r.repeated_at")
    rows = await fetch_many(tx, ordered, campaign.sender_id, campaign.campaign_id, cursor)
    return [Recipient(*each) for each in rows]


async def first_groups(tx: AsyncConnection, campaign: Progress) -> FirstGroups:
    """Return the progress of the recipients not waiting for the winner.

    The scan runs only once all are requested and no message is deferred.
    """
    found = await tx.execute(
        text(
            "SELECT s.asked AND g.going_on = 0 AS over, g.last_at"
            " FROM (SELECT NOT EXISTS (SELECT FROM recipient WHERE campaign_id = :id AND subject_id > :cursor)"
            " AND NOT EXISTS (SELECT FROM recipient WHERE campaign_id = :id AND waits_until > :for_winner)"
            " AND (SELECT sum(deferred) = 0 FROM campaign_accounts WHERE campaign_id = :id) AS asked) AS s"
            " CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE status IN ('pending', 'sending', 'deferred'))"
            " AS going_on, max(handed_off_at) AS last_at FROM recipient"
            " WHERE s.asked AND campaign_id = :id AND variant IS NOT NULL) AS g"
        ),
        {"id": campaign.campaign_id, "cursor": campaign.cursor, "for_winner": FOR_WINNER},
    )
    return FirstGroups(*found.one())


async def first_hours(tx: AsyncConnection, campaign_ids: Sequence[str]) -> dict[str, datetime]:
    """Return when the first recipient waiting for a local hour is due, by campaign."""
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
    """Return when the first waiting recipient is due, or `None`."""
    found: datetime | None = await tx.scalar(
        text(
            "SELECT least((SELECT CAST(:chosen_at AS timestamptz) FROM recipient"
            " WHERE campaign_id = :id AND waits_until = :for_winner LIMIT 1),"
            " (SELECT min(waits_until) FROM recipient WHERE campaign_id = :id AND waits_until > :for_winner))"
        ),
        {"id": campaign_id, "chosen_at": chosen_at, "for_winner": FOR_WINNER},
    )
    return found


async def lock_given_up(tx: AsyncConnection, now: datetime) -> Progress | None:
    """Lock a campaign with recipients left to deny (`_GIVEN_UP`)."""
    return await _first(tx, f"WHERE {_GIVEN_UP} AND {MAY_BE_TRIED} LIMIT 1 FOR UPDATE OF c SKIP LOCKED", {"now": now})


async def lock_done(tx: AsyncConnection, now: datetime) -> Progress | None:
    """Lock a campaign with every recipient requested and decided."""
    return await _first(
        tx,
        f"WHERE c.status IN ('running', 'paused') AND c.expanded AND {UNDECIDED} = 0"
        f" AND {MAY_BE_TRIED} LIMIT 1 FOR UPDATE OF c SKIP LOCKED",
        {"now": now},
    )
