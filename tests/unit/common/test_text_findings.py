"""What in a text looks like advertising, and where (DOMAIN 1.10)."""

from random import Random

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
        ("voir www.lune.example", ["link:lune.example"]),
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
        "Vous avez utilisé 80 % de votre forfait, 80 % des 20 Go. Température : -3 degrés.",
        "Le sol des cuisines est lavé. Promouvoir la promotrice, c'est un bonheur.",
        "Écrivez à contact@lune.example. Votre colis attend au 12 rue de la Paix, 75002 Paris.",
        "Retrait avant le 31/12. Dernier jour demain.Bonne journée",
        "Colis remis.Me rappeler demain. Retard.Info au guichet. Gare de Lyon.Paris",
        "Rdv à 10h30, ou le 12.10.2026/13.10.2026. Reste 12.50. Dr.Martin, St.Denis. 1.Paris. Version 1.2.3.4",
        "Tapez 48219 pour valider votre achat. Votre code SMS est 81234.",
        "Votre colis gratuit est arrivé. Remise des clés le 12/03 à 10h.Paris",
        "Colis remis. Remise en main propre à Mme Cadeau, ou à M. Remise",
        "Rdv le 12, M. Cadeau. Madame Promo Saint-Jean",
        "Résultat de votre échantillon de sang disponible. Votre offre d'emploi est en ligne",
        "Numéro gratuit: 0800 123 456 (service gratuit + prix appel), ou 3631 : appelez le 3631",
        "Non-stop: code 48219. Bonjour Mme.De La Tour. Votre code LUNE20 expire dans 5 min.",
        "Votre consultation avec le Dr. Cadeau est demain à 9h10. Votre mot de passe est Xk9$Pq2!",
        "Du coup on livre demain la solution de stockage de marque Lune : il a remis ses clés, lavé le sol des pièces.",
        "Matériaux solides, livraison au 2e étage, 12 rue de l'Euro, 75020e lot. À 8e arrondissement.",
        f"Rappelez le 06 08 {PREMIUM} 12 34, 15h. Lot no 89 7012345.",
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


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        *(
            (text, "rebate")
            for text in (
                "20% sur tout",
                "20 % dès deux",
                "20% de moins",
                "vingt pourcent de moins",
                "-2O%",
                "-20 pct",
                "-20°/o",
            )
        ),
        *(
            (text, "advertising")
            for text in ("Nos prix baissent", "SoldesLune", "s    o    l    d    e    s", "SOL-DES")
        ),
        *(
            (text, "advertising")
            for text in ("SOL.DES", "prorno", "₱romo", "pr()mo", "gratu!t", "échanti11on", "soldés")
        ),
        *((text, "advertising") for text in ("notre 0ffre du", "of-fre", "0ffer")),
        *((text, "advertising") for text in ("à 200 m. Promo", "à 200m. Promo", "à 5  m. Soldes")),
        *((text, "advertising") for text in ("Mme Lune vente-privee-promo-soldes", "M. Promo SOL-DES")),
        *((text, "voucher") for text in ("code LUNE-20", "avec LUNE20", "Code : LUNE20")),
        *((text, "price") for text in ("à 20e seulement", "10$", "9,99e", "vingt euros")),
        *((text, "link") for text in ("lune.boutique", "lune.sale", "lune.ai", "lune.cc", "lune,fr", "lune·fr")),
        *((text, "link") for text in ("www lune fr", "LUNE.FR", "https://xn--lne-hoa", "Infos:lune.fr")),
        *((text, "link") for text in ("evil.win.x", "evil.win.1", "evil.com.x/abc", "evil.com-x", "...evil.com")),
        *((text, "link") for text in ("x.win", "X.Win", "J.PARIS", "1.2.3.4/x", "1.2.3.4:8080", "http://1.2.3.4")),
        *((text, "disguised_link") for text in ("https://lune.fr@evil.com", "lune.fr@evil.com/x")),
        *((text, "reading_direction") for text in ("\u202eomorp", "\u2067omorp")),
        *((text, "premium_short_code") for text in ("SMS au 8 12 34", "envoyez OUI au 8.12.34")),
        *((text, "premium_short_number") for text in ("Appelez le 3617", "appelez vite le 36 17")),
    ],
)
def test_a_plain_advert_is_found(text: str, rule: str) -> None:
    assert rule in [finding.rule for finding in findings_of(f"Maison Lune : {text} samedi")]


@pytest.mark.parametrize(
    "written",
    ["08/{}/70/12/34", "08_{}70 1234", "08  {}  70  12  34", "O8{}7O1234", "٠٨{}٧٠١٢٣٤", "+33 (0)8 {} 70 12 34"],
)
def test_a_premium_number_is_found_in_any_writing(written: str) -> None:
    text = f"Maison Lune : appelez le {written.format(PREMIUM)} samedi"
    assert [finding.rule for finding in findings_of(text)] == ["premium_number"]


CODES = [
    "Maison Lune : votre code est {}.",
    "{} est votre code Maison Lune. Ne le communiquez à personne.",
    "Votre code SMS est {}.",
    "Tapez {} pour valider votre achat.",
    "Code de connexion : {}. Il expire dans 5 min.",
    "Entrez le code {} pour confirmer votre paiement.",
    "Code {} (validation). Ne répondez pas à ce SMS",
    "Votre code de retrait {} au casier 12, 75002 Paris",
    "Avec {} vous pouvez vous connecter, envoyez-le à personne",
    "Mot de passe à usage unique (SMS): {} - Maison Lune",
]


@pytest.mark.parametrize("text", CODES)
def test_no_code_makes_an_ordinary_text_an_advert(text: str) -> None:
    drawn = Random(1)
    codes = [f"{code:05}" for code in range(0, 100_000, 331)]
    codes += ["".join(drawn.choices("ABCDEFGHJKMNPQRSTVWXYZ0123456789", k=drawn.randint(4, 8))) for _ in range(300)]
    refused = [code for code in codes if findings_of(text.format(code))]
    assert refused == []


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
