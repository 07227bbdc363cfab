"""Postgres: one database and one role per service, SQLAlchemy Core over asyncpg, Alembic for the schema.

A unit of work is `async with database.begin() as tx`, opened at the edge (request, batch, timer); nothing below an edge
commits. Rows move by arrays (`unnest`), hundreds at a time: that is 50 times what single rows do.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from alembic import command, context
from alembic.config import Config
from sqlalchemy import MetaData, event, pool, text
from sqlalchemy.engine import Connection, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_ix",
    "uq": "%(table_name)s_%(column_0_N_name)s_uq",
    "ck": "%(table_name)s_%(constraint_name)s_ck",
    "fk": "%(table_name)s_%(column_0_N_name)s_fk",
    "pk": "%(table_name)s_pk",
}
CONNECT_TIMEOUT_S = 5
POOL_WAIT_S = 5
# A process that stands still in a transaction (frozen, its machine suspended) keeps its locks no longer: opt-outs wait
# for them. Nothing of ours takes so long between two statements, Kafka's acknowledgements included; see `may_idle`.
IDLE_S = 60.0
# Who says nothing, not even that it has received something, is gone. Postgres and Linux would see it after hours.
GONE_S = 30
PROBED_AFTER_S, PROBED_EVERY_S, PROBES = 10, 5, 3
CLIENT_LOOKED_AT_S = 5  # while a statement goes on, or waits for a lock
# A statement that has waited for a lock must see what its holder committed. A database or a role may be set to another
# level (ALTER DATABASE ... SET default_transaction_isolation); what a connection asks for at its start comes before it.
ISOLATION = {"default_transaction_isolation": "read committed"}
PLANNED_NOW = "set_config('plan_cache_mode', 'force_custom_plan', true)"
COPIED_ROWS = 200
COPIED_LINES = 200
COPIED_WITHIN_S = 60.0
MIGRATING_LOOK_S = 0.2
# The server is away, or has no connection, disk or memory left: none of them is a mistake of who asks. Their classes
# (57, 53) hold two that are, and would be tried for ever: a query that was cancelled, as by statement_timeout, and one
# that exceeds a limit of the configuration, as temp_file_limit.
AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DiskFullError,
    asyncpg.OutOfMemoryError,
)


_once_committed: WeakKeyDictionary[AsyncConnection, list[Callable[[], object]]] = WeakKeyDictionary()


def once_committed(tx: AsyncConnection, call: Callable[[], object]) -> None:
    """To tell what the transaction has done, of `Database.begin`'s. Where it fails nothing was done."""
    _once_committed.setdefault(tx, []).append(call)


def new_metadata() -> MetaData:
    """A service's schema, with the naming convention its migrations rely on."""
    return MetaData(naming_convention=NAMING)


