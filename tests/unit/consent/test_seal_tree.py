"""The tree under a seal is that of RFC 6962, and a seal says all it is on."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from consent.proof.seals import Seal, Tree, faults, over
from tests.unit.consent.evidences import NOW, at

ENTRIES = [(ordinal, f"{ordinal:064x}") for ordinal in (3, 4, 7, 8, 9, 12, 13)]


def tree(entries: list[tuple[int, str]]) -> Tree:
    made = Tree()
    for entry in entries:
        made.add(*entry)
    return made


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@pytest.mark.parametrize("leaves", range(40))
def test_the_root_is_what_the_definition_says(leaves: int) -> None:
    entries = [(n, hashlib.sha256(str(n).encode()).hexdigest()) for n in range(1, leaves + 1)]
    assert tree(entries).root == by_definition([f"{n}:{digest}".encode() for n, digest in entries]).hex()


@pytest.mark.parametrize(
    "entries",
    [
        ENTRIES[:-1],
        [(2, ENTRIES[0][1]), *ENTRIES[1:]],  # moved into a gap, the order kept
        [(ENTRIES[0][0], ENTRIES[1][1]), (ENTRIES[1][0], ENTRIES[0][1]), *ENTRIES[2:]],
        [*ENTRIES[:2], (5, ENTRIES[2][1]), *ENTRIES[3:]],
        [*ENTRIES[:2], (5, "f" * 64), *ENTRIES[2:]],
    ],
)
def test_other_entries_than_those_it_was_put_on_are_not_its_own(entries: list[tuple[int, str]]) -> None:
    seal = over(ENTRIES, None, NOW)
    assert list(faults(seal, None, tree(ENTRIES))) == []
    assert list(faults(seal, None, tree(entries))) != []


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3},
        {"previous": "f" * 64},
        {"entries": 6},
        {"first": 4},
        {"last": 14},
        {"root": "f" * 64},
        {"sealed_at": at(1)},
        {"hash": "f" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_seal_says_when_anything_of_it_is_not_what_it_was(change: dict[str, Any]) -> None:
    """Its hash covers the rest, so that the next seal, and a pin, cover all of it."""
    before = over([(1, "a" * 64)], None, NOW)
    seal = over(ENTRIES, before, NOW)
    assert list(faults(seal, before, tree(ENTRIES))) == []
    assert "the seal was changed: its hash does not match" in list(
        faults(replace(seal, **change), before, tree(ENTRIES))
    )


def test_seals_follow_one_another() -> None:
    seals: list[Seal] = []
    for entry in ENTRIES[:3]:
        seals.append(over([entry], seals[-1] if seals else None, NOW))
    assert list(faults(seals[2], seals[1], tree(ENTRIES[2:3]))) == []
    assert list(faults(seals[2], seals[0], tree(ENTRIES[2:3]))) == [
        "seal 2 is missing before it",
        "the seal does not follow the seal before",
    ]
