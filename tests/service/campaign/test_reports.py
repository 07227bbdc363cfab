"""Whatever dispatch-svc reports, in any order, twice, late and cut into any batches: the recipients and the tallies are
those of a plain model, which keeps the newest change of each recipient."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from campaign.accounts import COUNTS, OUTCOMES, Standing
from campaign.planning import progress
from common.contracts.consent_rule import told
from common.contracts.dispatch import MessageChanged, MessagesChanged, Status
from common.contracts.inbound import ReceiptState
from common.kafka.subscription import Received
from tests.service.campaign.campaigns import Campaigns, changed, opened
from tests.support.infrastructure import Broker, Postgres
from tests.support.running import Surroundings

pytestmark = pytest.mark.brokerless

CAMPAIGNS, PEOPLE = ("01KREPORTS-A", "01KREPORTS-B"), [f"person-{n}" for n in range(4)]
PLACES = [(campaign_id, who) for campaign_id in CAMPAIGNS for who in PEOPLE]
STRANGER = "stranger"  # a recipient of no campaign
AT = datetime(2026, 11, 30, 10, 0, 0, 123_457, tzinfo=UTC)
REASONS = ["no_consent", "quiet_hours", "opted_out", "cap_reached"]
STORED = (
    "SELECT campaign_id, subject_id, status, reasons, receipt, version, handed_off_at, receipt_at, segments, cost,"
    " repeated_at FROM recipient ORDER BY campaign_id, subject_id"
)
SUMS = f"SELECT campaign_id, {', '.join(f'sum({name}) AS {name}' for name in COUNTS)} FROM campaign_accounts GROUP BY 1"
DENIED = "SELECT campaign_id, reason, sum(recipients) FROM campaign_reason WHERE kind = 'denied' GROUP BY 1, 2"

instants = st.sampled_from([None, AT, AT + timedelta(microseconds=1), AT + timedelta(hours=1)])
states = st.fixed_dictionaries(
    {
        "status": st.sampled_from(get_args(Status)),
        "reasons": st.lists(st.sampled_from(REASONS), unique=True, max_size=2).map(tuple),
        "receipt": st.sampled_from((None, *get_args(ReceiptState))),
        "receipt_at": instants,
        "handed_off_at": instants,
        "decided_at": instants,
        "segments": st.sampled_from([None, 1, 2]),
        "cost": st.sampled_from([None, 450]),
    }
)
lives = st.lists(st.lists(states, max_size=4), min_size=len(PLACES), max_size=len(PLACES))


@pytest.fixture
def campaigns(runner: asyncio.Runner, postgres: Postgres, broker: Broker, unique: str) -> Iterator[Campaigns]:
    opening = opened(Surroundings(postgres, broker, unique))
    yield runner.run(opening.__aenter__())
    runner.run(opening.__aexit__(None, None, None))


def test_reports_in_any_order_and_batches_leave_what_the_newest_changes_say(
    runner: asyncio.Runner, campaigns: Campaigns
) -> None:
    moved = 0

    @settings(max_examples=60, deadline=None, phases=[Phase.generate])
    @given(drawn=lives, data=st.data())
    def leaves_the_newest(drawn: list[list[dict[str, object]]], data: st.DataObject) -> None:
        nonlocal moved
        lived = {
            place: [_change(*place, version, state) for version, state in enumerate(life, 1)]
            for place, life in zip(PLACES, drawn, strict=True)
        }
        changes = [change for life in lived.values() for change in life]
        again = data.draw(st.lists(st.sampled_from(changes), max_size=4)) if changes else []
        others = [_change(CAMPAIGNS[0], STRANGER, 1, {"status": "accepted"}), changed(None, PEOPLE[0], 9, "accepted")]
        order = data.draw(st.permutations([*changes, *again, *others]))
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(order) - 1)), max_size=5)))
        batches = [order[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        runner.run(_emptied(campaigns))
        for partition, batch in enumerate(batches):
            runner.run(_apply(campaigns, [some for some in (batch[::2], batch[1::2]) if some], partition % 3))
        newest = {place: life[-1] if life else None for place, life in lived.items()}
        moved += sum(change is not None for change in newest.values())
        runner.run(_assert_holds(campaigns, newest))

    leaves_the_newest()
    assert moved > 0


def _change(campaign_id: str, subject_id: str, version: int, state: dict[str, object]) -> MessageChanged:
    return changed(campaign_id, subject_id, version, **state)  # type: ignore[arg-type]


async def _emptied(campaigns: Campaigns) -> None:
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("TRUNCATE recipient, campaign_accounts, campaign_reason")
        await sql.executemany(
            "INSERT INTO recipient (campaign_id, subject_id, status, reasons, version, repeated_at)"
            " VALUES ($1, $2, 'pending', '{}', 0, $3)",
            [(*place, AT) for place in PLACES],
        )
        await sql.executemany(
            "INSERT INTO campaign_accounts (campaign_id, partition, audience, pending) VALUES ($1, -1, $2, $2)",
            [(campaign_id, len(PEOPLE)) for campaign_id in CAMPAIGNS],
        )


async def _apply(campaigns: Campaigns, records: Sequence[Sequence[MessageChanged]], partition: int) -> None:
    events = [MessagesChanged(changes=tuple(changes)) for changes in records]
    async with campaigns.database.begin() as tx:
        await progress.apply(tx, [Received(each, each.key, partition, n, AT, None) for n, each in enumerate(events)])


async def _assert_holds(campaigns: Campaigns, newest: dict[tuple[str, str], MessageChanged | None]) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    denials: dict[str, Counter[str]] = defaultdict(Counter)
    rows: list[tuple[object, ...]] = []
    for place, change in newest.items():
        if change is None:
            rows.append((*place, "pending", [], None, 0, None, None, None, None, AT))
            counts[place[0]]["pending"] += 1
            continue
        standing = Standing(change.status, told(change.reasons), change.receipt)
        counts[place[0]].update(standing.counts)
        denials[place[0]].update(standing.denials)
        handed_off_at = (change.handed_off_at or change.decided_at) if change.status in OUTCOMES else None
        known = (*place, change.status, list(standing.reasons), change.receipt, change.version)
        rows.append((*known, handed_off_at, change.receipt_at, change.segments, change.cost, None))
    async with campaigns.surroundings.sql("campaign") as sql:
        assert [tuple(row) for row in await sql.fetch(STORED)] == rows
        sums = {row["campaign_id"]: Counter({name: row[name] for name in COUNTS}) for row in await sql.fetch(SUMS)}
        denied: dict[str, Counter[str]] = defaultdict(Counter)
        for campaign_id, reason, many in await sql.fetch(DENIED):
            denied[campaign_id][reason] += many
    assert {campaign_id: +sums[campaign_id] for campaign_id in CAMPAIGNS} == counts
    assert {campaign_id: +each for campaign_id, each in denied.items() if +each} == {
        campaign_id: each for campaign_id, each in denials.items() if each
    }
