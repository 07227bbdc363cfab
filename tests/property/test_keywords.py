"""STOP, however it is dressed, is STOP; what is not STOP never becomes it; and what loosens is never guessed."""

import sys
import unicodedata
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from inbound.keywords import classify
from inbound.keywords.lists import CURRENT, load
from tests.unit.inbound.corpus import HOSTILE, HOSTILE_CHARS

OPT_OUTS: tuple[str, ...] = ("STOP", "stop", "ARRÊT", "arrêtez", "STOPALL", "désinscription")
OPT_OUTS += ("unsubscribe", "BAJA", "abmelden", "afmelden", "basta", "sair")
NOT_OPT_OUTS: tuple[str, ...] = (
    "top",
    "shop",
    "step",
    "strop",
    "slop",
    "spot",
    "stock",
    "hop",
    "ok",
    "oui",
    "start",
    "contact",
    "non stop",
    "ne stoppez pas",
    "don't stop",
    "rendez-vous demain",
    "je passe a midi",
    "la commande est arrivee",
)

EMOJI = st.sampled_from(["🙏", "😡", "👍🏽", "❤️", "👨‍👩‍👧", "🙂"])
INVISIBLE = st.sampled_from(["\u200b", "\u200d", "\u2060", "\ufeff", "\u202a", "\u00ad", "\ufe0f"])
ACCENTS = st.sampled_from(["", "", "\u0301", "\u0302", "\u0308", "\u0327", "\u0338"])
AROUND = st.text(st.sampled_from(" \t\n.,;:!…\"'«»“”()[]{}*_~-–—\u00a0\u202f"), max_size=6)
COURTESY = st.sampled_from(["", "", "bonjour", "Merci", "SVP", "stp", "please", "Madame", "s'il vous plaît"])
FONTS = st.sampled_from([0xFF21 - 0x41, 0x1D400 - 0x41, 0x1D5D4 - 0x41, 0x24B6 - 0x41, 0x1F130 - 0x41])


@st.composite
def dressed(draw: st.DrawFn, texts: tuple[str, ...]) -> str:
    """One of `texts` in any case, with accents, hidden characters and long letters, then wrapped."""
    letters = []
    for char in draw(st.sampled_from(texts)):
        char = draw(st.sampled_from([char.lower(), char.upper()]))
        if char.isalpha():
            char += draw(ACCENTS) + draw(st.one_of(st.just(""), st.just(""), INVISIBLE))
        letters.append(char)
    word = "".join(letters)
    before, after = draw(COURTESY), draw(COURTESY)
    return (
        (f"{before}{draw(AROUND)} " if before else draw(AROUND))
        + word
        + (f" {draw(AROUND)}{after}" if after else draw(AROUND))
        + draw(st.one_of(st.just(""), EMOJI))
    )


@given(dressed(OPT_OUTS))
@example("S\u0338TOP")
@example("bonjour\n—\n stop")
@settings(max_examples=500)
def test_an_opt_out_however_dressed_is_a_stop(text: str) -> None:
    assert classify(text).intent == "stop"


@given(dressed(NOT_OPT_OUTS))
@settings(max_examples=500)
def test_a_known_other_word_however_dressed_is_never_a_stop(text: str) -> None:
    assert classify(text).intent != "stop"


@given(FONTS, st.integers(3, 9), st.sampled_from([" ", ".", "-", "*", " . ", "_"]))
def test_stop_in_another_font_spaced_or_held_is_a_stop(font: int, held: int, gap: str) -> None:
    drawn = "".join(chr(ord(letter) + font) for letter in "STOP")

    assert classify(drawn).intent == "stop"
    assert classify(gap.join("STOP")).intent == "stop"
    for place in range(4):
        assert classify("STOP"[:place] + "STOP"[place] * held + "STOP"[place + 1 :]).intent == "stop"


@given(st.text(max_size=40))
def test_a_text_that_begins_with_stop_is_never_waved_through(tail: str) -> None:
    assert classify(f"STOP {tail}").intent in ("stop", "review")


COURTESY_WORDS = {word for name in CURRENT for phrase in load(name).courtesy.words for word in phrase.split()}
WORDS = st.text("abcdefghijklmnopqrstuvwxyzéèàç", min_size=2, max_size=12)


@given(st.sampled_from(["START", "UNSTOP", "REPRENDRE", "OUI", "YES"]), WORDS, st.booleans())
def test_what_loosens_is_the_bare_word_and_nothing_else(word: str, other: str, before: bool) -> None:
    text = f"{other} {word}" if before else f"{word} {other}"
    assume(other.casefold() not in COURTESY_WORDS)

    assert classify(text).intent not in ("start", "confirm")


LANGUAGES = st.sampled_from([None, "fr", "en", "es", "de", "nl", "it", "pt", "ar", "xx"])
COUNTRIES = st.sampled_from([None, "FR", "US", "CA", "ES", "MX", "DE", "BE", "CH", "IT", "BR", "MA", "XX"])


@given(dressed(OPT_OUTS), LANGUAGES, COUNTRIES)
def test_an_opt_out_is_one_in_every_language_and_country(text: str, language: str | None, country: str | None) -> None:
    assert classify(text, language=language, country=country).intent == "stop"


