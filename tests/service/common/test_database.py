"""What a pool gives back, whatever became of who had a connection before."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db import database as databases
from common.db.database import Database, copy_lines, fetch_many, insert_many, may_idle, migrate
from common.telemetry import continue_trace, tracing
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres

pytestmark = pytest.mark.brokerless

TURNS = 60
LINES = 300_000  # more than what sockets hold
WITHIN_S = 30.0
OF_EACH_TYPE = {
    "bool": [True, None],
    "bytea": [b"\x00a"],
    "int2": [-3],
    "int4": [2**31 - 1],
    "int8": [2**63 - 1],
    "float8": [0.5],
    "date": [date(2026, 12, 1)],
    "timestamptz": [datetime(2026, 12, 1, 5, tzinfo=UTC)],
    "interval": [timedelta(days=1, seconds=1)],
    "uuid": [UUID(int=7)],
    "text": ["a"],
}
TCP_OPTIONS = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)


async def test_who_is_cancelled_leaves_no_transaction_open_to_the_next_user(postgres: Postgres, unique: str) -> None:
    """Cancelled at any moment of it, the first statement's included. What the next one writes by the same connection is
    committed, which another connection sees."""
    url = await postgres.empty(f"database_{unique}")
    database, sql = Database(url, pool_size=1), await asyncpg.connect(url)
    await sql.execute("CREATE TABLE line (n integer)")

    async def write(n: int) -> None:
        async with database.begin() as tx:
            await fetch_many(tx, "SELECT n FROM line")
            await insert_many(tx, "line", {"n": "integer"}, [[n]])

    try:
        for turn in range(TURNS):
            cut = asyncio.create_task(write(-turn))
            for _ in range(turn):  # turns of the loop: a clock of milliseconds would miss its BEGIN
                await asyncio.sleep(0)
            cut.cancel()
            with suppress(asyncio.CancelledError):
                await cut
            await write(turn + 1)
            assert await sql.fetchval("SELECT count(*) FROM line WHERE n = $1", turn + 1) == 1, turn
    finally:
        await sql.close()
        await database.close()


async def test_a_first_statement_begins_its_transaction_and_fails_as_any_other(postgres: Postgres, unique: str) -> None:
    """No statement is asked only to begin; an error is the driver's own, first or not."""
    database = Database(await postgres.empty(f"database_{unique}"), pool_size=1)

    async def again(*before: str) -> None:
        async with database.begin() as tx:
            for statement in (*before, "INSERT INTO line VALUES (1)"):
                await fetch_many(tx, statement)

    asked: list[str] = []
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    try:
        async with database.begin() as tx:
            assert await fetch_many(tx, "CREATE TABLE line (n integer PRIMARY KEY)") == []
            assert await fetch_many(tx, "INSERT INTO line SELECT unnest($1::integer[]) RETURNING n", [1, 2]) == [
                (1,),
                (2,),
            ]
        assert asked == [], "each goes to the driver itself"
        with pytest.raises(asyncpg.UniqueViolationError):
            await again()
        with pytest.raises(asyncpg.UniqueViolationError):
            await again("SELECT n FROM line")
        async with database.engine.connect() as session:  # of a relay: no block has opened a transaction
            assert await fetch_many(session, "INSERT INTO line VALUES (3) RETURNING n") == [(3,)]
            await session.rollback()
            raw = (await session.get_raw_connection()).driver_connection
            assert raw is not None
            assert not raw.is_in_transaction()
            assert await fetch_many(session, "SELECT n FROM line WHERE n = 3") == []
    finally:
        await database.close()


