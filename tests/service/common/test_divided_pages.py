"""`divide` walks a table once, by its pages, whatever its indexes."""

import pytest

from common import division
from common.db.database import Database, fetch_many
from common.division import Divided, divide
from common.kafka.broker import partition_of
from tests.support.builders import subject
from tests.support.running import Surroundings

TABLES = Divided("x", of_people=("handed_off",))
MANY = 3000
PEOPLE = [subject(n) for n in range(1, 99)]
ADD = """
INSERT INTO handed_off (handed_off_at, version, message_id, subject_id, sender_id, purpose, status)
SELECT now(), 1, n::text, ($1::text[])[n % cardinality($1::text[]) + 1], 'acme', 'promotions', 'accepted'
FROM generate_series(1, $2::integer) AS n
"""


async def read(database: Database) -> int:
    """The rows of the table that were read without an index."""
    async with database.begin() as tx:
        await fetch_many(tx, "SELECT pg_stat_force_next_flush()")
    async with database.begin() as tx:
        [(many,)] = await fetch_many(tx, "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'handed_off'")
        return int(many)


@pytest.mark.any_broker
async def test_each_row_of_another_shards_people_goes_in_one_pass(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(division, "PAGES", 2)
    monkeypatch.setattr(division, "AT_ONCE", 10)
    database = Database(await surroundings.database("consent"), pool_size=1)
    try:
        async with database.begin() as tx:
            await division.claim(tx, range(3), [], 3)
            await fetch_many(tx, ADD, PEOPLE, MANY)
        before = await read(database)
        gone = await divide(database, TABLES, (0, 1), 3)
        assert await read(database) - before == MANY, "each row is read once"
        async with database.begin() as tx:
            held = [row[0] for row in await fetch_many(tx, "SELECT subject_id FROM handed_off")]
            plan = await fetch_many(tx, f"EXPLAIN {division.OF_PAGES.format(table='handed_off')}", "(0,0)", "(2,0)")
        assert set(held) == {who for who in PEOPLE if partition_of(who, 3) != 2}
        assert len(held) + gone == MANY
        assert plan[0][0].startswith("Tid Range Scan on handed_off")
    finally:
        await database.close()
