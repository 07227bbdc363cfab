"""inbound-svc in two shards: each with some partitions, a database, a relay and watermarks of its own."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from common import division
from common.contracts import ERASURE_ACKS, ERASURES, INBOUND_MESSAGES, INBOUND_RECEIPTS, SENDERS, operator_topics
from common.contracts.inbound import MessageReceived, ReceiptReceived
from common.db.database import Database
from common.db.shards import OtherShard
from common.kafka.broker import partition_of
from inbound.division import TABLES
from inbound.service import Settings, build
from inbound.store import metadata
from tests.operators import signed
from tests.operators.signing import standard, whsec
from tests.service.inbound.operated import mo as kafka_mo
from tests.service.inbound.published import published, watermarks
from tests.support.builders import erasure_requested, now, number, sender_changed, subject
from tests.support.erasures import acknowledged
from tests.support.eventually import eventually
from tests.support.holdings import spellings
from tests.support.operators.lists import KEYS, Listed, Lists, serving
from tests.support.publish import publish, publish_raw
from tests.support.reading import reading
from tests.support.running import Surroundings, running
from tests.support.shards import InShards, urls_of

pytestmark = pytest.mark.any_broker  # the way to the log is of test_webhooks.py

PARTITIONS = {"a": "0-1", "b": "2"}
HELD = {"a": (0, 1), "b": (2,)}
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/inbound"
SECRET = "the simulator's secret"
PATH_SECRET = "2f1c9f3e5b7a4d60"
SIMULATOR = {"provider": "simulator", "account": "main", "secrets": [SECRET]}
INFOBIP = {"provider": "infobip", "account": "main", "path_secrets": [PATH_SECRET]}
STANDARD = {"provider": "standard", "account": "main", "secrets": [whsec("a secret of thirty-two characters")]}
DOUBT = "Ne stoppez pas"
CALLED = "api,relay"
MO_TOPIC, DLR_TOPIC = operator_topics("orange")


def shard_of(key: str) -> str:
    return "b" if partition_of(key, 3) == 2 else "a"


def people(shard: str, many: int = 3) -> list[int]:
    """The first people whom a shard holds."""
    return [n for n in range(1, 99) if shard_of(subject(n)) == shard][:many]


def names(shard: str, many: int) -> list[str]:
    """The first ids of an operator whose DLRs are of a shard."""
    return [f"op-{n}" for n in range(999) if shard_of(f"op-{n}") == shard][:many]


A, B = people("a", 1)[0], people("b", 1)[0]


@dataclass
class Divided(InShards):
    """Two running shards. `clients`: of each."""

    settings: Settings  # of shard a

    async def items(self) -> dict[str, set[str]]:
        """The people of the MOs in each journal."""
        query = "SELECT subject_id FROM callback_item"
        return {name: {row["subject_id"] for row in await self.sql(name, query)} for name in self.urls}

    async def held(self, shard: str, n: int, *words: str) -> list[str]:
        """What a database holds of a person once nothing is on its way out of it."""

        async def nothing_waits() -> bool:
            return not (await self.sql(shard, "SELECT count(*) FROM outbox"))[0][0]

        await eventually(nothing_waits)
        return await self.holds(shard, [*spellings(number(n)), *words])

    async def messages(self) -> list[tuple[int, MessageReceived]]:
        """Each MO on the topic, with its partition."""
        found = await published(self.settings, INBOUND_MESSAGES)
        return [(record.partition, record.event) for record in found if isinstance(record.event, MessageReceived)]

    async def receipts(self) -> list[str]:
        found = await published(self.settings, INBOUND_RECEIPTS)
        return sorted(record.event.provider_message_id for record in found if isinstance(record.event, ReceiptReceived))


async def text(client: httpx.AsyncClient, n: int, said: str = "STOP", mo: str = "mo-1") -> httpx.Response:
    told = {"id": mo, "from": number(n), "to": "36111", "text": said, "sent_at": now().isoformat()}
    raw = json.dumps(told).encode()
    return await client.post("/v1/callbacks/simulator/main/messages", content=raw, headers=signed(raw, SECRET, now()))


async def dlrs(client: httpx.AsyncClient, *of: str) -> httpx.Response:
    told = [{"id": each, "reference": "r", "status": "delivered", "code": None, "at": now().isoformat()} for each in of]
    raw = json.dumps({"receipts": told}).encode()
    return await client.post("/v1/callbacks/simulator/main/receipts", content=raw, headers=signed(raw, SECRET, now()))


def several(*said: tuple[int, str], broken: bool = False) -> bytes:
    """A callback of Infobip with a text of each."""
    results: list[dict[str, Any]] = [
        {"messageId": f"several-{n}", "from": number(n)[1:], "to": "36111", "text": words} for n, words in said
    ]
    return json.dumps({"results": [*results, *([{"messageId": "broken"}] if broken else [])]}).encode()


async def call(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await client.post(f"/v1/callbacks/infobip/main/{PATH_SECRET}/messages", content=body)


async def nonced(client: httpx.AsyncClient, nonce: str, n: int) -> httpx.Response:
    """Call with an MO under a nonce, signed with both."""
    told = {"type": "message.received", "data": {"id": f"mo-{n}", "from": number(n), "to": "36111", "text": "STOP"}}
    raw = json.dumps(told).encode()
    headers = dict(standard("a secret of thirty-two characters", raw, now(), nonce).headers)
    return await client.post("/v1/callbacks/standard/main/messages", content=raw, headers=headers)


async def settings(surroundings: Surroundings, of: dict[str, str], shard: str, **more: Any) -> Settings:
    shards = {name: {"partitions": PARTITIONS[name], "database_url": of[name]} for name in PARTITIONS}
    usual = {"provider_accounts": [SIMULATOR, INFOBIP, STANDARD], "publish_timeout_s": 60.0, "review_undo_s": 0}
    told = await surroundings.settings("inbound", **{**usual, "shards": shards, "shard": shard, **more})
    return Settings(**told | {"database_url": of[shard]})


@asynccontextmanager
async def divided(surroundings: Surroundings, **more: Any) -> AsyncIterator[Divided]:
    of = await urls_of(surroundings, "inbound", PARTITIONS)
    async with AsyncExitStack() as stack:
        each = {name: await settings(surroundings, of, name, **more) for name in PARTITIONS}
        clients = {name: await stack.enter_async_context(running(build(own))) for name, own in each.items()}
        yield Divided(surroundings, of, clients, each["a"])


async def test_a_callback_with_people_of_both_shards_is_parted_and_a_repeat_at_the_other_creates_nothing(
    surroundings: Surroundings,
) -> None:
    body = several((A, "STOP"), (B, "STOP"), (people("b", 2)[1], "merci"))
    async with divided(surroundings, roles=CALLED) as both:
        first = await call(both.clients["a"], body)
        assert first.status_code == 200, first.text
        assert await both.items() == {"a": {subject(A)}, "b": {subject(n) for n in people("b", 2)}}
        told = await both.messages()
        for client in both.clients.values():
            assert (await call(client, body)).status_code == 200
            assert (await text(client, B)).status_code == 200
            assert (await text(client, A, mo="mo-2")).status_code == 200
        again = await both.messages()
        assert [(partition, event.intent) for partition, event in told] == [
            (partition_of(event.subject_id, 3), event.intent) for _, event in told
        ]
        assert {(event.provider_message_id, event.intent) for _, event in again} == {
            (f"several-{A}", "stop"),
            (f"several-{B}", "stop"),
            (f"several-{people('b', 2)[1]}", "none"),
            ("mo-1", "stop"),
            ("mo-2", "stop"),
        }
        assert len(again) == 5
        assert await both.counted("SELECT count(*) FROM callback WHERE body IS NOT NULL") == {"a": 1, "b": 1}


async def test_a_dlr_is_kept_once_in_the_shard_that_publishes_it(surroundings: Surroundings) -> None:
    """The same shard for every callback: its relay alone numbers the records of the partition."""
    every = [*names("a", 3), *names("b", 3)]
    async with divided(surroundings, roles=CALLED) as both:
        for client in both.clients.values():
            assert (await dlrs(client, *every)).status_code == 200
            for each in every:
                assert (await dlrs(client, each)).status_code == 200
        assert await both.receipts() == sorted(every)
        assert await both.counted("SELECT count(*) FROM receipt") == {"a": 3, "b": 3}
        for name, held in HELD.items():
            numbered = await both.sql(name, "SELECT topic, partition FROM outbox_log")
            assert {row["partition"] for row in numbered} <= set(held)


async def test_while_a_shard_is_away_a_callback_is_refused_and_its_repeat_completes_it(
    surroundings: Surroundings,
) -> None:
    of = await urls_of(surroundings, "inbound", PARTITIONS)
    body = several((A, "STOP"), (B, "STOP"))
    every = [*names("a", 1), *names("b", 1)]
    for name in PARTITIONS:
        async with running(build(await settings(surroundings, of, name, roles="api"))):
            pass  # each database states its partitions: no new one starts alone
    cut_off = await settings(surroundings, of | {"b": NOWHERE}, "a", roles=CALLED, publish_timeout_s=30.0)
    async with running(build(cut_off)) as client:
        assert (await text(client, A, mo="mo-2")).status_code == 200, "the people of the other shard feel nothing"
        for refused in (await call(client, body), await dlrs(client, *every), await text(client, B)):
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        nonces = [f"nonce-{n}" for n in range(6)]
        assert {(await nonced(client, each, B)).status_code for each in nonces} == {503}
        both = Divided(surroundings, of, {}, cut_off)
        assert await both.items() == {"a": {subject(A)}, "b": set()}
        assert 0 < (await both.counted("SELECT count(*) FROM nonce"))["a"] < len(nonces)
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(running(build(await settings(surroundings, of, name, roles=CALLED))))
            for name in PARTITIONS
        }
        for answer in (await call(clients["a"], body), await dlrs(clients["b"], *every), await text(clients["a"], B)):
            assert answer.status_code == 200, answer.text
        assert {(await nonced(clients["b"], each, B)).status_code for each in nonces} == {204}, "no replay"
        assert await both.items() == {"a": {subject(A)}, "b": {subject(B)}}
        told = [event.provider_message_id for _, event in await both.messages()]
        assert sorted(told) == sorted([f"several-{A}", f"several-{B}", "mo-1", "mo-2", f"mo-{B}"])
        assert await both.receipts() == sorted(every)


async def test_a_nonce_used_before_is_refused_by_each_shard(surroundings: Surroundings) -> None:
    """Of whomever its other content is."""

    async with divided(surroundings, roles=CALLED) as both:
        for nonce in (f"nonce-{n}" for n in range(6)):
            for client in both.clients.values():  # the same again is a retry
                assert (await nonced(client, nonce, A)).status_code == 204
            for client in both.clients.values():
                assert (await nonced(client, nonce, B)).status_code == 401
        assert await both.items() == {"a": {subject(A)}, "b": set()}
        kept = await both.counted("SELECT count(*) FROM nonce")
        assert sum(kept.values()) == 6
        assert min(kept.values()) > 0


async def test_a_stop_comes_from_the_shard_of_the_person_and_a_watermark_from_that_of_the_partition(
    surroundings: Surroundings,
) -> None:
    """Of the other's rows a relay knows nothing: its watermark would say that an unpublished STOP was read."""
    of = await urls_of(surroundings, "inbound", PARTITIONS)
    own = await settings(surroundings, of, "a", roles=CALLED)
    async with running(build(own)) as client:
        both = Divided(surroundings, of, {"a": client}, own)

        async def told_by(*shards: str) -> set[int]:
            marks = await watermarks(own, INBOUND_MESSAGES)
            assert {mark.partition for mark in marks} <= {partition for name in shards for partition in HELD[name]}
            return {mark.partition for mark in marks}

        async def own_are_there() -> bool:
            return await told_by("a") == {0, 1}

        await eventually(own_are_there)
        assert (await text(client, A)).status_code == 200
        assert await told_by("a") == {0, 1}, "and none of the partition of the other shard"
        async with running(build(await settings(surroundings, of, "b", roles=CALLED))):
            assert (await text(client, B, mo="mo-2")).status_code == 200

            async def all_are_there() -> bool:
                return await told_by("a", "b") == {0, 1, 2}

            await eventually(all_are_there)
    assert {(partition, event.subject_id) for partition, event in await both.messages()} == {
        (partition_of(subject(n), 3), subject(n)) for n in (A, B)
    }


