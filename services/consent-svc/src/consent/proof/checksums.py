"""The projection checksum of subject states, as `common.contracts.consent.StatesSummed` defines the sum. Pure.

The checksum does not protect against an attacker; seals and bundles do.
"""

import hashlib
from collections.abc import Iterable

from common.contracts.consent import DIGEST_BYTES, SLICE, Consent, Suppression

Sums = dict[str, tuple[int, int]]


def digest(
    subject_id: str, version: int, consents: Iterable[Consent], suppressions: Iterable[Suppression], *, erased: bool
) -> int:
    lines = [f"|||{'erased' if erased else 'known'}"]
    shut = {s.sender_id for s in suppressions}
    lines += [f"|{sender_id or ''}||suppressed" for sender_id in shut]
    lines += [
        f"|{c.sender_id}|{c.purpose}|{c.state}"
        for c in consents
        if c.state != "opted_out" or not shut.intersection((None, c.sender_id))
    ]
    named = (f"{subject_id}|{version}{line}".encode() for line in lines)
    return sum(int.from_bytes(hashlib.sha256(line).digest()[:DIGEST_BYTES]) for line in named)


def add(sums: Sums, subject_id: str, value: int) -> None:
    many, total = sums.get(subject_id[-SLICE:], (0, 0))
    sums[subject_id[-SLICE:]] = many + 1, total + value
