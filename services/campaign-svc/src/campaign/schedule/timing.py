"""Compute when each message of a campaign is due, and how many may be requested now. Pure: `now` is an argument.

The planner requests a message only once due, so a pause, a cancellation or a STOP never has to recall early requests.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field

from campaign.schedule.lifecycle import ends_by
from common import law
from common.law import Policy

MANY_POSTCODES = 10_000
MAX_SPREAD = timedelta(days=7)
LATENESS = timedelta(milliseconds=250)  # an older slot is dropped
POSTCODE = "postcode"  # of the sender's country
ZONE = "timezone"  # more exact than the number (DOMAIN 6.3)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


class Timing(BaseModel):
    """The pace an author gives a campaign."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    local_time: bool = Field(
        False,
        description="`at` is each recipient's local time: 10:00 is 10:00 in Paris, in Fort-de-France and in Nouméa. A"
        " recipient whose hour has passed at the start is due at that hour of the next day.",
    )
    spread_minutes: int | None = Field(
        None,
        ge=1,
        le=MAX_SPREAD // timedelta(minutes=1),
        description="Spread messages evenly over so many minutes from the earliest hand-off, within permitted hours.",
    )
    per_second: int | None = Field(None, ge=1, le=10_000, description="The most messages in any second.")
    per_hour: int | None = Field(None, ge=1, le=10_000_000, description="The most messages in any hour, spread evenly.")

    @property
    def by_person(self) -> bool:
        """Return whether due times depend on the recipient, or on a pace."""
        return self != Timing()


class Place(NamedTuple):
    """The location of a person: territory of the number, region of the address, time zone of the contact."""

    territory: str
    region: str | None = None
    zone: str | None = None


@dataclass(frozen=True)
class Timetable:
    """The due times of one campaign.

    The author's instant `at` is read on the clock of `country`, the sender's.
    """

    timing: Timing
    country: str
    starts_at: datetime
    at: datetime | None
    ends_by: datetime
    policy: Policy
    _windows: dict[Place, tuple[law.Opening, ...]] = field(default_factory=dict, repr=False, compare=False)
    _regions: dict[str, str | None] = field(default_factory=dict, repr=False, compare=False)  # by postcode

    def place(self, territory: str, attributes: Mapping[str, str]) -> Place:
        """Return the place of a contact. An unknown time zone is ignored."""
        zone = attributes.get(ZONE)
        return Place(territory, self.region(attributes), None if zone is None or zone_named(zone) is None else zone)

    def region(self, attributes: Mapping[str, str]) -> str | None:
        """Return `region_of`, cached."""
        if (postcode := attributes.get(POSTCODE)) is None:
            return None
        if postcode not in self._regions:
            if len(self._regions) >= MANY_POSTCODES:  # invalid postcodes may differ for every contact
                self._regions.clear()
            self._regions[postcode] = region_of(attributes, self.country, self.policy)
        return self._regions[postcode]

    def due(self, place: Place, share: float, now: datetime) -> datetime | None:
        """Return when a message is due, from `now` on; `None`: not before `ends_by`."""
        planned = self.planned(place, share)
        if planned is None:  # `wanted` may lie months back: look from `now`
            planned = now = max(now, self.wanted(place))
        if planned > now:
            return planned if planned < self.ends_by else None
        return law.next_permitted(now, place.territory, self.policy, region=place.region, before=self.ends_by)

    def planned(self, place: Place, share: float) -> datetime | None:
        """Return the point at `share` (0 to below 1) of the window's open time, if any."""
        openings = self.window(place)
        if not openings:
            return None
        if self.timing.spread_minutes is None:
            return openings[0][0]
        left = sum((closes - opens for opens, closes in openings), timedelta()) * share
        for opens, closes in openings:
            if left < closes - opens:
                return opens + left
            left -= closes - opens
        return openings[-1][1] - timedelta.resolution  # rounding reached the end

    def opens_at(self, territory: str) -> datetime | None:
        """Return when the first message may leave for the territory."""
        return next((opens for opens, _ in self.window(Place(territory))), None)

    def window(self, place: Place) -> tuple[law.Opening, ...]:
        """Return the openings over which messages to the place are spread; empty: no message may leave."""
        if place not in self._windows:
            self._windows[place] = self._window(place)
        return self._windows[place]

    def _window(self, place: Place) -> tuple[law.Opening, ...]:
        first = law.next_permitted(self.wanted(place), place.territory, self.policy, region=place.region)
        if first is None:
            return ()
        if self.timing.spread_minutes is None:
            return ((first, first),)
        end = first + timedelta(minutes=self.timing.spread_minutes)
        return law.openings(first, end, place.territory, self.policy, region=place.region)

    def openings(self, place: Place, start: datetime, end: datetime) -> tuple[law.Opening, ...]:
        """Return when messages to the place may leave within [`start`, `end`)."""
        return law.openings(start, end, place.territory, self.policy, region=place.region)

    def opening(self, place: Place, at: datetime) -> law.Opening | None:
        """Return the first opening from `at` on, cut to a day."""
        opens = law.next_permitted(at, place.territory, self.policy, region=place.region)
        if opens is None:
            return None
        return law.openings(opens, opens + DAY, place.territory, self.policy, region=place.region)[0]

    def closed_by(self, place: Place, at: datetime) -> tuple[law.Closure, ...]:
        """Return every rule forbidding messages to the place."""
        return law.closed_by(at, place.territory, self.policy, region=place.region)

    def wanted(self, place: Place) -> datetime:
        """Return when messages would leave if no rule closed the place."""
        if not self.timing.local_time or self.at is None:
            return self.starts_at
        return max(
            _on_the_wall(self.at, self.country, zone, self.starts_at, self.policy) for zone in self._zones(place)
        )

    def _zones(self, place: Place) -> tuple[ZoneInfo, ...]:
        """Return the time zones a person may be in: `wanted` waits until the hour has come in all."""
        if (own := zone_named(place.zone)) is not None:
            return (own,)
        return law.zones(place.region or place.territory, self.policy)


