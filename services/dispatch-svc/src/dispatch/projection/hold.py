"""When it is told that marketing is held, and that it goes on: once whatever is so has been so for a while, so that a
watermark that comes and goes, a restart or a rebalance is no news. Pure.
"""

from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace


class Hold(msgspec.Struct, frozen=True, gc=False):
    """What was told last, of all partitions and processes: of a hold, `since`, and `ended_at` once it was over.
    `otherwise_since`: what is so is not what was told, and was so at each look since then."""

    version: int = 0
    since: datetime | None = None
    ended_at: datetime | None = None
    otherwise_since: datetime | None = None

    @property
    def lasts(self) -> bool:
        return self.since is not None and self.ended_at is None


def looked(told: Hold, held: bool, now: datetime, told_after: timedelta) -> Hold:
    """After a look at `now`. Another version: it is to be told."""
    if held == told.lasts:
        return replace(told, otherwise_since=None)
    began = told.otherwise_since or now
    if now - began < told_after:
        return replace(told, otherwise_since=began)
    return Hold(told.version + 1, began) if held else Hold(told.version + 1, told.since, began)