async def test_reviews_of_both_shards_are_one_list_and_each_is_decided_and_undone_where_it_is(
    surroundings: Surroundings,
) -> None:
    turns = [n for pair in zip(people("a"), people("b"), strict=True) for n in pair]
    async with divided(surroundings, roles=CALLED, review_undo_s=600) as both:
        for n in turns:
            assert (await text(both.clients["a"], n, DOUBT, mo=f"mo-{n}")).status_code == 200
        listed: list[dict[str, Any]] = []
        cursor: dict[str, Any] = {}
        while True:
            page = (await both.clients["b"].get("/v1/reviews", params={"limit": 2, **cursor})).json()
            listed += page["items"]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert [each["subject_id"] for each in listed] == [subject(n) for n in turns], "the oldest first"
        of = {each["subject_id"]: each["mo_id"] for each in listed}
        for name, client in both.clients.items():
            for n in (people("a")[0], people("b")[0]):
                path = f"/v1/reviews/{of[subject(n)]}"
                decided = await client.post(f"{path}/decision", json={"intent": "contact"})
                assert decided.status_code == 200, decided.text
                undone = await client.post(f"{path}/undo")
                assert undone.json()["decision"] is None, name
        unknown = await both.clients["a"].post("/v1/reviews/unknown/decision", json={"intent": "stop"})
        assert unknown.status_code == 404
        ids = [*of.values(), "unknown"]
        several_at_once = await both.clients["b"].post("/v1/reviews/decisions", json={"mo_ids": ids, "intent": "stop"})
        results = several_at_once.json()["items"]
        assert [each["mo_id"] for each in results] == ids
        assert [each["result"] for each in results] == [*["decided"] * 6, "refused"]
        assert await both.counted("SELECT count(*) FROM review WHERE told_at IS NOT NULL") == {"a": 3, "b": 3}
        proposed = (await both.clients["a"].get("/v1/reviews/proposals")).json()["items"]
        assert [(each["people"], each["intents"]) for each in proposed] == [(6, {"stop": 6})]


