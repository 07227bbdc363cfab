"""The consumer loop: a batch of a partition in a transaction, with the offset in Postgres (ADR-0003).

The loop handles a partition's batches in order, and up to `at_once` partitions at the same time.

For each batch the consumer locks the stored offset, skips records below, decodes, handles, stores the next offset (and
the watermark), and commits. Partitions with only watermarks, the usual case, share a transaction. Kafka's own commit is
best effort, for lag dashboards. On assignment (by the group, or of every partition where `kafka_groups` is off) the
consumer seeks to the stored offset: Kafka's commit may be ahead of a database restored from its backup. A second owner
of a partition waits on the row lock, finds its offset behind, and skips: the row fences zombies. A stored offset that
went back means a database that lost commits (a failover to a lagging replica): the consumer reads the lost part again.
The consumer follows the record numbers of a watermarked topic (`completeness.py`). A gap, or another log, is stored
with the offset until a person clears the fault (`broken_logs.py`, ADR-0004); other partitions go on.

    Poison           never retry: to `<topic>.dlq` through the outbox, in the transaction that steps over the record;
                     `on_poison` runs in the same transaction; too many in a row stop the consumer, or only the
                     partition where the last is of an unknown type
    Hold             not now: roll back, retry shortly; not an error
    any other error  roll back, back off, retry, for ever; never skip

The Kafka client may raise any class of error, naming no partition. Then the consumer reads each partition by itself, so
a bad record holds up only its own partition. That partition is retried for ever, as a stall (`progress.py`): readiness
is red, and a person may step over the record by `dead-letters step-over`.
"""

import asyncio
import contextlib
import gc
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import Event, Topic, Watermark
from common.db.database import Database, fetch_many
from common.db.notify import either
from common.kafka import broken_logs, dead_letters, outbox
from common.kafka import broker as kafka
from common.kafka.broken_logs import Broken, Fault
from common.kafka.completeness import Reading
from common.kafka.log_identity import UNKNOWN, Identity, identity_of
from common.kafka.progress import Progress
from common.keyring import differing, fingerprints
from common.settings import ServiceSettings
from common.telemetry import continue_trace, counter, gauge, histogram

log = logging.getLogger(__name__)

POLL_MS = 100
URGENT_MS = 20
HOLD_S = (0.1, 1.0)
BACK_OFF_S = (0.1, 30.0)
POISON_IN_A_ROW = 25  # a bad deploy stops, before shovelling a topic into the dead letters
JOIN_SESSION_MS = 10_000
HEARTBEAT_MS = 1_000
TELL_EVERY_S = 1.0
END_S = 10.0  # how long to wait for each part of a client to end
COMMIT_EVERY_S = 1.0
COLLECT_EVERY_S = 1.0
WATCH_EVERY_S = 5.0
FETCH_BYTES = 4 * 1024 * 1024  # of an answer: a process has several consumers, each of several brokers
# A watermark from the future proves nothing, even once its instant has come: a clock is wrong. The database's clock
# decides, as the publisher may run on our own host.
BELIEVED = "greatest({known}, CASE WHEN {said} <= now() + {skew}::interval THEN {said} END)"
NEW_LEADER_S = 30.0  # by then followers have caught up, or left the in-sync set (replica.lag.time.max.ms)

HANDLED = counter("sms_consumer_records_total", "Records passed by the consumer, by result.", ["topic", "result"])
LAG = gauge(
    "sms_consumer_lag_records", "Records not yet handled: high watermark less next offset.", ["topic", "partition"]
)
FAILING = gauge(
    "sms_consumer_failing_seconds", "Seconds since the worst partition began to fail; 0 without a failure.", ["topic"]
)
STALLED = gauge(
    "sms_consumer_stalled_seconds",
    "Seconds since the worst partition last made progress, for any reason; 0 without a stall.",
    ["topic"],
)
REFUSED = counter(
    "sms_consumer_watermarks_refused_total",
    "Watermarks refused: the publisher has another subject key under the same key id.",
    ["topic"],
)
BATCH = histogram(
    "sms_consumer_batch_seconds", "Duration of a batch: the transaction and the work after its commit.", ["topic"]
)

After = Callable[[], Awaitable[None]]


class Poison(Exception):
    """A record that can never be handled. The message must hold nothing personal."""


class UnknownType(Poison):
    """A type written by a newer producer, and unknown to this version."""


class Hold(Exception):
    """Not now: the consumer rolls the batch back, and offers the batch again after a moment."""


class Stopped(RuntimeError):
    """The consumer gave up on purpose, and a person has to look. The process ends, and skips no record."""


class _WentBack(Exception):
    """The stored offset is behind this consumer, or must not be read: nothing was done, place the partition anew."""


class Mark(NamedTuple):
    """A watermark read from a partition."""

    offset: int
    as_of: datetime | None  # None where the publisher has other subject keys
    last_number: int


class Received(msgspec.Struct, frozen=True):
    """An event read from a partition."""

    event: Event
    key: str
    partition: int
    offset: int
    published_at: datetime
    traceparent: str | None