async def test_a_transaction_is_one_span_however_many_statements_it_has(postgres: Postgres, unique: str) -> None:
    database, exporter = Database(await postgres.empty(f"database_{unique}"), name="probe"), InMemorySpanExporter()
    tracing.start_with("probe", exporter, at_once=True)
    continue_trace(None)
    try:
        async with database.begin() as tx:
            await fetch_many(tx, "CREATE TABLE line (n integer PRIMARY KEY)")
        assert exporter.get_finished_spans() == (), "no request, no batch"
        with tracing.request("probe", "POST", continues=False):
            async with database.begin() as tx:
                for n in range(3):
                    await fetch_many(tx, "INSERT INTO line VALUES ($1)", n)
                assert exporter.get_finished_spans() == (), "it is not committed"
            with pytest.raises(asyncpg.UniqueViolationError):
                async with database.begin() as tx:
                    await fetch_many(tx, "INSERT INTO line VALUES (0)")
            await database.read("SELECT n FROM line WHERE n = $1", 639980001)
    finally:
        tracing.stop()
        await database.close()
    *spans, request = exporter.get_finished_spans()
    assert [(span.name, (span.attributes or {}).get("error.type")) for span in spans] == [
        ("transaction", None),
        ("transaction", "UniqueViolationError"),
        ("transaction", None),
    ]
    assert {span.parent and span.parent.span_id for span in spans} == {request.context and request.context.span_id}
    assert not any("639980001" in span.to_json() or "line" in span.to_json() for span in spans)


@asynccontextmanager
async def way_to(url: str, deaf: asyncio.Event, lost: asyncio.Event) -> AsyncIterator[str]:
    """Another address for `url`: once `deaf` nothing is taken from who writes; once `lost` their connection is."""
    server_at = make_url(url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: asyncio.Event | None) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
                if held is not None and held.is_set():
                    await lost.wait()
                    writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(server_at.host, server_at.port)
        async with asyncio.TaskGroup() as ways:
            ways.create_task(pass_on(reader, ours, deaf))
            ways.create_task(pass_on(theirs, writer, None))
            await lost.wait()
            writer.transport.abort()
            ours.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield server_at.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)


