"""Back Postgres up while it runs, and restore one database to an instant (PITR), as its operator would.

A base backup and the archived log give a second server, which stops reading the log at the instant. The one database of
a service is copied from there: the other services keep what they have.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg

from stack.postgres import ADMIN, SETTINGS, Postgres, reachable_binaries, unprivileged_user
from stack.processes import POLL_S, DidNotStart, end, free_port, spawn, tail

RESTORED_WITHIN_S = 180.0
STOP_GRACE_S = 10.0
SWITCH = "SELECT pg_walfile_name(pg_switch_wal())"
ARCHIVED = "SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal >= $1 AND failed_count = 0"


@dataclass
class Archive:
    """The archived log and the base backup of a server, in `folder`, which belongs to the server's user."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def settings(self) -> dict[str, str]:
        """Return the settings of the server that is archived, and make the folder."""
        self.log.mkdir(parents=True)
        self._give_away(self.folder, self.log)
        return {
            "wal_level": "replica",
            "archive_mode": "on",
            "archive_command": f"test ! -f {self.log}/%f && cp %p {self.log}/%f",
        }

    def back_up(self, postgres: Postgres) -> None:
        """Take a base backup. Raises DidNotStart."""
        command = [
            "pg_basebackup",
            "--pgdata",
            str(self.base),
            "--checkpoint=fast",
            "--wal-method=none",
            "--no-manifest",
        ]
        self._run([*command, "--dbname", postgres.admin_dsn])

    async def reach(self, postgres: Postgres) -> None:
        """Wait until the archive holds all that is committed now. Raises TimeoutError."""
        sql = await asyncpg.connect(postgres.admin_dsn)
        try:
            async with asyncio.timeout(RESTORED_WITHIN_S):
                segment = await sql.fetchval(SWITCH)
                while not await sql.fetchval(ARCHIVED, segment):  # noqa: ASYNC110  (no event in this process)
                    await asyncio.sleep(POLL_S)
        finally:
            await sql.close()

    async def restore(self, postgres: Postgres, name: str, at: datetime, copy: str) -> None:
        """Make the database `copy` of what `name` was at an instant. Raises DidNotStart."""
        await self.reach(postgres)
        dump = self.folder / f"{copy}.dump"
        async with self._server_of(postgres, at) as port:
            dsn = f"postgresql://{ADMIN}:{postgres.password}@127.0.0.1:{port}/{name}"
            dumping = ["pg_dump", "--format=custom", "--file", str(dump), "--dbname", dsn]
            await asyncio.to_thread(self._run, dumping)
        await postgres.create_copy(name, copy)
        target = postgres.dsn(ADMIN, postgres.password, copy)
        loading = ["pg_restore", "--exit-on-error", "--jobs=2", "--dbname", target, str(dump)]
        await asyncio.to_thread(self._run, loading)
        dump.unlink()

    @asynccontextmanager
    async def _server_of(self, postgres: Postgres, at: datetime) -> AsyncIterator[int]:
        """Run a server on what the archive holds until `at`; yield its port."""
        data, log = self.folder / "restored", self.folder.parent / "restored.log"
        await asyncio.to_thread(shutil.copytree, self.base, data)
        (data / "recovery.signal").touch()
        self._give_away(data, *data.rglob("*"))
        data.chmod(0o700)
        port = free_port()
        options = SETTINGS | {
            "port": str(port),
            "restore_command": f"cp {self.log}/%f %p",
            "recovery_target_time": at.isoformat(),
            "recovery_target_action": "promote",
            "archive_mode": "off",
        }
        user = unprivileged_user()
        command = [str(reachable_binaries(user) / "postgres"), "-D", str(data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        child = spawn(command, log, cwd=Path("/"), user=user)
        try:
            await self._promoted(child, f"postgresql://{ADMIN}:{postgres.password}@127.0.0.1:{port}/{ADMIN}", log)
            yield port
        finally:
            await asyncio.to_thread(end, child, STOP_GRACE_S)
            shutil.rmtree(data)

    async def _promoted(self, child: "subprocess.Popen[bytes]", dsn: str, log: Path) -> None:
        deadline = asyncio.get_running_loop().time() + RESTORED_WITHIN_S
        while child.poll() is None and asyncio.get_running_loop().time() < deadline:
            try:
                sql = await asyncpg.connect(dsn, timeout=5)
                try:
                    if not await sql.fetchval("SELECT pg_is_in_recovery()"):
                        return
                finally:
                    await sql.close()
            except (OSError, asyncpg.PostgresError, TimeoutError):
                pass
            await asyncio.sleep(POLL_S)
        raise DidNotStart(f"the restored server does not answer:\n{tail(log)}")

    def _run(self, command: Sequence[str]) -> None:
        """Run a program of Postgres as the server's user. Raises DidNotStart."""
        user = unprivileged_user()
        program = str(reachable_binaries(user) / command[0])
        who = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, cwd="/", **who)  # type: ignore[call-overload]
        if done.returncode:
            raise DidNotStart(f"{command[0]} ended with code {done.returncode}:\n{done.stderr[-2000:]}")

    def _give_away(self, *paths: Path) -> None:
        if (user := unprivileged_user()) is not None:
            for path in paths:
                os.chown(path, user.uid, user.gid)