class Database:
    """One service's database. `url`: postgresql://role:password@host:port/database. `idle_s`: the server rolls back a
    transaction in which nothing is asked for so long, and closes its connection."""

    def __init__(self, url: str, *, pool_size: int = 10, name: str = "placet", idle_s: float = IDLE_S) -> None:
        self._url = make_url(url).set(drivername="postgresql+asyncpg")
        self.dsn = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._server_settings = {
            **ISOLATION,
            "application_name": name,
            "idle_in_transaction_session_timeout": f"{idle_s:g}s",
            "tcp_keepalives_idle": str(PROBED_AFTER_S),
            "tcp_keepalives_interval": str(PROBED_EVERY_S),
            "tcp_keepalives_count": str(PROBES),
            "tcp_user_timeout": f"{GONE_S}s",
            "client_connection_check_interval": f"{CLIENT_LOOKED_AT_S}s",
        }
        self.engine = create_async_engine(
            self._url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_WAIT_S,
            hide_parameters=True,  # or every failed statement writes what people wrote into the log
            connect_args={
                "async_creator_fn": _connect,
                "timeout": CONNECT_TIMEOUT_S,
                "server_settings": self._server_settings,
            },
        )
        event.listen(self.engine.sync_engine, "checkout", _take_another_if_closed)
        event.listen(self.engine.sync_engine, "handle_error", _away, retval=True)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        async with self.engine.begin() as tx:
            yield tx
        for call in _once_committed.pop(tx, ()):
            call()

    async def read(self, sql: str, *values: object) -> Sequence[Sequence[Any]]:
        """Run one query that only reads, outside any transaction: one round trip. Values and errors: `fetch_many`."""
        async with self.engine.connect() as connection:
            rows: Sequence[Sequence[Any]] = await (await _driver(connection)).fetch(sql, *values)
        return rows

    @asynccontextmanager
    async def locked(self, name: str, idle_s: float, lost: Callable[[], None]) -> AsyncIterator[AsyncConnection | None]:
        """Hold the advisory lock `name` for the length of the block, in a session of its own; None where another
        session holds the lock. The server ends the session, and so frees the lock, once the client has asked nothing
        for `idle_s`. `lost` is called when the session's connection is gone, at the end of the block too."""
        async with self.engine.connect() as session:
            driver = await _driver(session)
            kept = True
            try:
                kept = await driver.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", name)
                if not kept:
                    yield None
                    return
                driver.add_termination_listener(lambda _: lost())
                ends = f"{idle_s * 1000:.0f}"
                await driver.execute(
                    "SELECT set_config('idle_session_timeout', $1, false),"
                    " set_config('idle_in_transaction_session_timeout', $1, false)",
                    ends,
                )
                yield session
            finally:
                if kept:
                    driver.terminate()  # and never back into the pool, with the lock
                    await session.invalidate()

    async def connect(self) -> Any:
        """A raw asyncpg connection outside the pool, for LISTEN. The caller closes it."""
        return await _connect(self.dsn, timeout=CONNECT_TIMEOUT_S, server_settings=self._server_settings)

    async def ping(self) -> None:
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()


async def _connect(*args: Any, **more: Any) -> Any:
    """As asyncpg does. Whoever waits for an answer, or listens, is told when the server's host has gone without a word:
    they would wait for ever."""
    connection = await asyncpg.connect(*args, **more)
    ours = connection._transport.get_extra_info("socket")
    if ours is not None and ours.family in (socket.AF_INET, socket.AF_INET6):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", PROBED_AFTER_S),
            ("TCP_KEEPINTVL", PROBED_EVERY_S),
            ("TCP_KEEPCNT", PROBES),
            ("TCP_USER_TIMEOUT", GONE_S * 1000),
        ):
            if hasattr(socket, option):  # all of them on Linux
                ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection


def _take_another_if_closed(_: object, held: Any, *more: object) -> None:
    """A pooled connection whose end came meanwhile. The driver knows: to ask the server would be a round trip of each
    transaction, and of one that fell silent it would be waited for."""
    if held.driver_connection.is_closed():
        raise DisconnectionError


def _away(failed: ExceptionContext) -> BaseException | None:
    """What SQLAlchemy calls OperationalError with other drivers, and with asyncpg by no name of its own."""
    error = failed.original_exception
    if not isinstance(error.__cause__, AWAY):
        return None
    return OperationalError(failed.statement, None, error, True, failed.is_disconnect)


async def insert_many(
    tx: AsyncConnection, table: str, columns: Mapping[str, str], rows: Sequence[Sequence[Any]]
) -> None:
    """Rows into a table, in this order, within the transaction. `columns`: name: Postgres type, as `rows` have them.
    By COPY where there are many: less work on both sides, and one round trip more. Errors are asyncpg's own, and
    TimeoutError of a COPY: where a connection is lost while the server does not read, the driver waits for ever."""
    if not rows:
        return
    if len(rows) >= COPIED_ROWS:
        async with asyncio.timeout(COPIED_WITHIN_S):
            await (await _raw(tx)).copy_records_to_table(table, records=rows, columns=list(columns))
        return
    names, arrays = ", ".join(columns), ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(columns.values(), start=1))
    rows_of = f"unnest({arrays}) WITH ORDINALITY AS r({names}, place) ORDER BY place"
    await fetch_many(tx, f"INSERT INTO {table} ({names}) SELECT {names} FROM {rows_of}", *zip(*rows, strict=True))


