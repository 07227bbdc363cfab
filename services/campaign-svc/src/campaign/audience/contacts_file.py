"""Parse a file of contacts line by line, into contacts and refusals. Pure.

CSV and NDJSON accept the same values. The parser never holds the whole file, and no refusal repeats a number.
"""

import codecs
import csv
import io
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple, TypeVar, cast

import msgspec

from campaign.audience.attribute import MAX_CHARS, TIMEZONE, Inference, Kind, kept
from campaign.audience.contact_fields import (
    MAX_ATTRIBUTES,
    MAX_COLUMNS,
    NUMBER_COLUMNS,
    LineProblem,
    against,
    attribute_name,
    plain,
)
from campaign.message.text import STOP_FIELD
from common.sms.labels import holds_a_number
from common.sms.msisdn import HOME, NumberRefused, metropolitan, parse

T = TypeVar("T")

CHUNK_LINES = 2_000  # with ten times as many, a line takes almost twice as long
MAX_LINE_CHARS = 64 * 1024
DELIMITERS = ",;\t|"
SNIFFED = 4  # two code units of UTF-16


class Refusal(NamedTuple):
    line: int
    reason: str


class Chunk(NamedTuple):
    """Some lines in order: contacts by column, and refusals.

    `lines`: where each contact begins, from 1.
    """

    lines: Sequence[int]
    e164s: Sequence[str]
    territories: Sequence[str]
    attributes: Sequence[dict[str, str]]
    refusals: Sequence[Refusal]

    def behind(self, line: int) -> "Chunk":
        """Return the chunk after `line`."""
        place = bisect_right(self.lines, line)
        return Chunk(
            self.lines[place:],
            self.e164s[place:],
            self.territories[place:],
            self.attributes[place:],
            [refusal for refusal in self.refusals if refusal.line > line],
        )


class FileRefused(ValueError):
    """The whole file cannot be read. `reason` is a stable slug."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class WrongColumns(FileRefused):
    """The file's columns cannot be used."""


@dataclass
class ReadAs:
    """The parser's understanding of the file so far.

    `encoded_twice`: UTF-8 decoded wrongly and saved again.
    """

    format: str = "csv"
    charset: str = "utf-8"
    delimiter: str | None = None
    encoded_twice: bool = False
    other_numbers: list[str] = field(default_factory=list)


class _Batch(NamedTuple):
    """Lines not yet checked."""

    lines: list[int]
    numbers: list[str]
    attributes: list[dict[str, str]]
    refusals: list[Refusal]
    short: bool = False