Handler = Callable[[AsyncConnection, list[Received]], Awaitable[After | None]]
PoisonHandler = Callable[[AsyncConnection, str | None, int, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer group's reading of a topic.

    `handle` gets a batch inside the transaction that steps the offset; the function returned runs after the commit,
    before the partition's next batch. `on_poison(tx, key, partition, offset)`: the key is None where missing or
    unreadable.

    `wait_ms`: Kafka ends the wait when a record arrives. The local stack's broker does not, and a fetch there costs a
    millisecond of processor time: so only topics with STOPs have a short wait.

    `may_read`: returns False while the handler can take no more; records stay in Kafka.

    `skips_unknown`: skip unknown types, as no event of this topic can forbid a message or is owed to a person. On other
    topics an unknown type is poison (ADR-0007).

    `foreign`: other parties write to the topic, so any number of bad records may come. `on_assigned` gets the count of
    partitions that this process reads from now on.
    """

    group: str  # <service>.<purpose>
    topic: Topic
    handle: Handler
    on_poison: PoisonHandler | None = None
    max_records: int = 1000
    at_once: int = 6  # batches, of different partitions
    wait_ms: int = POLL_MS  # of an empty fetch
    skips_unknown: bool = False
    foreign: bool = False
    on_assigned: Callable[[int], None] | None = None
    may_read: Callable[[], bool] | None = None


def define(metadata: MetaData) -> Table:
    """Define the offsets of a service. Each service's first migration spells the table out literally."""
    return Table(
        "consumer_offset",
        metadata,
        Column("consumer_group", Text, nullable=False),
        Column("topic", Text, nullable=False),  # without the prefix
        Column("partition", Integer, nullable=False),
        Column("next_offset", BigInteger, nullable=False),
        Column("as_of", DateTime(timezone=True), nullable=True),  # the newest applied watermark
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("last_number", BigInteger, nullable=False, server_default=text("0")),  # as `completeness.Seen`
        Column("unseen", BigInteger, nullable=False, server_default=text("0")),
        Column("topic_id", Text, nullable=True),  # of the offset's log; null: not asked yet, or unknown to the broker
        Column("cluster_id", Text, nullable=True),
        Column("fault", Text, nullable=True),  # `broken_logs.Fault`; a person clears this and the next three
        Column("fault_at", BigInteger, nullable=True),
        Column("fault_since", DateTime(timezone=True), nullable=True),
        Column("fault_why", Text, nullable=True),
        Column("cleared_at", DateTime(timezone=True), nullable=True),  # last time
        PrimaryKeyConstraint("consumer_group", "topic", "partition"),
    )


async def applied_watermark(tx: AsyncConnection, group: str, topic: Topic, partitions: int) -> datetime | None:
    """Return the oldest watermark over all partitions of `topic`; None while a partition has no watermark."""
    rows = await fetch_many(
        tx,
        "SELECT min(as_of) FROM consumer_offset WHERE consumer_group = $1 AND topic = $2 AND partition < $3"
        " HAVING count(as_of) = $3",
        group,
        topic.name,
        partitions,
    )
    return rows[0][0] if rows else None


def event_of(subscription: Subscription, record: Any) -> Event | None:
    """Return the event, or None for an unknown type that may be skipped.

    Raises Poison, also for a type that does not belong on this topic.
    """
    try:
        event = kafka.decode(record.value, record.headers)
    except kafka.Undecodable as error:
        raise Poison(str(error)) from error
    if event is None and not (subscription.skips_unknown or _is_watermark(record)):
        raise UnknownType("an event type that is not known here")
    if event is not None and type(event) is not Watermark and type(event) not in subscription.topic.events:
        raise Poison(f"{type(event).type} on {subscription.topic.name}")
    return event


@dataclass(slots=True)
class _Partition:
    """The loop's memory of a partition between batches."""

    failing_since: float | None = None
    failures: int = 0
    holds: int = 0  # in a row
    poison_in_a_row: int = 0


@dataclass(slots=True, frozen=True)
class _Short:
    """A log that seems to end before the next offset to read."""

    position: int
    answer: int  # arrival of the broker's answer, in ms
    since: float


@dataclass(slots=True, frozen=True)
class _Stands:
    """The client's position in a partition, the end of the log, and the broker's answer that says so."""

    tp: TopicPartition
    position: int
    end: int | None
    answer: int | None


@dataclass(slots=True)
class Consumer:
    """Runs a subscription until stopped. `assigned` is set after the first assignment."""

    subscription: Subscription
    database: Database
    settings: ServiceSettings
    assigned: asyncio.Event = field(default_factory=asyncio.Event)
    failing_s: float = 0.0
    broken: Sequence[Broken] = ()  # partitions that need a person, whichever process reads them
    _identity: Identity = UNKNOWN
    _stopped: set[TopicPartition] = field(default_factory=set)  # not read: another log
    keys_differ: str | None = None  # the difference in subject keys, by the newest watermark
    _subject_keys: dict[str, str] = field(init=False)
    _going: dict[TopicPartition, asyncio.Task[None]] = field(default_factory=dict)  # batches being handled
    _joined: bool = False
    _placed: set[TopicPartition] = field(default_factory=set)  # sought to the stored offset
    _reached: dict[TopicPartition, int] = field(default_factory=dict)  # the next offset as last read or stored
    _partitions: dict[TopicPartition, _Partition] = field(default_factory=dict)
    _resume_at: dict[TopicPartition, float] = field(default_factory=dict)
    _short: dict[TopicPartition, _Short] = field(default_factory=dict)  # the log seems to end too early
    _progress: Progress = field(default_factory=Progress)
    _asked: set[TopicPartition] = field(default_factory=set)  # polled without an error by the last read
    _committing: asyncio.Task[None] | None = None
    _commit_at: float = 0.0
    _collect_at: float = 0.0

    def __post_init__(self) -> None:
        self._subject_keys = fingerprints(self.settings.subject_keys)

    @property
    def name(self) -> str:
        return f"{self.subscription.group}:{self.subscription.topic.name}"

    @property
    def _topic(self) -> str:
        return self.settings.topic_prefix + self.subscription.topic.name

    def stalls(self, longer_than_s: float) -> list[str]:
        """Return a line for each stall longer than this."""
        return self._progress.stalls(longer_than_s, time.monotonic())

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`. Raises Stopped when the consumer must not go on."""
        telling = asyncio.create_task(self._tell())
        try:
            while not stop.is_set():
                await self._run_client(stop)
        finally:
            telling.cancel()

    async def _tell(self) -> None:
        """Update the stall metric beside the loop: a loop that hangs is a stall too."""
        while True:
            STALLED.labels(self.subscription.topic.name).set(self._progress.stalled_s(time.monotonic()))
            await asyncio.sleep(TELL_EVERY_S)

    def _client(self) -> AIOKafkaConsumer:
        topic = self._topic
        kafka_consumer = AIOKafkaConsumer(
            **kafka.connection(self.settings),
            group_id=self.settings.topic_prefix + self.subscription.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=JOIN_SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            fetch_max_wait_ms=self.subscription.wait_ms,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=FETCH_BYTES // 4,
        )
        if self.settings.kafka_groups:
            kafka_consumer.subscribe([topic], listener=_Assignment(self))
        else:
            kafka_consumer.assign([TopicPartition(topic, number) for number in range(self.settings.partitions)])
        return kafka_consumer

    async def _run_client(self, stop: asyncio.Event) -> None:
        """Run a client until `stop`, or until the client has been silent for RENEW_S and may have died.

        The client's own tasks can end at an unexpected error without any sign.
        """
        self._progress.dealing(time.monotonic())
        kafka_consumer = await _started(self._client, stop, self._not_started)
        if kafka_consumer is None:
            return
        if not self.settings.kafka_groups:
            self._joined = True
            self._progress.dealt(range(self.settings.partitions), time.monotonic())
            if self.subscription.on_assigned is not None:
                self.subscription.on_assigned(self.settings.partitions)
        watching = asyncio.create_task(self._watch(kafka_consumer, stop))
        try:
            while not (stop.is_set() or self._progress.is_silent(time.monotonic())):
                try:
                    await self._turn(kafka_consumer, stop)
                except Stopped:
                    raise
                except (Exception, asyncio.CancelledError) as error:
                    if _is_cancelled():
                        raise
                    await self._in_trouble(kafka_consumer, error, stop)
            await self._all_ended()
            self._commit_at = 0.0
            self._commit(kafka_consumer)
        except asyncio.CancelledError:
            for task in self._going.values():
                task.cancel()
            raise
        finally:
            watching.cancel()
            if self._going:
                await asyncio.wait(self._going.values())
            if self._committing is not None:
                await asyncio.wait((self._committing,), timeout=COMMIT_EVERY_S)
            await _ended(kafka_consumer)
        if not stop.is_set():
            log.error("no answer about any partition: reconnecting", extra={"consumer": self.name})
            self._let_go(self._partitions.keys())

    def _not_started(self, error: BaseException) -> None:
        why = type(error).__name__
        log.warning("the broker does not answer yet", extra={"consumer": self.name, "why": why})
        self._progress.trouble(why, time.monotonic())

    async def _turn(self, kafka_consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Place, read, and begin batches once. Raises any error of the client."""
        if not await self._place(kafka_consumer):
            for tp in kafka_consumer.assignment():
                self._progress.busy(tp.partition, time.monotonic())  # not the partition's fault
            await either(stop, None, 1.0)
            return
        await self._resume(kafka_consumer)
        self._asked = set()
        before = [await _stands(kafka_consumer, tp) for tp in kafka_consumer.assignment() & self._placed]
        try:
            batches = await self._read(kafka_consumer)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            await self._all_ended()
            self._rewind(kafka_consumer)
            await self._out_of_range(kafka_consumer, error)
            return
        await self._within_the_log(kafka_consumer)
        self._begin(kafka_consumer, {tp: batches[tp] for tp in batches.keys() & self._placed})
        self._note_progress(kafka_consumer, before)
        self._commit(kafka_consumer)
        await self._some_ended()

    async def _in_trouble(self, kafka_consumer: AIOKafkaConsumer, error: BaseException, stop: asyncio.Event) -> None:
        """After an error of the client, rewind every idle partition: its records are read again."""
        now = time.monotonic()
        again = self._progress.is_careful(now)
        self._progress.trouble(type(error).__name__, now)
        log.warning(
            "reading from the broker failed, trying again", extra={"consumer": self.name, "why": type(error).__name__}
        )
        self._rewind(kafka_consumer)
        await either(stop, None, 1.0 if again else POLL_MS / 1000)

    def _rewind(self, kafka_consumer: AIOKafkaConsumer) -> None:
        """Seek idle partitions back to the reached offset.

        A client that raises forgets the records taken of other partitions, and may have stepped over the bad record.
        """
        for tp in (kafka_consumer.assignment() & self._placed) - self._going.keys() - self._resume_at.keys():
            with contextlib.suppress(IllegalStateError):
                kafka_consumer.seek(tp, self._reached[tp])

    def _note_progress(self, kafka_consumer: AIOKafkaConsumer, before: Sequence[_Stands]) -> None:
        """Tell `Progress` which partitions are busy, and where the others stand.

        `before`: positions before the read. Only a read without error confirms a position: after some errors the client
        steps over the record and raises at the next read.
        """
        now = time.monotonic()
        wanted = self.subscription.may_read is None or self.subscription.may_read()
        for tp in kafka_consumer.assignment():
            if tp in self._going or tp in self._resume_at or tp in self._stopped or not wanted:
                self._progress.busy(tp.partition, now)
            else:
                self._progress.expect(tp.partition, now)
        still_ours = self._asked & kafka_consumer.assignment()  # a rebalance may have come during the read
        for stood in before:
            if stood.tp in still_ours - self._going.keys() - self._resume_at.keys() and wanted:
                self._progress.seen(stood.tp.partition, stood.position, stood.end, stood.answer, now)

    async def _read(self, kafka_consumer: AIOKafkaConsumer) -> dict[TopicPartition, list[Any]]:
        """Poll the idle partitions (no batch in flight).

        Return {} early when another partition becomes idle, so that the next poll includes it.
        """
        idle = kafka_consumer.assignment() - self._going.keys() - self._stopped
        may_read = self.subscription.may_read is None or self.subscription.may_read()
        if not (idle and may_read) and not self._going:
            await asyncio.sleep(POLL_MS / 1000)
            return {}
        if self._going and not (idle and may_read):
            await asyncio.wait(self._going.values(), timeout=POLL_MS / 1000, return_when=asyncio.FIRST_COMPLETED)
            return {}
        if self._progress.is_careful(time.monotonic()):
            return await self._read_apart(kafka_consumer, (idle & self._placed) - self._resume_at.keys())
        reading = asyncio.ensure_future(
            kafka_consumer.getmany(*idle, timeout_ms=POLL_MS, max_records=self.subscription.max_records)
        )
        try:
            await asyncio.wait((reading, *self._going.values()), return_when=asyncio.FIRST_COMPLETED)
            if reading.cancelled():
                raise RuntimeError("the client cancelled the read by itself")
        finally:
            reading.cancel()  # a waiting read holds no record
        found = await asyncio.gather(reading, return_exceptions=True)
        if isinstance(found[0], asyncio.CancelledError):
            self._asked = idle
            return {}
        if isinstance(found[0], BaseException):
            raise found[0]
        batches: dict[TopicPartition, list[Any]] = found[0]
        self._asked = idle
        return batches

    async def _read_apart(
        self, kafka_consumer: AIOKafkaConsumer, idle: Collection[TopicPartition]
    ) -> dict[TopicPartition, list[Any]]:
        """Poll each idle partition by itself.

        A failed partition is read record by record up to the bad record: the client loses the records of a call that
        raises.
        """
        await asyncio.sleep(POLL_MS / 1000)
        found: dict[TopicPartition, list[Any]] = {}
        most = self.subscription.max_records
        for tp in idle:
            at_once = 1 if self._progress.failures(tp.partition) else most
            records: list[Any] = []
            try:
                while True:
                    more = (await kafka_consumer.getmany(tp, timeout_ms=0, max_records=at_once)).get(tp, [])
                    records += more
                    if at_once == most or not more or len(records) >= most:
                        break
            except (NoOffsetForPartitionError, OffsetOutOfRangeError):
                raise
            except (Exception, asyncio.CancelledError) as error:
                if _is_cancelled():
                    raise
                if not records:
                    self._unread(kafka_consumer, tp, error)
                    continue
            if records:
                found[tp] = records
            self._asked.add(tp)
        return found

    def _unread(self, kafka_consumer: AIOKafkaConsumer, tp: TopicPartition, error: BaseException) -> None:
        """Rest a partition with an unreadable next record, then place the partition anew."""
        offset, why = self._reached[tp], type(error).__name__
        rest = self._progress.failed(tp.partition, why, offset, time.monotonic())
        if self._progress.failures(tp.partition) in (2, 10, 100, 1000):
            log.error(
                "a partition cannot be read, trying again",
                extra={"topic": tp.topic, "partition": tp.partition, "offset": offset, "why": why},
            )
        self._rest(kafka_consumer, tp, offset, rest)
        self._placed.discard(tp)

    def _begin(self, kafka_consumer: AIOKafkaConsumer, batches: dict[TopicPartition, list[Any]]) -> None:
        """Start a task for each batch, and a single task for all batches of nothing but watermarks."""
        marks: dict[TopicPartition, list[Mark]] = {}
        for tp, records in batches.items():
            if only := watermarks_of(records, self._has_our_keys):
                marks[tp] = only
            else:
                self._going[tp] = asyncio.create_task(self._handle(kafka_consumer, tp, records))
        if marks:
            self._going |= dict.fromkeys(marks, asyncio.create_task(self._note(kafka_consumer, marks)))

    async def _some_ended(self) -> None:
        """Forget ended batches; wait for a batch to end while `at_once` are going. Raises a batch's error."""
        if len(set(self._going.values())) >= self.subscription.at_once:
            await asyncio.wait(self._going.values(), return_when=asyncio.FIRST_COMPLETED)
        for tp in [tp for tp, task in self._going.items() if task.done()]:
            self._going.pop(tp).result()

    async def _all_ended(self) -> None:
        if self._going:
            await asyncio.wait(self._going.values())
        await self._some_ended()

    async def _handle(self, kafka_consumer: AIOKafkaConsumer, tp: TopicPartition, records: Sequence[Any]) -> None:
        """Handle a batch. On failure rewind the partition and let the partition rest."""
        if not records or tp not in kafka_consumer.assignment():
            return
        memory = self._partitions.setdefault(tp, _Partition())
        started = time.monotonic()
        try:
            try:
                after = await self._apply(tp, records)
            except Poison:
                await self._apply_one_by_one(tp, records, memory)
            else:
                if after is not None:
                    await after()
        except Stopped:
            raise
        except _WentBack:
            self._went_back(tp)
            return
        except Hold:
            self._rest(kafka_consumer, tp, records[0].offset, min(HOLD_S[0] * 2**memory.holds, HOLD_S[1]))
            memory.holds = min(memory.holds + 1, 10)
            return
        except Exception:
            self._failed(kafka_consumer, tp, records[0].offset, started)
            return
        BATCH.labels(self.subscription.topic.name).observe(time.monotonic() - started)
        self._went_well(kafka_consumer, tp, records[-1].offset + 1)

    async def _note(self, kafka_consumer: AIOKafkaConsumer, marks: dict[TopicPartition, list[Mark]]) -> None:
        """Store the watermarks of several partitions."""
        marks = {tp: of_one for tp, of_one in marks.items() if tp in kafka_consumer.assignment()}
        started = time.monotonic()
        try:
            behind = await self._step_over_watermarks(marks)
        except Exception:
            for tp, of_one in marks.items():
                self._failed(kafka_consumer, tp, of_one[0].offset, started)
            return
        for tp, of_one in marks.items():
            if tp in behind:
                self._went_back(tp)
            else:
                self._went_well(kafka_consumer, tp, of_one[-1].offset + 1)

    async def _step_over_watermarks(self, marks: dict[TopicPartition, list[Mark]]) -> set[TopicPartition]:
        """Apply watermarks in a transaction.

        Returns the partitions whose stored offset went back; for these nothing is stored.
        """
        of = {tp.partition: tp for tp in marks}
        ours = self.subscription.group, self.subscription.topic.name
        async with self.database.begin() as tx:
            rows = await fetch_many(
                tx,
                "SELECT partition, next_offset, last_number, unseen, fault, cleared_at FROM consumer_offset"
                " WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3::integer[])"
                " ORDER BY partition FOR UPDATE",
                *ours,
                list(of),
            )
            stored = {of[row[0]]: broken_logs.stored_of(self.subscription.topic, *row[1:]) for row in rows}
            behind = {tp for tp in marks if self._is_behind(tp, stored.get(tp))}
            fresh: dict[TopicPartition, Reading] = {}
            for tp in marks.keys() - behind:
                reading = stored[tp].reading
                for mark in marks[tp]:
                    if mark.offset >= reading.seen.next_offset:
                        reading.watermark(*mark)
                        fresh[tp] = reading
            await fetch_many(
                tx,
                "UPDATE consumer_offset o SET next_offset = n.next_offset, last_number = n.last_number,"
                " unseen = n.unseen, updated_at = now(),"
                f" as_of = {BELIEVED.format(known='o.as_of', said='n.as_of', skew='$8')}"
                " FROM unnest($3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[])"
                " AS n(partition, next_offset, last_number, unseen, as_of)"
                " WHERE o.consumer_group = $1 AND o.topic = $2 AND o.partition = n.partition",
                *ours,
                [tp.partition for tp in fresh],
                [reading.seen.next_offset for reading in fresh.values()],
                [reading.seen.last_number for reading in fresh.values()],
                [reading.seen.unseen for reading in fresh.values()],
                [reading.as_of for reading in fresh.values()],
                timedelta(seconds=self.settings.max_clock_skew_s),
            )
            for tp, reading in fresh.items():
                await self._note_gap(tx, tp.partition, reading)
        for tp in marks.keys() - behind:
            self._reached[tp] = max(self._reached.get(tp, 0), marks[tp][-1].offset + 1)
        return behind

    def _has_our_keys(self, mark: Watermark) -> bool:
        """Return whether the topic's publisher makes the same subject ids as this service (ADR-0061).

        Otherwise its STOPs come under unknown ids and its watermark proves nothing: our watermark stands still, and
        marketing is held.
        """
        topic, why = self.subscription.topic, None
        if others := differing(self._subject_keys, mark.subject_keys):
            us = self.subscription.group.partition(".")[0]
            why = (
                f"{topic.owner}-svc and {us}-svc have different subject keys under the id"
                f" {', '.join(map(repr, others))}: give both the same PLACET_SUBJECT_KEYS"
            )
            REFUSED.labels(topic.name).inc()
        if why != self.keys_differ:
            self.keys_differ = why
            log.log(logging.ERROR if why else logging.WARNING, why or "the subject keys are the same again")
        return why is None

    def _went_back(self, tp: TopicPartition) -> None:
        log.error(
            "the database lost a stored offset: reading the partition again",
            extra={"topic": tp.topic, "partition": tp.partition, "offset": self._reached.get(tp)},
        )
        self._placed.discard(tp)

    def _failed(self, kafka_consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int, started: float) -> None:
        """Offer `offset` again after a rest. Call within the error's handler, for the log."""
        if tp not in kafka_consumer.assignment():
            return  # the next owner retries
        memory = self._partitions.setdefault(tp, _Partition())
        memory.failures += 1
        memory.failing_since = memory.failing_since or started
        if memory.failures in (1, 10, 100):
            log.exception("batch failed, trying again", extra={"topic": tp.topic, "partition": tp.partition})
        back_off = min(BACK_OFF_S[0] * 2 ** min(memory.failures, 10), BACK_OFF_S[1])
        self._rest(kafka_consumer, tp, offset, back_off * random.uniform(0.5, 1.0))  # noqa: S311 jitter
        self._note_failing()

    def _went_well(self, kafka_consumer: AIOKafkaConsumer, tp: TopicPartition, following: int) -> None:
        memory = self._partitions.setdefault(tp, _Partition())
        memory.failures, memory.failing_since, memory.holds = 0, None, 0
        self._note_failing()
        if tp in kafka_consumer.assignment():  # else another process got the partition meanwhile
            end = kafka_consumer.highwater(tp) or following
            LAG.labels(self.subscription.topic.name, tp.partition).set(max(0, end - following))

    def _commit(self, kafka_consumer: AIOKafkaConsumer) -> None:
        """Begin Kafka's own commit of the stored offsets when due. The loop does not wait for the commit."""
        now = time.monotonic()
        if now < self._commit_at or (self._committing is not None and not self._committing.done()):
            return
        self._commit_at = now + COMMIT_EVERY_S
        if reached := {tp: n for tp, n in self._reached.items() if tp in kafka_consumer.assignment()}:
            self._show_lag(kafka_consumer, reached)
            self._committing = asyncio.create_task(_commit(kafka_consumer, reached))

    def _show_lag(self, kafka_consumer: AIOKafkaConsumer, reached: dict[TopicPartition, int]) -> None:
        """Show the lag, also of partitions without a batch so far, or without a successful batch."""
        for tp, following in reached.items():
            if (end := kafka_consumer.highwater(tp)) is not None:
                self._partitions.setdefault(tp, _Partition())  # `_forget` then removes the metric
                LAG.labels(self.subscription.topic.name, tp.partition).set(max(0, end - following))

    async def _apply(self, tp: TopicPartition, records: Sequence[Any]) -> After | None:
        """Handle records in a transaction.

        Raises Poison, with nothing done, where a record cannot be read or handled.
        """
        async with self.database.begin() as tx:
            reading = await self._lock_reached(tx, tp)
            fresh = [record for record in records if record.offset >= reading.seen.next_offset]
            if not fresh:
                return None
            received: list[Received] = []
            for record in fresh:
                event = event_of(self.subscription, record)
                if type(event) is Watermark:
                    as_of = event.as_of if self._has_our_keys(event) else None  # else: STOPs under other ids
                    reading.watermark(record.offset, as_of, event.last_number)
                    continue
                reading.record(record.offset, kafka.number_of(record.headers))
                if event is None:
                    HANDLED.labels(self.subscription.topic.name, "unknown_type").inc()
                else:
                    received.append(received_as(record, event))
            after = None
            if received:
                continue_trace(received[0].traceparent)
                after = await self.subscription.handle(tx, received)
            await self._step(tx, tp.partition, reading)
        self._reached[tp] = fresh[-1].offset + 1
        if received:  # a watermark does not prove that events can be handled
            self._partitions.setdefault(tp, _Partition()).poison_in_a_row = 0
        HANDLED.labels(self.subscription.topic.name, "handled").inc(len(received))
        return after

    async def _apply_one_by_one(self, tp: TopicPartition, records: Sequence[Any], memory: _Partition) -> None:
        """Handle each record in a transaction of its own, and send bad records to the dead letters."""
        for record in records:
            try:
                after = await self._apply(tp, [record])
                if after is not None:
                    await after()
            except Poison as poison:
                if memory.poison_in_a_row >= POISON_IN_A_ROW and not self.subscription.foreign:
                    if isinstance(poison, UnknownType):
                        raise  # the partition waits for a newer version; others go on
                    raise Stopped(f"{self.name}: more than {POISON_IN_A_ROW} bad records in a row") from poison
                await self._bury(tp, record, str(poison))
                memory.poison_in_a_row += 1

    async def _bury(self, tp: TopicPartition, record: Any, reason: str) -> None:
        log.error(
            "a poisoned record is now a dead letter",
            extra={"topic": tp.topic, "partition": tp.partition, "offset": record.offset, "why": reason},
        )
        async with self.database.begin() as tx:
            reading = await self._lock_reached(tx, tp)
            if record.offset < reading.seen.next_offset:
                return
            reading.record(record.offset, kafka.number_of(record.headers))
            if self.subscription.on_poison is not None:
                await self.subscription.on_poison(tx, key_of(record), tp.partition, record.offset)
            await outbox.append_dead_letter(tx, self.subscription.topic, record.key, record.value, reason)
            await dead_letters.note(
                tx,
                group=self.subscription.group,
                topic=self.subscription.topic.name,
                partition=tp.partition,
                offset=record.offset,
                event_type=_type(record),
                value=record.value,
                reason=reason,
            )
            await self._step(tx, tp.partition, reading)
        self._reached[tp] = record.offset + 1
        HANDLED.labels(self.subscription.topic.name, "poison").inc()

    async def _lock_reached(self, tx: AsyncConnection, tp: TopicPartition) -> Reading:
        """Return the partition's place, locked until the transaction ends. Raises _WentBack."""
        stored = await broken_logs.lock(tx, self.subscription.group, self.subscription.topic, tp.partition)
        if stored is None or self._is_behind(tp, stored):
            raise _WentBack
        return stored.reading

    def _is_behind(self, tp: TopicPartition, stored: broken_logs.Stored | None) -> bool:
        """Return whether to place the partition anew: the stored offset is behind, or the log must not be read."""
        if stored is None or stored.fault == "other_log":
            return True
        return stored.reading.seen.next_offset < self._reached.get(tp, 0)

    async def _step(self, tx: AsyncConnection, partition: int, reading: Reading) -> None:
        await fetch_many(
            tx,
            "UPDATE consumer_offset SET next_offset = $1, last_number = $2, unseen = $3, updated_at = now(),"
            f" as_of = {BELIEVED.format(known='as_of', said='$4::timestamptz', skew='$5')}"
            " WHERE consumer_group = $6 AND topic = $7 AND partition = $8",
            *reading.seen,
            reading.as_of,
            timedelta(seconds=self.settings.max_clock_skew_s),
            self.subscription.group,
            self.subscription.topic.name,
            partition,
        )
        await self._note_gap(tx, partition, reading)

    async def _note_gap(self, tx: AsyncConnection, partition: int, reading: Reading) -> None:
        """Store a gap, in the transaction that steps over the gap."""
        if (gap := reading.gap) is not None:
            await self._note_fault(
                tx,
                partition,
                "records_missing",
                gap.offset,
                f"{gap.missing} or more records before offset {gap.offset} are missing",
            )

    async def _note_fault(self, tx: AsyncConnection, partition: int, fault: Fault, at: int, why: str) -> None:
        topic = self.subscription.topic
        await broken_logs.note(tx, self.subscription.group, topic, partition, fault, at, why)
        log.error("a log is broken", extra={"consumer": self.name, "partition": partition, "offset": at, "why": why})

    async def _place(self, kafka_consumer: AIOKafkaConsumer) -> bool:
        """Seek assigned partitions to their stored offsets. Returns False while database or broker do not answer."""
        try:
            new = kafka_consumer.assignment() - self._placed - self._stopped
            if new:
                self._identity = await identity_of(kafka_consumer._client, self._topic)
            for tp in new:
                stored, fault = await self._begin_at(tp.partition, self._identity)
                with contextlib.suppress(IllegalStateError):  # the partition is lost meanwhile
                    kafka_consumer.seek(tp, stored)
                    if fault == "other_log":
                        self._resume_at.pop(tp, None)
                        kafka_consumer.pause(tp)
                        self._stopped.add(tp)
                        continue
                    if tp not in self._resume_at:
                        kafka_consumer.resume(tp)
                    self._placed.add(tp)
                    self._reached[tp] = stored
        except Exception as error:
            log.warning("no stored offsets yet", extra={"consumer": self.name, "why": type(error).__name__})
            return False
        if self._joined:
            self.assigned.set()
        return True

    async def _watch(self, kafka_consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Look every WATCH_EVERY_S for broken logs, for a topic made anew, and for a database that went back."""
        while not stop.is_set():
            try:
                await self._look(kafka_consumer)
            except Exception as error:
                log.warning(
                    "the log of a topic could not be checked",
                    extra={"consumer": self.name, "why": type(error).__name__},
                )
            await either(stop, None, WATCH_EVERY_S)

    async def _look(self, kafka_consumer: AIOKafkaConsumer) -> None:
        topic, reached = self.subscription.topic, dict(self._reached)
        async with self.database.begin() as tx:
            found = await broken_logs.found(tx, topic.name)
            stored = await fetch_many(
                tx,
                "SELECT partition, next_offset FROM consumer_offset WHERE consumer_group = $1 AND topic = $2",
                self.subscription.group,
                topic.name,
            )
        of = {tp.partition: tp for tp in self._placed}
        for partition, next_offset in stored:  # a quiet partition has no batch to notice this
            if partition in of and next_offset < reached.get(of[partition], 0):
                self._went_back(of[partition])
        broken_logs.BROKEN.labels(topic.name).set(len(found))
        self.broken = [each for each in found if each.group == self.subscription.group]
        unread = {each.partition for each in self.broken if each.fault == "other_log"}
        self._stopped = {tp for tp in self._stopped if tp.partition in unread}  # `_place` resumes the cleared
        self._placed = {tp for tp in self._placed if tp.partition not in unread}  # found by another process
        now = await identity_of(kafka_consumer._client, self._topic)
        if self._identity not in (UNKNOWN, now):  # also for partitions without a process
            for partition in range(self.settings.partitions):
                await self._begin_at(partition, now)
            self._placed.clear()
            self._identity = now

    async def _within_the_log(self, kafka_consumer: AIOKafkaConsumer) -> None:
        """Stop reading a partition whose log ends before the consumer's position.

        Such a log is another log, and reading on would skip records; not every broker refuses the offset. The end is
        the fetch's high watermark: ListOffsets is not exact on every broker.

        An answer may hold records appended after its high watermark was taken (Partition.fetchRecords in Apache Kafka),
        so only a later answer counts. A newly elected leader gives a lower end until its followers have caught up:
        where another leader is possible, the consumer waits NEW_LEADER_S.
        """
        now = time.monotonic()
        for tp in kafka_consumer.assignment() & self._placed:
            end = kafka_consumer.highwater(tp)
            if end is None or end >= (position := await kafka_consumer.position(tp)):
                self._short.pop(tp, None)
                continue
            answer = kafka_consumer.last_poll_timestamp(tp)
            short = self._short.get(tp)
            if short is None or end >= short.position:
                self._short[tp] = _Short(position, answer, now)
            elif answer != short.answer and (not self.settings.kafka_groups or now - short.since > NEW_LEADER_S):
                await self._stop_reading(
                    tp, short.position, f"offset {short.position} is beyond the log, which ends at {end}"
                )

    async def _stop_reading(self, tp: TopicPartition, at: int, why: str) -> None:
        """Store that needed records are gone, or the topic was made anew: a person decides.

        Other partitions go on. While the database does not answer, the partition finds the same fault again.
        """
        try:
            async with self.database.begin() as tx:
                await broken_logs.lock(tx, self.subscription.group, self.subscription.topic, tp.partition)
                await self._note_fault(tx, tp.partition, "other_log", at, why)
        except Exception as error:
            log.warning(
                "the fault of a partition is not stored yet", extra={"consumer": self.name, "why": type(error).__name__}
            )
            return
        self._short.pop(tp, None)
        self._placed.discard(tp)

    async def start_of(self, partition: int) -> int:
        """Return the stored offset, 0 (the beginning of the log) the first time."""
        stored, _ = await self._begin_at(partition, UNKNOWN)
        return stored

    async def _begin_at(self, partition: int, identity: Identity) -> tuple[int, Fault | None]:
        async with self.database.begin() as tx:
            return await broken_logs.begin(tx, self.subscription.group, self.subscription.topic, partition, identity)

    async def _out_of_range(self, kafka_consumer: AIOKafkaConsumer, error: KafkaError) -> None:
        """Handle an offset which the log no longer holds.

        At 0 the oldest records aged out before the first read: begin at the oldest left. Elsewhere needed records are
        gone, or the topic was made anew: a person decides.
        """
        for tp in kafka_consumer.assignment():
            stored = await self.start_of(tp.partition)
            if tp in self._stopped:
                continue
            if stored == 0:
                await kafka_consumer.seek_to_beginning(tp)
            elif isinstance(error, OffsetOutOfRangeError) and tp in (error.args[0] if error.args else ()):
                await self._stop_reading(tp, stored, f"offset {stored} is not in the log")
            else:
                kafka_consumer.seek(tp, stored)
                self._reached[tp] = stored

    def _rest(self, kafka_consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int, seconds: float) -> None:
        """Rewind and pause a partition; the others go on.

        The client drops records fetched beyond the batch, but aiokafka's iterator over the records refers to itself:
        until a garbage collection each rest keeps up to FETCH_BYTES. Collections are rare (`collect_rarely`): a worker
        held for ten minutes had 7 GB.
        """
        now = time.monotonic()
        if now >= self._collect_at:
            self._collect_at = now + COLLECT_EVERY_S
            gc.collect()
        with contextlib.suppress(IllegalStateError):  # a lost partition: the next owner starts from Postgres
            kafka_consumer.seek(tp, offset)
            kafka_consumer.pause(tp)
            self._resume_at[tp] = now + seconds

    async def _resume(self, kafka_consumer: AIOKafkaConsumer) -> None:
        now = time.monotonic()
        for tp in [tp for tp, at in self._resume_at.items() if at <= now]:
            del self._resume_at[tp]
            with contextlib.suppress(IllegalStateError):
                kafka_consumer.resume(tp)

    def _let_go(self, gone: Collection[TopicPartition]) -> None:
        """Forget all partitions: a client has ended, or the group rebalances."""
        self._placed.clear()
        self._reached.clear()
        self._resume_at.clear()
        self._short.clear()
        self._stopped.clear()
        self._forget(gone)

    def _forget(self, gone: Collection[TopicPartition]) -> None:
        """Drop memory and metrics of partitions no longer ours."""
        for tp in list(gone):
            self._partitions.pop(tp, None)
            LAG.remove(self.subscription.topic.name, tp.partition)
        self._note_failing()

    def _note_failing(self) -> None:
        now = time.monotonic()
        self.failing_s = max((now - p.failing_since for p in self._partitions.values() if p.failing_since), default=0.0)
        FAILING.labels(self.subscription.topic.name).set(self.failing_s)


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """Rebalance callbacks. Revocation waits for batches in flight; the loop places assigned partitions.

    Metrics of a lost partition are removed: a stale value would stand beside the new owner's.

    aiokafka keeps the old assignment until the new one arrives, so the loop may place and handle partitions revoked a
    moment before. Therefore assignment, too, forgets all placements.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        while going := [task for task in self._consumer._going.values() if not task.done()]:
            await asyncio.wait(going)
        self._consumer._let_go(revoked | self._consumer._partitions.keys())
        self._consumer._progress.dealing(time.monotonic())

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._consumer._placed.clear()
        self._consumer._stopped.clear()
        self._consumer._forget(self._consumer._partitions.keys() - assigned)
        self._consumer._joined = True
        self._consumer._progress.dealt({tp.partition for tp in assigned}, time.monotonic())
        if self._consumer.subscription.on_assigned is not None:
            self._consumer.subscription.on_assigned(len(assigned))


async def _stands(kafka_consumer: AIOKafkaConsumer, tp: TopicPartition) -> _Stands:
    answer = kafka_consumer.last_poll_timestamp(tp)
    return _Stands(tp, await kafka_consumer.position(tp), kafka_consumer.highwater(tp), answer)


async def _commit(kafka_consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
    with contextlib.suppress(CommitFailedError, IllegalStateError, KafkaError):
        await kafka_consumer.commit(offsets)


def watermarks_of(records: Sequence[Any], counts: Callable[[Watermark], bool]) -> list[Mark]:
    """Return the watermarks of records, or [] where any record is an event or unreadable."""
    marks: list[Mark] = []
    for record in records:
        if _type(record) != Watermark.type:
            return []
        try:
            mark = kafka.decode(record.value, record.headers)
        except kafka.Undecodable:
            return []
        assert isinstance(mark, Watermark)
        marks.append(Mark(record.offset, mark.as_of if counts(mark) else None, mark.last_number))
    return marks


def received_as(record: Any, event: Event) -> Received:
    trace: bytes | None = dict(record.headers).get("traceparent")
    return Received(
        event=event,
        key=key_of(record) or "",
        partition=record.partition,
        offset=record.offset,
        published_at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
        traceparent=trace.decode(errors="replace") if trace else None,
    )


def _is_watermark(record: Any) -> bool:
    """Return whether the record is a watermark of any version.

    Skipping an unknown version is safe: knowledge only grows older, which holds marketing.
    """
    return (_type(record) or "").startswith(f"{Watermark.type.rpartition('.')[0]}.")


def _type(record: Any) -> str | None:
    for name, value in record.headers:
        if name == "ce_type":
            return str(value, errors="replace")
    return None


def key_of(record: Any) -> str | None:
    """Return the record's key, or None where missing or unreadable."""
    try:
        key: str | None = record.key.decode() if record.key else None
    except UnicodeDecodeError:
        return None
    return None if key and "\0" in key else key  # no text column takes a NUL


def _is_cancelled() -> bool:
    """Return whether this task is cancelled by its runner.

    The client may raise CancelledError too, when a task of its own was cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _started(
    make: Callable[[], AIOKafkaConsumer], stop: asyncio.Event, failed: Callable[[BaseException], None]
) -> AIOKafkaConsumer | None:
    """Return a started client, or None after `stop`. `failed` hears each error of a start.

    Joining the group takes seconds; a stop does not wait for the join.
    """
    while not stop.is_set():
        kafka_consumer = make()  # a client that failed half way cannot start again
        starting = asyncio.ensure_future(kafka_consumer.start())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            starting.cancel()
            await _ended(kafka_consumer)
            raise
        finally:
            stopping.cancel()
        starting.cancel()
        await asyncio.wait((starting,))
        error = None if starting.cancelled() else starting.exception()
        if error is None and not starting.cancelled():
            return kafka_consumer
        await _ended(kafka_consumer)
        if error is not None:
            failed(error)
        await either(stop, None, 1.0)
    return None


async def _ended(kafka_consumer: AIOKafkaConsumer) -> None:
    """End a client in any state: where a part cannot be ended, the other parts are."""
    for end in (kafka_consumer, kafka_consumer._fetcher, kafka_consumer._client):
        if end is None:
            continue
        ending = asyncio.ensure_future(end.stop() if end is kafka_consumer else end.close())
        await asyncio.wait((ending,), timeout=END_S)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
