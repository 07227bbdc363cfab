"""Cut an arriving import file into pieces, and read a piece line by line. Pure.

A file is CSV (RFC 4180, a header row, `,` `;` tab or `|` between cells) or NDJSON, in UTF-8. Every piece holds whole
lines, so a worker can read any piece alone, and again after a crash. No refusal repeats a line's content.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Annotated, Literal

import msgspec

from common.contracts.consent import Basis

Format = Literal["csv", "ndjson"]
Short = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]

PIECE_BYTES = 512 * 1024
PIECE_LINES = 1000  # decided in one go on the event loop
LINE_BYTES = 64 * 1024  # `text_shown` at four bytes a character, and more
DELIMITERS = ",;\t|"
UTF8_MARK = b"\xef\xbb\xbf"


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A line, about one person. Instants are RFC 3339 with an offset."""

    number: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    subject_id: Annotated[str, msgspec.Meta(max_length=100)] | None = None  # suppressions only, in place of `number`
    country: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$")] | None = None  # by whose plan `number` is written
    kind: Literal["opt_in", "opt_out"] | None = None
    purpose: Short | None = None
    basis: Basis | None = None
    occurred_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    form_id: Short | None = None
    form_version: Short | None = None
    text_shown: Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)] | None = None
    actor: Short | None = None
    sale_reference: Short | None = None


COLUMNS = Line.__struct_fields__


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that does not parse. `reason` is a slug."""

    reason: str


class WrongFile(ValueError):
    """The whole file is refused. `reason` is a slug; the message repeats nothing of the file."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Layout:
    """The format of the lines; NDJSON needs no more."""

    format: Format
    delimiter: str = ""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole lines. `lines` counts line breaks, also blank lines and breaks within quotes."""

    body: bytes
    lines: int


def layout_of(piece: Piece, file_format: Format) -> tuple[Layout, Piece]:
    """Return the file's layout and the first piece without the header. Raises WrongFile."""
    body = piece.body.removeprefix(UTF8_MARK)
    if file_format == "ndjson":
        return Layout("ndjson"), Piece(body, piece.lines)
    header, _, rest = body.partition(b"\n")
    line = header.decode()
    delimiter = max(DELIMITERS, key=line.count)
    try:
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        raise WrongFile("not_csv", "the header is no line of a CSV") from None
    columns = tuple(cell.strip().lower() for cell in cells)
    for place, column in enumerate(columns, start=1):
        if column not in COLUMNS:
            raise WrongFile("unknown_column", f"column {place} of the header is none of {', '.join(COLUMNS)}")
    if len(set(columns)) < len(columns):
        raise WrongFile("column_twice", "the header names a column twice")
    if not {"number", "subject_id"} & set(columns):
        raise WrongFile("number_column_missing", "the first line must be a header that names the column number")
    return Layout("csv", delimiter, columns), Piece(rest, piece.lines - 1 if rest else 0)


def cut(arrived: bytes, file_format: Format, *, last: bool) -> tuple[list[Piece], bytes]:
    """Cut the bytes into pieces; return them and the bytes left for the next call. Raises WrongFile.

    A piece ends with the line that reaches PIECE_BYTES or PIECE_LINES.
    """
    pieces: list[Piece] = []
    start = end = at = lines = held = 0  # `end` and `held`: up to the last whole line
    quoted = False
    while (newline := arrived.find(b"\n", at)) >= 0:
        if file_format == "csv":
            quoted ^= bool(arrived.count(b'"', at, newline) % 2)  # a line break within quotes ends no line
        at, lines = newline + 1, lines + 1
        if quoted:
            continue
        if newline - end > LINE_BYTES:
            raise _too_long()
        end, held = at, lines
        if held >= PIECE_LINES or end - start >= PIECE_BYTES:
            pieces.append(_text(arrived[start:end], held))
            start, lines = end, 0
    if len(arrived) - end > LINE_BYTES:
        raise _too_long()
    if last and start < len(arrived):
        pieces.append(_text(arrived[start:], lines + (not arrived.endswith(b"\n"))))
        start = len(arrived)
    return pieces, arrived[start:]


