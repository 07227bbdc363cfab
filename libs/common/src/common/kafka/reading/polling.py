"""Polls: records of the idle partitions, and the progress that each poll shows.

The Kafka client may raise any class of error, naming no partition. Then the consumer reads each partition by itself: a
bad record holds up only its own partition.
"""

import asyncio
import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from common.kafka.reading.client import is_cancelled
from common.kafka.reading.placement import Placement
from common.kafka.reading.progress import Progress
from common.kafka.subscription import CALM_READ_MS, CALM_S, POLL_MS, READ_MS, Subscription

log = logging.getLogger(__name__)

InFlight = Mapping[TopicPartition, asyncio.Task[None]]


@dataclass(slots=True, frozen=True)
class Position:
    """The client's position, the end of the log, the first offset of an open transaction, and the broker's answer."""

    tp: TopicPartition
    position: int
    end: int | None
    stable: int | None
    answer: int | None

    @property
    def before_a_transaction(self) -> bool:
        """Return whether an open transaction keeps back the next record."""
        return self.stable is not None and self.end is not None and self.stable <= self.position < self.end


class Weights(NamedTuple):
    """How many messages records hold: the mean, and the standard deviation."""

    mean: float = 1.0
    spread: float = 0.0

    def records(self, messages: int) -> int:
        """Return how many records hold so many messages, and seldom more; at least 1.

        Records that hold a few more become two batches, of which one is small.
        """
        root = math.sqrt(self.spread**2 + 4 * self.mean * messages) - self.spread
        return max(1, int((root / (2 * self.mean)) ** 2 + 1e-6))


