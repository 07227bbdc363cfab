"""The announcement of a marketing hold and of its end. Pure.

A flickering watermark, a restart or a rebalance is not announced: the observation must last.
"""

from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace


class Hold(msgspec.Struct, frozen=True, gc=False):
    """The last announcement, of all partitions and processes.

    `otherwise_since`: since when every observation has contradicted the announcement.
    """

    version: int = 0
    since: datetime | None = None
    ended_at: datetime | None = None
    otherwise_since: datetime | None = None

    @property
    def lasts(self) -> bool:
        return self.since is not None and self.ended_at is None


def looked(told: Hold, held: bool, now: datetime, told_after: timedelta) -> Hold:
    """Return the hold after an observation at `now`. A new version has to be published."""
    if held == told.lasts:
        return replace(told, otherwise_since=None)
    began = told.otherwise_since or now
    if now - began < told_after:
        return replace(told, otherwise_since=began)
    return Hold(told.version + 1, began) if held else Hold(told.version + 1, told.since, began)
