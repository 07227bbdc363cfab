"""A template says what a second person has approved: nothing leaves from a draft, and nothing from what is retired."""

from datetime import timedelta
from typing import Any

import pytest

from common.contracts import TEMPLATES
from common.version import EPOCH
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import SENDER, now
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

CODE = {
    "sender_id": SENDER,
    "name": "Code de connexion",
    "category": "transactional",
    "text": "Maison Lune : votre code est {code}.",
    "fields": [{"name": "code", "max_chars": 8}],
}
SECOND = bearer(subject="second")
MINUTE = timedelta(minutes=1)


async def written(campaigns: Campaigns, expect: int = 201, **more: Any) -> dict[str, Any]:
    return await campaigns.post("templates", expect, json={**CODE, **more})


async def published(campaigns: Campaigns) -> list[tuple[str, str, int]]:
    return [(e.template_version, e.state, e.version) for e in await campaigns.outbox(TEMPLATES)]


def newer_than_any_forgotten(version: int) -> bool:
    return now() - MINUTE < EPOCH + timedelta(seconds=version) < now() + MINUTE


async def test_a_version_is_published_once_a_second_person_approved_it(campaigns: Campaigns) -> None:
    template_id = (await written(campaigns))["template_id"]
    path = f"templates/{template_id}"
    own = await campaigns.post(f"{path}/versions/1/approve", 403)
    assert [(r["field"], r["reason"]) for r in own["reasons"]] == [("approved_by", "own_template")]
    await campaigns.post(f"{path}/versions/1/approve", 403, headers=bearer(subject="second", scope="template:write"))
    assert await published(campaigns) == []
    approved = await campaigns.post(f"{path}/versions/1/approve", headers=SECOND)
    [version] = approved["versions"]
    assert (version["state"], version["written_by"], version["approved_by"]) == ("approved", "tester", "second")
    await campaigns.post(f"{path}/versions/1/approve", headers=bearer(subject="third"))  # approved already
    [event] = await campaigns.outbox(TEMPLATES)
    assert (event.template_version, event.state) == (f"{template_id}@1", "approved")
    assert newer_than_any_forgotten(event.version), "a restored database publishes newer versions all the same"
    assert (event.sender_id, event.category, event.text) == (SENDER, "transactional", CODE["text"])
    assert [(f.name, f.max_chars, f.links, f.prices) for f in event.fields] == [("code", 8, False, False)]


async def test_an_edit_is_a_new_version_that_needs_an_approval_of_its_own(campaigns: Campaigns) -> None:
    template_id = (await written(campaigns))["template_id"]
    path = f"templates/{template_id}"
    await campaigns.post(f"{path}/versions/1/approve", headers=SECOND)
    edit = {"text": "Maison Lune : {code} est votre code.", "fields": CODE["fields"], "after": 1}
    edited = await campaigns.post(f"{path}/versions", 201, json=edit, headers=SECOND)
    assert [(v["number"], v["state"]) for v in edited["versions"]] == [(2, "draft"), (1, "approved")]
    late = await campaigns.post(f"{path}/versions", 409, json=edit)
    assert late["reasons"][0]["reason"] == "not_latest"
    for author in (SECOND, bearer(subject=" Second"), bearer(subject="tester")):
        own = await campaigns.post(f"{path}/versions/2/approve", 403, headers=author)
        assert own["reasons"][0]["reason"] == "own_template", "an author of an earlier version is one too"
    await campaigns.post(f"{path}/versions/2/approve", headers=bearer(subject="third"))
    await campaigns.post(f"{path}/versions/3/approve", 404)
    [listed] = (await campaigns.get("templates"))["items"]
    assert [v["number"] for v in listed["versions"]] == [2]
    states = [(name, state) for name, state, _ in await published(campaigns)]
    assert states == [(f"{template_id}@1", "approved"), (f"{template_id}@2", "approved")]


