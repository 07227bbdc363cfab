"""Caps and days of rest: whoever has had enough of a sender is left out, also by campaigns of the same minute."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from campaign.planning.planner import Planner
from common.law import load
from tests.service.campaign.campaigns import Campaigns, changed, csv_of
from tests.support.builders import SENDER, field_keys, link_keys, opted_in, subject

pytestmark = pytest.mark.brokerless


async def started(campaigns: Campaigns, **fields: Any) -> str:
    campaign_id: str = (await campaigns.written(**fields))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    assert await campaigns.planner.start_due()
    return campaign_id


async def excluded(campaigns: Campaigns, campaign_id: str) -> tuple[int, dict[str, int]]:
    found = await campaigns.statistics(campaign_id)
    return found["audience"], found["excluded"]


async def test_whoever_got_as_many_as_the_cap_allows_is_left_out(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(4)))
    rules = {"approval": False, "cap": {"messages": 2, "days": 30}, "link_host": None, "stop_added": None}
    assert await campaigns.put(f"senders/{SENDER}/rules", json=rules) == rules
    first, second = await started(campaigns), await started(campaigns)
    await campaigns.report(
        changed(first, subject(0), 1, "accepted"),
        changed(first, subject(1), 1, "denied", reasons=("no_consent",)),
        changed(first, subject(2), 1, "rejected"),
        changed(second, subject(0), 1, "unknown"),
        changed(second, subject(3), 1, "deferred"),
    )
    await campaigns.told(*(opted_in(n) for n in range(4)))
    third = (await campaigns.written())["campaign_id"]
    looked_at = await campaigns.post(f"campaigns/{third}/pre-flight")
    assert (looked_at["would_get"], looked_at["reasons"]) == (2, {"frequency_cap": 2})
    third = await started(campaigns)
    # 0 got two; 3 has one deferred and one pending, which may still leave; 1 and 2 got one at most
    assert await excluded(campaigns, third) == (2, {"frequency_cap": 2})
    async with campaigns.database.begin() as tx:
        await tx.execute(
            text("UPDATE campaign SET ended_at = now() - interval '30 days' WHERE campaign_id = :id"), {"id": first}
        )
    assert await excluded(campaigns, await started(campaigns)) == (2, {"frequency_cap": 2})  # 1 and 2 by now


async def test_a_campaign_leaves_out_who_got_something_within_its_days_of_rest(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(3)))
    first = await started(campaigns, audience={"where": {"city": "Nîmes"}})
    await campaigns.report(changed(first, subject(2), 1, "denied", reasons=("no_consent",)))
    assert await excluded(campaigns, await started(campaigns, rest_days=7)) == (2, {"rest_days": 1})
    assert await excluded(campaigns, await started(campaigns)) == (3, {})


async def test_two_campaigns_of_the_same_minute_see_each_other(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(5)))
    await campaigns.put(f"senders/{SENDER}/rules", json={"cap": {"messages": 1, "days": 7}})
    ids = [(await campaigns.written())["campaign_id"] for _ in range(2)]
    for campaign_id in ids:
        await campaigns.post(f"campaigns/{campaign_id}/schedule")
    planners = [
        campaigns.planner,
        Planner(campaigns.database, field_keys, link_keys, load("france"), partitions=3, chunk=10, backlog=1000),
    ]
    assert await asyncio.gather(*(planner.start_due() for planner in planners)) == [True, True]
    audiences = [await excluded(campaigns, campaign_id) for campaign_id in ids]
    assert sorted(audiences, key=str) == [(0, {"frequency_cap": 5}), (5, {})]


@pytest.mark.parametrize("end", ["send_before = now()", "starts_at = now() - interval '3 days'"])
async def test_a_campaign_whose_end_comes_while_it_is_paused_ends_and_keeps_nobody_from_the_next(
    campaigns: Campaigns, end: str
) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", json={"cap": {"messages": 1, "days": 30}})
    first = await campaigns.started(*range(4))
    one_by_one = Planner(campaigns.database, field_keys, link_keys, load("france"), partitions=3, chunk=1, backlog=1000)
    assert await one_by_one.expand()
    [asked] = await campaigns.requests()
    await campaigns.post(f"campaigns/{first}/pause")
    assert not await one_by_one.deny_unrequested(), "somebody may resume it"
    assert await excluded(campaigns, await started(campaigns)) == (0, {"frequency_cap": 4})
    async with campaigns.database.begin() as tx:
        await tx.execute(text(f"UPDATE campaign SET {end} WHERE campaign_id = :id"), {"id": first})
    await campaigns.report(changed(first, asked.subject_id, 1, "expired", reasons=("send_before_passed",)))
    second = (await campaigns.written())["campaign_id"]
    await campaigns.post(f"campaigns/{second}/schedule")
    assert not await campaigns.planner.start_due(), "who is still to be denied would count"
    while await one_by_one.deny_unrequested():
        pass
    found = await campaigns.statistics(first)
    assert (found["pending"], found["denied_reasons"]) == (0, {"send_before_passed": 3})
    assert await campaigns.planner.start_due()
    assert await campaigns.planner.finish_done()
    assert await campaigns.status(first) == "finished"
    assert await excluded(campaigns, second) == (4, {})
