"""A campaign that is paused before its start: nothing of it starts, whoever was about to; and then it does, as it was
agreed to."""

import asyncio
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from campaign.schedule.lifecycle import KEPT
from campaign.schedule.recurrence import occurrence_id
from tests.service.campaign.campaigns import DAY, Campaigns, csv_of, next_monday
from tests.support.builders import SENDER, now, opted_in, subject
from tests.support.eventually import eventually
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

MONDAY = next_monday()
DAILY = {"cron": "0 10 * * MON-SAT", "until": (MONDAY + 3 * DAY).isoformat()}
LOCKED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def scheduled(campaigns: Campaigns, at: datetime | None = None, **fields: Any) -> str:
    """The path of a campaign to two people."""
    await campaigns.imported(csv_of(1, 2))
    path = f"campaigns/{(await campaigns.written(**fields))['campaign_id']}"
    await campaigns.post(f"{path}/schedule", json={"at": at.isoformat()} if at else {})
    return path


async def backdated(campaigns: Campaigns, path: str, **instants: datetime) -> None:
    """Time has gone by while it was paused."""
    async with campaigns.surroundings.sql("campaign") as sql:
        for name, at in instants.items():
            await sql.execute(f"UPDATE campaign SET {name} = $2 WHERE campaign_id = $1", path.rpartition("/")[2], at)


async def told(campaigns: Campaigns, path: str) -> list[tuple[str, int]]:
    """What the gate is told of it, counted from 1: the versions rise."""
    events = [e for e in await campaigns.controls() if e.campaign_id == path.rpartition("/")[2]]
    assert all(before.version < after.version for before, after in pairwise(events))
    return [(e.control, place) for place, e in enumerate(events, start=1)]


async def test_what_is_paused_before_its_start_does_not_start_and_resumed_starts_at_its_time(
    campaigns: Campaigns,
) -> None:
    path = await scheduled(campaigns, MONDAY)
    paused = await campaigns.post(f"{path}/pause")
    assert (paused["status"], paused["started_at"], paused["paused_because"]) == ("paused", None, [])
    assert await campaigns.post(f"{path}/pause") == paused
    campaigns.planner._now = lambda: MONDAY + timedelta(hours=1)
    assert not await campaigns.planner.start_due()
    assert not await campaigns.planner.expand()
    resumed = await campaigns.post(f"{path}/resume")
    assert (resumed["status"], resumed["starts_at"]) == ("scheduled", paused["starts_at"])
    assert await campaigns.post(f"{path}/resume") == resumed
    campaigns.planner._now = lambda: MONDAY - timedelta(seconds=1)
    assert not await campaigns.planner.start_due()
    campaigns.planner._now = lambda: MONDAY
    assert await campaigns.planner.start_due()
    assert await campaigns.planner.expand()
    assert [r.send_before for r in await campaigns.requests()] == [MONDAY + KEPT] * 2
    assert await told(campaigns, path) == [("paused", 1), ("running", 2)]


async def test_whose_time_has_gone_by_starts_at_once_or_not_at_all(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns)
    await campaigns.post(f"{path}/pause")
    late = now() - KEPT + timedelta(hours=1)
    await backdated(campaigns, path, starts_at=now() - KEPT - timedelta(seconds=1))
    over = await campaigns.post(f"{path}/resume", 409)
    assert (over["type"], over["reasons"][0]["field"]) == ("/problems/campaign-over", "send_before")
    assert await campaigns.status(path.rpartition("/")[2]) == "paused"
    await backdated(campaigns, path, starts_at=now() + 2 * DAY, send_before=now() + DAY)
    await campaigns.post(f"{path}/resume", 409)
    await backdated(campaigns, path, starts_at=now() - DAY, send_before=now() + 9 * DAY)
    assert (await campaigns.post(f"{path}/resume"))["status"] == "scheduled"
    assert await campaigns.planner.start_due()
    other = await scheduled(campaigns)
    await campaigns.post(f"{other}/pause")
    await backdated(campaigns, other, starts_at=late - timedelta(days=9))
    await campaigns.post(f"{other}/resume", 409)
    assert (await campaigns.post(f"{other}/schedule"))["status"] == "scheduled"
    assert await campaigns.planner.start_due()
    assert await told(campaigns, other) == [("paused", 1), ("running", 2)]


