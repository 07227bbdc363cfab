"""The chain gives away every change to a subject's ledger."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from consent.chain import GENESIS, Entry, canonical, chained, evidence_id, verify
from tests.unit.consent.evidences import at, opt_in, stop


def ledger() -> list[Entry]:
    entries = []
    previous = GENESIS
    for position, evidence in enumerate((opt_in(0), stop(1), opt_in(2)), start=1):
        entries.append(chained("s1-00", position, evidence, at(position), previous))
        previous = entries[-1].hash
    return entries


def test_an_untouched_ledger_holds() -> None:
    assert verify(ledger()) is None
    assert verify([]) is None


def test_the_hash_can_be_computed_by_anyone() -> None:
    first = ledger()[0]
    text = (
        '{"actor":null,"answers":null,"basis":"opt_in","evidence_id":"ev-opt_in-0-None-promotions","form_id":null,"form_version":null,'
        '"kind":"opt_in","occurred_at":"2026-03-02T12:00:00.000000Z","position":1,"purpose":"promotions",'
        '"received_at":"2026-03-02T12:00:00.000000Z","recorded_at":"2026-03-02T12:01:00.000000Z","reference":null,'
        '"sale_reference":null,"sender_id":"acme","source":"shop","subject_id":"s1-00","text_shown":"Oui"}'
    )
    assert first.hash == hashlib.sha256((GENESIS + text).encode()).hexdigest()


def altered(entries: list[Entry], index: int, **changes: Any) -> list[Entry]:
    entries[index] = replace(entries[index], **changes)
    return entries


@pytest.mark.parametrize(
    ("touched", "position"),
    [
        (altered(ledger(), 1, evidence=replace(ledger()[1].evidence, kind="opt_in")), 2),
        (altered(ledger(), 0, evidence=replace(ledger()[0].evidence, text_shown="Non")), 1),
        (altered(ledger(), 2, recorded_at=at(99)), 3),
        (altered(ledger(), 1, subject_id="s1-01"), 2),
        (altered(ledger(), 2, hash="f" * 64), 3),
        (ledger()[1:], 1),
        ([ledger()[0], ledger()[2]], 2),
        ([ledger()[0], ledger()[2], ledger()[1]], 2),
        ([ledger()[0], ledger()[0], *ledger()[1:]], 2),
    ],
    ids=["kind", "text", "recorded_at", "subject", "hash", "first cut", "one cut", "swapped", "twice"],
)
def test_the_first_entry_that_was_touched_is_found(touched: list[Entry], position: int) -> None:
    assert verify(touched) == position


def test_an_edit_with_its_hash_made_anew_breaks_the_next_entry() -> None:
    entries = ledger()
    forged = replace(entries[0].evidence, text_shown="Non")
    entries[0] = chained("s1-00", 1, forged, entries[0].recorded_at, GENESIS)
    assert verify(entries) == 2


def test_derived_ids_repeat_and_do_not_run_into_each_other() -> None:
    assert evidence_id("shop", "key-1") == evidence_id("shop", "key-1")
    assert evidence_id("ab", "c") != evidence_id("a", "bc")
    assert evidence_id("a", None) != evidence_id("a", "null")


def test_only_what_has_one_form_is_hashed() -> None:
    with pytest.raises(TypeError):
        canonical({"x": {1, 2}})
