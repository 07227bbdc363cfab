"""Read the cells of a piece. Pure.

A piece holds whole records (`common.files.cutting`), so that a quote which nothing closes takes in no other record. A
record that cannot be read is refused by its lines, with a reason, and its neighbours are read.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from common.files.charset import UTF8_MARK
from common.files.cutting import DELIMITERS, LINE_BYTES, Piece, Shape, record_ends
from common.files.refused import FileRefused, WrongColumns


class CellProblem(StrEnum):
    """Reasons for refusing a line of a table."""

    NOT_CSV = "not_csv"
    TOO_MANY_CELLS = "too_many_cells"
    CUT_OFF = "cut_off"


class RefusedLine(NamedTuple):
    """A line that cannot be read. `reason` is a slug, and repeats nothing of the line."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Table:
    """The records of a piece, blank ones aside.

    `starts`: the line at which each row begins. `short`: where rows with fewer cells than the header begin, which are
    filled with empty cells: spreadsheets leave these off. `narrow`: no cell has more than `NARROW` characters.
    """

    starts: Sequence[int]
    rows: list[list[str]]
    refused: list[RefusedLine] = field(default_factory=list)
    short: frozenset[int] = frozenset()
    narrow: bool = False


NARROW = 200


def titled(piece: Piece, shape: Shape) -> tuple[list[str], Piece]:
    """Return (the titles, the first piece behind them). Raises FileRefused.

    An encoding of one byte differs from another in no letter of a title that has a meaning here.
    """
    body = piece.body.removeprefix(UTF8_MARK)
    record, lines = _first_record(body[: LINE_BYTES + 1].decode("latin-1"), shape)
    try:
        cells = next(csv.reader(record, delimiter=shape.delimiter, strict=True), [])
    except csv.Error:
        raise WrongColumns("not_csv", "the header is no line of a CSV") from None
    cells = [_decoded(cell.encode("latin-1")) for cell in cells]
    while cells and not cells[-1].strip():
        cells.pop()
    if not cells:
        raise FileRefused("empty", "the file is empty, or its first line is")
    rest = body.split(shape.line_end.encode(), lines)
    behind = rest[lines] if len(rest) > lines else b""
    return cells, Piece(behind, piece.lines - lines if behind else 0, piece.arrived)


def _decoded(title: bytes) -> str:
    try:
        return title.decode()
    except UnicodeDecodeError:
        return title.decode("cp1252", "replace")


def _first_record(text: str, shape: Shape) -> tuple[list[str], int]:
    """Return (the lines of the first record, their number)."""
    for start, lines, _ in _apart(text, shape):
        return lines, start + len(lines)
    return [], 1


def read(text: str, shape: Shape, width: int, first_line: int) -> Table:
    """Return the records of a piece behind the header as rows of `width` cells."""
    line_end = shape.line_end
    if '"' not in text:
        plain = text.replace("\r\n", "\n") if line_end == "\n" else text
        if ("\r" if line_end == "\n" else "\n") not in plain:
            lines = plain.split(line_end)
            if unended := bool(lines[-1]):
                lines.append("")
            lines.pop()
            rows = [line.split(shape.delimiter) for line in lines]
            narrow = max(map(len, lines), default=0) <= NARROW
            return _squared(range(first_line, first_line + len(rows)), rows, [], width, unended, narrow)
    starts, rows, refused = _quoted(text, shape, first_line)
    return _squared(starts, rows, refused, width, not text.endswith(line_end), False)


def check_delimiter(found: Table) -> None:
    """Raise WrongColumns if the delimiter of the header splits no row, and another would split each."""
    if not found.rows or len(found.short) < len(found.rows) or any(any(row[1:]) for row in found.rows):
        return
    if any(all(other in row[0] for row in found.rows) for other in DELIMITERS):
        raise WrongColumns("delimiter_differs", "the lines have another separator between their cells than the header")


def _quoted(text: str, shape: Shape, first_line: int) -> tuple[list[int], list[list[str]], list[RefusedLine]]:
    """Return (starts, rows, refused lines); parse all records at once if valid, else each alone."""
    lines = io.StringIO(text, newline="\n") if shape.line_end == "\n" else _lines(text, shape)
    reader = csv.reader(lines, delimiter=shape.delimiter, strict=True)
    try:
        found = [(row, reader.line_num) for row in reader]
    except csv.Error:
        return _each_alone(text, shape, first_line)
    starts = [first_line, *(first_line + after for _, after in found)]
    return starts[: len(found)], [row for row, _ in found], []


def _each_alone(text: str, shape: Shape, first_line: int) -> tuple[list[int], list[list[str]], list[RefusedLine]]:
    starts, rows, refused = [], [], []
    for at, lines, closed in _apart(text, shape):
        try:
            row = next(csv.reader(lines, delimiter=shape.delimiter, strict=True), [])
        except csv.Error:
            reason = CellProblem.NOT_CSV if closed else CellProblem.CUT_OFF
            refused += [RefusedLine(first_line + at + line, reason) for line in range(len(lines))]
        else:
            starts.append(first_line + at)
            rows.append(row)
    return starts, rows, refused


def _apart(text: str, shape: Shape) -> Iterator[tuple[int, list[str], bool]]:
    """Yield (lines before, the lines of a record, whether its quotes are closed)."""
    lines = _lines(text, shape)
    begins = 0
    for end in record_ends([line.encode() for line in lines], shape.delimiter):
        yield begins, lines[begins : end + 1], True
        begins = end + 1
    if begins < len(lines):
        yield begins, lines[begins:], False


def _lines(text: str, shape: Shape) -> list[str]:
    """Return the lines with their ends."""
    lines = [line + shape.line_end for line in text.split(shape.line_end)]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _squared(
    starts: Sequence[int], rows: list[list[str]], refused: list[RefusedLine], width: int, unended: bool, narrow: bool
) -> Table:
    """Fill short rows, drop blank rows and blank further cells, refuse the others of another width.

    The last row of a file without a last line end may be cut off: a full row is taken.
    """
    gone: set[int] = set()
    short: set[int] = set()
    last = len(rows) - 1 if unended else -1
    for place in [place for place, row in enumerate(rows) if len(row) != width or not row[0].strip()]:
        row = rows[place]
        if not any(cell.strip() for cell in row):
            gone.add(place)
        elif any(cell.strip() for cell in row[width:]):
            gone.add(place)
            refused.append(RefusedLine(starts[place], CellProblem.TOO_MANY_CELLS))
        elif len(row) < width and place == last:
            gone.add(place)
            refused.append(RefusedLine(starts[place], CellProblem.CUT_OFF))
        elif len(row) != width:
            rows[place] = [*row[:width], *[""] * (width - len(row))]
            if len(row) < width:
                short.add(starts[place])
    if gone:
        starts = [start for place, start in enumerate(starts) if place not in gone]
        rows = [row for place, row in enumerate(rows) if place not in gone]
    return Table(starts, rows, sorted(refused), frozenset(short), narrow)
