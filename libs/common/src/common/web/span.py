"""The time of a report or a list: `since` and `until`, the same in every service."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime

from common.web.problems import Invalid, Reason

LONGEST = timedelta(days=92)
DEFAULT = timedelta(days=7)
Since = Annotated[
    AwareDatetime | None,
    Query(description=f"Default: a week before `until`. At most {LONGEST.days} days before `until`."),
]
Until = Annotated[AwareDatetime | None, Query(description="Default: now.")]


def span(since: datetime | None, until: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Return the beginning and the end of the time asked about. Raises Invalid."""
    end = until or now
    begin = since or end - DEFAULT
    if not timedelta() < end - begin <= LONGEST:
        raise Invalid(
            f"`since` is before `until`, by {LONGEST.days} days at most", reasons=[Reason("since", "not_valid")]
        )
    return begin, end
