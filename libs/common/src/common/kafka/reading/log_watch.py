"""The watch over a topic's logs: gaps, a log that ends too early, a topic made anew, a database that went back."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from common.db.notify import either
from common.kafka.reading import broken_logs
from common.kafka.reading.broken_logs import Broken
from common.kafka.reading.log_identity import UNKNOWN, identity_of
from common.kafka.reading.placement import Placement

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 5.0
NEW_LEADER_S = 30.0  # followers have caught up, or left the in-sync set (replica.lag.time.max.ms)


@dataclass(slots=True, frozen=True)
class _Short:
    """A log that seems to end too early."""

    position: int
    answer: int  # its arrival, in ms
    since: float


@dataclass(slots=True)
class LogWatch:
    """`broken`: partitions that need a person."""

    placement: Placement
    partitions: Sequence[int]
    leaders_change: bool  # another broker may lead a partition
    broken: Sequence[Broken] = ()
    _short: dict[TopicPartition, _Short] = field(default_factory=dict)

    async def run(self, client: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Check every WATCH_INTERVAL_S."""
        while not stop.is_set():
            try:
                await self._check(client)
            except Exception as error:
                name = self.placement.offsets.subscription.name
                log.warning(
                    "the log of a topic could not be checked", extra={"consumer": name, "why": type(error).__name__}
                )
            await either(stop, None, WATCH_INTERVAL_S)

    async def _check(self, client: AIOKafkaConsumer) -> None:
        placement, offsets = self.placement, self.placement.offsets
        topic, group, reached = offsets.subscription.topic, offsets.subscription.group, dict(offsets.reached)
        stored, found = await broken_logs.watched(offsets.database, group, topic.name)
        of = {tp.partition: tp for tp in placement.placed}
        for partition, next_offset in stored.items():  # a quiet partition has no batch to notice this
            if partition in of and next_offset < reached.get(of[partition], 0):
                placement.went_back(of[partition])
        broken_logs.BROKEN.labels(topic.name).set(len(found))
        self.broken = [each for each in found if each.group == group]
        unread = {each.partition for each in self.broken if each.fault == "other_log"}
        placement.stopped = {tp for tp in placement.stopped if tp.partition in unread}  # `place` resumes the cleared
        placement.placed = {tp for tp in placement.placed if tp.partition not in unread}  # found by another process
        now = await identity_of(client._client, placement.topic)
        if placement.identity not in (UNKNOWN, now):  # also for partitions without a process
            for partition in self.partitions:
                await offsets.begin_at(partition, now)
            placement.placed.clear()
            placement.identity = now

    async def within_the_log(self, client: AIOKafkaConsumer) -> None:
        """Stop reading a partition whose log ends before the consumer's position: another log.

        Not every broker refuses the offset. The end is the fetch's high watermark: ListOffsets is not exact on every
        broker. An answer may hold records appended after its high watermark was taken (Partition.fetchRecords in Apache
        Kafka), so only a later answer counts. A new leader gives a lower end until its followers have caught up
        (NEW_LEADER_S).
        """
        now = time.monotonic()
        for tp in client.assignment() & self.placement.placed:
            end = client.highwater(tp)
            if end is None or end >= (position := await client.position(tp)):
                self._short.pop(tp, None)
                continue
            answer = client.last_poll_timestamp(tp)
            short = self._short.get(tp)
            if short is None or end >= short.position:
                self._short[tp] = _Short(position, answer, now)
            elif answer != short.answer and (not self.leaders_change or now - short.since > NEW_LEADER_S):
                why = f"offset {short.position} is beyond the log, which ends at {end}"
                if await self.placement.stop_reading(tp, short.position, why):
                    self._short.pop(tp, None)

    def forget(self) -> None:
        """Forget earlier answers."""
        self._short.clear()
