"""Move stored subject ids to the current outer key while the service stands still, so that the older key may go.

    python -m <service> keys --subjects           move the rows, until none is left
    python -m <service> keys --subjects --count   count the rows with an id of another outer key

The command runs as the owner of the tables: triggers keep the ledger as it is for everyone else. A run goes over every
column of every table, and knows an id by its form and its key id: a list of columns could forget one. A run that ended
early is repeated: a moved row has no id of an older key.

The outbox has to be empty: the relay ends its work first. Readers turn the ids of its records (ADR-0093).
"""

import argparse
import re
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database, fetch_many
from common.kafka.broker import partitions_of
from common.keyring import SubjectKeys
from common.sms.subject_id import SUBJECT_HEX_CHARS

MOVING = "placet.moving"  # advisory lock; a starting service holds it shared
BLOCKS = 256  # of a transaction
LOCK_IDLE_S = 86_400.0
TOLD_EVERY = 100_000  # rows
PLACE, PERSON = "partition", "subject_id"
_APART = "(?<![0-9a-z])"

# A range or a composite type could have text in it, a number or a time never has.
_COLUMNS = """
    SELECT c.oid::regclass::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
    AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    AND t.typcategory NOT IN ('B', 'D', 'N', 'T') AND t.typname <> 'uuid'
    ORDER BY c.relname, a.attnum
"""
_TRIGGERED = """
    SELECT DISTINCT tgrelid::regclass::text
    FROM pg_trigger
    WHERE NOT tgisinternal AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
"""
# Only sessions that may write count: a monitor's session has no rights. The owner may not see the names of another
# role's sessions: a session without a name is somebody else's.
_OTHERS = """
    SELECT usename::text, count(*)
    FROM pg_stat_activity
    WHERE datname = current_database() AND usesysid IN (SELECT oid FROM pg_roles)
    AND application_name IS DISTINCT FROM $1 AND has_table_privilege(usesysid, 'outbox', 'INSERT')
    GROUP BY usename
    ORDER BY usename
"""
# The mark of the last run is a comment: in every backup, and the owner's alone.
_MARK = "COMMENT ON TABLE subject_key IS '{}'"
_MARKED = "SELECT obj_description('subject_key'::regclass, 'pg_class')"
_TOLD = re.compile(r"ids of people are (moving|moved) to outer key ([a-z0-9]+) from ([a-z0-9, ]+)")


Changed = Mapping[str, str | bytes]  # new values of a row, by column


class NotYet(RuntimeError):
    """The rows cannot be moved now. Says what to do first."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What a service's rows need beside their ids.

    `unless`: by sentence, a query; a row of its answer means that the rows cannot move yet. `before`: statements of one
    transaction before the first row moves; a second run of them changes nothing. `placed`: the tables whose column
    `partition` is the partition of their column `subject_id`.
    """

    unless: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    placed: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table with the type of each column that could hold an id."""

    name: str
    types: Mapping[str, str]

    def is_bytes(self, column: str) -> bool:
        return self.types[column] == "bytea"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the last run has left. `has_ended`: no row has an id of an outer key in `of`, all are of `to`."""

    has_ended: bool
    to: str
    of: Sequence[str]


@dataclass(slots=True)
class Told:
    """The outcome of a table so far. `found`: rows with an id of an older key."""

    found: int = 0
    moved: int = 0


