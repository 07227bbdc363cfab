"""What the bridge reads from a submit_sm, and the ids that it gives to the parts."""

import pytest

from stack.bridge import GSM7, ids_of, text_of


@pytest.mark.parametrize(
    ("octets", "coding", "text"),
    [
        (b"STOP", 0, "STOP"),
        (b"\x05t\x05 \x1be", 0, "été €"),
        (b"\x1b<x\x1b>", 0, "[x]"),
        ("œuvre 😀".encode("utf-16-be"), 8, "œuvre 😀"),
        (b"\x1b\x00", 0, "?"),
    ],
)
def test_a_text_is_read_as_coded(octets: bytes, coding: int, text: str) -> None:
    assert text_of(octets, coding) == text


def test_the_alphabet_has_a_character_for_each_septet() -> None:
    assert len(GSM7) == 128


def test_a_message_has_an_id_for_each_part() -> None:
    assert ids_of("smpp-2-a-b") == ["smpp-2-a-b-1", "smpp-2-a-b-2"]
