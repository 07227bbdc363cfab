"""Run a whole local stack: PostgreSQL, the broker, the operator simulator and the four services.

    async with running_stack(folder) as stack:
        stack.urls["consent"], stack.token, stack.kill("dispatch"), await stack.restart("dispatch")

A stack always starts with empty databases: the local broker loses the events of an earlier run.
"""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg

from stack.broker import Broker
from stack.calling import together
from stack.environment import NO_OPERATORS, SERVICES, Environment, Hours, Operators
from stack.kafka import SHORT_LIVED, Kafka, fetch
from stack.postgres import Postgres
from stack.processes import DidNotStart, Supervisor, free_port

READY_WITHIN_S = 60.0  # four services share the cores
MOVE_S = 120.0  # of a service's rows, beside a campaign
MOVED = ("dispatch", "campaign", "consent", "inbound")  # marketing first, STOPs last

PROJECTION = "dispatch-projection"  # dispatch-svc's second process, for `kill` and `restart`
LOGS, SIMULATOR_LOG, STACK_ENV, DATABASE, KAFKA = "logs", "simulator.jsonl", "stack.env", "postgres", "kafka"


@dataclass(frozen=True)
class Stack:
    """A running stack. `urls`: by service name, plus "simulator"."""

    folder: Path
    environment: Environment
    postgres: Postgres
    broker: Broker | Kafka
    supervisor: Supervisor
    databases: Mapping[str, str]  # DSN by service: never for writing
    owners: Mapping[str, str]  # DSN by service, of the role that owns the tables

    @property
    def urls(self) -> Mapping[str, str]:
        return self.environment.urls

    @property
    def token(self) -> str:
        return self.environment.token()

    @property
    def simulator_log(self) -> Path:
        return self.folder / SIMULATOR_LOG

    def kill(self, service: str) -> None:
        """Kill a process with SIGKILL."""
        self.supervisor.kill(service)

    async def restart(self, service: str) -> None:
        """Restart a process; return once /readyz is green."""
        await self.supervisor.restart(service)

    async def restart_with(self, environment: Environment) -> "Stack":
        """Restart all services with other variables; return the stack as it runs then."""
        stack = replace(self, environment=environment)
        told = {name: stack.told(name) for name in SERVICES}
        told[PROJECTION] = environment.of_projection(told["dispatch"])
        await together(*(self.supervisor.restart(name, env) for name, env in told.items()))
        return stack

    async def move_people(self, environment: Environment) -> "Stack":
        """Move the subject ids of each service, which stands still meanwhile; return the stack as it runs then.

        `environment`: with another current outer key. Raises DidNotStart.
        """
        stack = replace(self, environment=environment)
        for name in MOVED:
            told = {name: stack.told(name)}
            if name == "dispatch":
                told[PROJECTION] = environment.of_projection(told[name])
            await together(*(self.supervisor.halt(each) for each in told))
            await self._drain(name)
            env = environment.of_move(self.databases[name], self.owners[name])
            await self.supervisor.run(f"{name}-keys", _python(name, "keys", "--subjects"), env=env, within_s=MOVE_S)
            await together(*(self.supervisor.restart(each, env) for each, env in told.items()))
        return stack

    async def count_moved(self, service: str) -> None:
        """Check that no row has an id of another outer key. Raises DidNotStart."""
        env = self.environment.of_move(self.databases[service], self.owners[service])
        command = _python(service, "keys", "--subjects", "--count")
        await self.supervisor.run(f"{service}-keys", command, env=env, within_s=MOVE_S)

    async def _drain(self, service: str) -> None:
        """Let the relay of a halted service publish what waits."""

        async def ready() -> str | None:
            connection = await asyncpg.connect(self.owners[service])
            try:
                rows = await connection.fetchval("SELECT count(*) FROM outbox")
            finally:
                await connection.close()
            return f"{rows} rows in the outbox" if rows else None

        port = str(free_port())  # at the service's own, callers would find no route
        relay, env = f"{service}-relay", {**self.told(service), "PLACET_ROLES": "relay", "PLACET_PORT": port}
        await self.supervisor.start(relay, _python(service), env=env, ready=ready, within_s=READY_WITHIN_S)
        await self.supervisor.retire(relay)

    async def run(self, service: str, *command: str, within_s: float) -> None:
        """Run a command of a service to its end, with the service's variables. Raises DidNotStart unless it is 0."""
        name, env = f"{service}-{command[0]}", self.told(service)
        await self.supervisor.run(name, _python(service, *command), env=env, within_s=within_s)

    def told(self, service: str) -> dict[str, str]:
        """Return the variables of a service."""
        return self.environment.of_service(service, self.databases[service], self.broker.bootstrap)


