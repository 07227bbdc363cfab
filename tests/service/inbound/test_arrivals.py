"""Callbacks that arrive together: one transaction, and each answered for itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS, Topic
from common.db.database import COPIED_MESSAGES, Database, fetch_many
from common.telemetry import continue_trace, traceparent
from inbound.service import Settings, build
from inbound.store import Identity, Item, Origin, Standing, add_items, receipt_id, standing
from tests.operators import signed
from tests.service.inbound.published import published
from tests.support.builders import now, number
from tests.support.eventually import eventually
from tests.support.running import CALLED, Surroundings, running

SECRET = "the secret of the simulator's account"
TOGETHER = 40
WAITING = (  # a transaction that waits for another
    "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE datname = current_database() AND NOT granted AND locktype = 'transactionid'"
)

KEPT_AFTER = 10  # executions, of which PostgreSQL plans five anew
JOURNALLED = 2_000
OTHERS = """
INSERT INTO callback_item (provider, account, provider_message_id, callback_id, subject_id, intent, said_at)
SELECT 'simulator', 'main', 'start-' || n, made.id, 'person-' || n, 'start', $1::timestamptz
FROM generate_series(1, $2::int) AS n, LATERAL (SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid) AS id) AS made
RETURNING 1
"""
READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'callback_item'"


class Crowd:
    """inbound-svc, and many who text it at the same time."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings, surroundings: Surroundings) -> None:
        self.client = client
        self.settings = settings
        self.surroundings = surroundings

    async def text(self, n: int, **headers: str) -> int:
        """The status that MO number `n` is answered with."""
        fields = {"id": f"mo-{n}", "from": number(n), "to": "36111", "text": "STOP", "sent_at": now().isoformat()}
        raw = json.dumps(fields).encode()
        path = "/v1/callbacks/simulator/main/messages"
        sent = await self.client.post(path, content=raw, headers={**signed(raw, SECRET, now()), **headers})
        return sent.status_code

    async def receipt(self, n: int) -> int:
        """The status that the DLR of our message number `n` is answered with."""
        told = {"id": f"op-{n}", "reference": f"ours-{n}", "status": "sent", "code": None, "at": now().isoformat()}
        raw = json.dumps({"receipts": [told]}).encode()
        path = "/v1/callbacks/simulator/main/receipts"
        return (await self.client.post(path, content=raw, headers=signed(raw, SECRET, now()))).status_code

    async def events(self, topic: Topic = INBOUND_MESSAGES) -> list[str]:
        records = await published(self.settings, topic)
        return sorted(str(getattr(record.event, "provider_message_id", "")) for record in records)

    async def rows(self, statement: str) -> list[Any]:
        async with self.surroundings.sql("inbound") as connection:
            return list(await connection.fetch(statement))


@asynccontextmanager
async def crowd(surroundings: Surroundings, **more: Any) -> AsyncIterator[Crowd]:
    accounts = [{"provider": "simulator", "account": "main", "secrets": [SECRET]}]
    given: dict[str, Any] = {"provider_accounts": accounts, "roles": CALLED} | more
    settings = Settings(**await surroundings.settings("inbound", **given))
    async with running(build(settings), headers={}) as client:
        yield Crowd(client, settings, surroundings)


@pytest.fixture
async def people(surroundings: Surroundings) -> AsyncIterator[Crowd]:
    async with crowd(surroundings, publish_timeout_s=60.0) as service:
        yield service


@pytest.mark.any_broker
async def test_callbacks_that_come_at_once_share_a_transaction_and_each_is_published(people: Crowd) -> None:
    answers = await asyncio.gather(*(people.text(n) for n in range(TOGETHER)))

    assert set(answers) == {200}
    assert await people.events() == sorted(f"mo-{n}" for n in range(TOGETHER))
    [row] = await people.rows("SELECT count(*) AS callbacks, count(DISTINCT xmin::text) AS commits FROM callback")
    assert row["callbacks"] == TOGETHER
    assert row["commits"] < TOGETHER / 4
    events = await people.rows("SELECT DISTINCT unnest(outbox_ids) FROM callback")
    assert len(events) == TOGETHER, "two callbacks stand for one event"


