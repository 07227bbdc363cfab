"""Own the recipients of campaigns. The caller owns the transaction.

Recipients are inserted when the audience is frozen; later only the planner and dispatch-svc's reports change a
recipient.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
from sqlalchemy import ARRAY, Column, Index, Integer, PrimaryKeyConstraint, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import Standing
from campaign.audience import frequency
from campaign.audience import segment_language as segment
from campaign.audience.frequency import Limit
from campaign.audience.segment_language import Condition
from campaign.campaigns import tallies
from campaign.campaigns.campaign import Campaign, Progress
from campaign.campaigns.reports import Report
from campaign.schema import instant, metadata
from campaign.senders import store as senders
from common.contracts.dispatch import Status
from common.db.database import fetch_many

MANY = 1_000  # from here on Postgres needs fresh statistics
STATISTICS = 30  # of 9,000 recipients: enough for plans; autovacuum reads more
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


recipient = Table(
    "recipient",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    Column("receipt", Text, nullable=True),
    Column("version", Integer, nullable=False),  # dispatch-svc's; 0 before the first report
    instant("handed_off_at", nullable=True),
    instant("receipt_at", nullable=True),
    Column("variant", Text, nullable=True),  # text requested, in an A/B test
    instant("waits_until", nullable=True),  # of recipients before the cursor
    instant("repeated_at", nullable=True),  # last repeat of the request, until the next report
    Column("segments", SmallInteger, nullable=True),  # of the text as sent, once charged
    Column("cost", Integer, nullable=True),  # of these, in ten-thousandths of a euro
    PrimaryKeyConstraint("campaign_id", "subject_id"),
    Index(
        "recipient_waiting_ix",
        "campaign_id",
        "waits_until",
        "subject_id",
        postgresql_where=text("waits_until IS NOT NULL"),
    ),
    Index("recipient_repeated_ix", "campaign_id", "repeated_at", postgresql_where=text("repeated_at IS NOT NULL")),
)


async def limits_of(tx: AsyncConnection, campaign: Campaign, now: datetime) -> list[tuple[Limit, list[str]]]:
    """Return a campaign's frequency limits, each with the campaigns counting for the limit."""
    limits = frequency.limits(await senders.cap_of(tx, campaign.sender_id), campaign.rest_days)
    if not limits:
        return []
    rows = await tx.execute(
        text(
            "SELECT campaign_id, ended_at FROM campaign WHERE sender_id = :sender_id AND campaign_id <> :id"
            " AND started_at IS NOT NULL AND (ended_at IS NULL OR ended_at > :since)"
        ),
        {
            "sender_id": campaign.sender_id,
            "id": campaign.campaign_id,
            "since": now - timedelta(days=max(limit.days for limit in limits)),
        },
    )
    others = [frequency.Campaign(each.campaign_id, each.ended_at) for each in rows]
    return [(limit, frequency.counting(others, limit, now)) for limit in limits]


# Why a contact `c` is left out: the first frequency limit reached.
LEFT_OUT = (
    "(SELECT l.reason FROM unnest(CAST(:limit_reasons AS text[]), CAST(:limit_messages AS integer[]),"
    " CAST(:limit_campaigns AS text[])) WITH ORDINALITY AS l(reason, messages, campaigns, place)"
    " WHERE (SELECT count(*) FROM recipient AS r WHERE r.campaign_id = ANY(string_to_array(l.campaigns, ' '))"
    " AND r.subject_id = c.subject_id AND r.status = ANY(CAST(:counted AS text[]))) >= l.messages"
    " ORDER BY l.place LIMIT 1)"
)


def limited(limits: Sequence[tuple[Limit, Sequence[str]]]) -> Mapping[str, object]:
    """Return the parameters of LEFT_OUT."""
    return {
        "limit_reasons": [limit.reason for limit, _ in limits],
        "limit_messages": [limit.messages for limit, _ in limits],
        "limit_campaigns": [" ".join(ids) for _, ids in limits],  # ids contain no blanks
        "counted": list(frequency.COUNTED),
    }


