"""How the operator simulator counts parts, and which STOPs its recipients write."""

import pytest

from inbound.keywords import classify
from stack.simulator import STOP_SPELLINGS, segments


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("é" * 160, 1),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("ê" * 70, 1),
        ("ê" * 71, 2),
        ("🛑" * 35, 1),
        ("🛑" * 36, 2),
        ("a" * 1530, 10),
        ("a" * 1531, 11),
    ],
)
def test_parts_of_a_text(text: str, parts: int) -> None:
    assert segments(text) == parts


def test_no_spelling_is_listed_twice() -> None:
    assert len(set(STOP_SPELLINGS)) == len(STOP_SPELLINGS)


@pytest.mark.parametrize("text", STOP_SPELLINGS)
def test_placet_reads_every_spelling_as_an_opt_out(text: str) -> None:
    assert classify(text).intent == "stop"