@pytest.mark.any_broker
async def test_dlrs_that_come_at_once_share_a_callback_and_an_event_and_nothing_raw_is_kept(people: Crowd) -> None:
    answers = await asyncio.gather(*(people.receipt(n) for n in range(TOGETHER)))
    again = await asyncio.gather(*(people.receipt(n) for n in range(TOGETHER)))

    assert set(answers) == set(again) == {200}
    assert await people.events(INBOUND_RECEIPTS) == sorted(f"op-{n}" for n in range(TOGETHER)), "each once"
    items = await people.rows("SELECT count(*), count(DISTINCT callback_id) FROM receipt")
    callbacks = await people.rows("SELECT id, body, outbox_ids, receipts FROM callback")
    listed = await people.rows("SELECT id, unnest(receipts) FROM callback")
    assert sorted(listed) == sorted(await people.rows("SELECT callback_id, id FROM receipt"))
    assert items == [(TOGETHER, len(callbacks))]
    assert len(callbacks) < TOGETHER / 4
    assert {len(each["outbox_ids"]) for each in callbacks} == {1}
    assert {each["body"] for each in callbacks} == {None}


@pytest.mark.any_broker
async def test_a_dlr_shares_no_transaction_with_an_mo(people: Crowd) -> None:
    """A DLR that waits for a lock holds up no STOP, and bars the MOs from no shortcut."""
    numbers = range(TOGETHER)
    answers = await asyncio.gather(*[people.text(n) for n in numbers], *[people.receipt(n) for n in numbers])

    assert set(answers) == {200}
    rows = await people.rows("SELECT kind, array_agg(DISTINCT xmin::text) AS commits FROM callback GROUP BY kind")
    commits = {row["kind"]: set(row["commits"]) for row in rows}
    assert commits.keys() == {"messages", "receipts"}
    assert commits["messages"].isdisjoint(commits["receipts"])


@pytest.mark.any_broker
@pytest.mark.parametrize("commits", [True, False])
async def test_many_dlrs_of_which_another_transaction_is_keeping_one_are_each_kept_once(
    surroundings: Surroundings, commits: bool
) -> None:
    """Ours copies them, waits for the other, and adds what the other has not."""
    origin, callback_id = Origin("simulator", "main", "receipts"), uuid4()
    items = [(callback_id, origin, Item(f"op-{n}", "delivered")) for n in range(COPIED_MESSAGES)]
    database = Database(await surroundings.database("inbound"), pool_size=1)

    async def ours() -> set[tuple[UUID, Identity]]:
        async with database.begin() as tx:
            new = await add_items(tx, items)
            assert await add_items(tx, items) == set()
            return new

    async with surroundings.sql("inbound") as other, surroundings.sql("inbound") as watching:
        transaction = other.transaction()
        await transaction.start()
        theirs = UUID(bytes=receipt_id(origin, ("op-7", "delivered")))
        await other.execute("INSERT INTO receipt (id, callback_id) VALUES ($1, gen_random_uuid())", theirs)
        adding = asyncio.create_task(ours())

        async def waits() -> bool:
            return bool(await watching.fetchval(WAITING))

        await eventually(waits)
        await (transaction.commit() if commits else transaction.rollback())
        new = await adding
        kept = await watching.fetchval("SELECT count(*) FROM receipt")
    await database.close()
    assert new == {(callback_id, item.identity) for *_, item in items if not (commits and item == items[7][2])}
    assert kept == COPIED_MESSAGES


@pytest.mark.any_broker
async def test_one_that_cannot_be_kept_takes_no_other_with_it(people: Crowd) -> None:
    async with people.surroundings.sql("inbound") as connection:
        await connection.execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$"
        )
        await connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON callback_item FOR EACH ROW"
            " WHEN (NEW.provider_message_id IN ('mo-7', 'mo-8')) EXECUTE FUNCTION no()"
        )

    answers = await asyncio.gather(*(people.text(n) for n in range(TOGETHER)))

    assert [n for n, status in enumerate(answers) if status != 200] == [7, 8]
    assert (answers[7], answers[8]) == (503, 503)
    assert await people.events() == sorted(f"mo-{n}" for n in range(TOGETHER) if n not in (7, 8))


