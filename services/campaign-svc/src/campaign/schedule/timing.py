"""When each message of a campaign is due: at once, at its person's own local time, spread over a window, and no faster
than its author said. Pure: `now` is an argument.

    table = Timetable(timing, country, starts_at, at, ends_by, policy)
    place = table.place("FR", {"postcode": "67000"})
    table.due(place, share, now)        the instant for one person, `now` if it has come, None if it never will
    pace = Pace.of(timing)
    pace.room(next_slot, now)           how many may be asked for now
    pace.after(next_slot, now, 12)      when the next may be, once twelve were

What is not due is not asked for, so a pause, a cancellation and a STOP find nothing of it on its way. The rules of
hours are those of `common.law`, as the gate applies them: what is planned here for 19:44 it lets go, and it is asked
again there.
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

MANY_POSTCODES = 10_000  # more than a country of ours has
MAX_SPREAD = timedelta(days=7)
LATENESS = timedelta(milliseconds=250)  # how much later than its slot a message is asked for; a slot older is let go
POSTCODE = "postcode"  # an attribute of the contact, read as one of the sender's own country
ZONE = "timezone"  # another: its time zone's name, which knows better than the number (DOMAIN 6.3)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


class Timing(BaseModel):
    """What the author of a campaign says of its pace."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    local_time: bool = Field(
        False,
        description="`at` is read off the clock on each person's own wall: 10:00 is 10:00 in Paris, in Fort-de-France"
        " and in Nouméa. Whose hour has passed by then gets it at that hour of the next day.",
    )
    spread_minutes: int | None = Field(
        None,
        ge=1,
        le=MAX_SPREAD // timedelta(minutes=1),
        description="Messages are laid out evenly over so many minutes from when they may first leave, within hours.",
    )
    per_second: int | None = Field(None, ge=1, le=10_000, description="At most so many messages in any second.")
    per_hour: int | None = Field(None, ge=1, le=10_000_000, description="At most so many in any hour, evenly.")

    @property
    def by_person(self) -> bool:
        """Does it matter who and where somebody is for when they are due?"""
        return self != Timing()


class Place(NamedTuple):
    """Where a person is, as far as it is known: by the number, by the address, and the time zone the contact names."""

    territory: str
    region: str | None = None
    zone: str | None = None


@dataclass(frozen=True)
class Timetable:
    """One campaign's. `country`: whose clocks `at` is read off (its sender's). `at`: the instant that its author named,
    where that matters (`local_time`). `starts_at`: from when on anything of it is asked for."""

    timing: Timing
    country: str
    starts_at: datetime
    at: datetime | None
    ends_by: datetime
    policy: Policy
    _windows: dict[Place, tuple[law.Opening, ...]] = field(default_factory=dict, repr=False, compare=False)
    _regions: dict[str, str | None] = field(default_factory=dict, repr=False, compare=False)  # by postcode

    def place(self, territory: str, attributes: Mapping[str, str]) -> Place:
        """Of a contact, whose number is of `territory`."""
        zone = attributes.get(ZONE)
        return Place(territory, self.region(attributes), None if zone is None or zone_named(zone) is None else zone)

    def region(self, attributes: Mapping[str, str]) -> str | None:
        """`region_of`, of many."""
        if (postcode := attributes.get(POSTCODE)) is None:
            return None
        if postcode not in self._regions:
            if len(self._regions) >= MANY_POSTCODES:  # what is no postcode may be different for everybody
                self._regions.clear()
            self._regions[postcode] = region_of(attributes, self.country, self.policy)
        return self._regions[postcode]

    def due(self, place: Place, share: float, now: datetime) -> datetime | None:
        """From `now` on. None: not before `ends_by`, or never."""
        planned = self.planned(place, share)
        if planned is None:  # it does not open for months: but it may have been wanted months ago
            planned = now = max(now, self.wanted(place))
        if planned > now:
            return planned if planned < self.ends_by else None
        return law.next_permitted(now, place.territory, self.policy, region=place.region, before=self.ends_by)

    def planned(self, place: Place, share: float) -> datetime | None:
        """Where in their window somebody stands: at the `share` (from 0 to less than 1) of the time it is open."""
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
        return openings[-1][1] - timedelta.resolution  # the last microsecond, rounded up

    def opens_at(self, territory: str) -> datetime | None:
        """When the first message may leave for there."""
        return next((opens for opens, _ in self.window(Place(territory))), None)

    def window(self, place: Place) -> tuple[law.Opening, ...]:
        """When messages to there are laid out. Empty: none may ever leave."""
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
        """When messages to there may leave within [`start`, `end`)."""
        return law.openings(start, end, place.territory, self.policy, region=place.region)

    def opening(self, place: Place, at: datetime) -> law.Opening | None:
        """The first from `at` on; a day of it, where nothing ever closes. None: there is none."""
        opens = law.next_permitted(at, place.territory, self.policy, region=place.region)
        if opens is None:
            return None
        return law.openings(opens, opens + DAY, place.territory, self.policy, region=place.region)[0]

    def closed_by(self, place: Place, at: datetime) -> tuple[law.Closure, ...]:
        """Every rule that forbids messages to there `at` that instant."""
        return law.closed_by(at, place.territory, self.policy, region=place.region)

    def wanted(self, place: Place) -> datetime:
        """When messages to there were to leave, if it were open then."""
        if not self.timing.local_time or self.at is None:
            return self.starts_at
        return max(
            _on_the_wall(self.at, self.country, zone, self.starts_at, self.policy) for zone in self._zones(place)
        )

    def _zones(self, place: Place) -> tuple[ZoneInfo, ...]:
        """Several where a number does not tell: then the hour has come when it has in all of them."""
        if (own := zone_named(place.zone)) is not None:
            return (own,)
        return law.zones(place.region or place.territory, self.policy)


