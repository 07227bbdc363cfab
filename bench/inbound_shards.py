"""Measure two shards of inbound-svc beside one database for everybody, on machines of the same size (as root).

A control group is a machine: it holds a PostgreSQL of its own, and a process of inbound-svc with the roles `api` and
`relay`, to SHARE of a core. The broker and the operator have the rest. The operator calls both processes alike, so half
of the people of a callback, or of its DLRs, are in the shard of the other. Two shards reach twice the rate where they
share nothing that waits; what a callback with DLRs of both costs more is the second transaction, and its event.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import load
from bench.ground import Ground, Server
from bench.inbound import MIXES, made_mo, simulator_signed
from bench.rounds import machine
from bench.shards import SHARE, processes
from bench.workers import limited, report
from stack.environment import PARTITIONS
from stack.postgres import Postgres

CONNECTIONS = 128  # of a machine: a callback waits for both, in turn
DLRS_A_CALLBACK = 100
CALLBACKS = {"MOs, one a callback": 2_000, f"DLRs, {DLRS_A_CALLBACK} a callback": 200}  # of a round, for each machine


class Figures(NamedTuple):
    """Of a round: items a second, and the processor time of all machines for an item."""

    a_second: float
    used_us: float


async def run(ground: Ground) -> None:
    half = PARTITIONS // 2
    whole = await _rates(ground, {"all": range(PARTITIONS)})
    two = await _rates(ground, {"a": range(half), "b": range(half, PARTITIONS)})
    for mix in CALLBACKS:
        print(f"### Shards of inbound-svc, machines of {SHARE:.0%} of a core each, {mix}. {machine()}\n", flush=True)
        print("| shards | a second, median | min … max | |\n|---:|---:|---|---|", flush=True)
        rates, used_us = zip(*whole[mix], strict=True)
        report(1, rates, f"{median(used_us):,.0f} µs of a core each")
        of_two, used_by_two_us = zip(*two[mix], strict=True)
        note = f"{median(used_by_two_us):,.0f} µs; {median(of_two) / median(rates):.2f} times"
        report(2, of_two, note)
        print(flush=True)


async def _rates(ground: Ground, shards: Mapping[str, Sequence[int]]) -> Mapping[str, list[Figures]]:
    """Return the figures of the rounds of each mix, but the first, with a machine for each shard."""
    async with AsyncExitStack() as machines:
        grounds = {name: await machines.enter_async_context(_machine(ground, name)) for name in shards}
        told = {
            name: {"partitions": f"{held[0]}-{held[-1]}", "database_url": await grounds[name][0].database("inbound")}
            for name, held in shards.items()
        }
        account = {"provider": "simulator", "account": "bench", "secrets": [ground.environment.simulator_secret]}
        servers: list[Server] = []
        for name, (of_machine, group) in grounds.items():
            divided = {"PLACET_SHARDS": json.dumps(told), "PLACET_SHARD": name} if len(shards) > 1 else {}
            more = {"PLACET_PROVIDER_ACCOUNTS": json.dumps([account]), "PLACET_ROLES": "api,relay", **divided}
            server = await of_machine.service("inbound", called=name, **more)
            machines.push_async_callback(ground.supervisor.retire, name)
            (group / "cgroup.procs").write_text(str(server.pid))
            servers.append(server)
        numbers = count(1)
        rounds = range(ground.asked.rounds + 1)
        groups = [group for _, group in grounds.values()]
        return {mix: [await _round(ground, servers, groups, mix, numbers) for _ in rounds][1:] for mix in CALLBACKS}


async def _round(
    ground: Ground, servers: Sequence[Server], groups: Sequence[Path], mix: str, numbers: "count[int]"
) -> Figures:
    """Return the figures of callbacks that are sent to all machines at once."""
    are_dlrs = mix.startswith("DLRs")
    path = f"/v1/callbacks/simulator/bench/{'receipts' if are_dlrs else 'messages'}"
    signed = simulator_signed(ground.environment.simulator_secret.encode())
    sending = []
    for place, server in enumerate(servers):
        some = [(n, _dlrs(n) if are_dlrs else made_mo(n, MIXES["replies"])) for n in islice(numbers, CALLBACKS[mix])]
        folder = ground.folder / f"load-{place}"
        folder.mkdir(exist_ok=True)
        requests = [load.post(path, signed(body, n), body) for n, body in some]
        sending.append(load.send(server.url, requests, CONNECTIONS, folder, server.pid))
    before = sum(map(_used_s, groups))
    samples = await asyncio.gather(*sending)
    items = len(servers) * CALLBACKS[mix] * (DLRS_A_CALLBACK if are_dlrs else 1)
    used_s = sum(map(_used_s, groups)) - before
    return Figures(items / max(sample.seconds for sample in samples), used_s / items * 1e6)


def _used_s(group: Path) -> float:
    """Return the processor time of the processes of a group, and of their children that have ended."""
    ticks = 0
    for pid in (group / "cgroup.procs").read_text().split():
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += sum(map(int, told[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _dlrs(n: int) -> bytes:
    at = datetime.now(UTC).isoformat()
    told = [
        {"id": f"op-{n}-{each}", "reference": f"{n:032x}", "status": "delivered", "code": None, "at": at}
        for each in range(DLRS_A_CALLBACK)
    ]
    return json.dumps({"receipts": told}).encode()


@asynccontextmanager
async def _machine(ground: Ground, name: str) -> AsyncIterator[tuple[Ground, Path]]:
    """Start a PostgreSQL within a control group, with the database of inbound-svc."""
    with limited(f"inbound-{name}", SHARE) as group:
        postgres = Postgres(ground.folder / f"postgres-{name}")
        await asyncio.to_thread(postgres.start)
        try:
            of_machine = replace(ground, postgres=postgres, databases={})
            await of_machine.database("inbound")
            for pid in processes(postgres.pid):
                (group / "cgroup.procs").write_text(str(pid))
            yield of_machine, group
        finally:
            await asyncio.to_thread(postgres.stop)
