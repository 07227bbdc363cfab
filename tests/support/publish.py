"""What the neighbours of a service under test would publish, put on the real broker."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from aiokafka.errors import KafkaConnectionError

from common.contracts import Event, Topic, Watermark
from common.kafka import broker as kafka
from common.kafka.broker import partition_of
from common.settings import ServiceSettings
from tests.support.eventually import eventually
from tests.support.running import Surroundings

_ensured: set[tuple[object, ...]] = set()
_numbers: Counter[tuple[str, str, int]] = Counter()  # of the last event put there: broker, topic and partition
_logged: Counter[tuple[str, str, int]] = Counter()  # likewise, once it is acknowledged: what a watermark may say
_ends: Counter[tuple[str, str, int]] = Counter()  # the offset after the last event put there


async def ensured(settings: ServiceSettings, topic: Topic) -> None:
    """Asked of a broker once: it has those of every test so far, and tells of all of them. Who starts one again that
    forgets, under the same address, makes them anew."""
    key = (settings.kafka_bootstrap, settings.topic_prefix, topic, settings.partitions, settings.kafka_replication)
    if key not in _ensured:
        await kafka.ensure_topics(settings, [topic])
        _ensured.add(key)


async def publish(
    surroundings: Surroundings,
    topic: Topic,
    events: Sequence[Event],
    *,
    as_of: datetime | None = None,
    partition_shift: int = 0,
) -> None:
    """`events` to their partitions (or, shifted, to wrong ones), then, with `as_of`, a watermark to every partition.
    Acknowledged on return. Those of a partition arrive together: whoever reads one reads all."""
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    await ensured(settings, topic)
    async with _producer(settings) as producer:
        acks = [
            await _send(
                producer,
                settings,
                topic,
                event,
                (partition_of(event.key, settings.partitions) + partition_shift) % settings.partitions,
            )
            for event in events
        ]
        for acknowledged in await asyncio.gather(*acks):
            _note_end(settings, topic, acknowledged)
        for place in list(_numbers):
            if place[:2] == (settings.kafka_bootstrap, settings.topic_prefix + topic.name):
                _logged[place] = _numbers[place]
        if as_of is not None:
            for partition in range(settings.partitions):
                await (await _send_watermark(producer, settings, topic, as_of, partition))


async def lose(surroundings: Surroundings, topic: Topic, key: str) -> int:
    """A record that this key's partition has lost: its number is given to none. Returns the partition."""
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    partition = partition_of(key, settings.partitions)
    place = (settings.kafka_bootstrap, settings.topic_prefix + topic.name, partition)
    _numbers[place] += 1
    _logged[place] = _numbers[place]
    return partition


async def publish_raw(
    surroundings: Surroundings, topic: Topic, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    """A record as a broken or foreign producer would write it, to the partition of its key (0 without one)."""
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    await ensured(settings, topic)
    partition = partition_of(key.decode(errors="replace"), settings.partitions) if key else 0
    async with _producer(settings) as producer:
        acknowledged = await producer.send_and_wait(
            settings.topic_prefix + topic.name, value, key=key, partition=partition, headers=headers
        )
    _note_end(settings, topic, acknowledged)


async def all_read(surroundings: Surroundings, service: str, topic: Topic) -> None:
    """Return once each group of `service` that reads `topic` stored what this process has put there."""
    settings = ServiceSettings(**await surroundings.settings(service))

    async def look() -> bool:
        async with surroundings.sql(service) as sql:
            rows = await sql.fetch(
                "SELECT partition, min(next_offset) AS next FROM consumer_offset WHERE topic = $1 GROUP BY 1",
                topic.name,
            )
        read = {row["partition"]: row["next"] for row in rows}
        for place, end in _ends.items():
            if place[:2] == (settings.kafka_bootstrap, settings.topic_prefix + topic.name):
                assert read.get(place[2], 0) >= end, f"{topic.name} {place[2]}: {read.get(place[2])} of {end} read"
        return True

    await eventually(look)


def _note_end(settings: ServiceSettings, topic: Topic, acknowledged: Any) -> None:
    place = (settings.kafka_bootstrap, settings.topic_prefix + topic.name, acknowledged.partition)
    _ends[place] = max(_ends[place], acknowledged.offset + 1)


@asynccontextmanager
async def heartbeat(
    surroundings: Surroundings, topic: Topic, every_s: float = 0.2, partitions: Sequence[int] | None = None
) -> AsyncIterator[None]:
    """While the block runs, the owner of `topic` keeps saying that all it acknowledged is in the log. `partitions`: of
    these alone."""
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    await ensured(settings, topic)
    stop = asyncio.Event()

    async def beat() -> None:
        async with _producer(settings) as producer:
            while not stop.is_set():
                as_of = datetime.now(UTC)
                for partition in range(settings.partitions) if partitions is None else partitions:
                    await (await _send_watermark(producer, settings, topic, as_of, partition))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), every_s)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        stop.set()
        await beating


@asynccontextmanager
async def _producer(settings: ServiceSettings) -> AsyncIterator[Any]:
    """Connected, however long a machine that stands still keeps the broker from answering."""

    async def connected() -> Any:
        producer = kafka.producer(settings)
        try:
            await producer.start()
        except KafkaConnectionError as error:
            await producer.stop()
            raise AssertionError(f"no broker at {settings.kafka_bootstrap}") from error
        return producer

    producer = await eventually(connected)
    try:
        yield producer
    finally:
        await producer.stop()


async def _send(
    producer: Any, settings: ServiceSettings, topic: Topic, event: Event, partition: int
) -> asyncio.Future[Any]:
    """Returns its acknowledgement to come. Events are numbered, as a relay numbers them."""
    name = settings.topic_prefix + topic.name
    headers = kafka.cloud_event_headers(event.type, uuid4(), topic.owner, datetime.now(UTC), None)
    if not isinstance(event, Watermark):
        place = (settings.kafka_bootstrap, name, partition)
        _numbers[place] += 1
        headers.append((kafka.NUMBER, str(_numbers[place]).encode()))
    ack: asyncio.Future[Any] = await producer.send(
        name,
        kafka.encode(event),
        key=event.key.encode(),
        partition=partition,
        headers=headers,
    )
    return ack


async def _send_watermark(
    producer: Any, settings: ServiceSettings, topic: Topic, as_of: datetime, partition: int
) -> asyncio.Future[Any]:
    last = _logged[settings.kafka_bootstrap, settings.topic_prefix + topic.name, partition]
    mark = Watermark(partition=partition, as_of=as_of, last_number=last)
    return await _send(producer, settings, topic, mark, partition)
