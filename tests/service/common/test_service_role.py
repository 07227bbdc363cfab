"""The role of a running service reads and writes rows, and can neither change the schema nor switch a trigger off."""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import make_url

from common.keyring import SubjectKeys
from common.settings import SubjectRingSettings
from tests.support.builders import subject
from tests.support.infrastructure import SERVICES, Postgres
from tests.support.running import OUTER_RING, SUBJECT_RING, environment

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


async def owned(postgres: Postgres, name: str, roles: tuple[str, str]) -> dict[str, str]:
    """Make a database of the owner; return its url by role."""
    url = make_url(await postgres.empty(name))
    admin = await asyncpg.connect(postgres.admin_url)
    await admin.execute(f"ALTER DATABASE {url.database} OWNER TO {roles[0]}")
    await admin.close()
    return {role: url.set(username=role, password=role).render_as_string(hide_password=False) for role in roles}


@pytest.mark.brokerless
@pytest.mark.parametrize("service", SERVICES)
async def test_the_role_of_a_service_has_no_ddl_and_cannot_switch_a_trigger_off(
    postgres: Postgres, unique: str, roles: tuple[str, str], service: str
) -> None:
    owner, runs = roles
    of = await owned(postgres, f"{service}_{unique}", roles)
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


@pytest.mark.brokerless
async def test_the_owner_moves_the_ids_of_a_service_that_stands_still(
    postgres: Postgres, unique: str, roles: tuple[str, str]
) -> None:
    """Also what a trigger keeps as it is; the role of the service cannot."""
    owner, runs = roles
    of = await owned(postgres, f"consent_{unique}", roles)
    new = base64.b64encode(b"n" * 32).decode()
    ring = SUBJECT_RING | {"outer": {"current": "t2", "keys": OUTER_RING["keys"] | {"t2": new}}}
    keys = SubjectKeys(SubjectRingSettings.model_validate(ring))

    async def run(*command: str, by: str = owner) -> tuple[int | None, str]:
        told = environment({"database_url": of[runs], "owner_url": of[by], "subject_keys": ring, "partitions": 3})
        words = (sys.executable, "-m", "consent", *command)
        process = await asyncio.create_subprocess_exec(*words, env=told, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    assert await run("migrate") == (0, "")
    sql = await asyncpg.connect(of[runs])
    kept = "INSERT INTO ended_entry VALUES ($1, $2, $3, 1, now(), '', now())"
    for n in range(3):
        await sql.execute(kept, n, f"ev-{n}", subject(n))
    code, said = await run("keys", "--subjects")
    assert (code, f"1 of the role {runs}. Stop every process" in said) == (1, True)
    await sql.close()
    assert (await run("keys", "--subjects", by=runs))[0] != 0
    code, said = await run("keys", "--subjects", "--count")
    assert (code, said.splitlines()[0]) == (1, "ended_entry: 3 rows left")
    code, said = await run("keys", "--subjects")
    assert (code, said.splitlines()) == (
        0,
        [
            "ended_entry: 3 rows moved",
            "current outer key: t2; others in the ring: t1; rows with ids of the others: 0",
        ],
    )
    sql = await asyncpg.connect(of[runs])
    try:
        moved = await sql.fetch("SELECT subject_id FROM ended_entry ORDER BY ordinal")
        assert [who for (who,) in moved] == [keys.current(subject(n)) for n in range(3)]
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await sql.execute("UPDATE ended_entry SET hash = 'x'")
    finally:
        await sql.close()
