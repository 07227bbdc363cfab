"""The outbox and its relay: the only way out of a service.

A service writes rows in the transaction that changes the aggregate. Call `append` after locking the aggregate: then the
ids of a key are in commit order. The relay, a single leader per database (an advisory lock of its session), reads in id
order, publishes, awaits every ack, deletes. Without a cursor, the relay never skips a row that commits late. A
crash between ack and delete publishes again; consumers guard by version. A leader that Kafka does not answer gives up
its producer and the lock; Kafka fences off a former leader's producer (ADR-0006). Events of a partition can share rows
(`append_by_partition`): a fortieth of the writes.

Once all rows seen by a read are published, the log holds everything acknowledged before that read's snapshot. The relay
then publishes a watermark to each partition: `as_of` is a clock read *before* the snapshot, less the clock skew between
hosts. `ceiling`, read before the same snapshot, lowers `as_of` of a partition to the service's own knowledge of its
people (consent-svc: the applied inbound watermark). Where a read needs several turns, the relay keeps that read's clock
and ceiling, true of no other read (ADR-0004).
"""

import asyncio
import logging
import math
import secrets
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from asyncpg.pgproto import pgproto  # its UUID is made in a fraction of the time
from sqlalchemy import BigInteger, Column, DateTime, Identity, Integer, LargeBinary, MetaData, Table, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import TOPICS, Event, Topic, Watermark
from common.db.database import Database, fetch_alone, fetch_many
from common.db.notify import Listener, either
from common.db.timer import uptime_s
from common.kafka import broker as kafka
from common.kafka import publisher_keys, widening
from common.kafka.packing import PACKED, all_as_stored, unpacked
from common.kafka.relayed import IDLE_S, spans
from common.kafka.relayed import RELAYED as RELAYED
from common.keyring import fingerprints
from common.settings import ServiceSettings
from common.telemetry import counter, gauge, traceparent, tracing

log = logging.getLogger(__name__)

WAITING = "outbox_waiting"  # NOTIFY channel: rows were committed; the payload is LATER where more may gather
LATER = "later"
GATHER_S = 0.1  # of rows of gathered topics: a turn costs as much as a hundred of them
GATHERED = frozenset(topic.name for topic in TOPICS if topic.gathered)
LEADER = "placet.relay"  # advisory lock
CALM_S = 10.0
UNHEARD_S = 1.0  # a leader reads the outbox at least so often: a notification can be missed
BACK_OFF_S = (0.1, 5.0)
STAND_BACK_S = 1.0  # several polls of a standby
LONGEST = 4  # times relay_ack_timeout_s: cap of the deadline, which doubles while turns time out
IDLE_FACTOR = 1.5  # times the deadline, then a frozen leader loses the lock
TERM_S = (
    86_400.0  # Kafka forgets a fence that no producer has started under for 7 days (transactional.id.expiration.ms)
)
ID_BYTES = 16
TOGETHER = 1_000  # events of one row at most
AT_ONCE_BYTES = 100_000  # of a partition: worth a request at once
TURN_BYTES = 2_000_000  # of payloads as stored, some six times as much once unpacked; plus the row beyond
DEAD_LETTERS = ".dlq"
SHARED = "placet.shared_row.v1;"  # prefix of the type of a shared row
MAX_RECORD_BYTES = kafka.BATCH_BYTES - 20_000  # key and value; headers and framing take the rest

PUBLISHED = counter("sms_outbox_published_total", "Events acknowledged by Kafka.", ["topic"])
OLDEST = gauge(
    "sms_outbox_oldest_row_age_seconds",
    "Age of the oldest unpublished row; 0 for an empty outbox. Every relay reports the age, leader or not.",
)
AS_OF = gauge(
    "sms_outbox_watermark_timestamp_seconds",
    "`as_of` of the oldest watermark among the partitions, as last published; absent before the first of each.",
    ["topic"],
)
RELAY_ERRORS = counter("sms_outbox_relay_errors_total", "Failed turns of the relay; the relay tries again.")

_packer = msgspec.msgpack.Encoder()
_shared = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])

# The oldest rows, bounded by count and size. `newest`: the highest id of the outbox.
TURN = (
    "SELECT id, event_id, topic, key, type, payload, traceparent, created_at, newest FROM"
    " (SELECT *, (SELECT max(id) FROM outbox) AS newest, sum(size) OVER (ORDER BY id) - size AS before FROM"
    " (SELECT *, coalesce(octet_length(payload), 0) AS size FROM outbox ORDER BY id LIMIT $1) AS oldest) AS taken"
    " WHERE before < $2::bigint ORDER BY id"
)

