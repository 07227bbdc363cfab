"""The event feed over HTTP: what an organisation is told, once, in order, and nothing of others."""

import asyncio
import json
import socket
from datetime import timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from msgspec.structs import replace

from campaign.audience.consents import Applied
from campaign.feed.telling import Telling
from campaign.senders.store import put_sender
from campaign.service import Settings, build
from common.contracts import CAMPAIGN_NOTICES, Event
from common.contracts.consent import Suppression
from common.contracts.dispatch import MessageChanged, MessagesChanged, OptOutEnforced
from common.contracts.rights import ErasureFinished
from common.db.database import Database
from common.kafka.subscription import Hold, Received
from tests.service.campaign.campaigns import Campaigns, changed
from tests.support.builders import SENDER, now, opted_in, opted_out, sender_changed, shown, subject
from tests.support.eventually import eventually
from tests.support.running import Surroundings, bearer, serving

pytestmark = pytest.mark.brokerless
OTHER = "autre-marque"


async def told(campaigns: Campaigns, *facts: Event | MessageChanged, notices: bool = False) -> None:
    """What the feed's own consumer reads, in one batch, changes in one record."""
    changes = tuple(fact for fact in facts if isinstance(fact, MessageChanged))
    events = [fact for fact in facts if isinstance(fact, Event)]
    events += [MessagesChanged(changes=changes)] if changes else []
    batch = [Received(event, event.key, 0, n, now(), None) for n, event in enumerate(events)]
    telling = Telling(Applied())
    async with campaigns.database.begin() as tx:
        if notices:
            await telling.apply_notices(tx, batch)
        elif (wants := telling.subscriptions()[0].wants) is not None and await wants(tx):
            await telling.apply_messages(tx, batch)


def one_of(partition: int) -> Received:
    change = changed("c1", subject(partition), 1, "accepted")
    return Received(MessagesChanged(changes=(change,)), "", partition, 0, now(), None)


