"""Files of contacts as people export them."""

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from campaign.audience.attribute import Kind
from campaign.audience.contact_fields import EXPLANATIONS, LineProblem
from campaign.audience.contacts_file import Chunk, ReadAs, Reading, check
from common.files import cutting
from common.files.columns import NUMBER_TITLES, plain
from common.files.cutting import LINE_BYTES
from common.files.refused import FileRefused, WrongColumns
from common.sms.msisdn import NumberProblem


def reading(body: bytes, kinds: Mapping[str, Kind] | None = None, *, piece: int = 7) -> Reading:
    parts = [body[i : i + piece] for i in range(0, len(body), piece)]
    return Reading(parts, check(parts), kinds or {}, fictional=True)


def chunks(body: bytes, *, piece: int = 7) -> Iterator[Chunk]:
    """Read `body` in pieces of a few bytes, as a slow network brings it."""
    return reading(body, piece=piece).chunks()


def contacts(body: bytes, *, piece: int = 7) -> list[tuple[int, str, dict[str, str]]]:
    return [each for chunk in chunks(body, piece=piece) for each in taken(chunk)]


def taken(chunk: Chunk) -> Iterator[tuple[int, str, dict[str, str]]]:
    return zip(chunk.lines, chunk.e164s, chunk.attributes, strict=True)


def refusals(body: bytes) -> list[tuple[int, str]]:
    return [(r.line, r.reason) for chunk in chunks(body) for r in chunk.refusals]


ZOE = (2, "+33639981234", {"prenom": "Zoé", "ville": "Nîmes"})


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "cp1252", "iso8859-15", "utf-16"])
@pytest.mark.parametrize("piece", [1, 5, 4096])
def test_every_export_reads_the_same(delimiter: str, end: str, charset: str, piece: int) -> None:
    body = "Prénom,Mobile,Ville#Zoé,06 39 98 12 34,Nîmes#Aimé,0639981235,#".replace(",", delimiter).replace("#", end)
    assert contacts(body.encode(charset), piece=piece) == [
        ZOE,
        (3, "+33639981235", {"prenom": "Aimé", "ville": ""}),
    ]


def test_a_last_line_may_lack_its_end_and_the_last_letter_may_be_windows() -> None:
    assert contacts("mobile;prenom\n0639981234;Zoé".encode("cp1252")) == [(2, "+33639981234", {"prenom": "Zoé"})]


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks_and_lines_keep_their_number() -> None:
    body = b'mobile,nom,note\n"06 39 98 12 34","Dupont, Zo""e""","un\ndeux"\n\n0639981235,B,\n'
    assert contacts(body) == [
        (2, "+33639981234", {"nom": 'Dupont, Zo"e"', "note": "un\ndeux"}),
        (5, "+33639981235", {"nom": "B", "note": ""}),
    ]


@pytest.mark.parametrize(
    "title", ["number", "Phone", "TÉLÉPHONE", "Tél. portable", "Numéro de téléphone", "msisdn", "GSM"]
)
def test_the_number_column_has_many_names(title: str) -> None:
    assert contacts(f"{title};ville\n0639981234;Lyon\n".encode()) == [(2, "+33639981234", {"ville": "Lyon"})]


def test_of_several_number_columns_the_mobile_is_the_one_to_text_and_of_the_others_nothing_is_kept() -> None:
    read = reading("Téléphone;Ville;Mobile;Tél\n01 99 00 12 34;Lyon;0639981234;0639981235\n".encode())
    [chunk] = read.chunks()
    assert (chunk.e164s, chunk.attributes) == (["+33639981234"], [{"ville": "Lyon"}])
    assert read.read_as.other_numbers == ["telephone", "tel"]
    assert read.inferred == {"ville": Kind.TEXT}


