"""Completeness of a log: has the reader met every record before a watermark? Pure.

The relay numbers the records of a partition 1, 2, 3, …; a watermark carries the last number. Where a number does not
follow, the log lost its tail or was made anew. Compaction leaves offsets without a record: as many numbers may be
missing. A compacted record's newer version may follow behind the watermark; that watermark is then older than
`min.compaction.lag.ms`, so no reader finds it fresh. A relay that died before its commit publishes from a number
already met: no gap.
"""

from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

ANY_NUMBER = 2**62  # `unseen` where a person has allowed any first number


class Seen(NamedTuple):
    """A reader's place in a partition.

    `last_number`: the highest without a gap below. `unseen`: offsets without a record since it was last certain.
    """

    next_offset: int = 0
    last_number: int = 0
    unseen: int = 0


def follow(
    seen: Seen, offset: int, *, compacted: bool, number: int | None = None, last: int | None = None
) -> tuple[Seen, int]:
    """Return the state after the record at `offset`, and the least count of missing records.

    `number`: of the record. `last`: of a watermark. A record with neither (poison, a foreign producer) proves nothing.
    """
    may_be_gone = compacted or seen.next_offset == 0
    unseen = seen.unseen + (offset - seen.next_offset if may_be_gone else 0)
    given = last if number is None else number - 1  # numbers before this record
    if given is None:
        return Seen(offset + 1, seen.last_number, unseen), 0
    missing = max(0, given - seen.last_number - unseen)
    return Seen(offset + 1, max(seen.last_number, given if number is None else number), 0), missing


class Gap(NamedTuple):
    """`missing`: at least so many records before `offset`."""

    offset: int
    missing: int


class Reading(Struct):
    """A batch of a partition, read record by record.

    `whole`: no gap is on record. `since`: when a person last cleared a gap; an earlier watermark may precede the
    records published again. `as_of`: the newest watermark to apply, never behind a gap. `gap`: the last of this batch.
    """

    seen: Seen
    numbered: bool
    compacted: bool
    whole: bool = True
    since: datetime | None = None
    as_of: datetime | None = None
    gap: Gap | None = None

    def skip_to(self, offset: int) -> None:
        """Move to `offset`; no record lies in between."""
        next_offset, last_number, unseen = self.seen
        self.seen = Seen(offset, last_number, unseen + max(0, offset - next_offset))

    def record(self, offset: int, number: int | None) -> None:
        next_offset, last_number, _ = self.seen
        if self.numbered and offset == next_offset and number == last_number + 1:  # as `follow` says, and nearly always
            self.seen = Seen(offset + 1, number, 0)
        elif self.numbered:
            self._went_on(offset, *follow(self.seen, offset, compacted=self.compacted, number=number))
        else:
            self.seen = Seen(offset + 1, self.seen.last_number, self.seen.unseen)

    def watermark(self, offset: int, as_of: datetime | None, last: int) -> None:
        """Take a watermark in; an `as_of` of `None` is never applied."""
        if self.numbered:
            self._went_on(offset, *follow(self.seen, offset, compacted=self.compacted, last=last))
        else:
            self.seen = Seen(offset + 1, self.seen.last_number, self.seen.unseen)
        if as_of is not None and self.whole and (self.since is None or self.since <= as_of):
            self.as_of = as_of if self.as_of is None else max(self.as_of, as_of)

    def _went_on(self, offset: int, seen: Seen, missing: int) -> None:
        self.seen = seen
        if missing:
            self.whole, self.gap = False, Gap(offset, missing)
