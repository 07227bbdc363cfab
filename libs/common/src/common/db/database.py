"""Connections and transactions of PostgreSQL, rows moved by arrays, and schema migrations.

A unit of work is `async with database.begin() as tx`, opened at the edge (request, batch, timer); code below never
commits.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import MetaData, event, pool, text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from common.db.tls import without_tls_of
from common.telemetry import gauge, histogram, tracing

if TYPE_CHECKING:
    from alembic.config import Config

NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_ix",
    "uq": "%(table_name)s_%(column_0_N_name)s_uq",
    "ck": "%(table_name)s_%(constraint_name)s_ck",
    "fk": "%(table_name)s_%(column_0_N_name)s_fk",
    "pk": "%(table_name)s_pk",
}
CONNECT_TIMEOUT_S = 5
POOL_WAIT_S = 5
# Opt-outs wait for the locks of a frozen process. See `may_idle`.
IDLE_S = 60.0
# by default Postgres and Linux notice after hours
GONE_S = 30
PROBED_AFTER_S, PROBED_EVERY_S, PROBES = 10, 5, 3
CLIENT_LOOKED_AT_S = 5  # during a statement
# A statement that has waited for a lock must see its holder's commit, whatever ALTER DATABASE says.
ISOLATION = {"default_transaction_isolation": "read committed"}
PLANNED_NOW = "set_config('plan_cache_mode', 'force_custom_plan', true)"
COPIED_ROWS = 200
COPIED_MESSAGES = 50  # of rows written for each message: COPY logs them by the page
COPIED_LINES = 200
COPIED_WITHIN_S = 60.0
MIGRATING_LOOK_S = 0.2
# The oids of PostgreSQL's own types never change. asyncpg asks for those of arrays once a connection and statement.
ARRAYS = {
    "bool": (1000, 16),
    "bytea": (1001, 17),
    "int2": (1005, 21),
    "int4": (1007, 23),
    "int8": (1016, 20),
    "float8": (1022, 701),
    "date": (1182, 1082),
    "timestamptz": (1185, 1184),
    "interval": (1187, 1186),
    "uuid": (2951, 2950),
}
# The server is away, or has no connection, disk or memory left. Not the whole classes 57 and 53: callers would retry a
# statement_timeout or an exceeded temp_file_limit for ever.
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
    asyncpg.InternalClientError,  # the driver has read the server's farewell, and not yet the end of the connection
)

POOL = gauge(
    "sms_database_pool_connections", "Connections of the pool: used, idle, and the most there may be.", ["state"]
)
WAITED = histogram(
    "sms_database_pool_wait_seconds",
    "How long a transaction waited for a connection of the pool.",
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 2.5, 5),
)

_once_committed: WeakKeyDictionary[AsyncConnection, list[Callable[[], object]]] = WeakKeyDictionary()
_once_undone: WeakKeyDictionary[AsyncConnection, list[Callable[[], object]]] = WeakKeyDictionary()


def once_committed(tx: AsyncConnection, call: Callable[[], object]) -> None:
    """Call `call` once `tx` has committed; never if `tx` fails."""
    _once_committed.setdefault(tx, []).append(call)


def once_undone(tx: AsyncConnection, call: Callable[[], object]) -> None:
    """Call `call` once the work within `tx` has failed, and was surely rolled back: never after a failed commit."""
    _once_undone.setdefault(tx, []).append(call)


BeforeCommit = Callable[["Database", AsyncConnection], Awaitable[None]]
_before_commit: ContextVar[BeforeCommit | None] = ContextVar("before_commit", default=None)


@contextmanager
def before_commits(call: BeforeCommit) -> Iterator[None]:
    """Call `call` at the end of each transaction that the block opens: an error of `call` rolls the work back."""
    before = _before_commit.set(call)
    try:
        yield
    finally:
        _before_commit.reset(before)


def new_metadata() -> MetaData:
    """Return a schema with the names that migrations rely on."""
    return MetaData(naming_convention=NAMING)


class Direction(NamedTuple):
    """The direction of a list, in SQL: `beyond` compares with the last row, `start` lies before the first."""

    beyond: str
    order: str
    start: str


NEWEST_FIRST, OLDEST_FIRST = Direction("<", "DESC", "infinity"), Direction(">", "ASC", "-infinity")


Fetch = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]  # of a new connection, without parameters


class Database:
    """The database of a service. After `idle_s` without a statement the server rolls back and closes the connection.

    `check`: called once with each new connection of the pool, before any use, and refuses the connection by an error.
    """

    def __init__(self, url: str, *, pool_size: int = 10, name: str = "placet", idle_s: float = IDLE_S) -> None:
        self.name = name
        self.check: Callable[[Fetch], Awaitable[None]] | None = None
        located, self._tls = without_tls_of(url)
        self._url = located.set(drivername="postgresql+asyncpg")
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
            pool_use_lifo=True,  # a backend plans each statement for itself: as few as the load needs
            pool_timeout=POOL_WAIT_S,
            hide_parameters=True,  # else a failed statement writes people's texts into the log
            connect_args={
                "async_creator_fn": self._checked,
                "timeout": CONNECT_TIMEOUT_S,
                "server_settings": self._server_settings,
                "ssl": self._tls,
            },
        )
        event.listen(self.engine.sync_engine, "connect", _know_arrays)
        event.listen(self.engine.sync_engine, "checkout", _take_another_if_closed)
        event.listen(self.engine.sync_engine, "handle_error", _away, retval=True)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction, rolled back if the block raises."""
        asked = time.perf_counter()
        with tracing.transaction(self.name):
            async with self.engine.begin() as tx:
                WAITED.observe(time.perf_counter() - asked)
                try:
                    yield tx
                    if (last := _before_commit.get()) is not None:
                        await last(self, tx)
                except BaseException:
                    for call in _once_undone.pop(tx, ()):
                        call()
                    raise
        for call in _once_committed.pop(tx, ()):
            call()

    def show_pool(self) -> None:
        """Show the pool in the metrics of the process. The last database shown is the process's own."""
        connections = self.engine.sync_engine.pool
        assert isinstance(connections, pool.QueuePool)
        POOL.labels("used").set_function(connections.checkedout)
        POOL.labels("idle").set_function(connections.checkedin)
        POOL.labels("most").set_function(connections.size)

    async def read(self, sql: str, *values: object) -> Sequence[Sequence[Any]]:
        """Run a read-only query in a single round trip, without a transaction. See `fetch_many`."""
        with tracing.transaction(self.name):
            async with self.engine.connect() as connection:
                rows: Sequence[Sequence[Any]] = await (await _driver(connection)).fetch(sql, *values)
        return rows

    async def run(self, sql: str, *values: object) -> Sequence[Sequence[Any]]:
        """Run one statement as a transaction of its own: a single round trip. Values and errors: `fetch_many`.

        The server commits without the client: a client that stands still holds no lock.
        """
        return await self.read(sql, *values)

    @asynccontextmanager
    async def locked(self, name: str, idle_s: float, lost: Callable[[], None]) -> AsyncIterator[AsyncConnection | None]:
        """Hold the advisory lock `name` during the block, in a session of its own.

        The block gets `None` where another session holds the lock. The server ends the session, and frees the lock,
        after `idle_s` without a statement. `lost` is called when the connection has gone, also at the end of the block.
        """
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
                    driver.terminate()  # the pool must never get the session back with the lock
                    await session.invalidate()

    async def connect(self) -> Any:
        """Return a raw asyncpg connection outside the pool, which the caller closes."""
        return await _connect(self.dsn, timeout=CONNECT_TIMEOUT_S, server_settings=self._server_settings, ssl=self._tls)

    async def _checked(self, *args: Any, **more: Any) -> Any:
        connection = await _connect(*args, **more)
        if self.check is not None:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self.check(connection.fetch)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def ping(self) -> None:
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()


