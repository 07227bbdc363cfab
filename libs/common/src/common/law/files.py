"""Read and validate the policy files. Pure, apart from reading this package's files.

A malformed file is refused as a whole: no service starts with part of the rules. `<name>-<n>.json` is an edition,
`countries/<code>-<n>.json` a country. A published file is never edited: a change takes the next number
(`tests/contract/test_policies.py`).
"""

from collections.abc import Iterator
from datetime import date, time
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, Literal, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

T = TypeVar("T")

FOLDER = resources.files("common.law")

EARLIEST_OPENING = time(4)  # after any clock change: a local opening time exists exactly once

Layer = Literal["law", "charter", "operator", "house"]
LAYERS: tuple[Layer, ...] = ("law", "charter", "operator", "house")

Said = Annotated[str, Meta(min_length=1)]
Code = Annotated[str, Meta(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]  # ISO 3166-1, or ISO 3166-2
Clock = Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
MonthDay = Annotated[str, Meta(pattern=r"^\d\d-\d\d$")]
Weekday = Annotated[int, Meta(ge=1, le=7)]  # ISO: Monday is 1
Year = Annotated[int, Meta(ge=1, le=9999)]


class PolicyUnreadable(ValueError):
    """A malformed or contradictory policy file. The message names file and position."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True): ...


class Rule(_Part, frozen=True):
    """A rule with its source, in force from `valid_from` until before `valid_to`, in local days.

    A rule forbids every instant but `opens` <= local time < `closes`, on `weekdays`, off public holidays if `holidays`
    is "closed". `begins_with`: the prefix required of a marketing text. `places`: limits the rule to these.
    """

    id: Annotated[str, Meta(pattern=r"^[a-z0-9_.-]+$")]
    layer: Layer
    source: Said
    valid_from: date | None = None
    valid_to: date | None = None
    places: tuple[Code, ...] | None = None
    opens: Clock | None = None
    closes: Clock | None = None
    weekdays: Annotated[tuple[Weekday, ...], Meta(min_length=1)] | None = None
    holidays: Literal["closed"] | None = None
    begins_with: Said | None = None


class Means(_Part, frozen=True):
    """A means to stop that works in `places` (all of the country's by default) and their parts, with its source.

    `code`: the STOP mention with the sender's own short code. `link`: a link that stops. `stated`: the means counts
    for a sender who has stated that its code is reachable in the place.
    """

    kind: Literal["code", "link"]
    source: Said
    stated: bool = False
    places: Annotated[tuple[Code, ...], Meta(min_length=1)] | None = None


class Calendar(_Part, frozen=True):
    """Public holidays by name: fixed, and counted from Easter Sunday.

    `years`: the first and the last year whose holidays are complete here; without `years`, every year.
    """

    source: Said
    years: tuple[Year, Year] | None = None
    fixed: dict[MonthDay, Said] = {}
    from_easter: dict[int, Said] = {}


class Place(_Part, frozen=True):
    """A place, with every time zone and calendar possible there.

    `within`: the larger place. `postcodes`: first digits, where postcodes tell the place from its neighbours.
    """

    zones: Annotated[tuple[Said, ...], Meta(min_length=1)]
    calendars: tuple[Said, ...] = ()
    within: Code | None = None
    postcodes: tuple[Annotated[str, Meta(pattern=r"^\d{2,5}$")], ...] = ()
    why: Said | None = None


class Country(_Part, frozen=True):
    """A country file. `gaps`: questions without a known source.

    A place without means is closed to marketing, and `no_means` says why.
    """

    country: Code
    about: Said
    places: Annotated[dict[Code, Place], Meta(min_length=1)]
    calendars: dict[Said, Calendar] = {}
    rules: tuple[Rule, ...] = ()
    means: tuple[Means, ...] = ()
    no_means: Said | None = None
    gaps: tuple[Said, ...] = ()


class Margin(_Part, frozen=True):
    minutes: Annotated[int, Meta(ge=0, le=60)]
    source: Said


class Edition(_Part, frozen=True):
    """An edition file. `always_open`: no rule applies (demonstrations). `courtesy`: the rules of service messages."""

    version: Annotated[str, Meta(pattern=r"^[a-z]+-\d+$")]
    about: Said
    countries: tuple[Annotated[str, Meta(pattern=r"^[A-Z]{2}-\d+$")], ...]
    always_open: bool = False
    rules: tuple[Rule, ...] = ()
    courtesy: tuple[Rule, ...] = ()
    hand_off_margin: Margin | None = None


class House(_Part, frozen=True):
    """Rules added by one installation, which only tighten. `courtesy`: for service messages."""

    version: Annotated[str, Meta(pattern=r"^[a-z0-9-]+$")]
    about: Said
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1)]
    courtesy: tuple[Rule, ...] = ()


def edition(name: str) -> Edition:
    """Read an edition. Raises FileNotFoundError, PolicyUnreadable."""
    found = _decoded(f"{name}.json", Edition)
    if found.version != name:
        raise PolicyUnreadable(f"{name}.json calls itself {found.version}")
    for rule in (*found.rules, *found.courtesy):
        _check_rule(rule, f"{name}.json", only="house")
    return found


@lru_cache
def country(name: str) -> Country:
    """Read a country. Raises FileNotFoundError, PolicyUnreadable."""
    found = _decoded(f"countries/{name}.json", Country)
    for problem in _contradictions(found, name):
        raise PolicyUnreadable(f"countries/{name}.json: {problem}")
    for rule in found.rules:
        _check_rule(rule, f"countries/{name}.json")
    return found


def house(content: bytes) -> House:
    """Read the content of a house file. Raises PolicyUnreadable."""
    found = _read(content, "the house rules", House)
    for rule in (*found.rules, *found.courtesy):
        _check_rule(rule, "the house rules", only="house")
    return found


def clock(text: str) -> time:
    return time.fromisoformat(text)


def _check_rule(rule: Rule, file: str, *, only: Layer | None = None) -> None:
    def wrong(what: str) -> PolicyUnreadable:
        return PolicyUnreadable(f"{file}: rule {rule.id} {what}")

    said = (rule.opens, rule.closes, rule.weekdays, rule.holidays, rule.begins_with)
    if all(each is None for each in said):
        raise wrong("says nothing")
    if only is not None and rule.layer != only:
        raise wrong(f"is of the {rule.layer}, and only rules of the {only} stand there")
    if rule.opens is not None and clock(rule.opens) < EARLIEST_OPENING:
        raise wrong(f"opens before {EARLIEST_OPENING}")
    if rule.closes is not None and clock(rule.closes) < EARLIEST_OPENING:
        raise wrong(f"closes before {EARLIEST_OPENING}")
    if rule.opens is not None and rule.closes is not None and rule.opens >= rule.closes:
        raise wrong("has a window that does not end after it begins, on the same day")
    if rule.valid_from is not None and rule.valid_to is not None and rule.valid_from >= rule.valid_to:
        raise wrong("is never in force")


def _contradictions(found: Country, name: str) -> Iterator[str]:
    if not name.startswith(f"{found.country}-"):
        yield f"calls itself {found.country}"
    if found.country not in found.places:
        yield f"has no place {found.country}"
    for code, place in found.places.items():
        if place.within is not None and place.within not in found.places:
            yield f"{code} is within {place.within}, which is no place here"
        for calendar in place.calendars:
            if calendar not in found.calendars:
                yield f"{code} has the calendar {calendar}, which is not here"
        for zone in place.zones:
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError):
                yield f"{code} is in {zone}, which is no time zone"
        if len(place.zones) > 1 and place.why is None:
            yield f"{code} has several time zones and does not say why"
    for key, each in found.calendars.items():
        if each.years is not None and each.years[0] > each.years[1]:
            yield f"the calendar {key} ends before it begins"
        for day in each.fixed:
            try:
                date.fromisoformat(f"2000-{day}")
            except ValueError:
                yield f"the calendar {key} has the day {day}"
    prefixes = [prefix for place in found.places.values() for prefix in place.postcodes]
    if len(prefixes) != len(set(prefixes)):
        yield "two places have the same postcodes"
    ids = [rule.id for rule in found.rules]
    if len(ids) != len(set(ids)):
        yield "two rules have the same id"
    for rule in found.rules:
        for code in rule.places or ():
            if code not in found.places:
                yield f"rule {rule.id} is of {code}, which is no place here"
    yield from _contradictions_of_means(found)


def _contradictions_of_means(found: Country) -> Iterator[str]:
    for each in found.means:
        if each.stated and (each.kind != "code" or each.places is None):
            yield f"the means {each.kind} is by statement: only a code can be stated, and only of named places"
        for code in each.places or ():
            if code not in found.places:
                yield f"the means {each.kind} is of {code}, which is no place here"
    closed = [code for code, place in found.places.items() if not means_of(found, code, place)]
    if closed and found.no_means is None:
        yield f"{', '.join(closed)} has no means to stop, and `no_means` does not say why"
    if not closed and found.no_means is not None:
        yield "`no_means` says why a place is closed, and every place has a means to stop"


def means_of(country: Country, code: str, place: Place) -> tuple[Means, ...]:
    """Return the means of a place: its own, and those of the place around it."""
    return tuple(each for each in country.means if each.places is None or {code, place.within} & set(each.places))


@lru_cache
def marks() -> frozenset[str]:
    """Return every prefix required by any file of this package."""
    rules = [rule for stem in _stems(FOLDER / "countries") for rule in country(stem).rules]
    rules += [rule for stem in _stems(FOLDER) for rule in edition(stem).rules]
    return frozenset(rule.begins_with for rule in rules if rule.begins_with)


def _stems(folder: Traversable) -> list[str]:
    names = [file.name for file in folder.iterdir()]
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def _decoded(path: str, form: type[T]) -> T:
    return _read(FOLDER.joinpath(path).read_bytes(), path, form)


def _read(content: bytes, file: str, form: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=form)
    except msgspec.DecodeError as error:
        raise PolicyUnreadable(f"{file}: {error}") from error


def newest(family: str) -> str:
    """Return the newest edition of a family: "france-3" for "france". Raises FileNotFoundError."""
    numbers = [
        int(number)
        for name, _, number in (stem.rpartition("-") for stem in _stems(FOLDER))
        if name == family and number.isdigit()
    ]
    if not numbers:
        raise FileNotFoundError(f"no policy {family}")
    return f"{family}-{max(numbers)}"
