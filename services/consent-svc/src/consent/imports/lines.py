"""Read a piece of an import file as lines about people. Pure.

The shape, the encoding and the columns are read by `common.files`. Every piece holds whole lines, so a worker can read
any piece alone, and again after a crash. No refusal repeats a line's content.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import compress, count
from operator import attrgetter, itemgetter
from typing import Annotated, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import replace

from common.contracts.consent import Basis
from common.files import columns, table
from common.files.charset import UTF8_MARK, Seen
from common.files.columns import Meaning, Taken
from common.files.cutting import Piece, Shape, Survey, surveyed
from common.files.instants import InstantProblem, Order, instant
from common.files.refused import WrongColumns
from common.files.table import Table

Kind = Literal["consents", "suppressions"]
Short = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Aware = Annotated[datetime, msgspec.Meta(tz=True)]
NUMBER_CHARS = 64
FEW = 20  # lines that are alike: fewer take less work one by one


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A line, about one person. Instants are RFC 3339 with an offset."""

    number: Annotated[str, msgspec.Meta(max_length=NUMBER_CHARS)] | None = None
    subject_id: Annotated[str, msgspec.Meta(max_length=100)] | None = None  # suppressions only, in place of `number`
    country: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$")] | None = None  # by whose plan `number` is written
    kind: Literal["opt_in", "opt_out"] | None = None
    purpose: Short | None = None
    basis: Basis | None = None
    occurred_at: Aware | None = None
    form_id: Short | None = None
    form_version: Short | None = None
    text_shown: Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)] | None = None
    actor: Short | None = None
    sale_reference: Short | None = None


COLUMNS = Line.__struct_fields__
TITLES = tuple("number_country" if name == "country" else name for name in COLUMNS)
# Columns of a table that are no field of a line, and speak for or against the line
_BESIDE = (Meaning.ACCEPTS_SMS.value, Meaning.OPTED_OUT_AT.value)
_KINDS = {
    "opt_in": "opt_in", "opt-in": "opt_in", "optin": "opt_in", "inscription": "opt_in",
    "opt_out": "opt_out", "opt-out": "opt_out", "optout": "opt_out", "desinscription": "opt_out",
    "désinscription": "opt_out",
}  # fmt: skip
_YES_NO = dict.fromkeys(("yes", "true", "1", "oui", "vrai"), True) | dict.fromkeys(
    ("no", "false", "0", "non", "faux", ""), False
)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that does not parse. `reason` is a slug."""

    reason: str


_Numbered = tuple[int, Line | Unreadable]  # a line by its number in the file


@dataclass(frozen=True, slots=True)
class Alike:
    """Lines that differ in number and time alone, as columns. `line`: any of these lines.

    Each line has a number and a time. `starts`: the places of the lines in the file.
    """

    line: Line
    starts: Sequence[int]
    numbers: Sequence[str]
    times: Sequence[datetime]

    def where(self, chosen: Sequence[bool]) -> "Alike":
        """Return the lines that are chosen, by place."""
        if all(chosen):
            return self
        starts, numbers = list(compress(self.starts, chosen)), list(compress(self.numbers, chosen))
        return Alike(self.line, starts, numbers, list(compress(self.times, chosen)))

    def lines(self) -> Iterator[tuple[int, Line]]:
        """Yield each line."""
        for start, number, at in zip(self.starts, self.numbers, self.times, strict=True):
            yield start, replace(self.line, number=number, occurred_at=at)


class Read(NamedTuple):
    """The lines of a piece: in columns the lines that many others are like, and the rest."""

    columns: Sequence[Alike]
    others: Iterable[_Numbered]


@dataclass(frozen=True, slots=True)
class Dates:
    """How local dates are to be read, as the caller states: their zone, and whether the day comes first."""

    zone: ZoneInfo | None = None
    order: Order | None = None


STATED = Dates()


@dataclass(frozen=True, slots=True)
class Layout:
    """What reads a piece: the shape, the columns by meaning, the evidence of the encoding. NDJSON has no columns."""

    shape: Shape
    columns: tuple[str, ...] = ()
    seen: Seen = Seen.NOTHING

    @property
    def survey(self) -> Survey:
        """Return the encoding, decided from all pieces. Raises FileRefused."""
        return surveyed(self.shape, self.seen)


def begun(piece: Piece, shape: Shape, kind: Kind, *, ignore_others: bool = False) -> tuple[Layout, Piece]:
    """Return the file's layout and the first piece behind the header. Raises FileRefused.

    `ignore_others`: a column of an unknown title is left out; without it the file is refused, as a mistyped column of
    proof would be lost in silence.
    """
    if shape.format == "ndjson":
        return Layout(shape), Piece(piece.body.removeprefix(UTF8_MARK), piece.lines, piece.arrived)
    titles, rest = table.titled(piece, shape)
    taken = columns.taken(titles, kind)
    check_columns(taken, ignore_others=ignore_others)
    return Layout(shape, tuple(each.meaning.value for each in taken)), rest


def check_columns(taken: Sequence[Taken], *, ignore_others: bool) -> None:
    """Raise WrongColumns for a file without a number, or with an unknown column that nobody ignores."""
    unknown = [each.place for each in taken if each.meaning is Meaning.UNKNOWN]
    if unknown and not ignore_others:
        places = ", ".join(map(str, unknown[:10]))
        raise WrongColumns(
            "unknown_column",
            f"the titles of these columns are not known: {places}. Rename a column to one of {', '.join(TITLES)},"
            ' or set `other_columns` to "ignore"',
        )
    if not {Meaning.NUMBER, Meaning.SUBJECT_ID} & {each.meaning for each in taken}:
        raise WrongColumns("number_column_missing", "the first line must be a header that names the column number")


def read(
    body: bytes, layout: Layout, first_line: int, kind: Kind = "consents", dates: Dates = STATED
) -> Iterator[tuple[int, Line | Unreadable]]:
    """Yield a piece's lines by number in the file, blank lines aside."""
    codec = layout.survey.codec
    if layout.shape.format == "ndjson":
        return _ndjson(body if codec == "utf-8" else body.decode(codec).encode(), first_line)
    found = table.read(body.decode(codec), layout.shape, len(layout.columns), first_line)
    return _of_table(found, layout, kind, dates)


