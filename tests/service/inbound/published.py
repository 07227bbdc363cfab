"""What is on a topic of the real broker, read from its beginning."""

from dataclasses import dataclass, replace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from common.contracts import Event, Topic, Watermark
from common.contracts.inbound import ReceiptsReceived
from common.kafka import broker as kafka
from common.settings import ServiceSettings
from tests.support.publish import ensured

LOOK_MS = 50


@dataclass(frozen=True)
class Record:
    key: str
    event: Event
    partition: int


async def published(settings: ServiceSettings, topic: Topic) -> list[Record]:
    """Every event so far, without the watermarks; each DLR as an event of its own."""
    return [
        replace(record, event=event)
        for record in await _all(settings, topic)
        if not isinstance(record.event, Watermark)
        for event in (record.event.receipts if isinstance(record.event, ReceiptsReceived) else (record.event,))
    ]


async def watermarks(settings: ServiceSettings, topic: Topic) -> list[Watermark]:
    return [record.event for record in await _all(settings, topic) if isinstance(record.event, Watermark)]


async def _all(settings: ServiceSettings, topic: Topic) -> list[Record]:
    """To the end that the broker names with what it hands out, which a broker that is slow to answer does not move."""
    await ensured(settings, topic)
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
        unread = set(partitions)
        while unread:  # by the fetch's high watermark: ListOffsets is not exact everywhere
            for batch in (await consumer.getmany(timeout_ms=LOOK_MS)).values():
                records += map(_record, batch)
            for partition in list(unread):
                end = consumer.highwater(partition)
                if end is not None and await consumer.position(partition) >= end:
                    unread.discard(partition)
        return sorted(records, key=lambda record: record.partition)  # a partition's own order is all that Kafka keeps
    finally:
        await consumer.stop()


def _record(raw: Any) -> Record:
    event = kafka.decode(raw.value, raw.headers)
    assert event is not None
    return Record(raw.key.decode(), event, raw.partition)
