"""However a number is decorated it stays the same number, and what is accepted reads back as itself."""

import phonenumbers
from hypothesis import given
from hypothesis import strategies as st

from common.sms.msisdn import (
    PLANS,
    Msisdn,
    NumberProblem,
    NumberRefused,
    as_received,
    metropolitan,
    parse,
    readings,
    territory_of,
)

fictional_numbers = st.integers(0, 9999).map(lambda n: f"+3363998{n:04}")
foreign_numbers = st.sampled_from(["+491713920012", "+447400123456", "+12025550123"])
overseas_numbers = st.builds(
    lambda prefix, n: f"{prefix}{n:04}",
    st.sampled_from(["+59069000", "+59469420", "+59669612", "+26269212", "+26263901", "+6898712"]),
    st.integers(0, 9999),
)
separators = st.sampled_from(["", " ", ".", "-", "/", "\u00a0", "\u202f", "–", "  ", "_"])
wrappings = st.sampled_from(
    [("", ""), (" ", " "), ("'", ""), ('"', '"'), ("tel:", ""), ("\u202a", "\u202c"), ("«", "»")]
)
prefixes = st.sampled_from(["+33 ", "+33 (0)", "0033", "0", "", "33 ", "+33-0"])


def _mobiles_of(country: str) -> st.SearchStrategy[tuple[str, str]]:
    """Draw a mobile of the country: (as written at home, E.164)."""
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(country)
    assert metadata is not None
    assert metadata.mobile is not None
    assert metadata.mobile.national_number_pattern is not None
    code = phonenumbers.country_code_for_region(country)
    drawn = st.from_regex(metadata.mobile.national_number_pattern.replace("\\d", "[0-9]"), fullmatch=True)
    numbers = drawn.map(lambda national: phonenumbers.parse(f"+{code}{national}"))
    valid = numbers.filter(lambda number: phonenumbers.region_code_for_number(number) == country)
    styles = phonenumbers.PhoneNumberFormat
    return valid.map(
        lambda number: (
            phonenumbers.format_number(number, styles.NATIONAL),
            phonenumbers.format_number(number, styles.E164),
        )
    )


countries = st.sampled_from(sorted(set(PLANS) - {"BL", "MF", "YT"}))  # libphonenumber's ranges of +590 and +262 are one
written_at_home = countries.flatmap(lambda country: st.tuples(st.just(country), _mobiles_of(country)))


@given(written_at_home)
def test_a_number_written_at_home_is_that_number_in_its_country(drawn: tuple[str, tuple[str, str]]) -> None:
    country, (written, e164) = drawn
    assert parse(written, countries=(country,)).e164 == e164
    assert e164 in readings(written, countries=(country,))


@given(written_at_home, st.lists(st.sampled_from(sorted(PLANS)), max_size=4), st.data())
def test_no_countrys_writing_yields_anothers_number_and_a_stop_covers_each_reading(
    drawn: tuple[str, tuple[str, str]], others: list[str], data: st.DataObject
) -> None:
    """A sender of several countries: a consent is the person's or refused, a STOP reaches the person whatever else."""
    country, (written, e164) = drawn
    applying = data.draw(st.permutations([country, *others]))
    assert _read_in(written, applying) in (e164, NumberProblem.AMBIGUOUS)
    assert e164 in readings(written, countries=applying)


@given(st.from_regex(r"[+0-9 ().]{4,20}", fullmatch=True), st.lists(st.sampled_from(sorted(PLANS)), min_size=1))
def test_a_consents_number_is_among_the_numbers_of_a_stop(raw: str, applying: list[str]) -> None:
    read = _read_in(raw, applying)
    assert isinstance(read, NumberProblem) or readings(raw, countries=applying)[0] == read


def _read_in(written: str, applying: list[str]) -> str | NumberProblem:
    try:
        return parse(written, countries=applying).e164
    except NumberRefused as refused:
        return refused.reason


@given(fictional_numbers, st.lists(separators, min_size=8, max_size=8), wrappings, prefixes)
def test_a_decorated_number_is_the_same_number(
    e164: str, between: list[str], wrapping: tuple[str, str], prefix: str
) -> None:
    national = "".join(digit + separator for digit, separator in zip(e164[3:], [*between, ""], strict=True))
    raw = wrapping[0] + prefix + national + wrapping[1]
    assert parse(raw, fictional=True).e164 == e164
    assert as_received(raw) == e164


@given(st.one_of(fictional_numbers, overseas_numbers, foreign_numbers))
def test_what_is_accepted_reads_back_as_itself(e164: str) -> None:
    found = parse(e164, fictional=True)
    assert found.e164 == e164
    assert found.territory == territory_of(e164)
    assert as_received(e164) == e164


@given(st.one_of(st.text(), st.from_regex(r"[+0-9 ().\-]{0,24}", fullmatch=True)))
def test_any_text_is_a_number_or_is_refused_with_a_reason(raw: str) -> None:
    try:
        found = parse(raw, fictional=True)
    except NumberRefused:
        assert as_received(raw).startswith("+")
        return
    assert found.e164[0] == "+"
    assert found.e164[1:].isascii()
    assert found.e164[1:].isdigit()
    assert parse(found.e164, fictional=True) == found
    assert territory_of(found.e164) == found.territory


@given(st.from_regex(r"\+33[1-9][0-9]{7,9}|0[1-9][0-9]{7,9}", fullmatch=True))
def test_a_number_written_plainly_is_read_as_the_same_number_written_with_a_blank(raw: str) -> None:
    """Plain ones take a short way; a blank makes the parser go the long one."""
    assert _read(raw) == _read(f"{raw} ")
    if (short := metropolitan(raw)) is not None:
        assert _read(f"{raw} ") == Msisdn(short, "FR")


@given(st.from_regex(r"\+33[1-9][0-9]{8}", fullmatch=True))
def test_what_is_taken_for_a_metropolitan_mobile_is_one_to_libphonenumber(e164: str) -> None:
    number = phonenumbers.parse(e164)
    mobile = phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE
    found = _read(e164)
    assert (isinstance(found, Msisdn) and found.territory == "FR" and found.e164 == e164) == mobile


def _read(raw: str) -> Msisdn | str:
    try:
        return parse(raw)
    except NumberRefused as refused:
        return refused.reason