async def freeze_audience(
    tx: AsyncConnection, campaign: Campaign, selected: Condition, required: Sequence[str], now: datetime
) -> int:
    """Insert the recipients of a campaign, in one statement; return how many.

    A contact lacking a `required` attribute, or beyond a limit, is left out and counted under the reason. The order
    fills the pages of the index one after the other. The caller holds `alone_with_audiences`.
    """
    limits = await limits_of(tx, campaign, now)
    found = await tx.execute(
        text(
            "WITH chosen AS MATERIALIZED (SELECT c.subject_id, (SELECT f.name FROM"
            " unnest(CAST(:required AS text[])) WITH ORDINALITY AS f(name, place)"
            " WHERE coalesce(trim(c.attributes ->> f.name), '') = '' ORDER BY f.place LIMIT 1) AS missing,"
            f" {LEFT_OUT if limits else 'CAST(NULL AS text)'} AS left_out"
            f" FROM {segment.FROM} WHERE c.sender_id = :sender_id AND {selected.sql}),"
            " frozen AS (INSERT INTO recipient (campaign_id, subject_id, status, reasons, version)"
            " SELECT :campaign_id, subject_id, 'pending', '{}', 0 FROM chosen"
            " WHERE missing IS NULL AND left_out IS NULL ORDER BY subject_id)"
            " SELECT coalesce('missing:' || missing, left_out) AS why, count(*) AS contacts FROM chosen GROUP BY why"
        ),
        {
            "campaign_id": campaign.campaign_id,
            "sender_id": campaign.sender_id,
            "required": list(required),
            **selected.values,
            **(limited(limits) if limits else {}),
        },
    )
    counts = {each.why: each.contacts for each in found}
    audience = int(counts.pop(None, 0))
    await tx.execute(
        text(
            "UPDATE campaign_accounts SET audience = :audience, pending = :audience"
            f" WHERE campaign_id = :id AND partition = {tallies.PLANNER}"
        ),
        {"id": campaign.campaign_id, "audience": audience},
    )
    await tallies.add_reasons(tx, "excluded", {campaign.campaign_id: Counter(counts)})
    if audience >= MANY:  # else batches scan everything
        await tx.execute(text(f"SET LOCAL default_statistics_target = {STATISTICS}"))
        await tx.execute(text("ANALYZE (SKIP_LOCKED) recipient"))
    return audience


async def set_waiting(tx: AsyncConnection, campaign_id: str, until: Mapping[str, datetime | None]) -> None:
    """Store until when each recipient waits; `None` ends the wait. The caller has locked the campaign."""
    if not until:
        return
    await tx.execute(
        text(
            "UPDATE recipient AS r SET waits_until = w.until"
            " FROM unnest(CAST(:ids AS text[]), CAST(:until AS timestamptz[])) AS w(subject_id, until)"
            " WHERE r.campaign_id = :campaign_id AND r.subject_id = w.subject_id"
        ),
        {"campaign_id": campaign_id, "ids": list(until), "until": list(until.values())},
    )


async def set_variants(tx: AsyncConnection, campaign_id: str, variants: Mapping[str, str]) -> None:
    """Store the text each recipient was requested with, by subject id. The caller has locked the campaign."""
    if not variants:
        return
    await tx.execute(
        text(
            "UPDATE recipient AS r SET variant = v.variant"
            " FROM unnest(CAST(:ids AS text[]), CAST(:variants AS text[])) AS v(subject_id, variant)"
            " WHERE r.campaign_id = :campaign_id AND r.subject_id = v.subject_id"
        ),
        {"campaign_id": campaign_id, "ids": list(variants), "variants": list(variants.values())},
    )


async def set_repeated(tx: AsyncConnection, campaign_id: str, subject_ids: Sequence[str], now: datetime) -> None:
    """Store when these recipients' requests were repeated. The caller has locked the recipients."""
    await tx.execute(
        text(
            "UPDATE recipient SET repeated_at = :now"
            " WHERE campaign_id = :campaign_id AND subject_id = ANY(CAST(:ids AS text[]))"
        ),
        {"campaign_id": campaign_id, "ids": list(subject_ids), "now": now},
    )


