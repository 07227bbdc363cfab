"""A campaign whose step fails, or that nobody was ever selected for, holds up no other: each is settled by itself."""

from datetime import datetime, timedelta

import pytest

from campaign.planning.planner import FAILING
from tests.service.campaign import faults
from tests.service.campaign.campaigns import DAY, Campaigns, balanced, csv_of, next_monday
from tests.support.builders import now

pytestmark = pytest.mark.brokerless

MONDAY = next_monday()


@pytest.mark.parametrize("until", ["draft", "scheduled", "paused"])
async def test_a_campaign_cancelled_before_its_start_is_settled_and_holds_up_no_other(
    campaigns: Campaigns, until: str
) -> None:
    running = await campaigns.started(1, 2)
    unbegun = f"campaigns/{(await campaigns.written(name='Jamais'))['campaign_id']}"
    if until != "draft":
        await campaigns.post(f"{unbegun}/schedule")
    if until == "paused":
        await campaigns.post(f"{unbegun}/pause")
    await campaigns.post(f"{unbegun}/cancel")
    await campaigns.post(f"campaigns/{running}/cancel")
    while await campaigns.planner.deny_unrequested():
        pass
    assert (await campaigns.statistics(running))["denied_reasons"] == {"campaign_cancelled": 2}
    assert await campaigns.status(await campaigns.started(3)) == "running"


async def about_to(campaigns: Campaigns, step: str, name: str) -> str:
    """The id of a campaign to two people whose next step this is: on Monday, or in an hour."""
    nobody = {"audience": {"where": {"city": "Nulle part"}}}
    if step == "occur":
        daily = {"cron": "0 10 * * *", "until": (MONDAY + 3 * DAY).isoformat()}
        campaign_id = str((await campaigns.written(name=name, recurring=daily))["campaign_id"])
        await campaigns.post(f"campaigns/{campaign_id}/schedule", json={"at": MONDAY.isoformat()})
        return campaign_id
    if step == "start":
        campaign_id = str((await campaigns.written(name=name))["campaign_id"])
        await campaigns.post(f"campaigns/{campaign_id}/schedule")
        return campaign_id
    campaign_id = await campaigns.started(1, 2, name=name, **(nobody if step == "finish" else {}))
    if step == "finish":
        assert await campaigns.planner.expand()
    return campaign_id


async def gone_on(campaigns: Campaigns, step: str, campaign_id: str) -> bool:
    """Has it taken that step?"""
    if step == "occur":
        return bool((await campaigns.get(f"campaigns?series_id={campaign_id}"))["items"])
    found = await campaigns.get(f"campaigns/{campaign_id}")
    waits = [each["reason"] for each in found["waiting_for"]]
    steps: dict[str, bool] = {
        "start": found["started_at"] is not None,
        "expand": waits[-1:] == ["outcomes"],
        "deny": balanced(found["statistics"])["denied"] == 2,
        "finish": found["status"] == "finished",
    }
    return steps[step]


@pytest.mark.parametrize("step", ["start", "occur", "expand", "deny", "finish"])
async def test_a_step_that_fails_for_one_campaign_is_shown_and_holds_up_no_other(
    campaigns: Campaigns, step: str
) -> None:
    await faults.install(campaigns)
    await campaigns.imported(csv_of(1, 2))
    broken, other = [await about_to(campaigns, step, name) for name in ("broken", "other")]
    if step == "deny":
        for campaign_id in (broken, other):
            await campaigns.post(f"campaigns/{campaign_id}/cancel")
    await faults.break_(campaigns, broken)
    clock = MONDAY if step == "occur" else now() + timedelta(hours=1)
    campaigns.planner._now = lambda: clock
    for attempts in (2, 3, 4):
        assert await faults.rounds(campaigns.planner, 20) < 20, "a step that fails is not tried without a pause"
        found = await campaigns.get(f"campaigns/{broken}")
        assert found["failing"]["attempts"] == attempts
        assert found["waiting_for"][0] == {
            "reason": "retry",
            "until": found["failing"]["again_at"],
            "campaign_id": None,
        }
        assert await gone_on(campaigns, step, other)
        assert not await gone_on(campaigns, step, broken)
        clock = datetime.fromisoformat(found["failing"]["again_at"])
    await campaigns.planner.count_failing()
    assert FAILING._value.get() == 1
    await faults.mend(campaigns)
    await faults.rounds(campaigns.planner, 20)
    assert await gone_on(campaigns, step, broken)
    assert (await campaigns.get(f"campaigns/{broken}"))["failing"] is None
    await campaigns.planner.count_failing()
    assert FAILING._value.get() == 0


async def test_the_next_campaign_of_a_sender_waits_for_a_cancelled_one_and_not_for_one_that_fails(
    campaigns: Campaigns,
) -> None:
    await faults.install(campaigns)
    cancelled = await campaigns.started(1, 2)
    await campaigns.post(f"campaigns/{cancelled}/cancel")
    following = await about_to(campaigns, "start", "Dimanche")
    assert (await campaigns.get(f"campaigns/{following}"))["waiting_for"] == [
        {"reason": "other_campaign", "until": None, "campaign_id": cancelled}
    ]
    assert not await campaigns.planner.start_due()
    await faults.break_(campaigns, cancelled)
    await faults.rounds(campaigns.planner, 20)
    assert await gone_on(campaigns, "start", following)
    assert balanced((await campaigns.get(f"campaigns/{cancelled}"))["statistics"])["pending"] == 2
