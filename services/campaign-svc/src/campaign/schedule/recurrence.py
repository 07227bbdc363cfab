"""Compute when a recurring campaign occurs: a cron rule on the sender's clock, until an end. Pure.

Each occurrence is a campaign of its own, so a missed occurrence is not made up for once the next has come. Clock
changes follow Debian's cron: an occurrence skipped in spring happens right after the gap, an hour repeated in autumn
counts once.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Annotated
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

LEAST_APART = timedelta(hours=1)
LOOKED_AT = 400  # of a daily rule: more than a year

_FIELDS = 5


def _cron(text: str) -> str:
    if len(text.split()) != _FIELDS:
        raise ValueError("minute, hour, day of the month, month, day of the week")
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError("no such rule, or it never comes") from error
    return text


class Recurring(BaseModel):
    """A cron rule with an end. `0 10 * * MON`: every Monday at 10:00 on the sender's clock, before `until`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: Annotated[
        str,
        AfterValidator(_cron),
        Field(max_length=100, description="Minute, hour, day of the month, month, day of the week."),
    ]
    until: AwareDatetime = Field(description="The end of the rule: no occurrence at or after this instant.")


def occurrences(rule: Recurring, zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    """Yield the occurrences from `start` (inclusive) until `rule.until` (exclusive), in UTC."""
    try:
        for found in CronSim(rule.cron, (start - timedelta.resolution).astimezone(zone)):
            if (at := found.astimezone(UTC)) >= rule.until:
                return
            yield at
    except CronSimError:
        return


def first(rule: Recurring, zone: ZoneInfo, start: datetime) -> datetime | None:
    return next(occurrences(rule, zone, start), None)


def too_often(rule: Recurring, zone: ZoneInfo, start: datetime) -> bool:
    """Return whether two of the next LOOKED_AT occurrences are less than LEAST_APART apart."""
    found = islice(occurrences(rule, zone, start), LOOKED_AT)
    return any(other - one < LEAST_APART for one, other in pairwise(found))


def latest(rule: Recurring, zone: ZoneInfo, at: datetime, until: datetime) -> tuple[datetime, int]:
    """Return the last occurrence up to `until`, and the number missed before.

    `at` is itself an occurrence.
    """
    missed = 0
    for found in occurrences(rule, zone, at + timedelta.resolution):
        if found > until:
            break
        at, missed = found, missed + 1
    return at, missed


def occurrence_id(series_id: str, at: datetime) -> str:
    """Return the campaign id of an occurrence, always the same."""
    seed = f"{series_id}\x1f{at.astimezone(UTC).isoformat()}"
    return f"cmp-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"
