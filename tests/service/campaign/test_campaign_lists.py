"""The lists of campaign-svc over HTTP: contacts, imports, segments, templates, campaigns and their archive."""

from typing import Any

import httpx
import pytest

from campaign.audience import segments
from campaign.schedule.lifecycle import Status
from campaign.senders import store
from tests.service.campaign.campaigns import Campaigns, csv_of
from tests.support.builders import SENDER, opted_in, sender_changed, shown
from tests.support.running import ALL_SCOPES, bearer

pytestmark = pytest.mark.brokerless

OTHER = "atelier-lune"
STRANGER = bearer(organisation="strangers", scope=ALL_SCOPES.replace(" platform:admin", ""))
LYON = {"attribute": "city", "is": "Lyon"}


@pytest.fixture(autouse=True)
async def other_sender(campaigns: Campaigns) -> None:
    async with campaigns.database.begin() as tx:
        await store.put_sender(tx, sender_changed(sender_id=OTHER))


async def pages(client: httpx.AsyncClient, path: str, **params: Any) -> list[Any]:
    """The items of all pages, two at a time."""
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await client.get(f"/v1/{path}", params={**params, "limit": 2} | cursor)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if answer.json()["next"] is None:
            return found
        cursor = {"cursor": answer.json()["next"]}


async def test_a_sender_s_contacts_are_listed_page_by_page_without_a_number(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(1, 6)))
    await campaigns.post("imports", 201, params={"sender_id": OTHER}, content=csv_of(9).encode())
    found = await pages(campaigns.client, "contacts", sender_id=SENDER)
    assert {each["subject_id"]: each["attributes"]["city"] for each in found} == {
        shown(n): "Lyon" if n % 2 else "Nîmes" for n in range(1, 6)
    }
    assert len(found) == 5
    assert "3363998" not in str(found)
    first = (await campaigns.client.get("/v1/contacts", params={"sender_id": SENDER, "limit": 5})).json()
    ids = [each["subject_id"] for each in first["items"]]
    assert ids == sorted(ids), "the order of the platform's ids would join two controllers' lists"
    one = await campaigns.post("contacts/lookup", json={"sender_id": SENDER, "subject_id": ids[0]})
    assert one == first["items"][0]


@pytest.mark.parametrize("path", ["contacts", "imports", "segments", "templates", "campaigns"])
async def test_a_list_narrowed_to_a_stranger_s_sender_is_answered_as_to_an_unknown_one(
    campaigns: Campaigns, path: str
) -> None:
    for sender_id in (SENDER, "nobody"):
        answer = await campaigns.client.get(f"/v1/{path}", params={"sender_id": sender_id}, headers=STRANGER)
        assert (answer.status_code, answer.json()["reasons"][0]["reason"]) == (404, "unknown_sender")


async def test_imports_segments_templates_and_campaigns_are_narrowed_to_a_sender_newest_first(
    campaigns: Campaigns,
) -> None:
    made: dict[str, list[str]] = {"imports": [], "segments": [], "templates": [], "campaigns": []}
    template = {"name": "Colis", "category": "service", "text": "Colis en route."}
    for sender_id in (SENDER, OTHER, SENDER):
        new = await campaigns.post("imports", 201, params={"sender_id": sender_id}, content=csv_of(1, 2).encode())
        made["imports"].append(new["import_id"])
        new = await campaigns.post("segments", 201, json={"sender_id": sender_id, "name": "Lyon", "expression": LYON})
        made["segments"].append(new["segment_id"])
        new = await campaigns.post("templates", 201, json={"sender_id": sender_id, **template})
        made["templates"].append(new["template_id"])
        made["campaigns"].append((await campaigns.written(sender_id=sender_id))["campaign_id"])
    for path, ids in made.items():
        name = f"{path.removesuffix('s')}_id"
        assert [each[name] for each in await pages(campaigns.client, path)] == ids[::-1], path
        of_sender = await pages(campaigns.client, path, sender_id=SENDER)
        assert [each[name] for each in of_sender] == [ids[2], ids[0]], path
        if path in ("campaigns", "imports"):
            assert [each[name] for each in await pages(campaigns.client, path, sort="oldest")] == ids, path
    assert of_sender[0] == (await campaigns.get(f"campaigns/{made['campaigns'][2]}"))
    [newest, *_] = await pages(campaigns.client, "imports")
    assert newest == await campaigns.get(f"imports/{made['imports'][2]}")


