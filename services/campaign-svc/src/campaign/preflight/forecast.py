"""Whom a campaign would reach, what it would cost and when it would be done: counted person by person, in memory that
does not grow with them. Pure.

    forecast = Forecast(plan)
    forecast.add(attributes, territory, standing)       for each contact selected
    forecast.outlook                                    what came of it

A text is written for everybody who may be written to, exactly as the planner will, so that lengths and costs are those
of the messages, names and STOP mention in them.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from campaign.audience import reach
from campaign.audience.reach import Standing
from campaign.links.short_link import any_token
from campaign.message import text as texts
from campaign.message.variants import HOLDOUT, OWN, Trial
from campaign.message.wording import Wording
from campaign.preflight import findings
from campaign.preflight.findings import Compliance, Finding
from campaign.preflight.prices import Prices
from campaign.schedule.timing import Pace, Place, Timetable
from common.law import Closure, Opening
from common.sms.sms_length import Encoding, length

LONGEST = timedelta(days=60)  # that sending is laid out over: beyond it, the end is not told
RESOLUTION_S = timedelta.resolution.total_seconds()
TOO_LATE = "send_before_passed"  # as the gate calls it: within its hours there is no time left for it
UNREADABLE = "request_unreadable"  # likewise: its number, or its text
NO_TRIAL = Trial()
MOST_FOUND = 20  # of what contacts hold, at most so many findings are told

_TELLING = re.compile(r"\d{4}|\w\.\w")  # what a contact holds can bring a number or a link into a text


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked about. `rate_per_s`: messages the operator takes, None where nobody said."""

    wordings: Mapping[str, Wording]  # by variant, the campaign's own first
    sender_id: str
    purpose: str
    brand: str
    oadc: str
    stop_code: str
    stop_added: str  # by the operator, behind each text
    sectors: tuple[str, ...]
    timetable: Timetable
    begins_with: Callable[[Place], Sequence[str]]  # what texts there must begin with
    prices: Prices
    compliance: Compliance
    rate_per_s: float | None
    trial: Trial = NO_TRIAL

    @property
    def rate(self) -> float | None:
        """The operator's or the campaign's own, whichever is less."""
        rates = [rate for rate in (self.rate_per_s, Pace.of(self.timetable.timing).per_second) if rate is not None]
        return min(rates, default=None)


