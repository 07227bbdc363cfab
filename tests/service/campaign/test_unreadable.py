"""A campaign with content that this version cannot read still stops, and delays neither a list nor a rectification."""

import msgspec
import pytest

from campaign.privacy.rectifier import Rectifier
from campaign.schedule.recurrence import occurrence_id
from common.contracts.campaign import MessageReworded
from common.contracts.rights import RectificationRequested
from common.kafka.subscription import Received
from common.law import load
from tests.service.campaign.campaigns import DAY, WRITTEN, Campaigns, csv_of, next_monday
from tests.support.builders import SENDER, field_keys, link_keys, now, subject
from tests.support.each_of import each_of
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

MONDAY = next_monday()
UNKNOWN = '{"x":1}'


async def spoilt(campaigns: Campaigns, campaign_id: str, column: str, stored: str | None = UNKNOWN) -> None:
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute(f"UPDATE campaign SET {column} = $2 WHERE campaign_id = $1", campaign_id, stored)


def text_of(event: MessageReworded) -> str:
    return "" if event.text is None else field_keys.unseal(event.text, f"text:{event.message_id}")


def asked(n: int) -> Received:
    fields = field_keys.seal(msgspec.json.encode({"first_name": "Nina"}).decode(), f"rectification:r{n}")
    event = RectificationRequested(
        rectification_id=f"r{n}",
        subject_id=subject(n),
        controller_id=SENDER,
        sender_id=None,
        fields=fields,
        requested_at=now(),
    )
    return Received(event, event.key, 0, n, now(), None)


@pytest.mark.parametrize(("action", "status"), [("pause", "paused"), ("cancel", "cancelled")])
async def test_an_unreadable_campaign_stops_at_the_gate(campaigns: Campaigns, action: str, status: str) -> None:
    campaign_id = await campaigns.started(1, 2)
    assert await campaigns.planner.expand()
    await spoilt(campaigns, campaign_id, "timing")
    for _ in range(2):
        answer = await campaigns.post(f"campaigns/{campaign_id}/{action}")
        assert (answer["campaign_id"], answer["status"]) == (campaign_id, status)
    assert [(e.campaign_id, e.control) for e in await campaigns.controls()][1:] == [(campaign_id, status)]


async def test_an_unreadable_series_stops_with_its_occurrence(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(1))
    rule = {"cron": "0 10 * * MON-SAT", "until": (MONDAY + 3 * DAY).isoformat()}
    series_id = (await campaigns.written(recurring=rule))["campaign_id"]
    await campaigns.post(f"campaigns/{series_id}/schedule", json={"at": MONDAY.isoformat()})
    campaigns.planner._now = lambda: MONDAY
    while await campaigns.planner.start_due():
        pass
    occurrence = occurrence_id(series_id, MONDAY)
    await spoilt(campaigns, series_id, "recurring")
    assert await campaigns.status(occurrence) == "running"
    for action, status in (("pause", "paused"), ("cancel", "cancelled")):
        assert (await campaigns.post(f"campaigns/{series_id}/{action}"))["status"] == status
        assert await campaigns.status(occurrence) == status


async def test_an_unreadable_campaign_is_missing_from_its_page_alone(campaigns: Campaigns) -> None:
    ids = [(await campaigns.written(name=f"n{n}"))["campaign_id"] for n in range(4)]
    for unreadable in ids[1:3]:
        await spoilt(campaigns, unreadable, "timing")
    found: list[str] = []
    cursor = ""
    for _ in range(5):
        page = await campaigns.get(f"campaigns?limit=1&cursor={cursor}")
        found += [item["campaign_id"] for item in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert found == [ids[3], ids[0]]


@each_of(("column", "stored"), [("timing", UNKNOWN), ("text", "{")])
async def test_an_unreadable_campaign_says_so_to_its_sender_alone(
    campaigns: Campaigns, column: str, stored: str
) -> None:
    campaign_id = await campaigns.started(1)
    await campaigns.post(f"campaigns/{campaign_id}/pause")
    await spoilt(campaigns, campaign_id, column, stored)
    path = f"/v1/campaigns/{campaign_id}"
    for method, asked in (
        ("GET", ""),
        ("PUT", ""),
        ("POST", "/resume"),
        ("POST", "/schedule"),
        ("GET", "/statistics"),
        ("GET", "/recipients"),
        ("GET", "/recipients.csv"),
        ("GET", "/variants"),
        ("POST", "/pre-flight"),
        ("GET", "/approvals"),
        ("GET", "/test-sends"),
    ):
        answer = await campaigns.client.request(method, path + asked, json=WRITTEN if method == "PUT" else None)
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/campaign-unreadable"), asked
        assert campaign_id in answer.json()["detail"]
    assert (await campaigns.client.get(path, headers=bearer(senders=["other"]))).status_code == 404
    assert (await campaigns.cancelled(campaign_id))["status"] == "cancelled"


@pytest.mark.parametrize(
    ("column", "stored", "variant", "written"),
    [
        ("trial", UNKNOWN, None, True),
        ("trial", UNKNOWN, "b", False),
        ("trial", '{"variants":[{"name":"c","text":"Autre. {stop}","percent":9}]}', "b", False),
        ("trial", None, "b", False),
        ("translations", UNKNOWN, None, False),
        ("text", "{", None, False),
    ],
)
async def test_a_rectification_within_an_unreadable_campaign_delays_no_other(
    campaigns: Campaigns,
    column: str,
    stored: str | None,
    variant: str | None,
    written: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    campaign_id = await campaigns.started(1)
    other = await campaigns.started(2, audience={"where": {"city": "Nîmes"}})
    while await campaigns.planner.expand():
        pass
    await spoilt(campaigns, campaign_id, column, stored)
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE recipient SET variant = $2 WHERE campaign_id = $1", campaign_id, variant)
    async with campaigns.database.begin() as tx:
        await Rectifier(field_keys, link_keys, load("france")).apply(tx, [asked(1), asked(2)])
    first, second = [event for event in await campaigns.requests() if isinstance(event, MessageReworded)]
    assert [first.campaign_id, second.campaign_id] == [campaign_id, other]
    assert text_of(second).startswith("Nina,")
    assert text_of(first).startswith("Nina,") == written
    if not written:
        assert first.text is None, "dispatch-svc sends no such message"
        assert campaign_id in [getattr(record, "campaign_id", None) for record in caplog.records]
