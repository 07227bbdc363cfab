"""A service test leaves nothing behind: hundreds of databases, a thousand files in each, take minutes to remove at the
end; one by one, while they are still in memory, almost nothing."""

from collections.abc import AsyncIterator

import pytest

from tests.support.infrastructure import Postgres


@pytest.fixture(autouse=True)
async def databases_go_with_their_test(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    yield
    if "postgres" in request.fixturenames:
        postgres: Postgres = request.getfixturevalue("postgres")
        await postgres.drop()
