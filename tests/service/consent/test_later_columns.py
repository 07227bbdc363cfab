"""An older worker reads tables that a newer version's migration has given a column: no STOP waits behind an error."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from consent.double_opt_in import store as double_opt_ins
from consent.ledger import store as ledger
from consent.ledger import term_store as terms
from consent.ledger.rules import RECTIFICATION
from consent.proof import sealing
from consent.proof import store as proof
from consent.retention import store as retention
from consent.schema import metadata
from consent.senders import registry
from tests.service.consent.test_renewals import ASKS, END, OPENED, WHO, asked, given, looked, newest, says, state
from tests.service.consent.test_retention import sender
from tests.support.each_of import each_of
from tests.support.infrastructure import Postgres
from tests.unit.consent.evidences import contact, opt_in, opt_out

pytestmark = pytest.mark.brokerless

DAY = timedelta(days=1)
GIVEN = opt_in(0, occurred_at=OPENED, received_at=OPENED)
MENDED = contact(1, occurred_at=OPENED + DAY, received_at=OPENED + DAY, source=RECTIFICATION, answers=GIVEN.evidence_id)
STOPPED = opt_out(2, purpose="loyalty", occurred_at=OPENED + DAY, received_at=OPENED + 2 * DAY)


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    """Consents of two people, in tables with a column that this version does not know."""
    opened = Database(await postgres.clone("consent", f"consent_{unique}"))
    async with opened.begin() as tx:
        for table in metadata.tables:
            await tx.execute(text(f'ALTER TABLE "{table}" ADD COLUMN later text'))
        await registry.register(tx, sender("acme", renewal_days=30), OPENED)
    await given(opened, GIVEN, MENDED, STOPPED)
    await given(opened, opt_in(3, occurred_at=OPENED, received_at=OPENED), who=2)
    yield opened
    await opened.close()


async def test_a_later_column_stops_no_question_no_stop_and_no_expiry(database: Database) -> None:
    await looked(database, ASKS + DAY)
    assert (len(await asked(database)), len(await asked(database, 2))) == (1, 1)
    await says(database, "stop", ASKS + 2 * DAY)
    assert (await state(database), (await newest(database)).kind) == ("opted_out", "opt_out")
    await looked(database, END + 2 * DAY)
    async with database.begin() as tx:
        await sealing.put_seal(tx, 1000, END)
        assert await tx.scalar(text("SELECT count(*) FROM evidence WHERE kind = 'expiry'")) == 1


async def _whole_ledger(tx: AsyncConnection) -> object:
    return [entry async for entry in proof.whole_ledger(tx)]


async def _found(tx: AsyncConnection) -> object:
    return await ledger.find_entry(tx, GIVEN.evidence_id)


async def _sealed(tx: AsyncConnection) -> object:
    for up_to in (1, 1000):
        await sealing.put_seal(tx, up_to, datetime.now(UTC))
    return await sealing.page(tx, 1, 10) and [seal async for seal in sealing.all_seals(tx)]


@each_of(
    "read",
    [
        lambda tx: ledger.history(tx, WHO),
        lambda tx: ledger.whole_histories(tx, [WHO]),
        lambda tx: ledger.opt_outs_since(tx, [WHO], OPENED),
        lambda tx: double_opt_ins.find_evidence(tx, [GIVEN.evidence_id]),
        lambda tx: terms.due_of(tx, [WHO]),
        lambda tx: retention.endings(tx, "acme", None, END + DAY, 10),
        _whole_ledger,
        _found,
        _sealed,
    ],
)
async def test_a_later_column_changes_no_reading(
    database: Database, read: Callable[[AsyncConnection], Awaitable[object]]
) -> None:
    async with database.begin() as tx:
        assert await read(tx)
