"""The one consumer loop: a batch of one partition, one transaction, its offset in Postgres. Of a partition one batch at
a time, in order; of several partitions some `at_once`: none waits here for another.

Per batch: lock the stored offset, skip what is below it, decode, handle, store the next offset (and the watermark
seen), commit. Now and then Kafka's own commit, best effort, for lag dashboards only. Partitions that hold nothing but
watermarks, which is most of them most of the time, share a transaction. On assignment (by the group, or of every
partition where `kafka_groups` is off): seek to the stored offset, and look at nothing that was read before: Kafka's
commit may be ahead of a database restored from its backup.
A second owner of a partition waits on the row lock, then sees it is behind and skips: zombies are fenced by the row.
A stored offset that went back is a database that lost commits (a failover to a replica that was behind): what it lost
is read again.
Of a watermarked topic the records' numbers are followed (`completeness.py`). A gap, and a log that is not the one that
was read, are stored with the offset until a person clears them (`broken_logs.py`, ADR-0004); other partitions go on.

    Poison           never retry this: to `<topic>.dlq` through the outbox, in the transaction that steps over it;
                     `on_poison` runs in the same transaction; too many in a row stop the consumer, and where the last
                     is of an unknown type its partition alone
    Hold             not now: roll back, try again shortly; not an error
    anything else    roll back, back off, try again, for ever; never skip

What the Kafka client raises has any class, and no partition: then each partition is read by itself, so that one bad
record holds up its own partition and nothing else. Such a partition is tried again for ever. It stands (`progress.py`):
readiness is red, and a person may step over the record by `dead-letters step-over`.
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
from common.privacy.keyring import differing, fingerprints
from common.settings import ServiceSettings
from common.telemetry import continue_trace, counter, gauge, histogram

log = logging.getLogger(__name__)

POLL_MS = 100
URGENT_MS = 20
HOLD_S = (0.1, 1.0)
BACK_OFF_S = (0.1, 30.0)
POISON_IN_A_ROW = 25  # a bad deploy stops instead of shovelling a topic into its dead letters
JOIN_SESSION_MS = 10_000
HEARTBEAT_MS = 1_000
TELL_EVERY_S = 1.0
END_S = 10.0  # a client that does not end within is left behind
COMMIT_EVERY_S = 1.0
COLLECT_EVERY_S = 1.0
WATCH_EVERY_S = 5.0
FETCH_BYTES = 4 * 1024 * 1024  # of one answer: a process has several consumers, and each asks several brokers
# what a watermark from the future speaks for nobody knows, also once that instant has come: a clock is wrong. By the
# database's clock, as whoever said it may be on our own host
BELIEVED = "greatest({known}, CASE WHEN {said} <= now() + {skew}::interval THEN {said} END)"
NEW_LEADER_S = 30.0  # by then its followers have caught up (replica.lag.time.max.ms), or it has none that has to

HANDLED = counter("sms_consumer_records_total", "Records stepped over, by what became of them.", ["topic", "result"])
LAG = gauge("sms_consumer_lag_records", "High watermark less next offset.", ["topic", "partition"])
FAILING = gauge(
    "sms_consumer_failing_seconds", "How long the worst partition has been failing; 0 when fine.", ["topic"]
)
STALLED = gauge(
    "sms_consumer_stalled_seconds",
    "How long the worst partition has not been read on, whatever the reason; 0 when fine.",
    ["topic"],
)
REFUSED = counter(
    "sms_consumer_watermarks_refused_total",
    "Watermarks that did not count: their publisher has another subject key under one of our key ids.",
    ["topic"],
)
BATCH = histogram("sms_consumer_batch_seconds", "One batch: transaction and what follows it.", ["topic"])

After = Callable[[], Awaitable[None]]


class Poison(Exception):
    """This record will never be handled, however often it is tried. The message must hold nothing personal."""


class UnknownType(Poison):
    """A newer producer writes what this version has no words for."""


class Hold(Exception):
    """Not now. The batch is rolled back and offered again after a moment."""


class Stopped(RuntimeError):
    """The consumer gave up on purpose: a person has to look. The process ends, and does not step over anything."""


class _WentBack(Exception):
    """The database holds less than this consumer has stored: nothing was done, the partition is to be placed anew."""


class Mark(NamedTuple):
    """A watermark as it came off a partition."""

    offset: int
    as_of: datetime | None  # None where its publisher has other subject keys than we
    last_number: int


class Received(msgspec.Struct, frozen=True):
    """One event as it came off a partition."""

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
    """`handle` gets a batch of one partition inside the transaction that steps its offset; what it returns runs after
    the commit, before the next batch of that partition. `on_poison(tx, key, partition, offset)`: the key is None
    when it cannot be read either.

    `wait_ms`: Kafka ends the wait when something comes, the local stack's broker does not; there a fetch costs a
    millisecond of processor time, so only STOPs are asked for often.

    `may_read`: False while no more is to be taken; what there is stays in Kafka.

    `skips_unknown`: a type this version does not know is stepped over, because nothing that this topic tells can
    forbid a message or be owed to anybody. Everywhere else such a record is poison (ADR-0007).

    `foreign`: others than Placet write there, and of bad records there may be any number. `on_assigned` hears how many
    partitions this process reads from now on.
    """

    group: str  # <service>.<purpose>
    topic: Topic
    handle: Handler
    on_poison: PoisonHandler | None = None
    max_records: int = 1000
    at_once: int = 6  # batches of different partitions
    wait_ms: int = POLL_MS  # of a fetch that finds nothing
    skips_unknown: bool = False
    foreign: bool = False
    on_assigned: Callable[[int], None] | None = None
    may_read: Callable[[], bool] | None = None


def define(metadata: MetaData) -> Table:
    """The offsets of one service. Each service's first migration spells it out literally."""
    return Table(
        "consumer_offset",
        metadata,
        Column("consumer_group", Text, nullable=False),
        Column("topic", Text, nullable=False),  # without the prefix
        Column("partition", Integer, nullable=False),
        Column("next_offset", BigInteger, nullable=False),
        Column("as_of", DateTime(timezone=True), nullable=True),  # the newest watermark applied, and believed
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("last_number", BigInteger, nullable=False, server_default=text("0")),  # as `completeness.Seen`
        Column("unseen", BigInteger, nullable=False, server_default=text("0")),
        Column("topic_id", Text, nullable=True),  # of the log that the offset is of; null: not asked yet, or none
        Column("cluster_id", Text, nullable=True),
        Column("fault", Text, nullable=True),  # as `broken_logs.Fault`, until a person clears it; as all below
        Column("fault_at", BigInteger, nullable=True),
        Column("fault_since", DateTime(timezone=True), nullable=True),
        Column("fault_why", Text, nullable=True),
        Column("cleared_at", DateTime(timezone=True), nullable=True),  # when a person last did
        PrimaryKeyConstraint("consumer_group", "topic", "partition"),
    )


