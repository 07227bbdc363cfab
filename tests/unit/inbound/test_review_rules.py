"""What stands beside a text in review, and when what a person decides counts."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from common.contracts.inbound import Concern, Intent
from inbound.reviews import rules
from inbound.reviews.rules import Line, Said, alike, due_at, proposed, takes_effect_at

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
UNDO = timedelta(minutes=5)


@pytest.mark.parametrize("intent", [each for each in get_args(Intent) if each != "review"])
def test_a_stop_takes_effect_at_once_and_nothing_else_does(intent: Intent) -> None:
    assert takes_effect_at(intent, NOW, UNDO) == (NOW if intent == "stop" else NOW + UNDO)


@pytest.mark.parametrize("concern", get_args(Concern))
def test_each_concern_has_a_time_and_rights_keep_the_month_of_the_law(concern: Concern) -> None:
    assert NOW < due_at(concern, NOW) < NOW + timedelta(days=28 + 2)
    assert concern in rules.LIKELY
    assert rules.LIKELY[concern] in (None, "stop", "contact", "start")


@pytest.mark.parametrize("text", ["Ne stoppez pas", "ne STOPPEZ pas !", "Ne  stoppez pas 44", "ne stoppez… pas ?"])
def test_texts_of_the_same_words_are_alike(text: str) -> None:
    assert alike(text) == alike("ne stoppez pas")


@pytest.mark.parametrize("text", ["ne stoppez surtout pas", "stoppez", "pas ne stoppez"])
def test_texts_of_other_words_are_not(text: str) -> None:
    assert alike(text) != alike("ne stoppez pas")


@pytest.mark.parametrize("text", ["", "?!", "06 39 98 12 34"])
def test_a_text_without_a_word_is_like_no_other(text: str) -> None:
    assert alike(text) == ""


def test_a_line_is_of_two_people_and_tells_how_they_were_decided() -> None:
    said = [
        Said("non merci", "none", "a", "x"),
        Said("non merci", "stop", "b", "y"),
        Said("non merci", "none", "a", "x"),
        Said("c est zoe", "none", "a", "x"),
        Said("c est zoe", "none", "a", "x"),
        Said("", "none", "a", "x"),
        Said("", "none", "a", "y"),
        Said("plus rien", "stop", "a", "x"),
        Said("plus rien", "stop", "a", "y"),
        Said("plus rien", "stop", "a", "z"),
    ]
    assert proposed(said, 2) == [
        Line("plus rien", {"stop": 3}, 3, ["a"]),
        Line("non merci", {"none": 2, "stop": 1}, 2, ["a", "b"]),
    ]
