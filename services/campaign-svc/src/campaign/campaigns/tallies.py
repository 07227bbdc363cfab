"""Own a campaign's tallies and counts by reason. The caller owns the transaction.

Tallies are counters in a row of their own, so that counting never waits for the planner, and change in the recipient's
transaction. `store.py` has the order of the locks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from sqlalchemy import CheckConstraint, Column, Integer, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import COUNTS, STANDINGS
from campaign.schema import metadata

ReasonKind = Literal["excluded", "denied", "paused"]

campaign_accounts = Table(
    "campaign_accounts",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    *(Column(name, Integer, nullable=False, server_default=text("0")) for name in ("audience", *COUNTS)),
    CheckConstraint(f"audience = {' + '.join(STANDINGS)}", name="sum"),
    CheckConstraint(f"least({', '.join(COUNTS)}) >= 0", name="counts"),
)


campaign_reason = Table(
    "campaign_reason",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("kind", Text, nullable=False),  # ReasonKind
    Column("reason", Text, nullable=False),
    Column("recipients", Integer, nullable=False),
    PrimaryKeyConstraint("campaign_id", "kind", "reason"),
)


async def reasons_of(tx: AsyncConnection, campaign_ids: Sequence[str]) -> dict[tuple[str, ReasonKind], dict[str, int]]:
    """Return the recipients by reason, by (campaign_id, kind)."""
    rows = await tx.execute(
        text(
            "SELECT campaign_id, kind, reason, recipients FROM campaign_reason"
            " WHERE campaign_id = ANY(CAST(:ids AS text[])) AND recipients > 0 ORDER BY recipients DESC, reason"
        ),
        {"ids": list(campaign_ids)},
    )
    found: dict[tuple[str, ReasonKind], dict[str, int]] = {}
    for row in rows:
        found.setdefault((row.campaign_id, row.kind), {})[row.reason] = row.recipients
    return found


async def add_counts(tx: AsyncConnection, changes: Mapping[str, Counter[str]]) -> None:
    """Add to the tallies of each campaign, locked in id order: no deadlock."""
    ids = sorted(campaign_id for campaign_id, change in changes.items() if any(change.values()))
    if not ids:
        return
    await tx.execute(
        text(
            "SELECT 1 FROM campaign_accounts WHERE campaign_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY campaign_id FOR UPDATE"
        ),
        {"ids": ids},
    )
    added = ", ".join(f"{name} = c.{name} + d.{name}" for name in COUNTS)
    arrays = ", ".join(f"CAST(:{name} AS integer[])" for name in COUNTS)
    await tx.execute(
        text(
            f"UPDATE campaign_accounts AS c SET {added} FROM unnest(CAST(:ids AS text[]), {arrays})"
            f" AS d(campaign_id, {', '.join(COUNTS)}) WHERE c.campaign_id = d.campaign_id"
        ),
        {"ids": ids, **{name: [changes[i][name] for i in ids] for name in COUNTS}},
    )


async def add_reasons(tx: AsyncConnection, kind: ReasonKind, changes: Mapping[str, Counter[str]]) -> None:
    """Add to the counts by reason. The caller has locked the campaigns, or their tallies."""
    rows = sorted((i, reason, n) for i, counts in changes.items() for reason, n in counts.items() if n)
    if not rows:
        return
    await tx.execute(
        text(
            "INSERT INTO campaign_reason AS r (campaign_id, kind, reason, recipients)"
            " SELECT n.campaign_id, :kind, n.reason, n.recipients"
            " FROM unnest(CAST(:ids AS text[]), CAST(:reasons AS text[]), CAST(:recipients AS integer[]))"
            " AS n(campaign_id, reason, recipients)"
            " ON CONFLICT (campaign_id, kind, reason) DO UPDATE SET recipients = r.recipients + excluded.recipients"
        ),
        {
            "kind": kind,
            "ids": [row[0] for row in rows],
            "reasons": [row[1] for row in rows],
            "recipients": [row[2] for row in rows],
        },
    )


async def forget_reasons(tx: AsyncConnection, campaign_id: str, kind: ReasonKind) -> None:
    await tx.execute(
        text("DELETE FROM campaign_reason WHERE campaign_id = :id AND kind = :kind"), {"id": campaign_id, "kind": kind}
    )
