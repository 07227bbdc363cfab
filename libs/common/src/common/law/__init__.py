"""Decide when and how a message may be sent, from versioned data: hours, days and public holidays. Pure.

The rules are the JSON files beside this module (`files.py`). A decision names its edition ("france-3"), so the decision
can be repeated.

    policy = load("france-3")                   or load("france"), the newest
    is_open(now, "MQ", policy)                  may a message leave for Martinique now?
    closed_by(now, "MQ", policy)                if not: every rule against the instant
    closed_abroad(now, "MQ", policy, code=True, link=False)     what keeps marketing out of Martinique, at any hour?
    region_of("67000", "FR", policy)            "FR-6AE": a postcode is more precise than a number
    next_permitted(now, "FR", policy, region="FR-6AE")

The strictest rule wins, of the law, the operators' charter, the operators and the house; so does the strictest place. A
number with a prefix shared by several places (+590, +689, the states of the US), or of one place with an address in
another, may receive messages only while all of these places are open. A country without a file is never open; nor is
a place without a means to stop, or with unknown holidays.

All of this is about marketing. `Policy.courtesy` is a policy of its own, with the courtesy hours of service messages; a
country without a file has none.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from common.law import files
from common.law.files import EARLIEST_OPENING, Layer, PolicyUnreadable, clock

SEARCH_DAYS = 60  # no calendar closes for so long

__all__ = [
    "EARLIEST_OPENING",
    "SEARCH_DAYS",
    "Abroad",
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
    "can_stop",
    "closed_abroad",
    "closed_by",
    "closes_after",
    "country_of",
    "covers",
    "is_open",
    "knows_holidays",
    "load",
    "mark_of",
    "next_permitted",
    "openings",
    "region_of",
    "rules_of",
    "stateable",
    "zones",
]


class Aspect(StrEnum):
    """The forbidden part of an instant."""

    HOURS = "hours"
    WEEKDAY = "weekday"
    HOLIDAY = "holiday"


class Abroad(StrEnum):
    """The reason for which a place is closed at any hour; the gate and the pre-flight name the same."""

    NO_MEANS = "no_means_to_stop_there"
    HOLIDAYS_UNKNOWN = "holidays_unknown_there"


@dataclass(frozen=True, slots=True)
class Rule:
    """An applied rule; see `files.Rule`."""

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
    """A public holiday."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """Public holidays: fixed (month, day), and counted from Easter Sunday. Complete for each year in `years`."""

    years: range
    fixed: Mapping[tuple[int, int], Holiday]
    from_easter: Mapping[int, Holiday]

    def days(self, year: int) -> dict[date, Holiday]:
        moving = {easter(year) + timedelta(days): holiday for days, holiday in self.from_easter.items()}
        return moving | {date(year, month, day): holiday for (month, day), holiday in self.fixed.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A place with its rules. Compared by identity, as a cache key.

    `code_works`, `link_works`: the means to stop there. `code_if_stated`: with the sender's statement for one of these,
    the code works as well.
    """

    code: str
    country: str
    within: str | None
    zones: tuple[ZoneInfo, ...]
    calendars: tuple[Calendar, ...]
    postcodes: tuple[str, ...]
    rules: tuple[Rule, ...]
    code_works: bool = False
    link_works: bool = False
    code_if_stated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """An edition with the house's rules: `version` names both. `courtesy`: the policy of service messages, if any.

    `delivery`: the policy as written, where this one closes earlier for the hand-off.
    """

    version: str
    always_open: bool
    hand_off_margin: timedelta
    places: dict[str, Place]
    courtesy: "Policy | None" = None
    delivery: "Policy | None" = None


Opening = tuple[datetime, datetime]  # first open instant, first closed instant after, UTC


@dataclass(frozen=True, slots=True)
class Closure:
    """The reason against an instant."""

    rule: Rule
    aspect: Aspect
    place: str
    zone: str
    holiday: Holiday | None = None


