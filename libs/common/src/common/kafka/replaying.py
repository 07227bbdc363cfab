"""Replay of a subscription's topic: from any offset up to another, beside the consumer.

The replay joins no group and stores nothing; the caller notes its place.
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
from common.kafka.reading.client import ISOLATION, read_of
from common.kafka.reading.completeness import Reading, Seen
from common.kafka.reading.records import event_of, is_tombstone, key_of, received_as
from common.kafka.subscription import Poison, Received, Stopped, Subscription, home_offset
from common.keyring import SubjectKeys
from common.settings import ServiceSettings

POLL_MS = 100
SILENT_S = 60.0
BEGINNING = Seen()
FETCH_BYTES = 1024 * 1024  # of a partition: bounds the memory


class Batch(NamedTuple):
    """Records of a partition.

    `poisoned`: (offset, key) of unreadable records. `reading`: the place after this batch, and the batch's gap.
    """

    partition: int
    received: list[Received]
    poisoned: list[tuple[int, str | None]]
    reading: Reading


@dataclass(slots=True)
class Replaying:
    """A context which reads while open."""

    subscription: Subscription
    settings: ServiceSettings
    _consumer: AIOKafkaConsumer = field(init=False)
    _people: SubjectKeys = field(init=False)

    async def __aenter__(self) -> Self:
        self._people = SubjectKeys(self.settings.subject_keys)
        self._consumer = AIOKafkaConsumer(
            **kafka.connection(self.settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=ISOLATION,
            fetch_max_wait_ms=POLL_MS,
            fetch_max_bytes=4 * FETCH_BYTES,
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        await self._consumer.start()
        read = read_of(self.settings, self.subscription.topic)
        self._consumer.assign([self._place(partition) for partition in read])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def read(self, since: Mapping[int, Seen], until: Mapping[int, int], most: int) -> AsyncIterator[Batch]:
        """Yield the records from `since` up to but not including `until`, by partition, `most` at a time.

        Offset 0 means the oldest record. The caller moves `since` on before asking for the next batch. Raises
        OffsetOutOfRangeError where the log no longer holds the offset, and Stopped after SILENT_S without a record: the
        log ends before `until`, or no broker answers.
        """
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
            if is_tombstone(self.subscription, record, self._people):
                reading.record(record.offset, number)
                continue
            try:
                event = event_of(self.subscription, record)
            except Poison:
                key = key_of(record)
                named = self._people.named(key)
                poisoned.append((home_offset(record.offset, moved=named != key), named))
                reading.record(record.offset, number)
                continue
            if type(event) is Watermark:
                reading.watermark(record.offset, event.as_of, event.last_number)
                continue
            reading.record(record.offset, number)
            if event is not None:
                received.append(received_as(record, event, self._people, self.settings.partitions, topic))
        if not records:
            reading.skip_to(end)
        return Batch(partition, received, poisoned, reading)

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self.settings.topic_prefix + self.subscription.topic.name, partition)
