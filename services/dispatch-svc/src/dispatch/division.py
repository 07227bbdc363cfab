"""The partitions whose people this database holds: stated once, checked at each start, changed by `divide`.

`python -m dispatch divide` makes a copy of a database the database of a shard (docs/scale.md): rows of the people of
other partitions go. A row that stayed would be decided by a shard that no longer hears of its person's STOP.
"""

import asyncio
import logging
import sys
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import ARRAY, Column, Integer, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import TOPICS
from common.db.database import Database, fetch_many
from common.db.shards import OtherShard, Shard
from common.kafka.broker import partitions_of
from common.settings.shards import ShardedSettings
from dispatch.messages.store import IN_HAND
from dispatch.projection.store import REBUILDING
from dispatch.schema import metadata

log = logging.getLogger(__name__)

shard = Table(
    "shard",  # a single row, from the first start on
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("partitions", ARRAY(SmallInteger), nullable=False),
    Column("of", Integer, nullable=False),
    Column("division", Text, nullable=False, server_default=text("'none'::text")),  # none, begun, done
)

AT_ONCE = 10_000  # rows
ANSWERS_WITHIN_S = 2.0  # of another shard
DIVIDED = {
    "the database is of one shard: ids would move to people of others": "SELECT 1 FROM shard WHERE"
    ' cardinality(partitions) < "of"'
}
LEFT = {
    "the outbox has rows: start the relay alone, and stop it once the outbox is empty": "SELECT 1 FROM outbox LIMIT 1",
    **IN_HAND,
    **REBUILDING,
}
PLACED = ("message", "enforcement", "sending", "begun")  # with a column `partition` of people
OF_PEOPLE = ("subject", "subject_next", "provider_block", "erasing")  # with a column `subject_id`
OF_ALL = ("comparison", "hold", "allowance", "bind_lease", "mo_name", "text_audit")  # no person's: in one part alone
SUBJECT_KEYED = [topic.name for topic in TOPICS if topic.keyed_by == "subject_id"]
LOCK = "SELECT pg_advisory_xact_lock(hashtext('placet.shard'))"


class NotYet(RuntimeError):
    """The database cannot be divided yet; the text says what to do."""


class Stated(NamedTuple):
    """What a database says of itself: its partitions, of how many, and whether its rows were divided."""

    partitions: Sequence[int]
    of: int
    division: str


async def claim(tx: AsyncConnection, own: Sequence[int], others: Sequence[Shard], partitions: int) -> None:
    """State the partitions of a new database, or check those stated. Raises OtherShard.

    A new database takes its requests from the beginning of the log: no other may have taken them before. So the others
    must answer then.
    """
    await fetch_many(tx, LOCK)
    held = await stated(tx)
    if held is not None:
        _check(held, own, partitions)
        return
    for shard in others:
        async with shard.database.begin() as of_other:
            theirs = await stated(of_other)
        if theirs is not None and (theirs.division != "none" or set(theirs.partitions) & set(own)):
            raise OtherShard(
                f"the database is empty, and the people of its partitions {_named(own)} were in another: copy that"
                f" database, of shard {shard.name}, and run `python -m dispatch divide` (docs/scale.md)"
            )
    await _state(tx, own, partitions, "none")


async def check(shard: Shard, partitions: int) -> None:
    """Check the partitions that the database of another shard states, if it answers soon. Raises OtherShard."""
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S), shard.database.begin() as tx:
            held = await stated(tx)
    except Exception as error:  # the shard starts later, and checks its own
        log.warning("a shard does not answer", extra={"shard": shard.name, "why": type(error).__name__})
        return
    if held is not None:
        _check(held, shard.partitions, partitions)


async def stated(tx: AsyncConnection) -> Stated | None:
    """Return what the database says of itself; `None` before the first start."""
    rows = await fetch_many(tx, 'SELECT partitions, "of", division FROM shard')
    return Stated(*rows[0]) if rows else None


def _check(held: Stated, own: Sequence[int], partitions: int) -> None:
    if (list(held.partitions), held.of) != (list(own), partitions):
        raise OtherShard(
            f"the database holds the partitions {_named(held.partitions)} of {held.of}, and the settings say"
            f" {_named(own)} of {partitions}: set PLACET_SHARDS and PLACET_PARTITIONS as they were, or run"
            " `python -m dispatch divide` (docs/scale.md)"
        )
    if held.division == "begun":
        raise OtherShard("the database is being divided: run `python -m dispatch divide` to its end (docs/scale.md)")