@asynccontextmanager
async def running_stack(
    folder: Path,
    *,
    kafka: int = 0,
    hours: Hours = "demonstration",
    durable: bool = True,
    operators: Operators = NO_OPERATORS,
    idempotent_gateway: bool = False,
    more: Mapping[str, Mapping[str, str]] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Stack]:
    """Start a stack, ready on entering; stop it on leaving.

    Logs and stack.env are under `folder`; the databases end with the stack.

        kafka      brokers of Apache Kafka; 0: the local broker
        operators  beside the simulator
        more       further environment variables, by service (or "simulator")
        say        called with the name of each step
        Raises     DidNotStart, with the log's tail.
    """
    make_empty(folder)
    logs = folder / LOGS
    environment = Environment(
        hours=hours, kafka=kafka, operators=operators, idempotent_gateway=idempotent_gateway, more=more or {}
    )
    postgres = Postgres(folder / DATABASE, durable=durable)
    broker = Kafka(folder / KAFKA, await asyncio.to_thread(fetch), kafka, jvm=SHORT_LIVED) if kafka else Broker(logs)
    async with AsyncExitStack() as leaving:
        leaving.push_async_callback(asyncio.to_thread, postgres.stop)
        leaving.push_async_callback(asyncio.to_thread, broker.stop)
        say(f"PostgreSQL and {'Apache Kafka' if kafka else 'the broker'}")
        await _in_thread(postgres.start)
        await _in_thread(broker.start)
        supervisor = await leaving.enter_async_context(Supervisor(logs))
        addresses = {
            name: await postgres.create_owned_database(
                name, environment.database_passwords[name], environment.owner_passwords[name]
            )
            for name in SERVICES
        }
        databases = {name: each.service for name, each in addresses.items()}
        told = {name: environment.of_service(name, databases[name], broker.bootstrap) for name in SERVICES}
        say("the operator simulator, and the four schemas")
        await together(
            supervisor.start(
                "simulator",
                _python("stack.simulator"),
                env=environment.of_simulator(folder / SIMULATOR_LOG),
                ready=f"{environment.urls['simulator']}/livez",
            ),
            *(
                supervisor.run(
                    f"{name}-migrate", _python(name, "migrate"), env=environment.of_migration(*addresses[name])
                )
                for name in SERVICES
            ),
        )
        if operators.kind is not None:
            say(f"the bridge that is an operator over {operators.kind}")
            await supervisor.start(
                "bridge",
                _python("stack.bridge", operators.kind),
                env=environment.of_bridge(broker.bootstrap),
                ready=f"{environment.bridge_url}/livez",
            )
        say("the four services")
        await together(
            *(
                supervisor.start(
                    name,
                    _python(name),
                    env=told[name],
                    ready=f"{environment.urls[name]}/readyz",
                    within_s=READY_WITHIN_S,
                )
                for name in SERVICES
            ),
            supervisor.start(
                PROJECTION,
                _python("dispatch"),
                env=environment.of_projection(told["dispatch"]),
                ready=f"{environment.projection_url}/readyz",
                within_s=READY_WITHIN_S,
            ),
        )
        environment.write(folder / STACK_ENV)
        leaving.callback((folder / STACK_ENV).unlink, missing_ok=True)
        owners = {name: each.owner for name, each in addresses.items()}
        yield Stack(folder, environment, postgres, broker, supervisor, databases, owners)


def kafka_asked(told: Mapping[str, str]) -> int:
    """Return the variable KAFKA, 0 without it. Raises DidNotStart."""
    if (asked := told.get("KAFKA") or "0") not in ("0", "1", "3"):
        raise DidNotStart("KAFKA is 1 or 3, the brokers of Apache Kafka; without it, or 0, the local broker")
    return int(asked)


def make_empty(folder: Path) -> None:
    """Empty `folder` of an earlier run. Raises DidNotStart if that run is alive."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    Postgres(folder / DATABASE).wipe()
    for name in (DATABASE, LOGS, KAFKA):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (SIMULATOR_LOG, STACK_ENV):
        (folder / name).unlink(missing_ok=True)


def _python(*module: str) -> list[str]:
    return [sys.executable, "-m", *module]


async def _in_thread(start: Callable[[], object]) -> None:
    """Run `start` in a thread, and wait even when cancelled: its server must exist to be stopped."""
    thread = asyncio.create_task(asyncio.to_thread(start))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
