"""What the Kafka client may raise, at every border of it: the consumer reads on, or is red with the reason and where it
stands, steps over nothing, and goes on once the error ends. The client is not ours: here it is made to fail."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.record.util import calc_crc32c
from sqlalchemy import text

from common.contracts import STATES
from common.kafka import broker as kafka
from common.kafka import consumer as consumer_loop
from common.kafka import dead_letters
from common.kafka.consumer import Consumer
from common.kafka.reading import progress
from tests.service.common.pipeline import Pipeline, going, pipeline, states_of
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings

HERE, THERE = f"t1-{2:032x}", f"t1-{5:032x}"  # of partition 0 and 1 of two
RED_S = 1.0
ATTRIBUTES = 21  # of a batch, where its CRC begins to count


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "RETRY_S", 0.05)
    monkeypatch.setattr(progress, "CAREFUL_S", 0.5)
    monkeypatch.setattr(progress, "RENEW_S", 1.5)


@dataclass
class Two:
    """A consumer of two partitions, which was told so many versions of HERE and THERE."""

    pipe: Pipeline
    consumer: Consumer
    told: list[int] = field(default_factory=list)

    async def tell(self) -> None:
        self.told.append(len(self.told) + 1)
        await self.pipe.publish(*states_of(HERE, self.told[-1]), *states_of(THERE, self.told[-1]))

    def red(self, *said: str) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            lines = "\n".join(self.consumer.stalls(RED_S))
            assert lines
            assert all(each in lines for each in said), lines
            return True

        return look

    async def has_read(self, subject: str) -> bool:
        assert [version for key, version in await self.pipe.applied() if key == subject] == self.told
        return True

    async def is_well(self) -> bool:
        """Each once, in order."""
        await self.has_read(HERE)
        await self.has_read(THERE)
        assert not self.consumer.stalls(RED_S)
        return True


@asynccontextmanager
async def two(surroundings: Surroundings) -> AsyncIterator[Two]:
    async with pipeline(surroundings, partitions=2, kafka_groups=False) as pipe:
        it = Two(pipe, pipe.consumer())
        async with going(it.consumer.run) as [running]:
            await it.tell()
            await eventually(it.is_well)
            yield it
            assert not running.done()


RAISED: list[BaseException] = [
    errors.KafkaError("unexpected"),
    errors.NoOffsetForPartitionError("p"),
    errors.TopicAuthorizationFailedError("t"),
    errors.UnsupportedCodecError("snappy"),
    errors.RecordTooLargeError("large"),
    errors.ConsumerStoppedError(),  # no KafkaError
    ValueError("of a parser"),
    EOFError("of gzip"),
    AssertionError("of the client"),
    TimeoutError(),
    asyncio.CancelledError(),
]


@pytest.mark.any_broker
async def test_whatever_a_read_raises_is_red_and_steps_over_nothing(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[BaseException] = []
    read = Fetcher.fetched_records

    async def fails(self: Fetcher, *args: Any, **more: Any) -> Any:
        found = await read(self, *args, **more)
        if raised:
            raise raised[0]  # and what was found is lost, as where a parser raises
        return found

    monkeypatch.setattr(Fetcher, "fetched_records", fails)
    async with two(surroundings) as it:
        for error in RAISED:
            raised.append(error)
            await it.tell()
            await eventually(it.red())
            raised.clear()
            await eventually(it.is_well)


@pytest.mark.any_broker
async def test_what_the_client_had_taken_when_it_raised_is_read_again(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parser raises at one partition, and the records of the other are gone with a position behind them."""
    lost: list[bool] = []
    read = Fetcher.fetched_records

    async def fails(self: Fetcher, *args: Any, **more: Any) -> Any:
        found = await read(self, *args, **more)
        if found and lost:
            lost.clear()
            raise errors.CorruptRecordException("crc")
        return found

    monkeypatch.setattr(Fetcher, "fetched_records", fails)
    async with two(surroundings) as it:
        lost.append(True)
        await it.tell()
        await eventually(lambda: is_so(not lost))
        await it.tell()
        await eventually(it.is_well)


