"""Read phone numbers, as typed by a person or sent by an operator, as E.164 with a territory. Pure.

A number without a country code is French. libphonenumber decides countries other than +33 and the overseas codes. An
overseas mobile in metropolitan form (0690…, +33690…), invalid to libphonenumber, moves to its own country code first
(DOMAIN 6.2). No error, representation or reason from this module repeats the number.
"""

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import phonenumbers
from phonenumbers import NumberParseException, PhoneMetadata, PhoneNumberType


class NumberProblem(StrEnum):
    """The reason for refusing a number. Stable, for the API."""

    EMPTY = "empty"
    NOT_A_NUMBER = "not_a_number"  # letters, an extension, several signs
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    SHORT_CODE = "short_code"  # 36xxx, 3xxx, 118xxx, 17
    NOT_MOBILE = "not_mobile"  # a fixed line, a box (09), a premium number (08)
    MACHINE = "machine"  # 0700 (M2M), 0937 to 0939 (technical platforms): ARCEP 2022-1583
    UNASSIGNED = "unassigned"  # an unopened range: 071, 072, 0639 12
    FICTIONAL = "fictional"  # 06 39 98 xx xx, without `fictional`


class NumberRefused(ValueError):
    """The number cannot receive SMS; the error does not keep it."""

    def __init__(self, reason: NumberProblem) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Msisdn:
    """A mobile number with its territory (ISO 3166-1 alpha-2). GP also stands for BL and MF, which share +590."""

    e164: str
    territory: str

    def __repr__(self) -> str:
        return f"Msisdn({self.territory})"


TERRITORIES = {  # country code to territories with ranges in libphonenumber
    "33": ("FR",),
    "590": ("GP",),
    "594": ("GF",),
    "596": ("MQ",),
    "262": ("RE", "YT"),
    "508": ("PM",),
    "687": ("NC",),
    "689": ("PF",),
    "681": ("WF",),
}
# mobiles of Mayotte (DOMAIN 6.1); the rest of +262 is Réunion
MAYOTTE = ("+262639", "+2627093")
# First digits of a national number, with its true country code (DOMAIN 6.2). No prefix is a metropolitan mobile range.
OVERSEAS = {
    "690": "590",
    "691": "590",
    "7090": "590",
    "694": "594",
    "70930": "594",
    "70931": "594",
    "70932": "594",
    "70933": "594",
    "696": "596",
    "697": "596",
    "7091": "596",
    "692": "262",
    "693": "262",
    "7092": "262",
    "639": "262",
    "70935": "262",
    "70936": "262",
    "70937": "262",
}
FICTION = "63998"  # ARCEP reserves 06 39 98 xx xx for works of fiction
NATIONAL_DIGITS = 9  # without the 0
MAX_RAW_CHARS = 64  # longer input is prose
E164_MAX_DIGITS = 15  # ITU-T E.164

_SCHEME = re.compile(r"(?:tel|sms|callto):", re.IGNORECASE)
_QUOTES = "'\"`´‘’“”«»= \t"  # spreadsheets keep a leading zero by ="
_PARTS = re.compile(r"(\+?)[\d\s.,/()\[\]_\-]*", re.ASCII)
_NOT_DIGITS = re.compile(r"\D+", re.ASCII)
_SPREADSHEET = re.compile(r"\+?\d{9,}\.0", re.ASCII)  # a number column read as floats
# A French country code without a sign. Nine digits alone are a national number without its 0.
_UNSIGNED = re.compile(r"(?:33|590|594|596|262)0?[67]\d{8}", re.ASCII)
_SHORT_CODE = re.compile(r"1[0-9]{1,3}|118\d{3}|116\d{3}|[23]\d{3}|[3-8]\d{4}", re.ASCII)
_MACHINE = re.compile(r"700\d{6}|700\d{10}|93[7-9]\d{6}", re.ASCII)


def _ranges(country_code: str) -> tuple[re.Pattern[str], range]:
    """Return libphonenumber's mobile ranges and possible lengths."""
    patterns: list[str] = []
    lengths: set[int] = set()
    for territory in TERRITORIES[country_code]:
        metadata = PhoneMetadata.metadata_for_region(territory)
        assert metadata is not None
        assert metadata.mobile is not None
        assert metadata.general_desc is not None
        patterns.append(f"(?:{metadata.mobile.national_number_pattern})")
        lengths.update(metadata.general_desc.possible_length)
    return re.compile("|".join(patterns), re.ASCII), range(min(lengths), max(lengths) + 1)