async def deny(tx: AsyncConnection, campaign_id: str, denied: Mapping[str, str]) -> None:
    """Deny recipients before any request, with a reason by subject id. The caller has locked the campaign."""
    if not denied:
        return
    await tx.execute(
        text(
            "UPDATE recipient AS r SET status = 'denied', reasons = ARRAY[d.reason]"
            " FROM unnest(CAST(:ids AS text[]), CAST(:reasons AS text[])) AS d(subject_id, reason)"
            " WHERE r.campaign_id = :campaign_id AND r.subject_id = d.subject_id"
        ),
        {"campaign_id": campaign_id, "ids": list(denied), "reasons": list(denied.values())},
    )
    await tallies.add_counts(tx, {campaign_id: Counter(pending=-len(denied), denied=len(denied))})
    await tallies.add_reasons(tx, "denied", {campaign_id: Counter(denied.values())})


# A walk follows the order of the ids, which another outer key changes. So before a move each recipient ahead of the
# cursor of a walk becomes one that waits until now, and the walk has none ahead: no recipient is asked for twice.
ALL_WAIT = "z" * 17  # a cursor behind every id
LET_ALL_WAIT = (
    f"""
    UPDATE recipient AS r
    SET waits_until = now()
    FROM campaign AS c
    WHERE c.campaign_id = r.campaign_id AND c.cursor NOT IN ('', '{ALL_WAIT}') AND NOT c.expanded
    AND r.subject_id > c.cursor AND r.waits_until IS NULL
    """,
    f"UPDATE campaign SET cursor = '{ALL_WAIT}' WHERE cursor NOT IN ('', '{ALL_WAIT}')",
)


async def deny_unrequested(tx: AsyncConnection, campaign: Progress, reason: str, limit: int) -> int:
    """Deny up to `limit` recipients never requested; return how many.

    Recipients waiting before the cursor come first; the others move the cursor. The caller has locked the campaign.
    """

    async def denied(whom: str) -> Sequence[str]:
        rows = await tx.execute(
            text(
                "WITH page AS (SELECT subject_id FROM recipient WHERE campaign_id = :campaign_id"
                f" AND status = 'pending' AND {whom} LIMIT {limit:d})"
                " UPDATE recipient AS r SET status = 'denied', reasons = ARRAY[CAST(:reason AS text)],"
                " waits_until = NULL FROM page"
                " WHERE r.campaign_id = :campaign_id AND r.subject_id = page.subject_id RETURNING r.subject_id"
            ),
            {"campaign_id": campaign.campaign_id, "cursor": campaign.cursor, "reason": reason},
        )
        return rows.scalars().all()

    found = await denied("waits_until IS NOT NULL ORDER BY waits_until, subject_id")
    found = found or await denied("subject_id > :cursor ORDER BY subject_id")
    await tallies.add_counts(tx, {campaign.campaign_id: Counter(pending=-len(found), denied=len(found))})
    await tallies.add_reasons(tx, "denied", {campaign.campaign_id: Counter({reason: len(found)})})
    await tx.execute(
        text(
            "UPDATE campaign SET cursor = :cursor, expanded = :expanded, failures = 0, retry_at = NULL"
            " WHERE campaign_id = :id"
        ),
        {"id": campaign.campaign_id, "cursor": max([campaign.cursor, *found]), "expanded": not found},
    )
    return len(found)


class Moved(NamedTuple):
    """Recipients that a report has moved, alike before."""

    report: Report
    before: Standing
    recipients: int


