"""Whom a STOP is for, from the text to the senders."""

import pytest

from common.sms.keywords_scope import CODE, EVERYONE, Scope, scope
from inbound.keywords import classify

# The senders of one shared code, each with its brand and its OADC.
NAMES = {
    "acme": ["Acme", "ACMESHOP"],
    "lune": ["Maison Lune", "MAISONLUNE"],
    "cafe": ["Café Crème & Cie"],
    "zzz": ["Zzz Literie"],
}

CASES = [
    ("STOP", CODE),
    ("STOP 36111", CODE),
    ("Stop pub svp", CODE),
    ("arrêt", CODE),
    ("tsop", CODE),
    ("STOP ACME", Scope("named", ("acme",))),
    ("Bonjour, stop acme merci", Scope("named", ("acme",))),
    ("STOP ACME 36111", Scope("named", ("acme",))),
    ("stop acmeshop", Scope("named", ("acme",))),
    ("STOP maison lune", Scope("named", ("lune",))),
    ("Stop MAISON-LUNE !", Scope("named", ("lune",))),
    ("stop aux sms de maison lune", Scope("named", ("lune",))),
    ("STOP ACME et MAISON LUNE", Scope("named", ("acme", "lune"))),
    ("STOP ACME, LUNE", CODE),
    ("STOP ACME, MAISON LUNE", Scope("named", ("acme", "lune"))),
    ("stop cafe creme cie", Scope("named", ("cafe",))),
    ("stop zzz literie", Scope("named", ("zzz",))),
    # a name nobody knows, or more than a name
    ("STOP DUPONT", CODE),
    ("STOP ACNE", CODE),
    ("STOP ACME et DUPONT", CODE),
    ("STOP ACME je ne veux plus rien de personne", CODE),
    ("STOP\nJean Dupont\nGérant", CODE),
    ("je ne veux plus recevoir vos sms", CODE),
    # everyone
    ("STOP ALL", EVERYONE),
    ("STOPALL", EVERYONE),
    ("stop tout svp", EVERYONE),
    ("STOP à tous", EVERYONE),
    ("STOP TODO", EVERYONE),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[ascii(text) for text, _ in CASES])
def test_a_stop_reaches_whom_it_names_and_otherwise_every_sender_of_the_code(text: str, expected: Scope) -> None:
    understood = classify(text)

    assert understood.intent == "stop"
    assert scope(understood.named, understood.everyone, NAMES) == expected


def test_two_senders_of_one_brand_are_both_named() -> None:
    assert scope(["lune"], False, {"fr": ["Lune"], "be": ["LUNE"]}) == Scope("named", ("be", "fr"))


def test_a_brand_without_a_letter_names_nobody() -> None:
    assert scope(["acme"], False, {"signs": ["!!!"], "acme": ["Acme"]}) == Scope("named", ("acme",))


def test_only_a_stop_names_senders() -> None:
    assert classify("START ACME").named == ()
    assert classify("au prochain arrêt de bus").named == ()
