"""Forecast a campaign's reach, cost and end, contact by contact, in memory independent of the audience. Pure.

The forecast renders each contact's text exactly as the planner will.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from campaign.audience import reach
from campaign.audience.reach import Standing
from campaign.message import text as texts
from campaign.message.short_link import any_token
from campaign.message.variants import HOLDOUT, OWN, REST, Trial
from campaign.message.wording import Wording
from campaign.preflight import findings
from campaign.preflight.findings import Compliance
from campaign.schedule.timing import Pace, Place, Timetable
from common.law import Closure, Opening, Policy, closed_abroad
from common.law.stop_mention import mentions_stop
from common.privacy.stop_link import names_stop_link
from common.sms.prices import Prices
from common.sms.sms_length import Encoding, length
from common.texts.findings import Finding

LONGEST = timedelta(days=60)  # a later end is reported as unknown
RESOLUTION_S = timedelta.resolution.total_seconds()
TOO_LATE = "send_before_passed"  # the gate's name
UNREADABLE = "request_unreadable"  # the gate's name
NO_TRIAL = Trial()

_NO_WORD = re.compile(r"[\W_]")
_TELLING = re.compile(r"\d{4}|\w\.\w")  # able to bring a number or a link into a text


@dataclass(frozen=True, slots=True)
class Plan:
    """The input of a forecast. `rate_per_s`: messages the operator accepts."""

    wordings: Mapping[str, Wording]  # by variant, OWN first
    sender_id: str
    purpose: str
    brand: str
    oadc: str
    stop_code: str
    stop_added: str
    sectors: tuple[str, ...]
    timetable: Timetable
    begins_with: Callable[[Place], Sequence[str]]  # of a text, by place
    prices: Prices
    compliance: Compliance
    rate_per_s: float | None
    trial: Trial = NO_TRIAL
    reachable_in: frozenset[str] = frozenset()
    stop_page: str | None = None

    @property
    def rate(self) -> float | None:
        """Return the lower of the operator's rate and the campaign's pace, if any."""
        rates = [rate for rate in (self.rate_per_s, Pace.of(self.timetable.timing).per_second) if rate is not None]
        return min(rates, default=None)


@dataclass(frozen=True, slots=True)
class Part:
    """The forecast for one territory.

    `opens_at`: the first opening among the territory's places. `against`: the rules closing that place at the wanted
    start. `cost`: in ten-thousandths of a euro, at the highest price until the campaign's end; `None`: unknown.
    """

    territory: str
    people: int
    segments: int
    cost: int | None
    opens_at: datetime
    against: tuple[Closure, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """People of one place, closed by `against` when messages leave for the first place of the territory.

    `too_late`: the place opens only after the campaign's end.
    """

    territory: str
    region: str | None
    people: int
    opens_at: datetime
    too_late: bool
    against: tuple[Closure, ...]


class Stretch(NamedTuple):
    """Messages to one place, leaving evenly between two instants."""

    place: Place
    begins: datetime
    ends: datetime
    people: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """The result of a forecast.

    Lengths cover only the people who would get a message.
    """

    audience: int
    would_get: int
    reasons: Mapping[str, int]
    under_review: int
    languages: Mapping[str, int]
    segments: Mapping[int, int]  # by number of parts
    median_segments: int | None
    units: tuple[int, int, int] | None  # least, median, most
    encodings: Mapping[Encoding, int]
    costly_by_contact: int  # UCS-2 only because of the contact's attributes
    places: tuple[Part, ...]
    waits: tuple[Wait, ...]
    cost: int | None  # of the people with a price; `None`: no person has one
    unpriced: int  # people
    opens_at: datetime | None
    finishes_at: datetime | None
    findings: tuple[Finding, ...]


def of_samples(
    wordings: Collection[Wording],
    *,
    brand: str,
    oadc: str,
    stop_code: str,
    stop_added: str,
    sectors: Iterable[str],
    compliance: Compliance,
) -> tuple[Finding, ...]:
    """Return the findings in the texts alone, without any contact."""
    templates = [template for wording in wordings for template in wording.templates.values()]
    samples = [sample + stop_added for template in templates for sample in template.samples(stop_code)]
    targets = [target for wording in wordings for target in wording.targets]
    found = findings.of_texts(samples, brand, oadc, stop_code, sectors, compliance)
    return tuple(dict.fromkeys((*found, *findings.of_targets(targets, compliance))))


class Stops(Protocol):
    """The sender's means to stop."""

    @property
    def stop_code(self) -> str: ...
    @property
    def stop_page(self) -> str | None: ...
    @property
    def reachable_in(self) -> frozenset[str]: ...