# As asyncpg's own query for a type answers.
_ARRAY_TYPES = [
    {
        "oid": oid,
        "ns": "pg_catalog",
        "name": f"_{name}",
        "kind": b"b",
        "basetype": None,
        "elemtype": of,
        "elemtype_name": name,
        "elemdelim": ",",
        "range_subtype": None,
        "attrtypoids": None,
        "attrnames": None,
    }
    for name, (oid, of) in ARRAYS.items()
]


async def _connect(*args: Any, **more: Any) -> Any:
    """Connect with TCP keepalive; else a caller waits for ever for a vanished host."""
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
            if hasattr(socket, option):  # Linux has all four
                ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection


def _know_arrays(held: Any, _: object) -> None:
    """Tell asyncpg the types of arrays. After SQLAlchemy has set its codecs, which makes asyncpg forget such types."""
    held.driver_connection._protocol.get_settings().register_data_types(_ARRAY_TYPES)


def _take_another_if_closed(_: object, held: Any, *more: object) -> None:
    """Make the pool replace a closed connection.

    A ping would cost a round trip, and wait on a silent connection.
    """
    if held.driver_connection.is_closed():
        raise DisconnectionError


def _away(failed: ExceptionContext) -> BaseException | None:
    """Return OperationalError for an error of `AWAY`, as SQLAlchemy does not for asyncpg; else None."""
    error = failed.original_exception
    if not isinstance(error.__cause__, AWAY):
        return None
    return OperationalError(failed.statement, None, error, True, failed.is_disconnect)