def test_of_several_numbers_of_an_object_one_is_kept_whichever_the_object_has() -> None:
    lines = [
        {"phone": "01 99 00 12 34", "mobile": "0639981234", "city": "Lyon"},
        {"tel": "0639981235", "city": "Metz"},
        {"tel": "0639981237", "phone": "0639981236"},
        {"phone": "0639981239", "mobile": "0639981238"},
    ]
    read = reading("\n".join(map(json.dumps, lines)).encode())
    [chunk] = read.chunks()
    assert [(e164[-2:], attributes) for e164, attributes in zip(chunk.e164s, chunk.attributes, strict=True)] == [
        ("34", {"city": "Lyon"}), ("35", {"city": "Metz"}), ("36", {}), ("38", {}),
    ]  # fmt: skip
    assert read.read_as.other_numbers == ["phone", "tel"]


def test_each_line_that_cannot_be_used_says_why() -> None:
    body = (
        "mobile;ville\n"
        "0639981234;Lyon\n"
        "01 99 00 12 34;Lyon\n"
        ";Lyon\n"
        "pas de numéro;Lyon\n"
        "\n"
        "36111;Lyon\n"
        "0639981235;Lyon;de trop\n"
        "0639981236;Lyon;;\n"
        f"0639981237;{'x' * 201}\n"
        "0639981238\n"
    ).encode()
    assert refusals(body) == [
        (3, NumberProblem.NOT_MOBILE),
        (4, NumberProblem.EMPTY),
        (5, NumberProblem.NOT_A_NUMBER),
        (7, NumberProblem.SHORT_CODE),
        (8, LineProblem.TOO_MANY_CELLS),
        (10, LineProblem.ATTRIBUTE_TOO_LONG),
    ]
    assert [line for line, _, _ in contacts(body)] == [2, 9, 11]


