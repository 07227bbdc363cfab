"""What people type and operators send, and the number it means. Every reason for a refusal has a case."""

import phonenumbers
import pytest

from common import law
from common.sms.msisdn import (
    OVERSEAS,
    PLANS,
    Msisdn,
    NumberProblem,
    NumberRefused,
    any_number,
    applying,
    as_received,
    parse,
    readings,
    territory_of,
)

MESSY = [
    "+33639981234",
    "0639981234",
    "06 39 98 12 34",
    "06.39.98.12.34",
    "06-39-98-12-34",
    "06/39/98/12/34",
    "06,39,98,12,34",
    "06_39_98_12_34",
    "(06) 39 98 12 34",
    "  0639981234\t",
    "0639 981 234",
    "+33 6 39 98 12 34",
    "+33 (0)6 39 98 12 34",
    "+33(0)639981234",
    "+330639981234",
    "0033639981234",
    "00 33 (0) 6 39 98 12 34",
    "+0033639981234",
    "33639981234",
    "33 6 39 98 12 34",
    "330639981234",
    "639981234",  # a spreadsheet took the 0
    "639981234.0",  # and made it a float
    "33639981234.0",
    "(+33) 6 39 98 12 34",
    "(+33)0639981234",
    "[+33] 6 39 98 12 34",
    "( +33 ) (0)6 39 98 12 34",
    "(0033) 6 39 98 12 34",
    "(33) 6 39 98 12 34",
    "'0639981234",
    '="0639981234"',
    '"06 39 98 12 34"',
    "« 06 39 98 12 34 »",
    "tel:+33-6-39-98-12-34",
    "TEL:0639981234",
    "sms:0639981234",
    "06\u00a039\u00a098\u00a012\u00a034",  # no-break space
    "06\u202f39\u202f98\u202f12\u202f34",  # narrow no-break space
    "06\u201139\u201198\u201112\u201134",  # non-breaking hyphen
    "06 – 39 — 98 − 12 · 34",
    "\u202a+33 6 39 98 12 34\u202c",  # the marks a phone's contact list adds
    "\ufeff0639981234",
    "０６３９９８１２３４",
    "＋３３６３９９８１２３４",
    "٠٦٣٩٩٨١٢٣٤",
]


@pytest.mark.parametrize("raw", MESSY)
def test_every_way_of_writing_a_number_folds_to_the_same(raw: str) -> None:
    assert parse(raw, fictional=True) == Msisdn("+33639981234", "FR")
    assert as_received(raw) == "+33639981234"


@pytest.mark.parametrize(
    ("raw", "e164", "territory"),
    [
        ("0690 00 12 34", "+590690001234", "GP"),
        ("0691 22 12 34", "+590691221234", "GP"),
        ("0694 20 12 34", "+594694201234", "GF"),
        ("0696 12 34 56", "+596696123456", "MQ"),
        ("0697 12 34 56", "+596697123456", "MQ"),
        ("0692 12 34 56", "+262692123456", "RE"),
        ("0693 01 23 45", "+262693012345", "RE"),
        ("0639 01 23 45", "+262639012345", "YT"),
        ("0709 00 12 34", "+590709001234", "GP"),
        ("0709 10 12 34", "+596709101234", "MQ"),
        ("0709 20 12 34", "+262709201234", "RE"),
        ("0709 30 12 34", "+594709301234", "GF"),
        ("0709 35 12 34", "+262709351234", "YT"),
        ("0708 40 12 34", "+508708401234", "PM"),
    ],
)
def test_an_overseas_mobile_moves_under_its_own_country_code(raw: str, e164: str, territory: str) -> None:
    metropolitan_mistake = "+33" + raw.replace(" ", "")[1:]
    for written in (raw, metropolitan_mistake, e164, e164.removeprefix("+"), e164[:4] + "0" + e164[4:]):
        assert parse(written) == Msisdn(e164, territory)
        assert as_received(written) == e164


@pytest.mark.parametrize(
    ("raw", "territory"),
    [("+508551234", "PM"), ("+687751234", "NC"), ("+68987123456", "PF"), ("+681721234", "WF"), ("+508708401234", "PM")],
)
def test_the_small_numbering_plans_are_known(raw: str, territory: str) -> None:
    assert parse(raw) == Msisdn(raw, territory)
    assert as_received(raw.removeprefix("+")) == raw


