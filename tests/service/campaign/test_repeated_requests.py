"""Kafka has lost a request, or what was reported of its message: the planner asks again, and the campaign ends."""

import base64
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from campaign.audience import store as audience
from campaign.planning.planner import ON_RECORD, REPEAT_AFTER
from campaign.planning.waiting import Waiting
from campaign.schedule.lifecycle import KEPT
from common.contracts import CAMPAIGN_REQUESTS
from common.contracts.campaign import MessageRequested
from common.keyring import LinkKeys
from common.privacy.erasing import Whom
from common.settings import KeyRingSettings
from tests.service.campaign.campaigns import DAY, Campaigns, changed, csv_of
from tests.service.campaign.test_links import HOST, TEXT
from tests.service.campaign.test_timing import MONDAY, SECOND, scheduled
from tests.support.builders import SENDER, field_keys, now, subject, subject_keys
from tests.support.running import KEY_RING

pytestmark = pytest.mark.brokerless


class Clock:
    """The planner's, in our hands."""

    def __init__(self, campaigns: Campaigns, at: datetime | None = None) -> None:
        self.at = at or now() + timedelta(minutes=1)  # a campaign scheduled at once is due
        campaigns.planner._now = lambda: self.at

    def goes_on(self, by: timedelta) -> None:
        self.at += by


async def lose(campaigns: Campaigns) -> list[MessageRequested]:
    """What was requested so far never comes to Kafka."""
    lost = await campaigns.requests()
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("DELETE FROM outbox WHERE topic = $1", CAMPAIGN_REQUESTS.name)
    return lost


async def expanded(campaigns: Campaigns, *people: int, **fields: Any) -> tuple[str, list[MessageRequested]]:
    campaign_id = await campaigns.started(*people, **fields)
    while await campaigns.planner.expand():
        pass
    return campaign_id, await lose(campaigns)


def said(request: MessageRequested) -> str:
    return field_keys.unseal(request.text, f"text:{request.message_id}")


async def waits(campaigns: Campaigns, campaign_id: str) -> list[Waiting]:
    """Whatever the hour is at which this is tested."""
    found = await campaigns.get(f"campaigns/{campaign_id}")
    return [Waiting.model_validate(each) for each in found["waiting_for"] if each["reason"] != "window"]


async def test_a_lost_request_is_made_again_as_it_was_and_the_campaign_ends(campaigns: Campaigns) -> None:
    clock = Clock(campaigns)
    campaign_id, lost = await expanded(campaigns, 1, 2, 3)
    reported, silent = lost[0], lost[1:]
    await campaigns.report(changed(campaign_id, reported.subject_id, 2, "accepted"))
    clock.goes_on(REPEAT_AFTER - SECOND)
    assert not await campaigns.planner.repeat_requests()
    clock.goes_on(SECOND)
    assert await campaigns.planner.repeat_requests()
    assert not await campaigns.planner.repeat_requests(), "once"
    again = {request.subject_id: request for request in await lose(campaigns)}
    assert again.keys() == {request.subject_id for request in silent}
    for request in silent:
        repeated = again[request.subject_id]
        assert said(repeated) == said(request)
        assert repeated == replace(request, repeated=True, text=repeated.text, requested_at=clock.at)
    assert await waits(campaigns, campaign_id) == [
        Waiting(reason="outcomes"),
        Waiting(reason="reports", until=clock.at + REPEAT_AFTER),
    ]
    await campaigns.report(*(changed(campaign_id, who, 2, "accepted") for who in again))
    assert await campaigns.status(campaign_id) == "finished"
    clock.goes_on(DAY)
    assert not await campaigns.planner.repeat_requests()


