"""Name and check the fields of a contact, from a file or a request. Pure.

No refusal repeats a number.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from zoneinfo import available_timezones

from campaign.audience.attribute import MAX_CHARS, TIMEZONE, Kind, kept
from campaign.message.text import STOP_FIELD
from common.sms.msisdn import NumberProblem

MAX_COLUMNS = 60
MAX_ATTRIBUTES = 200  # unknown, in an NDJSON file


class LineProblem(StrEnum):
    """Reasons for refusing a line, besides NumberProblem. An attribute's name follows after a colon."""

    NOT_CSV = "not_csv"
    TOO_MANY_CELLS = "too_many_cells"
    ATTRIBUTE_TOO_LONG = "attribute_too_long"
    NO_NUMBER = "no_number"
    NO_DATE = "no_date"
    NO_BOOLEAN = "no_boolean"
    NO_TIMEZONE = "no_timezone"
    CUT_OFF = "cut_off"
    NOT_AN_OBJECT = "not_an_object"
    NUMBER_COLUMN_MISSING = "number_column_missing"
    COLUMN_TWICE = "column_twice"
    RESERVED_COLUMN = "reserved_column"
    NUMBER_IN_TITLE = "number_in_title"
    TOO_MANY_COLUMNS = "too_many_columns"
    TOO_MANY_ATTRIBUTES = "too_many_attributes"
    ERASED = "erased"


EXPLANATIONS: dict[str, str] = {
    NumberProblem.EMPTY: "no number",
    NumberProblem.NOT_A_NUMBER: "something in it is no part of a number",
    NumberProblem.TOO_SHORT: "digits are missing",
    NumberProblem.TOO_LONG: "too many digits, or two numbers",
    NumberProblem.SHORT_CODE: "a short code, not a subscriber",
    NumberProblem.NOT_MOBILE: "a fixed line or a special number",
    NumberProblem.MACHINE: "a number kept for machines",
    NumberProblem.UNASSIGNED: "a range that is not in use",
    NumberProblem.FICTIONAL: "a range kept for fiction",
    NumberProblem.AMBIGUOUS: "could be two people's: write it in international form, with + and the country code",
    NumberProblem.COUNTRY_NOT_COVERED: "of a country without a known plan: write it in international form, with +",
    LineProblem.NOT_CSV: "a quote in the wrong place, or a line end within a cell without quotes",
    LineProblem.TOO_MANY_CELLS: "more cells than the header has columns",
    LineProblem.ATTRIBUTE_TOO_LONG: f"a value of more than {MAX_CHARS} characters",
    LineProblem.NO_NUMBER: "the attribute holds numbers, and this is none",
    LineProblem.NO_DATE: "the attribute holds dates, and this is none",
    LineProblem.NO_BOOLEAN: "the attribute holds yes or no, and this is neither",
    LineProblem.NO_TIMEZONE: "no time zone of that name, as in Europe/Paris",
    LineProblem.CUT_OFF: "the file ends in the middle of this line",
    LineProblem.NOT_AN_OBJECT: "not a JSON object of texts, numbers, true, false and null",
    LineProblem.NUMBER_COLUMN_MISSING: "no field for the number",
    LineProblem.COLUMN_TWICE: "two fields have the same name",
    LineProblem.RESERVED_COLUMN: f"{STOP_FIELD!r} is the STOP mention in a text, and cannot be a field",
    LineProblem.NUMBER_IN_TITLE: "a field's name looks like a phone number: name the field, and put the number below",
    LineProblem.TOO_MANY_COLUMNS: f"more than {MAX_COLUMNS} fields",
    LineProblem.TOO_MANY_ATTRIBUTES: f"with it the file would have more than {MAX_ATTRIBUTES} fields that nobody knew",
    LineProblem.ERASED: "erased at their own request; new evidence of consent brings them back, no file does",
}
_NOT_OF_KIND = {
    Kind.NUMBER: LineProblem.NO_NUMBER,
    Kind.DATE: LineProblem.NO_DATE,
    Kind.BOOLEAN: LineProblem.NO_BOOLEAN,
}


def plain(value: float | bool | None) -> str:
    """Return a JSON value as written in CSV."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case _:
            return str(value)


def against(attributes: dict[str, str], typed: Iterable[tuple[str, Kind]], *, short: bool = False) -> str | None:
    """Return why the attributes are refused, if at all; rewrite values to stored form.

    `typed`: attributes of a kind other than text. `short`: no value can exceed MAX_CHARS.
    """
    if not short and attributes and max(map(len, attributes.values())) > MAX_CHARS:
        return LineProblem.ATTRIBUTE_TOO_LONG
    for name, kind in typed:
        if value := attributes.get(name):
            written = kept(value, kind)
            if written is None:
                return f"{_NOT_OF_KIND[kind]}:{name}"
            attributes[name] = written
    if (zone := attributes.get(TIMEZONE)) and zone not in _zones():
        return f"{LineProblem.NO_TIMEZONE}:{TIMEZONE}"
    return None


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
