"""A person's messages, found by the days of the ledger's index: all of them, and without reading the rest."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from common.db.database import Database, fetch_many, plan_now
from common.privacy.erasing import Whom
from common.privacy.sent_before import GOOD_FOR, Before
from dispatch.accepting import store as accepting
from dispatch.gate import store as gate
from dispatch.lane import Lane
from dispatch.messages import lists, rights_store, waking_store
from dispatch.messages import store as messages
from dispatch.messages.by_day import of_people
from dispatch.messages.row import MessageRow
from dispatch.messages.status import Status
from dispatch.privacy import store as privacy
from dispatch.projection import store as projection
from tests.support.builders import SENDER, now, sender_changed, subject
from tests.support.ledger import message
from tests.support.running import ORGANISATION

pytestmark = pytest.mark.brokerless

KEPT_AFTER = 5  # executions of a prepared statement
LONG_AGO, AHEAD = datetime(1970, 1, 2, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)  # by a wrong clock
NIGHT = now().replace(hour=0, minute=0, second=0, microsecond=0)
DAY, MOMENT = timedelta(days=1), timedelta(milliseconds=50)
DAYS, A_DAY = 60, 300
FEW = 5 * DAYS  # rows: one of each day for each statement, and those of the person
READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'message'"
OF_OTHERS = """
INSERT INTO message SELECT (jsonb_populate_record(m, jsonb_build_object('message_id', gen_random_uuid(),
    'subject_id', gen_random_uuid(), 'requested_at', m.requested_at - d * interval '1 day',
    'decided_at', m.requested_at - d * interval '1 day'))).*
FROM message AS m, generate_series(1, $2) AS d, generate_series(1, $3) WHERE m.message_id = $1
"""
Reader = Callable[[Any], Awaitable[object]]


def of(n: int, requested_at: datetime, decided_at: datetime | None, **more: Any) -> MessageRow:
    row = message(n, "accepted", message_id=uuid4(), requested_at=requested_at, decided_at=decided_at)
    if decided_at is None:
        row = replace(row, status=Status.PENDING, due_at=requested_at)
    return replace(row, **more)


async def store(database: Database, *rows: MessageRow) -> None:
    async with database.begin() as tx:
        for row in rows:
            await messages.insert_messages(tx, [row])


async def read(database: Database, condition: str, *values: object) -> set[object]:
    async with database.begin() as tx:
        await plan_now(tx)
        rows = await fetch_many(tx, f"SELECT m.message_id FROM message AS m WHERE {condition}", *values)
    return {message_id for (message_id,) in rows}


async def test_every_message_of_a_person_is_found_whatever_its_days(database: Database) -> None:
    times = [LONG_AGO, NIGHT - 400 * DAY, NIGHT - DAY, NIGHT - MOMENT, NIGHT, NIGHT + DAY, AHEAD]
    rows = [of(n, at, decided) for n in (1, 2, 3) for at in times for decided in (None, at, at + 3 * DAY)]
    await store(database, *rows)
    for people in ([], [1], [2, 3, 3], [4]):
        wanted = {row.message_id for row in rows if row.subject_id in map(subject, people)}
        assert await read(database, of_people("$1::text[]"), list(map(subject, people))) == wanted


@pytest.mark.parametrize("since", [NIGHT, NIGHT + MOMENT, NIGHT - MOMENT])
async def test_since_an_instant_every_message_requested_or_handed_off_from_then_on_is_found(
    database: Database, since: datetime
) -> None:
    """Clocks of two hosts differ, and a hand-off begins a moment after its decision."""
    row = of(1, since, since - 2 * MOMENT)
    left = of(1, since - 40 * DAY, since - 2 * MOMENT, handed_off_at=since)
    old = of(1, since - 40 * DAY, since - 40 * DAY)
    await store(database, row, left, old)
    found = await read(database, of_people("$1::text[]", since="$2"), [subject(1)], since)
    assert found == {row.message_id, left.message_id}


async def test_two_people_with_one_hash_have_their_own_messages(database: Database) -> None:
    async with database.begin() as tx:
        [(one, other)] = await fetch_many(
            tx,
            "SELECT min(n)::text, max(n)::text FROM generate_series(1, $1) AS n GROUP BY hashtext(n::text)"
            " HAVING count(*) > 1 LIMIT 1",
            300_000,
        )
    rows = {who: of(1, NIGHT, NIGHT, subject_id=who) for who in (one, other)}
    await store(database, *rows.values())
    for who, row in rows.items():
        assert await read(database, of_people("$1::text[]"), [who]) == {row.message_id}


def _readers(ids: Sequence[str]) -> Mapping[str, Reader]:
    texts = [Before("mo-1", ids[0], "36111", now(), now() + GOOD_FOR)]
    asked = {Whom(each, None): now() for each in ids}
    since = now() - 7 * DAY
    return {
        "held": lambda tx: waking_store.wake_held(tx, ids, now() - 90 * DAY),
        "cap": lambda tx: _capped(tx, ids, since),
        "numbers": lambda tx: _limited(tx, ids),
        "copied": lambda tx: privacy.messages_of(tx, ids[0], SENDER),
        "to erase": lambda tx: _erased(tx, asked),
        "listed": lambda tx: lists.of_person(tx, ids[0], [SENDER], None, 10),
        "before a text": lambda tx: lists.before(tx, texts, 3),
    }


async def _capped(tx: Any, ids: Sequence[str], since: datetime) -> None:
    await gate.lock_counts(tx, 0)
    await gate.recent_marketing(tx, ids, [], since)


async def _limited(tx: Any, ids: Sequence[str]) -> None:
    await accepting.lock_counts(tx, ORGANISATION, ids)
    await accepting.had(tx, ORGANISATION, ids, now() - DAY / 24, now() - DAY)


async def _erased(tx: Any, asked: Mapping[Whom, datetime]) -> None:
    await messages.lock_partition(tx, 0, Lane.MARKETING, planned_now=True)
    await privacy.lock_what_goes(tx, asked)
    await rights_store.deny_waiting(tx, asked)
    await rights_store.empty_messages(tx, asked)


async def test_no_reader_of_a_persons_messages_reads_those_of_others(database: Database) -> None:
    """By a connection that has prepared the statements when the ledger was empty."""
    [one, *_] = rows = [of(1, now() - days * DAY, now() - days * DAY) for days in (0, 1, 5, 30, 59)]
    async with database.begin() as tx:
        await fetch_many(tx, "SELECT 1")
        await projection.put_sender(tx, sender_changed())
        await tx.exec_driver_sql("ALTER TABLE message SET (autovacuum_enabled = off)")
    alone = Database(str(database.engine.url.render_as_string(hide_password=False)), pool_size=1)
    readers = _readers([subject(1), subject(9)])
    for _ in range(2 * KEPT_AFTER):
        for reader in readers.values():
            async with alone.begin() as tx:
                await reader(tx)
    await store(database, *rows)
    async with database.begin() as tx:
        await fetch_many(tx, f"{OF_OTHERS} RETURNING 1", one.message_id, DAYS, A_DAY)

    async def told() -> int:
        for each in (alone, database):
            async with each.begin() as tx:
                await fetch_many(tx, "SELECT pg_stat_force_next_flush()")
        async with database.begin() as tx:
            [(rows_read,)] = await fetch_many(tx, READ)
        return int(rows_read)

    many: dict[str, int] = {}
    for name, reader in readers.items():
        before = await told()
        async with alone.begin() as tx:
            await reader(tx)
        many[name] = await told() - before
    await alone.close()
    assert {name: rows_read for name, rows_read in many.items() if not 0 < rows_read <= FEW} == {}
