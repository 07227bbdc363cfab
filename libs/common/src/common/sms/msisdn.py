"""Read phone numbers, as typed by a person or sent by an operator, as E.164 with a territory. Pure.

A number in international form is read as written. A national writing is read by the plan of the countries that apply:
those of the sender, or the country named by the caller or the file (`applying`). A writing with two numbers is refused
by `parse`, and stands for both in `readings`, which only measures that tighten use.

libphonenumber decides countries other than +33 and the overseas codes. An overseas mobile in metropolitan form (0690…,
+33690…), invalid to libphonenumber, moves to its own country code first (DOMAIN 6.2). No error, representation or
reason from this module repeats the number.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
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
    AMBIGUOUS = "ambiguous"  # two people's, in the countries that apply
    COUNTRY_NOT_COVERED = "country_not_covered"  # a national writing of a country without a plan here


class NumberRefused(ValueError):
    """The number cannot receive SMS, or could be two people's; the error does not keep it.

    `territories`: of each reading of an ambiguous number.
    """

    def __init__(self, reason: NumberProblem, territories: tuple[str, ...] = ()) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.territories = territories

    @property
    def remedy(self) -> str:
        """Return what to do, for people."""
        match self.reason:
            case NumberProblem.AMBIGUOUS:
                read = " and ".join(self.territories)
                return f"could be a number of {read}: write it in international form, with + and the country code"
            case NumberProblem.COUNTRY_NOT_COVERED:
                return "national writings of this country are not read: write it in international form, with +"
            case _:
                return "not a mobile number one may text"


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
HOME = "FR"


@dataclass(frozen=True, slots=True)
class Plan:
    """A national numbering plan. `trunk`: the digit written at home before a number, never after the country code."""

    code: str
    trunk: str
    source: str
    international: str = "00"  # written before the country code of an international number


_ARCEP = Plan("33", "0", "ARCEP 2018-0881: one plan for metropolitan France and the overseas departments, 0508 too")
_NANP = Plan("1", "1", "ITU-T E.164, +1: North American Numbering Plan (47 CFR 52.5)", "011")
PLANS: Mapping[str, Plan] = {  # every country and overseas place of the law's data, by ISO 3166-1
    **dict.fromkeys(("FR", "GP", "BL", "MF", "MQ", "GF", "RE", "YT", "PM"), _ARCEP),
    "NC": Plan("687", "", "ITU-T E.164, +687: six digits"),
    "PF": Plan("689", "", "ITU-T E.164, +689: eight digits"),
    "WF": Plan("681", "", "ITU-T E.164, +681: six digits"),
    "BE": Plan("32", "0", "ITU-T E.164, +32; royal decree of 27 April 2007 on the national numbering space"),
    "CA": _NANP,
    "DE": Plan("49", "0", "ITU-T E.164, +49; Bundesnetzagentur, Nummernplan Rufnummern für Mobile Dienste"),
    "ES": Plan("34", "", "ITU-T E.164, +34; Real Decreto 2296/2004, Plan nacional de numeración telefónica"),
    "GB": Plan("44", "0", "ITU-T E.164, +44; Ofcom, The National Telephone Numbering Plan"),
    "US": _NANP,
}
MIQUELON_DIGITS = 6  # at home; 0508 stands before these elsewhere in France
NANP_DIGITS = 10  # without the 1
OF_A_LINE = (NumberProblem.NOT_MOBILE, NumberProblem.MACHINE, NumberProblem.FICTIONAL)  # a number, of no person to text
FICTION = "63998"  # ARCEP reserves 06 39 98 xx xx for works of fiction
NATIONAL_DIGITS = 9  # without the 0
MAX_RAW_CHARS = 64  # longer input is prose
E164_MAX_DIGITS = 15  # ITU-T E.164

_SCHEME = re.compile(r"(?:tel|sms|callto):", re.IGNORECASE)
_QUOTES = "'\"`´‘’“”«»= \t"  # spreadsheets keep a leading zero by ="
_PARTS = re.compile(r"[(\[]?\s*(\+?)[\d\s.,/()\[\]_\-]*", re.ASCII)
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


def metropolitan(raw: str, countries: Sequence[str] = (HOME,)) -> str | None:
    """Return the E.164 of a metropolitan mobile written 06… or +336…, or `None`; as `parse`, in a sixth of the time."""
    found = _METROPOLITAN.fullmatch(raw) if _is_french(countries) else None
    return f"+33{found[1]}" if found else None


def applying(named: str | None, of_sender: Sequence[str] = (), home: str = HOME) -> tuple[str, ...]:
    """Return the countries whose national writings apply, the home of the sender first.

    named      by the caller or the file: this country alone
    of_sender  the sender's own country, then those abroad; `home`, the installation's, where there is no sender
    """
    return (named,) if named is not None else tuple(of_sender) or (home,)


def parse(raw: str, *, countries: Sequence[str] = (HOME,), fictional: bool = False) -> Msisdn:
    """Return the only mobile denoted by `raw`. Raises NumberRefused, with AMBIGUOUS for a number of two people.

    `countries`: as by `applying`. A mobile of the first is no other's for being a fixed line abroad; a mobile abroad is
    refused where the writing is any line's of another of the countries.
    `fictional` accepts 06 39 98 xx xx as a metropolitan mobile: development stacks only.
    """
    if (e164 := metropolitan(raw, countries)) is not None:
        return Msisdn(e164, "FR")
    signed, digits = _fold(raw, countries)
    if signed:
        return _international(digits, fictional)
    if countries[0] not in PLANS:
        raise NumberRefused(NumberProblem.COUNTRY_NOT_COVERED)
    read = list(_national_readings(digits, countries, fictional))
    mobiles = {each.e164: each for _, each in read if isinstance(each, Msisdn)}
    if not mobiles:
        problem = read[0][1]
        assert isinstance(problem, NumberProblem)
        raise NumberRefused(problem)
    found, *others = mobiles.values()
    at_home = found == read[0][1]
    lines = [country for country, each in read if each in OF_A_LINE]
    if others or (lines and not at_home):
        territories = (*(each.territory for each in mobiles.values()), *lines)
        raise NumberRefused(NumberProblem.AMBIGUOUS, tuple(dict.fromkeys(territories)))
    return found


def readings(raw: str, *, countries: Sequence[str] = (HOME,), fictional: bool = False) -> tuple[str, ...]:
    """Return every possible number, that of the first country first. Raises NumberRefused without a digit.

    687751234 is a French mobile without its 0 if a person wrote it, and a number in Nouméa if an operator did; to a
    sender of France and Spain, also a Spanish mobile. A measure that only tightens applies to all.
    """
    if (e164 := metropolitan(raw, countries)) is not None:
        return (e164,)
    received = as_received(raw, country=countries[0])
    try:
        signed, digits = _fold(raw, countries)
    except NumberRefused:
        if not any(char.isdigit() for char in received):
            raise
        return (received,)
    if signed:
        try:
            return (_international(digits, fictional).e164,)
        except NumberRefused:
            return (received,)
    read = _national_readings(digits, countries, fictional)
    found = [
        each.e164 if isinstance(each, Msisdn) else _line(country, digits) for country, each in read if _meant(each)
    ]
    return tuple(dict.fromkeys((*found, received)))


def any_number(raw: str, *, countries: Sequence[str] = (HOME,), fictional: bool = False) -> str:
    """Return the number as read by `parse`, or else as sent by an operator.

    Raises NumberRefused without a digit, and with AMBIGUOUS for a number of two people.
    """
    try:
        return parse(raw, countries=countries, fictional=fictional).e164
    except NumberRefused as refused:
        if refused.reason is NumberProblem.AMBIGUOUS:
            raise
        return readings(raw, countries=countries, fictional=fictional)[0]


def as_received(raw: str, *, country: str = HOME) -> str:
    """Return the number of a received message as "+digits". Never refuses: a STOP counts from any sender.

    Gives the same subject as `parse`, but an operator's number always has the country code: to a French account
    687751234 is in Nouméa here, and in `parse` two people's. `country`: of the account's public.
    """
    try:
        signed, digits = _fold(raw, (country,))
    except NumberRefused:
        decimals = (unicodedata.decimal(character, None) for character in raw)
        return "+" + "".join(str(digit) for digit in decimals if digit is not None)
    if not signed and not _is_french((country,)) and country in PLANS:
        return _received_abroad(digits, country)
    signed = signed or _names_a_code(digits)
    country_code, national = _read(signed, digits)
    if country_code is None or (country_code == "33" and not signed and len(national) != NATIONAL_DIGITS):
        return f"+{digits}"
    if country_code == "33" and not national.startswith(FICTION):
        country_code, national = _moved(national)
    return f"+{country_code}{national}"


def _received_abroad(digits: str, country: str) -> str:
    """Return the number that an operator of `country` sent without a sign: a mobile at home, else international."""
    found = _of_plan(digits, country)
    if isinstance(found, Msisdn):
        return found.e164
    plan = PLANS[country]
    if plan.trunk == "0" and digits.startswith("0"):
        return f"+{plan.code}{digits[1:]}"
    return f"+{digits}"


def _names_a_code(digits: str) -> bool:
    """Return whether `digits` are a French country code and a mobile."""
    return any(digits.startswith(code) and _MOBILE[code].fullmatch(digits.removeprefix(code)) for code in TERRITORIES)


def _is_french(countries: Sequence[str]) -> bool:
    return PLANS.get(countries[0]) is _ARCEP


def _meant(reading: Msisdn | NumberProblem) -> bool:
    return isinstance(reading, Msisdn) or reading in OF_A_LINE


def _line(country: str, digits: str) -> str:
    """Return a number of a line that is no mobile, so that a STOP covers the line."""
    return f"+{PLANS[country].code}{digits.removeprefix(PLANS[country].trunk)}"


def _national_readings(
    digits: str, countries: Sequence[str], fictional: bool
) -> Iterator[tuple[str, Msisdn | NumberProblem]]:
    """Yield (country, the mobile or the fault) for each plan that applies, a plan once, the sender's home first."""
    seen: set[str] = set()
    for country in countries:
        plan = PLANS.get(country)
        short = digits.removeprefix("0") if country == "PM" else ""
        if len(short) == MIQUELON_DIGITS and _MOBILE["508"].fullmatch(short):
            yield country, Msisdn(f"+508{short}", country)
            continue
        if plan is None or plan.code in seen:
            continue
        seen.add(plan.code)
        if plan is not _ARCEP:
            yield country, _of_plan(digits, country)
            continue
        yield country, _french(digits, fictional)
        if _names_a_code(digits):  # 687751234: in Nouméa, or a mobile without its 0
            e164 = f"+{digits}"
            yield country, Msisdn(e164, territory_of(e164))


