"""Pages of a table in the order of a key that the database counts up (ADR-0063).

Transactions draw keys in order and commit in any order: a row may appear below a cursor already given, and no later
page would show the row. So a page that gives a cursor is read again once every transaction then writing to the table
has ended. A page without a cursor waits for nothing: its reader asks again from the last cursor.

The reader finds writers by their locks on this table: neither a long transaction elsewhere on the server nor a restored
transaction counter matters, and no writer waits for a reader.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many
from common.web.problems import Unavailable

WRITERS_END_WITHIN_S = 5.0  # a write takes milliseconds; the server rolls a frozen writer back after a minute
LOOK_EVERY_S = 0.02

# A writer draws its key (`nextval`) after locking the table, and unlocks once its commit is visible.
WRITERS = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND relation = $1::text::regclass"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND mode = 'RowExclusiveLock' AND granted AND pid <> pg_backend_pid()"
)

R = TypeVar("R")


async def whole_page(
    tx: AsyncConnection,
    table: str,
    limit: int,
    read: Callable[[], Awaitable[Sequence[R]]],
    key: Callable[[R], int],
) -> Sequence[R]:
    """Read a page: `limit` rows of `table` at most, in the order of `key`.

    No row can appear later between a full page's cursor and its last row. Raises Unavailable while a writer does not
    end.
    """
    whole_up_to = -1
    while True:
        rows = await read()
        if len(rows) < limit or key(rows[-1]) <= whole_up_to:
            return rows
        whole_up_to = key(rows[-1])
        await _until_writers_ended(tx, table)


async def _until_writers_ended(tx: AsyncConnection, table: str) -> None:
    """Wait for the present writers of the table; later writers draw higher keys."""
    writing = {one for (one,) in await fetch_many(tx, WRITERS, table)}
    try:
        async with asyncio.timeout(WRITERS_END_WITHIN_S):
            while writing:
                await asyncio.sleep(LOOK_EVERY_S)
                writing &= {one for (one,) in await fetch_many(tx, WRITERS, table)}
    except TimeoutError:
        raise Unavailable(
            "a row of this page is still being written: ask again from the same cursor", headers={"Retry-After": "1"}
        ) from None
