"""A token bucket of one second, and places in a queue for the remaining messages. Pure: `now` in monotonic seconds."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """`tokens` at the instant `at`. `next_place`: the return time of the last message queued."""

    tokens: float
    at: float
    next_place: float = float("-inf")


def full(per_s: float, now: float) -> Bucket:
    return Bucket(_most(per_s), now)


def take(bucket: Bucket, per_s: float, wanted: int, now: float) -> tuple[Bucket, int]:
    """Return the bucket and how many of `wanted` may go at `now`."""
    tokens = min(_most(per_s), bucket.tokens + max(0.0, now - bucket.at) * per_s)
    may = min(wanted, int(tokens + 1e-9))
    return replace(bucket, tokens=tokens - may, at=max(bucket.at, now)), may


def place(bucket: Bucket, per_s: float, now: float) -> tuple[Bucket, float]:
    """Queue one message: return the bucket and the return time, at the rate."""
    at = max(bucket.next_place, now) + 1 / per_s
    return replace(bucket, next_place=at), at


def _most(per_s: float) -> float:
    return max(1.0, per_s)
