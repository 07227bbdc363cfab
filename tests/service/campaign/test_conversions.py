"""Conversions: taken once each, and what they say of a campaign with people held out."""

from datetime import timedelta
from typing import Any

import pytest

from campaign.conversions import store
from campaign.message.variants import HOLDOUT
from campaign.privacy.copy import copier
from common.privacy.erasing import Whom
from tests.service.campaign.campaigns import Campaigns, changed
from tests.support.builders import SENDER, field_keys, now, number, shown, subject
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless


def bought(n: int, reference: str = "", **more: Any) -> dict[str, Any]:
    said = {"number": number(n), "reference": reference or f"order-{n}", "occurred_at": now().isoformat()}
    return {**said, "value": "40.50", "currency": "EUR", **more}


async def told(campaigns: Campaigns, *conversions: dict[str, Any], **more: Any) -> list[tuple[str, str | None]]:
    found = await campaigns.post("conversions", json={"sender_id": SENDER, "conversions": list(conversions)}, **more)
    return [(each["result"], each["reason"]) for each in found["items"]]


async def test_a_conversion_counts_once_by_its_reference_and_a_wrong_one_holds_up_no_other(
    campaigns: Campaigns,
) -> None:
    tomorrow = (now() + timedelta(days=1)).isoformat()
    by_id = {"reference": "order-2", "occurred_at": now().isoformat(), "subject_id": shown(2)}
    found = await told(
        campaigns,
        bought(1),
        by_id,
        bought(3, number="12"),
        bought(4, occurred_at=tomorrow),
        bought(5, subject_id="sub_00", number=None),
        bought(6, "order-1"),
    )
    assert found == [
        ("recorded", None),
        ("recorded", None),
        ("refused", "short_code"),
        ("refused", "in_the_future"),
        ("refused", "subject_id_not_valid"),
        ("known", None),
    ]
    assert await told(campaigns, bought(1, value="99.00"), by_id) == [("known", None)] * 2
    async with campaigns.surroundings.sql("campaign") as sql:
        rows = await sql.fetch("SELECT subject_id, value::text FROM conversion ORDER BY reference")
    assert [tuple(row) for row in rows] == [(subject(1), "40.50"), (subject(2), None)]
    for wrong in ({"value": "1,50"}, {"currency": None}, {"value": None}, {"value": "-1"}, {"number": None}):
        body = {"sender_id": SENDER, "conversions": [bought(7, **wrong)]}
        answer = await campaigns.client.post("/v1/conversions", json=body)
        assert answer.status_code == 422, wrong
    body = {"sender_id": SENDER, "conversions": [bought(8)]}
    stranger = await campaigns.client.post("/v1/conversions", json=body, headers=bearer(organisation="strangers"))
    assert stranger.status_code == 404


async def test_statistics_compare_the_conversions_of_the_messaged_with_those_of_the_holdout(
    campaigns: Campaigns,
) -> None:
    people = range(1, 41)  # enough for both groups, whatever is drawn
    campaign_id = await campaigns.started(*people, trial={"holdout_percent": 50})
    before = (await campaigns.get(f"campaigns/{campaign_id}/statistics"))["conversions"]
    assert before["messaged"]["people"] == 0, "the group of nobody is drawn yet"
    while await campaigns.planner.expand():
        pass
    held = await campaigns.client.get(f"/v1/campaigns/{campaign_id}/recipients", params={"status": "denied"})
    held_out = {each["subject_id"] for each in held.json()["items"] if each["reasons"] == [HOLDOUT]}
    theirs = sorted(n for n in people if shown(n) in held_out)
    others = [n for n in people if n not in theirs]
    await campaigns.report(changed(campaign_id, subject(others[0]), 1, "denied", reasons=("no_consent",)))
    await told(
        campaigns,
        *(bought(n) for n in others[:2]),
        bought(others[0], "another", value="10.00"),
        bought(others[0], "in dollars", value="5.00", currency="USD"),
        bought(theirs[0], value=None, currency=None),
        bought(others[-1], "before", occurred_at=(now() - timedelta(days=1)).isoformat()),
        bought(99),
    )
    found = (await campaigns.get(f"campaigns/{campaign_id}/statistics"))["conversions"]
    assert found["messaged"] == {
        "people": len(others),
        "converted": 2,
        "conversions": 4,
        "rate": 2 / len(others),
        "value": {"EUR": "91.00", "USD": "5.00"},
    }
    assert found["holdout"] == {
        "people": len(theirs), "converted": 1, "conversions": 1, "rate": 1 / len(theirs), "value": {},
    }  # fmt: skip
    lift = found["lift"]
    assert lift["difference"] == pytest.approx(2 / len(others) - 1 / len(theirs))
    assert lift["low"] < lift["difference"] < lift["high"]
    assert lift["confidence"] == 0.95


async def test_a_campaign_without_a_holdout_has_conversions_and_no_lift(campaigns: Campaigns) -> None:
    draft = (await campaigns.written())["campaign_id"]
    assert (await campaigns.get(f"campaigns/{draft}/statistics"))["conversions"] is None
    campaign_id = await campaigns.started(1, 2)
    await told(campaigns, bought(1))
    found = (await campaigns.get(f"campaigns/{campaign_id}/statistics"))["conversions"]
    assert (found["messaged"]["converted"], found["holdout"], found["lift"]) == (1, None, None)


async def test_an_erasure_takes_a_person_s_conversions_and_a_copy_has_them(campaigns: Campaigns) -> None:
    await told(campaigns, bought(1), bought(1, "order-b"), bought(2))
    async with campaigns.database.begin() as tx:
        copied = await copier(field_keys).gather(tx, subject(1), SENDER)
        assert [(each["kind"], each["reference"]) for each in copied] == [
            ("conversion", "order-1"),
            ("conversion", "order-b"),
        ]
        gone = await store.forget(tx, {Whom(subject(1), SENDER): now(), Whom(subject(2), "another"): now()})
    assert gone == {Whom(subject(1), SENDER): 2}
    async with campaigns.surroundings.sql("campaign") as sql:
        assert await sql.fetchval("SELECT array_agg(reference) FROM conversion") == ["order-2"]
        await sql.execute(
            "INSERT INTO erasing (erasure_id, subject_id, controller_id, requested_at)"
            " VALUES ('00000000-0000-8000-8000-00000000000e', $1, NULL, now())",
            subject(1),
        )
    assert await told(campaigns, bought(1, "order-c")) == [("refused", "erased")]


async def test_a_person_s_timeline_has_contact_audience_and_conversion(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(1, 2)
    await campaigns.report(changed(campaign_id, subject(1), 1, "denied", reasons=("no_consent",)))
    await told(campaigns, bought(1), bought(2))
    found = await campaigns.post("timeline", json={"number": number(1)})
    assert [(each["kind"], each["campaign_id"], each["id"], each["detail"]) for each in found["items"]] == [
        ("conversion", None, "order-1", "40.50 EUR"),
        ("audience", campaign_id, None, "no_consent"),
        ("contact_created", None, None, None),
    ]
    assert {each["subject_id"] for each in found["items"]} == {shown(1)}
    stranger = await campaigns.post("timeline", json={"number": number(1)}, headers=bearer(organisation="strangers"))
    assert stranger == {"items": [], "whole": True}
