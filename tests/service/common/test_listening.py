"""Waiting without polling, on a real Postgres: a notification wakes, a lost connection is renewed, a failure is tried
again."""

import asyncio
import time

import asyncpg
import pytest
from sqlalchemy import text

from common.db.notify import Listener, either
from common.db.timer import Timer
from tests.service.common.pipeline import Pipeline, going, pipeline
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker  # Postgres notifies

CHANNEL = "a_channel"
LONG_S = 60.0


async def _notify(pipe: Pipeline) -> None:
    async with pipe.database.begin() as tx:
        await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})


async def _known_closed(connection: asyncpg.Connection) -> bool:
    """Return whether the client has read to the end; the server is gone a moment before."""
    closed: bool = connection.is_closed()
    return closed


async def _notified(pipe: Pipeline, woken: asyncio.Event) -> bool:
    """Until the listener is there: notifications to nobody are lost, and whoever listens also looks by itself."""
    await _notify(pipe)
    return woken.is_set()


async def test_a_notification_wakes_also_after_the_connection_was_lost(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        woken = asyncio.Event()
        async with Listener(pipe.database, CHANNEL, lambda _: woken.set()):
            await eventually(lambda: _notified(pipe, woken))
            killed = await pipe.scalar(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
            assert killed == 1
            woken.clear()
            await eventually(lambda: _notified(pipe, woken))


async def test_a_pool_gives_no_connection_that_has_been_closed(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        async with pipe.database.begin() as tx:
            pid = await tx.scalar(text("SELECT pg_backend_pid()"))
            driver = (await tx.get_raw_connection()).driver_connection
            assert driver is not None
        other = await pipe.database.connect()
        await other.execute(f"SELECT pg_terminate_backend({pid})")
        await eventually(lambda: _known_closed(driver))
        await other.close()
        assert await pipe.scalar("SELECT pg_backend_pid()") != pid


async def test_either_event_or_the_deadline_ends_the_wait() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    await either(first, second, 0.01)
    second.set()
    await asyncio.wait_for(either(first, second, LONG_S), 30)
    second.clear()
    first.set()
    await asyncio.wait_for(either(first, second, LONG_S), 30)
    await asyncio.wait_for(either(first, None, LONG_S), 30)


async def test_a_timer_that_finds_nothing_looks_more_rarely_and_a_notification_wakes_it(
    surroundings: Surroundings,
) -> None:
    """The tenth look comes after intervals of 1, 2, 4 … 256 ms: never earlier, however fast the machine."""
    async with pipeline(surroundings) as pipe:
        looks: list[float] = []

        async def tick() -> bool:
            looks.append(time.monotonic())
            return False

        async def notified(many: int) -> bool:
            await _notify(pipe)
            return len(looks) > many

        timer = Timer("a timer", tick, 0.001, pipe.database, CHANNEL, idle_s=LONG_S)
        async with going(timer.run):
            await eventually(lambda: is_so(len(looks) >= 10))
            assert looks[9] - looks[0] >= 0.511
            await eventually(lambda: notified(len(looks)))
        woken = len(looks)
        async with going(Timer("a timer", tick, 0.001, pipe.database, idle_s=0.001).run):
            await eventually(lambda: is_so(len(looks) >= woken + 20))


async def test_a_timer_ticks_while_there_is_work_after_a_failure_and_when_notified(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        answers: list[bool | Exception] = [True, True, RuntimeError("the database went away"), True, False]
        ticks = 0

        async def tick() -> bool:
            nonlocal ticks
            ticks += 1
            answer = answers[ticks - 1] if ticks <= len(answers) else False
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def idle_after(expected: int) -> bool:
            assert ticks == expected
            return True

        async def more_than(expected: int) -> bool:
            await _notify(pipe)
            return ticks > expected

        async with going(Timer("a timer", tick, LONG_S, pipe.database, CHANNEL).run):
            await eventually(lambda: idle_after(5))
            await eventually(lambda: more_than(5))
