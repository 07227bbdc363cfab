"""Decode the bytes of an SMS. Pure.

A text is never refused for its bytes: an unreadable byte becomes U+FFFD, because the rest may say STOP. Tables: 3GPP TS
23.038, 6.2.1 and 6.2.1.1 (DOMAIN 5.2). National shift tables are not supported: French has none (DOMAIN 5.5).
"""

GSM_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION = {
    0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\", 0x3C: "[", 0x3D: "~", 0x3E: "]", 0x40: "|", 0x65: "€",
}  # fmt: skip
ESCAPE = 0x1B
UNREADABLE = "\ufffd"

# SMPP data_coding (3.4, 5.2.19); 2 and 4 are binary
SMPP_CODINGS = {1: "ascii", 3: "iso-8859-1", 5: "shift_jis", 6: "iso-8859-5", 7: "iso-8859-8", 8: "utf-16-be"}
# names in SMS software; "UTF16-BE" and "gsm": Kannel user guide 1.3.1, table 5-7
CHARSETS = {
    "utf16-be": "utf-16-be",
    "utf-16be": "utf-16-be",
    "utf-16-be": "utf-16-be",
    "utf-16": "utf-16-be",
    "ucs-2": "utf-16-be",
    "ucs2": "utf-16-be",
    "iso-10646-ucs-2": "utf-16-be",
    "iso-8859-1": "windows-1252",  # a superset in practice
    "latin1": "windows-1252",
    "latin-1": "windows-1252",
    "windows-1252": "windows-1252",
    "cp1252": "windows-1252",
    "iso-8859-15": "iso-8859-15",
    "latin-9": "iso-8859-15",
}
GSM_NAMES = ("gsm", "gsm7", "gsm-7", "gsm0338", "gsm-03.38")


def gsm(raw: bytes) -> str:
    """Decode GSM 7-bit text, a septet in each byte.

    An unknown escape becomes the basic character, as phones show it.
    """
    text: list[str] = []
    escaped = False
    for septet in raw:
        if septet == ESCAPE and not escaped:
            escaped = True
        elif septet >= len(GSM_BASIC):
            text.append(UNREADABLE)
            escaped = False
        else:
            basic = " " if septet == ESCAPE else GSM_BASIC[septet]
            text.append(GSM_EXTENSION.get(septet, basic) if escaped else basic)
            escaped = False
    return "".join(text)


def smpp(raw: bytes, coding: int) -> str | None:
    """Decode a short_message by its data_coding; `None` for binary.

    Coding 0, and any reserved coding, is the GSM alphabet. UCS-2 is read as UTF-16, as handsets do.
    """
    if coding in (2, 4):
        return None
    return _decoded(raw, SMPP_CODINGS[coding]) if coding in SMPP_CODINGS else gsm(raw)


def named(raw: bytes, charset: str | None) -> str:
    """Decode bytes in a named charset.

    Without a known name: UTF-8, else Windows-1252.
    """
    name = (charset or "").strip("\"' ").lower()
    if name in GSM_NAMES:
        return gsm(raw)
    if name in CHARSETS:
        return _decoded(raw, CHARSETS[name])
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _decoded(raw, "windows-1252")


def _decoded(raw: bytes, charset: str) -> str:
    return raw.decode(charset, "replace")