def of_place(received: str, sender: Stops, place: Place, at: datetime, policy: Policy) -> tuple[str, ...]:
    """Return the gate's reasons that close the place to this text at any hour. Signatures of links are not verified."""
    found = closed_abroad(
        at,
        place.territory,
        policy,
        code=mentions_stop(received, sender.stop_code),
        link=names_stop_link(received, sender.stop_page),
        reachable_in=sender.reachable_in,
        region=place.region,
    )
    return tuple(reason.value for reason in found)


@dataclass
class Forecast:
    plan: Plan
    _audience: int = 0
    _would_get: int = 0
    _under_review: int = 0
    _costly_by_contact: int = 0
    _reasons: Counter[str] = field(default_factory=Counter)
    _languages: Counter[str] = field(default_factory=Counter)
    _lengths: Counter[tuple[Encoding, int, int]] = field(default_factory=Counter)  # encoding, units, segments
    _segments: Counter[tuple[Place, int]] = field(default_factory=Counter)
    _charged: Counter[Place] = field(default_factory=Counter)  # segments, of the longest text that a person may get
    _too_late: Counter[Place] = field(default_factory=Counter)
    _held: set[str] = field(default_factory=set)  # fields present in some contact
    _opens: dict[Place, datetime | None] = field(default_factory=dict)
    _begins: dict[Place, Sequence[str]] = field(default_factory=dict)
    _found: dict[Finding, None] = field(default_factory=dict)
    _by_field: Counter[tuple[str, str]] = field(default_factory=Counter)  # people by rule and field

    def __post_init__(self) -> None:
        plan = self.plan
        self._fields = frozenset(name for wording in plan.wordings.values() for name in wording.fields)
        self._costly_text = {
            (variant, language): length(template.sample(plan.stop_code) + plan.stop_added).encoding == "UCS2"
            for variant, wording in plan.wordings.items()
            for language, template in wording.templates.items()
        }
        self._of_texts = dict.fromkeys(
            of_samples(
                plan.wordings.values(),
                brand=plan.brand,
                oadc=plan.oadc,
                stop_code=plan.stop_code,
                stop_added=plan.stop_added,
                sectors=plan.sectors,
                compliance=plan.compliance,
            )
        )
        self._found |= self._of_texts

    def add(
        self,
        attributes: Mapping[str, str],
        territory: str,
        standing: Standing | None,
        left_out: str | None = None,
        lot: float = 0,
    ) -> None:
        """Add one contact of the audience.

        A contact waiting for the winner counts with the campaign's own text, and costs the longest text.
        """
        plan = self.plan
        self._audience += 1
        if len(self._held) < len(self._fields):
            self._held |= {name for name in self._fields if attributes.get(name, "").strip()}
        place = plan.timetable.place(territory, attributes)
        if place not in self._opens:
            self._opens[place] = next((opens for opens, _ in plan.timetable.window(place)), None)
            self._begins[place] = plan.begins_with(place)
        opens_at = self._opens[place]
        starts_at = opens_at or plan.timetable.starts_at
        reasons = list(reach.denials(standing, plan.sender_id, plan.purpose, starts_at))
        if left_out is not None:
            reasons.append(left_out)
        if opens_at is not None and opens_at >= plan.timetable.ends_by:
            reasons.append(TOO_LATE)
        written, cost = None, None
        variant = plan.trial.of(lot)
        if variant == HOLDOUT:
            reasons.append(HOLDOUT)
        wording = plan.wordings.get(variant, plan.wordings[OWN])
        if (missing := wording.missing(attributes)) is not None:
            reasons.append(f"missing:{missing}")
        else:
            written = wording.render(attributes, plan.stop_code, any_token)
            cost = length(written + plan.stop_added)
            problem = texts.refused(written, plan.stop_code, plan.stop_added, cost, plan.stop_page)
            if problem is not None:
                reasons.append(problem.value)
        if opens_at is None:
            reasons.append("country_not_covered")
        elif written is not None:
            reasons += of_place(written + plan.stop_added, plan, place, starts_at, plan.timetable.policy)
        if reasons:
            self._reasons.update(reasons)
            if reasons == [TOO_LATE]:
                self._too_late[place] += 1
            return
        assert written is not None
        assert cost is not None
        self._would_get += 1
        if standing is not None and standing.held:
            self._under_review += 1
        language = wording.language_of(attributes)
        self._languages[language] += 1
        self._lengths[cost.encoding, cost.units, cost.segments] += 1
        self._segments[place, cost.segments] += 1
        self._charged[place] += self._longest(attributes) if variant == REST else cost.segments
        if cost.encoding == "UCS2" and not self._costly_text[variant if variant in plan.wordings else OWN, language]:
            self._costly_by_contact += 1
        for beginning in self._begins[place]:
            if not written.startswith(beginning):
                self._found[Finding("begins_with", beginning)] = None
        if cost.segments > findings.MANY_PARTS:
            self._found[Finding("many_parts")] = None
        if any(_TELLING.search(attributes.get(name, "")) for name in self._fields):
            self._look_for_findings(written + plan.stop_added, attributes)

    def _longest(self, attributes: Mapping[str, str]) -> int:
        """Return the segments of the contact's longest text: any may win."""
        plan = self.plan
        written = [
            wording.render(attributes, plan.stop_code, any_token) + plan.stop_added
            for wording in plan.wordings.values()
            if wording.missing(attributes) is None
        ]
        return max(length(text).segments for text in written)

    def _look_for_findings(self, text: str, attributes: Mapping[str, str]) -> None:
        """Add the findings in a rendered text. A finding in a person's own words names the fields instead of them."""
        plan = self.plan
        fields: set[tuple[str, str]] = set()
        for each in findings.of_texts([text], plan.brand, plan.oadc, plan.stop_code, (), plan.compliance):
            if each.found and each not in self._of_texts:
                fields |= {(each.rule, name) for name in self._fields_with(each.found, attributes)}
            else:
                self._found[each] = None
        self._by_field.update(fields)

    def _fields_with(self, words: str, attributes: Mapping[str, str]) -> Collection[str]:
        """Return the fields whose value has the words, or a part of the words; every field with a value if none has."""
        values = {name: value for name in self._fields if len(value := _bare(attributes.get(name, ""))) > 1}
        bare = _bare(words)
        return {name for name, value in values.items() if value in bare or bare in value} or values.keys()

    def add_unreadable(self) -> None:
        """Add a contact whose number cannot be decrypted."""
        self._audience += 1
        self._reasons[UNREADABLE] += 1

    @property
    def outlook(self) -> Outlook:
        by_place: Counter[Place] = Counter()
        for (place, _), people in self._segments.items():
            by_place[place] += people
        first = self._first(by_place)
        places = self._places(first)
        units = sorted((units, people) for (_, units, _), people in self._lengths.items())
        by_segments: Counter[int] = Counter()
        by_encoding: Counter[Encoding] = Counter()
        for (encoding, _, segments), people in self._lengths.items():
            by_segments[segments] += people
            by_encoding[encoding] += people
        found = dict(self._found)
        found |= {findings.of_field(*of, people): None for of, people in sorted(self._by_field.items())}
        if not self._would_get:
            found[Finding("nobody")] = None
        finishes_at = finish(by_place, self.plan)
        if self._would_get and (finishes_at is None or finishes_at > self.plan.timetable.ends_by):
            found[Finding("too_slow")] = None
        if self._audience:
            found |= {Finding("field_nobody_has", name): None for name in sorted(self._fields - self._held)}
        return Outlook(
            audience=self._audience,
            would_get=self._would_get,
            reasons=dict(self._reasons.most_common()),
            under_review=self._under_review,
            languages=dict(self._languages),
            segments=dict(sorted(by_segments.items())),
            median_segments=_median(sorted(by_segments.items()), self._would_get) if by_segments else None,
            units=(units[0][0], _median(units, self._would_get), units[-1][0]) if units else None,
            encodings=dict(by_encoding),
            costly_by_contact=self._costly_by_contact,
            places=places,
            waits=self._waits(by_place, first),
            cost=_sum(places),
            unpriced=sum(part.people for part in places if part.cost is None),
            opens_at=min((part.opens_at for part in places), default=None),
            finishes_at=finishes_at,
            findings=tuple(found),
        )

    def _first(self, people: Iterable[Place]) -> dict[str, Place]:
        """Return, by territory, the place that opens first among people who would get a message.

        Of places opening together, a place without a region comes first.
        """
        first: dict[str, Place] = {}
        for place in sorted(people, key=lambda place: (self._opening(place), place.region is not None)):
            first.setdefault(place.territory, place)
        return first

    def _places(self, first: Mapping[str, Place]) -> tuple[Part, ...]:
        people: Counter[str] = Counter()
        segments: Counter[str] = Counter()
        for (place, each), count in self._segments.items():
            people[place.territory] += count
            segments[place.territory] += each * count
        costs: dict[str, int | None] = {}
        for place, charged in self._charged.items():
            cost, before = self._cost(place, charged), costs.get(place.territory, 0)
            costs[place.territory] = None if cost is None or before is None else before + cost
        table, found = self.plan.timetable, []
        for territory, count in people.most_common():
            place = first[territory]
            against = table.closed_by(place, table.wanted(place))
            opens_at = self._opening(place)
            found.append(Part(territory, count, segments[territory], costs[territory], opens_at, against))
        return tuple(found)

    def _cost(self, place: Place, segments: int) -> int | None:
        """Return the highest cost until the campaign's end: no real cost exceeds the forecast."""
        return self.plan.prices.most(
            place.territory,
            segments,
            since=self._opening(place),
            until=self.plan.timetable.ends_by,
            sender_id=self.plan.sender_id,
        )

    def _waits(self, people: Mapping[Place, int], first: Mapping[str, Place]) -> tuple[Wait, ...]:
        """Return the waits caused by a rule. A place waiting only for its local hour is left out."""
        table = self.plan.timetable
        found: Counter[tuple[str, str | None, datetime, bool, tuple[Closure, ...]]] = Counter()
        for too_late, counts in ((False, people), (True, self._too_late)):
            for place, count in counts.items():
                opens_at, at = self._opening(place), table.wanted(place)
                if place.territory in first:
                    at = max(at, self._opening(first[place.territory]))
                if at < opens_at:
                    found[place.territory, place.region, opens_at, too_late, table.closed_by(place, at)] += count
        return tuple(
            Wait(territory, region, count, opens_at, too_late, against)
            for (territory, region, opens_at, too_late, against), count in found.most_common()
        )

    def _opening(self, place: Place) -> datetime:
        opens_at = self._opens[place]
        assert opens_at is not None, "who can never be written to would neither get it nor be too late"
        return opens_at


