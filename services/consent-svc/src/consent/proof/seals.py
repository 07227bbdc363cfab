"""The chain over the whole ledger: seals, each over the entries recorded since the one before. Pure.

A subject's chain shows a change only to whoever remembers its head: who can write to the database can write one
person's chain anew, from the first entry to the head. A seal covers every entry of everybody up to a place in the
ledger, and follows the seal before it by its hash. So one hash, kept elsewhere, pins the whole past (ADR-0025).

    leaf = sha256(0x00 + "<ordinal>:<hash of the entry>")     node = sha256(0x01 + left + right)     (RFC 6962, 2.1)
    hash = sha256(hash of the seal before + canonical JSON of the rest of the seal)
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from consent.ledger.chain import GENESIS, canonical, instant

LEAF, NODE = b"\x00", b"\x01"  # so that a node never passes for a leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Number `number`, from 1 on, covers the `entries` entries whose ordinals lie after the last of the seal before and
    up to `last`. `first`, `last`: the ordinals of two that are there (ordinals have gaps: of transactions that did not
    commit)."""

    number: int
    previous: str  # hash of the seal before
    entries: int
    first: int
    last: int
    root: str
    sealed_at: datetime
    hash: str

    @property
    def pin(self) -> str:
        """All that has to be remembered."""
        return f"{self.number}:{self.hash}"


class Tree:
    """The Merkle tree over leaves as they come; memory grows with the logarithm of their number."""

    def __init__(self) -> None:
        self._peaks: list[tuple[int, bytes]] = []  # (leaves below, hash), each at most half of the one before
        self.first = self.last = self.leaves = 0

    def add(self, ordinal: int, entry_hash: str) -> None:
        size, digest = 1, hashlib.sha256(LEAF + f"{ordinal}:{entry_hash}".encode()).digest()
        while self._peaks and self._peaks[-1][0] == size:
            digest = _node(self._peaks.pop()[1], digest)
            size *= 2
        self._peaks.append((size, digest))
        self.first = self.first or ordinal
        self.last = ordinal
        self.leaves += 1

    @property
    def root(self) -> str:
        """In hex; that of no leaf is the digest of nothing."""
        if not self._peaks:
            return hashlib.sha256().hexdigest()
        digest = self._peaks[-1][1]
        for _, left in reversed(self._peaks[:-1]):
            digest = _node(left, digest)
        return digest.hex()


def over(entries: Iterable[tuple[int, str]], previous: Seal | None, now: datetime) -> Seal:
    """The seal that follows `previous`. `entries`: (ordinal, hash) by ordinal, one at least, all after the last of the
    seal before."""
    tree = Tree()
    for ordinal, entry_hash in entries:
        tree.add(ordinal, entry_hash)
    seal = Seal(
        number=previous.number + 1 if previous else 1,
        previous=previous.hash if previous else GENESIS,
        entries=tree.leaves,
        first=tree.first,
        last=tree.last,
        root=tree.root,
        sealed_at=now,
        hash="",
    )
    return replace(seal, hash=_hash(seal))


def record(seal: Seal) -> bytes:
    """What is signed: the seal in canonical JSON."""
    return canonical({name: getattr(seal, name) for name in Seal.__slots__})


def faults(seal: Seal, previous: Seal | None, found: Tree) -> Iterator[str]:
    """What does not hold of `seal`, once `found` has all the entries that lie where it says."""
    number, follows = (previous.number + 1, previous.hash) if previous else (1, GENESIS)
    if seal.number != number:
        yield f"seal {number} is missing before it"
    if seal.previous != follows:
        yield "it does not follow the seal before it"
    if seal.hash != _hash(seal):
        yield "it was changed: its hash is of something else"
    if seal.entries != found.leaves:
        yield f"it was put on {seal.entries} entries, and {found.leaves} are there"
    elif (seal.first, seal.last) != (found.first, found.last):
        yield f"it was put on entries {seal.first} to {seal.last}, and {found.first} to {found.last} are there"
    elif seal.root != found.root:
        yield "an entry that it was put on is not the one that is there"


def _hash(seal: Seal) -> str:
    """Of all but itself."""
    line = {
        "entries": seal.entries,
        "first": seal.first,
        "last": seal.last,
        "number": seal.number,
        "root": seal.root,
        "sealed_at": instant(seal.sealed_at),
    }
    return hashlib.sha256(seal.previous.encode() + canonical(line)).hexdigest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE + left + right).digest()
