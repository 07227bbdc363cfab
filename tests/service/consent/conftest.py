"""A migrated database of consent-svc, for what needs no service around it."""

from collections.abc import AsyncIterator

import pytest

from common.db.database import Database
from tests.support.infrastructure import Postgres


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    opened = Database(await postgres.clone("consent", f"consent_{unique}"))
    yield opened
    await opened.close()
