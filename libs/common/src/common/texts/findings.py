"""Find signs of advertising in a text: words, rebates, prices, vouchers, links, premium numbers. Pure.

    findings_of("P r 0 m o chez Lune, -20 %")       advertising:promo at 1, rebate:-20 % at 22

The words and the rules are data (`advertising/fr-1.json`), each rule with its source: a file in use is never edited.
A finding is a sign, and no proof. A text of a lane without consent is refused with one, unless a person has approved
the sign: by the approval of a template, or by an audited override.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources

from common.texts.reading import Reading, read
from common.texts.words import Words, find, words_of

ADVERTISING = frozenset(("advertising", "rebate", "price", "voucher", "premium_number", "premium_short_code"))

PREMIUM_NUMBER = re.compile(r"(?<!\d)(?:(?:\+|00)33\s?\(?0?\)?|0)[ .-]?8[ .-]?9(?:[ .-]?\d){7}(?!\d)")
SHORT_CODE = re.compile(r"\b(?:SMS|envoye[rz]|tapez|text)\b[^\d\n]{0,30}\b([3-8]\d{4})\b", re.IGNORECASE)
ORDINARY = ("36", "38")  # short codes at the price of an SMS
STOP = re.compile(r"\bstop\b.{0,12}?\b(\d{5})\b", re.IGNORECASE)
HOST = re.compile(r"(?<![\w@./-])(?:https?://)?((?:[a-z0-9-]+\.)+[a-z]{2,})/", re.IGNORECASE)

_REBATE = re.compile(
    r"(?:(?<![\w-])-|(?<![a-z])(?:moins|jusqu.?\s?a))[\s-]{0,3}\d[\s]?\d?\s{0,2}(?:%|pour\s?cents?|pourcents?)"
)
_PRICE = re.compile(
    r"\d\s{0,2}€|€\s{0,2}\d|\d\s{0,2}eur(?![a-z])|(?<![a-z])e[\s.-]?u[\s.-]?r[\s.-]?o[\s.-]?s?(?![a-z])"
)
_VOUCHER = re.compile(r"(?<![a-z])codes?(?![a-z])[^a-z0-9]{0,4}([a-z]{4,14}[0-9]{1,3})(?![a-z0-9])")
_SCHEME = re.compile(r"(?<![a-z])h(?:tt|xx)ps?\s?:\s?/\s?/\s?([a-z0-9.-]*)|(?<![a-z])www\s?\.\s?([a-z0-9-]+)")
_SPELLED = re.compile(
    r"(?<![\w@.-])([a-z0-9-]{2,}(?:\s\.\s?|\.\s|\s?[(\[]\s?\.\s?[)\]]\s?|\s(?:point|dot)\s)(?:fr|com))(?![a-z0-9-])"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A violated rule.

    `found`: the words concerned; a person's own words are in no finding, but the field that holds them. `span`: their
    place in the text, where known. `people`: the people whose value of the field breaks the rule.
    """

    rule: str
    found: str = ""
    span: tuple[int, int] | None = field(default=None, compare=False)
    people: int = field(default=0, compare=False)

    @property
    def id(self) -> str:
        return f"{self.rule}:{self.found}" if self.found else self.rule


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the signs. `approvable`: whether a person may approve a template with such a finding."""

    says: str
    source: str
    approvable: bool = True


@dataclass(frozen=True, slots=True)
class Signs:
    """One version of the signs. `ordinary`: words in which a listed word is no sign, as written."""

    version: str
    rules: Mapping[str, Rule]
    words: Words
    ordinary: re.Pattern[str]
    hosts: re.Pattern[str]


@lru_cache
def load(version: str = "fr-1") -> Signs:
    """Load a version of the signs.

    Raises FileNotFoundError, and ValueError where the file names another version.
    """
    data = json.loads((resources.files("common.texts") / "advertising" / f"{version}.json").read_text("utf-8"))
    if data["version"] != version:
        raise ValueError(f"{version}.json calls itself {data['version']}")
    domains = "|".join(sorted(map(re.escape, data["top_level_domains"])))
    return Signs(
        version=version,
        rules={name: Rule(**rule) for name, rule in data["rules"].items()},
        words=words_of(word for group in data["words"] for word in group["words"]),
        ordinary=_any_of(data["not_words"]["words"]),
        hosts=re.compile(
            rf"(?<![\w@.-])((?:[a-z0-9-]+\.)+(?:{domains}))(?![\w-]|\.\w)|(?<![\w@.-])((?:[a-z0-9-]+\.)+[a-z]{{2,}})/"
        ),
    )


def findings_of(text: str, signs: Signs | None = None) -> list[Finding]:
    """Return every sign in the text, in the order of the text."""
    reading = read(text)
    found = _of(reading, load() if signs is None else signs)
    return sorted(found, key=lambda finding: finding.span or (0, 0))


def looks_like_advertising(text: str) -> list[Finding]:
    """Return the signs of advertising: not a link, nor the mention of STOP, which answers to people have."""
    return [finding for finding in findings_of(text) if finding.rule in ADVERTISING]


def premium_numbers(text: str) -> list[str]:
    """Return the numbers that cost more than a call, in digits."""
    return [re.sub(r"\D", "", number) for number in PREMIUM_NUMBER.findall(text)]


def premium_short_codes(text: str) -> list[str]:
    """Return the short codes to which the text asks for an SMS at a premium, perhaps."""
    return [code for code in SHORT_CODE.findall(text) if not code.startswith(ORDINARY)]


def _of(reading: Reading, signs: Signs) -> Iterator[Finding]:
    plain = reading.plain
    ordinary = [match.span() for match in signs.ordinary.finditer(plain)]
    for word, start, end in find(reading, signs.words):
        if not any(before <= start and end <= after for before, after in ordinary):
            yield Finding("advertising", word, reading.span(start, end))
    for match in _REBATE.finditer(plain):
        yield Finding("rebate", " ".join(match[0].split()), reading.span(*match.span()))
    for match in _PRICE.finditer(plain):
        yield Finding("price", "€", reading.span(*match.span()))
    for match in _VOUCHER.finditer(plain):
        yield Finding("voucher", match[1], reading.span(*match.span()))
    for match in _links(plain, signs):
        host = next((part for part in match.groups() if part), "http")
        yield Finding("link", re.sub(r"[\s()\[\]]", "", host).strip("."), reading.span(*match.span()))
    for match in PREMIUM_NUMBER.finditer(plain):
        yield Finding("premium_number", re.sub(r"\D", "", match[0]), reading.span(*match.span()))
    for match in SHORT_CODE.finditer(plain):
        if not match[1].startswith(ORDINARY):
            yield Finding("premium_short_code", match[1], reading.span(*match.span()))
    for match in STOP.finditer(plain):
        yield Finding("stop_mention", match[1], reading.span(*match.span()))


def _links(plain: str, signs: Signs) -> Iterator[re.Match[str]]:
    """Yield each link once: of two matches that overlap, the first pattern's."""
    taken: list[tuple[int, int]] = []
    for pattern in (_SCHEME, signs.hosts, _SPELLED):
        for match in pattern.finditer(plain):
            start, end = match.span()
            if all(end <= before or start >= after for before, after in taken):
                taken.append((start, end))
                yield match


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of any of these words as written, the longest first."""
    written = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.compile(rf"(?<![a-z])(?:{written})(?![a-z])")
