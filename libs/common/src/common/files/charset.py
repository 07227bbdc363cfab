"""Decide the encoding of a file from its bytes. Pure.

UTF-16 shows at the first bytes. Every other encoding is decided from the whole file: `seen_in` gathers the evidence of
each piece, `decided` judges the sum. A file whose bytes fit two encodings with different letters is refused: a guess
would store wrong names in silence.

Windows-1252 (unicode.org/Public/MAPPINGS/VENDORS/MICSFT/WINDOWS/CP1252.TXT) and ISO-8859-15, called Latin-9
(unicode.org/Public/MAPPINGS/ISO8859/8859-15.TXT), differ in 80-9F, where Latin-9 has control characters only, and in
the eight bytes of DIFFERENT.
"""

import codecs
import re
from enum import IntFlag

from common.files.refused import FileRefused

UTF8 = "utf-8"
WINDOWS = "windows-1252"
LATIN_9 = "iso-8859-15"
UTF8_MARK = codecs.BOM_UTF8
WIDE_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
SNIFFED = 4  # two code units of UTF-16

# First bytes of files that a spreadsheet program or an archiver wrote
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\x1f\x8b")

_SAVE_AS = "save the file as UTF-8, in a spreadsheet: Save as, CSV UTF-8"


class Seen(IntFlag):
    """The evidence in the bytes of a file; a sum of pieces is a union."""

    NOTHING = 0
    UTF8 = 1  # letters outside ASCII, valid in UTF-8
    SINGLE = 2  # bytes invalid in UTF-8
    HIGH = 4  # bytes 80-9F, printable in Windows-1252 alone
    UNDEFINED = 8  # bytes without a character in Windows-1252
    FOREIGN = 16  # a place where Windows-1252 has a character that no word holds: Mac Roman or DOS
    AS_LATIN_9 = 32  # a byte of DIFFERENT where Latin-9 alone makes a word
    AS_WINDOWS = 64  # a byte of DIFFERENT where Windows-1252 alone makes sense
    UNCLEAR = 128  # a byte of DIFFERENT without such a place
    TWICE = 256  # UTF-8 decoded wrongly and saved again: Ã© for é


DIFFERENT = b"\xa4\xa6\xa8\xb4\xb8\xbc\xbd\xbe"  # Windows-1252 ¤ ¦ ¨ ´ ¸ ¼ ½ ¾, Latin-9 € Š š Ž ž Œ œ Ÿ
_HIGH = bytes(range(0x80, 0xA0))
_UNDEFINED = b"\x81\x8d\x8f\x90\x9d"
# A capital behind a small letter (é of Mac Roman reads as Ž), or a sign of typography between two letters (é of DOS
# reads as a low quote). An apostrophe, a dash and a trademark sign are at home there.
_FOREIGN = re.compile(rb"[a-z][\x8a\x8c\x8e\x9f]|[A-Za-z][\x80\x82\x84-\x89\x8b\x93-\x95\x98\x9b][A-Za-z]")
# Letters of French in UTF-8. In Windows-1252 a capital Â or Ã before a sign, which no word has
_UTF8 = re.compile(rb"\xc3[\x80-\xbf]|\xc2[\xa0-\xbf]|\xe2\x80[\x80-\xbf]")
_AS_LATIN_9 = re.compile(rb"[\xbd\xbc][A-Za-z]|[0-9] ?\xa4|\xa4 ?[0-9]")  # c½ur, ¼uvre, 12 ¤
_AS_WINDOWS = re.compile(rb"[0-9] ?[\xbc\xbd\xbe](?![A-Za-z])|(?<=[a-z])\xb4")  # 1 ½; l´eau
_TWICE = re.compile(
    rb"\xc3\x83(?:\xc2[\x80-\xbf]|\xe2\x80[\x98-\xba])|\xc3\xa2\xe2\x82\xac"  # Ã with its second half; â€
)


def wide_of(beginning: bytes) -> str | None:
    """Return utf-16-le or utf-16-be by the mark, or by zero bytes beside two ASCII characters; else `None`."""
    if (marked := WIDE_MARKS.get(beginning[:2])) is not None:
        return marked
    if len(beginning) >= SNIFFED:
        if beginning[1] == beginning[3] == 0 != beginning[0]:
            return "utf-16-le"
        if beginning[0] == beginning[2] == 0 != beginning[1]:
            return "utf-16-be"
    return None


def check_text(beginning: bytes) -> None:
    """Raise FileRefused for a workbook or an archive."""
    if beginning.startswith(_WORKBOOKS):
        raise FileRefused(
            "spreadsheet", "the file is a workbook or an archive, not text; in the spreadsheet: Save as, CSV UTF-8"
        )


def seen_in(body: bytes) -> Seen:
    """Return the evidence in whole lines. Raises FileRefused for a NUL."""
    if b"\0" in body:
        raise FileRefused("not_text", f"the file is not text; {_SAVE_AS}")
    if body.isascii():
        return Seen.NOTHING
    try:
        body.decode()
    except UnicodeDecodeError:
        return _single(body)
    return Seen.UTF8 | (Seen.TWICE if _TWICE.search(body) else Seen.NOTHING)


def _single(body: bytes) -> Seen:
    seen = Seen.SINGLE | (Seen.UTF8 if _UTF8.search(body) else Seen.NOTHING)
    if len(body.translate(None, _HIGH)) < len(body):
        seen |= Seen.HIGH
        if len(body.translate(None, _UNDEFINED)) < len(body):
            seen |= Seen.UNDEFINED
        if _FOREIGN.search(body):
            seen |= Seen.FOREIGN
    if different := len(body) - len(body.translate(None, DIFFERENT)):
        latin, windows = len(_AS_LATIN_9.findall(body)), len(_AS_WINDOWS.findall(body))
        seen |= Seen.AS_LATIN_9 if latin else Seen.NOTHING
        seen |= Seen.AS_WINDOWS if windows else Seen.NOTHING
        seen |= Seen.UNCLEAR if different > latin + windows else Seen.NOTHING
    return seen


def decided(seen: Seen) -> str:
    """Return the encoding of a file that is not UTF-16, by all its evidence. Raises FileRefused without a sure one."""
    if Seen.SINGLE not in seen:
        return UTF8
    if Seen.UTF8 in seen:
        raise FileRefused("charset", f"parts of the file are UTF-8 and others are not; {_SAVE_AS}")
    if seen & (Seen.UNDEFINED | Seen.FOREIGN):
        raise FileRefused("charset", f"the file is neither UTF-8 nor Windows-1252 nor ISO-8859-15; {_SAVE_AS}")
    latin = Seen.AS_LATIN_9 in seen
    if latin and seen & (Seen.HIGH | Seen.AS_WINDOWS):
        raise FileRefused("charset_unclear", f"parts read as Windows-1252 and others as ISO-8859-15; {_SAVE_AS}")
    if latin:
        return LATIN_9
    if Seen.UNCLEAR in seen and not seen & (Seen.HIGH | Seen.AS_WINDOWS):
        raise FileRefused("charset_unclear", f"the file may be Windows-1252 or ISO-8859-15; {_SAVE_AS}")
    return WINDOWS
