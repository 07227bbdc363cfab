"""The quick ways of the classifier, beside the plain ways: the same words, the same sounds, the same doubts."""

import re
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.sms.msisdn import NumberRefused, as_received, readings
from inbound.keywords.classifier import _decide
from inbound.keywords.lists import words
from inbound.keywords.normal import normalise
from inbound.keywords.sounds import sound

KNOWN = words()
EVERY_WORD = replace(KNOWN, stop_parts=("",))  # the cheap look rules no text out
UNSEEN = "\u200b"  # no reader sees the character, and with it a text is not ASCII
RULES = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        ("ph", "f"),
        ("qu|q|ck", "k"),
        ("c(?=[eiy])", "s"),
        ("c(?!h)", "k"),
        ("g(?=[eiy])", "j"),
        ("eau|au", "o"),
        ("ai|ei", "e"),
        ("y", "i"),
        ("z", "s"),
        (r"(.)\1+", r"\1"),
        ("(?<=..)[sxtd]$", ""),
        ("(?<=...)(?:er|es?|ent)$", ""),
    )
)
CORPUS = [
    line.partition("\t")[0]
    for path in sorted(Path("services/inbound-svc/corpus").glob("*.tsv"))
    for line in path.read_text(encoding="utf-8").splitlines()[1:]
]
SAID = st.sampled_from(sorted({word for text in CORPUS for word in text.split()}))
LISTED = st.sampled_from(sorted(KNOWN.doubted | KNOWN.stop_first.keys() | KNOWN.stems.keys() | KNOWN.known))
TEXTS = st.lists(SAID | LISTED | st.text(max_size=6), max_size=9).map(" ".join)


@given(st.text("aceghikpqstuxyzdnr", max_size=12) | st.from_regex("[a-z0-9]{0,20}", fullmatch=True))
@settings(max_examples=1_000)
@example("quickphoneauxgeai")
@example("cqacckchchc")
def test_a_word_sounds_as_the_rules_say_one_after_the_other(word: str) -> None:
    assert sound(word) == reduce(lambda said, rule: rule[0].sub(rule[1], said), RULES, word)


@given(st.text(st.characters(max_codepoint=127), max_size=40))
@settings(max_examples=1_000)
@example("".join(map(chr, range(128))))
@example("ST0P au 36 111")
def test_an_ascii_text_is_read_as_if_a_character_were_not_ascii(text: str) -> None:
    assert normalise(text) == normalise(text + UNSEEN)
    assert normalise(text, look_alikes=True) == normalise(text + UNSEEN, look_alikes=True)


@given(TEXTS)
@settings(max_examples=500)
@example("je voudrais l'arrêt s'il vous plaît")
@example("un stoppage")
@example("desabon")
def test_no_doubt_hides_from_the_cheap_look(text: str) -> None:
    plain = normalise(text)
    assert _decide(plain, KNOWN) == _decide(plain, EVERY_WORD)


def test_no_doubt_of_the_corpus_hides_from_the_cheap_look() -> None:
    for text in CORPUS:
        plain = normalise(text)
        assert _decide(plain, KNOWN) == _decide(plain, EVERY_WORD), text


@pytest.mark.parametrize("country", ["FR", "US", "DE"])
@given(digits=st.from_regex(r"\+[0-9]{0,64}", fullmatch=True))
@example(digits="+33639980001")
@example(digits="+0033639980001")
@example(digits="+00")
@example(digits="+")
def test_a_number_as_operators_write_it_is_read_as_any_writing(country: str, digits: str) -> None:
    assert as_received(digits, country=country) == as_received(f" {digits}"[:64], country=country) or len(digits) > 63
    assert _refused(digits) == _refused(f" {digits}") or len(digits) > 63


def _refused(raw: str) -> tuple[str, ...] | str:
    try:
        return readings(raw)
    except NumberRefused as refused:
        return refused.reason
