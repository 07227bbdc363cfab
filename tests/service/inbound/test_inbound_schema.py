"""The migrations and the tables the code names are one schema."""

import asyncio

import pytest
from alembic import command

from common.db.database import alembic_config, migrate
from tests.infrastructure import Postgres

pytestmark = pytest.mark.brokerless


async def test_the_migrations_make_the_tables_that_the_code_names(postgres: Postgres, unique: str) -> None:
    url = await postgres.clone("inbound", f"inbound_{unique}")
    await asyncio.to_thread(command.check, alembic_config(url, "inbound"))


async def test_the_last_migration_can_be_taken_back_and_made_again(postgres: Postgres, unique: str) -> None:
    url = await postgres.clone("inbound", f"inbound_{unique}")
    await asyncio.to_thread(command.downgrade, alembic_config(url, "inbound"), "-1")
    await asyncio.to_thread(migrate, url, "inbound")
    await asyncio.to_thread(command.check, alembic_config(url, "inbound"))
