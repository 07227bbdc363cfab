"""The only way out of a service: rows written in the transaction of the fact, relayed to Kafka in order.

`append` after the aggregate is locked: then the ids of one key are in commit order. The relay, one leader per database
(an advisory lock held by its transaction), reads in id order, publishes, awaits every ack, deletes, commits. There is
no cursor, so a row that commits late is never skipped; a crash between ack and delete publishes again, and consumers
guard by version. The ledger is the history; the outbox is a queue and stays near empty. Where a transaction has
thousands of events of one partition, they share rows (`append_together`): the same relay, the same order, a fortieth of
the writes.

When all that a read saw has been published, everything acknowledged before that read's snapshot is in the log, and the
relay says so with a watermark in each partition: `as_of` is a clock read *before* the snapshot, less the clock skew
allowed between hosts. `ceiling` lowers it to what the service itself has read (consent-svc: the inbound watermarks it
has applied), and is read before the same snapshot. Of a read that could not take all it saw, both are kept until later
ones have taken the rest: then they are still true, of that read and no other (ADR-0004).
"""

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
from aiokafka import AIOKafkaProducer
from sqlalchemy import BigInteger, Column, DateTime, Identity, LargeBinary, MetaData, Table, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common import kafka
from common.contracts import Event, Topic, Watermark
from common.database import Database, fetch_many
from common.keyring import fingerprints
from common.notify import Listener, either
from common.settings import ServiceSettings
from common.telemetry import counter, gauge, traceparent

log = logging.getLogger(__name__)

WAITING = "outbox_waiting"  # NOTIFY channel: rows were committed
RELAYED = "outbox_relayed"  # NOTIFY channel: rows were acknowledged by Kafka and deleted; which, as `spans`
TOLD_CHARS = 7_900  # Postgres takes 8,000 bytes
LEADER = "placet.relay"  # advisory lock: one publishing transaction per database
IDLE_S = 0.25  # a missed notification costs at most this
BACK_OFF_S = (0.1, 5.0)
TOGETHER = 1_000  # events of one row at most
AT_ONCE_BYTES = 100_000  # of a partition's records that are worth a request of their own
TURN_BYTES = 6_000_000  # of payloads that a relay takes at once, and the row that exceeds it
SHARED = "placet.shared_row.v1;"  # before the type that all events of such a row have
MAX_RECORD_BYTES = kafka.BATCH_BYTES - 20_000  # key and value; the rest is for headers and Kafka's own framing

PUBLISHED = counter("sms_outbox_published_total", "Events acknowledged by Kafka.", ["topic"])
OLDEST = gauge(
    "sms_outbox_oldest_row_age_seconds",
    "Age of the oldest row not yet published; 0 when empty. Of every relay, leading or not.",
)
AS_OF = gauge(
    "sms_outbox_watermark_timestamp_seconds",
    "as_of of the last watermark published; none before the first.",
    ["topic"],
)
RELAY_ERRORS = counter("sms_outbox_relay_errors_total", "Relay attempts that failed and will be made again.")

_packer = msgspec.msgpack.Encoder()
_shared = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])

# what a relay takes in a turn: the oldest rows, until they are many or large. `newest`: of all there are
TURN = (
    "SELECT id, event_id, topic, key, type, payload, traceparent, created_at, newest FROM"
    " (SELECT *, (SELECT max(id) FROM outbox) AS newest, sum(size) OVER (ORDER BY id) - size AS before FROM"
    " (SELECT *, coalesce(octet_length(payload), 0) AS size FROM outbox ORDER BY id LIMIT $1) AS oldest) AS taken"
    " WHERE before < $2::bigint ORDER BY id"
)

Ceiling = Callable[[AsyncConnection], Awaitable[datetime | None]]


def define(metadata: MetaData) -> Table:
    """The outbox table of one service. Each service's first migration spells it out literally."""
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


async def append(
    tx: AsyncConnection, topic: Topic, events: Sequence[Event], traces: Sequence[str | None] | None = None
) -> list[int]:
    """Write `events` to be published, in this order per key; returns their outbox ids, in this order. Lock the
    aggregate first. `traces`: the trace of each, where it is not the one being handled."""
    if not events:
        return []
    keys = [event.key.encode() for event in events]
    payloads = [kafka.encode(event) for event in events]
    for event, key, payload in zip(events, keys, payloads, strict=True):
        if len(key) + len(payload) > MAX_RECORD_BYTES:  # the relay would try for ever, and all behind it would wait
            raise ValueError(f"{event.type} of {len(key) + len(payload)} bytes: at most {MAX_RECORD_BYTES}")
    return await _insert(tx, topic.name, keys, [event.type for event in events], payloads, traces)


