"""Read an instant as people and programs write it. Pure.

ISO 8601 with an offset is an instant. A local time needs a stated zone, a day beside a month below 13 a stated order:
a guess would move a consent past a STOP, or before it. A time which a clock showed twice, or never, is refused.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Literal
from zoneinfo import ZoneInfo

Order = Literal["day_first", "month_first"]


class InstantProblem(StrEnum):
    """The reason for refusing an instant."""

    NOT_VALID = "not_valid"
    WITHOUT_TIME = "without_time"
    WITHOUT_ZONE = "without_zone"
    AMBIGUOUS_DAY = "ambiguous_day"
    AMBIGUOUS_CLOCK = "ambiguous_clock"


_OF_PROGRAMS = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TIME = (
    r"(?:(?:[ T]|, ?| à )\s*(?P<hour>\d{1,2})\s?[:hH]\s?(?P<minute>\d\d)"
    r"(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?\s?(?P<half>[AaPp]\.?[Mm]\.?)?)?"
)
_OFFSET = r"\s?(?P<offset>Z|UTC|GMT|[+-]\d\d:?\d\d)?"
_ISO = re.compile(rf"(?P<year>\d{{4}})[-/](?P<month>\d{{1,2}})[-/](?P<day>\d{{1,2}}){_TIME}{_OFFSET}", re.ASCII)
_LOCAL = re.compile(rf"(?P<a>\d{{1,2}})(?P<s>[/.-])(?P<b>\d{{1,2}})(?P=s)(?P<year>\d{{4}}){_TIME}{_OFFSET}", re.ASCII)
_NOON = 12


def instant(said: str, zone: ZoneInfo | None = None, order: Order | None = None) -> datetime | InstantProblem:
    """Return the instant, in UTC, or why there is none. `zone` and `order`: of local dates, as stated by the caller."""
    if _OF_PROGRAMS.fullmatch(said):
        try:
            return datetime.fromisoformat(said.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            return InstantProblem.NOT_VALID
    if found := _ISO.fullmatch(said):
        day, month = int(found["day"]), int(found["month"])
    elif found := _LOCAL.fullmatch(said):
        first, second = int(found["a"]), int(found["b"])
        if order is None and first != second and max(first, second) <= _NOON:
            return InstantProblem.AMBIGUOUS_DAY
        month_first = order == "month_first" or (order is None and second > _NOON)
        day, month = (second, first) if month_first else (first, second)
    else:
        return InstantProblem.NOT_VALID
    if found["hour"] is None:
        return InstantProblem.WITHOUT_TIME
    hour = int(found["hour"])
    if half := found["half"]:
        if not 1 <= hour <= _NOON:
            return InstantProblem.NOT_VALID
        hour = hour % _NOON + (_NOON if half[0] in "pP" else 0)
    try:
        local = datetime(  # noqa: DTZ001  # the zone follows
            int(found["year"]), month, day, hour, int(found["minute"]), int(found["second"] or 0),
            int((found["fraction"] or "").ljust(6, "0")[:6]),
        )  # fmt: skip
        return _placed(local, found["offset"], zone)
    except (ValueError, OverflowError):
        return InstantProblem.NOT_VALID


def _placed(local: datetime, offset: str | None, zone: ZoneInfo | None) -> datetime | InstantProblem:
    if offset is not None:
        return local.replace(tzinfo=_fixed(offset)).astimezone(UTC)
    if zone is None:
        return InstantProblem.WITHOUT_ZONE
    once, again = local.replace(tzinfo=zone), local.replace(tzinfo=zone, fold=1)
    if once.utcoffset() != again.utcoffset():
        return InstantProblem.AMBIGUOUS_CLOCK
    return once.astimezone(UTC)


def _fixed(offset: str) -> timezone:
    if offset in ("Z", "UTC", "GMT"):
        return UTC
    minutes = int(offset[1:3]) * 60 + int(offset[-2:])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
