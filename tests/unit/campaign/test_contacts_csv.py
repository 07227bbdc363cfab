"""Files of contacts as people export them."""

import codecs
from collections.abc import Iterator

import pytest

from campaign.contacts_csv import (
    EXPLANATIONS,
    MAX_LINE_CHARS,
    NUMBER_COLUMNS,
    Chunk,
    LineProblem,
    NotCsv,
    WrongColumns,
    attribute_name,
    read,
)
from common.msisdn import NumberProblem


def chunks(body: bytes, *, piece: int = 7) -> Iterator[Chunk]:
    """Read `body` in pieces of a few bytes, as a slow network brings it."""
    return read((body[i : i + piece] for i in range(0, len(body), piece)), fictional=True)


def contacts(body: bytes, *, piece: int = 7) -> list[tuple[int, str, dict[str, str]]]:
    return [(c.line, c.msisdn.e164, c.attributes) for chunk in chunks(body, piece=piece) for c in chunk.contacts]


def refusals(body: bytes) -> list[tuple[int, str]]:
    return [(r.line, r.reason) for chunk in chunks(body) for r in chunk.refusals]


ZOE = (2, "+33639981234", {"prenom": "Zoé", "ville": "Nîmes"})


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
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


def test_of_several_number_columns_the_mobile_is_the_one_to_text() -> None:
    body = "Téléphone;Mobile\n01 99 00 12 34;0639981234\n".encode()
    assert contacts(body) == [(2, "+33639981234", {"telephone": "01 99 00 12 34"})]


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
        (b"", NotCsv, "empty"),
        (codecs.BOM_UTF8, NotCsv, "empty"),
        (b"\n0639981234\n", NotCsv, "empty"),
        (b"PK\x03\x04\x14\x00\x06\x00xl/workbook.xml", NotCsv, "not_text"),
        ("mobile;prénom\n".encode() + "0639981234;Zoé\n".encode("cp1252"), NotCsv, "charset"),
        (b"mobile;ville\n0639981234;\x81\n", NotCsv, "charset"),
        (b'mobile\n"' + b"0639981234\n" * 20_000, NotCsv, "not_csv"),
        (b"mobile\n" + b"x" * (MAX_LINE_CHARS + 1), NotCsv, "line_too_long"),
        (b"prenom;ville\nZoe;Lyon\n", WrongColumns, "number_column_missing"),
        (b"0639981234\n0639981235\n", WrongColumns, "number_column_missing"),
        (b"mobile;Ville;ville\n", WrongColumns, "column_twice"),
        (b"mobile;STOP\n", WrongColumns, "reserved_column"),
        (b"mobile" + b";x" * 60, WrongColumns, "too_many_columns"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(body: bytes, kind: type[NotCsv], reason: str) -> None:
    with pytest.raises(NotCsv) as refused:
        list(chunks(body, piece=4096))
    assert type(refused.value) is kind
    assert refused.value.reason == reason
    assert "639981234" not in str(refused.value)


def test_a_header_alone_is_an_empty_list() -> None:
    assert list(chunks(b"mobile;ville\n")) == []


def test_a_long_file_comes_in_chunks() -> None:
    body = b"mobile\n" + b"".join(b"063998%04d\n" % n for n in range(2500))
    assert [len(chunk.contacts) for chunk in chunks(body, piece=1000)] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("title", "name"),
    [("Prénom", "prenom"), ("Code postal", "code_postal"), ("  N° client ", "n_client"), ("°", ""), ("Œuvre", "uvre")],
)
def test_a_title_becomes_an_attribute_name(title: str, name: str) -> None:
    assert attribute_name(title) == name


def test_number_columns_are_written_as_attribute_names() -> None:
    assert all(attribute_name(name) == name for name in NUMBER_COLUMNS)
    assert len(set(NUMBER_COLUMNS)) == len(NUMBER_COLUMNS)