@pytest.mark.parametrize("then", ["edit", "cancel"])
async def test_it_may_be_edited_or_cancelled_instead(campaigns: Campaigns, then: str) -> None:
    path = await scheduled(campaigns)
    await campaigns.post(f"{path}/pause")
    if then == "cancel":
        assert (await campaigns.post(f"{path}/cancel"))["status"] == "cancelled"
        await campaigns.post(f"{path}/resume", 409)
        assert not await campaigns.planner.start_due()
        return
    edited = await campaigns.put(path, json={"audience": {"where": {"city": "Lyon"}}})
    assert (edited["status"], edited["starts_at"]) == ("draft", None)
    await campaigns.post(f"{path}/resume", 409)
    await campaigns.post(f"{path}/schedule")
    assert await campaigns.planner.start_due()
    assert await campaigns.planner.expand()
    assert [r.subject_id for r in await campaigns.requests()] == [subject(1)]


async def test_an_approval_outlives_a_pause_and_no_edit(campaigns: Campaigns) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", json={"approval": True})
    await campaigns.imported(csv_of(1))
    await campaigns.told(opted_in(1))
    path, at = f"campaigns/{(await campaigns.written())['campaign_id']}", {"at": MONDAY.isoformat()}
    approval = at | {"digest": (await campaigns.post(f"{path}/pre-flight", json=at))["digest"]}
    await campaigns.post(f"{path}/approvals", 201, json=approval, headers=bearer(subject="somebody else"))
    await campaigns.post(f"{path}/schedule", json=at)
    await campaigns.post(f"{path}/pause")
    await campaigns.post(f"{path}/approvals", 201, json=approval, headers=bearer(subject="another still"))
    await campaigns.post(f"{path}/resume")
    campaigns.planner._now = lambda: MONDAY
    await campaigns.post(f"{path}/pause")
    await campaigns.put(path, json={"text": "Bonsoir. {stop}"})
    refused = await campaigns.post(f"{path}/schedule", 409, json=at)
    assert refused["reasons"][0]["reason"] == "approval_missing"
    await campaigns.put(path, json={})
    await campaigns.post(f"{path}/schedule", json=at)
    await campaigns.post(f"{path}/pause")
    await campaigns.post(f"{path}/resume")
    assert await campaigns.planner.start_due()
    assert await campaigns.status(path.rpartition("/")[2]) == "running"


async def test_a_pause_that_meets_the_start_waits_for_it_and_is_one_of_a_running_campaign(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns)
    async with campaigns.surroundings.sql("campaign") as sql, campaigns.surroundings.sql("campaign") as look:

        async def both_wait() -> bool:
            return int(await look.fetchval(LOCKED)) == 2

        async with sql.transaction():
            await sql.execute("LOCK TABLE outbox IN SHARE MODE")  # where the start has locked its campaign
            starting = asyncio.ensure_future(campaigns.planner.start_due())
            await eventually(lambda: look.fetchval(LOCKED))
            pausing = asyncio.ensure_future(campaigns.post(f"{path}/pause"))
            await eventually(both_wait)
        assert await starting
        assert (await pausing)["status"] == "paused"
    assert await told(campaigns, path) == [("running", 1), ("paused", 2)]
    assert not await campaigns.planner.expand()
    assert (await campaigns.post(f"{path}/resume"))["status"] == "running"


async def test_whichever_comes_first_a_pause_is_never_refused(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1, 2))
    for _ in range(10):
        path = f"campaigns/{(await campaigns.written())['campaign_id']}"
        await campaigns.post(f"{path}/schedule")
        _, paused = await asyncio.gather(campaigns.planner.start_due(), campaigns.post(f"{path}/pause"))
        assert not await campaigns.planner.start_due()
        assert not await campaigns.planner.expand()
        shown = await campaigns.get(path)
        assert paused["status"] == shown["status"] == "paused"
        if shown["started_at"] is None:
            assert (await told(campaigns, path), shown["statistics"]["audience"]) == ([("paused", 1)], 0)
        else:
            assert (await told(campaigns, path))[-2:] == [("running", 1), ("paused", 2)]
    assert await campaigns.requests() == []


async def begins(campaigns: Campaigns, at: datetime) -> str:
    """The path of the occurrence of then, which is about to start. The planner's clock stands there."""
    campaigns.planner._now = lambda: at
    assert await campaigns.planner.start_due()
    [newest] = (await campaigns.get("campaigns?limit=1"))["items"]
    assert newest["status"] == "scheduled"
    return f"campaigns/{newest['campaign_id']}"