async def test_after_a_lost_outcome_the_planner_asks_once_the_campaign_is_over_and_it_ends(
    campaigns: Campaigns,
) -> None:
    clock = Clock(campaigns)
    campaign_id, _ = await expanded(campaigns, 1, 2)
    await campaigns.report(*(changed(campaign_id, subject(n), 1, "deferred") for n in (1, 2)))
    clock.goes_on(DAY)
    assert not await campaigns.planner.repeat_requests(), "a deferred message may wait for hours"
    clock.goes_on(KEPT)
    assert await campaigns.planner.repeat_requests()
    asked = await lose(campaigns)
    assert {(r.subject_id, r.number, r.text, r.repeated) for r in asked} == {(subject(n), "", "", True) for n in (1, 2)}
    assert {r.known_version for r in asked} == {1}, "an answer has to be newer than the report"
    await campaigns.report(
        changed(campaign_id, subject(1), 3, "accepted"), changed(campaign_id, subject(2), 2, "expired")
    )
    assert await campaigns.status(campaign_id) == "finished"
    assert (await campaigns.statistics(campaign_id))["accepted"] == 1


async def test_while_no_report_comes_each_page_is_half_as_large_and_then_page_follows_page(
    campaigns: Campaigns,
) -> None:
    """As while dispatch-svc is down: the first requests are all in Kafka."""
    clock = Clock(campaigns)
    campaigns.planner._page = 16
    campaign_id, lost = await expanded(campaigns, *range(60))
    people = sorted(request.subject_id for request in lost)
    repeats, asked = list[datetime](), list[str]()
    while len(repeats) < 4:
        if await campaigns.planner.repeat_requests():
            repeats.append(clock.at)
            asked += [request.subject_id for request in await lose(campaigns)]
        clock.goes_on(timedelta(minutes=5))
    between = [later - at for at, later in pairwise(repeats)]
    assert between == [REPEAT_AFTER, 2 * REPEAT_AFTER, 4 * REPEAT_AFTER]
    assert len(asked) == 16 + 8 + 4 + 4
    assert people[0] in asked[16:], "a silent recipient is asked for again"
    assert set(asked) == set(people[: 16 + 6 + 3 + 3]), "three quarters of each page are new"
    await campaigns.report(changed(campaign_id, asked[-1], 1, "deferred"))
    assert not await campaigns.planner.repeat_requests(), "one of four"
    await campaigns.report(*(changed(campaign_id, who, 1, "deferred") for who in asked[:-1]))
    left = set(people) - set(asked)
    while left:
        assert await campaigns.planner.repeat_requests(), "at once"
        page = {request.subject_id for request in await lose(campaigns)}
        assert len(page) == min(16, len(left))
        assert page <= left
        left -= page
        await campaigns.report(*(changed(campaign_id, who, 1, "deferred") for who in page))
    assert not await campaigns.planner.repeat_requests()
    assert await waits(campaigns, campaign_id) == [Waiting(reason="outcomes")]


async def test_a_halted_partition_holds_back_no_request_of_the_others_and_is_asked_again_in_turn(
    campaigns: Campaigns,
) -> None:
    clock = Clock(campaigns)
    campaigns.planner._page = 6
    campaign_id, lost = await expanded(campaigns, *range(48))
    people = sorted(request.subject_id for request in lost)
    halted = people[::6]
    left = set(people)
    clock.goes_on(REPEAT_AFTER)
    while left:
        assert await campaigns.planner.repeat_requests(), "at once"
        page = {request.subject_id for request in await lose(campaigns)}
        assert page <= left, "a silent recipient is asked for again after a wait"
        left -= page
        await campaigns.report(*(changed(campaign_id, who, 1, "deferred") for who in page - {*halted}))
        clock.goes_on(SECOND)
    assert not await campaigns.planner.repeat_requests()
    again = list[str]()
    while len(again) < len(halted):
        clock.goes_on(REPEAT_AFTER)
        if await campaigns.planner.repeat_requests():
            again += sorted(request.subject_id for request in await lose(campaigns))
    assert again == halted, "the oldest repeats first, four at a time"


