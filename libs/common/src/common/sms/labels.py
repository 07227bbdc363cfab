"""Find phone numbers in names and labels. Pure.

    holds_a_number("Relance de Zoé, 06 39 98 12 34")

A name, a title and a reason stay after the erasure of a person: no field key hides them, and nobody knows whose they
are. So the edge refuses one that holds a number (`common.web.fields.NumberFree`).
"""

import re
import unicodedata
from collections.abc import Iterator

from common.sms.msisdn import NumberRefused, parse

_BETWEEN = r"[\W_]{0,3}"  # two digits of a number, as people write it
_FRENCH = rf"(?:\+|00)?{_BETWEEN}(?:33|590|594|596|262){_BETWEEN}(?:\(?0\)?{_BETWEEN})?"  # country codes
_MOBILE = re.compile(rf"(?<!\d)(?:0{_BETWEEN}|{_FRENCH})[67]((?:{_BETWEEN}\d){{8}})(?!\d)")
_FOREIGN = re.compile(r"(?:\+|(?<!\d)00)[1-9](?:[\W_]{0,2}\d){7,14}(?!\d)")
_SEPARATOR = re.compile(r"[\W_]+")
_IDENTIFIER = re.compile(r"[0-9a-f]{12,}")  # in hexadecimal, as of a UUID


def holds_a_number(text: str) -> bool:
    """Return whether some digits of the text are a mobile number, in the writing of a person or of a program.

    A date with its hour is no number: people write a number with one separator throughout.
    """
    plain = "".join(map(_digit, unicodedata.normalize("NFKC", text)))
    for found in _matches(_MOBILE, plain):
        alike = len(set(_SEPARATOR.findall(found[1]))) <= 1
        if alike and not _in_an_identifier(plain, found):
            return True
    return any(_is_mobile(found[0]) for found in _matches(_FOREIGN, plain))


def _digit(char: str) -> str:
    """Return a digit of any script as ASCII, and any other character as it is."""
    digit = unicodedata.decimal(char, None)
    return char if digit is None else str(digit)


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield the match at each place, overlapping ones too."""
    found = pattern.search(text)
    while found is not None:
        yield found
        found = pattern.search(text, found.start() + 1)


def _in_an_identifier(text: str, found: re.Match[str]) -> bool:
    around = next(word for word in re.finditer(r"[^\W_]+", text) if word.end() > found.start(1))
    return bool(_IDENTIFIER.fullmatch(around[0])) and not around[0].isdigit()


def _is_mobile(written: str) -> bool:
    try:
        parse(written, fictional=True)
    except NumberRefused:
        return False
    return True
