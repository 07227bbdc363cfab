"""Measure two shards of dispatch-svc beside one database for everybody, on machines of the same size (as root).

A control group is a machine: it holds a PostgreSQL of its own, and a process of dispatch-svc with all roles, to SHARE
of a core. The broker, the operator and the reader of the statuses have the rest. Two shards reach twice the rate where
they share nothing that waits.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench import dispatch
from bench.dispatch import SUBMITS_AT_ONCE, Bench
from bench.ground import Ground, Server
from bench.rounds import machine, yes_or_no
from bench.workers import WANTED, limited, report, round_of
from stack.environment import PARTITIONS
from stack.postgres import Postgres

SHARE = 0.3
MESSAGES_A_ROUND = 2  # times a round's size


async def run(ground: Ground) -> None:
    many = MESSAGES_A_ROUND * ground.asked.size
    print(f"### Shards on machines of {SHARE:.0%} of a core each, {many:,} messages. {machine()}\n", flush=True)
    print("| shards | messages/s, median | min … max | |\n|---:|---:|---|---|", flush=True)
    async with dispatch.standing(ground) as bench:
        whole = await _rates(bench, {"all": range(PARTITIONS)}, many)
        report(1, whole, "")
        half = PARTITIONS // 2
        two = await _rates(bench, {"a": range(half), "b": range(half, PARTITIONS)}, many)
    ratio = median(two) / median(whole)
    report(2, two, f"{ratio:.2f} times; wanted {WANTED}: {yes_or_no(ratio >= WANTED)}")
    print(flush=True)


async def _rates(bench: Bench, shards: Mapping[str, Sequence[int]], many: int) -> list[float]:
    """Return the rates of the rounds, but the first, with a machine for each shard."""
    async with AsyncExitStack() as machines:
        grounds = {name: await machines.enter_async_context(_machine(bench, name)) for name in shards}
        told = {
            name: {"partitions": f"{held[0]}-{held[-1]}", "database_url": await grounds[name][0].database("dispatch")}
            for name, held in shards.items()
        }
        servers: list[Server] = []
        for name, (ground, group) in grounds.items():
            divided = {"PLACET_SHARDS": json.dumps(told), "PLACET_SHARD": name} if len(shards) > 1 else {}
            of_machine = replace(bench, ground=ground)
            server = await dispatch.serving(of_machine, SUBMITS_AT_ONCE, 100, called=name, more=divided)
            machines.push_async_callback(bench.ground.supervisor.retire, name)
            (group / "cgroup.procs").write_text(str(server.pid))
            servers.append(server)
        return [await round_of(bench, servers, many) for _ in range(bench.ground.asked.rounds + 1)][1:]


@asynccontextmanager
async def _machine(bench: Bench, name: str) -> AsyncIterator[tuple[Ground, Path]]:
    """Start a PostgreSQL within a control group, with the people of the benchmark in its dispatch-svc's database."""
    with limited(f"machine-{name}", SHARE) as group:
        postgres = Postgres(bench.ground.folder / f"postgres-{name}")
        await asyncio.to_thread(postgres.start)
        try:
            ground = replace(bench.ground, postgres=postgres, databases={})
            await dispatch.known(await ground.database("dispatch"))
            await dispatch.hold(replace(bench, ground=ground), 0, bench.ground.asked.subjects, bare=False)
            for pid in processes(postgres.pid):
                (group / "cgroup.procs").write_text(str(pid))
            yield ground, group
        finally:
            await asyncio.to_thread(postgres.stop)


def processes(parent: int) -> list[int]:
    """Return a process and its children."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError as error:
        sys.exit(f"the processes of PostgreSQL are not listed ({error})")
    return [parent, *map(int, children)]
