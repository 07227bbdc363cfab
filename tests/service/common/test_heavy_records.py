"""Records that hold several messages: a batch is as large as its messages, and a record may be buried in part."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection

from common.kafka.subscription import After, Hold, Poison, Received
from tests.service.common.pipeline import Pipeline, going, pipeline, states_of
from tests.support.eventually import eventually
from tests.support.running import Surroundings

SUBJECT = f"t1-{1:032x}"
POISONED = 3


def weigh(value: bytes) -> int:
    """Return 2: each record holds two messages."""
    return 2 * value.count(b'"version"')


def versions(batch: list[Received]) -> list[int]:
    return [received.event.version for received in batch]  # type: ignore[attr-defined]


async def _reached(pipe: Pipeline, offset: int) -> bool:
    assert await pipe.next_offset() == offset
    return True


async def test_a_batch_has_as_many_messages_as_the_handler_takes_or_a_single_record(
    surroundings: Surroundings,
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        got: list[list[int]] = []

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            got.append(versions(batch))
            return None

        await pipe.publish(*states_of(SUBJECT, *range(1, 12)))
        async with going(pipe.consumer(keep, weigh=weigh, max_records=5).run):
            await eventually(lambda: _reached(pipe, 11))
        assert [version for some in got for version in some] == list(range(1, 12))
        assert max(map(len, got)) == 2
        got.clear()
        await pipe.publish(*states_of(SUBJECT, *range(12, 15)))
        async with going(pipe.consumer(keep, weigh=weigh, max_records=1).run):
            await eventually(lambda: _reached(pipe, 14))
        assert got == [[12], [13], [14]]


async def test_what_is_read_and_not_handled_at_the_stop_is_read_again(surroundings: Surroundings) -> None:
    """The stop waits for the batch in hand, not for all that one read brought."""
    async with pipeline(surroundings, partitions=1) as pipe:
        got: list[int] = []
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            got.extend(versions(batch))
            begun.set()
            await go_on.wait()
            return None

        await pipe.publish(*states_of(SUBJECT, *range(1, 7)))
        stop = asyncio.Event()
        running = asyncio.create_task(pipe.consumer(keep, weigh=weigh, max_records=2).run(stop))
        await asyncio.wait_for(begun.wait(), 30)
        stop.set()
        go_on.set()
        await asyncio.wait_for(running, 30)
        assert (got, await pipe.next_offset()) == ([1], 1)
        async with going(pipe.consumer(keep, weigh=weigh, max_records=2).run):
            await eventually(lambda: _reached(pipe, 6))
        assert got == list(range(1, 7))


async def test_what_is_read_and_not_handled_before_partitions_are_taken_away_is_read_again(
    surroundings: Surroundings,
) -> None:
    """Partitions are taken away while the loop goes on."""
    async with pipeline(surroundings, partitions=1) as pipe:
        got: list[int] = []
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            got.extend(versions(batch))
            begun.set()
            await go_on.wait()
            return None

        await pipe.publish(*states_of(SUBJECT, *range(1, 7)))
        consumer = pipe.consumer(keep, weigh=weigh, max_records=2)
        async with going(consumer.run):
            await asyncio.wait_for(begun.wait(), 30)
            revoked = asyncio.create_task(consumer.revoked())
            go_on.set()
            await asyncio.wait_for(revoked, 30)
            await eventually(lambda: _reached(pipe, 6))
        assert got == list(range(1, 7))


async def test_no_read_steps_over_what_an_earlier_one_brought(surroundings: Surroundings) -> None:
    """The client is past the batches that do not begin any more, and a loop that goes on would read behind them."""
    async with pipeline(surroundings, partitions=1) as pipe:
        got: list[int] = []

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            got.extend(versions(batch))
            consumer.leaving = True
            return None

        await pipe.publish(*states_of(SUBJECT, *range(1, 7)))
        consumer = pipe.consumer(keep, weigh=weigh, max_records=2)
        async with going(consumer.run):
            await eventually(lambda: _reached(pipe, 6))
        assert got == list(range(1, 7))


async def test_a_batch_on_hold_keeps_back_those_behind_it(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        got: list[int] = []
        held = 0

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            nonlocal held
            if versions(batch) == [1] and not held:
                held += 1
                raise Hold
            got.extend(versions(batch))
            return None

        await pipe.publish(*states_of(SUBJECT, *range(1, 7)))
        async with going(pipe.consumer(keep, weigh=weigh, max_records=2).run):
            await eventually(lambda: _reached(pipe, 6))
        assert (held, got) == (1, list(range(1, 7)))


async def test_what_can_be_handled_of_a_buried_record_is_handled_with_the_burial(surroundings: Surroundings) -> None:
    """Once, also where the first attempt fails; a record of which nothing can be handled is buried whole."""
    async with pipeline(surroundings, partitions=1) as pipe:
        rests: list[int] = []
        attempts = 0
        done: list[int] = []

        async def refuse(tx: AsyncConnection, batch: list[Received]) -> After | None:
            if POISONED in versions(batch) or POISONED + 1 in versions(batch):
                raise Poison("a part of it")
            return None

        async def rest(tx: AsyncConnection, batch: list[Received]) -> After | None:
            nonlocal attempts
            if versions(batch) != [POISONED]:
                raise Poison("all of it")
            attempts += 1
            if attempts == 1:
                raise ConnectionError("the database went away")
            rests.extend(versions(batch))

            async def after() -> None:
                done.extend(versions(batch))

            return after

        await pipe.publish(*states_of(SUBJECT, *range(1, 7)))
        consumer = pipe.consumer(refuse, handle_rest=rest)
        async with going(consumer.run):
            await eventually(lambda: _reached(pipe, 6))
        assert (rests, done, attempts) == ([POISONED], [POISONED], 2)
        assert await pipe.waiting() == 2


async def test_records_buried_in_part_do_not_stop_the_consumer(surroundings: Surroundings) -> None:
    """Each has something that can be handled: the deploy is not bad, however many come."""
    async with pipeline(surroundings, partitions=1) as pipe:

        async def refuse(tx: AsyncConnection, batch: list[Received]) -> After | None:
            raise Poison("a part of it")

        async def rest(tx: AsyncConnection, batch: list[Received]) -> After | None:
            return None

        await pipe.publish(*states_of(SUBJECT, *range(1, 31)))
        await pipe.hand(pipe.consumer(refuse, handle_rest=rest))
        assert await pipe.next_offset() == 30
        assert await pipe.waiting() == 30
