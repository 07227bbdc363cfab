"""A phone number in a name is found in every writing, and a date, a price or an identifier is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.sms.labels import holds_a_number
from tests.support.builders import number


@pytest.mark.parametrize(
    "name",
    [
        "0639981234",
        "Relance de Zoé, 06 39 98 12 34",
        "06.39.98.12.34",
        "zoe-06-39-98-12-34",
        "06_39_98_12_34",
        "tel0639981234",
        "0639 98 12 34",
        "33639981234",
        "+33639981234",
        "+33 (0)6 39 98 12 34",
        "0033 6 39 98 12 34",
        "n°0 6 3 9 9 8 1 2 3 4",
        "＋３３６３９９８１２３４",
        "٠٦٣٩٩٨١٢٣٤",
        "+1 202 555 0123",
        "2026-06-01, 0639981234",
        "commande 4, 06 39 98 12 34",
    ],
)
def test_a_number_in_a_name_is_found(name: str) -> None:
    assert holds_a_number(name)


@pytest.mark.parametrize(
    "name",
    [
        "Soldes d'hiver",
        "Soldes du 06/07/2026 10h",
        "Soldes 06/06-07/07/26",
        "20260630100000",
        "campagne 2026-06-30 10:00:00",
        "tpl-0123456789abcdef01234567",
        "f47ac10b-58cc-4372-a567-0612345678ab",
        "36179 et 38017",
        "+2 000 points",
        "1 000 000 000 €",
        "sku 4006381333931",
        "06399812345",
        "10639981234",
        "",
    ],
)
def test_other_digits_are_no_number(name: str) -> None:
    assert not holds_a_number(name)


@given(st.integers(0, 9999), st.sampled_from(["", " ", ".", "-", "_", "/"]), st.text(alphabet="abc ,;Zé"))
def test_a_number_is_found_wherever_it_stands(n: int, between: str, around: str) -> None:
    digits = "0" + number(n).removeprefix("+33")
    written = between.join(digits[at : at + 2] for at in range(0, 10, 2))
    assert holds_a_number(f"{around} {written} {around}")
