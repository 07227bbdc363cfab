"""Whatever a sender writes for its answers, none that passes sells anything: by a list that the test holds."""

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from common.contracts.consent import Replies
from consent.answers.own_words import FIELDS, Author, Field, flaws_of
from consent.answers.replies import Identity, contact, started, stopped
from tests.unit.consent.test_own_words import GOOD, LUNE

# the test's own list, never the product's
SELLS = (
    "promo", "soldes", "remise", "réduction", "offre", "offert", "gratuit", "cadeau", "vente privée", "bon plan",
    "profitez", "dernière chance", "black friday", "-20 %", "-5%", "9,99 €", "12 euros", "http://x.example/a",
)  # fmt: skip
ORDINARY = (
    "bonjour",
    "merci",
    "à",
    "bientôt",
    "en",
    "boutique",
    "nos",
    "SMS",
    "plus",
    "Maison Lune",
    "service",
    "-",
    ",",
)

fields = st.sampled_from(FIELDS)


def plain(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text)
    return "".join(char for char in apart if not unicodedata.combining(char)).casefold()


def sells(text: str) -> bool:
    words = plain(text)
    return any(re.search(rf"(?<!\w){re.escape(plain(word))}(?!\w)", words) for word in SELLS)


@st.composite
def advert_in(draw: st.DrawFn, field: Field) -> str:
    """Good words with an advert at some place between two words, in some case and spelling."""
    words = GOOD[field].split(" ")
    advert = draw(st.sampled_from(SELLS))
    spelt = draw(st.sampled_from((advert, advert.upper(), advert.title(), plain(advert))))
    at = draw(st.integers(0, len(words)))
    return " ".join((*words[:at], spelt, *words[at:]))


@given(fields.flatmap(lambda field: st.tuples(st.just(field), advert_in(field))))
def test_an_advert_is_found_wherever_it_stands_and_however_it_is_written(case: tuple[Field, str]) -> None:
    assert flaws_of(*case, LUNE)


@given(fields, st.lists(st.sampled_from((*SELLS, *ORDINARY)), max_size=12))
def test_words_that_pass_have_no_word_of_the_list(field: Field, more: list[str]) -> None:
    words = " ".join((GOOD[field], *more))
    if not flaws_of(field, words, LUNE):
        assert not sells(words)


@given(st.lists(st.sampled_from((*SELLS, *ORDINARY)), min_size=1, max_size=12), st.sampled_from(FIELDS[:3]))
def test_whatever_is_on_record_a_person_is_sent_no_advert_and_a_stop_is_confirmed(
    more: list[str], field: Field
) -> None:
    own = Replies(**{field: " ".join(more)})
    lune = Identity(LUNE.legal_name, LUNE.brand, LUNE.contact, LUNE.stop_code, own)
    for said in (stopped([lune]), started([lune], "36111"), contact([lune], "36111")):
        assert said
        assert not sells(said)
    assert "Maison Lune" in stopped([lune])


@given(st.text(max_size=120), fields)
def test_any_text_is_judged_and_none_breaks_the_judge(words: str, field: Field) -> None:
    first = flaws_of(field, words, LUNE)
    assert first == flaws_of(field, words, LUNE)
    assert all(flaw.rule and flaw.instead for flaw in first)
    assert flaws_of(field, words, Author("", "", "", "36111")) is not None
