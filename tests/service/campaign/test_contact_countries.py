"""A contact's number without a country code is of the sender's country, or of the country that the caller names."""

from typing import Any

import phonenumbers
import pytest

from campaign.senders import store
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import SENDER, number, sender_changed, subject_keys

pytestmark = pytest.mark.brokerless


def _mobile(form: int) -> str:
    example = phonenumbers.example_number_for_type("ES", phonenumbers.PhoneNumberType.MOBILE)
    assert example is not None
    return phonenumbers.format_number(example, form)


AT_HOME = _mobile(phonenumbers.PhoneNumberFormat.NATIONAL)
SPANISH = _mobile(phonenumbers.PhoneNumberFormat.E164)


async def _of(campaigns: Campaigns, country: str, *abroad: str) -> None:
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, country=country, abroad=abroad))


async def _people(campaigns: Campaigns) -> set[str]:
    async with campaigns.surroundings.sql("campaign") as sql:
        return {row["subject_id"] for row in await sql.fetch("SELECT subject_id FROM contact")}


async def test_the_contacts_of_a_spanish_sender_are_spaniards(campaigns: Campaigns) -> None:
    await _of(campaigns, "ES")
    spaniard = {subject_keys.subject_id(SPANISH)}
    body: dict[str, Any] = {"sender_id": SENDER, "contacts": [{"number": AT_HOME}]}
    await campaigns.post("contacts", json=body)
    assert await _people(campaigns) == spaniard
    found = await campaigns.imported(f"number;city\n{AT_HOME};Madrid\n")
    assert (found["created"], found["updated"]) == (0, 1)
    told = await campaigns.post("contacts/lookup", json={"sender_id": SENDER, "number": AT_HOME})
    assert told["attributes"] == {"city": "Madrid"}
    gone = await campaigns.post("contacts/delete", json=body)
    assert gone == {"deleted": 1}


async def test_a_number_of_two_people_is_refused_unless_the_caller_names_the_country(campaigns: Campaigns) -> None:
    await _of(campaigns, "FR", "ES")
    contacts = [{"number": AT_HOME}, {"number": AT_HOME, "country": "ES"}, {"number": "0" + number(1)[3:]}]
    found = await campaigns.post("contacts", json={"sender_id": SENDER, "contacts": contacts})
    assert [(each["result"], each["reason"]) for each in found["items"]] == [
        ("refused", "ambiguous"),
        ("created", None),
        ("created", None),
    ]
    assert "international form" in found["items"][0]["detail"]
    refused = await campaigns.imported(f"number\n{AT_HOME}\n")
    assert refused["reasons"] == {"ambiguous": 1}
    content = f"number\n{AT_HOME}\n".encode()
    params = {"sender_id": SENDER, "country": "ES"}
    assert (await campaigns.post("imports", 201, params=params, content=content))["updated"] == 1
    assert subject_keys.subject_id(SPANISH) in await _people(campaigns)
    assert (await campaigns.client.post("/v1/imports", params={**params, "country": "ZZ"})).status_code == 422
