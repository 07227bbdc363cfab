"""The preference page's words: as many in each language, with the same names to fill in, and set as French is."""

import re
from datetime import UTC, datetime
from string import Formatter

import pytest

from consent.page.words import WORDS, Words

FR, EN = WORDS["fr"], WORDS["en"]


def names(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name}


def test_both_languages_say_the_same_things_of_the_same_names() -> None:
    assert FR.sentences.keys() == EN.sentences.keys()
    assert {k: names(s) for k, s in FR.sentences.items()} == {k: names(s) for k, s in EN.sentences.items()}
    assert len(FR.months) == len(EN.months) == 12


@pytest.mark.parametrize("words", [FR, EN], ids=["fr", "en"])
def test_apostrophes_are_typographic(words: Words) -> None:
    assert [k for k, s in words.sentences.items() if "'" in s or '"' in s] == []


def test_french_has_a_no_break_space_wherever_it_has_one() -> None:
    loose = re.compile(r" [:;?!»]|« |[^\s\u00a0][:;?!»](?!\S)|«(?!\u00a0)")
    assert [k for k, s in FR.sentences.items() if loose.search(s)] == []


def test_days_and_moments_are_written_in_french_time() -> None:
    at = datetime(2026, 6, 30, 22, 5, tzinfo=UTC)
    assert FR.day(at) == "1er\u00a0juillet 2026"
    assert EN.day(at) == "1\u00a0July 2026"
    assert FR.moment(at) == "1er\u00a0juillet 2026 à 0\u00a0h\u00a005"
    assert EN.moment(at) == "1\u00a0July 2026 at 0:05"
