"""Run the system, its load and the faults, and report."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg

from chaos import faults
from chaos.checks import Violation
from chaos.load import Load
from chaos.report import Report, Suffered, held
from chaos.schedule import Planned, schedule
from chaos.system import System, standing
from chaos.watching import Watch
from stack.calling import Api

RECOVERS_WITHIN_S = 120.0
SETTLES_WITHIN_S = 360.0  # from the last fault to the end of the last campaign, STOP and receipt
SETTLE_POLL_S = 1.0
TELL_EVERY_S = 15.0
PLANNED = 1000  # more than any run reaches
AT_ONCE = 2  # campaigns
ANSWERS_AFTER_S = 0.2  # latency of the operator: a message is in flight at any kill
SETTLED_LOOKS = 3  # in a row


async def run(
    folder: Path,
    *,
    seed: int,
    seconds: float,
    brokers: int,
    rate: float = 100.0,
    people: int = 500,
    clocks: bool = False,
    earlier: Path | None = None,
    only: str = "",
    many: int = PLANNED,
    say: Callable[[str], None] = print,
) -> Report:
    """Inject faults for `seconds`, under a load of `rate` messages a second; then let all come to rest, and count.

    only    a regular expression: only the faults whose "kind, target" matches
    many    faults at most

    Writes `report.txt` and `report.json` to `folder`.
    """
    async with standing(folder, brokers=brokers, rate=rate, clocks=clocks, earlier=earlier, say=say) as system:
        possible = [each for each in faults.possible(system) if re.search(only, f"{each.kind}, {each.target}")]
        plan = schedule(seed, possible, many)
        say(f"seed {seed}; each of {len(possible)} faults once, then again:")
        say("\n".join(str(each) for each in plan[: len(possible)]))
        lasts_s = AT_ONCE * people / rate
        async with loaded(system, lambda api: Load(api, seed, people, lasts_s), say) as (_, watch):
            suffered = await hurt(system, plan, seconds, watch, say)
        report = await conclude(system, watch, suffered, seed=seed)
    write(report, folder)
    return report


def write(report: Report, folder: Path) -> None:
    (folder / "report.txt").write_text(report.text() + "\n")
    (folder / "report.json").write_bytes(report.json() + b"\n")


@asynccontextmanager
async def loaded(
    system: System,
    make: Callable[[Api], Load],
    say: Callable[[str], None],
    *,
    at_once: int = AT_ONCE,
    call_within_s: float = 30.0,
) -> AsyncIterator[tuple[Load, Watch]]:
    """Run load and watch during the block; on leaving, finish the campaigns under the watch."""
    timeout = aiohttp.ClientTimeout(total=call_within_s)
    headers = {"Authorization": f"Bearer {system.environment.token()}"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        load = make(Api(session, system.environment.urls))
        load.losses, system.callers = system.losses, load
        await load.api.call("POST", "simulator", "/control/behaviour", {"latency_s": ANSWERS_AFTER_S})
        watch = Watch(system, load, say)
        async with asyncio.TaskGroup() as group:  # a failure ends the block, and is raised
            watching = [group.create_task(each) for each in (watch.run(), system.keep_running())]
            working = group.create_task(load.run(at_once))
            yield load, watch
            load.ending.set()
            say(f"{time.monotonic() - watch.started:>6.0f} s  the faults are over")
            await _settled(watch, working, say)
            working.cancel()
            for each in watching:
                each.cancel()
            await asyncio.wait(watching)
            await watch.finish()


async def hurt(
    system: System, plan: list[Planned], seconds: float, watch: Watch, say: Callable[[str], None]
) -> list[Suffered]:
    """Inject faults until `seconds` are over."""
    suffered: list[Suffered] = []
    began = time.monotonic()
    for planned in plan:
        await asyncio.sleep(planned.after_s)
        if time.monotonic() - began + planned.lasts_s > seconds:
            break
        say(f"{time.monotonic() - watch.started:>6.0f} s  {planned}")
        suffered.append(await suffer(system, planned, watch))
    return suffered


async def suffer(system: System, planned: Planned, watch: Watch) -> Suffered:
    """Inject a fault and wait for the recovery; a process that is not ready by then is a violation."""
    began = time.monotonic()
    watch.note(await faults.inflict(system, planned))
    ended = time.monotonic()
    why = await system.ready(RECOVERS_WITHIN_S)
    for loss in system.losses:
        loss.made_good = loss.made_good or not why
    if why:
        watch.note([Violation(0, "did not recover", f"from {planned.kind}, {planned.target}: {why}")])
    return Suffered(
        planned.number,
        planned.kind,
        planned.target,
        round(began - watch.started, 1),
        round(ended - began, 1),
        None if why else round(time.monotonic() - ended, 1),
    )


async def conclude(system: System, watch: Watch, suffered: list[Suffered], *, seed: int) -> Report:
    held(suffered, watch.holds)
    sql = await asyncpg.connect(system.databases["dispatch"])
    try:
        rows = await sql.fetch("SELECT status, count(*) FROM message WHERE category = 'marketing' GROUP BY status")
    finally:
        await sql.close()
    kinds = {0: "the local stack's broker", 1: "Apache Kafka, one broker", 3: "Apache Kafka, three brokers"}
    return Report(
        seed=seed,
        broker=kinds[system.brokers],
        seconds=round(time.monotonic() - watch.started, 1),
        faults=suffered,
        left_out=faults.left_out(system),
        messages=Counter(line["status"] for line in watch.account.taken.values())["accepted"],
        outcomes=dict(rows),
        stops=len(watch.account.stops),
        stop_latencies_s=[round(each, 3) for each in watch.account.stopped_within_s],
        holds=watch.holds,
        deaths=system.deaths,
        dead_letters=await watch.dead_letters(),
        at_rest=watch.at_rest,
        looks=watch.looks,
        looks_failed=watch.looks_failed,
        violations=watch.violations,
    )


async def _settled(watch: Watch, working: asyncio.Task[None], say: Callable[[str], None]) -> None:
    """Wait until nothing is under way, at most for SETTLES_WITHIN_S; say what is, at most every TELL_EVERY_S."""
    deadline, quiet, told_at, told = time.monotonic() + SETTLES_WITHIN_S, 0, -TELL_EVERY_S, list[str]()
    while quiet < SETTLED_LOOKS:
        why = await watch.waiting() + ([] if working.done() else ["the load has not ended"])
        quiet = 0 if why else quiet + 1
        now = time.monotonic()
        if why and now > deadline:
            say(f"not at rest: {'; '.join(why)}")
            return
        if why != told and now >= told_at + TELL_EVERY_S:
            say(f"{now - watch.started:>6.0f} s  {'; '.join(why) or 'all has come to rest'}")
            told_at, told = now, why
        await asyncio.sleep(SETTLE_POLL_S)
