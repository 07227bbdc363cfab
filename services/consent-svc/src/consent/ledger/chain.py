"""The hash chain of the ledger: the hash of each entry covers the hash of the subject's previous entry. Pure.

Anyone with the entries can check the chain without a key. An erasure deletes the PERSONAL fields and the salt, and the
chain still holds (ADR-0018).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from common.audit.chain import GENESIS as GENESIS
from common.audit.chain import hashed
from common.audit.chain import instant as instant
from consent.ledger.rules import Evidence

SALT_BYTES = 16
# the hash covers only their salted digest
PERSONAL = ("actor", "form_id", "form_version", "reference", "sale_reference", "text_shown")


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entry of a subject's ledger. `position` counts from 1; `salt` is hex, `None` once erased."""

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


class Ended(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The stub of an erased entry past its term of proof: the hash stays, for the chain and for the seals."""

    evidence_id: str
    subject_id: str
    position: int
    recorded_at: datetime
    hash: str


def chained(
    subject_id: str,
    name: str,
    position: int,
    evidence: Evidence,
    recorded_at: datetime,
    previous_hash: str,
    salt: str,
) -> Entry:
    """Return the entry that follows `previous_hash`. `name`: what the chain is hashed under, as of `link`."""
    sealed = seal(evidence, salt)
    return Entry(
        subject_id=subject_id,
        position=position,
        evidence=evidence,
        recorded_at=recorded_at,
        salt=salt,
        sealed=sealed,
        hash=link(name, position, evidence, recorded_at, sealed, previous_hash),
    )


def erased(entry: Entry) -> Entry:
    """Return `entry` without its PERSONAL fields and without its salt."""
    return replace(entry, evidence=replace(entry.evidence, **dict.fromkeys(PERSONAL)), salt=None)


def as_a_fact(evidence: Evidence) -> Evidence:
    """Return the evidence without its id, words and source, for a caller that may know the fact alone."""
    words = (*PERSONAL, "evidence_id", "source", "answers", "controller", "clock", "arrived_at")
    return replace(evidence, **dict.fromkeys(words))


def seal(evidence: Evidence, salt: str) -> str:
    """Return sha256(salt + canonical JSON of the PERSONAL fields)."""
    return hashed(salt, {name: getattr(evidence, name) for name in PERSONAL})


def link(name: str, position: int, evidence: Evidence, recorded_at: datetime, sealed: str, previous_hash: str) -> str:
    """Return sha256(previous hash + canonical JSON of the entry without its PERSONAL fields), as of `line`."""
    return hashed(previous_hash, line(name, position, evidence, recorded_at, sealed))


def line(
    name: str, position: int, evidence: Evidence, recorded_at: datetime, sealed: str
) -> dict[str, str | int | None]:
    """Return the flat, sorted line that the hash of an entry covers.

    `name`: of the person. In the ledger the inner id, so that the chain outlives an outer key (ADR-0093); in what a
    controller gets, the edge id.
    """
    return {
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
        "reopening_rule": evidence.reopening_rule,
        "sealed": sealed,
        "sender_id": evidence.sender_id,
        "source": evidence.source,
        "subject_id": name,
    }


def verify(entries: Sequence[Entry], inner: Callable[[str], str]) -> int | None:
    """Return the position of the first broken entry, or `None`. Erased entries hold.

    `entries` are all of a subject's, in order; only `subject.head` shows whether the *last* entries are missing.
    """
    previous = GENESIS
    for position, entry in enumerate(entries, start=1):
        subject_id = entries[0].subject_id
        if not holds(entry, subject_id, inner(subject_id), position, previous):
            return position
        previous = entry.hash
    return None


def holds(entry: Entry, subject_id: str, name: str, position: int, previous_hash: str) -> bool:
    """Return whether `entry` follows `previous_hash` and matches `sealed`, or is erased."""
    if (entry.subject_id, entry.position) != (subject_id, position):
        return False
    if entry.salt is None:
        intact = all(getattr(entry.evidence, name) is None for name in PERSONAL)
    else:
        intact = seal(entry.evidence, entry.salt) == entry.sealed
    return intact and entry.hash == link(name, position, entry.evidence, entry.recorded_at, entry.sealed, previous_hash)


def evidence_id(*parts: str | None) -> str:
    """Return the id of `parts`, always the same, so that the recorder drops repeats."""
    return f"ev-{digest(*parts)[:32]}"


def evidence_ids(rows: Iterable[tuple[str | None, ...]]) -> list[str]:
    """Return `evidence_id` of the parts in each row."""
    encode = _flat.encode
    return [f"ev-{hashlib.sha256(encode(parts)).hexdigest()[:32]}" for parts in rows]


def digest(*parts: str | None) -> str:
    """Return sha256 of the canonical JSON of `parts`."""
    return hashlib.sha256(_flat.encode(parts)).hexdigest()  # the same bytes as `canonical`


def canonical(value: object) -> bytes:
    """Return canonical JSON (RFC 8785 for strings, integers and null)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_instant)
    return text.encode()


_flat = msgspec.json.Encoder()


def _instant(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"no canonical form for {type(value).__name__}")
    return instant(value)