async def stands(campaigns: Campaigns, path: str) -> tuple[str, list[str]]:
    found = await campaigns.get(path)
    return found["status"], found["paused_because"]


async def test_of_a_paused_series_nothing_begins_and_resumed_the_last_that_was_kept_does(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns, MONDAY, recurring=DAILY)
    assert (await campaigns.post(f"{path}/pause"))["status"] == "paused"
    campaigns.planner._now = lambda: MONDAY + DAY
    assert not await campaigns.planner.start_due()
    assert (await campaigns.post(f"{path}/resume"))["status"] == "scheduled"
    occurrence = await begins(campaigns, MONDAY + DAY)
    assert occurrence == f"campaigns/{occurrence_id(path.rpartition('/')[2], MONDAY + DAY)}"
    assert await campaigns.planner.start_due()
    assert await stands(campaigns, occurrence) == ("running", [])


async def test_a_series_that_was_paused_for_long_goes_on_with_what_is_still_of_use(campaigns: Campaigns) -> None:
    ago = (now() - 4 * DAY).replace(hour=12, minute=0)
    until = (now() + 20 * DAY).isoformat()
    path = await scheduled(campaigns, recurring={"cron": f"0 13 * * {ago.isoweekday() % 7}", "until": until})
    coming = datetime.fromisoformat((await campaigns.get(path))["at"])
    long_ago = coming - 14 * DAY + timedelta(hours=2)  # that much of a day, for where clocks have changed since
    await campaigns.post(f"{path}/pause")
    await backdated(campaigns, path, at=long_ago, starts_at=long_ago)
    resumed = await campaigns.post(f"{path}/resume")
    assert (resumed["status"], datetime.fromisoformat(resumed["at"]), resumed["missed"]) == ("scheduled", coming, 2)
    assert not await campaigns.planner.start_due()
    await campaigns.post(f"{path}/pause")
    await backdated(campaigns, path, at=long_ago, starts_at=long_ago)
    async with campaigns.surroundings.sql("campaign") as sql:
        daily = f'{{"cron": "0 13 * * *", "until": "{until}"}}'
        await sql.execute("UPDATE campaign SET recurring = $1::jsonb, agreed = NULL", daily)
    kept = datetime.fromisoformat((await campaigns.post(f"{path}/resume"))["at"])
    assert timedelta() <= now() - kept < DAY + timedelta(hours=2)
    assert await campaigns.planner.start_due()
    [occurrence] = (await campaigns.get(f"campaigns?series_id={path.rpartition('/')[2]}"))["items"]
    assert datetime.fromisoformat(occurrence["at"]) == kept


async def test_a_series_of_which_nothing_comes_any_more_is_not_resumed(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns, MONDAY, recurring=DAILY)
    await campaigns.post(f"{path}/pause")
    long_ago = MONDAY - 728 * DAY  # MONDAY is up to fourteen months ahead
    await backdated(campaigns, path, at=long_ago, starts_at=long_ago)
    async with campaigns.surroundings.sql("campaign") as sql:
        until = f'{{"cron": "0 10 * * MON-SAT", "until": "{(long_ago + 2 * DAY).isoformat()}"}}'
        await sql.execute("UPDATE campaign SET recurring = $1::jsonb", until)
    refused = await campaigns.post(f"{path}/resume", 409)
    assert (refused["type"], refused["reasons"][0]["field"]) == ("/problems/campaign-over", "recurring.until")
    assert (await stands(campaigns, path))[0] == "paused"


async def test_occurrences_that_go_on_or_are_about_to_are_paused_with_their_series(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns, MONDAY, recurring=DAILY)
    first = await begins(campaigns, MONDAY)
    await campaigns.post(f"{path}/pause")
    assert await stands(campaigns, first) == ("paused", ["series_paused"])
    assert not await campaigns.planner.start_due(), "it was about to"
    await campaigns.post(f"{path}/resume")
    assert await stands(campaigns, first) == ("scheduled", [])
    assert await campaigns.planner.start_due()
    second = await begins(campaigns, MONDAY + DAY)
    await campaigns.post(f"{second}/pause")
    await campaigns.post(f"{path}/pause")
    assert await stands(campaigns, first) == ("paused", ["series_paused"])
    assert not await campaigns.planner.expand()
    assert await stands(campaigns, second) == ("paused", [])
    await campaigns.post(f"{path}/resume")
    assert await stands(campaigns, first) == ("running", [])
    assert await stands(campaigns, second) == ("paused", []), "somebody had a reason of their own"
    assert await told(campaigns, first) == [("paused", 1), ("running", 2), ("paused", 3), ("running", 4)]