def is_open(at: datetime, territory: str, policy: Policy, *, region: str | None = None) -> bool:
    """Return whether marketing may reach `territory` at `at`. Raises ValueError if `at` is naive."""
    moment = _utc(at)
    if policy.always_open:
        return True
    places = _places(policy, territory, region)
    return places is not None and any(opens <= moment < closes for opens, closes in _openings(places, moment.date()))


def next_permitted(
    at: datetime, territory: str, policy: Policy, *, region: str | None = None, before: datetime | None = None
) -> datetime | None:
    """Return the earliest instant >= `at` when marketing may reach `territory`.

    `None`: no such instant before `before` or within SEARCH_DAYS.

        at         aware, any zone; the result is UTC
        territory  as returned by `common.sms.msisdn.territory_of`
        region     as returned by `region_of`, where an address is known
        Raises     ValueError if `at` is naive
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
    """Return the open spans within [`start`, `end`), ordered and disjoint. Raises ValueError for a naive instant."""
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
            if found and found[-1][1] == begins:  # midnight UTC ends no span: join the two days
                begins = found.pop()[0]
            found.append((begins, ends))
        day += timedelta(1)
    return tuple(found)


def closes_after(at: datetime, territory: str, policy: Policy, *, region: str | None = None) -> datetime | None:
    """Return the first instant after `at` when marketing may not reach `territory`.

    `None`: closed already, or open for a day from `at`. The hand-off margin counts as open: a message may still arrive.
    """
    start = _utc(at)
    span = openings(start, start + timedelta(days=1), territory, policy.delivery or policy, region=region)[:1]
    if not span or span[0][0] != start or span[0][1] == start + timedelta(days=1):
        return None
    return span[0][1]


def closed_by(at: datetime, territory: str, policy: Policy, *, region: str | None = None) -> tuple[Closure, ...]:
    """Return every rule against `at`, in the order of layers; () for a country without rules, never open."""
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


def closed_abroad(
    at: datetime,
    territory: str,
    policy: Policy,
    *,
    code: bool,
    link: bool,
    reachable_in: Collection[str] = (),
    region: str | None = None,
) -> Iterator[Abroad]:
    """Yield each reason that closes a place to a marketing message whatever the hour. See `can_stop`.

    NO_MEANS is not yielded for a text without any means: the gate denies such a text everywhere.
    """
    if (code or link) and not can_stop(
        territory, policy, code=code, link=link, reachable_in=reachable_in, region=region
    ):
        yield Abroad.NO_MEANS
    if not knows_holidays(at, territory, policy, region=region):
        yield Abroad.HOLIDAYS_UNKNOWN


def can_stop(
    territory: str,
    policy: Policy,
    *,
    code: bool,
    link: bool,
    reachable_in: Collection[str] = (),
    region: str | None = None,
) -> bool:
    """Return whether a means of a message works in each place where the person may be. An unknown place has none.

    An edition that is always open asks for a means too.

        code          the text has the STOP mention with the sender's own code
        link          the text has the person's valid stop link
        reachable_in  where the sender states that its code is reachable
    """
    places = _places(policy, territory, region)
    for place in places or ():
        if link and place.link_works:
            continue
        if not code or not (place.code_works or not place.code_if_stated.isdisjoint(reachable_in)):
            return False
    return places is not None


def knows_holidays(at: datetime, territory: str, policy: Policy, *, region: str | None = None) -> bool:
    """Return whether the public holidays are known, for the local days around `at`, in every place of the person."""
    if policy.always_open:
        return True
    places = _places(policy, territory, region)
    return places is not None and _know_holidays(places, _utc(at).date())


def stateable(policy: Policy) -> frozenset[str]:
    """Return the places for which a sender may state that its code is reachable there."""
    return frozenset(code for place in policy.places.values() for code in place.code_if_stated)


def country_of(territory: str, policy: Policy) -> str | None:
    """Return the country of `territory` ("FR" for "MQ"); `None` without rules."""
    place = policy.places.get(territory)
    return place.country if place else None


def covers(territory: str, policy: Policy) -> bool:
    """Return whether the policy has rules for `territory`."""
    return policy.always_open or territory in policy.places


def zones(territory: str, policy: Policy) -> tuple[ZoneInfo, ...]:
    """Return the possible time zones of a number of `territory`; UTC if unknown."""
    place = policy.places.get(territory)
    return place.zones if place else (ZoneInfo("UTC"),)


@lru_cache(maxsize=65536)
def region_of(postcode: str, country: str, policy: Policy) -> str | None:
    """Return the place named by a postcode, if it has an entry of its own."""
    digits = postcode.strip()
    named = [
        (len(prefix), place.code)
        for place in policy.places.values()
        if place.country == country
        for prefix in place.postcodes
        if digits.startswith(prefix)
    ]
    return max(named)[1] if named else None  # longest prefix: 97133 is Saint-Barthélemy, any other 971 Guadeloupe


def begins_with(at: datetime, territory: str, policy: Policy, *, region: str | None = None) -> tuple[str, ...]:
    """Return the prefixes required of a marketing text."""
    found: tuple[str, ...] = ()
    for place in () if policy.always_open else _places(policy, territory, region) or ():
        if rules := _of_the_text(place):
            day = _utc(at).astimezone(place.zones[0]).date()
            found += tuple(rule.begins_with for rule in rules if rule.begins_with and rule.holds_on(day))
    return found


def mark_of(text: str, policy: Policy) -> str | None:
    """Return the longest prefix required anywhere, by any edition or this policy, with which `text` begins.

    The text begins with another exactly if the returned prefix does.
    """
    return next(filter(text.startswith, _marks(policy)), None)


def at_hand_off(policy: Policy) -> Policy:
    """Return the policy for the gate: each window closes earlier by the hand-off margin (DOMAIN 1.9).

    The margin covers the operator's queue. Keep the result: caches compare policies by identity.
    """

    def earlier(rule: Rule) -> Rule:
        if rule.closes is None:
            return rule
        end = datetime.combine(date.min, rule.closes) - policy.hand_off_margin
        return replace(rule, closes=end.time())

    return replace(_with_rules(policy, lambda rules: map(earlier, rules)), delivery=policy)


def rules_of(day: date, policy: Policy) -> Policy:
    """Return the policy with the rules of `day` in force for all time."""

    def standing(rules: Iterable[Rule]) -> Iterator[Rule]:
        return (replace(r, valid_from=date.min, valid_to=date.max) for r in rules if r.holds_on(day))

    return _with_rules(policy, standing)


@lru_cache
def load(name: str, house: bytes | None = None) -> Policy:
    """Return the policy "france-3", or for "france" the newest, with the rules of a house file.

    Raises FileNotFoundError, PolicyUnreadable.
    """
    edition = files.edition(name if name.rpartition("-")[2].isdigit() else files.newest(name))
    version, own, courtesy = edition.version, edition.rules, edition.courtesy
    if house is not None:
        added = files.house(house)
        version = f"{version}+{added.version}:{hashlib.sha256(house).hexdigest()[:8]}"
        own, courtesy = (*own, *added.rules), (*courtesy, *added.courtesy)
    countries = [files.country(each) for each in edition.countries]
    places = {code: place for country in countries for code, place in _placed(country, own)}
    for rule in (*own, *courtesy):
        if unknown := set(rule.places or ()) - set(places):
            raise PolicyUnreadable(f"{version}: rule {rule.id} is of {', '.join(sorted(unknown))}, which is no place")
    margin = edition.hand_off_margin.minutes if edition.hand_off_margin else 0
    policy = Policy(version, edition.always_open, timedelta(minutes=margin), places)
    if not courtesy:
        return policy
    without_rules = [msgspec.structs.replace(country, rules=()) for country in countries]
    kept = {code: place for country in without_rules for code, place in _placed(country, courtesy)}
    return replace(policy, courtesy=replace(policy, places=kept))


def _placed(country: files.Country, house: tuple[files.Rule, ...]) -> Iterator[tuple[str, Place]]:
    calendars = {key: _calendar(each) for key, each in country.calendars.items()}
    for code, place in country.places.items():
        # France's rules also apply in Alsace
        rules = [r for r in (*country.rules, *house) if r.places is None or {code, place.within} & set(r.places)]
        means = files.means_of(country, code, place)
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
                code_works=any(each.kind == "code" and not each.stated for each in means),
                link_works=any(each.kind == "link" for each in means),
                code_if_stated=frozenset(
                    named
                    for each in means
                    if each.stated
                    for named in each.places or ()
                    if named in (code, place.within)
                ),
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
    first, last = calendar.years or (date.min.year, date.max.year)
    return Calendar(
        years=range(first, last + 1),
        fixed={(day.month, day.day): holiday for day, holiday in fixed.items()},
        from_easter={days: Holiday(name, calendar.source) for days, name in calendar.from_easter.items()},
    )


def _with_rules(policy: Policy, change: Callable[[Iterable[Rule]], Iterable[Rule]]) -> Policy:
    places = {code: replace(place, rules=tuple(change(place.rules))) for code, place in policy.places.items()}
    return replace(policy, places=places, courtesy=policy.courtesy and _with_rules(policy.courtesy, change))


@lru_cache(maxsize=4096)
def _places(policy: Policy, territory: str, region: str | None) -> tuple[Place, ...] | None:
    """Return every place where the person may be; `None` without rules.

    A region within the territory replaces it; any other is added: number and address are then of two places.
    """
    place = policy.places.get(territory)
    part = policy.places.get(region) if region is not None else None
    if place is None or part is None:
        return None if place is None else (place,)
    return (part,) if territory in (part.code, part.within) else (place, part)


@lru_cache(maxsize=4096)
def _know_holidays(places: tuple[Place, ...], day: date) -> bool:
    """Return whether each place has calendars, all complete for the local days that a UTC day touches."""
    years = {(day + timedelta(days)).year for days in (-1, 0, 1)}
    return all(
        place.calendars and all(all(year in each.years for year in years) for each in place.calendars)
        for place in places
    )


@lru_cache(maxsize=16384)
def _openings(places: tuple[Place, ...], day: date) -> tuple[Opening, ...]:
    """Return the spans of a UTC day when all of these places are open."""
    midnight = datetime.combine(day, time(), UTC)
    common: list[Opening] = [(midnight, midnight + timedelta(1))]
    for place in places:
        for zone in place.zones:
            days = (day + timedelta(days) for days in (-1, 0, 1))  # local days touched by a UTC day in any zone
            here = [opening for local in days if (opening := _opening(place, zone, local)) is not None]
            common = [(max(a, c), min(b, d)) for a, b in common for c, d in here if max(a, c) < min(b, d)]
    return tuple(common)


def _opening(place: Place, zone: ZoneInfo, day: date) -> Opening | None:
    """Return the open span of a local day."""
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
    """Return all required prefixes, longest first."""
    own = (rule.begins_with for place in policy.places.values() for rule in _of_the_text(place) if rule.begins_with)
    return tuple(sorted(files.marks().union(own), key=len, reverse=True))


@lru_cache(maxsize=4096)
def _holidays(place: Place, year: int) -> Mapping[date, Holiday]:
    """Return a year's holidays; of several calendars the first names a day."""
    return {day: holiday for calendar in reversed(place.calendars) for day, holiday in calendar.days(year).items()}


def easter(year: int) -> date:
    """Return Easter Sunday (Meeus, Jones and Butcher's computus)."""
    a, b, c = year % 19, year // 100, year % 100
    d = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    e = (32 + 2 * (b % 4) + 2 * (c // 4) - d - c % 4) % 7
    f = d + e - 7 * ((a + 11 * d + 22 * e) // 451) + 114
    return date(year, f // 31, f % 31 + 1)


def _utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("a naive time has no place here")
    return at if at.tzinfo is UTC else at.astimezone(UTC)