async def has_written(tx: AsyncConnection) -> bool:
    """Return whether `tx` has written or locked a row."""
    [(written,)] = await fetch_many(tx, "SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
    return bool(written)


async def insert_many(
    tx: AsyncConnection,
    table: str,
    columns: Mapping[str, str],
    rows: Sequence[Sequence[Any]],
    *,
    copied_from: int = COPIED_ROWS,
) -> None:
    """Insert rows into a table, in this order, within the transaction.

    `columns`: name to Postgres type. From `copied_from` on the rows go by COPY: less work, a round trip more. Raises
    asyncpg's errors, and TimeoutError of a COPY: the driver waits for ever on a lost connection.
    """
    if not rows:
        return
    if len(rows) >= copied_from:
        async with asyncio.timeout(COPIED_WITHIN_S):
            await (await _raw(tx)).copy_records_to_table(table, records=rows, columns=list(columns))
        return
    names, arrays = ", ".join(columns), ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(columns.values(), start=1))
    rows_of = f"unnest({arrays}) WITH ORDINALITY AS r({names}, place) ORDER BY place"
    await fetch_many(tx, f"INSERT INTO {table} ({names}) SELECT {names} FROM {rows_of}", *zip(*rows, strict=True))


async def copy_lines(tx: AsyncConnection, table: str, columns: Sequence[str], lines: Sequence[str]) -> None:
    """Copy lines of COPY's text format, each with its end, into a table. Errors: `insert_many`.

    A thread can write them beforehand; `insert_many` takes the loop's time.
    """

    async def source() -> AsyncIterator[bytes]:
        for at in range(0, len(lines), COPIED_LINES):
            yield "".join(lines[at : at + COPIED_LINES]).encode()

    async with asyncio.timeout(COPIED_WITHIN_S):
        await (await _raw(tx)).copy_to_table(table, source=source(), columns=list(columns), format="text")


async def copy_encoded(tx: AsyncConnection, table: str, columns: Sequence[str], content: bytes) -> None:
    """Copy rows in COPY's binary format, with header and end, into a table. Errors: `insert_many`."""

    async def source() -> AsyncIterator[bytes]:
        yield content

    async with asyncio.timeout(COPIED_WITHIN_S):
        await (await _raw(tx)).copy_to_table(table, source=source(), columns=list(columns), format="binary")


