"""Placeholders of other products: found wherever a copied text may have them, and never in a plain text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.texts.placeholders import placeholders


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("Bonjour {{ first_name }}", "{first_name}"),
        ("Bonjour {{contact.FIRSTNAME}}", "{first_name}"),
        ('Bonjour {{ contact.PRENOM | default: "cher client" }}', "{first_name|cher client}"),
        ("Bonjour {{ person.first_name|default:'vous' }}", "{first_name|vous}"),
        ("Bonjour {{{city}}}", "{city}"),
        ("Bonjour {{ loyalty-level }}", "{loyalty_level}"),
        ("Bonjour ${first_name}", "{first_name}"),
        ("Bonjour #{nom}", "{last_name}"),
        ("Bonjour %FIRSTNAME%", "{first_name}"),
        ("Bonjour %%prenom%%, %LOYALTY%", "{first_name}"),
        ("Bonjour %prenom%", "{first_name}"),
        ("Bonjour ((name))", "{name}"),
        ("Bonjour ((first name??Zoé))", "{first_name}"),
        ("Bonjour *|FNAME|*", "{first_name}"),
        ("Bonjour [NAME]", "{name}"),
        ("Bonjour [First Name]", "{first_name}"),
        ("Bonjour [[points]]", "{points}"),
        ("Bonjour %UNSUBSCRIBE%", "{stop}"),
    ],
)
def test_a_placeholder_of_another_product_is_found_and_rewritten(text: str, instead: str) -> None:
    [found, *_] = placeholders(text)
    assert (found.at, found.instead) == (9, instead)
    assert text[8:].startswith(found.found)


@pytest.mark.parametrize(
    "text",
    [
        "{first_name|Bonjour}, -20 % chez Maison Lune. {stop}",
        "{if points > 100}Or{else if vip}Argent{end} {link https://lune.example/%E2%82%AC/%AB%CD%EF}",
        "{{ 20 }} et {{le code}}, {{{first_name} }}",
        "[PROMO] -20%PUIS30% et -50%ou-30%, (dès 20 €), [36111]",
        "100% coton, 50% soie : 3((2)) * | *",
        "Prix : 20% (ou 30%) et 10%",
    ],
)
def test_a_plain_text_has_none(text: str) -> None:
    assert list(placeholders(text)) == []


def test_no_text_takes_long() -> None:
    """A name that could be read in two ways at each underscore would take longer than a test may."""
    for opening in ("((", "{{", "[", "*|", "${"):
        assert list(placeholders(opening + "a_" * 990 + "!")) == []


@given(st.text("{}%$#[]()|*abA _-.é1:?\"'", max_size=60))
def test_any_text_is_read_and_each_placeholder_stands_where_it_is_said_to(text: str) -> None:
    for found in placeholders(text):
        assert text[found.at - 1 :].startswith(found.found)
        assert found.instead.startswith("{")
        assert found.instead.endswith("}")
