"""Read a file of contacts piece by piece, into contacts and refusals. Pure.

CSV and NDJSON accept the same values. `common.files` reads the encoding, the lines and the cells; here columns become
attributes. The parser never holds the whole file, and no refusal repeats a number.
"""

from bisect import bisect_right
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, cast

import msgspec

from campaign.audience.attribute import TIMEZONE, Inference, Kind, kept
from campaign.audience.contact_fields import (
    MAX_ATTRIBUTES,
    MAX_COLUMNS,
    LineProblem,
    against,
    plain,
)
from campaign.message.text import STOP_FIELD
from common.files import charset, columns, table
from common.files.charset import UTF8_MARK, Seen
from common.files.columns import NUMBER_TITLES
from common.files.cutting import Piece, Shape, Survey, pieces_of, surveyed
from common.files.refused import FileRefused, WrongColumns
from common.sms.labels import holds_a_number
from common.sms.msisdn import HOME, NumberRefused, metropolitan, parse

T = TypeVar("T")


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


@dataclass
class ReadAs:
    """The parser's understanding of the file.

    `encoded_twice`: UTF-8 decoded wrongly and saved again.
    """

    format: str = "csv"
    charset: str = "utf-8"
    delimiter: str | None = None
    encoded_twice: bool = False
    other_numbers: list[str] = field(default_factory=list)
    line_end: str = "\n"
    wide: str = ""

    @classmethod
    def by(cls, survey: Survey) -> "ReadAs":
        shape = survey.shape
        return cls(
            format=shape.format,
            charset=survey.charset,
            delimiter=shape.delimiter or None,
            encoded_twice=survey.encoded_twice,
            line_end=shape.line_end,
            wide=shape.wide,
        )

    @property
    def survey(self) -> Survey:
        """Return what reads the pieces."""
        shape = Shape("ndjson" if self.format == "ndjson" else "csv", self.wide, self.line_end, self.delimiter or "")
        return Survey(shape, self.charset, self.encoded_twice)


class _Batch(NamedTuple):
    """Lines not yet checked."""

    lines: list[int]
    numbers: list[str]
    attributes: list[dict[str, str]]
    refusals: list[Refusal]
    short: bool = False


class Reading:
    """The reading of a file, as `check` surveyed the file before."""

    def __init__(
        self,
        body: Iterable[bytes],
        read_as: ReadAs,
        kinds: Mapping[str, Kind],
        *,
        countries: Sequence[str] = (HOME,),
        fictional: bool = False,
    ) -> None:
        self.read_as = read_as
        self._survey = read_as.survey
        self._body = body
        self._kinds = kinds
        self._typed = [(name, kind) for name, kind in kinds.items() if kind is not Kind.TEXT]
        self._countries = countries
        self._fictional = fictional
        self._named: set[str] = set()
        self._inferred: dict[str, Inference] = {}

    @property
    def inferred(self) -> dict[str, Kind]:
        """Return the kinds of unknown attributes, by the accepted lines."""
        return {name: kind for name, seen in self._inferred.items() if (kind := seen.kind) is not None}

    def chunks(self) -> Iterator[Chunk]:
        """Yield chunks. Raises FileRefused; never for a file accepted by `check`."""
        shape = self._survey.shape
        pieces = (piece for _, piece in pieces_of(self._body, shape.format))
        for batch in self._ndjson(pieces) if shape.format == "ndjson" else self._csv(pieces, shape):
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

    def _csv(self, pieces: Iterator[Piece], shape: Shape) -> Iterator[_Batch]:
        width = 0
        line = 1
        for piece in pieces:
            if not width:
                titles, rest = table.titled(piece, shape)
                number, names, self.read_as.other_numbers = _columns(titles)
                self._meet(names)  # cannot fail: at most MAX_COLUMNS
                named = [(place, name) for place, name in enumerate(names) if name is not None]
                width = len(titles)
                line += piece.lines - rest.lines
                piece = rest
            found = table.read(piece.body.decode(self._survey.codec), shape, width, line)
            line += piece.lines
            refusals = [Refusal(*refused) for refused in found.refused]
            attributes = [{name: row[place].strip() for place, name in named} for row in found.rows]
            numbers = [row[number] for row in found.rows]
            yield _Batch(list(found.starts), numbers, attributes, refusals, found.narrow)

    # --- NDJSON ------------------------------------------------------------------------------------------------------

    def _ndjson(self, pieces: Iterator[Piece]) -> Iterator[_Batch]:
        layouts: dict[tuple[str, ...], tuple[int, list[str | None]] | str] = {}
        begins = 1
        for piece in pieces:
            read = _json_lines(piece, self._survey.codec)
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


def check(body: Iterable[bytes]) -> ReadAs:
    """Read a file to its end, and return how to read the file again. Raises FileRefused if the file cannot be used."""
    seen, shape = Seen.NOTHING, None
    for of_file, piece in pieces_of(body):
        seen |= charset.seen_in(piece.body)
        if shape is None:
            shape = of_file
            _check_beginning(piece, shape)
    if shape is None:
        raise FileRefused("empty", "the file is empty, or its first line is")
    return ReadAs.by(surveyed(shape, seen))


def _check_beginning(piece: Piece, shape: Shape) -> None:
    """Raise FileRefused for a file whose first lines cannot be used."""
    if piece.body.removeprefix(UTF8_MARK).lstrip().startswith(b"["):
        raise FileRefused("json_array", "one array; NDJSON has an object on each line, and nothing around them")
    if shape.format == "csv":
        titles, rest = table.titled(piece, shape)
        _columns(titles)
        table.check_delimiter(table.read(rest.body.decode("latin-1"), shape, len(titles), 1))


def _json_lines(piece: Piece, codec: str) -> list[str]:
    """Return the lines with their ends."""
    lines = piece.body.decode(codec).removeprefix("\ufeff").split("\n")
    unended = lines.pop()
    return [*(f"{line}\n" for line in lines), *([unended] if unended else [])]


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
    names = [columns.plain(title) for title in header]
    number = next((names.index(name) for name in NUMBER_TITLES if name in names), None)
    if number is None:
        if len(header) == 1 and "_" in names[0]:
            raise WrongColumns("delimiter_unknown", "one column only: cells are separated by a comma, ; tab or |")
        raise WrongColumns(
            "number_column_missing",
            f"no column for the number; call it one of: {', '.join(NUMBER_TITLES)} (accents and case do not matter)",
        )
    titles = [name if name and name not in NUMBER_TITLES else None for name in names]
    others = [name for place, name in enumerate(names) if name in NUMBER_TITLES and place != number]
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
