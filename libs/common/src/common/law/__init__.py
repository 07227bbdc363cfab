"""When and how a marketing message may be sent, as versioned data: hours, days and public holidays of each place. Pure.

The rules are the files beside this module (`files.py` is their form), each with its source and the days it is in force;
a decision names the edition it was made with ("france-2") and can be made again with it.

    policy = load("france-2")                   or load("france"), the newest
    is_open(now, "MQ", policy)                  may a message leave for Martinique now?
    closed_by(now, "MQ", policy)                if not: every rule that forbids it
    next_permitted(now, "MQ", policy)           the first instant from now on when it may
    region_of("67000", "FR", policy)            "FR-6AE": what a postcode tells that a number does not
    next_permitted(now, "FR", policy, region="FR-6AE")
    openings(now, until, "MQ", policy)          when it may, from now until then

Law, the operators' charter, operators and the house all hold together: what one forbids is forbidden, so the strictest
wins. So it is of places: a number that cannot tell one place from its neighbours (+590, +689, the states of the US) may
be written to only when all of them are open, and so may who has a number of one place and an address in another. A
country without a file has no opening at all: nothing goes where nobody has looked up what is allowed. Nothing here
reads a clock.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from common.law import files
from common.law.files import EARLIEST_OPENING, Layer, PolicyUnreadable, clock

SEARCH_DAYS = 60  # no calendar of ours closes this long; what does not open within it does not open

__all__ = [
    "EARLIEST_OPENING",
    "SEARCH_DAYS",
    "Aspect",
    "Closure",
    "Holiday",
    "Layer",
    "Opening",
    "Place",
    "Policy",
    "PolicyUnreadable",
    "Rule",
    "at_hand_off",
    "begins_with",
    "closed_by",
    "country_of",
    "covers",
    "is_open",
    "load",
    "mark_of",
    "next_permitted",
    "openings",
    "region_of",
    "rules_of",
    "zones",
]


class Aspect(StrEnum):
    """What of an instant a rule is against."""

    HOURS = "hours"
    WEEKDAY = "weekday"
    HOLIDAY = "holiday"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as it is applied; `files.Rule` says what its fields mean."""

    id: str
    layer: Layer
    source: str
    valid_from: date
    valid_to: date
    opens: time | None
    closes: time | None
    weekdays: frozenset[int] | None
    no_holidays: bool
    begins_with: str | None

    def holds_on(self, day: date) -> bool:
        return self.valid_from <= day < self.valid_to


