"""Partitions with a broken log: the fault is stored beside the offset until a person clears the fault.

    records_missing   the log has lost records: the consumer applies events but no watermarks, so knowledge grows old
    other_log         the log is not the log read before: the consumer reads nothing of the partition

`python -m <service> log clear` ends a fault, once the topic's owner has published again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import Topic
from common.db.database import Database, fetch_many
from common.kafka.reading.completeness import ANY_NUMBER, Reading, Seen
from common.kafka.reading.log_identity import Identity
from common.telemetry import gauge

Fault = Literal["records_missing", "other_log"]

BROKEN = gauge(
    "sms_consumer_broken_logs_rows",
    "Partitions whose log lost records or was replaced by another log: an operator has to run `log list`.",
    ["topic"],
)
_ROW = "consumer_group = $1 AND topic = $2 AND partition = $3"


@dataclass(frozen=True, slots=True)
class Broken:
    """A broken partition.

    `at`: for `records_missing` the offset after the gap; for `other_log` the reader's next offset.
    """

    group: str
    topic: str
    partition: int
    fault: Fault
    at: int
    since: datetime
    why: str

    @property
    def place(self) -> str:
        return f"{self.group}:{self.topic}/{self.partition}@{self.at}"

    def __str__(self) -> str:
        effect = "nothing of it is read" if self.fault == "other_log" else "its watermarks are not believed"
        return f"{self.topic}/{self.partition} is broken, {effect}: {self.why}. Follow LogBroken in the runbook."


class Stored(NamedTuple):
    """A locked row."""

    reading: Reading
    fault: Fault | None


def stored_of(
    topic: Topic, next_offset: int, last_number: int, unseen: int, fault: Fault | None, cleared_at: datetime | None
) -> Stored:
    return Stored(reading_of(topic, Seen(next_offset, last_number, unseen), cleared_at, whole=fault is None), fault)


def reading_of(topic: Topic, seen: Seen, cleared_at: datetime | None, *, whole: bool = True) -> Reading:
    return Reading(
        seen, numbered=topic.watermarked, compacted=topic.cleanup == "compact", whole=whole, since=cleared_at
    )


async def lock(
    tx: AsyncConnection, group: str, topic: Topic, partitions: Sequence[int], *, at_once: bool = False
) -> dict[int, Stored]:
    """Return the rows of these partitions, locked against moves in the order of partitions: no deadlock.

    `at_once`: raise LockNotAvailableError where another transaction holds a row.
    """
    rows = await fetch_many(
        tx,
        "SELECT partition, next_offset, last_number, unseen, fault, cleared_at FROM consumer_offset"
        " WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3::integer[]) ORDER BY partition FOR UPDATE"
        f"{' NOWAIT' if at_once else ''}",
        group,
        topic.name,
        list(partitions),
    )
    return {row[0]: stored_of(topic, *row[1:]) for row in rows}


async def begin(
    tx: AsyncConnection, group: str, topic: Topic, partition: int, identity: Identity
) -> tuple[int, Fault | None]:
    """Return the stored offset (0 the first time) and the fault.

    Stores the log's identity, or `other_log` where the stored offset belongs to another identity.
    """
    await fetch_many(
        tx,
        "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset) VALUES ($1, $2, $3, 0)"
        " ON CONFLICT DO NOTHING",
        group,
        topic.name,
        partition,
    )
    [(next_offset, topic_id, cluster_id, fault)] = await fetch_many(
        tx,
        f"SELECT next_offset, topic_id, cluster_id, fault FROM consumer_offset WHERE {_ROW} FOR UPDATE",
        group,
        topic.name,
        partition,
    )
    others = [
        f"the {what} was {was}, and is {now}"
        for what, was, now in (
            ("topic id", topic_id, identity.topic_id),
            ("cluster id", cluster_id, identity.cluster_id),
        )
        if next_offset > 0 and was is not None and now is not None and was != now
    ]
    if others:
        await note(
            tx, group, topic, partition, "other_log", next_offset, f"the topic was made anew: {'; '.join(others)}"
        )
        return next_offset, "other_log"
    if (identity.topic_id or topic_id, identity.cluster_id or cluster_id) != (topic_id, cluster_id):
        await fetch_many(
            tx,
            f"UPDATE consumer_offset SET topic_id = coalesce($4, topic_id), cluster_id = coalesce($5, cluster_id)"
            f" WHERE {_ROW}",
            group,
            topic.name,
            partition,
            *identity,
        )
    return next_offset, fault


async def note(tx: AsyncConnection, group: str, topic: Topic, partition: int, fault: Fault, at: int, why: str) -> None:
    """Store a fault: since the first finding, at the place and with the reason of the last. `other_log` stays."""
    await fetch_many(
        tx,
        "UPDATE consumer_offset SET fault_since = coalesce(fault_since, now()), fault_at = $5, fault_why = $6,"
        f" fault = CASE WHEN fault = 'other_log' THEN fault ELSE $4 END WHERE {_ROW}",
        group,
        topic.name,
        partition,
        fault,
        at,
        why,
    )


async def found(tx: AsyncConnection) -> list[Broken]:
    """Return the broken partitions."""
    rows = await fetch_many(
        tx,
        "SELECT consumer_group, topic, partition, fault, fault_at, fault_since, fault_why FROM consumer_offset"
        " WHERE fault IS NOT NULL ORDER BY consumer_group, topic, partition",
    )
    return [Broken(*row) for row in rows]


async def watched(database: Database, group: str, topic: str) -> tuple[dict[int, int], list[Broken]]:
    """Return the stored offsets of a group, and the broken partitions of any group, of a topic: one round trip."""
    rows = await database.read(
        "SELECT consumer_group, topic, partition, fault, fault_at, fault_since, fault_why, next_offset"
        " FROM consumer_offset WHERE topic = $1 AND (consumer_group = $2 OR fault IS NOT NULL)"
        " ORDER BY consumer_group, partition",
        topic,
        group,
    )
    stored = {partition: next_offset for of, _, partition, *_, next_offset in rows if of == group}
    return stored, [Broken(*row[:7]) for row in rows if row[3] is not None]


async def clear(tx: AsyncConnection, place: str) -> Broken | None:
    """Trust the log again, by a person's decision; `None` where no fault is at `place` any more.

    Records published again before now precede newer watermarks. Another log is read from its oldest record on, and its
    first number counts, however high.
    """
    for broken in await found(tx):
        if broken.place != place:
            continue
        anew = ", next_offset = 0, last_number = 0, unseen = $5, topic_id = NULL, cluster_id = NULL"
        other = broken.fault == "other_log"
        cleared = await fetch_many(
            tx,
            "UPDATE consumer_offset SET fault = NULL, fault_at = NULL, fault_since = NULL, fault_why = NULL,"
            " cleared_at = now()"
            f"{anew if other else ''} WHERE {_ROW} AND fault_at = $4 RETURNING 1",
            broken.group,
            broken.topic,
            broken.partition,
            broken.at,
            *([ANY_NUMBER] if other else []),
        )
        return broken if cleared else None
    return None


async def command(service: str, database_url: str, arguments: Sequence[str]) -> int:
    """Run `list` or `clear PLACE…`; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {service} log", description="List partitions that lost records, and trust them again."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="list broken partitions, one per line")
    clearing = verbs.add_parser("clear", help="trust a log again, after its owner has published the lost records again")
    clearing.add_argument("places", nargs="+", metavar="PLACE", help="a partition as printed by `list`")
    told = parser.parse_args(arguments)
    database = Database(database_url, pool_size=1, name=f"{service}-log")
    try:
        async with database.begin() as tx:
            if told.verb == "list":
                sys.stdout.writelines(map(_line, await found(tx)))
                return 0
        for place in told.places:
            async with database.begin() as tx:
                broken = await clear(tx, place)
            if broken is None:
                sys.stderr.write(f"not cleared: nothing is wrong at {place}, or more since. Run `log list` again.\n")
                return 1
            sys.stdout.write(f"cleared\t{broken.place}\n")
        return 0
    finally:
        await database.close()


def _line(broken: Broken) -> str:
    return f"{broken.place}\t{broken.fault}\t{broken.since:%Y-%m-%dT%H:%M:%SZ}\t{broken.why}\n"
