"""Look at a sender's own words for answers by SMS: the duties of each answer, and signs of advertising. Pure.

    stop           names the brand; no advertising, no link (DOMAIN 1.8)
    contact        « édité par » and the legal name (DOMAIN 1.8); no advertising; a link only to the sender's `contact`
    start          names the brand, and tells of STOP; no advertising, no link
    double_opt_in  no advertising, no link but {link}; `replies.question_flaws` looks at the fields

An answer leaves at any hour, to people who have stopped: words that do not pass are refused at the registration, and
stored words that do not pass are never sent. The sender chooses its names, so a name of one or two words excuses only
an advertising word within the name, once: never a rebate, a price, a voucher or a premium number.

The wording of a purpose stands in the question of a double opt-in. An advertising word may say what the consent is for
(« Nos offres »), but to a person who has stopped the question says WITHOUT_ADVERTISING instead.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from common.contracts.consent import Replies
from common.sms.sms_length import STOP_ANSWER_SEGMENTS, length
from common.texts.findings import ADVERTISING, AROUND, Finding, findings_of, looks_like_advertising

Field = Literal["stop", "contact", "start", "double_opt_in"]
FIELDS: tuple[Field, ...] = get_args(Field)
SEGMENTS = STOP_ANSWER_SEGMENTS
EDITED_BY = "édité par"
NAME_WORDS = 2  # of a name that excuses an advertising word: a longer name could be a whole advert
NAME_LETTERS = 2
WITHOUT_ADVERTISING = "nos messages commerciaux"
PAGE = re.compile(r"[/?#]|:\d")  # behind a host
LEGAL_FORMS = frozenset(("sa", "sarl", "sas", "sasu", "eurl", "sca", "scop", "scs", "snc"))

INSTEAD = {
    "advertising": "leave the word out: « nos SMS commerciaux » says what the person stops or gets again",
    "rebate": "leave the rebate out",
    "price": "leave the price out",
    "voucher": "leave the code out",
    "premium_number": "give a number at the price of a call",
    "premium_short_number": "give a number at the price of a call",
    "premium_short_code": "give the sender's own `stop_code`",
    "disguised_link": "leave the link out: what stands before the @ hides the host",
    "link": "leave the link out",
    "stop_mention": "leave the STOP code out: the question adds it",
    "reading_direction": "leave the invisible characters out that turn the direction of reading",
}


@dataclass(frozen=True, slots=True)
class Flaw:
    """A reason against a text. `rule`: a stable slug. `instead`: the fault, and the words to write."""

    rule: str
    instead: str


@dataclass(frozen=True, slots=True)
class Author:
    """The sender whose words they are."""

    legal_name: str
    brand: str
    contact: str
    stop_code: str


def flaws(replies: Replies, author: Author, wordings: Sequence[str] = ()) -> Iterator[tuple[str, Flaw]]:
    """Yield every flaw of a sender's own words, and of its names and purposes in Placet's words, with the field."""
    for field in FIELDS:
        if (words := getattr(replies, field)) is not None:
            yield from ((f"replies.{field}", flaw) for flaw in flaws_of(field, words, author))
    for name, text in (("brand", author.brand), ("legal_name", author.legal_name)):
        yield from ((name, flaw) for flaw in dict.fromkeys(_against_name(text)))
    signs = dict.fromkeys(looks_like_advertising(author.contact))
    yield from (("contact", Flaw(sign.rule, _instead(sign))) for sign in signs)
    for at, wording in enumerate(wordings):
        rules = dict.fromkeys(sign.rule for sign in findings_of(wording) if sign.rule != "advertising")
        yield from ((f"purposes.{at}.wording", Flaw(rule, INSTEAD[rule])) for rule in rules)


def after_stop(wording: str) -> str:
    """Return a purpose's wording for a question to a person who has stopped."""
    return WITHOUT_ADVERTISING if findings_of(wording) else wording


@lru_cache(maxsize=1024)  # the words of a few senders answer many people
def flaws_of(field: Field, words: str, author: Author) -> tuple[Flaw, ...]:
    """Return every flaw of these words."""
    return tuple(dict.fromkeys(_flaws(field, words, author)))


