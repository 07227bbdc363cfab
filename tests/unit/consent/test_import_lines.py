"""A file of consents, cut and read."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.files import cutting
from common.files.charset import Seen, seen_in
from common.files.cutting import LINE_BYTES, Format, Piece, Shape, cut, shape_of
from common.files.refused import FileRefused
from consent.imports.lines import Dates, Kind, Layout, Line, Unreadable, begun, read

AT = "2026-03-02T13:05:00Z"
INSTANT = datetime(2026, 3, 2, 13, 5, tzinfo=UTC)
NDJSON = Layout(Shape("ndjson"))
BY_COMMA = Shape("csv", delimiter=",")
NUMBER_AND_ACTOR = Layout(BY_COMMA, ("number", "actor"))

cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)
files = st.lists(st.tuples(cells.filter(str.strip), cells), min_size=1, max_size=30)


def in_parts(body: bytes, cuts: list[int], shape: Shape) -> list[Piece]:
    """As an upload: what has arrived is cut, what is left waits for more."""
    pieces: list[Piece] = []
    rest = b""
    places = [0, *sorted(at % (len(body) + 1) for at in cuts), len(body)]
    for begin, end in pairwise(places):
        found, rest = cut(rest + body[begin:end], shape, last=False)
        pieces += found
    found, rest = cut(rest, shape, last=True)
    assert rest == b""
    return [*pieces, *found]


def whole(
    body: bytes,
    kind: Kind = "consents",
    dates: Dates | None = None,
    file_format: Format = "csv",
    *,
    ignore: bool = False,
) -> Iterator[tuple[int, Line | Unreadable]]:
    """Read a file that arrives at once."""
    shape = shape_of(body, file_format, last=True)
    assert shape is not None
    line, layout, seen = 1, None, Seen.NOTHING
    pieces, _ = cut(body, shape, last=True)
    for piece in pieces:
        seen |= seen_in(piece.body)
    for piece in pieces:
        behind = piece
        if layout is None:
            layout, behind = begun(piece, shape, kind, ignore_others=ignore)
            layout = Layout(shape, layout.columns, seen)
            line += piece.lines - behind.lines
        yield from read(behind.body, layout, line, kind, dates or Dates())
        line += behind.lines


@given(files, st.lists(st.integers(0, 2000), max_size=8), st.integers(1, 5), st.booleans())
def test_however_it_arrives_the_lines_of_a_csv_are_those_of_the_whole(
    rows: list[tuple[str, str]], cuts: list[int], size: int, newline: bool
) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerows([("number", "text_shown"), *rows])
    body = written.getvalue().encode()
    body = body if newline else body.removesuffix(b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE_LINES", size)
        pieces = in_parts(body, cuts, BY_COMMA)
    assert b"".join(piece.body for piece in pieces) == body
    layout, first = begun(pieces[0], BY_COMMA, "consents")
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
        patch.setattr(cutting, "PIECE_LINES", size)
        pieces = in_parts("\n".join(lines).encode(), cuts, Shape("ndjson"))
    line = 1
    found: list[tuple[int, Line | Unreadable]] = []
    for piece in pieces:
        assert piece.lines <= size
        found += read(piece.body, NDJSON, line)
        line += piece.lines
    assert found == [(n, Line(number=row[0], text_shown=row[1] or None)) for n, row in enumerate(rows, start=1)]


def test_a_line_says_what_a_consent_needs() -> None:
    body = f"\ufeffNumber ; occurred_at;kind\n06 39 98 12 34;{AT};opt_out\n".encode()
    said = Line(number="06 39 98 12 34", occurred_at=INSTANT, kind="opt_out")
    assert list(whole(body)) == [(2, said)]
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
    found = dict(read(b"0639981234,\n0639981235,a,b\n\n,,\n0639981236,c\n", NUMBER_AND_ACTOR, 2))
    assert found == {
        2: Line(number="0639981234"),
        3: Unreadable("too_many_cells"),
        6: Line(number="0639981236", actor="c"),
    }


def test_a_row_with_fewer_cells_gives_no_consent_and_still_stops() -> None:
    """The cells behind a missing one have moved, and the proof would be another's."""
    layout = Layout(BY_COMMA, ("number", "kind", "form_id", "form_version"))
    body = b"0639981234,opt_in,3\n0639981235,opt_out\n0639981236,,f,3\n"
    assert dict(read(body, layout, 2)) == {
        2: Unreadable("too_few_cells"),
        3: Line(number="0639981235", kind="opt_out"),
        4: Line(number="0639981236", form_id="f", form_version="3"),
    }
    assert dict(read(b"0639981234\n", NUMBER_AND_ACTOR, 2, "suppressions")) == {2: Line(number="0639981234")}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("number,shoe_size", "unknown_column"),
        ("06 39 98 12 34", "unknown_column"),
        ("number,", "number_column"),
        ("occurred_at,purpose", "number_column_missing"),
        ("number,number", "column_twice"),
        ("occurred_at,number,consent_date", "column_twice"),
        ("", "empty"),
        ('number,"act"or', "not_csv"),
        ("number" + ",x" * 401, "too_many_columns"),
        ("number," + "x" * 140_000, "line_too_long"),
    ],
)
def test_a_header_that_will_not_do_is_refused_and_not_repeated(header: str, reason: str) -> None:
    body = f"{header}\n06 39 98 12 34\n".encode()
    if reason == "number_column":
        assert [line for line, _ in whole(body)] == [2]
        return
    with pytest.raises(FileRefused) as refused:
        list(whole(body))
    assert refused.value.reason == reason
    assert "39 98" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("numéro\n".encode() + "0639981234Zoé\n".encode("latin-1"), "charset"),
        (b"number\n063998\x001234\n", "not_text"),
        (b"PK\x03\x04\x14\x00", "spreadsheet"),
        (b'number\n"' + b"0639981234\n" * 9000, "line_too_long"),
        (b"x" * (LINE_BYTES + 1), "line_too_long"),
        (b"x" * (LINE_BYTES + 1) + b"\n", "line_too_long"),
        (b"number\n" + b"x" * (LINE_BYTES + 1) + b"\n0639981234\n", "line_too_long"),
        (b'number\n"' + b"0639981234\n" * 9000 + b'"\n', "line_too_long"),
    ],
)
def test_a_file_that_is_no_text_or_never_ends_a_line_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(FileRefused) as refused:
        list(whole(body))
    assert refused.value.reason == reason


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_may_be_as_long_as_that(end: bytes) -> None:
    body = b"x" * LINE_BYTES + end
    assert cut(body, Shape("ndjson"), last=True) == ([Piece(body, 1, len(body))], b"")


