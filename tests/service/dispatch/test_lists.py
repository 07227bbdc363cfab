"""Lists that page by a key the database counts up, while somebody writes: real Postgres, no service around."""

import asyncio
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from common.db.database import Database
from common.db.shards import Shards
from common.kafka import dead_letters
from common.web import pagination
from common.web.auth import PLATFORM, Caller
from common.web.pagination import next_of, position
from common.web.problems import Unavailable
from dispatch import api
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.running import ORGANISATION

pytestmark = pytest.mark.brokerless

OPERATOR: Any = Caller("tester", ORGANISATION, frozenset({PLATFORM}), None)
ROWS = {
    "enforcement": "(subject_id, partition, consent_version, source, received_at, applied_at)"
    " VALUES ($1, 0, 1, 'mo', now(), now())",
    "provider_block": "(gateway, subject_id, since) VALUES ('simulator', $1, now())",
    "dead_letter": "(consumer_group, topic, partition, at_offset, shape, reason)"
    " VALUES ('g', 't', 0, hashtext($1::text), 'null', $1::text)",
}
WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%FROM pg_locks%'"
    " AND pid <> pg_backend_pid()"
)


async def page(database: Database, table: str, cursor: str | None, limit: int) -> tuple[list[str], str | None]:
    """(who is on it, the next page's cursor)."""
    held: Any = SimpleNamespace(database=database, shards=Shards.undivided(database, 1))
    if table == "dead_letter":
        async with database.begin() as tx:
            letters = await dead_letters.page(tx, "open", position(cursor, int) or 0, limit)
        return [letter.reason for letter in letters], next_of(letters, limit, attrgetter("id"))
    ask = api.list_enforcements if table == "enforcement" else api.list_provider_blocks
    found = await ask(held, OPERATOR, cursor, limit)
    return [item.subject_id for item in found.items], found.next


@pytest.mark.parametrize("table", ROWS)
async def test_no_page_ends_behind_a_row_that_is_committed_later(postgres: Postgres, unique: str, table: str) -> None:
    url = await postgres.clone("dispatch", f"dispatch_{unique}")
    database, late, sql = Database(url), await asyncpg.connect(url), await asyncpg.connect(url)
    insert = f"INSERT INTO {table} {ROWS[table]}"

    async def it_waits() -> bool:
        return first.done() or bool(await sql.fetchval(WAITS))

    try:
        writing = late.transaction()
        await writing.start()
        await late.execute(insert, "late")
        for who in ("second", "third"):
            await sql.execute(insert, who)
        assert await page(database, table, None, 10) == (["second", "third"], None), "which tells no cursor"
        first = asyncio.create_task(page(database, table, None, 2))
        await eventually(it_waits)
        await writing.commit()
        people, cursor = await first
        assert cursor is not None
        assert people == ["late", "second"]
        assert (await page(database, table, cursor, 2))[0] == ["third"]
    finally:
        await late.close()
        await sql.close()
        await database.close()


async def test_a_page_whose_writer_stands_still_tells_no_cursor(
    postgres: Postgres, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagination, "WRITERS_END_WITHIN_S", 0.05)
    url = await postgres.clone("dispatch", f"dispatch_{unique}")
    database, late, sql = Database(url), await asyncpg.connect(url), await asyncpg.connect(url)
    insert = f"INSERT INTO enforcement {ROWS['enforcement']}"
    try:
        writing = late.transaction()
        await writing.start()
        await late.execute(insert, "late")
        await sql.execute(insert, "second")
        with pytest.raises(Unavailable):
            await page(database, "enforcement", None, 1)
        await writing.rollback()
        assert (await page(database, "enforcement", None, 1))[0] == ["second"]
    finally:
        await late.close()
        await sql.close()
        await database.close()