async def test_lists_leave_an_archived_campaign_out_until_the_campaign_comes_back(campaigns: Campaigns) -> None:
    kept, archived = [(await campaigns.written())["campaign_id"] for _ in range(2)]
    first = await campaigns.post(f"campaigns/{archived}/archive")
    assert first["archived_at"] is not None
    assert first["status"] == "draft"
    again = await campaigns.post(f"campaigns/{archived}/archive")
    assert again["archived_at"] == first["archived_at"]

    async def listed(**params: Any) -> list[str]:
        return [each["campaign_id"] for each in await pages(campaigns.client, "campaigns", **params)]

    assert await listed() == [kept]
    assert await listed(archived=True) == [archived]
    await campaigns.post(f"campaigns/{archived}/unarchive")
    assert await listed() == [archived, kept]
    await campaigns.post(f"campaigns/{archived}/archive")
    await campaigns.put(f"campaigns/{archived}", json={"name": "Dimanche"})
    assert await listed() == [archived, kept], "an edit shows that the campaign is in use"
    await campaigns.post(f"campaigns/{archived}/archive")
    await campaigns.imported(csv_of(1))
    await campaigns.post(f"campaigns/{archived}/schedule")
    assert await listed(status="scheduled") == [archived], "no campaign leaves while lists hide it"
    await campaigns.cancelled(archived)
    assert (await campaigns.post(f"campaigns/{archived}/archive"))["status"] == Status.CANCELLED
    assert await listed(status="cancelled") == []


async def test_a_campaign_that_may_still_send_is_not_archived(campaigns: Campaigns) -> None:
    campaign_id = await campaigns.started(1)
    for status in (Status.RUNNING, Status.PAUSED):
        assert await campaigns.status(campaign_id) == status
        answer = await campaigns.client.post(f"/v1/campaigns/{campaign_id}/archive")
        assert (answer.status_code, answer.json()["reasons"][0]["field"]) == (409, "status")
        await campaigns.post(f"campaigns/{campaign_id}/pause")
    assert [each["campaign_id"] for each in await pages(campaigns.client, "campaigns")] == [campaign_id]


async def test_contacts_are_searched_by_an_expression_a_part_of_them_at_a_time(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    await campaigns.imported(csv_of(*range(1, 10)))
    await campaigns.post("imports", 201, params={"sender_id": OTHER}, content=csv_of(11, 13).encode())
    asked = {"sender_id": SENDER, "expression": LYON}
    lyon = sorted(shown(n) for n in range(1, 10, 2))
    for at_once, limit, most_pages in ((20_000, 100, 1), (1, 100, 10), (2, 100, 6), (4, 1, 7), (100, 2, 3)):
        monkeypatch.setattr(segments, "READ_AT_ONCE", at_once)
        found: list[str] = []
        cursor, read = None, 0
        while read == 0 or cursor is not None:
            page = await campaigns.post("contacts/search", json={**asked, "cursor": cursor, "limit": limit})
            assert len(page["items"]) <= min(limit, at_once)
            assert "3363998" not in str(page)
            found += [each["subject_id"] for each in page["items"]]
            cursor, read = page["next"], read + 1
        assert sorted(found) == lyon, (at_once, limit)
        assert read <= most_pages, (at_once, limit)


async def test_a_search_refuses_what_is_no_segment_and_needs_both_scopes(campaigns: Campaigns) -> None:
    """Consents, messages and clicks are no knowledge of who only keeps contacts."""
    await campaigns.imported(csv_of(1, 2))
    asked = {"sender_id": SENDER, "expression": {"consent": "promotions", "is": "opted_in"}}
    await campaigns.told(opted_in(2))
    found = await campaigns.post("contacts/search", json=asked)
    assert [each["subject_id"] for each in found["items"]] == [shown(2)]
    refused = await campaigns.post("contacts/search", 422, json=asked | {"expression": {"attribute": "x"}})
    assert refused["type"] == "/problems/segment-not-valid"
    for scope in ("contact:write", "campaign:read"):
        await campaigns.post("contacts/search", 403, json=asked, headers=bearer(scope=scope))
    await campaigns.post("contacts/search", json=asked, headers=bearer(scope="contact:write campaign:read"))


async def test_a_stranger_s_search_is_answered_as_one_among_an_unknown_sender_s_contacts(
    campaigns: Campaigns,
) -> None:
    await campaigns.imported(csv_of(1, 2))
    mine = await campaigns.post("contacts/search", json={"sender_id": SENDER, "expression": LYON, "limit": 1})
    assert mine["next"] is not None
    answers = []
    for sender_id in (SENDER, "nobody"):
        for cursor in (None, mine["next"]):
            body = {"sender_id": sender_id, "expression": LYON, "cursor": cursor}
            told = await campaigns.client.post("/v1/contacts/search", json=body, headers=STRANGER)
            answers.append((told.status_code, {**told.json(), "trace_id": None}))
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 404
