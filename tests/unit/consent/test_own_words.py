"""A sender's own words for answers: what they must say, and what is refused (DOMAIN 1.8)."""

import pytest

from common.contracts.consent import Replies
from common.sms.sms_length import STOP_ANSWER_SEGMENTS, length
from consent.answers.own_words import FIELDS, Author, Field, flaws, flaws_of
from consent.answers.replies import Identity, contact, started, stopped, with_link

LUNE = Author("Maison Lune SAS", "Maison Lune", "contact@maison-lune.example", "36111")
GOOD: dict[Field, str] = {
    "stop": "Maison Lune : c'est noté, vous ne recevrez plus nos SMS commerciaux. À bientôt en boutique.",
    "contact": "Service édité par Maison Lune SAS, 1 rue de la Paix, 75002 Paris, maison-lune.example. STOP au 36111",
    "start": "Maison Lune : vous recevrez de nouveau nos SMS. STOP au 36111",
    "double_opt_in": "{brand} : {purpose} ? Répondez OUI. Sinon rien. STOP au {stop_code}",
}


def rules(field: Field, words: str, author: Author = LUNE) -> list[str]:
    return [flaw.rule for flaw in flaws_of(field, words, author)]


@pytest.mark.parametrize("field", FIELDS)
def test_words_that_say_what_they_must_and_sell_nothing_pass(field: Field) -> None:
    assert rules(field, GOOD[field]) == []


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("advert", "rule"),
    [
        (" Soldes en boutique !", "advertising"),
        (" P r o m o samedi", "advertising"),
        (" -50 % samedi", "rebate"),
        (" Tout à 9,99 €", "price"),
        (" Code LUNE20", "voucher"),
        (" Jeu : envoyez LUNE au 81234", "premium_short_code"),
        (" https://autre.example/x", "link"),
        (" autre-boutique.fr", "link"),
        (" STOP au 36999", "foreign_stop_code"),
    ],
)
def test_an_advert_a_link_or_another_code_is_refused_in_every_answer(field: Field, advert: str, rule: str) -> None:
    assert rule in rules(field, GOOD[field] + advert)


@pytest.mark.parametrize(
    ("field", "words", "rule"),
    [
        ("stop", "C'est noté, vous ne recevrez plus nos SMS.", "brand_missing"),
        ("start", "Vous recevrez de nouveau nos SMS. STOP au 36111", "brand_missing"),
        ("start", "Maison Lune : bienvenue", "stop_missing"),
        ("contact", "Maison Lune SAS, 1 rue de la Paix, Paris", "editor_missing"),
        ("contact", "Service édité par Maison Lune", "editor_missing"),
        ("stop", "Maison Lune : " + "c'est noté " * 28, "too_long"),
        ("stop", "Maison Lune : ê " + "c'est noté " * 12, "too_long"),
    ],
)
def test_what_an_answer_must_say_and_how_long_it_is(field: Field, words: str, rule: str) -> None:
    assert rules(field, words) == [rule]


def test_what_it_must_say_is_found_in_any_case_with_or_without_accents() -> None:
    assert rules("contact", "SERVICE EDITE PAR : MAISON LUNE SAS") == []
    assert rules("stop", "MAISON-LUNE : STOP pris en compte") == []


def test_a_brand_called_as_an_advert_may_name_itself_once_and_letters_of_it_hide_nothing() -> None:
    gifts = Author("Cadeaux SARL", "Bons Plans", "bonsplans.example", "36111")
    assert rules("stop", "Bons Plans : c'est noté", gifts) == []
    assert rules("stop", "Bons Plans : c'est noté. Nos bons plans en boutique", gifts) == ["advertising"]
    assert rules("stop", "o : c'est noté. Promo", Author("o SAS", "o", "o.example", "36111")) == ["advertising"]


@pytest.mark.parametrize(
    ("author", "words", "rule"),
    [
        (
            Author("Lune SAS", "Grandes soldes ce samedi, venez en magasin", "lune.example", "36111"),
            "Grandes soldes ce samedi, venez en magasin : c'est noté",
            "advertising",
        ),
        (Author("%", "Lune", "lune.example", "36111"), "Lune : c'est noté. -50 %", "rebate"),
        (Author("50", "Lune", "lune.example", "36111"), "Lune : c'est noté. -50 %", "rebate"),
        (Author("€", "Lune", "lune.example", "36111"), "Lune : c'est noté. Tout à 9 €", "price"),
        (Author("Lune", "LUNE20", "lune.example", "36111"), "LUNE20 : c'est noté. Code LUNE20", "voucher"),
        (Author("Lune", "Pro", "lune.example", "36111"), "c'est noté. Pro mo", "advertising"),
    ],
)
def test_no_name_of_the_senders_choice_hides_an_advert(author: Author, words: str, rule: str) -> None:
    assert rule in rules("stop", words, author)