async def applied_watermark(tx: AsyncConnection, group: str, topic: Topic, partitions: int) -> datetime | None:
    """The oldest watermark over all partitions of `topic`, or None while one of them has none yet."""
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
    """None for an unknown type that may be skipped. Raises Poison, too for a type this topic does not carry."""
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
    """What the loop remembers of one partition between batches."""

    failing_since: float | None = None
    failures: int = 0
    holds: int = 0  # in a row
    poison_in_a_row: int = 0


@dataclass(slots=True, frozen=True)
class _Short:
    """A log that seemed to end before the next offset we would read."""

    position: int
    answer: int  # which of the broker's answers said so: when it came, in ms
    since: float


@dataclass(slots=True, frozen=True)
class _Stands:
    """Where the client stands in a partition, where the log ends, and which of the broker's answers said so."""

    tp: TopicPartition
    position: int
    end: int | None
    answer: int | None


@dataclass(slots=True)
class Consumer:
    """Runs one subscription until stopped. `assigned` is set after the first assignment."""

    subscription: Subscription
    database: Database
    settings: ServiceSettings
    assigned: asyncio.Event = field(default_factory=asyncio.Event)
    failing_s: float = 0.0
    broken: Sequence[Broken] = ()  # partitions of the topic that a person has to see to, whichever process reads them
    _identity: Identity = UNKNOWN
    _stopped: set[TopicPartition] = field(default_factory=set)  # of another log: not read
    keys_differ: str | None = None  # which service has other subject keys than we, as the newest watermark says
    _subject_keys: dict[str, str] = field(init=False)
    _going: dict[TopicPartition, asyncio.Task[None]] = field(default_factory=dict)  # batches being handled
    _joined: bool = False
    _placed: set[TopicPartition] = field(default_factory=set)  # those that read on from the stored offset
    _reached: dict[TopicPartition, int] = field(default_factory=dict)  # the next offset as last read or stored
    _partitions: dict[TopicPartition, _Partition] = field(default_factory=dict)
    _resume_at: dict[TopicPartition, float] = field(default_factory=dict)
    _short: dict[TopicPartition, _Short] = field(default_factory=dict)  # the log seems to end before what was read
    _progress: Progress = field(default_factory=Progress)
    _asked: set[TopicPartition] = field(default_factory=set)  # those that the last read asked for without an error
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
        """Why not all of the partitions are read on; a line for each that has stood for longer."""
        return self._progress.stalls(longer_than_s, time.monotonic())

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Raises Stopped when it must not go on."""
        telling = asyncio.create_task(self._tell())
        try:
            while not stop.is_set():
                await self._run_client(stop)
        finally:
            telling.cancel()

    async def _tell(self) -> None:
        """Beside the loop: a loop that hangs is a stall too."""
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
        """Until `stop`, or until the client has heard nothing of any partition for so long that it may have died: its
        own tasks end at an error that they do not expect, and nobody hears of that."""
        self._progress.dealing(time.monotonic())
        kafka_consumer = await _started(self._client, stop)
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
            log.error("nothing heard of any partition: connecting anew", extra={"consumer": self.name})
            self._let_go(self._partitions.keys())

    async def _turn(self, kafka_consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Raises whatever the client raises."""
        if not await self._place(kafka_consumer):
            for tp in kafka_consumer.assignment():
                self._progress.busy(tp.partition, time.monotonic())  # it is the database that does not answer
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
        """The client raised, of whatever class: what it had taken of any partition is read again."""
        now = time.monotonic()
        again = self._progress.is_careful(now)
        self._progress.trouble(type(error).__name__, now)
        log.warning("broker trouble", extra={"consumer": self.name, "why": type(error).__name__})
        self._rewind(kafka_consumer)
        await either(stop, None, 1.0 if again else POLL_MS / 1000)

    def _rewind(self, kafka_consumer: AIOKafkaConsumer) -> None:
        """The client forgets what it has taken of the other partitions where it raises at one; and at some errors it
        has stepped over the record already."""
        for tp in (kafka_consumer.assignment() & self._placed) - self._going.keys() - self._resume_at.keys():
            with contextlib.suppress(IllegalStateError):
                kafka_consumer.seek(tp, self._reached[tp])

    def _note_progress(self, kafka_consumer: AIOKafkaConsumer, before: Sequence[_Stands]) -> None:
        """`before`: where partitions stood before the read. At some errors the client steps over the record, and raises
        at the next read: only one that ends well says that the partition really stood there."""
        now = time.monotonic()
        wanted = self.subscription.may_read is None or self.subscription.may_read()
        for tp in kafka_consumer.assignment():
            if tp in self._going or tp in self._resume_at or tp in self._stopped or not wanted:
                self._progress.busy(tp.partition, now)
            else:
                self._progress.expect(tp.partition, now)
        for stood in before:
            if stood.tp in self._asked - self._going.keys() - self._resume_at.keys() and wanted:
                self._progress.seen(stood.tp.partition, stood.position, stood.end, stood.answer, now)

    async def _read(self, kafka_consumer: AIOKafkaConsumer) -> dict[TopicPartition, list[Any]]:
        """What there is of partitions that nothing is being handled of; nothing, once there is one more of them."""
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
            reading.cancel()  # while it waits it holds no record; once it is done this does nothing
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
        """What there is of each, asked for by itself. A partition that raised is read one by one, up to the bad record:
        the client loses what it took in the same call."""
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
        """The record at the next offset cannot be read, or the partition cannot: it is tried again after a rest, from
        where the database says by then."""
        offset, why = self._reached[tp], type(error).__name__
        rest = self._progress.failed(tp.partition, why, offset, time.monotonic())
        if self._progress.failures(tp.partition) in (2, 10, 100, 1000):
            log.error(
                "cannot be read on: trying again",
                extra={"topic": tp.topic, "partition": tp.partition, "offset": offset, "why": why},
            )
        self._rest(kafka_consumer, tp, offset, rest)
        self._placed.discard(tp)

    def _begin(self, kafka_consumer: AIOKafkaConsumer, batches: dict[TopicPartition, list[Any]]) -> None:
        """A task for each batch; one for all of those that hold only watermarks."""
        marks: dict[TopicPartition, list[Mark]] = {}
        for tp, records in batches.items():
            if only := watermarks_of(records, self._has_our_keys):
                marks[tp] = only
            else:
                self._going[tp] = asyncio.create_task(self._handle(kafka_consumer, tp, records))
        if marks:
            self._going |= dict.fromkeys(marks, asyncio.create_task(self._note(kafka_consumer, marks)))

    async def _some_ended(self) -> None:
        """Forgets the batches that have ended, and waits for one while there are as many as there may be. Raises what
        ended one."""
        if len(set(self._going.values())) >= self.subscription.at_once:
            await asyncio.wait(self._going.values(), return_when=asyncio.FIRST_COMPLETED)
        for tp in [tp for tp, task in self._going.items() if task.done()]:
            self._going.pop(tp).result()

    async def _all_ended(self) -> None:
        if self._going:
            await asyncio.wait(self._going.values())
        await self._some_ended()

    async def _handle(self, kafka_consumer: AIOKafkaConsumer, tp: TopicPartition, records: Sequence[Any]) -> None:
        """One batch; on failure the partition is rewound and rests a while."""
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
        """Watermarks of several partitions."""
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
        """The transaction. Returns those whose stored offset went back, of which nothing was stored."""
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
        """Whether the publisher of the topic makes the same subject ids as we do. If not, its STOPs are under ids that
        we do not know, and its watermark proves nothing to us: ours stands still, and marketing is held."""
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
            "the database lost what was stored: reading it again",
            extra={"topic": tp.topic, "partition": tp.partition, "offset": self._reached.get(tp)},
        )
        self._placed.discard(tp)

    def _failed(self, kafka_consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int, started: float) -> None:
        """Within the handler of what was raised: `offset` is offered again after a rest."""
        if tp not in kafka_consumer.assignment():
            return  # it is the next owner's to fail at
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
        if tp in kafka_consumer.assignment():  # else it was dealt to somebody else while its batch was handled
            end = kafka_consumer.highwater(tp) or following
            LAG.labels(self.subscription.topic.name, tp.partition).set(max(0, end - following))

    def _commit(self, kafka_consumer: AIOKafkaConsumer) -> None:
        """Begins Kafka's own commit of what is stored, when its time has come. Nothing waits for it."""
        now = time.monotonic()
        if now < self._commit_at or (self._committing is not None and not self._committing.done()):
            return
        self._commit_at = now + COMMIT_EVERY_S
        if reached := {tp: n for tp, n in self._reached.items() if tp in kafka_consumer.assignment()}:
            self._show_lag(kafka_consumer, reached)
            self._committing = asyncio.create_task(_commit(kafka_consumer, reached))

    def _show_lag(self, kafka_consumer: AIOKafkaConsumer, reached: dict[TopicPartition, int]) -> None:
        """Also of what has had no batch yet, or has none that goes well."""
        for tp, following in reached.items():
            if (end := kafka_consumer.highwater(tp)) is not None:
                self._partitions.setdefault(tp, _Partition())  # what is shown is forgotten with it
                LAG.labels(self.subscription.topic.name, tp.partition).set(max(0, end - following))

    async def _apply(self, tp: TopicPartition, records: Sequence[Any]) -> After | None:
        """The transaction. Raises Poison with nothing done when a record cannot be read or handled."""
        async with self.database.begin() as tx:
            reading = await self._lock_reached(tx, tp)
            fresh = [record for record in records if record.offset >= reading.seen.next_offset]
            if not fresh:
                return None
            received: list[Received] = []
            for record in fresh:
                event = event_of(self.subscription, record)
                if type(event) is Watermark:
                    as_of = event.as_of if self._has_our_keys(event) else None  # else of other people than ours
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
        if received:  # a watermark says nothing about whether events can be handled
            self._partitions.setdefault(tp, _Partition()).poison_in_a_row = 0
        HANDLED.labels(self.subscription.topic.name, "handled").inc(len(received))
        return after

    async def _apply_one_by_one(self, tp: TopicPartition, records: Sequence[Any], memory: _Partition) -> None:
        """After a Poison: each record in a transaction of its own; the bad ones go to the dead letters."""
        for record in records:
            try:
                after = await self._apply(tp, [record])
                if after is not None:
                    await after()
            except Poison as poison:
                if memory.poison_in_a_row >= POISON_IN_A_ROW and not self.subscription.foreign:
                    if isinstance(poison, UnknownType):
                        raise  # the partition waits for a newer version of ours, and the other partitions go on
                    raise Stopped(f"{self.name}: more than {POISON_IN_A_ROW} bad records in a row") from poison
                await self._bury(tp, record, str(poison))
                memory.poison_in_a_row += 1

    async def _bury(self, tp: TopicPartition, record: Any, reason: str) -> None:
        log.error(
            "poison: to the dead letters",
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
        """How far the partition is read, its row locked until the transaction ends. Raises _WentBack."""
        stored = await broken_logs.lock(tx, self.subscription.group, self.subscription.topic, tp.partition)
        if stored is None or self._is_behind(tp, stored):
            raise _WentBack
        return stored.reading

    def _is_behind(self, tp: TopicPartition, stored: broken_logs.Stored | None) -> bool:
        """Whether the partition is to be placed anew: less is stored than was, or that it must not be read."""
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
        """In the transaction that steps over the gap."""
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
        """Seek what was assigned to its stored offset. False while the database or the broker does not answer."""
        try:
            new = kafka_consumer.assignment() - self._placed - self._stopped
            if new:
                self._identity = await identity_of(kafka_consumer._client, self._topic)
            for tp in new:
                stored, fault = await self._begin_at(tp.partition, self._identity)
                with contextlib.suppress(IllegalStateError):  # lost meanwhile
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
        """Every WATCH_EVERY_S: what a person has to see to, and whether the topic is still the one that is read."""
        while not stop.is_set():
            try:
                await self._look(kafka_consumer)
            except Exception as error:
                log.warning("a log was not looked at", extra={"consumer": self.name, "why": type(error).__name__})
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
        for partition, next_offset in stored:  # a quiet partition has no batch that would find the database behind
            if partition in of and next_offset < reached.get(of[partition], 0):
                self._went_back(of[partition])
        broken_logs.BROKEN.labels(topic.name).set(len(found))
        self.broken = [each for each in found if each.group == self.subscription.group]
        unread = {each.partition for each in self.broken if each.fault == "other_log"}
        self._stopped = {tp for tp in self._stopped if tp.partition in unread}  # those cleared are placed anew
        self._placed = {tp for tp in self._placed if tp.partition not in unread}  # as another process says
        now = await identity_of(kafka_consumer._client, self._topic)
        if self._identity not in (UNKNOWN, now):  # also of partitions that no process has at the moment
            for partition in range(self.settings.partitions):
                await self._begin_at(partition, now)
            self._placed.clear()
            self._identity = now

    async def _within_the_log(self, kafka_consumer: AIOKafkaConsumer) -> None:
        """Not every broker refuses an offset beyond its log: a log that ends before what we have read is another log,
        and reading on would skip it. (The fetch's high watermark; what ListOffsets says is not exact everywhere.)

        An answer may hold records that were appended after its high watermark was taken (Partition.fetchRecords in
        Apache Kafka), so only a later one tells. A leader that has just been chosen says less than the one before had,
        until its followers have caught up: where there can be another leader, that is given a while."""
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
        """Records that were needed are gone, or the topic was made anew: a person decides. The other partitions go
        on. While the database does not answer this partition finds the same again."""
        try:
            async with self.database.begin() as tx:
                await broken_logs.lock(tx, self.subscription.group, self.subscription.topic, tp.partition)
                await self._note_fault(tx, tp.partition, "other_log", at, why)
        except Exception as error:
            log.warning("a stop was not stored yet", extra={"consumer": self.name, "why": type(error).__name__})
            return
        self._short.pop(tp, None)
        self._placed.discard(tp)

    async def start_of(self, partition: int) -> int:
        """Where to read on: the stored offset; the beginning of the log (0) the first time."""
        stored, _ = await self._begin_at(partition, UNKNOWN)
        return stored

    async def _begin_at(self, partition: int, identity: Identity) -> tuple[int, Fault | None]:
        async with self.database.begin() as tx:
            return await broken_logs.begin(tx, self.subscription.group, self.subscription.topic, partition, identity)

    async def _out_of_range(self, kafka_consumer: AIOKafkaConsumer, error: KafkaError) -> None:
        """The log no longer holds the offset we want. From 0 that means the oldest records have aged out before we
        ever read: begin at the oldest. From anywhere else records we needed are gone, or the topic was made anew: a
        person decides."""
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
        """Rewind and pause one partition; the others go on.

        What was fetched beyond the batch is thrown away and fetched again, and aiokafka's iterator over it refers to
        itself: until somebody collects, each rest keeps another answer of up to FETCH_BYTES. By itself that is rare
        (`collect_rarely`): a worker that was held for ten minutes had 7 GB."""
        now = time.monotonic()
        if now >= self._collect_at:
            self._collect_at = now + COLLECT_EVERY_S
            gc.collect()
        with contextlib.suppress(IllegalStateError):  # lost meanwhile: the next owner starts from Postgres
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
        """Of all partitions: a client has ended, or the group forms anew."""
        self._placed.clear()
        self._reached.clear()
        self._resume_at.clear()
        self._short.clear()
        self._stopped.clear()
        self._forget(gone)

    def _forget(self, gone: Collection[TopicPartition]) -> None:
        """What is remembered and shown of partitions that are not ours any more."""
        for tp in list(gone):
            self._partitions.pop(tp, None)
            LAG.remove(self.subscription.topic.name, tp.partition)
        self._note_failing()

    def _note_failing(self) -> None:
        now = time.monotonic()
        self.failing_s = max((now - p.failing_since for p in self._partitions.values() if p.failing_since), default=0.0)
        FAILING.labels(self.subscription.topic.name).set(self.failing_s)


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """Revocation waits for the batch in flight; the loop places what is assigned. Of a partition that went to somebody
    else nothing is shown any more: it would stand as it was, beside what its owner shows.

    aiokafka keeps the old assignment until the new one is there, so the loop may place partitions that were revoked a
    moment before, and handle what is in them: all of it is forgotten on assignment too.
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
    """The watermarks where there is nothing else; empty where there is an event, or a record that cannot be read."""
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
    """Of any version. One that is not known is skipped: without it the knowledge only gets older, which holds."""
    return (_type(record) or "").startswith(f"{Watermark.type.rpartition('.')[0]}.")


def _type(record: Any) -> str | None:
    for name, value in record.headers:
        if name == "ce_type":
            return str(value, errors="replace")
    return None


def key_of(record: Any) -> str | None:
    """None where there is none, or none that can be read."""
    try:
        key: str | None = record.key.decode() if record.key else None
    except UnicodeDecodeError:
        return None
    return None if key and "\0" in key else key  # no text column takes it


def _is_cancelled() -> bool:
    """By whoever runs us, and not by the client, which may raise the same when one of its own tasks was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _started(make: Callable[[], AIOKafkaConsumer], stop: asyncio.Event) -> AIOKafkaConsumer | None:
    """Starting joins the group and waits for partitions, which takes seconds: a stop does not wait for it, and gets
    None."""
    while not stop.is_set():
        kafka_consumer = make()  # anew each time: one that failed half way does not start again
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
        starting.cancel()  # once it is done this does nothing
        await asyncio.wait((starting,))
        error = None if starting.cancelled() else starting.exception()
        if error is None and not starting.cancelled():
            return kafka_consumer
        await _ended(kafka_consumer)
        if error is not None:
            log.warning("no broker yet", extra={"why": type(error).__name__})
        await either(stop, None, 1.0)
    return None


async def _ended(kafka_consumer: AIOKafkaConsumer) -> None:
    """Whatever state it is in: where one of its parts cannot be ended by the client, the others are."""
    for end in (kafka_consumer, kafka_consumer._fetcher, kafka_consumer._client):
        if end is None:
            continue
        ending = asyncio.ensure_future(end.stop() if end is kafka_consumer else end.close())
        await asyncio.wait((ending,), timeout=END_S)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
