"""Each service's migration and the tables its code names are one schema."""

import asyncio
import sys

import pytest
from alembic import command

from common.db.database import alembic_config, migrate
from tests.support.infrastructure import SERVICES, Postgres

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


async def test_of_two_migration_jobs_at_once_the_second_finds_nothing_to_do(postgres: Postgres, unique: str) -> None:
    url = await postgres.empty(f"dispatch_{unique}")
    assert await asyncio.gather(*(_as_a_process(url) for _ in range(2))) == [0, 0]
    await asyncio.to_thread(command.check, alembic_config(url, "dispatch"))


async def _as_a_process(url: str) -> int:
    code = f"from common.db.database import migrate; migrate({url!r}, 'dispatch')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    return await process.wait()