_RANGES = {country_code: _ranges(country_code) for country_code in TERRITORIES}
_MOBILE = {country_code: mobile for country_code, (mobile, _) in _RANGES.items()}
_METROPOLITAN = re.compile(rf"(?:0|\+33)({_MOBILE['33'].pattern})", re.ASCII)
_FICTIONAL = re.compile(rf"\+33{FICTION}\d{{4}}", re.ASCII)


def metropolitan(raw: str) -> str | None:
    """Return the E.164 of a metropolitan mobile written 06… or +336…, or `None`; as `parse`, in a sixth of the time."""
    found = _METROPOLITAN.fullmatch(raw)
    return f"+33{found[1]}" if found else None


def parse(raw: str, *, fictional: bool = False) -> Msisdn:
    """Return the mobile denoted by `raw`, read as French unless `raw` names a country. Raises NumberRefused.

    `fictional` accepts 06 39 98 xx xx as a metropolitan mobile: development stacks only.
    """
    if (e164 := metropolitan(raw)) is not None:
        return Msisdn(e164, "FR")
    signed, digits = _fold(raw)
    country_code, national = _read(signed, digits)
    if country_code is None:
        return _foreign(digits)
    if country_code == "33":
        if national.startswith(FICTION) and len(national) == NATIONAL_DIGITS:
            if fictional:
                return Msisdn(f"+33{national}", "FR")
            raise NumberRefused(NumberProblem.FICTIONAL)
        country_code = _moved(national)
    if not _MOBILE[country_code].fullmatch(national):
        raise NumberRefused(_problem(country_code, national))
    e164 = f"+{country_code}{national}"
    return Msisdn(e164, territory_of(e164))


def readings(raw: str, *, fictional: bool = False) -> tuple[str, ...]:
    """Return the possible numbers, that of `parse` first. Raises NumberRefused without a digit.

    687751234 is a French mobile without its 0 if a person wrote it, and a number in Nouméa if an operator did. A
    measure that only tightens applies to both.
    """
    if (e164 := metropolitan(raw)) is not None:
        return (e164,)
    received = as_received(raw)
    try:
        read = parse(raw, fictional=fictional).e164
    except NumberRefused:
        if not any(char.isdigit() for char in received):
            raise
        return (received,)
    return (read,) if read == received else (read, received)


def any_number(raw: str, *, fictional: bool = False) -> str:
    """Return the number as read by `parse`, or else as sent by an operator. Raises NumberRefused without a digit."""
    return readings(raw, fictional=fictional)[0]


def as_received(raw: str) -> str:
    """Return the number of a received message as "+digits". Never refuses: a STOP counts from any sender.

    Gives the same subject as `parse`, but an operator's number always has the country code: 687751234 is in Nouméa here
    and a French mobile in `parse`.
    """
    try:
        signed, digits = _fold(raw)
    except NumberRefused:
        decimals = (unicodedata.decimal(character, None) for character in raw)
        return "+" + "".join(str(digit) for digit in decimals if digit is not None)
    signed = signed or any(
        digits.startswith(code) and _MOBILE[code].fullmatch(digits.removeprefix(code)) for code in TERRITORIES
    )
    country_code, national = _read(signed, digits)
    if country_code is None or (country_code == "33" and not signed and len(national) != NATIONAL_DIGITS):
        return f"+{digits}"
    if country_code == "33" and not national.startswith(FICTION):
        country_code = _moved(national)
    return f"+{country_code}{national}"


def territory_of(e164: str) -> str:
    """Return the territory of an E.164 number; "??" for an unknown code. Never raises."""
    if e164.startswith("+33"):
        return "FR"
    if e164.startswith(MAYOTTE):
        return "YT"
    if e164.startswith("+1"):
        return _north_american(e164[2:5])
    for length in (4, 3, 2):  # "+" and a country code of 3, 2 or 1 digits
        if (territory := _COUNTRIES.get(e164[:length])) is not None:
            return territory
    return "??"


_COUNTRIES = {
    f"+{code}": regions[0]
    for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items()
    if regions[0] != phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY
} | {f"+{code}": territories[0] for code, territories in TERRITORIES.items()}


@lru_cache(maxsize=1024)
def _north_american(area_code: str) -> str:
    """Return the country of an area code of +1."""
    for region in phonenumbers.COUNTRY_CODE_TO_REGION_CODE[1][1:]:
        metadata = PhoneMetadata.metadata_for_region(region)
        assert metadata is not None
        assert metadata.mobile is not None
        pattern = metadata.leading_digits or f"(?:{metadata.mobile.national_number_pattern})$"
        if re.match(pattern, f"{area_code}2345678"):
            return str(region)
    return "US"


