"""Bytes of an SMS as text. Table: 3GPP TS 23.038, 6.2.1."""

import pytest

from common.sms.charsets import GSM_BASIC, GSM_EXTENSION, gsm, named, smpp


def test_the_alphabet_has_128_characters_and_each_once() -> None:
    assert len(GSM_BASIC) == len(set(GSM_BASIC)) == 128
    assert "".join(sorted(GSM_EXTENSION.values())) == "\f[\\]^{|}~€"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x05v\x05nement", "événement"),
        (b"\x00\x02\x11\x40\x5f\x7f", "@$_¡§à"),
        (b"abc XYZ 0189 ?!", "abc XYZ 0189 ?!"),
        (b"STOP\x1b\x65", "STOP€"),
        (b"\x1b\x3c\x1b\x3e", "[]"),
        (b"\x1bA", "A"),  # an escape that means nothing is shown as the letter
        (b"\x1b", ""),
        (b"\x1b\x1b", " "),
        (b"ST\xd4P", "ST\ufffdP"),
        (b"", ""),
    ],
)
def test_the_gsm_alphabet(raw: bytes, text: str) -> None:
    assert gsm(raw) == text


@pytest.mark.parametrize(
    ("coding", "raw", "text"),
    [
        (0, b"\x05", "é"),
        (1, b"STOP", "STOP"),
        (3, b"Arr\xeat", "Arrêt"),
        (6, b"\xc1\xc2\xbe\xbf", "СТОП"),
        (7, b"\xf2\xf6\xe5\xf8", "עצור"),
        (8, "🙏 à".encode("utf-16-be"), "🙏 à"),
        (8, b"\x00S\x00", "S\ufffd"),
        (2, b"\x01", None),
        (4, b"\x01", None),
        (241, b"\x05", "é"),
    ],
)
def test_a_short_message_by_its_data_coding(coding: int, raw: bytes, text: str | None) -> None:
    assert smpp(raw, coding) == text


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        (None, "Arrêt".encode(), "Arrêt"),
        (None, b"Arr\xeat", "Arrêt"),
        ("UTF-8", "à 🙏".encode(), "à 🙏"),
        ("utf-8", b"Arr\xeat", "Arrêt"),
        ("ISO-8859-1", b"\xe9 \x80", "é €"),
        ("iso-8859-15", b"\xa4", "€"),
        ("UTF16-BE", b"\x00\xe9", "é"),
        ('"gsm"', b"\x05", "é"),
        ("rot13", b"STOP", "STOP"),
        ("hex", b"53", "53"),
        ("no such\x00thing", b"STOP", "STOP"),
    ],
)
def test_a_charset_by_its_name(charset: str | None, raw: bytes, text: str) -> None:
    assert named(raw, charset) == text