# About how many events wait. A state takes some 65 bytes of a compressed shared row, and 500 of another.
EVENTS_WAITING = (
    "SELECT CASE WHEN span > 10000 THEN span ELSE (SELECT coalesce(sum(CASE"
    " WHEN type LIKE $1 THEN 1 + octet_length(payload) / 80 WHEN type LIKE $2 THEN 1 + octet_length(payload) / 512"
    " ELSE 1 END), 0) FROM outbox) END FROM (SELECT coalesce(max(id) - min(id) + 1, 0) AS span FROM outbox) AS ids"
)

_APPEND = (
    "WITH added AS (INSERT INTO outbox (event_id, topic, key, type, payload, traceparent)"
    " SELECT e.id, $1, e.key, e.type, e.payload, e.trace"
    " FROM unnest($2::uuid[], $3::bytea[], $4::text[], $5::bytea[], $6::text[])"
    " WITH ORDINALITY AS e(id, key, type, payload, trace, place) {} ORDER BY e.place"
    " RETURNING id),"
    " told AS MATERIALIZED (SELECT pg_notify($7, $8))"
    " SELECT added.id FROM told CROSS JOIN added"
)
APPEND = _APPEND.format("")
APPEND_PACKED = _APPEND.format(f"WHERE {widening.IS_FINE_ENOUGH.format('$9::integer')}")

# Run once Kafka has acknowledged a turn's records.
DONE = (
    "WITH gone AS (DELETE FROM outbox WHERE id = ANY($1::bigint[])),"
    " numbered AS (INSERT INTO outbox_log (topic, partition, last_number)"
    " SELECT topic, partition, last FROM unnest($4::text[], $5::int[], $6::bigint[]) AS new(topic, partition, last)"
    " ON CONFLICT (topic, partition) DO UPDATE SET last_number = excluded.last_number)"
    " SELECT pg_notify($2, $3)"
)

Published = Callable[[dict[int, UUID]], None]  # the ids of events by outbox id, once deleted
# By partition, and without those of which nothing is known yet; a statement by itself, as of `fetch_alone`.
Ceiling = Callable[[AsyncConnection], Awaitable[Mapping[int, datetime]]]
Place = tuple[str, int]  # a topic without the prefix, and a partition
Numbers = dict[Place, int]  # the last published number of each place


def define(metadata: MetaData) -> Table:
    """Add the outbox, and the published numbers, to a schema; migrations spell both tables out literally."""
    Table(
        "outbox_log",
        metadata,
        Column("topic", Text, primary_key=True),  # without the prefix
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("last_number", BigInteger, nullable=False),
    )
    return Table(
        "outbox",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("event_id", Uuid, nullable=False),
        Column("topic", Text, nullable=False),  # without the prefix
        Column("key", LargeBinary, nullable=True),
        Column("type", Text, nullable=False),
        Column("payload", LargeBinary, nullable=True),
        Column("traceparent", Text, nullable=True),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    )


class TooLarge(ValueError):
    """An event larger than a Kafka record. Nothing was written: the caller may split the event."""


async def append(
    tx: AsyncConnection,
    topic: Topic,
    events: Sequence[Event],
    traces: Sequence[str | None] | None = None,
    event_ids: Sequence[UUID] | None = None,
    packed_by: int | None = None,
) -> list[int]:
    """Write `events` for publication, in this order per key; return their outbox ids.

    Lock the aggregate first. `traces`: by default the current trace. `event_ids`: new ones by default. `packed_by`: of
    events with several people, see `append_records`. Raises TooLarge, Coarse.
    """
    if not events:
        return []
    keys = [event.key.encode() for event in events]
    payloads = [kafka.encode(event) for event in events]
    for event, key, payload in zip(events, keys, payloads, strict=True):
        _check_size(event.type, key, payload)
    types = [event.type for event in events]
    return await append_records(tx, topic.name, keys, types, payloads, traces, event_ids, packed_by)