def _fold(raw: str) -> tuple[bool, str]:
    """Return (whether a country code is named, digits). Raises EMPTY or NOT_A_NUMBER."""
    if len(raw) > MAX_RAW_CHARS:
        raise NumberRefused(NumberProblem.NOT_A_NUMBER)
    text = raw if raw.isascii() else _ascii(raw)
    text = _SCHEME.sub("", text.strip(_QUOTES), count=1).strip(_QUOTES)
    if not text:
        raise NumberRefused(NumberProblem.EMPTY)
    if _SPREADSHEET.fullmatch(text):
        text = text[:-2]
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise NumberRefused(NumberProblem.NOT_A_NUMBER)
    digits = _NOT_DIGITS.sub("", text)
    signed = bool(parts[1]) or digits.startswith("00")
    if signed:
        digits = _NOT_DIGITS.sub("", text.replace("(0)", "", 1)).removeprefix("00")  # +49 (0)…
    if not digits:
        raise NumberRefused(NumberProblem.NOT_A_NUMBER)
    return signed, digits


def _ascii(raw: str) -> str:
    """Return digits, dashes and spaces of any script as ASCII, without invisible marks."""
    folded = []
    for character in unicodedata.normalize("NFKC", raw):
        category = unicodedata.category(character)
        if category == "Nd":
            folded.append(str(unicodedata.decimal(character)))
        elif category == "Pd" or character == "−":
            folded.append("-")
        elif category in ("Zs", "Zl", "Zp"):
            folded.append(" ")
        elif character in "·•":
            folded.append(".")
        elif category != "Cf":
            folded.append(character)
    return "".join(folded)


def _read(signed: bool, digits: str) -> tuple[str | None, str]:
    """Return (French country code, national number without its 0), or (`None`, …) for another country."""
    if not signed and not _UNSIGNED.fullmatch(digits):
        return "33", digits.removeprefix("0")
    for length in (2, 3):
        if (country_code := digits[:length]) in TERRITORIES:
            return country_code, digits[length:].removeprefix("0")  # +33 (0)6…: no mobile range begins with 0
    return None, digits


def _moved(national: str) -> str:
    """Return the true country code of a national number."""
    if len(national) != NATIONAL_DIGITS:
        return "33"
    return OVERSEAS.get(national[:3]) or OVERSEAS.get(national[:4]) or OVERSEAS.get(national[:5]) or "33"


def _problem(country_code: str, national: str) -> NumberProblem:
    """Return the reason for a refusal."""
    _, lengths = _RANGES[country_code]
    if _MACHINE.fullmatch(national):
        return NumberProblem.MACHINE
    if _SHORT_CODE.fullmatch(national):
        return NumberProblem.SHORT_CODE
    if len(national) < lengths.start:
        return NumberProblem.TOO_SHORT
    if len(national) >= lengths.stop:
        return NumberProblem.TOO_LONG
    if len(national) == NATIONAL_DIGITS and national.startswith(("6", "7")):
        return NumberProblem.UNASSIGNED
    return NumberProblem.NOT_MOBILE


def _foreign(digits: str) -> Msisdn:
    """Return another country's mobile, as judged by libphonenumber."""
    if len(digits) > E164_MAX_DIGITS:
        raise NumberRefused(NumberProblem.TOO_LONG)
    try:
        number = phonenumbers.parse(f"+{digits}")
    except NumberParseException as error:
        short = error.error_type in (NumberParseException.TOO_SHORT_NSN, NumberParseException.TOO_SHORT_AFTER_IDD)
        raise NumberRefused(NumberProblem.TOO_SHORT if short else NumberProblem.UNASSIGNED) from None
    if not phonenumbers.is_valid_number(number):
        match phonenumbers.is_possible_number_with_reason(number):
            case phonenumbers.ValidationResult.TOO_SHORT:
                raise NumberRefused(NumberProblem.TOO_SHORT)
            case phonenumbers.ValidationResult.TOO_LONG:
                raise NumberRefused(NumberProblem.TOO_LONG)
            case _:
                raise NumberRefused(NumberProblem.UNASSIGNED)
    if phonenumbers.number_type(number) not in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE):
        raise NumberRefused(NumberProblem.NOT_MOBILE)
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return Msisdn(e164, territory_of(e164))
