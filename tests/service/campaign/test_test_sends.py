"""A campaign's message to named numbers: the very text, asked for once, recorded, and judged like any other."""

from typing import Any

import pytest
from sqlalchemy import text

from campaign.privacy import store as privacy
from common.contracts.consent import Consent
from tests.service.campaign.campaigns import Campaigns, csv_of
from tests.support.builders import SENDER, field_keys, now, number, opted_in, subject
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless


async def test_a_test_says_what_the_campaign_will_and_is_asked_for_once(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1, 2))
    await campaigns.told(opted_in(1))
    variant = {"name": "b", "text": "Maison Lune, {first_name} : oui {stop}", "percent": 50}
    campaign_id = (await campaigns.written(trial={"variants": [variant]}))["campaign_id"]
    path = f"campaigns/{campaign_id}/test-sends"
    sent: list[dict[str, Any]] = []
    for name in ("a", "b"):
        key = {"Idempotency-Key": name}
        body = {"numbers": [number(1), number(7)], "variant": name, "attributes": {"first_name": "Ana"}}
        sent += (await campaigns.post(path, 202, json=body, headers=key))["items"]
        assert (await campaigns.post(path, 202, json=body, headers=key))["items"][0]["message_id"] in {
            item["message_id"] for item in sent
        }
    assert [item["against"] for item in sent] == [[], ["no_consent"]] * 2
    requests = {r.message_id: r for r in await campaigns.requests()}
    assert set(requests) == {item["message_id"] for item in sent}
    for item in sent:
        request = requests[item["message_id"]]
        assert (request.category, request.sender_id, request.purpose) == ("marketing", SENDER, "promotions")
        assert field_keys.unseal(request.text, f"text:{request.message_id}") == item["text"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule")
    assert await campaigns.planner.start_due()
    while await campaigns.planner.expand():
        pass
    audience = [r for r in await campaigns.requests() if r.campaign_id == campaign_id and r.subject_id == subject(1)]
    assert field_keys.unseal(audience[0].text, f"text:{audience[0].message_id}") in [i["text"] for i in sent]
    assert audience[0].message_id not in requests
    listed = (await campaigns.get(path))["items"]
    assert {item["message_id"] for item in listed} == set(requests)
    assert (await campaigns.statistics(campaign_id))["audience"] == 2
    async with campaigns.database.begin() as tx:
        await tx.execute(text("SET LOCAL enable_seqscan = off"))
        assert [test.campaign_id for test in await privacy.tests_with(tx, subject(7), SENDER)] == [campaign_id] * 2
        scans = "SELECT pg_stat_get_xact_numscans(to_regclass('test_send_subject_ix'))"
        assert await tx.scalar(text(scans)) == 1, "a copy does not read every test"


async def test_whom_else_somebody_said_yes_to_is_told_to_nobody(campaigns: Campaigns) -> None:
    yes = Consent(
        sender_id="globex", purpose="promotions", state="opted_in", basis="opt_in", occurred_at=now(), evidence_id="e"
    )
    await campaigns.told(opted_in(7, consents=(yes,)))
    campaign_id = (await campaigns.written())["campaign_id"]
    body = {"numbers": [number(7)], "attributes": {"first_name": "Ana"}}
    path, own = f"campaigns/{campaign_id}/test-sends", bearer(senders=[SENDER])
    against = [
        (await campaigns.post(path, 202, json=body, headers=headers))["items"][0]["against"]
        for headers in (own, bearer())
    ]
    assert against == [["no_consent"], ["no_consent"]]


async def test_what_cannot_be_tested_is_refused_and_nothing_is_asked_for(campaigns: Campaigns) -> None:
    campaign_id = (await campaigns.written(text="{first_name}, Maison Lune {stop}"))["campaign_id"]
    path = f"campaigns/{campaign_id}/test-sends"
    for body, field, reason in (
        ({"numbers": ["0123456789"], "attributes": {"first_name": "Ana"}}, "numbers.0", "not_mobile"),
        ({"numbers": [number(1)]}, "attributes.first_name", "missing"),
        ({"numbers": [number(1)], "variant": "b"}, "variant", "unknown_variant"),
        ({"numbers": []}, "numbers", "too_short"),
        ({"numbers": [number(n) for n in range(6)]}, "numbers", "too_long"),
    ):
        refused = await campaigns.post(path, 422, json=body)
        assert (refused["reasons"][0]["field"], refused["reasons"][0]["reason"]) == (field, reason)
    body = {"numbers": [number(n) for n in range(5)], "attributes": {"first_name": "Ana"}}
    await campaigns.post(path, 403, json=body, headers=bearer(scope="campaign:read"))
    assert await campaigns.requests() == []
    for _ in range(9):
        await campaigns.post(path, 202, json=body)
    key = {"Idempotency-Key": "the last"}
    last = await campaigns.post(path, 202, json=body, headers=key)
    again = await campaigns.post(path, 202, json=body, headers=key)
    assert [item["message_id"] for item in again["items"]] == [item["message_id"] for item in last["items"]]
    assert (await campaigns.post(path, 409, json=body))["type"] == "/problems/too-many-tests"
    assert len(await campaigns.requests()) == len((await campaigns.get(path))["items"]) == 50
    await campaigns.post(f"campaigns/{campaign_id}/cancel")
    await campaigns.post(path, 409, json=body)


async def test_a_key_belongs_to_one_request_whatever_the_campaign_says_since(campaigns: Campaigns) -> None:
    campaign_id = (await campaigns.written())["campaign_id"]
    path = f"campaigns/{campaign_id}/test-sends"
    key, body = {"Idempotency-Key": "once"}, {"numbers": [number(1)], "attributes": {"first_name": "Ana"}}
    [sent] = (await campaigns.post(path, 202, json=body, headers=key))["items"]
    [again] = (await campaigns.post(path, 202, json=body, headers=key))["items"]
    assert (again["message_id"], again["text"]) == (sent["message_id"], sent["text"])
    for change in (
        {"numbers": [number(2)]},
        {"numbers": [number(2), number(1)]},
        {"attributes": {"first_name": "Zoé"}},
    ):
        refused = await campaigns.post(path, 422, json=body | change, headers=key)
        assert (refused["type"], refused["reasons"][0]["reason"]) == ("/problems/idempotency-key-reused", "reused")
    await campaigns.put(f"campaigns/{campaign_id}", json={"text": "{first_name}, Maison Lune : oui {stop}"})
    assert (await campaigns.post(path, 202, json=body, headers=key))["items"] == [sent]
    assert [request.message_id for request in await campaigns.requests()] == [sent["message_id"]]
    assert (await campaigns.post(path, 202, json=body))["items"][0]["text"] == "Ana, Maison Lune : oui STOP au 36111"
    assert len(await campaigns.requests()) == 2


async def test_a_link_in_a_test_is_its_target_and_leads_there(campaigns: Campaigns) -> None:
    target = "https://maison-lune.example/soldes"
    await campaigns.put(f"senders/{SENDER}/rules", json={"link_host": "m.maison-lune.example"})
    campaign_id = (await campaigns.written(text=f"Maison Lune {{link {target}}} {{stop}}"))["campaign_id"]
    [sent] = (await campaigns.post(f"campaigns/{campaign_id}/test-sends", 202, json={"numbers": [number(1)]}))["items"]
    assert sent["text"].startswith(f"Maison Lune {target} ")
    [request] = await campaigns.requests()
    assert field_keys.unseal(request.text, f"text:{request.message_id}") == sent["text"]