def test_every_reason_is_explained() -> None:
    assert set(EXPLANATIONS) == {*NumberProblem, *LineProblem}


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"", FileRefused, "empty"),
        (codecs.BOM_UTF8, FileRefused, "empty"),
        (b"\n0639981234\n", FileRefused, "empty"),
        (b"PK\x03\x04\x14\x00\x06\x00xl/workbook.xml", FileRefused, "spreadsheet"),
        (b"mobile;ville\n0639981234;a\x00b\n", FileRefused, "not_text"),
        ("mobile;prénom\n".encode() + "0639981234;Zoé\n".encode("cp1252"), FileRefused, "charset"),
        (b"mobile;ville\n0639981234;\x81\n", FileRefused, "charset"),
        (b'mobile\n"' + b"0639981234\n" * 20_000, FileRefused, "line_too_long"),
        (b"mobile\n" + b"x" * (LINE_BYTES + 1), FileRefused, "line_too_long"),
        (b"prenom;ville\nZoe;Lyon\n", WrongColumns, "number_column_missing"),
        (b"0639981234\n0639981235\n", WrongColumns, "number_column_missing"),
        (b"mobile;Ville;ville\n", WrongColumns, "column_twice"),
        (b"mobile;STOP\n", WrongColumns, "reserved_column"),
        (b"mobile" + b";x" * 60, WrongColumns, "too_many_columns"),
        (b"mobile^prenom\n0639981234^Zoe\n", WrongColumns, "delimiter_unknown"),
        (b"mobile;prenom\n0639981234,Zoe\n0639981235,Ana\n", WrongColumns, "delimiter_differs"),
        (b'[{"mobile": "0639981234"}]\n', FileRefused, "json_array"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(body: bytes, kind: type[FileRefused], reason: str) -> None:
    with pytest.raises(FileRefused) as refused:
        check([body])
    assert type(refused.value) is kind
    assert refused.value.reason == reason
    assert "639981234" not in str(refused.value)


def test_a_header_alone_is_an_empty_list() -> None:
    assert list(chunks(b"mobile;ville\n")) == []


def test_a_long_file_comes_in_chunks() -> None:
    body = b"mobile\n" + b"".join(b"063998%04d\n" % n for n in range(2500))
    assert [len(chunk.lines) for chunk in chunks(body, piece=70_000)] == [999, 1000, 501]


def test_what_is_recorded_is_left_out_wherever_in_a_chunk_that_ends() -> None:
    body = b"mobile;ville\n0639981234;A\n36111;B\n0639981235;C\n0639981236;D\n36112;E\n"
    [chunk] = chunks(body)
    for recorded in range(1, 8):
        rest = chunk.behind(recorded)
        assert list(taken(rest)) == [each for each in taken(chunk) if each[0] > recorded]
        assert len(rest.territories) == len(rest.lines)
        assert [refusal.line for refusal in rest.refusals] == [line for line in (3, 6) if line > recorded]


@pytest.mark.parametrize(
    ("title", "name"),
    [("Prénom", "prenom"), ("Code postal", "code_postal"), ("  N° client ", "n_client"), ("°", ""), ("Œuvre", "uvre")],
)
def test_a_title_becomes_an_attribute_name(title: str, name: str) -> None:
    assert plain(title) == name


def test_number_columns_are_written_as_attribute_names() -> None:
    assert all(plain(name) == name for name in NUMBER_TITLES)
    assert len(set(NUMBER_TITLES)) == len(NUMBER_TITLES)


# --- NDJSON, and what is the same in both ----------------------------------------------------------------------------

PEOPLE = [
    {"mobile": "0639981234", "prenom": "Zoé", "points": "12"},
    {"mobile": "01 99 00 12 34", "prenom": "A", "points": "1"},
    {"mobile": "0639981235", "prenom": "", "points": "beaucoup"},
    {"mobile": "", "prenom": "B", "points": "2"},
    {"mobile": "0639981236", "prenom": "x" * 201, "points": ""},
    {"mobile": "0639981237", "prenom": " Aimé ", "points": "1 000,5"},
]


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_both_formats_take_and_refuse_the_same(piece: int) -> None:
    def told(body: str, before: int) -> list[Any]:
        read = list(reading(body.encode(), {"points": Kind.NUMBER}, piece=piece).chunks())
        return [
            [(line - before, e164, said) for chunk in read for line, e164, said in taken(chunk)],
            [(r.line - before, r.reason) for chunk in read for r in chunk.refusals],
        ]

    as_csv = "mobile;prenom;points\n" + "".join(";".join(person.values()) + "\n" for person in PEOPLE)
    as_ndjson = "".join(json.dumps(person) + "\n" for person in PEOPLE)
    assert told(as_csv, 1) == told(as_ndjson, 0)
    assert told(as_csv, 1) == [
        [
            (1, "+33639981234", {"prenom": "Zoé", "points": "12"}),
            (6, "+33639981237", {"prenom": "Aimé", "points": "1000.5"}),
        ],
        [(2, "not_mobile"), (3, "no_number:points"), (4, "empty"), (5, "attribute_too_long")],
    ]


def test_each_object_has_fields_of_its_own() -> None:
    body = (
        b'{"Mobile": "0639981234", "VIP": true, "points": 12.0, "note": null}\r\n'
        b"\n"
        b'{"telephone": "0639981235", "points": 0.5, "": "x"}\n'
        b'["0639981236"]\n'
        b'{"mobile": "0639981237", "orders": [1]}\n'
        b'{"prenom": "A"}\n'
        b'{"mobile": "0639981238", "Ville": "a", "ville": "b"}\n'
        b'{"mobile": "0639981239", "stop": "a"}\n'
        b'{"mobile": "0639981240", "note": "a\\u0000"}\n'
        b'{"mobile": 33639981241}\n'
        b'{"mobile": "06399812'
    )
    assert contacts(body) == [
        (1, "+33639981234", {"vip": "true", "points": "12", "note": ""}),
        (3, "+33639981235", {"points": "0.5"}),
        (10, "+33639981241", {}),
    ]
    assert refusals(body) == [
        (4, LineProblem.NOT_AN_OBJECT),
        (5, LineProblem.NOT_AN_OBJECT),
        (6, LineProblem.NUMBER_COLUMN_MISSING),
        (7, LineProblem.COLUMN_TWICE),
        (8, LineProblem.RESERVED_COLUMN),
        (9, LineProblem.NOT_AN_OBJECT),
        (11, LineProblem.CUT_OFF),
    ]


@pytest.mark.parametrize(
    ("body", "read_as"),
    [
        ("mobile\tville\n0639981234\tNîmes\n".encode(), ReadAs("csv", "utf-8", "\t")),
        ("mobile;ville\n0639981234;Nîmes\n".encode("cp1252"), ReadAs("csv", "windows-1252", ";")),
        ("mobile;ville\n0639981234;Nîmes\n".encode("utf-16"), ReadAs("csv", "utf-16-le", ";", wide="utf-16-le")),
        ("mobile;ville\n0639981234;Nîmes\n".encode("utf-16-le"), ReadAs("csv", "utf-16-le", ";", wide="utf-16-le")),
        ("mobile;ville\n0639981234;Nîmes\n".encode("utf-16-be"), ReadAs("csv", "utf-16-be", ";", wide="utf-16-be")),
        ("mobile;ville\n0639981234;Nîmes\n".encode().decode("cp1252").encode(), ReadAs("csv", "utf-8", ";", True)),
        ("mobile;ville\n0639981234;L\u2019île d\u2019Yeu\n".encode(), ReadAs("csv", "utf-8", ";")),
        ('{"mobile": "0639981234", "ville": "Nîmes"}\n'.encode(), ReadAs("ndjson", "utf-8", None)),
    ],
)
def test_it_is_said_how_a_file_was_read(body: bytes, read_as: ReadAs) -> None:
    read = reading(body)
    assert [len(chunk.lines) for chunk in read.chunks()] == [1]
    assert read.read_as == read_as


def test_attributes_that_nobody_knew_hold_what_all_lines_that_count_have_in_them() -> None:
    body = (
        b"mobile;points;ville;vip;vide;code\n"
        b"0639981234;12;Lyon;true;;A\n"
        b"36111;douze;Lyon;true;;A\n"  # refused: says nothing
        b"0639981235;;2;false;;B\n"
    )
    read = reading(body, {"code": Kind.TEXT})
    assert len(list(read.chunks())) == 1
    assert read.inferred == {"points": Kind.NUMBER, "ville": Kind.TEXT, "vip": Kind.BOOLEAN}


def test_a_time_zone_is_one_that_there_is() -> None:
    body = b"mobile;timezone\n0639981234;America/Martinique\n0639981235;Martinique\n0639981236;\n"
    assert [line for line, _, _ in contacts(body)] == [2, 4]
    assert refusals(body) == [(3, "no_timezone:timezone")]


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"mobile;prenom;ville\n0639981234;A;Lyon\n0639981235;B", [3]),
        (b'mobile;prenom\n0639981234;A\n0639981235;"B', [3]),
        (b'mobile;prenom\n0639981234;A\n0639981235;"B\n0639981236;C\n', [3, 4]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 1000])  # where the file ends with a piece as where it does not
def test_a_line_that_the_file_ends_within_is_refused(
    monkeypatch: pytest.MonkeyPatch, body: bytes, lines: list[int], size: int
) -> None:
    monkeypatch.setattr(cutting, "PIECE_LINES", size)
    read = list(chunks(body))
    assert [line for chunk in read for line in chunk.lines] == [2]
    assert [refusal for chunk in read for refusal in chunk.refusals] == [(n, LineProblem.CUT_OFF) for n in lines]


def test_an_inch_is_no_quote_that_nothing_closes() -> None:
    assert contacts(b'mobile;note\n0639981234;5" de large') == [(2, "+33639981234", {"note": '5" de large'})]
