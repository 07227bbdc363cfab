"""That marketing is held, as other services are told: real Postgres, no service around. A minute passes by moving what
is stored."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import text

from common.contracts.dispatch import HoldChanged
from common.db.database import Database
from common.db.shards import Shards
from dispatch.projection.freshness import Freshness
from dispatch.projection.limits import Limits
from tests.support.infrastructure import Postgres

pytestmark = pytest.mark.brokerless

PARTITIONS = 3
LIMITS = Limits(max_staleness=timedelta(seconds=30))  # a busy machine takes its time between two lines of a test
TOLD_AFTER = timedelta(minutes=1)


class Holding:
    """What dispatch knows of consents by its database, and processes that look at it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sql(self, statement: str) -> None:
        async with self._database.begin() as tx:
            await tx.execute(text(statement))

    async def known(self, *ages_s: float | None) -> None:
        """By partition; None: nothing yet."""
        await self.sql("DELETE FROM consumer_offset")
        for partition, age in enumerate(ages_s):
            as_of = "NULL" if age is None else f"now() - interval '{age} seconds'"
            await self.sql(
                "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
                f" VALUES ('dispatch.consents', 'consent.states.v1', {partition}, 1, {as_of})"
            )

    async def look(self, processes: int = 1) -> None:
        """Each of them has just been started, and knows nothing but what is stored."""
        each = [Freshness(Shards.undivided(self._database, PARTITIONS), LIMITS, TOLD_AFTER) for _ in range(processes)]
        await asyncio.gather(*(process.look() for process in each))

    async def a_minute_passes(self) -> None:
        await self.sql("UPDATE hold SET otherwise_since = otherwise_since - interval '1 minute'")

    async def told(self) -> list[HoldChanged]:
        async with self._database.begin() as tx:
            rows = await tx.execute(text("SELECT payload FROM outbox WHERE topic = 'dispatch.holds.v1' ORDER BY id"))
            return [msgspec.json.decode(row.payload, type=HoldChanged) for row in rows]


@pytest.fixture
async def holding(postgres: Postgres, unique: str) -> AsyncIterator[Holding]:
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"))
    yield Holding(database)
    await database.engine.dispose()


async def test_a_hold_that_lasts_is_told_once_by_all_processes_together_and_so_is_its_end(holding: Holding) -> None:
    await holding.known(0, 90, 0)  # one partition is enough
    await holding.look()
    assert await holding.told() == []
    await holding.a_minute_passes()
    await holding.look(processes=3)
    [held] = await holding.told()
    assert held.ended_at is None
    assert held.consents_as_of is not None
    assert held.consents_as_of < held.since
    await holding.look()
    await holding.known(0, 0, 0)
    await holding.look()
    assert len(await holding.told()) == 1
    await holding.a_minute_passes()
    await holding.look(processes=3)
    assert await holding.told() == [held, ended := (await holding.told())[-1]]
    assert ended.ended_at is not None
    assert (ended.version, ended.since) == (held.version + 1, held.since)


async def test_where_nothing_is_known_of_a_partition_marketing_is_held(holding: Holding) -> None:
    for ages in ((0, None, 0), (0, 0)):
        await holding.known(*ages)
        await holding.look()
        await holding.a_minute_passes()
    await holding.look()
    [held] = await holding.told()
    assert held.consents_as_of is None


async def test_a_hold_that_comes_and_goes_is_not_told(holding: Holding) -> None:
    for age in (90, 0, 90, 0):
        await holding.known(0, age, 0)
        await holding.look()
        await holding.sql("UPDATE hold SET otherwise_since = otherwise_since - interval '40 seconds'")
    assert await holding.told() == []
