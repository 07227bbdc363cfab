"""Parse a campaign's text, render it for a person, and count its SMS. Pure.

    {first_name}                                an attribute of the contact, which must have it
    {first_name|cher client}                    an attribute with a default
    {if loyalty = or}-30 %{else}-20 %{end}      a condition; also `{else if …}`
    {link https://maison-lune.example/soldes}   a counted link, short and personal (`short_link`)
    {stop}                                      the STOP mention with the sender's own code
    {stop_link}                                 a personal link that stops (`common.privacy.stop_link`)
    {preferences}                               a personal link to the preference page, no means to stop by itself
    {{ and }}                                   braces, but around a single word: `common.texts.placeholders`

A condition is `name` (the contact has it), `not name`, `name = value`, `name != value` (in any case of letters), or
`name > 100` and the like (as numbers; false if the attribute is no number). Without nesting, calls and loops, a text is
written in a single pass (ADR-0032). `{else}` and `{end}` are fields except after an `{if …}`.

Checks apply to the rendered text.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from itertools import chain, pairwise

from campaign.message import short_link
from campaign.message.short_link import Token
from common.law.stop_mention import mentions_stop
from common.privacy.stop_link import names_page, names_stop_link, preference_page
from common.sms.sms_length import MAX_SEGMENTS, Length, Place, fits, length, outside_gsm7
from common.texts.placeholders import placeholders

MAX_TEMPLATE_CHARS = 2000
STOP_FIELD = "stop"
STOP_LINK_FIELD = "stop_link"
PREFERENCES_FIELD = "preferences"
MAX_LINKS = 5

_FIELD_NAME = re.compile(r"[a-z0-9_]{1,40}", re.ASCII)
_TOKENS = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")
_UNSENT = re.compile(r"\{\s*(?:(?:else\s+)?if\s|link\s+[^\s|{}])[^{}]*\}", re.ASCII)
_CONDITION = re.compile(r"(not\s+)?([a-z0-9_]{1,40})\s*(!=|<=|>=|=|<|>)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:[.,]\d{1,9})?", re.ASCII)

_EQUAL = ("=", "!=")
_ORDER: Mapping[str, Callable[[Decimal, Decimal], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class TextProblem(StrEnum):
    """Reasons why a text cannot be sent."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    PLACEHOLDER = "placeholder"
    BRACE_ALONE = "brace_alone"
    FIELD_NAME = "field_name"
    CONDITION = "condition"
    LINK = "link"
    LINK_HOST_MISSING = "link_host_missing"
    STOP_PAGE_MISSING = "stop_page_missing"
    STOP_PAGE_TYPED = "stop_page_typed"
    STOP_MENTION_MISSING = "stop_mention_missing"


class Missing(KeyError):
    """The contact lacks an attribute of the text."""

    @property
    def name(self) -> str:
        return str(self.args[0])


