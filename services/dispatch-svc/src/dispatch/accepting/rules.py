"""Decide whether a message requested over HTTP may have its text, and its lane. Pure.

A transactional or service message leaves from an approved template, whose values are limited and looked at, or has a
free text without a sign of advertising. A caller with the scope may override a sign, and the override is audited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple

from common.contracts.campaign import Category, TemplateField
from common.limits import Limits
from common.texts import template
from common.texts.findings import Finding, load

MARKETING_CODES, TRANSACTIONAL_CODES = "36", "38"  # prefixes of STOP codes (DOMAIN 1.7)


class Kind(StrEnum):
    """The kind of a refusal, as the type of its problem."""

    ADVERTISING = "looks-like-advertising"
    TEMPLATE = "template-not-usable"
    VALUE = "value-not-usable"
    CODE = "code-of-another-lane"


class Against(NamedTuple):
    """A reason: the field, a stable slug, and what to do."""

    field: str
    reason: str
    detail: str


class TextRefused(Exception):
    """A refused message, with every reason of one kind."""

    def __init__(self, kind: Kind, against: Sequence[Against]) -> None:
        super().__init__(kind)
        self.kind = kind
        self.against = tuple(against)


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Had(NamedTuple):
    """The messages to a number, requested outside marketing: within an hour and a day, and the first of each."""

    hour: int = 0
    day: int = 0
    first_of_hour: datetime | None = None
    first_of_day: datetime | None = None

    def and_one(self, now: datetime) -> "Had":
        return Had(self.hour + 1, self.day + 1, self.first_of_hour or now, self.first_of_day or now)


class Reached(NamedTuple):
    """A limit of a number, and until when the limit refuses."""

    name: str
    limit: int
    until: datetime


def reached(had: Had, limits: Limits, now: datetime) -> Reached | None:
    """Return the limit that refuses one more message to the number for longest."""
    found = []
    if limits.per_number_day is not None and had.day >= limits.per_number_day:
        found.append(Reached("per_number_day", limits.per_number_day, (had.first_of_day or now) + DAY))
    if limits.per_number_hour is not None and had.hour >= limits.per_number_hour:
        found.append(Reached("per_number_hour", limits.per_number_hour, (had.first_of_hour or now) + HOUR))
    return max(found, key=attrgetter("until"), default=None)


class Approved(NamedTuple):
    """The parts of a template's version that a message depends on."""

    category: str
    text: str
    fields: tuple[TemplateField, ...]
    state: str


@dataclass(frozen=True, slots=True)
class Written:
    """A text ready to be sent. `overridden`: the signs that a caller has overridden."""

    text: str
    overridden: tuple[Finding, ...] = ()


def check_code(category: Category, stop_code: str) -> None:
    """Refuse marketing of a 38xxx code, and a transactional message of a 36xxx code. Raises TextRefused.

    A 36xxx code carries advertising and information of customers, a 38xxx code what is transactional (DOMAIN 1.7).
    """
    if category == "marketing" and stop_code.startswith(TRANSACTIONAL_CODES):
        detail = f"the sender's code {stop_code} carries no marketing: use a sender with a 36xxx code"
    elif category == "transactional" and stop_code.startswith(MARKETING_CODES):
        detail = f"the sender's code {stop_code} carries no transactional message: use a sender with a 38xxx code"
    else:
        return
    raise TextRefused(Kind.CODE, [Against("sender_id", "code_of_another_lane", detail)])


def written_from(version: Approved, category: Category, values: Mapping[str, str]) -> Written:
    """Return the text of a template with these values. Raises TextRefused."""
    if version.state != "approved":
        detail = f"the version is {version.state}: use an approved version"
        raise TextRefused(Kind.TEMPLATE, [Against("template_id", f"template_{version.state}", detail)])
    if version.category != category:
        detail = f"the template's category is {version.category}: set `category` to it"
        raise TextRefused(Kind.TEMPLATE, [Against("category", "template_of_another_class", detail)])
    if flaws := list(template.value_flaws(version.fields, values)):
        raise TextRefused(Kind.VALUE, [Against(f"values.{f.field}", f.reason, f.detail) for f in flaws])
    rendered = template.render(version.text, values)
    if refused := template.refused_findings(rendered, version.fields):
        starts = {name: start for name, start, _ in reversed(rendered.spans)}
        raise TextRefused(
            Kind.VALUE,
            [against(finding, f"values.{names[0]}", from_=starts[names[0]]) for finding, names in refused],
        )
    return Written(rendered.text)


def written_freely(text: str, found: Sequence[Finding], *, override: bool) -> Written:
    """Return a free text, given its findings. Raises TextRefused unless the caller overrides.

    No override covers a sign that nobody could approve in a template.
    """
    rules = load().rules
    if refused := [finding for finding in found if not (override and rules[finding.rule].approvable)]:
        raise TextRefused(Kind.ADVERTISING, [against(finding, "text") for finding in refused])
    return Written(text, tuple(found))


def against(finding: Finding, field: str, *, from_: int = 0) -> Against:
    """Return the reason of a finding: the word of our list, or the rule alone, and the place in the field's text.

    Other words of the text are the caller's, and perhaps a person's number: no problem, and no audit, repeats them.
    """
    start = 0 if finding.span is None else max(0, finding.span[0] - from_)
    said = f"{load().rules[finding.rule].says}, at character {start + 1}"
    return Against(field, named(finding), f"{said}: use a template, or change the text")


def named(finding: Finding) -> str:
    return finding.id if finding.rule == "advertising" else finding.rule