async def test_a_retired_version_is_published_as_such_and_stays_retired(campaigns: Campaigns) -> None:
    template_id = (await written(campaigns))["template_id"]
    path = f"templates/{template_id}"
    await campaigns.post(f"{path}/versions/1/approve", headers=SECOND)
    edit = {"text": CODE["text"], "fields": CODE["fields"], "after": 1}
    await campaigns.post(f"{path}/versions", 201, json=edit)
    await campaigns.post(f"{path}/retire", json={"version": 1})
    found = await campaigns.post(f"{path}/retire")
    assert [v["state"] for v in found["versions"]] == ["retired", "retired"]
    again = await campaigns.post(f"{path}/versions/2/approve", 409, headers=SECOND)
    assert again["reasons"][0]["reason"] == "retired"
    # the draft was never in use
    (*approved, first), (*ended, second) = await published(campaigns)
    assert (approved, ended) == ([f"{template_id}@1", "approved"], [f"{template_id}@1", "retired"])
    assert first < second, "within one second as well"
    assert newer_than_any_forgotten(second)


async def test_a_finding_is_told_at_writing_and_acknowledged_at_approval(campaigns: Campaigns) -> None:
    offer = await written(campaigns, text="Maison Lune : votre offre {code} est en ligne.")
    path = f"templates/{offer['template_id']}/versions/1/approve"
    [finding] = offer["versions"][0]["findings"]
    assert (finding["id"], finding["approvable"], bool(finding["source"])) == ("advertising:offre", True, True)
    refused = await campaigns.post(path, 409, headers=SECOND)
    assert refused["type"] == "/problems/template-not-ready"
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("acknowledge", "advertising:offre")]
    approved = await campaigns.post(path, json={"acknowledge": ["advertising:offre"]}, headers=SECOND)
    assert approved["versions"][0]["acknowledged"] == ["advertising:offre"]
    advert = await written(campaigns, text="Maison Lune, {code} : -20 % demain. STOP au 36111")
    path = f"templates/{advert['template_id']}/versions/1/approve"
    known = [finding["id"] for finding in advert["versions"][0]["findings"]]
    refused = await campaigns.post(path, 409, json={"acknowledge": known}, headers=SECOND)
    assert [r["reason"] for r in refused["reasons"]] == ["stop_mention:36111"]
    assert len(await published(campaigns)) == 1


async def test_a_template_that_cannot_be_used_is_not_stored(campaigns: Campaigns) -> None:
    for change, field, reason in (
        ({"text": "Maison Lune : votre code."}, "fields.code", "field_unused"),
        ({"fields": []}, "fields.code", "field_undeclared"),
        ({"text": "{code}"}, "text", "no_own_text"),
        ({"text": "é ç" * 500 + "{code}"}, "text", "too_long"),
        ({"category": "marketing"}, "category", "literal_error"),
        ({"fields": [{"name": "code", "max_chars": 161}]}, "fields.0.max_chars", "less_than_equal"),
    ):
        refused = await written(campaigns, 422, **change)
        assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [(field, reason)], change
    await written(campaigns, 404, sender_id="nobody")
    assert (await campaigns.get("templates"))["items"] == []


async def test_a_template_belongs_to_its_sender_and_a_repeat_makes_no_other(campaigns: Campaigns) -> None:
    key = {"Idempotency-Key": "t-1"}
    first = await campaigns.post("templates", 201, json=CODE, headers=key)
    assert (await campaigns.post("templates", 201, json=CODE, headers=key))["template_id"] == first["template_id"]
    await campaigns.post("templates", 422, json={**CODE, "name": "Autre"}, headers=key)
    path = f"/v1/templates/{first['template_id']}"
    other = bearer(subject="second", senders=["other"])
    assert (await campaigns.client.get(path, headers=other)).status_code == 404
    assert (await campaigns.client.get("/v1/templates", headers=other)).json() == {"items": [], "next": None}
    await campaigns.post(f"{path[4:]}/versions/1/approve", 404, headers=other)
    await campaigns.post(f"{path[4:]}/retire", 404, headers=other)
    [item] = (await campaigns.get("templates"))["items"]
    assert item == await campaigns.get(path[4:])
