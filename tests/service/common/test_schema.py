"""Each service's migrations and the tables its code names are one schema."""

import asyncio

import pytest
from alembic import command

from common.db.database import alembic_config, migrate
from tests.infrastructure import SERVICES, Postgres

pytestmark = pytest.mark.brokerless


@pytest.mark.parametrize("service", SERVICES)
async def test_the_migrations_make_the_tables_that_the_code_names(
    service: str, postgres: Postgres, unique: str
) -> None:
    url = await postgres.clone(service, f"{service}_{unique}")
    await asyncio.to_thread(command.check, alembic_config(url, service))


@pytest.mark.parametrize("service", SERVICES)
async def test_the_last_migration_can_be_taken_back_and_made_again(
    service: str, postgres: Postgres, unique: str
) -> None:
    url = await postgres.clone(service, f"{service}_{unique}")
    await asyncio.to_thread(command.downgrade, alembic_config(url, service), "-1")
    await asyncio.to_thread(migrate, url, service)
    await asyncio.to_thread(command.check, alembic_config(url, service))
