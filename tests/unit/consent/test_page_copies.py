"""The copy a person takes away: all that is on record, and nothing that a spreadsheet would run."""

import csv
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from consent.ledger.rules import Evidence
from consent.page.copies import csv_copy, json_copy
from consent.page.view import Line, View

AT = datetime(2026, 3, 2, 13, 5, tzinfo=UTC)


def seen(**more: Any) -> View:
    evidence = Evidence(
        **{
            "evidence_id": "ev-1",
            "kind": "opt_out",
            "sender_id": None,
            "purpose": None,
            "source": "desk",
            "occurred_at": AT,
            "received_at": AT,
            **more,
        }
    )
    return View(
        ending="34",
        parties=(),
        history=(Line(evidence, AT, None, None),),
        entries=1,
        stopped=True,
        stop=None,
        done=None,
        held_since=None,
    )


@pytest.mark.parametrize("said", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_no_cell_begins_as_a_formula_does(said: str) -> None:
    [row] = csv.DictReader(csv_copy(seen(text_shown=said)).decode("utf-8-sig").split("\r\n"))
    assert row["text_shown"] == f"'{said}"


def test_a_cell_holds_what_was_said_as_it_was_said() -> None:
    said = 'Oui ; je veux "tout", même\nà la ligne 😀'
    [row] = csv.DictReader(csv_copy(seen(text_shown=said)).decode("utf-8-sig").splitlines(keepends=True))
    assert (row["text_shown"], row["occurred_at"]) == (said, "2026-03-02T13:05:00+00:00")


def test_the_json_has_every_field_of_the_evidence_and_two_digits_of_the_number() -> None:
    copy = json.loads(json_copy(seen(text_shown="=1+1"), AT))
    assert copy["number_ends_in"] == "34"
    assert copy["evidence"][0]["text_shown"] == "=1+1"
    assert copy["evidence"][0].keys() >= set(Evidence.__struct_fields__)
