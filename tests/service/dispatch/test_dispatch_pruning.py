"""dispatch-svc keeps numbers and texts no longer than they are needed; decisions, duplicates and late receipts still
find their row."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from common.contracts import DISPATCH_MESSAGES, INBOUND_RECEIPTS
from common.contracts.dispatch import MessageChanged
from common.db.database import Database
from common.privacy.pruning import Pruner
from dispatch.accepting.store import Audit, add_audits, audits_after
from dispatch.privacy.pruning import LATE_DAYS, Periods, policy
from tests.service.dispatch.test_dispatch import Dispatch, dispatch
from tests.support.builders import now, number, opted_in, opted_out, receipt, requested, subject
from tests.support.eventually import eventually
from tests.support.holdings import holdings, spellings
from tests.support.operators.http import operator
from tests.support.publish import publish
from tests.support.reading import changes_in, reading
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker

COLUMNS = {
    "message": ("requested_at", "decided_at", "handed_off_at"),
    "enforcement": ("enforced_at",),
    "early_receipt": ("received_at",),
}


@dataclass
class Kept:
    """dispatch-svc running, and time that can be let pass for what it keeps."""

    d: Dispatch
    surroundings: Surroundings
    pruner: Pruner

    async def pass_days(self, days: float) -> None:
        """Everything is older by as much; then what is past its time goes."""
        async with self.surroundings.sql("dispatch") as sql:
            for table, columns in COLUMNS.items():
                older = ", ".join(f"{column} = {column} - $1 * interval '1 day'" for column in columns)
                await sql.execute(f"UPDATE {table} SET {older}", days)
        while await self.pruner.prune():
            pass

    async def rows(self, query: str, *args: Any) -> Sequence[Any]:
        async with self.surroundings.sql("dispatch") as sql:
            return [tuple(row) for row in await sql.fetch(query, *args)]

    async def holds(self, n: int) -> Sequence[str]:
        async def published() -> bool:
            return await self.rows("SELECT count(*) FROM outbox") == [(0,)]

        await eventually(published)
        async with self.surroundings.sql("dispatch") as sql:
            return await holdings(sql, spellings(number(n)))

    async def sent(self, n: int, version: int = 1) -> str:
        await self.d.publish_states(opted_in(n, version=version))
        await self.d.request(wanted := requested(n))
        await eventually(self.d.becomes(wanted.message_id, "accepted"))
        return wanted.message_id


@asynccontextmanager
async def kept_by(surroundings: Surroundings) -> AsyncIterator[Kept]:
    database = Database(await surroundings.database("dispatch"), pool_size=2)
    try:
        async with operator() as op, dispatch(surroundings, op) as d:
            yield Kept(d, surroundings, Pruner(database, policy(Periods()), batch=2))
    finally:
        await database.close()


@pytest.fixture
async def kept(surroundings: Surroundings) -> AsyncIterator[Kept]:
    async with kept_by(surroundings) as running_service:
        yield running_service


async def test_number_and_text_go_and_the_same_request_is_a_duplicate_all_the_same(kept: Kept) -> None:
    await kept.d.publish_states(*(opted_in(n) for n in (1, 2, 3)))
    wanted = [requested(n) for n in (1, 2, 3, 4)]  # nobody has heard of the fourth: denied
    await kept.d.request(*wanted)
    for one in wanted[:3]:
        await eventually(kept.d.becomes(one.message_id, "accepted"))
    await eventually(kept.d.becomes(wanted[3].message_id, "denied"))
    decided = [await kept.d.message(one.message_id) for one in wanted]

    await kept.pass_days(34)
    assert await kept.holds(1) == ["message.number"]
    assert await kept.holds(4) == [], "it was never to be sent"
    await kept.pass_days(2)
    assert [await kept.holds(n) for n in (1, 2, 3, 4)] == [[]] * 4
    assert await kept.rows("SELECT count(*) FROM message WHERE number IS NULL AND text IS NULL") == [(4,)]
    for one, before in zip(wanted, decided, strict=True):
        after = await kept.d.message(one.message_id)
        assert {name: value for name, value in after.items() if not name.endswith("_at")} == {
            name: value for name, value in before.items() if not name.endswith("_at")
        }

    await kept.d.request(*wanted)
    for n in (1, 2, 3, 4):  # once these have gone, what came before them in each partition has been read
        await kept.sent(n, version=2)
    assert len(kept.d.operator.references) == len(set(kept.d.operator.references)) == 3 + 4  # none of them twice
    assert await kept.rows("SELECT count(*) FROM message WHERE number IS NULL AND text IS NULL") == [(4,)]

    await kept.pass_days(1826 - 36 - 1)
    assert await kept.rows("SELECT count(*) FROM message") == [(8,)]
    await kept.pass_days(2)
    assert await kept.rows("SELECT count(*) FROM message") == [(4,)]


async def test_a_receipt_that_comes_after_the_strip_finds_its_message_and_tells_of_an_opt_out(kept: Kept) -> None:
    async with reading(kept.surroundings, DISPATCH_MESSAGES) as read:
        sent = await kept.sent(1)
        await kept.pass_days(36)
        await publish(kept.surroundings, INBOUND_RECEIPTS, [receipt("opted_out", reference=sent)])

        async def told() -> MessageChanged:
            changes = [e for e in changes_in(await read()) if e.receipt == "opted_out"]
            assert changes
            return changes[0]

        found = await eventually(told)
    assert (found.message_id, found.subject_id, found.number) == (sent, subject(1), None)


async def test_the_audit_of_an_overridden_text_stays_as_long_as_its_message(surroundings: Surroundings) -> None:
    database = Database(await surroundings.database("dispatch"), pool_size=2)
    fields: dict[str, Any] = {"caller": "tester", "sender_id": "s", "category": "service", "template": "free_text"}
    ages = {"overridden": (1825, 1827), "refused": (395, 397)}
    async with database.begin() as tx:
        audits = [
            Audit(at=now() - timedelta(days=days), result=result, reasons=("link",), **fields)
            for result, several in ages.items()
            for days in several
        ]
        await add_audits(tx, audits)
    pruner = Pruner(database, policy(Periods()))
    while await pruner.prune():
        pass
    async with database.begin() as tx:
        left = await audits_after(tx, 0, ["s"], 10)
    await database.close()
    assert [(each.result, (now() - each.at).days) for each in left] == [("overridden", 1825), ("refused", 395)]


async def test_what_still_waits_or_is_on_its_way_or_ended_only_now_keeps_all_it_needs(
    surroundings: Surroundings,
) -> None:
    """The service itself is not running: it would resolve what is left on its way."""
    late, database = now() - timedelta(days=400), Database(await surroundings.database("dispatch"), pool_size=2)
    pruner = Pruner(database, policy(Periods()))
    async with surroundings.sql("dispatch") as sql:
        for n, status in enumerate(("pending", "deferred", "sending", "accepted", "denied"), start=1):
            one = requested(n)
            await sql.execute(
                "INSERT INTO message (message_id, sender_id, category, subject_id, partition, number, text,"
                " requested_at, send_before, status, version, reasons, due_at, policy_version, decided_at,"
                " handed_off_at, charged) VALUES ($1, 'maison-lune', 'marketing', $2, 1, $3, $4, $5, $6, $7, 1, '{}',"
                " $6, 'x', now(), CASE WHEN $7 = 'accepted' THEN now() END, false)",
                UUID(one.message_id), one.subject_id, one.number, one.text,
                late, now() + timedelta(days=400), status,
            )  # fmt: skip
        assert not await pruner.prune()
        await sql.execute("UPDATE message SET decided_at = $1, handed_off_at = NULL", late)
        while await pruner.prune():
            pass
        still = await sql.fetch("SELECT status FROM message WHERE number IS NOT NULL ORDER BY status")
        await sql.execute("UPDATE message SET requested_at = $1, number = NULL, text = NULL", now() - timedelta(2000))
        while await pruner.prune():
            pass
        left = await sql.fetch("SELECT status FROM message ORDER BY status")
    await database.close()
    assert [row["status"] for row in still] == [row["status"] for row in left] == ["deferred", "pending", "sending"]


async def test_an_enforcement_is_kept_for_three_years_and_an_open_one_for_ever(kept: Kept) -> None:
    await kept.d.publish_states(opted_in(1), opted_in(2))
    await kept.d.publish_states(opted_out(1, version=2), opted_out(2, version=2))

    async def enforced() -> bool:
        return len([one for one in await kept.d.enforcements() if one["enforced_at"]]) == 2

    await eventually(enforced)
    await kept.rows(
        "UPDATE enforcement SET enforced_at = NULL, applied_at = 'infinity' WHERE subject_id = $1", subject(2)
    )
    await kept.pass_days(1095)
    assert len(await kept.d.enforcements()) == 2
    await kept.pass_days(2)
    assert await kept.rows("SELECT subject_id FROM enforcement") == [(subject(2),)]


async def test_receipts_of_nobodys_message_go_after_a_day(kept: Kept) -> None:
    foreign = [receipt("delivered", gateway_id=f"foreign-{n}") for n in range(5)]
    await publish(kept.surroundings, INBOUND_RECEIPTS, foreign)

    async def waiting(n: int) -> bool:
        return await kept.rows("SELECT count(*) FROM early_receipt") == [(n,)]

    await eventually(lambda: waiting(5))
    await kept.pass_days(0.9)
    assert await waiting(5)
    await kept.pass_days(0.2)
    assert await waiting(0)


async def test_messages_are_asked_for_and_leave_while_a_batch_is_under_way(kept: Kept) -> None:
    await kept.sent(1)
    async with kept.surroundings.sql("dispatch") as sql, sql.transaction():
        await sql.execute("UPDATE message SET number = NULL, text = NULL")  # a batch that does not end
        await kept.sent(2)


def test_no_period_is_shorter_than_receipts_are_late() -> None:
    for field in ("contents_days", "messages_days", "enforcements_days"):
        with pytest.raises(ValidationError, match=field):
            Periods.model_validate({field: LATE_DAYS - 1})
    with pytest.raises(ValidationError, match="at least contents_days"):
        Periods(contents_days=40, messages_days=39)
