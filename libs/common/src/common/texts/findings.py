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

ADVERTISING = frozenset(
    (
        *("advertising", "rebate", "price", "voucher", "premium_number", "premium_short_number", "premium_short_code"),
        *("disguised_link", "reading_direction"),
    )
)

_DIGIT = r"(?:\d|o(?![a-np-z]))"  # an o among digits is read as 0
_ZERO = r"(?:(?<!\d)0|(?<![a-z\d])o)"
_NEAR = r"[\W_]{0,3}"  # between two digits: 08/92, 08 - 92
PREMIUM_NUMBER = re.compile(
    rf"(?<!0[1-7][\W_])(?:(?:\+|(?<!\d)00)33[\W_]{{0,3}}0?\)?|{_ZERO}){_NEAR}8{_NEAR}9(?:{_NEAR}{_DIGIT}){{7}}(?!\d)"
)
SHORT_NUMBER = re.compile(
    r"(?<![a-z])(?:appelez|rappelez|composez|telephonez|joignez)[^\d\n]{0,20}(3[2-9][ .]?\d\d)(?!\d)"
)
SHORT_CODE = re.compile(
    r"(?<![a-z])(?:sms|envoye[rz]|envoie|tapez|text|send|repond(?:ez|re))(?![a-z])[^\d\n]{0,40}"
    rf"(?<![a-z])(?:au|vers|to)[\W_]{{1,3}}(?:numero\s|n°?\s?)?([3-8](?:[\W_]{{0,2}}{_DIGIT}){{4}})(?![ .-]?\d)"
)
ORDINARY = ("36", "38")  # short codes at the price of an SMS
STOP = re.compile(r"(?<!non[\s-])\bstop\b.{0,12}?\b(\d{5})\b", re.IGNORECASE)
HOST = re.compile(r"(?<![\w@./-])(?:https?://)?((?:[a-z0-9-]+\.)+[a-z]{2,})/", re.IGNORECASE)
AROUND = ".,;:!?()[]<>\"'«»"  # punctuation around a link
DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")

_PERCENT = r"\s{0,2}(?:%|°\s?/\s?[o0]|(?:pour\s?cents?|pct)(?![a-z]))"
_DIGITS = rf"\d(?:\s?{_DIGIT}){{0,2}}(?:[.,]\d{{1,2}})?"
_VOUCHER = re.compile(
    r"(?<![a-z])(?:codes?|avec)(?![a-z])[^a-z0-9]{0,4}([a-z]{3,14}[-_.]?(?:[1-9][05]|[1-9]0[05]))(?![a-z0-9])"
)
_SCHEME = re.compile(r"(?<![a-z])h(?:tt|xx)ps?\s?:\s?/\s?/\s?(\S*)")
_WWW = re.compile(r"(?<![a-z0-9])www\s?[.,]?\s?([a-z0-9-]{2,}\S*)")
# a whole run of labels; behind @, or before @ and a host, an e-mail address
_DOTTED = re.compile(r"(?<![\w@-])(?<![\w-]\.)((?:[\w-]+\.)+([\w-]+))(?![\w-]|\.[\w-]|@[\w-]+\.[\w-])([/:?#]\S)?")
_DOMAIN = re.compile(r"xn--[a-z0-9-]+|[^\W\d_]{2,}")
_OCTET = r"(?:25[0-5]|2[0-4]\d|[01]?\d?\d)"
_TELEPHONE = r"0\d\.|33\.[1-9](?:\.\d\d){4}$"
_IPV4 = re.compile(rf"(?!{_TELEPHONE})(?:{_OCTET}\.){{3}}{_OCTET}(?![^.])")
_COMMA = re.compile(r"(?<![\w@.,-])([a-z0-9-]{2,},(?:fr|com))(?![\w,-])")
_USER_OF_HOST = re.compile(r"(?<![^\s/(])([^\s/@]+@[^\s/@]+\.[a-z]{2,})/\S*")
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
    """One version of the signs.

    `ordinary`: words in which a listed word is no sign, as written. `of_codes`: words beside a code that opens or
    proves, and buys nothing. `names`: domains that are words, so a capital behind a dot begins a sentence or a name.
    """

    version: str
    rules: Mapping[str, Rule]
    words: Words
    ordinary: re.Pattern[str]
    of_codes: re.Pattern[str]
    rebate: re.Pattern[str]
    percent: re.Pattern[str]
    price: re.Pattern[str]
    domains: frozenset[str]
    names: frozenset[str]
    short_numbers: frozenset[str]


