"""Check the whole database against itself, in one snapshot: does the record of the past still hold?

The audit checks each subject's chain, head and state, and the chain of seals (ADR-0025). A forgery consistent from end
to end shows only against a pin. The columns of `subject` outside the ledger (number, version, held_since) go unchecked.

Of an ended entry the stub is left (ADR-0092). The audit checks that the stub's hash is under an old seal, that
everything of the person was erased since, and that no open consent stands on the entry, or on an older one.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.sms.subject_id import Inner
from consent.ledger import chain
from consent.ledger import rules as ledger
from consent.ledger.chain import GENESIS, Ended, Entry
from consent.ledger.ended_store import YOUNGEST
from consent.ledger.rules import NEVER_SEEN, Evidence, SubjectState
from consent.proof import sealing, seals, store
from consent.proof.seals import Seal, Tree
from consent.proof.store import Head

# longer than any recording transaction, in flight while the seal before was made
BACKDATED = timedelta(hours=1)
DIFFERS = "the stored state differs from the fold of the entries"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault, and the place."""

    where: str
    why: str


@dataclass(slots=True)
class Audit:
    """An audit. The counts are complete once `findings` has ended.

    `inner`: what the chain of a subject is hashed under. `pins`: hashes of seals by number. `moved`: a tree over the
    places of entries that are another shard's.
    """

    tx: AsyncConnection
    inner: Inner
    pins: Mapping[int, str] = field(default_factory=dict)
    subjects: int = 0
    entries: int = 0
    erased: int = 0
    ended: int = 0
    unsealed: int = 0
    seals: int = 0
    newest: Seal | None = None
    moved: Tree = field(default_factory=Tree)

    async def findings(self) -> AsyncIterator[Finding]:
        async for found in self._subjects():
            yield found
        async for found in self._seals():
            yield found

    async def _subjects(self) -> AsyncIterator[Finding]:
        """Check each subject. Both streams come in the database's order, so the database compares."""
        entries = aiter(store.whole_ledger(self.tx))
        entry = await anext(entries, None)
        async for subject in store.heads(self.tx):
            self.subjects += 1
            while entry and entry.subject_id != subject.subject_id and await self._precedes(entry, subject):
                yield _nobodys(entry)
                entry = await anext(entries, None)
            check = _Check(subject, self.inner)
            while entry and entry.subject_id == subject.subject_id:
                if isinstance(entry, Ended):
                    self.ended += 1
                else:
                    self.erased += entry.erased
                if found := check.take(entry):
                    yield found
                entry = await anext(entries, None)
            for found in check.end():
                yield found
        while entry:
            yield _nobodys(entry)
            entry = await anext(entries, None)

    async def _precedes(self, entry: Entry | Ended, subject: Head) -> bool:
        if subject.entries == 0:
            return False  # an orphan entry shows at the next subject with entries
        return bool(
            await self.tx.scalar(
                text("SELECT CAST(:entry AS text) < CAST(:subject AS text)"),
                {"entry": entry.subject_id, "subject": subject.subject_id},
            )
        )

    async def _seals(self) -> AsyncIterator[Finding]:
        stored = aiter(sealing.all_seals(self.tx))
        long_ago: datetime = await self.tx.scalar(text("SELECT now()")) - YOUNGEST
        previous: Seal | None = None
        seal, tree = await anext(stored, None), Tree()
        async for ordinal, entry_hash, recorded_at, ended, moved in store.places(self.tx):
            self.entries += not moved
            if moved:
                self.moved.add(ordinal, entry_hash)
            while seal and ordinal > seal.last:
                for found in self._closed(seal, previous, tree):
                    yield found
                previous, seal, tree = seal, await anext(stored, None), Tree()
            if previous and recorded_at < previous.sealed_at - BACKDATED:
                yield Finding(f"entry {ordinal}", f"says that it was recorded long before seal {previous.number}")
            if ended and (seal is None or seal.sealed_at > long_ago):
                yield Finding(f"entry {ordinal}", "has ended before its term: its seal is too young, or missing")
            if seal:
                tree.add(ordinal, entry_hash)
            else:
                self.unsealed += 1
        while seal:
            for found in self._closed(seal, previous, tree):
                yield found
            previous, seal, tree = seal, await anext(stored, None), Tree()
        self.newest = previous
        for number in sorted(self.pins.keys()):
            if previous is None or number > previous.number:
                yield Finding(f"seal {number}", "it is pinned, and is not there")

    def _closed(self, seal: Seal, previous: Seal | None, tree: Tree) -> list[Finding]:
        self.seals += 1
        why = list(seals.faults(seal, previous, tree))
        if self.pins.get(seal.number, seal.hash) != seal.hash:
            why.append("it is not the one that is pinned")
        return [Finding(f"seal {seal.number}", each) for each in why]


