"""Run the whole system for fault injection: a process per role of each service, and a wire per connection to break.

Wires run from each service to the database and to each broker, from dispatch-svc to the operator, and from the operator
to inbound-svc. On Apache Kafka each worker and projection has a second process, as in production; on the local broker,
which forms groups too slowly, the only worker takes every partition.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import asyncpg

from chaos.archive import Archive
from chaos.checks import Loss
from chaos.wire import Wire, wire_to
from stack.broker import Broker
from stack.environment import PARTITIONS, SERVICES, Environment
from stack.kafka import Kafka, fetch
from stack.postgres import Postgres
from stack.processes import Died, Supervisor, free_port

POSTGRES = "Postgres"
WORKER = "worker"
PROJECTION = "projection"  # of dispatch-svc
ROLES = ("api", WORKER, "relay")
POOLS = {
    "api": 10,
    WORKER: 18,
    PROJECTION: 10,
    "relay": 4,
}  # connections; together fewer than Postgres takes
READY_WITHIN_S = 120.0  # many Pythons start at once
LOOK_EVERY_S = 0.25
LIBFAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))  # Debian's path
OF_A_JVM = {"FAKETIME_FORCE_MONOTONIC_FIX": "0"}  # otherwise a JVM spins at its start
LOOK_WITHIN_S = 5.0
COMMAND_WITHIN_S = 300.0
CLOCK_JUMP_S = 30
OLDEST_KNOWLEDGE = (
    "SELECT CASE WHEN count(as_of) = $1 THEN min(as_of) END FROM consumer_offset"
    " WHERE consumer_group = 'dispatch.consents' AND topic = 'consent.states.v1'"
)
DISK_BYTES = 3 << 30  # a tmpfs takes memory only for written bytes


def processes(brokers: int) -> dict[str, tuple[str, str]]:
    """Return (service, role) by process. `brokers`: of Apache Kafka; 0: the local broker."""
    found = {f"{service}-{role}": (service, role) for service in SERVICES for role in ROLES}
    found[f"dispatch-{PROJECTION}"] = ("dispatch", PROJECTION)
    if brokers:
        found |= {
            f"{name}-2": (service, role) for name, (service, role) in found.items() if role in (WORKER, PROJECTION)
        }
    return found


class Callers(Protocol):
    """The callers of the services, for a repair (docs/runbook.md, "A database was restored")."""

    async def repeat(self) -> None:
        """Send consent-svc all earlier requests again."""

    async def cancel(self) -> None:
        """Cancel every running campaign."""

    async def reconcile(self, stopped: Mapping[str, Sequence[str]]) -> None:
        """Give consent-svc the operator's list of opt-outs: numbers by STOP code."""

    async def stop(self) -> None:
        """Text STOP from some people, at once."""


