"""consent-svc in two shards: each with some partitions, a database, a relay and watermarks of its own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from common.kafka.broker import partition_of
from common.sms.msisdn import readings
from consent.service import Settings, build
from tests.support.builders import number, subject, subject_keys
from tests.support.running import Surroundings, running

pytestmark = pytest.mark.any_broker

PARTITIONS = {"a": "0-1", "b": "2"}
HELD = {"a": (0, 1), "b": (2,)}
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/consent"
CALLED = "api,relay"
SENDER: dict[str, Any] = {
    "sender_id": "acme",
    "legal_name": "Acme SAS",
    "brand": "Acme",
    "contact": "contact@acme.example",
    "country": "FR",
    "abroad": ["ES"],
    "oadc": "ACME",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Nos offres par SMS"}],
}


def shard_of(subject_id: str) -> str:
    return "b" if partition_of(subject_id, 3) == 2 else "a"


def people(shard: str, many: int = 3) -> list[int]:
    """The first people whom a shard holds."""
    return [n for n in range(1, 99) if shard_of(subject(n)) == shard][:many]


def two_readings(first: str) -> tuple[str, str, str]:
    """A writing of two people, the first of this shard and the second of the other, with their subject ids."""
    for n in range(1, 999):
        written = number(n).removeprefix("+33")
        one, *more = readings(written, countries=("FR", "ES"), fictional=True)
        [french, spanish] = subject_keys.subject_ids([one, *more])
        if shard_of(french) == first != shard_of(spanish):
            return written, french, spanish
    raise AssertionError("there is one")


A, B = people("a", 1)[0], people("b", 1)[0]


@dataclass
class Divided:
    """Two running shards. `clients`: of each."""

    surroundings: Surroundings
    urls: dict[str, str]
    clients: dict[str, httpx.AsyncClient]

    async def sql(self, shard: str, query: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.urls[shard])
        try:
            found: list[asyncpg.Record] = await connection.fetch(query, *values)
            return found
        finally:
            await connection.close()

    async def counted(self, query: str) -> dict[str, int]:
        return {name: (await self.sql(name, query))[0][0] for name in self.urls}

    async def said(self, kind: str = "opt_in") -> dict[str, list[str]]:
        """The people of the lines of a kind, in each ledger."""
        query = "SELECT subject_id FROM evidence WHERE kind = $1 ORDER BY subject_id"
        return {name: [row["subject_id"] for row in await self.sql(name, query, kind)] for name in self.urls}


def of_shards(*subject_ids: str) -> dict[str, list[str]]:
    """Where these people belong."""
    return {name: sorted(one for one in subject_ids if shard_of(one) == name) for name in PARTITIONS}


def consent(n: int, **more: Any) -> dict[str, Any]:
    return {
        "sender_id": "acme",
        "purpose": "promotions",
        "number": number(n),
        "basis": "opt_in",
        "occurred_at": "2026-03-02T14:05:00+01:00",
        "evidence": {"source": "shop", "form_id": "checkout", "form_version": "7"},
        **more,
    }


def opt_out(of: int | str, **more: Any) -> dict[str, Any]:
    told = number(of) if isinstance(of, int) else of
    return {"sender_id": "acme", "number": told, "evidence": {"source": "call-centre"}, **more}


async def urls(surroundings: Surroundings) -> dict[str, str]:
    return {name: await surroundings.postgres.clone("consent", f"{name}_{surroundings.unique}") for name in PARTITIONS}


async def settings(surroundings: Surroundings, of: dict[str, str], shard: str, **more: Any) -> Settings:
    shards = {name: {"partitions": PARTITIONS[name], "database_url": of[name]} for name in PARTITIONS}
    usual = {"page_url": "https://p.example", "roles": CALLED}
    told = await surroundings.settings("consent", **{**usual, "shards": shards, "shard": shard, **more})
    return Settings(**told | {"database_url": of[shard]})


async def registered(clients: dict[str, httpx.AsyncClient], *senders: dict[str, Any]) -> None:
    """The senders, in the registry of each shard."""
    for sender in senders or (SENDER,):
        for client in clients.values():
            answer = await client.post("/v1/senders", json=sender)
            assert answer.status_code in (200, 201), answer.text


@asynccontextmanager
async def divided(surroundings: Surroundings, **more: Any) -> AsyncIterator[Divided]:
    of = await urls(surroundings)
    async with AsyncExitStack() as stack:
        each = {name: await settings(surroundings, of, name, **more) for name in PARTITIONS}
        clients = {name: await stack.enter_async_context(running(build(own))) for name, own in each.items()}
        await registered(clients)
        yield Divided(surroundings, of, clients)


@asynccontextmanager
async def cut_off(surroundings: Surroundings, of: dict[str, str], shard: str) -> AsyncIterator[httpx.AsyncClient]:
    """The shard, while the other's database is away."""
    [other] = set(PARTITIONS) - {shard}
    own = await settings(surroundings, of | {other: NOWHERE}, shard, roles="api")
    async with running(build(own)) as client:
        yield client