class _Check:
    """The check of a subject."""

    def __init__(self, subject: Head, inner: Inner) -> None:
        self._subject = subject
        self._inner = inner
        self._entries = 0
        self._head = GENESIS
        self._state = NEVER_SEEN
        self._broken = False
        self._left: list[Entry] = []
        self._ended: list[Ended] = []

    def take(self, entry: Entry | Ended) -> Finding | None:
        """Check the next entry. Report only the first break: no later entry can hold."""
        self._entries += 1
        if isinstance(entry, Ended):
            why = self._fault_of_stub(entry)
            self._ended.append(entry)
        else:
            why = self._fault(entry)
            self._left.append(entry)
            self._state = ledger.apply(self._state, entry.evidence)
        self._head = entry.hash
        if why is None or self._broken:
            return None
        self._broken = True
        return Finding(_place(entry), why)

    def end(self) -> Iterator[Finding]:
        where = f"subject {self._subject.subject_id}"
        if self._subject.entries != self._entries:
            yield Finding(where, f"has {self._entries} entries, and should have {self._subject.entries}")
        if self._subject.head != self._head:
            yield Finding(where, "the last entry is not the head of the chain")
        if self._ended:
            yield from self._of_stubs(where)
        elif not _is(self._subject.state, self._state):
            yield Finding(where, DIFFERS)

    def _of_stubs(self, where: str) -> Iterator[Finding]:
        """Check a state of which some marks may be of ended entries: these open nothing."""
        stored = _read(self._subject.state)
        if stored is None:
            yield Finding(where, DIFFERS)
            return
        ended = {stub.evidence_id for stub in self._ended}
        state = SubjectState(tuple(mark for mark in stored.marks if mark.evidence_id in ended))
        for entry in self._left:
            state = ledger.apply(state, entry.evidence)
        if not _is(self._subject.state, state):
            yield Finding(where, DIFFERS)
        after = self._ended[-1].position
        newer = {entry.evidence.evidence_id for entry in self._left if entry.position > after}
        if any(each.state == "opted_in" and each.evidence_id not in newer for each in ledger.consents(stored)):
            yield Finding(where, "an open consent stands on an ended entry, or on an older one")

    def _fault_of_stub(self, stub: Ended) -> str | None:
        if stub.position != self._entries:
            return f"stands where entry {self._entries} should"
        asked_at = self._subject.asked_at(None)
        if asked_at is None or asked_at < stub.recorded_at:
            return "has ended without an erasure of everything on record"
        return None

    def _fault(self, entry: Entry) -> str | None:
        asked_at = self._subject.asked_at(entry.evidence.sender_id) if entry.erased else None
        if entry.position != self._entries:
            return f"stands where entry {self._entries} should"
        try:
            name = self._inner(self._subject.subject_id)
            holds = chain.holds(entry, self._subject.subject_id, name, self._entries, self._head)
        except (OverflowError, ValueError):
            holds = False  # an impossible instant, or an id of no key of the ring
        if not holds:
            return "was changed, or does not follow the entry before it"
        if entry.erased and not (asked_at and (_is_before(entry, asked_at) or self._opens_nothing(entry.evidence))):
            return "is erased without an erasure on record"
        return None

    def _opens_nothing(self, said: Evidence) -> bool:
        """Return whether `said` is an opt-in that leaves its purpose shut, stored bare for an erased person."""
        if said.kind != "opt_in":
            return False
        return ledger.standing(ledger.apply(self._state, said), said.sender_id, said.purpose) != "opted_in"


def _is_before(entry: Entry, asked_at: datetime) -> bool:
    return min(entry.recorded_at, entry.evidence.at) <= asked_at


_states = msgspec.json.Decoder(SubjectState)


def _read(stored: str) -> SubjectState | None:
    try:
        return _states.decode(stored)
    except msgspec.ValidationError:
        return None


def _is(stored: str, state: SubjectState) -> bool:
    """Return whether this JSON is exactly `state`, as consent-svc writes."""
    read = _read(stored)
    if read is None:
        return False
    if stored == "{}":
        return state == NEVER_SEEN
    return read == state and msgspec.json.decode(msgspec.json.encode(read)) == msgspec.json.decode(stored)


def _place(entry: Entry | Ended) -> str:
    return f"subject {entry.subject_id}, entry {entry.position}"


def _nobodys(entry: Entry | Ended) -> Finding:
    return Finding(_place(entry), "has no subject")