async def _state(tx: AsyncConnection, own: Sequence[int], partitions: int, division: str) -> None:
    await fetch_many(
        tx,
        'INSERT INTO shard (id, partitions, "of", division) VALUES (1, $1::smallint[], $2, $3) ON CONFLICT (id)'
        ' DO UPDATE SET partitions = excluded.partitions, "of" = excluded."of", division = excluded.division',
        list(own),
        partitions,
        division,
    )


async def divide(database: Database, own: Sequence[int], partitions: int) -> int:
    """Delete the rows of the people of other partitions, and state the own ones; return how many rows went.

    No process starts until the rows are gone; an interrupted run is run again. Raises NotYet, OtherShard.
    """
    async with database.begin() as tx:
        await fetch_many(tx, LOCK)
        held = await _divisible(tx, own, partitions)
        if min(held.partitions) not in own:  # the part with the first partition keeps what is no person's
            for table in OF_ALL:
                await fetch_many(tx, f"DELETE FROM {table}")
        await _state(tx, own, partitions, "begun")
    gone = 0
    for table in PLACED:
        gone += await _delete(
            database, f"SELECT ctid FROM {table} WHERE partition <> ALL($1::smallint[]) LIMIT {AT_ONCE}", table, own
        )
    for table in OF_PEOPLE:
        gone += await _delete_people(database, table, own, partitions)
    async with database.begin() as tx:
        for table in ("consumer_offset", "dead_letter"):
            await fetch_many(
                tx,
                f"DELETE FROM {table} WHERE topic = ANY($1::text[]) AND partition <> ALL($2::integer[])",
                SUBJECT_KEYED,
                list(own),
            )
        await _state(tx, own, partitions, "done")
    return gone


async def _divisible(tx: AsyncConnection, own: Sequence[int], partitions: int) -> Stated:
    """Return what the database says of itself, if it can be divided now. Raises NotYet, OtherShard."""
    held = await stated(tx)
    if held is None:
        raise NotYet("the database was never in use: start the service, which states the partitions itself")
    if held.of != partitions or not set(own) <= set(held.partitions):
        raise OtherShard(
            f"the database holds the partitions {_named(held.partitions)} of {held.of}, and so cannot become that of"
            f" {_named(own)} of {partitions}: a shard divides into parts of itself"
        )
    for why, query in LEFT.items():
        if await fetch_many(tx, query):
            raise NotYet(why)
    if await fetch_many(
        tx,
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dispatch' LIMIT 1",
    ):
        raise NotYet("a process of dispatch-svc uses the database: stop every process of the service first")
    return held


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


async def _delete_people(database: Database, table: str, own: Collection[int], partitions: int) -> int:
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
                [(many,)] = await fetch_many(
                    tx,
                    f"WITH gone AS (DELETE FROM {table} WHERE subject_id = ANY($1::text[]) RETURNING 1)"
                    " SELECT count(*) FROM gone",
                    others,
                )
                gone += int(many)
        if len(people) < AT_ONCE:
            return gone
        after = people[-1]


def _named(partitions: Sequence[int]) -> str:
    whole = list(partitions) == list(range(partitions[0], partitions[-1] + 1))
    return f"{partitions[0]}-{partitions[-1]}" if whole else ",".join(map(str, partitions))


def run(settings: ShardedSettings, arguments: Sequence[str]) -> int:
    """Return the exit code: 0 once the database is that of the shard, 1 if not, 2 for wrong arguments."""
    if arguments or settings.shard is None:
        sys.stderr.write("usage: python -m dispatch divide, with PLACET_SHARDS and PLACET_SHARD\n")
        return 2
    return asyncio.run(_run(settings))


async def _run(settings: ShardedSettings) -> int:
    database = Database(settings.database_url, pool_size=1, name="dispatch-divide")
    own = settings.own_partitions
    try:
        gone = await divide(database, own, settings.partitions)
    except (NotYet, OtherShard) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        await database.close()
    sys.stdout.write(f"the database holds the partitions {_named(own)}; {gone} rows of others are gone\n")
    return 0
