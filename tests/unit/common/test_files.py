"""The encoding, the columns and the instants of uploaded files."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from common.files import columns
from common.files.charset import decided, seen_in
from common.files.columns import Kind, Meaning, taken
from common.files.instants import InstantProblem, Order, instant
from common.files.refused import FileRefused


@pytest.mark.parametrize(
    ("text", "charset", "found"),
    [
        ("Zoé", "utf-8", "utf-8"),
        ("Zoe", "ascii", "utf-8"),
        ("Zoé, 5 ’ € œ", "cp1252", "windows-1252"),
        ("Zoé habite à Nîmes", "cp1252", "windows-1252"),  # the same letters in both
        ("le cœur", "iso8859-15", "iso-8859-15"),
        ("Œuvre", "iso8859-15", "iso-8859-15"),
        ("12 €", "iso8859-15", "iso-8859-15"),
        ("1 ½ pain", "cp1252", "windows-1252"),
        ("rue de l´Avenue", "cp1252", "windows-1252"),
        ("CAFÉ\u00a0» et «\u00a0THÉ", "cp1252", "windows-1252"),
    ],
)
def test_an_encoding_is_decided_by_evidence(text: str, charset: str, found: str) -> None:
    assert decided(seen_in(text.encode(charset))) == found


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("Zoé\n".encode() + "Zoé\n".encode("cp1252"), "charset"),
        ("André Hélène".encode("mac-roman"), "charset"),
        ("prénom Hélène".encode("cp850"), "charset"),
        (b"\x81", "charset"),
        (b"Dupont \xa8 fils", "charset_unclear"),
        ("cœur".encode("iso8859-15") + "l’œuf".encode("cp1252"), "charset_unclear"),
    ],
)
def test_a_doubtful_encoding_is_refused_and_never_guessed(body: bytes, reason: str) -> None:
    with pytest.raises(FileRefused) as refused:
        decided(seen_in(body))
    assert refused.value.reason == reason


PRESTASHOP_ADDRESSES = [
    "Address ID",
    "Alias*",
    "Active (0/1)",
    "Customer e-mail*",
    "Customer ID",
    "Manufacturer",
    "Supplier",
    "Company",
    "Lastname*",
    "Firstname*",
    "Address 1*",
    "Address 2",
    "Zipcode*",
    "City*",
    "Country*",
    "State",
    "Other",
    "Phone",
    "Mobile Phone",
    "VAT number",
    "DNI",
]
PRESTASHOP_CUSTOMERS = [
    "Customer ID",
    "Active (0/1)",
    "Titles ID (Mr = 1, Ms = 2, else 0)",
    "Email *",
    "Birthday (yyyy-mm-dd)",
    "Last Name *",
    "First Name *",
    "Newsletter (0/1)",
    "Opt-in (0/1)",
    "Registration date (yyyy-mm-dd)",
    "Groups (x,y,z...)",
    "Default group ID",
]
WOOCOMMERCE = [
    "ID",
    "customer_id",
    "user_login",
    "user_email",
    "user_registered",
    "display_name",
    "first_name",
    "last_name",
    "roles",
    "billing_first_name",
    "billing_last_name",
    "billing_company",
    "billing_email",
    "billing_phone",
    "billing_address_1",
    "billing_city",
    "billing_postcode",
    "billing_country",
    "shipping_first_name",
    "shipping_last_name",
    "shipping_city",
    "shipping_phone",
]


@pytest.mark.parametrize("kind", ["consents", "suppressions"])
@pytest.mark.parametrize(("titles", "number"), [(PRESTASHOP_ADDRESSES, "Mobile Phone"), (WOOCOMMERCE, "billing_phone")])
def test_a_shop_s_export_fits_unchanged_and_gives_no_consent_of_its_own(
    titles: list[str], number: str, kind: Kind
) -> None:
    found = taken(titles, kind)
    assert [each.title for each in found if each.meaning is Meaning.NUMBER] == [number]
    assert {each.meaning for each in found} <= {Meaning.NUMBER, Meaning.OTHER_NUMBER, Meaning.OF_NO_USE}


def test_offers_by_e_mail_and_dates_of_registration_are_no_consent() -> None:
    assert {each.meaning for each in taken(PRESTASHOP_CUSTOMERS, "consents")} == {Meaning.OF_NO_USE}


def test_a_title_means_one_thing_in_a_kind_of_file() -> None:
    for kind in ("consents", "suppressions", "contacts", "provider_list"):
        assert all(columns.plain(title) == title for title in columns.titles_of(kind))
    assert columns.titles_of("suppressions")["consent_date"] is Meaning.OF_NO_USE
    assert columns.titles_of("consents")["unsubscribed_at"] is Meaning.OPTED_OUT_AT


@pytest.mark.parametrize(
    ("said", "order", "found"),
    [
        ("03/11/2026 14:05", "day_first", datetime(2026, 11, 3, 13, 5, tzinfo=UTC)),
        ("03/11/2026 14:05", "month_first", datetime(2026, 3, 11, 13, 5, tzinfo=UTC)),
        ("03/11/2026 14:05", None, InstantProblem.AMBIGUOUS_DAY),
        ("13/11/2026 14:05", None, datetime(2026, 11, 13, 13, 5, tzinfo=UTC)),
        ("11/13/2026 2:05 PM", None, datetime(2026, 11, 13, 13, 5, tzinfo=UTC)),
        ("13/11/2026 14:05", "month_first", InstantProblem.NOT_VALID),
        ("11/11/2026 00:05", None, datetime(2026, 11, 10, 23, 5, tzinfo=UTC)),
        ("2026-11-13T13:05:00.1234567Z", None, datetime(2026, 11, 13, 13, 5, 0, 123456, tzinfo=UTC)),
        ("2026-11-13 13:05:00 UTC", None, datetime(2026, 11, 13, 13, 5, tzinfo=UTC)),
        ("25/10/2026 02:30", None, InstantProblem.AMBIGUOUS_CLOCK),
        ("29/03/2026 02:30", None, InstantProblem.AMBIGUOUS_CLOCK),
        ("13/11/2026", None, InstantProblem.WITHOUT_TIME),
        ("13/11/2026 24:05", None, InstantProblem.NOT_VALID),
        ("13/11/2026 13:05 PM", None, InstantProblem.NOT_VALID),
        ("0001-01-01T00:00:00+23:59", None, InstantProblem.NOT_VALID),
    ],
)
def test_an_instant_is_read_by_what_is_stated(said: str, order: Order | None, found: datetime | InstantProblem) -> None:
    assert instant(said, ZoneInfo("Europe/Paris"), order) == found


def test_a_local_time_without_a_zone_is_refused() -> None:
    assert instant("13/11/2026 14:05") is InstantProblem.WITHOUT_ZONE
    assert instant("2026-11-13T14:05") is InstantProblem.WITHOUT_ZONE
