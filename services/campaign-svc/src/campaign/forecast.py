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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from campaign import findings, reach
from campaign import text as texts
from campaign.findings import Compliance, Finding
from campaign.prices import Prices
from campaign.reach import Standing
from campaign.short_link import any_token
from campaign.timing import Pace, Place, Timetable
from campaign.variants import HOLDOUT, OWN, Trial
from campaign.wording import Wording
from common.law import next_permitted
from common.sms_length import Encoding, length

SLICE = timedelta(minutes=15)  # in which sending is laid out
MAX_SLICES = 4 * 24 * 60  # sixty days: beyond it, the end is not told
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
    begins_with: Callable[[str], Sequence[str]]  # what texts to a territory must begin with
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
    """One territory's. `cost` None: nobody said what a message there costs. `opens_at`: for the first who is there."""

    territory: str
    people: int
    segments: int
    cost: Decimal | None
    opens_at: datetime
    place: Place


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
    cost: Decimal
    unpriced: int  # people
    opens_at: datetime | None
    finishes_at: datetime | None
    findings: tuple[Finding, ...]


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
    _segments: Counter[tuple[str, int]] = field(default_factory=Counter)  # territory, segments
    _held: set[str] = field(default_factory=set)  # fields that somebody has
    _opens: dict[Place, datetime | None] = field(default_factory=dict)
    _first: dict[str, Place] = field(default_factory=dict)  # by territory: of those who would get it, who is first
    _begins: dict[str, Sequence[str]] = field(default_factory=dict)
    _found: dict[Finding, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.plan
        self._fields = frozenset(name for wording in plan.wordings.values() for name in wording.fields)
        self._costly_text = {
            (variant, language): length(template.sample(plan.stop_code) + plan.stop_added).encoding == "UCS2"
            for variant, wording in plan.wordings.items()
            for language, template in wording.templates.items()
        }
        self._found |= dict.fromkeys(self.of_samples())

    def of_samples(self) -> tuple[Finding, ...]:
        """What is found without looking at anybody."""
        plan = self.plan
        templates = [template for wording in plan.wordings.values() for template in wording.templates.values()]
        samples = [s + plan.stop_added for template in templates for s in template.samples(plan.stop_code)]
        targets = [target for wording in plan.wordings.values() for target in wording.targets]
        found = findings.of_texts(samples, plan.brand, plan.oadc, plan.stop_code, plan.sectors, plan.compliance)
        return tuple(dict.fromkeys((*found, *findings.of_targets(targets, plan.compliance))))

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
            self._begins[territory] = plan.begins_with(territory)
        opens_at = self._opens[place]
        starts_at = opens_at or plan.timetable.starts_at
        reasons = list(reach.denials(standing, plan.sender_id, plan.purpose, starts_at))
        if left_out is not None:
            reasons.append(left_out)
        if opens_at is None:
            reasons.append("country_not_covered")
        elif opens_at >= plan.timetable.ends_by:
            reasons.append("send_before_passed")
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
            return
        assert written is not None
        assert cost is not None
        self._would_get += 1
        if standing is not None and standing.held:
            self._under_review += 1
        language = wording.language_of(attributes)
        self._languages[language] += 1
        self._lengths[cost.encoding, cost.units, cost.segments] += 1
        self._segments[territory, cost.segments] += 1
        first = self._first.setdefault(territory, place)
        if first is not place and starts_at < (self._opens[first] or starts_at):
            self._first[territory] = place
        if cost.encoding == "UCS2" and not self._costly_text[variant if variant in plan.wordings else OWN, language]:
            self._costly_by_contact += 1
        for beginning in self._begins[territory]:
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

    @property
    def outlook(self) -> Outlook:
        places = self._places()
        units = sorted((units, people) for (_, units, _), people in self._lengths.items())
        by_segments: Counter[int] = Counter()
        by_encoding: Counter[Encoding] = Counter()
        for (encoding, _, segments), people in self._lengths.items():
            by_segments[segments] += people
            by_encoding[encoding] += people
        found = dict(self._found)
        if not self._would_get:
            found[Finding("nobody")] = None
        finishes_at = finish(places, self.plan)
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
            cost=sum((place.cost for place in places if place.cost is not None), Decimal(0)),
            unpriced=sum(place.people for place in places if place.cost is None),
            opens_at=min((place.opens_at for place in places), default=None),
            finishes_at=finishes_at,
            findings=tuple(found),
        )

    def _places(self) -> tuple[Part, ...]:
        people: Counter[str] = Counter()
        segments: Counter[str] = Counter()
        for (territory, each), count in self._segments.items():
            people[territory] += count
            segments[territory] += each * count
        found = []
        for territory, count in people.most_common():
            price = self.plan.prices.of(self.plan.sender_id, territory)
            cost = None if price is None else price * segments[territory]
            place = self._first[territory]
            opens_at = self._opens[place]
            assert opens_at is not None, "who can never be written to is not among who would get it"
            found.append(Part(territory, count, segments[territory], cost, opens_at, place))
        return tuple(found)


def finish(parts: Sequence[Part], plan: Plan) -> datetime | None:
    """When the last message would leave: territory after territory in the order of their opening, at the rate, in their
    hours, and not before the end of what they are spread over. Without a rate, when the last of them opens, or that
    end. None: nobody to write to, or not within sixty days."""
    if not parts:
        return None
    laid_out = max(closes for part in parts for _, closes in plan.timetable.window(part.place)[-1:])
    if (rate := plan.rate) is None:
        return laid_out
    now = min(part.opens_at for part in parts)
    slices = 0
    for part in sorted(parts, key=lambda part: part.opens_at):
        left = part.people / rate  # seconds
        now = max(now, part.opens_at)
        while left > 0:
            opens_at = next_permitted(now, part.territory, plan.timetable.policy, region=part.place.region)
            if opens_at is None:
                return None
            now = opens_at
            step = min(left, SLICE.total_seconds())
            now += timedelta(seconds=step)
            left -= step
            slices += 1
            if slices > MAX_SLICES:
                return None
    return max(now, laid_out)


def _median(counts: list[tuple[int, int]], people: int) -> int:
    """The lower median of values with their counts, in order."""
    seen = 0
    for value, count in counts:
        seen += count
        if seen * 2 >= people:
            return value
    raise ValueError("nobody")
