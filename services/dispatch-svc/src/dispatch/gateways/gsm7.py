"""The GSM 7-bit default alphabet for SMPP and Jasmin, one septet per octet (3GPP TS 23.038)."""

from common.sms.sms_length import GSM7_BASIC

ESCAPE = 0x1B
EXTENSION = {
    "\f": 0x0A, "^": 0x14, "{": 0x28, "}": 0x29, "\\": 0x2F, "[": 0x3C, "~": 0x3D, "]": 0x3E, "|": 0x40, "€": 0x65,
}  # fmt: skip

_SEPTETS = {character: bytes([at if at < ESCAPE else at + 1]) for at, character in enumerate(GSM7_BASIC)}
_SEPTETS |= {character: bytes([ESCAPE, septet]) for character, septet in EXTENSION.items()}


def encode(text: str) -> bytes | None:
    """Return the octets, or `None` when a character is outside the alphabet."""
    try:
        return b"".join(_SEPTETS[character] for character in text)
    except KeyError:
        return None
