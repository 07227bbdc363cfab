"""The text of a campaign: its fields, what it becomes for one person, and how many SMS that costs. Pure.

`{first_name}` is an attribute of the contact, `{first_name|cher client}` one with a default, `{stop}` the STOP mention
with the sender's own code; `{{` and `}}` are braces. What is checked is always the rendered text: that is what a person
gets, and what operators count.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from common.law.stop_mention import mentions_stop
from common.sms_length import GSM7_BASIC, GSM7_EXTENSION, MAX_SEGMENTS, Length, length

MAX_TEMPLATE_CHARS = 2000
STOP_FIELD = "stop"

_FIELD_NAME = re.compile(r"[a-z0-9_]{1,40}", re.ASCII)
_TOKENS = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")


class TextProblem(StrEnum):
    """Why a text cannot be sent."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    BRACE_ALONE = "brace_alone"
    FIELD_NAME = "field_name"
    STOP_MENTION_MISSING = "stop_mention_missing"


class TextRefused(ValueError):
    """`reason` is one of TextProblem; the message may be shown to who wrote the text."""

    def __init__(self, reason: TextProblem, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Field:
    """An attribute's place in the text. `default` None: a contact without it cannot be written to."""

    name: str
    default: str | None


@dataclass(frozen=True, slots=True)
class Template:
    """A text with its fields found. `required`: attributes a contact must have, each once, in the order of the text."""

    parts: tuple[str | Field, ...]
    required: tuple[str, ...]

    def missing(self, attributes: Mapping[str, str]) -> str | None:
        """The first required attribute that is absent or blank."""
        return next((name for name in self.required if not attributes.get(name, "").strip()), None)

    def render(self, attributes: Mapping[str, str], stop_code: str) -> str:
        """The text for one contact. Raises KeyError for a required attribute that is `missing`."""
        return "".join(p if isinstance(p, str) else _value(p, attributes, stop_code) for p in self.parts)

    def sample(self, stop_code: str) -> str:
        """The shortest text it can become: the least it costs, and what the STOP mention is checked on."""
        return self.render(dict.fromkeys(self.required, "x"), stop_code)


def parse(source: str) -> Template:
    """Raises TextRefused."""
    source = source.replace("\r\n", "\n").strip()
    if not source:
        raise TextRefused(TextProblem.EMPTY, "the text is empty")
    if len(source) > MAX_TEMPLATE_CHARS:
        raise TextRefused(TextProblem.TOO_LONG, f"the text is longer than {MAX_TEMPLATE_CHARS} characters")
    parts: list[str | Field] = []
    places = [(0, 0), *(m.span() for m in _TOKENS.finditer(source)), (len(source), len(source))]
    for (_, after), (start, end) in pairwise(places):
        parts.append(source[after:start])
        match source[start:end]:
            case "{" | "}":
                raise TextRefused(TextProblem.BRACE_ALONE, f"a brace alone at character {start + 1}; write it twice")
            case "{{" | "}}" | "" as braces:
                parts.append(braces[:1])
            case field:
                parts.append(_field(field[1:-1]))
    required = dict.fromkeys(part.name for part in parts if isinstance(part, Field) and part.default is None)
    return Template(tuple(part for part in parts if part), tuple(required))


def check(template: Template, stop_code: str) -> Length:
    """What the text costs at least. Raises TextRefused where no recipient could lawfully get it (DOMAIN 1.7, 1.11)."""
    sample = template.sample(stop_code)
    if not mentions_stop(sample, stop_code):
        raise TextRefused(
            TextProblem.STOP_MENTION_MISSING,
            f"the text must tell how to stop: write {{stop}}, or « STOP au {stop_code} »",
        )
    found = length(sample)
    if found.segments > MAX_SEGMENTS:
        raise TextRefused(TextProblem.TOO_LONG, f"{found.segments} SMS, at most {MAX_SEGMENTS}")
    return found


def refused(text: str, stop_code: str) -> TextProblem | None:
    """Why this rendered text must not be sent, or None."""
    if not mentions_stop(text, stop_code):
        return TextProblem.STOP_MENTION_MISSING
    return TextProblem.TOO_LONG if length(text).segments > MAX_SEGMENTS else None


def outside_gsm7(template: Template) -> tuple[str, ...]:
    """The characters of the text itself that more than halve what an SMS holds, each once."""
    literal = "".join(part if isinstance(part, str) else part.default or "" for part in template.parts)
    return tuple(dict.fromkeys(c for c in literal if c not in GSM7_BASIC and c not in GSM7_EXTENSION))


def _field(inside: str) -> Field:
    name, bar, default = inside.partition("|")
    name = name.strip()
    if not _FIELD_NAME.fullmatch(name):
        raise TextRefused(TextProblem.FIELD_NAME, f"{{{inside}}} names no field: small letters, digits and _")
    if name == STOP_FIELD:
        return Field(STOP_FIELD, "")
    return Field(name, default if bar else None)


def _value(field: Field, attributes: Mapping[str, str], stop_code: str) -> str:
    if field.name == STOP_FIELD:
        return f"STOP au {stop_code}"
    value = " ".join(attributes.get(field.name, "").split())  # a cell may hold line breaks
    if value:
        return value
    if field.default is None:
        raise KeyError(field.name)
    return field.default
