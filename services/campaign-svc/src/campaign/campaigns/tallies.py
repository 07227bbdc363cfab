"""Own a campaign's tallies and counts by reason. The caller owns the transaction.

Tallies change in the recipient's transaction, and their rows stay locked until its commit. So the planner and each
process that reads dispatch-svc's reports count in rows of their own, those of a partition, and none waits for another.
A reader sums the rows in one statement. The planner's row has the audience, and each other row what its reports moved:
a negative number is usual there. `store.py` has the order of the locks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from sqlalchemy import CheckConstraint, Column, Integer, PrimaryKeyConstraint, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import COUNTS, STANDINGS
from campaign.schema import metadata

ReasonKind = Literal["excluded", "denied", "paused"]
PLANNER = -1  # partition of the rows that the planner and the API write

campaign_accounts = Table(
    "campaign_accounts",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("partition", SmallInteger, nullable=False, server_default=text(f"'{PLANNER}'")),  # of dispatch.messages.v1
    *(Column(name, Integer, nullable=False, server_default=text("0")) for name in ("audience", *COUNTS)),
    PrimaryKeyConstraint("campaign_id", "partition"),
    CheckConstraint(f"audience = {' + '.join(STANDINGS)}", name="sum"),
)
# Of the campaign `c`, each a number.
SUMS = (
    f"(SELECT {', '.join(f'sum({name}) AS {name}' for name in ('audience', *COUNTS))}"
    " FROM campaign_accounts WHERE campaign_id = c.campaign_id)"
)
UNDECIDED = "(SELECT sum(pending + deferred) FROM campaign_accounts WHERE campaign_id = c.campaign_id)"

campaign_reason = Table(
    "campaign_reason",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("kind", Text, nullable=False),  # ReasonKind
    Column("reason", Text, nullable=False),
    Column("partition", SmallInteger, nullable=False),  # as of campaign_accounts
    Column("recipients", Integer, nullable=False),
    PrimaryKeyConstraint("campaign_id", "kind", "reason", "partition"),
)


async def reasons_of(tx: AsyncConnection, campaign_ids: Sequence[str]) -> dict[tuple[str, ReasonKind], dict[str, int]]:
    """Return the recipients by reason, by (campaign_id, kind)."""
    rows = await tx.execute(
        text(
            "SELECT campaign_id, kind, reason, sum(recipients) AS recipients FROM campaign_reason"
            " WHERE campaign_id = ANY(CAST(:ids AS text[])) GROUP BY campaign_id, kind, reason"
            " HAVING sum(recipients) > 0 ORDER BY recipients DESC, reason"
        ),
        {"ids": list(campaign_ids)},
    )
    found: dict[tuple[str, ReasonKind], dict[str, int]] = {}
    for row in rows:
        found.setdefault((row.campaign_id, row.kind), {})[row.reason] = row.recipients
    return found


async def add_counts(tx: AsyncConnection, changes: Mapping[str, Counter[str]], partition: int = PLANNER) -> None:
    """Add to the tallies of each campaign, in id order: no deadlock. `partition`: of the reports counted."""
    ids = sorted(campaign_id for campaign_id, change in changes.items() if any(change.values()))
    if not ids:
        return
    names = ", ".join(COUNTS)
    moved = ", ".join(f"{name} = a.{name} + excluded.{name}" for name in COUNTS)
    arrays = ", ".join(f"CAST(:{name} AS integer[])" for name in COUNTS)
    await tx.execute(
        text(
            f"INSERT INTO campaign_accounts AS a (campaign_id, partition, {names})"
            f" SELECT d.campaign_id, CAST(:partition AS smallint), {', '.join(f'd.{name}' for name in COUNTS)}"
            f" FROM unnest(CAST(:ids AS text[]), {arrays}) AS d(campaign_id, {names})"
            f" ON CONFLICT (campaign_id, partition) DO UPDATE SET {moved}"
        ),
        {"ids": ids, "partition": partition, **{name: [changes[i][name] for i in ids] for name in COUNTS}},
    )


async def add_reasons(
    tx: AsyncConnection, kind: ReasonKind, changes: Mapping[str, Counter[str]], partition: int = PLANNER
) -> None:
    """Add to the counts by reason. The caller has locked the campaigns, or their tallies of this partition."""
    rows = sorted((i, reason, n) for i, counts in changes.items() for reason, n in counts.items() if n)
    if not rows:
        return
    await tx.execute(
        text(
            "INSERT INTO campaign_reason AS r (campaign_id, kind, reason, partition, recipients)"
            " SELECT n.campaign_id, :kind, n.reason, CAST(:partition AS smallint), n.recipients"
            " FROM unnest(CAST(:ids AS text[]), CAST(:reasons AS text[]), CAST(:recipients AS integer[]))"
            " AS n(campaign_id, reason, recipients)"
            " ON CONFLICT (campaign_id, kind, reason, partition)"
            " DO UPDATE SET recipients = r.recipients + excluded.recipients"
        ),
        {
            "kind": kind,
            "partition": partition,
            "ids": [row[0] for row in rows],
            "reasons": [row[1] for row in rows],
            "recipients": [row[2] for row in rows],
        },
    )


async def forget_reasons(tx: AsyncConnection, campaign_id: str, kind: ReasonKind) -> None:
    await tx.execute(
        text("DELETE FROM campaign_reason WHERE campaign_id = :id AND kind = :kind"), {"id": campaign_id, "kind": kind}
    )
