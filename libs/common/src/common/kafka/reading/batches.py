"""Batches: records of one partition, or of several, handled in the transaction that steps the offsets."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from common.contracts import Watermark
from common.db.database import Database
from common.kafka import broker as kafka
from common.kafka import dead_letters, outbox
from common.kafka.parents import Parents
from common.kafka.reading.completeness import Reading
from common.kafka.reading.offsets import Offsets
from common.kafka.reading.records import event_of, is_tombstone, key_of, received_as, type_of
from common.kafka.subscription import After, Poison, Received, Stopped, Subscription, UnknownType, Unread, home_offset
from common.keyring import SubjectKeys, differing
from common.telemetry import counter, forget_span, tracing
from common.telemetry.tracing import NOTHING

log = logging.getLogger(__name__)

Parts = Mapping[TopicPartition, Sequence[Any]]  # records by partition, in their order

POISON_IN_A_ROW = 25  # a bad deploy stops, before emptying a topic into the dead letters

HANDLED = counter("sms_consumer_records_total", "Records passed by the consumer, by result.", ["topic", "result"])
REFUSED = counter(
    "sms_consumer_watermarks_refused_total",
    "Watermarks refused: the publisher has another subject key under the same key id.",
    ["topic"],
)


def by_partition(records: Sequence[Any]) -> dict[TopicPartition, list[Any]]:
    """Return the records by partition."""
    parts: dict[TopicPartition, list[Any]] = {}
    for record in records:
        parts.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
    return parts


@dataclass(slots=True)
class PublisherKeys:
    """The comparison of the publisher's subject keys with ours, by the newest watermark."""

    subscription: Subscription
    ours: dict[str, str]  # fingerprints
    difference: str | None = None

    def match(self, mark: Watermark) -> bool:
        """Return whether the publisher makes the same subject ids as this service (ADR-0061).

        Otherwise its STOPs come under unknown ids, and its watermark proves nothing: marketing is held.
        """
        topic, why = self.subscription.topic, None
        if others := differing(self.ours, mark.subject_keys):
            us = self.subscription.group.partition(".")[0]
            why = (
                f"{topic.owner}-svc and {us}-svc have different subject keys under the id"
                f" {', '.join(map(repr, others))}: give both the same PLACET_SUBJECT_KEYS"
            )
            REFUSED.labels(topic.name).inc()
        if why != self.difference:
            self.difference = why
            log.log(logging.ERROR if why else logging.WARNING, why or "the subject keys are the same again")
        return why is None


