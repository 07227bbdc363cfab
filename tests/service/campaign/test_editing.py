"""Two people edit a campaign: nobody's words are lost, where they say what theirs are of."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from tests.service.campaign.campaigns import DAY, WRITTEN, Campaigns, csv_of
from tests.support.builders import STOP_CODE, now
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

LEA, MAX = bearer(subject="léa"), bearer(subject="max")
ALL_OF_IT: dict[str, Any] = {
    "translations": {"en": "Hello {stop}", "de": "Guten Tag {stop}"},
    "folding": "accents",
    "sectors": ["gambling", "alcohol"],
    "audience": {"where": {"city": "Lyon", "loyalty": ["or", "argent"]}},
    "rest_days": 7,
    "send_before": (now() + 9 * DAY).astimezone(ZoneInfo("Europe/Paris")).isoformat(),
    "timing": {"per_hour": 900, "local_time": False, "spread_minutes": 60},
    "trial": {"variants": [{"name": "b", "text": "Autre {stop}", "percent": 12}], "holdout_percent": 5},
    "priority": "high",
}

RECURRING = {"recurring": {"cron": "0 10 * * MON", "until": (now() + 99 * DAY).isoformat()}}


async def put(campaigns: Campaigns, path: str, tag: str | None, who: dict[str, str], **fields: Any) -> httpx.Response:
    headers = who if tag is None else who | {"If-Match": tag}
    return await campaigns.client.put(f"/v1/{path}", json=WRITTEN | fields, headers=headers)


async def read(campaigns: Campaigns, path: str) -> str:
    """Its tag."""
    return str((await campaigns.client.get(f"/v1/{path}")).headers["ETag"])


async def test_the_second_of_two_who_read_the_same_is_told_who_changed_what(campaigns: Campaigns) -> None:
    path = f"campaigns/{(await campaigns.written())['campaign_id']}"
    tag = await read(campaigns, path)
    first = await put(campaigns, path, tag, LEA, text="Léa. {stop}", name="Lundi")
    assert (first.status_code, first.json()["text"]) == (200, "Léa. {stop}")
    second = await put(campaigns, path, tag, MAX, text="Max. {stop}")
    assert (second.status_code, second.headers["content-type"]) == (412, "application/problem+json")
    refused = second.json()
    assert (refused["type"], refused["reasons"]) == (
        "/problems/campaign-edited",
        [{"field": name, "reason": "changed", "detail": None} for name in ("name", "text")],
    )
    assert "léa" in refused["detail"]
    assert (await campaigns.get(path))["text"] == "Léa. {stop}"
    again = await put(campaigns, path, first.headers["ETag"], MAX, text="Max. {stop}", name="Lundi")
    assert again.status_code == 200
    third = await put(campaigns, path, first.headers["ETag"], LEA, text="Léa encore. {stop}", name="Lundi")
    assert ([r["field"] for r in third.json()["reasons"]], "max" in third.json()["detail"]) == (["text"], True)
    await put(campaigns, path, again.headers["ETag"], LEA, text="Léa. {stop}", name="Lundi")
    late = await put(campaigns, path, again.headers["ETag"], MAX, text="Max. {stop}")
    assert "léa" in late.json()["detail"], "who had edited it before is the last again"


async def test_of_two_at_once_one_is_told(campaigns: Campaigns) -> None:
    path = f"campaigns/{(await campaigns.written())['campaign_id']}"
    tag = await read(campaigns, path)
    both = await asyncio.gather(
        put(campaigns, path, tag, LEA, text="Léa. {stop}"), put(campaigns, path, tag, MAX, text="Max. {stop}")
    )
    assert sorted(response.status_code for response in both) == [200, 412]
    [winner] = [response for response in both if response.status_code == 200]
    assert (await campaigns.get(path))["text"] == winner.json()["text"]


@pytest.mark.parametrize("fields", [{}, ALL_OF_IT, RECURRING], ids=["little", "all of it", "recurring"])
async def test_a_tag_is_the_same_however_it_is_got_and_whatever_is_left_out(
    campaigns: Campaigns, fields: dict[str, Any]
) -> None:
    created = await campaigns.client.post("/v1/campaigns", json=WRITTEN | fields)
    assert created.status_code == 201, created.text
    path = f"campaigns/{created.json()['campaign_id']}"
    tag = await read(campaigns, path)
    assert created.headers["ETag"] == tag
    edited = await put(campaigns, path, tag, LEA, **fields)
    assert (edited.status_code, edited.headers["ETag"]) == (200, tag)
    assert await read(campaigns, path) == tag


async def test_without_a_condition_the_last_counts_as_before(campaigns: Campaigns) -> None:
    path = f"campaigns/{(await campaigns.written())['campaign_id']}"
    for who, text in ((LEA, "Léa. {stop}"), (MAX, "Max. {stop}")):
        assert (await put(campaigns, path, None, who, text=text)).json()["text"] == text
    assert (await put(campaigns, path, "*", LEA)).status_code == 200
    assert (await put(campaigns, "campaigns/cmp-nothing", "*", LEA)).status_code == 404
    refused = await put(campaigns, path, '"of another release"', LEA, text="Léa. {stop}")
    assert (refused.status_code, refused.json()["reasons"][0]["field"]) == (412, "If-Match")


async def test_an_edit_that_came_twice_came_once(campaigns: Campaigns) -> None:
    """Its answer was lost on the way."""
    path = f"campaigns/{(await campaigns.written())['campaign_id']}"
    tag = await read(campaigns, path)
    for _ in range(2):
        assert (await put(campaigns, path, tag, LEA, text="Léa. {stop}")).status_code == 200


async def test_what_was_scheduled_meanwhile_is_not_taken_off_unseen_and_a_pause_is_no_edit(
    campaigns: Campaigns,
) -> None:
    await campaigns.imported(csv_of(1))
    path = f"campaigns/{(await campaigns.written())['campaign_id']}"
    draft = await read(campaigns, path)
    at = datetime.now(UTC) + timedelta(days=1)
    await campaigns.post(f"{path}/schedule", json={"at": at.isoformat()})
    refused = (await put(campaigns, path, draft, LEA, text=f"Mieux. STOP au {STOP_CODE}")).json()
    assert (refused["status"], [r["field"] for r in refused["reasons"]]) == (412, ["schedule"])
    assert await campaigns.status(path.rpartition("/")[2]) == "scheduled"
    scheduled = await read(campaigns, path)
    await campaigns.post(f"{path}/pause")
    assert await read(campaigns, path) == scheduled
    edited = await put(campaigns, path, scheduled, LEA, text=f"Mieux. STOP au {STOP_CODE}")
    assert (edited.status_code, edited.json()["status"]) == (200, "draft")
    await campaigns.post(f"{path}/schedule", json={"at": at.isoformat()})
    before = await read(campaigns, path)
    await campaigns.post(f"{path}/schedule", json={"at": (at + DAY).isoformat()})
    assert await read(campaigns, path) != before


async def test_what_has_begun_is_past_it_whatever_was_read(campaigns: Campaigns) -> None:
    path = f"campaigns/{await campaigns.started(1)}"
    assert (await put(campaigns, path, await read(campaigns, path), LEA)).status_code == 409
    assert (await put(campaigns, path, '"stale"', LEA)).status_code == 409
