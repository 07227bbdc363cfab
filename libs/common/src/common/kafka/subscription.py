"""Subscriptions: a topic, the handler of its batches, and the errors that a handler raises."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import Event, Topic

POLL_MS = 100
READ_MS = 500
CALM_READ_MS = 1_000
IDLE_MS = 500  # of an empty fetch, by a broker that ends the wait when a record arrives
AWAKE_MS = 250  # of an empty fetch, by another broker, after fetches in vain
CALM_MS = 1_000  # of an empty fetch of a calm topic, by such a broker
CALM_S = 10.0  # without a record
URGENT_MS = 20
GATHER_S = 0.25  # of topics for which nobody waits
COUNTED_S = 0.5  # of their readers that only count and show
WHOLE = 0.75  # of `max_records` make a whole batch: a read asks for few records, which seldom hold more
BEFORE = 1 << 62  # more than any offset
NOBODY = frozenset[str]()

After = Callable[[], Awaitable[None]]


class Poison(Exception):
    """A record that can never be handled. The message must hold nothing personal."""


class UnknownType(Poison):
    """A type of a newer producer."""


class Hold(Exception):
    """Not now: the consumer rolls the batch back, and offers it again after a moment."""


class Stopped(RuntimeError):
    """The consumer gave up on purpose, and a person has to look. The process ends, and skips no record."""


class Received(msgspec.Struct, frozen=True, gc=False):
    """An event read from a partition.

    `partition`: of the people; a wide topic has people of one partition in several (`read_in`).
    `moved_to`: of a record whose key is a person's id of an older outer key, the partition of the person's id of now.
    `moved`: the people, by their ids of now, whom the record names by an id of an older outer key.
    """

    event: Event
    key: str
    partition: int
    offset: int
    published_at: datetime
    traceparent: str | None
    moved_to: int | None = None
    moved: frozenset[str] = NOBODY
    read_in: int | None = None  # of a wide topic

    @property
    def source(self) -> int:
        """Return the partition of the topic, which one process reads at a time."""
        return self.partition if self.read_in is None else self.read_in

    @property
    def home(self) -> int:
        """Return the partition of the person, whose lock and watermark count."""
        return self.partition if self.moved_to is None else self.moved_to

    @property
    def home_offset(self) -> int:
        """Return the place of the record in the order of `home`."""
        return home_offset(self.offset, moved=self.moved_to is not None)


def home_offset(offset: int, *, moved: bool) -> int:
    """Return the place of a record in the order of its person's partition.

    What was published under an older id (`moved`) came before all that is under the id of now, in an order of its own.
    """
    return offset - BEFORE if moved else offset


class Unread(msgspec.Struct, frozen=True):
    """A record of a foreign topic that cannot be read or handled. The key is None where missing or unreadable."""

    key: str | None
    value: bytes | None
    partition: int
    offset: int


Handler = Callable[[AsyncConnection, list[Received]], Awaitable[After | None]]
Wants = Callable[[AsyncConnection], Awaitable[bool]]
PoisonHandler = Callable[[AsyncConnection, str | None, int, int], Awaitable[None]]
UnreadHandler = Callable[[AsyncConnection, Unread], Awaitable[After | None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer group's reading of a topic.

    `handle` gets a batch inside the transaction that steps the offset; the returned function runs after the commit,
    before the partition's next batch. `on_poison(tx, key, partition, offset)`: partition and offset are those of
    `Received.home`, the key is None where missing or unreadable. `wait_ms`: of an empty fetch on the local stack's
    broker, which waits to the end, and where a fetch costs a millisecond: only topics with STOPs have a short wait.
    `gather_s`: the shortest time from a read that brought records to the next, unless it brought all that the
    handler takes: only where nobody waits for a record. `settle_s`: how old a record is when a batch of a partition
    begins, unless three quarters of a batch are there: where the handler stands on watermarks that speak of the
    record. `together`: a batch is of all partitions read; where it fails, each partition is handled by itself.
    `weigh(value)`: how many messages a record holds; a batch then has at most `max_records` messages, or one
    record. `wants(tx)`: whether the handler needs the events of its transaction; otherwise records are stepped over
    undecoded, watermarks aside. `may_take`: how many messages the handler takes now; at 0, records stay in Kafka.
    `handle_rest`: as `handle`, for a record that is buried over a part of it: handle the other parts; raises
    Poison, with nothing written, where none can be handled. `skips_unknown`: skip unknown types, as no event of
    this topic can forbid a message or is owed to a person; elsewhere an unknown type is poison (ADR-0007).
    `foreign`: other parties write to the topic, so any number of bad records may come, and its one type is read as
    `reading.foreign` says. `on_unread`: as `handle`, for a bad record of a foreign topic, whose key names no
    subject. `on_assigned` gets the count of partitions read from now on, and how many the topic has.
    """

    group: str  # <service>.<purpose>
    topic: Topic
    handle: Handler
    on_poison: PoisonHandler | None = None
    max_records: int = 1000
    at_once: int = 6  # batches, of different partitions
    wait_ms: int = POLL_MS
    gather_s: float = 0.0
    settle_s: float = 0.0
    together: bool = False
    skips_unknown: bool = False
    foreign: bool = False
    on_unread: UnreadHandler | None = None
    on_assigned: Callable[[int, int], None] | None = None
    may_take: Callable[[], int] | None = None
    weigh: Callable[[bytes], int] | None = None
    handle_rest: Handler | None = None
    wants: Wants | None = None

    @property
    def name(self) -> str:
        return f"{self.group}:{self.topic.name}"

    @property
    def wanted(self) -> int:
        """Return how many messages the handler can take now."""
        return min(self.max_records, self.room)

    @property
    def room(self) -> int:
        """Return how many messages the handler can take now in batches of several partitions."""
        most = self.at_once * self.max_records
        return most if self.may_take is None else min(most, self.may_take())

    def weight(self, record: Any) -> int:
        """Return how many messages a record holds."""
        return 1 if self.weigh is None else max(1, self.weigh(record.value or b""))

    def settles_in(self, records: Sequence[Any], now: float) -> float:
        """Return for how long a batch of these records still waits. `now`: seconds since 1970."""
        if not self.settle_s or sum(map(self.weight, records)) >= WHOLE * self.max_records:
            return 0.0
        newest: float = records[-1].timestamp / 1000
        return max(0.0, min(self.settle_s, newest + self.settle_s - now))

    def batches(self, records: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Yield the records in batches, each of as many messages as the handler can take then, or of one record.

        Where that is none, the records are read all the same: a batch of a single record would leave no room either.
        """
        if self.weigh is None:
            yield records
            return
        begin = 0
        while begin < len(records):
            end, room = begin + 1, (self.wanted or self.max_records) - self.weight(records[begin])
            while end < len(records) and (room := room - self.weight(records[end])) >= 0:
                end += 1
            yield records[begin:end]
            begin = end
