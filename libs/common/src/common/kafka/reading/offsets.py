"""Stored offsets: a subscription's place in each partition, with the watermark and the log's fault (ADR-0003).

A second owner of a partition waits on the row lock, finds its offset behind, and skips. A stored offset that went back
means a failover that lost commits: the consumer reads the lost part again.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aiokafka import TopicPartition
from asyncpg import LockNotAvailableError
from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import Topic
from common.db.database import Database, fetch_alone, fetch_many
from common.kafka.reading import broken_logs
from common.kafka.reading.broken_logs import Fault
from common.kafka.reading.completeness import Reading, Seen
from common.kafka.reading.log_identity import UNKNOWN, Identity
from common.kafka.reading.records import Mark
from common.kafka.subscription import Hold, Subscription

log = logging.getLogger(__name__)

# A watermark from the future means a wrong clock, and proves nothing even later. The database's clock decides: the
# publisher may run on our own host.
BELIEVED = "greatest({known}, CASE WHEN {said} <= now() + {skew}::interval THEN {said} END)"


# Step over watermarks of rows that are as they were, in the order of partitions: no deadlock.
STEP_KNOWN = f"""
    WITH held AS MATERIALIZED (
        SELECT o.partition, n.next_offset, n.last_number, n.unseen, n.as_of
        FROM consumer_offset AS o JOIN unnest(
            $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::timestamptz[]
        ) AS n(partition, was_offset, was_number, was_unseen, cleared_at, next_offset, last_number, unseen, as_of)
            ON o.partition = n.partition
        WHERE o.consumer_group = $1 AND o.topic = $2
            AND (o.next_offset, o.last_number, o.unseen) = (n.was_offset, n.was_number, n.was_unseen)
            AND o.fault IS NULL AND o.cleared_at IS NOT DISTINCT FROM n.cleared_at
        ORDER BY o.partition
        FOR UPDATE OF o
    )
    UPDATE consumer_offset AS o
    SET next_offset = held.next_offset, last_number = held.last_number, unseen = held.unseen, updated_at = now(),
        as_of = {BELIEVED.format(known="o.as_of", said="held.as_of", skew="$12")}
    FROM held
    WHERE o.consumer_group = $1 AND o.topic = $2 AND o.partition = held.partition
    RETURNING o.partition
"""


class WentBack(Exception):
    """The stored offset is behind this consumer, or must not be read. The transaction has done no work."""


def define(metadata: MetaData) -> Table:
    """Define the offsets. Each service's migration spells the table out literally."""
    return Table(
        "consumer_offset",
        metadata,
        Column("consumer_group", Text, nullable=False),
        Column("topic", Text, nullable=False),  # without the prefix
        Column("partition", Integer, nullable=False),
        Column("next_offset", BigInteger, nullable=False),
        Column("as_of", DateTime(timezone=True), nullable=True),  # newest applied watermark
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("last_number", BigInteger, nullable=False, server_default=text("0")),  # as `completeness.Seen`
        Column("unseen", BigInteger, nullable=False, server_default=text("0")),
        Column("topic_id", Text, nullable=True),  # null: not asked, or unknown to the broker
        Column("cluster_id", Text, nullable=True),
        Column("fault", Text, nullable=True),  # `broken_logs.Fault`; a person clears this and the next three
        Column("fault_at", BigInteger, nullable=True),
        Column("fault_since", DateTime(timezone=True), nullable=True),
        Column("fault_why", Text, nullable=True),
        Column("cleared_at", DateTime(timezone=True), nullable=True),
        PrimaryKeyConstraint("consumer_group", "topic", "partition"),
    )


async def applied_watermark(
    tx: AsyncConnection, group: str, topic: Topic, partitions: Collection[int], *, alone: bool = False
) -> datetime | None:
    """Return the oldest watermark of these partitions of `topic`; `None` while a watermark is missing.

    `alone`: `tx` is a session without a transaction, as of `fetch_alone`.
    """
    rows = await (fetch_alone if alone else fetch_many)(
        tx,
        "SELECT min(as_of) FROM consumer_offset WHERE consumer_group = $1 AND topic = $2"
        " AND partition = ANY($3::integer[]) HAVING count(as_of) = cardinality($3::integer[])",
        group,
        topic.name,
        list(partitions),
    )
    return rows[0][0] if rows else None


