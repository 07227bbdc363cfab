"""The chain of seals over the whole ledger, each over the entries recorded since the seal before. Pure.

Each seal contains the hash of the seal before, so a single hash, kept elsewhere, pins the whole past (ADR-0025).

    leaf = sha256(0x00 + "<ordinal>:<hash of the entry>")     node = sha256(0x01 + left + right)     (RFC 6962, 2.1)
    hash = sha256(hash of the seal before + canonical JSON of the rest of the seal)
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from consent.ledger.chain import GENESIS, canonical, instant

LEAF, NODE = b"\x00", b"\x01"  # a node never passes for a leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A seal over `entries` entries, with ordinals from `first` to `last`. `number` counts from 1.

    A transaction which did not commit leaves a gap.
    """

    number: int
    previous: str
    entries: int
    first: int
    last: int
    root: str
    sealed_at: datetime
    hash: str

    @property
    def pin(self) -> str:
        """Return the value to keep elsewhere."""
        return f"{self.number}:{self.hash}"


class Tree:
    """A Merkle tree over a stream of leaves, in logarithmic memory."""

    def __init__(self) -> None:
        self._peaks: list[tuple[int, bytes]] = []  # (leaves below, hash), each at most half of the peak before
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
        """Return the root in hex; without leaves, the digest of the empty string."""
        if not self._peaks:
            return hashlib.sha256().hexdigest()
        digest = self._peaks[-1][1]
        for _, left in reversed(self._peaks[:-1]):
            digest = _node(left, digest)
        return digest.hex()


def over(entries: Iterable[tuple[int, str]], previous: Seal | None, now: datetime) -> Seal:
    """Return the seal after `previous`. `entries`: (ordinal, hash), at least one, by ordinal, after `previous.last`."""
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
    """Return the payload to sign, in canonical JSON."""
    return canonical({name: getattr(seal, name) for name in Seal.__slots__})


def faults(seal: Seal, previous: Seal | None, found: Tree) -> Iterator[str]:
    """Yield the faults of `seal`. `found`: the tree over all entries in its range."""
    number, follows = (previous.number + 1, previous.hash) if previous else (1, GENESIS)
    if seal.number != number:
        yield f"seal {number} is missing before it"
    if seal.previous != follows:
        yield "the seal does not follow the seal before"
    if seal.hash != _hash(seal):
        yield "the seal was changed: its hash does not match"
    if seal.entries != found.leaves:
        yield f"the seal covers {seal.entries} entries, and the ledger has {found.leaves}"
    elif (seal.first, seal.last) != (found.first, found.last):
        yield f"the seal covers entries {seal.first} to {seal.last}, and the ledger has {found.first} to {found.last}"
    elif seal.root != found.root:
        yield "a sealed entry was replaced"


def _hash(seal: Seal) -> str:
    """Return the hash over every other field."""
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
