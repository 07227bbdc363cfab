"""Measure two workers of dispatch-svc beside one, each with the same share of a core (`--kafka`, as root).

A control group holds each worker to SHARE of a core, so that two workers have twice the processor of one, as on two
machines; PostgreSQL, the broker, the projection and the relay have the rest. The workers are members of a consumer
group, which deals the partitions to them. Two workers reach twice the rate where they share nothing that waits.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median

from bench import dispatch
from bench.dispatch import SUBMITS_AT_ONCE, Bench
from bench.ground import Ground, Server
from bench.rounds import cpu_seconds, machine, yes_or_no
from common.contracts import CAMPAIGN_REQUESTS

SHARE = 0.25
PERIOD_US = 100_000
WANTED = 1.9
DEALT_WITHIN_S = 120.0
GROUPS = Path("/sys/fs/cgroup")
MESSAGES_A_ROUND = 2  # times a round's size


async def run(ground: Ground) -> None:
    if not ground.idempotent:
        print("### Two workers: only on Apache Kafka, whose groups deal out partitions (KAFKA=1)\n", flush=True)
        return
    many = MESSAGES_A_ROUND * ground.asked.size
    print(f"### Workers with {SHARE:.0%} of a core each, {many:,} messages. {machine()}\n", flush=True)
    print("| workers | messages/s, median | min … max | |\n|---:|---:|---|---|", flush=True)
    rates: list[list[float]] = []
    async with dispatch.standing(ground) as bench:
        await dispatch.serving(bench, SUBMITS_AT_ONCE, 100, roles="projection,relay")
        workers: list[Server] = []
        async with _started(bench, "first", workers):
            rates.append([await round_of(bench, workers, many) for _ in range(ground.asked.rounds + 1)][1:])
            report(1, rates[-1], "")
            async with _started(bench, "second", workers):
                await _dealt(bench, workers, many)
                rates.append([await round_of(bench, workers, many) for _ in range(ground.asked.rounds + 1)][1:])
    ratio = median(rates[1]) / median(rates[0])
    report(2, rates[1], f"{ratio:.2f} times; wanted {WANTED}: {yes_or_no(ratio >= WANTED)}")
    print(flush=True)


async def round_of(bench: Bench, workers: Sequence[Server], many: int) -> float:
    """Return the rate of a round, whose requests are in the log before a worker may read them."""
    made = bench.requests(many, agreed=True)
    bench.reader.expect([request.message_id for request in made])
    for each in workers:
        os.kill(each.pid, signal.SIGSTOP)
    try:
        await bench.publish(CAMPAIGN_REQUESTS.name, made)
    finally:
        for each in workers:
            os.kill(each.pid, signal.SIGCONT)
    started = time.perf_counter()
    async with asyncio.timeout(dispatch.LOST_S):
        await bench.reader.all_there.wait()
    return many / (time.perf_counter() - started)


async def _dealt(bench: Bench, workers: Sequence[Server], many: int) -> None:
    """Send rounds until each worker has its part of one: the group deals the partitions anew."""
    async with asyncio.timeout(DEALT_WITHIN_S):
        while True:
            before = [cpu_seconds(each.pid) or 0.0 for each in workers]
            await round_of(bench, workers, many)
            used = [(cpu_seconds(each.pid) or 0.0) - was for each, was in zip(workers, before, strict=True)]
            if min(used) > max(used) / 2:
                return


@asynccontextmanager
async def _started(bench: Bench, name: str, workers: list[Server]) -> AsyncIterator[None]:
    """Start a worker within its share, and add it to `workers`."""
    with limited(name) as group:
        worker = await dispatch.serving(bench, SUBMITS_AT_ONCE, 100, roles="worker", called=name)
        (group / "cgroup.procs").write_text(str(worker.pid))
        workers.append(worker)
        try:
            yield
        finally:
            await bench.ground.supervisor.retire(name)


@contextmanager
def limited(name: str, share: float = SHARE) -> Iterator[Path]:
    """Make a control group that gets a share of a core, of either version."""
    first = GROUPS / "cpu"
    group = (first if first.is_dir() else GROUPS) / f"placet-bench-{os.getpid()}-{name}"
    try:
        group.mkdir()
        quota = str(round(share * PERIOD_US))
        if first.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(quota)
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
    except OSError as error:
        sys.exit(f"no control group can be made ({error}): run the benchmark as root")
    try:
        yield group
    finally:
        group.rmdir()


def report(workers: int, rates: Sequence[float], note: str) -> None:
    print(f"| {workers} | {median(rates):,.0f} | {min(rates):,.0f} … {max(rates):,.0f} | {note} |", flush=True)
