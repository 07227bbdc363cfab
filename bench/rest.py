"""Measure what the four services cost while nothing happens: a process each, one with all of its roles.

Processor time, wake-ups, transactions and records a second, over size / 200 seconds (50 by default), once every process
has rested. No code could do the same job, so there is no limit: compare two commits, side by side.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench.ground import Ground
from bench.rounds import machine
from bench.whole import in_kafka

SERVICES = ("inbound", "consent", "campaign", "dispatch")
SETTLED_S = 25.0  # longer than any calm (`common.kafka.outbox`, `common.kafka.reading.polling`)
TICKS = os.sysconf("SC_CLK_TCK")
TRANSACTIONS = "SELECT sum(xact_commit)::bigint FROM pg_stat_database WHERE datname = current_database()"


@dataclass(frozen=True, slots=True)
class Used:
    """What a part has used so far."""

    cpu_s: float
    wakeups: int
    transactions: int = 0

    def __sub__(self, before: "Used") -> "Used":
        return Used(self.cpu_s - before.cpu_s, self.wakeups - before.wakeups, self.transactions - before.transactions)


async def run(ground: Ground) -> None:
    pids = {name: (await ground.service(name, PLACET_ROLES="all")).pid for name in SERVICES}
    databases = {name: await asyncpg.connect(await ground.database(name)) for name in SERVICES}
    seconds = ground.asked.size / 200
    try:
        await asyncio.sleep(SETTLED_S)
        records, _ = await in_kafka(ground.bootstrap)
        before, began = await _used(ground, pids, databases), time.perf_counter()
        await asyncio.sleep(seconds)
        after, seconds = await _used(ground, pids, databases), time.perf_counter() - began
        published, _ = await in_kafka(ground.bootstrap)
    finally:
        for connection in databases.values():
            await connection.close()
    print(f"### At rest, for {seconds:.0f} s. {machine()}\n")
    print("| | % of a core | wake-ups/s | transactions/s |\n|---|---:|---:|---:|")
    used = {name: after[name] - before[name] for name in after}
    for name, each in used.items():
        rate = f"{each.transactions / seconds:.1f}" if name in databases else ""
        print(f"| {name} | {each.cpu_s / seconds * 100:.1f} | {each.wakeups / seconds:.0f} | {rate} |")
    share = sum(used[name].cpu_s for name in SERVICES) / seconds * 100
    print(
        f"\nThe four services: {share:.1f} % of a core, and {(published - records) / seconds:.0f} records/s.\n",
        flush=True,
    )


async def _used(
    ground: Ground, pids: Mapping[str, int], databases: Mapping[str, asyncpg.Connection]
) -> dict[str, Used]:
    found = {name: _of(pid, await databases[name].fetchval(TRANSACTIONS)) for name, pid in pids.items()}
    found["PostgreSQL"] = _sum(ground.postgres.pid)
    others = set(_children(os.getpid())) - {ground.postgres.pid, *pids.values()}
    found["broker"] = Used(sum(_sum(pid).cpu_s for pid in others), sum(_sum(pid).wakeups for pid in others))
    return found


def _sum(pid: int) -> Used:
    """Return what a process and its children have used."""
    each = [_of(one) for one in (pid, *_children(pid))]
    return Used(sum(one.cpu_s for one in each), sum(one.wakeups for one in each))


def _children(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, children.read_text().split())


def _of(pid: int, transactions: int = 0) -> Used:
    """Return what a process has used; nothing for one that has gone."""
    try:
        ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        told = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status")]
    except OSError:
        return Used(0.0, 0, transactions)
    wakeups = sum(int(line.split()[1]) for text in told for line in text.splitlines() if line.startswith("voluntary"))
    return Used(ticks / TICKS, wakeups, transactions)
