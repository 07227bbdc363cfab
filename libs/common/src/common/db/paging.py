"""Pages of a table in the order of a key that the database counts up.

Keys are given in order and committed in any order: a row may appear below a cursor that a page has told already, and no
later page would show it. So a page that tells where the next one begins is read once more, after every transaction that
wrote to the table meanwhile has ended. A page that tells no cursor waits for nothing: its reader asks again from the
cursor that it has.

Writers of this table alone are waited for, by the locks that they hold on it: neither a long transaction elsewhere on
the server nor a restored transaction counter matters, and no writer waits for a reader.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many
from common.web.problems import Unavailable

WRITERS_END_WITHIN_S = 5.0  # theirs are of milliseconds; a process that is frozen in one is rolled back after a minute
LOOK_EVERY_S = 0.02

# `nextval` comes after the lock on the table, and the lock goes after the commit can be seen
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
    """Read a page: `limit` rows of `table` at most, in the order of `key`. Between the cursor of a full page and its
    last row nothing can be committed any more. Raises Unavailable while a writer does not end."""
    whole_up_to = -1
    while True:
        rows = await read()
        if len(rows) < limit or key(rows[-1]) <= whole_up_to:
            return rows
        whole_up_to = key(rows[-1])
        await _until_writers_ended(tx, table)


async def _until_writers_ended(tx: AsyncConnection, table: str) -> None:
    """Those that write now, not those that begin meanwhile: their keys are higher."""
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
