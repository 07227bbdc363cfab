"""A process of consent-svc that runs on through a division, with the PLACET_SHARDS of before."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url

from common import division
from common.db import shards
from common.db.database import Database
from common.kafka.broker import partition_of
from consent.division import TABLES
from consent.service import Settings, build
from tests.service.consent.test_consent_api import opt_out
from tests.service.consent.test_shards_registry import NOWHERE, SENDER, divided, people, settings
from tests.support.builders import number, subject
from tests.support.eventually import eventually
from tests.support.running import Surroundings, running

pytestmark = pytest.mark.brokerless

IN_USE = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'consent'"
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name"
OPT_OUTS = "SELECT count(*) FROM evidence"
MOVED = next(n for n in people("a", 60) if partition_of(subject(n), 3) == 1)
LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@asynccontextmanager
async def asked_to_end() -> AsyncIterator[asyncio.Event]:
    """The process is asked to end, which a platform then starts anew."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    try:
        yield asked
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def cut_and_divided(url: str, own: Sequence[int]) -> None:
    """Divided while a process of the service runs, which has lost its connections for a moment."""
    database = Database(url, name="consent-divide")
    try:

        async def is_divided() -> bool:
            await database.read("DELETE FROM outbox")  # no relay runs
            await database.read(f"{END} = 'consent'")
            try:
                await division.divide(database, TABLES, own, 3)
            except division.NotYet:
                return False
            return True

        await eventually(is_divided)
    finally:
        await database.close()


