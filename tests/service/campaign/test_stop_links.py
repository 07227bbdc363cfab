"""{stop_link} in a campaign: each person gets their own, and so does a tester; a corrected text keeps it."""

import re
from typing import Any

import pytest

from campaign.privacy.rectifier import Rectifier
from campaign.senders import store
from common.contracts import CAMPAIGN_REQUESTS
from common.contracts.campaign import MessageReworded
from common.contracts.rights import RectificationRequested
from common.kafka.subscription import Received
from common.law import load
from common.privacy.stop_link import has_stop_link
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import SENDER, field_keys, link_keys, now, number, opted_in, sender_changed, subject
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

PAGE = f"https://p.example/s/{SENDER}/"
TEXT = "Maison Lune, {first_name|}. {stop} {stop_link}"
LINK = re.compile(re.escape(PAGE) + "[0-9A-Za-z]{37}")


@pytest.fixture
async def linked(campaigns: Campaigns) -> Campaigns:
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, stop_page=PAGE))
    return campaigns


def stops(text: str, person: int) -> bool:
    """As the gate sees it."""
    return has_stop_link(text, PAGE, link_keys, SENDER, subject(person), now())


async def test_each_person_gets_a_stop_link_of_their_own_and_a_test_has_the_tester_s(linked: Campaigns) -> None:
    campaign_id = await linked.started(1, 2, text=TEXT)
    assert await linked.planner.expand()
    for request in await linked.requests():
        text = field_keys.unseal(request.text, f"text:{request.message_id}")
        assert [n for n in (1, 2) if stops(text, n)] == [n for n in (1, 2) if request.subject_id == subject(n)]
        assert "STOP au 36111" in text
    async with linked.surroundings.sql("campaign") as sql:
        assert await sql.fetchval("SELECT count(*) FROM link") == 0, "a stop link needs no row"
    seen = await linked.get(f"campaigns/{campaign_id}")
    sample = f"Maison Lune, . STOP au 36111 {PAGE}{'x' * 37}"
    assert seen["length"]["units"] == len(sample)
    [test] = (await linked.post(f"campaigns/{campaign_id}/test-sends", 202, json={"numbers": [number(7)]}))["items"]
    assert stops(test["text"], 7)


async def test_a_corrected_text_keeps_its_stop_link(linked: Campaigns) -> None:
    await linked.started(1, text=TEXT)
    assert await linked.planner.expand()
    right = field_keys.seal('{"first_name": "Ana"}', "rectification:r1")
    asked = RectificationRequested(
        rectification_id="r1",
        subject_id=subject(1),
        controller_id=SENDER,
        sender_id=SENDER,
        fields=right,
        requested_at=now(),
    )
    async with linked.database.begin() as tx:
        rectifier = Rectifier(field_keys, link_keys, load("demonstration"))
        await rectifier.apply(tx, [Received(asked, asked.key, 0, 0, now(), None)])
    [told] = [e for e in await linked.outbox(CAMPAIGN_REQUESTS) if isinstance(e, MessageReworded)]
    text = field_keys.unseal(told.text or "", f"text:{told.message_id}")
    assert "Maison Lune, Ana." in text
    assert stops(text, 1)


async def test_without_a_stop_page_a_text_with_a_stop_link_is_refused_and_one_that_began_goes_no_further(
    campaigns: Campaigns,
) -> None:
    refused = await campaigns.written(422, text=TEXT)
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("text", "stop_page_missing")]
    assert "PLACET_PAGE_URL" in refused["detail"]
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, stop_page=PAGE))
    campaign_id = await campaigns.started(1, text=TEXT)
    first = (await campaigns.post(f"campaigns/{campaign_id}/pre-flight"))["digest"]
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=3))
    assert await campaigns.planner.expand()
    assert (await campaigns.statistics(campaign_id))["denied_reasons"] == {"stop_page_missing": 1}
    assert (await campaigns.post(f"campaigns/{campaign_id}/pre-flight"))["digest"] != first
    assert await campaigns.requests() == []


async def test_the_pre_flight_and_a_test_say_where_a_place_is_closed(linked: Campaigns) -> None:
    """An address in Martinique: the statement of the sender, or the link, opens it."""
    await linked.imported("number;postcode\n" + f"{number(1)};97200\n{number(2)};75011\n")
    await linked.told(opted_in(1), opted_in(2))
    closed: dict[str, Any] = {"no_means_to_stop_there": 1}
    path = f"campaigns/{(await linked.written(text='Maison Lune. {stop}'))['campaign_id']}"
    found = await linked.post(f"{path}/pre-flight")
    assert (found["would_get"], found["reasons"]) == (1, closed)
    tests = await linked.post(f"{path}/test-sends", 202, json={"numbers": [number(1), number(2)]}, headers=bearer())
    assert sorted(item["against"] for item in tests["items"]) == [[], ["no_means_to_stop_there"]]
    both = await linked.written(text="Maison Lune. {stop} {stop_link}")
    assert (await linked.post(f"campaigns/{both['campaign_id']}/pre-flight"))["reasons"] == {}
    async with linked.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=3, reachable_in=("MQ",)))
    assert (await linked.post(f"{path}/pre-flight"))["reasons"] == {}