@dataclass(frozen=True, slots=True)
class Part:
    """One territory's. `cost` None: nobody said what a message there costs. `opens_at`: for the first who is there;
    `against`: why not when it was to start for them."""

    territory: str
    people: int
    segments: int
    cost: Decimal | None
    opens_at: datetime
    against: tuple[Closure, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """People of one place that is closed (`against`) when messages leave for the first of their territory, and opens
    later. `too_late`: only once the campaign has ended, so that they get nothing, and for that alone."""

    territory: str
    region: str | None
    people: int
    opens_at: datetime
    too_late: bool
    against: tuple[Closure, ...]


class Stretch(NamedTuple):
    """So many messages to one place, evenly from when until when."""

    place: Place
    begins: datetime
    ends: datetime
    people: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """`reasons` counts a person for each of theirs. Of lengths, those of who would get it."""

    audience: int
    would_get: int
    reasons: Mapping[str, int]
    under_review: int
    languages: Mapping[str, int]
    segments: Mapping[int, int]  # how many people cost so many parts
    median_segments: int | None
    units: tuple[int, int, int] | None  # least, median, most
    encodings: Mapping[Encoding, int]
    costly_by_contact: int  # UCS-2 only for what the contact holds
    places: tuple[Part, ...]
    waits: tuple[Wait, ...]
    cost: Decimal
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
    """What is found without looking at anybody. The others are as in a Plan."""
    templates = [template for wording in wordings for template in wording.templates.values()]
    samples = [sample + stop_added for template in templates for sample in template.samples(stop_code)]
    targets = [target for wording in wordings for target in wording.targets]
    found = findings.of_texts(samples, brand, oadc, stop_code, sectors, compliance)
    return tuple(dict.fromkeys((*found, *findings.of_targets(targets, compliance))))


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
    _too_late: Counter[Place] = field(default_factory=Counter)  # who would get it if it ended later
    _held: set[str] = field(default_factory=set)  # fields that somebody has
    _opens: dict[Place, datetime | None] = field(default_factory=dict)
    _begins: dict[Place, Sequence[str]] = field(default_factory=dict)
    _found: dict[Finding, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.plan
        self._fields = frozenset(name for wording in plan.wordings.values() for name in wording.fields)
        self._costly_text = {
            (variant, language): length(template.sample(plan.stop_code) + plan.stop_added).encoding == "UCS2"
            for variant, wording in plan.wordings.items()
            for language, template in wording.templates.items()
        }
        self._found |= dict.fromkeys(
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

    def add(
        self,
        attributes: Mapping[str, str],
        territory: str,
        standing: Standing | None,
        left_out: str | None = None,
        lot: float = 0,
    ) -> None:
        """One contact of the audience. `left_out`: why they would be, for what they got of late. `lot`: the one they
        draw for the text they get; who waits for the best of them is counted with the campaign's own."""
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
        if opens_at is None:
            reasons.append("country_not_covered")
        elif opens_at >= plan.timetable.ends_by:
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
            if (problem := texts.refused(written, plan.stop_code, plan.stop_added, cost)) is not None:
                reasons.append(problem.value)
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
        if cost.encoding == "UCS2" and not self._costly_text[variant if variant in plan.wordings else OWN, language]:
            self._costly_by_contact += 1
        for beginning in self._begins[place]:
            if not written.startswith(beginning):
                self._found[Finding("begins_with", beginning)] = None
        if cost.segments > findings.MANY_PARTS:
            self._found[Finding("many_parts")] = None
        if len(self._found) < MOST_FOUND and any(_TELLING.search(attributes.get(name, "")) for name in self._fields):
            self._found |= dict.fromkeys(
                findings.of_texts(
                    [written + plan.stop_added], plan.brand, plan.oadc, plan.stop_code, (), plan.compliance
                )
            )

    def add_unreadable(self) -> None:
        """One contact of the audience whose number nobody can unseal, so that it is not known where they are."""
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
            cost=sum((part.cost for part in places if part.cost is not None), Decimal(0)),
            unpriced=sum(part.people for part in places if part.cost is None),
            opens_at=min((part.opens_at for part in places), default=None),
            finishes_at=finishes_at,
            findings=tuple(found),
        )

    def _first(self, people: Iterable[Place]) -> dict[str, Place]:
        """By territory, of those who would get it, who is first; of several, whose address tells nothing."""
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
        table, found = self.plan.timetable, []
        for territory, count in people.most_common():
            price = self.plan.prices.of(self.plan.sender_id, territory)
            cost = None if price is None else price * segments[territory]
            place = first[territory]
            against = table.closed_by(place, table.wanted(place))
            found.append(Part(territory, count, segments[territory], cost, self._opening(place), against))
        return tuple(found)

    def _waits(self, people: Mapping[Place, int], first: Mapping[str, Place]) -> tuple[Wait, ...]:
        """Who waits for no rule but only for the hour on their own clock is not told of."""
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


def finish(people: Mapping[Place, int], plan: Plan) -> datetime | None:
    """When the last message would leave: at the rate, in the hours of its place, and not before the end of what they
    are spread over. Without a rate, when the last place opens, or that end. None: nobody to write to, or not within
    sixty days."""
    if not people:
        return None
    spread_until = max(closes for place in people for _, closes in plan.timetable.window(place)[-1:])
    if plan.rate is None:
        return spread_until
    stretches = lay_out(people, plan.timetable, plan.rate)
    return None if stretches is None else max(spread_until, stretches[-1].ends)


def lay_out(people: Mapping[Place, int], table: Timetable, rate: float) -> list[Stretch] | None:
    """When messages leave, in order, at `rate` a second. The places that are open share it, by how many are left there:
    who is asked for first is a lot. None: not within sixty days."""
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


def _median(counts: list[tuple[int, int]], people: int) -> int:
    """The lower median of values with their counts, in order."""
    seen = 0
    for value, count in counts:
        seen += count
        if seen * 2 >= people:
            return value
    raise ValueError("nobody")
