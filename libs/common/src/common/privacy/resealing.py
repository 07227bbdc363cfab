"""Encrypt each stored field anew by the current field key, beside the running service, so that the others may go.

    python -m <service> keys            how many fields of each column another key of the ring encrypts
    python -m <service> keys --reseal   encrypt these anew, until none is left

A run goes over the blocks of each table, and locks the rows of some blocks for a few milliseconds. The run never waits
for a lock, so that a STOP waits for no deadlock. A run that ended early is repeated: fields of the current key are
passed over. Every process needs the new key in its ring before one has the key as its current one.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database, fetch_many
from common.keyring import FieldKeys, SubjectKeys, Unreadable
from common.settings import KeyRingSettings

BLOCKS = 64  # of a transaction
AGAIN_S = 0.2  # after a pass that met locked rows
WHOLE = ""  # the field is the column


@dataclass(frozen=True, slots=True)
class Sealed:
    """A column with encrypted fields.

    `contexts`: by field, the context as a format of the row's columns. The field `WHOLE` is the column itself; another
    is a member of the column's JSON object. `binary`: the column has bytes.
    """

    table: str
    column: str
    contexts: Mapping[str, str]
    binary: bool = False

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"

    @property
    def named(self) -> tuple[str, ...]:
        """Return the columns that the contexts name."""
        parts = (part for context in self.contexts.values() for part in Formatter().parse(context))
        return tuple(sorted({name for _, name, _, _ in parts if name}))


def whole(table: str, column: str, context: str, *, binary: bool = False) -> Sealed:
    """Return a column that is one encrypted field."""
    return Sealed(table, column, {WHOLE: context}, binary)


@dataclass(slots=True)
class Told:
    """The outcome of a column. `left`: fields of other keys; `unreadable`: of these, what no key decrypts."""

    resealed: int = 0
    unreadable: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Resealing:
    """A run over the columns of a service."""

    database: Database
    ring: KeyRingSettings
    subjects: SubjectKeys
    columns: Sequence[Sealed]
    blocks: int = BLOCKS
    keys: FieldKeys = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", FieldKeys(self.ring, self.subjects))

    async def looked(self) -> AsyncIterator[tuple[Sealed, Told]]:
        """Yield each column with the count of its rows with a field of another key."""
        for column in self.columns:
            yield column, Told(left=await self._left(column))

    async def run(self) -> AsyncIterator[tuple[Sealed, Told]]:
        """Encrypt anew what other keys encrypt; yield each column after each pass over its table."""
        for column in self.columns:
            told = Told()
            while True:
                told.unreadable = 0
                before = told.resealed
                await self._pass(column, told)
                told.left = await self._left(column)
                yield column, told
                if told.left <= told.unreadable:
                    break
                if told.resealed == before:
                    await asyncio.sleep(AGAIN_S)

    async def _pass(self, column: Sealed, told: Told) -> None:
        async with self.database.begin() as tx:
            [(blocks,)] = await fetch_many(
                tx, "SELECT pg_relation_size($1::regclass) / current_setting('block_size')::int", column.table
            )
        for first in range(0, blocks, self.blocks):
            async with self.database.begin() as tx:
                await self._blocks(tx, column, first, told)

    async def _blocks(self, tx: AsyncConnection, column: Sealed, first: int, told: Told) -> None:
        within = f"ctid >= '({first},0)'::tid AND ctid < '({first + self.blocks},0)'::tid"
        named = ", ".join(("ctid::text", column.column, *column.named))
        rows = await fetch_many(
            tx,
            f"""
            SELECT {named}
            FROM {column.table}
            WHERE {within} AND {_of_others(column)}
            FOR UPDATE SKIP LOCKED
            """,
            self._others(column),
        )
        anew: list[tuple[str, Any]] = []
        for place, sealed, *values in rows:
            try:
                anew.append((place, self._anew(column, sealed, dict(zip(column.named, values, strict=True)))))
            except Unreadable:
                told.unreadable += 1
        if not anew:
            return
        kind = "bytea" if column.binary else "text"
        await fetch_many(
            tx,
            f"""
            UPDATE {column.table} AS t
            SET {column.column} = v.anew
            FROM unnest($1::text[], $2::{kind}[]) AS v (place, anew)
            WHERE t.ctid = v.place::tid AND t.{within.replace(" AND ", " AND t.")}
            """,
            [place for place, _ in anew],
            [value for _, value in anew],
        )
        told.resealed += len(anew)

    def _anew(self, column: Sealed, sealed: Any, values: Mapping[str, Any]) -> Any:
        """Return the column's value with each field of another key encrypted anew. Raises Unreadable."""
        contexts = {name: context.format(**values) for name, context in column.contexts.items()}
        if column.binary:
            return self.keys.seal_bytes(self.keys.unseal_bytes(sealed, contexts[WHOLE]), contexts[WHOLE])
        if WHOLE in contexts:
            return self.keys.seal(self.keys.unseal(sealed, contexts[WHOLE]), contexts[WHOLE])
        told = msgspec.json.decode(sealed, type=dict[str, Any])
        for name, context in contexts.items():
            if told.get(name):
                told[name] = self.keys.seal(self.keys.unseal(told[name], context), context)
        return msgspec.json.encode(told).decode()

    async def _left(self, column: Sealed) -> int:
        async with self.database.begin() as tx:
            [(left,)] = await fetch_many(
                tx, f"SELECT count(*) FROM {column.table} WHERE {_of_others(column)}", self._others(column)
            )
        return int(left)

    def _others(self, column: Sealed) -> list[Any]:
        """Return the beginnings of fields of other keys, as `_of_others` compares them."""
        others = [f"{key_id}." for key_id in self.ring.keys if key_id != self.ring.current]
        if column.binary:
            return [each.encode() for each in others]
        return others if WHOLE in column.contexts else [f'"{each}' for each in others]


def _of_others(column: Sealed) -> str:
    """Return the SQL condition that a field is of a key whose beginning is in $1."""
    if column.binary:
        begins = f"substring({column.column} FROM 1 FOR length(o)) = o"
        return f"EXISTS (SELECT FROM unnest($1::bytea[]) AS o WHERE {begins})"
    holds = f"starts_with({column.column}, o)" if WHOLE in column.contexts else f"position(o IN {column.column}) > 0"
    return f"EXISTS (SELECT FROM unnest($1::text[]) AS o WHERE {holds})"


async def command(
    service: str,
    database_url: str,
    ring: KeyRingSettings,
    subjects: SubjectKeys,
    columns: Sequence[Sealed],
    arguments: Sequence[str],
) -> int:
    """Run the command; return the exit code: 1 where fields of another key are left."""
    parser = argparse.ArgumentParser(prog=f"python -m {service} keys", description="Look at the keys of stored fields.")
    parser.add_argument("--reseal", action="store_true", help="encrypt fields of other keys anew by the current key")
    told = parser.parse_args(arguments)
    database = Database(database_url, pool_size=1, name=f"{service}-keys")
    last: dict[str, Told] = {}
    try:
        work = Resealing(database, ring, subjects, columns)
        async for column, found in work.run() if told.reseal else work.looked():
            last[column.name] = found
            sys.stdout.write(
                f"{column.name}: {found.resealed} encrypted anew, {found.left} left, {found.unreadable} unreadable\n"
            )
            sys.stdout.flush()
    finally:
        await database.close()
    others = ", ".join(sorted(ring.keys.keys() - {ring.current})) or "none"
    left = sum(each.left for each in last.values())
    sys.stdout.write(f"current key: {ring.current}; others in the ring: {others}; fields of the others: {left}\n")
    return 1 if left else 0
