"""An outbox, its relay, the broker and a consumer, in one database: what every service stands on, without a service."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES, Event, Topic, Watermark
from common.contracts.consent import ConsentStateChanged
from common.db.database import Database
from common.kafka import broker as kafka
from common.kafka import outbox
from common.kafka.consumer import Consumer
from common.kafka.outbox import Relay
from common.kafka.reading import broken_logs
from common.kafka.reading.broken_logs import Broken
from common.kafka.subscription import After, Handler, PoisonHandler, Received, Subscription
from common.settings import ServiceSettings
from tests.support.eventually import eventually
from tests.support.running import Surroundings

GROUP = "pipeline.projection"
TABLES = """
CREATE TABLE projection (subject_id text PRIMARY KEY, version integer NOT NULL);
CREATE TABLE fact (id uuid PRIMARY KEY, outbox_ids bigint[] NOT NULL);
CREATE TABLE applied (id bigint GENERATED ALWAYS AS IDENTITY, subject_id text NOT NULL, version integer NOT NULL);
"""
PUBLISHED = """
SELECT f.id FROM fact AS f
WHERE f.id = ANY($1::uuid[]) AND NOT EXISTS (SELECT FROM outbox AS o WHERE o.id = ANY(f.outbox_ids))
"""


@dataclass(frozen=True)
class Record:
    """One record of a topic. `event` is None where it is not of ours to read."""

    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: dict[str, str]
    event: Event | None


WHO_DELETES = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM outbox%'
"""


