"""The timer that takes away what is past its time: in order, in batches, in nobody's way, and not only while all is
well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from prometheus_client import REGISTRY

from common.db.database import Database
from common.privacy.pruning import Policy, Pruned, Pruner
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres

pytestmark = pytest.mark.brokerless

DAY = timedelta(days=1)
GONE = Pruned("old letters", "letter", "sent_at", 10 * DAY)
STRIPPED = Pruned("read letters", "letter", "sent_at", 5 * DAY, where="body IS NOT NULL", strips=("body",))
OF_A_BOX = Pruned("boxed", "letter", "p.shut_at", 10 * DAY, join="JOIN box AS p USING (box)")


@asynccontextmanager
async def letters(postgres: Postgres, unique: str) -> AsyncIterator[tuple[Database, asyncpg.Connection]]:
    """Twenty: the nth was sent n days ago. Box 0 was shut 20 days ago, and holds the even ones; box 1 is open."""
    url = await postgres.empty(f"pruning_{unique}")
    database, sql = Database(url, pool_size=2), await asyncpg.connect(url)
    await sql.execute("CREATE TABLE box (box integer PRIMARY KEY, shut_at timestamptz)")
    await sql.execute("CREATE TABLE letter (n integer PRIMARY KEY, sent_at timestamptz, body text, box integer)")
    await sql.execute("INSERT INTO box VALUES (0, now() - interval '20 days'), (1, NULL)")
    await sql.execute(
        "INSERT INTO letter SELECT n, now() - n * interval '1 day' - interval '1 minute', 'text', n % 2"
        " FROM generate_series(0, 19) AS n"
    )
    try:
        yield database, sql
    finally:
        await sql.close()
        await database.close()


async def left(sql: asyncpg.Connection, where: str = "true") -> list[int]:
    return [row["n"] for row in await sql.fetch(f"SELECT n FROM letter WHERE {where} ORDER BY n")]


def overdue(rule: Pruned) -> float | None:
    return REGISTRY.get_sample_value("sms_pruning_overdue_seconds", {"kind": rule.kind})


async def all_of_it(pruner: Pruner) -> int:
    """How many looks it took until one found nothing."""
    looks = 1
    while await pruner.prune():
        looks += 1
    return looks


async def test_what_is_past_its_time_goes_in_batches_the_oldest_first_until_nothing_is(
    postgres: Postgres, unique: str
) -> None:
    async with letters(postgres, unique) as (database, sql):
        pruner = Pruner(database, Policy([GONE]), batch=4)
        assert await pruner.prune()
        assert await left(sql) == list(range(16))
        assert overdue(GONE) == pytest.approx(9 * 86_400 + 60, abs=60)  # as it was found
        assert await all_of_it(pruner) == 3
        assert await left(sql) == list(range(10))
        assert overdue(GONE) == 0


async def test_a_strip_empties_the_column_and_leaves_the_row(postgres: Postgres, unique: str) -> None:
    async with letters(postgres, unique) as (database, sql):
        await all_of_it(Pruner(database, Policy([STRIPPED])))
        assert await left(sql) == list(range(20))
        assert await left(sql, "body IS NOT NULL") == list(range(5))


async def test_rows_go_by_the_age_of_what_they_belong_to(postgres: Postgres, unique: str) -> None:
    async with letters(postgres, unique) as (database, sql):
        await all_of_it(Pruner(database, Policy([OF_A_BOX]), batch=4))
        assert await left(sql) == list(range(1, 20, 2))


async def test_what_somebody_has_locked_is_passed_over_and_shows_as_overdue_until_it_can_go(
    postgres: Postgres, unique: str
) -> None:
    async with letters(postgres, unique) as (database, sql):
        pruner = Pruner(database, Policy([GONE]))
        async with sql.transaction():
            await sql.execute("SELECT FROM letter WHERE n = 15 FOR UPDATE")
            await all_of_it(pruner)
            assert await left(sql) == [*range(10), 15]
            assert overdue(GONE) == pytest.approx(5 * 86_400 + 60, abs=60)
        await all_of_it(pruner)
        assert await left(sql) == list(range(10))


async def test_what_somebody_changes_meanwhile_is_not_taken_as_it_was(postgres: Postgres, unique: str) -> None:
    """It is found old, and is new once the lock on it is free."""
    async with letters(postgres, unique) as (database, sql):
        async with sql.transaction():
            await sql.execute("UPDATE letter SET sent_at = now() WHERE n = 15")
            await all_of_it(Pruner(database, Policy([GONE])))
        await all_of_it(Pruner(database, Policy([GONE])))
        assert await left(sql) == [*range(10), 15]


async def test_a_batch_that_is_under_way_holds_up_no_writer_and_no_other_pruner(
    postgres: Postgres, unique: str
) -> None:
    async with letters(postgres, unique) as (database, sql):
        async with database.begin() as tx:  # a batch that does not end
            await tx.exec_driver_sql("SELECT FROM letter WHERE n >= 18 FOR UPDATE")
            await tx.exec_driver_sql("DELETE FROM letter WHERE n >= 18")
            await sql.execute("SET lock_timeout = '1ms'")  # whoever waits for anybody fails at once
            await sql.execute("INSERT INTO letter VALUES (20, now(), 'text', 1)")
            await sql.execute("UPDATE letter SET body = 'other' WHERE n < 10")
            await all_of_it(Pruner(database, Policy([GONE])))
            assert await left(sql) == [*range(10), 18, 19, 20]
        assert await left(sql) == [*range(10), 20]


async def test_one_rule_that_fails_keeps_no_other_from_its_work_and_is_heard(postgres: Postgres, unique: str) -> None:
    broken = Pruned("broken", "letter", "no_such_column", DAY)
    async with letters(postgres, unique) as (database, sql):
        with pytest.raises(ExceptionGroup, match="not everything"):
            await Pruner(database, Policy([broken, GONE])).prune()
        assert await left(sql) == list(range(10))


async def test_the_timer_goes_on_by_itself_until_nothing_is_overdue(postgres: Postgres, unique: str) -> None:
    async with letters(postgres, unique) as (database, sql):
        stop = asyncio.Event()
        task = asyncio.ensure_future(Pruner(database, Policy([GONE]), batch=1).worker().run(stop))

        async def all_gone() -> bool:
            return await left(sql) == list(range(10))

        try:
            await eventually(all_gone)
        finally:
            stop.set()
            await task
