"""Templates: a text with fields, whose values are limited and looked at. Pure.

    {code} est votre code Maison Lune.        a field
    {{ and }}                                 braces

A person approves the template's own text with its findings. A value is the caller's word: short, plain, and without a
sign of advertising in the finished text (`refused_values`), wherever value and text meet.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from common.texts.findings import Finding, findings_of, links_in, percents_in
from common.texts.placeholders import placeholders

MOST_FIELDS = 10
MOST_VALUE_CHARS = 160  # of one field
MOST_VALUES_CHARS = 320  # of all fields together
LEAST_OWN_LETTERS = 10  # a template of fields alone is free text
MOST_PLAIN_CHARS, MOST_LINK_CHARS = 40, 80  # a longer field may hold a sentence
FILLS = (" ", "", "-", "x")  # for values, to see what the own text becomes around them

FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
_CODE = re.compile(r"[A-Za-z0-9]{4,8}", re.ASCII)
_TOKENS = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")


class FieldRule(Protocol):
    """The limits of a field's value. A link, and a price, need a permission."""

    @property
    def name(self) -> str: ...
    @property
    def max_chars(self) -> int: ...
    @property
    def links(self) -> bool: ...
    @property
    def prices(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Flaw:
    """A reason against a template or its values; `field`: of the template, if the reason concerns one."""

    reason: str
    detail: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished text. `spans`: the place of each value."""

    text: str
    spans: tuple[tuple[str, int, int], ...]

    def fields_in(self, span: tuple[int, int]) -> list[str]:
        """Return the fields whose values overlap this span."""
        return [name for name, start, end in self.spans if start < span[1] and span[0] < end]


def flaws(text: str, fields: Sequence[FieldRule]) -> Iterator[Flaw]:
    """Yield the reasons for which no person may approve the text, but its findings."""
    yield from (
        Flaw(
            "placeholder",
            f"{other.found} at character {other.at} is a placeholder of another product: write {other.instead}",
        )
        for other in placeholders(text)
    )
    yield from (
        Flaw("brace_alone", f"a brace alone at character {at + 1}: write the brace twice") for at in _alone(text)
    )
    named = list(dict.fromkeys(name for name, _ in _parts(text) if name is not None))
    declared = [field.name for field in fields]
    for name in named:
        if not FIELD_NAME.fullmatch(name):
            yield Flaw("field_name", f"{{{name}}} names no field: small letters, digits and _")
        elif name not in declared:
            yield Flaw("field_undeclared", f"`fields` lacks {name}", name)
    yield from (Flaw("field_unused", f"the text has no {{{name}}}", name) for name in declared if name not in named)
    if len(set(declared)) < len(declared):
        yield Flaw("field_twice", "`fields` has a name twice")
    if sum(field.max_chars for field in fields) > MOST_VALUES_CHARS:
        yield Flaw("values_too_long", f"the values may have {MOST_VALUES_CHARS} characters together")
    if sum(char.isalpha() for name, part in _parts(text) if name is None for char in part) < LEAST_OWN_LETTERS:
        yield Flaw("no_own_text", f"the text needs {LEAST_OWN_LETTERS} letters of its own")


def own_findings(text: str, fields: Sequence[FieldRule]) -> list[Finding]:
    """Return the findings in the template's own text and fields, each once: a person approves them by their ids."""
    found: dict[Finding, None] = {}
    for fill in FILLS:
        blank = {name: fill for name, _ in _parts(text) if name is not None}
        signs = findings_of(render(text, blank).text)
        found |= dict.fromkeys(sign for sign in signs if fill == FILLS[0] or sign.rule != "link")
    for field in fields:
        if field.max_chars > (MOST_LINK_CHARS if field.links else MOST_PLAIN_CHARS):
            found[Finding("prose_field", field.name)] = None
    own = sum(len(part) for name, part in _parts(text) if name is None)
    if sum(field.max_chars for field in fields if not field.links) > own:
        found[Finding("mostly_values")] = None
    return list(found)


def render(text: str, values: Mapping[str, str]) -> Rendered:
    """Return the finished text. Raises KeyError for a field without a value."""
    written: list[str] = []
    spans = []
    at = 0
    for name, part in _parts(text):
        said = part if name is None else values[name]
        if name is not None:
            spans.append((name, at, at + len(said)))
        written.append(said)
        at += len(said)
    return Rendered("".join(written), tuple(spans))


def longest(text: str, fields: Sequence[FieldRule]) -> str:
    """Return the longest finished text, of letters outside no alphabet of an SMS."""
    return render(text, {field.name: "x" * field.max_chars for field in fields}).text


def value_flaws(fields: Sequence[FieldRule], values: Mapping[str, str]) -> Iterator[Flaw]:
    """Yield the values that are missing, unknown, too long, or not plain."""
    limits = {field.name: field.max_chars for field in fields}
    yield from (Flaw("value_missing", "the template needs the value", name) for name in limits if name not in values)
    for name, value in values.items():
        if name not in limits:
            yield Flaw("value_unknown", "the template has no such field", name)
        elif len(value) > limits[name]:
            yield Flaw("value_too_long", f"at most {limits[name]} characters", name)
        elif not value.strip():
            yield Flaw("value_blank", "the value is blank", name)
        elif any(unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" for char in value):
            yield Flaw("value_not_plain", "the value has a line break or an invisible character", name)


def refused_findings(rendered: Rendered, fields: Sequence[FieldRule]) -> list[tuple[Finding, list[str]]]:
    """Return each finding that a value makes or takes part in, with the fields concerned.

    The template's own findings were approved. A field that may hold links, or prices, makes no such finding. At a
    value each of IANA's top-level domains behind a dot makes a link, and a number in percent is a price. A code alone
    is no voucher: the text around the code was approved.
    """
    of_name = {field.name: field for field in fields}
    values = {name: rendered.text[start:end] for name, start, end in rendered.spans}
    refused = []
    for finding in _all_findings(rendered):
        assert finding.span is not None
        names = rendered.fields_in(finding.span)
        allowed = {
            "link": [of_name[name].links for name in names],
            "price": [of_name[name].prices for name in names],
            "percent": [of_name[name].prices for name in names],
            "voucher": [_CODE.fullmatch(values[name]) is not None for name in names],
        }
        if names and not all(allowed.get(finding.rule, [False])):
            refused.append((finding, names))
    return refused


def _all_findings(rendered: Rendered) -> list[Finding]:
    """Return the findings of the text, and those of values that overlap none of their kind."""
    found = findings_of(rendered.text)
    links = [each for each in links_in(rendered.text) if not _known(each, found, "link", "disguised_link")]
    return found + links + [each for each in percents_in(rendered.text) if not _known(each, found, "rebate")]


def _known(finding: Finding, found: Sequence[Finding], *rules: str) -> bool:
    """Return whether a finding of these rules overlaps this finding."""
    return any(
        other.rule in rules
        and finding.span
        and other.span
        and finding.span[0] < other.span[1]
        and other.span[0] < finding.span[1]
        for other in found
    )


def _parts(text: str) -> Iterator[tuple[str | None, str]]:
    """Yield the parts in order: own text without a field, or a field without text."""
    places = [(0, 0), *(match.span() for match in _TOKENS.finditer(text)), (len(text), len(text))]
    for (_, after), (start, end) in pairwise(places):
        if after < start:
            yield None, text[after:start]
        match text[start:end]:
            case "":
                pass
            case "{{" | "}}" | "{" | "}" as braces:
                yield None, braces[:1]
            case token:
                yield token[1:-1].strip(), ""


def _alone(text: str) -> Iterator[int]:
    return (match.start() for match in _TOKENS.finditer(text) if match[0] in ("{", "}"))
