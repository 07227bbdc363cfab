"""The chain gives away every change to a subject's ledger."""

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from consent.ledger.chain import GENESIS, PERSONAL, Entry, canonical, chained, evidence_id, seal, verify
from consent.ledger.rules import Evidence
from tests.unit.consent.evidences import at, opt_in, stop

SALT = "5a" * 16


def ledger() -> list[Entry]:
    entries = []
    previous = GENESIS
    for position, evidence in enumerate((opt_in(0), stop(1), opt_in(2)), start=1):
        entries.append(chained("s1-00", "s1-00", position, evidence, at(position), previous, SALT))
        previous = entries[-1].hash
    return entries


def test_an_untouched_ledger_holds() -> None:
    assert verify(ledger(), str) is None
    assert verify([], str) is None


def test_the_hash_can_be_computed_by_anyone() -> None:
    first = ledger()[0]
    personal = (
        '{"actor":null,"form_id":null,"form_version":null,"reference":null,"sale_reference":null,"text_shown":"Oui"}'
    )
    assert first.sealed == hashlib.sha256((SALT + personal).encode()).hexdigest()
    text = (
        '{"answers":null,"arrived_at":null,"basis":"opt_in","clock":null,"controller":null,'
        '"evidence_id":"ev-opt_in-0-None-promotions",'
        '"kind":"opt_in","occurred_at":"2026-03-02T12:00:00.000000Z","position":1,"purpose":"promotions",'
        '"received_at":"2026-03-02T12:00:00.000000Z","recorded_at":"2026-03-02T12:01:00.000000Z",'
        '"reopening_rule":null,'
        f'"sealed":"{first.sealed}","sender_id":"acme","source":"shop","subject_id":"s1-00"}}'
    )
    assert first.hash == hashlib.sha256((GENESIS + text).encode()).hexdigest()


def test_every_field_of_evidence_is_in_the_hash_or_in_the_seal() -> None:
    """A field that somebody adds and forgets here would be a field that anybody may change."""
    for field in fields(Evidence):
        entries = ledger()
        value: Any = at(77) if field.name.endswith("_at") else "changed"
        changed = replace(entries[1].evidence, **{field.name: value})
        assert verify(altered(entries, 1, evidence=changed), str) == 2, field.name


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none()))
def test_what_is_hashed_fast_is_the_canonical_form(line: dict[str, str | int | None]) -> None:
    in_order = {name: line[name] for name in sorted(line)}
    assert canonical(line) == msgspec.json.encode(in_order)


@given(st.lists(st.text() | st.none()))
def test_an_id_is_derived_from_the_canonical_form(parts: list[str | None]) -> None:
    assert evidence_id(*parts) == f"ev-{hashlib.sha256(canonical(parts)).hexdigest()[:32]}"


def erased(entry: Entry) -> Entry:
    gone: dict[str, Any] = dict.fromkeys(PERSONAL)
    return replace(entry, salt=None, evidence=replace(entry.evidence, **gone))


def test_the_chain_holds_though_what_is_personal_is_erased() -> None:
    entries = ledger()
    for index, entry in enumerate(entries):
        entries[index] = erased(entry)
        assert verify(entries, str) is None
    assert all(entry.erased for entry in entries)


def test_what_is_half_erased_or_filled_in_again_does_not_hold() -> None:
    assert verify(altered(ledger(), 0, salt=None), str) == 1
    assert verify(altered(ledger(), 0, evidence=erased(ledger()[0]).evidence), str) == 1
    filled = replace(erased(ledger()[0]), evidence=ledger()[0].evidence)
    assert verify([filled, *ledger()[1:]], str) == 1


def test_without_the_salt_nobody_can_try_out_what_was_erased() -> None:
    evidence = ledger()[0].evidence
    assert seal(evidence, SALT) != seal(evidence, "5b" * 16)


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
        (altered(ledger(), 1, salt="5b" * 16), 2),
        (altered(ledger(), 1, sealed="f" * 64), 2),
        (ledger()[1:], 1),
        ([ledger()[0], ledger()[2]], 2),
        ([ledger()[0], ledger()[2], ledger()[1]], 2),
        ([ledger()[0], ledger()[0], *ledger()[1:]], 2),
    ],
    ids=[
        "kind",
        "text",
        "recorded_at",
        "subject",
        "hash",
        "salt",
        "sealed",
        "first cut",
        "one cut",
        "swapped",
        "twice",
    ],
)
def test_the_first_entry_that_was_touched_is_found(touched: list[Entry], position: int) -> None:
    assert verify(touched, str) == position


def test_an_edit_with_its_hash_made_anew_breaks_the_next_entry() -> None:
    entries = ledger()
    forged = replace(entries[0].evidence, text_shown="Non")
    entries[0] = chained("s1-00", "s1-00", 1, forged, entries[0].recorded_at, GENESIS, SALT)
    assert verify(entries, str) == 2


def test_derived_ids_repeat_and_do_not_run_into_each_other() -> None:
    assert evidence_id("shop", "key-1") == evidence_id("shop", "key-1")
    assert evidence_id("ab", "c") != evidence_id("a", "bc")
    assert evidence_id("a", None) != evidence_id("a", "null")


def test_only_what_has_one_form_is_hashed() -> None:
    with pytest.raises(TypeError):
        canonical({"x": {1, 2}})
