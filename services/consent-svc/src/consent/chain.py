"""The ledger's own proof: every entry is chained by its hash to the one before it, per subject. Pure.

Whoever holds the entries can check them without us and without a key: nothing was changed, taken out, put in or moved.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from consent.ledger import Evidence

GENESIS = "0" * 64  # the hash before the first entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a subject's ledger. `position` counts from 1; `recorded_at` is when we learned it (bitemporal)."""

    subject_id: str
    position: int
    evidence: Evidence
    recorded_at: datetime
    hash: str


def chained(subject_id: str, position: int, evidence: Evidence, recorded_at: datetime, previous_hash: str) -> Entry:
    """The entry that follows `previous_hash`. hash = sha256(previous hash + canonical JSON of the entry)."""
    line = {field.name: getattr(evidence, field.name) for field in fields(evidence)}
    line |= {"subject_id": subject_id, "position": position, "recorded_at": recorded_at}
    return Entry(
        subject_id=subject_id,
        position=position,
        evidence=evidence,
        recorded_at=recorded_at,
        hash=hashlib.sha256(previous_hash.encode() + canonical(line)).hexdigest(),
    )


def verify(entries: Sequence[Entry]) -> int | None:
    """The position of the first entry that does not hold, None where the whole chain does.

    `entries`: all of one subject, in order. That none is missing at the *end* shows only against the head of the chain
    (`subject.head`).
    """
    previous = GENESIS
    for position, entry in enumerate(entries, start=1):
        expected = chained(entries[0].subject_id, position, entry.evidence, entry.recorded_at, previous)
        if entry != expected:
            return position
        previous = entry.hash
    return None


def evidence_id(*parts: str | None) -> str:
    """A derived id: the same parts give the same id for ever, so that repeats fall out."""
    return f"ev-{hashlib.sha256(canonical(parts)).hexdigest()[:32]}"


def canonical(value: object) -> bytes:
    """Canonical JSON (RFC 8785 for what we put in: strings, integers, null). Instants in UTC with microseconds."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_instant)
    return text.encode()


def _instant(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"no canonical form for {type(value).__name__}")
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
