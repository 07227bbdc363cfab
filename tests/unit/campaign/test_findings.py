"""What speaks against a text: the rule, and what it was found by (DOMAIN 1.7, 1.11)."""

import pytest

from campaign.preflight.findings import load, of_texts

PREMIUM = 99  # 08 99 and what follows: no number stands here, it may be somebody's


def found(text: str, brand: str = "Maison Lune", oadc: str = "ANNONCE", sectors: tuple[str, ...] = ()) -> list[str]:
    return [finding.id for finding in of_texts([text], brand, oadc, "36111", sectors, load())]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Maison Lune : -20 % samedi. STOP au 36111", []),
        ("MAISON-LUNE -20 %", []),
        ("-20 % samedi. STOP au 36111", ["identity"]),
        ("Maison Lune. STOP au 36112", ["foreign_stop_code:36112"]),
        ("Maison Lune. STOP au 36111 ou STOP 36222", ["foreign_stop_code:36222"]),
        (f"Maison Lune, appelez le 08 {PREMIUM} 12 34 56", [f"premium_number:08{PREMIUM}123456"]),
        (f"Maison Lune, appelez le +33 8{PREMIUM} 123 456", [f"premium_number:338{PREMIUM}123456"]),
        (f"Maison Lune, appelez le 06 39 98 {PREMIUM} 08 ou 0800 123 456", []),
        ("Maison Lune : envoyez OUI au 81234", ["premium_short_code:81234"]),
        ("Maison Lune : envoyez OUI par SMS au 36111", []),
        ("Maison Lune : envoyez OUI au 38123", []),
        ("Maison Lune, 75011 Paris, 30000 cadeaux", []),
        ("Maison Lune https://bit.ly/abc", ["public_shortener:bit.ly"]),
        ("Maison Lune WWW.TinyURL.com/x", ["public_shortener:www.tinyurl.com"]),
        ("Maison Lune https://maison-lune.example/bit.ly/abc", []),
        ("Maison Lune, habit.ly/abc", []),
        ("Maison Lune, bit.ly", []),
        ("Maison Lune " + "a" * 910, ["many_parts"]),
        ("Maison Lune : foire aux vins", ["sector_alcohol"]),
        ("Maison Lune, coups de cœur des divins", []),
        ("Maison Lune, Isolation à 1 € et POMPE À CHALEUR", ["sector_energy"]),
        ("Maison Lune : Paris sportifs et crédit renouvelable", ["sector_gambling", "sector_credit"]),
    ],
)
def test_what_a_text_breaks_is_found_by_the_words_that_break_it(text: str, ids: list[str]) -> None:
    assert found(text) == ids


@pytest.mark.parametrize(
    ("brand", "oadc", "named"),
    [
        ("Maison Lune", "MAISONLUNE", True),
        ("Maison Lune et Fils", "MAISONLUNEE", True),
        ("Lune", "LUNEPROMO", True),
        ("Éclair", "ECLAIR", True),
        ("Maison Lune", "PROMOS", False),
        ("Maison Lune", "MA", False),
        ("Maison Lune", "", False),
    ],
)
def test_a_sender_whose_name_is_the_brand_has_said_who_it_is(brand: str, oadc: str, named: bool) -> None:
    assert (found("-20 % samedi", brand, oadc) == []) is named


def test_what_the_author_declares_is_found_once() -> None:
    assert found("Maison Lune : foire aux vins", sectors=("alcohol", "energy")) == ["sector_alcohol", "sector_energy"]


def test_every_rule_has_its_source_and_says_whether_it_stops() -> None:
    rules = load().rules
    assert all(rule.says and rule.source for rule in rules.values())
    errors = {name for name, rule in rules.items() if rule.severity == "error"}
    assert errors == {"identity", "foreign_stop_code", "begins_with", "nobody", "unknown_attribute"}
    assert {name for name, rule in rules.items() if rule.needs_approval} == {"sector_energy"}
