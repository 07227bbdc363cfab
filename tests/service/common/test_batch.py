"""Items that arrive together, and a task between an item and its caller that ends otherwise than by the commit."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from common import batch
from common.batch import Together
from common.db.database import Database, fetch_many, insert_many
from common.telemetry import continue_trace, traceparent
from common.web.problems import DATABASE_DOWN
from tests.support.eventually import WITHIN_S, eventually, is_so
from tests.support.infrastructure import Postgres

pytestmark = pytest.mark.brokerless


class Writer:
    """A batch writer into a table of its own, whose transactions stand still until `go_on`."""

    def __init__(self, database: Database) -> None:
        self.held: Any = SimpleNamespace(database=database)
        self.together: Together[int, int] = Together(self._write)
        self.go_on = asyncio.Event()
        self.going: list[asyncio.Task[Any] | None] = []

    async def _write(self, tx: AsyncConnection, _: object, items: Sequence[int]) -> list[int]:
        await insert_many(tx, "line", {"n": "integer"}, [[n] for n in items])
        self.going.append(asyncio.current_task())
        await self.go_on.wait()
        return [*items]

    def asks(self, *items: int) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self.together.written(self.held, n)) for n in items]

    def number_going(self, number: int) -> Callable[[], Any]:
        return lambda: is_so(len(self.going) == number)

    async def kept(self) -> list[int]:
        async with self.held.database.begin() as tx:
            return [n for (n,) in await fetch_many(tx, "SELECT n FROM line ORDER BY n")]


@pytest.fixture
async def writer(postgres: Postgres, unique: str) -> AsyncIterator[Writer]:
    database = Database(await postgres.empty(f"batch_{unique}"), pool_size=20)
    async with database.begin() as tx:
        await fetch_many(tx, "CREATE TABLE line (n integer)")
    yield Writer(database)
    await database.close()


def trace(n: int) -> str:
    return f"00-{n + 1:032x}-{1:016x}-01"


async def outcomes(*asking: asyncio.Task[int]) -> list[int | BaseException]:
    """Return the results and errors of callers, none of whom waits for ever."""
    _, waiting = await asyncio.wait(asking, timeout=WITHIN_S)
    for task in waiting:
        task.cancel()
    assert not waiting, f"{len(waiting)} wait for ever"
    return [task.exception() or task.result() for task in asking]


async def test_the_callers_of_a_cancelled_transaction_hear_that_the_database_was_away(writer: Writer) -> None:
    asking = writer.asks(1, 2)
    await eventually(writer.number_going(1))
    [going] = writer.going
    assert going is not None
    going.cancel()
    assert [isinstance(error, DATABASE_DOWN) for error in await outcomes(*asking)] == [True, True]
    writer.go_on.set()
    assert await outcomes(*writer.asks(3)) == [3]
    assert await writer.kept() == [3]


async def test_the_callers_that_wait_for_a_transaction_hear_of_it_when_none_will_begin(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "AT_MOST", 1)
    asking = writer.asks(*range(batch.AT_ONCE + 2))
    await eventually(writer.number_going(batch.AT_ONCE))
    doorkeeper = writer.together._doorkeeper
    assert doorkeeper is not None
    doorkeeper.cancel()
    assert [isinstance(error, DATABASE_DOWN) for error in await outcomes(*asking[-2:])] == [True, True]
    writer.go_on.set()
    assert await outcomes(*asking[:-2]) == [*range(batch.AT_ONCE)], "who is in a transaction is not concerned"
    assert await outcomes(*writer.asks(90)) == [90]
    assert await writer.kept() == [*range(batch.AT_ONCE), 90]


async def test_the_callers_of_a_transaction_that_takes_too_long_are_told_and_it_is_rolled_back(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "GIVEN_UP_S", 0.2)
    [error] = await outcomes(*writer.asks(1))
    assert isinstance(error, TimeoutError)
    assert await writer.kept() == []


async def test_an_item_given_up_on_is_written_only_if_its_transaction_has_begun(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "AT_MOST", 1)
    asking = writer.asks(*range(batch.AT_ONCE))
    await eventually(writer.number_going(batch.AT_ONCE))
    hurried = asyncio.create_task(writer.together.written(writer.held, 90, 0.1))
    [error] = await outcomes(hurried)
    assert isinstance(error, TimeoutError)
    assert not any(task.done() for task in asking)
    writer.go_on.set()
    assert await outcomes(*asking) == [*range(batch.AT_ONCE)]
    assert await outcomes(asyncio.create_task(writer.together.written(writer.held, 91, WITHIN_S))) == [91]
    assert await writer.kept() == [*range(batch.AT_ONCE), 91]


async def test_a_transaction_goes_on_with_the_trace_of_its_first_item(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with that of the caller for whom the batch writer was started."""
    monkeypatch.setattr(batch, "AT_MOST", 2)
    seen = list[tuple[str | None, list[int]]]()

    async def writes(_: AsyncConnection, __: object, items: Sequence[int]) -> list[int]:
        seen.append((traceparent(), [*items]))
        return [*items]

    async def ask(n: int) -> int:
        continue_trace(trace(n))
        return await writer.together.written(writer.held, n)

    writer.together = Together(writes)
    await outcomes(*(asyncio.create_task(ask(n)) for n in range(4)))
    assert seen == [(trace(0), [0, 1]), (trace(2), [2, 3])]


async def test_a_write_that_forgets_an_item_is_an_error_of_each_caller(writer: Writer) -> None:
    async def forgets(tx: AsyncConnection, _: object, items: Sequence[int]) -> list[int]:
        return []

    writer.together = Together(forgets)
    assert [type(error) for error in await outcomes(*writer.asks(1, 2))] == [ValueError, ValueError]


async def test_items_that_come_during_the_rest_share_the_next_transaction(writer: Writer) -> None:
    resting, rested = asyncio.Event(), asyncio.Event()

    async def rest() -> None:
        resting.set()
        await rested.wait()

    writer.together = Together(writer._write, rest=rest)
    writer.go_on.set()
    assert await writer.asks(1)[0] == 1
    await asyncio.wait_for(resting.wait(), WITHIN_S)
    early, late = writer.asks(2)[0], writer.asks(3)[0]
    await eventually(lambda: is_so(len(writer.together._waiting) == 2))
    rested.set()
    assert [await early, await late] == [2, 3]
    assert len(writer.going) == 2
    assert await writer.kept() == [1, 2, 3]


async def test_a_transaction_waits_while_items_come_that_no_answer_has_brought(writer: Writer) -> None:
    coming = iter((3,))
    pauses = list[float]()

    async def rest() -> None:
        pass

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        waiting = writer.together._waiting
        many = len(waiting)
        if (more := writer.asks(*itertools.islice(coming, 1))) != []:
            asked.extend(more)
            await eventually(lambda: is_so(len(waiting) > many))

    writer.together = Together(writer._write, at_once=1, rest=rest, pause=pause)
    asked = writer.asks(1)
    await eventually(lambda: is_so(len(writer.going) == 1))
    asked += writer.asks(2)
    await eventually(lambda: is_so(len(writer.together._waiting) == 1))
    writer.go_on.set()
    assert [await each for each in asked[:2]] == [1, 2]
    assert [await each for each in asked] == [1, 2, 3]
    assert len(writer.going) == 2
    assert len(pauses) == 2, "the last brought nothing"
    assert await writer.asks(5)[0] == 5
    assert len(pauses) == 2, "nobody waits longer for an answer"