def test_what_no_csv_can_hold_is_refused_alone_and_sinks_no_other() -> None:
    body = b'0639981234,a\n0639981235,"b"c\n0639981236,z\n'
    assert dict(read(body, NUMBER_AND_ACTOR, 2)) == {
        2: Line(number="0639981234", actor="a"),
        3: Unreadable("not_csv"),
        4: Line(number="0639981236", actor="z"),
    }


def test_quotes_that_are_none_take_in_no_other_line() -> None:
    """One within a cell opens nothing, one at its beginning does: a reader would go on to the end of the piece."""
    body = b'number,actor\n0639981234"x,"y\nw"\n0639981235"y",z\n0639981236,"z\nz"\n0639981237,"z'
    assert dict(whole(body)) == {
        2: Line(number='0639981234"x', actor="y\nw"),
        4: Line(number='0639981235"y"', actor="z"),
        5: Line(number="0639981236", actor="z\nz"),
        7: Unreadable("cut_off"),
    }


@pytest.mark.parametrize("quoted", [b'"a, b"', b"a"])
def test_a_lone_carriage_return_ends_no_line_and_hides_none(quoted: bytes) -> None:
    """As a line end of its own, the row behind it took the number, and with it the place, of the next line."""
    body = b"0639981234," + quoted + b"\r0639981235,\n0639981236,\n"
    assert list(read(body, NUMBER_AND_ACTOR, 2)) == [
        (2, Unreadable("not_csv")),
        (3, Line(number="0639981236")),
    ]


@given(st.lists(st.sampled_from([b"1", b"2", b",", b'"', b"\r", b"\n"]), max_size=40).map(b"".join))
def test_whatever_a_csv_is_made_of_each_of_its_lines_is_read_once(body: bytes) -> None:
    for text in (body, b'"3"\n' + body):
        numbers = [number for number, _ in read(text, NUMBER_AND_ACTOR, 1)]
        assert numbers == sorted(set(numbers))
        assert all(number <= text.count(b"\n") + 1 for number in numbers)


@given(st.lists(st.sampled_from([b"0639981234", b",", b"\r", b"\n", b'"a"']), max_size=40).map(b"".join))
def test_no_line_that_names_somebody_is_without_a_verdict(body: bytes) -> None:
    told = {number for number, _ in read(body, NUMBER_AND_ACTOR, 1)}
    assert {at for at, line in enumerate(body.split(b"\n"), start=1) if b"0639981234" in line} <= told


