"""The ground of a benchmark: a durable Postgres, a broker, and services as processes.

Both sides of a comparison share the ground. The broker is the local stack's, Apache Kafka, or the broker named by
PLACET_TEST_KAFKA.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from bench import history
from bench.rounds import Side, alternate, report
from stack.broker import Broker
from stack.environment import Environment
from stack.kafka import Kafka, fetch
from stack.postgres import Postgres
from stack.processes import Supervisor, free_port

JARS = Path(".kafka/libs")
LIMITS = Path(__file__).with_name("limits.json")  # a benchmark counts, and is never refused
READY_WITHIN_S = 60.0
SEGMENTS = 60  # of 16 MB: as many as `min_wal_size` keeps


@dataclass(frozen=True, slots=True)
class Server:
    """A process under test."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is asked for.

    `rounds`: pairs of rounds; `size`: operations in a round; `subjects`: people held before the run; `only`: a part of
    the titles to compare; `keep`: the pairs, for the history by commit; `seconds` and `rate`: of a steady pass, and
    of its messages a second.
    """

    kafka: bool = False
    rounds: int = 7
    size: int = 10_000
    subjects: int = 50_000
    only: str = ""
    keep: bool = False
    seconds: int = 600
    rate: int = 300


@dataclass(frozen=True)
class Ground:
    """The ground. `databases`: DSN by service."""

    folder: Path
    postgres: Postgres
    bootstrap: str
    idempotent: bool  # whether the broker knows idempotent producers
    supervisor: Supervisor
    environment: Environment
    asked: Asked
    databases: dict[str, str] = field(default_factory=dict)

    async def compare(
        self,
        title: str,
        unit: str,
        *,
        ours: Side,
        limit: Side,
        wanted: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Measure both sides, print and keep the comparison, unless its title lacks `only`.

        `wanted`: a share of the limit. `at_least`: a rate per second.
        """
        if self.asked.only not in title:
            return
        found = await alternate(ours, limit, self.asked.rounds)
        broker = "Apache Kafka" if self.idempotent else "the local stack's broker"
        print(report(f"{title} ({broker})", unit, ours, limit, found, wanted, at_least), flush=True)
        one = history.kept(f"{title} ({broker})" if self.idempotent else title, unit, found, wanted)
        for path in (history.RAW, history.KEPT) if self.asked.keep else (history.RAW,):
            history.add(path, one)

    async def database(self, service: str) -> str:
        """Return the DSN of a service's migrated database."""
        if service not in self.databases:
            dsn = await self.postgres.create_service_database(service, self.environment.database_passwords[service])
            await self.supervisor.run(
                f"{service}-migrate", [sys.executable, "-m", service, "migrate"], env=self._told(service, dsn)
            )
            self.databases[service] = dsn
        return self.databases[service]

    async def service(self, name: str, *, called: str | None = None, **more: str) -> Server:
        """Start a process of a service with further variables `more`; `called`: the name of a second process."""
        url = free_url() if called else self.environment.urls[name]
        env = self._told(name, await self.database(name)) | {"PLACET_PORT": url.rpartition(":")[2]} | more
        return await self.server(called or name, [sys.executable, "-m", name], url, env)

    async def server(self, name: str, command: Sequence[str], url: str, env: Mapping[str, str] | None = None) -> Server:
        """Start a process; return once `url`/readyz answers."""
        await self.supervisor.start(name, command, env=env, ready=f"{url}/readyz", within_s=READY_WITHIN_S)
        return Server(url, self.supervisor.pid(name))

    def _told(self, service: str, dsn: str) -> dict[str, str]:
        told = self.environment.of_service(service, dsn, self.bootstrap)
        as_kafka = str(self.idempotent).lower()
        told |= {"PLACET_KAFKA_IDEMPOTENCE": as_kafka, "PLACET_KAFKA_GROUPS": as_kafka}
        return told | {"PLACET_LIMITS": str(LIMITS)}


@asynccontextmanager
async def standing(folder: Path, asked: Asked, settings: Mapping[str, str]) -> AsyncIterator[Ground]:
    """Open the ground, ready on entering; close it on leaving. `settings`: further ones of PostgreSQL."""
    kafka = asked.kafka
    async with AsyncExitStack() as leaving:
        postgres = Postgres(folder / "postgres", settings=settings)
        leaving.push_async_callback(asyncio.to_thread, postgres.stop)
        await asyncio.to_thread(postgres.start)
        await _make_segments(postgres)
        bootstrap = os.environ.get("PLACET_TEST_KAFKA")
        if bootstrap is None:
            broker = Kafka(folder / "kafka", fetch(JARS)) if kafka else Broker(folder / "broker")
            leaving.push_async_callback(asyncio.to_thread, broker.stop)
            await asyncio.to_thread(broker.start)
            bootstrap = broker.bootstrap
        else:
            kafka = True
        supervisor = await leaving.enter_async_context(Supervisor(folder / "logs"))
        yield Ground(folder, postgres, bootstrap, kafka, supervisor, Environment(), asked)


async def _make_segments(postgres: Postgres) -> None:
    """Make the server's segments of WAL, which it writes over from then on, as a server does that has run for a day.

    A server fills a new segment with zeros while every commit waits.
    """
    admin = await asyncpg.connect(postgres.admin_dsn)
    try:
        for _ in range(SEGMENTS):
            await admin.execute("SELECT pg_logical_emit_message(true, 'bench', ''), pg_switch_wal()")
        await admin.execute("CHECKPOINT")
    finally:
        await admin.close()


def free_url() -> str:
    return f"http://127.0.0.1:{free_port()}"
