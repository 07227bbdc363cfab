"""A service in shards, as the tests of each service run it: a database and a client of each shard, by its name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx

from tests.support.holdings import holdings
from tests.support.running import Surroundings


@dataclass
class InShards:
    """`urls`: of each shard's database. `clients`: of each shard that runs."""

    surroundings: Surroundings
    urls: dict[str, str]
    clients: dict[str, httpx.AsyncClient]

    async def sql(self, shard: str, query: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.urls[shard])
        try:
            found: list[asyncpg.Record] = await connection.fetch(query, *values)
            return found
        finally:
            await connection.close()

    async def counted(self, query: str) -> dict[str, int]:
        return {name: (await self.sql(name, query))[0][0] for name in self.urls}

    async def holds(self, shard: str, needles: Sequence[str]) -> list[str]:
        """The columns of a shard's database that hold one of these."""
        connection = await asyncpg.connect(self.urls[shard])
        try:
            return await holdings(connection, needles)
        finally:
            await connection.close()


async def urls_of(surroundings: Surroundings, service: str, shards: Iterable[str]) -> dict[str, str]:
    """A database for each of these shards."""
    return {name: await surroundings.postgres.clone(service, f"{name}_{surroundings.unique}") for name in shards}
