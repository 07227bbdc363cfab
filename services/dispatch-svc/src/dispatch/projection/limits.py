"""The limits of a decision: the age of its knowledge, the delays before a new decision, and the cap. Pure."""

from datetime import datetime, timedelta

import msgspec


class Limits(msgspec.Struct, frozen=True, gc=False):
    max_staleness: timedelta = timedelta(seconds=2)  # promise 1
    max_clock_skew: timedelta = timedelta(milliseconds=100)  # between any two hosts
    recheck: timedelta = timedelta(milliseconds=500)  # knowledge is usually late by a watermark or two
    registry_grace: timedelta = timedelta(seconds=10)  # a new or changed sender may not have arrived
    # a fallback, within a day of sending hours: a resume wakes the messages (`waking_store.wake_controlled`)
    paused_recheck: timedelta = timedelta(hours=6)
    review_recheck: timedelta = timedelta(minutes=5)  # a review wakes the message sooner
    cap: int | None = None  # marketing messages per sender and person within `cap_window`
    cap_window: timedelta = timedelta(days=7)


def is_fresh(as_of: datetime | None, now: datetime, limits: Limits) -> bool:
    """Return whether marketing may stand on this watermark.

    A watermark from the future is not fresh: a clock is wrong.
    """
    return as_of is not None and as_of - limits.max_clock_skew <= now <= as_of + limits.max_staleness
