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
    text = "Votre offre d'emploi {a} est en ligne"
    assert [f.id for f in template.own_findings(text)] == ["advertising:offre"]
    assert refused(text, [Field("a")], a="6A1") == []


def test_the_edge_of_a_value_hides_no_word_of_the_text_from_the_approver() -> None:
    assert [f.id for f in template.own_findings("Bonjour à vous promo{a}")] == ["advertising:promo"]


def test_a_link_and_a_price_need_a_field_that_may_hold_them() -> None:
    text, values = "Suivi {a}, reste {b} € à payer", {"a": "https://lune.example/6A1", "b": "24,90"}
    assert refused(text, [Field("a"), Field("b")], **values) == [("link:lune.example", ["a"]), ("price:€", ["b"])]
    assert refused(text, [Field("a", links=True), Field("b", prices=True)], **values) == []
    split = {"a": "https://lune", "b": ".example"}
    assert refused("Suivi ici : {a}{b}", [Field("a", links=True), Field("b")], **split) == [
        ("link:lune.example", ["a", "b"])
    ]
