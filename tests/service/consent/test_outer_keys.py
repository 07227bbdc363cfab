"""What consent-svc has stored, under another outer key: each person is found, and what was derived is the same.

The test moves the rows itself: no command of ours does so yet (ADR-0093).
"""

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from common.db.database import Database
from common.keyring import SubjectKeys
from common.privacy.stop_link import PATH, token
from common.settings import SubjectRingSettings
from consent.proof.audit import Audit, Finding
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, lookup, opt_out
from tests.support.builders import link_keys, now, number, subject, subject_keys
from tests.support.running import OUTER_RING, SUBJECT_RING, Surroundings, running

pytestmark = pytest.mark.brokerless

NEW = {"current": "t2", "keys": {"t2": base64.b64encode(b"n" * 32).decode()}}
AFTERWARDS = SUBJECT_RING | {"outer": NEW}
BOTH = SubjectRingSettings.model_validate(SUBJECT_RING | {"outer": NEW | {"keys": OUTER_RING["keys"] | NEW["keys"]}})
MOVING, NEW_KEYS = SubjectKeys(BOTH), SubjectKeys(SubjectRingSettings.model_validate(AFTERWARDS))
OLD_ID = re.compile(r"\bt1-[0-9a-f]{32}\b")
CONSENTED, STOPPED, ERASED = 1, 2, 3
KEYED = {"Idempotency-Key": "k-1"}


@asynccontextmanager
async def api(surroundings: Surroundings, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = await surroundings.settings("consent", roles="api", page_url="https://placet.example", **more)
    async with running(build(Settings(**settings))) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code in (200, 201)
        yield client


def turned(value: Any) -> Any:
    """The value of a column, with each person's id by the new outer key."""
    if isinstance(value, bytes):
        return re.sub(OLD_ID.pattern.encode(), lambda found: MOVING.current(found[0].decode()).encode(), value)
    return OLD_ID.sub(lambda found: MOVING.current(found[0]), value) if isinstance(value, str) else value


async def move(sql: asyncpg.Connection) -> int:
    """Move the rows of every table; return how many had an id of the old key."""
    moved = 0
    await sql.execute("SET session_replication_role = replica")
    for (table,) in await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        for place, *values in await sql.fetch(f'SELECT ctid::text, * FROM "{table}"'):
            [row] = await sql.fetch(f'SELECT * FROM "{table}" WHERE ctid = $1::text::tid', place)
            changed = {name: new for name, value in row.items() if (new := turned(value)) != value}
            if changed:
                assigned = ", ".join(f'"{name}" = ${n}' for n, name in enumerate(changed, start=2))
                await sql.execute(
                    f'UPDATE "{table}" SET {assigned} WHERE ctid = $1::text::tid', place, *changed.values()
                )
                moved += 1
            assert len(values) == len(row)
    return moved


async def faults(surroundings: Surroundings, keys: SubjectKeys) -> list[Finding]:
    database = Database(await surroundings.database("consent"), pool_size=1)
    try:
        async with database.begin() as tx:
            return [found async for found in Audit(tx, keys.inner).findings()]
    finally:
        await database.close()


async def told(client: httpx.AsyncClient) -> dict[int, Any]:
    """All that a lookup tells of each person, but the id that only the platform's operator sees."""
    found = {n: await lookup(client, number(n)) for n in (CONSENTED, STOPPED, ERASED)}
    return {n: {name: value for name, value in each.items() if name != "subject_id"} for n, each in found.items()}


async def test_after_a_move_each_person_is_found_and_what_was_derived_is_the_same(surroundings: Surroundings) -> None:
    async with api(surroundings) as client:
        for n in (CONSENTED, STOPPED, ERASED):
            assert (await client.post("/v1/consents", json=consent(number=number(n)))).status_code == 201
        stop = await client.post("/v1/opt-outs", json=opt_out(number=number(STOPPED)), headers=KEYED)
        erase = {"number": number(ERASED), "evidence": {"source": "call-centre"}}
        assert (await client.post("/v1/erasures", json=erase)).status_code == 202
        before = await told(client)
    link = token(link_keys, "acme", subject(CONSENTED), now())
    assert await faults(surroundings, subject_keys) == []
    async with surroundings.sql("consent") as sql:
        assert await move(sql) > 0
        assert await move(sql) == 0
        people = {row["subject_id"] for row in await sql.fetch("SELECT subject_id FROM subject")}
    assert people == {NEW_KEYS.subject_id(number(n)) for n in (CONSENTED, STOPPED, ERASED)}
    assert await faults(surroundings, NEW_KEYS) == []
    async with api(surroundings, subject_keys=AFTERWARDS) as client:
        assert await told(client) == before
        assert (await client.post("/v1/consents", json=consent(number=number(CONSENTED)))).is_success
        again = await client.post("/v1/opt-outs", json=opt_out(number=number(STOPPED)), headers=KEYED)
        assert again.json() == stop.json()
        assert await told(client) == before, "the evidence ids of a repeat are those of before"
        assert (await client.post(f"{PATH}/acme/{link}", data={"List-Unsubscribe": "One-Click"})).status_code == 200
        [consented] = (await lookup(client, number(CONSENTED)))["consents"]
        assert consented["state"] == "opted_out"
    assert await faults(surroundings, NEW_KEYS) == []
