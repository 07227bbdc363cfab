"""consent-svc in two shards: each with some partitions, a database, a relay and watermarks of its own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from common.contracts import DISPATCH_MESSAGES, ERASURE_ACKS, INBOUND_MESSAGES, STATES
from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.contracts.inbound import Intent, MessageReceived
from common.contracts.rights import ErasureAcknowledged
from common.kafka.broker import partition_of
from common.privacy import stop_link
from common.sms.msisdn import readings
from consent.page.confirm import CONFIRM
from consent.page.link import Link, token
from consent.service import Settings, build
from tests.service.inbound.published import watermarks
from tests.support.builders import field_keys, link_keys, now, number, shown, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.publish import heartbeat, publish
from tests.support.running import Surroundings, running
from tests.support.shards import InShards, urls_of

pytestmark = pytest.mark.any_broker

PARTITIONS = {"a": "0-1", "b": "2"}
LINKS: dict[stop_link.Kind, str] = {"stop link": stop_link.PATH, "preference link": stop_link.PREFERENCES_PATH}
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
class Divided(InShards):
    """Two running shards. `clients`: of each."""

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
    of = await urls_of(surroundings, "consent", PARTITIONS)
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


async def pages(client: httpx.AsyncClient, path: str, **more: Any) -> list[dict[str, Any]]:
    """The items of a list, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = await client.get(path, params={"limit": 2, **more, **cursor})
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if answer.json()["next"] is None:
            return found
        cursor = {"cursor": answer.json()["next"]}


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
        of = await urls_of(surroundings, "consent", PARTITIONS)
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


async def test_numbers_of_both_shards_are_checked_in_their_order(surroundings: Surroundings) -> None:
    turns = [n for pair in zip(people("a"), people("b"), strict=True) for n in pair]
    async with divided(surroundings) as both:
        for n in turns[:4]:
            assert (await both.clients["a"].post("/v1/consents", json=consent(n))).status_code == 201
        asked = [*map(number, turns), "01 99 00 12 34", number(98)]
        for client in both.clients.values():
            answer = await client.post(
                "/v1/consents/check", json={"sender_id": "acme", "purpose": "promotions", "numbers": asked}
            )
            results = answer.json()["results"]
            assert [each["allowed"] for each in results] == [True] * 4 + [False] * 4
            assert [each["subject_id"] for each in results] == [
                *(shown(n, "acme") for n in turns),
                None,
                shown(98, "acme"),
            ]


@pytest.mark.parametrize("sort", ["newest", "oldest"])
async def test_opt_outs_of_both_shards_are_one_list_by_their_time(surroundings: Surroundings, sort: str) -> None:
    turns = [n for pair in zip(people("a"), people("b"), strict=True) for n in pair]
    async with divided(surroundings) as both:
        for n in turns:
            assert (await both.clients["b"].post("/v1/opt-outs", json=opt_out(n))).status_code == 201
        expected = [shown(n, "acme") for n in (turns[::-1] if sort == "newest" else turns)]
        for client in both.clients.values():
            for limit in (2, 3, 10):
                found = await pages(client, "/v1/opt-outs", sender_id="acme", sort=sort, limit=limit)
                assert [each["subject_id"] for each in found] == expected
            lines = (await client.get("/v1/opt-outs.csv", params={"sender_id": "acme"})).text.splitlines()
            assert {line.split(",")[0] for line in lines[1:]} == set(expected)
            assert len(lines) == 1 + len(turns)


