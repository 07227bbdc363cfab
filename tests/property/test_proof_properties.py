"""The bundle of any history holds; one in which one byte differs does not: wherever it is, whatever it has become."""

import hashlib
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consent.ledger.chain import PERSONAL, Entry, canonical
from consent.ledger.rules import Evidence
from consent.proof.api import concerns
from consent.proof.bundle import check, stood_on
from tests.property.test_ledger_properties import histories
from tests.unit.consent.bundles import bundle_of, chain_of, keys, message, party, published, subject_line, whole
from tests.unit.consent.evidences import at, opt_in, opt_out

FILE = whole()
BYTES = range(256)
LINES = FILE.splitlines(keepends=True)


def holds(file: bytes) -> bool:
    return check(file.splitlines(keepends=True), published).holds


def test_untouched_it_holds() -> None:
    assert holds(FILE)


@pytest.mark.parametrize("nth", [0, 1])
def test_no_byte_of_it_can_be_changed(nth: int) -> None:
    """Every byte of the file, one after the other: each in two of five ways."""
    dice = random.Random("changes")
    missed = []
    for place, byte in enumerate(FILE):
        changes = [
            bytes([byte ^ 1 << dice.randrange(8)]),
            bytes([byte ^ 0x20]),  # the other case
            bytes([dice.choice([b for b in BYTES if b != byte])]),
            b"",
            bytes([byte, byte]),
        ]
        dice.shuffle(changes)
        if holds(FILE[:place] + changes[nth] + FILE[place + 1 :]):
            missed.append((place, FILE[max(0, place - 20) : place + 20], changes[nth]))
    assert missed == []


def test_no_byte_of_an_entry_can_be_changed_even_by_who_signs_the_end_anew() -> None:
    """The chain and the receipts hold without the last signature, for it is ours to make."""
    dice = random.Random("sealed again")
    missed = []
    for place, line in enumerate(LINES):
        if not line.startswith(b'{"entry"'):
            continue
        for column, byte in enumerate(line[:-1]):
            other = dice.choice([b for b in BYTES if b not in (byte, ord("\n"))])
            forged = [*LINES[:place], line[:column] + bytes([other]) + line[column + 1 :], *LINES[place + 1 : -1]]
            if holds(b"".join([*forged, end_of(forged)])):
                missed.append((place, line[max(0, column - 20) : column + 20], other))
    assert missed == []
    assert holds(b"".join([*LINES[:-1], end_of(LINES[:-1])]))


def end_of(lines: list[bytes]) -> bytes:
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    sealed = {"format": "placet-bundle-1", "lines": len(lines), "made_at": at(60), "sha256": digest}
    return canonical({"line": "end", "signature": keys.sign(canonical(sealed), "placet-bundle")}) + b"\n"


@given(place=st.integers(0, len(FILE) - 1), byte=st.sampled_from(BYTES))
def test_any_byte_may_become_any_other_and_is_found(place: int, byte: int) -> None:
    assert holds(FILE[:place] + bytes([byte]) + FILE[place + 1 :]) == (FILE[place] == byte)


@given(st.permutations(LINES))
def test_no_line_can_be_moved(lines: list[bytes]) -> None:
    assert holds(b"".join(lines)) == (lines == LINES)


@given(st.integers(0, len(FILE) - 1))
def test_cut_anywhere_it_does_not_hold(length: int) -> None:
    assert not holds(FILE[:length])


@given(st.binary(min_size=1))
def test_nothing_can_be_added_at_either_end(more: bytes) -> None:
    assert not holds(FILE + more)
    assert not holds(more + FILE)


@given(st.lists(st.sampled_from([*LINES, b"", b"\n", b"{}\n", b'{"line":"end","signature":""}\n'])))
def test_whatever_lines_it_is_given_it_reports_and_never_fails(lines: list[bytes]) -> None:
    assert check(lines, published).holds == (lines == LINES)


def erased(entry: Entry) -> Entry:
    gone: dict[str, Any] = dict.fromkeys(PERSONAL)
    return replace(entry, salt=None, evidence=replace(entry.evidence, **gone))


@given(said=histories, gone=st.sets(st.integers(0, 11)))
def test_the_bundle_of_any_history_holds_erased_or_not(said: list[Evidence], gone: set[int]) -> None:
    entries = [erased(entry) if place in gone else entry for place, entry in enumerate(chain_of(said))]
    report = check(bundle_of(subject_line(entries), entries).splitlines(keepends=True), published)
    assert report.problems == []
    assert report.entries == entries


# about one purpose of a group of two and a stranger: who shuts whom is what matters here
said_of_a_group = st.lists(
    st.builds(opt_in, st.integers(0, 5), sender_id=st.sampled_from(("acme", "globex")), controller=st.just("group"))
    | st.builds(
        opt_out,
        st.integers(0, 5),
        sender_id=st.sampled_from(("acme", "globex", "initech")),
        purpose=st.sampled_from((None, "promotions")),
        controller=st.none(),
    )
    | st.builds(opt_out, st.integers(0, 5), sender_id=st.just("globex"), controller=st.just("group"))
    | st.builds(opt_out, st.integers(0, 5), sender_id=st.just("initech"), controller=st.just("initech")),
    max_size=6,
)


@given(said=said_of_a_group, minutes=st.integers(11, 18))
def test_what_a_campaigns_bundle_withholds_would_not_change_what_its_messages_stood_on(
    said: list[Evidence], minutes: int
) -> None:
    entries = chain_of(said)
    shown = [entry for entry in entries if concerns(entry.evidence, party(controller="group"))]
    assert stood_on(shown, message(minutes)) == stood_on(entries, message(minutes))
