"""What a message cost: its SMS as sent, at the price in force when it was sent, whatever a later table says."""

from pathlib import Path

import pytest

from common.contracts import DISPATCH_MESSAGES, DISPATCH_REQUESTS, INBOUND_RECEIPTS
from common.contracts.dispatch import MessageChanged
from tests.service.dispatch.test_dispatch import dispatch, known
from tests.support.builders import CODES_SENDER, SENDER, number, opted_in, receipt, requested
from tests.support.eventually import eventually
from tests.support.operators.http import TOKEN, Operator, operator
from tests.support.prices import EXAMPLE, edition, line, table
from tests.support.publish import publish
from tests.support.reading import changes_in, reading
from tests.support.running import Surroundings, bearer

LONG = "Maison Lune : « -20 % », de l’aube à la nuit, sur tout le magasin et en ligne. STOP au 36111"  # UCS-2, two SMS
REPORTED = {"sender_id": SENDER, "category": "marketing", "prices": "example-1", "segments": 1, "unpriced": 0}


@pytest.mark.any_broker
async def test_a_message_costs_its_sms_at_the_price_of_its_sending_and_no_later_table_changes_that(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    async with operator() as op, reading(surroundings, DISPATCH_MESSAGES) as read:

        async def published(*identities: str) -> dict[str, MessageChanged]:
            found = {e.message_id: e for e in changes_in(await read())}
            assert found.keys() >= set(identities), found.keys()
            return found

        async with dispatch(surroundings, op, prices=EXAMPLE) as d:
            await d.publish_states(opted_in(1), opted_in(2))
            await eventually(lambda: known(surroundings, 2))
            await d.request(advert := requested(1, text=LONG))
            code = requested(
                1, sender_id=CODES_SENDER, category="transactional", purpose=None, campaign_id=None, text="Code : 4821"
            )
            await publish(surroundings, DISPATCH_REQUESTS, [code])
            for one in (advert, code):
                await eventually(d.becomes(one.message_id, "accepted"))
            op.answer = "reject"
            await d.request(refused := requested(2))
            await eventually(d.becomes(refused.message_id, "rejected"))
            op.answer = "drop"
            await d.request(doubtful := requested(2))
            await eventually(d.becomes(doubtful.message_id, "unknown"))
            every = [one.message_id for one in (advert, code, refused, doubtful)]
            told = await eventually(lambda: published(*every))
            kept = [await d.message(identity) for identity in every]
            report = (await d.client.get("/v1/reports/costs")).json()["items"]
            strangers = await d.client.get("/v1/reports/costs", headers=bearer(organisation="strangers"))
            far = await d.client.get("/v1/reports/costs", params={"since": "2020-01-01T00:00:00Z"})
        assert [(told[each].segments, told[each].cost) for each in every] == [
            (2, 820),  # the sender's own price
            (1, 440),  # the other lane's
            (None, None),  # a rejected message is charged by nobody
            (1, 410),  # who knows: the operator may have had it
        ]
        assert [(each["segments"], each["cost"], each["prices"]) for each in kept] == [
            (2, "0.0820", "example-1"),
            (1, "0.0440", "example-1"),
            (1, "0.0410", "example-1"),
            (1, "0.0410", "example-1"),
        ]
        assert report == [
            {**REPORTED, "messages": 2, "segments": 3, "cost": "0.1230"},
            {**REPORTED, "sender_id": CODES_SENDER, "category": "transactional", "messages": 1, "cost": "0.0440"},
        ]
        assert (strangers.json()["items"], far.status_code) == ([], 422)
        op.answer = "accept"
        dearer = tmp_path / "prices.json"
        dearer.write_bytes(table(edition("2026-01-01", line("GP", "9")), version="dearer"))
        async with dispatch(surroundings, op, prices=dearer) as d:
            await publish(surroundings, INBOUND_RECEIPTS, [receipt("delivered", reference=advert.message_id)])

            async def delivered() -> MessageChanged:
                found = (await published(advert.message_id))[advert.message_id]
                assert found.receipt == "delivered"
                return found

            found = await eventually(delivered)
            assert (found.segments, found.cost) == (2, 820)
            assert await d.message(advert.message_id) == kept[0] | {
                name: (await d.message(advert.message_id))[name] for name in ("receipt", "version", "code")
            }
            await d.request(unpriced := requested(2))
            shown = await eventually(d.becomes(unpriced.message_id, "accepted"))
            assert (shown["segments"], shown["cost"], shown["prices"]) == (1, None, "dearer")
            report = (await d.client.get("/v1/reports/costs")).json()["items"]
            assert report[0] == {**REPORTED, "prices": "dearer", "messages": 1, "cost": None, "unpriced": 1}
            change = (await eventually(lambda: published(unpriced.message_id)))[unpriced.message_id]
            assert (change.status, change.segments, change.cost) == ("accepted", 1, None)


@pytest.mark.any_broker
async def test_a_message_that_waits_costs_what_it_costs_when_it_leaves(surroundings: Surroundings) -> None:
    """Nothing is charged for a wait, and the price is that of the decision that let the message go."""
    async with (
        operator(Operator(answer="throttle")) as op,
        dispatch(surroundings, op, prices=EXAMPLE) as d,
        reading(surroundings, DISPATCH_MESSAGES) as read,
    ):
        await d.publish_states(opted_in(1))
        await d.request(wanted := requested(1))
        await eventually(d.becomes(wanted.message_id, "deferred", "gateway_throttled"))
        code = {"sender_id": CODES_SENDER, "to": number(1), "text": "Code : 4821", "category": "transactional"}
        accepted = (await d.client.post("/v1/messages", json=code)).json()["message_id"]  # a row without a decision
        op.answer = "accept"
        found = await eventually(d.becomes(accepted, "accepted"))
        assert (found["segments"], found["cost"], found["prices"]) == (1, "0.0440", "example-1")
        await eventually(d.becomes(wanted.message_id, "accepted"))

        async def ended() -> list[MessageChanged]:
            found = [e for e in changes_in(await read()) if e.message_id == wanted.message_id]
            assert found[-1].status == "accepted"
            return found

        changes = await eventually(ended)
    assert {change.cost for change in changes if change.status == "deferred"} == {None}
    assert (changes[-1].segments, changes[-1].cost) == (1, 410)


@pytest.mark.any_broker
async def test_the_mention_that_the_provider_adds_is_counted(surroundings: Surroundings) -> None:
    almost_two = "Maison Lune : " + "a" * 130 + " STOP au 36111"
    async with operator() as op:
        adds = {
            "provider": "simulator",
            "url": op.url,
            "secret": TOKEN,
            "adds_stop": True,
            "stop_added": " STOP {code}",
        }
        async with dispatch(surroundings, op, gateway_url=None, gateways=[adds], prices=EXAMPLE) as d:
            await d.publish_states(opted_in(1))
            await d.request(advert := requested(1, text=almost_two))
            code = requested(
                1, sender_id=CODES_SENDER, category="transactional", purpose=None, campaign_id=None, text=almost_two
            )
            await publish(surroundings, DISPATCH_REQUESTS, [code])
            counted = [(await eventually(d.becomes(m.message_id, "accepted")))["segments"] for m in (advert, code)]
    assert counted == [2, 1]