@dataclass(frozen=True, slots=True)
class Moving:
    """A run over the tables of a service. `older`: the ids of the other outer keys of the ring."""

    database: Database  # of the owner
    subjects: SubjectKeys
    moves: Moves
    partitions: int
    blocks: int = BLOCKS
    _text: re.Pattern[str] = field(init=False)
    _bytes: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        older = "|".join(sorted(self.subjects.older)) or "(?!)"
        form = rf"{_APART}(?:{older})-[0-9a-f]{{{SUBJECT_HEX_CHARS}}}(?![0-9a-z])"
        object.__setattr__(self, "_text", re.compile(form))
        # in binary data any byte may stand before an id, a length that reads as a digit too
        object.__setattr__(self, "_bytes", re.compile(form.removeprefix(_APART).encode()))

    async def run(self) -> AsyncIterator[tuple[Table, Told]]:
        """Move the rows; yield each table with the count so far.

        Raises NotYet: before the first row moves, or later, and the run is then begun again.
        """
        gone = False

        def lost() -> None:
            nonlocal gone
            gone = True

        async with self.database.locked(MOVING, LOCK_IDLE_S, lost) as session:
            if session is None:
                raise NotYet("another run moves the rows, or a process of the service starts: wait for its end")
            await self._check()
            async with self.database.begin() as tx:
                await fetch_many(tx, self._mark("moving"))
                for statement in self.moves.before:
                    await fetch_many(tx, statement)
                triggered = {name for (name,) in await fetch_many(tx, _TRIGGERED)}
            for table in await self.tables():
                await self._check_alone()
                told = Told()
                async for _ in self._pass(table, told, moving=True, triggered=table.name in triggered):
                    if gone:
                        raise NotYet("the lock against a start of the service is lost: begin the run again")
                    yield table, told
                if told.moved:
                    async with self.database.begin() as tx:
                        await fetch_many(tx, f"ANALYZE {table.name}")  # else plans expect ids of the older key
            async with self.database.begin() as tx:
                await fetch_many(tx, self._mark("moved"))

    async def count(self) -> AsyncIterator[tuple[Table, Told]]:
        """Count the rows with an id of an older key; yield each table. The service may run meanwhile."""
        for table in await self.tables():
            told = Told()
            async for _ in self._pass(table, told, moving=False):
                pass
            yield table, told

    async def tables(self) -> list[Table]:
        """Return every table."""
        found: dict[str, dict[str, str]] = {}
        async with self.database.begin() as tx:
            for table, column, kind in await fetch_many(tx, _COLUMNS):
                found.setdefault(table, {})[column] = kind
        return [Table(name, types) for name, types in found.items()]

    async def _check(self) -> None:
        """Raise NotYet while the service runs, or has left something undone."""
        if not self.subjects.older:
            raise NotYet("the ring has one outer key: put the former key beside it")
        await self._check_alone()
        async with self.database.begin() as tx:
            mark = await marked(tx)
            if mark is not None and not mark.has_ended and (gone := {mark.to, *mark.of} - self.subjects.outer_keys):
                raise NotYet(
                    f"a run has left rows of the outer key {', '.join(sorted(gone))}: put the key into the ring"
                )
            if await fetch_many(tx, "SELECT 1 FROM outbox LIMIT 1"):
                raise NotYet("the outbox is not empty: run the role `relay` alone until it is")
            for why, query in self.moves.unless.items():
                if await fetch_many(tx, query):
                    raise NotYet(why)

    def _mark(self, said: Literal["moving", "moved"]) -> str:
        """Return the statement that marks a run. Outer key ids are of letters and digits."""
        older = ", ".join(sorted(self.subjects.older))
        return _MARK.format(f"ids of people are {said} to outer key {self.subjects.outer_key_id} from {older}")

    async def _check_alone(self) -> None:
        """Raise NotYet while any other session may write."""
        async with self.database.begin() as tx:
            others = await fetch_many(tx, _OTHERS, self.database.name)
        if others:
            told = ", ".join(f"{many} of the role {role}" for role, many in others)
            raise NotYet(
                f"other sessions may write to the database: {told}. Stop every process of the service, and whatever"
                " else is connected"
            )

    async def _pass(self, table: Table, told: Told, *, moving: bool, triggered: bool = False) -> AsyncIterator[None]:
        """Go over the blocks that the table has now: a moved row needs no second look wherever it went."""
        async with self.database.begin() as tx:
            [(blocks,)] = await fetch_many(
                tx, "SELECT pg_relation_size($1::regclass) / current_setting('block_size')::int", table.name
            )
        for first in range(0, blocks, self.blocks):
            async with self.database.begin() as tx:
                if triggered and moving:
                    await fetch_many(tx, f"ALTER TABLE {table.name} DISABLE TRIGGER USER")
                rows = await self._found(tx, table, first)
                told.found += len(rows)
                if moving:
                    await self._write(tx, table, first, rows)
                    told.moved += len(rows)
                if triggered and moving:
                    await fetch_many(tx, f"ALTER TABLE {table.name} ENABLE TRIGGER USER")
            yield

    def _within(self, first: int) -> str:
        return f"t.ctid >= '({first},0)'::tid AND t.ctid < '({first + self.blocks},0)'::tid"

    async def _found(self, tx: AsyncConnection, table: Table, first: int) -> dict[str, Changed]:
        """Return the changed columns of each row of these blocks with an id of an older key, by the row's place."""
        begins = [f"{key_id}-" for key_id in sorted(self.subjects.older)]
        held = {column: _holds(column, binary=table.is_bytes(column)) for column in table.types}
        values = (
            f"CASE WHEN {holds} THEN t.{_quoted(column)}{'' if table.is_bytes(column) else '::text'} END"
            for column, holds in held.items()
        )
        rows = await fetch_many(
            tx,
            f"""
            SELECT t.ctid::text, {", ".join(values)}
            FROM {table.name} AS t
            WHERE {self._within(first)} AND ({" OR ".join(held.values())})
            """,
            begins,
        )
        found: dict[str, Changed] = {}
        for place, *row in rows:
            told = {
                column: new
                for column, value in zip(table.types, row, strict=True)
                if value is not None and (new := self._moved(value)) != value
            }
            if told:
                found[place] = told
        return found

    async def _write(self, tx: AsyncConnection, table: Table, first: int, rows: Mapping[str, Changed]) -> None:
        if not rows:
            return
        types = {column: kind for column, kind in table.types.items() if any(column in row for row in rows.values())}
        arrays: list[list[Any]] = [[row.get(column) for row in rows.values()] for column in types]
        kinds = ["bytea" if table.is_bytes(column) else "text" for column in types]
        if table.name in self.moves.placed:
            people = {place: str(row[PERSON]).encode() for place, row in rows.items() if PERSON in row}
            of = dict(zip(people, partitions_of(list(people.values()), self.partitions), strict=True))
            types[PLACE] = "smallint"
            arrays.append([of.get(place) for place in rows])
            kinds.append("smallint")
        names = [f"c{place}" for place in range(len(types))]
        assigned = (
            f"{_quoted(column)} = CASE WHEN v.{name} IS NULL THEN t.{_quoted(column)} ELSE v.{name}::{kind} END"
            for name, (column, kind) in zip(names, types.items(), strict=True)
        )
        given = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, start=2))
        written = await fetch_many(
            tx,
            f"""
            UPDATE {table.name} AS t
            SET {", ".join(assigned)}
            FROM unnest($1::text[], {given}) AS v (place, {", ".join(names)})
            WHERE t.ctid = v.place::tid AND {self._within(first)}
            RETURNING 1
            """,
            list(rows),
            *arrays,
        )
        if len(written) != len(rows):
            raise NotYet(f"a row of {table.name} changed meanwhile: stop whatever writes, and begin the run again")

    def _moved(self, value: Any) -> Any:
        """Return a value with each id of an older key by the current one."""
        if isinstance(value, bytes):
            return self._bytes.sub(lambda found: self.subjects.current(found[0].decode()).encode(), value)
        return self._text.sub(lambda found: self.subjects.current(found[0]), value)


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _holds(column: str, *, binary: bool) -> str:
    """Return the SQL condition that the column has one of the beginnings in $1."""
    named = f"t.{_quoted(column)}"
    looked = f"position(o::bytea IN {named}) > 0" if binary else f"strpos({named}::text, o) > 0"
    return f"EXISTS (SELECT FROM unnest($1::text[]) AS o WHERE {looked})"