@pytest.mark.parametrize("many", ["lines", "rows"])
async def test_a_copy_ends_where_its_connection_is_lost_while_nobody_reads(
    postgres: Postgres, unique: str, many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that hangs and then fails over. The driver alone would wait for ever."""
    monkeypatch.setattr(databases, "COPIED_WITHIN_S", 5.0)
    url, deaf, lost = await postgres.empty(f"database_{unique}"), asyncio.Event(), asyncio.Event()
    async with way_to(url, deaf, lost) as way:
        database = Database(way, pool_size=1)
        async with database.begin() as tx:
            await fetch_many(tx, "CREATE TABLE line (said text)")

        async def copy() -> None:
            async with database.begin() as tx:
                await fetch_many(tx, "SELECT said FROM line")
                driver = (await tx.get_raw_connection()).driver_connection
                assert driver is not None
                transports.append(driver._transport)
                deaf.set()
                if many == "lines":
                    await copy_lines(tx, "line", ["said"], ["x" * 199 + "\n"] * LINES)
                else:
                    await insert_many(tx, "line", {"said": "text"}, [["x" * 199]] * LINES)

        async def full() -> bool:
            return bool(transports) and transports[0].get_write_buffer_size() > 65_536

        transports: list[asyncio.WriteTransport] = []
        copying = asyncio.create_task(copy())
        await eventually(full)
        lost.set()
        done, _ = await asyncio.wait({copying}, timeout=WITHIN_S)
        assert done
        with pytest.raises((TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError)):
            await copying
        await database.close()


async def test_who_stands_still_in_a_transaction_keeps_its_locks_only_so_long(postgres: Postgres, unique: str) -> None:
    """A process that is frozen, as an opt-out waits for its lock. It finds its transaction gone, and begins anew."""
    database = Database(await postgres.empty(f"database_{unique}"), pool_size=2, idle_s=0.5)

    async def lock(tx: AsyncConnection) -> None:
        await fetch_many(tx, "SELECT pg_advisory_xact_lock(1)")

    async def others_turn() -> None:
        async with database.begin() as tx:
            await lock(tx)

    async def stands_still() -> None:
        async with database.begin() as tx:
            await lock(tx)
            await asyncio.wait_for(others_turn(), WITHIN_S)
            await fetch_many(tx, "SELECT 1")

    try:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError)):
            await stands_still()
        async with database.begin() as first, database.begin() as second:
            assert await fetch_many(first, "SELECT 1") == await fetch_many(second, "SELECT 1") == [(1,)]
    finally:
        await database.close()


async def test_a_transaction_that_holds_nobody_up_may_stand_still(postgres: Postgres, unique: str) -> None:
    """And the next one of its connection may not."""
    database = Database(await postgres.empty(f"database_{unique}"), pool_size=1)
    try:
        told = []
        for allowed in (True, False):
            async with database.begin() as tx:
                if allowed:
                    await may_idle(tx)
                told.append(await tx.scalar(text("SHOW idle_in_transaction_session_timeout")))
        assert told == ["0", "1min"]
    finally:
        await database.close()


@pytest.mark.parametrize("listens", [False, True])
async def test_each_side_of_a_connection_sees_that_the_other_is_gone(
    postgres: Postgres, unique: str, listens: bool
) -> None:
    """Of a host that was lost no word comes, and the systems' own defaults are hours."""
    database = Database(await postgres.empty(f"database_{unique}"), pool_size=1)
    probed = "'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count'"
    settings = f"SELECT setting FROM pg_settings WHERE name IN ({probed}, 'tcp_user_timeout') ORDER BY name"
    looked_at = "SELECT setting FROM pg_settings WHERE name = 'client_connection_check_interval'"
    try:
        async with database.engine.connect() as pooled:
            raw = await database.connect() if listens else (await pooled.get_raw_connection()).driver_connection
            assert raw is not None
            ours = raw._transport.get_extra_info("socket")
            assert [ours.getsockopt(socket.IPPROTO_TCP, option) for option in TCP_OPTIONS] == [10, 5, 3, 30_000]
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert [value for (value,) in await raw.fetch(settings)] == ["3", "10", "5", "30000"]
            assert await raw.fetchval(looked_at) == "5000"
            if listens:
                await raw.close()
    finally:
        await database.close()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_database_set_to_another_isolation_level_changes_no_transaction_of_ours(
    postgres: Postgres, unique: str, level: str
) -> None:
    """Neither of the pool, nor of a connection that listens: who waited for a lock sees what was committed since."""
    url = await postgres.empty(f"database_{unique}")
    sql = await asyncpg.connect(url)
    await sql.execute(f"ALTER DATABASE database_{unique} SET default_transaction_isolation = '{level}'")
    await sql.execute("CREATE TABLE line (n integer)")
    database = Database(url, pool_size=1)
    listening = await database.connect()
    try:
        async with database.begin() as tx:
            assert await fetch_many(tx, "SELECT n FROM line") == []
            await sql.execute("INSERT INTO line VALUES (1)")
            assert await fetch_many(tx, "SELECT n FROM line") == [(1,)]
            assert await tx.scalar(text("SHOW transaction_isolation")) == "read committed"
        assert await listening.fetchval("SHOW transaction_isolation") == "read committed"
    finally:
        await listening.close()
        await sql.close()
        await database.close()


async def test_a_migration_runs_at_the_isolation_level_that_its_statements_are_written_for(
    postgres: Postgres, unique: str
) -> None:
    url = await postgres.empty(f"inbound_{unique}")
    sql = await asyncpg.connect(url)
    try:
        await sql.execute("CREATE TABLE seen (level text)")
        await sql.execute(
            "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO seen VALUES (current_setting('transaction_isolation')); END $$"
        )
        await sql.execute("CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION note()")
        await sql.execute(f"ALTER DATABASE inbound_{unique} SET default_transaction_isolation = 'serializable'")
        await asyncio.to_thread(migrate, url, "inbound")
        assert [level for (level,) in await sql.fetch("SELECT DISTINCT level FROM seen")] == ["read committed"]
    finally:
        await sql.close()


async def test_a_connection_knows_the_arrays_of_each_type_without_a_question(postgres: Postgres, unique: str) -> None:
    """And the server agrees about each: what goes there comes back."""
    database, asked = Database(await postgres.empty(f"database_{unique}"), pool_size=1), []
    kinds = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(OF_EACH_TYPE, 1))
    try:
        async with database.engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            with raw.query_logger(lambda told: asked.append(told.query)):
                row = await raw.fetchrow(f"SELECT {kinds}", *OF_EACH_TYPE.values())
                await asyncio.sleep(0)  # the driver tells a turn of the loop later
            names = await raw.fetch("SELECT oid, typelem FROM pg_type WHERE oid = ANY($1::oid[])", list(_oids()))
    finally:
        await database.close()

    assert list(row) == list(OF_EACH_TYPE.values())
    assert asked == [f"SELECT {kinds}"]
    assert dict(names) == _oids()