async def copy_lines(tx: AsyncConnection, table: str, columns: Sequence[str], lines: Sequence[str]) -> None:
    """Rows into a table, within the transaction: as COPY's text format has them, each line with its end. A thread can
    write them beforehand, where `insert_many` takes time of the loop for each. Errors as there."""

    async def source() -> AsyncIterator[bytes]:
        for at in range(0, len(lines), COPIED_LINES):
            yield "".join(lines[at : at + COPIED_LINES]).encode()

    async with asyncio.timeout(COPIED_WITHIN_S):
        await (await _raw(tx)).copy_to_table(table, source=source(), columns=list(columns), format="text")


def escaped(value: str) -> str:
    """A text in one of those lines."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


async def fetch_many(tx: AsyncConnection, sql: str, *values: object) -> Sequence[Sequence[Any]]:
    """The rows of a query, `values` as $1, $2…, within the transaction, as asyncpg has them: of thousands, making them
    SQLAlchemy's takes as long as reading them. Errors are asyncpg's own."""
    raw = await _driver(tx)
    rows: Sequence[Sequence[Any]]
    if raw.is_in_transaction():
        rows = await raw.fetch(sql, *values)
        return rows
    # SQLAlchemy begins the transaction, with its first statement and not before. Where that is cancelled half-way it
    # throws the connection away, and nobody gets one that is still in a transaction.
    try:
        found = await tx.exec_driver_sql(sql, values)
    except DBAPIError as error:
        raise _asyncpgs(error) from None
    rows = found.all() if found.returns_rows else []
    return rows


async def may_idle(tx: AsyncConnection) -> None:
    """Nothing ends this transaction because it stands still: of one that nobody waits for, and that itself waits for a
    log, a file or a reader."""
    await fetch_many(tx, "SET LOCAL idle_in_transaction_session_timeout = 0")  # takes no snapshot


async def plan_now(tx: AsyncConnection) -> None:
    """What follows in this transaction is planned as its tables are, if it has a parameter. A connection keeps the plan
    of what it asks again and again, and one of when a table was empty reads all of it."""
    await fetch_many(tx, f"SELECT {PLANNED_NOW}")


async def _raw(tx: AsyncConnection) -> Any:
    """asyncpg's connection, within the transaction: a round trip where it has not begun."""
    raw = await _driver(tx)
    if not raw.is_in_transaction():
        await tx.execute(text("SELECT"))
    return raw


async def _driver(tx: AsyncConnection) -> Any:
    return (await tx.get_raw_connection()).driver_connection


def _asyncpgs(error: DBAPIError) -> BaseException:
    """What SQLAlchemy's error is made of."""
    return (error.orig and error.orig.__cause__) or error


def migrate(url: str, package: str, revision: str = "head") -> None:
    """Bring the database of service `package` to `revision`. Blocking; call it outside an event loop or in a thread."""
    command.upgrade(alembic_config(url, package), revision)


def alembic_config(url: str, package: str) -> Config:
    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    config.attributes["url"] = url
    return config


def run_migrations(metadata: MetaData) -> None:
    """The whole of a service's `migrations/env.py`. Each migration is a transaction, or several where it makes an index
    beside those who write (`autocommit_block`): such a one must bear being begun again."""
    url = context.config.attributes["url"]

    def upgrade(connection: Connection) -> None:
        # two migration jobs at once: the second waits, then finds nothing to do. It asks again and again, as an index
        # that is being made waits for every statement that has begun
        while not connection.scalar(text("SELECT pg_try_advisory_lock(hashtext('alembic'))")):
            connection.rollback()
            time.sleep(MIGRATING_LOOK_S)
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=metadata,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()

    async def connect() -> None:
        engine = create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            poolclass=pool.NullPool,
            connect_args={"server_settings": ISOLATION},
        )
        async with engine.connect() as connection:
            await connection.run_sync(upgrade)
            await connection.commit()
        await engine.dispose()

    asyncio.run(connect())