class Reading:
    """The reading of a file."""

    def __init__(
        self,
        body: Iterable[bytes],
        kinds: Mapping[str, Kind],
        *,
        countries: Sequence[str] = (HOME,),
        fictional: bool = False,
        size: int = CHUNK_LINES,
    ) -> None:
        self.read_as = ReadAs()
        self._body = body
        self._kinds = kinds
        self._typed = [(name, kind) for name, kind in kinds.items() if kind is not Kind.TEXT]
        self._countries = countries
        self._fictional = fictional
        self._size = size
        self._named: set[str] = set()
        self._inferred: dict[str, Inference] = {}

    @property
    def inferred(self) -> dict[str, Kind]:
        """Return the kinds of unknown attributes, by the accepted lines."""
        return {name: kind for name, seen in self._inferred.items() if (kind := seen.kind) is not None}

    def chunks(self) -> Iterator[Chunk]:
        """Yield chunks. Raises FileRefused; never for a file accepted by `check`."""
        first, lines = _opened(self._body, self.read_as)
        for batch in self._ndjson(first, lines) if _is_ndjson(first) else self._csv(first, lines):
            chunk = self._checked(batch)
            if chunk.lines or chunk.refusals:
                yield chunk

    def _checked(self, batch: _Batch) -> Chunk:
        """Parse the numbers, and check values by kind."""
        lines, attributes, refusals = batch.lines, batch.attributes, batch.refusals
        e164s = [metropolitan(number, self._countries) or "" for number in batch.numbers]
        territories = ["FR"] * len(e164s)
        refused: dict[int, str] = {}
        for place in [place for place, e164 in enumerate(e164s) if not e164]:
            try:
                msisdn = parse(batch.numbers[place], countries=self._countries, fictional=self._fictional)
            except NumberRefused as error:
                refused[place] = error.reason
            else:
                e164s[place], territories[place] = msisdn.e164, msisdn.territory
        typed = [
            (name, kind)
            for name, kind in self._typed
            if name in self._named and not _all_as_kept(_values(attributes, name), kind)
        ]
        if typed or not batch.short or TIMEZONE in self._named:
            for place, said in enumerate(attributes):
                if place not in refused and (problem := against(said, typed, short=batch.short)) is not None:
                    refused[place] = problem
        if refused:
            refusals = sorted(refusals + [Refusal(lines[place], reason) for place, reason in refused.items()])
            lines, attributes = _without(refused, lines), _without(refused, attributes)
            e164s, territories = _without(refused, e164s), _without(refused, territories)
        for name, seen in self._inferred.items():
            if not seen.settled:
                seen.see(_values(attributes, name))
        return Chunk(lines, e164s, territories, attributes, refusals)

    def _meet(self, names: Collection[str | None]) -> bool:
        """Register attributes; return False if too many are unknown."""
        new = {n: Inference(n) for n in names if n is not None and n not in self._kinds and n not in self._inferred}
        if len(self._inferred) + len(new) > MAX_ATTRIBUTES:
            return False
        self._inferred |= new
        self._named.update(name for name in names if name is not None)
        return True

    # --- CSV ---------------------------------------------------------------------------------------------------------

    def _csv(self, header: str, lines: "_Lines") -> Iterator[_Batch]:
        delimiter, number, titles, self.read_as.other_numbers = _headed(header)
        self.read_as.delimiter = delimiter
        self._meet(titles)  # cannot fail: at most MAX_COLUMNS
        named = [(place, title) for place, title in enumerate(titles) if title is not None]
        width = len(titles)
        begins, first = 2, True  # the header is line 1
        while True:
            rows, ends, short = _rows(lines, delimiter, begins, self._size)
            if not rows:
                return
            if first and width > 1:
                _same_delimiter(rows)
            first = False
            starts = [begins, *(end + 1 for end in ends[:-1])]
            begins = ends[-1] + 1
            cut = lines.ended and lines.cut(rows[-1], begins - starts[-1], width)
            gone: dict[int, str] = {}  # empty for a blank line
            for place in [place for place, row in enumerate(rows) if len(row) != width or not row[number].strip()]:
                row = rows[place]
                if any(cell.strip() for cell in row[width:]):
                    gone[place] = LineProblem.TOO_MANY_CELLS
                elif any(cell.strip() for cell in row):
                    rows[place] = [*row[:width], *[""] * (width - len(row))]
                else:
                    gone[place] = ""
            if cut:
                gone.setdefault(len(rows) - 1, LineProblem.CUT_OFF)
            refusals = [Refusal(starts[place], why) for place, why in gone.items() if why]
            if gone:
                starts, rows = _without(gone, starts), _without(gone, rows)
            attributes = [{title: row[place].strip() for place, title in named} for row in rows]
            yield _Batch(starts, [row[number] for row in rows], attributes, refusals, short)

    # --- NDJSON ------------------------------------------------------------------------------------------------------

    def _ndjson(self, first: str, lines: "_Lines") -> Iterator[_Batch]:
        self.read_as.format = "ndjson"
        lines.back([first])
        layouts: dict[tuple[str, ...], tuple[int, list[str | None]] | str] = {}
        begins = 1
        while read := lines.take(self._size):
            batch = _Batch([], [], [], [])
            for line, said in enumerate(_objects(read), begins):
                if said is None:
                    continue
                if isinstance(said, LineProblem):
                    batch.refusals.append(Refusal(line, said))
                    continue
                if (layout := layouts.get(names := tuple(said))) is None:
                    if len(layouts) > MAX_ATTRIBUTES:
                        layouts.clear()
                    layout = layouts[names] = self._layout(names)
                if isinstance(layout, str):
                    batch.refusals.append(Refusal(line, layout))
                    continue
                number, titles = layout
                values = [value.strip() if isinstance(value, str) else plain(value) for value in said.values()]
                attributes = dict(zip(titles, values, strict=True))
                attributes.pop(None, None)
                batch.lines.append(line)
                batch.numbers.append(values[number])
                batch.attributes.append(cast(dict[str, str], attributes))
            begins += len(read)
            yield batch

    def _layout(self, names: Sequence[str]) -> tuple[int, list[str | None]] | str:
        try:
            number, titles, others = _columns(names)
        except WrongColumns as error:
            return error.reason
        self.read_as.other_numbers += [name for name in others if name not in self.read_as.other_numbers]
        titles += [None] * (len(names) - len(titles))
        return (number, titles) if self._meet(titles) else LineProblem.TOO_MANY_ATTRIBUTES