async def test_an_opt_in_and_an_opt_out_are_recorded_in_the_shard_of_the_person_whoever_is_asked(
    surroundings: Surroundings,
) -> None:
    async with divided(surroundings) as both:
        for client, n in zip(both.clients.values(), (B, A), strict=True):
            given = await client.post("/v1/consents", json=consent(n))
            assert given.status_code == 201, given.text
        assert await both.said() == of_shards(subject(A), subject(B))
        for client in both.clients.values():
            for n in (A, B):
                found = (await client.post("/v1/subjects/lookup", json={"number": number(n)})).json()
                assert [each["state"] for each in found["consents"]] == ["opted_in"], n
                told = (await client.post("/v1/timeline", json={"number": number(n)})).json()
                assert [each["kind"] for each in told["items"]] == ["opt_in"]
        for client, n in zip(both.clients.values(), (B, A), strict=True):
            assert (await client.post("/v1/opt-outs", json=opt_out(n))).status_code == 201
        assert await both.said("opt_out") == of_shards(subject(A), subject(B))
        for name, held in HELD.items():
            numbered = await both.sql(name, "SELECT partition FROM outbox_log WHERE topic = 'consent.states.v1'")
            assert {row["partition"] for row in numbered} <= set(held)


async def test_a_key_of_one_person_is_kept_beside_the_person_and_a_repeat_anywhere_creates_nothing(
    surroundings: Surroundings,
) -> None:
    async with divided(surroundings) as both:
        for n in (A, B):
            answers = [
                await client.post(path, json=body, headers={"Idempotency-Key": f"{path}-{n}"})
                for path, body in (("/v1/consents", consent(n)), ("/v1/opt-outs", opt_out(n)))
                for client in (*both.clients.values(), *both.clients.values())
            ]
            assert {answer.status_code for answer in answers} == {201}
            assert len({answer.text for answer in answers}) == 2, "the first answer each time"
        for kind in ("opt_in", "opt_out"):
            assert await both.said(kind) == of_shards(subject(A), subject(B))
        assert await both.counted("SELECT count(*) FROM keyed_request") == {"a": 2, "b": 2}
        reused = await both.clients["a"].post(
            "/v1/consents", json=consent(B, purpose="other"), headers={"Idempotency-Key": f"/v1/consents-{B}"}
        )
        assert reused.status_code == 422, "of one person, another request under the key is refused"
        assert reused.json()["reasons"][0]["reason"] == "reused"


@pytest.mark.parametrize("key", [None, "k"])
async def test_an_opt_out_of_two_people_is_in_both_shards_and_a_repeat_completes_it(
    surroundings: Surroundings, key: str | None
) -> None:
    headers = {"Idempotency-Key": key} if key else {}
    for first in PARTITIONS:
        written, *both_people = two_readings(first)
        async with divided(surroundings, roles="api") as both:
            for client in both.clients.values():
                told = await client.post("/v1/opt-outs", json=opt_out(written), headers=headers)
                assert told.status_code == 201, told.text
            stopped = await both.said("opt_out")
            assert {name: set(stopped[name]) for name in stopped} == {
                name: set(of) for name, of in of_shards(*both_people).items()
            }
            assert not key or all(len(each) == 1 for each in stopped.values()), "the repeat records nothing again"
        await surroundings.postgres.drop()


