"""A file of consents, cut and read."""

import csv
import io
import json
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.imports import lines as import_lines
from consent.imports.lines import Format, Layout, Line, Piece, Unreadable, WrongFile, cut, layout_of, read

AT = "2026-03-02T13:05:00Z"
INSTANT = datetime(2026, 3, 2, 13, 5, tzinfo=UTC)
NDJSON = Layout("ndjson")

cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)
files = st.lists(st.tuples(cells.filter(str.strip), cells), min_size=1, max_size=30)


def in_parts(body: bytes, cuts: list[int], file_format: Format) -> list[Piece]:
    """As an upload: what has arrived is cut, what is left waits for more."""
    pieces: list[Piece] = []
    rest = b""
    places = [0, *sorted(at % (len(body) + 1) for at in cuts), len(body)]
    for begin, end in pairwise(places):
        found, rest = cut(rest + body[begin:end], file_format, last=False)
        pieces += found
    found, rest = cut(rest, file_format, last=True)
    assert rest == b""
    return [*pieces, *found]


@given(files, st.lists(st.integers(0, 2000), max_size=8), st.integers(1, 5), st.booleans())
def test_however_it_arrives_the_lines_of_a_csv_are_those_of_the_whole(
    rows: list[tuple[str, str]], cuts: list[int], size: int, newline: bool
) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerows([("number", "text_shown"), *rows])
    body = written.getvalue().encode()
    body = body if newline else body.removesuffix(b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_lines, "PIECE_LINES", size)
        pieces = in_parts(body, cuts, "csv")
    assert b"".join(piece.body for piece in pieces) == body
    layout, first = layout_of(pieces[0], "csv")
    line = 2
    found: list[tuple[int, Line | Unreadable]] = []
    for piece in (first, *pieces[1:]):
        found += read(piece.body, layout, line)
        line += piece.lines
    assert [(said.number, said.text_shown) for _, said in found if isinstance(said, Line)] == [
        (number.strip(), shown.strip() or None) for number, shown in rows
    ]
    expected, at = [], 2
    for row in rows:
        expected.append(at)
        at += 1 + sum(cell.count("\n") for cell in row)
    assert [number for number, _ in found] == expected


@given(files, st.lists(st.integers(0, 2000), max_size=8), st.integers(1, 5))
def test_however_it_arrives_the_lines_of_an_ndjson_are_those_of_the_whole(
    rows: list[tuple[str, str]], cuts: list[int], size: int
) -> None:
    lines = [json.dumps({"number": number, "text_shown": shown or None}) for number, shown in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_lines, "PIECE_LINES", size)
        pieces = in_parts("\n".join(lines).encode(), cuts, "ndjson")
    line = 1
    found: list[tuple[int, Line | Unreadable]] = []
    for piece in pieces:
        assert piece.lines <= size
        found += read(piece.body, NDJSON, line)
        line += piece.lines
    assert found == [(n, Line(number=row[0], text_shown=row[1] or None)) for n, row in enumerate(rows, start=1)]


def test_a_line_says_what_a_consent_needs() -> None:
    layout, rest = layout_of(
        Piece(f"\ufeffNumber ; occurred_at;kind\n06 39 98 12 34;{AT};opt_out\n".encode(), 2), "csv"
    )
    assert (layout.delimiter, layout.columns, rest.lines) == (";", ("number", "occurred_at", "kind"), 1)
    said = Line(number="06 39 98 12 34", occurred_at=INSTANT, kind="opt_out")
    assert list(read(rest.body, layout, 2)) == [(2, said)]
    as_json = json.dumps({"number": "06 39 98 12 34", "occurred_at": AT, "kind": "opt_out"}).encode()
    assert list(read(as_json, NDJSON, 7)) == [(7, said)]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"number": 33639981234}', "number_not_valid"),
        ('{"number": "0639981234", "occurred_at": "2026-03-02T13:05:00"}', "occurred_at_not_valid"),
        ('{"number": "0639981234", "occurred_at": "02/03/2026"}', "occurred_at_not_valid"),
        ('{"number": "0639981234", "occurred_at": 20260302}', "occurred_at_not_valid"),
        ('{"number": "0639981234", "basis": "because"}', "basis_not_valid"),
        ('{"number": "0639981234", "kind": "STOP"}', "kind_not_valid"),
        ('{"number": "0639981234", "purpose": ""}', "purpose_not_valid"),
        ('{"number": "0639981234", "nomber": "0639981234"}', "unknown_field"),
        ('{"number": "0639981234", "text_shown": "a\\u0000b"}', "not_text"),
        ('{"number": "0639981234"', "not_json"),
        ("0639981234", "not_json"),
        ("33639981234", "not_an_object"),
        ("[]", "not_an_object"),
    ],
)
def test_a_line_that_is_none_is_told_by_its_number_with_the_reason_and_sinks_no_other(raw: str, reason: str) -> None:
    good = '{"number": "0639981235"}'
    found = dict(read(f"{good}\n\n{raw}\n{good}\n".encode(), NDJSON, 1))
    assert found == {1: Line(number="0639981235"), 3: Unreadable(reason), 4: Line(number="0639981235")}


