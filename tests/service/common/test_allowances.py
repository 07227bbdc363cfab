"""A limit holds over any number of processes and restarts: several `Allowances` on one real database."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from common.db import allowances
from common.db.allowances import Allowances, Charge
from common.db.database import Database, once_undone
from common.limits import Quota, month_of
from common.privacy.pruning import Pruner
from dispatch.privacy.pruning import Periods, policy
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres

pytestmark = pytest.mark.brokerless

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


def quota(limit: int, *, day: int = 0, name: str = "messages_per_day", holder: str = "lune") -> Quota:
    since = DAY + timedelta(days=day)
    return Quota(name, holder, limit, since, since + timedelta(days=1))


class Processes:
    """Processes that share a database. A crashed one forgets its leases."""

    def __init__(self, url: str) -> None:
        self._url = url

    def one(self) -> Allowances:
        return Allowances(Database(self._url, pool_size=1))


@pytest.fixture
async def processes(postgres: Postgres, unique: str) -> Processes:
    return Processes(await postgres.clone("dispatch", f"dispatch_{unique}"))


async def use_all(process: Allowances, limit: Quota, most: int = 10**9, many: int = 1) -> int:
    used = 0
    while used < most and await process.use([Charge(limit, many)]) is None:
        used += many
    return used


@pytest.mark.parametrize("seed", range(3))
async def test_processes_that_use_return_crash_and_undo_in_any_order_never_exceed_the_limit(
    processes: Processes, seed: int
) -> None:
    chance = random.Random(seed)
    days, limit = [quota(500), quota(500, day=1)], 500
    running = [processes.one() for _ in range(3)]
    used = {each.since: 0 for each in days}
    crashed = 0

    async def act(place: int, day: Quota) -> None:
        nonlocal crashed
        charge = [Charge(day, chance.choice((1, 1, 2, 40)))]
        process = running[place]
        match chance.choice(("use", "use", "use", "undo", "return", "crash")):
            case "use":
                if await process.use(charge) is None:
                    used[day.since] += charge[0].many
            case "undo":
                if await process.use(charge) is None:
                    await asyncio.sleep(0)
                    process.give_back(charge)
            case "return":
                await process.return_idle(DAY)
            case "crash":
                crashed += 1
                await process.database.close()
                running[place] = processes.one()

    for turn in range(80):
        await asyncio.gather(*(act(place, days[turn // 40]) for place in range(3)))
        assert all(many <= limit for many in used.values()), used
    rest = await use_all(running[0], days[1])
    for _ in range(2):  # an idle lease goes back within two looks
        for process in running:
            await process.return_idle(DAY)
    last = processes.one()
    rest += await use_all(last, days[1])
    total = used[days[1].since] + rest
    assert limit - crashed * (limit // allowances.PART_OF_LONGER + 40) <= total <= limit
    for process in (*running, last):
        await process.close()


async def test_a_use_out_of_a_lease_is_no_statement_and_a_planned_stop_loses_nothing(processes: Processes) -> None:
    first = processes.one()
    assert await use_all(first, quota(10_000), most=50) == 50
    await first.close()
    second = processes.one()
    asked = []
    run = second.database.run

    async def counted(sql: str, *values: object) -> object:
        asked.append(sql)
        return await run(sql, *values)

    second.database.run = counted  # type: ignore[method-assign,assignment]
    assert await use_all(second, quota(10_000), most=100) == 100
    assert len(asked) <= 100 // allowances.BATCHES_AHEAD + 1
    assert await use_all(second, quota(10_000)) == 10_000 - 150
    await second.close()


async def test_a_limit_refuses_all_charges_or_none_and_names_the_exhausted_one(processes: Processes) -> None:
    process = processes.one()
    whole, own = quota(10), quota(3, name="token_messages_per_day", holder="t")
    together = [Charge(own, 1), Charge(whole, 1)]
    assert [await process.use(together) for _ in range(4)] == [None, None, None, own]
    assert await use_all(process, whole) == 7, "a refused message is charged to no limit"
    await process.close()


async def test_a_failed_transaction_gives_back_and_a_failed_commit_does_not(processes: Processes) -> None:
    process = processes.one()
    database = Database(processes._url, pool_size=1)
    charge = [Charge(quota(1), 1)]

    async def work(*statements: str) -> None:
        async with database.begin() as tx:
            once_undone(tx, lambda: process.give_back(charge))
            for statement in statements:
                await tx.exec_driver_sql(statement)

    async def fail(*statements: str) -> None:
        assert await process.use(charge) is None
        with pytest.raises(DBAPIError):
            await work(*statements)

    await fail("SELECT 1 / 0")
    await fail(  # at the commit: another failure there may hide a success
        "CREATE TEMP TABLE twice (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED)", "INSERT INTO twice VALUES (1), (1)"
    )
    assert await process.use(charge) == quota(1)
    await database.close()
    await process.close()


async def test_a_clock_that_runs_ahead_opens_no_second_window(processes: Processes) -> None:
    ahead, behind = processes.one(), processes.one()
    assert await use_all(ahead, quota(100, day=1), most=60) == 60
    assert await use_all(behind, quota(100)) + await use_all(ahead, quota(100, day=1)) == 40
    await ahead.close()
    await behind.close()


async def test_a_clock_that_was_far_ahead_once_locks_out_no_one_and_gets_no_day_of_its_own(
    processes: Processes,
) -> None:
    right, ahead = processes.one(), processes.one()
    assert await use_all(ahead, quota(100, day=400), most=10) == 10
    assert await use_all(right, quota(100, day=1), most=60) == 60
    rest = await use_all(ahead, quota(100, day=400)) + await use_all(right, quota(100, day=1))
    assert rest == 30, "both share a day"
    late = processes.one()
    await late.database.run("UPDATE allowance SET since = now() + interval '1 year', taken = 100")
    assert await use_all(late, quota(100, day=1)) == 100
    for process in (ahead, right, late):
        await process.close()


async def test_a_charge_comes_back_though_the_row_is_in_a_newer_window_than_this_clock(processes: Processes) -> None:
    ahead, behind = processes.one(), processes.one()
    assert await use_all(ahead, quota(100, day=1), most=60) == 60
    charge = [Charge(quota(100), 10)]
    assert await behind.use(charge) is None
    behind.give_back(charge)
    assert await use_all(behind, quota(100)) + await use_all(ahead, quota(100, day=1)) == 40
    await ahead.close()
    await behind.close()


async def test_a_caller_waits_only_so_long_for_a_lease_and_a_late_lease_is_kept(processes: Processes) -> None:
    process, other = processes.one(), Database(processes._url, pool_size=1)
    assert await use_all(process, quota(50), most=10) == 10
    charge = [Charge(quota(50), 20)]
    async with other.begin() as tx:
        await tx.exec_driver_sql("SELECT 1 FROM allowance FOR UPDATE")
        assert not await process.stock_within(charge, 0.1)
        assert process.take(charge) == quota(50)

    async def taken() -> bool:
        return process.take(charge) is None

    await eventually(taken)
    assert await use_all(process, quota(50)) == 20
    await other.close()
    await process.close()


async def test_a_lease_taken_while_idle_leases_go_back_is_kept(processes: Processes) -> None:
    process = processes.one()
    hour = timedelta(hours=1)
    first, second = (Quota("requests_per_second", "lune", 40, at, at + allowances.SHORT) for at in (DAY, DAY + hour))
    for each in (quota(10_000), first):
        assert await process.use([Charge(each, 1)]) is None
    await process.return_idle(DAY)
    run = process.database.run

    async def meanwhile(sql: str, *values: object) -> object:
        process.database.run = run  # type: ignore[method-assign]
        assert await process.use([Charge(second, 1)]) is None
        return await run(sql, *values)

    process.database.run = meanwhile  # type: ignore[method-assign,assignment]
    await process.return_idle(DAY + hour)
    assert process.database.run == run, "a lease went back"
    assert process.take([Charge(second, 1)]) is None
    await process.close()


async def test_a_count_of_a_window_long_past_is_pruned_and_the_month_s_stays(processes: Processes) -> None:
    process, today = processes.one(), datetime.now(UTC)
    month = Quota("spend_per_month", "lune", 100, *month_of(today))
    past = Quota("token_requests_per_second", "a-token-of-before", 5, today - timedelta(days=41), today)
    assert await process.use([Charge(month, 1)]) is None
    assert await process.use([Charge(past, 1)]) is None
    await Pruner(process.database, policy(Periods())).prune()
    kept = await process.database.run("SELECT name, taken FROM allowance")
    assert [tuple(row) for row in kept] == [("spend_per_month", 1)]
    await process.close()
