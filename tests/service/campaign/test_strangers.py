"""Another organisation's caller: what our organisation has is answered as what nobody has, by every route."""

import httpx
import pytest

from campaign.senders import store
from tests.service.campaign.campaigns import TEXT, WRITTEN, Campaigns, csv_of
from tests.support.builders import SENDER, number, sender_changed
from tests.support.running import ALL_SCOPES, bearer

pytestmark = pytest.mark.brokerless

THEIRS = bearer(organisation="strangers", scope=ALL_SCOPES.replace(" platform:admin", ""))
TEMPLATE = {"name": "Accueil", "category": "service", "text": "Maison Lune : votre espace est ouvert."}
NAMING_OURS = bearer(organisation="strangers", senders=[SENDER, "nobodys"])


@pytest.fixture(autouse=True)
async def beta(campaigns: Campaigns) -> None:
    """A sender of the strangers' own."""
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id="beta", organisation_id="strangers", controller_id="beta"))


def same(one: httpx.Response, other: httpx.Response) -> None:
    assert one.status_code == other.status_code == 404, (one.text, other.text)
    assert one.json() | {"trace_id": ""} == other.json() | {"trace_id": ""}
    assert {*one.headers} == {*other.headers}


async def test_what_belongs_to_a_stranger_is_what_nobody_has(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    campaign_id = await campaigns.started(2)
    draft = (await campaigns.written())["campaign_id"]
    segment = {"sender_id": SENDER, "name": "tous", "expression": {"attribute": "city", "is": "Lyon"}}
    segment_id = (await campaigns.post("segments", 201, json=segment))["segment_id"]
    file_id = (await campaigns.imported(csv_of(3)))["import_id"]
    template_id = (await campaigns.post("templates", 201, json={"sender_id": SENDER, **TEMPLATE}))["template_id"]
    before = [await campaigns.get(f"campaigns/{each}") for each in (campaign_id, draft)]
    for token in (THEIRS, NAMING_OURS):
        for method, path, body, ours in (
            *(("GET", f"campaigns/{{}}{each}", None, campaign_id) for each in READ_OF_A_CAMPAIGN),
            *(("POST", f"campaigns/{{}}/{each}", None, campaign_id) for each in ("pause", "resume", "cancel")),
            ("POST", "campaigns/{}/schedule", None, draft),
            ("POST", "campaigns/{}/pre-flight", None, draft),
            ("PUT", "campaigns/{}", WRITTEN | {"sender_id": "beta"}, draft),
            ("POST", "campaigns/{}/approvals", {"digest": "0" * 64}, draft),
            ("POST", "campaigns/{}/trace", {"number": number(2)}, campaign_id),
            ("POST", "campaigns/{}/test-sends", {"numbers": [number(2)]}, draft),
            ("GET", "segments/{}", None, segment_id),
            ("GET", "segments/{}/versions", None, segment_id),
            ("POST", "segments/{}/versions", {"expression": {"not": segment["expression"]}, "after": 1}, segment_id),
            ("GET", "templates/{}", None, template_id),
            ("POST", "templates/{}/versions", {"text": TEMPLATE["text"], "after": 1}, template_id),
            ("POST", "templates/{}/versions/1/approve", None, template_id),
            ("POST", "templates/{}/retire", None, template_id),
            ("GET", "imports/{}", None, file_id),
            ("GET", "imports/{}/refusals", None, file_id),
        ):
            told = [
                await campaigns.client.request(method, f"/v1/{path.format(each)}", json=body, headers=token)
                for each in (ours, ours[:-1] + ("0" if ours[-1] != "0" else "1"))
            ]
            same(*told)
    for listed in ("campaigns", "segments", "templates"):
        assert (await campaigns.client.get(f"/v1/{listed}", headers=THEIRS)).json()["items"] == []
    assert [await campaigns.get(f"campaigns/{each}") for each in (campaign_id, draft)] == before
    [version] = (await campaigns.get(f"templates/{template_id}"))["versions"]
    assert version["state"] == "draft"


READ_OF_A_CAMPAIGN = ("", "/recipients", "/recipients.csv", "/statistics", "/variants", "/approvals", "/test-sends")


async def test_a_sender_of_a_stranger_is_one_that_nobody_has(campaigns: Campaigns) -> None:
    """And is waited for as long: a call for a sender that is not there yet does not answer at once."""
    await campaigns.imported(csv_of(1))
    for method, path, body in (
        ("POST", "campaigns", WRITTEN),
        ("POST", "templates", TEMPLATE),
        ("POST", "segments", {"name": "tous", "expression": {"attribute": "city", "is": "Lyon"}}),
        ("POST", "texts/preview", {"text": TEXT}),
        ("POST", "contacts", {"contacts": [{"number": number(9)}]}),
        ("POST", "contacts/lookup", {"number": number(1)}),
        ("POST", "contacts/delete", {"contacts": [{"number": number(1)}]}),
        ("GET", "senders/{}/attributes", None),
        ("PUT", "senders/{}/attributes/points", {"kind": "number"}),
        ("GET", "senders/{}/rules", None),
        ("PUT", "senders/{}/rules", {"approval": True}),
    ):
        told = []
        for sender_id in (SENDER, "nobodys"):
            asked = None if body is None else {**body, **({} if "{}" in path else {"sender_id": sender_id})}
            url = f"/v1/{path.format(sender_id)}"
            told.append(await campaigns.client.request(method, url, json=asked, headers=THEIRS))
        same(*told)
        assert told[0].json()["reasons"][0]["reason"] == "unknown_sender"
    assert await campaigns.post("contacts/lookup", json={"sender_id": SENDER, "number": number(1)})