@dataclass(slots=True)
class Batches:
    """A subscription's batches."""

    subscription: Subscription
    database: Database
    offsets: Offsets
    keys: PublisherKeys
    people: SubjectKeys
    partitions: int
    parents: Parents
    _poison_in_a_row: dict[TopicPartition, int] = field(default_factory=dict)

    async def handle(self, tp: TopicPartition, records: Sequence[Any]) -> None:
        """Handle a batch, by halves where a bad record is in it. Raises Stopped, WentBack, Hold, or any error."""
        try:
            after = await self.apply({tp: records})
        except Poison as poison:
            if len(records) == 1:
                await self._put_aside(tp, records[0], poison)
                return
            middle = len(records) // 2
            await self.handle(tp, records[:middle])
            await self.handle(tp, records[middle:])
        else:
            if after is not None:
                await after()

    async def apply(self, parts: Parts) -> After | None:
        """Handle records in a transaction. Raises Poison, with nothing done."""
        forget_span()  # of the record before
        async with self.database.begin() as tx:
            readings = await self.offsets.lock(tx, parts)
            fresh = {tp: reading for tp, reading in readings.items() if self._end(parts, tp) > reading.seen.next_offset}
            if not fresh:
                return None
            if self.subscription.topic.wide:
                await self.parents.handled(tx, {tp.partition: each.seen.next_offset for tp, each in fresh.items()})
            unwanted = self.subscription.wants is not None and not await self.subscription.wants(tx)
            of = {tp: self._received(reading, parts[tp], unwanted=unwanted) for tp, reading in fresh.items()}
            received = [each for some in of.values() for each in some]
            after, span = None, NOTHING
            if received:
                span = tracing.processing(self.subscription.group, self.subscription.topic.name, received)
                after = await self.subscription.handle(tx, received)
            await self.offsets.step(tx, fresh)
        span.end()
        for tp, some in of.items():
            self.offsets.reached[tp] = self._end(parts, tp)
            if some:  # a watermark does not prove that events can be handled
                self._poison_in_a_row.pop(tp, None)
        HANDLED.labels(self.subscription.topic.name, "handled").inc(len(received))
        return after

    @staticmethod
    def _end(parts: Parts, tp: TopicPartition) -> int:
        """Return the offset after the partition's records."""
        return int(parts[tp][-1].offset) + 1

    def _received(self, reading: Reading, records: Sequence[Any], *, unwanted: bool = False) -> list[Received]:
        """Step `reading` over the records that are not handled yet, and return their events. Raises Poison.

        `unwanted`: no event is decoded, or returned.
        """
        received: list[Received] = []
        first = reading.seen.next_offset
        for record in records:
            if record.offset < first:
                continue
            if is_tombstone(self.subscription, record, self.people):
                reading.record(record.offset, kafka.number_of(record.headers))
                HANDLED.labels(self.subscription.topic.name, "tombstone").inc()
                continue
            if unwanted and type_of(record) != Watermark.type:
                reading.record(record.offset, kafka.number_of(record.headers))
                HANDLED.labels(self.subscription.topic.name, "unwanted").inc()
                continue
            event = event_of(self.subscription, record)
            if type(event) is Watermark:
                as_of = event.as_of if self.keys.match(event) else None  # else: STOPs under other ids
                reading.watermark(record.offset, as_of, event.last_number)
                continue
            reading.record(record.offset, kafka.number_of(record.headers))
            if event is None:
                HANDLED.labels(self.subscription.topic.name, "unknown_type").inc()
            else:
                received.append(received_as(record, event, self.people, self.partitions, self.subscription.topic))
        return received

    async def _put_aside(self, tp: TopicPartition, record: Any, poison: Poison) -> None:
        """Bury a bad record. Raises Stopped after many in a row."""
        before = self._poison_in_a_row.get(tp, 0)
        if before >= POISON_IN_A_ROW and not self.subscription.foreign:
            if isinstance(poison, UnknownType):
                raise poison  # the partition waits for a newer version
            raise Stopped(f"{self.subscription.name}: more than {POISON_IN_A_ROW} bad records in a row") from poison
        whole = await self._bury(tp, record, str(poison))
        self._poison_in_a_row[tp] = before + 1 if whole else 0

    def keep(self, ours: Collection[TopicPartition]) -> None:
        """Forget other partitions."""
        self._poison_in_a_row = {tp: many for tp, many in self._poison_in_a_row.items() if tp in ours}
        self.parents.keep({tp.partition for tp in ours})

    async def _bury(self, tp: TopicPartition, record: Any, reason: str) -> bool:
        """Put a record aside, and handle what else is in it; return whether that was nothing."""
        forget_span()  # rolled back with the record
        log.error(
            "a poisoned record is now a dead letter",
            extra={"topic": tp.topic, "partition": tp.partition, "offset": record.offset, "why": reason},
        )
        async with self.database.begin() as tx:
            readings = await self.offsets.lock(tx, [tp])
            reading = readings[tp]
            if record.offset < reading.seen.next_offset:
                return True
            reading.record(record.offset, kafka.number_of(record.headers))
            after, whole, key = None, True, key_of(record)
            if self.subscription.on_poison is not None:
                named = self.people.named(key)
                moved = named is not None and named != key
                home = kafka.partition_of(named, self.partitions) if named is not None and moved else tp.partition
                await self.subscription.on_poison(tx, named, home, home_offset(record.offset, moved=moved))
            if self.subscription.on_unread is not None:
                unread = Unread(key, record.value, tp.partition, record.offset)
                after = await self.subscription.on_unread(tx, unread)
            if self.subscription.handle_rest is not None:
                with suppress(Poison):
                    event = event_of(self.subscription, record)
                    if event is not None and type(event) is not Watermark:
                        received = received_as(record, event, self.people, self.partitions, self.subscription.topic)
                        after, whole = await self.subscription.handle_rest(tx, [received]), False
            await outbox.append_dead_letter(tx, self.subscription.topic, record.key, record.value, reason)
            await dead_letters.note(
                tx,
                group=self.subscription.group,
                topic=self.subscription.topic.name,
                partition=tp.partition,
                offset=record.offset,
                event_type=type_of(record),
                value=record.value,
                reason=reason,
            )
            await self.offsets.step(tx, readings)
        self.offsets.reached[tp] = record.offset + 1
        HANDLED.labels(self.subscription.topic.name, "poison").inc()
        if after is not None:
            await after()
        return whole
