"""inbound-svc keeps nothing longer than it is needed, and what is sent again is still told from what is new."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest
from pydantic import ValidationError

from common.db.database import Database
from common.privacy.pruning import Pruner
from inbound.pruning import RETRIED_DAYS, Periods, policy
from tests.operators import signed
from tests.service.inbound.test_reviews import DOUBT, SECRET, Reviewed, inbound
from tests.support.builders import field_keys, now, number
from tests.support.holdings import holdings, spellings
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker  # what Postgres keeps

RECEIPTS = "/v1/callbacks/simulator/main/receipts"


@dataclass
class Kept:
    """inbound-svc running, and time that can be let pass for what it keeps."""

    service: Reviewed
    surroundings: Surroundings
    pruner: Pruner

    async def receipt(self, name: str) -> httpx.Response:
        item = {"id": name, "reference": str(uuid4()), "status": "delivered", "code": None, "at": now().isoformat()}
        raw = json.dumps({"receipts": [item]}).encode()
        return await self.service.client.post(RECEIPTS, content=raw, headers=signed(raw, SECRET, now()))

    async def pass_days(self, days: float) -> None:
        """Everything is older by as much; then what is past its time goes."""
        columns = {
            "callback": "received_at",
            "review": "decided_at",
            "part": "received_at",
            "nonce": "forget_after",
        }
        async with self.surroundings.sql("inbound") as sql:
            for table, column in columns.items():
                await sql.execute(f"UPDATE {table} SET {column} = {column} - $1 * interval '1 day'", days)
        while await self.pruner.prune():
            pass

    async def rows(self, table: str) -> int:
        async with self.surroundings.sql("inbound") as sql:
            return int(await sql.fetchval(f"SELECT count(*) FROM {table}"))

    async def holds(self, *needles: str) -> Sequence[str]:
        async with self.surroundings.sql("inbound") as sql:
            return await holdings(sql, needles)


@asynccontextmanager
async def kept_by(surroundings: Surroundings) -> AsyncIterator[Kept]:
    database = Database(await surroundings.database("inbound"), pool_size=2)
    try:
        async with inbound(surroundings) as service:
            yield Kept(service, surroundings, Pruner(database, policy(Periods()), batch=2))
    finally:
        await database.close()


@pytest.fixture
async def kept(surroundings: Surroundings) -> AsyncIterator[Kept]:
    async with kept_by(surroundings) as running_service:
        yield running_service


async def test_a_raw_message_is_kept_for_13_months_and_its_item_tells_a_duplicate_for_three_years(kept: Kept) -> None:
    for n in range(1, 6):
        await kept.service.text("STOP merci", mo=f"mo-{n}", n=n)
    await kept.pass_days(395)
    assert await kept.holds("merci") == ["callback.body"]
    await kept.pass_days(2)
    assert await kept.holds("merci", *spellings(number(1))) == []
    assert await kept.rows("callback_item") == 5

    assert (await kept.service.text("STOP merci", mo="mo-1")).status_code == 200  # late, and a duplicate all the same
    assert len(await kept.service.messages()) == 5
    assert await kept.holds("merci") == []

    await kept.pass_days(1096 - 397 - 1)
    assert (await kept.rows("callback"), await kept.rows("callback_item")) == (5, 5)
    await kept.pass_days(2)
    assert (await kept.rows("callback"), await kept.rows("callback_item")) == (0, 0)


async def test_receipts_are_kept_until_nobody_sends_them_again(kept: Kept) -> None:
    for n in range(5):
        await kept.receipt(f"op-{n}")
    await kept.service.text("STOP")
    await kept.pass_days(34)
    assert (await kept.rows("callback_item"), await kept.rows("receipt")) == (1, 5)
    await kept.pass_days(2)
    assert (await kept.rows("callback"), await kept.rows("callback_item")) == (1, 1)  # the STOP
    assert await kept.rows("receipt") == 0


async def test_a_receipt_of_a_younger_callback_stays(kept: Kept) -> None:
    await kept.receipt("op-old")
    await kept.pass_days(20)
    await kept.receipt("op-young")
    await kept.pass_days(16)
    assert (await kept.rows("callback"), await kept.rows("receipt")) == (1, 1)
    await kept.receipt("op-young")
    assert await kept.rows("callback") == 1, "the younger DLR is still known"
    await kept.receipt("op-old")
    assert await kept.rows("callback") == 2


async def test_a_review_that_nobody_has_decided_stays_and_a_closed_one_goes(kept: Kept) -> None:
    await kept.service.text(DOUBT, mo="mo-1")
    await kept.service.text(DOUBT, mo="mo-2", n=2)
    [first, second] = await kept.service.queue()
    await kept.service.decide(first["mo_id"], "stop", note="il veut partir")
    await kept.pass_days(397)
    assert [item["mo_id"] for item in await kept.service.queue()] == [second["mo_id"]]
    assert await kept.holds("il veut partir", *spellings(number(1))) == []
    assert (await kept.service.text(DOUBT, mo="mo-1")).status_code == 200
    assert len(await kept.service.queue()) == 1  # nobody is asked again what was decided


async def test_parts_and_nonces_go_though_nothing_comes_any_more(kept: Kept) -> None:
    async with kept.surroundings.sql("inbound") as sql:
        await sql.execute(
            "INSERT INTO part SELECT 'vonage', 'main', 's1', '36111', 'r', 3, n, 'p' || n, $1, now()"
            " FROM generate_series(1, 3) AS n",
            field_keys.seal("la moitié", "part:p1"),
        )
        await sql.execute(
            "INSERT INTO nonce SELECT 'vonage', 'main', 'n' || n, '', now() - interval '50 min'"
            " FROM generate_series(1, 3) AS n"
        )
    await kept.pass_days(0)
    assert (await kept.rows("part"), await kept.rows("nonce")) == (3, 3)
    await kept.pass_days(25.5 / 24)
    assert (await kept.rows("part"), await kept.rows("nonce")) == (0, 0)


async def test_callbacks_come_in_while_a_batch_is_under_way(kept: Kept) -> None:
    await kept.receipt("op-1")
    async with kept.surroundings.sql("inbound") as sql, sql.transaction():
        await sql.execute("DELETE FROM callback WHERE kind = 'receipts'")  # a batch that does not end
        assert (await kept.receipt("op-2")).status_code == 200
        assert (await kept.service.text("STOP")).status_code == 200


def test_no_period_is_shorter_than_operators_go_on_sending() -> None:
    for field in ("messages_days", "receipts_days"):
        with pytest.raises(ValidationError, match=field):
            Periods.model_validate({field: RETRIED_DAYS - 1})
    with pytest.raises(ValidationError, match="at least raw_messages_days"):
        Periods(raw_messages_days=400, messages_days=399)