@lru_cache
def top_level_domains(version: str = "iana-2026102900") -> frozenset[str]:
    """Load IANA's list of top-level domains: each in ASCII, an internationalised one also as `read` shows it."""
    data = json.loads((resources.files("common.texts") / "domains" / f"{version}.json").read_text("utf-8"))
    listed = frozenset(data["domains"])
    shown = [name[4:].encode().decode("punycode") for name in listed if name.startswith("xn--")]
    return listed | {read(written).plain for name in shown for written in (name, name.upper(), name.title())}


@lru_cache
def load(version: str = "fr-1") -> Signs:
    """Load a version of the signs.

    Raises FileNotFoundError, and ValueError where the file names another version.
    """
    data = json.loads((resources.files("common.texts") / "advertising" / f"{version}.json").read_text("utf-8"))
    if data["version"] != version:
        raise ValueError(f"{version}.json calls itself {data['version']}")
    numbers = f"(?:{_DIGITS}|(?<![a-z])(?:{_either(data['numbers'])}))"
    before, after = map(_either, (data["rebates"]["before"], data["rebates"]["after"]))
    ordinary, titles = _either(data["not_words"]["words"], " "), _either(data["not_words"]["titles"])
    return Signs(
        version=version,
        rules={name: Rule(**rule) for name, rule in data["rules"].items()},
        words=words_of(word for group in data["words"] for word in group["words"]),
        ordinary=re.compile(
            r"\d\s{0,3}m\."  # metres, and no title
            rf"|(?<![a-z])(?:(?:{ordinary})(?![a-z])|(?:{titles})\s?[a-z'-]+(?P<tail> [a-z]+(?:-[a-z]+)+)?)"
        ),
        of_codes=re.compile(rf"(?<![a-z])(?:{_either(data['of_codes'])})(?![a-z])"),
        rebate=re.compile(
            rf"(?:(?<![\w-])-|(?<![a-z])(?:{before}))[\s-]{{0,3}}{numbers}{_PERCENT}"
            rf"|{numbers}{_PERCENT}\s{{1,3}}(?:{after})(?![a-z])"
        ),
        percent=re.compile(numbers + _PERCENT),
        price=re.compile(
            rf"\d\s{{0,2}}(?:€|[$£](?![a-z]))|(?:€|(?<![a-z\d])[$£])\s{{0,2}}\d|\d\s{{0,2}}eur(?![a-z])"
            rf"|{numbers}\s{{0,3}}e[\s.-]?u[\s.-]?r[\s.-]?o[\s.-]?s?(?![a-z])|\d[.,]\d\d\s?e(?![a-z])"
            rf"|(?<![a-z])(?:{_either(data['prices']['before'])})\s\d{{1,4}}e(?![a-z])"
            rf"(?!\s(?:{_either(data['prices']['not_before'])}))"
        ),
        domains=frozenset(data["top_level_domains"]),
        names=frozenset(data["domains_that_are_words"]),
        short_numbers=frozenset(data["ordinary_short_numbers"]["numbers"]),
    )


def findings_of(text: str) -> list[Finding]:
    """Return every sign in the text, in the order of the text."""
    found = _of(read(text), load())
    return sorted(found, key=lambda finding: finding.span or (0, 0))


def looks_like_advertising(text: str) -> list[Finding]:
    """Return the signs of advertising: not a link, nor the mention of STOP, which answers to people have."""
    return [finding for finding in findings_of(text) if finding.rule in ADVERTISING]


def links_in(text: str) -> list[Finding]:
    """Return the links, by all top-level domains of IANA's list: so a caller's value is read."""
    return list(_links(read(text), load(), any_domain=True))


def percents_in(text: str) -> list[Finding]:
    """Return the numbers in percent."""
    reading = read(text)
    return [Finding("percent", "%", reading.span(*match.span())) for match in load().percent.finditer(reading.plain)]


def premium_numbers(reading: Reading) -> list[str]:
    """Return the numbers that cost more than a call, in digits."""
    return [_digits(match[0]) for match in PREMIUM_NUMBER.finditer(reading.plain)]


def premium_short_codes(reading: Reading) -> list[str]:
    """Return the short codes to which the text asks for an SMS at a premium, perhaps."""
    codes = (_digits(match[1]) for match in SHORT_CODE.finditer(reading.plain))
    return [code for code in codes if not code.startswith(ORDINARY)]


