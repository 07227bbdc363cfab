"""A migrated database of dispatch-svc, for what needs no service around it, and short waits for strangers."""

from collections.abc import AsyncIterator

import pytest

from common.db.database import Database
from dispatch.accepting import api
from tests.support.infrastructure import Postgres


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    opened = Database(await postgres.clone("dispatch", f"dispatch_{unique}"))
    yield opened
    await opened.close()


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender or a template that a call names and nobody has is waited for a moment, not for two seconds."""
    monkeypatch.setattr(api, "ARRIVES_WITHIN_S", 0.1)