@pytest.mark.parametrize(
    ("raw", "e164", "territory"),
    [
        ("+49 (0)171 3920012", "+491713920012", "DE"),
        ("0044 7400 123456", "+447400123456", "GB"),
        ("+1 202-555-0123", "+12025550123", "US"),
    ],
)
def test_another_country_is_on_libphonenumbers_word(raw: str, e164: str, territory: str) -> None:
    assert parse(raw) == Msisdn(e164, territory)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("", NumberProblem.EMPTY),
        ("  ", NumberProblem.EMPTY),
        ("''", NumberProblem.EMPTY),
        ("\u200b", NumberProblem.EMPTY),
        ("non communiqué", NumberProblem.NOT_A_NUMBER),
        ("06 39 98 12 3x", NumberProblem.NOT_A_NUMBER),
        ("06 39 98 12 34 poste 5", NumberProblem.NOT_A_NUMBER),
        ("3,3639981234E+10", NumberProblem.NOT_A_NUMBER),
        ("++33639981234", NumberProblem.NOT_A_NUMBER),
        ("33+639981234", NumberProblem.NOT_A_NUMBER),
        ("+", NumberProblem.NOT_A_NUMBER),
        ("0" * 65, NumberProblem.NOT_A_NUMBER),
        ("06 39 98 12", NumberProblem.TOO_SHORT),
        ("+33 6 39 98 12 3", NumberProblem.TOO_SHORT),
        ("+32 470 12", NumberProblem.TOO_SHORT),
        ("06 39 98 12 34 5", NumberProblem.TOO_LONG),
        ("06 39 98 12 34 / 06 39 98 12 35", NumberProblem.TOO_LONG),
        ("+1234567890123456", NumberProblem.TOO_LONG),
        ("36111", NumberProblem.SHORT_CODE),
        ("36 111", NumberProblem.SHORT_CODE),
        ("+3336111", NumberProblem.SHORT_CODE),
        ("38600", NumberProblem.SHORT_CODE),
        ("3900", NumberProblem.SHORT_CODE),
        ("118 218", NumberProblem.SHORT_CODE),
        ("17", NumberProblem.SHORT_CODE),
        ("01 99 00 12 34", NumberProblem.NOT_MOBILE),
        ("+33 1 99 00 12 34", NumberProblem.NOT_MOBILE),
        ("0890 00 12 34", NumberProblem.NOT_MOBILE),
        ("09 70 00 12 34", NumberProblem.NOT_MOBILE),
        ("+590590000000", NumberProblem.NOT_MOBILE),
        ("+687 23 00 00", NumberProblem.NOT_MOBILE),
        ("+800 1234 5678", NumberProblem.NOT_MOBILE),
        ("0700 12 34 56", NumberProblem.MACHINE),
        ("0700 0123 4567 89", NumberProblem.MACHINE),
        ("0937 12 34 56", NumberProblem.MACHINE),
        ("0712 34 56 78", NumberProblem.UNASSIGNED),
        ("0723 45 67 89", NumberProblem.UNASSIGNED),
        ("0709 49 12 34", NumberProblem.UNASSIGNED),
        ("0639 12 34 56", NumberProblem.UNASSIGNED),
        ("+999 123 456", NumberProblem.UNASSIGNED),
        ("06 39 98 12 34", NumberProblem.FICTIONAL),
        ("+33639981234", NumberProblem.FICTIONAL),
        ("687 75 12 34", NumberProblem.AMBIGUOUS),
        ("681721234", NumberProblem.AMBIGUOUS),
    ],
)
def test_a_refusal_names_its_reason(raw: str, problem: NumberProblem) -> None:
    with pytest.raises(NumberRefused) as refused:
        parse(raw)
    assert refused.value.reason is problem