def draw_ids(many: int) -> list[UUID]:
    """Draw ids of events: random, of version 4."""
    drawn = bytearray(secrets.token_bytes(ID_BYTES * many))
    drawn[6::ID_BYTES] = bytes([0x40 | byte & 0x0F for byte in drawn[6::ID_BYTES]])
    drawn[8::ID_BYTES] = bytes([0x80 | byte & 0x3F for byte in drawn[8::ID_BYTES]])
    return [pgproto.UUID(bytes(drawn[at : at + ID_BYTES])) for at in range(0, len(drawn), ID_BYTES)]


async def append_by_partition(tx: AsyncConnection, topic: Topic, events: Sequence[Event], partitions: int) -> None:
    """Write events of a single type as shared rows, grouped by partition. No caller can wait for a shared row."""
    if events:
        keys = [event.key.encode() for event in events]
        await append_encoded(tx, topic, events[0].type, keys, [kafka.encode(event) for event in events], partitions)


async def append_encoded(
    tx: AsyncConnection, topic: Topic, type_: str, keys: Sequence[bytes], payloads: Sequence[bytes], partitions: int
) -> None:
    """Write encoded events of a type as shared rows, grouped by partition; see `append_by_partition`.

    Lock the aggregates first. Raises TooLarge; Coarse on a wide topic, see `append_records`.
    """
    groups: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
    for partition, key, payload in zip(kafka.partitions_of(keys, partitions), keys, payloads, strict=True):
        _check_size(type_, key, payload)
        groups[partition].append((key, payload))
    rows = [group[at : at + TOGETHER] for group in groups.values() for at in range(0, len(group), TOGETHER)]
    if rows:
        payloads = [_packer.encode(row) for row in rows]
        firsts, types = [row[0][0] for row in rows], [f"{SHARED}{type_}"] * len(rows)
        packed_by = partitions if topic.wide else None
        await append_records(tx, topic.name, firsts, types, payloads, packed_by=packed_by)


def _check_size(type_: str, key: bytes, payload: bytes) -> None:
    """Raise TooLarge for an event at which the relay would try for ever, and block all later rows."""
    if len(key) + len(payload) > MAX_RECORD_BYTES:
        raise TooLarge(f"{type_} of {len(key) + len(payload)} bytes: at most {MAX_RECORD_BYTES}")


async def backlog(tx: AsyncConnection) -> int:
    """Return about how many rows wait: the span of their ids.

    Call before writing many rows: a STOP waits behind them, and so does the watermark.
    """
    return int(await tx.scalar(text("SELECT coalesce(max(id) - min(id) + 1, 0) FROM outbox")) or 0)


async def backlog_of_events(tx: AsyncConnection) -> int:
    """Return about how many events wait: of a shared row, by its bytes. See `backlog`.

    Of very many rows only the span of their ids is read.
    """
    rows = await fetch_many(tx, EVENTS_WAITING, f"{PACKED}{SHARED}%", f"{SHARED}%")
    return int(rows[0][0])


async def append_dead_letter(
    tx: AsyncConnection, topic: Topic, key: bytes | None, value: bytes | None, reason: str
) -> None:
    """Put an unreadable record aside, in the transaction that steps over the record.

    Of a record too large for us only the reason is kept.
    """
    if len(key or b"") + len(value or b"") > MAX_RECORD_BYTES:
        key, value, reason = None, None, f"not kept: {len(value or b'')} bytes; {reason}"
    await append_records(tx, topic.dead_letters, [key], [f"placet.dead_letter.v1;{reason}"[:500]], [value])


