"""What consent-svc has stored, moved to another outer key: each person is found, and what was derived is the same."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import itemgetter
from typing import Any

import asyncpg
import httpx
import pytest

from common.db.database import Database
from common.keyring import OtherKey, SubjectKeys
from common.privacy.moving import MOVING as MOVING_LOCK
from common.privacy.moving import Moving, NotYet, Table, Told
from common.privacy.stop_link import PATH, token
from common.settings import SubjectRingSettings
from consent.ledger.republishing import Republishing, former_ids
from consent.proof.audit import Audit, Finding
from consent.service import MOVES, Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, lookup, opt_out
from tests.support.builders import link_keys, now, number, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.running import OUTER_RING, SUBJECT_RING, Surroundings, running

pytestmark = pytest.mark.brokerless

T2, T3 = ({f"t{n}": base64.b64encode(each * 32).decode()} for n, each in ((2, b"n"), (3, b"m")))
NEW = {"current": "t2", "keys": T2}
AFTERWARDS = SUBJECT_RING | {"outer": NEW}
BOTH = SubjectRingSettings.model_validate(SUBJECT_RING | {"outer": NEW | {"keys": OUTER_RING["keys"] | NEW["keys"]}})
MOVING, NEW_KEYS = SubjectKeys(BOTH), SubjectKeys(SubjectRingSettings.model_validate(AFTERWARDS))
AND_THEN = SUBJECT_RING | {"outer": {"current": "t3", "keys": T2 | T3}}  # the rotation after
NEXT = SubjectKeys(SubjectRingSettings.model_validate(AND_THEN))
OLD_ID = re.compile(r"\bt1-[0-9a-f]{32}\b")
CONSENTED, STOPPED, ERASED = 1, 2, 3
KEYED = {"Idempotency-Key": "k-1"}


class Killed(Exception):
    """The process of the command ends here."""


@asynccontextmanager
async def api(surroundings: Surroundings, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = await surroundings.settings("consent", roles="api", page_url="https://placet.example", **more)
    async with running(build(Settings(**settings))) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code in (200, 201)
        yield client


async def move(surroundings: Surroundings) -> int:
    """Move the rows of every table; return how many had an id of the old key."""
    database = Database(await surroundings.database("consent"), pool_size=2, name="consent-keys")
    try:
        work = Moving(database, MOVING, MOVES, surroundings.partitions, blocks=1)
        found = {table.name: told.moved async for table, told in work.run()}
        assert [table async for table, told in work.count() if told.found] == []
    finally:
        await database.close()
    return sum(found.values())


async def old_ids(sql: asyncpg.Connection) -> list[str]:
    """Each column with an id of the old key."""
    return [
        f"{table}.{column}"
        for (table,) in await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for row in await sql.fetch(f'SELECT * FROM "{table}"')
        for column, value in row.items()
        if OLD_ID.search(value.decode("latin-1") if isinstance(value, bytes) else str(value))
    ]


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
        assert len(await old_ids(sql)) > 0
        with pytest.raises(NotYet, match="1 of the role"):
            await move(surroundings)
        await sql.execute("DELETE FROM outbox")  # without a broker, the relay publishes nothing
    assert await move(surroundings) > 0
    assert await move(surroundings) == 0
    async with surroundings.sql("consent") as sql:
        assert await old_ids(sql) == []
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


async def test_after_a_move_each_state_is_published_under_the_new_id_and_the_old_id_is_forgotten(
    surroundings: Surroundings,
) -> None:
    people = (CONSENTED, STOPPED)
    async with api(surroundings) as client:
        for n in people:
            assert (await client.post("/v1/consents", json=consent(number=number(n)))).status_code == 201
    async with surroundings.sql("consent") as sql:
        await sql.execute("DELETE FROM outbox")
    assert await move(surroundings) > 0
    database = Database(await surroundings.database("consent"), pool_size=1)
    took: list[tuple[str, bool]] = []

    async def relayed() -> bool:
        async with surroundings.sql("consent") as sql:
            rows = await sql.fetch("DELETE FROM outbox WHERE topic = 'consent.states.v1' RETURNING id, key, payload")
        took.extend((row["key"].decode(), row["payload"] is None) for row in sorted(rows, key=itemgetter("id")))
        return running_.done()

    former = await former_ids(database, MOVING)
    running_ = asyncio.create_task(Republishing(database, 3, lambda _: None, former).run(range(3)))
    await eventually(relayed)
    assert await running_ == len(people)
    states = {(NEW_KEYS.subject_id(number(n)), False) for n in people}
    tombstones = {(subject(n), True) for n in people}
    assert (set(took[:2]), set(took[2:])) == (states, tombstones), "no tombstone comes before its person's state"
    await database.close()


async def test_no_process_starts_while_rows_move(surroundings: Surroundings) -> None:
    async with surroundings.sql("consent") as sql:
        await sql.fetchval("SELECT pg_advisory_lock(hashtext($1))", MOVING_LOCK)
        with pytest.raises(OtherKey, match="moves the stored subject ids now"):
            async with api(surroundings):
                pytest.fail("a number would get an id that the command has passed by")
        with pytest.raises(NotYet, match="another run moves the rows"):
            await move(surroundings)


async def test_no_process_starts_on_rows_of_two_keys_and_no_tombstone_is_published(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the killed run had moved: with either ring the id of some row would be nobody's."""
    async with api(surroundings) as client:
        assert (await client.post("/v1/consents", json=consent(number=number(CONSENTED)))).status_code == 201
    async with surroundings.sql("consent") as sql:
        await sql.execute("DELETE FROM outbox")
    told = Database(await surroundings.database("consent"), pool_size=2, name="consent-keys")
    passed = Moving._pass

    async def killed(self: Moving, table: Table, so_far: Told, **more: bool) -> AsyncIterator[None]:
        if table.name == "subject":
            raise Killed  # the only table that a start looks at is as it was
        async for _ in passed(self, table, so_far, **more):
            yield

    with pytest.raises(NotYet, match="have not moved"):
        await former_ids(told, MOVING)
    with monkeypatch.context() as patched:
        patched.setattr(Moving, "_pass", killed)
        with pytest.raises(Killed):
            await move(surroundings)
    for ring in (SUBJECT_RING, AFTERWARDS):
        with pytest.raises(OtherKey, match="run the command to its end"):
            async with api(surroundings, subject_keys=ring):
                pytest.fail("the opt-outs of some people would not be found")
    with pytest.raises(NotYet, match="have not moved"):
        await former_ids(told, MOVING)
    with pytest.raises(NotYet, match="has left rows of the outer key t1"):
        await anext(Moving(told, NEXT, MOVES, surroundings.partitions).run())
    assert await move(surroundings) > 0
    async with api(surroundings, subject_keys=AFTERWARDS) as client:
        assert (await lookup(client, number(CONSENTED)))["consents"]
    with pytest.raises(NotYet, match="have not moved to the outer key t1"):
        await former_ids(told, subject_keys)
    with pytest.raises(NotYet, match="put the former outer key t1 back"):
        await former_ids(told, NEW_KEYS)
    await told.close()


async def test_no_row_moves_before_the_relay_has_published_what_waits(surroundings: Surroundings) -> None:
    async with api(surroundings) as client:
        assert (await client.post("/v1/consents", json=consent(number=number(CONSENTED)))).status_code == 201
    with pytest.raises(NotYet, match="the outbox is not empty"):
        await move(surroundings)
    async with surroundings.sql("consent") as sql:
        assert len(await old_ids(sql)) > 0
