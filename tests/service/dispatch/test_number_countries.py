"""A message's number without a country code is of the sender's country, or of the country that the caller names."""

import phonenumbers
import pytest

from common.contracts import SENDERS
from tests.service.dispatch.test_dispatch import dispatch
from tests.support.builders import CODES_SENDER, codes_sender_changed, subject_keys
from tests.support.eventually import eventually
from tests.support.operators.http import operator
from tests.support.publish import publish
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker


def _mobile(form: int) -> str:
    example = phonenumbers.example_number_for_type("ES", phonenumbers.PhoneNumberType.MOBILE)
    assert example is not None
    return phonenumbers.format_number(example, form)


AT_HOME = _mobile(phonenumbers.PhoneNumberFormat.NATIONAL)
SPANISH = _mobile(phonenumbers.PhoneNumberFormat.E164)
CODE = {"sender_id": CODES_SENDER, "to": AT_HOME, "category": "transactional", "text": "Code : 4821"}


@pytest.mark.usefixtures("strangers")
async def test_a_message_of_a_spanish_sender_is_to_the_spaniard_and_one_to_two_people_is_refused(
    surroundings: Surroundings,
) -> None:
    async def countries_are(*wanted: str) -> bool:
        async with surroundings.sql("dispatch") as sql:
            found = await sql.fetchval("SELECT countries FROM sender WHERE sender_id = $1", CODES_SENDER)
        return tuple(found) == wanted

    async with operator() as op, dispatch(surroundings, op) as d:
        await publish(surroundings, SENDERS, [codes_sender_changed(version=2, country="ES")])
        await eventually(lambda: countries_are("ES"))
        sent = await d.client.post("/v1/messages", json=CODE)
        assert sent.status_code == 202, sent.text
        async with surroundings.sql("dispatch") as sql:
            assert [row["subject_id"] for row in await sql.fetch("SELECT subject_id FROM message")] == [
                subject_keys.subject_id(SPANISH)
            ]
        found = (await d.client.post("/v1/messages/search", json={"number": AT_HOME, "country": "ES"})).json()
        assert [each["message_id"] for each in found["items"]] == [sent.json()["message_id"]]
        of_sender = {"number": AT_HOME, "sender_id": CODES_SENDER}
        again = (await d.client.post("/v1/messages/search", json=of_sender)).json()
        assert [each["message_id"] for each in again["items"]] == [sent.json()["message_id"]]

        await publish(surroundings, SENDERS, [codes_sender_changed(version=3, country="ES", abroad=("FR",))])
        await eventually(lambda: countries_are("ES", "FR"))
        refused = await d.client.post("/v1/messages", json=CODE)
        assert (refused.status_code, refused.json()["reasons"][0]["reason"]) == (422, "ambiguous")
        assert (await d.client.post("/v1/messages", json=CODE | {"country": "ES"})).status_code == 202
        assert (await d.client.post("/v1/messages", json=CODE | {"to": SPANISH})).status_code == 202
        unknown = await d.client.post("/v1/messages", json=CODE | {"sender_id": "nobodys"})
        assert (unknown.status_code, unknown.json()["reasons"][0]["reason"]) == (404, "unknown_sender")