async def test_a_merged_page_waits_for_a_review_that_is_being_written_in_a_shard_with_few(
    surroundings: Surroundings,
) -> None:
    """Its place lies before one that is shown: behind the cursor no page would show it."""
    async with divided(surroundings, roles=CALLED) as both:
        client = both.clients["a"]
        for n in people("a"):
            assert (await text(client, n, DOUBT, mo=f"mo-{n}")).status_code == 200
        writing = await asyncpg.connect(both.urls["b"])
        try:
            transaction = writing.transaction()
            await transaction.start()
            copied = "INSERT INTO review (mo_id, subject_id, event) VALUES ('late', 's', $1)"
            [review] = await both.sql("a", "SELECT event FROM review ORDER BY id LIMIT 1")
            await writing.execute(copied, review["event"])
            assert (await text(client, B, DOUBT, mo="mo-b")).status_code == 200
            assert (await client.get("/v1/reviews", params={"limit": 4})).status_code == 503
            await transaction.commit()
        finally:
            await writing.close()
        assert len((await client.get("/v1/reviews", params={"limit": 4})).json()["items"]) == 4


async def test_a_review_is_decided_while_the_other_shard_is_away(surroundings: Surroundings) -> None:
    of = await urls_of(surroundings, "inbound", PARTITIONS)
    own = await settings(surroundings, of, "a", roles=CALLED)
    async with running(build(own)) as client:
        assert (await text(client, A, DOUBT)).status_code == 200
        [review] = await Divided(surroundings, of, {}, own).sql("a", "SELECT mo_id FROM review")
    cut_off = await settings(surroundings, of | {"b": NOWHERE}, "a", roles=CALLED)
    async with running(build(cut_off)) as client:
        decided = await client.post(f"/v1/reviews/{review['mo_id']}/decision", json={"intent": "stop"})
        assert decided.status_code == 200, decided.text
        assert (await client.post("/v1/reviews/unknown/decision", json={"intent": "stop"})).status_code == 503


