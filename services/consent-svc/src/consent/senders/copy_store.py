"""Compare and copy the rows of the registry between two databases, by the content of each row."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many
from consent.schema import metadata

LOCK = "placet.registry"  # advisory, of the first shard: shared by changes, alone for a comparison
AT_ONCE = 500  # rows
AHEAD_FOR = "10 minutes"  # a row of a change that failed is younger; an older one was decided


class _Table(NamedTuple):
    """A table of the registry. `key`: its columns. `of`: the column that says whose a row is.

    `since`: SQL of when the row was written last. `content`: SQL of what differs where the row differs. `rank`: SQL of
    a number that never falls in the first shard, unless that was restored.
    """

    name: str
    key: Sequence[str]
    of: Literal["organisation_id", "sender_id"]
    since: str
    content: str = "to_jsonb(t)::text"
    rank: str = "0"

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
    _Table("organisation", ("organisation_id",), "organisation_id", "t.created_at"),
    _Table("controller", ("controller_id",), "organisation_id", "t.created_at"),
    _Table("owned_name", ("skeleton",), "organisation_id", "t.since"),
    _Table("sender", ("sender_id",), "sender_id", "t.updated_at", rank="t.version"),
    # a version never changes: the content, which is long, goes unread, and of two of a number the older one stands
    _Table(
        "sender_version",
        ("sender_id", "version"),
        "sender_id",
        "t.in_force_from",
        "t.in_force_from::text",
        "-extract(epoch FROM t.in_force_from)",
    ),
    _Table(
        "reopening_rule",
        ("rule_id",),
        "sender_id",
        "coalesce(t.ended_at, t.begun_at)",
        rank="(t.ended_at IS NOT NULL)::int",
    ),
)


class Copied(NamedTuple):
    """How many rows were copied, and the senders whose older rows the first shard lacks: it was restored."""

    rows: int
    ahead: frozenset[str]


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


async def copy(first: AsyncConnection, own: AsyncConnection, whose: Collection[str] | None) -> Copied:
    """Make the rows of these senders and of their organisations, or all rows, as `first`.

    Rows that were decided stay where the first shard has lost them: a STOP on their code finds their sender.
    """
    await _in_utc(first)
    await _in_utc(own)
    named: dict[str, list[str] | None] = {"sender_id": None, "organisation_id": None}
    if whose is not None:
        of = await fetch_many(
            first, "SELECT DISTINCT organisation_id FROM sender WHERE sender_id = ANY($1::text[])", [*whose]
        )
        named = {"sender_id": sorted(whose), "organisation_id": sorted(row[0] for row in of)}
    each = [await _copy(first, own, table, named[table.of]) for table in TABLES]
    return Copied(sum(one.rows for one in each), frozenset().union(*(one.ahead for one in each)))


async def _copy(first: AsyncConnection, own: AsyncConnection, table: _Table, whose: Sequence[str] | None) -> Copied:
    wanted, held = await _contents(first, table, whose), await _contents(own, table, whose)
    differ = sorted(key for key, content in held.items() if wanted.get(key) != content)
    kept = await _decided(first, own, table, differ)
    gone = [key for key in differ if key not in kept]
    new = sorted(key for key, content in wanted.items() if held.get(key) != content and key not in kept)
    if table.name == "reopening_rule" and kept:
        await fetch_many(own, _END_LOST, sorted(kept))
    among = f"{table.keyed} = ANY($1::text[]) AND {table.is_of('$2')}"
    codes = list[Sequence[Any]]()
    if table.name == "sender" and differ:
        codes = [*await fetch_many(own, _CODES, differ), *await fetch_many(first, _CODES_OF_FIRST, sorted(kept))]
    for keys in _batches(gone):
        await fetch_many(own, f"DELETE FROM {table.name} AS t WHERE {among}", keys, whose)
    for keys in _batches(new):
        rows = await fetch_many(first, f"SELECT to_jsonb(t)::text FROM {table.name} AS t WHERE {among}", keys, whose)
        await fetch_many(own, table.insert, f"[{','.join(row for (row,) in rows)}]")
    ahead = {str(msgspec.json.decode(key)[0]) for key in kept} if table.name == "sender" else set[str]()
    for sender_id, stop_codes, purpose_ids in codes:
        more = await fetch_many(own, _KEEP_CODES, sender_id, stop_codes, purpose_ids)
        ahead |= {str(each) for (each,) in more}
    return Copied(len({*gone, *new}), frozenset(ahead))


# by the versions, which stay: the row of a sender is new after a change
_CODES = f"""
SELECT sender_id, array_agg(DISTINCT content ->> 'stop_code'), array_agg(DISTINCT purpose ->> 'id')
FROM sender_version, jsonb_array_elements(content -> 'purposes') AS purpose
WHERE jsonb_build_array(sender_id)::text = ANY($1::text[]) AND in_force_from < now() - interval '{AHEAD_FOR}'
GROUP BY sender_id
"""
_CODES_OF_FIRST = """
SELECT sender_id, stop_codes, purpose_ids FROM sender WHERE jsonb_build_array(sender_id)::text = ANY($1::text[])
"""
_KEEP_CODES = """
UPDATE sender
SET stop_codes = ARRAY(SELECT DISTINCT unnest(stop_codes || $2::text[]) ORDER BY 1),
    purpose_ids = ARRAY(SELECT DISTINCT unnest(purpose_ids || $3::text[]) ORDER BY 1)
WHERE sender_id = $1 AND NOT (stop_codes @> $2::text[] AND purpose_ids @> $3::text[])
RETURNING sender_id
"""
# of a rule that the first shard has lost, nobody could decide the end there
_END_LOST = """
UPDATE reopening_rule
SET ended_at = now(), ended_by = 'placet', end_reason = 'the first shard was restored to before this rule'
WHERE jsonb_build_array(rule_id)::text = ANY($1::text[]) AND ended_at IS NULL
"""


async def _decided(first: AsyncConnection, own: AsyncConnection, table: _Table, differ: Sequence[str]) -> set[str]:
    """Return the rows that were decided before the first shard lost them, or what they say."""
    if not differ:
        return set()
    query = f"SELECT {table.keyed}, ({table.rank})::float8 FROM {table.name} AS t WHERE {table.keyed} = ANY($1::text[])"
    of_first = {str(key): rank for key, rank in await fetch_many(first, query, differ)}
    older = f" AND {table.since} < now() - interval '{AHEAD_FOR}'"
    of_own = await fetch_many(own, query + older, differ)
    return {str(key) for key, rank in of_own if str(key) not in of_first or rank > of_first[str(key)]}


def _batches(keys: Sequence[str]) -> Iterator[list[str]]:
    return ([*keys[at : at + AT_ONCE]] for at in range(0, len(keys), AT_ONCE))


async def _contents(tx: AsyncConnection, table: _Table, whose: Sequence[str] | None) -> dict[str, str]:
    """Return the digest of each row by its key."""
    query = f"SELECT {table.keyed}, md5({table.content}) FROM {table.name} AS t WHERE {table.is_of('$1')}"
    return {str(key): str(content) for key, content in await fetch_many(tx, query, whose)}


async def _in_utc(tx: AsyncConnection) -> None:
    """Write instants in UTC until the transaction ends: the servers may have other zones."""
    await fetch_many(tx, "SELECT set_config('TimeZone', 'UTC', true)")
