"""Has a reader met every record of a log that its watermarks speak for? Pure.

The relay numbers the records of a partition 1, 2, 3, …, and a watermark says the last number given before it. A reader
that went past a record without reading it finds a number that does not follow: a log that lost its tail and went on, a
topic made anew. Compaction takes records away lawfully, and leaves offsets without a record: so many numbers may be
missing, and no more. A relay that died before its commit publishes again from a number the reader has: that is no gap.
"""

from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

ANY_NUMBER = 2**62  # `unseen` of a reader for whom the first number counts, whichever it is: a person said so


class Seen(NamedTuple):
    """How far a partition is read. `last_number`: the highest number without a gap below it. `unseen`: offsets without
    a record since the reader was last sure of `last_number`."""

    next_offset: int = 0
    last_number: int = 0
    unseen: int = 0


def follow(
    seen: Seen, offset: int, *, compacted: bool, number: int | None = None, last: int | None = None
) -> tuple[Seen, int]:
    """The state after the record at `offset`, and how many records at least are missing before it: 0 is no gap.

    `number`: of the record. `last`: what a watermark says. A record with neither (poison, a foreign producer) proves
    nothing. `compacted`: whether the topic is; of any other only the beginning may be gone.
    """
    may_be_gone = compacted or seen.next_offset == 0
    unseen = seen.unseen + (offset - seen.next_offset if may_be_gone else 0)
    given = last if number is None else number - 1  # so many numbers were given before this record
    if given is None:
        return Seen(offset + 1, seen.last_number, unseen), 0
    missing = max(0, given - seen.last_number - unseen)
    return Seen(offset + 1, max(seen.last_number, given if number is None else number), 0), missing


class Gap(NamedTuple):
    """`missing`: how many records at least; `offset`: of the record before which they are missing."""

    offset: int
    missing: int


class Reading(Struct):
    """One batch of a partition, record by record. `whole`: no gap is on record. `since`: when a person last ended one;
    a watermark of before may precede what was published again. `as_of`: the newest watermark that may be applied: none
    that lies behind a gap. `gap`: the last one that this batch met."""

    seen: Seen
    numbered: bool  # the topic's records are, as it has watermarks
    compacted: bool
    whole: bool = True
    since: datetime | None = None
    as_of: datetime | None = None
    gap: Gap | None = None

    def skip_to(self, offset: int) -> None:
        """No record lies between the last one and `offset`."""
        next_offset, last_number, unseen = self.seen
        self.seen = Seen(offset, last_number, unseen + max(0, offset - next_offset))

    def record(self, offset: int, number: int | None) -> None:
        if self.numbered:
            self._went_on(offset, *follow(self.seen, offset, compacted=self.compacted, number=number))
        else:
            self.seen = self.seen._replace(next_offset=offset + 1)

    def watermark(self, offset: int, as_of: datetime | None, last: int) -> None:
        """Take a watermark in. `as_of`: None where it must not be applied whatever its number."""
        if self.numbered:
            self._went_on(offset, *follow(self.seen, offset, compacted=self.compacted, last=last))
        else:
            self.seen = self.seen._replace(next_offset=offset + 1)
        if as_of is not None and self.whole and (self.since is None or self.since <= as_of):
            self.as_of = as_of if self.as_of is None else max(self.as_of, as_of)

    def _went_on(self, offset: int, seen: Seen, missing: int) -> None:
        self.seen = seen
        if missing:
            self.whole, self.gap = False, Gap(offset, missing)
