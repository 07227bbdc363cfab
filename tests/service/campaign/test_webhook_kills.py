"""`kill -9` at each step from a topic to a receiver: a fact is one event, and what was claimed is sent again."""

import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from campaign.service import Settings, build
from campaign.webhooks import sender as sending
from common.contracts import STATES
from tests.service.campaign.campaigns import Campaigns
from tests.service.campaign.test_webhooks import added
from tests.support.builders import opted_in, opted_out, shown
from tests.support.eventually import eventually, is_so
from tests.support.failing import Point, ended, start
from tests.support.publish import publish
from tests.support.receiver import Receiver, receiving

pytestmark = pytest.mark.any_broker  # Postgres and HTTP

WITHIN_S = 90.0  # on a machine that is busy
POINTS = (
    Point("committed", "campaign.webhooks.store:spread"),
    Point("after", "campaign.webhooks.store:claim"),
    Point("committed", "campaign.webhooks.store:claim"),
    Point("after", "campaign.webhooks.sender:Sender._post"),
    Point("after", "campaign.webhooks.store:settle"),
    Point("committed", "campaign.webhooks.store:settle"),
)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


async def test_whoever_is_killed_at_a_step_of_a_delivery_loses_nothing_and_keeps_the_order(
    campaigns: Campaigns, receiver: Receiver
) -> None:
    settings = Settings(**await campaigns.surroundings.settings("campaign", roles="projection", webhooks_private=True))
    await added(campaigns, receiver)
    for n, point in enumerate(POINTS):
        await campaigns.told(opted_in(n), opted_out(n))
        process = await start(build, settings, point)
        assert await ended(process, WITHIN_S) == -signal.SIGKILL, point
        async with campaigns.surroundings.sql("campaign") as sql:  # the lease ends
            await sql.execute("UPDATE webhook_delivery SET due_at = now() WHERE state = 'waiting'")
    process = await start(build, settings)
    try:
        await eventually(lambda: is_so(len({each["id"] for each in receiver.accepted}) == 2 * len(POINTS)), WITHIN_S)
    finally:
        process.kill()
        process.join()
    assert receiver.forged == 0
    assert receiver.repeats <= sending.AT_ONCE * len(POINTS)
    for n in range(len(POINTS)):
        first: dict[str, str] = {}
        for each in receiver.accepted:
            if each["data"]["subject_id"] == shown(n):
                first.setdefault(each["id"], each["type"])
        assert list(first.values()) == ["consent.changed", "consent.opted_out"]


async def test_whoever_is_killed_as_events_are_stored_tells_each_fact_once(campaigns: Campaigns) -> None:
    settings = Settings(**await campaigns.surroundings.settings("campaign", roles="worker"))
    assert (await campaigns.get("events"))["items"] == []
    points = [Point(when, "campaign.feed.store:add") for when in ("before", "after", "committed")]
    for n, point in enumerate(points):
        await publish(campaigns.surroundings, STATES, [opted_in(n), opted_out(n)])
        process = await start(build, settings, point)
        assert await ended(process, WITHIN_S) == -signal.SIGKILL, point
    process = await start(build, settings)

    async def everybody() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await campaigns.get("events"))["items"]
        assert {each["data"]["subject_id"] for each in found} == {shown(n) for n in range(len(points))}
        return found

    try:
        found = await eventually(everybody, WITHIN_S)
    finally:
        process.kill()
        process.join()
    for n in range(len(points)):
        types = [each["type"] for each in found if each["data"]["subject_id"] == shown(n)]
        assert types == ["consent.changed", "consent.opted_out"]
