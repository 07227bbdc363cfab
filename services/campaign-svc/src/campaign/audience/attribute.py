"""What a contact's attribute holds: a text, a number, a date or a boolean, and how each is kept. Pure.

Values are kept as text, each kind in one way of writing, so that texts show them and databases compare them. They are
read as people and spreadsheets write them (26/11/2026; 1 234,50; oui). A kind that nobody declared is inferred where
every value of a file is written as it is kept, and never where figures are a name (a postcode, an identifier).
"""

import re
from collections.abc import Iterable
from datetime import date
from enum import StrEnum

MAX_CHARS = 200


class Kind(StrEnum):
    TEXT = "text"
    NUMBER = "number"  # at most 15 digits before the point, 6 after
    DATE = "date"  # of the calendar, without a time
    BOOLEAN = "boolean"


# As they are kept. Databases read the same patterns (`segment`): what does not match is no value of that kind.
NUMBER = r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$"
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"

POSTCODE = "postcode"  # read as one of the sender's own country
TIMEZONE = "timezone"  # IANA's name for it; beats what the number says (DOMAIN 6.3)
LANGUAGE = "language"
NAMES = frozenset({POSTCODE, "code_postal", "cp", "zip", "zip_code", "siret", "siren", TIMEZONE, LANGUAGE})

_NUMBER = re.compile(NUMBER.removesuffix("$"), re.ASCII)
_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?", re.ASCII)  # what begins with 0 or is longer is a name
_DATE = re.compile(DATE.removesuffix("$"), re.ASCII)
_EUROPEAN = re.compile(r"([0-9]{1,2})[/.-]([0-9]{1,2})[/.-]([0-9]{4})", re.ASCII)
_GROUPING = re.compile("[ \u00a0\u202f']")  # between thousands
_BOOLEANS = dict.fromkeys(("true", "oui", "yes", "vrai", "1", "o", "y"), "true") | dict.fromkeys(
    ("false", "non", "no", "faux", "0", "n"), "false"
)
_INFERRED = (Kind.NUMBER, Kind.DATE, Kind.BOOLEAN)


def kept(raw: str, kind: Kind) -> str | None:
    """`raw`, not empty, as values of its kind are kept; None where it is none."""
    match kind:
        case Kind.TEXT:
            return raw
        case Kind.NUMBER:
            if _NUMBER.fullmatch(raw):
                return raw
            plain = _GROUPING.sub("", raw).replace(",", ".", 1).replace("−", "-")
            return plain if _NUMBER.fullmatch(plain) else None
        case Kind.DATE:
            if european := _EUROPEAN.fullmatch(raw):
                day, month, year = european.groups()
                raw = f"{year}-{month:0>2}-{day:0>2}"
            return raw if is_date(raw) else None
        case Kind.BOOLEAN:
            return _BOOLEANS.get(raw.lower())


def is_date(raw: str) -> bool:
    """Whether it is a day of the calendar, as dates are kept."""
    if not _DATE.fullmatch(raw):
        return False
    try:
        date.fromisoformat(raw)
    except ValueError:
        return False
    return True


class Inference:
    """What a column holds, as far as its values have been seen."""

    def __init__(self, name: str) -> None:
        self._open: tuple[Kind, ...] = () if name in NAMES or name == "id" or name.endswith("_id") else _INFERRED
        self._seen = False

    @property
    def settled(self) -> bool:
        """Text, whatever comes."""
        return self._seen and not self._open

    def see(self, values: Iterable[str]) -> None:
        """Empty ones say nothing."""
        for value in values:
            if value:
                self._seen = True
                self._open = tuple(kind for kind in self._open if _fits(value, kind))
                if not self._open:
                    return

    @property
    def kind(self) -> Kind | None:
        """None where nothing was seen."""
        if not self._seen:
            return None
        return self._open[0] if self._open else Kind.TEXT


def _fits(value: str, kind: Kind) -> bool:
    match kind:
        case Kind.NUMBER:
            return _PLAIN.fullmatch(value) is not None
        case Kind.DATE:
            return is_date(value)
        case _:
            return value in ("true", "false")