def starts(timing: Timing, at: datetime, country: str, now: datetime, policy: Policy) -> datetime:
    """Return when a campaign begins: with `local_time`, when the hour comes in the easternmost zone.

    A later start would let the hour pass for some recipients, who would wait a day.
    """
    if not timing.local_time:
        return at
    zones = {zone for place in policy.places.values() for zone in place.zones} | set(law.zones(country, policy))
    return max(now, min(_reading(at, country, zone, policy) for zone in zones))


@dataclass(frozen=True, slots=True)
class Pace:
    """Slots for messages, `gap` apart.

    A slot is used at most LATENESS after its time, and the gap includes LATENESS. So no second and no hour, wherever
    the count begins, holds more messages than allowed.
    """

    gap: timedelta | None

    @classmethod
    def of(cls, timing: Timing) -> "Pace":
        gaps = [
            (per + LATENESS) / many
            for per, many in ((SECOND, timing.per_second), (HOUR, timing.per_hour))
            if many is not None
        ]
        # rounded up: a thousand gaps rounded down would fit a slot too many
        return cls(max(gaps) + timedelta.resolution if gaps else None)

    @property
    def per_second(self) -> float | None:
        return None if self.gap is None else SECOND / self.gap

    def takes(self, people: int) -> timedelta:
        """Return how long the slots for `people` last."""
        return timedelta() if self.gap is None else people * self.gap

    def room(self, next_slot: datetime | None, now: datetime) -> int | None:
        """Return how many slots have come and are not too late; `None`: no limit."""
        if self.gap is None:
            return None
        first = self._first(next_slot, now)
        return 0 if first > now else (now - first) // self.gap + 1

    def after(self, next_slot: datetime | None, now: datetime, used: int) -> datetime | None:
        """Return the next slot, once `used` slots are taken."""
        return None if self.gap is None else self._first(next_slot, now) + used * self.gap

    def _first(self, next_slot: datetime | None, now: datetime) -> datetime:
        """Return the first usable slot.

        Missed slots are dropped: after a clock jumps forward, at most LATENESS worth of messages leaves early, once. A
        slot more than `gap` ahead is pulled back: the clock was set back.
        """
        assert self.gap is not None
        if next_slot is None:
            return now
        return min(max(next_slot, now - LATENESS + timedelta.resolution), now + self.gap)


def timetable(
    timing: Timing, country: str, at: datetime, send_before: datetime | None, now: datetime, policy: Policy
) -> Timetable:
    """Build the timetable of a campaign starting `at`.

    The timetable uses the policy as the gate applies it at hand-off.
    """
    starts_at = starts(timing, at, country, now, policy)
    return Timetable(timing, country, starts_at, at, ends_by(starts_at, send_before), law.at_hand_off(policy))


def region_of(attributes: Mapping[str, str], country: str, policy: Policy) -> str | None:
    """Return the region of a contact's postcode, read in `country` (the sender's)."""
    postcode = attributes.get(POSTCODE)
    return None if postcode is None else law.region_of(postcode, country, policy)


@lru_cache(maxsize=1024)
def zone_named(name: str | None) -> ZoneInfo | None:
    """Return the time zone of this name, if known."""
    try:
        return ZoneInfo(name.strip()) if name and name.strip() else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _on_the_wall(at: datetime, country: str, zone: ZoneInfo, starts_at: datetime, policy: Policy) -> datetime:
    """Return the first instant from `starts_at` when clocks in `zone` show what `country` shows `at`."""
    days = max(0, math.floor((starts_at - _reading(at, country, zone, policy)) / DAY))
    while (found := _reading(at, country, zone, policy, days)) < starts_at:
        days += 1
    return found


def _reading(at: datetime, country: str, zone: ZoneInfo, policy: Policy, days: int = 0) -> datetime:
    shown = at.astimezone(law.zones(country, policy)[0]).replace(tzinfo=None) + timedelta(days)
    return shown.replace(tzinfo=zone, fold=0).astimezone(UTC)
