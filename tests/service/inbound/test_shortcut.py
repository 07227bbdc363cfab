"""The shortcut keeps what the journal keeps, in one round trip, or keeps nothing and leaves the MOs to the journal."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from common.contracts.inbound import ReceiptState
from common.db.database import Database
from common.privacy import erasing
from common.service import Resources
from common.service import running as opened
from inbound import journal, shortcut
from inbound.journal import Arrival
from inbound.providers import Message, Once, Part, Receipt
from inbound.service import Settings, build
from inbound.store import Origin
from tests.support.builders import erasure_requested, now, number, subject
from tests.support.eventually import eventually
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker

MAIN = Origin("simulator", "main", "messages")
OTHER = Origin("standard", "other", "messages")
DOUBT = "Ne stoppez pas"
TEXTS = ("STOP", "Merci beaucoup", DOUBT, "START", "STOP Acme", "Arrêtez vos SMS")
TABLES = ("callback", "callback_item", "nonce", "outbox", "receipt", "review")
READ = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables WHERE relname IN ('callback_item', 'nonce')"
READ_OF_DLRS = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'receipt'"
KEPT_AFTER = 10  # executions, of which PostgreSQL plans five anew
JOURNALLED = 2_000
MANY = journal.TOGETHER + 20  # DLRs, which go by COPY
OTHERS = """
INSERT INTO callback_item (provider, account, provider_message_id, callback_id, subject_id, intent, said_at)
SELECT 'simulator', 'main', 'start-' || n, id, 'person-' || n, 'start', $1::timestamptz
FROM generate_series(1, $2::int) AS n, LATERAL (SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid) AS id) AS made
"""
NONCES = """
INSERT INTO nonce (provider, account, nonce, content, forget_after)
SELECT 'simulator', 'main', 'other-' || n, '', $1::timestamptz - CASE WHEN n < 9 THEN interval '9 days' ELSE '0' END
FROM generate_series(1, $2::int) AS n
"""


class Journalling:
    """The resources of an inbound-svc without a relay: what is journalled stays in the outbox."""

    def __init__(self, held: Resources[Settings], surroundings: Surroundings) -> None:
        self.held = held
        self.surroundings = surroundings
        self.began = now()

    def arrival(
        self,
        n: int,
        said: str = "STOP",
        *,
        person: int = 1,
        origin: Origin = MAIN,
        nonce: str | None = None,
        part: Part | None = None,
        later: timedelta = timedelta(0),
    ) -> Arrival:
        at = self.began + timedelta(milliseconds=n)
        message = Message(f"mo-{n}", number(person), "36111", said, at + later, part)
        entry = journal.message_entry(self.held, origin, message, at + later)
        once = None if nonce is None else Once(nonce, at + timedelta(days=1))
        return Arrival(origin, [entry], f'{{"n": {n}}}'.encode(), at, once)

    def dlr(
        self, n: int, *told: int, state: ReceiptState = "sent", account: str = "main", nonce: str | None = None
    ) -> Arrival:
        """A callback with DLRs of these messages, else of message `n`."""
        at, origin = self.began + timedelta(milliseconds=n), Origin("simulator", account, "receipts")
        receipts = [Receipt(f"op-{each}", f"{each:032x}", state, None, at) for each in told or (n,)]
        entries = [journal.receipt_entry(self.held, origin, each, at) for each in receipts]
        return Arrival(origin, entries, b"", at, None if nonce is None else Once(nonce, at + timedelta(days=1)))

    async def receipts_shortened(self, *arrivals: Arrival) -> list[journal.Kept] | None:
        return await shortcut.write_receipts(self.held, arrivals)

    async def shortened(self, *arrivals: Arrival) -> list[journal.Kept] | None:
        return await shortcut.write(self.held, arrivals)

    async def journalled(self, *arrivals: Arrival) -> list[journal.Kept]:
        async with self.held.database.begin() as tx:
            return await journal.write(tx, self.held, arrivals)

    async def kept(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of each table, without what is drawn anew: callbacks by their place, bodies unsealed."""
        async with self.surroundings.sql("inbound") as sql:
            found = {table: [dict(row) for row in await sql.fetch(f"SELECT * FROM {table}")] for table in TABLES}
        found["callback"].sort(key=lambda row: row["received_at"])
        places = {row["id"]: place for place, row in enumerate(found["callback"])}
        first = min((row["id"] for row in found["outbox"]), default=0)
        for row in found["callback"]:
            if row["body"] is not None:
                row["body"] = self.held.field_keys.unseal(row["body"], f"callback:{row['id']}")
            row["id"], row["outbox_ids"] = places[row["id"]], [each - first for each in row["outbox_ids"]]
        for row in [*found["callback_item"], *found["receipt"]]:
            row["callback_id"] = places[row["callback_id"]]
        for row in found["outbox"]:
            assert row.pop("event_id").version == 4
            row["id"] -= first
            del row["created_at"]
        for row in found["review"]:
            del row["id"]
        return {table: sorted(rows, key=str) for table, rows in found.items()}

    async def told(self) -> dict[int, UUID]:
        """Return the ids of the events in the outbox, by its ids."""
        async with self.surroundings.sql("inbound") as sql:
            return {row["id"]: row["event_id"] for row in await sql.fetch("SELECT id, event_id FROM outbox")}

    async def emptied(self) -> None:
        async with self.surroundings.sql("inbound") as sql:
            await sql.execute(f"TRUNCATE {', '.join(TABLES)}")

    async def run(self, sql: str, *values: object) -> None:
        async with self.surroundings.sql("inbound") as connection:
            await connection.execute(sql, *values)


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[Journalling]:
    settings = Settings(**await surroundings.settings("inbound", roles={"api"}))
    one_session = Database(settings.database_url, pool_size=1)
    try:
        async with opened(build(settings)) as (held, _):
            yield Journalling(replace(held, database=one_session), surroundings)
    finally:
        await one_session.close()


