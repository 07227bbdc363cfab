"""Tell the shape of a file by its first line, and cut arriving bytes into pieces of whole lines. Pure.

A piece is read alone, by any process, and again after a crash. A line here is a record of CSV: a line break within
quotes ends none. Memory holds one piece and the bytes behind the last line end.
"""

import codecs
import csv
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Literal

from common.files import charset
from common.files.charset import UTF8_MARK, Seen
from common.files.refused import FileRefused, WrongColumns

Format = Literal["csv", "ndjson"]

PIECE_BYTES = 512 * 1024
PIECE_LINES = 1000  # decided in one go on the event loop
LINE_BYTES = 64 * 1024  # a text of 10,000 characters at four bytes each, and more
DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of all lines, by the first. `wide`: the UTF-16 encoding, or empty. NDJSON has no delimiter."""

    format: Format
    wide: str = ""
    line_end: str = "\n"
    delimiter: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole lines. `lines` counts line ends, blank lines and breaks within quotes included.

    The body of a UTF-16 file is UTF-8 here. `arrived` counts the bytes in the file.
    """

    body: bytes
    lines: int
    arrived: int


@dataclass(frozen=True, slots=True)
class Survey:
    """All that a reader needs to read a piece: the shape, and the encoding decided from the whole file."""

    shape: Shape
    charset: str
    encoded_twice: bool = False

    @property
    def codec(self) -> str:
        """Return the codec of the pieces: those of a UTF-16 file are UTF-8."""
        return charset.UTF8 if self.shape.wide else self.charset


def shape_of(arrived: bytes, file_format: Format | None = None, *, last: bool) -> Shape | None:
    """Return the shape, or `None` while the first line has not arrived. Raises FileRefused.

    Without `file_format` a brace at the beginning tells NDJSON.
    """
    charset.check_text(arrived)
    if len(arrived) < charset.SNIFFED and not last:
        return None
    wide = charset.wide_of(arrived) or ""
    text, _ = _narrow(arrived[: 2 * LINE_BYTES], wide, last=False) if wide else (arrived[:LINE_BYTES], 0)
    text = text.removeprefix(UTF8_MARK)
    if file_format is None:
        if not text.lstrip() and not last:
            return None
        file_format = "ndjson" if text.lstrip().startswith(b"{") else "csv"
    if file_format == "ndjson":
        return Shape("ndjson", wide)
    header = _first_line(text)
    if header is None:
        if len(arrived) > (2 if wide else 1) * LINE_BYTES:
            raise _too_long()
        if not last:
            return None
        header = (text, "\n")
    line, line_end = header
    return Shape("csv", wide, line_end, _delimiter(line.decode("latin-1")))


def _first_line(text: bytes) -> tuple[bytes, str] | None:
    """Return (the first line, its end), or `None` before that end. A \\r that ends the bytes may be half of \\r\\n."""
    found = re.search(rb"\r\n|\n|\r(?!\Z)", text)
    if found is None:
        return None
    return text[: found.start()], "\r" if found[0] == b"\r" else "\n"


def _delimiter(header: str) -> str:
    """Return the separator that makes the most cells."""

    def cells(delimiter: str) -> int:
        return len(next(csv.reader([header], delimiter=delimiter), []))

    try:
        return max(DELIMITERS, key=cells)
    except csv.Error:
        raise WrongColumns("not_csv", "the header is no line of a CSV") from None


def cut(arrived: bytes, shape: Shape, *, last: bool) -> tuple[list[Piece], bytes]:
    """Cut the bytes into pieces; return them and the bytes left for the next call. Raises FileRefused.

    A piece ends with the line that reaches PIECE_BYTES or PIECE_LINES.
    """
    if not shape.wide:
        pieces, end = _cut(arrived, shape, last=last)
        return pieces, arrived[end:]
    body, _ = _narrow(arrived, shape.wide, last=last)
    narrow, _ = _cut(body, shape, last=last)
    pieces = [Piece(p.body, p.lines, len(p.body.decode().encode(shape.wide))) for p in narrow]
    return pieces, arrived[sum(piece.arrived for piece in pieces) :]


def _narrow(arrived: bytes, wide: str, *, last: bool) -> tuple[bytes, int]:
    """Return (UTF-16 bytes as UTF-8, bytes read). Raises FileRefused."""
    decode = codecs.utf_16_le_decode if wide == "utf-16-le" else codecs.utf_16_be_decode
    try:
        text, read = decode(arrived, "strict", last)
    except UnicodeDecodeError:
        raise FileRefused("charset", "the file begins as UTF-16, and is none further on; save it as UTF-8") from None
    return text.encode(), read