async def test_occurrences_go_on_with_a_paused_series_that_is_scheduled_anew(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns, MONDAY, recurring=DAILY)
    first = await begins(campaigns, MONDAY)
    await campaigns.post(f"{path}/pause")
    await campaigns.post(f"{path}/schedule", json={"at": (MONDAY + DAY).isoformat()})
    assert await stands(campaigns, first) == ("scheduled", [])


async def test_occurrences_that_were_paused_with_their_series_are_cancelled_with_it(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns, MONDAY, recurring=DAILY)
    first = await begins(campaigns, MONDAY)
    await campaigns.post(f"{path}/pause")
    await campaigns.post(f"{path}/cancel")
    assert await stands(campaigns, first) == ("cancelled", [])


async def test_an_occurrence_whose_end_came_in_the_pause_of_its_series_is_cancelled(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns, MONDAY, recurring=DAILY)
    first = await begins(campaigns, MONDAY)
    await campaigns.post(f"{path}/pause")
    await backdated(campaigns, first, send_before=now() - timedelta(seconds=1))
    await campaigns.post(f"{path}/resume")
    assert await stands(campaigns, first) == ("cancelled", [])


async def test_an_occurrence_does_not_go_on_with_a_series_that_has_been_edited_since(campaigns: Campaigns) -> None:
    """It says what was to be mended."""
    path = await scheduled(campaigns, MONDAY, recurring=DAILY)
    first = await begins(campaigns, MONDAY)
    await campaigns.post(f"{path}/pause")
    await campaigns.put(path, json={"recurring": DAILY, "text": "Mieux. {stop}"})
    assert await stands(campaigns, first) == ("paused", [])
    await campaigns.post(f"{path}/schedule", json={"at": (MONDAY + DAY).isoformat()})
    await campaigns.post(f"{path}/pause")
    await campaigns.post(f"{path}/resume")
    assert await stands(campaigns, first) == ("paused", [])
    assert (await campaigns.post(f"{first}/resume"))["status"] == "scheduled"


async def test_a_series_is_paused_while_the_audience_of_its_occurrence_is_frozen(campaigns: Campaigns) -> None:
    path = await scheduled(campaigns, MONDAY, recurring=DAILY)
    first = await begins(campaigns, MONDAY)
    async with campaigns.surroundings.sql("campaign") as sql, campaigns.surroundings.sql("campaign") as look:
        async with sql.transaction():
            await sql.execute("LOCK TABLE recipient IN SHARE MODE")
            starting = asyncio.ensure_future(campaigns.planner.start_due())
            await eventually(lambda: look.fetchval(LOCKED))
            async with asyncio.timeout(30):
                await campaigns.post(f"{path}/pause")
        assert await starting
        assert await sql.fetchval("SELECT count(*) FROM recipient") == 0
    assert await stands(campaigns, first) == ("paused", ["series_paused"])
    assert await told(campaigns, first) == [("paused", 1)]


async def test_planners_and_pauses_of_a_series_never_wait_for_each_other_for_ever(campaigns: Campaigns) -> None:
    hourly = {"cron": "0 * * * *", "until": (MONDAY + DAY).isoformat()}
    path = await scheduled(campaigns, MONDAY, recurring=hourly)
    hours = 0

    async def plan() -> None:
        while hours < 20:
            campaigns.planner._now = lambda: MONDAY + hours * timedelta(hours=1)
            await campaigns.planner.start_due()
            await campaigns.planner.expand()

    async def interrupt() -> None:
        nonlocal hours
        while hours < 20:
            assert (await campaigns.post(f"{path}/pause"))["status"] == "paused"
            items = (await campaigns.get(f"campaigns?series_id={path.rpartition('/')[2]}"))["items"]
            assert {item["status"] for item in items} <= {"paused", "finished"}
            assert (await campaigns.post(f"{path}/resume"))["status"] == "scheduled"
            hours += 1

    async with asyncio.timeout(60):
        await asyncio.gather(plan(), plan(), interrupt())
    assert len({r.message_id for r in await campaigns.requests()}) == len(await campaigns.requests())