async def append_together(tx: AsyncConnection, topic: Topic, *groups: Sequence[Event]) -> None:
    """As `append`, for groups of events of one type whose keys all lie in one partition: that is not looked at here.
    Rows are shared, so nobody can wait for one of them."""
    keyed = [[(event.key.encode(), event) for event in group] for group in groups]
    await _insert_together(tx, topic, keyed)


async def append_by_partition(tx: AsyncConnection, topic: Topic, events: Sequence[Event], partitions: int) -> None:
    """As `append_together`, for events of one type and any keys: those of each partition share rows, all written by one
    statement. `partitions`: the topic's."""
    keys = [event.key.encode() for event in events]
    groups: dict[int, list[tuple[bytes, Event]]] = defaultdict(list)
    for partition, key, event in zip(kafka.partitions_of(keys, partitions), keys, events, strict=True):
        groups[partition].append((key, event))
    await _insert_together(tx, topic, list(groups.values()))


async def backlog(tx: AsyncConnection) -> int:
    """About how many rows wait to be published: the span of their ids. Whoever writes many looks first: a STOP waits
    behind them, and so does the watermark of whoever has seen them."""
    return int(await tx.scalar(text("SELECT coalesce(max(id) - min(id) + 1, 0) FROM outbox")) or 0)


async def append_dead_letter(
    tx: AsyncConnection, topic: Topic, key: bytes | None, value: bytes | None, reason: str
) -> None:
    """Put a record that cannot be read aside, as it came, in the transaction that steps over it. Of one that no Kafka
    record of ours could hold, the reason alone."""
    if len(key or b"") + len(value or b"") > MAX_RECORD_BYTES:
        key, value, reason = None, None, f"not kept: {len(value or b'')} bytes; {reason}"
    await _insert(tx, topic.dead_letters, [key], [f"placet.dead_letter.v1;{reason}"[:500]], [value])


async def _insert_together(tx: AsyncConnection, topic: Topic, groups: Sequence[Sequence[tuple[bytes, Event]]]) -> None:
    rows = [group[at : at + TOGETHER] for group in groups for at in range(0, len(group), TOGETHER)]
    if rows:
        packed = [_packer.encode([(key, kafka.encode(event)) for key, event in row]) for row in rows]
        keys, types = [row[0][0] for row in rows], [f"{SHARED}{row[0][1].type}" for row in rows]
        await _insert(tx, topic.name, keys, types, packed)


async def _insert(
    tx: AsyncConnection,
    topic: str,
    keys: Sequence[bytes | None],
    types: Sequence[str],
    payloads: Sequence[bytes | None],
    traces: Sequence[str | None] | None = None,
) -> list[int]:
    rows = await fetch_many(
        tx,
        "WITH added AS (INSERT INTO outbox (event_id, topic, key, type, payload, traceparent)"
        " SELECT e.id, $1, e.key, e.type, e.payload, e.trace"
        " FROM unnest($2::uuid[], $3::bytea[], $4::text[], $5::bytea[], $6::text[])"
        " WITH ORDINALITY AS e(id, key, type, payload, trace, place) ORDER BY e.place"
        " RETURNING id),"
        " told AS MATERIALIZED (SELECT pg_notify($7, ''))"
        " SELECT added.id FROM told CROSS JOIN added",
        topic,
        [uuid4() for _ in keys],
        list(keys),
        list(types),
        list(payloads),
        [traceparent()] * len(keys) if traces is None else list(traces),
        WAITING,
    )
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
    newest: int  # of all ids there were


class Read(msgspec.Struct, frozen=True, gc=False):
    """What may be said once all rows up to `newest` that a read saw are in the log."""

    as_of: datetime
    ceiling: datetime | None
    newest: int