def _of_plan(digits: str, country: str) -> Msisdn | NumberProblem:
    """Return the mobile of a national writing, or of one with the plan's code without a sign."""
    plan = PLANS[country]
    if digits.startswith(plan.code) and plan.code != plan.trunk:
        unsigned = _judged(f"{plan.code}{digits.removeprefix(plan.code).removeprefix(plan.trunk)}")
        if isinstance(unsigned, Msisdn):
            return unsigned
    national = digits
    if plan is not _NANP or len(digits) > NANP_DIGITS:
        national = digits.removeprefix(plan.trunk)
    return _judged(f"{plan.code}{national}")


def _judged(digits: str) -> Msisdn | NumberProblem:
    try:
        return _international(digits, fictional=False)
    except NumberRefused as refused:
        return refused.reason


def _french(digits: str, fictional: bool) -> Msisdn | NumberProblem:
    country_code, national = _read(False, digits)
    assert country_code is not None
    try:
        return _of_france(country_code, national, fictional)
    except NumberRefused as refused:
        return refused.reason


def _international(digits: str, fictional: bool) -> Msisdn:
    """Return the mobile of digits that begin with a country code. Raises NumberRefused."""
    country_code, national = _read(True, digits)
    return _foreign(digits) if country_code is None else _of_france(country_code, national, fictional)