def read_columns(body: bytes, layout: Layout, first_line: int, kind: Kind = "consents", dates: Dates = STATED) -> Read:
    """Return the lines of `read`, with those that many others are like in columns: a third of the work for a table."""
    if layout.shape.format == "ndjson":
        return _columns_of(read(body, layout, first_line, kind, dates))
    if not {"number", "occurred_at"} <= {*layout.columns}:
        return Read((), read(body, layout, first_line, kind, dates))
    found = table.read(body.decode(layout.survey.codec), layout.shape, len(layout.columns), first_line)
    columns = list(_columns_of_table(found, layout, kind, dates))
    taken = {start for each in columns for start in each.starts}
    left = [start not in taken for start in found.starts]
    rest = Table(list(compress(found.starts, left)), list(compress(found.rows, left)), found.refused, found.short)
    return Read(columns, _of_table(rest, layout, kind, dates))


_beside: Callable[[Line], tuple[object, ...]] = attrgetter(
    *(name for name in COLUMNS if name not in ("number", "occurred_at"))
)


def _columns_of(read: Iterable[_Numbered]) -> Read:
    first: dict[tuple[object, ...], Line] = {}
    rows: dict[tuple[object, ...], list[tuple[int, str, datetime]]] = {}
    others: list[_Numbered] = []
    for start, line in read:
        if isinstance(line, Line) and line.number is not None and line.occurred_at is not None:
            first.setdefault(key := _beside(line), line)
            rows.setdefault(key, []).append((start, line.number, line.occurred_at))
        else:
            others.append((start, line))
    columns = []
    for key, members in rows.items():
        starts, numbers, times = zip(*members, strict=True)
        alike = Alike(first[key], starts, numbers, times)
        if len(members) < FEW:
            others += alike.lines()
        else:
            columns.append(alike)
    return Read(columns, others)


def _columns_of_table(found: Table, layout: Layout, kind: Kind, dates: Dates) -> Iterator[Alike]:
    """Yield the rows whose cells beside number and time are the same, unless these cells refuse a line."""
    number, at = layout.columns.index("number"), layout.columns.index("occurred_at")
    wanted = _wanted(layout)
    beside = [place for place, _ in wanted.columns if place not in (number, at)]
    groups: dict[object, list[int]] = {}
    if beside:
        for place, cells in enumerate(map(itemgetter(*beside), found.rows)):
            groups.setdefault(cells, []).append(place)
    else:
        groups[()] = [*range(len(found.rows))]
    times: dict[str, datetime | None] = {}
    for places in groups.values():
        if len(places) < FEW:
            continue
        rows, starts = [found.rows[place] for place in places], [found.starts[place] for place in places]
        numbers, said = [row[number].strip() for row in rows], [row[at].strip() for row in rows]
        times |= {text: _time(text, dates) for text in {*said} - times.keys()}
        read = [
            (start, one, time)
            for start, one, text in zip(starts, numbers, said, strict=True)
            if (time := times[text]) is not None and 0 < len(one) <= NUMBER_CHARS and start not in found.short
        ]
        if len(read) < FEW:
            continue
        line = _of_cells(rows[starts.index(read[0][0])], wanted, layout, kind, dates)
        if isinstance(line, Line):
            yield Alike(line, [at for at, _, _ in read], [one for _, one, _ in read], [time for _, _, time in read])


