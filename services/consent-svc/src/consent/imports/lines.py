"""The file of an import: cut into pieces while it arrives, and a piece read line by line. Pure.

CSV (RFC 4180, a header row, any of `,` `;` tab `|` between cells) or NDJSON, in UTF-8. Every piece is whole lines, so
that each can be read by itself, in any order, and again after a crash. Nothing here is a sequence of the whole file,
and no refusal repeats what a line says.
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
PIECE_LINES = 1000  # decided at once, while nothing else is done; and subjects locked at once
LINE_BYTES = 64 * 1024  # the longest text shown, four bytes a character, and room for the rest
DELIMITERS = ",;\t|"
UTF8_MARK = b"\xef\xbb\xbf"


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One person, as a line of the file says it. Instants are RFC 3339, with their offset."""

    number: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    subject_id: Annotated[str, msgspec.Meta(max_length=100)] | None = None  # in lists of suppressions, for the number
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
    """A line that is no such line, and why: a stable slug."""

    reason: str


class WrongFile(ValueError):
    """The file as a whole will not do. `reason` is a stable slug; the message repeats nothing of the file."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Layout:
    """How the lines are written. Of NDJSON, neither delimiter nor columns."""

    format: Format
    delimiter: str = ""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole lines. `lines`: how many, blank ones and those within quotes counted."""

    body: bytes
    lines: int


def layout_of(piece: Piece, file_format: Format) -> tuple[Layout, Piece]:
    """How the file is written, from its first piece, and what of that piece is not the header. Raises WrongFile."""
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
    """Pieces of PIECE_BYTES or PIECE_LINES, and what is left for when more has arrived: nothing, of the `last`. Raises
    WrongFile."""
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
    """The lines of one piece by their number in the file. Blank ones are left out."""
    return _ndjson(body, first_line) if layout.format == "ndjson" else _csv(body, layout, first_line)


_decoder = msgspec.json.Decoder(Line)


def _ndjson(body: bytes, first_line: int) -> Iterator[tuple[int, Line | Unreadable]]:
    """All at once where all can be read, which is five times as fast; else one by one."""
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
    """Each line by itself, as `cut` ends them: a quote that nothing closes takes in no other. A lone carriage return
    ends none: the row behind it would have the number of the next line."""
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
    """All at once where no line can fail, which is three times as fast: nothing is quoted, no cell can be too long, and
    no carriage return is without its line feed."""
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
    """Which field is wrong. The error's own words may repeat the value."""
    if found := _FIELD.search(str(error)):
        return f"{found[1]}_not_valid"
    return "unknown_field" if "unknown field" in str(error) else "not_an_object"