def starts(timing: Timing, at: datetime, country: str, now: datetime, policy: Policy) -> datetime:
    """When a campaign is to begin, so that nobody's hour has passed if that can still be: where the sun is first."""
    if not timing.local_time:
        return at
    zones = {zone for place in policy.places.values() for zone in place.zones} | set(law.zones(country, policy))
    return max(now, min(_reading(at, country, zone, policy) for zone in zones))


@dataclass(frozen=True, slots=True)
class Pace:
    """Slots for messages, `gap` apart. A slot is used at most LATENESS after its time, which the gap allows for: so no
    more leave than were said in any second and in any hour, wherever one begins to count."""

    gap: timedelta | None

    @classmethod
    def of(cls, timing: Timing) -> "Pace":
        gaps = [
            (per + LATENESS) / many
            for per, many in ((SECOND, timing.per_second), (HOUR, timing.per_hour))
            if many is not None
        ]
        # rounded up to what a clock can tell, or a thousand slots would be a slot too many
        return cls(max(gaps) + timedelta.resolution if gaps else None)

    @property
    def per_second(self) -> float | None:
        return None if self.gap is None else SECOND / self.gap

    def takes(self, people: int) -> timedelta:
        """To ask for so many."""
        return timedelta() if self.gap is None else people * self.gap

    def room(self, next_slot: datetime | None, now: datetime) -> int | None:
        """How many slots have come and are not too old. None: any number."""
        if self.gap is None:
            return None
        first = self._first(next_slot, now)
        return 0 if first > now else (now - first) // self.gap + 1

    def after(self, next_slot: datetime | None, now: datetime, used: int) -> datetime | None:
        """The next slot, once `used` of them are."""
        return None if self.gap is None else self._first(next_slot, now) + used * self.gap

    def _first(self, next_slot: datetime | None, now: datetime) -> datetime:
        """What was missed is not made up for, so that a clock set forward lets no more than a quarter of a second's
        worth leave too soon, once. Nor is one waited for that was set back: the last slot was at most a moment ago."""
        assert self.gap is not None
        if next_slot is None:
            return now
        return min(max(next_slot, now - LATENESS + timedelta.resolution), now + self.gap)


def timetable(
    timing: Timing, country: str, at: datetime, send_before: datetime | None, now: datetime, policy: Policy
) -> Timetable:
    """Of a campaign that is to start `at`. `policy` is the deployment's: people are planned for as the gate has it."""
    starts_at = starts(timing, at, country, now, policy)
    return Timetable(timing, country, starts_at, at, ends_by(starts_at, send_before), law.at_hand_off(policy))


def region_of(attributes: Mapping[str, str], country: str, policy: Policy) -> str | None:
    """Of a contact's address. `country`: its sender's."""
    postcode = attributes.get(POSTCODE)
    return None if postcode is None else law.region_of(postcode, country, policy)


@lru_cache(maxsize=1024)
def zone_named(name: str | None) -> ZoneInfo | None:
    """What a contact says is its time zone, if it is one: "Indian/Reunion"."""
    try:
        return ZoneInfo(name.strip()) if name and name.strip() else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _on_the_wall(at: datetime, country: str, zone: ZoneInfo, starts_at: datetime, policy: Policy) -> datetime:
    """The first instant from `starts_at` on when clocks in `zone` show what those of `country` show `at`."""
    days = max(0, math.floor((starts_at - _reading(at, country, zone, policy)) / DAY))
    while (found := _reading(at, country, zone, policy, days)) < starts_at:
        days += 1
    return found


def _reading(at: datetime, country: str, zone: ZoneInfo, policy: Policy, days: int = 0) -> datetime:
    shown = at.astimezone(law.zones(country, policy)[0]).replace(tzinfo=None) + timedelta(days)
    return shown.replace(tzinfo=zone, fold=0).astimezone(UTC)