def _of(reading: Reading, signs: Signs) -> Iterator[Finding]:
    plain = reading.plain
    ordinary = [(*match.span(), match.start("tail")) for match in signs.ordinary.finditer(plain)]
    for word, start, end in find(reading, signs.words):
        # in the tail of a name, only a word that begins before the tail is no sign: Bon Plan-de-Cuques
        if not any(before <= start and end <= after and not 0 < tail <= start for before, after, tail in ordinary):
            yield Finding("advertising", word, reading.span(start, end))
    for match in signs.rebate.finditer(plain):
        yield Finding("rebate", " ".join(match[0].split()), reading.span(*match.span()))
    for match in signs.price.finditer(plain):
        yield Finding("price", "€", reading.span(*match.span()))
    if not signs.of_codes.search(plain):
        for match in _VOUCHER.finditer(plain):
            yield Finding("voucher", match[1], reading.span(*match.span()))
    yield from _links(reading, signs)
    for match in PREMIUM_NUMBER.finditer(plain):
        yield Finding("premium_number", _digits(match[0]), reading.span(*match.span()))
    for match in SHORT_NUMBER.finditer(plain):
        if (number := _digits(match[1])) not in signs.short_numbers:
            yield Finding("premium_short_number", number, reading.span(*match.span()))
    for match in SHORT_CODE.finditer(plain):
        if not (code := _digits(match[1])).startswith(ORDINARY):
            yield Finding("premium_short_code", code, reading.span(*match.span()))
    for match in STOP.finditer(plain):
        yield Finding("stop_mention", match[1], reading.span(*match.span()))
    for match in DIRECTION.finditer(reading.text):
        yield Finding("reading_direction", "", match.span())


def _links(reading: Reading, signs: Signs, *, any_domain: bool = False) -> Iterator[Finding]:
    """Yield each link once. A link reaches to the white space on both sides, as a phone would open the link."""
    plain = reading.plain
    taken: list[tuple[int, int]] = []
    matches = [match for pattern in (_SCHEME, _WWW, _USER_OF_HOST) for match in pattern.finditer(plain)]
    matches += (match for match in _DOTTED.finditer(plain) if _is_host(match, reading, signs, any_domain))
    matches += (match for pattern in (_COMMA, _SPELLED) for match in pattern.finditer(plain))
    for match in matches:
        start, end = reading.span(*match.span())
        if any(start < after and before < end for before, after in taken):
            continue
        start, end = _word_around(reading.text, start, end)
        taken.append((start, end))
        shown = re.sub(r"[\s()\[\]]", "", match[1]).replace(",", ".")
        host = re.split(r"[/?#\\]", shown, maxsplit=1)[0].strip(AROUND).removeprefix("www.")
        yield Finding("disguised_link" if "@" in host else "link", host or "http", (start, end))


def _is_host(match: re.Match[str], reading: Reading, signs: Signs, any_domain: bool) -> bool:
    """Return whether words joined by dots are a host: a label behind the first is a top-level domain.

    A phone makes a link of `lune.fr` also in `lune.fr.x` and `lune.fr-x`. In a text, a last label that is a word with
    a capital begins a sentence or a name, unless the dot follows one letter, and the labels before it are read alone:
    `lune.fr.It` has a host. In a value, each domain makes a host.
    """
    host, last, path = match.groups()
    if (path and _DOMAIN.fullmatch(last)) or ((path or any_domain) and _IPV4.match(host)):
        return True
    labels = host.split(".")[1:]
    head = last.partition("-")[0]
    if not any_domain and head in signs.names and not (host[0].isalpha() and host[1] == "."):
        start, end = reading.span(match.start(2), match.start(2) + len(head))
        if reading.text[start:end].istitle():
            labels.pop()
    # xn--p1ai, and xn--p1ai-x: a phone takes each for a domain
    heads = {*labels, *(label.partition("-")[0] for label in labels)}
    return "xn" in heads or not (top_level_domains() if any_domain else signs.domains).isdisjoint(heads)


def _word_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span, widened to the white space on both sides."""
    while start and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return start, end


def _digits(shown: str) -> str:
    return re.sub(r"\D", "", shown.replace("o", "0"))


def _either(words: Iterable[str], space: str = r"\s{1,3}") -> str:
    """Return the pattern of any of these words, the longest first."""
    return "|".join(re.escape(word).replace(r"\ ", space) for word in sorted(words, key=len, reverse=True))
