"""Wide topics get more partitions while the services run; a person's partition stays (ADR-0114).

A topic that carries work, requests and reports, may have a multiple of PLACET_PARTITIONS: the people of partition p are
then in p, p + N, p + 2 N, … (N: PLACET_PARTITIONS). Their locks, watermarks and opt-outs are those of p all the same.

Rows of the outbox with several people are packed by partition. The database states the count by which they are packed
(`packed`) and the count by which the relay publishes (`published`). The relay changes them in this order:

    1. the topic has the partitions: the relay adds them
    2. `packed` is stated: from then on `append_records` refuses a row packed by the former count (Coarse)
    3. each transaction that may have read the former `packed` has ended, and so each row of it is to be seen
    4. the rows up to the newest of that moment are published by the former count, and acknowledged
    5. `published` is stated, and the rows behind are published by the new count

So all records of a person in the former partition are acknowledged before the first in the new one, which a reader
handles after them (`parents.py`). A relay that dies begins again at what the database states.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from sqlalchemy import Column, Integer, MetaData, SmallInteger, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import TOPICS, Topic
from common.db.database import fetch_alone, fetch_many
from common.db.timer import uptime_s
from common.kafka import broker as kafka
from common.settings import ServiceSettings
from common.telemetry import gauge

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
AGAIN_AFTER_S = 10.0  # a broker that refuses more partitions
TOLD_EVERY_S = 30.0

WAITING = gauge(
    "sms_outbox_widening_seconds",
    "Seconds since the relay began to add partitions (PLACET_WORK_PARTITIONS); 0 once the relay publishes by them.",
)

STATED = "SELECT packed, published FROM widening"
PACK = (
    "INSERT INTO widening (id, packed, published) VALUES (1, $1, $2)"
    " ON CONFLICT (id) DO UPDATE SET packed = excluded.packed"
)
PUBLISH = "UPDATE widening SET published = packed"
# A transaction has a virtual id from its first statement on. Sessions of roles that cannot write do not count.
RUNNING = """
    SELECT l.virtualxid
    FROM pg_locks AS l
    JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.pid <> pg_backend_pid()
    AND a.datname = current_database()
    AND has_table_privilege(a.usesysid, 'outbox', 'INSERT')
"""
NEWEST = "SELECT coalesce(max(id), 0) FROM outbox"
IS_FINE_ENOUGH = "NOT EXISTS (SELECT FROM widening WHERE {} % packed <> 0)"

T = TypeVar("T")
_counts: dict[str, int] = {}  # by which this process packs, by topic


def define(metadata: MetaData) -> Table:
    """Add the table to a schema; migrations spell it out literally. No row: both counts are PLACET_PARTITIONS."""
    return Table(
        "widening",
        metadata,
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        Column("packed", Integer, nullable=False),
        Column("published", Integer, nullable=False),
    )


class Coarse(RuntimeError):
    """The rows are packed by a former count. Nothing was written."""

    def __init__(self, packed: int) -> None:
        super().__init__(f"rows are packed by {packed} partitions now")
        self.packed = packed


class CannotWiden(RuntimeError):
    """PLACET_WORK_PARTITIONS cannot follow the count in use. The text has the remedy."""


def of_topic(settings: ServiceSettings, topic: Topic) -> int:
    """Return how many partitions the settings want of a topic. Pure."""
    return settings.wide_partitions if topic.wide else settings.partitions


def next_count(published: int, wanted: int) -> int:
    """Return the count to change to, `published` for no change. Pure. Raises CannotWiden.

    A process with a smaller setting may be of before the roll-out: partitions stay.
    """
    if wanted <= published:
        return published
    if wanted % published:
        raise CannotWiden(
            f"PLACET_WORK_PARTITIONS is {wanted}, and {published} partitions are in use: set a multiple of {published},"
            " or people would move between partitions that have been read"
        )
    return wanted


def parents_of(partition: int, partitions: int) -> Sequence[int]:
    """Return the partitions that a partition's people may have been in before. Pure. `partitions`: of people."""
    return range(partition % partitions, partition, partitions)


def published_by(service: str) -> Sequence[Topic]:
    """Return the wide topics that a service publishes, and so adds partitions to."""
    return [topic for topic in TOPICS if topic.wide and service in (topic.owner, *topic.publishers)]


async def in_parts(topic: Topic, write: Callable[[int | None], Awaitable[T]]) -> T:
    """Write rows with several people, packed by the count that `write` gets, and again where the count is a former one.

    None: by the partition of people. A count that another database of the process stated is finer, and as right.
    """
    while True:
        try:
            return await write(_counts.get(topic.name))
        except Coarse as error:
            _counts[topic.name] = error.packed


async def refuse(tx: AsyncConnection) -> None:
    """Raise Coarse: the statement before has found that rows are packed by a former count."""
    [(packed, _)] = await fetch_many(tx, STATED)
    raise Coarse(packed)


class InShards(CannotWiden):
    """The relays of several shards share the topic, and none changes the count: nothing waits."""


class Numbered(Protocol):
    """A row of the outbox."""

    @property
    def id(self) -> int: ...


Row = TypeVar("Row", bound=Numbered)
Knows = Callable[[str, int], Awaitable[bool]]  # whether a producer knows so many partitions of a topic


class Stated(NamedTuple):
    packed: int
    published: int


