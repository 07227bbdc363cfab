"""The partitions whose people a database holds, or the slots of organisations: stated once, checked at each start,
changed by `divide`. Both are places here, and in the column `partitions`.

`python -m <service> divide` makes a copy of a database the database of a shard (docs/scale.md): rows of the people of
other partitions go. A row that stayed would be decided by a shard that no longer hears of its person's STOP.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import asyncpg
from sqlalchemy import ARRAY, Column, Integer, MetaData, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import TOPICS
from common.db.database import Database, Fetch, fetch_many
from common.db.shards import ANSWERS_WITHIN_S, OtherShard, Shard, Shards
from common.kafka.broker import partitions_of
from common.settings.shards import OF_OWNERS, PARTITIONS, DividedSettings

log = logging.getLogger(__name__)

AT_ONCE = 10_000  # rows
PAGES = 1024  # 8 MB of a table
DIVIDED = {
    "the database is of one shard: ids would move to people of others": "SELECT 1 FROM shard WHERE"
    ' cardinality(partitions) < "of"'
}
LEFT = {
    "the outbox has rows: start the relay alone, and stop it once the outbox is empty": "SELECT 1 FROM outbox LIMIT 1"
}
SUBJECT_KEYED = [topic.name for topic in TOPICS if topic.keyed_by == "subject_id"]
OF_PAGES = "SELECT subject_id, ctid::text FROM {table} WHERE ctid >= $1::text::tid AND ctid < $2::text::tid"
STATED = 'SELECT partitions, "of", division, taken FROM shard'
# of a new connection, which would ask for the types of arrays first
SEEN = "SELECT array_to_string(partitions, ','), \"of\", division, array_to_string(taken, ',') FROM shard"
IN_USE = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1 LIMIT 1"
LOCK = "SELECT pg_advisory_xact_lock(hashtext('placet.shard'))"
# a run is longer than a server may let a session be idle
ALONE = "SELECT pg_try_advisory_lock(hashtext('placet.divide')) FROM set_config('idle_session_timeout', '0', false)"


def define(metadata: MetaData) -> Table:
    """Add the table of the partitions to a schema; migrations spell the table out literally."""
    return Table(
        "shard",  # a single row, from the first start on
        metadata,
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        Column("partitions", ARRAY(SmallInteger), nullable=False),
        Column("of", Integer, nullable=False),
        Column("division", Text, nullable=False, server_default=text("'none'::text")),  # as `Stated`: none, begun, done
        Column("taken", ARRAY(SmallInteger), nullable=False, server_default=text("'{}'::smallint[]")),  # as `Stated`
    )


@dataclass(frozen=True, slots=True)
class Divided:
    """The tables of a service, as `divide` treats their rows; the rows of any other table stay in each part.

    `placed`: with a column `partition` of people. `of_people`: with a column `subject_id`. `emptied`: as `of_people`,
    where more than the row goes: the statement deletes what is of the people $1 (text[]), and returns how many rows.
    `of_all`: no person's, and kept in the part with the first place alone. `left`: queries that find work in hand,
    each by what to do first.

    `by_place`: of a service divided by organisation: statements that delete AT_ONCE rows at most of the organisations
    $1 (text[]), by table, in this order, and return how many; `owners`: a query for every organisation there is.
    `walked`: as `by_place`, for a table with rows of several organisations: of the next $3 rows behind the subject_id
    $2 the statement deletes or changes those of $1, and returns the last subject_id, if any, and how many.
    """

    service: str
    of_people: Sequence[str]
    placed: Sequence[str] = ()
    emptied: Mapping[str, str] = field(default_factory=dict)
    of_all: Sequence[str] = ()
    by_place: Mapping[str, str] = field(default_factory=dict)
    walked: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    owners: str = ""

    @property
    def places(self) -> str:
        """Return what the shards share out, in a word."""
        return OF_OWNERS if self.owners else PARTITIONS


class NotYet(RuntimeError):
    """The database cannot be divided yet; the text says what to do."""


class _Holds(OtherShard):
    """A new connection found a database that holds other places."""

    def __init__(self, why: OtherShard, held: "Stated") -> None:
        super().__init__(str(why))
        self.held = held


class Stated(NamedTuple):
    """The row of a database: its partitions, of how many, and whether its rows were divided.

    `taken`: the partitions that processes of other shards have said their databases hold.
    """

    partitions: Sequence[int]
    of: int
    division: str
    taken: Sequence[int]


async def admit(shards: Shards, settings: DividedSettings, writers: Collection[str]) -> None:
    """State or check the partitions of the process's database, and check those of the others. Raises OtherShard.

    `writers`: the roles of the service that write to the databases of all shards, or tell how many shards there are.
    From then on each new connection to these databases is checked. `divide` refuses while a connection is open, so no
    process writes on for people who were moved while it ran. Unchecked: connections to another shard of a process
    without `writers`, and those of limits; both write what is counted over all, and nothing of a person's.
    """
    others = [shard for shard in shards.each if shard is not shards.own]
    judges = bool(settings.roles & set(writers))
    for shard in shards.each if judges else [shards.own]:
        shard.database.check = partial(_look, shards, shard.partitions, settings)
    async with shards.own.database.begin() as tx:
        await claim(tx, settings.own_places, others, settings.places, settings.places_are)
    await asyncio.gather(*(meet(shard, settings, judges) for shard in others))


async def claim(
    tx: AsyncConnection, own: Sequence[int], others: Sequence[Shard], of: int, places: str = PARTITIONS
) -> None:
    """State the partitions of a new database, or check those stated. Raises OtherShard.

    A new database takes its requests from the beginning of the log: no other may have taken them before, under another
    name or another url. So the others must answer then.
    """
    await fetch_many(tx, LOCK)
    held = await stated(tx)
    if held is not None:
        _check(held, own, of, places)
        return
    taken = set[int]()
    for shard in others:
        try:
            async with shard.database.begin() as of_other:
                theirs = await stated(of_other)
        except _Holds as error:  # the refusal of the own database says more
            theirs = error.held
        taken |= set(theirs.partitions if theirs is not None else ())
        if theirs is not None and (theirs.division != "none" or set(theirs.partitions) & set(own)):
            raise OtherShard(
                f"the database is empty, and the people of its {places} {_named(own)} were in another: copy that"
                f" database, of shard {shard.name}, and run `divide` (docs/scale.md)"
            )
        if theirs is not None and set(theirs.taken) & set(own):
            raise OtherShard(
                f"the database is empty, and shard {shard.name} knows another database with its {places}"
                f" {_named(own)}: set PLACET_SHARDS and PLACET_DATABASE_URL as they were (docs/scale.md)"
            )
    await fetch_many(
        tx,
        'INSERT INTO shard (id, partitions, "of", taken) VALUES (1, $1::smallint[], $2, $3::smallint[])',
        list(own),
        of,
        sorted(taken),
    )


async def meet(shard: Shard, settings: DividedSettings, judges: bool) -> None:
    """Tell the database of another shard the own places, if it answers soon, and check those it states if `judges`.

    Raises OtherShard.
    """
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S), shard.database.begin() as tx:
            held = await stated(tx)
            await fetch_many(
                tx,
                "UPDATE shard SET taken = taken || $1::smallint[] WHERE NOT taken @> $1::smallint[]",
                list(settings.own_places),
            )
    except OtherShard:
        raise
    except Exception as error:  # the shard starts later, and checks its own
        log.warning("a shard does not answer", extra={"shard": shard.name, "why": type(error).__name__})
        return
    if judges and held is not None:
        _check(held, shard.partitions, settings.places, settings.places_are)


async def _look(shards: Shards, places: Sequence[int], settings: DividedSettings, fetch: Fetch) -> None:
    """Check the database of a new connection. Raises OtherShard."""
    try:
        rows = await fetch(SEEN)
    except asyncpg.UndefinedTableError:  # before the first migration, and so undivided
        return
    if not rows:
        return
    partitions, of, division, taken = rows[0]
    held = Stated(_places(partitions), of, division, _places(taken))
    try:
        _check(held, places, settings.places, settings.places_are)
    except OtherShard as error:
        holds = _Holds(error, held)
        shards.refused.tell(holds)
        raise holds from None


def _places(told: str) -> list[int]:
    return [int(place) for place in told.split(",") if place]


async def stated(tx: AsyncConnection) -> Stated | None:
    """Return the row of the database, or None before the first start."""
    rows = await fetch_many(tx, STATED)
    return Stated(*rows[0]) if rows else None


def _check(held: Stated, own: Sequence[int], of: int, places: str) -> None:
    if (list(held.partitions), held.of) != (list(own), of):
        raise OtherShard(
            f"the database holds the {places} {_named(held.partitions)} of {held.of}, and the settings say"
            f" {_named(own)} of {of}: set PLACET_SHARDS and PLACET_PARTITIONS as they were, or run"
            " `divide` (docs/scale.md)"
        )
    if held.division == "begun":
        raise OtherShard("the database is being divided: run `divide` to its end (docs/scale.md)")


async def _restate(tx: AsyncConnection, was: Stated, now: Stated) -> bool:
    """Change the row of the database; return whether the row still was as `was` says."""
    return bool(
        await fetch_many(
            tx,
            "UPDATE shard SET partitions = $3::smallint[], division = $4"
            " WHERE partitions = $1::smallint[] AND division = $2 RETURNING 1",
            list(was.partitions),
            was.division,
            list(now.partitions),
            now.division,
        )
    )


def _before(held: Stated, own: Sequence[int]) -> str:
    """Return what the row said of the division before a run that has deleted nothing.

    Where a former run died before its second look, what the row of a part said is unknown. With "done" an empty
    database of another shard is refused.
    """
    if held.division != "begun" or list(held.partitions) == list(own):
        return held.division
    return "none" if len(held.partitions) == held.of else "done"


@asynccontextmanager
async def _alone(database: Database) -> AsyncIterator[None]:
    """Keep other runs of `divide` away from the database. Raises NotYet.

    A run whose session is lost changes the row only where no other run has.
    """
    session = await database.connect()
    try:
        if not await session.fetchval(ALONE):
            raise NotYet("another run of `divide` has the database: wait for its end")
        yield
    finally:
        await session.close()  # once the server has let go of the lock


async def divide(database: Database, tables: Divided, own: Sequence[int], partitions: int) -> int:
    """Delete the rows of other places, and state the own ones; return how many rows went.

    No process starts until the rows are gone; an interrupted run is run again. Raises NotYet, OtherShard.
    """
    async with _alone(database):
        divided = await _begun(database, tables, own, partitions)
        gone = await _delete_others(database, tables, own, partitions)
        async with database.begin() as tx:
            for table in () if tables.owners else ("consumer_offset", "dead_letter"):  # shards of owners read all
                await fetch_many(
                    tx,
                    # of a wide topic too, whose partition is the people's plus a multiple of `partitions`
                    f"DELETE FROM {table} WHERE topic = ANY($1::text[]) AND partition % $3 <> ALL($2::integer[])",
                    SUBJECT_KEYED,
                    list(own),
                    partitions,
                )
            await fetch_many(tx, LOCK)
            await _change(tx, divided, divided._replace(division="done"))
    return gone


async def _begun(database: Database, tables: Divided, own: Sequence[int], partitions: int) -> Stated:
    """Look twice for processes, and return the row with the own places, whose division has begun.

    The first look finds no process that connects just then, which has not read that a division began. The second does,
    and a process that connects later has read so. A row without its second look is put back, so that what has to be
    done first can be done. Raises NotYet, OtherShard.
    """
    async with database.begin() as tx:
        held = _divisible(await stated(tx), tables, own, partitions)
    announced = held._replace(division="begun")
    try:
        async with database.begin() as tx:
            await fetch_many(tx, LOCK)
            await _at_rest(tx, tables)
            await _change(tx, held, announced)
        return await _begin(database, tables, own, announced)
    except NotYet:
        async with database.begin() as tx:
            await fetch_many(tx, LOCK)
            await _restate(tx, announced, held._replace(division=_before(held, own)))
        raise


async def _begin(database: Database, tables: Divided, own: Sequence[int], announced: Stated) -> Stated:
    """State the own places, after the second look. Raises NotYet."""
    async with database.begin() as tx:
        await fetch_many(tx, LOCK)
        await _at_rest(tx, tables)
        if min(announced.partitions) not in own:  # the part with the first partition keeps what is no person's
            for table in tables.of_all:
                await fetch_many(tx, f"DELETE FROM {table}")
        if await fetch_many(tx, "SELECT 1 WHERE to_regclass('erasing') IS NOT NULL"):
            # the transactions that an erasure waits for have ended, and a copy counts its own
            await fetch_many(tx, "UPDATE erasing SET after_xid = NULL WHERE erased_at IS NULL")
        return await _change(tx, announced, announced._replace(partitions=own))


def _divisible(held: Stated | None, tables: Divided, own: Sequence[int], partitions: int) -> Stated:
    """Return the row of the database, if it can become that of the own places. Raises NotYet, OtherShard."""
    if held is None:
        raise NotYet(f"the database was never in use: start the service, which states the {tables.places} itself")
    if held.of != partitions or not set(own) <= set(held.partitions):
        raise OtherShard(
            f"the database holds the {tables.places} {_named(held.partitions)} of {held.of}, and so cannot become that"
            f" of {_named(own)} of {partitions}: a shard divides into parts of itself"
        )
    return held


async def _at_rest(tx: AsyncConnection, tables: Divided) -> None:
    """Raise NotYet while a process uses the database, or work is in hand."""
    for why, query in (LEFT | dict(tables.left)).items():
        if await fetch_many(tx, query):
            raise NotYet(why)
    if await fetch_many(tx, IN_USE, tables.service):
        raise NotYet(f"a process of {tables.service}-svc uses the database: stop every process of the service first")


async def _change(tx: AsyncConnection, was: Stated, now: Stated) -> Stated:
    """Change the row of the database, and return the row. Raises NotYet where another run has changed the row."""
    if not await _restate(tx, was, now):
        raise NotYet("another run of `divide` has changed the database meanwhile: run `divide` again")
    return now


async def _delete_others(database: Database, tables: Divided, own: Sequence[int], partitions: int) -> int:
    gone = 0
    for table in tables.placed:
        gone += await _delete(
            database, f"SELECT ctid FROM {table} WHERE partition <> ALL($1::smallint[]) LIMIT {AT_ONCE}", table, own
        )
    for table in tables.of_people:
        gone += await _delete_by_pages(database, table, own, partitions)
    for table, statement in tables.emptied.items():
        gone += await _delete_people(database, table, statement, own, partitions)
    if tables.owners:
        gone += await _delete_of_others(database, tables, own, partitions)
    return gone


async def _delete(database: Database, rows: str, table: str, own: Sequence[int]) -> int:
    gone, many = 0, 0
    while True:
        async with database.begin() as tx:
            [(many,)] = await fetch_many(  # ctid: not every table has a key
                tx,
                f"WITH gone AS (DELETE FROM {table} WHERE ctid = ANY(ARRAY({rows})) RETURNING 1)"
                " SELECT count(*) FROM gone",
                list(own),
            )
        gone += int(many)
        if many < AT_ONCE:
            return gone


async def _delete_by_pages(database: Database, table: str, own: Collection[int], partitions: int) -> int:
    """Delete other places' people in one pass over the table, whatever its indexes."""
    async with database.begin() as tx:
        [(pages,)] = await fetch_many(
            tx, "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::integer", table
        )
    gone = 0
    for page in range(0, pages, PAGES):
        async with database.begin() as tx:
            await fetch_many(tx, "SELECT set_config('enable_seqscan', 'off', true)")  # whatever the table's statistics
            rows = await fetch_many(
                tx,
                OF_PAGES.format(table=table),
                f"({page},0)",
                f"({page + PAGES},0)",
            )
            people = sorted({subject_id for subject_id, _ in rows})
            of = partitions_of([subject_id.encode() for subject_id in people], partitions) if people else []
            theirs = {subject_id for subject_id, partition in zip(people, of, strict=True) if partition not in own}
            if theirs:
                [(many,)] = await fetch_many(
                    tx,
                    f"WITH gone AS (DELETE FROM {table} WHERE ctid = ANY($1::text[]::tid[]) RETURNING 1)"
                    " SELECT count(*) FROM gone",
                    [place for subject_id, place in rows if subject_id in theirs],
                )
                gone += int(many)
    return gone


