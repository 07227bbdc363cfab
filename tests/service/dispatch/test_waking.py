"""What a pause held is woken once its campaign goes on: page by page, nothing left behind, and nobody in the way."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database, fetch_many
from common.kafka.subscription import Received
from dispatch.gate import store as gate
from dispatch.lane import Due, Lane
from dispatch.messages import store as messages
from dispatch.messages import waking_store
from dispatch.messages.row import MessageRow
from dispatch.projection import apply as projection
from dispatch.sending import store as sending
from dispatch.sending import timers
from dispatch.sending.timers import Timers
from tests.support.builders import controlled, now
from tests.support.eventually import eventually
from tests.support.ledger import message

pytestmark = pytest.mark.brokerless

LATER = timedelta(hours=1)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "WOKEN_AT_ONCE", 2)


def _timers(database: Database) -> Timers:
    nobody: Any = None  # who wakes asks no gate and no gateway
    return Timers(database, nobody, nobody, batch=10, partitions=range(3), sending_timeout=timedelta(0))


def _waiting(n: int, *reasons: str) -> MessageRow:
    return message(n, "deferred", reasons=reasons, due_at=now() + LATER, gateway=None)


async def _store(database: Database, *rows: MessageRow) -> None:
    async with database.begin() as tx:
        for row in rows:
            await messages.insert_messages(tx, [row])


async def _control(database: Database, *events: Any) -> None:
    async with database.begin() as tx:
        batch: Any = [Received(event, event.key, 0, 0, now(), None) for event in events]
        await projection.apply_controls(tx, batch)


async def _controls(tx: AsyncConnection, *campaign_ids: str) -> dict[str, Any]:
    """As a decision reads them."""
    await gate.lock(tx, 0, None, campaign_ids)
    return dict((await gate.knowledge(tx, 0, [], campaign_ids)).controls)


async def _due(database: Database) -> set[Any]:
    async with database.begin() as tx:
        return {row[0] for row in await fetch_many(tx, "SELECT message_id FROM message WHERE due_at <= now()")}


async def _wake_all(database: Database) -> int:
    """How often there was something."""
    looks = 0
    while await _timers(database).wake_controlled():  # each time another process
        looks += 1
    return looks


async def _to_wake(database: Database) -> int:
    async with database.begin() as tx:
        return len(await sending.campaigns_to_wake(tx))


def _done_or_waiting(database: Database, *tasks: asyncio.Task[Any]) -> Callable[[], Any]:
    """Each has ended, or waits for a lock."""

    async def look() -> bool:
        async with database.begin() as tx:
            waiting = await tx.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock'"
                )
            )
        return bool(waiting >= sum(not task.done() for task in tasks))

    return look


async def test_a_resume_and_a_decision_on_what_it_wakes_do_not_wait_for_each_other(database: Database) -> None:
    """Due, so a worker has claimed it, and then asks how its campaign stands; in between comes the resume."""
    waiting = replace(_waiting(1, "campaign_paused"), due_at=now())
    await _control(database, controlled("paused", 2))
    await _store(database, waiting)
    async with database.begin() as deciding:
        await messages.lock_partition(deciding, waiting.partition, Lane.MARKETING)
        assert await sending.claim_due(deciding, waiting.partition, now(), 10, Due.MARKETING)
        resuming = asyncio.create_task(_control(database, controlled("running", 3)))
        await eventually(_done_or_waiting(database, resuming))
        assert await _controls(deciding, "c1") == {"c1": "running"}
    await resuming


async def test_what_is_decided_while_its_campaign_goes_on_is_woken(database: Database) -> None:
    """On what was so before: the resume waits for the decision, so that whoever wakes finds what it deferred."""
    await _control(database, controlled("paused", 2))
    waiting = _waiting(1, "campaign_paused")
    async with database.begin() as deciding:
        assert await _controls(deciding, "c1") == {"c1": "paused"}
        await messages.insert_messages(deciding, [waiting])
        resuming = asyncio.create_task(_control(database, controlled("running", 3)))
        await eventually(_done_or_waiting(database, resuming))
        await _wake_all(database)
    await resuming
    await _wake_all(database)
    assert await _due(database) == {waiting.message_id}
    assert await _to_wake(database) == 0


async def test_a_pause_waits_for_who_is_deciding_and_for_nobody_who_comes_after(database: Database) -> None:
    """Else it waits for as long as decisions of its campaign overlap, which those of several workers do without end."""
    await _control(database, controlled("running", 2))

    async def decide() -> dict[str, Any]:
        async with database.begin() as tx:
            return await _controls(tx, "c1")

    async with database.begin() as deciding:
        assert await _controls(deciding, "c1") == {"c1": "running"}
        pausing = asyncio.create_task(_control(database, controlled("paused", 3)))
        await eventually(_done_or_waiting(database, pausing))
        after = asyncio.create_task(decide())
        await eventually(_done_or_waiting(database, pausing, after))
        assert not pausing.done()
        assert not after.done()
    await pausing
    assert await after == {"c1": "paused"}, "what it waited for"


async def test_the_first_control_waits_for_who_knew_of_none(database: Database) -> None:
    waiting = _waiting(1, "campaign_unknown")
    async with database.begin() as deciding:
        assert await _controls(deciding, "c1") == {}
        starting = asyncio.create_task(_control(database, controlled("running", 1)))
        await eventually(_done_or_waiting(database, starting))
        assert not starting.done()
        await messages.insert_messages(deciding, [waiting])
    await starting
    await _wake_all(database)
    assert await _due(database) == {waiting.message_id}


async def test_controls_that_come_together_are_locked_as_decisions_lock_them(database: Database) -> None:
    await _control(
        database, controlled("paused", 2, "c1"), controlled("paused", 2, "c2"), controlled("paused", 2, "c3")
    )
    both = controlled("running", 3, "c2"), controlled("running", 3, "c1")
    async with database.begin() as deciding, database.begin() as another:
        await _controls(deciding, "c1")
        resuming = asyncio.create_task(_control(database, *both))
        await eventually(_done_or_waiting(database, resuming))
        assert resuming.done() is False
        async with asyncio.timeout(30):
            assert await _controls(another, "c2") == {"c2": "paused"}, "waits for nobody"
    await resuming


async def test_of_a_campaign_that_goes_on_only_what_waited_for_that_is_woken(database: Database) -> None:
    paused, unknown = _waiting(1, "campaign_paused", "quiet_hours"), _waiting(2, "campaign_unknown")
    night, others = _waiting(3, "quiet_hours"), replace(_waiting(4, "campaign_paused"), campaign_id="c2")
    await _control(database, controlled("paused", 2), controlled("paused", 2, "c2"))
    await _store(database, paused, unknown, night, others)
    assert await _wake_all(database) == 0, "none goes on"
    await _control(database, controlled("running", 3))
    await _wake_all(database)
    assert await _due(database) == {paused.message_id, unknown.message_id}
    await _control(database, controlled("cancelled", 4))
    await _wake_all(database)
    assert await _due(database) == {row.message_id for row in (paused, unknown, night)}, "nothing waits any more"
    assert await _to_wake(database) == 0


@pytest.mark.usefixtures("pages")
async def test_what_waited_is_woken_in_pages_and_what_a_crash_left_by_whoever_comes_next(database: Database) -> None:
    waiting = [_waiting(n, "campaign_paused") for n in range(5)]
    await _control(database, controlled("paused", 2))
    await _store(database, *waiting)
    await _control(database, controlled("running", 3))
    assert await _timers(database).wake_controlled()
    assert len(await _due(database)) == 2, "a page; and then it dies"
    assert await _wake_all(database) == 2
    assert await _due(database) == {row.message_id for row in waiting}
    assert await _to_wake(database) == 0


@pytest.mark.usefixtures("pages")
async def test_what_somebody_has_locked_is_not_waited_for_and_not_forgotten(database: Database) -> None:
    waiting = [_waiting(n, "campaign_paused") for n in range(2)]
    await _control(database, controlled("paused", 2))
    await _store(database, *waiting)
    await _control(database, controlled("running", 3))
    async with database.begin() as somebody:
        await sending.lock_messages(somebody, [waiting[0].message_id])
        async with asyncio.timeout(30):
            await _wake_all(database)
        assert await _due(database) == {waiting[1].message_id}
        assert await _to_wake(database) == 1
    await _wake_all(database)
    assert await _due(database) == {row.message_id for row in waiting}
    assert await _to_wake(database) == 0


async def test_a_page_reads_what_is_in_it_however_much_has_been_woken_before(database: Database) -> None:
    """Nobody decides meanwhile, so what was woken still waits."""
    row = _waiting(1, "campaign_paused")
    await _control(database, controlled("paused", 2))
    await _store(database, row)
    like = (
        "INSERT INTO message SELECT (jsonb_populate_record(m, jsonb_build_object('message_id', gen_random_uuid()))).*"
        " FROM message AS m, generate_series(1, 5000)"
    )
    async with database.begin() as tx:
        await tx.execute(text(like))
    await _control(database, controlled("running", 3))
    async with database.begin() as tx:
        assert await waking_store.wake_controlled(tx, "c1", 4000, cancelled=False) == 4000
    async with database.begin() as tx:
        # who first comes by marks where they were in the index as left
        assert await waking_store.wake_controlled(tx, "c1", 10, cancelled=False) == 10
    read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'message'"

    async def reads_little() -> bool:
        """Marks last while a snapshot of somebody else, such as autovacuum's, is open: so each try wakes ten more."""
        async with database.begin() as tx:
            before = await tx.scalar(text(read))
            assert await waking_store.wake_controlled(tx, "c1", 10, cancelled=False) == 10
            return bool(await tx.scalar(text(read)) - before < 100)

    await eventually(reads_little)