def check(body: Iterable[bytes], size: int = CHUNK_LINES) -> None:
    """Read a file to its end; raise FileRefused if the file cannot be used.

    `size` must equal the later Reading's: chunks decide which lines the CSV parser reads.
    """
    first, lines = _opened(body, ReadAs())
    if _is_ndjson(first):
        deque(lines, maxlen=0)
        return
    delimiter, _, titles, _ = _headed(first)
    rows, ends, _ = _rows(lines, delimiter, 2, size)
    if len(titles) > 1:
        _same_delimiter(rows)
    while ends:
        _, ends, _ = _rows(lines, delimiter, ends[-1] + 1, size, wanted=False)


def _opened(body: Iterable[bytes], read_as: ReadAs) -> tuple[str, "_Lines"]:
    """Return (the first line, the other lines). Raises FileRefused."""
    lines = _Lines(_lines(_decoded(body, read_as), read_as))
    first = next(lines, "")
    if not first.strip():
        raise FileRefused("empty", "the file is empty, or its first line is")
    if first.lstrip().startswith("["):
        raise FileRefused("json_array", "one array; NDJSON has an object on each line, and nothing around them")
    return first, lines


def _is_ndjson(first: str) -> bool:
    return first.lstrip().startswith("{")


def _headed(header: str) -> tuple[str, int, list[str | None], list[str]]:
    """Return (the delimiter, then the values of `_columns`). Raises WrongColumns."""
    delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader([header], delimiter=d))))
    return delimiter, *_columns(next(csv.reader([header], delimiter=delimiter)))


