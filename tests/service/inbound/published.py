"""What is on a topic of the real broker, read from its beginning."""

from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from common import kafka
from common.contracts import Event, Topic, Watermark
from common.settings import ServiceSettings

QUIET_MS = 400  # nothing new for this long: that was all


@dataclass(frozen=True)
class Record:
    key: str
    event: Event
    partition: int


async def published(settings: ServiceSettings, topic: Topic) -> list[Record]:
    """Every event so far, without the watermarks."""
    return [record for record in await _all(settings, topic) if not isinstance(record.event, Watermark)]


async def watermarks(settings: ServiceSettings, topic: Topic) -> list[Watermark]:
    return [record.event for record in await _all(settings, topic) if isinstance(record.event, Watermark)]


async def _all(settings: ServiceSettings, topic: Topic) -> list[Record]:
    """A watermark comes every `watermark_every_s`, so that "to the end" is: until a batch later than the start."""
    await kafka.ensure_topics(settings, [topic])
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, fetch_max_wait_ms=50)
    await consumer.start()
    try:
        partitions = [
            TopicPartition(settings.topic_prefix + topic.name, number) for number in range(settings.partitions)
        ]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        records: list[Record] = []
        # bounded by the first batch that brings only watermarks: the relay publishes those after every event
        while True:
            batch: list[Any] = [r for found in (await consumer.getmany(timeout_ms=QUIET_MS)).values() for r in found]
            read = [_record(raw) for raw in batch]
            records += read
            if not any(not isinstance(record.event, Watermark) for record in read):
                return records
    finally:
        await consumer.stop()


def _record(raw: Any) -> Record:
    event = kafka.decode(raw.value, raw.headers)
    assert event is not None
    return Record(raw.key.decode(), event, raw.partition)