@dataclass(slots=True)
class Widening:
    """The widening of a relay's topics, for one term. `begin` comes first."""

    settings: ServiceSettings
    topics: Sequence[Topic]
    stated: Stated = field(init=False)
    why: str | None = None  # a change waits
    _names: frozenset[str] = field(init=False)
    _left: set[str] | None = None  # transactions that may still pack by the former count
    _until: int | None = None  # the newest row that may be packed by the former count
    _adding: asyncio.Task[None] | None = None
    _look_at: float = 0.0
    _since: float | None = None
    _told_at: float = 0.0

    def __post_init__(self) -> None:
        self.stated = Stated(self.settings.partitions, self.settings.partitions)
        self._names = frozenset(topic.name for topic in self.topics)

    async def begin(self, session: AsyncConnection) -> None:
        """Read what the database states, and have the topics follow, should they have been made anew.

        The session must not be within a transaction. Raises KafkaError.
        """
        if self.topics and (rows := await fetch_alone(session, STATED)):
            self.stated = Stated(*rows[0])
            await kafka.add_partitions(self.settings, self.topics, self.stated.packed)

    def count(self, topic: str) -> int:
        """Return the count by which a topic, without the prefix, is published."""
        return self.stated.published if topic in self._names else self.settings.partitions

    async def due(self, session: AsyncConnection, rows: Sequence[Row]) -> Sequence[Row]:
        """Return those of the oldest rows to publish now, by `count`: all, or first those packed by a former count.

        The rows returned before are acknowledged. Of some rows at least one is returned: the relay would take the
        outbox for empty.
        """
        if self._until is None:
            return rows
        if former := [row for row in rows if row.id <= self._until]:
            return former
        await self._publish(session)
        return rows

    async def step(self, session: AsyncConnection, knows: Knows) -> None:
        """Take the next step of a change, if there is one. Never waits, but for the database and a producer's look."""
        if not self.topics or uptime_s() < self._look_at:
            return
        self._look_at = uptime_s() + LOOK_EVERY_S
        waits = True
        try:
            why = await self._advance(session, knows)
        except CannotWiden as error:
            why, self._look_at = str(error), uptime_s() + AGAIN_AFTER_S
            waits = not isinstance(error, InShards)
        self._tell(why, waits)

    def end(self) -> None:
        """Give up at the end of a term: the next leader tells what it waits for."""
        if self._adding is not None:
            self._adding.cancel()
        self._tell(None)

    async def _advance(self, session: AsyncConnection, knows: Knows) -> str | None:
        """Return why the change waits, or None without a change."""
        if self.stated.packed == self.stated.published:
            count = next_count(self.stated.published, self.settings.wide_partitions)
            if count == self.stated.published:
                return None
            if self.settings.own_shard and not self.settings.people_are_divided:
                raise InShards(
                    f"PLACET_WORK_PARTITIONS is {count}, and {self.stated.published} partitions are in use: the relays"
                    " of the shards would change at two moments, and an update could overtake its request. Set the"
                    " count in use (docs/scale.md)"
                )
            if (why := await self._added(count)) is not None:
                return why
            await self._pack(session, count)
        if self._until is not None:
            return "rows packed by the former count are published first"
        if not await self._all_see(session):
            return f"{len(self._left or ())} transactions began before the change, and have not ended"
        for topic in self.topics:
            if not await knows(self.settings.topic_prefix + topic.name, self.stated.packed):
                return f"the producer does not know the new partitions of {topic.name} yet"
        [(self._until,)] = await fetch_alone(session, NEWEST)
        return "rows packed by the former count are published first"

    async def _pack(self, session: AsyncConnection, count: int) -> None:
        """State the count by which rows are packed from now on."""
        await fetch_alone(session, PACK, count, self.stated.published)
        self.stated, self._left = Stated(count, self.stated.published), None

    async def _all_see(self, session: AsyncConnection) -> bool:
        """Return whether each transaction has ended that ran when the new count was stated."""
        running = {str(each) for (each,) in await fetch_alone(session, RUNNING)}
        self._left = running if self._left is None else self._left & running
        return not self._left

    async def _publish(self, session: AsyncConnection) -> None:
        """State the count by which rows are published from now on."""
        await fetch_alone(session, PUBLISH)
        self.stated, self._until = Stated(self.stated.packed, self.stated.packed), None
        log.info("requests or reports are published to more partitions", extra={"partitions": self.stated.published})

    async def _added(self, count: int) -> str | None:
        """Have the partitions added beside the relay; return None once the topics have them."""
        if self._adding is None:
            self._adding = asyncio.create_task(kafka.add_partitions(self.settings, self.topics, count))
            self._adding.add_done_callback(kafka.seen)
        if not self._adding.done():
            return "the broker is asked for more partitions"
        adding, self._adding = self._adding, None
        if (error := adding.exception()) is not None:
            self._look_at = uptime_s() + AGAIN_AFTER_S
            names = ", ".join(self.settings.topic_prefix + topic.name for topic in self.topics)
            return f"the broker adds no partitions ({error}): allow Alter on {names}, or add them there up to {count}"
        return None

    def _tell(self, why: str | None, waits: bool = True) -> None:
        """Tell why there are no more partitions. `waits`: a change may follow, and the gauge counts how long."""
        now, self.why = uptime_s(), why
        self._since = None if why is None or not waits else now if self._since is None else self._since
        WAITING.set(0 if self._since is None else now - self._since)
        if why is not None and now >= self._told_at:
            self._told_at = now + TOLD_EVERY_S
            log.warning("requests or reports are not published to more partitions yet", extra={"why": why})
