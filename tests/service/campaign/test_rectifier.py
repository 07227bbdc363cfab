"""A contact that is corrected while its campaign is being asked for: no request with the mistake goes uncorrected."""

import asyncio

import msgspec
import pytest

from campaign.privacy.rectifier import Rectifier
from campaign.senders import store
from common.contracts.campaign import MessageRequested, MessageReworded
from common.contracts.rights import RectificationRequested
from common.kafka.subscription import Received
from common.law import load
from tests.service.campaign.campaigns import Campaigns, csv_of
from tests.support.builders import SENDER, field_keys, link_keys, now, number, sender_changed, subject
from tests.support.eventually import eventually

pytestmark = pytest.mark.brokerless

RIGHT = '{"first_name":"Nina"}'


def corrected(n: int, fields: str | None = RIGHT) -> Received:
    event = RectificationRequested(
        rectification_id="r1",
        subject_id=subject(n),
        controller_id=SENDER,
        sender_id=None,
        fields=None if fields is None else field_keys.seal(fields, "rectification:r1"),
        requested_at=now(),
    )
    return Received(event, event.key, 0, 0, now(), None)


async def apply(campaigns: Campaigns, received: Received) -> None:
    async with campaigns.database.begin() as tx:
        await Rectifier(field_keys, link_keys, load("france")).apply(tx, [received])


async def test_a_request_that_is_being_made_with_the_mistake_is_followed_by_what_is_right(campaigns: Campaigns) -> None:
    await campaigns.started(1)
    async with campaigns.surroundings.sql("campaign") as sql:

        async def both_wait() -> bool:
            return bool(await sql.fetchval("SELECT count(*) = 2 FROM pg_locks WHERE NOT granted"))

        held = sql.transaction()
        await held.start()
        await sql.execute("LOCK TABLE outbox IN SHARE MODE")  # the planner has read the contact, and cannot write
        asking = asyncio.create_task(campaigns.planner.expand())

        async def one_waits() -> bool:
            return bool(await sql.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))

        await eventually(one_waits)
        correcting = asyncio.create_task(apply(campaigns, corrected(1)))
        await eventually(both_wait)
        await held.rollback()
        await asyncio.gather(asking, correcting)
    [request, reworded] = await campaigns.requests()
    assert isinstance(request, MessageRequested)
    assert isinstance(reworded, MessageReworded)
    assert request.message_id == reworded.message_id
    context = f"text:{request.message_id}"
    assert field_keys.unseal(request.text, context).startswith("Zoé 1,")
    assert reworded.text is not None
    assert field_keys.unseal(reworded.text, context).startswith("Nina,")


@pytest.mark.parametrize(("held", "right", "region"), [("75001", "67000", "FR-6AE"), ("67000", "75001", "")])
async def test_whose_postcode_is_put_right_their_message_is_of_that_place(
    campaigns: Campaigns, held: str, right: str, region: str
) -> None:
    await campaigns.imported(f"number;postcode\n{number(1)};{held}\n")
    await campaigns.started(1)
    assert await campaigns.planner.expand()
    await apply(campaigns, corrected(1, f'{{"postcode":"{right}"}}'))
    [request, reworded] = await campaigns.requests()
    assert {request.region or "", reworded.region} == {"FR-6AE", ""}
    assert reworded.region == region


async def test_who_is_not_asked_for_yet_is_asked_for_with_what_is_right(campaigns: Campaigns) -> None:
    await campaigns.started(1)
    await apply(campaigns, corrected(1))
    assert await campaigns.requests() == []
    assert await campaigns.planner.expand()
    [request] = await campaigns.requests()
    assert field_keys.unseal(request.text, f"text:{request.message_id}").startswith("Nina,")


async def test_another_number_that_is_told_to_be_right_is_no_attribute(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    await apply(campaigns, corrected(1, f'{{"first_name":"Nina","telephone":"{number(9)}"}}'))
    async with campaigns.surroundings.sql("campaign") as sql:
        held = await sql.fetchrow("SELECT attributes ->> 'first_name', corrected::text, attributes::text FROM contact")
    assert held[:2] == ("Nina", '{"first_name": "Nina"}')
    assert "telephone" not in held[2]


async def test_what_is_right_is_kept_as_each_sender_s_attributes_are_and_no_file_changes_it(
    campaigns: Campaigns,
) -> None:
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id="other"))
    await campaigns.post(
        "contacts", json={"sender_id": "other", "contacts": [{"number": number(1), "attributes": {"born": "en mars"}}]}
    )
    file = f"number;born;points;vip\n{number(1)};1990-12-03;12;false\n"
    await campaigns.imported(file)
    said = {"born": " 12/03/1990", "points": "1 234,5", "vip": "oui", "timezone": "Paris", "city": "Lyon ", "size": ""}
    await apply(campaigns, corrected(1, msgspec.json.encode(said | {"points": None}).decode()))
    await apply(campaigns, corrected(1, msgspec.json.encode(said).decode()))
    assert (await campaigns.imported(file))["updated"] == 1
    who = {"number": number(1)}
    kept = {"born": "1990-03-12", "points": "1234.5", "vip": "true", "timezone": "Paris", "city": "Lyon", "size": ""}
    assert (await campaigns.post("contacts/lookup", json=who | {"sender_id": SENDER}))["attributes"] == kept
    others = (await campaigns.post("contacts/lookup", json=who | {"sender_id": "other"}))["attributes"]
    assert others == {name: value.strip() for name, value in said.items()}
    born = {"attribute": "born", "is": "1990-03-12"}
    assert (await campaigns.post("segments/count", json={"sender_id": SENDER, "expression": born}))["selected"] == 1


async def test_a_wrong_number_s_contact_goes_and_one_that_came_since_stays_however_often_it_is_read(
    campaigns: Campaigns,
) -> None:
    await campaigns.imported(csv_of(1, 2))
    wrong = corrected(1, None)
    await apply(campaigns, wrong)
    async with campaigns.surroundings.sql("campaign") as sql:
        assert await sql.fetchval("SELECT array_agg(subject_id) FROM contact") == [subject(2)]
        assert (await campaigns.imported(csv_of(1)))["created"] == 1
        await apply(campaigns, wrong)
        assert await sql.fetchval("SELECT count(*) FROM contact") == 2
