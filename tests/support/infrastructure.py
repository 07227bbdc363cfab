"""The Postgres and the broker the tests run on: what the environment names, else Docker, else the embedded stack.

    PLACET_TEST_POSTGRES   postgresql:// of a superuser
    PLACET_TEST_KAFKA      host:port of Apache Kafka (idempotent producers); PLACET_TEST_TANSU for the other one
    PLACET_TEST_BROKERS    1 or 3: Apache Kafka, started here with as many brokers (`make test-kafka` says 1)

Neither is ever skipped: what does not start fails the run.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient

from common.db.database import migrate
from stack.broker import Broker as LocalBroker
from stack.kafka import SHORT_LIVED, Kafka, fetch

SERVICES = ("consent", "campaign", "dispatch", "inbound")
# What Kafka looks after every now and then, in tests many times a second: compaction, retention, deleted topics.
AT_ONCE = {
    "log.cleaner.backoff.ms": "200",
    "log.retention.check.interval.ms": "500",
    "log.segment.delete.delay.ms": "1000",
}
MEMORY = Path("/dev/shm")  # noqa: S108
ROOM = 4 * 1024**3  # bytes, for three workers
SMALL = {"max_wal_size": "256MB"}
KAFKA = int(os.environ.get("PLACET_TEST_BROKERS", "0"))  # brokers of Apache Kafka; 0: the local broker


@dataclass
class Postgres:
    """A server of which we are the superuser. Each service is migrated once, into a template that tests clone."""

    admin_url: str
    copied_as: str = "wal_log"  # how CREATE DATABASE copies; whole files take half the time where nothing is synced
    _templates: set[str] = field(default_factory=set)
    _made: list[str] = field(default_factory=list)

    def url(self, database: str) -> str:
        return self.admin_url.rsplit("/", 1)[0] + f"/{database}"

    async def clone(self, service: str, name: str) -> str:
        """A fresh, migrated database of `service`; returns its url."""
        template = f"template_{service}_{os.getpid()}"
        if service not in self._templates:
            await self._admin(f"CREATE DATABASE {template}")
            await asyncio.to_thread(migrate, self.url(template), service)
            self._templates.add(service)
        await self._admin(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {self.copied_as}")
        self._made.append(name)
        return self.url(name)

    async def empty(self, name: str) -> str:
        await self._admin(f"CREATE DATABASE {name}")
        self._made.append(name)
        return self.url(name)

    async def copy(self, url: str, name: str) -> str:
        """A backup of a database that nobody is connected to, as a database of its own; returns its url."""
        await self._admin(f"CREATE DATABASE {name} TEMPLATE {url.rpartition('/')[2]} STRATEGY {self.copied_as}")
        self._made.append(name)
        return self.url(name)

    async def drop(self) -> None:
        """Everything made since the last time, and whoever is still connected to it."""
        while self._made:
            await self._admin(f"DROP DATABASE IF EXISTS {self._made.pop()} WITH (FORCE)")

    async def _admin(self, statement: str) -> None:
        connection = await asyncpg.connect(self.admin_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@dataclass(frozen=True)
class Broker:
    bootstrap: str
    idempotent: bool  # does it know InitProducerId?
    groups: bool  # do they form at once? Else the services that tests run join none
    replicas: int = 1

    async def forget(self, prefix: str) -> None:
        """Delete the topics with this prefix."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([name for name in await admin.list_topics() if name.startswith(prefix)])
        finally:
            await admin.close()


NOWHERE = Broker("127.0.0.1:1", idempotent=True, groups=True)  # for tests that say they reach none: nobody listens


def own_broker(folder: Path) -> LocalBroker | Kafka:
    """Of the kind this run is on, not started: for what has to be down, and to come back."""
    if not KAFKA:
        return LocalBroker(folder)
    return Kafka(folder / "kafka", fetch(), KAFKA, more=AT_ONCE, jvm=SHORT_LIVED)


def as_told(server: LocalBroker | Kafka) -> Broker:
    known = isinstance(server, Kafka)
    return Broker(server.bootstrap, idempotent=known, groups=known, replicas=max(KAFKA, 1))


@contextmanager
def postgres_server(scratch: Path) -> Iterator[Postgres]:
    if url := os.environ.get("PLACET_TEST_POSTGRES"):
        yield Postgres(url)
        return
    with ExitStack() as cleaning:
        if docker_answers():
            from testcontainers.postgres import PostgresContainer

            container = cleaning.enter_context(PostgresContainer("postgres:17", driver=None))
            yield Postgres(container.get_connection_url())
        else:
            from stack.postgres import Postgres as Embedded

            folder = cleaning.enter_context(in_memory("postgres")) or scratch
            embedded = Embedded(folder / "postgres", durable=False, settings=SMALL)
            embedded.start()
            cleaning.callback(embedded.stop)
            yield Postgres(embedded.admin_dsn, copied_as="file_copy")


@contextmanager
def in_memory(server: str, memory: Path = MEMORY) -> Iterator[Path | None]:
    """A folder in memory for a server's files; None where there is no room. What a killed run has left goes first.

    A test's database is some hundred small files, made and removed: on a disk that costs twice the processor time, and
    waits for whatever else is written there.
    """
    if not memory.is_dir() or shutil.disk_usage(memory).free < ROOM:
        yield None
        return
    folder = memory / f"placet-tests-{server}-{os.getpid()}"
    for left in memory.glob("placet-tests-*"):
        if left == folder or not Path("/proc", left.name.rpartition("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(mode=0o711)  # Postgres runs as another user where we are root
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def kafka_broker(scratch: Path) -> Iterator[Broker]:
    if bootstrap := os.environ.get("PLACET_TEST_KAFKA"):
        yield Broker(bootstrap, idempotent=True, groups=True)
        return
    if bootstrap := os.environ.get("PLACET_TEST_TANSU"):
        yield Broker(bootstrap, idempotent=False, groups=False)
        return
    with ExitStack() as cleaning:
        if not KAFKA and docker_answers():
            from testcontainers.kafka import KafkaContainer

            container = cleaning.enter_context(KafkaContainer("apache/kafka:4.1.1").with_kraft())
            yield Broker(container.get_bootstrap_server(), idempotent=True, groups=True)
        else:
            folder = cleaning.enter_context(in_memory("broker")) or scratch
            embedded = own_broker(folder / "broker")
            embedded.start()
            cleaning.callback(embedded.stop)
            yield as_told(embedded)


def docker_answers() -> bool:
    """Only when asked for: a daemon without a registry cannot pull what the containers need."""
    if os.environ.get("PLACET_TEST_DOCKER") != "1":
        return False
    import docker

    docker.from_env().ping()
    return True