@dataclass(frozen=True, slots=True)
class Holiday:
    """A public holiday: its name, and who says that it is one there."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """Public holidays of one place: fixed days (month, day), and days counted from Easter Sunday."""

    fixed: Mapping[tuple[int, int], Holiday]
    from_easter: Mapping[int, Holiday]

    def days(self, year: int) -> dict[date, Holiday]:
        moving = {easter(year) + timedelta(days): holiday for days, holiday in self.from_easter.items()}
        return moving | {date(year, month, day): holiday for (month, day), holiday in self.fixed.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a person may be, and all that holds there. Compared by identity (it keys a cache)."""

    code: str
    country: str
    within: str | None
    zones: tuple[ZoneInfo, ...]
    calendars: tuple[Calendar, ...]
    postcodes: tuple[str, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """One edition of the rules, with what the house adds to it: `version` names both."""

    version: str
    always_open: bool
    hand_off_margin: timedelta
    places: dict[str, Place]


Opening = tuple[datetime, datetime]  # from the first instant that is open to the first that is not, UTC


@dataclass(frozen=True, slots=True)
class Closure:
    """Why an instant is not permitted: this rule, against this, in this place and time zone. `holiday`: which one, if
    it is against one."""

    rule: Rule
    aspect: Aspect
    place: str
    zone: str
    holiday: Holiday | None = None


def is_open(at: datetime, territory: str, policy: Policy, *, region: str | None = None) -> bool:
    """Whether a marketing message may reach `territory` at `at` (aware). Raises ValueError if `at` is naive."""
    moment = _utc(at)
    if policy.always_open:
        return True
    places = _places(policy, territory, region)
    return places is not None and any(opens <= moment < closes for opens, closes in _openings(places, moment.date()))


def next_permitted(
    at: datetime, territory: str, policy: Policy, *, region: str | None = None, before: datetime | None = None
) -> datetime | None:
    """The earliest instant >= `at` when a marketing message may reach `territory`; None where there is none earlier
    than `before`, or within SEARCH_DAYS.

    at         aware, any zone; the result is UTC
    territory  as `common.sms.msisdn.territory_of` names it
    region     as `region_of` names it: an address, where one is known
    Raises     ValueError if `at` is naive: a naive time here once meant somebody's 3 a.m.
    Source     DOMAIN 1.9 (hours and days), 6.3 (zones), 6.4 (holidays), through the policy's files
    """
    moment = _utc(at)
    found = _next(moment, territory, region, policy)
    return found if found is not None and (before is None or found < before) else None


def _next(moment: datetime, territory: str, region: str | None, policy: Policy) -> datetime | None:
    if policy.always_open:
        return moment
    places = _places(policy, territory, region)
    if places is None:
        return None
    for days in range(SEARCH_DAYS):
        for opens, closes in _openings(places, moment.date() + timedelta(days)):
            if moment < closes:
                return max(moment, opens)
    return None


def openings(
    start: datetime, end: datetime, territory: str, policy: Policy, *, region: str | None = None
) -> tuple[Opening, ...]:
    """When a marketing message may reach `territory` within [`start`, `end`), in order and apart from each other.
    Raises ValueError if either is naive."""
    first, last = _utc(start), _utc(end)
    if policy.always_open:
        return ((first, last),) if first < last else ()
    places = _places(policy, territory, region)
    found: list[Opening] = []
    day = first.date()
    while places is not None and day <= last.date():
        for opens, closes in _openings(places, day):
            begins, ends = max(opens, first), min(closes, last)
            if begins >= ends:
                continue
            if found and found[-1][1] == begins:  # midnight of UTC is nobody's evening
                begins = found.pop()[0]
            found.append((begins, ends))
        day += timedelta(1)
    return tuple(found)


def closed_by(at: datetime, territory: str, policy: Policy, *, region: str | None = None) -> tuple[Closure, ...]:
    """Every rule that forbids `at`: the law first, then charter, operators, house. Empty when it is open, and in a
    country without rules, which never is."""
    moment = _utc(at)
    if policy.always_open:
        return ()
    found = (
        Closure(rule, aspect, place.code, zone.key, holiday)
        for place in _places(policy, territory, region) or ()
        for zone in place.zones
        for rule, aspect, holiday in _against(place, moment.astimezone(zone))
    )
    return tuple(sorted(found, key=lambda closure: files.LAYERS.index(closure.rule.layer)))


def country_of(territory: str, policy: Policy) -> str | None:
    """The country whose law holds there ("FR" for "MQ"); None where the policy has no rules."""
    place = policy.places.get(territory)
    return place.country if place else None


def covers(territory: str, policy: Policy) -> bool:
    """Whether the policy knows what is allowed there."""
    return policy.always_open or territory in policy.places


def zones(territory: str, policy: Policy) -> tuple[ZoneInfo, ...]:
    """The time zones a number of `territory` may be in; UTC where the policy knows none."""
    place = policy.places.get(territory)
    return place.zones if place else (ZoneInfo("UTC"),)


@lru_cache(maxsize=65536)
def region_of(postcode: str, country: str, policy: Policy) -> str | None:
    """The place that a postcode of `country` names, where one has rules of its own; None for any other."""
    digits = postcode.strip()
    named = [
        (len(prefix), place.code)
        for place in policy.places.values()
        if place.country == country
        for prefix in place.postcodes
        if digits.startswith(prefix)
    ]
    return max(named)[1] if named else None  # 97133 is Saint-Barthélemy's, any other 971 Guadeloupe's


def begins_with(at: datetime, territory: str, policy: Policy, *, region: str | None = None) -> tuple[str, ...]:
    """What a marketing text must begin with there on that day."""
    found: tuple[str, ...] = ()
    for place in () if policy.always_open else _places(policy, territory, region) or ():
        if rules := _of_the_text(place):
            day = _utc(at).astimezone(place.zones[0]).date()
            found += tuple(rule.begins_with for rule in rules if rule.begins_with and rule.holds_on(day))
    return found


def mark_of(text: str, policy: Policy) -> str | None:
    """The longest that `text` begins with of all that any edition, or this policy, has a text begin with somewhere: it
    begins with any other of them exactly if this one does."""
    return next(filter(text.startswith, _marks(policy)), None)


def at_hand_off(policy: Policy) -> Policy:
    """The policy as the gate applies it at hand-off: each window closes the margin earlier, because the operator's own
    queue comes after (DOMAIN 1.9). Planning uses the policy itself. Call once, keep the result."""

    def earlier(rule: Rule) -> Rule:
        if rule.closes is None:
            return rule
        end = datetime.combine(date.min, rule.closes) - policy.hand_off_margin
        return replace(rule, closes=end.time())

    return _with_rules(policy, lambda rules: map(earlier, rules))


def rules_of(day: date, policy: Policy) -> Policy:
    """The policy as if the rules of `day` had always been in force and always would be: for a dry run over messages of
    another time."""

    def standing(rules: Iterable[Rule]) -> Iterator[Rule]:
        return (replace(r, valid_from=date.min, valid_to=date.max) for r in rules if r.holds_on(day))

    return _with_rules(policy, standing)


@lru_cache
def load(name: str, house: bytes | None = None) -> Policy:
    """The policy "france-2", or for "france" its newest edition, with the rules of a house file added to it. Raises
    FileNotFoundError, PolicyUnreadable."""
    edition = files.edition(name if name.rpartition("-")[2].isdigit() else files.newest(name))
    version, own = edition.version, edition.rules
    if house is not None:
        added = files.house(house)
        version = f"{version}+{added.version}:{hashlib.sha256(house).hexdigest()[:8]}"
        own = (*own, *added.rules)
    countries = [files.country(each) for each in edition.countries]
    places = {code: place for country in countries for code, place in _placed(country, own)}
    for rule in own:
        if unknown := set(rule.places or ()) - set(places):
            raise PolicyUnreadable(f"{version}: rule {rule.id} is of {', '.join(sorted(unknown))}, which is no place")
    margin = edition.hand_off_margin.minutes if edition.hand_off_margin else 0
    return Policy(version, edition.always_open, timedelta(minutes=margin), places)


def _placed(country: files.Country, house: tuple[files.Rule, ...]) -> Iterator[tuple[str, Place]]:
    calendars = {key: _calendar(each) for key, each in country.calendars.items()}
    for code, place in country.places.items():
        # an address only narrows: what holds in all of France holds in Alsace
        rules = [r for r in (*country.rules, *house) if r.places is None or {code, place.within} & set(r.places)]
        yield (
            code,
            Place(
                code=code,
                country=country.country,
                within=place.within,
                zones=tuple(ZoneInfo(name) for name in place.zones),
                calendars=tuple(calendars[name] for name in place.calendars),
                postcodes=place.postcodes,
                rules=tuple(_rule(rule) for rule in rules),
            ),
        )


def _rule(rule: files.Rule) -> Rule:
    return Rule(
        id=rule.id,
        layer=rule.layer,
        source=rule.source,
        valid_from=rule.valid_from or date.min,
        valid_to=rule.valid_to or date.max,
        opens=clock(rule.opens) if rule.opens else None,
        closes=clock(rule.closes) if rule.closes else None,
        weekdays=frozenset(rule.weekdays) if rule.weekdays else None,
        no_holidays=rule.holidays == "closed",
        begins_with=rule.begins_with,
    )


def _calendar(calendar: files.Calendar) -> Calendar:
    fixed = {date.fromisoformat(f"2000-{day}"): Holiday(name, calendar.source) for day, name in calendar.fixed.items()}
    return Calendar(
        fixed={(day.month, day.day): holiday for day, holiday in fixed.items()},
        from_easter={days: Holiday(name, calendar.source) for days, name in calendar.from_easter.items()},
    )


def _with_rules(policy: Policy, change: Callable[[Iterable[Rule]], Iterable[Rule]]) -> Policy:
    places = {code: replace(place, rules=tuple(change(place.rules))) for code, place in policy.places.items()}
    return replace(policy, places=places)


@lru_cache(maxsize=4096)
def _places(policy: Policy, territory: str, region: str | None) -> tuple[Place, ...] | None:
    """Every place the person may be in; None where the policy has no rules. A region narrows the territory it is in,
    and is added to any other: then the number and the address are of two places."""
    place = policy.places.get(territory)
    part = policy.places.get(region) if region is not None else None
    if place is None or part is None:
        return None if place is None else (place,)
    return (part,) if territory in (part.code, part.within) else (place, part)


@lru_cache(maxsize=16384)
def _openings(places: tuple[Place, ...], day: date) -> tuple[Opening, ...]:
    """When all of these places are open on a day of UTC, in order."""
    midnight = datetime.combine(day, time(), UTC)
    common: list[Opening] = [(midnight, midnight + timedelta(1))]
    for place in places:
        for zone in place.zones:
            days = (day + timedelta(days) for days in (-1, 0, 1))  # those that a day of UTC touches, wherever
            here = [opening for local in days if (opening := _opening(place, zone, local)) is not None]
            common = [(max(a, c), min(b, d)) for a, b in common for c, d in here if max(a, c) < min(b, d)]
    return tuple(common)


def _opening(place: Place, zone: ZoneInfo, day: date) -> Opening | None:
    """When the place is open on one of its own days, if it is."""
    rules = [rule for rule in place.rules if rule.holds_on(day)]
    if any(True for rule in rules for _ in _against_day(rule, place, day)):
        return None
    opens = max((rule.opens for rule in rules if rule.opens), default=time())
    closes = min((rule.closes for rule in rules if rule.closes), default=None)
    if closes is not None and opens >= closes:
        return None
    end = datetime.combine(day, closes, zone) if closes else datetime.combine(day + timedelta(1), time(), zone)
    return datetime.combine(day, opens, zone).astimezone(UTC), end.astimezone(UTC)


def _against(place: Place, local: datetime) -> Iterator[tuple[Rule, Aspect, Holiday | None]]:
    for rule in place.rules:
        if rule.holds_on(local.date()):
            yield from ((rule, aspect, holiday) for aspect, holiday in _against_day(rule, place, local.date()))
            if not (rule.opens or time.min) <= local.time() or (rule.closes and local.time() >= rule.closes):
                yield rule, Aspect.HOURS, None


def _against_day(rule: Rule, place: Place, day: date) -> Iterator[tuple[Aspect, Holiday | None]]:
    if rule.weekdays is not None and day.isoweekday() not in rule.weekdays:
        yield Aspect.WEEKDAY, None
    if rule.no_holidays and (holiday := _holidays(place, day.year).get(day)) is not None:
        yield Aspect.HOLIDAY, holiday


@lru_cache(maxsize=4096)
def _of_the_text(place: Place) -> tuple[Rule, ...]:
    return tuple(rule for rule in place.rules if rule.begins_with)


@lru_cache(maxsize=64)
def _marks(policy: Policy) -> tuple[str, ...]:
    """Those of a house file are of the policy alone."""
    own = (rule.begins_with for place in policy.places.values() for rule in _of_the_text(place) if rule.begins_with)
    return tuple(sorted(files.marks().union(own), key=len, reverse=True))


@lru_cache(maxsize=4096)
def _holidays(place: Place, year: int) -> Mapping[date, Holiday]:
    """Of a day that several calendars have, as the first of them names it."""
    return {day: holiday for calendar in reversed(place.calendars) for day, holiday in calendar.days(year).items()}


def easter(year: int) -> date:
    """Easter Sunday in the Gregorian calendar (Meeus, Jones and Butcher's computus)."""
    a, b, c = year % 19, year // 100, year % 100
    d = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    e = (32 + 2 * (b % 4) + 2 * (c // 4) - d - c % 4) % 7
    f = d + e - 7 * ((a + 11 * d + 22 * e) // 451) + 114
    return date(year, f // 31, f % 31 + 1)


def _utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("a naive time has no place here")
    return at if at.tzinfo is UTC else at.astimezone(UTC)