@dataclass(slots=True)
class Polling:
    subscription: Subscription
    placement: Placement
    progress: Progress
    _gathers_until: float = 0.0
    _awake_until: float = 0.0
    _polled: set[TopicPartition] = field(default_factory=set)  # without an error, by the last read
    _weights: Weights = field(default_factory=Weights)  # of the records of the last read

    async def positions(self, client: AIOKafkaConsumer) -> list[Position]:
        """Return the client's positions."""
        return [await _position(client, tp) for tp in client.assignment() & self.placement.placed]

    async def read(
        self, client: AIOKafkaConsumer, in_flight: InFlight, stopping: "asyncio.Future[Any]"
    ) -> dict[TopicPartition, list[Any]]:
        """Poll the idle partitions (no batch in flight). Raises any error of the client.

        Returns {} early when another partition becomes idle, so that the next poll includes it; when a rested partition
        may be read again; when `stopping` ends; and while records gather.
        """
        self._polled = set()
        if (gathers_s := self._gathers_until - time.monotonic()) > 0:
            await asyncio.wait((stopping,), timeout=gathers_s)
            return {}
        idle = client.assignment() - in_flight.keys() - self.placement.stopped
        wanted = self.subscription.wanted
        if not (idle and wanted) and not in_flight:
            await asyncio.sleep(POLL_MS / 1000)
            return {}
        if in_flight and not (idle and wanted):
            await asyncio.wait(in_flight.values(), timeout=POLL_MS / 1000, return_when=asyncio.FIRST_COMPLETED)
            return {}
        wanted = self._weights.records(wanted)
        if self.progress.is_careful(now := time.monotonic()):
            self._awake_until = now + CALM_S
            return await self._read_apart(
                client, (idle & self.placement.placed) - self.placement.resume_at.keys(), wanted
            )
        reading = asyncio.ensure_future(client.getmany(*idle, timeout_ms=self._patience_ms(), max_records=wanted))
        try:
            await asyncio.wait((reading, stopping, *in_flight.values()), return_when=asyncio.FIRST_COMPLETED)
            if reading.cancelled():
                raise RuntimeError("the client cancelled the read by itself")
        finally:
            reading.cancel()  # a waiting read holds no record
        found = await asyncio.gather(reading, return_exceptions=True)
        if isinstance(found[0], asyncio.CancelledError):
            self._polled = idle
            return {}
        if isinstance(found[0], BaseException):
            raise found[0]
        batches: dict[TopicPartition, list[Any]] = found[0]
        await self._fill_last(client, batches, wanted)
        self._polled = idle
        self._weigh(batches)
        self._gather(batches, wanted)
        return batches

    async def _fill_last(self, client: AIOKafkaConsumer, found: dict[TopicPartition, list[Any]], wanted: int) -> None:
        """Read on in the last partition of a read of `wanted` records, which has ended in the midst of its records.

        A transaction of a few records costs about as much as one of many. Raises any error of the client: the read has
        failed then, and the consumer rewinds.
        """
        many = sum(map(len, found.values()))
        if self.subscription.together or len(found) < 2 or many < wanted:
            return
        last = next(reversed(found))  # the client drains a partition before it turns to the next
        more = min(wanted - len(found[last]), self._weights.records(self.subscription.room) - many)
        if more > 0 and not client._subscription.reassignment_in_progress:  # a rebalance would be waited for
            found[last] += (await client.getmany(last, timeout_ms=0, max_records=more)).get(last, [])

    def _weigh(self, found: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """Note how many messages a record holds: the next read asks for fewer records."""
        if self.subscription.weigh is not None and any(found.values()):
            weights = [self.subscription.weight(record) for records in found.values() for record in records]
            mean = sum(weights) / len(weights)
            self._weights = Weights(mean, math.dist(weights, [mean] * len(weights)) / math.sqrt(len(weights)))

    def _gather(self, found: Mapping[TopicPartition, Sequence[Any]], wanted: int) -> None:
        """Let records gather until the next read, after one that brought fewer records than `wanted`.

        Each batch costs a transaction, and each of its events another of every reader. The next fetch is under way
        meanwhile, and gathers as well (`Pace`).
        """
        many, now = sum(map(len, found.values())), time.monotonic()
        if 0 < many < wanted:
            self._gathers_until = now + self.subscription.gather_s
        if many or not self._awake_until:
            self._awake_until = now + CALM_S

    def _patience_ms(self) -> int:
        """Return how long a read may wait for a record: also until the next rested partition."""
        now = time.monotonic()
        most = CALM_READ_MS if self._awake_until and now > self._awake_until else READ_MS
        next_s = min(self.placement.resume_at.values(), default=math.inf) - now
        return round(min(most, max(POLL_MS, next_s * 1000)))

    async def _read_apart(
        self, client: AIOKafkaConsumer, idle: Collection[TopicPartition], most: int
    ) -> dict[TopicPartition, list[Any]]:
        """Poll each idle partition by itself.

        A failed one is read record by record: the client loses the records of a call that raises.
        """
        await asyncio.sleep(POLL_MS / 1000)
        found: dict[TopicPartition, list[Any]] = {}
        for tp in idle:
            at_once = 1 if self.progress.failures(tp.partition) else most
            records: list[Any] = []
            try:
                while True:
                    more = (await client.getmany(tp, timeout_ms=0, max_records=at_once)).get(tp, [])
                    records += more
                    if at_once == most or not more or len(records) >= most:
                        break
            except (NoOffsetForPartitionError, OffsetOutOfRangeError):
                raise
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                if not records:
                    self._unread(client, tp, error)
                    continue
            if records:
                found[tp] = records
            self._polled.add(tp)
        return found

    def _unread(self, client: AIOKafkaConsumer, tp: TopicPartition, error: BaseException) -> None:
        """Rest a partition with an unreadable next record."""
        offset, why = self.placement.offsets.reached[tp], type(error).__name__
        rest = self.progress.failed(tp.partition, why, offset, time.monotonic())
        if self.progress.failures(tp.partition) in (2, 10, 100, 1000):
            log.error(
                "a partition cannot be read, trying again",
                extra={"topic": tp.topic, "partition": tp.partition, "offset": offset, "why": why},
            )
        self.placement.rest(client, tp, offset, rest)
        self.placement.placed.discard(tp)

    def note_progress(self, client: AIOKafkaConsumer, before: Sequence[Position], in_flight: InFlight) -> None:
        """Tell `Progress` which partitions are busy, and where the others stand.

        `before`: positions before the read. Only a read without error confirms a position: the client may step over the
        record and raise at the next read.
        """
        now = time.monotonic()
        wanted, resting = self.subscription.wanted, self.placement.resume_at
        for tp in client.assignment():
            if tp in in_flight or tp in resting or tp in self.placement.stopped or not wanted:
                self.progress.busy(tp.partition, now)
            else:
                self.progress.expect(tp.partition, now)
        still_ours = self._polled & client.assignment()  # despite a rebalance
        for stood in before:
            if stood.tp in still_ours - in_flight.keys() - resting.keys() and wanted:
                self.progress.seen(
                    stood.tp.partition, stood.position, stood.end, stood.answer, now, waits=stood.before_a_transaction
                )


async def _position(client: AIOKafkaConsumer, tp: TopicPartition) -> Position:
    answer = client.last_poll_timestamp(tp)
    return Position(tp, await client.position(tp), client.highwater(tp), client.last_stable_offset(tp), answer)