@pytest.mark.parametrize(("silent", "repeated"), [(6, 12), (1, 5)])
async def test_under_a_pace_a_sixth_may_be_silent_and_no_more_than_half_a_page(
    campaigns: Campaigns, silent: int, repeated: int
) -> None:
    clock = Clock(campaigns, MONDAY)
    campaigns.planner._page = 8
    await campaigns.imported(csv_of(*range(12)))
    campaign_id = await scheduled(campaigns, timing={"per_second": 1})
    assert await campaigns.planner.start_due()
    for _ in range(16):
        await campaigns.planner.expand()
        clock.goes_on(2 * SECOND)
    people = sorted(request.subject_id for request in await lose(campaigns))
    assert len(people) == 12
    clock.goes_on(REPEAT_AFTER)
    for who in people[:repeated]:
        assert await campaigns.planner.repeat_requests()
        assert [request.subject_id for request in await lose(campaigns)] == [who]
        if who not in people[::silent]:
            await campaigns.report(changed(campaign_id, who, 1, "deferred"))
        clock.goes_on(2 * SECOND)
    assert not await campaigns.planner.repeat_requests()


@pytest.mark.parametrize("meanwhile", ["cancelled", "erased", "paused"])
async def test_of_a_message_that_may_not_leave_the_state_is_asked_for_and_nothing_else(
    campaigns: Campaigns, meanwhile: str
) -> None:
    clock = Clock(campaigns)
    campaign_id, lost = await expanded(campaigns, 1)
    if meanwhile == "erased":
        async with campaigns.database.begin() as tx:
            await audience.delete_contacts(tx, {Whom(subject(1), None): now()})
    else:
        await campaigns.post(f"campaigns/{campaign_id}/{'cancel' if meanwhile == 'cancelled' else 'pause'}")
    clock.goes_on(REPEAT_AFTER)
    repeats = await campaigns.planner.repeat_requests()
    if meanwhile == "paused":
        assert not repeats
        clock.goes_on(KEPT)
        assert await campaigns.planner.repeat_requests()
    [asked] = await campaigns.requests()
    assert (asked.message_id, asked.number, asked.text, asked.repeated) == (lost[0].message_id, "", "", True)
    await campaigns.report(changed(campaign_id, subject(1), 1, "denied", reasons=("cannot_be_written",)))
    assert await waits(campaigns, campaign_id) == []


async def test_a_repeated_text_has_the_links_of_the_first_whatever_the_key_is_now(campaigns: Campaigns) -> None:
    await campaigns.put(f"senders/{SENDER}/rules", json={"link_host": HOST})
    clock = Clock(campaigns)
    _, lost = await expanded(campaigns, 1, text=TEXT)
    keys = {"current": "t2", "keys": {**KEY_RING["keys"], "t2": base64.b64encode(b"u" * 32).decode()}}
    campaigns.planner._link_keys = LinkKeys(KeyRingSettings.model_validate(keys), subject_keys)
    clock.goes_on(REPEAT_AFTER)
    assert await campaigns.planner.repeat_requests()
    assert [said(request) for request in await campaigns.requests()] == [said(request) for request in lost]


async def test_no_repeat_leaves_once_the_ledger_may_have_forgotten_the_message(campaigns: Campaigns) -> None:
    clock = Clock(campaigns)
    started = clock.at
    _, lost = await expanded(campaigns, 1, send_before=(now() + 30 * DAY).isoformat())
    clock.goes_on(REPEAT_AFTER)
    assert await campaigns.planner.repeat_requests()
    [repeated] = await campaigns.requests()
    assert repeated.send_before == started + ON_RECORD < lost[0].send_before


async def test_repeats_keep_the_pace_of_the_campaign(campaigns: Campaigns) -> None:
    clock = Clock(campaigns, MONDAY)
    await campaigns.imported(csv_of(1, 2, 3))
    campaign_id = await scheduled(campaigns, timing={"per_second": 1})
    assert await campaigns.planner.start_due()
    for _ in range(5):
        await campaigns.planner.expand()
        clock.goes_on(2 * SECOND)
    assert len(await lose(campaigns)) == 3
    clock.goes_on(REPEAT_AFTER)
    repeated = REGISTRY.get_sample_value("sms_campaign_requests_total", {"result": "repeated"}) or 0
    for n in range(1, 4):
        assert await campaigns.planner.repeat_requests()
        [request] = await lose(campaigns)
        await campaigns.report(changed(campaign_id, request.subject_id, 1, "deferred"))
        assert not await campaigns.planner.repeat_requests()
        assert REGISTRY.get_sample_value("sms_campaign_requests_total", {"result": "repeated"}) == repeated + n
        clock.goes_on(2 * SECOND)