def _cut(body: bytes, shape: Shape, *, last: bool) -> tuple[list[Piece], int]:
    """Return (pieces, the place behind them)."""
    lines = body.split(shape.line_end.encode())
    rest = lines.pop()
    sizes = list(accumulate(map(len, lines)))

    def end(line: int) -> int:
        return sizes[line] + line + 1

    quoted = shape.format == "csv" and b'"' in body
    whole: Sequence[int] = range(len(lines))
    if quoted and lines and not _all_well_formed(body, end(len(lines) - 1), shape):
        whole = record_ends(lines, shape.delimiter)
        longest = max((end(b) - end(a) for a, b in pairwise(whole)), default=0)
        longest = max(longest, end(whole[0]) if whole else 0) - 1
    else:
        longest = max(map(len, lines), default=0)
    if longest > LINE_BYTES or len(body) - (end(whole[-1]) if whole else 0) > LINE_BYTES:
        raise _too_long()
    pieces: list[Piece] = []
    at = first = start = 0  # of the next piece: its place in `whole`, its first line, its first byte
    while at < len(whole):
        by_lines = bisect_left(whole, first + PIECE_LINES - 1, at)
        by_bytes = bisect_left(whole, start + PIECE_BYTES, at, key=end)
        reached = min(by_lines, by_bytes)
        if reached == len(whole):
            break
        at, behind = reached + 1, whole[reached] + 1
        pieces.append(Piece(body[start : end(behind - 1)], behind - first, end(behind - 1) - start))
        first, start = behind, end(behind - 1)
    if last and start < len(body):
        pieces.append(Piece(body[start:], len(lines) - first + bool(rest), len(body) - start))
        start = len(body)
    return pieces, start


def record_ends(lines: Sequence[bytes], delimiter: str) -> Sequence[int]:
    """Return the lines at which a record ends. A quote opens a cell only at the beginning of the cell."""
    of_line = _cells(delimiter)
    ends, inside = [], False
    for place, line in enumerate(lines):
        if inside or b'"' in line:
            line = b'"' + line if inside else line.removeprefix(UTF8_MARK)
            inside = of_line.well_formed.fullmatch(line) is None and of_line.opens(line)
        if not inside:
            ends.append(place)
    return ends


def _all_well_formed(body: bytes, end: int, shape: Shape) -> bool:
    """Return whether each line is a record, by one look at all of them."""
    begin = len(UTF8_MARK) if body.startswith(UTF8_MARK) else 0
    return shape.line_end == "\n" and _cells(shape.delimiter).all_well_formed.fullmatch(body, begin, end) is not None


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of a line by patterns. `well_formed`: each quote opens a cell, is doubled, or closes its cell."""

    well_formed: re.Pattern[bytes]
    all_well_formed: re.Pattern[bytes]  # of several lines
    closed: re.Pattern[bytes]
    opened: re.Pattern[bytes]

    def opens(self, line: bytes) -> bool:
        """Return whether a line ends within a quoted cell."""
        return self.opened.search(self.closed.sub(b".", line)) is not None


@lru_cache(maxsize=8)
def _cells(delimiter: str) -> _Cells:
    d = re.escape(delimiter.encode())
    cell = rb'(?:"[^"\n]*+(?:""[^"\n]*+)*+"|[^"%b\n][^%b\n]*+|)' % (d, d)
    line = rb"%b(?:%b%b)*+" % (cell, d, cell)
    return _Cells(
        well_formed=re.compile(rb"%b\r?" % line),
        all_well_formed=re.compile(rb"%b(?:\r?\n%b)*+\r?" % (line, line)),
        closed=re.compile(rb'(?:^|(?<=%b))"[^"]*+(?:""[^"]*+)*+"' % d),
        opened=re.compile(rb'(?:^|%b)"' % d),
    )


def survey(arriving: Iterable[bytes], file_format: Format | None = None) -> Survey:
    """Read a file to its end, and return how to read its pieces. Raises FileRefused."""
    seen = Seen.NOTHING
    shape: Shape | None = None
    for of_file, piece in pieces_of(arriving, file_format):
        shape = of_file
        seen |= charset.seen_in(piece.body)
    if shape is None:
        raise FileRefused("empty", "the file is empty")
    return surveyed(shape, seen)


def surveyed(shape: Shape, seen: Seen) -> Survey:
    """Return how to read the pieces, by the evidence of all. Raises FileRefused."""
    return Survey(shape, shape.wide or charset.decided(seen), Seen.TWICE in seen)


def pieces_of(arriving: Iterable[bytes], file_format: Format | None = None) -> Iterator[tuple[Shape, Piece]]:
    """Yield the pieces of a file with its shape, however the bytes arrive. Raises FileRefused."""
    waiting = bytearray()
    shape: Shape | None = None
    for arrived in arriving:
        waiting += arrived
        if shape is None:
            shape = shape_of(bytes(waiting[: 2 * LINE_BYTES + 1]), file_format, last=False)
        if shape is not None and len(waiting) >= PIECE_BYTES:
            pieces, rest = cut(bytes(waiting), shape, last=False)
            waiting = bytearray(rest)
            for piece in pieces:
                yield shape, piece
    shape = shape or shape_of(bytes(waiting), file_format, last=True)
    assert shape is not None, "the last bytes are here"
    for piece in cut(bytes(waiting), shape, last=True)[0]:
        yield shape, piece


def _too_long() -> FileRefused:
    return FileRefused(
        "line_too_long", f"a line of more than {LINE_BYTES} bytes, or a quote that opens a cell and is never closed"
    )