async def page(campaigns: Campaigns, cursor: str | None = None, **more: Any) -> dict[str, Any]:
    params = {**({"cursor": cursor} if cursor else {}), **more}
    response = await campaigns.client.get("/v1/events", params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def enforced(n: int, version: int) -> OptOutEnforced:
    return OptOutEnforced(
        subject_id=subject(n),
        consent_version=version,
        source="mo",
        reference=None,
        received_at=now(),
        enforced_at=now(),
    )


async def other_organisation(campaigns: Campaigns) -> dict[str, str]:
    async with campaigns.database.begin() as tx:
        await put_sender(tx, sender_changed(sender_id=OTHER, organisation_id="others", controller_id=OTHER))
    return bearer(organisation="others")


async def test_a_feed_begins_with_its_first_reader_and_tells_each_change_once(campaigns: Campaigns) -> None:
    await campaigns.told(opted_in(1))
    start = await page(campaigns)
    assert start["items"] == []
    await campaigns.told(opted_in(2))
    await campaigns.told(opted_in(2), opted_out(2))
    found = await page(campaigns, start["next"])
    assert [each["type"] for each in found["items"]] == ["consent.changed", "consent.opted_out"]
    assert {each["data"]["subject_id"] for each in found["items"]} == {shown(2)}
    assert subject(2) not in json.dumps(found)
    assert found["items"][1]["data"]["consents"][0]["state"] == "opted_out"
    assert (await page(campaigns, found["next"]))["items"] == []
    assert (await page(campaigns, start["next"]))["items"] == found["items"]


async def test_versions_read_together_are_told_one_by_one(campaigns: Campaigns) -> None:
    await page(campaigns)
    await campaigns.told(opted_in(1), opted_out(1), opted_in(1, version=3, occurred_at=now() + timedelta(seconds=1)))
    types = [each["type"] for each in (await page(campaigns))["items"]]
    assert types == ["consent.changed", "consent.opted_out", "consent.changed"]


async def test_a_page_is_limited_and_filtered(campaigns: Campaigns) -> None:
    await page(campaigns)
    await campaigns.told(*(opted_in(n) for n in range(5)), opted_out(3))
    first = await page(campaigns, limit=4)
    rest = await page(campaigns, first["next"], limit=4)
    assert [len(first["items"]), len(rest["items"])] == [4, 2]
    stopped = await page(campaigns, type="consent.opted_out", sender_id=SENDER)
    assert [each["data"]["subject_id"] for each in stopped["items"]] == [shown(3)]
    assert (await campaigns.client.get("/v1/events", params={"type": "consent.unknown"})).status_code == 422
    assert (await campaigns.client.get("/v1/events", params={"sender_id": "nobody"})).status_code == 404


async def test_nobody_is_told_of_others_people(campaigns: Campaigns) -> None:
    theirs = await other_organisation(campaigns)
    await page(campaigns)
    await campaigns.client.get("/v1/events", headers=theirs)
    mine = opted_in(1)
    both = replace(mine, consents=(*mine.consents, replace(mine.consents[0], sender_id=OTHER)))
    await campaigns.told(both, replace(opted_in(2), suppressions=(Suppression(sender_id=None, since=now()),)))
    [seen] = (await campaigns.client.get("/v1/events", headers=theirs)).json()["items"]
    assert seen["data"]["sender_id"] == OTHER
    assert seen["data"]["subject_id"] == shown(1, OTHER)
    narrow = bearer(senders=["nobody-s"])
    assert (await campaigns.client.get("/v1/events", headers=narrow)).json()["items"] == []
    ids = {each["id"] for each in (await page(campaigns))["items"]}
    assert len(ids) == 2
    assert seen["id"] not in ids
    assert (await campaigns.client.get("/v1/events", headers=bearer(scope="consent:read"))).status_code == 403


async def test_an_enforced_opt_out_names_the_opt_out_and_waits_for_it(campaigns: Campaigns) -> None:
    await page(campaigns)
    with pytest.raises(Hold):
        await told(campaigns, enforced(1, 2))
    await campaigns.told(opted_in(1), opted_out(1))
    await told(campaigns, enforced(1, 2))
    await told(campaigns, enforced(1, 2), enforced(1, 1))
    _, opt_out, done = (await page(campaigns))["items"]
    assert (opt_out["type"], done["type"]) == ("consent.opted_out", "consent.opt_out_enforced")
    assert done["data"]["opt_out"] == opt_out["id"]
    assert done["data"]["subject_id"] == shown(1)


async def test_a_message_is_told_once_however_often_it_is_reported(campaigns: Campaigns) -> None:
    await page(campaigns)
    message_id = str(uuid4())
    reports = [
        changed("c1", subject(1), version, "accepted", message_id=message_id, receipt=receipt, cost=450)
        for version, receipt in ((1, None), (2, None), (3, "delivered"), (3, "delivered"))
    ]
    await told(campaigns, *reports[:1])
    await told(campaigns, *reports)
    found = (await page(campaigns))["items"]
    assert [each["type"] for each in found] == ["message.accepted", "message.delivered"]
    assert found[0]["data"]["cost"] == "0.0450"


async def test_what_is_told_of_an_unknown_sender_waits_for_the_sender(campaigns: Campaigns) -> None:
    await page(campaigns)
    report = changed("c1", subject(1), 1, "accepted", sender_id="nouvelle")
    with pytest.raises(Hold):
        await told(campaigns, report)
    async with campaigns.database.begin() as tx:
        await put_sender(tx, sender_changed(sender_id="nouvelle"))
    await told(campaigns, report)
    assert len((await page(campaigns))["items"]) == 1


async def test_a_campaign_and_an_import_tell_how_they_go(campaigns: Campaigns) -> None:
    await page(campaigns)
    campaign_id = await campaigns.started(1)
    for step in ("pause", "resume", "cancel"):
        await campaigns.post(f"campaigns/{campaign_id}/{step}")
    await told(campaigns, *await campaigns.outbox(CAMPAIGN_NOTICES), notices=True)
    found = (await page(campaigns))["items"]
    assert [each["type"] for each in found] == [
        "import.finished",
        "campaign.started",
        "campaign.paused",
        "campaign.resumed",
        "campaign.cancelled",
    ]
    assert found[0]["data"] | {"import_id": ""} == {
        "sender_id": SENDER,
        "import_id": "",
        "kind": "contacts",
        "lines": 1,
        "refused": 0,
        "given_up": False,
    }
    assert {each["data"]["campaign_id"] for each in found[1:]} == {campaign_id}


async def test_an_erasure_is_told_to_the_controllers_that_know_the_person(campaigns: Campaigns) -> None:
    theirs = await other_organisation(campaigns)
    await page(campaigns)
    await campaigns.client.get("/v1/events", headers=theirs)
    await campaigns.told(opted_in(1))
    whole, own = (
        ErasureFinished(notice_id=str(uuid4()), subject_id=subject(1), controller_id=controller, finished_at=now())
        for controller in (None, SENDER)
    )
    await told(campaigns, whole, own, notices=True)
    found = (await page(campaigns, type="erasure.finished"))["items"]
    assert [each["data"]["erasure_id"] for each in found] == [None, own.notice_id]
    assert {each["data"]["subject_id"] for each in found} == {shown(1)}
    assert (await campaigns.client.get("/v1/events", headers=theirs)).json()["items"] == []


async def test_a_cursor_never_passes_an_event_that_commits_late(campaigns: Campaigns) -> None:
    """Two partitions store at the same time: the later one waits for the first, so no reader can be between them."""
    start = await page(campaigns)
    telling = Telling(Applied())
    first, second = ([one_of(n)] for n in (1, 2))

    async def store_second() -> None:
        async with campaigns.database.begin() as tx:
            await telling.apply_messages(tx, second)

    async with campaigns.database.begin() as tx:
        await telling.apply_messages(tx, first)
        later = asyncio.create_task(store_second())

        async def waits() -> bool:
            async with campaigns.surroundings.sql("campaign") as sql:
                return bool(await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(waits)
        assert (await page(campaigns, start["next"]))["items"] == []
    await later
    people = [each["data"]["subject_id"] for each in (await page(campaigns, start["next"]))["items"]]
    assert people == [shown(1), shown(2)]


async def test_while_ids_are_moved_an_enforcement_waits_for_the_oldest_partition_of_states(
    campaigns: Campaigns,
) -> None:
    """The state with the opt-out may stand in the partition of the person's older id."""
    early, late = now() - timedelta(seconds=9), now()
    async with campaigns.surroundings.sql("campaign") as sql:
        for place, as_of in enumerate((late, early)):
            await sql.execute(
                "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
                " VALUES ('campaign.consents', 'consent.states.v1', $1, 1, $2)",
                place,
                as_of,
            )
    async with campaigns.database.begin() as tx:
        assert await Applied().up_to(tx, 0) == late
        assert await Applied(oldest_of=2).up_to(tx, 0) == early


async def test_a_cursor_behind_what_is_kept_is_refused(campaigns: Campaigns) -> None:
    start = await page(campaigns)
    await campaigns.told(opted_in(1), opted_in(2))
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("DELETE FROM event WHERE position = 1")
    response = await campaigns.client.get("/v1/events", params={"cursor": start["next"]})
    assert response.status_code == 410
    assert response.json()["reasons"][0]["reason"] == "past"
    assert len((await page(campaigns))["items"]) == 1


async def test_a_cursor_is_of_its_organisation_and_tells_no_number(campaigns: Campaigns) -> None:
    theirs = await other_organisation(campaigns)
    mine = (await page(campaigns))["next"]
    assert mine != (await page(campaigns))["next"]
    for cursor in (mine, "abc", "t1.abc"):
        response = await campaigns.client.get("/v1/events", params={"cursor": cursor}, headers=theirs)
        assert response.status_code == 422
        assert response.json()["reasons"][0] == {"field": "cursor", "reason": "not_valid", "detail": None}


async def test_a_reader_that_waits_is_answered_by_the_event(campaigns: Campaigns) -> None:
    start = await page(campaigns)
    waiting = asyncio.create_task(page(campaigns, start["next"], wait_s=30))
    await campaigns.told(opted_in(1))
    assert len((await waiting)["items"]) == 1


async def test_a_stream_brings_events_and_goes_on_where_it_was_cut(surroundings: Surroundings) -> None:
    settings = Settings(**await surroundings.settings("campaign", roles="api"))
    with socket.create_server(("127.0.0.1", 0)) as at:
        url = f"http://127.0.0.1:{at.getsockname()[1]}/v1/events/stream"
        async with serving(build(settings), at), aiohttp.ClientSession(headers=bearer()) as session:
            database = Database(settings.database_url, pool_size=2)
            async with database.begin() as tx:
                await put_sender(tx, sender_changed())
            campaigns = Campaigns(None, database, surroundings, None)  # type: ignore[arg-type]
            async with session.get(url) as stream:
                assert stream.headers["Content-Type"].startswith("text/event-stream")
                assert (await stream.content.readline()).startswith(b"retry:")
                await campaigns.told(opted_in(1))
                first = await _next(stream)
                await campaigns.told(opted_in(2))
            async with session.get(url, headers={"Last-Event-ID": first["id"]}) as stream:
                second = await _next(stream)
            await database.close()
    assert [json.loads(each["data"])["data"]["subject_id"] for each in (first, second)] == [shown(1), shown(2)]
    assert first["event"] == "consent.changed"


async def test_head_of_a_stream_ends_with_the_headers(campaigns: Campaigns) -> None:
    answer = await campaigns.client.head("/v1/events/stream")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


async def _next(stream: aiohttp.ClientResponse) -> dict[str, str]:
    """The next event of a stream, its fields by name."""
    fields: dict[str, str] = {}
    async for line in stream.content:
        name, _, value = line.decode().strip().partition(": ")
        if name in ("id", "event", "data"):
            fields[name] = value
        elif not line.strip() and "data" in fields:
            return fields
    raise AssertionError("the stream has ended")