async def _delete_people(database: Database, table: str, statement: str, own: Collection[int], partitions: int) -> int:
    gone, after = 0, ""
    while True:
        async with database.begin() as tx:
            found = await fetch_many(
                tx,
                f"SELECT DISTINCT subject_id FROM {table} WHERE subject_id > $1 ORDER BY subject_id LIMIT {AT_ONCE}",
                after,
            )
            people = [subject_id for (subject_id,) in found]
            of = partitions_of([subject_id.encode() for subject_id in people], partitions) if people else []
            others = [subject_id for subject_id, partition in zip(people, of, strict=True) if partition not in own]
            if others:
                [(many,)] = await fetch_many(tx, statement, others)
                gone += int(many)
        if len(people) < AT_ONCE:
            return gone
        after = people[-1]


async def _delete_of_others(database: Database, tables: Divided, own: Collection[int], of: int) -> int:
    async with database.begin() as tx:
        owners = [owner for (owner,) in await fetch_many(tx, tables.owners)]
    slots = partitions_of([owner.encode() for owner in owners], of) if owners else []
    others = [owner for owner, slot in zip(owners, slots, strict=True) if slot not in own]
    gone = 0
    for statement in tables.by_place.values() if others else ():
        many = AT_ONCE
        while many >= AT_ONCE:
            async with database.begin() as tx:
                [(many,)] = await fetch_many(tx, statement, others)
            gone += int(many)
    for statement in tables.walked.values() if others else ():
        after: str | None = ""
        while after is not None:
            async with database.begin() as tx:
                [(after, many)] = await fetch_many(tx, statement, others, after, AT_ONCE)
            gone += int(many)
    return gone