def _too_long() -> WrongFile:
    return WrongFile("line_too_long", f"a line of more than {LINE_BYTES} bytes, or a quote that nothing closes")


def _text(body: bytes, lines: int) -> Piece:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise WrongFile("not_utf8", "the file is not UTF-8") from None
    if b"\0" in body:
        raise WrongFile("not_text", "the file is not text")
    return Piece(body, lines)


def read(body: bytes, layout: Layout, first_line: int) -> Iterator[tuple[int, Line | Unreadable]]:
    """Yield a piece's lines by number in the file, blank lines aside."""
    return _ndjson(body, first_line) if layout.format == "ndjson" else _csv(body, layout, first_line)


_decoder = msgspec.json.Decoder(Line)


def _ndjson(body: bytes, first_line: int) -> Iterator[tuple[int, Line | Unreadable]]:
    """Decode all lines at once if valid, five times as fast, else line by line."""
    raws = body.removesuffix(b"\n").split(b"\n")
    if b"\\u0000" not in body:
        try:
            lines = _decoder.decode_lines(body)
        except msgspec.DecodeError:
            lines = []
        if len(lines) == len(raws):
            yield from zip(count(first_line), lines)
            return
    for number, raw in enumerate(raws, start=first_line):
        if raw.strip():
            yield number, _line(raw)


def _line(raw: bytes) -> Line | Unreadable:
    try:
        line = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        return Unreadable(_why(error))
    except msgspec.DecodeError:
        return Unreadable("not_json")
    return Unreadable("not_text") if any("\0" in str(getattr(line, name)) for name in COLUMNS) else line


def _csv(body: bytes, layout: Layout, first_line: int) -> Iterator[tuple[int, Line | Unreadable]]:
    """Parse each line alone, as `cut` ends lines, so that an unclosed quote swallows no other line.

    A lone carriage return ends no line, or line numbers would be wrong.
    """
    begins = first_line
    for line in _whole_lines(body):
        rows = csv.reader(io.StringIO(line.decode(), newline="\n"), delimiter=layout.delimiter)
        at, ends = begins, begins + line.count(b"\n") + (not line.endswith(b"\n"))
        try:
            for row in rows:
                if any(row):
                    yield at, _cells(row, layout.columns)
                at = begins + rows.line_num
        except csv.Error:
            for unread in range(at, ends):
                yield unread, Unreadable("not_csv")
        begins = ends


def _whole_lines(body: bytes) -> Iterator[bytes]:
    """Yield the whole body, three times as fast, if no line can fail; else each line."""
    lone = body.count(b"\r") - body.count(b"\r\n")
    if b'"' not in body and not lone and len(body) <= csv.field_size_limit():
        yield body
        return
    start = at = 0
    quoted = False
    while (newline := body.find(b"\n", at)) >= 0:
        quoted ^= bool(body.count(b'"', at, newline) % 2)
        at = newline + 1
        if not quoted:
            yield body[start:at]
            start = at
    if start < len(body):
        yield body[start:]


def _cells(row: Sequence[str], columns: Sequence[str]) -> Line | Unreadable:
    if len(row) > len(columns):
        return Unreadable("too_many_cells")
    said = {column: text for column, cell in zip(columns, row, strict=False) if (text := cell.strip())}
    try:
        return msgspec.convert(said, Line)
    except msgspec.ValidationError as error:
        return Unreadable(_why(error))


_FIELD = re.compile(r"`\$\.(\w+)`$")


def _why(error: msgspec.ValidationError) -> str:
    """Return a slug with the wrong field's name; the error's own words may repeat the value."""
    if found := _FIELD.search(str(error)):
        return f"{found[1]}_not_valid"
    return "unknown_field" if "unknown field" in str(error) else "not_an_object"