def _sum(places: Sequence[Part]) -> int | None:
    priced = [part.cost for part in places if part.cost is not None]
    return sum(priced) if priced or not places else None


def finish(people: Mapping[Place, int], plan: Plan) -> datetime | None:
    """Return when the last message leaves: at the rate, within each place's hours, after the spread.

    Without a rate: the end of the last window. `None`: no recipients, or more than LONGEST needed.
    """
    if not people:
        return None
    spread_until = max(closes for place in people for _, closes in plan.timetable.window(place)[-1:])
    if plan.rate is None:
        return spread_until
    stretches = lay_out(people, plan.timetable, plan.rate)
    return None if stretches is None else max(spread_until, stretches[-1].ends)


def lay_out(people: Mapping[Place, int], table: Timetable, rate: float) -> list[Stretch] | None:
    """Return the stretches in which messages leave at `rate` per second; `None` beyond LONGEST.

    Open places share the rate by the people left there: the planner's order is a hash and favours no place.
    """
    left = {place: float(count) for place, count in people.items()}
    starts = {place: table.window(place)[0][0] for place in left}
    now = min(starts.values())
    last = now + LONGEST
    hours: dict[Place, Opening] = {}
    found: list[Stretch] = []
    while left and now < last:
        for place in left:
            if place not in hours or hours[place][1] <= now:
                opening = table.opening(place, max(now, starts[place]))
                if opening is None:
                    return None
                hours[place] = opening
        here = [place for place in left if hours[place][0] <= now]
        ends = min(closes if opens <= now else opens for opens, closes in (hours[place] for place in left))
        needed, seconds = sum(left[place] for place in here) / rate, (ends - now).total_seconds()
        done = needed < seconds + RESOLUTION_S
        if here and done:
            ends = min(ends, now + timedelta(seconds=needed))
        for place in here:
            leave = left[place] if done else left[place] * seconds / needed
            found.append(Stretch(place, now, ends, leave))
            left[place] -= leave
            if done:
                del left[place]
        now = ends
    return None if left else found


def _bare(words: str) -> str:
    return _NO_WORD.sub("", words).lower()


def _median(counts: list[tuple[int, int]], people: int) -> int:
    """Return the lower median of sorted (value, count) pairs."""
    seen = 0
    for value, count in counts:
        seen += count
        if seen * 2 >= people:
            return value
    raise ValueError("nobody")