async def marked(tx: AsyncConnection) -> Mark | None:
    """Return the mark of the last run, None before the first."""
    [(told,)] = await fetch_many(tx, _MARKED)
    found = _TOLD.fullmatch(told or "")
    return Mark(found[1] == "moved", found[2], found[3].split(", ")) if found else None


async def command(
    service: str, owner_url: str, subjects: SubjectKeys, moves: Moves, partitions: int, arguments: Sequence[str]
) -> int:
    """Run the command; return the exit code: 1 where rows with an id of another outer key are left."""
    parser = argparse.ArgumentParser(prog=f"python -m {service} keys", description="Move ids to the current outer key.")
    parser.add_argument("--subjects", action="store_true", required=True, help="move the rows of the stopped service")
    parser.add_argument("--count", action="store_true", help="only count the rows with an id of another outer key")
    asked = parser.parse_args(arguments)
    database = Database(owner_url, pool_size=2, name=f"{service}-keys")
    work = Moving(database, subjects, moves, partitions)
    left = 0
    try:
        if not asked.count:
            await _run(work)
        async for table, told in work.count():
            left += told.found
            if told.found:
                _tell(f"{table.name}: {told.found} rows left")
    except NotYet as error:
        _tell(f"nothing more was moved: {error}")
        return 1
    finally:
        await database.close()
    older = ", ".join(sorted(subjects.older)) or "none"
    _tell(
        f"current outer key: {subjects.outer_key_id}; others in the ring: {older}; rows with ids of the others: {left}"
    )
    return 1 if left else 0


async def _run(work: Moving) -> None:
    last: Table | None = None
    told, said = Told(), 0
    async for table, now in work.run():
        if last is not None and last is not table and told.moved:
            _tell(f"{last.name}: {told.moved} rows moved")
        said = 0 if last is not table else said
        last, told = table, now
        if told.moved - said >= TOLD_EVERY:
            said = told.moved
            _tell(f"{table.name}: {told.moved} rows so far")
    if last is not None and told.moved:
        _tell(f"{last.name}: {told.moved} rows moved")


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
