"""A subscription's topic read again, from any offset up to another, beside the consumer that reads it for good: by no
group, and storing nothing. What is read and how far is the caller's to note, in its own transaction.
"""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from common.contracts import Watermark
from common.kafka import broker as kafka
from common.kafka.completeness import Reading, Seen
from common.kafka.consumer import Poison, Received, Stopped, Subscription, event_of, key_of, received_as
from common.settings import ServiceSettings

POLL_MS = 100
SILENT_S = 60.0
BEGINNING = Seen()
FETCH_BYTES = 1024 * 1024  # of a partition at once: what is in memory does not grow with the topic


class Batch(NamedTuple):
    """Records of one partition. `poisoned`: (offset, key) of those that cannot be read, None for a key that cannot be
    read either. `reading`: how far the partition is read with this batch, and the gap that the batch met."""

    partition: int
    received: list[Received]
    poisoned: list[tuple[int, str | None]]
    reading: Reading


@dataclass(slots=True)
class Replaying:
    """A context: opened, it reads."""

    subscription: Subscription
    settings: ServiceSettings
    _consumer: AIOKafkaConsumer = field(init=False)

    async def __aenter__(self) -> Self:
        self._consumer = AIOKafkaConsumer(
            **kafka.connection(self.settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=POLL_MS,
            fetch_max_bytes=4 * FETCH_BYTES,
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        await self._consumer.start()
        self._consumer.assign([self._place(partition) for partition in range(self.settings.partitions)])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def read(self, since: Mapping[int, Seen], until: Mapping[int, int], most: int) -> AsyncIterator[Batch]:
        """What is from `since` on and below `until`, by partition, at most so many records at once. From 0 means from
        the oldest there is. The caller moves `since` on by each batch before it asks for the next one. Raises
        OffsetOutOfRangeError where the log does not hold the offset any more, Stopped where nothing comes any more:
        then it is another log that ends before, or there is no broker."""
        going = {p: until[p] for p in until if since.get(p, BEGINNING).next_offset < until[p]}
        for partition in going:
            self._consumer.seek(self._place(partition), since.get(partition, BEGINNING).next_offset)
        heard = time.monotonic()
        while going:
            places = [self._place(partition) for partition in going]
            try:
                found = await self._consumer.getmany(*places, timeout_ms=POLL_MS, max_records=most)
            except OffsetOutOfRangeError as error:
                if any(since.get(place.partition, BEGINNING).next_offset for place in error.args[0]):
                    raise
                await self._consumer.seek_to_beginning(*error.args[0])
                continue
            for place, records in found.items():
                end = going[place.partition]
                seen = since.get(place.partition, BEGINNING)
                yield self._batch(place.partition, seen, [record for record in records if record.offset < end], end)
            for place in places:
                if await self._consumer.position(place) >= going[place.partition]:
                    del going[place.partition]
            now = time.monotonic()
            heard = now if found else heard
            if now - heard > SILENT_S:
                raise Stopped(f"nothing comes of {sorted(going)}: not as far as somebody has read before")

    def _batch(self, partition: int, seen: Seen, records: list[Any], end: int) -> Batch:
        received: list[Received] = []
        poisoned: list[tuple[int, str | None]] = []
        topic = self.subscription.topic
        reading = Reading(seen, numbered=topic.watermarked, compacted=topic.cleanup == "compact")
        for record in records:
            number = kafka.number_of(record.headers)
            try:
                event = event_of(self.subscription, record)
            except Poison:
                poisoned.append((record.offset, key_of(record)))
                reading.record(record.offset, number)
                continue
            if type(event) is Watermark:
                reading.watermark(record.offset, event.as_of, event.last_number)
                continue
            reading.record(record.offset, number)
            if event is not None:
                received.append(received_as(record, event))
        if not records:
            reading.skip_to(end)
        return Batch(partition, received, poisoned, reading)

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self.settings.topic_prefix + self.subscription.topic.name, partition)
