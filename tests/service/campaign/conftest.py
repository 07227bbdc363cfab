"""campaign-svc with its API in process on a real database, its sender known, and its planner in our hands."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from campaign import store
from campaign.planner import Planner
from campaign.service import Settings, build
from common.database import Database
from common.law import load
from tests.builders import field_keys, link_keys, sender_changed
from tests.running import Surroundings, running
from tests.service.campaign.campaigns import Campaigns

PARTITIONS = 3


@asynccontextmanager
async def opened(surroundings: Surroundings) -> AsyncIterator[Campaigns]:
    settings = Settings(
        **await surroundings.settings(
            "campaign",
            roles="api",
            import_max_bytes=1_000_000,
            prices={"version": "test", "per_part": {"FR": "0.05"}},
            rate_per_s=0.01,
        )
    )
    database = Database(settings.database_url, pool_size=4)
    async with database.begin() as tx:
        await store.put_sender(tx, sender_changed())
    planner = Planner(
        database, field_keys, link_keys, load("france"), partitions=PARTITIONS, chunk=10, backlog=1000, page=4
    )
    async with running(build(settings)) as client:
        yield Campaigns(client, database, surroundings, planner)
    await database.close()


@pytest.fixture
async def campaigns(surroundings: Surroundings) -> AsyncIterator[Campaigns]:
    async with opened(surroundings) as found:
        yield found