class _Lines(Iterator[str]):
    """The lines of a file, with push-back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._back: list[str] = []  # a stack: the next line is last
        self._last: deque[str] = deque(maxlen=1000)  # no sane row has more lines
        self.ended = False

    def __next__(self) -> str:
        if self._back:
            return self._back.pop()
        line = next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self._last.append(line)
        return line

    def take(self, many: int) -> list[str]:
        """Return the next lines, at most `many`."""
        read = [self._back.pop() for _ in range(min(many, len(self._back)))]
        fresh = list(islice(self._lines, many - len(read)))
        self._last.extend(fresh)
        self.look_ahead()
        return read + fresh

    def look_ahead(self) -> None:
        """Set `ended` if no line is left."""
        if not self._back and (line := next(self, None)) is not None:
            self.back([line])

    def back(self, lines: Sequence[str]) -> None:
        self._back.extend(reversed(lines))

    def cut(self, row: Sequence[str], lines: int, width: int) -> bool:
        """Return whether the file breaks off in its last row.

        A broken row stops within quotes, or before its last cell and a line end. A quote within an unquoted cell closes
        nothing.
        """
        raw = "".join(list(self._last)[-lines:])
        quotes = raw.count('"')
        if quotes % 2 and quotes != sum(cell.count('"') for cell in row):
            return True
        return len(row) < width and not raw.endswith(("\n", "\r"))


def _rows(
    lines: _Lines, delimiter: str, begins: int, size: int, *, wanted: bool = True
) -> tuple[list[list[str]], Sequence[int], bool]:
    """Return (rows, the line each ends on, whether all cells are short).

    Chunks without quotes are split at the delimiter, four times as fast. Such rows are built only if `wanted`.
    """
    read = lines.take(size)
    if '"' not in "".join(read):
        rows = [line.rstrip("\r\n").split(delimiter) for line in read] if wanted else []
        return rows, range(begins, begins + len(read)), max(map(len, read), default=0) <= MAX_CHARS
    lines.back(read)
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        found = [(row, reader.line_num) for row in islice(reader, size)]
    except csv.Error as error:
        raise FileRefused("not_csv", f"at line {begins} or after it: {error}") from error
    lines.look_ahead()
    return [row for row, _ in found], [begins - 1 + read for _, read in found], False


def _same_delimiter(rows: Sequence[Sequence[str]]) -> None:
    """Raise WrongColumns if the delimiter splits no row and another would split each."""
    if any(len(row) > 1 for row in rows):
        return
    filled = [row[0] for row in rows if row and row[0].strip()]
    if filled and any(all(other in cell for cell in filled) for other in DELIMITERS):
        raise WrongColumns("delimiter_differs", "the lines have another separator between their cells than the header")


_object = msgspec.json.Decoder(dict[str, str | int | float | bool | None])
Said = dict[str, str | int | float | bool | None]


def _objects(batch: Sequence[str]) -> Iterator[Said | LineProblem | None]:
    """Yield each line's object or problem; `None` for a blank line."""
    whole = "".join(batch)
    if "\\u0000" not in whole:
        try:
            found = _object.decode_lines(whole)
        except msgspec.DecodeError:
            found = []
        if len(found) == len(batch):
            yield from found
            return
    for line in batch:
        if not line.strip():
            yield None
            continue
        try:
            said = _object.decode(line)
        except msgspec.DecodeError:
            cut = not line.endswith(("\n", "\r"))  # only the last line lacks an end
            yield LineProblem.CUT_OFF if cut and not line.rstrip().endswith("}") else LineProblem.NOT_AN_OBJECT
            continue
        yield LineProblem.NOT_AN_OBJECT if any("\0" in f"{name}{value}" for name, value in said.items()) else said


def _values(contacts: Iterable[Mapping[str, str]], name: str) -> set[str]:
    """Return an attribute's values, empty included."""
    return {each.get(name, "") for each in contacts}


def _all_as_kept(values: Iterable[str], kind: Kind) -> bool:
    return all(not value or kept(value, kind) == value for value in values)


def _without(gone: Container[int], column: Iterable[T]) -> list[T]:
    """Return a column without these indexes."""
    return [each for place, each in enumerate(column) if place not in gone]


def _columns(header: Sequence[str]) -> tuple[int, list[str | None], list[str]]:
    """Return (the number's column, attribute names by column, other number columns). Raises WrongColumns.

    `None` stands for number and untitled columns.
    """
    if len(header) > MAX_COLUMNS:
        raise WrongColumns("too_many_columns", f"{len(header)} columns, at most {MAX_COLUMNS}")
    names = [attribute_name(title) for title in header]
    number = next((names.index(name) for name in NUMBER_COLUMNS if name in names), None)
    if number is None:
        if len(header) == 1 and re.search(r"[\W_]\w", header[0].strip()):
            raise WrongColumns("delimiter_unknown", "one column only: cells are separated by a comma, ; tab or |")
        raise WrongColumns(
            "number_column_missing",
            f"no column for the number; call it one of: {', '.join(NUMBER_COLUMNS)} (accents and case do not matter)",
        )
    titles = [name if name and name not in NUMBER_COLUMNS else None for name in names]
    others = [name for place, name in enumerate(names) if name in NUMBER_COLUMNS and place != number]
    named = [name for name in titles if name]
    if len(set(named)) < len(named):
        raise WrongColumns("column_twice", "two columns have the same title")
    if any(map(holds_a_number, header)) or any(map(holds_a_number, named)):
        raise WrongColumns(
            LineProblem.NUMBER_IN_TITLE,
            "the title of a column looks like a phone number: the first line must have titles",
        )
    if STOP_FIELD in named:
        raise WrongColumns("reserved_column", f"{STOP_FIELD!r} is the STOP mention in a text, and cannot be a column")
    last = max(place for place, name in enumerate(names) if name)
    return number, titles[: last + 1], others


