"""A page that is merged of several shards' ends only where each shard's list ends."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import NamedTuple

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db import everywhere
from common.db.database import Database, fetch_many
from common.db.shards import Shard, Shards
from common.web.pagination import whole_page
from tests.support.running import Surroundings

LIMIT = 4
SINCE = datetime(2026, 3, 2, tzinfo=UTC)
TABLE = "CREATE TABLE counted (id bigint PRIMARY KEY)"


class Row(NamedTuple):
    id: int

    @property
    def at(self) -> datetime:
        return SINCE + timedelta(seconds=self.id)


@pytest.mark.any_broker
async def test_a_row_that_leaves_a_list_between_two_looks_does_not_end_the_list(surroundings: Surroundings) -> None:
    """The second look at a full page then finds a row more, which may be before one still being written."""
    urls = [await surroundings.postgres.clone("consent", f"{name}_{surroundings.unique}") for name in "ab"]
    a, b = (Shard(name, (n,), Database(url)) for n, (name, url) in enumerate(zip("ab", urls, strict=True)))
    looks = 0

    async def read(tx: AsyncConnection, after: int, most: int) -> Sequence[Row]:
        async def look() -> list[Row]:
            nonlocal looks
            rows = await fetch_many(tx, "SELECT id FROM counted WHERE id > $1 ORDER BY id LIMIT $2", after, most)
            if rows and not looks:
                async with a.database.begin() as other:
                    await other.execute(text("DELETE FROM counted WHERE id = 2"))
            looks += bool(rows)
            return [Row(*row) for row in rows]

        return await whole_page(tx, "counted", most, look, attrgetter("id"), is_part=True)

    try:
        for shard in (a, b):
            async with shard.database.begin() as tx:
                await tx.execute(text(TABLE))
        async with a.database.begin() as tx:
            await tx.execute(text("INSERT INTO counted SELECT generate_series(1, 20)"))
        found: list[int] = []
        behind: Sequence[int] | None = (0, 0)
        while behind is not None:
            rows, behind = await everywhere.merged(
                Shards([a, b], a), behind, LIMIT, read, attrgetter("id"), attrgetter("at")
            )
            found += [row.id for row in rows]
        assert found == [1, *range(3, 21)]
    finally:
        for shard in (a, b):
            await shard.database.close()