def test_a_row_with_more_cells_than_columns_is_refused_alone_and_one_of_none_is_blank() -> None:
    found = dict(read(b"0639981234,\n0639981235,a,b\n\n,,\n0639981236,c\n", Layout("csv", ",", ("number", "actor")), 2))
    assert found == {
        2: Line(number="0639981234"),
        3: Unreadable("too_many_cells"),
        6: Line(number="0639981236", actor="c"),
    }


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("number,consent_date", "unknown_column"),
        ("06 39 98 12 34", "unknown_column"),
        ("occurred_at,purpose", "number_column_missing"),
        ("number,number", "column_twice"),
        ("", "number_column_missing"),
        ("number\ractor", "not_csv"),
        ("number," + "x" * 140_000, "not_csv"),
    ],
)
def test_a_header_that_will_not_do_is_refused_and_not_repeated(header: str, reason: str) -> None:
    with pytest.raises(WrongFile) as refused:
        layout_of(Piece(f"{header}\n06 39 98 12 34\n".encode(), 2), "csv")
    assert refused.value.reason == reason
    assert "39 98" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("numéro\n".encode("latin-1"), "not_utf8"),
        (b"number\n063998\x001234\n", "not_text"),
        (b'number\n"' + b"0639981234\n" * 9000, "line_too_long"),
        (b"x" * (import_lines.LINE_BYTES + 1), "line_too_long"),
        (b"x" * (import_lines.LINE_BYTES + 1) + b"\n", "line_too_long"),
        (b"number\n" + b"x" * (import_lines.LINE_BYTES + 1) + b"\n0639981234\n", "line_too_long"),
        (b'number\n"' + b"0639981234\n" * 9000 + b'"\n', "line_too_long"),
    ],
)
def test_a_file_that_is_no_text_or_never_ends_a_line_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(WrongFile) as refused:
        cut(body, "csv", last=True)
    assert refused.value.reason == reason


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_may_be_as_long_as_that(end: bytes) -> None:
    body = b"x" * import_lines.LINE_BYTES + end
    assert cut(body, "ndjson", last=True) == ([Piece(body, 1)], b"")


@pytest.mark.parametrize("quote", [b'"', b""])
def test_what_no_csv_can_hold_is_refused_alone_and_sinks_no_other(quote: bytes) -> None:
    too_long = b"0639981235," + quote + b"x" * 140_000 + quote + b"\n"
    found = dict(read(b"0639981234,a\n" + too_long + b"0639981236,z\n", Layout("csv", ",", ("number", "actor")), 2))
    assert found == {
        2: Line(number="0639981234", actor="a"),
        3: Unreadable("not_csv"),
        4: Line(number="0639981236", actor="z"),
    }


def test_quotes_that_are_none_take_in_no_other_line() -> None:
    """One within a cell opens nothing, one at its beginning does: a reader would go on to the end of the piece."""
    lines = b'0639981234"x,"y\n0639981235,z\n0639981236,"z\nz"\n0639981237,"z'
    pieces, _ = cut(lines, "csv", last=True)
    found = dict(read(pieces[0].body, Layout("csv", ",", ("number", "actor")), 2))
    assert found == {
        2: Line(number='0639981234"x', actor="y"),
        3: Line(number="0639981235", actor="z"),
        4: Line(number="0639981236", actor="z\nz"),
        6: Line(number="0639981237", actor="z"),
    }


@pytest.mark.parametrize("quoted", [b'"a, b"', b"a"])
def test_a_lone_carriage_return_ends_no_line_and_hides_none(quoted: bytes) -> None:
    """As a line end of its own, the row behind it took the number, and with it the place, of the next line."""
    body = b"0639981234," + quoted + b"\r0639981235,\n0639981236,\n"
    assert list(read(body, Layout("csv", ",", ("number", "actor")), 2)) == [
        (2, Unreadable("not_csv")),
        (3, Line(number="0639981236")),
    ]


def test_lines_that_a_quote_joins_are_refused_each_where_one_cannot_be_read() -> None:
    body = b'0639981234"\r,\n0639981235"\n0639981236,\n'
    assert list(read(body, Layout("csv", ",", ("number", "actor")), 2)) == [
        (2, Unreadable("not_csv")),
        (3, Unreadable("not_csv")),
        (4, Line(number="0639981236")),
    ]


@given(st.lists(st.sampled_from([b"1", b"2", b",", b'"', b"\r", b"\n"]), max_size=40).map(b"".join))
def test_whatever_a_csv_is_made_of_each_of_its_lines_is_read_once(body: bytes) -> None:
    for whole in (body, b'"3"\n' + body):
        numbers = [number for number, _ in read(whole, Layout("csv", ",", ("number", "actor")), 1)]
        assert numbers == sorted(set(numbers))
        assert all(number <= whole.count(b"\n") + 1 for number in numbers)


@given(st.lists(st.sampled_from([b"0639981234", b",", b"\r", b"\n", b'"a"']), max_size=40).map(b"".join))
def test_no_line_that_names_somebody_is_without_a_verdict(body: bytes) -> None:
    told = {number for number, _ in read(body, Layout("csv", ",", ("number", "actor")), 1)}
    assert {at for at, line in enumerate(body.split(b"\n"), start=1) if b"0639981234" in line} <= told
