"""The names that a person could take for another's, and the names that operators block."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.senders.names import FILE, NamesUnreadable, blocked, entity, skeleton

SHIPPED = blocked(FILE.read_bytes())
WHOLE_LIST = b"""{"version": "af2m", "about": "the operator's", "names": [
  {"name": "AMELIINFO", "list": "forbidden", "source": "AF2M, Strictement Interdit"},
  {"name": "BANQUELUNE", "list": "authorised", "source": "AF2M, Interdit Sauf Autorisation"},
  {"name": "ANTAI", "list": "forbidden", "source": "AF2M, Strictement Interdit"}]}"""


@pytest.mark.parametrize(
    "alike",
    ["ACME", "acme", "Acme", "ACMÉ", "A C M E", "АСМЕ", "ΑCΜΕ", "acme!", "ⒶⒸⓂⒺ", "ＡＣＭＥ"],
)
def test_names_that_a_person_reads_alike_have_one_skeleton(alike: str) -> None:
    assert skeleton(alike) == "acme"


@pytest.mark.parametrize(("one", "other"), [("MAISONLUNE", "MA1S0NIUNE"), ("Sol5", "50LS"), ("Cœur", "COEUR")])
def test_letters_and_digits_alike_on_a_telephone_are_one(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize("alike", ["ACME SAS", "Acme S.A.R.L.", "SARL ACMÉ", "A.C.M.E. (SAS)", "ACME-5A", "Ⓐcme S A S"])
def test_legal_names_that_differ_by_their_form_alone_are_one(alike: str) -> None:
    assert entity(alike) == "acme"


def test_a_form_is_a_word_of_its_own_and_no_whole_name() -> None:
    assert [entity(name) for name in ("Visa", "Sasha", "SA", "SAS SA")] == ["visa", "sasha", "sa", "sas"]


def test_other_names_stay_apart() -> None:
    names = ("ACME", "ACNE", "ACME2", "MACE", "ACM", "LUNE", "MAISONLUNE")
    assert len({skeleton(name) for name in names}) == len(names)


@given(st.text(max_size=20))
def test_a_skeleton_is_its_own_and_knows_no_digit(name: str) -> None:
    assert skeleton(skeleton(name)) == skeleton(name)
    assert skeleton(skeleton(name).replace("o", "0").replace("i", "1").replace("s", "5")) == skeleton(name)


@given(st.text(st.characters(max_codepoint=0x17F, exclude_characters="µ"), max_size=20))
def test_a_skeleton_knows_no_case(name: str) -> None:
    assert skeleton(name.upper()) == skeleton(name.lower())


@pytest.mark.parametrize("name", ["ALERTE", "Colis", "AMELI", "AME1I", "C0LIS", "InfO", "Livraison", "SFR"])
def test_a_name_that_a_public_page_says_is_blocked_needs_a_document(name: str) -> None:
    assert SHIPPED.refuses(name, authorised=False) == "authorised"
    assert SHIPPED.refuses(name, authorised=True) is None


def test_an_operator_s_file_adds_names_and_the_stricter_list_counts() -> None:
    both = blocked(FILE.read_bytes(), WHOLE_LIST)
    assert both == blocked(WHOLE_LIST, FILE.read_bytes())
    assert both.refuses("Ameli-Info", authorised=True) == "forbidden"
    assert both.refuses("ANTAI", authorised=True) == "forbidden"
    assert both.refuses("BANQUE1UNE", authorised=False) == "authorised"
    assert both.refuses("ACME", authorised=False) is None


@pytest.mark.parametrize(
    "file",
    [
        b"ALERTE\nCOLIS\n",
        b'{"version": "x", "about": "y", "names": [{"name": "ALERTE", "list": "forbidden"}]}',
        b'{"version": "x", "about": "y", "names": [{"name": "ALERTE", "list": "no", "source": "z"}]}',
        b'{"version": "x", "about": "y", "names": [{"name": "!!!", "list": "forbidden", "source": "z"}]}',
    ],
)
def test_a_list_that_cannot_be_read_or_has_no_source_is_refused_whole(file: bytes) -> None:
    with pytest.raises(NamesUnreadable):
        blocked(file)