def test_every_reason_has_a_case() -> None:
    mark = next(m for m in test_a_refusal_names_its_reason.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    assert {case[1] for case in mark.args[1]} == set(NumberProblem) - {NumberProblem.COUNTRY_NOT_COVERED}


def test_neither_a_refusal_nor_a_representation_repeats_the_number() -> None:
    with pytest.raises(NumberRefused) as refused:
        parse("06 39 98 12 3")
    assert "39" not in f"{refused.value!r} {refused.value}"
    assert "39" not in repr(parse("06 39 98 12 34", fictional=True))


@pytest.mark.parametrize(
    ("raw", "country", "e164", "territory"),
    [
        ("0171 3920012", "DE", "+491713920012", "DE"),  # the Bundesnetzagentur's numbers for film
        ("(0171) 39 200 12", "DE", "+491713920012", "DE"),
        ("171 3920012", "DE", "+491713920012", "DE"),
        ("49 171 3920012", "DE", "+491713920012", "DE"),
        ("(202) 555-0123", "US", "+12025550123", "US"),  # 555-01xx: NANPA's for fiction
        ("1-202-555-0123", "US", "+12025550123", "US"),
        ("202.555.0123", "CA", "+12025550123", "US"),  # one plan for both
        ("416 555 0123", "US", "+14165550123", "CA"),
        ("011 49 171 3920012", "US", "+491713920012", "DE"),
        ("0690 00 12 34", "RE", "+590690001234", "GP"),  # one plan for the departments
        ("0508 55 12 34", "FR", "+508551234", "PM"),
        ("75 12 34", "NC", "+687751234", "NC"),
        ("687 75 12 34", "NC", "+687751234", "NC"),
        ("87 12 34 56", "PF", "+68987123456", "PF"),
        ("72 12 34", "WF", "+681721234", "WF"),
        ("06 39 98 12 34", "MQ", "+33639981234", "FR"),
        ("+33 6 39 98 12 34", "DE", "+33639981234", "FR"),  # in international form: whatever the country
        ("0033 6 39 98 12 34", "US", "+33639981234", "FR"),
        ("011 33 6 39 98 12 34", "US", "+33639981234", "FR"),
    ],
)
def test_a_national_writing_is_read_in_its_country(raw: str, country: str, e164: str, territory: str) -> None:
    assert parse(raw, countries=(country,), fictional=True) == Msisdn(e164, territory)
    assert readings(raw, countries=(country,), fictional=True)[0] == e164


def _example(country: str, kind: int = phonenumbers.PhoneNumberType.MOBILE) -> tuple[str, str]:
    """Return libphonenumber's example of a country, (as written at home, E.164)."""
    number = phonenumbers.example_number_for_type(country, kind)
    assert number is not None
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    return written, phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@pytest.mark.parametrize("country", sorted(set(PLANS) - {"BL", "MF"}))
def test_each_covered_country_reads_what_is_written_at_home(country: str) -> None:
    written, e164 = _example(country)
    assert parse(written, countries=(country,)).e164 == e164
    assert e164 in readings(written, countries=(country,))
    assert as_received(e164.removeprefix("+"), country=country) == e164


def test_a_plan_stands_for_each_country_and_overseas_place_of_the_laws_data() -> None:
    places = law.load("france").places.values()
    wanted = {place.code for place in places if "-" not in place.code}
    assert wanted == set(PLANS)
    assert all(plan.source for plan in PLANS.values())


def test_a_spanish_senders_number_is_no_french_strangers() -> None:
    written, spanish = _example("ES")
    assert parse(written, countries=("ES",)).e164 == spanish
    assert parse(written, countries=("ES", "BE")).e164 == spanish


def test_a_writing_with_two_peoples_numbers_is_refused_and_a_stop_covers_both() -> None:
    written, spanish = _example("ES")
    french = spanish.replace("+34", "+33")
    with pytest.raises(NumberRefused) as refused:
        parse(written, countries=("FR", "ES"))
    assert refused.value.reason is NumberProblem.AMBIGUOUS
    assert refused.value.territories == ("FR", "ES")
    assert refused.value.remedy == (
        "could be a number of FR and ES: write it in international form, with + and the country code"
    )
    assert readings(written, countries=("FR", "ES")) == (french, spanish)
    assert readings(written, countries=("ES", "FR")) == (spanish, french)
    with pytest.raises(NumberRefused):
        any_number(written, countries=("FR", "ES"))


def test_a_mobile_abroad_that_is_a_fixed_line_at_home_is_refused_and_a_stop_covers_both() -> None:
    written, belgian = _example("BE")
    line = belgian.replace("+32", "+33")
    with pytest.raises(NumberRefused) as refused:
        parse(written, countries=("FR", "BE"))
    assert refused.value.territories == ("BE", "FR")
    assert parse(written, countries=("BE", "FR")).e164 == belgian
    assert set(readings(written, countries=("FR", "BE"))) == {line, belgian}


def test_a_mobile_at_home_is_no_other_country_s_for_being_a_fixed_line_there() -> None:
    assert parse("06 39 98 12 34", countries=("FR", "DE"), fictional=True).e164 == "+33639981234"
    with pytest.raises(NumberRefused) as refused:
        parse("06 39 98 12 34", countries=("DE", "FR"), fictional=True)
    assert refused.value.reason is NumberProblem.AMBIGUOUS


@pytest.mark.parametrize("country", ["BE", "DE", "ES", "GB", "NC", "PF", "US", "WF"])
def test_no_other_country_reads_a_french_writing_as_french(country: str) -> None:
    for written in ("0639981234", "06 39 98 12 34"):
        with pytest.raises(NumberRefused):
            parse(written, countries=(country,), fictional=True)
        assert "+33639981234" not in readings(written, countries=(country,), fictional=True)


def test_a_country_without_a_plan_reads_international_forms_alone() -> None:
    assert parse("+33 6 39 98 12 34", countries=("IT", "FR"), fictional=True).e164 == "+33639981234"
    with pytest.raises(NumberRefused) as refused:
        parse("06 39 98 12 34", countries=("IT", "FR"), fictional=True)
    assert refused.value.reason is NumberProblem.COUNTRY_NOT_COVERED
    assert "+33639981234" in readings("06 39 98 12 34", countries=("IT", "FR"), fictional=True)


def test_the_caller_s_country_stands_before_the_sender_s_and_the_sender_s_before_the_installation_s() -> None:
    assert applying("ES", ("FR", "BE"), "GB") == ("ES",)
    assert applying(None, ("FR", "BE"), "GB") == ("FR", "BE")
    assert applying(None, (), "GB") == ("GB",)


EITHER, TYPED, RECEIVED = "687751234", "+33687751234", "+687751234"


def test_nine_digits_are_a_french_mobile_that_lost_its_zero_when_typed_and_noumea_when_received() -> None:
    with pytest.raises(NumberRefused) as refused:
        parse(EITHER)
    assert refused.value.territories == ("FR", "NC")
    assert as_received(EITHER) == RECEIVED
    assert readings(EITHER) == (TYPED, RECEIVED)
    assert readings(RECEIVED) == (RECEIVED,)
    assert readings("06 39 98 12 34", fictional=True) == ("+33639981234",)


@pytest.mark.parametrize(
    ("raw", "received"),
    [
        ("36111", "+36111"),
        ("01 99 00 12 34", "+33199001234"),
        ("491713920012", "+491713920012"),
        ("0712345678", "+33712345678"),
        ("06 39 98 12 34 poste 5", "+06399812345"),
        ("BANQUE", "+"),
    ],
)
def test_a_number_received_is_never_refused(raw: str, received: str) -> None:
    assert as_received(raw) == received


@pytest.mark.parametrize(
    ("e164", "territory"),
    [
        ("+33639981234", "FR"),
        ("+590690001234", "GP"),
        ("+262692123456", "RE"),
        ("+262639012345", "YT"),
        ("+262709351234", "YT"),
        ("+262709201234", "RE"),
        ("+68987123456", "PF"),
        ("+491713920012", "DE"),
        ("+12025550123", "US"),
        ("+14165550123", "CA"),
        ("+17875550123", "PR"),
        ("+18765550123", "JM"),
        ("+1", "US"),
        ("+80012345678", "??"),
        ("+", "??"),
        ("", "??"),
        ("0612345678", "??"),
    ],
)
def test_a_territory_is_read_from_the_first_digits(e164: str, territory: str) -> None:
    assert territory_of(e164) == territory


def test_moving_a_number_overseas_takes_none_from_metropolitan_france() -> None:
    for prefix in OVERSEAS:
        for filler in "0123456789":
            number = phonenumbers.parse("+33" + prefix.ljust(9, filler))
            assert not phonenumbers.is_valid_number(number)


def test_our_mobile_ranges_are_libphonenumbers() -> None:
    for block in range(600_00, 800_00):
        e164 = f"+33{block}1234"
        number = phonenumbers.parse(e164)
        expected = (
            phonenumbers.is_valid_number(number)
            and phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE
        )
        try:
            found = parse(e164).e164 == e164
        except NumberRefused:
            found = False
        assert found == expected, block
