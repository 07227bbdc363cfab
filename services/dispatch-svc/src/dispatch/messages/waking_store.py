"""The queries that make waiting messages due, and tell the workers. The caller owns the transaction."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many, plan_now
from dispatch.messages.by_day import of_people
from dispatch.messages.reasons import Reason

DUE = "dispatch_due"  # NOTIFY channel: marketing is due at once
CODES_DUE = "dispatch_codes_due"  # NOTIFY channel: the other lane; the payload names the partition

# The SQL that tells the workers of its lane, on commit, that the message of a row of `message` is due.
TELLS_DUE = f"pg_notify(CASE category WHEN 'marketing' THEN '{DUE}' ELSE '{CODES_DUE}' END, partition::text)"


async def wake_held(tx: AsyncConnection, subject_ids: Sequence[str], since: datetime) -> None:
    """Make due at once these subjects' messages that wait for a review. `since`: when the first review began.

    The caller keeps out the decisions that a review may hold: the statement looks at no day before the review.
    """
    await plan_now(tx)
    await tx.execute(
        text(
            f"UPDATE message AS m SET due_at = now() WHERE {of_people('CAST(:ids AS text[])', since=':since')}"
            " AND m.status = 'deferred' AND 'under_review' = ANY(m.reasons)"
        ),
        {"ids": list(subject_ids), "since": since},
    )
    await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": DUE})


FOR_A_CONTROL = (
    "m.campaign_id = $1 AND m.status = 'deferred' AND m.due_at > now()"
    f" AND ($2 OR m.reasons && ARRAY['{Reason.CAMPAIGN_PAUSED}', '{Reason.CAMPAIGN_UNKNOWN}'])"
)


async def wake_controlled(tx: AsyncConnection, campaign_id: str, limit: int, *, cancelled: bool) -> int:
    """Make due one page of the messages that wait for a control of this campaign; return how many.

    Of a cancelled campaign, every deferred message waits.
    """
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "UPDATE message SET due_at = now() WHERE message_id = ANY(ARRAY(SELECT m.message_id FROM message AS m WHERE"
        f" {FOR_A_CONTROL} LIMIT $3 FOR UPDATE SKIP LOCKED)) RETURNING 1",
        campaign_id,
        cancelled,
        limit,
    )
    await fetch_many(tx, "SELECT pg_notify($1, '')", DUE)
    return len(rows)
