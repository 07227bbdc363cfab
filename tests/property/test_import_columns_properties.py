"""A piece read in columns says what its lines say one by one: each statement, each reason, for each line."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.db.allowances import Allowances
from common.db.database import Database
from common.db.shards import Shards
from common.files.charset import seen_in
from common.files.cutting import Format, cut, shape_of
from common.kafka.relayed import Relayed
from common.service import Resources
from common.settings import ServiceSettings
from consent.imports import lines
from consent.imports.files import ImportFile
from consent.imports.lines import Layout, begun
from consent.imports.statements import Reasons, Said, Statements
from consent.ledger import rules as ledger
from consent.ledger.recorder import Statement
from consent.senders.store import Purposes
from tests.support.builders import edge_ids, field_keys, link_keys, number, subject, subject_keys
from tests.support.running import AUTH_KEY, ISSUER, KEY_RING, LIMITS, SUBJECT_RING
from tests.unit.common.test_msisdn import EITHER, RECEIVED, TYPED

ARRIVED = datetime(2026, 3, 2, 13, 5, tzinfo=UTC)
PURPOSES = Purposes("tests", "acme", frozenset({"promotions"}), frozenset({"promotions", "loyalty"}), {}, ("FR", "ES"))
DATABASE = Database("postgresql://nobody@127.0.0.1/none")  # never connected

MOBILES = st.integers(1, 999).map(number)
ODD_NUMBERS = st.sampled_from(
    [
        *map(number, (1, 1, 2)),
        *(EITHER, TYPED, RECEIVED),
        *("06 39 98 00 01", "+33639980002 ", "0639980003", "3615", "", "  ", "n/a"),
        "0" * 70,
    ]
)
NUMBERS = MOBILES | MOBILES | MOBILES | ODD_NUMBERS
USUAL = st.sampled_from(
    ["2026-03-02T13:05:00Z", "2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "2026-03-02T13:07:00Z"]
)
ODD_TIMES = st.sampled_from(
    [
        *("2026-03-02T15:05:00+02:00", "2026-03-01 10:00:00.5Z", "2026-03-02T13:05:30Z", "2026-03-03T00:00:00Z"),
        *("03/11/2025 14:05", "25/11/2025 14:05", "30/03/2025 02:30", "1969-01-01T00:00:00Z"),
        *("0001-01-01T00:00:00+14:00", "2026-02-30T00:00:00Z", "2026-03-02", "", "soon"),
    ]
)
TIMES = USUAL | USUAL | ODD_TIMES
FICTIONAL = st.sampled_from([True, True, True, False])
CELLS: Mapping[str, st.SearchStrategy[str]] = {
    "purpose": st.sampled_from(["", "promotions", "loyalty", "unknown"]),
    "basis": st.sampled_from(["", "opt_in", "soft_opt_in", "wrong"]),
    "kind": st.sampled_from(["", "opt_in", "inscription", "opt_out", "STOP"]),
    "form_id": st.sampled_from(["", "checkout"]),
    "text_shown": st.sampled_from(["", "Oui, « j'accepte »", "a\nb"]),
    "sale_reference": st.sampled_from(["", "s-1"]),
    "number_country": st.sampled_from(["", "", "", "ES"]),
    "accepts_sms": st.sampled_from(["oui", "yes", "no", "?"]),
    "opted_out_at": st.sampled_from(["", "", "2026-01-01"]),
    "city": st.sampled_from(["Lyon", "Brest"]),
}
COLUMNS = st.lists(st.sampled_from(sorted(CELLS)), unique=True, max_size=3)
SHOP = {"source": "shop", "form_id": "f", "form_version": "1"}
TERMS = st.fixed_dictionaries(
    {
        "evidence": st.sampled_from([SHOP, SHOP, {"source": "shop"}]),
        "basis": st.sampled_from(["opt_in", "opt_in", "soft_opt_in"]),
        "purpose": st.sampled_from(["promotions", "promotions", "promotions", "loyalty", None]),
        "time_zone": st.sampled_from(["Europe/Paris", None]),
        "date_order": st.sampled_from(["day_first", None]),
        "country": st.sampled_from([None, None, "FR"]),
    }
)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "FEW", 2)
        yield


def held(*, fictional: bool) -> Resources[ServiceSettings]:
    settings = ServiceSettings(
        database_url="postgresql://nobody@127.0.0.1/none",
        kafka_bootstrap="127.0.0.1:9092",
        subject_keys=SUBJECT_RING,
        field_keys=KEY_RING,
        auth_issuer=ISSUER,
        auth_audience=ISSUER,
        auth_key=AUTH_KEY,
        limits=LIMITS,
        development=True,
        fictional_numbers=fictional,
    )
    relayed, allowances = Relayed(DATABASE, ""), Allowances(DATABASE)
    shards = Shards.undivided(DATABASE, settings.partitions)
    return Resources(settings, DATABASE, shards, subject_keys, edge_ids, field_keys, link_keys, relayed, allowances)


HELD = {fictional: held(fictional=fictional) for fictional in (True, False)}


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    others = draw(COLUMNS)
    row = st.tuples(NUMBERS, TIMES, *(CELLS[name] for name in others))
    empty = st.tuples(NUMBERS, TIMES, *(st.just("") for _ in others))
    shared = draw(row | empty)  # most lines of a file differ in number and time alone
    rows = [
        (*one[:2], *(one[2:] if own else shared[2:]))
        for one, own in draw(
            st.lists(st.tuples(row, st.sampled_from([False, False, False, True])), min_size=2, max_size=14)
        )
    ]
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerows([("number", "occurred_at", *others), *rows])
    short = draw(st.sampled_from(["", "", f"{number(1)}\n", f"{number(77)},{ARRIVED:%FT%TZ}\n\n", 'a"b,c\n']))
    return (written.getvalue() + short).encode()


@st.composite
def ndjson(draw: st.DrawFn) -> bytes:
    names = ("purpose", "basis", "kind", "form_id", "sale_reference")
    said = st.fixed_dictionaries({"number": NUMBERS, "occurred_at": TIMES}, optional={n: CELLS[n] for n in names})
    some = [{name: text for name, text in one.items() if text} for one in draw(st.lists(said, max_size=14))]
    return b"".join(json.dumps(one).encode() + b"\n" for one in some)


By_line = dict[int, list[Statement] | Reasons]


@given(tables(), TERMS, FICTIONAL)
def test_the_columns_of_a_table_are_its_lines(body: bytes, terms: dict[str, Any], fictional: bool) -> None:
    check(body, "csv", terms, fictional=fictional)


@given(ndjson(), TERMS, FICTIONAL)
def test_the_columns_of_ndjson_are_its_lines(body: bytes, terms: dict[str, Any], fictional: bool) -> None:
    if body:
        check(body, "ndjson", terms, fictional=fictional)


def test_opt_ins_to_record_of_people_named_once_are_in_a_column() -> None:
    times = ["03T10:00", "02T10:00", "02T10:00", "01T10:00", "02T13:07", "01T09:00", ""]
    rows = [f"{number(n)},2026-03-{at}:00Z" for n, at in zip((9, 1, 2, 3, 4, 1, 5), times, strict=True)]
    body = "\n".join(["number,occurred_at", *rows, f"3615,{AT}", f"{number(6)},{AT}"]).encode()
    said, _ = both(body, "csv", SHOWN, fictional=True)
    [column] = said.columns
    assert [*column.read.starts] == [4, 5, 10]
    assert column.opt_ins.subjects == [subject(n) for n in (2, 3, 6)]
    assert [at.day for at in column.opt_ins.times] == [2, 1, 2]
    assert [*said.lines] == [2, 3, 6, 7, 8, 9]
    check(body, "csv", SHOWN, fictional=True)


AT = "2026-03-02T13:05:00Z"
SHOWN = {"evidence": {"source": "shop", "text_shown": "Oui"}, "basis": "opt_in", "purpose": "promotions"}


def check(body: bytes, file_format: Format, terms: dict[str, Any], *, fictional: bool) -> None:
    said, one_by_one = both(body, file_format, terms, fictional=fictional)
    in_columns = {
        line: [statement]
        for column in said.columns
        for line, statement in zip(column.read.starts, column.opt_ins.statements(), strict=True)
    }
    assert in_columns.keys().isdisjoint(said.lines)
    assert opened({**said.lines, **in_columns}) == opened(one_by_one)
    assert [*said.lines] == sorted(said.lines)
    assert not [why for [one] in in_columns.values() for why in ledger.refusals(one.evidence, ARRIVED)]
    named = [one.subject_id for some in one_by_one.values() if isinstance(some, list) for one in some]
    assert all(named.count(one.subject_id) == 1 for [one] in in_columns.values())


def both(body: bytes, file_format: Format, terms: dict[str, Any], *, fictional: bool) -> tuple[Said, By_line]:
    """Return what a piece says in columns, and one by one, as in a dry run."""
    file = ImportFile(
        import_id="imp",
        created_by="tester",
        fingerprint="",
        sender_id="acme",
        kind="consents",
        format=file_format,
        terms=json.dumps(terms),
        bytes=None,
        created_at=ARRIVED,
    )
    shape = shape_of(body, file_format, last=True)
    assert shape is not None
    [piece], _ = cut(body, shape, last=True)
    layout, behind = begun(piece, shape, "consents", ignore_others=True)
    layout, first = Layout(shape, layout.columns, seen_in(piece.body)), 1 + piece.lines - behind.lines
    statements = Statements(HELD[fictional], file, PURPOSES, ARRIVED)
    read = list(statements.lines(behind.body, layout, first))
    one_by_one = {line: statements.said_by([said])[0] for line, said in read}
    said = statements.of(behind.body, layout, first)
    for who, inner in statements._inner.items():
        assert inner == subject_keys.inner(who)
    return said, one_by_one


def opened(said: Mapping[int, list[Statement] | Reasons]) -> By_line:
    """Return the statements with their numbers decrypted: each encryption is another."""
    return {
        line: [
            replace(one, number=one.number and field_keys.unseal(one.number, f"number:{one.subject_id}"))
            for one in some
        ]
        if isinstance(some, list)
        else some
        for line, some in said.items()
    }
