"""campaign-svc with its API in process on a real database, its sender known, and its planner in our hands."""

from collections.abc import AsyncIterator

import pytest

from tests.service.campaign.campaigns import Campaigns, opened
from tests.support.running import Surroundings


@pytest.fixture
async def campaigns(surroundings: Surroundings) -> AsyncIterator[Campaigns]:
    async with opened(surroundings) as found:
        yield found
