"""What dispatch knows of consents is made anew while the old one serves: nothing stops, no STOP is lost, and a run that
dies is gone on with."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.contracts import STATES
from common.db.database import Database
from common.kafka.replaying import Replaying
from common.settings import ServiceSettings
from dispatch.projection import rebuild as rebuilding
from dispatch.projection import store as projection
from dispatch.projection.rebuild import NotNow, Rebuilding
from tests.service.dispatch.test_dispatch import Dispatch, dispatch
from tests.support.builders import opted_in, opted_out, requested, subject
from tests.support.eventually import eventually
from tests.support.operators.http import operator
from tests.support.publish import publish_raw
from tests.support.running import Surroundings

PEOPLE = range(1, 9)
BROKEN = [("ce_type", b"consent.state_changed.v1")]
OF_TOMORROW = [("ce_type", b"consent.state_changed.v9")]


async def rows(surroundings: Surroundings, table: str = "subject") -> dict[str, tuple[int, str, bool]]:
    async with surroundings.sql("dispatch") as sql:
        found = await sql.fetch(
            f"SELECT subject_id, version, coalesce(consents->0->>'state', ''), unreadable FROM {table}"
        )
    return {row[0]: tuple(row[1:]) for row in found}


async def rebuild(surroundings: Surroundings) -> list[str]:
    said: list[str] = []

    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    database = Database(settings.database_url, pool_size=2)
    try:
        await Rebuilding(database, settings, said.append).run()
    finally:
        await database.close()
    return said


async def projected(d: Dispatch) -> None:
    """All that was published is applied."""

    async def all_applied() -> bool:
        found = await rows(d.surroundings)
        assert len(found) == len(PEOPLE) + 1
        assert found[subject(3)][0] == 2
        assert found[subject(4)] == (2, "opted_in", False)
        assert found[subject(9)][2]
        return True

    await eventually(all_applied)


async def some_history(d: Dispatch) -> dict[str, tuple[int, str, bool]]:
    await d.publish_states(*(opted_in(n) for n in (*PEOPLE, 9)))
    for n, kind in ((4, BROKEN), (9, OF_TOMORROW)):  # what comes of the first afterwards can be read again
        await publish_raw(d.surroundings, STATES, subject(n).encode(), b"{broken", kind)
    await d.publish_states(opted_out(3, version=2), opted_in(4, version=2), opted_in(4, version=1))
    await projected(d)
    return await rows(d.surroundings)


async def test_what_was_broken_is_mended_while_messages_go_and_people_opt_out(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        truth = await some_history(d)
        async with surroundings.sql("dispatch") as sql:
            await sql.execute("DELETE FROM subject WHERE subject_id = $1", subject(1))
            await sql.execute("UPDATE subject SET consents = '[]', unreadable = true WHERE subject_id = $1", subject(2))
        going = asyncio.create_task(rebuild(surroundings))
        await d.request(*(requested(n) for n in (3, 5, 6, 7)))
        await d.publish_states(opted_out(8, version=2, reference="simulator/main/mo-8"))
        await going
        await d.publish_states(opted_out(7, version=2, reference="simulator/main/mo-7"))
        wanted = [requested(1), requested(2), requested(7), requested(8)]

        async def all_enforced() -> bool:
            found = sorted(str(e["reference"]) for e in await d.enforcements() if e["enforced_at"])
            assert len(found) == len(set(found)) == 3, found
            return True

        await eventually(all_enforced)
        await d.request(*wanted)
        for message, status in zip(wanted, ("accepted", "accepted", "denied", "denied"), strict=True):
            await eventually(d.becomes(message.message_id, status))
        assert await rows(surroundings) == truth | {
            subject(7): (2, "opted_out", False),
            subject(8): (2, "opted_out", False),
        }
        assert await rows(surroundings, "subject_next") == {}


async def test_an_opt_out_that_comes_as_the_generations_change_is_enforced(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the lock, finds the new generation, and is new to it."""
    async with operator() as op, dispatch(surroundings, op) as d:
        await some_history(d)
        change = projection.change_generations

        async def while_it_waits(tx: Any, *args: Any) -> bool:
            await d.publish_states(opted_out(5, version=2, reference="simulator/main/mo-5"))

            async def waits() -> bool:
                async with surroundings.sql("dispatch") as sql:
                    return bool(await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

            await eventually(waits)
            return await change(tx, *args)

        monkeypatch.setattr(projection, "change_generations", while_it_waits)
        await rebuild(surroundings)

        async def enforced() -> bool:
            assert "simulator/main/mo-5" in {e["reference"] for e in await d.enforcements() if e["enforced_at"]}
            return True

        await eventually(enforced)
        assert (await rows(surroundings))[subject(5)] == (2, "opted_out", False)


async def test_a_rebuild_that_died_is_gone_on_with_and_two_are_not_at_it(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        truth = await some_history(d)
        monkeypatch.setattr(rebuilding, "AT_ONCE", 2)
        read = Replaying.read
        batches = 0

        async def dies(self: Replaying, *args: Any) -> Any:
            nonlocal batches
            async for batch in read(self, *args):
                batches += 1
                yield batch
                if batches == 2:
                    with pytest.raises(NotNow):
                        await rebuild(surroundings)
                    raise ConnectionError

        monkeypatch.setattr(Replaying, "read", dies)
        with pytest.raises(ConnectionError):
            await rebuild(surroundings)
        async with surroundings.sql("dispatch") as sql:
            left = await sql.fetchval("SELECT sum(next_offset) FROM rebuild")
        assert left > 0
        assert await rows(surroundings) == truth
        await rebuild(surroundings)
        assert await rows(surroundings) == truth


async def test_what_the_log_does_not_hold_any_more_is_not_forgotten(surroundings: Surroundings) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        truth = await some_history(d)
        async with surroundings.sql("dispatch") as sql:
            await sql.execute("UPDATE subject SET version = 7, erased = true WHERE subject_id = $1", subject(6))
        said = await rebuild(surroundings)
        assert "1 people keep their state: newer than the log's" in said
        assert await rows(surroundings) == truth | {subject(6): (7, "opted_in", False)}


@asynccontextmanager
async def lost(_: Rebuilding) -> AsyncIterator[None]:
    """The lock of a connection that broke while it was idle."""
    yield


@pytest.mark.any_broker
@pytest.mark.parametrize(
    "last", [pytest.param(name, id=name) for name in ("rebuild_until", "projected_up_to", "lock_generation")]
)
async def test_of_two_whose_lock_was_lost_the_second_puts_nothing_into_service(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Wherever the first has overtaken it: what it left behind is an empty table."""
    async with operator() as op, dispatch(surroundings, op) as d:
        truth = await some_history(d)
        monkeypatch.setattr(Rebuilding, "_alone", lost)
        real = getattr(projection, last)

        async def overtaken(*args: Any) -> Any:
            monkeypatch.setattr(projection, last, real)
            await rebuild(surroundings)
            return await real(*args)

        monkeypatch.setattr(projection, last, overtaken)
        with pytest.raises(NotNow):
            await rebuild(surroundings)
        assert await rows(surroundings) == truth


async def test_who_is_overtaken_as_it_reads_what_is_left_says_so(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has yet to note, of a snapshot, is gone by then."""
    async with operator() as op, dispatch(surroundings, op) as d:
        truth = await some_history(d)
        monkeypatch.setattr(Rebuilding, "_alone", lost)
        real = projection.projected_up_to
        calls = itertools.count(1)

        async def overtaken(*args: Any) -> Any:
            if next(calls) != 3:
                return await real(*args)
            await d.publish_states(opted_in(12))

            async def applied() -> bool:
                return subject(12) in await rows(surroundings)

            await eventually(applied)
            until = await real(*args)
            monkeypatch.setattr(projection, "projected_up_to", real)
            await rebuild(surroundings)
            return until

        monkeypatch.setattr(projection, "projected_up_to", overtaken)
        with pytest.raises(NotNow, match="another has gone on"):
            await rebuild(surroundings)
        assert await rows(surroundings) == truth | {subject(12): (1, "opted_in", False)}


@pytest.mark.any_broker
@pytest.mark.parametrize(("step", "nth"), [("projected_up_to", 3), ("keep_newer", 1)])
async def test_who_can_be_read_again_is_not_taken_for_unreadable(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, step: str, nth: int
) -> None:
    """Published as what is newer than the log is looked for: their newest state goes over after what came before it."""
    async with operator() as op, dispatch(surroundings, op) as d:
        truth = await some_history(d)
        real = getattr(projection, step)
        calls = itertools.count(1)

        async def meanwhile(*args: Any) -> Any:
            if next(calls) == nth:
                await publish_raw(surroundings, STATES, subject(5).encode(), b"{broken", BROKEN)
                await d.publish_states(opted_in(5, version=2))

                async def applied() -> bool:
                    assert (await rows(surroundings))[subject(5)] == (2, "opted_in", False)
                    return True

                await eventually(applied)
            return await real(*args)

        monkeypatch.setattr(projection, step, meanwhile)
        await rebuild(surroundings)
        assert next(calls) > nth
        assert await rows(surroundings) == truth | {subject(5): (2, "opted_in", False)}
