"""A fresh watermark that a reader applies speaks only of what the reader has, and no reader misses a record unseen.

The model is a log of one partition: a relay that numbers, dies before its commit and publishes again, also behind a row
that has committed late; a broker that compacts, lets old records go, loses the tail and goes on, or makes the topic
anew; and a reader that is anywhere in it. The broker compacts as Apache Kafka does: a record goes once a newer record
of its key, and all before that, are older than `min.compaction.lag.ms`. A reader that meets a watermark between the two
does not have the key; but the watermark is older than the lag, and the gate finds it stale. So the model asks only
about fresh watermarks. What the model leaves out is what the rule cannot see (ADR-0004):

- a loss right after a relay died between acknowledgement and commit, when numbers are still given twice;
- a loss with a compaction of what follows it, before the reader has read there: an hour at least;
- a loss older than records that have aged out before the reader began: it would have aged out as well;
- a loss of what follows a foreign record, which has no number, directly.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kafka.reading.completeness import ANY_NUMBER, Reading, Seen, follow

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
STALENESS_S, LAG_S = 2, 4  # max_staleness_s; min.compaction.lag.ms, which is far longer


@dataclass(frozen=True)
class Row:
    key: int
    version: int  # of the key: the same key's rows leave in this order


@dataclass(frozen=True)
class Record:
    """`row` and `number`: of an event. `covers`, `last`: of a watermark. None of them: foreign. `at`: its timestamp."""

    at: int
    row: Row | None = None
    number: int | None = None
    covers: frozenset[Row] | None = None
    last: int | None = None

    @property
    def key(self) -> object:
        return self.row.key if self.row else "watermark" if self.covers is not None else self


@dataclass
class World:
    compacted: bool
    lag_s: int = LAG_S
    now: int = 0
    log: dict[int, Record] = field(default_factory=dict)
    end: int = 0
    clean: int = 0  # compacted below
    pending: list[Row] = field(default_factory=list)
    relayed: set[Row] = field(default_factory=set)
    last: int = 0
    highest: int = 0  # number ever given
    versions: int = 0
    losses: int = 0
    reading: Reading = field(init=False)
    had: dict[int, int] = field(default_factory=dict)  # the newest version read, by key
    aged: set[Row] = field(default_factory=set)
    loss: int | None = None  # the place of the first loss that the reader has not read past
    lost: dict[Row, int] = field(default_factory=dict)  # by place
    gaps: int = 0

    def __post_init__(self) -> None:
        self.reading = Reading(Seen(), numbered=True, compacted=self.compacted)

    def add(self, record: Record) -> None:
        self.log[self.end] = record
        self.end += 1

    def write(self, key: int, late: bool) -> None:
        self.versions += 1
        if late and all(row.key != 100 + key for row in self.pending):
            self.pending.insert(0, Row(100 + key, self.versions))
        else:
            self.pending.append(Row(key, self.versions))

    def turn(self, many: int, dies: bool) -> None:
        taken = self.pending[:many]
        for number, row in enumerate(taken, start=self.last + 1):
            self.add(Record(self.now, row, number))
            self.highest = max(self.highest, number)
        if dies:
            return
        self.last += len(taken)
        self.relayed |= set(taken)
        del self.pending[: len(taken)]
        self.add(Record(self.now, covers=frozenset(self.relayed), last=self.last))

    def wait(self, seconds: int) -> None:
        self.now += seconds

    def compact(self, up_to: int) -> None:
        """Compact below `up_to`, but nothing younger than the lag, nor the newest record: a segment in use."""
        if not self.compacted:
            return
        if self.loss is not None:
            up_to = min(up_to, self.loss)
        old = takewhile(lambda offset: self.log[offset].at <= self.now - self.lag_s, sorted(self.log))
        self.clean = max(self.clean, min(up_to, self.end - 1, max(old, default=-1) + 1))
        newest = {record.key: offset for offset, record in self.log.items() if offset < self.clean}
        for offset in [o for o in self.log if o < self.clean and newest[self.log[o].key] != o]:
            del self.log[offset]

    def age(self, below: int) -> None:
        """The reader that has begun would stop where its offset is not in the log any more."""
        if self.compacted:
            return
        seen = self.reading.seen.next_offset
        for offset in [o for o in self.log if o < (min(below, seen) if seen else below)]:
            record = self.log.pop(offset)
            if not seen:
                self.aged |= {row for row, at in self.lost.items() if at <= offset}
            if record.row is not None and not seen:
                self.aged.add(record.row)

    def lose(self, to: int, anew: bool) -> None:
        kept = self.log.get(to - 1)
        if self.last < self.highest or not (
            anew or (to >= self.clean and kept and (kept.row or kept.covers is not None))
        ):
            return
        self.losses += anew and self.end > 0  # also of a log that has aged out: its numbers go on, its offsets do not
        self.end = 0 if anew else min(to, self.end)
        self.clean = min(self.clean, self.end)
        gone = {offset: record for offset, record in self.log.items() if offset >= self.end}
        self.log = {offset: record for offset, record in self.log.items() if offset < self.end}
        self.losses += bool(gone)  # a reader that had read a lost watermark misses the record in its place
        self.loss = self.end if self.loss is None else min(self.loss, self.end)
        self.lost = {row: min(at, self.end) for row, at in self.lost.items()}
        self.lost |= {record.row: self.end for record in gone.values() if record.row is not None}

    def read(self, many: int) -> None:
        """A reader beyond the log stops, and is not asked about."""
        seen = self.reading.seen.next_offset
        if seen > self.end:
            return
        for offset in sorted(o for o in self.log if o >= seen)[:many]:
            record, before = self.log[offset], self.reading.as_of
            self.loss = None if self.loss is not None and offset >= self.loss else self.loss
            self.reading.gap = None
            if record.covers is not None:
                assert record.last is not None
                self.reading.watermark(offset, EPOCH + timedelta(seconds=record.at), record.last)
                if self.reading.whole and self.now - record.at <= STALENESS_S:
                    assert all(self.had.get(row.key, -1) >= row.version or row in self.aged for row in record.covers)
                elif not self.reading.whole:
                    assert self.reading.as_of == before
            else:
                self.reading.record(offset, record.number)
                if record.row is not None:
                    self.had[record.row.key] = max(self.had.get(record.row.key, -1), record.row.version)
            self.gaps += self.reading.gap is not None
        assert not self.gaps or self.losses, "a gap without a loss"


small = st.integers(0, 3)
offsets = st.integers(0, 40)
steps = st.one_of(
    st.tuples(st.just("write"), small, st.booleans()),
    st.tuples(st.just("write"), small, st.booleans()),
    st.tuples(st.just("turn"), small, st.just(False)),
    st.tuples(st.just("turn"), small, st.booleans()),
    st.tuples(st.just("foreign")),
    st.tuples(st.just("wait"), small),
    st.tuples(st.just("compact"), offsets),
    st.tuples(st.just("age"), offsets),
    st.tuples(st.just("read"), st.integers(1, 6)),
    st.tuples(st.just("read"), st.integers(1, 6)),
)
losses = st.tuples(st.just("lose"), offsets, st.booleans())


def _go(world: World, todo: list[tuple[object, ...]]) -> World:
    for name, *given_to in todo:
        if name == "foreign":
            world.add(Record(world.now))
        else:
            getattr(world, str(name))(*given_to)
    world.turn(len(world.pending), False)
    world.read(1_000)
    return world


@settings(max_examples=400)
@given(st.booleans(), st.lists(st.one_of(steps, steps, losses), max_size=40))
def test_no_watermark_is_applied_over_a_record_that_was_missed(compacted: bool, todo: list[tuple[object, ...]]) -> None:
    _go(World(compacted), todo)  # which asserts at each record that is read


@settings(max_examples=400)
@given(st.booleans(), st.lists(steps, max_size=40))
def test_without_a_loss_every_watermark_is_applied(compacted: bool, todo: list[tuple[object, ...]]) -> None:
    world = _go(World(compacted), todo)
    assert world.reading.whole
    assert world.reading.seen == Seen(world.end, world.last, 0)


VERSIONS_BEHIND_WATERMARKS = [("write", 0, False), ("turn", 1, False), ("write", 0, False), ("turn", 1, False)]


def test_a_watermark_between_two_versions_of_a_key_is_stale_once_the_first_is_compacted() -> None:
    """Without the lag it may be fresh: a reader would send by it, and without the STOP that the key says."""
    for waits in range(LAG_S):
        world = _go(World(compacted=True), [*VERSIONS_BEHIND_WATERMARKS, ("wait", waits), ("compact", 3)])
        assert len(world.log) == world.end
    world = _go(World(compacted=True), [*VERSIONS_BEHIND_WATERMARKS, ("wait", LAG_S), ("compact", 3)])
    assert 0 not in world.log
    with pytest.raises(AssertionError, match="all"):
        _go(World(compacted=True, lag_s=0), [*VERSIONS_BEHIND_WATERMARKS, ("compact", 3)])


def test_a_log_that_lost_its_tail_and_grew_past_the_reader_is_a_gap() -> None:
    """The reader stood at 32, the log came back ending at 24, and record 33 went to 24."""
    stood = Seen(next_offset=32, last_number=32)
    assert follow(stood, 32, compacted=True, last=33) == (Seen(33, 33, 0), 1)
    assert follow(stood, 32, compacted=True, last=32) == (Seen(33, 32, 0), 0)


def test_a_person_may_say_that_the_first_number_counts_whichever_it_is() -> None:
    assert follow(Seen(0, 0, ANY_NUMBER), 0, compacted=False, number=900) == (Seen(1, 900, 0), 0)
    assert follow(Seen(0, 0, 0), 0, compacted=False, number=900) == (Seen(1, 900, 0), 899)
