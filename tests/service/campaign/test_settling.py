"""A campaign whose step fails, or that nobody was ever selected for, holds up no other: each is settled by itself."""

import pytest

from tests.service.campaign.campaigns import Campaigns

pytestmark = pytest.mark.brokerless


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
