"""Pages of a list: `cursor`, `limit` and `next`, the same in every service.

`next` is opaque: the key of the page's last row. Transactions draw counted keys (ADR-0063) in order and commit in any
order: a row may appear below a cursor already given, and no later page would show it. So a page that gives a cursor is
read again once every transaction then writing to the table has ended (`whole_page`), by its lock on the table: no long
transaction elsewhere matters, and no writer waits for a reader. A page without a cursor waits for no writer.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import NEWEST_FIRST, OLDEST_FIRST, Direction, fetch_many
from common.web.edge_id import ControllerIds
from common.web.fields import BIGINT, Storable
from common.web.problems import Invalid, Reason, Unavailable

WRITERS_END_WITHIN_S = 5.0  # a write takes milliseconds; the server rolls a frozen writer back after a minute
POLL_EVERY_S = 0.02

# A writer draws its key after locking the table, and unlocks once its commit is visible.
WRITERS = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND relation = $1::text::regclass"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND mode = 'RowExclusiveLock' AND granted AND pid <> pg_backend_pid()"
)

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")

LIMIT = 100
Limit = Annotated[int, Query(ge=1, le=1000, description="Items of a page at most.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before.")]
Order = Literal["newest", "oldest"]
Sort = Annotated[
    Order,
    Query(
        description="The first item: the newest, or the oldest. Name the same with a cursor. With `oldest`, an item"
        " written while its page is read may be on no page; `GET /v1/events` tells of new things."
    ),
]
SORTED: Mapping[Order, Direction] = {"newest": NEWEST_FIRST, "oldest": OLDEST_FIRST}
OfSender = Annotated[
    Storable | None, Query(max_length=200, description="Only things of this sender. Default: of every sender.")
]


def _said(schema: JsonDict) -> None:
    """Describe a page without a docstring of its own: a generic model hands none down."""
    schema.setdefault("description", "A page of a list.")


class Page(BaseModel, Generic[T]):
    model_config = ConfigDict(json_schema_extra=_said)

    items: list[T] = Field(description="The items of this page, in the order of the list.")
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


def next_of(rows: Sequence[R], limit: int, key: Callable[[R], object]) -> str | None:
    """Return the cursor behind a full page, and None behind the last."""
    return cursor_of(key(rows[-1])) if len(rows) >= limit else None


def cursor_of(key: object) -> str:
    """Return the cursor behind the row with this key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def position(cursor: str | None, kind: type[K]) -> K | None:
    """Return the key that a cursor stands for, None for the first page. Raises Invalid."""
    if not cursor:
        return None
    try:
        written = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = msgspec.json.decode(written, type=kind)
    except (ValueError, msgspec.DecodeError):
        raise _not_ours() from None
    if not _storable(key):
        raise _not_ours()
    return key


def positions(cursor: str | None, lists: int) -> tuple[int, ...]:
    """Return the place in each of `lists` counted lists, 0 in each for the first page. Raises Invalid."""
    found = position(cursor, tuple[int, ...])
    if found is None:
        return (0,) * lists
    if len(found) != lists:
        raise _not_ours()
    return found


def subject_of(who: str, ids: ControllerIds) -> str:
    """Return the subject id of the person whom a cursor names by the controller's id. Raises Invalid."""
    subject_id = ids.subject_id(who)
    if subject_id is None:
        raise _not_ours()
    return subject_id


def _storable(key: object) -> bool:
    """Return whether Postgres can compare the key."""
    match key:
        case tuple():
            return all(map(_storable, key))
        case int():
            return 0 <= key <= BIGINT
        case str():
            return "\x00" not in key
        case UUID():
            return True
        case datetime():
            return key.utcoffset() == timedelta()  # pages write UTC; another instant may overflow in UTC
    return False


def _not_ours() -> Invalid:
    return Invalid("`cursor` is not the `next` of a page of this list", reasons=[Reason("cursor", "not_valid")])


async def whole_page(
    tx: AsyncConnection,
    table: str,
    limit: int,
    read: Callable[[], Awaitable[Sequence[R]]],
    key: Callable[[R], int],
    *,
    is_part: bool = False,
) -> Sequence[R]:
    """Read a page: at most `limit` rows of `table`, in the order of `key`.

    No row can appear later before a full page's cursor; before any row's, where the page `is_part` of a merged one.
    Raises Unavailable while a writer does not end.
    """
    whole_up_to = -1
    while True:
        rows = await read()
        if not rows or (len(rows) < limit and not is_part) or key(rows[-1]) <= whole_up_to:
            return rows
        if is_part and whole_up_to >= 0 and len(rows) < limit:  # the last rows are newer than the look at the writers
            return [row for row in rows if key(row) <= whole_up_to]
        whole_up_to = key(rows[-1])
        await _until_writers_ended(tx, table)


async def _until_writers_ended(tx: AsyncConnection, table: str) -> None:
    """Wait for the table's present writers; later writers draw higher keys."""
    writing = {one for (one,) in await fetch_many(tx, WRITERS, table)}
    try:
        async with asyncio.timeout(WRITERS_END_WITHIN_S):
            while writing:
                await asyncio.sleep(POLL_EVERY_S)
                writing &= {one for (one,) in await fetch_many(tx, WRITERS, table)}
    except TimeoutError:
        raise Unavailable(
            "a row of this page is still being written: ask again from the same cursor", headers={"Retry-After": "1"}
        ) from None