@pytest.mark.any_broker
@pytest.mark.parametrize("place", ["position", "seek", "highwater"])
async def test_what_else_the_client_is_asked_may_raise_too(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    real = getattr(AIOKafkaConsumer, place)
    broken: list[bool] = []

    def fails(self: AIOKafkaConsumer, *args: Any) -> Any:
        if broken:
            raise RuntimeError(place)
        return real(self, *args)

    monkeypatch.setattr(AIOKafkaConsumer, place, fails)
    async with two(surroundings) as it:
        broken.append(True)
        if place == "seek":
            it.consumer.placement.placed.clear()
        await it.tell()
        await eventually(it.red())
        broken.clear()
        await eventually(it.is_well)


@pytest.mark.any_broker
async def test_a_client_that_hangs_is_red(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = asyncio.Event()
    hang.set()
    read = Fetcher.fetched_records

    async def hangs(self: Fetcher, *args: Any, **more: Any) -> Any:
        await hang.wait()
        return await read(self, *args, **more)

    monkeypatch.setattr(Fetcher, "fetched_records", hangs)
    async with two(surroundings) as it:
        hang.clear()
        await eventually(it.red("no error"))
        shown = consumer_loop.STALLED.labels(STATES.name)
        await eventually(lambda: is_so(shown._value.get() > RED_S))
        hang.set()
        await it.tell()
        await eventually(it.is_well)
        await eventually(lambda: is_so(shown._value.get() < RED_S))


@pytest.mark.any_broker
async def test_a_client_whose_own_task_died_is_made_anew(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that it does not expect ends its fetching for good, and getmany raises nothing."""
    broken: list[bool] = []
    real = Fetcher._proc_fetch_request

    async def dies(self: Fetcher, *args: Any) -> Any:
        if broken:
            raise ValueError("of the parser of an answer")
        return await real(self, *args)

    monkeypatch.setattr(Fetcher, "_proc_fetch_request", dies)
    async with two(surroundings) as it:
        broken.append(True)
        await it.tell()
        await eventually(it.red())
        broken.clear()
        await eventually(it.is_well)


@pytest.mark.parametrize("error", [errors.GroupAuthorizationFailedError("g"), OSError("no such host")])
async def test_a_client_that_does_not_start_is_red_until_it_does(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    broken = [True]
    real = AIOKafkaConsumer.start

    async def fails(self: AIOKafkaConsumer) -> None:
        await real(self)
        if broken:
            raise error  # half way

    monkeypatch.setattr(AIOKafkaConsumer, "start", fails)
    async with pipeline(surroundings, partitions=2) as pipe:
        it = Two(pipe, pipe.consumer())
        async with going(it.consumer.run):
            await eventually(it.red(f"({type(error).__name__})"))  # a group may have dealt partitions out by then
            broken.clear()
            await it.tell()
            await eventually(it.is_well)


async def test_an_error_of_one_partition_in_the_brokers_answer_is_red_and_the_other_goes_on(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(code: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        return lambda part: (part[0], code, -1, *part[3:-1], b"")

    change = _answers(monkeypatch)
    async with two(surroundings) as it:
        for code in (-1, 2, 3, 6, 29, 999):
            change[0] = refuse(code)
            await it.tell()
            await eventually(lambda: it.has_read(THERE))
            await eventually(it.red("partition 0"))
            assert "partition 1" not in " ".join(it.consumer.stalls(RED_S))
            change.clear()
            await eventually(it.is_well)


def crc(batch: bytes) -> bytes:
    return batch[:17] + struct.pack(">I", calc_crc32c(batch[ATTRIBUTES:])) + batch[ATTRIBUTES:]


def coded(codec: int) -> Callable[[bytes], bytes]:
    """Its attributes say so, and its records are no such thing."""
    return lambda batch: crc(batch[:ATTRIBUTES] + struct.pack(">h", codec) + batch[ATTRIBUTES + 2 :])


BAD: dict[str, Callable[[bytes], bytes]] = {
    "a wrong CRC": lambda batch: batch[:-1] + bytes([batch[-1] ^ 1]),
    "a codec of tomorrow": coded(5),
    "gzip": coded(1),
    "snappy": coded(2),
    "lz4": coded(3),
    "no codec": coded(0),  # where it has one
    "a record of another length": lambda batch: crc(batch[:61] + b"\x02" + batch[62:]),
    "half of a batch": lambda batch: batch[: len(batch) // 2],
}


async def test_a_record_that_the_client_cannot_read_stands_alone_and_is_named(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What precedes it in the same answer is handled, the other partition goes on, and nothing is stepped over."""
    change = _answers(monkeypatch)
    async with two(surroundings) as it:
        for kind, spoil in BAD.items():
            bad = len(it.told) + 1
            change[0] = _spoiling(bad, spoil)
            for _ in range(3):
                await it.tell()
            await eventually(lambda: it.has_read(THERE))
            await eventually(it.red(f"partition 0 stands at offset {bad}"))
            assert await it.pipe.next_offset(0) == bad, kind
            change.clear()
            await eventually(it.is_well)


async def test_a_person_steps_over_a_record_that_nobody_can_read(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change = _answers(monkeypatch)
    change[0] = _spoiling(1, BAD["a wrong CRC"])
    async with two(surroundings) as it:
        for _ in range(2):
            await it.tell()
        await eventually(it.red("partition 0 stands at offset 1", "CorruptRecordException"))

        async def step_over(first: str, following: str) -> int:
            url, place = it.pipe.settings.database_url, (STATES.name, "0", first, following)
            return await dead_letters.command("dispatch", url, ["step-over", *place])

        async with it.pipe.database.begin() as tx:  # another group of the service reads the topic, elsewhere
            await tx.execute(
                text(
                    "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, updated_at)"
                    " VALUES ('another', :topic, 0, 7, now())"
                ),
                {"topic": STATES.name},
            )
        for first, following in (("0", "1"), ("2", "3"), ("1", "1")):
            assert await step_over(first, following) == 1
        assert "is read on from offset 1, 7" in capsys.readouterr().err
        assert await step_over("1", "2") == 0
        await eventually(lambda: _offset(it.pipe, 3))
        assert [version for key, version in await it.pipe.applied() if key == HERE] == [1, 3]
        await eventually(lambda: is_so(not it.consumer.stalls(RED_S)))
        [[offset, state, reason]] = await it.pipe.rows("SELECT at_offset, state, reason FROM dead_letter")
        assert (offset, state) == (1, "open")
        assert await it.pipe.scalar("SELECT next_offset FROM consumer_offset WHERE consumer_group = 'another'") == 7
        assert "stepped over by hand" in reason


async def test_where_a_topic_is_compressed_all_is_as_ever(surroundings: Surroundings) -> None:
    """`compression.type` of a topic of ours is its operator's to choose."""
    async with pipeline(surroundings, partitions=2, kafka_groups=False) as first:
        settings = first.with_settings(topic_prefix=f"{first.settings.topic_prefix}lz4.")
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        await admin.start()
        try:
            ours = {"min.insync.replicas": "1", "unclean.leader.election.enable": "false"}
            told = STATES.config | ours | {"compression.type": "lz4"}
            await admin.create_topics([NewTopic(settings.topic_prefix + STATES.name, 2, 1, topic_configs=told)])
        finally:
            await admin.close()
        await kafka.ensure_topics(settings, [STATES])
        pipe = Pipeline(surroundings, settings, first.database)
        it = Two(pipe, pipe.consumer())
        async with going(it.consumer.run):
            for _ in range(3):
                await it.tell()
            await eventually(it.is_well)


def _spoiling(offset: int, spoil: Callable[[bytes], bytes]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """The batch that begins with this offset; what follows it in the same answer is cut off with half a batch."""

    def change(part: tuple[Any, ...]) -> tuple[Any, ...]:
        batches, changed = bytes(part[-1] or b""), b""
        while batches:
            first, length = struct.unpack_from(">qi", batches)
            batch, batches = batches[: 12 + length], batches[12 + length :]
            if first == offset:
                batch = spoil(batch)
                if len(batch) < 12 + length:
                    batches = b""
            changed += batch
        return (*part[:-1], changed)

    return change


def _answers(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
    """How what a broker says of a partition is changed before the client sees it."""
    change: dict[int, Callable[[tuple[Any, ...]], tuple[Any, ...]]] = {}
    send = AIOKafkaClient.send

    async def changed(client: AIOKafkaClient, *asked: Any, **more: Any) -> Any:
        answer = await send(client, *asked, **more)
        if type(answer).__name__.startswith("FetchResponse"):
            answer.topics = [
                (topic, [change[part[0]](tuple(part)) if part[0] in change else part for part in parts])
                for topic, parts in answer.topics
            ]
        return answer

    monkeypatch.setattr(AIOKafkaClient, "send", changed)
    return change


async def _offset(pipe: Pipeline, offset: int) -> bool:
    assert await pipe.next_offset(0) == offset
    return True
