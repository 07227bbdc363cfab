"""Hash lines into a chain: the hash of each line covers the hash of the line before. Pure.

Anyone with the lines can check a chain, without a key.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

GENESIS = "0" * 64  # before the first line

_flat = msgspec.json.Encoder()


def hashed(before: str, line: Mapping[str, str | int | None]) -> str:
    """Return sha256(`before` + canonical JSON of a flat, sorted `line`)."""
    return hashlib.sha256(before.encode() + _flat.encode(line)).hexdigest()


@lru_cache(maxsize=256)  # an import's lines share instants
def instant(value: datetime) -> str:
    """Return the single text form of an instant: UTC, microseconds."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