def test_a_negation_before_an_opt_out_word_is_never_a_certain_stop() -> None:
    for lists in map(load, CURRENT):
        words = lists.stop_alone.words | load("any-1").stop_first.words - {"stopall"}
        for negation in lists.negations.words:
            for word in words:
                understood = classify(f"{negation} {word}", language=lists.language)
                assert understood.score < 1.0, (negation, word)


@given(st.text(max_size=80), LANGUAGES, COUNTRIES)
def test_only_a_stop_names_anybody(text: str, language: str | None, country: str | None) -> None:
    understood = classify(text, language=language, country=country)

    assert understood.intent == "stop" or (understood.named, understood.everyone, understood.erasure) == (
        (),
        False,
        False,
    )


@given(st.text(max_size=300))
@example("\x00")
@example("\ud83d")
def test_any_text_at_all_is_understood(text: str) -> None:
    understood = classify(text)

    assert 0.0 <= understood.score <= 1.0
    assert understood.rule.partition(":")[0] in (*CURRENT, "likeness-1")


WISHES: tuple[str, ...] = ("STOP", "stop pub", "arrêtez vos sms", "désinscrivez-moi", "je ne veux plus de vos messages")
WISHES += ("gardez vos promos", "marre de vos sms", "halte aux pubs", "inutile de m'écrire", "allez vous faire voir")
WISHES += ("laissez-nous en paix", "ne vous donnez plus la peine", "trop de textos", "supprimez toutes mes données")
WISHES += ("unsubscribe me", "no more texts", "ne m'écrivez plus", "Laissez-moi tranquille", "Stop toutes vos marques")
BEFORE = st.sampled_from(["", "", "Bonjour, ", "Bjr ", "Bonsoir madame, ", "svp ", "🙏 ", "\n"])
AFTER = st.sampled_from(["", "", " svp", ", merci", " Merci d'avance", " cordialement", " 😡", "!!", " 🙏🙏", "\n"])
QUOTED = st.sampled_from(["", "\n> ACME : -30% ce samedi. STOP au 36111", "\n> Soldes samedi", " « ACME -20% samedi »"])


@given(BEFORE, st.sampled_from(WISHES), AFTER, QUOTED, st.sampled_from([str, str.upper, str.lower]))
@settings(max_examples=300)
def test_courtesy_emoji_case_and_quotations_never_turn_a_wish_into_nothing(
    before: str, wish: str, after: str, quoted: str, cased: Callable[[str], str]
) -> None:
    assert classify(before + cased(wish) + after + quoted).intent in ("stop", "review")


SPACES = st.sampled_from([" ", "  ", "\t", "\u00a0", "\u202f", " \u200b"])


@given(st.sampled_from(WISHES), SPACES, st.lists(ACCENTS, min_size=40, max_size=40), st.booleans())
@settings(max_examples=300)
def test_accents_and_spaces_never_turn_a_wish_into_nothing(wish: str, gap: str, marks: list[str], bare: bool) -> None:
    letters = [char for char in unicodedata.normalize("NFD", wish) if not unicodedata.combining(char)]
    drawn = [char + mark if char.isalpha() else char for char, mark in zip(letters, marks, strict=False)]
    said = "".join(letters if bare else [*drawn, *letters[len(drawn) :]])

    assert classify(gap.join(said.split(" "))).intent in ("stop", "review")


LOOKS_LIKE = str.maketrans("aecopx", "аесорх")  # Cyrillic


@given(st.sampled_from(WISHES), st.sets(st.integers(0, 40), max_size=6))
def test_letters_of_another_alphabet_never_turn_a_wish_into_nothing(wish: str, places: set[int]) -> None:
    drawn = "".join(char.translate(LOOKS_LIKE) if place in places else char for place, char in enumerate(wish))

    assert classify(drawn).intent in ("stop", "review")


LOOSENING = ("START", "OUI", "reprendre", "unstop", "YES")


SAYINGS = ("je", "veux", "plus", "stop", "start", "oui", "yes", "recevoir", "sms", "ok", "vos", "non", "encore", "la")
TALK = st.lists(st.sampled_from(SAYINGS))


@given(TALK, st.sampled_from(["", "?", "!", ".", " 🙏", "\n"]))
def test_what_loosens_has_one_word_and_courtesy(said: list[str], end: str) -> None:
    meant = [word for word in said if word not in COURTESY_WORDS]
    assume(len(meant) != 1)

    assert classify(" ".join(said) + end).intent not in ("start", "confirm")


@given(st.sampled_from(LOOSENING), st.sampled_from(["si je dis {}", "ma soeur a dit {}", "{} par erreur", "{} ou pas"]))
def test_no_text_loosens_but_by_its_whole_form(word: str, around: str) -> None:
    assert classify(around.format(word)).intent not in ("start", "confirm")


def steps(text: str) -> int:
    """Return how many lines and calls of Python code reading the text takes."""
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return counted

    classify(text)  # fills the caches
    before = sys.gettrace()
    sys.settrace(counted)
    try:
        classify(text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("unit", HOSTILE)
def test_work_grows_no_faster_than_the_text(unit: str) -> None:
    short, long = (unit * (length // len(unit)) for length in (450, 1_800))

    assert steps(long) <= 6 * steps(short)
    assert steps(unit * (HOSTILE_CHARS // len(unit))) <= 1.5 * steps(long)
