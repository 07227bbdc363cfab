"""Fixtures shared by the suites. Unique names instead of cleaning: tests share one Postgres and one broker."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from playwright.async_api import Browser

from common import batch
from common.db import database
from tests.support.browser import chromium
from tests.support.infrastructure import NOWHERE, Broker, Postgres, kafka_broker, postgres_server
from tests.support.order import long_ones_first
from tests.support.running import Surroundings
from tests.support.seed import seed

TESTS = Path(__file__).parent
SUITES = ("service", "e2e")
WITH_A_BROKER = {"broker", "surroundings"}

as_it_was = hypothesis.settings.get_profile(hypothesis.settings.get_current_profile_name())
hypothesis.settings.register_profile("untimed", as_it_was, deadline=None)  # a busy machine is no counterexample
hypothesis.settings.load_profile("untimed")
# A machine that stands still for some seconds is no database that is away, of which a service in process tells by 503
batch.GIVEN_UP_S = 60.0
database.CONNECT_TIMEOUT_S = database.POOL_WAIT_S = 60


def pytest_report_header() -> str:
    return f"PLACET_TEST_SEED={seed()}"


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder decides the suite; and what asks for nothing that has a broker can reach none."""
    for item in items:
        for suite in SUITES:
            if f"/tests/{suite}/" in str(item.path):
                item.add_marker(suite)
        if item.get_closest_marker("service") and WITH_A_BROKER.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("brokerless")
    items[:] = long_ones_first(items, TESTS)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What is imported by now stays: each collection would walk over its objects, a million."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before the errors that nobody retrieved are told
def pytest_sessionfinish() -> None:
    """What became garbage after its test was walked over for the last time tells of its errors now."""
    gc.unfreeze()
    gc.collect()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("placet")


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[Postgres]:
    with postgres_server(scratch) as server:
        yield server


@pytest.fixture(scope="session")
def broker(scratch: Path) -> Iterator[Broker]:
    with kafka_broker(scratch) as server:
        yield server


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for a test that is no coroutine: hypothesis drives state machines, and awaits nothing."""
    with asyncio.Runner() as opened:
        yield opened


@pytest.fixture
def unique() -> str:
    """A name no other test uses: databases, topics, senders."""
    return "t" + uuid4().hex[:10]


@pytest.fixture
def surroundings(request: pytest.FixtureRequest, postgres: Postgres, unique: str) -> Iterator[Surroundings]:
    """Where a test says that it needs no broker, there is none.

    The topics of a test go with it: each client that starts asks for all topics of the broker, and after a thousand
    tests reads nothing else. Apache Kafka takes longer to delete them.
    """
    if request.node.get_closest_marker("brokerless") is not None:
        yield Surroundings(postgres, NOWHERE, unique)
        return
    broker: Broker = request.getfixturevalue("broker")
    yield Surroundings(postgres, broker, unique)
    if not broker.idempotent:
        asyncio.run(broker.forget(unique))