class Relay:
    """Publishes the outbox of one database. Any number may run; the lock elects one."""

    def __init__(
        self,
        service: str,
        database: Database,
        settings: ServiceSettings,
        watermarked: Sequence[Topic] = (),
        ceiling: Ceiling | None = None,
    ) -> None:
        self._service = service
        self._database = database
        self._settings = settings
        self._watermarked = watermarked
        self._ceiling = ceiling
        self._producer: AIOKafkaProducer | None = None
        self._next_watermark = 0.0
        self._read: Read | None = None  # the one that more than a turn is needed for
        self._subject_keys = fingerprints(settings.subject_keys)
        self._skew = timedelta(seconds=settings.max_clock_skew_s)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Any failure rolls back, backs off and is tried again, for ever: nothing is skipped."""
        woken = asyncio.Event()
        failures = 0
        try:
            async with Listener(self._database, WAITING, lambda _: woken.set()):
                while not stop.is_set():
                    woken.clear()
                    try:
                        drained = await self._relay_once()
                        failures = 0
                    except Exception:
                        RELAY_ERRORS.inc()
                        failures += 1
                        if failures in (1, 10, 100):
                            log.exception("relay failed, trying again", extra={"failures": failures})
                        await self._drop_producer()
                        await either(stop, None, min(BACK_OFF_S[0] * 2 ** min(failures, 10), BACK_OFF_S[1]))
                        continue
                    if drained:
                        await either(stop, woken, min(IDLE_S, self._settings.watermark_every_s))
        finally:
            await self._drop_producer()

    async def _relay_once(self) -> bool:
        """One transaction. True when it left nothing behind (or another relay leads)."""
        async with self._database.begin() as tx:
            [(leads,)] = await fetch_many(tx, "SELECT pg_try_advisory_xact_lock(hashtext($1))", LEADER)
            if not leads:
                self._read = None  # true still, and old: who leads says newer ones
                oldest = await fetch_many(tx, "SELECT created_at FROM outbox ORDER BY id LIMIT 1")
                _tell_oldest([created_at for (created_at,) in oldest])  # who leads may stand still
                return True
            # Order matters: ceiling, then clock, then the snapshot that finds the rows.
            ceiling = await self._ceiling(tx) if self._ceiling else None
            as_of = datetime.now(UTC) - self._skew
            rows = [Waiting(*row) for row in await fetch_many(tx, TURN, self._settings.relay_batch, TURN_BYTES)]
            _tell_oldest([row.created_at for row in rows])  # before Kafka is asked: it shows while Kafka is down
            producer = await self._ready_producer()
            if rows:
                await self._publish(producer, rows)
                ids = [row.id for row in rows]
                await fetch_many(
                    tx,
                    "WITH gone AS (DELETE FROM outbox WHERE id = ANY($1::bigint[])) SELECT pg_notify($2, $3)",
                    ids,
                    RELAYED,
                    spans(ids),
                )
            reached, newest = (rows[-1].id, rows[-1].newest) if rows else (0, 0)
            drained = reached >= newest
            if self._watermarked:
                await self._watermark(producer, Read(as_of, ceiling, newest), reached)
        return drained

    async def _publish(self, producer: AIOKafkaProducer, rows: Sequence[Waiting]) -> None:
        """In id order within each partition; returns when Kafka has acknowledged them all."""
        by_partition: dict[tuple[str, int], list[Waiting]] = defaultdict(list)
        for row in rows:
            name = self._settings.topic_prefix + row.topic
            partitions = 1 if row.topic.endswith(".dlq") else self._settings.partitions
            by_partition[name, kafka.partition_of((row.key or b"").decode(errors="replace"), partitions)].append(row)
        acks = []
        published: Counter[str] = Counter()
        for (name, partition), members in by_partition.items():
            batch = producer.create_batch()
            for row in members:
                for key, value, headers in self._records(row):
                    if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                        acks.append(await producer.send_batch(batch, name, partition=partition))
                        batch = producer.create_batch()
                        if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                            raise ValueError(f"outbox row {row.id} is larger than a Kafka batch")
                    published[name] += 1
            acks.append(await producer.send_batch(batch, name, partition=partition))
            if batch.size() >= AT_ONCE_BYTES:
                await asyncio.sleep(0)  # it leaves while the next is made; others want the loop too
        await asyncio.gather(*acks)
        for name, many in published.items():
            PUBLISHED.labels(name).inc(many)

    def _records(self, row: Waiting) -> Iterator[tuple[bytes | None, bytes | None, kafka.Headers]]:
        """The records of a row: one, or those that share it. Their ids follow from the row's: the same ones again when
        it is published again."""
        kind = row.type.removeprefix(SHARED)
        headers = kafka.cloud_event_headers(kind, row.event_id, self._service, row.created_at, row.traceparent)
        if kind == row.type:
            yield row.key, row.payload, headers
            return
        others, begins = [header for header in headers if header[0] != "ce_id"], f"{row.event_id}-"
        for place, (key, value) in enumerate(_shared.decode(row.payload or b"")):
            yield key, value, [("ce_id", f"{begins}{place}".encode()), *others]

    async def _watermark(self, producer: AIOKafkaProducer, read: Read, reached: int) -> None:
        """Says what may be said now that all rows up to the id `reached` are in the log: of this turn's own read, or of
        an earlier one. A turn takes the oldest rows, so whatever an earlier read saw up to there is gone, whoever took
        it; what has been committed since under a lower id is not what that read speaks of."""
        if reached >= read.newest:
            self._read = None
            await self._publish_watermarks(producer, read)
        elif self._read is None:
            self._read = read
        elif reached >= self._read.newest:
            said, self._read = self._read, read
            await self._publish_watermarks(producer, said)

    async def _publish_watermarks(self, producer: AIOKafkaProducer, read: Read) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_watermark:
            return
        as_of = read.as_of
        if self._ceiling is not None:
            if read.ceiling is None:
                return  # what we stand on is not known yet: say nothing, and dispatch holds
            as_of = min(as_of, read.ceiling)
        self._next_watermark = now + self._settings.watermark_every_s
        acks = []
        for topic in self._watermarked:
            for partition in range(self._settings.partitions):
                mark = Watermark(partition=partition, as_of=as_of, subject_keys=self._subject_keys)
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
        for topic in self._watermarked:
            AS_OF.labels(topic.name).set(as_of.timestamp())  # an age would stand still with whoever is to set it

    async def _ready_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = kafka.producer(self._settings)
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def _drop_producer(self) -> None:
        """A producer that failed may be fenced or hold a stale sequence: the next attempt starts a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):
                await producer.stop()


