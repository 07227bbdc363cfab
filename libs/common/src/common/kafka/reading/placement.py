"""Placement: each assigned partition is sought to its stored offset before the first read, paused, and resumed.

Kafka's commit may be ahead of a restored database, so the client's position does not count.
"""

import contextlib
import gc
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, OffsetOutOfRangeError

from common.kafka.reading.log_identity import UNKNOWN, Identity, identity_of
from common.kafka.reading.offsets import Offsets

log = logging.getLogger(__name__)

COLLECT_INTERVAL_S = 1.0


@dataclass(slots=True)
class Placement:
    """The partitions read. `placed`: sought to the stored offset. `stopped`: of another log."""

    topic: str  # with the prefix
    offsets: Offsets
    identity: Identity = UNKNOWN
    placed: set[TopicPartition] = field(default_factory=set)
    stopped: set[TopicPartition] = field(default_factory=set)
    resume_at: dict[TopicPartition, float] = field(default_factory=dict)
    _collect_at: float = 0.0

    async def place(self, client: AIOKafkaConsumer) -> bool:
        """Seek assigned partitions to their stored offsets; False while database or broker do not answer."""
        try:
            new = client.assignment() - self.placed - self.stopped
            if new:
                self.identity = await identity_of(client._client, self.topic)
            for tp in new:
                stored, fault = await self.offsets.begin_at(tp.partition, self.identity)
                with contextlib.suppress(IllegalStateError):  # lost meanwhile
                    client.seek(tp, stored)
                    if fault == "other_log":
                        self.resume_at.pop(tp, None)
                        client.pause(tp)
                        self.stopped.add(tp)
                        continue
                    if tp not in self.resume_at:
                        client.resume(tp)
                    self.placed.add(tp)
                    self.offsets.reached[tp] = stored
        except Exception as error:
            name = self.offsets.subscription.name
            log.warning("no stored offsets yet", extra={"consumer": name, "why": type(error).__name__})
            return False
        return True

    def rewind(self, client: AIOKafkaConsumer, in_flight: Collection[TopicPartition]) -> None:
        """Seek idle partitions back to the reached offset.

        A client that raises forgets records, and may have stepped over the bad record.
        """
        for tp in (client.assignment() & self.placed) - set(in_flight) - self.resume_at.keys():
            with contextlib.suppress(IllegalStateError):
                client.seek(tp, self.offsets.reached[tp])

    def rest(self, client: AIOKafkaConsumer, tp: TopicPartition, offset: int, seconds: float) -> None:
        """Rewind and pause a partition.

        aiokafka's iterator over dropped records refers to itself: until a garbage collection (rare, `collect_rarely`)
        each rest keeps an answer of up to FETCH_BYTES, and its last batch unpacked.
        """
        now = time.monotonic()
        if now >= self._collect_at:
            self._collect_at = now + COLLECT_INTERVAL_S
            gc.collect()
        with contextlib.suppress(IllegalStateError):  # the next owner starts from Postgres
            client.seek(tp, offset)
            client.pause(tp)
            self.resume_at[tp] = now + seconds

    def resume(self, client: AIOKafkaConsumer) -> None:
        """Resume the rested partitions."""
        now = time.monotonic()
        for tp in [tp for tp, at in self.resume_at.items() if at <= now]:
            del self.resume_at[tp]
            with contextlib.suppress(IllegalStateError):
                client.resume(tp)

    def went_back(self, tp: TopicPartition) -> None:
        """Place a partition anew: its stored offset is behind."""
        log.error(
            "the database lost a stored offset: reading the partition again",
            extra={"topic": tp.topic, "partition": tp.partition, "offset": self.offsets.reached.get(tp)},
        )
        self.placed.discard(tp)

    async def out_of_range(self, client: AIOKafkaConsumer, error: KafkaError) -> None:
        """Handle an offset which the log no longer holds.

        At 0 the oldest records aged out before the first read. Elsewhere needed records are gone, or the topic was made
        anew: a person decides.
        """
        for tp in client.assignment():
            stored = await self.offsets.start_of(tp.partition)
            if tp in self.stopped:
                continue
            if stored == 0:
                await client.seek_to_beginning(tp)
            elif isinstance(error, OffsetOutOfRangeError) and tp in (error.args[0] if error.args else ()):
                await self.stop_reading(tp, stored, f"offset {stored} is not in the log")
            else:
                client.seek(tp, stored)
                self.offsets.reached[tp] = stored

    async def stop_reading(self, tp: TopicPartition, at: int, why: str) -> bool:
        """Stop reading another log; return False where the stop is not stored."""
        try:
            await self.offsets.note_other_log(tp.partition, at, why)
        except Exception as error:
            name = self.offsets.subscription.name
            log.warning(
                "the fault of a partition is not stored yet", extra={"consumer": name, "why": type(error).__name__}
            )
            return False
        self.placed.discard(tp)
        return True

    def forget_placed(self) -> None:
        """Forget the placements."""
        self.placed.clear()
        self.stopped.clear()

    def forget(self) -> None:
        """Forget all partitions."""
        self.forget_placed()
        self.offsets.reached.clear()
        self.resume_at.clear()
