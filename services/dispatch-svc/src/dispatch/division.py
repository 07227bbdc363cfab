"""The partitions whose people this database holds: stated once, checked at each start, changed by `divide`.

`python -m dispatch divide` makes a copy of a database the database of a shard (docs/scale.md): rows of the people of
other partitions go. A row that stayed would be decided by a shard that no longer hears of its person's STOP.
"""

import asyncio
import logging
import sys
from collections.abc import Collection, Sequence

from sqlalchemy import ARRAY, Column, Integer, SmallInteger, Table
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
)

AT_ONCE = 10_000  # rows
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
OF_ALL = ("comparison", "hold", "allowance", "bind_lease", "mo_name", "text_audit")  # the first shard keeps these
SUBJECT_KEYED = [topic.name for topic in TOPICS if topic.keyed_by == "subject_id"]
LOCK = "SELECT pg_advisory_xact_lock(hashtext('placet.shard'))"


class NotYet(RuntimeError):
    """The database cannot be divided yet; the text says what to do."""


async def claim(tx: AsyncConnection, own: Sequence[int], partitions: int) -> None:
    """State the partitions of a new database, or check those stated. Raises OtherShard."""
    await fetch_many(tx, LOCK)
    held = await stated(tx)
    if held is None:
        await _state(tx, own, partitions)
    else:
        _check(held, own, partitions)


async def check(shard: Shard, partitions: int) -> None:
    """Check the partitions that the database of another shard states, if it answers. Raises OtherShard."""
    try:
        async with shard.database.begin() as tx:
            held = await stated(tx)
    except Exception as error:  # the shard starts later, and checks its own
        log.warning("a shard does not answer", extra={"shard": shard.name, "why": type(error).__name__})
        return
    if held is not None:
        _check(held, shard.partitions, partitions)


async def stated(tx: AsyncConnection) -> tuple[Sequence[int], int] | None:
    """Return the partitions that the database holds, and of how many; `None` before the first start."""
    rows = await fetch_many(tx, 'SELECT partitions, "of" FROM shard')
    return (rows[0][0], rows[0][1]) if rows else None


def _check(held: tuple[Sequence[int], int], own: Sequence[int], partitions: int) -> None:
    if (list(held[0]), held[1]) != (list(own), partitions):
        raise OtherShard(
            f"the database holds the partitions {_named(held[0])} of {held[1]}, and the settings say {_named(own)} of"
            f" {partitions}: set PLACET_SHARDS and PLACET_PARTITIONS as they were, or run `python -m dispatch divide`"
            " (docs/scale.md)"
        )


async def _state(tx: AsyncConnection, own: Sequence[int], partitions: int) -> None:
    await fetch_many(
        tx,
        'INSERT INTO shard (id, partitions, "of") VALUES (1, $1::smallint[], $2) ON CONFLICT (id) DO UPDATE'
        ' SET partitions = excluded.partitions, "of" = excluded."of"',
        list(own),
        partitions,
    )


async def divide(database: Database, own: Sequence[int], partitions: int, *, first: bool) -> int:
    """Delete the rows of the people of other partitions, and state the own ones; return how many rows went.

    An interrupted run is run again. Raises NotYet, OtherShard.
    """
    async with database.begin() as tx:
        await fetch_many(tx, LOCK)
        await _refuse(tx, own, partitions)
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
        if not first:
            for table in OF_ALL:
                await fetch_many(tx, f"DELETE FROM {table}")
            await fetch_many(tx, "DELETE FROM dead_letter WHERE topic <> ALL($1::text[])", SUBJECT_KEYED)
        await _state(tx, own, partitions)
    return gone


async def _refuse(tx: AsyncConnection, own: Sequence[int], partitions: int) -> None:
    held = await stated(tx)
    if held is None:
        raise NotYet("the database was never in use: start the service, which states the partitions itself")
    if held[1] != partitions or not set(own) <= set(held[0]):
        raise OtherShard(
            f"the database holds the partitions {_named(held[0])} of {held[1]}, and so cannot become that of"
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
        gone = await divide(database, own, settings.partitions, first=settings.database_url == settings.first_url)
    except (NotYet, OtherShard) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        await database.close()
    sys.stdout.write(f"the database holds the partitions {_named(own)}; {gone} rows of others are gone\n")
    return 0
