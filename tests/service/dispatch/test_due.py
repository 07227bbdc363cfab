"""What is due leaves as what is new does: no more is woken than leaves soon, and nothing while no gateway takes it.
Real Postgres, an operator that keeps who asks waiting, no service around."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from common.contracts import STATES
from common.db.database import Database, fetch_many
from common.kafka.broker import partition_of
from common.law import at_hand_off, load
from dispatch.gate.clearance import Clearance
from dispatch.gateways import HTTP_PROVIDERS, Account, HttpGateway
from dispatch.gateways.pool import Traffic
from dispatch.lane import Due as Kind
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow
from dispatch.projection import store as projection
from dispatch.projection.limits import Limits
from dispatch.sending import store as sending
from dispatch.sending import timers
from dispatch.sending.pipeline import Handoff
from dispatch.sending.timers import Timers
from tests.support.builders import (
    controlled,
    field_keys,
    now,
    opted_in,
    sender_changed,
    subject,
    subject_keys,
)
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.ledger import message
from tests.support.operators.http import TOKEN, Operator, operator

pytestmark = pytest.mark.brokerless

PARTITIONS, EACH = 3, 30
BATCH, SLOTS = 5, 1
PERMIT_S = 0.3
STATUSES = "SELECT status, count(*) FROM message GROUP BY status"
DECIDED = (
    "SELECT partition, decided_at, count(*) FROM message WHERE status = 'sending'"
    " AND NOT message_id = ANY(CAST(:left AS uuid[])) GROUP BY partition, decided_at"
)


@dataclass
class Due:
    """As many messages in each partition, all of them due."""

    database: Database
    operator: Operator
    traffic: Traffic
    handoff: Handoff
    timers: Timers

    async def statuses(self) -> Counter[str]:
        async with self.database.begin() as tx:
            return Counter(dict([tuple(row) for row in await tx.execute(text(STATUSES))]))

    async def decided(self) -> list[Any]:
        """What is in hand and has not left, by partition and by when it was decided last."""
        async with self.database.begin() as tx:
            return list(await tx.execute(text(DECIDED), {"left": [UUID(r) for r in self.operator.references]}))


@pytest.fixture
async def due(postgres: Postgres, unique: str) -> AsyncIterator[Due]:
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"), pool_size=8)
    people = [n for p in range(PARTITIONS) for n in _people_of(p)]
    limits = Limits(max_staleness=timedelta(minutes=10))
    async with operator() as op:
        account = Account("simulator", secret=TOKEN, url=op.url)
        gateway = HttpGateway("simulator", HTTP_PROVIDERS["simulator"], account, timeout_s=60.0)
        gateway.batch = BATCH
        traffic = Traffic([gateway])
        clearance = Clearance(subject_keys, field_keys, traffic, at_hand_off(load("demonstration")), limits, PERMIT_S)
        handoff = Handoff(database, traffic, clearance, SLOTS)
        timers = Timers(
            database, clearance, handoff, batch=500, partitions=range(PARTITIONS), sending_timeout=timedelta(minutes=1)
        )
        async with database.begin() as tx:
            await projection.put_sender(tx, sender_changed())
            await projection.put_control(tx, controlled("running"))
            await projection.put_subjects(tx, [opted_in(n) for n in people])
            for partition in range(PARTITIONS):
                await fetch_many(
                    tx,
                    "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
                    " VALUES ($1, $2, $3, 1, now())",
                    projection.CONSENTS_GROUP,
                    STATES.name,
                    partition,
                )
                await messages.insert_messages(tx, _deferred(partition))
        yield Due(database, op, traffic, handoff, timers)
        await gateway.close()
    await database.close()


def _people_of(partition: int) -> list[int]:
    return [n for n in range(10_000) if partition_of(subject(n), PARTITIONS) == partition][:EACH]


def _deferred(partition: int) -> list[MessageRow]:
    decided: dict[str, Any] = {"partition": partition, "reasons": ("quiet_hours",), "gateway": None}
    at = {name: now() for name in ("due_at", "as_of", "decided_at")}  # they were decided together
    return [message(n, "deferred", **decided, **at) for n in _people_of(partition)]


async def test_of_what_is_due_no_more_is_in_hand_than_leaves_soon_and_what_lapses_is_decided_together(due: Due) -> None:
    """However often their permits lapse while the operator thinks."""
    ahead = due.handoff.in_hand.most
    due.operator.open.clear()
    waking = asyncio.ensure_future(due.timers.wake_marketing())
    seen: set[Any] = set()

    async def again_and_again() -> bool:
        """Each time all that waits of a partition, in one transaction."""
        decided = await due.decided()
        assert sum(many for *_, many in decided) == ahead - BATCH, "all but what the operator has"
        assert len(decided) == 2, "as many partitions as it takes"
        seen.update(decided)
        assert len(seen) > 8
        return True

    await eventually(again_and_again)
    assert await due.statuses() == {"sending": ahead, "deferred": PARTITIONS * EACH - ahead}
    assert due.handoff.in_hand.many == ahead, "each of them once"
    due.operator.open.set()
    assert await waking
    while await due.timers.wake_marketing():
        pass
    assert await due.statuses() == {"accepted": PARTITIONS * EACH}
    assert due.handoff.in_hand.many == 0
    assert len(due.operator.references) == len(set(due.operator.references))


async def test_what_is_due_waits_while_more_is_in_hand_than_leaves_soon_and_goes_on_once_there_is_room(
    due: Due,
) -> None:
    due.operator.open.clear()
    first = asyncio.ensure_future(due.timers.wake_marketing())
    await due.operator.received.wait()
    await eventually(lambda: _holds(due))
    second = asyncio.ensure_future(due.timers.wake_marketing())
    for _ in range(20):
        assert due.handoff.in_hand.is_behind
        await due.statuses()
    assert not second.done()
    assert (await due.statuses())["sending"] == due.handoff.in_hand.many
    due.operator.open.set()
    assert await first
    assert await second


async def test_while_an_operator_takes_longer_than_permits_last_only_what_leaves_next_is_in_hand(due: Due) -> None:
    most, since = due.handoff.in_hand.most, asyncio.get_running_loop().time()
    due.operator.open.clear()
    waking = asyncio.ensure_future(due.timers.wake_marketing())
    await due.operator.received.wait()

    async def permits_have_lapsed() -> bool:
        return asyncio.get_running_loop().time() - since > 2 * PERMIT_S

    await eventually(permits_have_lapsed)
    due.operator.open.set()
    assert await waking
    assert due.handoff.in_hand.most == SLOTS * BATCH < most


async def _holds(due: Due) -> bool:
    return due.handoff.in_hand.is_behind


async def test_what_is_due_is_left_alone_while_every_breaker_is_open(due: Due) -> None:
    """It would be put off again, each time that the rest has ended, with a version and an event of each."""
    due.traffic.pause("simulator", 60.0, told=True)
    assert not await due.timers.wake_marketing()
    async with due.database.begin() as tx:
        assert await tx.scalar(text("SELECT max(version) FROM message")) == 1
        assert not await tx.scalar(text("SELECT count(*) FROM outbox"))


async def test_the_partition_whose_messages_have_waited_longest_is_woken_first(due: Due) -> None:
    async with due.database.begin() as tx:
        await tx.execute(text("UPDATE message SET due_at = due_at - interval '1 minute' WHERE partition = 1"))
        await tx.execute(text("UPDATE message SET due_at = due_at - interval '2 minutes' WHERE partition = 2"))
        assert await sending.due_partitions(tx, range(PARTITIONS), now(), Kind.MARKETING) == [2, 1, 0]


async def test_a_code_waits_for_no_decision_on_another_code(due: Due) -> None:
    """Nor on one of its own partition, while a control of its campaign holds up the other; and no search finds it."""
    first, second, lates = _code(0, campaign_id="held"), _code(1), [_code(0) for _ in range(timers.TOLD_AT_ONCE)]
    clearance, timeout = due.handoff.clearance, timedelta(minutes=1)
    told = Timers(due.database, clearance, due.handoff, batch=500, partitions=(), sending_timeout=timeout)
    stop = asyncio.Event()
    waking = asyncio.ensure_future(told.codes().run(stop))
    await eventually(lambda: _listens(due))
    async with due.database.begin() as controlling:
        await projection.put_control(controlling, controlled("running", campaign_id="held"))
        await _post(due, first)
        await eventually(lambda: _waits_for_locks(due, 1))
        for row in (*lates, second):
            await _post(due, row)
            await eventually(partial(_has_freed_its_slot, due, row))
        assert not await _has_left(due, first)
    await eventually(partial(_has_left, due, first))
    stop.set()
    await waking
    assert sorted(due.operator.references) == sorted(str(row.message_id) for row in (first, second, *lates))


async def test_a_code_waits_for_no_opt_out_and_a_question_waits(due: Due) -> None:
    """Neither a code that a NOTIFY names nor, while the question waits, one that a search finds."""
    told, found, question, stop = _code(0), _code(0, due_at=now() + timedelta(hours=1)), _question(0), asyncio.Event()
    waking = asyncio.ensure_future(due.timers.codes().run(stop))
    async with due.database.begin() as applying:
        await messages.lock_decisions_out(applying, 0)
        for row in (question, told, found):
            await _post(due, row)
        await eventually(partial(_has_left, due, told))
        await eventually(lambda: _waits_for_locks(due, 1))
        async with due.database.begin() as tx:
            await tx.execute(text("UPDATE message SET due_at = now() WHERE message_id = :id"), {"id": found.message_id})
        await eventually(partial(_has_left, due, found))
        assert not await _has_left(due, question)
    await eventually(partial(_has_left, due, question))
    stop.set()
    await waking


def _code(partition: int, **more: Any) -> MessageRow:
    row: dict[str, Any] = {"decided_at": None, "as_of": None, "gateway": None, "due_at": now(), "version": 0}
    row |= {"partition": partition, "category": "transactional", "campaign_id": None}
    return message(_people_of(partition)[0], "pending", **row | more)


def _question(partition: int) -> MessageRow:
    return _code(partition, category="service")


async def _listens(due: Due) -> bool:
    listens = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    return bool(await due.database.read(listens))


async def _post(due: Due, row: MessageRow) -> None:
    async with due.database.begin() as tx:
        await messages.insert_messages(tx, [row])


async def _waits_for_locks(due: Due, many: int) -> bool:
    [(waiting,)] = await due.database.read("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return bool(waiting == many)


async def _has_left(due: Due, row: MessageRow) -> bool:
    return str(row.message_id) in due.operator.references


async def _has_freed_its_slot(due: Due, row: MessageRow) -> bool:
    return await _has_left(due, row) and all(task.done() for task in due.handoff.codes.going)