# A report's people and instants of DLRs come as a text each: the driver encodes an array of texts six times as slowly.
_TOLD = """
    SELECT g.place, g.campaign_id, g.version, g.status, g.reasons, g.receipt, g.handed_off_at, g.segments, g.cost,
        p.subject_id, p.receipt_at
    FROM unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::smallint[],
        $8::integer[], $9::text[], $10::text[]) WITH ORDINALITY
        AS g(campaign_id, version, status, reasons, receipt, handed_off_at, segments, cost, people, receipts_at, place)
    CROSS JOIN LATERAL unnest(string_to_array(g.people, ' '), string_to_array(g.receipts_at, ' ', ''))
        AS p(subject_id, receipt_at)
    ORDER BY p.subject_id, g.campaign_id
"""
_OLDER = "FROM recipient WHERE campaign_id = t.campaign_id AND subject_id = t.subject_id AND version < t.version"
_STORE = f"""
    WITH known AS MATERIALIZED (
        SELECT t.*, r.*
        FROM ({_TOLD}) AS t
        CROSS JOIN LATERAL (SELECT ctid AS at, status AS status_before, version AS version_before,
            reasons AS reasons_before, receipt AS receipt_before {_OLDER} OFFSET 0) AS r
    ), stored AS (
        UPDATE recipient AS r
        SET status = k.status, reasons = string_to_array(k.reasons, ' '), repeated_at = NULL, receipt = k.receipt,
            version = k.version, handed_off_at = k.handed_off_at, segments = k.segments, cost = k.cost,
            receipt_at = to_timestamp(k.receipt_at::float8 / 1000000)
        FROM known AS k
        WHERE r.ctid = k.at AND r.status = k.status_before AND r.version = k.version_before
        RETURNING k.place, k.status_before, k.reasons_before, k.receipt_before
    )
    SELECT f.recipients, s.*
    FROM (SELECT count(*) AS recipients FROM known) AS f
    LEFT JOIN (SELECT place, status_before, reasons_before, receipt_before, count(*) FROM stored GROUP BY 1, 2, 3, 4)
        AS s ON true
"""
_LOCK = f"SELECT count(*) FROM ({_TOLD}) AS t CROSS JOIN LATERAL (SELECT {_OLDER} OFFSET 0 FOR UPDATE) AS r"
BY_PLACE = "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"


async def update_recipients(tx: AsyncConnection, reports: Sequence[Report]) -> list[Moved]:
    """Store the reported state of each recipient whose own is older; return what has moved.

    A recipient is in one report. Each is looked up by its key, and updated where the row was found: a plan that reads
    all recipients costs a campaign of 20,000 more than all its lookups. Rows are locked in the order of their people.

    A recipient that has another state by now is locked, and looked up again: a lock before each update would cost a
    record of the WAL for each recipient.
    """
    values = (
        [each.campaign_id for each in reports],
        [each.version for each in reports],
        [each.status for each in reports],
        [" ".join(each.reasons) for each in reports],  # slugs and subject ids contain no blanks
        [each.receipt for each in reports],
        [each.handed_off_at for each in reports],
        [each.segments for each in reports],
        [each.cost for each in reports],
        [" ".join(each.people) for each in reports],
        [_microseconds(each.receipts_at) for each in reports],
    )
    await fetch_many(tx, BY_PLACE)
    moved: list[Moved] = []
    while True:
        rows = await fetch_many(tx, _STORE, *values)
        found = [
            Moved(reports[place - 1], Standing(status, tuple(reasons), receipt), recipients)
            for _, place, status, reasons, receipt, recipients in rows
            if place is not None
        ]
        moved += found
        if sum(each.recipients for each in found) == rows[0][0]:
            return moved
        await fetch_many(tx, _LOCK, *values)


def _microseconds(instants: Sequence[datetime | None]) -> str | None:
    """Return the instants in microseconds since 1970, which PostgreSQL's floats hold exactly until the year 2242."""
    texts = ["" if at is None else str((at - _EPOCH) // _MICROSECOND) for at in instants]
    return " ".join(texts) if instants else None


class RecipientState(msgspec.Struct, frozen=True, gc=False):
    subject_id: str
    status: Status
    reasons: Sequence[str]
    receipt: str | None


async def recipients_after(
    tx: AsyncConnection, campaign_id: str, subject_id: str, status: str | None, limit: int
) -> list[RecipientState]:
    """Return a page of a campaign's recipients after `subject_id`."""
    rows = await tx.execute(
        text(
            "SELECT subject_id, status, reasons, receipt FROM recipient WHERE campaign_id = :id"
            " AND subject_id > :after AND (CAST(:status AS text) IS NULL OR status = :status)"
            " ORDER BY subject_id LIMIT :limit"
        ),
        {"id": campaign_id, "after": subject_id, "status": status, "limit": limit},
    )
    return [RecipientState(*row) for row in rows]
