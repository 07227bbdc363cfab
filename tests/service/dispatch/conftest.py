"""A migrated database of dispatch-svc, for what needs no service around it."""

from collections.abc import AsyncIterator

import pytest

from common.db.database import Database
from tests.support.infrastructure import Postgres


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    opened = Database(await postgres.clone("dispatch", f"dispatch_{unique}"))
    yield opened
    await opened.close()