async def test_the_rights_of_a_person_of_the_other_shard_are_used_there_and_found_by_every_process(
    surroundings: Surroundings,
) -> None:
    turns = [n for pair in zip(people("a", 2), people("b", 2), strict=True) for n in pair]
    asked_by = {"evidence": {"source": "call-centre", "actor": "agent-12"}}
    async with divided(surroundings, roles="api,relay,worker") as both:
        ids: dict[str, list[str]] = {"erasures": [], "copies": [], "rectifications": []}
        for n in turns:
            for client in both.clients.values():  # the second is a repeat
                headers = {"Idempotency-Key": f"same-{n}"}
                copied = await client.post("/v1/copies", json={"number": number(n)}, headers=headers)
                assert copied.status_code == 202, copied.text
                correct = {"kind": "contact", "sender_id": "acme", "fields": {"city": "Lyon"}}
                asked = {"source": "letter", "actor": "agent-12"}
                headers = {"Idempotency-Key": f"right-{n}"}
                righted = await client.post(
                    "/v1/rectifications",
                    json={"number": number(n), "asked": asked, "correct": correct},
                    headers=headers,
                )
                assert righted.status_code == 202, righted.text
                ids["copies"].append(copied.json()["copy_id"])
                for asker in both.clients.values():
                    assert (await asker.get(f"/v1/copies/{copied.json()['copy_id']}")).status_code == 200
                ids["rectifications"].append(righted.json()["rectification_id"])
        for n in turns:
            for client in both.clients.values():
                erased = await client.post("/v1/erasures", json={"number": number(n), **asked_by})
                assert erased.status_code == 202, erased.text
                ids["erasures"].append(erased.json()["erasure_id"])
        for path, each in ids.items():
            assert each[::2] == each[1::2], "a repeat at the other process is the same"
            table = {"copies": "copy", "erasures": "erasure", "rectifications": "rectification"}[path]
            query = f"SELECT subject_id FROM {table} ORDER BY subject_id"
            stored = {name: [row["subject_id"] for row in await both.sql(name, query)] for name in PARTITIONS}
            expected = of_shards(*map(subject, turns))
            assert path == "copies" or stored == expected, "an erasure takes copies"
            for client in both.clients.values():
                for identity in each if path != "copies" else ():
                    assert (await client.get(f"/v1/{path}/{identity}")).status_code == 200
                assert (await client.get(f"/v1/{path}/unknown")).status_code == 404
        for client in both.clients.values():
            found = await pages(client, "/v1/erasures", limit=1)
            assert [each["subject_id"] for each in found] == [shown(n, "acme") for n in turns], "the oldest first"
            found = await pages(client, "/v1/rectifications", limit=3)
            assert [each["subject_id"] for each in found] == [shown(n, "acme") for n in turns]
        acks = [
            ErasureAcknowledged(
                erasure_id=identity, subject_id=subject(n), service=service, erased_at=now(), erased={"rows": 1}
            )
            for n, identity in zip(turns, ids["erasures"][::2], strict=True)
            for service in ("campaign", "dispatch", "inbound")
        ]
        await publish(surroundings, ERASURE_ACKS, acks)

        async def complete() -> bool:
            done = await pages(both.clients["a"], "/v1/erasures", status="complete")
            return [each["subject_id"] for each in done] == [shown(n, "acme") for n in turns]

        await eventually(complete)


async def test_rights_are_used_while_the_other_shard_is_away_by_its_own_people(surroundings: Surroundings) -> None:
    asked = {"evidence": {"source": "call-centre", "actor": "agent-12"}}
    async with divided(surroundings, roles="api") as both:
        of = both.urls
    async with cut_off(surroundings, of, "a") as client:
        erased = await client.post("/v1/erasures", json={"number": number(A), **asked})
        assert erased.status_code == 202, erased.text
        assert (await client.post("/v1/erasures", json={"number": number(B), **asked})).status_code == 503
        assert (await client.get(f"/v1/erasures/{erased.json()['erasure_id']}")).status_code == 200
        assert (await client.get("/v1/erasures/unknown")).status_code == 503, "it may be in the other"
        assert (await client.get("/v1/erasures")).status_code == 503


