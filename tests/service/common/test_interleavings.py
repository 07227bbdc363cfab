"""The relay beside who writes, and the consumer beside a second owner, in the orders of their statements
(`interleaving.py`). Kafka is a list here: an order of it is what is looked at."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES, Event, Watermark
from common.contracts.consent import ConsentStateChanged
from common.kafka import broker as kafka
from common.kafka import outbox
from common.kafka.consumer import Consumer
from common.kafka.outbox import Relay
from common.kafka.reading.offsets import applied_watermarks
from common.kafka.reading.records import Mark
from common.kafka.subscription import After, Received, Subscription
from common.settings import ServiceSettings
from tests.service.common.pipeline import TABLES, project, states_of
from tests.support.builders import opted_in, opted_out, subject
from tests.support.eventually import eventually
from tests.support.interleaving import Act, Interleaving, Stepped, watching
from tests.support.running import Surroundings

pytestmark = pytest.mark.brokerless

GROUP = "consent.inbound.messages"
EMPTY = "".join(
    f"DELETE FROM {table};" for table in ("outbox", "outbox_log", "consumer_offset", "projection", "applied")
)
HOUR = timedelta(hours=1)


@dataclass
class Batch:
    log: "Log"
    records: list[Event] = field(default_factory=list)

    def append(self, *, key: bytes, value: bytes, timestamp: None, headers: kafka.Headers) -> object:
        event = kafka.decode(value, headers)
        assert event is not None
        self.records.append(event)
        return self

    def size(self) -> int:
        return 0


@dataclass
class Log:
    """A producer whose records are all in one partition, acknowledged at once."""

    events: list[Event] = field(default_factory=list)

    def create_batch(self) -> Batch:
        return Batch(self)

    async def send_batch(self, batch: Batch, *_: object, partition: int) -> Any:
        self.events += batch.records
        return _acknowledged()

    async def send(self, *_: object, value: bytes, headers: kafka.Headers, **_more: object) -> Any:
        event = kafka.decode(value, headers)
        assert event is not None
        self.events.append(event)
        return _acknowledged()


def _acknowledged() -> "asyncio.Future[None]":
    acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    acknowledged.set_result(None)
    return acknowledged


@dataclass
class Outlet:
    """Where a relay writes: the list."""

    producer: Log
    until: float = 0.0


class Relaying(Relay):
    """A relay to a list."""

    log: Log

    async def once(self) -> bool:
        """Lead for one turn. False where another relay leads."""
        async with self._database.locked(outbox.LEADER, 60.0, lambda: None) as session:
            if session is None:
                return False
            numbers = await outbox._numbers(session)
            await session.rollback()
            outlet: Any = Outlet(self.log)
            await self._turn(session, outlet, 60.0, numbers)
            return True


@dataclass
class Parts:
    database: Stepped
    watcher: asyncpg.Connection
    settings: ServiceSettings
    log: Log = field(default_factory=Log)
    acknowledged: dict[tuple[str, int], datetime] = field(default_factory=dict)

    async def before(self) -> None:
        self.log.events.clear()
        self.acknowledged.clear()
        await self.watcher.execute(EMPTY)

    def relay(self, *, stands_on: bool = False) -> Relaying:
        relay = Relaying(
            "consent", self.database, self.settings, watermarked=[STATES], ceiling=self.ceiling if stands_on else None
        )
        relay.log = self.log
        return relay

    async def ceiling(self, tx: AsyncConnection) -> Mapping[int, datetime]:
        return await applied_watermarks(tx, GROUP, STATES)

    async def writes(self, *states: ConsentStateChanged) -> None:
        async with self.database.begin() as tx:
            await outbox.append(tx, STATES, states)
        at = datetime.now(UTC)
        self.acknowledged |= {(state.subject_id, state.version): at for state in states}

    async def every_watermark_is_true(self, _: asyncpg.Connection) -> None:
        """What was acknowledged before the instant that it names comes before it in the log."""
        for place, mark in enumerate(self.log.events):
            if isinstance(mark, Watermark):
                before = {known(event) for event in self.log.events[:place]}
                late = {state for state, at in self.acknowledged.items() if at < mark.as_of} - before
                assert not late, f"a watermark of {mark.as_of} comes before {late}"


def known(event: Event) -> tuple[str, int] | None:
    return (event.subject_id, event.version) if isinstance(event, ConsentStateChanged) else None


@pytest.fixture
async def parts(surroundings: Surroundings) -> AsyncIterator[Parts]:
    settings = ServiceSettings(**await surroundings.settings("dispatch", partitions=1))
    settings = settings.model_copy(update={"max_clock_skew_s": 0.0, "watermark_every_s": 0.0})
    async with AsyncExitStack() as opened:
        watcher = await opened.enter_async_context(watching(settings.database_url))
        await watcher.execute(TABLES)
        database = await Stepped(settings.database_url, pool_size=3).connected()
        opened.push_async_callback(database.close)
        yield Parts(database, watcher, settings)


async def test_a_relay_and_its_standby_and_who_writes(parts: Parts) -> None:
    """No watermark speaks for what is not in the log, and no event is there twice or behind a newer one."""

    async def begin() -> dict[str, Act]:
        await parts.before()
        await parts.writes(opted_in(1))
        relays = [parts.relay(), parts.relay()]
        return {
            "relay": relays[0].once,
            "standby": relays[1].once,
            "writes": lambda: parts.writes(opted_out(1)),
        }

    async def ended(watcher: asyncpg.Connection) -> None:
        await eventually(parts.relay().once)
        assert [one for event in parts.log.events if (one := known(event))] == [(subject(1), 1), (subject(1), 2)]
        await parts.every_watermark_is_true(watcher)

    await Interleaving(parts.watcher, freezes=2).every_order(begin, ended)


async def test_a_relay_and_two_who_write_at_once(parts: Parts) -> None:
    """Whichever commits first: a lower id that comes later is neither skipped nor deleted unread."""

    async def begin() -> dict[str, Act]:
        await parts.before()
        return {
            "relay": parts.relay().once,
            "one": lambda: parts.writes(opted_in(1)),
            "other": lambda: parts.writes(opted_in(2)),
        }

    async def ended(watcher: asyncpg.Connection) -> None:
        await eventually(parts.relay().once)
        told = sorted(one for event in parts.log.events if (one := known(event)))
        assert told == sorted([(subject(1), 1), (subject(2), 1)])
        await parts.every_watermark_is_true(watcher)

    await Interleaving(parts.watcher, freezes=2, stands_after=("SELECT id, event_id",)).every_order(begin, ended)


async def test_a_relay_and_what_its_watermark_stands_on(parts: Parts) -> None:
    """Who reads an inbound watermark has written what came before it, in one transaction with the watermark."""
    said_at = datetime.now(UTC) - HOUR  # the STOP was acknowledged then, to its operator
    stop = opted_out(1)

    async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
        await outbox.append(tx, STATES, [stop])
        return None

    async def begin() -> dict[str, Act]:
        await parts.before()
        intake = Consumer(Subscription(GROUP, STATES, keep), parts.database, parts.settings)
        await intake.offsets.start_of(0)
        tp = TopicPartition("any", 0)
        await intake.batches.apply({tp: [record(0, Watermark(partition=0, as_of=said_at - HOUR, last_number=0))]})
        parts.acknowledged[subject(1), stop.version] = said_at
        relay = parts.relay(stands_on=True)

        async def relays() -> None:
            await eventually(relay.once)
            await eventually(relay.once)

        batch = [record(1, stop), record(2, Watermark(partition=0, as_of=said_at + HOUR / 2, last_number=0))]
        return {"relay": relays, "reads": lambda: intake.batches.apply({tp: batch})}

    async def ended(watcher: asyncpg.Connection) -> None:
        await eventually(parts.relay(stands_on=True).once)
        await parts.every_watermark_is_true(watcher)
        newest = [event.as_of for event in parts.log.events if isinstance(event, Watermark)][-1]
        assert newest == said_at + HOUR / 2, "and it comes through"

    await Interleaving(parts.watcher, freezes=2).every_order(begin, ended)


@pytest.mark.parametrize("further", [True, False], ids=["who has read further", "who has read less"])
async def test_a_batch_and_a_second_owner(parts: Parts, further: bool) -> None:
    """Each event is handled once, in order, whoever comes first; no watermark goes back."""
    older, newer = (datetime.now(UTC) - HOUR * n for n in (2, 1))
    states = states_of(subject(1), *range(1, 5))
    some = [record(0, states[0]), record(1, Watermark(partition=0, as_of=older, last_number=0)), record(2, states[1])]
    rest = [record(3, states[2]), record(4, Watermark(partition=0, as_of=newer, last_number=0)), record(5, states[3])]
    tp = TopicPartition("any", 0)

    seconds = [*some, *rest, record(6, states_of(subject(1), 5)[0])] if further else some

    async def begin() -> dict[str, Act]:
        await parts.before()
        owners = [Consumer(Subscription(GROUP, STATES, project), parts.database, parts.settings) for _ in range(2)]
        await owners[0].offsets.start_of(0)
        return {
            "owner": lambda: owners[0].batches.apply({tp: [*some, *rest]}),
            "second": lambda: owners[1].batches.apply({tp: seconds}),
        }

    async def ended(watcher: asyncpg.Connection) -> None:
        versions = [version for (version,) in await watcher.fetch("SELECT version FROM applied ORDER BY id")]
        assert versions == list(range(1, 6 if further else 5))
        assert await watcher.fetchval("SELECT next_offset FROM consumer_offset") == (7 if further else 6)
        assert await watcher.fetchval("SELECT as_of FROM consumer_offset") == newer

    await Interleaving(parts.watcher, freezes=2).every_order(begin, ended)


async def test_no_watermark_goes_back(parts: Parts) -> None:
    """A relay that takes over may have a slower clock than the one before it."""
    older, newer = (datetime.now(UTC) - HOUR * n for n in (2, 1))
    tp = TopicPartition("any", 0)
    consumer = Consumer(Subscription(GROUP, STATES, project), parts.database, parts.settings)
    await consumer.offsets.start_of(0)
    await consumer.batches.apply({tp: [record(0, Watermark(partition=0, as_of=newer, last_number=0))]})
    await consumer.batches.apply({tp: [record(1, Watermark(partition=0, as_of=older, last_number=0))]})
    await consumer.offsets.step_over_watermarks({tp: [Mark(2, older, 0)]})
    row = await parts.watcher.fetchrow("SELECT next_offset, as_of FROM consumer_offset")
    assert tuple(row) == (3, newer)


async def test_watermarks_of_a_partition_and_a_second_owner(parts: Parts) -> None:
    older, newer = (datetime.now(UTC) - HOUR * n for n in (2, 1))
    tp = TopicPartition("any", 0)

    async def begin() -> dict[str, Act]:
        await parts.before()
        owners = [Consumer(Subscription(GROUP, STATES, project), parts.database, parts.settings) for _ in range(2)]
        await owners[0].offsets.start_of(0)
        return {
            "owner": lambda: owners[0].offsets.step_over_watermarks({tp: [Mark(1, newer, 0)]}),
            "second": lambda: owners[1].offsets.step_over_watermarks({tp: [Mark(0, older, 0)]}),
        }

    async def ended(watcher: asyncpg.Connection) -> None:
        row = await watcher.fetchrow("SELECT next_offset, as_of FROM consumer_offset")
        assert tuple(row) == (2, newer)

    await Interleaving(parts.watcher, freezes=2).every_order(begin, ended)


@dataclass(frozen=True)
class Kept:
    """A record of Kafka's, as aiokafka has it."""

    offset: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]
    partition: int = 0
    timestamp: int = 0


def record(offset: int, event: Event) -> Kept:
    return Kept(offset, event.key.encode(), kafka.encode(event), [("ce_type", event.type.encode())])
