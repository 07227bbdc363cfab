"""A campaign that recurs: each occurrence a campaign of its own, begun once, and what was missed is counted."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from campaign.schedule.recurrence import occurrence_id
from campaign.senders import store
from tests.service.campaign.campaigns import DAY, Campaigns, csv_of, next_monday
from tests.support.builders import SENDER, opted_in, sender_changed, subject
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

MONDAY = next_monday()
DAILY = {"cron": "0 10 * * MON-SAT", "until": (MONDAY + 3 * DAY).isoformat()}


async def begun(campaigns: Campaigns, series_id: str, at: datetime) -> list[dict[str, Any]]:
    """Its occurrences, oldest first, once the planner has looked at a clock that shows `at`."""
    campaigns.planner._now = lambda: at
    while await campaigns.planner.start_due():
        pass
    while await campaigns.planner.expand():
        pass
    found: list[dict[str, Any]] = (await campaigns.get(f"campaigns?series_id={series_id}"))["items"]
    return found[::-1]


async def test_each_occurrence_has_an_audience_of_its_own_and_ends_when_the_next_comes(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    await campaigns.told(opted_in(1))
    series = await campaigns.written(recurring=DAILY)
    path = f"campaigns/{series['campaign_id']}"
    looked_at = await campaigns.post(f"{path}/pre-flight", json={"at": (MONDAY - DAY).isoformat()})
    assert [datetime.fromisoformat(at) for at in looked_at["occurrences"]] == [MONDAY, MONDAY + DAY, MONDAY + 2 * DAY]
    shown = await campaigns.post(f"{path}/schedule", json={"at": (MONDAY - DAY).isoformat()})
    assert datetime.fromisoformat(shown["starts_at"]) == MONDAY
    assert await begun(campaigns, series["campaign_id"], MONDAY - timedelta(seconds=1)) == []
    [first] = await begun(campaigns, series["campaign_id"], MONDAY)
    assert first["campaign_id"] == occurrence_id(series["campaign_id"], MONDAY)
    assert (first["status"], first["statistics"]["audience"], first["missed"]) == ("running", 1, 0)
    assert datetime.fromisoformat(first["send_before"]) == MONDAY + DAY
    await campaigns.imported(csv_of(2))
    _, second = await begun(campaigns, series["campaign_id"], MONDAY + DAY)
    assert (second["series_id"], second["statistics"]["audience"]) == (series["campaign_id"], 2)
    assert (await campaigns.get(path))["status"] == "scheduled"
    found = await begun(campaigns, series["campaign_id"], MONDAY + 2 * DAY)
    assert len(found) == 3
    assert (await campaigns.get(path))["status"] == "finished"
    assert len(await begun(campaigns, series["campaign_id"], MONDAY + 9 * DAY)) == 3
    requests = await campaigns.requests()
    assert sorted(r.subject_id for r in requests) == sorted([subject(1)] * 3 + [subject(2)] * 2)
    assert len({r.message_id for r in requests}) == 5


async def test_what_was_missed_is_counted_and_not_made_up_for(campaigns: Campaigns) -> None:
    """The machine was off; or its clock has jumped."""
    await campaigns.imported(csv_of(1))
    series = await campaigns.written(recurring=DAILY)
    await campaigns.post(f"campaigns/{series['campaign_id']}/schedule", json={"at": MONDAY.isoformat()})
    [only] = await begun(campaigns, series["campaign_id"], MONDAY + 2 * DAY + timedelta(hours=1))
    assert datetime.fromisoformat(only["at"]) == MONDAY + 2 * DAY
    shown = await campaigns.get(f"campaigns/{series['campaign_id']}")
    assert (shown["status"], shown["missed"]) == ("finished", 2)
    # and a clock set back begins nothing again
    assert len(await begun(campaigns, series["campaign_id"], MONDAY)) == 1
    assert len(await campaigns.requests()) == 1


async def test_a_rule_that_cannot_be_is_refused_with_the_field(campaigns: Campaigns) -> None:
    for recurring, field, reason in (
        ({"cron": "0 10 * *", "until": DAILY["until"]}, "recurring.cron", "value_error"),
        ({"cron": "*/5 * * * *", "until": DAILY["until"]}, "recurring.cron", "too_often"),
        ({"cron": "0 10 * * *", "until": "2099-01-01T00:00:00Z"}, "recurring.until", "too_far"),
        ({"cron": "0 10 * * *", "until": "2020-01-01T00:00:00Z"}, "recurring.until", "never_comes"),
        ({"cron": "0 10 * * *"}, "recurring.until", "missing"),
    ):
        refused = await campaigns.written(422, recurring=recurring)
        assert (refused["reasons"][0]["field"], refused["reasons"][0]["reason"]) == (field, reason)
    refused = await campaigns.written(422, recurring=DAILY, send_before=(MONDAY + 9 * DAY).isoformat())
    assert refused["reasons"][0]["reason"] == "not_of_one_that_recurs"
    series = await campaigns.written(recurring=DAILY)
    late = {"at": (MONDAY + 5 * DAY).isoformat()}
    refused = await campaigns.post(f"campaigns/{series['campaign_id']}/schedule", 422, json=late)
    assert refused["reasons"][0]["reason"] == "never_comes"


async def test_an_approval_is_of_the_rule_and_the_pace_too_and_holds_for_each_occurrence(campaigns: Campaigns) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", json={"approval": True})
    await campaigns.imported(csv_of(1))
    await campaigns.told(opted_in(1))
    fields: dict[str, Any] = {"recurring": DAILY, "timing": {"per_hour": 900}}
    series_id = (await campaigns.written(**fields))["campaign_id"]
    path, at = f"campaigns/{series_id}", {"at": MONDAY.isoformat()}
    digest = (await campaigns.post(f"{path}/pre-flight", json=at))["digest"]
    else_ = bearer(subject="somebody else")
    await campaigns.post(f"{path}/approvals", 201, json=at | {"digest": digest}, headers=else_)
    for change in (
        {"timing": {"per_hour": 901}},
        {"timing": {"per_hour": 900, "local_time": True}},
        {"timing": {"per_hour": 900, "spread_minutes": 5}},
        {"recurring": {**DAILY, "cron": "0 11 * * MON-SAT"}},
        {"recurring": {**DAILY, "until": (MONDAY + 4 * DAY).isoformat()}},
    ):
        await campaigns.put(path, json=fields | change)
        await campaigns.post(f"{path}/schedule", 409, json=at)
    await campaigns.put(path, json=fields)
    await campaigns.post(f"{path}/schedule", json=at)
    [first] = await begun(campaigns, series_id, MONDAY)
    assert first["status"] == "running"
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, oadc="LUNE"))
    assert len(await begun(campaigns, series_id, MONDAY + DAY)) == 1
    assert (await campaigns.get(path))["status"] == "draft", "its sender is not what was agreed to"
