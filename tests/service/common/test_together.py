"""Batches of several partitions: one transaction where nothing is wrong, and each partition by itself where it is."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import Event, Watermark
from common.contracts.consent import ConsentStateChanged
from common.kafka import broker as kafka
from common.kafka.subscription import After, Hold, Poison, Received
from tests.service.common.pipeline import Pipeline, going, pipeline, project, states_of
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings

PEOPLE = [f"t1-{n:032x}" for n in range(40)]
PARTITIONS = 3
ONE_OF = {kafka.partition_of(person, PARTITIONS): person for person in PEOPLE}
MANY = len(PEOPLE)
EARLY, LATE = datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2026, 1, 1, 10, tzinfo=UTC)


def _all_read(pipe: Pipeline, many: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        assert await pipe.scalar("SELECT sum(next_offset) FROM consumer_offset") == many
        return True

    return look


def _of(partition: int) -> int:
    return sum(kafka.partition_of(person, PARTITIONS) == partition for person in PEOPLE)


def _everybody(version: int = 1) -> list[ConsentStateChanged]:
    return [state for person in PEOPLE for state in states_of(person, version)]


async def test_partitions_that_are_read_together_share_a_transaction(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        shared = asyncio.Event()

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            if len({received.partition for received in batch}) > 1:
                shared.set()
            return await project(tx, batch)

        version = 0
        async with going(pipe.consumer(keep, together=True).run):
            while not shared.is_set():  # a read may bring one partition alone
                version += 1
                await pipe.publish(*_everybody(version))
                await eventually(_all_read(pipe, version * MANY))
        assert sorted(await pipe.applied()) == [(person, v) for person in PEOPLE for v in range(1, version + 1)]
        stored = await pipe.rows("SELECT next_offset FROM consumer_offset ORDER BY partition")
        assert [offset for (offset,) in stored] == [version * _of(partition) for partition in range(PARTITIONS)]


async def test_a_crash_before_the_commit_leaves_every_partition_where_it_was(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        await pipe.publish(*_everybody())
        consumer, records = pipe.consumer(_dies), await pipe.raw_records()
        for tp in records:
            await consumer.offsets.start_of(tp.partition)
        with pytest.raises(RuntimeError):
            await consumer.batches.apply(records)
        assert await pipe.applied() == []
        await pipe.consumer().batches.apply(records)
        assert sorted(await pipe.applied()) == [(person, 1) for person in PEOPLE]
        stored = await pipe.rows("SELECT next_offset, xmin::text FROM consumer_offset ORDER BY partition")
        assert [offset for offset, _ in stored] == [_of(partition) for partition in range(PARTITIONS)]
        assert len({tx for _, tx in stored}) == 1


async def test_whoever_is_frozen_in_a_transaction_of_a_partition_holds_up_that_one_only(
    surroundings: Surroundings,
) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        consumer = pipe.consumer(together=True)
        async with pipe.sql() as frozen, going(consumer.run):
            await eventually(lambda: is_so(len(consumer.placement.placed) == PARTITIONS))
            held = frozen.transaction()
            await held.start()
            await frozen.execute("SELECT FROM consumer_offset WHERE partition = 1 FOR UPDATE")
            for version in (1, 2):  # what comes later, too
                await pipe.publish(*_everybody(version))
                await eventually(_all_read(pipe, version * (MANY - _of(1))))
            await held.rollback()
            await eventually(_all_read(pipe, 2 * MANY))
        assert sorted(await pipe.applied()) == [(person, version) for person in PEOPLE for version in (1, 2)]


async def test_what_follows_a_shared_batch_fails_as_any_batch_does(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        fails = asyncio.Event()

        async def handle(tx: AsyncConnection, batch: list[Received]) -> After | None:
            await project(tx, batch)
            return after if len({received.partition for received in batch}) > 1 else None

        async def after() -> None:
            fails.set()
            raise RuntimeError("after the commit")

        version = 0
        async with going(pipe.consumer(handle, together=True).run):
            while not fails.is_set():
                version += 1
                await pipe.publish(*_everybody(version))
                await eventually(_all_read(pipe, version * MANY))
        assert any("batch failed" in record.message for record in caplog.records)
        assert sorted(await pipe.applied()) == [(person, v) for person in PEOPLE for v in range(1, version + 1)]


async def _dies(tx: AsyncConnection, batch: list[Received]) -> After | None:
    await project(tx, batch)
    raise RuntimeError("before the commit")


async def test_a_batch_takes_no_more_messages_than_its_handler(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        sizes: list[int] = []

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            sizes.append(len(batch))
            return await project(tx, batch)

        def of_five(_: bytes) -> int:
            return 5

        await pipe.publish(*_everybody())
        async with going(pipe.consumer(keep, together=True, max_records=20, weigh=of_five).run):
            await eventually(_all_read(pipe, MANY))
        assert max(sizes) == 4
        assert sorted(await pipe.applied()) == [(person, 1) for person in PEOPLE]


async def test_a_bad_record_is_buried_alone_and_nothing_is_handled_twice(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:

        async def picky(tx: AsyncConnection, batch: list[Received]) -> After | None:
            for received in batch:
                if received.key == ONE_OF[1]:
                    raise Poison("not this one")
            return await project(tx, batch)

        await pipe.publish(*_everybody())
        async with going(pipe.consumer(picky, together=True).run):
            await eventually(_all_read(pipe, MANY))
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        assert sorted(await pipe.applied()) == [(person, 1) for person in PEOPLE if person != ONE_OF[1]]
        assert [letter.key for letter in await pipe.dead_letters()] == [ONE_OF[1]]


@pytest.mark.parametrize("trouble", [RuntimeError("only this partition"), Hold()], ids=["an error", "a hold"])
async def test_a_partition_in_trouble_does_not_hold_up_the_others(
    surroundings: Surroundings, trouble: Exception
) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        over = asyncio.Event()

        async def half(tx: AsyncConnection, batch: list[Received]) -> After | None:
            if not over.is_set() and any(received.partition == 0 for received in batch):
                raise trouble
            return await project(tx, batch)

        await pipe.publish(*_everybody())
        async with going(pipe.consumer(half, together=True).run):
            await eventually(_all_read(pipe, MANY - _of(0)))
            assert await pipe.next_offset(0) == 0
            over.set()
            await eventually(_all_read(pipe, MANY))
        assert sorted(await pipe.applied()) == [(person, 1) for person in PEOPLE]


async def test_a_failover_that_lost_one_offset_is_read_again_there_alone(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        await pipe.publish(*_everybody())
        async with going(pipe.consumer(together=True).run):
            await eventually(_all_read(pipe, MANY))
            await pipe.scalar("UPDATE consumer_offset SET next_offset = 1 WHERE partition = 2 RETURNING 1")
            more: list[Event] = [state for person in ONE_OF.values() for state in states_of(person, 2)]
            await pipe.publish(*more)
            await eventually(_all_read(pipe, MANY + PARTITIONS))
        again = _of(2) - 1
        assert len(await pipe.applied()) == MANY + again + PARTITIONS


async def test_a_watermark_among_events_counts_for_its_own_partition(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        marks: list[Event] = [Watermark(partition=p, as_of=at, last_number=0) for p, at in ((0, EARLY), (1, LATE))]
        await pipe.publish(*_everybody(), *marks)
        async with going(pipe.consumer(together=True).run):
            await eventually(_all_read(pipe, MANY + 2))
        stored = await pipe.rows("SELECT as_of FROM consumer_offset ORDER BY partition")
        assert [as_of for (as_of,) in stored] == [EARLY, LATE, None]


async def test_records_that_the_handler_does_not_want_are_passed_undecoded_and_watermarks_count(
    surroundings: Surroundings,
) -> None:
    async with pipeline(surroundings, partitions=PARTITIONS) as pipe:
        wanted = False

        async def wants(tx: AsyncConnection) -> bool:
            return wanted

        bad = next(person for person in PEOPLE if kafka.partition_of(person, PARTITIONS) == 0)
        await pipe.publish(*_everybody())
        await pipe.publish_raw((bad.encode(), b"{broken", ConsentStateChanged.type))
        await pipe.publish(Watermark(partition=0, as_of=EARLY, last_number=0))
        async with going(pipe.consumer(together=True, wants=wants).run):
            await eventually(_all_read(pipe, MANY + 2))
            assert await pipe.rows("SELECT as_of FROM consumer_offset WHERE partition = 0") == [(EARLY,)]
            assert (await pipe.applied(), await pipe.scalar("SELECT count(*) FROM outbox")) == ([], 0)
            wanted = True
            await pipe.publish(*_everybody(2))
            await eventually(_all_read(pipe, 2 * MANY + 2))
        assert sorted(await pipe.applied()) == [(person, 2) for person in PEOPLE]
