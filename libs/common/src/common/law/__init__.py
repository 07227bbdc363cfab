"""When a marketing message may be sent: windows, days and public holidays per territory, as versioned data. Pure.

The rules are the files beside this module, each with its source; a decision names the version it was made with
("france-1") and can be made again with it. A file is never edited once used: a change is the next version.

    policy = load("france-1")               or load("france"), the newest
    is_open(now, "MQ", policy)              may a message leave for Martinique now?
    next_permitted(now, "MQ", policy)       the first instant from now on when it may

The strictest wins: a territory that a number cannot tell from its neighbours (+590, +689) is open only when all of them
are. Nothing here reads a clock.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

EARLIEST_OPENING = time(4)  # later than any change of clocks: a local opening time then exists exactly once
SEARCH_DAYS = 60  # no calendar of ours closes this long; beyond it the data is wrong

__all__ = ["Calendar", "NeverOpen", "Policy", "Territory", "at_hand_off", "is_open", "load", "next_permitted", "zones"]


class NeverOpen(ValueError):
    """The policy's data leave no instant open within SEARCH_DAYS."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """Public holidays of one place: fixed days (month, day), and days counted from Easter Sunday."""

    fixed: frozenset[tuple[int, int]]
    from_easter: frozenset[int]

    def days(self, year: int) -> frozenset[date]:
        moving = {easter(year) + timedelta(days) for days in self.from_easter}
        return frozenset({date(year, month, day) for month, day in self.fixed} | moving)


