"""The migrations and the tables the code names are one schema."""

import asyncio
import sys

import asyncpg
import pytest
from alembic import command

from common.db.database import alembic_config, migrate
from tests.eventually import eventually
from tests.infrastructure import Postgres

pytestmark = pytest.mark.brokerless


async def test_the_migrations_make_the_tables_that_the_code_names(postgres: Postgres, unique: str) -> None:
    url = await postgres.clone("dispatch", f"dispatch_{unique}")
    await asyncio.to_thread(command.check, alembic_config(url, "dispatch"))


async def test_the_last_migration_can_be_taken_back_and_made_again(postgres: Postgres, unique: str) -> None:
    url = await postgres.clone("dispatch", f"dispatch_{unique}")
    await asyncio.to_thread(command.downgrade, alembic_config(url, "dispatch"), "-1")
    await asyncio.to_thread(migrate, url, "dispatch")
    await asyncio.to_thread(command.check, alembic_config(url, "dispatch"))


async def test_migrations_that_make_their_indexes_beside_others_bear_being_begun_again(
    postgres: Postgres, unique: str
) -> None:
    url = await postgres.clone("dispatch", f"dispatch_{unique}")
    for interrupted in ("0015", "0016", "0017"):
        await asyncio.to_thread(command.stamp, alembic_config(url, "dispatch"), f"{int(interrupted) - 1:04}")
        await asyncio.to_thread(migrate, url, "dispatch", interrupted)
    await asyncio.to_thread(migrate, url, "dispatch")
    await asyncio.to_thread(command.check, alembic_config(url, "dispatch"))


async def test_what_waits_is_indexed_beside_who_decides_and_who_writes(postgres: Postgres, unique: str) -> None:
    """Who decides has claimed what is due and then asks for its campaign (of the version before: its row); others go on
    writing. Two migration jobs, of which one has nothing to do."""
    url = await postgres.clone("dispatch", f"dispatch_{unique}")
    await asyncio.to_thread(command.downgrade, alembic_config(url, "dispatch"), "0015")
    deciding, writing = await asyncpg.connect(url), await asyncpg.connect(url)

    async def waits() -> bool:
        [(there, waiting)] = await writing.fetch(
            "SELECT count(*), count(*) FILTER (WHERE wait_event_type = 'Lock') FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return any(job.done() for job in jobs) or (there == 2 + len(jobs) and waiting > 0)

    try:
        async with deciding.transaction():
            await deciding.execute("UPDATE message SET due_at = due_at")
            await deciding.fetch("SELECT 1 FROM message FOR UPDATE")
            jobs = [asyncio.create_task(migrate_as_a_process(url)) for _ in range(2)]
            await eventually(waits)
            await writing.execute("UPDATE message SET due_at = due_at", timeout=10)
            await deciding.fetch("SELECT control FROM campaign WHERE campaign_id = 'c1' FOR SHARE", timeout=10)
        assert await asyncio.gather(*jobs) == [0, 0]
    finally:
        await deciding.close()
        await writing.close()
    await asyncio.to_thread(command.check, alembic_config(url, "dispatch"))


async def migrate_as_a_process(url: str) -> int:
    code = f"from common.database import migrate; migrate({url!r}, 'dispatch')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    return await process.wait()