async def append_records(
    tx: AsyncConnection,
    topic: str,
    keys: Sequence[bytes | None],
    types: Sequence[str],
    payloads: Sequence[bytes | None],
    traces: Sequence[str | None] | None = None,
    event_ids: Sequence[UUID] | None = None,
    packed_by: int | None = None,
) -> list[int]:
    """Write records as they will be on the topic `topic`, dead letters among them; return their outbox ids.

    `packed_by`: the count of partitions by which rows of several people of a wide topic are packed. Raises Coarse, with
    nothing written, where the database states a finer one (`widening.in_parts`).
    """
    types, payloads = all_as_stored(types, payloads)
    rows = await fetch_many(
        tx,
        APPEND if packed_by is None else APPEND_PACKED,
        topic,
        list(event_ids or draw_ids(len(keys))),
        list(keys),
        list(types),
        list(payloads),
        [traceparent()] * len(keys) if traces is None else list(traces),
        WAITING,
        LATER if topic in GATHERED else "",
        *(() if packed_by is None else (packed_by,)),
    )
    if packed_by is not None and len(rows) < len(keys):
        await widening.refuse(tx)
    return sorted(id_ for (id_,) in rows)


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A row of the outbox."""

    id: int
    event_id: UUID
    topic: str
    key: bytes | None
    type: str
    payload: bytes | None
    traceparent: str | None
    created_at: datetime
    newest: int  # highest id of the outbox


class Read(msgspec.Struct, frozen=True, gc=False):
    """A watermark that is true once the rows up to `newest` are in the log."""

    as_of: datetime
    ceiling: Mapping[int, datetime] | None  # of a service that has one
    newest: int

    def of(self, partition: int) -> datetime | None:
        """Return the instant up to which all is in the log of a partition, or None where nothing is known of it."""
        if self.ceiling is None:
            return self.as_of
        known = self.ceiling.get(partition)
        return None if known is None else min(self.as_of, known)


class Relay:
    """Publishes the outbox of a database. Any number may run; the lock elects a leader."""

    def __init__(
        self,
        service: str,
        database: Database,
        settings: ServiceSettings,
        watermarked: Sequence[Topic] = (),
        ceiling: Ceiling | None = None,
        published: Published | None = None,
    ) -> None:
        self._service = service
        self._database = database
        self._settings = settings
        self._watermarked = watermarked
        self._ceiling = ceiling
        self._published = published
        of_shard = f".{settings.own_shard}" if settings.own_shard else ""
        self._fence = f"{settings.topic_prefix}{service}.relay{of_shard}"
        self.widens = widening.Widening(settings, widening.published_by(service))
        self._failures = 0
        self._patience_s = settings.relay_ack_timeout_s
        self._next_watermark = 0.0
        self._published_at = uptime_s()
        self._read: Read | None = None  # a read that needs more than a turn
        self._gathering: asyncio.TimerHandle | None = None
        self._subject_keys = {} if settings.keyless else fingerprints(settings.subject_keys)
        self._skew = timedelta(seconds=settings.max_clock_skew_s)

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop`. After a failure the relay backs off and begins a new term, for ever."""
        woken = asyncio.Event()
        async with Listener(self._database, WAITING, partial(self._heard, woken)):
            while not stop.is_set():
                try:
                    await self._compete(stop, woken)
                    self._failures = 0
                    rest_s = IDLE_S
                except Exception as error:
                    RELAY_ERRORS.inc()
                    self._failures += 1
                    if self._failures in (1, 10, 100):
                        log.exception("relay failed, trying again", extra={"failures": self._failures})
                    rest_s = min(BACK_OFF_S[0] * 2 ** min(self._failures, 10), BACK_OFF_S[1])
                    if isinstance(error, TimeoutError):
                        rest_s = max(rest_s, STAND_BACK_S)
                        self._patience_s = min(2 * self._patience_s, LONGEST * self._settings.relay_ack_timeout_s)
                await either(stop, None, rest_s)

    def _heard(self, woken: asyncio.Event, told: str) -> None:
        """Wake the leader at once; for rows of gathered topics, GATHER_S after the first of them."""
        loop = asyncio.get_running_loop()
        if told != LATER:
            woken.set()
        elif self._gathering is None or self._gathering.when() <= loop.time():
            self._gathering = loop.call_later(GATHER_S, woken.set)

    async def _compete(self, stop: asyncio.Event, woken: asyncio.Event) -> None:
        """Lead for a term, or measure the outbox once."""
        outlet: kafka.Outlet | None = None

        def shut() -> None:
            if outlet is not None:
                outlet.shut()

        idle_s = IDLE_FACTOR * self._patience_s
        try:
            async with self._database.locked(LEADER, idle_s, shut) as session:
                if session is not None:
                    outlet = kafka.Outlet(self._settings, self._fence)
                    try:
                        await self._lead(session, outlet, idle_s, stop, woken)
                    finally:
                        outlet.shut()  # before the lock is freed
                    return
        finally:
            if outlet is not None:
                await outlet.end()
        await self._look()  # the leader may be frozen

    async def _lead(
        self, session: AsyncConnection, outlet: kafka.Outlet, idle_s: float, stop: asyncio.Event, woken: asyncio.Event
    ) -> None:
        """Publish until `stop`, or until the term is over.

        The lock belongs to `session`, so its answer proves leadership. Rows are read only after the outlet has its
        epoch.
        """
        self._read = None
        await self._look()  # the metric works while Kafka is down
        async with asyncio.timeout(self._patience_s):
            await outlet.start()
        over_at = uptime_s() + TERM_S
        numbers = await _numbers(session)
        await session.rollback()
        self.widens = widening.Widening(self._settings, self.widens.topics)
        await self.widens.begin(session)
        try:
            while not stop.is_set() and uptime_s() < over_at:
                woken.clear()
                drained = await self._turn(session, outlet, idle_s, numbers)
                self._failures, self._patience_s = 0, self._settings.relay_ack_timeout_s
                async with asyncio.timeout(self._patience_s):
                    await self.widens.step(session, outlet.knows)
                if drained:
                    await either(stop, woken, rest_s(self._every_s() if self._watermarked else None))
        finally:
            self.widens.end()

    def _every_s(self) -> float:
        return interval_s(self._settings.watermark_every_s, uptime_s() - self._published_at)

    async def _look(self) -> None:
        rows = await self._database.read("SELECT created_at FROM outbox ORDER BY id LIMIT 1")
        _tell_oldest([created_at for (created_at,) in rows])

    async def _turn(self, session: AsyncConnection, outlet: kafka.Outlet, idle_s: float, numbers: Numbers) -> bool:
        """Publish the oldest rows; return whether no row is left. Updates `numbers`.

        The session's lock keeps other leaders away. So the rows are read and deleted by a statement each, without a
        transaction around both: two round trips less.
        """
        # Order matters: ceiling, then clock, then the snapshot of the rows.
        ceiling = await self._known(session)
        as_of = datetime.now(UTC) - self._skew
        # The server keeps the lock for `idle_s` after each answer; the outlet writes no row later.
        outlet.until = uptime_s() + idle_s
        found = await fetch_alone(session, TURN, self._settings.relay_batch, TURN_BYTES)
        rows = await self.widens.due(session, [Waiting(*row) for row in found])
        _tell_oldest([row.created_at for row in rows])
        if rows:
            async with asyncio.timeout(self._patience_s):
                written = await self._publish(outlet.producer, rows, numbers)
            ids = [row.id for row in rows]
            topics, partitions = [topic for topic, _ in written], [partition for _, partition in written]
            await fetch_alone(session, DONE, ids, RELAYED, spans(ids), topics, partitions, list(written.values()))
            if self._published is not None:  # before a watermark: callers wait
                self._published({row.id: row.event_id for row in rows})
            numbers |= written
            self._published_at = uptime_s()
        outlet.until = math.inf  # a late watermark is still true
        reached, newest = (rows[-1].id, rows[-1].newest) if rows else (0, 0)
        if self._watermarked:
            if due := asyncio.get_running_loop().time() >= self._next_watermark:
                self._subject_keys = await publisher_keys.told(session) or self._subject_keys
            if (said := self._true_with(Read(as_of, ceiling, newest), reached)) is not None and due:
                async with asyncio.timeout(self._patience_s):
                    await self._publish_watermarks(outlet.producer, said, numbers)
        return reached >= newest

    async def _known(self, session: AsyncConnection) -> Mapping[int, datetime] | None:
        return None if self._ceiling is None else await self._ceiling(session)

    async def _publish(self, producer: AIOKafkaProducer, rows: Sequence[Waiting], numbers: Numbers) -> Numbers:
        """Publish in id order within each partition, and await every acknowledgement.

        Returns the last number of each place with new records. Dead letters have no numbers.
        """
        by_place: dict[Place, list[Waiting]] = defaultdict(list)
        digests = kafka.digests_of([row.key or b"" for row in rows])
        for row, digest in zip(rows, digests, strict=True):
            partition = 0 if row.topic.endswith(DEAD_LETTERS) else digest % self.widens.count(row.topic)
            by_place[row.topic, partition].append(row)
        acks = []
        published: Counter[str] = Counter()
        traces = tracing.publications(self._service)
        written: Numbers = {}
        for (topic, partition), members in by_place.items():
            name, numbered = self._settings.topic_prefix + topic, not topic.endswith(DEAD_LETTERS)
            number = numbers.get((topic, partition), 0)
            batch = producer.create_batch()
            for row in members:
                trace = traces.context(topic, row.traceparent, row.created_at)
                for key, value, headers in self._records(row, trace):
                    if numbered:
                        number += 1
                        headers = [*headers, (kafka.NUMBER, str(number).encode())]
                    if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                        acks.append(await _sent(producer, batch, name, partition))
                        batch = producer.create_batch()
                        if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                            raise ValueError(f"outbox row {row.id} is larger than a Kafka batch")
                    published[name] += 1
            acks.append(await _sent(producer, batch, name, partition))
            if numbered:
                written[topic, partition] = number
            if batch.size() >= AT_ONCE_BYTES:
                await asyncio.sleep(0)  # the loop sends this batch meanwhile
        await asyncio.gather(*acks)
        traces.end()
        for name, many in published.items():
            PUBLISHED.labels(name).inc(many)
        return written

    def _records(self, row: Waiting, trace: str | None) -> Iterator[tuple[bytes | None, bytes | None, kafka.Headers]]:
        """Yield the records of a row. Their ids follow from the row's id: a second publication repeats the ids."""
        type_, payload = unpacked(row.type, row.payload)
        kind = type_.removeprefix(SHARED)
        headers = kafka.cloud_event_headers(kind, row.event_id, self._service, row.created_at, trace)
        if kind == type_:
            yield row.key, payload, headers
            return
        others, begins = [header for header in headers if header[0] != "ce_id"], f"{row.event_id}-"
        for place, (key, value) in enumerate(_shared.decode(payload or b"")):
            yield key, value, [("ce_id", f"{begins}{place}".encode()), *others]

    def _true_with(self, read: Read, reached: int) -> Read | None:
        """Return the read, if any, whose watermark is true with all rows up to the id `reached` in the log.

        A turn takes the oldest rows, so up to `reached` every row of an earlier read is published, by whichever relay;
        an earlier read does not speak of rows committed later under lower ids.
        """
        if reached >= read.newest:
            self._read = None
            return read
        if self._read is not None and reached < self._read.newest:
            return None
        said, self._read = self._read, read
        return said

    async def _publish_watermarks(self, producer: AIOKafkaProducer, read: Read, numbers: Numbers) -> None:
        own = self._settings.own_partitions  # of no other has the relay seen every row
        known = {partition: as_of for partition in own if (as_of := read.of(partition)) is not None}
        if not known:
            return  # dispatch holds, as for each partition without a watermark
        self._next_watermark = asyncio.get_running_loop().time() + self._every_s()
        acks = []
        for topic in self._watermarked:
            for partition, as_of in known.items():
                last = numbers.get((topic.name, partition), 0)
                mark = Watermark(partition=partition, as_of=as_of, last_number=last, subject_keys=self._subject_keys)
                acks.append(
                    await producer.send(
                        self._settings.topic_prefix + topic.name,
                        key=mark.key.encode(),
                        value=kafka.encode(mark),
                        partition=partition,
                        headers=kafka.cloud_event_headers(mark.type, uuid4(), self._service, as_of, None),
                    )
                )
        await asyncio.gather(*acks)
        if len(known) == len(own):
            for topic in self._watermarked:
                AS_OF.labels(topic.name).set(min(known.values()).timestamp())  # an age would freeze with this process