async def test_the_page_of_a_person_opens_at_every_process_and_stops_in_the_shard_of_the_person(
    surroundings: Surroundings,
) -> None:
    async with divided(surroundings) as both:
        for client, n in zip(both.clients.values(), (B, A), strict=True):
            assert (await client.post("/v1/consents", json=consent(n))).status_code == 201
            made = await client.post("/v1/preference-links", json={"sender_id": "acme", "number": number(n)})
            assert made.status_code == 201, made.text
            path = made.json()["url"].removeprefix("https://p.example")
            assert await both.sql(shard_of(subject(n)), "SELECT FROM preference_link WHERE subject_id = $1", subject(n))
            for each in both.clients.values():
                shown_page = await each.get(path)
                assert shown_page.status_code == 200
                assert "Nos offres par SMS" in shown_page.text
            stopped = await client.post(f"{path}/stop")
            assert stopped.status_code in (200, 303), stopped.text
        assert await both.said("opt_out") == of_shards(subject(A), subject(B))
        for client, n in zip(both.clients.values(), (B, A), strict=True):
            for kind, prefix in LINKS.items():
                written = stop_link.token(link_keys, "acme", subject(n), now(), kind)
                assert (await client.get(f"{prefix}/acme/{written}")).status_code == 200
                assert (await client.post(f"{prefix}/acme/{written}")).status_code in (200, 303)
            assert await both.sql(
                shard_of(subject(n)), "SELECT FROM preference_link WHERE subject_id = $1 OFFSET 1", subject(n)
            )
        unknown = token(Link("0" * 16, datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)), link_keys)
        assert (await both.clients["a"].get(f"/p/{unknown}")).status_code == 410
        of = both.urls
    async with cut_off(surroundings, of, "a") as client:
        assert (await client.get(f"/p/{unknown}")).status_code == 503, "the link may be in the other"


async def test_a_question_is_put_and_answered_in_the_shard_of_the_person_and_a_controller_has_one_pace(
    surroundings: Surroundings,
) -> None:
    def form(n: int) -> dict[str, Any]:
        return {**consent(n), "occurred_at": now().isoformat(), "link": True}

    async with divided(surroundings, roles="api", double_opt_ins_per_controller_hour=2) as both:
        of = both.urls
        for client, n in zip(both.clients.values(), (B, A), strict=True):
            asked = await client.post("/v1/double-opt-ins", json=form(n))
            assert asked.status_code == 202, asked.text
        for shard, client in both.clients.items():
            for n in (people("a", 2)[1], people("b", 2)[1]):
                full = await client.post("/v1/double-opt-ins", json=form(n))
                assert full.status_code == 429, "of all people, whichever shard they are in"
                assert full.json()["reasons"][0]["reason"] == "too_many_by_sender_id", shard
        query = "SELECT subject_id, link_id, expires_at FROM double_opt_in"
        questions = [row for name in PARTITIONS for row in await both.sql(name, query)]
        assert [row["subject_id"] for row in questions] == [subject(A), subject(B)]
        for row in questions:
            written = token(Link(row["link_id"], row["expires_at"]), link_keys, CONFIRM)
            for client in both.clients.values():
                page = await client.get(f"/c/{written}")
                assert page.status_code == 200
            button = page.text.partition('name="form" value="')[2].partition('"')[0]
            yes = await both.clients["a"].post(f"/c/{written}", content=f"form={button}")
            assert yes.status_code == 303, yes.text
        assert await both.said() == of_shards(subject(A), subject(B))
        paces = await both.counted("SELECT count(*) FROM double_opt_in_pace WHERE key LIKE 'c%'")
        assert paces == {"a": 2, "b": 0}
    async with cut_off(surroundings, of, "b") as client:
        [n] = people("b", 3)[2:]
        assert (await client.post("/v1/double-opt-ins", json=form(n))).status_code == 503, "the pace is away"


def mo(n: int, intent: Intent = "stop", said_to_be: int | None = None) -> MessageReceived:
    """A text from a number; `said_to_be`: of whom the event says it is."""
    who = subject(n if said_to_be is None else said_to_be)
    return MessageReceived(
        mo_id=f"mo-{intent}-{n}",
        subject_id=who,
        provider="simulator",
        account="fr",
        provider_message_id=f"p-{intent}-{n}",
        number=field_keys.seal(number(n), f"number:{who}"),
        short_code="36111",
        text="sealed",
        intent=intent,
        rule="test",
        score=1.0,
        occurred_at=now(),
        received_at=now(),
    )