@pytest.mark.any_broker
async def test_one_that_waits_for_a_lock_does_not_hold_up_those_that_come_after_it(people: Crowd) -> None:
    async with people.surroundings.sql("inbound") as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(
            "INSERT INTO callback_item (provider, account, provider_message_id, callback_id)"
            " VALUES ('simulator', 'main', 'mo-1', gen_random_uuid())"
        )
        first = asyncio.create_task(people.text(1))

        async def first_waits() -> bool:
            return bool(await people.rows(WAITING))

        await eventually(first_waits)
        assert await asyncio.gather(*(people.text(n) for n in range(2, 10))) == [200] * 8
        assert not first.done()
        await transaction.rollback()

    assert await first == 200


async def test_each_callback_waits_for_its_own_event_which_goes_on_with_its_trace(surroundings: Surroundings) -> None:
    traces = []
    for _ in range(8):
        continue_trace(None)
        traces.append(str(traceparent()))
    async with crowd(surroundings, publish_timeout_s=0.5, roles={"api"}) as service:  # nobody relays: the rows stay

        async def kept() -> list[Any]:
            await asyncio.gather(*(service.text(n, traceparent=trace) for n, trace in enumerate(traces)))
            rows = await service.rows(
                "SELECT provider_message_id AS name, traceparent, payload"
                " FROM callback JOIN callback_item ON callback_id = callback.id"
                " JOIN outbox ON outbox.id = ANY(outbox_ids)"
            )
            assert len(rows) >= len(traces)
            return rows

        rows = await eventually(kept)  # who was not, in half a second, comes again

    assert {row["name"]: row["traceparent"] for row in rows} == {f"mo-{n}": trace for n, trace in enumerate(traces)}
    assert [json.loads(row["payload"])["provider_message_id"] for row in rows] == [row["name"] for row in rows]


@pytest.mark.any_broker
async def test_while_the_journal_is_locked_all_are_told_to_come_again_and_then_each_is_published_once(
    surroundings: Surroundings,
) -> None:
    async with crowd(surroundings, publish_timeout_s=1.0) as service:
        async with service.surroundings.sql("inbound") as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("LOCK TABLE callback_item")
            answers = await asyncio.gather(*(service.text(n) for n in range(TOGETHER)))
            await transaction.rollback()
        assert set(answers) == {503}

        async def acknowledged() -> bool:
            return await asyncio.gather(*(service.text(n) for n in range(TOGETHER))) == [200] * TOGETHER

        await eventually(acknowledged)
        assert await service.events() == sorted(f"mo-{n}" for n in range(TOGETHER))


@pytest.mark.any_broker
async def test_a_stop_looks_for_starts_of_its_person_alone_by_a_plan_of_an_empty_journal(
    surroundings: Surroundings,
) -> None:
    """A process keeps the plan of its first STOPs, when the journal was empty."""
    origin, early = Origin("simulator", "main", "messages"), now()
    stop = Item("mo-1", subject_id="person-1", intent="stop", said_at=early)
    database = Database(await surroundings.database("inbound"), pool_size=1)
    try:
        async with database.engine.connect() as tx:  # rolled back
            for _ in range(KEPT_AFTER):
                assert not (await standing(tx, [(uuid4(), origin, stop)], ["36111"], ["person-1"])).behind_starts
            await fetch_many(tx, OTHERS, early + timedelta(seconds=1), JOURNALLED)
            before = (await fetch_many(tx, READ))[0][0]
            first, last = UUID(int=0), UUID(int=2**128 - 1)
            known = await standing(tx, [(first, origin, stop), (last, origin, stop)], ["36111"], ["person-1"])
            [(after,)] = await fetch_many(tx, READ)
    finally:
        await database.close()
    assert known == Standing({(last, stop.identity)}, frozenset(), erased=False)
    assert after - before <= 3, "rows of other people are read for one STOP"
