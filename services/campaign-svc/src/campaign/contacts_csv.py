"""A file of contacts as people export it, read line by line: a contact, or a refusal with its reason. Pure.

Any of `,` `;` tab `|` between cells, UTF-8 with or without a mark, UTF-16 with one, or Windows-1252; a header row that
names the number's column in French or English. The other columns become attributes, named as in `attribute_name`.
Nothing here is a sequence of the whole file, and no refusal repeats a number.
"""

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from campaign.text import STOP_FIELD
from common.msisdn import Msisdn, NumberProblem, NumberRefused, parse

CHUNK_LINES = 1000
MAX_LINE_CHARS = 64 * 1024
MAX_COLUMNS = 60
MAX_ATTRIBUTE_CHARS = 200
DELIMITERS = ",;\t|"

# As `attribute_name` writes them; where a file has several, the first of this list is the one to text.
NUMBER_COLUMNS = (
    "msisdn",
    "mobile",
    "mobile_number",
    "mobile_phone",
    "numero_mobile",
    "numero_de_mobile",
    "telephone_mobile",
    "tel_mobile",
    "portable",
    "numero_portable",
    "numero_de_portable",
    "telephone_portable",
    "tel_portable",
    "gsm",
    "cell",
    "cellphone",
    "cell_phone",
    "number",
    "phone_number",
    "phone",
    "numero_de_telephone",
    "numero_telephone",
    "numero_tel",
    "num_tel",
    "n_de_telephone",
    "n_telephone",
    "n_tel",
    "numero",
    "telephone",
    "tel",
)


class LineProblem(StrEnum):
    """Why a line is refused, beyond what is wrong with its number."""

    TOO_MANY_CELLS = "too_many_cells"
    ATTRIBUTE_TOO_LONG = "attribute_too_long"
    ERASED = "erased"


EXPLANATIONS: dict[str, str] = {
    NumberProblem.EMPTY: "no number",
    NumberProblem.NOT_A_NUMBER: "something in it is no part of a number",
    NumberProblem.TOO_SHORT: "digits are missing",
    NumberProblem.TOO_LONG: "too many digits, or two numbers",
    NumberProblem.SHORT_CODE: "a short code, not a subscriber",
    NumberProblem.NOT_MOBILE: "a fixed line or a special number",
    NumberProblem.MACHINE: "a number kept for machines",
    NumberProblem.UNASSIGNED: "a range that is not in use",
    NumberProblem.FICTIONAL: "a range kept for fiction",
    LineProblem.TOO_MANY_CELLS: "more cells than the header has columns",
    LineProblem.ATTRIBUTE_TOO_LONG: f"a cell of more than {MAX_ATTRIBUTE_CHARS} characters",
    LineProblem.ERASED: "erased at their own request; new evidence of consent brings them back, no file does",
}


@dataclass(frozen=True, slots=True)
class Contact:
    """`line`: where it begins in the file, the header being 1."""

    line: int
    msisdn: Msisdn
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Refusal:
    line: int
    reason: NumberProblem | LineProblem


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines of the file, in order. Blank lines are in neither."""

    contacts: Sequence[Contact]
    refusals: Sequence[Refusal]


class NotCsv(ValueError):
    """The file as a whole cannot be read. `reason` is a stable slug."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class WrongColumns(NotCsv):
    """It can be read, and its header row will not do."""


def read(body: Iterable[bytes], *, fictional: bool = False, size: int = CHUNK_LINES) -> Iterator[Chunk]:
    """Chunks of `size` lines. Raises NotCsv or WrongColumns as soon as that is known."""
    lines = _lines(_decoded(body))
    header = next(lines, "")
    if not header.strip():
        raise NotCsv("empty", "the file is empty, or its first line is")
    delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader([header], delimiter=d))))
    number, attributes = _columns(next(csv.reader([header], delimiter=delimiter)))
    rows = csv.reader(lines, delimiter=delimiter)
    contacts: list[Contact] = []
    refusals: list[Refusal] = []
    while True:
        line = rows.line_num + 2  # the header is 1, and the reader has read `line_num` after it
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            raise NotCsv("not_csv", f"line {line}: {error}") from error
        if not any(cell.strip() for cell in row):
            continue
        found = _contact(line, row, number, attributes, fictional)
        if isinstance(found, Contact):
            contacts.append(found)
        else:
            refusals.append(found)
        if len(contacts) + len(refusals) >= size:
            yield Chunk(contacts, refusals)
            contacts, refusals = [], []
    if contacts or refusals:
        yield Chunk(contacts, refusals)


