"""When a campaign that recurs does: cron's five fields on its sender's clock, until an end. Pure.

Each occurrence is a campaign of its own, with an audience, messages and an end of its own; so an occurrence is never
made up for once the next has come. Changes of clocks are cron's (cronsim follows Debian's): what the spring leaves out
happens when it is over, what the autumn has twice happens once.
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
LOOKED_AT = 400  # occurrences, for the least distance: more than a year of days

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
    """`0 10 * * MON`: every Monday at 10:00 on the sender's clock, until before `until`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: Annotated[
        str,
        AfterValidator(_cron),
        Field(max_length=100, description="Minute, hour, day of the month, month, day of the week."),
    ]
    until: AwareDatetime = Field(description="No occurrence from then on.")


def occurrences(rule: Recurring, zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    """From `start` on, it included, in UTC, one a minute at most."""
    try:
        for found in CronSim(rule.cron, (start - timedelta.resolution).astimezone(zone)):
            if (at := found.astimezone(UTC)) >= rule.until:
                return
            yield at
    except CronSimError:  # it never comes again
        return


def first(rule: Recurring, zone: ZoneInfo, start: datetime) -> datetime | None:
    return next(occurrences(rule, zone, start), None)


def too_often(rule: Recurring, zone: ZoneInfo, start: datetime) -> bool:
    """Whether two of its next occurrences are less than LEAST_APART from each other."""
    found = islice(occurrences(rule, zone, start), LOOKED_AT)
    return any(other - one < LEAST_APART for one, other in pairwise(found))


def latest(rule: Recurring, zone: ZoneInfo, at: datetime, until: datetime) -> tuple[datetime, int]:
    """The last occurrence from `at`, itself one, that has come by `until`; and how many came before it."""
    missed = 0
    for found in occurrences(rule, zone, at + timedelta.resolution):
        if found > until:
            break
        at, missed = found, missed + 1
    return at, missed


def occurrence_id(series_id: str, at: datetime) -> str:
    """Of the campaign that one occurrence is: the same whoever begins it, and however often."""
    seed = f"{series_id}\x1f{at.astimezone(UTC).isoformat()}"
    return f"cmp-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"