async def applied_watermarks(tx: AsyncConnection, group: str, topic: Topic) -> dict[int, datetime]:
    """Return the watermark of each partition of `topic` that has one. `tx`: a session, as of `fetch_alone`."""
    rows = await fetch_alone(
        tx,
        "SELECT partition, as_of FROM consumer_offset WHERE consumer_group = $1 AND topic = $2",
        group,
        topic.name,
    )
    return {partition: as_of for partition, as_of in rows if as_of is not None}


@dataclass(slots=True)
class Offsets:
    """A subscription's stored offsets. `reached`: next offsets as last read or stored by this process."""

    subscription: Subscription
    database: Database
    max_clock_skew: timedelta
    reached: dict[TopicPartition, int] = field(default_factory=dict)
    _known: dict[TopicPartition, tuple[Seen, datetime | None]] = field(default_factory=dict)  # rows as last stored here

    async def start_of(self, partition: int) -> int:
        """Return the stored offset, at first 0."""
        stored, _ = await self.begin_at(partition, UNKNOWN)
        return stored

    async def begin_at(self, partition: int, identity: Identity) -> tuple[int, Fault | None]:
        """Return the stored offset and the fault."""
        async with self.database.begin() as tx:
            return await broken_logs.begin(tx, self.subscription.group, self.subscription.topic, partition, identity)

    async def lock(self, tx: AsyncConnection, tps: Collection[TopicPartition]) -> dict[TopicPartition, Reading]:
        """Return the places of these partitions, locked in their order. Raises WentBack if any went back.

        Several do not wait for a former owner, which may be frozen in a transaction of one of them. Raises Hold then.
        """
        try:
            there = await self._lock(tx, tps, at_once=len(tps) > 1)
        except LockNotAvailableError as error:
            raise Hold("another process has one of the partitions") from error
        if len(there) < len(tps):
            raise WentBack
        return there

    async def step(self, tx: AsyncConnection, readings: Mapping[TopicPartition, Reading]) -> None:
        """Store the places after a batch, and the gaps."""
        seen = [reading.seen for reading in readings.values()]
        await fetch_many(
            tx,
            "UPDATE consumer_offset o SET next_offset = n.next_offset, last_number = n.last_number,"
            " unseen = n.unseen, updated_at = now(),"
            f" as_of = {BELIEVED.format(known='o.as_of', said='n.as_of', skew='$8')}"
            " FROM unnest($3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[])"
            " AS n(partition, next_offset, last_number, unseen, as_of)"
            " WHERE o.consumer_group = $1 AND o.topic = $2 AND o.partition = n.partition",
            self.subscription.group,
            self.subscription.topic.name,
            [tp.partition for tp in readings],
            [each.next_offset for each in seen],
            [each.last_number for each in seen],
            [each.unseen for each in seen],
            [reading.as_of for reading in readings.values()],
            self.max_clock_skew,
        )
        for tp, reading in readings.items():
            await self._note_gap(tx, tp.partition, reading)

    async def step_over_watermarks(self, marks: dict[TopicPartition, list[Mark]]) -> set[TopicPartition]:
        """Apply watermarks; return the partitions that went back, with nothing stored.

        A row that is as this process last stored it takes one statement, without a transaction around.
        """
        stepped = await self._step_known(marks)
        left = {tp: of_one for tp, of_one in marks.items() if tp not in stepped}
        there: dict[TopicPartition, Reading] = {}
        if left:
            async with self.database.begin() as tx:
                there = await self._lock(tx, left)
                fresh = {tp: reading for tp, reading in there.items() if _stepped_over(reading, left[tp])}
                if fresh:
                    await self.step(tx, fresh)
        for tp, reading in there.items():
            self._know(tp, reading)
        for tp in stepped | there.keys():
            self.reached[tp] = max(self.reached.get(tp, 0), marks[tp][-1].offset + 1)
        return left.keys() - there.keys()

    async def _step_known(self, marks: Mapping[TopicPartition, Sequence[Mark]]) -> set[TopicPartition]:
        """Apply watermarks where the row is as this process knows it, without fault; return those partitions."""
        topic = self.subscription.topic
        before = {tp: self._known.pop(tp) for tp in marks if tp in self._known}  # unknown until this has committed
        after = {
            tp: broken_logs.reading_of(topic, seen, cleared_at)
            for tp, (seen, cleared_at) in before.items()
            if seen.next_offset >= self.reached.get(tp, 0)  # else a database that lost commits may match
        }
        after = {tp: of for tp, of in after.items() if _stepped_over(of, marks[tp]) and of.gap is None}
        if not after:
            return set()
        was, now = [before[tp] for tp in after], [of.seen for of in after.values()]
        rows = await self.database.run(
            STEP_KNOWN,
            self.subscription.group,
            topic.name,
            [tp.partition for tp in after],
            [seen.next_offset for seen, _ in was],
            [seen.last_number for seen, _ in was],
            [seen.unseen for seen, _ in was],
            [cleared_at for _, cleared_at in was],
            [seen.next_offset for seen in now],
            [seen.last_number for seen in now],
            [seen.unseen for seen in now],
            [of.as_of for of in after.values()],
            self.max_clock_skew,
        )
        stored = {partition for (partition,) in rows}
        stepped = {tp for tp in after if tp.partition in stored}
        for tp in stepped:
            self._know(tp, after[tp])
        return stepped

    def _know(self, tp: TopicPartition, reading: Reading) -> None:
        if reading.whole:
            self._known[tp] = reading.seen, reading.since

    async def note_other_log(self, partition: int, at: int, why: str) -> None:
        """Store that needed records are gone, or the topic was made anew."""
        async with self.database.begin() as tx:
            await broken_logs.lock(tx, self.subscription.group, self.subscription.topic, [partition])
            await self._note_fault(tx, partition, "other_log", at, why)

    async def _lock(
        self, tx: AsyncConnection, tps: Collection[TopicPartition], *, at_once: bool = False
    ) -> dict[TopicPartition, Reading]:
        """Return the places, locked, of those partitions that did not go back."""
        topic, of = self.subscription.topic, {tp.partition: tp for tp in tps}
        stored = await broken_logs.lock(tx, self.subscription.group, topic, list(of), at_once=at_once)
        return {of[p]: one.reading for p, one in stored.items() if not self._is_behind(of[p], one)}

    def _is_behind(self, tp: TopicPartition, stored: broken_logs.Stored) -> bool:
        """Return whether to place the partition anew."""
        return stored.fault == "other_log" or stored.reading.seen.next_offset < self.reached.get(tp, 0)

    async def _note_gap(self, tx: AsyncConnection, partition: int, reading: Reading) -> None:
        """Store a gap, in the transaction that steps over it."""
        if (gap := reading.gap) is not None:
            await self._note_fault(
                tx,
                partition,
                "records_missing",
                gap.offset,
                f"{gap.missing} or more records before offset {gap.offset} are missing",
            )

    async def _note_fault(self, tx: AsyncConnection, partition: int, fault: Fault, at: int, why: str) -> None:
        topic, name = self.subscription.topic, self.subscription.name
        await broken_logs.note(tx, self.subscription.group, topic, partition, fault, at, why)
        log.error("a log is broken", extra={"consumer": name, "partition": partition, "offset": at, "why": why})


def _stepped_over(reading: Reading, marks: Sequence[Mark]) -> bool:
    """Step `reading` over the watermarks that are not applied yet; return whether there were any."""
    fresh = [mark for mark in marks if mark.offset >= reading.seen.next_offset]
    for mark in fresh:
        reading.watermark(*mark)
    return bool(fresh)
