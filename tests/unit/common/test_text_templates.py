"""A template's own text is what a person approved; its values say nothing that the person has not seen."""

from dataclasses import dataclass

import pytest

from common.texts import template

CODE = "Maison Lune : votre code est {code}."


@dataclass(frozen=True)
class Field:
    name: str
    max_chars: int = 40
    links: bool = False
    prices: bool = False


def refused(text: str, fields: list[Field], **values: str) -> list[tuple[str, list[str]]]:
    return [(f.id, names) for f, names in template.refused_findings(template.render(text, values), fields)]


@pytest.mark.parametrize(
    ("text", "fields", "reasons"),
    [
        (CODE, [Field("code")], []),
        ("Maison Lune, {{le code}} : {code}", [Field("code")], []),
        (CODE, [], ["field_undeclared"]),
        (CODE, [Field("code"), Field("other")], ["field_unused"]),
        (CODE, [Field("code"), Field("code")], ["field_twice"]),
        ("Maison Lune : votre code {", [], ["brace_alone"]),
        ("Maison Lune : votre code ((code))", [], ["placeholder"]),
        ("Maison Lune : votre code {Code}", [], ["field_name"]),
        ("{code} {more}", [Field("code"), Field("more")], ["no_own_text"]),
        (CODE, [Field("code", 321)], ["values_too_long"]),
    ],
)
def test_a_template_is_refused_with_its_flaw(text: str, fields: list[Field], reasons: list[str]) -> None:
    assert [flaw.reason for flaw in template.flaws(text, fields)] == reasons


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        ({"code": "4821"}, []),
        ({}, ["value_missing"]),
        ({"code": "4821", "more": "x"}, ["value_unknown"]),
        ({"code": "12345678901"}, ["value_too_long"]),
        ({"code": "  "}, ["value_blank"]),
        ({"code": "1\n2"}, ["value_not_plain"]),
        ({"code": "1\u200b2"}, ["value_not_plain"]),
    ],
)
def test_a_value_is_present_known_short_and_plain(values: dict[str, str], reasons: list[str]) -> None:
    assert [flaw.reason for flaw in template.value_flaws([Field("code", 10)], values)] == reasons


def test_a_value_may_not_advertise_alone_nor_together_with_the_text_or_another_value() -> None:
    fields = [Field("a"), Field("b")]
    assert refused("Bonjour {a}, votre colis {b} arrive.", fields, a="Zoé", b="6A1") == []
    assert refused("Bonjour {a}, votre colis {b} arrive.", fields, a="promo", b="6A1") == [("advertising:promo", ["a"])]
    assert refused("Bonjour à vous {a}{b}.", fields, a="pro", b="mo") == [("advertising:promo", ["a", "b"])]
    assert refused("Bonjour à vous, pro{a} {b}.", fields, a="mo", b="x") == [("advertising:promo", ["a"])]
    assert refused("Il fait -{a} % et {b}.", fields, a="20", b="x") == [("rebate:-20 %", ["a"])]


def test_what_a_person_approved_in_the_text_is_no_finding_of_a_value() -> None:
    text = "Votre offre {a} est en ligne"
    assert [f.id for f in template.own_findings(text, [])] == ["advertising:offre"]
    assert refused(text, [Field("a")], a="6A1") == []


def test_the_edge_of_a_value_hides_no_word_of_the_text_from_the_approver() -> None:
    assert [f.id for f in template.own_findings("Bonjour à vous promo{a}", [])] == ["advertising:promo"]


def test_a_link_and_a_price_need_a_field_that_may_hold_them() -> None:
    text, values = "Suivi {a}, reste {b} € à payer", {"a": "https://lune.example/6A1", "b": "24,90"}
    assert refused(text, [Field("a"), Field("b")], **values) == [("link:lune.example", ["a"]), ("price:€", ["b"])]
    assert refused(text, [Field("a", links=True), Field("b", prices=True)], **values) == []
    split = {"a": "https://lune", "b": ".example"}
    assert refused("Suivi ici : {a}{b}", [Field("a", links=True), Field("b")], **split) == [
        ("link:lune.example", ["a", "b"])
    ]


@pytest.mark.parametrize("value", ["@evil.com/x", ".evil.com/x", "/x", "x", ":8080", "\u0301", "´x"])
@pytest.mark.parametrize("link", ["https://lune.fr", "www.lune.fr", "lune.fr"])
def test_a_value_that_touches_a_link_of_the_text_needs_a_field_for_links(link: str, value: str) -> None:
    of_link = [] if link + value == "lune.frx" else [["a"]]  # no top-level domain
    assert [names for _, names in refused(f"Votre suivi : {link}{{a}}", [Field("a")], a=value)] == of_link