def mixed(service: Journalling) -> Sequence[Arrival]:
    return [
        service.arrival(
            99 - n,
            said,
            person=n,
            origin=OTHER if n % 2 else MAIN,
            nonce=f"event-{n}" if n % 2 else None,
        )
        for n, said in enumerate(TEXTS * 3)
    ]


async def test_what_the_shortcut_keeps_is_what_the_journal_keeps(service: Journalling) -> None:
    arrivals = mixed(service)
    inside = await service.shortened(*arrivals)
    short = await service.kept()
    await service.emptied()
    outside = await service.journalled(*arrivals)

    assert short == await service.kept()
    assert {table: len(rows) for table, rows in short.items()} == {
        "callback": 18,
        "callback_item": 18,
        "nonce": 9,
        "outbox": 18,
        "receipt": 0,
        "review": 3,
    }
    assert inside is not None
    for mine, theirs in zip(inside, outside, strict=True):
        assert (mine.arrival, mine.fresh, mine.replayed, mine.late) == (theirs.arrival, theirs.fresh, False, False)
        assert mine.stands_for == {mine.callback_id: mine.outbox_ids}
        assert list(mine.event_ids) == mine.outbox_ids
        assert len(mine.outbox_ids) == len(theirs.outbox_ids) == 1
    assert [one.outbox_ids for one in inside] == sorted(one.outbox_ids for one in inside), "in the order of arrival"


async def test_a_row_is_of_the_event_its_caller_waits_for(service: Journalling) -> None:
    kept = await service.shortened(*mixed(service))
    assert kept is not None
    async with service.surroundings.sql("inbound") as sql:
        events = {row["id"]: row["event_id"] for row in await sql.fetch("SELECT id, event_id FROM outbox")}
        callbacks = {row["id"]: row["outbox_ids"] for row in await sql.fetch("SELECT id, outbox_ids FROM callback")}
    assert {row: event for one in kept for row, event in one.event_ids.items()} == events
    assert {one.callback_id: one.outbox_ids for one in kept} == callbacks


@pytest.mark.parametrize("nonce", [None, "event-1"])
async def test_a_known_mo_is_left_to_the_journal(service: Journalling, nonce: str | None) -> None:
    assert await service.shortened(service.arrival(1, nonce=nonce))
    before = await service.kept()
    assert await service.shortened(service.arrival(2), service.arrival(1)) is None
    assert await service.shortened(service.arrival(3, nonce=nonce), service.arrival(4), service.arrival(1)) is None
    assert await service.kept() == before


async def test_a_known_nonce_is_left_to_the_journal(service: Journalling) -> None:
    assert await service.shortened(service.arrival(1, nonce="event-1"))
    before = await service.kept()
    assert await service.shortened(service.arrival(2), service.arrival(3, nonce="event-1")) is None
    assert await service.kept() == before


