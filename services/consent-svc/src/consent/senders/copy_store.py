"""Compare and copy the rows of the registry between two databases, by the content of each row."""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many
from consent.schema import metadata

LOCK = "placet.registry"  # advisory, of the first shard: shared by changes, alone for a comparison
AT_ONCE = 500  # rows


class _Table(NamedTuple):
    """A table of the registry. `key`: its columns. `of`: the column that says whose a row is.

    `content`: SQL of what differs where the row differs.
    """

    name: str
    key: Sequence[str]
    of: Literal["organisation_id", "sender_id"]
    content: str = "to_jsonb(t)::text"

    @property
    def columns(self) -> list[str]:
        """Return the columns that are stored, not computed."""
        return [f'"{column.name}"' for column in metadata.tables[self.name].columns if not column.computed]

    @property
    def insert(self) -> str:
        """Return the SQL that inserts rows of the JSON $1. A row of another's, under the same key, gives way."""
        columns = ", ".join(self.columns)
        counted = {f'"{column.name}"' for column in metadata.tables[self.name].columns if column.identity}
        changed = [name for name in self.columns if name.strip('"') not in self.key and name not in counted]
        return (
            f"INSERT INTO {self.name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns}"
            f" FROM jsonb_populate_recordset(NULL::{self.name}, $1::text::jsonb) ON CONFLICT ({', '.join(self.key)})"
            f" DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changed)}"
        )

    @property
    def keyed(self) -> str:
        """Return the SQL of a row's key as text."""
        return f"jsonb_build_array({', '.join(f't.{name}' for name in self.key)})::text"

    def is_of(self, whose: str) -> str:
        """Return the SQL condition that a row is of one of `whose`; null: every row."""
        return f"({whose}::text[] IS NULL OR t.{self.of} = ANY({whose}::text[]))"


TABLES = (
    _Table("organisation", ("organisation_id",), "organisation_id"),
    _Table("controller", ("controller_id",), "organisation_id"),
    _Table("owned_name", ("skeleton",), "organisation_id"),
    _Table("sender", ("sender_id",), "sender_id"),
    # a version never changes: the content, which is long, goes unread
    _Table("sender_version", ("sender_id", "version"), "sender_id", "t.in_force_from::text"),
    _Table("reopening_rule", ("rule_id",), "sender_id"),
)


async def lock(tx: AsyncConnection, *, alone: bool = False) -> None:
    """Lock the registry in the first shard until the transaction ends, shared with other changes or alone."""
    of = "" if alone else "_shared"
    await fetch_many(tx, f"SELECT pg_advisory_xact_lock{of}(hashtext($1))", LOCK)


async def digest(tx: AsyncConnection) -> Sequence[Sequence[object]]:
    """Return the count and a digest of each table's rows, the same in two databases with the same rows."""
    await _in_utc(tx)
    each = (
        f"SELECT '{table.name}', count(*), sum(hashtextextended({table.keyed} || {table.content}, 0))::text"
        f" FROM {table.name} AS t"
        for table in TABLES
    )
    return [tuple(row) for row in await fetch_many(tx, " UNION ALL ".join(each))]


async def sender_ids(tx: AsyncConnection) -> list[str]:
    """Return every sender on record."""
    return [sender_id for (sender_id,) in await fetch_many(tx, "SELECT sender_id FROM sender")]


async def copy(first: AsyncConnection, own: AsyncConnection, whose: Collection[str] | None) -> int:
    """Make the rows of these senders and of their organisations, or all rows, as `first`; return how many differed."""
    await _in_utc(first)
    await _in_utc(own)
    named: dict[str, list[str] | None] = {"sender_id": None, "organisation_id": None}
    if whose is not None:
        of = await fetch_many(
            first, "SELECT DISTINCT organisation_id FROM sender WHERE sender_id = ANY($1::text[])", [*whose]
        )
        named = {"sender_id": sorted(whose), "organisation_id": sorted(row[0] for row in of)}
    return sum([await _copy(first, own, table, named[table.of]) for table in TABLES])


async def _copy(first: AsyncConnection, own: AsyncConnection, table: _Table, whose: Sequence[str] | None) -> int:
    wanted, held = await _contents(first, table, whose), await _contents(own, table, whose)
    gone = sorted(key for key, content in held.items() if wanted.get(key) != content)
    new = sorted(key for key, content in wanted.items() if held.get(key) != content)
    among = f"{table.keyed} = ANY($1::text[]) AND {table.is_of('$2')}"
    for keys in _batches(gone):
        await fetch_many(own, f"DELETE FROM {table.name} AS t WHERE {among}", keys, whose)
    for keys in _batches(new):
        rows = await fetch_many(first, f"SELECT to_jsonb(t)::text FROM {table.name} AS t WHERE {among}", keys, whose)
        await fetch_many(own, table.insert, f"[{','.join(row for (row,) in rows)}]")
    return len({*gone, *new})


def _batches(keys: Sequence[str]) -> Iterator[list[str]]:
    return ([*keys[at : at + AT_ONCE]] for at in range(0, len(keys), AT_ONCE))


async def _contents(tx: AsyncConnection, table: _Table, whose: Sequence[str] | None) -> dict[str, str]:
    """Return the digest of each row by its key."""
    query = f"SELECT {table.keyed}, md5({table.content}) FROM {table.name} AS t WHERE {table.is_of('$1')}"
    return {str(key): str(content) for key, content in await fetch_many(tx, query, whose)}


async def _in_utc(tx: AsyncConnection) -> None:
    """Write instants in UTC until the transaction ends: the servers may have other zones."""
    await fetch_many(tx, "SELECT set_config('TimeZone', 'UTC', true)")