@dataclass
class Pipeline:
    surroundings: Surroundings
    settings: ServiceSettings
    database: Database
    acknowledged: dict[tuple[str, int], datetime] = field(default_factory=dict)  # (subject, version): after the commit

    def with_settings(self, **more: Any) -> ServiceSettings:
        return self.settings.model_copy(update=more)

    async def append(self, *events: ConsentStateChanged, event_ids: Sequence[UUID] | None = None) -> list[int]:
        """In one transaction; notes when each was acknowledged, as an API would."""
        async with self.database.begin() as tx:
            ids = await outbox.append(tx, STATES, events, event_ids=event_ids)
        at = datetime.now(UTC)
        self.acknowledged |= {(event.subject_id, event.version): at for event in events}
        return ids

    async def fact(self, ids: list[int]) -> dict[UUID, list[int]]:
        """One that these rows of the outbox are the events of, to wait for."""
        fact = uuid4()
        async with self.sql() as sql:
            await sql.execute("INSERT INTO fact (id, outbox_ids) VALUES ($1, $2)", fact, ids)
        return {fact: ids}

    async def waiting(self) -> int:
        async with self.database.begin() as tx:
            return int(await tx.scalar(text("SELECT count(*) FROM outbox")) or 0)

    async def drained(self) -> bool:
        assert await self.waiting() == 0
        return True

    async def scalar(self, statement: str, **parameters: Any) -> Any:
        async with self.database.begin() as tx:
            return await tx.scalar(text(statement), parameters)

    async def rows(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        async with self.database.begin() as tx:
            return [tuple(row) for row in await tx.execute(text(statement), parameters)]

    @asynccontextmanager
    async def row_held(self, outbox_id: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """A relay reads and publishes this row, and then stands before its DELETE until the returned call."""
        async with self.sql() as sql:
            held = sql.transaction()
            await held.start()
            await sql.execute("SELECT FROM outbox WHERE id = $1 FOR UPDATE", outbox_id)
            yield held.rollback

    async def who_deletes(self) -> int:
        """The server process of a relay that stands before its DELETE."""
        found = await self.rows(WHO_DELETES)
        assert len(found) == 1
        return int(found[0][0])

    async def gone(self, pid: int) -> bool:
        """The server process of a dead relay has ended, and has rolled its statement back."""
        assert not await self.rows("SELECT pid FROM pg_stat_activity WHERE pid = :pid", pid=pid)
        return True

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of its own: to hold a lock, or to look at the others."""
        async with self.surroundings.sql("dispatch") as connection:
            yield connection

    async def log(self, topic: Topic = STATES) -> list[Record]:
        """Everything on the topic so far, by partition and offset."""
        return await self.log_of(topic.name, self.settings.partitions)

    async def dead_letters(self, topic: Topic = STATES) -> list[Record]:
        return await self.log_of(topic.dead_letters, 1)

    async def log_of(self, name: str, partitions: int) -> list[Record]:
        found = [_record(raw) for records in (await self._read(name, partitions)).values() for raw in records]
        return sorted(found, key=lambda record: (record.partition, record.offset))

    async def _read(self, name: str, partitions: int) -> dict[TopicPartition, list[Any]]:
        """To the end, and without the partitions that are empty."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka_bootstrap, fetch_max_wait_ms=20)
        await consumer.start()
        try:
            places = [TopicPartition(self.settings.topic_prefix + name, number) for number in range(partitions)]
            consumer.assign(places)
            for place in places:
                consumer.seek(place, 0)
            found: dict[TopicPartition, list[Any]] = {}
            read_until = dict.fromkeys(places, -1)
            while -1 in read_until.values():  # by the fetch's high watermark: ListOffsets is not exact everywhere
                for place, batch in (await consumer.getmany(timeout_ms=50)).items():
                    found.setdefault(place, []).extend(batch)
                for place in places:
                    end, position = consumer.highwater(place), await consumer.position(place)
                    if end is not None and position >= end:
                        read_until[place] = position
            return found
        finally:
            await consumer.stop()

    async def states(self) -> list[ConsentStateChanged]:
        return [record.event for record in await self.log() if isinstance(record.event, ConsentStateChanged)]

    async def watermarks(self) -> list[Record]:
        return [record for record in await self.log() if isinstance(record.event, Watermark)]

    async def raw_records(self) -> dict[TopicPartition, list[Any]]:
        """As the consumer loop is handed them."""
        return await self._read(STATES.name, self.settings.partitions)

    async def publish(self, *events: Event) -> None:
        """Straight to the log, as another service's relay would. A watermark goes to its own partition."""
        await self.publish_raw(*((event.key.encode(), kafka.encode(event), event.type) for event in events))

    async def publish_raw(self, *records: tuple[bytes | None, bytes | None, str]) -> None:
        """(key, value, type), as a broken or foreign producer would; without a key to partition 0."""
        producer = kafka.producer(self.settings)
        await producer.start()
        try:
            for key, value, event_type in records:
                partition = kafka.partition_of(key.decode(errors="replace"), self.settings.partitions) if key else 0
                if event_type == Watermark.type and value:
                    partition = msgspec.json.decode(value, type=Watermark).partition
                await producer.send_and_wait(
                    self.settings.topic_prefix + STATES.name,
                    value,
                    key=key,
                    partition=partition,
                    headers=[("ce_type", event_type.encode())],
                )
        finally:
            await producer.stop()

    def consumer(self, handle: Handler | None = None, on_poison: PoisonHandler | None = None, **more: Any) -> Consumer:
        """`more`: of its subscription."""
        return Consumer(Subscription(GROUP, STATES, handle or project, on_poison, **more), self.database, self.settings)

    async def hand(self, consumer: Consumer) -> None:
        """All of the topic from the stored offsets on, batch by batch as its loop would, and then no more."""
        for tp, records in (await self.raw_records()).items():
            stored = await consumer.offsets.start_of(tp.partition)
            fresh = [record for record in records if record.offset >= stored]
            if fresh:
                await consumer.batches.handle(tp, fresh)

    async def next_offset(self, partition: int = 0) -> int | None:
        found: int | None = await self.scalar(
            "SELECT next_offset FROM consumer_offset WHERE consumer_group = :group AND partition = :partition",
            group=GROUP,
            partition=partition,
        )
        return found

    async def broken(self) -> list[Broken]:
        """What a person has to see to."""
        async with self.database.begin() as tx:
            return await broken_logs.found(tx)

    async def make_anew(self, keep: int = 0) -> None:
        """Delete the topic, make it again under its name, and write the first `keep` records of each partition back:
        what is left of a log that lost its tail."""
        name, kept = self.settings.topic_prefix + STATES.name, await self.raw_records()
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.kafka_bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([name])

            async def gone() -> bool:
                return name not in await admin.list_topics()

            await eventually(gone)
        finally:
            await admin.close()
        await kafka.ensure_topics(self.settings, [STATES])
        producer = kafka.producer(self.settings)
        await producer.start()
        try:
            for tp, records in kept.items():
                for each in records[:keep]:
                    told = {"key": each.key, "partition": tp.partition, "headers": list(each.headers)}
                    await producer.send_and_wait(name, each.value, **told)
        finally:
            await producer.stop()

    async def applied(self) -> list[tuple[str, int]]:
        """(subject, version) in the order the handler was offered them."""
        return [(str(s), int(v)) for s, v in await self.rows("SELECT subject_id, version FROM applied ORDER BY id")]

    def relay(
        self, *, database: Database | None = None, published: outbox.Published | None = None, **more: Any
    ) -> Relay:
        settings = self.with_settings(**more)
        return Relay("consent", database or self.database, settings, watermarked=[STATES], published=published)


def _record(raw: Any) -> Record:
    try:
        event = kafka.decode(raw.value, raw.headers)
    except kafka.Undecodable:
        event = None
    return Record(
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key.decode(errors="replace") if raw.key is not None else None,
        value=raw.value,
        headers={name: value.decode() for name, value in raw.headers},
        event=event,
    )


@asynccontextmanager
async def pipeline(surroundings: Surroundings, **more: Any) -> AsyncIterator[Pipeline]:
    settings = ServiceSettings(**await surroundings.settings("dispatch", **more))
    await kafka.ensure_topics(settings, [STATES])
    async with surroundings.sql("dispatch") as sql:
        await sql.execute(TABLES)
    database = Database(settings.database_url, name="pipeline")
    try:
        yield Pipeline(surroundings, settings, database)
    finally:
        await database.close()


Run = Callable[[asyncio.Event], Awaitable[None]]


@asynccontextmanager
async def going(*runs: Run) -> AsyncIterator[list[asyncio.Task[None]]]:
    """These loops run while the block does; then they are stopped, and what one of them raised is raised here."""
    stop = asyncio.Event()
    tasks: list[asyncio.Task[None]] = [asyncio.ensure_future(run(stop)) for run in runs]
    try:
        yield tasks
    except BaseException:
        for task in tasks:  # one may wait for a lock that the block holds
            task.cancel()
        raise
    finally:
        stop.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, Exception):
            raise failure


def states_of(subject_id: str, *versions: int) -> list[ConsentStateChanged]:
    return [
        ConsentStateChanged(
            subject_id=subject_id, version=version, consents=(), suppressions=(), erased=False, causes=()
        )
        for version in versions
    ]


async def project(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """A projection as ours are, guarded by version; `applied` tells what it was offered, in order."""
    for received in batch:
        assert isinstance(received.event, ConsentStateChanged)
        row = {"subject": received.event.subject_id, "version": received.event.version}
        await tx.execute(text("INSERT INTO applied (subject_id, version) VALUES (:subject, :version)"), row)
        await tx.execute(
            text(
                "INSERT INTO projection (subject_id, version) VALUES (:subject, :version)"
                " ON CONFLICT (subject_id) DO UPDATE SET version = excluded.version"
                " WHERE projection.version < excluded.version"
            ),
            row,
        )
    return None
