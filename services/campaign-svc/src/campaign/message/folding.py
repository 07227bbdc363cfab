"""Replace characters which more than halve an SMS's capacity by similar GSM-7 characters. Pure.

Each step includes the previous step (DOMAIN 5.4):

    typographic   quotes, dashes, dots, spaces: of the author's words and of contacts' values
    accents       ê as e, ç as c, œ as oe: of the author's words. é è à ù É Ç stay: GSM-7 has them
    names         the same of contacts' values, names among them: never unasked

A character without a similar GSM-7 character (an emoji, 漢) stays, and the text stays UCS-2.
"""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from common.sms.sms_length import GSM7_BASIC, GSM7_EXTENSION

_GSM7 = frozenset(GSM7_BASIC + GSM7_EXTENSION)

TYPOGRAPHY = {
    **dict.fromkeys("’‘‛ʼ′´`", "'"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("‹›", "'"),
    **dict.fromkeys("–—‐‑‒―−", "-"),
    **dict.fromkeys("\u00a0\u202f\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u3000\t", " "),
    **dict.fromkeys("\u200b\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("•·", "-"),
    "…": "...",
    "×": "x",
}
_OF_ASCII = "".join(filter(str.isascii, TYPOGRAPHY))
LETTERS = {"œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i", "ẞ": "SS"}


class Folding(StrEnum):
    """The characters outside GSM-7 to replace by similar ones; each value includes the values before it."""

    NONE = "none"
    TYPOGRAPHIC = "typographic"
    ACCENTS = "accents"
    NAMES = "names"


@dataclass(frozen=True, slots=True)
class Change:
    """A replacement at a character of the original text, from 1."""

    at: int
    before: str
    after: str


def typographic(character: str) -> str:
    return TYPOGRAPHY.get(character, character)


def plain(character: str) -> str:
    """Return a character's GSM-7 replacement, or the character."""
    if character in _GSM7:
        return character
    found = TYPOGRAPHY.get(character, LETTERS.get(character))
    if found is None:
        found = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return found if _GSM7.issuperset(found) else character


def of_author(folding: Folding) -> Callable[[str], str] | None:
    """Return the replacement for characters of the author."""
    return {Folding.NONE: None, Folding.TYPOGRAPHIC: typographic}.get(folding, plain)


def of_contact(folding: Folding) -> Callable[[str], str] | None:
    """Return the replacement for characters of a contact's values."""
    return {Folding.NONE: None, Folding.NAMES: plain}.get(folding, typographic)


def folded(text: str, replace: Callable[[str], str] | None) -> str:
    """Return the text with characters replaced.

    A combining mark is first joined to its letter: GSM-7 has é, and no marks.
    """
    if replace is None or (text.isascii() and not any(each in text for each in _OF_ASCII)):
        return text
    if unicodedata.is_normalized("NFC", text):
        return "".join(map(replace, text))
    return "".join(_joined(letter, replace) for _, letter in _letters(text))


def changes(text: str, replace: Callable[[str], str] | None) -> tuple[Change, ...]:
    """Return the replacements made by `folded`."""
    if replace is None:
        return ()
    found = ((at, letter, _joined(letter, replace)) for at, letter in _letters(text))
    return tuple(Change(at, before, after) for at, before, after in found if before != after)


def _joined(letter: str, replace: Callable[[str], str]) -> str:
    return "".join(map(replace, unicodedata.normalize("NFC", letter)))


def _letters(text: str) -> Iterator[tuple[int, str]]:
    """Yield (position from 1, character with its combining marks)."""
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not unicodedata.combining(text[at]):
            yield start + 1, text[start:at]
            start = at
