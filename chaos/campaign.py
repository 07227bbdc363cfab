"""Run a large campaign on three brokers, and kill a broker in each phase."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import asyncpg

from chaos.load import Load
from chaos.report import Report, Suffered
from chaos.run import conclude, loaded, suffer, write
from chaos.schedule import Planned
from chaos.system import System, standing
from chaos.watching import Watch

BROKERS = 3
RATE = 1000.0  # messages a second
DOWN_S = 8.0
POLL_S = 0.1
CALL_WITHIN_S = 300.0  # a file of so many people

EXPANDING = "SELECT count(*) FROM campaign WHERE status = 'running' AND NOT expanded AND cursor <> ''"

Phase = Callable[[System, Watch], Awaitable[bool]]


async def _importing(system: System, watch: Watch) -> bool:
    return [one.status for one in watch.load.rounds] == ["importing"]


async def _expanding(system: System, watch: Watch) -> bool:
    sql = await asyncpg.connect(system.databases["campaign"])
    try:
        return bool(await sql.fetchval(EXPANDING)) or len(watch.account.taken) > 0  # or expanded between two polls
    finally:
        await sql.close()


def _sent(share: float) -> Phase:
    async def reached(system: System, watch: Watch) -> bool:
        return len(watch.account.taken) >= share * watch.load.people

    return reached


async def _stopping(system: System, watch: Watch) -> bool:
    return len(watch.account.stops) > len(watch.load.rounds[0].stopping) / 2


PHASES: dict[str, Phase] = {
    "importing": _importing,
    "expanding": _expanding,
    "sending": _sent(0.3),
    "STOPs arriving": _stopping,
    "finishing": _sent(0.9),
}


async def _until(reached: Phase, system: System, watch: Watch) -> None:
    while not await reached(system, watch):  # noqa: ASYNC110  (a ledger has no event to wait for)
        await asyncio.sleep(POLL_S)


async def run(folder: Path, *, seed: int, messages: int, say: Callable[[str], None] = print) -> Report:
    """Run the campaign; write the reports to `folder`. Raises DidNotStart."""
    suffered: list[Suffered] = []
    async with standing(folder, brokers=BROKERS, rate=RATE, say=say) as system:
        lasts_s = messages / RATE
        make = partial(Load, seed=seed, people=messages, lasts_s=lasts_s, among=messages, most=1)
        async with loaded(system, make, say, at_once=1, call_within_s=CALL_WITHIN_S) as (_, watch):
            for number, (phase, reached) in enumerate(PHASES.items(), start=1):
                await _until(reached, system, watch)
                broker = f"broker-{(number - 1) % BROKERS + 1}"
                say(f"{phase}: {len(watch.account.taken)} sent, {len(watch.account.stops)} STOPs; kill -9 of {broker}")
                one = await suffer(system, Planned(number, "kill", broker, 0.0, DOWN_S, 0), watch)
                one.kind = f"kill, {phase}"
                suffered.append(one)
        report = await conclude(system, watch, suffered, seed=seed)
    write(report, folder)
    return report
