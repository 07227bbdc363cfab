"""How many may go now: a bucket of one second, and places in a queue for the rest. Pure: `now` in monotonic seconds.

The share of a limit that is one process's is limit x partitions held / partitions: no coordinator (docs/providers.md).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """`tokens` at the instant `at`; `next_place`: when the next message that has to wait may come back."""

    tokens: float
    at: float
    next_place: float = float("-inf")


def full(per_s: float, now: float) -> Bucket:
    return Bucket(_most(per_s), now)


def take(bucket: Bucket, per_s: float, wanted: int, now: float) -> tuple[Bucket, int]:
    """How many of `wanted` may go at `now`, and the bucket without them."""
    tokens = min(_most(per_s), bucket.tokens + max(0.0, now - bucket.at) * per_s)
    may = min(wanted, int(tokens + 1e-9))
    return replace(bucket, tokens=tokens - may, at=max(bucket.at, now)), may


def place(bucket: Bucket, per_s: float, now: float) -> tuple[Bucket, float]:
    """When the next message that has to wait may come back: one after the other, at the rate."""
    at = max(bucket.next_place, now) + 1 / per_s
    return replace(bucket, next_place=at), at


def _most(per_s: float) -> float:
    return max(1.0, per_s)