def _time(text: str, dates: Dates) -> datetime | None:
    """Return the time in a cell, as `_of_cells`; `None` for an empty cell, or where a line is refused for the time."""
    if not _OF_PROGRAMS.match(text):
        found = instant(text, dates.zone, dates.order)
        return None if isinstance(found, InstantProblem) else found
    try:
        return msgspec.convert(text, Aware)
    except msgspec.ValidationError:
        return None


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


def _of_table(found: Table, layout: Layout, kind: Kind, dates: Dates) -> Iterator[_Numbered]:
    """Yield the rows of a table, and the lines that are no rows, in their order."""
    wanted, short = _wanted(layout), found.short
    refused = iter([*found.refused, None])
    next_refused = next(refused)
    for start, row in zip(found.starts, found.rows, strict=True):
        while next_refused is not None and next_refused.line < start:
            yield next_refused.line, Unreadable(next_refused.reason)
            next_refused = next(refused)
        line = _of_cells(row, wanted, layout, kind, dates)
        if start in short and kind == "consents" and isinstance(line, Line) and line.kind != "opt_out":
            line = Unreadable("too_few_cells")  # a consent whose cells may have moved
        yield start, line
    while next_refused is not None:
        yield next_refused.line, Unreadable(next_refused.reason)
        next_refused = next(refused)


class _Wanted(NamedTuple):
    """The columns of use, with place and meaning. `speak`: a column speaks for or against the lines."""

    columns: Sequence[tuple[int, str]]
    speak: bool


def _wanted(layout: Layout) -> _Wanted:
    columns = [(place, name) for place, name in enumerate(layout.columns) if name in COLUMNS or name in _BESIDE]
    return _Wanted(columns, not {*_BESIDE}.isdisjoint(layout.columns))


def _of_cells(row: Sequence[str], wanted: _Wanted, layout: Layout, kind: Kind, dates: Dates) -> Line | Unreadable:
    said = {name: text for place, name in wanted.columns if (text := row[place].strip())}
    fields: dict[str, object] = said  # type: ignore[assignment]  # texts, until a date is read
    if (written := said.get("kind")) is not None and written not in ("opt_in", "opt_out"):
        fields["kind"] = _KINDS.get(written.casefold(), written)
    if (at := said.get("occurred_at")) is not None and not _OF_PROGRAMS.match(at):
        found = instant(at, dates.zone, dates.order)
        if isinstance(found, InstantProblem):
            return Unreadable(f"occurred_at_{found}")
        fields["occurred_at"] = found
    if wanted.speak and (against := _against(fields, layout, kind)) is not None:
        return Unreadable(against)
    try:
        return msgspec.convert(fields, Line)
    except msgspec.ValidationError as error:
        return Unreadable(_why(error))


def _against(fields: dict[str, object], layout: Layout, kind: Kind) -> str | None:
    """Return why a line's other columns speak against the line; remove these columns.

    A shop's `no` is no wish to stop, and no consent. Among consents such a line is refused, and so is an opt-in beside
    the date of an opt-out; in a suppression list a line that accepts is refused.
    """
    accepts, opted_out_at = fields.pop("accepts_sms", ""), fields.pop("opted_out_at", None)
    opens = kind == "consents" and fields.get("kind") != "opt_out"
    if opens and opted_out_at is not None:
        return "opted_out"
    if Meaning.ACCEPTS_SMS.value not in layout.columns:
        return None
    said = _YES_NO.get(str(accepts).casefold())
    if said is None:
        return "accepts_sms_not_valid"
    if opens and not said:
        return "consent_not_given"
    return "consent_given" if kind == "suppressions" and said else None


_OF_PROGRAMS = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)$", re.ASCII)
_FIELD = re.compile(r"`\$\.(\w+)`$")


def _why(error: msgspec.ValidationError) -> str:
    """Return a slug with the wrong field's name; the error's own words may repeat the value."""
    if found := _FIELD.search(str(error)):
        return f"{found[1]}_not_valid"
    return "unknown_field" if "unknown field" in str(error) else "not_an_object"
