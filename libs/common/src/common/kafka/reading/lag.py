"""The lag of a consumer and its commits to Kafka: for dashboards only, as Postgres stores the offsets."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from common.telemetry import gauge

SHOW_INTERVAL_S = 1.0
COMMIT_INTERVAL_S = 5.0
ENDS_WITHIN_S = 1.0
REPEAT_S = 60.0  # an unchanged commit: Kafka forgets the offsets of a group without members after 7 days

LAG = gauge(
    "sms_consumer_lag_records", "Records not yet handled: high watermark less next offset.", ["topic", "partition"]
)


@dataclass(slots=True)
class Lag:
    topic: str
    _shown: set[TopicPartition] = field(default_factory=set)
    _committing: asyncio.Task[None] | None = None
    _show_at: float = 0.0
    _commit_at: float = 0.0
    _committed: Mapping[TopicPartition, int] | None = None
    _repeat_at: float = 0.0

    def commit(self, client: AIOKafkaConsumer, reached: Mapping[TopicPartition, int], *, now: bool = False) -> None:
        """Show the lag, and begin a commit to Kafka when due, or `now`, without waiting."""
        at = time.monotonic()
        if (at < self._show_at and not now) or (self._committing is not None and not self._committing.done()):
            return
        self._show_at = at + SHOW_INTERVAL_S
        if ours := {tp: following for tp, following in reached.items() if tp in client.assignment()}:
            self.show_all(client, ours)
            if (at >= self._commit_at or now) and (ours != self._committed or at >= self._repeat_at):
                self._commit_at = at + COMMIT_INTERVAL_S
                self._repeat_at = at + REPEAT_S
                self._committing = asyncio.create_task(self._commit(client, ours))

    async def committed(self) -> None:
        """Wait for the commit, for a moment."""
        if self._committing is not None:
            await asyncio.wait((self._committing,), timeout=ENDS_WITHIN_S)

    def show_all(self, client: AIOKafkaConsumer, reached: Mapping[TopicPartition, int]) -> None:
        """Show the lag, with or without batches."""
        for tp, following in reached.items():
            if (end := client.highwater(tp)) is not None:
                self._show(tp, end - following)

    def show(self, client: AIOKafkaConsumer, tp: TopicPartition, following: int) -> None:
        """Show the lag after a batch."""
        if tp in client.assignment():  # else another process has the partition
            self._show(tp, (client.highwater(tp) or following) - following)

    def keep(self, ours: Collection[TopicPartition]) -> None:
        """Remove other partitions' metrics."""
        for tp in self._shown - set(ours):
            LAG.remove(self.topic, tp.partition)
        self._shown &= set(ours)

    def _show(self, tp: TopicPartition, lag: int) -> None:
        self._shown.add(tp)
        LAG.labels(self.topic, tp.partition).set(max(0, lag))

    async def _commit(self, client: AIOKafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
        with contextlib.suppress(CommitFailedError, IllegalStateError, KafkaError):
            await client.commit(offsets)
            self._committed = offsets
