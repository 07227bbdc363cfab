"""What a pool gives back, whatever became of who had a connection before."""

import asyncio
from contextlib import suppress

import asyncpg
import pytest

from common.database import Database, fetch_many, insert_many
from tests.infrastructure import Postgres

pytestmark = pytest.mark.brokerless

TURNS = 60


async def test_who_is_cancelled_leaves_no_transaction_open_to_the_next_user(postgres: Postgres, unique: str) -> None:
    """Cancelled at any moment of it, the first statement's included. What the next one writes by the same connection is
    committed, which another connection sees."""
    url = await postgres.empty(f"database_{unique}")
    database, sql = Database(url, pool_size=1), await asyncpg.connect(url)
    await sql.execute("CREATE TABLE line (n integer)")

    async def write(n: int) -> None:
        async with database.begin() as tx:
            await fetch_many(tx, "SELECT n FROM line")
            await insert_many(tx, "line", {"n": "integer"}, [[n]])

    try:
        for turn in range(TURNS):
            cut = asyncio.create_task(write(-turn))
            for _ in range(turn):  # turns of the loop: a clock of milliseconds would miss its BEGIN
                await asyncio.sleep(0)
            cut.cancel()
            with suppress(asyncio.CancelledError):
                await cut
            await write(turn + 1)
            assert await sql.fetchval("SELECT count(*) FROM line WHERE n = $1", turn + 1) == 1, turn
    finally:
        await sql.close()
        await database.close()