@pytest.mark.parametrize("alive", list(PARTITIONS))
async def test_an_opt_out_of_two_people_is_refused_while_one_is_away_and_a_repeat_stops_both(
    surroundings: Surroundings, alive: str
) -> None:
    """Whichever of the two is away: the one that is there is stopped at once."""
    headers = {"Idempotency-Key": "k"}
    for first in PARTITIONS:
        of = await urls(surroundings)
        written, *both_people = two_readings(first)
        both = Divided(surroundings, of, {})
        async with AsyncExitStack() as stack:
            each = {name: await settings(surroundings, of, name, roles="api") for name in PARTITIONS}
            clients = {name: await stack.enter_async_context(running(build(own))) for name, own in each.items()}
            await registered(clients)
        async with cut_off(surroundings, of, alive) as client:
            refused = await client.post("/v1/opt-outs", json=opt_out(written), headers=headers)
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert await both.said("opt_out") == of_shards(*both_people) | {key: [] for key in set(PARTITIONS) - {alive}}
        async with running(build(each[alive])) as client:
            answers = [await client.post("/v1/opt-outs", json=opt_out(written), headers=headers) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [201, 201]
            assert answers[0].text == answers[1].text
        stopped = await both.said("opt_out")
        assert {name: set(stopped[name]) for name in stopped} == {
            name: set(each) for name, each in of_shards(*both_people).items()
        }
        await surroundings.postgres.drop()


async def test_while_a_shard_is_away_its_people_alone_are_refused(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        of = both.urls
    async with cut_off(surroundings, of, "a") as client:
        for path, body in (("/v1/consents", consent), ("/v1/opt-outs", opt_out)):
            for key in ("k1", "k2", "k3", None):
                headers = {"Idempotency-Key": f"{path}-{key}"} if key else {}
                taken = await client.post(path, json=body(A), headers=headers)
                assert taken.status_code == 201, taken.text
                assert (await client.post(path, json=body(B), headers=headers)).status_code == 503
        assert (await client.post("/v1/subjects/lookup", json={"number": number(A)})).status_code == 200
        assert (await client.post("/v1/subjects/lookup", json={"number": number(B)})).status_code == 503


async def test_a_batch_is_recorded_in_the_shards_of_its_people_and_a_repeat_under_its_key_completes_it(
    surroundings: Surroundings,
) -> None:
    everybody = [n for pair in zip(people("a"), people("b"), strict=True) for n in pair]
    body = {"items": [*map(consent, everybody), consent(A, purpose="other")]}
    keys = [f"batch-{n}" for n in range(6)]  # some of either shard
    async with divided(surroundings, roles="api") as both:
        of = both.urls
    async with cut_off(surroundings, of, "a") as client:
        for key in keys:
            refused = await client.post("/v1/consents/batch", json=body, headers={"Idempotency-Key": key})
            assert refused.status_code == 503
    assert {name: set(of) for name, of in (await both.said()).items()} == {
        "a": set(map(subject, people("a"))),
        "b": set(),
    }
    async with AsyncExitStack() as stack:
        each = {name: await settings(surroundings, of, name, roles="api") for name in PARTITIONS}
        clients = [await stack.enter_async_context(running(build(own))) for own in each.values()]
        first = await clients[0].post("/v1/consents/batch", json=body, headers={"Idempotency-Key": keys[0]})
        assert first.status_code == 200, first.text
        assert [result["verdict"] for result in first.json()["results"]] == [
            "recorded" if n in people("b") else "unchanged" for n in everybody
        ] + ["refused"]
        assert [result["evidence_id"] is None for result in first.json()["results"]] == [False] * 6 + [True]
        for client in clients:
            again = await client.post("/v1/consents/batch", json=body, headers={"Idempotency-Key": keys[0]})
            assert again.text == first.text
            other = {"items": [consent(B)]}
            reused = await client.post("/v1/consents/batch", json=other, headers={"Idempotency-Key": keys[0]})
            assert reused.status_code == 422, "by any process, whoever its people are"
        assert (await both.said())["b"] == sorted(map(subject, people("b")))
        nothing = {"items": [consent(A, purpose="other")]}
        for key in (f"refused-{n}" for n in range(4)):
            assert (
                await clients[0].post("/v1/consents/batch", json=nothing, headers={"Idempotency-Key": key})
            ).status_code == 200
        held = await both.counted("SELECT count(*) FROM keyed_request WHERE answer IS NOT NULL")
        assert sum(held.values()) == 1
        left = await both.counted("SELECT count(*) FROM keyed_request WHERE key LIKE '%'")
        assert sum(left.values()) <= len(keys), "a batch of refusals gives its key back"
