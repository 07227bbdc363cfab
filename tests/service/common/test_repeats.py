"""A repeat under its Idempotency-Key gets the first answer, of every operation that takes a key.

The operations are those of the OpenAPI documents: a new one fails here until MEANWHILE says what changes the thing that
it makes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from tests.service.firewall.asking import Asked
from tests.service.firewall.operations import CONTENT, EXPRESSION, NOTICE, TABLE, UPLOAD, Things
from tests.service.firewall.world import OURS, SERVICES, World, furnish, opened, register
from tests.support.builders import number, subject
from tests.support.eventually import eventually
from tests.support.infrastructure import NOWHERE, Postgres
from tests.support.running import Surroundings

pytestmark = pytest.mark.brokerless

Change = Callable[[World, Things, Mapping[str, Any]], Awaitable[object]]
HEADERS = ("location", "etag", "content-type")
TOKEN = OURS.token


async def nothing(_world: World, _ours: Things, _told: Mapping[str, Any]) -> None:
    """The repeat would find a change by itself, or the answer tells of nothing that changes."""


def stored(service: str, sql: str) -> Change:
    async def change(world: World, _ours: Things, _told: Mapping[str, Any]) -> None:
        async with world.surroundings.sql(service) as connection:
            await connection.execute(sql)

    return change


def called(service: str, method: str, path: str, body: Any = None, **more: Any) -> Change:
    """Call a path with the names of the answer."""

    async def change(world: World, ours: Things, told: Mapping[str, Any]) -> None:
        at = path.format_map({"draft_id": ours.draft_id, **told})
        headers = {**TOKEN, **more.get("headers", {})}
        content = {"content": more["content"]} if "content" in more else {"json": body}
        got = await world.clients[service].request(method, at, headers=headers, **content)
        assert got.status_code < 300, got.text

    return change


async def uploaded(world: World, ours: Things, told: Mapping[str, Any]) -> None:
    if told["status"] == "uploading":
        await called("campaign", "PATCH", "/v1/imports/{import_id}", headers=UPLOAD, content=b"number\n")(
            world, ours, told
        )


COMPLETE = "UPDATE {} SET completed_at = now()"
MEANWHILE: Mapping[tuple[str, str], Change] = {
    ("consent", "POST /v1/consents"): nothing,
    ("consent", "POST /v1/opt-outs"): nothing,
    ("consent", "POST /v1/consents/batch"): nothing,
    ("consent", "POST /v1/interactions"): nothing,
    ("consent", "POST /v1/imports"): called(
        "consent", "PATCH", "/v1/imports/{import_id}", headers=UPLOAD, content=b"number\n"
    ),
    ("consent", "POST /v1/preference-links"): nothing,
    ("consent", "POST /v1/double-opt-ins"): nothing,
    ("consent", "POST /v1/rectifications"): stored("consent", COMPLETE.format("rectification")),
    ("consent", "POST /v1/copies"): stored("consent", COMPLETE.format("copy")),
    ("consent", "POST /v1/erasures"): stored("consent", COMPLETE.format("erasure")),  # the last: nothing is left
    ("campaign", "POST /v1/campaigns/{campaign_id}/test-sends"): called(
        "campaign", "POST", "/v1/campaigns/{draft_id}/cancel"
    ),
    ("campaign", "POST /v1/campaigns"): stored("campaign", "UPDATE campaign SET status = 'cancelled'"),
    ("campaign", "POST /v1/imports"): uploaded,
    ("campaign", "POST /v1/segments"): called(
        "campaign", "POST", "/v1/segments/{segment_id}/versions", {"expression": {"not": EXPRESSION}, "after": 1}
    ),
    ("campaign", "POST /v1/templates"): called(
        "campaign", "POST", "/v1/templates/{template_id}/versions", {**CONTENT, "after": 1}
    ),
    ("campaign", "POST /v1/webhooks"): called(
        "campaign", "POST", "/v1/webhooks/{webhook_id}/rotate", {"former_ends_in_s": 60}
    ),
    ("dispatch", "POST /v1/messages"): stored("dispatch", "UPDATE message SET status = 'denied'"),
}
PEOPLE = {  # others than the owner's, who has stopped
    "POST /v1/consents": 501,
    "POST /v1/opt-outs": 501,
    "POST /v1/consents/batch": 502,
    "POST /v1/interactions": 502,
    "POST /v1/double-opt-ins": 503,
}


@pytest.fixture
async def world(postgres: Postgres, unique: str) -> AsyncIterator[World]:
    async with opened(Surroundings(postgres, NOWHERE, unique)) as world:
        await register(world, OURS)
        yield world


def keyed_operations(world: World) -> Iterator[tuple[str, str]]:
    for service in SERVICES:
        for path, methods in world.openapi[service]["paths"].items():
            for method, described in methods.items():
                if any(each["name"] == "Idempotency-Key" for each in described.get("parameters", [])):
                    yield service, f"{method.upper()} {path}"


def of_person(ours: Things, person: int | None) -> Things:
    return ours if person is None else replace(ours, number=number(person), subject_id=subject(person))


async def test_each_operation_that_takes_a_key_answers_a_repeat_as_the_first_request(world: World) -> None:
    assert set(keyed_operations(world)) == MEANWHILE.keys()
    ours = await furnish(world, OURS)
    differing = []
    for (service, name), meanwhile in MEANWHILE.items():
        for place, ask in enumerate(TABLE[service][name].asks(of_person(ours, PEOPLE.get(name)))):
            headers = {**TOKEN, **ask.headers, "Idempotency-Key": f"{name} {place}"}
            sent: dict[str, Any] = {"params": ask.query, "headers": headers}
            sent |= {"content": ask.content} if ask.content is not None else {"json": ask.body}
            asked = Asked(service, name, ask, "")
            told = []
            for _ in range(2):
                got = await world.clients[service].request(asked.method, asked.url(), **sent)
                told.append((got.status_code, [got.headers.get(each) for each in HEADERS], got.text))
                assert got.status_code in (200, 201, 202), (name, got.text)
                if len(told) == 1:
                    await meanwhile(world, ours, got.json())
            if told[0] != told[1]:
                differing.append((service, name, place, *told))
    assert differing == []
    for service in ("consent", "campaign", "dispatch"):
        async with world.surroundings.sql(service) as sql:
            kept = await sql.fetch("SELECT answer FROM keyed_request")
        assert kept
        assert not [1 for (each,) in kept if each is None], "no key is claimed without its answer"


async def test_a_key_is_claimed_and_its_answer_kept_with_the_thing_itself_or_not_at_all(world: World) -> None:
    """The table refuses answers: a request that cannot keep one leaves nothing."""
    for service, (sql_name, path, body) in {
        "consent": ("evidence", "/v1/consents", consented(601)),
        "campaign": ("webhook", "/v1/webhooks", {"url": "https://shop.example/placet"}),
        "dispatch": ("message", "/v1/messages", noticed(601)),
    }.items():
        headers = {**TOKEN, "Idempotency-Key": "k-1"}
        async with world.surroundings.sql(service) as sql:
            await sql.execute("ALTER TABLE keyed_request ADD CONSTRAINT none_yet CHECK (answer IS NULL)")
            assert (await world.clients[service].post(path, json=body, headers=headers)).status_code == 500
            assert await sql.fetchval(f"SELECT count(*) FROM {sql_name}") == 0
            assert await sql.fetchval("SELECT count(*) FROM keyed_request") == 0
            await sql.execute("ALTER TABLE keyed_request DROP CONSTRAINT none_yet")
        assert (await world.clients[service].post(path, json=body, headers=headers)).status_code in (201, 202)


async def test_a_key_costs_a_consent_one_statement_and_a_message_three(postgres: Postgres, unique: str) -> None:
    """The row of the key with its answer; of a message also the lock, and the look for the row."""
    said: list[str] = []

    def executed(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    def connected(held: Any, *_: Any) -> None:
        held.driver_connection.add_query_logger(lambda record: said.append(record.query))

    event.listen(Engine, "before_cursor_execute", executed)
    event.listen(Pool, "connect", connected)
    try:
        async with opened(Surroundings(postgres, NOWHERE, unique)) as world:
            await register(world, OURS)
            for service, path, body_of, more in (
                ("consent", "/v1/consents", consented, 1),
                ("consent", "/v1/opt-outs", stopped, 1),
                ("dispatch", "/v1/messages", noticed, 3),
            ):
                counted = []
                for n, key in enumerate(({"Idempotency-Key": f"k-0 {path}"}, {}, {"Idempotency-Key": f"k-1 {path}"})):
                    said.clear()
                    got = await world.clients[service].post(path, json=body_of(700 + n), headers={**TOKEN, **key})
                    assert got.status_code in (201, 202), got.text
                    await asyncio.sleep(0)  # the driver tells of its statements a turn later
                    counted.append([each for each in said if "allowance" not in each])
                _, without, keyed = counted  # the first finds what process and driver remember
                assert len(keyed) - len(without) == more, (path, without, keyed)
    finally:
        event.remove(Engine, "before_cursor_execute", executed)
        event.remove(Pool, "connect", connected)


async def test_a_key_that_another_transaction_claims_meanwhile_is_waited_for(world: World) -> None:
    client, body = world.clients["consent"], consented(801)
    headers = {**TOKEN, "Idempotency-Key": "k-1"}
    first = await client.post("/v1/consents", json=body, headers=headers)
    async with world.surroundings.sql("consent") as sql, world.surroundings.sql("consent") as looking:
        row = await sql.fetchrow("DELETE FROM keyed_request RETURNING *")
        for fingerprint, said, status in (
            (row["fingerprint"], body, first.status_code),
            ("of another request", consented(802), 422),
        ):
            async with sql.transaction():
                await sql.execute(
                    "INSERT INTO keyed_request (caller, key, fingerprint, answer) VALUES ($1, $2, $3, $4)",
                    row["caller"],
                    row["key"],
                    fingerprint,
                    row["answer"],
                )
                asking = asyncio.ensure_future(client.post("/v1/consents", json=said, headers=headers))

                async def waits() -> bool:
                    return bool(
                        await looking.fetchval(
                            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                            " AND wait_event_type = 'Lock'"
                        )
                    )

                await eventually(waits)
            got = await asking
            assert got.status_code == status
            assert (got.json() == first.json()) is (status == 201)
            await sql.execute("DELETE FROM keyed_request")
        assert await sql.fetchval("SELECT count(*) FROM evidence") == 1


def consented(n: int) -> dict[str, Any]:
    shown = {"source": "shop", "form_id": "checkout", "form_version": "7"}
    said = {"sender_id": OURS.sender_id, "purpose": "promotions", "number": number(n), "evidence": shown}
    return {**said, "occurred_at": "2026-03-02T14:05:00+01:00"}


def stopped(n: int) -> dict[str, Any]:
    return {"sender_id": OURS.sender_id, "number": number(n), "evidence": {"source": "desk"}}


def noticed(n: int) -> dict[str, Any]:
    return {"sender_id": OURS.sender_id, "to": number(n), "category": "service", "text": NOTICE}
