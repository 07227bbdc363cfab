"""The first record of a new partition of a wide topic waits for the partitions that its people were in before.

All records of a person in a former partition are acknowledged before the first in a new one (`widening.py`). So
the end of the former partitions, asked for once a record of the new one has been read, is behind each of them. The new
partition is handled once the group's stored offsets have reached that end, whichever process reads the former ones.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many
from common.kafka import broker as kafka
from common.kafka.subscription import Hold, Subscription
from common.kafka.widening import parents_of
from common.settings import ServiceSettings
from common.telemetry import gauge

log = logging.getLogger(__name__)

WITHIN_S = 10.0  # to learn the ends
AGAIN_AFTER_S = 30.0  # records that a reader waits for may age out of the log
FETCH_MS = 50
TOLD_EVERY_S = 30.0

WAITING = gauge(
    "sms_consumer_new_partitions_waiting_seconds",
    "Seconds for which records of a new partition have waited for their people's former partitions; 0 without such.",
    ["topic", "group"],
)

Ends = Mapping[int, int]  # by partition; 0 where no record is left to be read


@dataclass(slots=True)
class Parents:
    """The wait of a subscription's new partitions."""

    subscription: Subscription
    settings: ServiceSettings
    _ends: dict[int, Ends] = field(default_factory=dict)  # of the former partitions, by new partition
    _asking: dict[int, asyncio.Task[Ends]] = field(default_factory=dict)
    _asked_at: dict[int, float] = field(default_factory=dict)
    _waiting: set[int] = field(default_factory=set)
    _since: float | None = None
    _told_at: float = 0.0

    @property
    def waiting(self) -> str | None:
        """Return which partitions wait, if any."""
        if not self._waiting:
            return None
        told = ", ".join(map(str, sorted(self._waiting)))
        return f"{self.subscription.name}: the new partitions {told} wait until their people's former ones are handled"

    async def handled(self, tx: AsyncConnection, next_offsets: Mapping[int, int]) -> None:
        """Raise Hold while a partition about to be handled for the first time has to wait.

        `next_offsets`: the stored offset of each partition of which records have been read.
        """
        for partition, next_offset in next_offsets.items():
            former = parents_of(partition, self.settings.partitions)
            if next_offset == 0 and former:
                if not await self._reached(tx, partition, former):
                    self._waiting.add(partition)
                    self._show()
                    raise Hold("the partitions that its people were in before are not handled yet")
                self._waiting.discard(partition)  # the ends stay: the transaction may be rolled back
                self._show()
            elif partition in self._ends:
                self._forget(partition)
                log.info("a new partition is read", extra={"consumer": self.subscription.name, "partition": partition})

    def keep(self, partitions: Collection[int]) -> None:
        """Forget other partitions: a process that reads one later asks for the ends anew."""
        for partition in {*self._ends, *self._asking, *self._waiting} - set(partitions):
            self._forget(partition)
        self._show()

    def _forget(self, partition: int) -> None:
        self._waiting.discard(partition)
        self._ends.pop(partition, None)
        if (asking := self._asking.pop(partition, None)) is not None:
            asking.cancel()

    async def _reached(self, tx: AsyncConnection, partition: int, former: Sequence[int]) -> bool:
        if (ends := self._asked(partition, former)) is None:
            return False
        rows = await fetch_many(
            tx,
            "SELECT partition, next_offset FROM consumer_offset"
            " WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3::integer[])",
            self.subscription.group,
            self.subscription.topic.name,
            list(ends),
        )
        stored: dict[int, int] = dict(map(tuple, rows))
        return all(stored.get(of, 0) >= end for of, end in ends.items())

    def _asked(self, partition: int, former: Sequence[int]) -> Ends | None:
        """Ask for the ends beside the transaction; return them once they are there.

        The first answer counts: the former partitions go on. A later one only tells what has left the log.
        """
        known, asking = self._ends.get(partition), self._asking.get(partition)
        if asking is None:
            if known is None or time.monotonic() >= self._asked_at[partition] + AGAIN_AFTER_S:
                self._asked_at[partition] = time.monotonic()
                asking = asyncio.create_task(ends_of(self.settings, self.subscription, former))
                asking.add_done_callback(kafka.seen)
                self._asking[partition] = asking
            return known
        if not asking.done():
            return known
        del self._asking[partition]
        if asking.cancelled() or (error := asking.exception()) is not None:
            name, why = self.subscription.name, "cancelled" if asking.cancelled() else type(error).__name__
            log.warning("the ends of former partitions are not known yet", extra={"consumer": name, "why": why})
            return known
        told = asking.result()
        self._ends[partition] = told if known is None else {of: min(end, told[of]) for of, end in known.items()}
        return self._ends[partition]

    def _show(self) -> None:
        now = time.monotonic()
        self._since = None if not self._waiting else now if self._since is None else self._since
        WAITING.labels(self.subscription.topic.name, self.subscription.group).set(
            0 if self._since is None else now - self._since
        )
        if self._waiting and now >= self._told_at:
            self._told_at = now + TOLD_EVERY_S
            waiting = {"consumer": self.subscription.name, "partitions": sorted(self._waiting)}
            log.warning("new partitions wait until former ones are handled", extra=waiting)


async def ends_of(settings: ServiceSettings, subscription: Subscription, partitions: Sequence[int]) -> Ends:
    """Return the offset behind the last record of each partition, whatever a reader may see of it yet; 0 for no record.

    The higher of two answers: ListOffsets is too low on the local broker, and the high watermark of a fetch on Apache
    Kafka for a moment, where a partition has a new leader.
    """
    topic = settings.topic_prefix + subscription.topic.name
    tps = [TopicPartition(topic, partition) for partition in partitions]
    consumer = AIOKafkaConsumer(
        **kafka.connection(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_uncommitted",  # a record behind an open transaction counts
        fetch_max_wait_ms=FETCH_MS,
        max_partition_fetch_bytes=1,
    )
    async with asyncio.timeout(WITHIN_S):
        try:
            await consumer.start()
            consumer.assign(tps)
            begins, told = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            marks: dict[TopicPartition, int] = {}
            for tp in tps:
                consumer.seek(tp, told[tp])
            while len(marks) < len(tps):
                await consumer.getmany(*(tp for tp in tps if tp not in marks), timeout_ms=FETCH_MS)
                marks |= {tp: mark for tp in tps if (mark := consumer.highwater(tp)) is not None}
        finally:
            await consumer.stop()
    ends = {tp: max(told[tp], marks[tp]) for tp in tps}
    return {tp.partition: end if begins[tp] < end else 0 for tp, end in ends.items()}
