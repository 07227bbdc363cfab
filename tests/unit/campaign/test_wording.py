"""Languages, and characters replaced by their likes (DOMAIN 5.4)."""

import pytest

from campaign.message.folding import Change, Folding, changes, folded, of_author, of_contact, plain, typographic
from campaign.message.short_link import any_token
from campaign.message.text import TextProblem, TextRefused
from campaign.message.wording import wording
from common.sms.sms_length import length


@pytest.mark.parametrize(
    ("text", "typographic_only", "without_accents"),
    [
        ("L’offre « d’été »…", "L'offre \" d'été \"...", "L'offre \" d'été \"..."),
        ("10\u00a0% – 20\u202f%", "10 % - 20 %", "10 % - 20 %"),
        ("À bientôt, cœur", "À bientôt, cœur", "A bientot, coeur"),
        ("é è à ù É Ç ö ñ €", "é è à ù É Ç ö ñ €", "é è à ù É Ç ö ñ €"),
        ("ça, Noël, Łódź, Ÿ", "ça, Noël, Łódź, Ÿ", "ca, Noel, Lodz, Y"),
        ("e\u0301te\u0301", "été", "été"),
        ("😀 漢", "😀 漢", "😀 漢"),
    ],
)
def test_likes_replace_what_gsm_7_lacks(text: str, typographic_only: str, without_accents: str) -> None:
    assert folded(text, typographic) == typographic_only
    assert folded(text, plain) == without_accents
    assert folded(text, None) == text


def test_what_is_replaced_is_told_with_its_place() -> None:
    assert changes("L’été, ça", plain) == (Change(2, "’", "'"), Change(8, "ç", "c"))
    assert changes("e\u0301 ’", typographic) == (Change(1, "e\u0301", "é"), Change(4, "’", "'"))


def test_each_step_does_what_the_one_before_does_and_names_come_last() -> None:
    author = [of_author(how) for how in Folding]
    contact = [of_contact(how) for how in Folding]
    assert author == [None, typographic, plain, plain]
    assert contact == [None, typographic, typographic, plain]


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ("none", "Benoît D’A, à l’hôtel STOP au 36111"),
        ("typographic", "Benoît D'A, à l'hôtel STOP au 36111"),
        ("accents", "Benoît D'A, à l'hotel STOP au 36111"),
        ("names", "Benoit D'A, à l'hotel STOP au 36111"),
    ],
)
def test_a_name_keeps_its_accents_unless_the_author_says_otherwise(chosen: str, text: str) -> None:
    spoken = wording("{name}, à {place|l’hôtel} {stop}", "fr", {}, chosen)
    assert spoken.render({"name": "Benoît D’A"}, "36111", any_token) == text
    assert (length(text).encoding == "GSM7") is (chosen == "names")


def test_a_condition_compares_what_the_contact_holds_and_not_what_is_written() -> None:
    spoken = wording("{if city = Nîmes}{city}{else}ailleurs{end} {stop}", "fr", {}, "names")
    assert spoken.render({"city": "Nîmes"}, "36111", any_token) == "Nimes STOP au 36111"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        (None, "Bonjour"),
        ("", "Bonjour"),
        ("fr", "Bonjour"),
        ("de", "Bonjour"),
        ("en", "Hello"),
        ("EN", "Hello"),
        (" en-GB", "Hello"),
        ("es_MX", "Hola"),
    ],
)
def test_a_contact_is_written_to_in_its_language_or_in_the_campaigns(language: str | None, text: str) -> None:
    spoken = wording("Bonjour", "fr", {"en": "Hello", "es": "Hola"}, "none")
    assert spoken.render({} if language is None else {"language": language}, "36111", any_token) == text


def test_what_every_language_needs_is_required_and_the_rest_of_who_speaks_it() -> None:
    spoken = wording("{name} {city}", "fr", {"en": "{name} {town}"}, "none")
    assert spoken.required == ("name",)
    assert spoken.fields == ("name", "city", "town")
    assert spoken.missing({"name": "Zoé", "language": "en", "city": "Nîmes"}) == "town"
    assert spoken.missing({"name": "Zoé", "city": "Nîmes"}) is None


def test_a_translation_is_parsed_like_the_text() -> None:
    with pytest.raises(TextRefused) as found:
        wording("Bonjour", "fr", {"en": "Hello {"}, "none")
    assert found.value.reason is TextProblem.BRACE_ALONE