def left(n: int, said_to_be: int) -> MessagesChanged:
    """A DLR of a person who told the operator to stop; `said_to_be`: of whom the event says it is."""
    who = subject(said_to_be)
    changed = MessageChanged(
        message_id=f"m-{n}",
        sender_id="acme",
        subject_id=who,
        category="marketing",
        version=3,
        status="accepted",
        policy_version="france-3",
        receipt="opted_out",
        receipt_at=now(),
        number=field_keys.seal(number(n), f"number:{who}"),
        purpose="promotions",
        handed_off_at=now(),
    )
    return MessagesChanged(changes=(changed,))


async def test_a_stop_is_recorded_in_the_shard_of_its_number_whatever_the_event_says(
    surroundings: Surroundings,
) -> None:
    """A STOP in another's partition is committed in the shard of the person before its batch."""
    [a1, a2, a3], [b1, b2, b3] = people("a"), people("b")
    async with divided(surroundings, roles="api,relay,worker") as both:
        said = [mo(a1), mo(b1), mo(a2, said_to_be=b1), mo(b2, said_to_be=a1)]
        await publish(surroundings, INBOUND_MESSAGES, said)
        await publish(surroundings, DISPATCH_MESSAGES, [left(a3, b1), left(b3, a1)])

        async def all_stopped() -> bool:
            stopped = await both.said("opt_out")
            assert all(shard_of(one) == name for name, each in stopped.items() for one in each)
            return stopped == of_shards(*map(subject, (a1, a2, a3, b1, b2, b3)))

        await eventually(all_stopped)
        left_by = await both.sql("a", "SELECT subject_id FROM handed_off")
        assert [row["subject_id"] for row in left_by] == [subject(a1)], "a message stays with the person it names"


async def test_a_watermark_speaks_of_the_texts_of_the_shards_own_partitions(surroundings: Surroundings) -> None:
    """While those of one shard stand still, the other goes on: marketing to its people is not on hold."""
    async with divided(surroundings, roles="api,relay,worker"):
        told = Settings(**await surroundings.settings("consent"))

        async with heartbeat(surroundings, INBOUND_MESSAGES, partitions=[2]):

            async def of_b() -> bool:
                marks = await watermarks(told, STATES)
                assert {mark.partition for mark in marks} <= {2}
                return bool(marks)

            await eventually(of_b)
        async with heartbeat(surroundings, INBOUND_MESSAGES):

            async def of_all() -> bool:
                return {mark.partition for mark in await watermarks(told, STATES)} == {0, 1, 2}

            await eventually(of_all)


async def test_an_erased_person_reads_the_certificate_at_every_process(surroundings: Surroundings) -> None:
    async with divided(surroundings) as both:
        client = both.clients["a"]
        assert (await client.post("/v1/consents", json=consent(B))).status_code == 201
        made = await client.post("/v1/preference-links", json={"sender_id": None, "number": number(B)})
        assert made.status_code == 201, made.text
        path = made.json()["url"].removeprefix("https://p.example")
        page = await client.get(path)
        form = page.text.partition("/erase")[2].partition('name="form" value="')[2].partition('"')[0]
        name, value = page.headers["set-cookie"].partition(";")[0].split("=", 1)
        erased = await client.post(
            f"{path}/erase", content=f"form={form}&sure=yes", headers={"Cookie": f"{name}={value}"}
        )
        assert erased.status_code == 303, erased.text
        assert await both.counted("SELECT count(*) FROM erasure") == {"a": 0, "b": 1}
        for each in both.clients.values():
            assert "Nos offres" not in (certificate := await each.get(path)).text
            assert certificate.status_code == 200