def attribute_name(header: str) -> str:
    """A column's title as templates and filters name it: « Code postal » is code_postal, "Prénom" is prenom."""
    plain = unicodedata.normalize("NFKD", header).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:40]


def _columns(header: Sequence[str]) -> tuple[int, dict[int, str]]:
    """(the number's column, the attributes' columns and names). Columns without a title are left out."""
    if len(header) > MAX_COLUMNS:
        raise WrongColumns("too_many_columns", f"{len(header)} columns, at most {MAX_COLUMNS}")
    names = [attribute_name(title) for title in header]
    number = next((names.index(name) for name in NUMBER_COLUMNS if name in names), None)
    if number is None:
        raise WrongColumns(
            "number_column_missing",
            f"no column for the number; call it one of: {', '.join(NUMBER_COLUMNS)} (accents and case do not matter)",
        )
    attributes = {place: name for place, name in enumerate(names) if name and place != number}
    if len(set(attributes.values())) < len(attributes):
        raise WrongColumns("column_twice", "two columns have the same title")
    if STOP_FIELD in attributes.values():
        raise WrongColumns("reserved_column", f"{STOP_FIELD!r} is the STOP mention in a text, and cannot be a column")
    return number, attributes


def _contact(
    line: int, row: Sequence[str], number: int, attributes: dict[int, str], fictional: bool
) -> Contact | Refusal:
    width = max([number, *attributes], default=number) + 1
    if any(cell.strip() for cell in row[width:]):
        return Refusal(line, LineProblem.TOO_MANY_CELLS)
    try:
        msisdn = parse(row[number] if number < len(row) else "", fictional=fictional)
    except NumberRefused as refused:
        return Refusal(line, refused.reason)
    values = {name: row[place].strip() if place < len(row) else "" for place, name in attributes.items()}
    if any(len(value) > MAX_ATTRIBUTE_CHARS for value in values.values()):
        return Refusal(line, LineProblem.ATTRIBUTE_TOO_LONG)
    return Contact(line, msisdn, values)


def _decoded(body: Iterable[bytes]) -> Iterator[str]:
    """UTF-8, or Windows-1252 from the first byte that is not: what came before was ASCII, the same in both."""
    decoder: codecs.IncrementalDecoder | None = None
    plain = True  # nothing but ASCII so far
    for data, last in chain(((piece, False) for piece in _filled(body)), [(b"", True)]):
        if decoder is None:
            wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
        try:
            text = decoder.decode(data, last)
        except UnicodeDecodeError as error:
            if not (plain and error.encoding == "utf-8" and error.object[: error.start].isascii()):
                raise NotCsv("charset", "the file is neither UTF-8 nor Windows-1252") from error
            decoder = codecs.getincrementaldecoder("cp1252")()
            try:
                text = decoder.decode(error.object, last)
            except UnicodeDecodeError as again:
                raise NotCsv("charset", "the file is neither UTF-8 nor Windows-1252") from again
        if "\0" in text:
            raise NotCsv("not_text", "the file is not text; export it as CSV")
        plain = plain and text.isascii()
        yield text


def _filled(body: Iterable[bytes]) -> Iterator[bytes]:
    """Without empty pieces, the first long enough to show its byte order mark."""
    first = b""
    for piece in body:
        if len(first) < len(codecs.BOM_UTF8):
            first += piece
            if len(first) < len(codecs.BOM_UTF8):
                continue
            piece = first
        if piece:
            yield piece
    if first and len(first) < len(codecs.BOM_UTF8):
        yield first


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines with their ends (\\n, \\r\\n or \\r), whatever the pieces. Raises NotCsv for a line without an end."""
    rest = ""
    for piece in texts:
        pieces = list(io.StringIO(rest + piece, newline=""))
        # the last line may go on, and a last \r may be half of \r\n
        rest = pieces.pop() if pieces and not pieces[-1].endswith("\n") else ""
        for line in (*pieces, rest):
            if len(line) > MAX_LINE_CHARS:
                raise NotCsv("line_too_long", f"a line of more than {MAX_LINE_CHARS} characters")
        yield from pieces
    if rest:
        yield rest
