"""What in a text looks like advertising, and where (DOMAIN 1.10)."""

import pytest

from common.texts.findings import findings_of, load, looks_like_advertising

PREMIUM = 99  # 08 99 and what follows: no number stands here, it may be somebody's


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Maison Lune : promo samedi", ["advertising:promo"]),
        ("SOLDES chez Lune", ["advertising:soldes"]),
        ("Offre spéciale pour vous", ["advertising:offre"]),
        ("une remise, un code promo", ["advertising:remise", "advertising:code promo"]),
        ("Livraison gratuite", ["advertising:gratuite"]),
        ("BON D'ACHAT", ["advertising:bon d achat"]),
        ("PROMO20", ["advertising:promo"]),
        ("-20 % samedi", ["rebate:-20 %"]),
        ("−20% samedi", ["rebate:-20%"]),
        ("moins 20 pour cent", ["rebate:moins 20 pour cent"]),
        ("Isolation à 1 €", ["price:€"]),
        ("à un euro", ["price:€"]),
        ("avec le code LUNE20", ["voucher:lune20"]),
        ("https://lune.example/x", ["link:lune.example"]),
        ("voir www.lune.example", ["link:lune"]),
        ("voir bit.ly/abc", ["link:bit.ly"]),
        ("voir lune . fr", ["link:lune.fr"]),
        ("voir lune point fr", ["link:lunepointfr"]),
        (f"appelez le 08 {PREMIUM} 12 34 56", [f"premium_number:08{PREMIUM}123456"]),
        ("envoyez OUI au 81234", ["premium_short_code:81234"]),
        ("STOP au 36111", ["stop_mention:36111"]),
    ],
)
def test_a_sign_is_found_by_its_word(text: str, ids: list[str]) -> None:
    assert [finding.id for finding in findings_of(text)] == ids


@pytest.mark.parametrize(
    "text",
    [
        "Votre code : 4821",
        "Votre code G-482193 pour Maison Lune. Ne le communiquez à personne.",
        "Bonjour Zoé, votre colis 6A12345 arrive demain entre 8h et 12h. Suivi dans l'appli.",
        "Votre rendez-vous du 12.05.2026 à 14h30 est confirmé. À bientôt, Maison Lune.",
        "Vous avez utilisé 80 % de votre forfait. Température : -3 degrés.",
        "Le sol des cuisines est lavé. Promouvoir la promotrice, c'est un bonheur.",
        "Écrivez à contact@lune.example. Votre colis attend au 12 rue de la Paix, 75002 Paris.",
        "Retrait avant le 31/12. Dernier jour demain.Bonne journée",
    ],
)
def test_an_ordinary_notice_has_no_sign(text: str) -> None:
    assert findings_of(text) == []


@pytest.mark.parametrize(
    "text",
    [
        *("p r o m o", "p.r.o.m.o", "pro mo", "pro-mo", "P_R_O_M_O", "p\nr\no\nm\no", "prooomo"),
        *("p\u200br\u200bo\u200dmo", "pr\u00adomo", "\u202epromo", "pro\u0336mo", "prómö"),
        *("Ｐｒｏｍｏ", "𝓅𝓇ℴ𝓂ℴ", "ⓟⓡⓞⓜⓞ", "🅿🆁🅾🅼🅾", "🇵🇷🇴🇲🇴"),
        *("рrоmо", "PRΟΜΟ", "PRОМО", "pr0m0", "ρromo"),
    ],
)
def test_a_disguised_word_is_found(text: str) -> None:
    assert "advertising:promo" in [finding.id for finding in findings_of(f"Maison Lune : {text} samedi")]


def test_a_finding_says_where_in_the_original_text() -> None:
    text = "Lune :\u200b s o l d e s, -2\u200b0 %"
    words, rebate = findings_of(text)
    assert (words.span, rebate.span) == ((8, 19), (21, 27))
    assert text[8:19] == "s o l d e s"


def test_an_answer_may_have_a_link_and_tell_how_to_stop_and_may_not_advertise() -> None:
    assert looks_like_advertising("Vos choix : https://lune.example/p/abc. STOP au 36111") == []
    assert [f.id for f in looks_like_advertising("Bien noté. Et -20 % samedi")] == ["rebate:-20 %"]


def test_every_rule_of_the_signs_has_a_source() -> None:
    signs = load()
    assert all(rule.says and rule.source for rule in signs.rules.values())
    assert len(signs.words.listed) == len(set(signs.words.listed)) > 100