def _of_france(country_code: str, national: str, fictional: bool) -> Msisdn:
    """Return the mobile of a country code of France. Raises NumberRefused."""
    if country_code == "33":
        if national.startswith(FICTION) and len(national) == NATIONAL_DIGITS:
            if fictional:
                return Msisdn(f"+33{national}", "FR")
            raise NumberRefused(NumberProblem.FICTIONAL)
        country_code, national = _moved(national)
    if not _MOBILE[country_code].fullmatch(national):
        raise NumberRefused(_problem(country_code, national))
    e164 = f"+{country_code}{national}"
    return Msisdn(e164, territory_of(e164))


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


def _fold(raw: str, countries: Sequence[str]) -> tuple[bool, str]:
    """Return (whether a country code is named, digits). Raises EMPTY or NOT_A_NUMBER.

    00 is written before a country code everywhere, and 011 where +1 applies: no number there begins with 0.
    """
    if len(raw) > MAX_RAW_CHARS:
        raise NumberRefused(NumberProblem.NOT_A_NUMBER)
    if raw[:1] == "+" and raw.isascii() and raw[1:].isdigit() and (digits := raw[1:].removeprefix("00")):
        return True, digits  # as operators write
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
    elif PLANS.get(countries[0]) is _NANP and digits.startswith(_NANP.international):
        signed, digits = True, digits.removeprefix(_NANP.international)
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


def _moved(national: str) -> tuple[str, str]:
    """Return the true (country code, number) of a national number. 0508 stands before the six digits of Miquelon."""
    if len(national) != NATIONAL_DIGITS:
        return "33", national
    if national.startswith("508") and _MOBILE["508"].fullmatch(national[3:]):
        return "508", national[3:]
    code = OVERSEAS.get(national[:3]) or OVERSEAS.get(national[:4]) or OVERSEAS.get(national[:5])
    if code is None and _MOBILE["508"].fullmatch(national) and not _MOBILE["33"].fullmatch(national):
        code = "508"  # 0708 4…
    return code or "33", national


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
