"""The ledger's own proof: every entry is chained by its hash to the one before it, per subject. Pure.

Whoever holds the entries can check them without us and without a key: nothing was changed, taken out, put in or moved.
What may be personal, or was freely written, is in the hash only as a salted digest. An erasure takes these fields and
the salt: the chain still holds, and nobody can try out what was there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from consent.ledger.rules import Evidence

GENESIS = "0" * 64  # the hash before the first entry
SALT_BYTES = 16
PERSONAL = ("actor", "form_id", "form_version", "reference", "sale_reference", "text_shown")  # of Evidence: sealed


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of a subject's ledger. `position` counts from 1; `recorded_at` is when we learned it (bitemporal).

    `sealed`: the digest of the evidence's PERSONAL fields with `salt`: SALT_BYTES random ones in hex, None once erased.
    """

    subject_id: str
    position: int
    evidence: Evidence
    recorded_at: datetime
    salt: str | None
    sealed: str
    hash: str

    @property
    def erased(self) -> bool:
        return self.salt is None


def chained(
    subject_id: str, position: int, evidence: Evidence, recorded_at: datetime, previous_hash: str, salt: str
) -> Entry:
    """The entry that follows `previous_hash`."""
    sealed = seal(evidence, salt)
    return Entry(
        subject_id=subject_id,
        position=position,
        evidence=evidence,
        recorded_at=recorded_at,
        salt=salt,
        sealed=sealed,
        hash=link(subject_id, position, evidence, recorded_at, sealed, previous_hash),
    )


def erased(entry: Entry) -> Entry:
    """`entry` as it stands once erased: what it sealed is gone, and cannot be tried out."""
    nothing: dict[str, Any] = dict.fromkeys(PERSONAL)
    return replace(entry, evidence=replace(entry.evidence, **nothing), salt=None)


def seal(evidence: Evidence, salt: str) -> str:
    """sha256(salt + canonical JSON of the PERSONAL fields)."""
    return _sha256(salt, {name: getattr(evidence, name) for name in PERSONAL})


def link(
    subject_id: str, position: int, evidence: Evidence, recorded_at: datetime, sealed: str, previous_hash: str
) -> str:
    """sha256(previous hash + canonical JSON of the entry without its PERSONAL fields)."""
    line = {
        "answers": evidence.answers,
        "arrived_at": None if evidence.arrived_at is None else instant(evidence.arrived_at),
        "basis": evidence.basis,
        "clock": evidence.clock,
        "controller": evidence.controller,
        "evidence_id": evidence.evidence_id,
        "kind": evidence.kind,
        "occurred_at": instant(evidence.occurred_at),
        "position": position,
        "purpose": evidence.purpose,
        "received_at": instant(evidence.received_at),
        "recorded_at": instant(recorded_at),
        "sealed": sealed,
        "sender_id": evidence.sender_id,
        "source": evidence.source,
        "subject_id": subject_id,
    }
    return _sha256(previous_hash, line)


def verify(entries: Sequence[Entry]) -> int | None:
    """The position of the first entry that does not hold, None where the whole chain does. What was erased holds.

    `entries`: all of one subject, in order. That none is missing at the *end* shows only against the head of the chain
    (`subject.head`).
    """
    previous = GENESIS
    for position, entry in enumerate(entries, start=1):
        if not holds(entry, entries[0].subject_id, position, previous):
            return position
        previous = entry.hash
    return None


def holds(entry: Entry, subject_id: str, position: int, previous_hash: str) -> bool:
    """Whether `entry` is the one that follows `previous_hash`, and says what was sealed or nothing any more."""
    if (entry.subject_id, entry.position) != (subject_id, position):
        return False
    if entry.salt is None:
        intact = all(getattr(entry.evidence, name) is None for name in PERSONAL)
    else:
        intact = seal(entry.evidence, entry.salt) == entry.sealed
    return intact and entry.hash == link(
        subject_id, position, entry.evidence, entry.recorded_at, entry.sealed, previous_hash
    )


def evidence_id(*parts: str | None) -> str:
    """A derived id: the same parts give the same id for ever, so that repeats fall out."""
    return f"ev-{hashlib.sha256(_flat.encode(parts)).hexdigest()[:32]}"  # as `canonical` writes it


def canonical(value: object) -> bytes:
    """Canonical JSON (RFC 8785 for what we put in: strings, integers, null). Instants as `instant` writes them."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_instant)
    return text.encode()


@lru_cache(maxsize=256)  # all lines of an import were received and recorded at the same
def instant(value: datetime) -> str:
    """In UTC with microseconds: one form for each instant."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_flat = msgspec.json.Encoder()


def _sha256(before: str, line: Mapping[str, str | int | None]) -> str:
    """`line`: flat, its keys in order. Then msgspec writes what `canonical` does, five times as fast."""
    return hashlib.sha256(before.encode() + _flat.encode(line)).hexdigest()


def _instant(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"no canonical form for {type(value).__name__}")
    return instant(value)
