"""Two relays of one database, and a wire to Kafka that fails one of them: the other publishes all there is, and what
the first has still under way changes nothing. And the numbers by which a reader sees that it has missed nothing."""

import asyncio
import gc
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
from aiokafka.errors import KafkaError

from common.contracts import STATES, Watermark
from common.contracts.consent import ConsentStateChanged
from common.db.database import Database
from common.db.timer import uptime_s
from common.kafka import broker as kafka
from common.kafka import outbox
from tests.service.common.pipeline import Pipeline, Record, going, pipeline, states_of
from tests.service.common.wire import Wire, wire_to
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings

SUBJECTS = [f"t1-{n:032x}" for n in range(5)]
ACK_TIMEOUT_S = 1.0


@asynccontextmanager
async def wire_to_kafka(surroundings: Surroundings) -> AsyncIterator[Wire]:
    """A client that bootstraps at the wire's port finds the broker there alone."""
    host, port = surroundings.broker.bootstrap.split(":")
    async with wire_to(host, int(port)) as wire:
        wire.rewrite = (host.encode() + struct.pack(">i", int(port)), host.encode() + struct.pack(">i", wire.port))
        yield wire


@asynccontextmanager
async def led_by_the_wired_one(pipe: Pipeline, wire: Wire) -> AsyncIterator[None]:
    """Two relays. The one that leads reaches Kafka by the wire, the standby reaches it directly."""
    standby = Database(pipe.settings.database_url, name="standby")
    wired = pipe.relay(
        kafka_bootstrap=f"127.0.0.1:{wire.port}", relay_ack_timeout_s=ACK_TIMEOUT_S, watermark_every_s=3600.0
    )
    async with going(wired.run):
        await pipe.append(*states_of(SUBJECTS[0], 1))
        await eventually(pipe.drained)
        async with going(pipe.relay(database=standby).run):
            await eventually(lambda: _stood_by(pipe))
            yield
    await standby.close()


async def _stood_by(pipe: Pipeline) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'standby'"
    return bool(await pipe.scalar(f"{query} AND query LIKE '%FROM outbox ORDER BY id%'"))


def _versions(records: list[Record]) -> list[int]:
    return [record.event.version for record in records if isinstance(record.event, ConsentStateChanged)]


async def test_a_standby_publishes_the_whole_outbox_while_kafka_does_not_answer_the_leader(
    surroundings: Surroundings,
) -> None:
    """And the former leader ends when it is told to, though Kafka still says nothing to it."""
    async with pipeline(surroundings, partitions=1) as pipe, wire_to_kafka(surroundings) as wire:
        async with led_by_the_wired_one(pipe, wire):
            wire.hold()
            await pipe.append(*states_of(SUBJECTS[0], 2))
            await asyncio.wait_for(wire.answered.wait(), 30)
            await pipe.append(*states_of(SUBJECTS[0], *range(3, 40)))
            await eventually(pipe.drained, within_s=30)
        assert list(dict.fromkeys(_versions(await pipe.log()))) == list(range(1, 40))


async def test_what_a_former_leader_has_under_way_is_not_the_newest_of_its_key(surroundings: Surroundings) -> None:
    """The old state arrives at Kafka after the STOP. Compaction keeps the last record of a key: a reader that begins
    anew would know the old state alone. Apache Kafka refuses it. The local broker knows no producer ids."""
    async with pipeline(surroundings, partitions=1) as pipe, wire_to_kafka(surroundings) as wire:
        async with led_by_the_wired_one(pipe, wire):
            wire.hold_requests()
            await pipe.append(*states_of(SUBJECTS[0], 2))
            await asyncio.wait_for(wire.asking.wait(), 30)
            await eventually(pipe.drained)  # by the standby, so the former leader has given up
            await pipe.append(*states_of(SUBJECTS[0], 3))
            await eventually(pipe.drained)
            assert _versions(await pipe.log()) == [1, 2, 3]
            wire.answered.clear()
            wire.hold()  # answers are seen, and kept
            wire.requests_arrive()
            await asyncio.wait_for(wire.answered.wait(), 30)
        late = [] if surroundings.broker.idempotent else [2]
        assert _versions(await pipe.log()) == [1, 2, 3, *late]


def _numbers(records: list[Record]) -> dict[int, list[int]]:
    """By partition, in the order of the log; a watermark stands for the last number it tells, negative."""
    found: dict[int, list[int]] = defaultdict(list)
    for record in records:
        if isinstance(record.event, Watermark):
            assert kafka.NUMBER not in record.headers
            if found[record.partition][-1:] != [-record.event.last_number]:
                found[record.partition].append(-record.event.last_number)
        else:
            found[record.partition].append(int(record.headers[kafka.NUMBER]))
    return dict(found)