# --- columns and dates as people export them -----------------------------------------------------------------------

PARIS = Dates(ZoneInfo("Europe/Paris"), "day_first")
SHOPIFY = (
    "Customer ID,First Name,Last Name,Email,Accepts Email Marketing,Default Address Company,Default Address Address1,"
    "Default Address Address2,Default Address City,Default Address Province Code,Default Address Country Code,"
    "Default Address Zip,Default Address Phone,Phone,Accepts SMS Marketing,Total Spent,Total Orders,Note,Tax Exempt,"
    "Tags"
)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("03/11/2026 14:05", datetime(2026, 11, 3, 13, 5, tzinfo=UTC)),
        ("3.7.2026 14h05", datetime(2026, 7, 3, 12, 5, tzinfo=UTC)),
        ("2026-11-03 14:05", datetime(2026, 11, 3, 13, 5, tzinfo=UTC)),
        ("2026-11-03 14:05:00 +0100", datetime(2026, 11, 3, 13, 5, tzinfo=UTC)),
        ("2026-11-03T14:05:00+01:00", datetime(2026, 11, 3, 13, 5, tzinfo=UTC)),
        ("03/11/2026", "occurred_at_without_time"),
        ("25/10/2026 02:30", "occurred_at_ambiguous_clock"),
        ("29/03/2026 02:30", "occurred_at_ambiguous_clock"),
        ("31/02/2026 14:05", "occurred_at_not_valid"),
        ("03/11/26 14:05", "occurred_at_not_valid"),
        ("hier", "occurred_at_not_valid"),
        ("2026-13-03T14:05:00+01:00", "occurred_at_not_valid"),
    ],
)
def test_a_date_is_read_as_stated_or_refused_with_the_reason(said: str, found: datetime | str) -> None:
    [(_, line)] = whole(f"Portable;Date de consentement\n0639981234;{said}\n".encode(), dates=PARIS)
    assert line == (Unreadable(found) if isinstance(found, str) else Line(number="0639981234", occurred_at=found))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("03/11/2026 14:05", "occurred_at_ambiguous_day"),
        ("13/11/2026 14:05", "occurred_at_without_zone"),
        ("2026-11-03 14:05", "occurred_at_without_zone"),
        ("11/13/2026 14:05", "occurred_at_without_zone"),
    ],
)
def test_no_zone_and_no_order_is_ever_guessed(said: str, reason: str) -> None:
    assert list(whole(f"number;occurred_at\n0639981234;{said}\n".encode())) == [(2, Unreadable(reason))]


def test_a_shop_s_export_gives_no_consent_without_a_date_and_a_no_is_neither_consent_nor_stop() -> None:
    rows = "".join(
        f"{n},Zoé,D,z@shop.example,yes,,,,Nîmes,,FR,30000,,'+3363998{n},{said},1.0,1,,no,\n"
        for n, said in ((1234, "yes"), (1235, "no"), (1236, ""), (1237, "peut-être"))
    )
    body = f"{SHOPIFY}\n{rows}".encode()
    assert list(whole(body)) == [
        (2, Line(number="'+33639981234")),  # refused further on: `occurred_at_missing`
        (3, Unreadable("consent_not_given")),
        (4, Unreadable("consent_not_given")),
        (5, Unreadable("accepts_sms_not_valid")),
    ]
    assert list(whole(body, "suppressions")) == [
        (2, Unreadable("consent_given")),
        (3, Line(number="'+33639981235")),
        (4, Line(number="'+33639981236")),
        (5, Unreadable("accepts_sms_not_valid")),
    ]


def test_the_date_of_an_opt_out_is_no_consent_s_and_the_date_of_a_consent_no_opt_out_s() -> None:
    body = f"number,consent_date,unsubscribed_at\n0639981234,{AT},\n0639981235,{AT},{AT}\n".encode()
    assert list(whole(body)) == [
        (2, Line(number="0639981234", occurred_at=INSTANT)),
        (3, Unreadable("opted_out")),
    ]
    assert list(whole(body, "suppressions")) == [
        (2, Line(number="0639981234")),
        (3, Line(number="0639981235", occurred_at=INSTANT)),
    ]


def test_an_unknown_column_is_left_out_only_if_the_caller_says_so() -> None:
    body = b"number,pointure,kind\n0639981234,42,STOP\n0639981235,41,optout\n"
    with pytest.raises(FileRefused, match="2"):
        list(whole(body))
    assert list(whole(body, ignore=True)) == [
        (2, Unreadable("kind_not_valid")),
        (3, Line(number="0639981235", kind="opt_out")),
    ]
