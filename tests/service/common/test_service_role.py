"""The role of a running service reads and writes rows, and can neither change the schema nor switch a trigger off."""

import asyncio
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import make_url

from tests.support.infrastructure import SERVICES, Postgres
from tests.support.running import environment

TABLE = {"consent": "evidence", "campaign": "contact", "dispatch": "message", "inbound": "callback"}
FORBIDDEN = (
    "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "ALTER TABLE {table} ADD COLUMN more text",
    "ALTER TABLE {table} OWNER TO {role}",
    "DROP TABLE {table}",
    "TRUNCATE {table}",
    "CREATE TABLE mine (a int)",
    "CREATE TRIGGER mine BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "SET session_replication_role = replica",
    "SET ROLE {owner}",
)


@pytest.fixture
async def roles(postgres: Postgres, unique: str) -> AsyncIterator[tuple[str, str]]:
    """The name of an owner, and of the role of a running service, with the password of the same name."""
    owner, runs = f"owner_{unique}", f"service_{unique}"
    admin = await asyncpg.connect(postgres.admin_url)
    for role in (owner, runs):
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    yield owner, runs
    await postgres.drop()
    for role in (owner, runs):
        await admin.execute(f"DROP ROLE {role}")
    await admin.close()


@pytest.mark.brokerless
@pytest.mark.parametrize("service", SERVICES)
async def test_the_role_of_a_service_has_no_ddl_and_cannot_switch_a_trigger_off(
    postgres: Postgres, unique: str, roles: tuple[str, str], service: str
) -> None:
    owner, runs = roles
    url = make_url(await postgres.empty(f"{service}_{unique}"))
    admin = await asyncpg.connect(postgres.admin_url)
    await admin.execute(f"ALTER DATABASE {url.database} OWNER TO {owner}")
    await admin.close()
    of = {role: url.set(username=role, password=role).render_as_string(hide_password=False) for role in roles}
    for _ in range(2):  # also the next migration
        told = environment({"database_url": of[runs], "owner_url": of[owner]})
        command = (sys.executable, "-m", service, "migrate")
        migration = await asyncio.create_subprocess_exec(*command, env=told)
        assert await migration.wait() == 0, "no key is told, and none is needed"
    sql = await asyncpg.connect(of[runs])
    try:
        table = TABLE[service]
        for statement in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute(statement.format(table=table, role=runs, owner=owner))
        tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rights = "SELECT has_table_privilege($1, 'SELECT') AND has_table_privilege($1, 'INSERT')"
        rights += " AND has_table_privilege($1, 'UPDATE') AND has_table_privilege($1, 'DELETE')"
        assert [one for (one,) in tables if not await sql.fetchval(rights, one)] == []
        await sql.execute(f"ANALYZE {table}")
        await sql.execute(f"DELETE FROM {'outbox' if service == 'consent' else table}")
        if service == "consent":
            with pytest.raises(asyncpg.PostgresError, match="append"):
                await sql.execute("DELETE FROM seal")
        if service == "dispatch":
            await sql.execute("SELECT empty_subject_next(), swap_subject()")  # of a rebuild, by the owner's right
    finally:
        await sql.close()
