"""A national writing is a number of the sender's country, or of the country that the caller names."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import phonenumbers
import pytest

from tests.service.consent.test_consent_api import SENDER, consent, lookup, opt_out, reasons
from tests.service.consent.test_imports import AT, consent_svc, imported, recording, suppressions, terms, verdicts
from tests.support.running import Surroundings
from tests.unit.common.test_msisdn import EITHER

pytestmark = pytest.mark.brokerless


def _mobile(country: str, form: int = phonenumbers.PhoneNumberFormat.E164) -> str:
    """Return libphonenumber's example, which is nobody's."""
    number = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
    assert number is not None
    return phonenumbers.format_number(number, form)


AT_HOME, SPANISH = _mobile("ES", phonenumbers.PhoneNumberFormat.NATIONAL), _mobile("ES")
FRENCH = SPANISH.replace("+34", "+33")  # with the same nine digits


def _sender(sender_id: str, country: str, *abroad: str) -> dict[str, Any]:
    names = {"brand": sender_id, "oadc": sender_id.replace("-", ""), "legal_name": f"{sender_id} SA"}
    return SENDER | names | {"sender_id": sender_id, "country": country, "abroad": abroad}


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """Senders of France, of Spain, and of both: `both` is at home in France."""
    async with consent_svc(surroundings) as client, recording(surroundings):
        for each in (_sender("iberia-shop", "ES"), _sender("both", "FR", "ES")):
            assert (await client.post("/v1/senders", json=each)).status_code == 201
        yield client


async def _states(service: httpx.AsyncClient, sender_id: str) -> dict[str, str | None]:
    found = {}
    for number in (FRENCH, SPANISH):
        consents = (await lookup(service, number))["consents"]
        found[number] = next((each["state"] for each in consents if each["sender_id"] == sender_id), None)
    return found


async def test_a_spanish_senders_consent_is_the_spaniards_and_no_french_strangers(service: httpx.AsyncClient) -> None:
    given = consent(sender_id="iberia-shop", number=AT_HOME)
    assert (await service.post("/v1/consents", json=given)).status_code == 201
    assert await _states(service, "iberia-shop") == {FRENCH: None, SPANISH: "opted_in"}
    asked = {"sender_id": "iberia-shop", "purpose": "promotions", "numbers": [AT_HOME]}
    found = (await service.post("/v1/consents/check", json=asked)).json()
    assert found["results"][0]["state"] == "opted_in"


async def test_the_callers_country_stands_before_the_senders(service: httpx.AsyncClient) -> None:
    given = consent(number=AT_HOME, country="ES")
    assert (await service.post("/v1/consents", json=given)).status_code == 201
    assert await _states(service, "acme") == {FRENCH: None, SPANISH: "opted_in"}
    refused = await service.post("/v1/consents", json=consent(country="ZZ"))
    assert refused.status_code == 422
    assert reasons(refused) == [("country", "country_not_covered")]


async def test_a_consent_that_could_be_two_peoples_is_refused_and_a_stop_reaches_both(
    service: httpx.AsyncClient,
) -> None:
    refused = await service.post("/v1/consents", json=consent(sender_id="both", number=AT_HOME))
    assert refused.status_code == 422
    assert reasons(refused) == [("number", "ambiguous")]
    assert "FR and ES: write it in international form" in refused.json()["reasons"][0]["detail"]
    assert AT_HOME[-5:] not in refused.text
    for number in (FRENCH, SPANISH):
        assert (await service.post("/v1/consents", json=consent(sender_id="both", number=number))).status_code == 201
    assert (await service.post("/v1/opt-outs", json=opt_out(sender_id="both", number=AT_HOME))).status_code == 201
    assert await _states(service, "both") == {FRENCH: "opted_out", SPANISH: "opted_out"}


@pytest.mark.parametrize("path", ["/v1/subjects/lookup", "/v1/erasures", "/v1/copies", "/v1/proofs", "/v1/timeline"])
async def test_no_right_and_no_lookup_is_of_a_number_in_doubt(service: httpx.AsyncClient, path: str) -> None:
    more: dict[str, Any] = {"controller": "acme"} if path in ("/v1/erasures", "/v1/copies") else {}
    more |= {"evidence": {"source": "call-centre"}} if path == "/v1/erasures" else {}
    for raw in (EITHER, AT_HOME):
        refused = await service.post(path, json={"number": raw, **more})
        assert (refused.status_code, reasons(refused)) == (422, [("number", "ambiguous")])
    taken = await service.post(path, json={"number": AT_HOME, "country": "ES", **more})
    assert taken.status_code in (200, 202), taken.text


async def test_a_files_numbers_are_of_the_sender_of_the_file_or_of_the_line(service: httpx.AsyncClient) -> None:
    of_spain = terms(sender_id="iberia-shop", purpose="promotions")
    found = await imported(service, of_spain, f"number,occurred_at\n{AT_HOME},{AT}\n")
    assert found["created"] == 1
    assert await _states(service, "iberia-shop") == {FRENCH: None, SPANISH: "opted_in"}

    lines = f"number,occurred_at,number_country\n{AT_HOME},{AT},\n{AT_HOME},{AT},ES\n"
    found = await imported(service, terms(sender_id="both", purpose="promotions"), lines)
    assert await verdicts(service, found["import_id"]) == ["2,refused,ambiguous", "3,created,"]
    assert await _states(service, "both") == {FRENCH: None, SPANISH: "opted_in"}

    whole = terms(sender_id="acme", purpose="promotions", country="ES")
    assert (await imported(service, whole, f"number,occurred_at\n{AT_HOME},{AT}\n"))["created"] == 1
    assert await _states(service, "acme") == {FRENCH: None, SPANISH: "opted_in"}


async def test_a_list_of_stops_and_a_providers_list_reach_both(service: httpx.AsyncClient) -> None:
    for number in (FRENCH, SPANISH):
        assert (await service.post("/v1/consents", json=consent(sender_id="both", number=number))).status_code == 201
    drift = {"sender_id": "both", "provider": "ovh", "list": f"number\n{AT_HOME}\n"}
    assert (await service.post("/v1/reconciliations", json=drift)).json()["missing_here"] == 2
    assert await _states(service, "both") == {FRENCH: "opted_out", SPANISH: "opted_out"}
    found = await imported(service, suppressions(sender_id="both"), f"number\n{AT_HOME}\n")
    assert found["unchanged"] == 1


async def test_a_sender_of_a_country_without_rules_is_told_so_at_once(service: httpx.AsyncClient) -> None:
    answer = await service.post("/v1/senders", json=_sender("roma", "IT", "FR", "NZ"))
    assert answer.status_code == 201
    assert [(f["field"], f["reason"]) for f in answer.json()["findings"]] == [
        ("country", "country_not_covered"),
        ("abroad.1", "country_not_covered"),
    ]
    assert (await service.get("/v1/senders/roma")).json()["findings"] == answer.json()["findings"]
    assert (await service.get("/v1/senders/both")).json()["findings"] == []
    refused = await service.post("/v1/consents", json=consent(sender_id="roma", number="06 39 98 12 34"))
    assert reasons(refused) == [("number", "country_not_covered")]
    assert (await service.post("/v1/consents", json=consent(sender_id="roma", number=FRENCH))).status_code == 201