def test_a_question_is_looked_at_with_the_brand_in_its_place() -> None:
    words = "Moins {brand} : {purpose} ? Répondez OUI. Sinon rien. STOP au {stop_code}."
    assert rules("double_opt_in", words, Author("Lune", "50 % Lune", "lune.example", "36111")) == ["rebate"]


def test_a_brand_that_is_a_host_names_itself_and_no_page() -> None:
    lune = Author("Lune SAS", "lune.fr", "lune.example", "36111")
    assert rules("stop", "lune.fr : c'est noté", lune) == []
    for words in ("lune.fr: c'est noté", "C'est noté, lune.fr.", "(lune.fr) c'est noté", "«lune.fr», c'est noté"):
        assert rules("stop", words, lune) == [], words
    for words in ("lune.fr/x : c'est noté", "lune.fr:8080 : c'est noté", "(lune.fr/) c'est noté", "lune.fr, (lune.fr)"):
        assert rules("stop", words, lune) == ["link"], words


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *((name, "name_too_short") for name in ("%", "50", "€", "o", "- -")),
        ("Grandes soldes ce samedi", "advertising"),
        ("Bons Plans de Lune", "advertising"),
    ],
)
def test_a_name_without_letters_or_of_many_words_that_sell_is_refused_at_the_registration(name: str, rule: str) -> None:
    for author in (Author("Lune SAS", name, "lune.example", "36111"), Author(name, "Lune", "lune.example", "36111")):
        assert [flaw.rule for _, flaw in flaws(Replies(), author)] == [rule]


@pytest.mark.parametrize("name", ["Bons Plans", "Bons Plans SAS", "M6", "Maison de la Lune SARL", "Booking.com"])
def test_an_honest_name_passes(name: str) -> None:
    assert list(flaws(Replies(), Author(name, name, "lune.example", "36111"))) == []


def test_a_name_or_a_contact_that_sells_is_refused_as_placet_s_words_would_say_it() -> None:
    found = flaws(Replies(), Author("Lune -50 % SAS", "Lune 9 €", "Soldes : lune.example", "36111"))
    assert [(field, flaw.rule) for field, flaw in found] == [
        ("brand", "price"),
        ("legal_name", "rebate"),
        ("contact", "advertising"),
    ]


def test_each_flaw_says_what_to_write_instead_and_repeats_no_text_of_the_caller() -> None:
    words = "Achetez ! Appelez le 06 39 98 12 34, https://autre.example/0639981234, STOP au 36999"
    found = flaws_of("stop", words, LUNE)
    assert [flaw.rule for flaw in found] == ["advertising", "link", "foreign_stop_code", "brand_missing"]
    assert found[0].instead.startswith("« achetez »: leave the word out")
    assert not any("0639" in flaw.instead or "36999" in flaw.instead or "autre" in flaw.instead for flaw in found)


def test_words_on_record_that_do_not_pass_are_not_sent_and_placet_s_are() -> None:
    bad = Replies(stop="Promo !", contact="Lune", start="Bienvenue", double_opt_in="x")
    lune = Identity("Maison Lune SAS", "Maison Lune", "contact@maison-lune.example", "36111", bad)
    assert stopped([lune]).startswith("Maison Lune : votre STOP est pris en compte")
    assert contact([lune], "36111").startswith("Service SMS édité par Maison Lune SAS")
    assert started([lune], "36111").startswith("Maison Lune : vous recevrez de nouveau nos SMS")
    good = Identity(
        "Maison Lune SAS", "Maison Lune", "contact@maison-lune.example", "36111", Replies(stop=GOOD["stop"])
    )
    assert stopped([good]) == GOOD["stop"]


@pytest.mark.parametrize("everyone", [False, True])
@pytest.mark.parametrize(
    ("brand", "named"),
    [("Crêperie", "Crêperie"), ("ê" * 200, "e" * 200), ("Ж" * 200, "Nos marques"), ("€" * 200, "Nos marques")],
)
def test_the_answer_to_a_stop_fits_every_gateway_for_answers_and_names_the_brand_where_it_can(
    brand: str, named: str, *, everyone: bool
) -> None:
    answer = stopped([Identity("Maison Lune SAS", brand, "contact@maison-lune.example", "36111")], everyone=everyone)
    assert answer.startswith(f"{named} : votre STOP est pris en compte")
    assert length(answer).segments <= STOP_ANSWER_SEGMENTS


def test_the_link_stands_in_an_answer_where_it_costs_no_sms_more_than_the_answer_may_have() -> None:
    url = "https://p.example/p/" + "A" * 28
    assert with_link("Acme : c'est noté.", "stopped", url) == f"Acme : c'est noté. Vos choix : {url}"
    assert with_link("x" * 110, "stopped", url) == "x" * 110, "two SMS instead of one"
    assert url in with_link("x" * 110, "contact", url)
    assert url in with_link("x" * 170, "started", url), "two SMS already, with room"
    assert url not in with_link("x" * 290, "contact", url)