async def _says(pipe: Pipeline, last: int) -> bool:
    """The newest watermark of every partition that has records tells its last number."""
    told = {partition: numbers[-1] for partition, numbers in _numbers(await pipe.log()).items()}
    assert -last in told.values()
    assert all(number <= 0 for number in told.values())
    return True


async def test_records_of_a_partition_are_numbered_and_watermarks_tell_the_last_number(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record of a shared row has its own. A second relay goes on where the first has ended."""
    monkeypatch.setattr(outbox, "TOGETHER", 3)
    async with pipeline(surroundings, partitions=3) as pipe:
        async with pipe.database.begin() as tx:
            await outbox.append_by_partition(tx, STATES, states_of(SUBJECTS[0], *range(1, 8)), 3)
        await pipe.append(*(state for subject in SUBJECTS for state in states_of(subject, 8)))
        mine = kafka.partition_of(SUBJECTS[0], 3)
        beside = sum(kafka.partition_of(subject, 3) == mine for subject in SUBJECTS[1:])
        async with going(pipe.relay(relay_batch=2, watermark_every_s=0.01).run):
            await eventually(lambda: _says(pipe, 8 + beside))
        await pipe.append(*states_of(SUBJECTS[0], 9))
        async with going(pipe.relay(watermark_every_s=0.01).run):
            await eventually(lambda: _says(pipe, 9 + beside))
        for numbers in _numbers(await pipe.log()).values():
            records = [number for number in numbers if number > 0]
            assert records == list(range(1, len(records) + 1))
            for before, after in pairwise(numbers):
                assert after > 0 or -after >= abs(before), "a watermark tells less than what precedes it"
        stored = await pipe.rows("SELECT topic, partition, last_number FROM outbox_log ORDER BY partition")
        assert (STATES.name, mine, 9 + beside) in stored
        assert sum(last for *_, last in stored) == 7 + len(SUBJECTS) + 1


async def test_what_is_published_again_has_a_number_of_the_same_range(surroundings: Surroundings) -> None:
    """A relay dies between the acknowledgement and the commit, and a row with a lower id is committed meanwhile."""
    async with pipeline(surroundings, partitions=1) as pipe:
        async with pipe.database.begin() as tx:
            await outbox.append(tx, STATES, states_of(SUBJECTS[1], 1))
            ids = await pipe.append(*states_of(SUBJECTS[0], 1, 2))
            async with pipe.row_held(ids[0]) as let_go, going(pipe.relay().run) as [relaying]:
                await eventually(lambda: _two(pipe))
                deleting = await eventually(pipe.who_deletes)
                relaying.cancel()
                with suppress(asyncio.CancelledError):
                    await relaying
                await eventually(lambda: pipe.gone(deleting))
                await let_go()
        async with going(pipe.relay(watermark_every_s=0.01).run):
            await eventually(lambda: _says(pipe, 3))
        assert [number for number in _numbers(await pipe.log())[0] if number > 0] == [1, 2, 1, 2, 3]


async def _two(pipe: Pipeline) -> bool:
    return len(await pipe.states()) == 2


async def test_dead_letters_have_no_number(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        async with pipe.database.begin() as tx:
            await outbox.append_dead_letter(tx, STATES, b"k", b"v", "why")
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        [letter] = await pipe.dead_letters()
        assert kafka.NUMBER not in letter.headers
        assert await pipe.rows("SELECT * FROM outbox_log") == []


async def test_an_outlet_whose_time_is_over_writes_nothing(surroundings: Surroundings) -> None:
    """Its process stood still: the lock may be another's, and no timer of its own has told it yet."""
    async with pipeline(surroundings, partitions=1) as pipe:
        outlet = kafka.Outlet(pipe.settings, "relay")
        await outlet.start()
        try:
            outlet.until = uptime_s() - 1.0
            batch = outlet.producer.create_batch()
            batch.append(key=b"k", value=b"v", timestamp=None)
            with pytest.raises(KafkaError, match="Shut"):
                await (await outlet.producer.send_batch(batch, pipe.settings.topic_prefix + STATES.name, partition=0))
        finally:
            await outlet.end()
        assert await pipe.log() == []


async def test_an_outlet_ends_while_the_broker_s_metadata_does_not_come(surroundings: Surroundings) -> None:
    """Its sender waits for metadata that a closed client never asks for: the relay would stand still in silence."""
    async with pipeline(surroundings, partitions=1) as pipe, wire_to_kafka(surroundings) as wire:
        outlet = kafka.Outlet(pipe.with_settings(kafka_bootstrap=f"127.0.0.1:{wire.port}"), "relay")
        await outlet.start()
        topic = pipe.settings.topic_prefix + STATES.name
        await outlet.producer.partitions_for(topic)
        batch = outlet.producer.create_batch()
        batch.append(key=b"k", value=b"v", timestamp=None)
        wire.hold_requests()
        sent = await outlet.producer.send_batch(batch, topic, partition=0)
        await asyncio.wait_for(wire.asking.wait(), 30)
        wire.cut()
        wire.whole = True  # a broker that takes connections, and answers none
        await eventually(lambda: is_so(_waits_for_metadata(outlet)))
        await asyncio.wait_for(outlet.end(), 30)
        with pytest.raises(KafkaError):
            await sent


def _waits_for_metadata(outlet: kafka.Outlet) -> bool:
    again = outlet.producer._message_accumulator._batches
    return bool(again) and outlet.producer.client._md_update_fut is not None


async def test_a_session_that_stands_still_loses_its_lock_and_another_gets_it(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        lost = asyncio.Event()
        async with pipe.database.locked("lock", 0.5, lost.set) as held:
            assert held is not None
            async with pipe.database.locked("lock", 0.5, lambda: None) as other:
                assert other is None or lost.is_set()
            await asyncio.wait_for(lost.wait(), 30)
            async with pipe.database.locked("lock", 30.0, lambda: None) as other:
                assert other is not None
        assert await pipe.scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def _unretrieved(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What asyncio says of errors that nobody has looked at, once the collector has found them all.

    Not of callbacks: with Apache Kafka one of the client fails, as its transactions are not in use.
    """
    for record in caplog.records:
        record.msg, record.args, record.exc_info = record.getMessage(), (), None  # errors hold frames, and so futures
    gc.collect()
    told = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    return [message for message in told if "was never retrieved" in message]


async def _awaited(sent: asyncio.Future[object]) -> None:
    await asyncio.gather(sent)


async def _given_up(sent: asyncio.Future[object]) -> None:
    async with asyncio.timeout(0):
        await asyncio.gather(sent)


@pytest.mark.parametrize(("caller", "ends_with"), [(_awaited, kafka.Shut), (_given_up, TimeoutError)])
@pytest.mark.parametrize("as_batch", [True, False])
@pytest.mark.parametrize("drained", [True, False])
async def test_a_shut_outlet_leaves_no_error_behind(
    surroundings: Surroundings,
    caplog: pytest.LogCaptureFixture,
    caller: Callable[[asyncio.Future[object]], Awaitable[None]],
    ends_with: type[Exception],
    as_batch: bool,
    drained: bool,
) -> None:
    """asyncio tells of each such error as one of the service's, whenever the collector comes."""
    async with pipeline(surroundings, partitions=1) as pipe, wire_to_kafka(surroundings) as wire:
        outlet = kafka.Outlet(pipe.with_settings(kafka_bootstrap=f"127.0.0.1:{wire.port}"), "relay")
        await outlet.start()
        topic = pipe.settings.topic_prefix + STATES.name
        await outlet.producer.partitions_for(topic)
        wire.hold_requests()
        if as_batch:
            batch = outlet.producer.create_batch()
            batch.append(key=b"k", value=b"v", timestamp=None)
            sent = await outlet.producer.send_batch(batch, topic, partition=0)
        else:
            sent = await outlet.producer.send(topic, b"v", partition=0)
        if drained:
            await asyncio.wait_for(wire.asking.wait(), 30)
        if caller is _given_up:
            with pytest.raises(ends_with):
                await caller(sent)
            outlet.shut()
        else:
            outlet.shut()
            with pytest.raises(ends_with):
                await caller(sent)
        await outlet.end()
        del outlet, sent
    assert _unretrieved(caplog) == []


@pytest.mark.parametrize("batch_bytes", [kafka.BATCH_BYTES, 2_000])
async def test_a_leader_that_gives_up_leaves_no_error_behind(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, batch_bytes: int
) -> None:
    """While it awaits the acknowledgements; with small batches, before all of them are handed over."""
    monkeypatch.setattr(kafka, "BATCH_BYTES", batch_bytes)
    async with (
        pipeline(surroundings, partitions=1) as pipe,
        wire_to_kafka(surroundings) as wire,
        led_by_the_wired_one(pipe, wire),
    ):
        wire.hold()
        await pipe.append(*(state for subject in SUBJECTS for state in states_of(subject, *range(2, 6))))
        await eventually(pipe.drained)
    assert _unretrieved(caplog) == []


async def test_what_is_published_is_compressed_on_its_way(surroundings: Surroundings) -> None:
    """Records of a batch have most of their bytes in common, and the log keeps each of them for seven days."""
    async with pipeline(surroundings, partitions=1) as pipe, wire_to_kafka(surroundings) as wire:
        sent: list[int] = []
        wire.asked = lambda data: sent.append(len(data))
        states = states_of(SUBJECTS[0], *range(1, 501))
        await pipe.append(*states)
        async with going(pipe.relay(kafka_bootstrap=f"127.0.0.1:{wire.port}").run):
            await eventually(pipe.drained)
        assert len(_versions(await pipe.log())) == 500
        assert sum(sent) < sum(len(kafka.encode(state)) for state in states) / 3