@dataclass(frozen=True, slots=True, eq=False)
class Territory:
    """Where a number may be: every zone and every calendar it may be under. Compared by identity (it keys a cache)."""

    zones: tuple[ZoneInfo, ...]
    calendars: tuple[Calendar, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """One version of the rules. `opens` <= local time < `closes`, on `weekdays` (ISO: Monday is 1), no holidays.

    `hard_limit` is the latest `closes` that operators accept; no later version and no override goes beyond it.
    `end_margin` is for the hand-off only: see `at_hand_off`.
    """

    version: str
    always_open: bool
    opens: time
    closes: time
    hard_limit: time
    weekdays: frozenset[int]
    end_margin: timedelta
    territories: Mapping[str, Territory]
    elsewhere: Territory

    def __post_init__(self) -> None:
        if not EARLIEST_OPENING <= self.opens < self.closes <= self.hard_limit:
            raise ValueError(f"{self.version}: a window is from {EARLIEST_OPENING} on, and ends the same day")
        if not self.weekdays <= frozenset(range(1, 8)) or not self.weekdays:
            raise ValueError(f"{self.version}: weekdays are 1 (Monday) to 7 (Sunday), one at least")

    def territory(self, code: str) -> Territory:
        return self.territories.get(code, self.elsewhere)


def zones(territory: str, policy: Policy) -> tuple[ZoneInfo, ...]:
    """The time zones a number of `territory` may be in."""
    return policy.territory(territory).zones


def is_open(at: datetime, territory: str, policy: Policy) -> bool:
    """Whether a marketing message may reach `territory` at `at` (aware). Raises ValueError if `at` is naive."""
    _require_aware(at)
    if policy.always_open:
        return True
    place = policy.territory(territory)
    return all(_is_open_in(at.astimezone(zone), place, policy) for zone in place.zones)


def next_permitted(at: datetime, territory: str, policy: Policy) -> datetime:
    """The earliest instant >= `at` when a marketing message may reach `territory`.

    at         aware, any zone; the result is UTC
    territory  as `common.msisdn.territory_of` names it; an unknown one is under the policy's `elsewhere`
    Raises     ValueError if `at` is naive: a naive time here once meant somebody's 3 a.m.; NeverOpen
    Source     DOMAIN 1.9 (hours and days), 6.3 (zones), 6.4 (holidays), through the policy's file
    """
    _require_aware(at)
    moment = at.astimezone(UTC)
    if policy.always_open:
        return moment
    place = policy.territory(territory)
    limit = moment + timedelta(SEARCH_DAYS)
    while moment <= limit:
        # Each zone's answer is the least for that zone, so going from one to the next until all agree ends at the
        # least instant that is open in all of them.
        later = max(_next_in(moment, zone, place, policy) for zone in place.zones)
        if later == moment:
            return moment
        moment = later
    raise NeverOpen(f"{policy.version} never opens for {territory}")


def at_hand_off(policy: Policy) -> Policy:
    """The policy as the gate applies it at hand-off: it closes `end_margin` earlier, because the operator's own queue
    comes after (DOMAIN 1.9). Planning uses the policy itself. Call once, keep the result."""
    end = datetime.combine(date.min, policy.closes) - policy.end_margin
    return replace(policy, closes=end.time())


@lru_cache
def load(name: str) -> Policy:
    """The policy "france-1", or for "france" its newest version. Raises FileNotFoundError."""
    if not re.search(r"-\d+$", name):
        name = f"{name}-{_newest(name)}"
    data = json.loads((resources.files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
    if data["version"] != name:
        raise ValueError(f"{name}.json calls itself {data['version']}")
    window, calendars = data["window"], {key: _calendar(value) for key, value in data["calendars"].items()}
    territories = {
        code: _territory(value["zones"], value["calendars"], calendars) for code, value in data["territories"].items()
    }
    return Policy(
        version=name,
        always_open=data["always_open"],
        opens=time.fromisoformat(window["opens"]),
        closes=time.fromisoformat(window["closes"]),
        hard_limit=time.fromisoformat(window["hard_limit"]),
        weekdays=frozenset(window["weekdays"]),
        end_margin=timedelta(minutes=window["end_margin_minutes"]),
        territories=territories,
        elsewhere=territories[data["elsewhere"]["as"]],
    )


def _newest(family: str) -> int:
    names = (file.name for file in resources.files(__name__).iterdir())
    versions = (re.fullmatch(rf"{re.escape(family)}-(\d+)\.json", name) for name in names)
    return max((int(version[1]) for version in versions if version), default=0)


def easter(year: int) -> date:
    """Easter Sunday in the Gregorian calendar (Meeus, Jones and Butcher's computus)."""
    a, b, c = year % 19, year // 100, year % 100
    d = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    e = (32 + 2 * (b % 4) + 2 * (c // 4) - d - c % 4) % 7
    f = d + e - 7 * ((a + 11 * d + 22 * e) // 451) + 114
    return date(year, f // 31, f % 31 + 1)


@lru_cache(maxsize=4096)
def _holidays(place: Territory, year: int) -> frozenset[date]:
    return frozenset[date]().union(*(calendar.days(year) for calendar in place.calendars))


def _is_open_day(day: date, place: Territory, policy: Policy) -> bool:
    return day.isoweekday() in policy.weekdays and day not in _holidays(place, day.year)


def _is_open_in(local: datetime, place: Territory, policy: Policy) -> bool:
    return policy.opens <= local.time() < policy.closes and _is_open_day(local.date(), place, policy)


def _next_in(moment: datetime, zone: ZoneInfo, place: Territory, policy: Policy) -> datetime:
    """The earliest instant >= `moment` (UTC) open in one zone, as UTC."""
    local = moment.astimezone(zone)
    if _is_open_in(local, place, policy):
        return moment
    day = local.date() if local.time() < policy.opens else local.date() + timedelta(1)
    for _ in range(SEARCH_DAYS):
        if _is_open_day(day, place, policy):
            return datetime.combine(day, policy.opens, zone).astimezone(UTC)
        day += timedelta(1)
    raise NeverOpen(f"{policy.version} has no open day within {SEARCH_DAYS} in {zone.key}")


def _require_aware(at: datetime) -> None:
    if at.tzinfo is None:
        raise ValueError("a naive time has no place here")


def _calendar(data: Mapping[str, Any]) -> Calendar:
    fixed = (date.fromisoformat(f"2000-{day}") for day in data.get("fixed", {}))
    return Calendar(
        fixed=frozenset((day.month, day.day) for day in fixed),
        from_easter=frozenset(int(days) for days in data.get("from_easter", {})),
    )


def _territory(zone_names: Iterable[str], names: Iterable[str], calendars: Mapping[str, Calendar]) -> Territory:
    return Territory(
        zones=tuple(ZoneInfo(name) for name in zone_names),
        calendars=tuple(calendars[name] for name in names),
    )
