"""Webhooks against a strict receiver: signed, in order, at least once, to the right organisation, never lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from campaign.senders.store import put_sender
from campaign.service import Settings
from campaign.webhooks import store
from campaign.webhooks.rules import Attempt
from campaign.webhooks.sender import LEASE, Sender
from campaign.webhooks.store import Settled
from common.db.database import Database, fetch_many
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import SENDER, edge_ids, field_keys, opted_in, opted_out, sender_changed, shown
from tests.support.eventually import eventually, is_so
from tests.support.receiver import Receiver, receiving
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless
OTHER = "autre-marque"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@pytest.fixture
async def sender(campaigns: Campaigns) -> AsyncIterator[Sender]:
    found = Sender(campaigns.database, field_keys, edge_ids, private=True)
    yield found
    await found.close()


async def added(campaigns: Campaigns, receiver: Receiver, **more: Any) -> str:
    """The id of a webhook to the receiver, which learns the secret."""
    found = await campaigns.post("webhooks", 201, json={"url": receiver.url, **more})
    receiver.secrets.append(found["secret"])
    return str(found["webhook_id"])


async def sent(sender: Sender) -> None:
    """Send until nothing is due."""
    while await sender.turn():
        await sender.ended()


async def due(campaigns: Campaigns, webhook_id: str) -> None:
    """Time goes by: no delivery waits for its next try, and no destination rests."""
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE webhook_delivery SET due_at = now() WHERE state = 'waiting'")
        await sql.execute("UPDATE webhook SET rests_until = NULL WHERE webhook_id = $1", webhook_id)


async def log(campaigns: Campaigns, webhook_id: str, **params: str) -> list[dict[str, Any]]:
    response = await campaigns.client.get(f"/v1/webhooks/{webhook_id}/deliveries", params=params)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["items"]
    return found


def people(events: list[dict[str, Any]]) -> list[str]:
    return [each["data"]["subject_id"] for each in events]


async def test_an_event_arrives_signed_once_and_in_order(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    await campaigns.told(opted_in(9))
    webhook_id = await added(campaigns, receiver)
    await campaigns.told(opted_in(1), opted_in(2), opted_out(1))
    await sent(sender)
    assert receiver.forged == receiver.repeats == 0
    assert sorted(people(receiver.accepted)) == sorted([shown(1), shown(2), shown(1)])
    assert [each["type"] for each in receiver.accepted if each["data"]["subject_id"] == shown(1)] == [
        "consent.changed",
        "consent.opted_out",
    ]
    feed = (await campaigns.get("events"))["items"]
    assert {each["id"] for each in feed} == {each["id"] for each in receiver.accepted}
    assert {line["state"] for line in await log(campaigns, webhook_id)} == {"delivered"}


async def test_a_webhook_gets_the_types_and_senders_it_asked_for(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    async with campaigns.database.begin() as tx:
        await put_sender(tx, sender_changed(sender_id="soeur"))
    await added(campaigns, receiver, types=["consent.opted_out"], sender_ids=["soeur"])
    await campaigns.told(opted_in(1), opted_out(1))
    await sent(sender)
    assert receiver.arrived == []


async def test_who_is_refused_waits_and_only_what_is_about_the_same_person_waits_behind(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    webhook_id = await added(campaigns, receiver)
    receiver.answers = [500]
    await campaigns.told(opted_in(1))
    await sent(sender)
    await campaigns.told(opted_out(1), opted_in(2))
    await sent(sender)
    assert people(receiver.accepted) == [shown(2)]
    lines = await log(campaigns, webhook_id, state="waiting")
    assert [line["code"] for line in lines] == [None, 500]
    await due(campaigns, webhook_id)
    await sent(sender)
    assert [each["type"] for each in receiver.accepted if each["data"]["subject_id"] == shown(1)] == [
        "consent.changed",
        "consent.opted_out",
    ]


async def test_a_destination_that_is_down_is_probed_alone_and_then_gets_everything(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    async with receiving() as other:
        webhook_id = await added(campaigns, receiver)
        await added(campaigns, other)
        receiver.always = 503
        await campaigns.told(*(opted_in(n) for n in range(40)))
        await sent(sender)
        tried = len(receiver.arrived)
        assert tried < 40
        assert len(other.accepted) == 40
        await due(campaigns, webhook_id)
        assert await sender.turn()
        await sender.ended()
        assert len(receiver.arrived) == tried + 1
        found = await campaigns.get(f"webhooks/{webhook_id}")
        assert found["rests_until"] is not None
        receiver.always = 204
        await due(campaigns, webhook_id)
        await sent(sender)
        assert sorted(people(receiver.accepted)) == sorted(people(other.accepted))
        assert receiver.repeats == 0
        assert (await campaigns.get(f"webhooks/{webhook_id}"))["failing_since"] is None


async def test_what_is_refused_each_time_does_not_make_its_destination_look_down(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    """New deliveries probe it first."""
    webhook_id = await added(campaigns, receiver)
    receiver.refuses = {shown(1)}
    await campaigns.told(opted_in(1))
    for _ in range(8):
        await due(campaigns, webhook_id)
        await sent(sender)
    assert (await campaigns.get(f"webhooks/{webhook_id}"))["rests_until"] is not None
    await campaigns.told(*(opted_in(n) for n in range(2, 9)))
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE webhook SET rests_until = now()")
        await sql.execute("UPDATE webhook_delivery SET due_at = now() WHERE state = 'waiting'")
    await sent(sender)
    assert sorted(people(receiver.accepted)) == sorted(shown(n) for n in range(2, 9))


async def test_a_window_bounds_what_waits_and_nothing_beyond_it_is_lost(
    campaigns: Campaigns, receiver: Receiver, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "WINDOW", 3)
    await added(campaigns, receiver)
    await campaigns.told(*(opted_in(n) for n in range(10)))
    assert await sender.turn()
    async with campaigns.surroundings.sql("campaign") as sql:
        assert await sql.fetchval("SELECT count(*) FROM webhook_delivery") == 3
    await sender.ended()
    await sent(sender)
    assert len(receiver.accepted) == 10


async def test_a_410_disables_and_an_enabled_webhook_goes_on_where_it_was(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    webhook_id = await added(campaigns, receiver)
    receiver.answers = [410]
    await campaigns.told(opted_in(1))
    await sent(sender)
    await campaigns.told(opted_in(2))
    await sent(sender)
    assert len(receiver.arrived) == 1
    assert (await campaigns.get(f"webhooks/{webhook_id}"))["status"] == "gone"
    [notice] = [each for each in (await campaigns.get("events"))["items"] if each["type"] == "webhook.disabled"]
    assert notice["data"] == {"webhook_id": webhook_id, "because": "gone"}
    changed = await campaigns.client.patch(f"/v1/webhooks/{webhook_id}", json={"status": "enabled"})
    assert changed.json()["status"] == "enabled"
    await sent(sender)
    assert people([each for each in receiver.accepted if "subject_id" in each["data"]]) == [shown(1), shown(2)]


async def test_the_end_of_a_webhook_is_told_to_tokens_of_its_senders(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    async with receiving() as other:
        every = await added(campaigns, receiver)
        narrow = await added(campaigns, other, sender_ids=[SENDER])
        receiver.always = other.always = 410
        await campaigns.told(opted_in(1))
        await sent(sender)
    for headers, seen in (
        (bearer(senders=[SENDER]), {narrow}),
        (bearer(senders=[OTHER]), set()),
        (bearer(), {every, narrow}),
    ):
        answer = await campaigns.client.get("/v1/events", params={"type": "webhook.disabled"}, headers=headers)
        assert {each["data"]["webhook_id"] for each in answer.json()["items"]} == seen


async def test_a_rotated_secret_signs_beside_the_former(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    webhook_id = await added(campaigns, receiver)
    async with receiving() as newer:
        new = await campaigns.post(f"webhooks/{webhook_id}/rotate")
        await campaigns.told(opted_in(1))
        await sent(sender)
        newer.secrets = receiver.secrets = [new["secret"]]
        await campaigns.post(f"webhooks/{webhook_id}/rotate", json={"former_ends_in_s": 0})
        await campaigns.told(opted_in(2))
        await sent(sender)
    assert people(receiver.accepted) == [shown(1)]
    assert receiver.forged == 1


async def test_a_secret_is_shown_once_and_again_to_the_same_request(campaigns: Campaigns, receiver: Receiver) -> None:
    body, key = {"url": receiver.url}, {"Idempotency-Key": "first"}
    made = await campaigns.post("webhooks", 201, json=body, headers=key)
    again = await campaigns.post("webhooks", 201, json=body, headers=key)
    assert again == made
    assert "secret" not in await campaigns.get(f"webhooks/{made['webhook_id']}")
    [listed] = (await campaigns.get("webhooks"))["items"]
    assert "secret" not in listed
    async with campaigns.surroundings.sql("campaign") as sql:
        assert made["secret"] not in await sql.fetchval("SELECT secrets FROM webhook")
    other = await campaigns.client.post("/v1/webhooks", json={**body, "description": "other"}, headers=key)
    assert other.status_code == 422


async def test_a_test_is_told_to_its_webhook_alone(campaigns: Campaigns, receiver: Receiver, sender: Sender) -> None:
    webhook_id = await added(campaigns, receiver, types=["consent.opted_out"])
    async with receiving() as other:
        await added(campaigns, other)
        asked = await campaigns.post(f"webhooks/{webhook_id}/test", 202)
        await sent(sender)
        assert [each["id"] for each in receiver.accepted] == [asked["event_id"]]
        assert other.arrived == []
    assert (await campaigns.get("events"))["items"] == []


async def test_a_delivery_is_replayed_from_the_log(campaigns: Campaigns, receiver: Receiver, sender: Sender) -> None:
    webhook_id = await added(campaigns, receiver)
    start = datetime.now(UTC) - timedelta(minutes=1)
    await campaigns.told(opted_in(1), opted_in(2))
    await sent(sender)
    first, second = receiver.accepted
    path = f"webhooks/{webhook_id}"
    assert await campaigns.post(f"{path}/deliveries/{first['id']}/replay") == {"deliveries": 1}
    await sent(sender)
    assert receiver.accepted == [first, second, first]
    await campaigns.post(f"{path}/deliveries/evt-unknown/replay", 404)
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE webhook_delivery SET state = 'failed' WHERE event_id = $1", second["id"])
    assert await campaigns.post(f"{path}/replay", json={"since": start.isoformat()}) == {"deliveries": 1}
    await sent(sender)
    assert receiver.accepted[3:] == [second]
    both = {"since": start.isoformat(), "failed_only": False}
    assert await campaigns.post(f"{path}/replay", json=both) == {"deliveries": 2}


async def test_a_webhook_is_seen_by_its_organisation_and_by_tokens_of_its_senders(
    campaigns: Campaigns, receiver: Receiver
) -> None:
    async with campaigns.database.begin() as tx:
        await put_sender(tx, sender_changed(sender_id=OTHER, organisation_id="others", controller_id=OTHER))
    every = await added(campaigns, receiver)
    narrow = await added(campaigns, receiver, sender_ids=[SENDER])
    client = campaigns.client
    for headers, seen in (
        (bearer(organisation="others"), set()),
        (bearer(senders=[SENDER]), {narrow}),
        (bearer(), {every, narrow}),
    ):
        listed = (await client.get("/v1/webhooks", headers=headers)).json()["items"]
        assert {each["webhook_id"] for each in listed} == seen
        for webhook_id in (every, narrow):
            found = await client.get(f"/v1/webhooks/{webhook_id}", headers=headers)
            assert found.status_code == (200 if webhook_id in seen else 404)
            gone = await client.post(f"/v1/webhooks/{webhook_id}/rotate", headers=headers)
            assert gone.status_code == (200 if webhook_id in seen else 404)
    strange = {"url": receiver.url, "sender_ids": [OTHER]}
    assert (await client.post("/v1/webhooks", json=strange)).status_code == 404
    limited = await client.post("/v1/webhooks", json={"url": receiver.url}, headers=bearer(senders=[SENDER]))
    assert limited.json()["sender_ids"] == [SENDER]
    assert (await client.delete(f"/v1/webhooks/{every}", headers=bearer(scope="webhook:read"))).status_code == 403
    assert (await client.delete(f"/v1/webhooks/{every}")).status_code == 204
    assert (await client.get(f"/v1/webhooks/{every}")).status_code == 404


async def test_a_claim_ends_and_a_late_process_changes_nothing(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    webhook_id = await added(campaigns, receiver)
    await campaigns.told(opted_in(1))
    now = datetime.now(UTC)
    async with campaigns.database.begin() as tx:
        await store.spread(tx, now)
        [claimed] = await store.claim(tx, {webhook_id: 5}, now, LEASE)
    await sent(sender)
    assert receiver.arrived == []
    await due(campaigns, webhook_id)
    receiver.answers = [500]
    await sent(sender)
    late = Attempt(began_at=now, ended_at=now, code=200)
    async with campaigns.database.begin() as tx:
        await store.settle(tx, [Settled(delivery=claimed, attempt=late, due_at=None)])
    [line] = await log(campaigns, webhook_id)
    assert (line["state"], line["attempts"], line["code"]) == ("waiting", 2, 500)


async def test_two_processes_share_the_work_and_keep_the_order(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    second = Sender(campaigns.database, field_keys, edge_ids, private=True)
    await added(campaigns, receiver)
    await campaigns.told(*(state for n in range(20) for state in (opted_in(n), opted_out(n))))
    try:
        await asyncio.gather(sent(sender), sent(second))
        await sent(sender)
    finally:
        await second.close()
    assert receiver.repeats == 0
    assert len(receiver.accepted) == 40
    for n in range(20):
        types = [each["type"] for each in receiver.accepted if each["data"]["subject_id"] == shown(n)]
        assert types == ["consent.changed", "consent.opted_out"]


async def test_no_delivery_goes_inside_and_no_redirection_is_followed(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    assert Settings.model_fields["webhooks_private"].default is False
    refused = await campaigns.post("webhooks", 422, json={"url": "https://user:secret@shop.example/"})
    assert refused["reasons"][0]["reason"] == "holds_credentials"
    webhook_id = await added(campaigns, receiver)
    async with receiving() as inside:
        inside.secrets = receiver.secrets
        receiver.answers, receiver.answer_headers = [307], {"Location": inside.url}
        await campaigns.told(opted_in(1))
        await sent(sender)
        assert (len(receiver.arrived), inside.arrived) == (1, [])
    outside = Sender(campaigns.database, field_keys, edge_ids, private=False)
    await due(campaigns, webhook_id)
    await sent(outside)
    await outside.close()
    assert len(receiver.arrived) == 1
    [line] = await log(campaigns, webhook_id)
    assert line["error"] == "not_https"
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE webhook SET url = $1", "https://localhost:1/hook")
    outside = Sender(campaigns.database, field_keys, edge_ids, private=False)
    await due(campaigns, webhook_id)
    await sent(outside)
    await outside.close()
    [line] = await log(campaigns, webhook_id)
    assert line["error"] == "not_public"


async def test_what_is_under_way_ends_before_a_planned_stop(
    campaigns: Campaigns, receiver: Receiver, sender: Sender
) -> None:
    webhook_id = await added(campaigns, receiver)
    receiver.delay_s = 0.5
    stop = asyncio.Event()
    running = asyncio.create_task(sender.run(stop))
    await campaigns.told(opted_in(1))
    await eventually(lambda: is_so(receiver.arrived != []))
    stop.set()
    await running
    assert [line["state"] for line in await log(campaigns, webhook_id)] == ["delivered"]


async def test_a_turn_does_not_read_the_whole_log_on_a_connection_that_knew_the_log_to_be_empty(
    campaigns: Campaigns, receiver: Receiver
) -> None:
    """A prepared statement keeps its plan, and the best way through an empty table reads all of it."""
    webhook_id = await added(campaigns, receiver)
    old = 20_000
    async with campaigns.surroundings.sql("campaign") as sql:
        for table in ("webhook_delivery", "event"):
            await sql.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            await sql.execute(f"VACUUM ANALYZE {table}")
        database = Database(await campaigns.surroundings.database("campaign"), pool_size=1)
        sender = Sender(database, field_keys, edge_ids, private=True)

        async def read() -> int:
            """Rows of the log that have been read by now."""
            async with database.begin() as tx:
                await fetch_many(tx, "SELECT pg_stat_force_next_flush()")
            await sql.execute("SELECT pg_stat_force_next_flush()")
            counted = "sum(seq_tup_read + idx_tup_fetch)"
            return int(
                await sql.fetchval(f"SELECT {counted} FROM pg_stat_user_tables WHERE relname = 'webhook_delivery'")
            )

        for n in range(10):
            await campaigns.told(opted_in(n))
            await sent(sender)
        await sql.execute(
            "INSERT INTO webhook_delivery SELECT (jsonb_populate_record(d, jsonb_build_object('position', -n))).*"
            " FROM webhook_delivery AS d, generate_series(1, $2) AS n WHERE d.webhook_id = $1 AND d.position = 1",
            webhook_id,
            old,
        )
        before = await read()
        await campaigns.told(opted_in(11))
        await sent(sender)
        after = await read()
        await sender.close()
        await database.close()
    assert len(receiver.accepted) == 11
    assert after - before < old / 100