async def test_old_nonces_go_as_new_ones_come(service: Journalling) -> None:
    old = [service.arrival(n, nonce=f"old-{n}") for n in range(4)]
    ended = service.began - timedelta(seconds=1)
    assert await service.shortened(*[structs.replace(each, once=Once(f"old-{n}", ended)) for n, each in enumerate(old)])
    assert await service.shortened(service.arrival(9, nonce="new"))
    kept = await service.kept()
    assert len(kept["nonce"]) == 3, "two for each new one"
    assert "new" in [row["nonce"] for row in kept["nonce"]]


async def test_what_stands_against_an_mo_leaves_all_to_the_journal(service: Journalling) -> None:
    start = service.arrival(1, "START", later=timedelta(seconds=9))
    assert await service.shortened(start, service.arrival(2)) is None, "a START of the same moment"
    assert await service.shortened(start)
    before = await service.kept()
    assert await service.shortened(service.arrival(2), service.arrival(3, person=3)) is None, "a STOP behind a START"
    assert await service.kept() == before
    assert await service.shortened(service.arrival(4, later=timedelta(seconds=10))), "a STOP after the START"


async def test_a_stop_to_a_code_without_a_sender_is_left_to_the_journal(service: Journalling) -> None:
    await service.run("INSERT INTO sender_code (code, controller, since) VALUES ('36222', 'acme', now())")
    assert await service.shortened(service.arrival(1)) is None
    assert await service.shortened(service.arrival(1, "Merci beaucoup"))
    await service.run("INSERT INTO sender_code (code, controller, since) VALUES ('36111', 'acme', now())")
    assert await service.shortened(service.arrival(2))


async def test_an_mo_of_an_erased_person_is_left_to_the_journal(service: Journalling) -> None:
    async with service.held.database.begin() as tx:
        await erasing.put(tx, erasure_requested(2))
    assert await service.shortened(service.arrival(1), service.arrival(2, person=2)) is None
    assert {table: len(rows) for table, rows in (await service.kept()).items()} == dict.fromkeys(TABLES, 0)
    assert await service.shortened(service.arrival(1))


async def test_what_is_not_one_whole_mo_is_left_to_the_journal(service: Journalling) -> None:
    part, one = service.arrival(1, part=Part("r", 1, 2)), service.arrival(2)
    both = structs.replace(one, entries=[*one.entries, *service.arrival(3).entries])
    long = service.arrival(4, "la la " * 1_000)
    for each in ([part], [both], [one, one], [long], [one, structs.replace(one, entries=[])]):
        assert await service.shortened(*each) is None
    receipts = structs.replace(one, origin=replace(MAIN, kind="receipts"), entries=[])
    assert await service.shortened(receipts) is None
    assert {table: len(rows) for table, rows in (await service.kept()).items()} == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("commits", [True, False])
