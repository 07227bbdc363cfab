"""What is on a topic of the real broker, as it grows."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec.structs import asdict

from common.contracts import Event, Topic
from common.contracts.campaign import MessageRequested, MessagesRequested
from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.kafka import broker as kafka
from common.settings import ServiceSettings
from tests.support.publish import ensured
from tests.support.running import Surroundings

EMPTY_FETCH_MS = 20  # the local broker waits to the end, whatever arrives meanwhile


@asynccontextmanager
async def reading(surroundings: Surroundings, topic: Topic) -> AsyncIterator[Callable[[], Awaitable[list[Event]]]]:
    """All of a topic so far, each time it is asked, partition by partition in order."""
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    await ensured(settings, topic)
    async with reading_at(settings, topic) as read:
        yield read


def requests_in(events: Iterable[Event | None]) -> list[Event | None]:
    """The events, with each request of an event by itself."""
    found: list[Event | None] = []
    for event in events:
        if isinstance(event, MessagesRequested):
            shared = {name: getattr(event, name) for name in event.__struct_fields__ if name != "requests"}
            found += [MessageRequested(category="marketing", **shared, **asdict(each)) for each in event.requests]
        else:
            found.append(event)
    return found


def changes_in(events: Iterable[Event | None]) -> list[MessageChanged]:
    """The changes of messages, one by one."""
    return [change for event in events if isinstance(event, MessagesChanged) for change in event.changes]


@asynccontextmanager
async def reading_at(settings: ServiceSettings, topic: Topic) -> AsyncIterator[Callable[[], Awaitable[list[Event]]]]:
    partitions = [TopicPartition(settings.topic_prefix + topic.name, n) for n in range(settings.partitions)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=EMPTY_FETCH_MS
    )
    seen: list[tuple[int, int, Event]] = []

    async def read() -> list[Event]:
        for tp, batch in (await consumer.getmany(timeout_ms=50)).items():
            for one in batch:
                event = kafka.decode(one.value, one.headers)
                assert event is not None
                seen.append((tp.partition, one.offset, event))
        return [event for *_, event in sorted(seen, key=lambda s: s[:2])]

    await consumer.start()
    try:
        consumer.assign(partitions)
        for tp in partitions:
            consumer.seek(tp, 0)
        yield read
    finally:
        await consumer.stop()
