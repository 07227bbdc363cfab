"""Decide when a delivery is tried again, when a destination rests, and when a webhook is disabled. Pure.

    a delivery refused, the destination well      tried again after BACK_OFF, for GIVE_UP_AFTER; then failed
    DOWN_AFTER failures in a row                  the destination rests: a delivery probes it, at last every 5 minutes
    a success                                     the rest ends, and every waiting delivery is due
    failures alone for DISABLE_AFTER, or a 410    the webhook is disabled, and its organisation is told

A destination that is down costs no delivery its attempts: a delivery fails for good only where the destination has
accepted another one since the delivery was first tried.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from msgspec.structs import replace

BACK_OFF = tuple(
    timedelta(seconds=s) for s in (5, 30, 120, 600, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600)
)
GIVE_UP_AFTER = timedelta(days=3)
DOWN_AFTER = 5
REST = (timedelta(seconds=1), timedelta(minutes=5))  # shortest and longest
LONGEST_ASKED = timedelta(hours=1)  # of a Retry-After
DISABLE_AFTER = timedelta(days=5)  # below the retention of events: a webhook enabled in time has lost none
GONE = 410

Because = Literal["failing", "gone"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt at a delivery. `code`: the HTTP status; `error`: why there is none. `retry_after`: as answered."""

    began_at: datetime
    ended_at: datetime
    code: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None

    @property
    def delivered(self) -> bool:
        return self.code is not None and 200 <= self.code < 300


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a destination has answered. `failures`: in a row. `disabled`: why the webhook is disabled."""

    failures: int = 0
    failing_since: datetime | None = None
    rests_until: datetime | None = None
    accepted_at: datetime | None = None
    disabled: Because | None = None

    @property
    def is_down(self) -> bool:
        return self.failures >= DOWN_AFTER

    def at_once(self, most: int) -> int:
        """Return how many deliveries may be under way: a single one to a destination that is down."""
        return 1 if self.is_down else most


def after(health: Health, attempts: Sequence[Attempt]) -> Health:
    """Return the health after these attempts, in the order of their ends."""
    for attempt in sorted(attempts, key=lambda each: each.ended_at):
        health = _after(health, attempt)
    return health


def _after(health: Health, attempt: Attempt) -> Health:
    if attempt.delivered:
        return Health(accepted_at=attempt.ended_at, disabled=health.disabled)
    if health.is_down and health.failing_since is not None and attempt.began_at < health.failing_since:
        return health  # begun before the destination was known to be down
    failures, now = health.failures + 1, attempt.ended_at
    since = health.failing_since or now
    disabled = health.disabled
    if attempt.code == GONE:
        disabled = "gone"
    elif now - since >= DISABLE_AFTER:
        disabled = disabled or "failing"
    return replace(
        health,
        failures=failures,
        failing_since=since,
        rests_until=now + rest(failures, attempt.retry_after) if failures >= DOWN_AFTER else health.rests_until,
        disabled=disabled,
    )


def rest(failures: int, asked: timedelta | None) -> timedelta:
    """Return how long a destination rests after `failures` in a row."""
    shortest, longest = REST
    grown: timedelta = min(longest, shortest * 2 ** min(failures - DOWN_AFTER, 20))
    return max(grown, min(asked or timedelta(), LONGEST_ASKED))


def next_try(attempts: int, first_at: datetime, attempt: Attempt, health: Health, spread: float) -> datetime | None:
    """Return when to try a refused delivery again, or `None` for a delivery that has failed for good.

    `attempts`: with this one. `health`: after this one; a destination that is down is probed by whatever is due once it
    has rested. `spread`: from 0 to 1, so that deliveries refused together do not come together again.
    """
    if health.is_down and health.rests_until is not None:
        return health.rests_until
    well = health.accepted_at is not None and health.accepted_at > first_at
    if well and attempt.ended_at - first_at >= GIVE_UP_AFTER:
        return None
    pause = BACK_OFF[min(attempts, len(BACK_OFF)) - 1] * (1 + spread / 4)
    return attempt.ended_at + max(pause, min(attempt.retry_after or timedelta(), LONGEST_ASKED))