@dataclass
class System:
    """A running system.

    `wires`: by "<service> to the database", "<service> to the broker" (a wire per broker), "dispatch to the operator",
    "the operator to us". `clocks`: files that move the clock of a service, of Postgres or of a broker. `disk`: the disk
    of Postgres, if a separate one. `earlier`: the sources of the processes, if not today's. `jumps`: periods with a
    moved clock of dispatch-svc. `archive`: of the log of Postgres, if it is kept. `foreign`: the log holds old or
    foreign states.
    """

    folder: Path
    environment: Environment
    postgres: Postgres
    broker: Broker | Kafka
    supervisor: Supervisor
    rate: float | None
    earlier: Path | None
    wires: dict[str, list[Wire]] = field(default_factory=dict)
    databases: dict[str, str] = field(default_factory=dict)  # DSN by service, past the wires
    health: dict[str, str] = field(default_factory=dict)  # URL by process
    clocks: dict[str, Path] = field(default_factory=dict)
    disk: Path | None = None
    archive: Archive | None = None
    deaths: list[str] = field(default_factory=list)  # of processes that no fault killed
    losses: list[Loss] = field(default_factory=list)
    jumps: list[tuple[datetime, datetime]] = field(default_factory=list)
    foreign: bool = False
    lost_records: bool = False
    callers: Callers | None = None

    @property
    def simulator_log(self) -> Path:
        return self.folder / "simulator.jsonl"

    @property
    def brokers(self) -> int:
        return self.broker.brokers if isinstance(self.broker, Kafka) else 0

    async def start(self, name: str, service: str, role: str, brokers_by: str | None = None) -> None:
        """Start a process; return once it lives, ready or not (`unready`). `brokers_by`: other wires to the brokers."""
        url = self.environment.urls[service] if role == "api" else f"http://127.0.0.1:{free_port()}"
        self.health[name] = url
        told = self._told(service, brokers_by) | {
            "PLACET_ROLES": role,
            "PLACET_PORT": url.rpartition(":")[2],
            "PLACET_DATABASE_POOL": str(POOLS[role]),
        }
        await self.supervisor.start(
            name, [sys.executable, "-m", service], env=told, ready=f"{url}/livez", within_s=READY_WITHIN_S
        )

    async def retire(self, name: str) -> None:
        await self.supervisor.retire(name)
        del self.health[name]

    async def renew(self, name: str) -> None:
        """Restart a process after SIGTERM, from the sources now in force."""
        service, role = processes(self.brokers)[name]
        await self.retire(name)
        await self.start(name, service, role)

    async def migrate(self, service: str) -> None:
        told = self._told(service) | {"PLACET_DATABASE_URL": self.databases[service]}
        await self.supervisor.run(f"{service}-migrate", [sys.executable, "-m", service, "migrate"], env=told)

    async def command(self, service: str, *arguments: str) -> str:
        """Return the output of `python -m <service> <arguments>`. Raises RuntimeError for a failure."""
        told = self._told(service) | {"PLACET_DATABASE_URL": self.databases[service]}
        try:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", service, *arguments],
                env=told,
                text=True,
                capture_output=True,
                timeout=COMMAND_WITHIN_S,
            )
        except subprocess.TimeoutExpired as late:
            raise RuntimeError(f"python -m {service} {arguments[0]} has not ended") from late
        if done.returncode:
            raise RuntimeError(f"python -m {service} {arguments[0]} failed: {done.stderr.strip()[-200:]}")
        return done.stdout

    async def consent_age_s(self) -> float | None:
        """Return the age of dispatch-svc's consent data; `None` without a partition's data, or the database."""
        try:
            async with asyncio.timeout(LOOK_WITHIN_S):
                sql = await asyncpg.connect(self.databases["dispatch"])
                try:
                    oldest = await sql.fetchval(OLDEST_KNOWLEDGE, PARTITIONS)
                finally:
                    await sql.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None
        return None if oldest is None else (datetime.now(UTC) - oldest).total_seconds()

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self._pid(name), number)

    def _pid(self, name: str) -> int:
        if name.startswith("broker-"):
            assert isinstance(self.broker, Kafka)
            return self.broker.pid(int(name.removeprefix("broker-")))
        return self.supervisor.pid(name)

    async def unready(self) -> list[str]:
        """Return each process that is not ready, with its reasons."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:

            async def look(name: str, url: str) -> str | None:
                try:
                    async with http.get(f"{url}/readyz") as answer:
                        return None if answer.status == 200 else f"{name}: {'; '.join((await answer.json())['why'])}"
                except (aiohttp.ClientError, TimeoutError) as error:
                    return f"{name}: {type(error).__name__}"

            found = await asyncio.gather(*(look(name, url) for name, url in list(self.health.items())))
        return [why for why in found if why is not None]

    async def ready(self, within_s: float) -> list[str]:
        """Wait until every process is ready; return the reasons left after `within_s`."""
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            why = await self.unready()
            if not why or asyncio.get_running_loop().time() > deadline:
                return why
            await asyncio.sleep(LOOK_EVERY_S)

    async def keep_running(self) -> None:
        """Restart each process that ends by itself, as a platform would."""
        while True:
            died: Died = await self.supervisor.died()
            self.deaths.append(str(died))
            await self.supervisor.restart(died.name)

    def _told(self, service: str, brokers_by: str | None = None) -> dict[str, str]:
        host = "127.0.0.1"
        bootstrap = ",".join(f"{host}:{wire.port}" for wire in self.wires[brokers_by or f"{service} to the broker"])
        database = self.databases[service].replace(
            f":{self.postgres.port}/", f":{self.wires[f'{service} to the database'][0].port}/"
        )
        told = self.environment.of_service(service, database, bootstrap)
        if service == "dispatch":
            operator = {
                "provider": "simulator",
                "url": f"http://{host}:{self.wires['dispatch to the operator'][0].port}",
                "secret": told.pop("PLACET_GATEWAY_TOKEN"),
                "rate": self.rate,
            }
            del told["PLACET_GATEWAY_URL"]
            told["PLACET_GATEWAYS"] = json.dumps([operator])
        if (clock := self.clocks.get(service)) is not None:
            told |= moved_by(clock)
        if self.earlier is not None:
            sources = (self.earlier / "libs/common/src", *(self.earlier / f"services/{s}-svc/src" for s in SERVICES))
            told["PYTHONPATH"] = os.pathsep.join(map(str, sources))
        return told


def moved_by(clock: Path) -> dict[str, str]:
    """Return the variables of a process whose clock this file moves."""
    return {
        "LD_PRELOAD": str(LIBFAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock.resolve()),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",  # a Python whose files seem to change compiles each file at every start
    }


@asynccontextmanager
async def wires_to(broker: Broker | Kafka) -> AsyncIterator[list[Wire]]:
    """Open a wire to each broker; answers by a wire name the wires of all brokers."""
    async with AsyncExitStack() as leaving:
        ports = [int(address.rpartition(":")[2]) for address in broker.bootstrap.split(",")]
        wires = [await leaving.enter_async_context(wire_to("127.0.0.1", port)) for port in ports]
        for wire in wires:
            wire.rewrite = [(_address(each.to), _address(each.port)) for each in wires]
        yield wires


@asynccontextmanager
async def standing(
    folder: Path,
    *,
    brokers: int,
    rate: float | None,
    earlier: Path | None = None,
    clocks: bool = False,
    archived: bool = False,
    more: Mapping[str, Mapping[str, str]] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[System]:
    """Start a system, ready on entering; stop it on leaving. Logs stay in `folder`.

    brokers   of Apache Kafka: 1 or 3; 0: the local broker
    rate      messages a second that the operator takes, so that a campaign lasts
    earlier   sources of an earlier commit; `migrate` and a restart upgrade the processes
    clocks    clocks can be moved (where libfaketime is installed)
    archived  Postgres archives its log, in `system.archive`
    more      further variables by service
    Raises    DidNotStart
    """
    logs, data = _folders(folder)
    async with AsyncExitStack() as leaving:
        leaving.callback(shutil.rmtree, data, ignore_errors=True)
        disk = data if _own_disk(data) else None
        if disk is not None:
            leaving.callback(subprocess.run, ["umount", str(data)], check=False)
        found = _clocks(data, brokers) if clocks and LIBFAKETIME else {}
        moved = {name: moved_by(clock) for name, clock in found.items()}
        archive = Archive(data / "archive") if archived else None
        postgres = Postgres(
            data, env=moved.get(POSTGRES, {}), settings=archive.settings() if archive is not None else {}
        )
        by_number = {n: moved[f"broker-{n}"] | OF_A_JVM for n in range(1, brokers + 1)} if moved else {}
        broker = Kafka(folder / "kafka", fetch(), brokers, env=by_number) if brokers else Broker(logs)
        leaving.push_async_callback(asyncio.to_thread, postgres.stop)
        leaving.push_async_callback(asyncio.to_thread, broker.stop)
        say("PostgreSQL and the broker")
        await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(broker.start)
        operator = await leaving.enter_async_context(wire_to("127.0.0.1", 0))
        environment = Environment(
            kafka=brokers,
            more={"simulator": {"PLACET_INBOUND_URL": f"http://127.0.0.1:{operator.port}"}, **(more or {})},
        )
        operator.to = _port(environment.urls["inbound"])
        supervisor = await leaving.enter_async_context(Supervisor(logs))
        system = System(
            folder, environment, postgres, broker, supervisor, rate, earlier, disk=disk, clocks=found, archive=archive
        )
        system.wires["the operator to us"] = [operator]
        system.wires["dispatch to the operator"] = [
            await leaving.enter_async_context(wire_to("127.0.0.1", _port(environment.urls["simulator"])))
        ]
        for service in SERVICES:
            system.wires[f"{service} to the database"] = [
                await leaving.enter_async_context(wire_to("127.0.0.1", postgres.port))
            ]
            system.wires[f"{service} to the broker"] = await leaving.enter_async_context(wires_to(broker))
            system.databases[service] = await postgres.create_service_database(
                service, environment.database_passwords[service]
            )
        say("the operator simulator, and the four schemas")
        await _together(
            supervisor.start(
                "simulator",
                [sys.executable, "-m", "stack.simulator"],
                env=environment.of_simulator(system.simulator_log),
                ready=f"{environment.urls['simulator']}/livez",
            ),
            *(system.migrate(service) for service in SERVICES),
        )
        names = processes(system.brokers)
        say(f"{len(names)} processes of four services")
        await _together(*(system.start(name, *which) for name, which in names.items()))
        if why := await system.ready(READY_WITHIN_S):
            raise RuntimeError(f"not ready: {why}")
        yield system


def _folders(folder: Path) -> tuple[Path, Path]:
    """Return an emptied folder for logs, and a folder for Postgres that its user can reach."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "logs").mkdir(parents=True)
    data = Path(tempfile.mkdtemp(prefix="placet-chaos-"))
    data.chmod(0o755)
    return folder / "logs", data


def _clocks(folder: Path, brokers: int) -> dict[str, Path]:
    """Make a file per clock, readable by Postgres's user."""
    names = [*SERVICES, POSTGRES, *(f"broker-{n}" for n in range(1, brokers + 1))]
    clocks = {name: folder / f"clock-of-{name}" for name in names}
    for clock in clocks.values():
        clock.write_text("+0\n")
    return clocks


def _own_disk(folder: Path) -> bool:
    """Mount a small file system, which can be full; only root can."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "placet-chaos", str(folder)]
    try:
        return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _address(port: int) -> bytes:
    """Return 127.0.0.1:`port` as in Kafka's protocol."""
    return b"127.0.0.1" + port.to_bytes(4, "big")


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)