async def test_replies_of_both_shards_are_one_list(surroundings: Surroundings) -> None:
    turns = [n for pair in zip(people("a"), people("b"), strict=True) for n in pair]
    async with divided(surroundings, roles="api,relay,worker") as both:
        await publish(surroundings, SENDERS, [sender_changed(stop_code="36111")])

        async def known() -> bool:
            return await both.counted("SELECT count(*) FROM sender") == {"a": 1, "b": 1}

        await eventually(known)
        for n in turns:
            assert (await text(both.clients["b"], n, "bonjour", mo=f"mo-{n}")).status_code == 200
        [row] = await both.sql("a", "SELECT sender_id FROM sender")
        for client in both.clients.values():
            found: list[str] = []
            cursor: dict[str, Any] = {}
            while True:
                asked = {"sender_id": row["sender_id"], "limit": 4, "sort": "oldest", **cursor}
                page = (await client.get("/v1/replies", params=asked)).json()
                found += [each["mo_id"] for each in page["items"]]
                if page["next"] is None:
                    break
                cursor = {"cursor": page["next"]}
            told = {event.mo_id: event.provider_message_id for _, event in await both.messages()}
            assert [told[mo_id] for mo_id in found] == [f"mo-{n}" for n in turns]


async def test_an_erasure_leaves_nothing_of_the_person_in_either_database(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api,relay,worker") as both, reading(surroundings, ERASURE_ACKS) as read:
        assert (await call(both.clients["a"], several((A, "ni oui"), (B, "ni non")))).status_code == 200
        partly = await call(both.clients["a"], several((people("a", 2)[1], "merci"), broken=True))
        assert partly.status_code == 422
        assert (await text(both.clients["a"], B, f"{DOUBT} du tout")).status_code == 200
        assert await both.held("a", B, "ni non") == []
        assert await both.held("a", people("a", 2)[1], "merci") == [], "the other item may be of anybody"
        assert await both.held("b", B, "du tout") == ["callback.body", "review.event"]
        asked = erasure_requested(B)
        await publish(surroundings, ERASURES, [asked])
        await acknowledged(read, asked.erasure_id)
        for shard in PARTITIONS:
            assert await both.held(shard, B, "ni non", "du tout") == []
        assert await both.counted("SELECT count(*) FROM erasing") == {"a": 0, "b": 1}


async def test_an_operators_records_are_kept_once_each_in_the_shard_of_the_person(surroundings: Surroundings) -> None:
    """Each shard reads them all: nothing is lost or doubled where one of them dies."""
    everybody = [*people("a"), *people("b")]
    async with divided(surroundings, kafka_operators=("orange",)) as both:
        said = [kafka_mo("merci", f"or-{n}", sender=number(n)) for n in everybody]
        await publish(surroundings, MO_TOPIC, [*said, *said])
        unread = [{"sender": number(n), "recipient": "36111", "text": "STOP"} for n in (A, B)]
        await publish_raw(surroundings, MO_TOPIC, b"k", json.dumps(unread).encode(), [])

        async def stepped() -> bool:
            query = "SELECT coalesce(sum(next_offset), 0) FROM consumer_offset WHERE topic LIKE 'operator.%.messages%'"
            return await both.counted(query) == dict.fromkeys(PARTITIONS, 2 * len(everybody) + 1)

        await eventually(stepped)
        for name in PARTITIONS:
            assert (await both.items())[name] == {subject(n) for n in people(name)}
            others = [n for n in everybody if n not in people(name)]
            assert [await both.held(name, n) for n in others] == [[]] * len(others)

        async def told() -> bool:
            found = sorted(event.provider_message_id for _, event in await both.messages())
            return found[:6] == sorted(f"or-{n}" for n in everybody) and len(found) == 8

        await eventually(told)
        assert await both.counted("SELECT count(*) FROM review") == {"a": 1, "b": 1}


async def test_a_pull_runs_in_the_first_shard_and_keeps_each_item_in_its_own(surroundings: Surroundings) -> None:
    at = now() - timedelta(minutes=10)
    lists = Lists()
    everybody = [*people("a"), *people("b")]
    lists.held += [Listed(f"m-{n}", number(n), "36111", "STOP", at) for n in everybody]
    lists.held += [Listed(each, "MAISONLUNE", number(A), "Offre", at, "delivered") for each in names("b", 2)]
    async with serving("vonage", lists):
        pulled = {**KEYS["vonage"], "url": lists.url, "every_s": 0.2}
        account = {"provider": "vonage", "account": "main", "path_secrets": [PATH_SECRET], "pull": pulled}
        async with divided(surroundings, provider_accounts=[account]) as both:

            async def all_are_there() -> bool:
                return await both.receipts() == sorted(names("b", 2)) and len(await both.messages()) >= len(everybody)

            await eventually(all_are_there)
            assert await both.items() == {name: {subject(n) for n in people(name)} for name in PARTITIONS}
            assert await both.counted("SELECT count(*) FROM receipt") == {"a": 0, "b": 2}
            assert len(await both.messages()) == len(everybody)


async def test_a_database_is_divided_with_the_people_of_both_sides(surroundings: Surroundings) -> None:
    """What one service has begun two go on with: a repeat stays one, and a shared body goes from both."""
    accounts = {"provider_accounts": [SIMULATOR, INFOBIP, STANDARD], "publish_timeout_s": 60.0}
    whole = await surroundings.settings("inbound", roles=CALLED, **accounts)
    every = [*names("a", 2), *names("b", 2)]
    body = several((A, "coucou Alix"), (B, "coucou Bea"))
    async with running(build(Settings(**whole))) as client:
        for n in (A, B):
            assert (await text(client, n, DOUBT, mo=f"mo-{n}")).status_code == 200
        assert (await call(client, body)).status_code == 200
        assert (await dlrs(client, *every)).status_code == 200
    of = {
        "a": whole["database_url"],
        "b": await surroundings.postgres.copy(whole["database_url"], f"b_{surroundings.unique}"),
    }
    for name, url in of.items():
        database = Database(url, name="inbound-divide")
        await division.divide(database, TABLES, HELD[name], 3)
        await division.divide(database, TABLES, HELD[name], 3)  # an interrupted run is run again
        await database.close()
    both = Divided(surroundings, of, {}, await settings(surroundings, of, "a"))
    assert await both.items() == {"a": {subject(A)}, "b": {subject(B)}}
    assert await both.held("a", B, "Bea") == []
    assert await both.held("b", A, "Alix") == []
    assert await both.held("b", B) == ["callback.body", "review.event"]
    assert await both.counted("SELECT count(*) FROM callback WHERE kind = 'messages'") == {"a": 2, "b": 2}
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(running(build(await settings(surroundings, of, name, roles=CALLED))))
            for name in PARTITIONS
        ]
        for client in clients:
            assert (await call(client, body)).status_code == 200
            assert (await dlrs(client, *every)).status_code == 200
            assert (await text(client, B, DOUBT, mo=f"mo-{B}")).status_code == 200
            assert len((await client.get("/v1/reviews")).json()["items"]) == 2
        assert len(await both.messages()) == 4
        assert await both.receipts() == sorted(every)


async def test_a_database_starts_with_the_partitions_that_it_holds_and_with_no_others(
    surroundings: Surroundings,
) -> None:
    of = await urls_of(surroundings, "inbound", PARTITIONS)
    for name in PARTITIONS:
        async with running(build(await settings(surroundings, of, name, roles="api"))):
            pass
    swapped = {"a": of["b"], "b": of["a"]}
    with pytest.raises(OtherShard, match="holds the partitions 2-2 of 3"):
        async with running(build(await settings(surroundings, swapped, "a", roles="api"))):
            pass
    whole = await surroundings.settings("inbound", roles="api")
    with pytest.raises(OtherShard, match="holds the partitions 0-1 of 3, and the settings say 0-2"):
        async with running(build(Settings(**whole | {"database_url": of["a"]}))):
            pass


def test_each_table_with_people_is_divided() -> None:
    placed = {*TABLES.of_people, *TABLES.emptied, *TABLES.placed}
    with_people = {table.name for table in metadata.tables.values() if "subject_id" in table.columns}
    assert with_people - placed == {"audit_line"}  # of the process, and kept in each part
