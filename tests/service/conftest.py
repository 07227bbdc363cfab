"""A service test leaves nothing behind: hundreds of databases, a thousand files in each, take minutes to remove at the
end; one by one, while they are still in memory, almost nothing."""

import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.infrastructure import Postgres


@pytest.fixture(autouse=True)
async def databases_go_with_their_test(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    yield
    if "postgres" in request.fixturenames:
        postgres: Postgres = request.getfixturevalue("postgres")
        await postgres.drop()


@pytest.fixture(autouse=True)
def what_a_test_leaves_is_walked_over_once() -> Iterator[None]:
    """Each application leaves some thousand objects in caches of the frameworks, and a consumer that rests collects
    garbage every second: after a thousand tests it would walk over millions of objects, for seconds."""
    yield
    gc.collect()
    gc.freeze()