class TextRefused(ValueError):
    """A refused text; the author may see the message."""

    def __init__(self, reason: TextProblem, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Field:
    """An attribute's place in the text; without `default`, the contact must have the attribute."""

    name: str
    default: str | None


@dataclass(frozen=True, slots=True)
class Link:
    """A link; without `host` (the sender's) the target itself is written."""

    target: str
    host: str | None = None

    def written(self, token: Token) -> str:
        return self.target if self.host is None else short_link.url(self.host, token(self.target))


@dataclass(frozen=True, slots=True)
class StopLink:
    """A personal link that stops, below the sender's stop page; without `page`, nothing is written."""

    page: str | None = None

    def written(self, token: Token) -> str:
        return "" if self.page is None else self.page + token(short_link.STOP_LINK)


@dataclass(frozen=True, slots=True)
class PreferenceLink(StopLink):
    """A personal link to the preference page, which needs the sender's stop page beside."""

    def written(self, token: Token) -> str:
        return "" if self.page is None else preference_page(self.page) + token(short_link.PREFERENCES)


Part = str | Field | Link | StopLink
Fold = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Condition:
    """A test of an attribute; without `comparison`, of its presence."""

    name: str
    comparison: str = ""
    value: str = ""
    negated: bool = False

    def holds(self, attributes: Mapping[str, str]) -> bool:
        held = _cell(attributes, self.name)
        if not self.comparison:
            return bool(held) is not self.negated
        if self.comparison in _EQUAL:
            return (held == self.value or held.casefold() == self.value.casefold()) is (self.comparison == "=")
        number, bound = _number(held), _number(self.value)
        return number is not None and bound is not None and _ORDER[self.comparison](number, bound)


@dataclass(frozen=True, slots=True)
class Choice:
    """The arms of an `{if …}`: the first whose condition holds is written.

    The last arm is `{else}`, perhaps empty: some arm always holds.
    """

    arms: tuple[tuple[Condition | None, tuple[Part, ...]], ...]

    def taken(self, attributes: Mapping[str, str]) -> tuple[Part, ...]:
        for condition, parts in self.arms:
            if condition is None or condition.holds(attributes):
                return parts
        raise AssertionError("the last arm has no condition")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text.

    `required`: attributes needed outside of conditions.
    """

    parts: tuple[Part | Choice, ...]
    required: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Return every attribute of the text and its conditions."""
        found: dict[str, None] = {}
        for part in self.parts:
            if isinstance(part, Choice):
                for condition, arm in part.arms:
                    if condition is not None:
                        found[condition.name] = None
                    found |= dict.fromkeys(p.name for p in arm if isinstance(p, Field))
            elif isinstance(part, Field):
                found[part.name] = None
        found.pop(STOP_FIELD, None)
        return tuple(found)

    @property
    def links(self) -> tuple[Link, ...]:
        """Return the links of all arms."""
        return tuple(dict.fromkeys(part for part in self._all if isinstance(part, Link)))

    @property
    def stop_links(self) -> tuple[StopLink, ...]:
        """Return the stop links and preference links of all arms, each once."""
        return tuple(dict.fromkeys(part for part in self._all if isinstance(part, StopLink)))

    @property
    def _all(self) -> Iterator[Part]:
        return chain.from_iterable(arm for part in self.parts for arm in _arms(part))

    def with_links_on(self, host: str | None) -> "Template":
        """Return the template with links on this host."""
        return self.each(lambda part: replace(part, host=host) if isinstance(part, Link) else part)

    def with_stop_page(self, page: str | None) -> "Template":
        """Return the template with stop links on this page, and preference links beside."""
        return self.each(lambda part: replace(part, page=page) if isinstance(part, StopLink) else part)

    def each(self, change: Callable[[Part], Part]) -> "Template":
        """Return the template with each part changed, also in arms."""

        def of(part: Part | Choice) -> Part | Choice:
            if isinstance(part, Choice):
                return Choice(tuple((condition, tuple(map(change, parts))) for condition, parts in part.arms))
            return change(part)

        return replace(self, parts=tuple(map(of, self.parts)))

    def missing(self, attributes: Mapping[str, str]) -> str | None:
        """Return the first attribute this contact's text needs, and finds absent or blank."""
        for part in _written(self.parts, attributes):
            if isinstance(part, Field) and part.default is None and not _cell(attributes, part.name):
                return part.name
        return None

    def render(
        self,
        attributes: Mapping[str, str],
        stop_code: str,
        fold: Fold | None = None,
        token: Token = short_link.any_token,
    ) -> str:
        """Return the text for a contact, whose values go through `fold`. Raises Missing."""
        said = []
        for part in _written(self.parts, attributes):
            if isinstance(part, str):
                said.append(part)
            elif isinstance(part, Field):
                said.append(_value(part, attributes, stop_code, None, fold))
            else:
                said.append(part.written(token))
        return "".join(said)

    def samples(self, stop_code: str) -> tuple[str, ...]:
        """Return sample texts with each arm of each condition; the first has the shortest arms.

        A field is its default, or a single character.
        """
        least = [_least(part, stop_code) for part in self.parts]
        most = max((len(part.arms) for part in self.parts if isinstance(part, Choice)), default=1)
        others = [[_arm(part, taken) for part in self.parts] for taken in range(most)] if most > 1 else []
        return tuple(dict.fromkeys(_sample(chain.from_iterable(arms), stop_code) for arms in (least, *others)))

    def sample(self, stop_code: str) -> str:
        """Return the sample with the shortest arms."""
        return self.samples(stop_code)[0]


def parse(source: str) -> Template:
    """Parse a text. Raises TextRefused."""
    source = normal(source)
    if not source:
        raise TextRefused(TextProblem.EMPTY, "the text is empty")
    if len(source) > MAX_TEMPLATE_CHARS:
        raise TextRefused(TextProblem.TOO_LONG, f"the text is longer than {MAX_TEMPLATE_CHARS} characters")
    for other in placeholders(source):
        raise TextRefused(
            TextProblem.PLACEHOLDER,
            f"{other.found} at character {other.at} is a placeholder of another product: write {other.instead}",
        )
    reading = _Reading()
    places = [(0, 0), *(m.span() for m in _TOKENS.finditer(source)), (len(source), len(source))]
    for (_, after), (start, end) in pairwise(places):
        reading.add(source[after:start])
        match source[start:end]:
            case "{" | "}":
                raise TextRefused(TextProblem.BRACE_ALONE, f"a brace alone at character {start + 1}; write it twice")
            case "{{" | "}}" | "" as braces:
                reading.add(braces[:1])
            case token:
                reading.token(token[1:-1], start + 1)
    parts = reading.end()
    required = dict.fromkeys(part.name for part in parts if isinstance(part, Field) and part.default is None)
    template = Template(parts, tuple(required))
    if len(template.links) > MAX_LINKS:
        raise TextRefused(TextProblem.LINK, f"at most {MAX_LINKS} links that are counted")
    return template


def normal(source: str) -> str:
    """Return the stored form of a text: a line end is a single character and unit (DOMAIN 5.3)."""
    return source.replace("\r\n", "\n").strip()


def check(template: Template, stop_code: str, added: str = "", sender_page: str | None = None) -> Length:
    """Return the length of the first sample. Raises TextRefused.

    A text is refused for a link without the sender's host, a stop link without page, a typed address of a stop page
    beside `sender_page`, a sample without STOP mention (DOMAIN 1.7, 1.11) or stop link, or a first sample beyond
    MAX_SEGMENTS.
    """
    if any(link.host is None for link in template.links):
        raise TextRefused(TextProblem.LINK_HOST_MISSING, "the sender has no `link_host` yet: it is one of its rules")
    pages = {link.page for link in template.stop_links}
    if None in pages:
        raise TextRefused(
            TextProblem.STOP_PAGE_MISSING,
            "no stop page is configured: set PLACET_PAGE_URL, or write {stop}, and no {preferences}",
        )
    stop_page = next(iter(pages), None)
    typed = template.with_stop_page(None).samples(stop_code)
    if any(names_page(each, sender_page or stop_page) for each in (*typed, *(link.target for link in template.links))):
        raise TextRefused(
            TextProblem.STOP_PAGE_TYPED,
            "the text has the address of a stop page: write {stop_link} or {preferences} for each person's own link",
        )
    samples = [sample + added for sample in template.samples(stop_code)]
    if not all(mentions_stop(sample, stop_code) or names_stop_link(sample, stop_page) for sample in samples):
        raise TextRefused(
            TextProblem.STOP_MENTION_MISSING,
            f"the text must tell how to stop, whatever its conditions: write {{stop}}, « STOP au {stop_code} », or, for"
            " people abroad, {stop_link}",
        )
    found = length(samples[0])
    if found.segments > MAX_SEGMENTS:
        raise TextRefused(TextProblem.TOO_LONG, f"{found.segments} SMS, at most {MAX_SEGMENTS}")
    return found


def refused(
    text: str, stop_code: str, added: str = "", cost: Length | None = None, stop_page: str | None = None
) -> TextProblem | None:
    """Return why this rendered text must not be sent, if at all.

    `cost`: the known length with `added`. `stop_page`: the sender's, if any.
    """
    if not text.strip():
        return TextProblem.EMPTY
    got = text + added
    if not mentions_stop(got, stop_code) and not names_stop_link(got, stop_page):
        return TextProblem.STOP_MENTION_MISSING
    fit = fits(got) if cost is None else cost.segments <= MAX_SEGMENTS
    return None if fit else TextProblem.TOO_LONG


def costly(source: str) -> tuple[Place, ...]:
    """Return the typed characters which more than halve an SMS's capacity."""
    return outside_gsm7(sent(source))


def sent(source: str) -> str:
    """Blank the unsent parts (conditions, link targets); positions stay."""
    return _TOKENS.sub(lambda token: " " * len(token[0]) if _UNSENT.fullmatch(token[0]) else token[0], source)


class _Reading:
    """A text during parsing."""

    def __init__(self) -> None:
        self._parts: list[Part | Choice] = []
        self._arms: list[tuple[Condition | None, list[Part]]] | None = None  # of the open `{if …}`
        self._opened_at = 0

    def add(self, part: Part) -> None:
        if part:
            (self._parts if self._arms is None else self._arms[-1][1]).append(part)

    def token(self, inside: str, at: int) -> None:
        """Read the inside of braces. `at`: the opening brace, from 1."""
        words = inside.split(maxsplit=1)
        match words:
            case ["if", asked]:
                if self._arms is not None:
                    raise TextRefused(TextProblem.CONDITION, f"a condition within another, at character {at}")
                self._arms, self._opened_at = [(_condition(asked, at), [])], at
            case ["else"] if self._arms is not None:
                self._next(None, at)
            case ["else", more] if more.split(maxsplit=1)[0] == "if" and self._arms is not None:
                self._next(_condition(more[2:], at), at)
            case ["end"] if self._arms is not None:
                if self._arms[-1][0] is not None:
                    self._arms.append((None, []))
                self._parts.append(Choice(tuple((condition, tuple(parts)) for condition, parts in self._arms)))
                self._arms = None
            case ["link", target] if not target.startswith("|"):
                self.add(_link(target, at))
            case _:
                self.add(_field(inside))

    def end(self) -> tuple[Part | Choice, ...]:
        if self._arms is not None:
            raise TextRefused(TextProblem.CONDITION, f"the condition at character {self._opened_at} has no {{end}}")
        return tuple(self._parts)

    def _next(self, condition: Condition | None, at: int) -> None:
        assert self._arms is not None
        if self._arms[-1][0] is None:
            raise TextRefused(TextProblem.CONDITION, f"another {{else}} after the last, at character {at}")
        self._arms.append((condition, []))


def _condition(asked: str, at: int) -> Condition:
    asked = " ".join(asked.split())
    found = _CONDITION.match(asked)
    if found is None:
        raise TextRefused(TextProblem.CONDITION, f"the condition at character {at} names no field")
    negated, name, comparison, value = found[1], found[2], found[3] or "", asked[found.end() :].strip()
    if name in (STOP_FIELD, STOP_LINK_FIELD, PREFERENCES_FIELD):
        raise TextRefused(
            TextProblem.CONDITION, f"the condition at character {at} asks for {{{name}}}, which is no field"
        )
    if bool(comparison) != bool(value) or (negated and comparison):
        raise TextRefused(
            TextProblem.CONDITION,
            f"the condition at character {at} is none of: name, not name, name = value, name != value, name > number",
        )
    if comparison in _ORDER and _number(value) is None:
        raise TextRefused(TextProblem.CONDITION, f"the condition at character {at} compares with what is no number")
    return Condition(name, comparison, value, bool(negated))


def _link(target: str, at: int) -> Link:
    target = target.strip()
    if short_link.host_of(target) is None:
        raise TextRefused(TextProblem.LINK, f"the link at character {at} is no https address in plain characters")
    return Link(target)


def _field(inside: str) -> Field | StopLink:
    name, bar, default = inside.partition("|")
    name = name.strip()
    if not _FIELD_NAME.fullmatch(name):
        raise TextRefused(TextProblem.FIELD_NAME, f"{{{inside}}} names no field: small letters, digits and _")
    if name == STOP_FIELD:
        return Field(STOP_FIELD, "")
    if name == STOP_LINK_FIELD:
        return StopLink()
    if name == PREFERENCES_FIELD:
        return PreferenceLink()
    return Field(name, default if bar else None)


def _written(parts: tuple[Part | Choice, ...], attributes: Mapping[str, str]) -> Iterator[Part]:
    """Yield the parts of this contact's text."""
    for part in parts:
        if isinstance(part, Choice):
            yield from part.taken(attributes)
        else:
            yield part


def _arms(part: Part | Choice) -> tuple[tuple[Part, ...], ...]:
    return tuple(parts for _, parts in part.arms) if isinstance(part, Choice) else ((part,),)


def _arm(part: Part | Choice, taken: int) -> tuple[Part, ...]:
    """Return the arm at this index, or the last arm."""
    return part.arms[min(taken, len(part.arms) - 1)][1] if isinstance(part, Choice) else (part,)


def _least(part: Part | Choice, stop_code: str) -> tuple[Part, ...]:
    if not isinstance(part, Choice):
        return (part,)
    return min((parts for _, parts in part.arms), key=lambda parts: length(_sample(parts, stop_code)).units)


def _sample(parts: Iterable[Part], stop_code: str) -> str:
    return "".join(_said(part, {}, stop_code, at_least="x") for part in parts)


def _cell(attributes: Mapping[str, str], name: str) -> str:
    return " ".join(attributes.get(name, "").split())  # a cell may hold line breaks


def _number(written: str) -> Decimal | None:
    """Return the number as people write it: 1 234,5 too."""
    digits = "".join(written.split())
    return Decimal(digits.replace(",", ".")) if _NUMBER.fullmatch(digits) else None


def _said(
    part: Part,
    attributes: Mapping[str, str],
    stop_code: str,
    *,
    token: Token = short_link.any_token,
    at_least: str | None = None,
    fold: Fold | None = None,
) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Field):
        return _value(part, attributes, stop_code, at_least, fold)
    return part.written(token)


def _value(field: Field, attributes: Mapping[str, str], stop_code: str, at_least: str | None, fold: Fold | None) -> str:
    if field.name == STOP_FIELD:
        return f"STOP au {stop_code}"
    if value := _cell(attributes, field.name):
        return value if fold is None else fold(value)
    if field.default is not None:
        return field.default
    if at_least is None:
        raise Missing(field.name)
    return at_least