async def test_an_mo_of_another_transaction_and_an_erasure_meanwhile_are_seen(
    service: Journalling, commits: bool
) -> None:
    """The MO waits for the other, and the eraser, which saw no transaction with an id, does not wait for the MO."""
    async with service.surroundings.sql("inbound") as other, service.surroundings.sql("inbound") as watching:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(
            "INSERT INTO callback_item (provider, account, provider_message_id, callback_id)"
            " VALUES ('simulator', 'main', 'mo-1', gen_random_uuid())"
        )
        adding = asyncio.create_task(service.shortened(service.arrival(1), service.arrival(2, person=2)))

        async def waits() -> bool:
            return bool(await watching.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(waits)
        if commits:
            await other.execute("SET CONSTRAINTS ALL DEFERRED")
            await other.execute(
                "INSERT INTO callback (id, provider, account, kind, received_at, outbox_ids)"
                " SELECT callback_id, provider, account, 'messages', now(), '{}' FROM callback_item"
            )
            await transaction.commit()
        else:
            await watching.execute(
                "INSERT INTO erasing (erasure_id, subject_id, requested_at) VALUES ('e', $1, now())", subject(2)
            )
            await transaction.rollback()
        assert await adding is None
        assert await watching.fetchval("SELECT count(*) FROM callback_item") == int(commits)
        assert await watching.fetchval("SELECT count(*) FROM outbox") == 0


async def test_an_mo_reads_no_mo_of_others_by_a_plan_of_an_empty_journal(service: Journalling) -> None:
    """A process keeps the plan of its first MOs, when the journal was empty."""

    async def read() -> int:
        await service.held.database.run("SELECT pg_stat_force_next_flush()")
        [(rows,)] = await service.held.database.run(READ)
        return int(rows)

    for n in range(KEPT_AFTER):
        assert await service.shortened(service.arrival(n, nonce=f"event-{n}"))
    early: datetime = service.began + timedelta(days=1)
    async with service.surroundings.sql("inbound") as sql:
        await sql.execute("ALTER TABLE callback_item DISABLE TRIGGER ALL")
        await sql.execute(OTHERS, early, JOURNALLED)
        await sql.execute(NONCES, early, JOURNALLED)
    before = await read()
    assert await service.shortened(service.arrival(99, nonce="event-99"))
    assert await read() - before <= 3, "rows of other people are read for one MO"


async def test_what_the_shortcut_keeps_of_dlrs_is_what_the_journal_keeps(service: Journalling) -> None:
    """Of two accounts, of callbacks with several DLRs, few and so many that events are compressed, with nonces too."""
    for many, events in ((3, 1), (60, 1), (250, 3)):
        arrivals = [
            service.dlr(n, account="main" if n % 3 else "other", nonce=f"event-{n}" if n % 2 else None)
            for n in range(many)
        ]
        arrivals.append(service.dlr(many, *range(1_000, 1_003), state="delivered"))
        inside = await service.receipts_shortened(*arrivals)
        short, mine_told = await service.kept(), await service.told()
        await service.emptied()
        outside = await service.journalled(*arrivals)

        assert short == await service.kept()
        assert [len(short[table]) for table in ("callback", "receipt", "nonce", "outbox")] == [
            2,
            many + 3,
            many // 2,
            events,
        ]
        assert inside is not None
        for mine, theirs in zip(inside, outside, strict=True):
            assert (mine.arrival, mine.fresh, mine.replayed, mine.late) == (theirs.arrival, theirs.fresh, False, False)
            assert mine.stands_for == {mine.callback_id: mine.outbox_ids}
            assert list(mine.event_ids) == mine.outbox_ids
            assert len(mine.outbox_ids) == len(theirs.outbox_ids)
        assert {row: event for one in inside for row, event in one.event_ids.items()} == mine_told
        assert {row: event for one in outside for row, event in one.event_ids.items()} == await service.told()
        await service.emptied()


async def test_a_callback_of_many_dlrs_waits_for_each_event_that_tells_them(service: Journalling) -> None:
    three = [service.dlr(n, *range(80 * n, 80 * n + 80)) for n in range(3)]
    inside = await service.receipts_shortened(*three)
    assert inside is not None
    first, second, third = sorted(await service.told())
    assert [one.outbox_ids for one in inside] == [[first], [first, second], [second, third]]


async def test_a_callback_of_dlrs_waits_for_the_event_that_tells_them(service: Journalling) -> None:
    kept = await service.receipts_shortened(service.dlr(1), service.dlr(2, account="other"))
    assert kept is not None
    async with service.surroundings.sql("inbound") as sql:
        [row] = await sql.fetch("SELECT id, event_id FROM outbox")
        callbacks = {each["id"]: each["outbox_ids"] for each in await sql.fetch("SELECT id, outbox_ids FROM callback")}
    assert [one.event_ids for one in kept] == [{row["id"]: row["event_id"]}] * 2
    assert callbacks == {one.callback_id: [row["id"]] for one in kept}


async def test_dlrs_of_which_one_is_known_are_left_to_the_journal(service: Journalling) -> None:
    assert await service.receipts_shortened(service.dlr(1))
    before = await service.kept()
    assert await service.receipts_shortened(service.dlr(2), service.dlr(1)) is None
    assert await service.kept() == before
    assert await service.receipts_shortened(service.dlr(1, state="delivered")), "another state is another DLR"


@pytest.mark.parametrize("many", [1, MANY])
async def test_many_dlrs_of_which_one_is_known_are_left_to_the_journal(service: Journalling, many: int) -> None:
    assert await service.receipts_shortened(service.dlr(1))
    before = await service.kept()
    assert await service.receipts_shortened(service.dlr(2, *range(2, 2 + many)), service.dlr(1, nonce="event")) is None
    assert await service.kept() == before
    kept = await service.journalled(service.dlr(2, *range(2, 2 + many)), service.dlr(1))
    assert [len(one.fresh) for one in kept] == [many, 0], "each DLR counts once"


async def test_a_repeat_of_many_dlrs_is_tried_once_and_then_looked_for_until_dlrs_are_new(
    service: Journalling,
) -> None:
    """An operator without an answer repeats callback after callback: each try would cost as much as the journal."""

    async def drawn() -> int:
        async with service.surroundings.sql("inbound") as sql:
            return int(await sql.fetchval("SELECT last_value FROM outbox_id_seq"))  # no rollback takes it back

    known, new = range(MANY), range(MANY, 2 * MANY)
    assert await service.receipts_shortened(service.dlr(1, *known))
    assert await service.receipts_shortened(service.dlr(2, *known)) is None
    before = await drawn()
    assert await service.receipts_shortened(service.dlr(3, *known)) is None
    assert await drawn() == before, "the shortcut wrote what it could not keep"
    assert await service.receipts_shortened(service.dlr(4, *new))
    assert not shortcut.REPEATING


async def test_dlrs_that_are_told_twice_or_share_a_nonce_are_left_to_the_journal(service: Journalling) -> None:
    for each in (
        [service.dlr(1), service.dlr(2, 1)],
        [service.dlr(1, nonce="event-1"), service.dlr(2, nonce="event-1")],
        [service.dlr(1), structs.replace(service.dlr(2), entries=[])],
        [service.dlr(1), service.arrival(2)],
    ):
        assert await service.receipts_shortened(*each) is None
    assert {table: len(rows) for table, rows in (await service.kept()).items()} == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("many", [1, MANY])
async def test_dlrs_with_a_known_nonce_are_left_to_the_journal(service: Journalling, many: int) -> None:
    assert await service.receipts_shortened(service.dlr(1, nonce="event-1"))
    before = await service.kept()
    assert await service.receipts_shortened(service.dlr(2, *range(2, 2 + many), nonce="event-1")) is None
    assert await service.kept() == before


async def test_old_nonces_go_as_dlrs_with_new_ones_come(service: Journalling) -> None:
    ended = service.began - timedelta(seconds=1)
    old = [structs.replace(service.dlr(n), once=Once(f"old-{n}", ended)) for n in range(4)]
    assert await service.receipts_shortened(*old)
    assert await service.receipts_shortened(service.dlr(9, nonce="new"))
    assert len((await service.kept())["nonce"]) == 3, "two for each new one"


async def test_as_many_dlrs_as_an_event_holds_are_journalled_in_one_round_trip(service: Journalling) -> None:
    assert await service.receipts_shortened(service.dlr(1, *range(journal.TOGETHER)))


@pytest.mark.parametrize("many", [1, MANY])
async def test_a_dlr_of_another_transaction_of_the_moment_is_left_to_the_journal(
    service: Journalling, many: int
) -> None:
    arrival = service.dlr(1)
    known = UUID(bytes=arrival.entries[0].item.receipt)
    async with service.surroundings.sql("inbound") as other, service.surroundings.sql("inbound") as watching:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("INSERT INTO receipt VALUES ($1, gen_random_uuid())", known)
        adding = asyncio.create_task(service.receipts_shortened(service.dlr(2, *range(2, 2 + many)), arrival))

        async def waits() -> bool:
            return bool(await watching.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(waits)
        await transaction.commit()
        assert await adding is None
        assert await watching.fetchval("SELECT count(*) FROM receipt") == 1
        assert await watching.fetchval("SELECT count(*) FROM outbox") == 0


async def test_a_dlr_reads_no_dlr_of_others_by_a_plan_of_an_empty_journal(service: Journalling) -> None:
    async def read() -> int:
        await service.held.database.run("SELECT pg_stat_force_next_flush()")
        [(rows,)] = await service.held.database.run(READ_OF_DLRS)
        return int(rows)

    for n in range(KEPT_AFTER):
        assert await service.receipts_shortened(service.dlr(n))
    await service.run(
        "INSERT INTO receipt SELECT gen_random_uuid(), gen_random_uuid() FROM generate_series(1, $1)", 2_000
    )
    before = await read()
    assert await service.receipts_shortened(service.dlr(99))
    assert await read() - before <= 1, "DLRs of others are read for one DLR"