def _named(partitions: Sequence[int]) -> str:
    whole = list(partitions) == list(range(partitions[0], partitions[-1] + 1))
    return f"{partitions[0]}-{partitions[-1]}" if whole else ",".join(map(str, partitions))


def run(tables: Divided, settings: DividedSettings, arguments: Sequence[str]) -> int:
    """Return the exit code: 0 once the database is that of the shard, 1 if not, 2 for wrong arguments."""
    if arguments or settings.shard is None:
        sys.stderr.write(f"usage: python -m {tables.service} divide, with PLACET_SHARDS and PLACET_SHARD\n")
        return 2
    return asyncio.run(_run(tables, settings))


async def _others_rest(tables: Divided, settings: DividedSettings) -> None:
    """Raise NotYet while a process uses the database of another shard.

    The process may have the former PLACET_SHARDS, and write for people who are moved now.
    """
    for name, _, url in settings.divided:
        if name == settings.own_shard:
            continue
        database = Database(url, pool_size=1, name=f"{tables.service}-divide")
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                in_use = await database.read(IN_USE, tables.service)
        except Exception as error:  # whatever keeps the answer back
            raise NotYet(
                f"shard {name} does not answer ({type(error).__name__}), so whether its processes are stopped is"
                " unknown"
            ) from error
        finally:
            await database.close()
        if in_use:
            raise NotYet(
                f"a process of {tables.service}-svc uses the database of shard {name}: stop the processes of every"
                " shard first"
            )


async def _goes_on(database: Database, own: Sequence[int]) -> bool:
    """Return whether a former run has begun to delete rows: no process with a former PLACET_SHARDS was left then, and
    none has connected since.
    """
    async with database.begin() as tx:
        held = await stated(tx)
    return held is not None and (held.division, list(held.partitions)) == ("begun", list(own))


async def _run(tables: Divided, settings: DividedSettings) -> int:
    database = Database(settings.database_url, pool_size=1, name=f"{tables.service}-divide")
    own = settings.own_places
    try:
        if not await _goes_on(database, own):
            await _others_rest(tables, settings)
        gone = await divide(database, tables, own, settings.places)
    except (NotYet, OtherShard) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        await database.close()
    sys.stdout.write(f"the database holds the {settings.places_are} {_named(own)}; {gone} rows of others are gone\n")
    return 0