async def _sent(producer: AIOKafkaProducer, batch: BatchBuilder, topic: str, partition: int) -> asyncio.Future[object]:
    """Hand a batch over, and return its acknowledgement, which a turn that fails before may leave behind."""
    acknowledged: asyncio.Future[object] = await producer.send_batch(batch, topic, partition=partition)
    acknowledged.add_done_callback(kafka.seen)
    return acknowledged


def interval_s(every_s: float, calm_s: float) -> float:
    """Return the interval of watermarks `calm_s` after the last publication: twice as long from CALM_S on. Pure."""
    return 2 * every_s if calm_s > CALM_S else every_s


def rest_s(watermarks_every_s: float | None) -> float:
    """Return the longest rest of a leader with an empty outbox; `None`: it publishes no watermarks. Pure."""
    return UNHEARD_S if watermarks_every_s is None else min(UNHEARD_S, watermarks_every_s)


async def _numbers(tx: AsyncConnection) -> Numbers:
    rows = await fetch_many(tx, "SELECT topic, partition, last_number FROM outbox_log")
    return {(topic, partition): last for topic, partition, last in rows}


def _tell_oldest(created: Sequence[datetime]) -> None:
    OLDEST.set((datetime.now(UTC) - min(created)).total_seconds() if created else 0)
