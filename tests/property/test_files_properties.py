"""Files that people upload: any table reads back as written, and hostile bytes end with a reason."""

import csv
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from common.files import columns, cutting, table
from common.files.columns import Meaning
from common.files.cutting import LINE_BYTES, Shape, pieces_of, survey
from common.files.refused import FileRefused

WORDS = ["Zoé", "cœur", "Œuvre", "12 €", "l’île", "À", "a", "0129", " ", ",", ";", "\t", "|", '"', "\n", "\r", "\r\n"]
cells = st.lists(st.sampled_from(WORDS), max_size=5).map("".join)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=12)
)
CHARSETS = ["utf-8", "utf-8-sig", "cp1252", "iso8859-15", "utf-16", "utf-16-le", "utf-16-be"]


def read_back(body: bytes, step: int) -> tuple[list[str], list[list[str]], list[tuple[int, str]]]:
    """Read a file twice, as every import does: to decide the encoding, then piece by piece."""
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    how = survey(parts, "csv")
    titles: list[str] = []
    rows, refused, line = [], [], 1
    for shape, piece in pieces_of(parts, "csv"):
        if not titles:
            titles, rest = table.titled(piece, shape)
            line += piece.lines - rest.lines
            piece = rest
        found = table.read(piece.body.decode(how.codec), shape, len(titles), line)
        line += piece.lines
        rows += found.rows
        refused += [(each.line, each.reason) for each in found.refused]
    return titles, rows, refused


def written(rows: list[list[str]], delimiter: str, line_end: str, *, all_quoted: bool) -> str:
    separators = delimiter if len(rows[0]) > 1 else cutting.DELIMITERS  # of one column no header tells the separator

    def cell(value: str) -> str:
        quoted = all_quoted or any(sign in value for sign in (*separators, '"', "\n", "\r"))
        return '"' + value.replace('"', '""') + '"' if quoted else value

    return "".join(delimiter.join(map(cell, row)) + line_end for row in rows)


@given(
    tables,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(CHARSETS),
    st.booleans(),
    st.sampled_from([1, 7, 4096]),
    st.sampled_from([1, 2, 1000]),
)
@example([["a", "x\ry"]], ";", "\r", "utf-8", True, 1, 1)
@example([["a", "x\ry"]], ";", "\r", "utf-8", False, 1, 1)
def test_a_table_reads_back_as_written_in_any_encoding(
    rows: list[list[str]], delimiter: str, line_end: str, charset: str, all_quoted: bool, step: int, size: int
) -> None:
    header = ["Numéro", "Prénom", "Ville", "Note"][: len(rows[0])]
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    text = written([header, *rows], delimiter, line_end, all_quoted=all_quoted)
    try:
        body = text.encode(charset)
    except UnicodeEncodeError:
        assume(False)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE_LINES", size)
        refused_whole = None
        try:
            titles, found, refused = read_back(body, step)
        except FileRefused as error:
            refused_whole = error.reason
    if charset in ("cp1252", "iso8859-15") and refused_whole is not None:
        assert refused_whole in ("charset", "charset_unclear"), "a doubtful encoding is refused, never guessed"
        return
    assert (refused_whole, titles, found, refused) == (None, header, rows, [])


@given(st.lists(st.sampled_from([b"a", b";", b'"', b"\n", b"\r\n", b'""', b'5"']), max_size=60).map(b"".join))
def test_records_end_where_the_reader_of_csv_ends_them(body: bytes) -> None:
    lines = body.decode().split("\n")[:-1]
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=";")
    expected = []
    for _ in reader:
        expected.append(reader.line_num - 1)
    ends = list(cutting.record_ends([line.encode() for line in lines], ";"))
    closed = expected[: len(ends)]
    assert ends == closed, "but for a last record that nothing closes"
    assert len(expected) - len(ends) in (0, 1)


def hostile() -> Iterator[tuple[str, bytes]]:
    yield "a line of 10 MB", b"number;x\n" + b"y" * 10_000_000
    yield "a header of 10 MB", b"x" * 10_000_000
    yield "NULs", b"number;x\n0639981234;\0\0\0\n"
    yield "a quote that nothing closes", b'number;x\n0639981234;"' + b"0639981235;z\n" * 100_000
    yield "a million columns", b"number" + b";x" * 1_000_000
    yield "a million cells", b"number\n" + b";" * 1_000_000
    yield "quotes alone", b"number;x\n" + b'"' * 64_999 + b"\n"
    yield "quotes and separators", b"number;x\n" + b'";' * 32_000 + b"\n"
    yield "a lone surrogate in UTF-16", "number;x\n".encode("utf-16") + b"\x00\xd8\n\x00"
    yield "a surrogate in UTF-8", b"number;x\n0639981234;\xed\xa0\x80\xc3\xa9\n"
    yield "half a unit of UTF-16", "number;x\n0639981234;z\n".encode("utf-16") + b"a"
    yield "a workbook", b"PK\x03\x04" + b"\0" * 1_000_000


@pytest.mark.parametrize(("what", "body"), [pytest.param(what, body, id=what) for what, body in hostile()])
def test_hostile_files_end_soon_with_a_reason_and_in_bounded_memory(what: str, body: bytes) -> None:
    parts = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    tracemalloc.start()
    began = time.process_time()
    reasons = set()
    try:
        how = survey(parts, "csv")
        for shape, piece in pieces_of(parts, "csv"):
            found = table.read(piece.body.decode(how.codec), shape, 2, 1)
            reasons |= {each.reason for each in found.refused}
    except FileRefused as error:
        reasons.add(error.reason)
    assert reasons, "the file, or a line, is refused with a reason"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60_000_000
    assert time.process_time() - began < 20, "of the processor's time"


def test_memory_does_not_grow_with_the_file() -> None:
    def arriving(many: int) -> Iterator[bytes]:
        yield b"number;note\n"
        for _ in range(many):
            yield b'0639981234;"a\nb"\n' * 1_000

    peaks = []
    for many in (40, 100):
        tracemalloc.start()
        survey(arriving(many), "csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from(["Numéro", "tel", "kind", "Kind "])), max_size=12))
def test_any_titles_are_taken_or_refused_where_two_mean_the_same(titles: list[str]) -> None:
    known = columns.titles_of("consents")
    counted = [meaning for title in titles if (meaning := known.get(columns.plain(title))) is Meaning.KIND]
    taken_twice = False
    try:
        places = [each.place for each in columns.taken(titles, "consents")]
    except FileRefused as error:
        taken_twice, places = error.reason == "column_twice", []
    assert taken_twice or places == list(range(1, len(titles) + 1))
    assert taken_twice or len(counted) < 2


def test_a_line_is_as_long_as_it_is_said_to_be_in_utf_16_too() -> None:
    body = ("number;x\n" + "0639981234;" + "y" * (LINE_BYTES - 20) + "\n").encode("utf-16")
    assert [piece.lines for _, piece in pieces_of([body], "csv")] == [2]
    assert Shape("csv", "utf-16-le", "\n", ";") == survey([body], "csv").shape