def _oids() -> dict[int, int]:
    return dict(databases.ARRAYS.values())


async def test_units_of_work_after_each_other_share_a_connection(postgres: Postgres, unique: str) -> None:
    """However many were open at once before: a backend plans each statement for itself."""
    database = Database(await postgres.empty(f"database_{unique}"), pool_size=3)
    used = "SELECT pg_backend_pid()"
    try:
        async with database.begin() as one, database.begin() as other, database.begin() as third:
            at_once = {(await fetch_many(tx, used))[0][0] for tx in (one, other, third)}
        after = set()
        for _ in range(TURNS):
            async with database.begin() as tx:
                after.add((await fetch_many(tx, used))[0][0])
    finally:
        await database.close()

    assert len(at_once) == 3
    assert len(after) == 1


async def test_a_unit_of_work_that_cannot_begin_says_why_and_the_next_has_another_connection(
    postgres: Postgres, unique: str
) -> None:
    url = await postgres.empty(f"database_{unique}")
    database, sql = Database(url, pool_size=1), await asyncpg.connect(url)
    try:
        async with database.begin() as tx:
            [(backend,)] = await fetch_many(tx, "SELECT pg_backend_pid()")
        async with database.begin() as tx:
            await sql.execute("SELECT pg_terminate_backend($1, 10000)", backend)
            with pytest.raises((*databases.AWAY, asyncpg.InterfaceError)):
                await fetch_many(tx, "SELECT 1")
        async with database.begin() as tx:
            assert (await fetch_many(tx, "SELECT pg_backend_pid()"))[0][0] != backend
    finally:
        await sql.close()
        await database.close()


async def test_a_unit_of_work_begun_between_the_servers_farewell_and_its_end_finds_the_database_away(
    postgres: Postgres, unique: str
) -> None:
    """Then the driver has read why the server ends the connection, and refuses the next statement as its own error."""
    assert asyncpg.InternalClientError in databases.AWAY
    at = make_url(await postgres.empty(f"database_{unique}"))
    told = asyncio.Event()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(65_536):
            writer.write(some)
            await writer.drain()

    async def between(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Forward both ways, and keep the end of the first connection from the client until its own."""
        server, to_server = await asyncio.open_connection(at.host, at.port)
        asking = asyncio.create_task(forward(client, to_server))
        await forward(server, to_client)
        if not told.is_set():
            told.set()
            await asking
        to_server.close()
        to_client.close()

    relay = await asyncio.start_server(between, "127.0.0.1", 0)
    port = relay.sockets[0].getsockname()[1]
    database = Database(at.set(host="127.0.0.1", port=port).render_as_string(hide_password=False), pool_size=1)
    sql = await asyncpg.connect(at.render_as_string(hide_password=False))
    try:
        async with database.begin() as tx:
            [(backend,)] = await fetch_many(tx, "SELECT pg_backend_pid()")
        async with database.begin() as tx:
            await sql.execute("SELECT pg_terminate_backend($1, 10000)", backend)
            await told.wait()
            for _ in range(TURNS):
                await asyncio.sleep(0)  # a turn of the loop: the driver reads
            with pytest.raises(asyncpg.InternalClientError):
                await fetch_many(tx, "SELECT 1")
        async with database.begin() as tx:
            assert (await fetch_many(tx, "SELECT pg_backend_pid()"))[0][0] != backend
    finally:
        await sql.close()
        await database.close()
        relay.close()