async def refused_and_ended(
    client: httpx.AsyncClient, url: str, asked: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """A STOP of a person who was moved is answered 503 and written nowhere, and the process ends and says why."""
    answer = await client.post("/v1/opt-outs", json=opt_out(number=number(MOVED)))
    assert answer.status_code == 503, answer.text
    assert "nothing was kept in that shard" in answer.json()["detail"]
    async with asyncio.timeout(30):
        await asked.wait()
    assert (await client.get("/readyz")).status_code == 503
    [told] = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert told.exc_info is not None
    assert "start the process anew with the new PLACET_SHARDS" in str(told.exc_info[1])
    held = await asyncpg.connect(url)
    try:
        assert await held.fetchval(OPT_OUTS) == 0
    finally:
        await held.close()


async def test_a_process_writes_nothing_to_its_database_once_that_is_divided(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Settings(**await surroundings.settings("consent", roles="api"))
    async with asked_to_end() as asked, running(build(whole)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        await cut_and_divided(whole.database_url, (0, 2))
        await refused_and_ended(client, whole.database_url, asked, caplog)


async def test_a_process_writes_nothing_to_the_database_of_another_shard_once_that_is_divided(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    async with asked_to_end() as asked, divided(surroundings, roles="api") as both:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        await cut_and_divided(both.urls["a"], (0,))
        await refused_and_ended(both.clients["b"], both.urls["a"], asked, caplog)


async def test_a_process_that_nobody_calls_is_in_the_way_of_a_division_of_another_shard(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells how many shards there are, whether or not it is called."""
    monkeypatch.setattr(shards, "KEPT_EVERY_S", 0.2)
    async with divided(surroundings, roles="api") as both:
        pass
    async with running(build(both.settings["a"])):
        await both.sql("b", f"{END} = 'consent'")

        async def is_connected() -> bool:
            return bool((await both.sql("b", IN_USE))[0][0])

        await eventually(is_connected)
        database = Database(both.urls["b"], name="consent-divide")
        try:
            with pytest.raises(division.NotYet, match="stop every process"):
                await division.divide(database, TABLES, (2,), 3)
        finally:
            await database.close()
        assert (await both.sql("b", "SELECT division FROM shard"))[0][0] == "none"


@pytest.mark.parametrize("elsewhere", ["in use", "away", "of another name"])
async def test_a_shard_is_divided_once_the_processes_of_every_shard_are_stopped(
    surroundings: Surroundings, elsewhere: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with divided(surroundings, roles="api") as both:
        pass
    renamed = make_url(both.urls["b"]).set(database="nowhere").render_as_string(hide_password=False)
    of = both.urls | {"away": {"b": NOWHERE}, "of another name": {"b": renamed}}.get(elsewhere, {})
    told = await settings(surroundings, of, "a", roles="api")
    running_elsewhere = await asyncpg.connect(both.urls["b"], server_settings={"application_name": "consent"})
    try:
        assert await asyncio.to_thread(division.run, TABLES, told, []) == 1
    finally:
        await running_elsewhere.close()
    why = "stop the processes of every shard first" if elsewhere == "in use" else "does not answer"
    assert why in capsys.readouterr().err
    if elsewhere == "in use":

        async def is_divided() -> bool:
            return await asyncio.to_thread(division.run, TABLES, told, []) == 0

        await eventually(is_divided)


@asynccontextmanager
async def between_the_looks(
    url: str, database: Database
) -> AsyncIterator[tuple[asyncpg.Connection, asyncio.Task[int]]]:
    """A run that has announced the division, and looks for processes again after the block, with its connection."""
    first, second = [await asyncpg.connect(url) for _ in range(2)]
    try:

        async def in_line(many: int) -> bool:
            return bool(await first.fetchval(LOCKED) == many)

        held = first.transaction()
        await held.start()
        await first.execute(division.LOCK)
        dividing = asyncio.create_task(division.divide(database, TABLES, (0, 1), 3))
        await eventually(lambda: in_line(1))
        between = second.transaction()
        await between.start()
        behind = asyncio.create_task(second.execute(division.LOCK))
        await eventually(lambda: in_line(2))
        await held.rollback()  # the division begins, and then waits for the second
        await behind
        yield second, dividing
        await between.commit()
        await asyncio.wait([dividing])
    finally:
        for each in (first, second):
            await each.close()


@asynccontextmanager
async def in_use_once(surroundings: Surroundings) -> AsyncIterator[tuple[str, Database]]:
    """The database of everybody, where no process runs."""
    whole = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(whole)):
        pass
    database = Database(whole.database_url, name="consent-divide")
    try:
        yield whole.database_url, database
    finally:
        await database.close()


async def row_of(database: Database) -> tuple[list[int], str]:
    [(held, state)] = await database.read("SELECT partitions, division FROM shard")
    return list(held), state


async def test_a_process_that_connects_while_a_division_begins_is_in_its_way(surroundings: Surroundings) -> None:
    """It has read that its settings are right: what is divided then must wait for it."""
    async with in_use_once(surroundings) as (url, database):
        async with between_the_looks(url, database) as (_, dividing):
            late = await asyncpg.connect(url, server_settings={"application_name": "consent"})
        try:
            with pytest.raises(division.NotYet, match="stop every process"):
                await dividing
            assert await row_of(database) == ([0, 1, 2], "none")
        finally:
            await late.close()


async def test_a_second_run_at_a_time_is_refused(surroundings: Surroundings) -> None:
    """The first may be about to put back the row of a database that the second has divided."""
    async with in_use_once(surroundings) as (url, database):
        async with between_the_looks(url, database) as (_, dividing):
            second = asyncio.create_task(division.divide(database, TABLES, (0, 1), 3))

            async def has_looked() -> bool:
                return second.done() or (await database.read(LOCKED))[0][0] == 2

            await eventually(has_looked)
        with pytest.raises(division.NotYet, match="another run of `divide` has the database"):
            await second
        await dividing
        assert await row_of(database) == ([0, 1], "done")
        assert await division.divide(database, TABLES, (0, 1), 3) == 0, "the first has let go"


@pytest.mark.parametrize("is_in_its_way", [True, False])
async def test_a_run_that_lost_its_session_changes_nothing_of_what_another_has_divided(
    surroundings: Surroundings, is_in_its_way: bool
) -> None:
    async with in_use_once(surroundings) as (url, database):
        late: asyncpg.Connection | None = None
        async with between_the_looks(url, database) as (other, dividing):
            await other.execute("UPDATE shard SET partitions = '{0,1}', division = 'done'")
            if is_in_its_way:
                late = await asyncpg.connect(url, server_settings={"application_name": "consent"})
        try:
            why = "stop every process" if is_in_its_way else "run `divide` again"
            with pytest.raises(division.NotYet, match=why):
                await dividing
            assert await row_of(database) == ([0, 1], "done")
        finally:
            if late is not None:
                await late.close()


async def test_a_run_that_was_interrupted_goes_on_while_another_shard_runs(
    surroundings: Surroundings, capsys: pytest.CaptureFixture[str]
) -> None:
    """No process of before was left when the first rows went."""
    async with divided(surroundings, roles="api") as both:
        pass
    told = await settings(surroundings, both.urls, "a", roles="api")
    elsewhere = await asyncpg.connect(both.urls["b"], server_settings={"application_name": "consent"})
    try:
        for state, ends in (("none", 1), ("begun", 0)):
            await both.sql("a", "UPDATE shard SET division = $1", state)
            assert await asyncio.to_thread(division.run, TABLES, told, []) == ends, capsys.readouterr().err
        assert (await both.sql("a", "SELECT division FROM shard"))[0][0] == "done"
    finally:
        await elsewhere.close()


@pytest.mark.parametrize(
    ("held", "own", "before"), [((0, 1, 2), (0, 1), "none"), ((0, 1), (0,), "done")], ids=["whole", "part"]
)
async def test_a_run_that_died_before_it_deleted_leaves_the_way_to_what_has_to_be_done_first(
    surroundings: Surroundings, held: Sequence[int], own: Sequence[int], before: str
) -> None:
    """A relay starts with no database whose division has begun."""
    database = Database(await surroundings.database("consent"), name="consent-divide")
    try:
        async with database.begin() as tx:
            await division.claim(tx, held, [], 3)
        await database.run("UPDATE shard SET division = 'begun'")
        await database.run("INSERT INTO outbox (event_id, topic, type) VALUES (gen_random_uuid(), 't', 't')")
        with pytest.raises(division.NotYet, match="start the relay alone"):
            await division.divide(database, TABLES, own, 3)
        assert await row_of(database) == (list(held), before)
        async with database.begin() as tx:
            await division.claim(tx, held, [], 3)
        await database.run("DELETE FROM outbox")
        await division.divide(database, TABLES, own, 3)
        assert await row_of(database) == (list(own), "done")
    finally:
        await database.close()