def _tell_oldest(created: Sequence[datetime]) -> None:
    OLDEST.set((datetime.now(UTC) - min(created)).total_seconds() if created else 0)


def spans(ids: Sequence[int]) -> str:
    """Ids in rising order as "3-17 20-21"; "" where that is too long to be told: then one has to look."""
    found: list[list[int]] = []
    for one in ids:
        if found and one == found[-1][1] + 1:
            found[-1][1] = one
        else:
            found.append([one, one])
    told = " ".join(f"{first}-{last}" for first, last in found)
    return told if len(told) <= TOLD_CHARS else ""


def ids_of(told: str) -> list[int]:
    """What `spans` was made from."""
    found: list[int] = []
    for span in told.split():
        first, _, last = span.partition("-")
        found.extend(range(int(first), int(last) + 1))
    return found


class Relayed:
    """Waits until Kafka has acknowledged outbox rows, whichever process relays them. The relay tells which, in the
    transaction that deletes them; whoever may have missed that looks at the outbox, and one look serves all."""

    def __init__(self, database: Database, look_every_s: float = IDLE_S) -> None:
        self._database = database
        self._look_every_s = look_every_s
        self._waiting: dict[asyncio.Future[None], set[int]] = {}  # what each still waits for
        self._newest = 0  # of the ids known to be gone
        self._woken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Hears the relay, and looks now and then without having heard, until `stop`."""
        async with Listener(self._database, RELAYED, self._heard):
            while not stop.is_set():
                await either(stop, self._woken, self._look_every_s)
                self._woken.clear()
                if self._waiting:
                    try:
                        await self._look()
                    except Exception as error:  # whoever waits is told nothing, and so answers nothing good
                        log.warning("cannot look at the outbox", extra={"why": type(error).__name__})

    def _heard(self, told: str) -> None:
        if not told:
            self._woken.set()
            return
        self._gone(ids_of(told))

    def _gone(self, ids: Sequence[int]) -> None:
        self._newest = max(self._newest, *ids, 0)
        for future, left in self._waiting.items():
            left.difference_update(ids)
            if not left and not future.done():
                future.set_result(None)

    async def _look(self) -> None:
        wanted = sorted(set[int]().union(*self._waiting.values()))
        async with self._database.begin() as tx:
            rows = await tx.execute(
                text("SELECT id FROM outbox WHERE id = ANY(CAST(:ids AS bigint[]))"), {"ids": wanted}
            )
            still = {row.id for row in rows}
        self._gone([one for one in wanted if one not in still])

    async def wait(self, ids: Sequence[int], timeout_s: float) -> bool:
        """True once none of `ids` is in the outbox any more; False at the deadline."""
        if not ids:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = set(ids)
        if min(ids) <= self._newest:
            self._woken.set()  # they may be gone already
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            del self._waiting[future]
        return True