def _decoded(body: Iterable[bytes], read_as: ReadAs) -> Iterator[str]:
    """Decode UTF-8, or Windows-1252 from the first byte outside UTF-8. Raises FileRefused.

    Only ASCII, the same in both, may stand before that byte.
    """
    decoder: codecs.IncrementalDecoder | None = None
    plain = True
    for data, last in chain(((piece, False) for piece in _filled(body)), [(b"", True)]):
        if decoder is None:
            read_as.charset = _charset(data)
            decoder = codecs.getincrementaldecoder(read_as.charset)()
            read_as.charset = read_as.charset.removesuffix("-sig")
        try:
            text = decoder.decode(data, last)
        except UnicodeDecodeError as error:
            if not (plain and error.encoding == "utf-8" and error.object[: error.start].isascii()):
                raise FileRefused("charset", "the file is neither UTF-8 nor Windows-1252") from error
            read_as.charset = "windows-1252"
            decoder = codecs.getincrementaldecoder("cp1252")()
            try:
                text = decoder.decode(error.object, last)
            except UnicodeDecodeError as again:
                raise FileRefused("charset", "the file is neither UTF-8 nor Windows-1252") from again
        if "\0" in text:
            raise FileRefused("not_text", "the file is not text; export it as CSV")
        plain = plain and text.isascii()
        yield text


# the UTF-8 bytes of « é », « è », « à », « ç », « ’ »… read as Windows-1252
_TWICE = re.compile("Ã[\u0080-\u00bf\u2018-\u203a]|â€")


def _charset(data: bytes) -> str:
    """Return UTF-16 by BOM or by zero bytes, otherwise UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(data) > 3 and data[1] == data[3] == 0 != data[0]:
        return "utf-16-le"
    if len(data) > 3 and data[0] == data[2] == 0 != data[1]:
        return "utf-16-be"
    return "utf-8-sig"


def _filled(body: Iterable[bytes]) -> Iterator[bytes]:
    """Skip empty pieces, and fill the first to SNIFFED bytes."""
    first = b""
    for piece in body:
        if len(first) < SNIFFED:
            first += piece
            if len(first) < SNIFFED:
                continue
            piece = first
        if piece:
            yield piece
    if first and len(first) < SNIFFED:
        yield first


def _lines(texts: Iterable[str], read_as: ReadAs) -> Iterator[str]:
    """Yield lines with their ends (\\n, \\r\\n or \\r). Raises FileRefused for a line too long."""
    rest = ""
    for piece in texts:
        text = rest + piece
        if not text.isascii() and _TWICE.search(text):
            read_as.encoded_twice = True
        pieces = list(io.StringIO(text, newline=""))
        # the last line may continue, and a final \r may be half of \r\n
        rest = pieces.pop() if pieces and not pieces[-1].endswith("\n") else ""
        if max(map(len, pieces), default=0) > MAX_LINE_CHARS or len(rest) > MAX_LINE_CHARS:
            raise FileRefused("line_too_long", f"a line of more than {MAX_LINE_CHARS} characters")
        yield from pieces
    if rest:
        yield rest
