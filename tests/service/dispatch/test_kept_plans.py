"""What timers and receipts read of a large ledger, by connections that knew it when it was empty: a statement that is
prepared keeps its plan, and the best way through nothing is to read all of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from common.db.database import Database, fetch_many
from common.law import at_hand_off, load
from common.privacy.pruning import Pruner
from dispatch.audit.invariants import Checker
from dispatch.gate.clearance import Clearance
from dispatch.gateways import HTTP_PROVIDERS, LOOK_UPS, Gateway, HttpGateway
from dispatch.gateways.pool import Traffic
from dispatch.messages import enforcement
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow
from dispatch.privacy import pruning
from dispatch.privacy.erasure import eraser
from dispatch.projection.limits import Limits
from dispatch.sending.pipeline import Handoff
from dispatch.sending.receipts import settle_receipts
from dispatch.sending.timers import Timers
from tests.support.builders import field_keys, now, subject, subject_keys
from tests.support.infrastructure import Postgres
from tests.support.ledger import dlr, message, opt_out
from tests.support.operators.accounts import ACCOUNTS

pytestmark = pytest.mark.brokerless

KEPT_AFTER = 5  # executions of a prepared statement
SETTLED, WAITING, ENFORCED, CAMPAIGNS = 20_000, 2_000, 5_000, 5_000
FEW = 100  # rows: what a tick is about, and what it passes over to find that
READ = (
    "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_user_tables"
    " WHERE relname IN ('message', 'enforcement', 'campaign')"
)
MANY_LIKE_IT = (  # each of another person, and handed off a minute after the one before, if at all
    "INSERT INTO message SELECT (jsonb_populate_record(m, jsonb_build_object('message_id', gen_random_uuid(),"
    " 'subject_id', gen_random_uuid(), 'known_as', gen_random_uuid(), 'handed_off_at',"
    " CASE WHEN m.status = 'accepted' THEN now() - (30000 - n) * interval '1 min' END))).*"
    " FROM message AS m, generate_series(1, $2) AS n WHERE m.message_id = $1"
)


def _message(n: int, status: str, **more: Any) -> MessageRow:
    at: dict[str, Any] = {"requested_at": now() - timedelta(minutes=1), "decided_at": now() - timedelta(hours=1)}
    at["due_at"] = now() if status == "deferred" else None
    return message(n, status, **{**at, **more})


class Ledger:
    """One of each that the timers have something to do with. `again`: they have it once more."""

    def __init__(self) -> None:
        self.due = _message(1, "deferred")
        self.code = _message(2, "deferred", category="transactional", campaign_id=None)
        self.left = _message(3, "sending")
        self.early = _message(4, "accepted")
        self.erased = _message(5, "accepted")
        self.waiting = _message(6, "deferred", campaign_id="c2", due_at=now() + timedelta(hours=3))

    async def fill(self, database: Database) -> None:
        async with database.begin() as tx:
            for row in (self.due, self.code, self.left, self.early, self.erased, self.waiting):
                await messages.insert_messages(tx, [row])
            await enforcement.open_enforcements(tx, [opt_out(self.left, consent_version=1)])
            await fetch_many(tx, "INSERT INTO campaign (campaign_id, control, version) VALUES ('c1', 'running', 1)")
            await fetch_many(
                tx,
                "INSERT INTO erasing (erasure_id, subject_id, requested_at) VALUES ('e1', $1, now())",
                subject(5),
            )
            for partition in range(3):
                await fetch_many(
                    tx,
                    "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
                    " VALUES ('dispatch.consents', 'consent.states.v1', $1, 1, now())",
                    partition,
                )

    async def again(self, sql: asyncpg.Connection) -> None:
        for row in (self.due, self.code):
            await sql.execute(
                "UPDATE message SET status = 'deferred', due_at = now(), reasons = '{}', number = $2, text = $3"
                " WHERE message_id = $1",
                row.message_id,
                row.number,
                row.text,
            )
        await sql.execute(
            "UPDATE message SET status = 'sending', unknown_since = NULL, decided_at = now() - interval '90 s'"
            " WHERE message_id = $1",
            self.left.message_id,
        )
        await sql.execute("DELETE FROM sending")
        await sql.execute("DELETE FROM begun")
        await sql.execute(
            "INSERT INTO sending (partition, since, decided_at, message_ids, people)"
            " SELECT partition, now() - interval '1 hour', decided_at, ARRAY[message_id], ARRAY[hashtext(subject_id)]"
            " FROM message WHERE message_id = $1",
            self.left.message_id,
        )
        await sql.execute(
            "INSERT INTO begun (partition, decided_at, message_ids)"
            " SELECT partition, decided_at, ARRAY[message_id] FROM message WHERE message_id = $1",
            self.left.message_id,
        )
        await sql.execute("UPDATE enforcement SET enforced_at = NULL, applied_at = now() - interval '9 s' WHERE id = 1")
        await sql.execute(
            "UPDATE message SET known_as = 'op-4', gateway_message_id = 'op-4', receipt = NULL WHERE message_id = $1",
            self.early.message_id,
        )
        await sql.execute(
            "INSERT INTO early_receipt (gateway, gateway_message_id, receipt, received_at)"
            " VALUES ('simulator', 'op-4', 'delivered', now()) ON CONFLICT DO NOTHING"
        )
        await sql.execute("UPDATE message SET number = 'sealed' WHERE message_id = $1", self.erased.message_id)
        await sql.execute("UPDATE erasing SET after_xid = 3, erased_at = NULL")
        await sql.execute("UPDATE campaign SET woken = 0 WHERE campaign_id = 'c1'")
        await sql.execute("UPDATE consumer_offset SET as_of = now()")
        await sql.execute("TRUNCATE outbox")

    async def grow(self, sql: asyncpg.Connection) -> None:
        await sql.execute(MANY_LIKE_IT, self.early.message_id, SETTLED)
        await sql.execute(MANY_LIKE_IT, self.waiting.message_id, WAITING)
        await sql.execute(
            "INSERT INTO enforcement (subject_id, partition, consent_version, source, received_at, applied_at,"
            " enforced_at) SELECT gen_random_uuid(), 0, 1, 'mo', now(), now(), now() FROM generate_series(1, $1)",
            ENFORCED,
        )
        await sql.execute(
            "INSERT INTO campaign (campaign_id, control, version, woken)"
            " SELECT 'old-' || n, 'running', 1, 1 FROM generate_series(1, $1) AS n",
            CAMPAIGNS,
        )


@asynccontextmanager
async def outside(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def _ticks(database: Database, gateway: Gateway) -> dict[str, Callable[[], Awaitable[object]]]:
    traffic = Traffic([gateway])
    policy, limits = at_hand_off(load("france")), Limits(max_staleness=timedelta(seconds=30), cap=2)
    clearance = Clearance(subject_keys, field_keys, traffic, policy, limits, 5.0)
    handoff = Handoff(database, traffic, clearance, 4)
    timeout = timedelta(minutes=1)
    timers = Timers(database, clearance, handoff, batch=100, partitions=range(3), sending_timeout=timeout)
    return {
        "due marketing": timers.wake_marketing,
        "due codes": timers.wake_codes,
        "due questions": timers.wake_questions,
        "paused no more": timers.wake_controlled,
        "sweep": timers.sweep,
        "look up": timers.look_up,
        "invariants": Checker(database, load("france"), limits, timeout).look,
        "prune": Pruner(database, pruning.policy(pruning.Periods())).prune,
        "erase": eraser(database, 3).erase_kept,
        "receipts": lambda: _receive(database),
    }


async def _receive(database: Database) -> None:
    async with database.begin() as tx:
        await settle_receipts(tx, [dlr("op-4")], keep_early=False)


async def test_no_timer_reads_all_of_a_ledger_that_its_connection_knew_to_be_empty(
    postgres: Postgres, unique: str
) -> None:
    dsn = await postgres.clone("dispatch", f"dispatch_{unique}")
    database, ledger = Database(dsn, pool_size=1), Ledger()
    account = ACCOUNTS["infobip"].at("http://127.0.0.1:9")  # nothing is handed off, and nothing looked up
    gateway = HttpGateway("infobip", HTTP_PROVIDERS["infobip"], account, timeout_s=5.0, looks_up=LOOK_UPS["infobip"])
    async with outside(dsn) as sql:
        for table in ("message", "enforcement", "campaign"):
            await sql.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            await sql.execute(f"VACUUM ANALYZE {table}")
        await ledger.fill(database)

        async def told() -> int:
            """Rows that have been read by now, by everybody."""
            await sql.execute("SELECT pg_stat_force_next_flush()")
            async with database.begin() as tx:
                await fetch_many(tx, "SELECT pg_stat_force_next_flush()")
            return int(await sql.fetchval(READ))

        async def read_by(tick: Callable[[], Awaitable[object]]) -> int:
            await ledger.again(sql)
            before = await told()
            await tick()
            return await told() - before

        all_of_them = _ticks(database, gateway)
        for _ in range(2 * KEPT_AFTER):
            for tick in all_of_them.values():
                await read_by(tick)
        await ledger.grow(sql)
        checks = all_of_them.pop("invariants")
        read = {name: await read_by(tick) for name, tick in all_of_them.items()}
        # of what hour a range of the ledger is, is known once Postgres has come by; of the last one it never is
        await sql.execute("VACUUM ANALYZE message")
        read_by_checks = await read_by(checks)
    await gateway.close()
    await database.engine.dispose()
    assert {name: rows for name, rows in read.items() if rows > FEW} == {}
    assert read_by_checks < SETTLED / 2
