"""The consumer loop: a batch of a partition in a transaction, with the offset in Postgres (ADR-0003).

The loop handles a partition's batches in order, and up to `at_once` partitions at the same time. Partitions with only
watermarks share a transaction, as do all partitions of a subscription that says so (`together`). On assignment the
consumer seeks to the stored offset. A gap in the record numbers, or another log, is stored with the offset until a
person clears the fault (ADR-0004); other partitions go on.

    Poison           never retry: to `<topic>.dlq` through the outbox, in the transaction that steps over the record;
                     `on_poison` runs in the same transaction; too many in a row stop the consumer, or only the
                     partition where the last is of an unknown type
    Hold             not now: roll back, retry shortly; not an error
    any other error  roll back, back off, retry, for ever; never skip

A record which the Kafka client cannot read is retried for ever, with readiness red, until a person steps over the
record (`dead-letters step-over`).
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from common.db.database import Database
from common.db.notify import either
from common.kafka.parents import Parents
from common.kafka.reading import client as clients
from common.kafka.reading.batches import Batches, Parts, PublisherKeys, by_partition
from common.kafka.reading.broken_logs import Broken
from common.kafka.reading.failures import Failures
from common.kafka.reading.lag import Lag
from common.kafka.reading.log_watch import LogWatch
from common.kafka.reading.offsets import Offsets, WentBack
from common.kafka.reading.placement import Placement
from common.kafka.reading.polling import Polling
from common.kafka.reading.progress import Progress
from common.kafka.reading.records import Mark, watermarks_of
from common.kafka.subscription import POLL_MS, Hold, Poison, Stopped, Subscription
from common.kafka.widening import of_topic
from common.keyring import SubjectKeys, fingerprints
from common.settings import ServiceSettings
from common.telemetry import gauge, histogram

log = logging.getLogger(__name__)

STALL_METRIC_INTERVAL_S = 2.0

STALLED = gauge(
    "sms_consumer_stalled_seconds",
    "Seconds since the worst partition last made progress, for any reason; 0 without a stall.",
    ["topic"],
)
BATCH = histogram(
    "sms_consumer_batch_seconds", "Duration of a batch: the transaction and the work after its commit.", ["topic"]
)


@dataclass(slots=True)
class Consumer:
    """Runs a subscription until stopped. `assigned` is set after the first assignment."""

    subscription: Subscription
    database: Database
    settings: ServiceSettings
    assigned: asyncio.Event = field(default_factory=asyncio.Event)
    keys: PublisherKeys = field(init=False)
    offsets: Offsets = field(init=False)
    placement: Placement = field(init=False)
    logs: LogWatch = field(init=False)
    batches: Batches = field(init=False)
    polling: Polling = field(init=False)
    failures: Failures = field(init=False)
    lag: Lag = field(init=False)
    progress: Progress = field(default_factory=Progress)
    leaving: bool = False  # of what a read brought, no further batch begins
    _in_flight: dict[TopicPartition, asyncio.Task[None]] = field(default_factory=dict)  # batches being handled
    _joined: bool = False

    def __post_init__(self) -> None:
        ours, settings = self.subscription, self.settings
        self.keys = PublisherKeys(ours, fingerprints(settings.subject_keys))
        self.offsets = Offsets(ours, self.database, timedelta(seconds=settings.max_clock_skew_s))
        self.placement = Placement(settings.topic_prefix + ours.topic.name, self.offsets)
        self.logs = LogWatch(
            self.placement, clients.read_of(settings, ours.topic), leaders_change=settings.kafka_groups
        )
        people = SubjectKeys(settings.subject_keys)
        parents = Parents(ours, settings)
        self.batches = Batches(ours, self.database, self.offsets, self.keys, people, settings.partitions, parents)
        self.polling = Polling(ours, self.placement, self.progress)
        self.failures = Failures(ours.topic.name)
        self.lag = Lag(ours.topic.name)

    @property
    def name(self) -> str:
        return self.subscription.name

    @property
    def failing_s(self) -> float:
        return self.failures.failing_s

    @property
    def broken(self) -> Sequence[Broken]:
        """Return the partitions that need a person, of any process."""
        return self.logs.broken

    @property
    def keys_differ(self) -> str | None:
        """Return the difference by the newest watermark."""
        return self.keys.difference

    def stalls(self, longer_than_s: float) -> list[str]:
        """Return a line for each longer stall."""
        return self.progress.stalls(longer_than_s, time.monotonic())

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`. Raises Stopped when a person must look."""
        showing = asyncio.create_task(self._show_stalls())
        try:
            while not stop.is_set():
                await self._run_client(stop)
        finally:
            showing.cancel()

    async def _show_stalls(self) -> None:
        """Update the stall metric beside the loop, which may hang."""
        while True:
            STALLED.labels(self.subscription.topic.name).set(self.progress.stalled_s(time.monotonic()))
            await asyncio.sleep(STALL_METRIC_INTERVAL_S)

    def _client(self) -> AIOKafkaConsumer:
        listener = _Assignment(self)
        listener.client = clients.make(self.settings, self.subscription, listener)
        return listener.client

    async def _run_client(self, stop: asyncio.Event) -> None:
        """Run a client until `stop`, or until RENEW_S of silence: its tasks can end without any sign."""
        self.progress.dealing(time.monotonic())
        client = await clients.started(self._client, stop, self._not_started)
        if client is None:
            return
        if not self.settings.kafka_groups:
            self._joined = True
            read = clients.read_of(self.settings, self.subscription.topic)
            self.progress.dealt(read, time.monotonic())
            if self.subscription.on_assigned is not None:
                self.subscription.on_assigned(len(read), of_topic(self.settings, self.subscription.topic))
        watching = asyncio.create_task(self.logs.run(client, stop))
        stopping = asyncio.create_task(stop.wait())
        try:
            while not (stop.is_set() or self.progress.is_silent(time.monotonic())):
                try:
                    await self._turn(client, stop, stopping)
                except Stopped:
                    raise
                except (Exception, asyncio.CancelledError) as error:
                    if clients.is_cancelled():
                        raise
                    await self._in_trouble(client, error, stop)
            await self._all_ended()
            self.lag.commit(client, self.offsets.reached, now=True)
        except asyncio.CancelledError:
            for task in self._in_flight.values():
                task.cancel()
            raise
        finally:
            watching.cancel()
            stopping.cancel()
            if self._in_flight:
                await asyncio.wait(self._in_flight.values())
            await self.lag.committed()
            await clients.ended(client)
        if not stop.is_set():
            log.error("no answer about any partition: reconnecting", extra={"consumer": self.name})
            self._forget_all()

    def _not_started(self, error: BaseException) -> None:
        why = type(error).__name__
        log.warning("the broker does not answer yet", extra={"consumer": self.name, "why": why})
        self.progress.trouble(why, time.monotonic())

    async def _turn(self, client: AIOKafkaConsumer, stop: asyncio.Event, stopping: "asyncio.Future[Any]") -> None:
        """Place, read, and begin batches. Raises any error of the client."""
        if not await self.placement.place(client):
            for tp in client.assignment():
                self.progress.busy(tp.partition, time.monotonic())  # not the partition's fault
            await either(stop, None, 1.0)
            return
        if self._joined:
            self.assigned.set()
        self.placement.resume(client)
        before = await self.polling.positions(client)
        try:
            found = await self.polling.read(client, self._in_flight, stopping)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            await self._all_ended()
            self.placement.rewind(client, self._in_flight.keys())
            await self.placement.out_of_range(client, error)
            return
        await self.logs.within_the_log(client)
        self._begin(client, {tp: found[tp] for tp in found.keys() & self.placement.placed}, stop)
        self.polling.note_progress(client, before, self._in_flight)
        self.lag.commit(client, self.offsets.reached)
        await self._some_ended()

    async def _in_trouble(self, client: AIOKafkaConsumer, error: BaseException, stop: asyncio.Event) -> None:
        """Rewind the idle partitions."""
        now = time.monotonic()
        again = self.progress.is_careful(now)
        self.progress.trouble(type(error).__name__, now)
        log.warning(
            "reading from the broker failed, trying again", extra={"consumer": self.name, "why": type(error).__name__}
        )
        self.placement.rewind(client, self._in_flight.keys())
        await either(stop, None, 1.0 if again else POLL_MS / 1000)

    def _begin(self, client: AIOKafkaConsumer, found: dict[TopicPartition, list[Any]], stop: asyncio.Event) -> None:
        """Start a task per batch, and one for all batches of only watermarks."""
        marks: dict[TopicPartition, list[Mark]] = {}
        events: dict[TopicPartition, list[Any]] = {}
        for tp, records in found.items():
            if only := self._watermarks(records):
                marks[tp] = only
            else:
                events[tp] = records
        apart = [{tp: records} for tp, records in events.items()]
        for some in [events] if self.subscription.together and events else apart:
            self._in_flight |= dict.fromkeys(some, asyncio.create_task(self._handle(client, some, stop)))
        if marks:
            self._in_flight |= dict.fromkeys(marks, asyncio.create_task(self._handle_watermarks(client, marks)))

    def _watermarks(self, records: Sequence[Any]) -> list[Mark]:
        """Return the watermarks, where nothing else is there. On a foreign topic a watermark is a wrong record."""
        return [] if self.subscription.foreign else watermarks_of(records, self.keys.match)

    async def _some_ended(self) -> None:
        """Forget ended batches; wait while `at_once` are in flight. Raises a batch's error."""
        if len(set(self._in_flight.values())) >= self.subscription.at_once:
            await asyncio.wait(self._in_flight.values(), return_when=asyncio.FIRST_COMPLETED)
        for tp in [tp for tp, task in self._in_flight.items() if task.done()]:
            self._in_flight.pop(tp).result()

    async def _all_ended(self) -> None:
        while going := [task for task in self._in_flight.values() if not task.done()]:
            await asyncio.wait(going)
        await self._some_ended()

    async def _handle(self, client: AIOKafkaConsumer, found: Parts, stop: asyncio.Event) -> None:
        """Handle records of a poll, in batches; after a failure, a partition rests.

        From a batch of several partitions that fails, each goes on by itself: one that stands holds up no other.
        """
        left = dict(found)
        begun = await self._settled(found, stop)
        for batch in self.subscription.batches([record for records in found.values() for record in records]):
            if begun and (self.leaving or stop.is_set()):
                break
            begun = True
            parts = {tp: records for tp, records in by_partition(batch).items() if tp in left}
            went_well = await self._handle_batch(client, parts)
            if went_well is None:
                self._go_on_apart(client, left, stop)
                return
            for tp, records in parts.items():
                left[tp] = left[tp][len(records) :]
                if tp not in went_well or not left[tp]:
                    del left[tp]
        for tp, records in left.items():  # else the next read would step over them
            self.placement.rest(client, tp, records[0].offset, 0.0)

    async def _settled(self, found: Parts, stop: asyncio.Event) -> bool:
        """Wait until the records are old enough; return whether that took any time."""
        records = [record for of_one in found.values() for record in of_one]
        settles_s = self.subscription.settles_in(records, time.time())
        if settles_s:
            await either(stop, None, settles_s)
        return settles_s > 0

    async def _handle_batch(self, client: AIOKafkaConsumer, parts: Parts) -> set[TopicPartition] | None:
        """Handle a batch; return the partitions whose next may follow. None: several that have to be handled apart."""
        parts = {tp: records for tp, records in parts.items() if tp in client.assignment()}
        if len(parts) > 1:
            return await self._handled_together(client, parts)
        return {tp for tp, records in parts.items() if await self._handle_one(client, tp, records)}

    def _go_on_apart(self, client: AIOKafkaConsumer, left: Parts, stop: asyncio.Event) -> None:
        """Handle what is left of each partition in a task of its own, `at_once` of them at a time."""
        places = asyncio.Semaphore(self.subscription.at_once)

        async def go_on(tp: TopicPartition, records: Sequence[Any]) -> None:
            async with places:
                if self.leaving or stop.is_set():
                    self.placement.rest(client, tp, records[0].offset, 0.0)
                else:
                    await self._handle(client, {tp: records}, stop)

        for tp, records in left.items():
            self._in_flight[tp] = asyncio.create_task(go_on(tp, records))

    async def _handled_together(self, client: AIOKafkaConsumer, parts: Parts) -> set[TopicPartition] | None:
        """Handle the partitions in one transaction; return those whose next may follow.

        Return None, with nothing done, where the partitions have to be handled each by itself.
        """
        started = time.monotonic()
        try:
            after = await self.batches.apply(parts)
        except (Poison, Hold, WentBack):
            return None
        except Exception as error:
            log.warning("partitions are handled apart", extra={"consumer": self.name, "why": type(error).__name__})
            return None
        try:
            if after is not None:
                await after()
        except Exception:
            for tp, records in parts.items():
                self._failed(client, tp, records[0].offset, started)
            return set()
        BATCH.labels(self.subscription.topic.name).observe(time.monotonic() - started)
        for tp, records in parts.items():
            self._went_well(client, tp, records[-1].offset + 1)
        return set(parts)

    async def _handle_one(self, client: AIOKafkaConsumer, tp: TopicPartition, batch: Sequence[Any]) -> bool:
        """Handle a batch of a partition; return whether the next may follow."""
        started = time.monotonic()
        try:
            await self.batches.handle(tp, batch)
        except Stopped:
            raise
        except WentBack:
            self.placement.went_back(tp)
            return False
        except Hold:
            self.placement.rest(client, tp, batch[0].offset, self.failures.held(tp))
            return False
        except Exception:
            self._failed(client, tp, batch[0].offset, started)
            return False
        BATCH.labels(self.subscription.topic.name).observe(time.monotonic() - started)
        self._went_well(client, tp, batch[-1].offset + 1)
        return True

    async def _handle_watermarks(self, client: AIOKafkaConsumer, marks: dict[TopicPartition, list[Mark]]) -> None:
        """Store watermarks of several partitions."""
        marks = {tp: of_one for tp, of_one in marks.items() if tp in client.assignment()}
        started = time.monotonic()
        try:
            behind = await self.offsets.step_over_watermarks(marks)
        except Exception:
            for tp, of_one in marks.items():
                self._failed(client, tp, of_one[0].offset, started)
            return
        for tp, of_one in marks.items():
            if tp in behind:
                self.placement.went_back(tp)
            else:
                self._went_well(client, tp, of_one[-1].offset + 1)

    def _failed(self, client: AIOKafkaConsumer, tp: TopicPartition, offset: int, started: float) -> None:
        """Offer `offset` again after a rest. Call within the error's handler, for the log."""
        if tp not in client.assignment():
            return  # the next owner retries
        rest = self.failures.failed(tp, started)
        if self.failures.count(tp) in (1, 10, 100):
            log.exception("batch failed, trying again", extra={"topic": tp.topic, "partition": tp.partition})
        self.placement.rest(client, tp, offset, rest)

    def _went_well(self, client: AIOKafkaConsumer, tp: TopicPartition, following: int) -> None:
        self.failures.ended(tp)
        self.lag.show(client, tp, following)

    async def revoked(self) -> None:
        """Wait for the batches in flight, and forget all partitions."""
        self.leaving = True
        try:
            while going := [task for task in self._in_flight.values() if not task.done()]:
                await asyncio.wait(going)
        finally:
            self.leaving = False
        self._forget_all()
        self.progress.dealing(time.monotonic())

    def dealt(self, partitions: set[TopicPartition], of: int) -> None:
        """Read these partitions, `of` so many, and place them anew: the loop may just have placed revoked ones."""
        self.placement.forget_placed()
        self._keep(partitions)
        self._joined = True
        self.progress.dealt({tp.partition for tp in partitions}, time.monotonic())
        if self.subscription.on_assigned is not None:
            self.subscription.on_assigned(len(partitions), of)

    def _forget_all(self) -> None:
        self.placement.forget()
        self.logs.forget()
        self._keep(set())

    def _keep(self, ours: set[TopicPartition]) -> None:
        """Drop memory and metrics of others."""
        self.batches.keep(ours)
        self.failures.keep(ours)
        self.lag.keep(ours)


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """Rebalance callbacks."""

    client: AIOKafkaConsumer

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._consumer.revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        of = self._consumer.settings.partitions
        if self._consumer.subscription.topic.wide:
            settings, dealt = self._consumer.settings, {tp.partition for tp in assigned}
            topic = self._consumer.placement.topic
            of = await clients.partitions_of(self.client, topic, dealt, settings.wide_partitions)
        self._consumer.dealt(assigned, of)