def test_a_link_shows_the_host_it_leads_to_and_no_permission_covers_another() -> None:
    of_links = [Field("a", links=True)]
    assert refused("Votre suivi : https://lune.fr{a}", of_links, a="@evil.com/x") == [
        ("disguised_link:lune.fr@evil.com", ["a"])
    ]
    assert refused("Votre suivi : https://lune.fr/{a}", of_links, a="x@y") == []


@pytest.mark.parametrize("separator", ["-", ".", " ", "_", "x"])
def test_a_word_of_the_text_around_a_field_is_seen_by_the_approver(separator: str) -> None:
    text = "Maison Lune : SOL{a}DES ce samedi"
    assert [f.id for f in template.own_findings(text, [])] == ["advertising:soldes"]


@pytest.mark.parametrize(
    ("text", "fields", "ids"),
    [
        (CODE, [Field("code", 8)], []),
        ("Maison Lune : votre suivi {a}", [Field("a", 80, links=True)], []),
        ("Maison Lune : {message}", [Field("message", 160)], ["prose_field:message", "mostly_values"]),
        ("Maison Lune : bonjour {a} et {b}", [Field("a"), Field("b")], ["mostly_values"]),
    ],
)
def test_fields_for_prose_and_values_longer_than_the_text_are_for_the_approver_to_see(
    text: str, fields: list[Field], ids: list[str]
) -> None:
    assert [f.id for f in template.own_findings(text, fields)] == ids


def test_a_value_is_read_more_strictly_than_a_text() -> None:
    text = "Maison Lune : commande {a} prête."
    for value, rule in (
        ("4821 - S.O.L.D.E.S monstre", "advertising:soldes"),
        ("M. Promo SOL-DES", "advertising:soldes"),
        ("4821, 20%", "percent:%"),
        ("4821, 20% sur tout", "rebate:20% sur tout"),
        ("lune.boutique", "link:lune.boutique"),
        ("lune.bargains", "link:lune.bargains"),
    ):
        assert refused(text, [Field("a")], a=value) == [(rule, ["a"])], value
    assert refused("Reste {a} % du forfait", [Field("a", prices=True)], a="20") == []


@pytest.mark.parametrize(
    "value", ["LUNE.SBS", "LUNE.BEAUTY", "Lune.Boutique", "Bit.Me", "T.ME", "t.me", "Lune1.Beauty", "L.U.NE.Beauty"]
)
def test_a_host_in_capitals_is_a_link_in_a_value(value: str) -> None:
    found = [(f"link:{value.casefold()}", ["a"])]
    assert refused("Maison Lune : commande {a} prête.", [Field("a")], a=value) == found


@pytest.mark.parametrize(
    ("value", "host"),
    [
        *(("evil.win.x", "evil.win.x"), ("evil.win.1", "evil.win.1"), ("evil.win.x/abc", "evil.win.x")),
        *(
            ("evil.win-x", "evil.win-x"),
            ("evil.win@x", "evil.win"),
            ("...evil.win", "evil.win"),
            ("(evil.win)", "evil.win"),
        ),
        *(("X.Win", "x.win"), ("J.Paris", "j.paris"), ("10h.Paris", "10h.paris"), ("J.P.WIN", "j.p.win")),
        *(("1.2.3.4/x", "1.2.3.4"), ("1.2.3.4:8080", "1.2.3.4"), ("http://1.2.3.4", "1.2.3.4")),
        *(("1.2.3.4", "1.2.3.4"), ("1.2.3.4.x", "1.2.3.4.x")),
    ],
)
def test_a_value_is_a_link_wherever_a_phone_makes_one(value: str, host: str) -> None:
    found = [(f"link:{host}", ["a"])]
    assert refused("Maison Lune : votre commande {a} est là", [Field("a")], a=value) == found


@pytest.mark.parametrize(
    "value",
    [
        *("M. Cadeau", "12 rue de l'Euro", "J. Paris", "J. Martin", "J.P.Martin", "10h30", "10h30.Demain"),
        *("12.50", "12.50/13.50", "12.10.2026", "12.10.2026/13.10.2026", "06.39.98.12.34", "+33.6.39.98.12.34"),
        *("jean.paris@lune.example", "1.234.567.890", "v1.2.3", "S.A.R.L", "p.m/a.m"),
        *("Mme Bon Plan-de-Cuques", "D3AL", "KXTRQ7", "abcd12", "G1FT"),
        *("Dr.Martin", "St.Denis", "12.Merci", "12h.Demain", "pce.jointe"),
    ],
)
def test_an_ordinary_value_is_not_refused(value: str) -> None:
    assert refused("Maison Lune : votre code {a} est prêt", [Field("a")], a=value) == []
    assert refused("Maison Lune : code {a}", [Field("a")], a=value) == []


def test_a_missing_space_behind_a_value_makes_no_link() -> None:
    for value in ("6A1", "Zoé"):
        assert refused("Votre colis est en route : {a}.Merci", [Field("a")], a=value) == []
