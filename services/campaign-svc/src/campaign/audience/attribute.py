"""Define the kinds of contact attributes and the stored form of each kind. Pure.

A kind has a single stored form, so templates print and databases compare the stored text. A kind is inferred only if
all values have the stored form, and never from the digits of an identifier (a postcode, a SIRET).
"""

import re
from collections.abc import Iterable
from datetime import date
from enum import StrEnum

MAX_CHARS = 200


class Kind(StrEnum):
    """The kind of an attribute's values."""

    TEXT = "text"
    NUMBER = "number"  # at most 15 digits before the point, 6 after
    DATE = "date"
    BOOLEAN = "boolean"


# Stored forms. `segment_language` tests the same patterns: any other value meets no comparison.
NUMBER = r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$"
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"

POSTCODE = "postcode"  # of the sender's country
TIMEZONE = "timezone"  # overrides the zone of the number (DOMAIN 6.3)
LANGUAGE = "language"
NAMES = frozenset({POSTCODE, "code_postal", "cp", "zip", "zip_code", "siret", "siren", TIMEZONE, LANGUAGE})

_NUMBER = re.compile(NUMBER.removesuffix("$"), re.ASCII)
_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?", re.ASCII)  # longer, or with a leading 0: an identifier
_DATE = re.compile(DATE.removesuffix("$"), re.ASCII)
_EUROPEAN = re.compile(r"([0-9]{1,2})[/.-]([0-9]{1,2})[/.-]([0-9]{4})", re.ASCII)
_GROUPING = re.compile("[ \u00a0\u202f']")  # thousands separators
_BOOLEANS = dict.fromkeys(("true", "oui", "yes", "vrai", "1", "o", "y"), "true") | dict.fromkeys(
    ("false", "non", "no", "faux", "0", "n"), "false"
)
_INFERRED = (Kind.NUMBER, Kind.DATE, Kind.BOOLEAN)


def kept(raw: str, kind: Kind) -> str | None:
    """Return `raw`, not empty, in the stored form of `kind`, if possible."""
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
    """Return whether `raw` is a day in stored form."""
    if not _DATE.fullmatch(raw):
        return False
    try:
        date.fromisoformat(raw)
    except ValueError:
        return False
    return True


class Inference:
    """The kind of a column, inferred from the values seen so far."""

    def __init__(self, name: str) -> None:
        self._open: tuple[Kind, ...] = () if name in NAMES or name == "id" or name.endswith("_id") else _INFERRED
        self._seen = False

    @property
    def settled(self) -> bool:
        """Return whether the kind can only be text."""
        return self._seen and not self._open

    def see(self, values: Iterable[str]) -> None:
        """Narrow the kind by these values."""
        for value in values:
            if value:
                self._seen = True
                self._open = tuple(kind for kind in self._open if _fits(value, kind))
                if not self._open:
                    return

    @property
    def kind(self) -> Kind | None:
        """Return the kind, or `None` before the first value."""
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
