"""dispatch-svc in two shards: each with some partitions, a database, a relay and watermarks of its own."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from common import division
from common.contracts import (
    CAMPAIGN_REQUESTS,
    CONTROLS,
    DISPATCH_HOLDS,
    DISPATCH_MESSAGES,
    INBOUND_RECEIPTS,
    SENDERS,
    STATES,
)
from common.contracts.dispatch import HoldChanged, OptOutEnforced
from common.db.database import Database
from common.db.shards import OtherShard
from common.kafka.broker import partition_of
from dispatch.division import TABLES
from dispatch.messages import store as messages
from dispatch.projection import store as projection
from dispatch.service import Settings, build
from tests.support.builders import (
    CODES_SENDER,
    SENDER,
    codes_sender_changed,
    controlled,
    now,
    number,
    opted_in,
    opted_out,
    receipt,
    requested,
    sender_changed,
    shown,
    subject,
)
from tests.support.eventually import eventually, is_so
from tests.support.ledger import message
from tests.support.operators.http import TOKEN, Operator, operator
from tests.support.publish import heartbeat, publish
from tests.support.reading import changes_in, reading
from tests.support.running import Surroundings, running
from tests.support.shards import InShards, urls_of

PARTITIONS = {"a": "0-1", "b": "2"}
HELD = {"a": (0, 1), "b": (2,)}
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/dispatch"
CODE = {"category": "transactional", "text": "Votre code est 1234.", "sender_id": CODES_SENDER}


def shard_of(n: int) -> str:
    return "b" if partition_of(subject(n), 3) == 2 else "a"


def people(shard: str, many: int = 3) -> list[int]:
    """The first people whom a shard holds."""
    return [n for n in range(1, 99) if shard_of(n) == shard][:many]


@dataclass
class Divided(InShards):
    """Two running shards. `clients`: of each."""

    op: Operator

    async def statuses(self, shard: str) -> dict[str, str]:
        rows = await self.sql(shard, "SELECT message_id, status FROM message")
        return {str(row["message_id"]): row["status"] for row in rows}

    async def settled(self, many: int) -> bool:
        both = {**await self.statuses("a"), **await self.statuses("b")}
        return len(both) == many and not {"pending", "sending", "deferred"} & set(both.values())


async def settings(surroundings: Surroundings, of: dict[str, str], shard: str, **more: Any) -> Settings:
    shards = {name: {"partitions": PARTITIONS[name], "database_url": of[name]} for name in PARTITIONS}
    usual = {"gateway_token": TOKEN, "hours": "demonstration", "gateway_url": "http://127.0.0.1:1"}
    told = await surroundings.settings("dispatch", **{**usual, "shards": shards, "shard": shard, **more})
    return Settings(**told | {"database_url": of[shard]})


@asynccontextmanager
async def divided(surroundings: Surroundings, op: Operator, **more: Any) -> AsyncIterator[Divided]:
    of = await urls_of(surroundings, "dispatch", PARTITIONS)
    async with AsyncExitStack() as stack:
        clients = {}
        for name in PARTITIONS:
            service = build(await settings(surroundings, of, name, gateway_url=op.url, **more))
            clients[name] = await stack.enter_async_context(running(service))
        await publish(surroundings, SENDERS, [sender_changed(), codes_sender_changed()])
        await publish(surroundings, CONTROLS, [controlled("running")])
        both = Divided(surroundings, of, clients, op)

        async def known() -> bool:
            counts = [(await both.sql(name, "SELECT count(*) FROM sender"))[0][0] for name in PARTITIONS]
            return counts == [2, 2]

        await eventually(known)
        yield both


@pytest.mark.any_broker
async def test_each_message_leaves_once_from_the_shard_of_its_person_and_so_does_what_is_told_of_it(
    surroundings: Surroundings,
) -> None:
    everybody = [*people("a"), *people("b")]
    async with (
        operator() as op,
        divided(surroundings, op) as both,
        heartbeat(surroundings, STATES),
        reading(surroundings, DISPATCH_MESSAGES) as told,
    ):
        await publish(surroundings, STATES, [opted_in(n) for n in everybody])
        wanted = {n: requested(n) for n in everybody}
        await publish(surroundings, CAMPAIGN_REQUESTS, list(wanted.values()))
        await eventually(lambda: both.settled(len(everybody)))
        assert sorted(op.references) == sorted(each.message_id for each in wanted.values())
        for name, held in HELD.items():
            rows = await both.sql(name, "SELECT message_id, partition, status FROM message")
            assert {str(row["message_id"]) for row in rows} == {wanted[n].message_id for n in people(name)}
            assert {row["partition"] for row in rows} <= set(held)
            assert {row["status"] for row in rows} == {"accepted"}

        await publish(
            surroundings,
            INBOUND_RECEIPTS,
            [receipt("delivered", reference=each.message_id) for each in wanted.values()],
        )

        async def delivered() -> bool:
            rows = [await both.sql(name, "SELECT receipt FROM message") for name in PARTITIONS]
            return all(row["receipt"] == "delivered" for each in rows for row in each)

        await eventually(delivered)
        for name in PARTITIONS:
            assert await both.sql(name, "SELECT FROM early_receipt") == [], "a DLR of the other shard is dropped"

        async def told_once() -> bool:
            changes = [(each.message_id, each.version) for each in changes_in(await told())]
            assert len(changes) == len(set(changes))
            return {each.message_id for each in changes_in(await told()) if each.receipt == "delivered"} == {
                each.message_id for each in wanted.values()
            }

        await eventually(told_once)


async def test_a_stop_is_enforced_in_the_shard_of_the_person_and_the_other_never_hears_of_it(
    surroundings: Surroundings,
) -> None:
    [n] = people("b", 1)
    async with (
        operator() as op,
        divided(surroundings, op) as both,
        heartbeat(surroundings, STATES),
        reading(surroundings, DISPATCH_MESSAGES) as told,
    ):
        await publish(surroundings, STATES, [opted_in(n)])
        await publish(surroundings, STATES, [opted_out(n)])

        async def enforced() -> bool:
            return any(isinstance(event, OptOutEnforced) for event in await told())

        await eventually(enforced)
        await publish(surroundings, CAMPAIGN_REQUESTS, [requested(n)])
        await eventually(lambda: both.settled(1))
        assert set((await both.statuses("b")).values()) == {"denied"}
        assert await both.sql("a", "SELECT FROM subject") == []
        listed = (await both.clients["a"].get("/v1/enforcements")).json()["items"]
        assert [each["subject_id"] for each in listed] == [subject(n)], "the API of each shard tells of all"
        assert op.messages == []


async def test_stale_consent_of_one_shard_holds_back_its_people_alone_and_the_first_tells_of_it(
    surroundings: Surroundings,
) -> None:
    everybody = [*people("a", 1), *people("b", 1)]
    async with (
        operator() as op,
        divided(surroundings, op, hold_told_after_s=0.5) as both,
        heartbeat(surroundings, STATES, partitions=HELD["a"]),
        reading(surroundings, DISPATCH_HOLDS) as told,
    ):
        await publish(surroundings, STATES, [opted_in(n) for n in everybody], as_of=now())
        await eventually(lambda: _watermarks(both))
        await both.sql(
            "b", "UPDATE consumer_offset SET as_of = now() - interval '1 hour' WHERE topic = 'consent.states.v1'"
        )
        wanted = [requested(n) for n in everybody]
        await publish(surroundings, CAMPAIGN_REQUESTS, wanted)
        await eventually(lambda: is_so(op.references == [wanted[0].message_id]))

        async def held() -> bool:
            return [type(event) for event in await told()] == [HoldChanged]

        await eventually(held)

        async def ready() -> bool:
            found = {name: await client.get("/readyz") for name, client in both.clients.items()}
            said = {name: answer.text for name, answer in found.items()}
            assert {name: answer.status_code for name, answer in found.items()} == {"a": 200, "b": 503}, said
            return True

        await eventually(ready)
        assert op.references == [wanted[0].message_id]
        async with heartbeat(surroundings, STATES, partitions=HELD["b"]):
            await eventually(lambda: is_so(op.references == [each.message_id for each in wanted]))


async def _watermarks(both: Divided) -> bool:
    query = "SELECT partition FROM consumer_offset WHERE topic = 'consent.states.v1' AND as_of IS NOT NULL"
    found = {name: {row["partition"] for row in await both.sql(name, query)} for name in PARTITIONS}
    return found == {name: set(held) for name, held in HELD.items()}


async def known_senders(of: dict[str, str]) -> None:
    for url in of.values():
        database = Database(url)
        async with database.begin() as tx:
            for event in (sender_changed(), codes_sender_changed()):
                await projection.put_sender(tx, event)
        await database.close()


@pytest.fixture
async def callers(surroundings: Surroundings) -> AsyncIterator[Divided]:
    """The api role of each shard alone, with the senders known: nothing decides."""
    of = await urls_of(surroundings, "dispatch", PARTITIONS)
    await known_senders(of)
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(running(build(await settings(surroundings, of, name, roles="api"))))
            for name in PARTITIONS
        }
        yield Divided(surroundings, of, clients, Operator())


def batch(*persons: int) -> dict[str, Any]:
    return {"messages": [{**CODE, "to": number(n)} for n in persons]}


@pytest.mark.brokerless
async def test_a_batch_over_both_shards_is_accepted_at_either_and_its_repeat_gets_the_first_answer(
    callers: Divided,
) -> None:
    persons = [*people("a", 2), *people("b", 2)]
    first = await callers.clients["a"].post("/v1/messages", json=batch(*persons), headers={"Idempotency-Key": "k1"})
    assert first.status_code == 202, first.text
    again = await callers.clients["b"].post("/v1/messages", json=batch(*persons), headers={"Idempotency-Key": "k1"})
    assert again.json() == first.json()
    ids = [each["message_id"] for each in first.json()["results"]]
    assert set(await callers.statuses("a")) == set(ids[:2])
    assert set(await callers.statuses("b")) == set(ids[2:])
    for name, client in callers.clients.items():
        single = await client.post("/v1/messages", json={**CODE, "to": number(people("b", 1)[0])})
        assert single.status_code == 202, name
    assert len(await callers.statuses("b")) == 4


@pytest.mark.brokerless
async def test_a_shard_that_does_not_answer_refuses_its_people_alone_and_a_repeat_completes_the_batch(
    callers: Divided,
) -> None:
    persons = [*people("a", 2), *people("b", 1)]
    cut_off = await settings(callers.surroundings, callers.urls | {"b": NOWHERE}, "a", roles="api")
    async with running(build(cut_off)) as client:
        for key in [{"Idempotency-Key": f"k{n}"} for n in range(20)]:  # until one is kept in the shard that answers
            partial = await client.post("/v1/messages", json=batch(*persons), headers=key)
            if partial.status_code == 202:
                break
            assert partial.status_code == 503
    refused = [each.get("refused") for each in partial.json()["results"]]
    assert refused[:2] == [None, None]
    assert refused[2]["status"] == 503
    whole = await callers.clients["a"].post("/v1/messages", json=batch(*persons), headers=key)
    assert [each.get("refused") for each in whole.json()["results"]] == [None, None, None]
    assert [len(await callers.statuses(shard)) for shard in PARTITIONS] == [2, 1]
    assert [each["message_id"] for each in whole.json()["results"][:2]] == [
        each["message_id"] for each in partial.json()["results"][:2]
    ]


@pytest.mark.brokerless
async def test_whichever_shard_is_away_the_messages_of_the_other_are_told_as_accepted(callers: Divided) -> None:
    """Or the caller would repeat them, without a key, and the person have two SMS."""
    persons = [*people("a", 1), *people("b", 1)]
    cut_off = await settings(callers.surroundings, callers.urls | {"b": NOWHERE}, "a", roles="api")
    for order in (persons, persons[::-1]):
        async with running(build(cut_off)) as client:
            answer = await client.post("/v1/messages", json=batch(*order))
        assert answer.status_code == 202, answer.text
        told = {n: each.get("refused") for n, each in zip(order, answer.json()["results"], strict=True)}
        assert told[persons[0]] is None
        assert told[persons[1]]["status"] == 503
    assert len(await callers.statuses("a")) == 2


@pytest.mark.brokerless
async def test_a_repeat_that_completes_a_batch_charges_no_message_twice(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    """A message on record is its own answer: over a limit of one an hour it would be refused, though it was sent."""
    path = tmp_path / "limits.json"
    path.write_text(json.dumps({"version": "one", "default": {"places": ["*"], "per_number_hour": 1}}))
    of = await urls_of(surroundings, "dispatch", PARTITIONS)
    await known_senders(of)
    persons = [*people("a", 1), *people("b", 1)]
    more: dict[str, Any] = {"roles": "api", "limits": str(path)}
    keys = [{"Idempotency-Key": f"k{n}"} for n in range(20)]
    async with running(build(await settings(surroundings, of | {"b": NOWHERE}, "a", **more))) as client:
        for key in keys:  # until one is kept in the shard that answers
            partial = await client.post("/v1/messages", json=batch(*persons), headers=key)
            if partial.status_code == 202:
                break
    assert [each.get("refused", {}) is None for each in partial.json()["results"]] == [True, False]
    async with running(build(await settings(surroundings, of, "a", **more))) as client:
        whole = await client.post("/v1/messages", json=batch(*persons), headers=key)
        again = await client.post("/v1/messages", json=batch(*persons), headers=key)
    assert [each.get("refused") for each in whole.json()["results"]] == [None, None]
    assert again.json() == whole.json()


@pytest.mark.brokerless
async def test_a_key_used_for_another_person_is_refused_whichever_shard_holds_them(callers: Divided) -> None:
    key = {"Idempotency-Key": "k1"}
    [p], [q] = people("a", 1), people("b", 1)
    assert (await callers.clients["a"].post("/v1/messages", json=batch(p), headers=key)).status_code == 202
    for client in callers.clients.values():
        other = await client.post("/v1/messages", json=batch(q), headers=key)
        assert other.status_code == 422, other.text
    free = {"Idempotency-Key": "k3"}
    wrong = await callers.clients["a"].post("/v1/messages", json={"messages": [{**CODE, "to": "12"}]}, headers=free)
    assert wrong.json()["results"][0]["refused"]["status"] == 422
    mended = await callers.clients["a"].post("/v1/messages", json=batch(q), headers=free)
    assert mended.status_code == 202, "of a request that is refused as a whole the key is free again"


@pytest.mark.brokerless
async def test_lists_and_sums_of_each_shard_are_of_all_shards(callers: Divided) -> None:
    at = now() - timedelta(hours=2)
    persons = [*people("a", 3), *people("b", 3)]
    made = []
    for place, n in enumerate(sorted(persons)):
        row = message(
            n,
            "accepted",
            message_id=requested(n).message_id,
            requested_at=at + timedelta(minutes=place),
            sender_id=SENDER,
            due_at=None,
            partition=partition_of(subject(n), 3),
        )
        database = Database(callers.urls[shard_of(n)])
        async with database.begin() as tx:
            await messages.insert_messages(tx, [row])
        await database.close()
        made.append((n, str(row.message_id)))
    for client in callers.clients.values():
        found: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            page = (await client.get("/v1/messages", params=cursor | {"sender_id": SENDER, "limit": 2})).json()
            found += [each["message_id"] for each in page["items"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert found == [identity for _, identity in reversed(made)]
        for n, identity in made:
            assert (await client.get(f"/v1/messages/{identity}")).json()["subject_id"] == shown(n)
            search = (await client.post("/v1/messages/search", json={"number": number(n)})).json()
            assert [each["message_id"] for each in search["items"]] == [identity]
            timeline = (await client.post("/v1/timeline", json={"number": number(n)})).json()
            assert [each["id"] for each in timeline["items"]] == [identity]
        totals = (await client.get("/v1/reports/totals")).json()["items"]
        assert sum(each["messages"] for each in totals) == len(made)
        assert len(totals) <= 2, "a line of a day is the sum of the shards"


@pytest.mark.brokerless
async def test_a_database_starts_with_the_partitions_that_it_holds_and_with_no_others(
    surroundings: Surroundings,
) -> None:
    of = await urls_of(surroundings, "dispatch", PARTITIONS)
    for name in PARTITIONS:
        async with running(build(await settings(surroundings, of, name, roles="api"))):
            pass
    swapped = {"a": of["b"], "b": of["a"]}
    with pytest.raises(OtherShard, match="holds the partitions 2-2 of 3"):
        async with running(build(await settings(surroundings, swapped, "a", roles="api"))):
            pass
    whole = await surroundings.settings("dispatch", gateway_url="http://127.0.0.1:1", gateway_token=TOKEN, roles="api")
    with pytest.raises(OtherShard, match="holds the partitions 0-1 of 3, and the settings say 0-2"):
        async with running(build(Settings(**whole | {"database_url": of["a"]}))):
            pass


@pytest.mark.brokerless
async def test_an_empty_database_does_not_take_the_place_of_one_that_was_in_use(surroundings: Surroundings) -> None:
    """A mistyped url, or a shard under a new name: both databases would read the requests of the same people."""
    of = await urls_of(surroundings, "dispatch", PARTITIONS)
    for name in PARTITIONS:
        async with running(build(await settings(surroundings, of, name, roles="api"))):
            pass
    empty = {**of, "a": await surroundings.postgres.clone("dispatch", f"c_{surroundings.unique}")}
    with pytest.raises(OtherShard, match="shard b knows another database with its partitions 0-1"):
        async with running(build(await settings(surroundings, empty, "a", roles="worker"))):
            pass
    async with running(build(await settings(surroundings, of, "a", roles="api"))):
        pass


@pytest.mark.brokerless
async def test_an_empty_database_is_no_shard_of_a_divided_one_and_an_unfinished_one_none_at_all(
    surroundings: Surroundings,
) -> None:
    """It would read every request of the log again, and send each message a second time."""
    whole = await surroundings.settings("dispatch", gateway_url="http://127.0.0.1:1", gateway_token=TOKEN, roles="api")
    async with running(build(Settings(**whole))):
        pass
    of = {"a": whole["database_url"], "b": await surroundings.postgres.clone("dispatch", f"b_{surroundings.unique}")}
    for role in ("relay", "worker", "api"):
        with pytest.raises(OtherShard, match="the database is empty"):
            async with running(build(await settings(surroundings, of, "b", roles=role))):
                pass
    database = Database(of["a"], name="dispatch-divide")
    await division.divide(database, TABLES, HELD["a"], 3)
    await database.close()
    with pytest.raises(OtherShard, match="the database is empty"):
        async with running(build(await settings(surroundings, of, "b", roles="api"))):
            pass
    async with surroundings.sql("dispatch") as sql:
        await sql.execute("UPDATE shard SET division = 'begun'")
    with pytest.raises(OtherShard, match="to its end"):
        async with running(build(await settings(surroundings, of, "a", roles="api"))):
            pass


@pytest.mark.brokerless
async def test_a_part_keeps_the_dead_letters_of_what_every_shard_reads_and_the_audits_stay_in_one(
    surroundings: Surroundings,
) -> None:
    whole = await surroundings.settings("dispatch", gateway_url="http://127.0.0.1:1", gateway_token=TOKEN, roles="api")
    async with running(build(Settings(**whole))):
        pass
    async with surroundings.sql("dispatch") as sql:
        for topic in ("campaign.controls.v1", "campaign.requests.v1"):
            for partition in range(3 if topic == "campaign.controls.v1" else 6):  # requests have more partitions
                await sql.execute(
                    "INSERT INTO dead_letter (consumer_group, topic, partition, at_offset, shape, reason)"
                    " VALUES ('g', $1, $2, 1, 's', 'r')",
                    topic,
                    partition,
                )
        await sql.execute(
            "INSERT INTO text_audit (at, caller, sender_id, category, template, result, reasons)"
            " VALUES (now(), 'c', 's', 'transactional', 't', 'refused', '{}')"
        )
    copy = await surroundings.postgres.copy(whole["database_url"], f"b_{surroundings.unique}")
    letters, audits = {}, {}
    for name, url in {"a": whole["database_url"], "b": copy}.items():
        database = Database(url, name="dispatch-divide")
        await division.divide(database, TABLES, HELD[name], 3)
        rows = await database.read("SELECT topic, partition FROM dead_letter ORDER BY topic, partition")
        letters[name] = [(topic, partition) for topic, partition in rows]
        [[audits[name]]] = await database.read("SELECT count(*) FROM text_audit")
        await database.close()
    controls = [("campaign.controls.v1", partition) for partition in range(3)]
    assert letters["a"] == [*controls, *(("campaign.requests.v1", partition) for partition in (0, 1, 3, 4))]
    assert letters["b"] == [*controls, *(("campaign.requests.v1", partition) for partition in (2, 5))]
    assert audits == {"a": 1, "b": 0}


async def test_a_database_is_divided_with_its_messages_its_people_and_its_place_in_each_log(
    surroundings: Surroundings,
) -> None:
    """What one service has begun two go on with: nothing leaves twice, and a STOP of before stays."""
    everybody = [*people("a"), *people("b")]
    whole = await surroundings.settings(
        "dispatch", gateway_token=TOKEN, hours="demonstration", gateway_url="http://127.0.0.1:1"
    )
    async with operator() as op, heartbeat(surroundings, STATES):
        async with running(build(Settings(**whole | {"gateway_url": op.url}))):
            await publish(surroundings, SENDERS, [sender_changed(), codes_sender_changed()])
            await publish(surroundings, CONTROLS, [controlled("running")])
            await publish(surroundings, STATES, [opted_in(n) for n in everybody])
            await publish(surroundings, STATES, [opted_out(n) for n in (everybody[0], everybody[-1])])
            first = [requested(n) for n in everybody[1:-1]]
            await publish(surroundings, CAMPAIGN_REQUESTS, first)

            async def all_told() -> bool:
                async with surroundings.sql("dispatch") as sql:
                    left = await sql.fetchval("SELECT count(*) FROM outbox")
                    known = await sql.fetchval("SELECT count(*) FROM subject WHERE version = 2")
                    sent = await sql.fetchval("SELECT count(*) FROM message WHERE status = 'accepted'")
                return (left, known, sent) == (0, 2, len(first))

            await eventually(all_told)

        async def forgotten() -> bool:
            async with surroundings.sql("dispatch") as sql:
                return not await sql.fetchval("SELECT count(*) FROM sending")

        original = whole["database_url"]
        copy = await surroundings.postgres.copy(original, f"b_{surroundings.unique}")
        of = {"a": original, "b": copy}
        for name, url in of.items():
            database = Database(url, name="dispatch-divide")
            await division.divide(database, TABLES, HELD[name], 3)
            await division.divide(database, TABLES, HELD[name], 3)  # an interrupted run is run again
            await database.close()

        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(
                    running(build(await settings(surroundings, of, name, gateway_url=op.url)))
                )
                for name in PARTITIONS
            }
            both = Divided(surroundings, of, clients, op)
            for name in PARTITIONS:
                held = {row["subject_id"] for row in await both.sql(name, "SELECT subject_id FROM subject")}
                assert held == {subject(n) for n in people(name)}
            second = [requested(n) for n in everybody]
            await publish(surroundings, CAMPAIGN_REQUESTS, second)
            await eventually(lambda: both.settled(len(first) + len(second)))
            stopped = {second[0].message_id, second[-1].message_id}
            statuses = {**await both.statuses("a"), **await both.statuses("b")}
            assert {identity for identity, status in statuses.items() if status == "denied"} == stopped
            left = [each.message_id for each in (*first, *second) if each.message_id not in stopped]
            assert sorted(op.references) == sorted(left)


@pytest.mark.brokerless
async def test_a_database_in_use_or_with_work_in_hand_is_not_divided(surroundings: Surroundings) -> None:
    url = await surroundings.database("dispatch")
    database = Database(url, name="dispatch-divide")
    try:
        with pytest.raises(division.NotYet, match="never in use"):
            await division.divide(database, TABLES, (0, 1), 3)
        whole = await surroundings.settings(
            "dispatch", gateway_url="http://127.0.0.1:1", gateway_token=TOKEN, roles="api"
        )
        async with running(build(Settings(**whole))):
            with pytest.raises(division.NotYet, match="stop every process"):
                await division.divide(database, TABLES, (0, 1), 3)
        with pytest.raises(OtherShard, match="cannot become"):
            await division.divide(database, TABLES, (0, 7), 3)
        async with surroundings.sql("dispatch") as sql:
            await sql.execute("INSERT INTO outbox (event_id, topic, type) VALUES (gen_random_uuid(), 't', 't')")
        with pytest.raises(division.NotYet, match="outbox"):
            await division.divide(database, TABLES, (0, 1), 3)
    finally:
        await database.close()