def _flaws(field: Field, words: str, author: Author) -> Iterator[Flaw]:
    shown = words.replace("{brand}", author.brand) if field == "double_opt_in" else words
    names = _names(shown, author.legal_name, author.brand)
    for finding in findings_of(shown):
        if not _excused(finding, shown, names):
            yield from _against(field, finding, author)
    if field in ("stop", "start") and _letters(author.brand) not in _letters(words):
        yield Flaw("brand_missing", "the brand is missing: name `brand` as registered")
    if field == "contact" and _letters(EDITED_BY + author.legal_name) not in _letters(words):
        yield Flaw("editor_missing", f"write « {EDITED_BY} » and `legal_name` as registered")
    if field == "start" and not re.search(r"\bSTOP\b", words):
        yield Flaw("stop_missing", f"tell how to stop again: « STOP au {author.stop_code} »")
    if field != "double_opt_in" and length(words).segments > SEGMENTS:  # of a question, the fields decide
        yield Flaw(
            "too_long", f"at most {SEGMENTS} SMS: shorten it, or leave out letters outside GSM 03.38 such as « ê »"
        )


def _against(field: Field, finding: Finding, author: Author) -> Iterator[Flaw]:
    if finding.rule in ADVERTISING:
        yield Flaw(finding.rule, _instead(finding))
    elif finding.rule == "stop_mention" and finding.found != author.stop_code:
        yield Flaw("foreign_stop_code", f"another STOP code: write {author.stop_code}")
    elif finding.rule == "link" and field == "contact":
        if not re.search(
            rf"(?<![\w.-]){re.escape(finding.found)}(?![\w-])", author.contact.casefold().replace("www.", "")
        ):
            yield Flaw("link", "a link to another site than the sender's: write the address that stands in `contact`")
    elif finding.rule == "link":
        yield Flaw("link", "leave the link out: the link to the preference page is added where it fits")


def _instead(finding: Finding) -> str:
    said = f"« {finding.found} »: " if finding.rule == "advertising" else ""  # of our list, never the caller's text
    return said + INSTEAD[finding.rule]


def _against_name(name: str) -> Iterator[Flaw]:
    if sum(char.isalnum() for char in name) < NAME_LETTERS or not any(char.isalpha() for char in name):
        yield Flaw("name_too_short", "write the name with at least two letters or digits, one of them a letter")
    for sign in findings_of(name):
        if sign.rule == "advertising" and not _is_short(name):
            yield Flaw(sign.rule, f"« {sign.found} »: a name with an advertising word has at most {NAME_WORDS} words")
        elif sign.rule in ADVERTISING and sign.rule != "advertising":
            yield Flaw(sign.rule, _instead(sign))


def _is_short(name: str) -> bool:
    words = [word for word in re.findall(r"\w+", name) if word.casefold() not in LEGAL_FORMS]
    return len(words) <= NAME_WORDS


def _names(text: str, *names: str) -> list[tuple[int, int]]:
    """Return the place of each short name, the first that no name before has taken."""
    taken: list[tuple[int, int]] = []
    for name in filter(_is_short, names):
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            if all(match.end() <= start or match.start() >= end for start, end in taken):
                taken.append(match.span())
                break
    return taken


def _excused(finding: Finding, text: str, names: Iterable[tuple[int, int]]) -> bool:
    """Return whether a name alone makes the finding: an advertising word in the name, or a name that is a host."""
    if finding.span is None:
        return False
    start, end = finding.span
    if finding.rule == "link":  # a link reaches to the white space: lune.fr: or (lune.fr)
        end = start + len(text[start:end].rstrip(AROUND))
        start = end - len(text[start:end].lstrip(AROUND))
        return (start, end) in names and not PAGE.match(text, end)
    return finding.rule == "advertising" and any(first <= start and end <= last for first, last in names)


def _letters(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text)
    return "".join(char for char in apart if char.isalnum()).casefold()