def escaped(value: str) -> str:
    """Return a field of such a line."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


async def fetch_many(tx: AsyncConnection, sql: str, *values: object) -> Sequence[Sequence[Any]]:
    """Return a query's rows within the transaction, with `values` as $1, $2…

    The query needs a column: without one, the first statement of a transaction returns no row, whatever there is.
    Rows and errors are asyncpg's own: SQLAlchemy's conversion doubles the time for thousands of rows.
    """
    raw = await _driver(tx)
    rows: Sequence[Sequence[Any]]
    if raw.is_in_transaction() or await _begun(tx, raw):
        rows = await raw.fetch(sql, *values)
        return rows
    # A first statement makes SQLAlchemy begin the transaction. Cancelled half-way, SQLAlchemy drops the connection.
    try:
        found = await tx.exec_driver_sql(sql, values)
    except DBAPIError as error:
        raise _asyncpgs(error) from None
    rows = found.all() if found.returns_rows else []
    return rows


async def _begun(tx: AsyncConnection, raw: Any) -> bool:
    """Begin the transaction that `Database.begin` has opened, as SQLAlchemy's first statement would, in half the time.

    A session without such a block begins by that statement: only then its rollback knows of a transaction.
    """
    if not tx.in_transaction():
        return False
    assert tx.sync_connection is not None, "a connection in a transaction has begun"
    adapter = tx.sync_connection.connection.dbapi_connection
    assert isinstance(adapter, AsyncAdapt_asyncpg_connection)
    try:
        await adapter._start_transaction()
    except BaseException as error:
        raw.terminate()  # cancelled half-way, the server may have begun: the pool drops a closed connection
        if isinstance(error.__cause__, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError):
            raise error.__cause__ from None
        raise
    return True


async def fetch_alone(session: AsyncConnection, sql: str, *values: object) -> Sequence[Sequence[Any]]:
    """Run one statement of a session as a transaction of its own: a single round trip. Values and errors: `fetch_many`.

    The session must not be within a transaction.
    """
    rows: Sequence[Sequence[Any]] = await (await _driver(session)).fetch(sql, *values)
    return rows


async def may_idle(tx: AsyncConnection) -> None:
    """Let this transaction stand idle for any length of time.

    Only while no request waits for the transaction.
    """
    await fetch_many(tx, "SET LOCAL idle_in_transaction_session_timeout = 0")  # SET takes no snapshot


async def plan_now(tx: AsyncConnection) -> None:
    """Plan the rest of this transaction anew; only statements with parameters.

    A kept plan from when a table was empty reads the whole table.
    """
    await fetch_many(tx, f"SELECT {PLANNED_NOW}")


async def _raw(tx: AsyncConnection) -> Any:
    """Return asyncpg's connection within the transaction."""
    raw = await _driver(tx)
    if not raw.is_in_transaction():
        await tx.execute(text("SELECT"))
    return raw


async def _driver(tx: AsyncConnection) -> Any:
    held = tx.sync_connection
    if held is None or held.closed or held.invalidated:
        return (await tx.get_raw_connection()).driver_connection  # raises, or connects anew
    return held.connection.driver_connection  # without the greenlet, which costs as much as the statement's encoding


def _asyncpgs(error: DBAPIError) -> BaseException:
    """Return the asyncpg error below SQLAlchemy's."""
    return (error.orig and error.orig.__cause__) or error


# What a running service may do: read and write rows, ANALYZE and LOCK. Not TRUNCATE, nor what an owner may: DDL, and to
# switch off the triggers that keep the ledger append-only.
RIGHTS = (
    "GRANT USAGE ON SCHEMA public TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE, MAINTAIN ON ALL TABLES IN SCHEMA public TO {role}",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}",
)


def migrate(url: str, package: str, revision: str = "head", runs_as: str | None = None) -> None:
    """Bring a service's database to `revision`. Blocking: not for an event loop's thread.

    `runs_as`: the role of the running service, where `url` is the owner's: the role then gets RIGHTS.
    """
    from alembic import command  # a process that migrates nothing starts without

    config = alembic_config(url, package)
    config.attributes["runs_as"] = runs_as
    command.upgrade(config, revision)


def alembic_config(url: str, package: str) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    config.attributes["url"] = url
    return config


def run_migrations(metadata: MetaData) -> None:
    """Run migrations: the whole of a service's `migrations/env.py`.

    Each migration is a transaction, except that a concurrent index build (`autocommit_block`) makes several: such a
    migration must tolerate a second run from its beginning.
    """
    from alembic import context

    url = context.config.attributes["url"]
    runs_as = context.config.attributes.get("runs_as")

    def upgrade(connection: Connection) -> None:
        # Of two jobs the second polls: a concurrent index build waits for every running statement.
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
        if runs_as is not None:
            role = connection.dialect.identifier_preparer.quote_identifier(runs_as)
            for right in RIGHTS:
                connection.execute(text(right.format(role=role)))

    async def connect() -> None:
        located, tls = without_tls_of(url)
        engine = create_async_engine(
            located.set(drivername="postgresql+asyncpg"),
            poolclass=pool.NullPool,
            connect_args={"server_settings": ISOLATION, "ssl": tls},
        )
        async with engine.connect() as connection:
            await connection.run_sync(upgrade)
            await connection.commit()
        await engine.dispose()

    asyncio.run(connect())
