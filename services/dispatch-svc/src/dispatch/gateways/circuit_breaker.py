"""The circuit breaker of a gateway, and its detection of slow gateways.

Pure: `now` (monotonic seconds) and the jitter are arguments. States:

    `"closed"`      every message goes through
    `"half_open"`   a single probe of each lane goes through
    `"open"`        every message is refused

An unreachable or misconfigured gateway trips the breaker at once, unanswered requests once they exceed half of the
recent requests. The cool-down grows with each trip in a row; the first answer afterwards closes the breaker. Where a
DLR says that accepted messages fail until a person acts, an answer proves nothing, and each cool-down is the longest. A
pause asked for by the operator is also a cool-down: a probe goes first, so that messages do not return all at once.

A slow gateway is not refused: messages with another route of the same price avoid it for a minute.
"""

from dataclasses import dataclass, replace
from typing import Literal

Failure = Literal["unreachable", "unanswered", "misconfigured"]
BreakerState = Literal["closed", "half_open", "open"]

LONGEST_COOL_DOWN_S: dict[Failure, float] = {"unreachable": 30.0, "unanswered": 30.0, "misconfigured": 300.0}
LONGEST_PAUSE_S = 60.0  # without a length from the operator
FADE = 0.95  # decay with each request: about the last twenty matter
ENOUGH = 3.0  # failures, from which the error rate counts
TOO_MANY = 0.5  # error rate

BELIEVED_S = 600.0  # age of a hand-off whose DLR may trip: later, a person may have acted

LAST = 10  # answers, for the latency
ENOUGH_ANSWERS = 4  # for a known latency
SLOW_PART = 0.25  # of the submit timeout: below, no gateway is slow
SLOW_TIMES = 3.0  # times the fastest gateway of the same price
SLOW_FOR_S = 60.0  # also the age at which an average expires


@dataclass(frozen=True, slots=True)
class Health:
    answered: float = 0.0  # requests, decayed by `FADE`
    failed: float = 0.0
    latency_s: float = 0.0  # average over the last `timed` answers
    timed: int = 0
    answered_at: float = float("-inf")
    slow_until: float = float("-inf")
    trips: int = 0  # in a row
    open_until: float = float("-inf")
    because: Failure | None = None  # of the last trip; `None`: a pause

    @property
    def error_rate(self) -> float:
        return self.failed / (self.failed + self.answered) if self.failed else 0.0


def state(health: Health, now: float) -> BreakerState:
    if now < health.open_until:
        return "open"
    return "half_open" if health.trips else "closed"


def may_go(health: Health, now: float) -> bool:
    return state(health, now) != "open"


def needs_somebody(health: Health, now: float) -> bool:
    """Return whether the breaker is open and will trip again until a person has acted."""
    return state(health, now) == "open" and health.because == "misconfigured"


def is_slow(health: Health, now: float) -> bool:
    return now < health.slow_until


def latency(health: Health, now: float) -> float | None:
    """Return the average latency in seconds, or `None` with too few or too old answers."""
    known = health.timed >= ENOUGH_ANSWERS and now - health.answered_at <= SLOW_FOR_S
    return health.latency_s if known else None


def counted(health: Health, answered: float, failed: float) -> Health:
    """Count requests of one submit."""
    asked = answered + failed
    kept = FADE**asked
    each = (1 - kept) / (1 - FADE) / asked
    return replace(
        health, answered=health.answered * kept + answered * each, failed=health.failed * kept + failed * each
    )


def answered(health: Health, now: float, latency_s: float) -> Health:
    """Record an answer, already `counted`."""
    anew = now - health.answered_at > SLOW_FOR_S or health.answered_at < health.slow_until <= now
    timed = 1 if anew else min(health.timed + 1, LAST)
    trips = health.trips if now < health.open_until else 0  # submitted before the trip
    return replace(
        health,
        latency_s=latency_s if anew else health.latency_s + (latency_s - health.latency_s) / timed,
        timed=timed,
        answered_at=now,
        trips=trips,
    )


def compared(health: Health, now: float, fastest_s: float | None, timeout_s: float) -> Health:
    """Mark the gateway slow beside `fastest_s`, the lowest latency among the others of its price."""
    took_s = latency(health, now)
    if took_s is None or fastest_s is None or is_slow(health, now):
        return health
    slow = took_s > max(timeout_s * SLOW_PART, fastest_s * SLOW_TIMES)
    return replace(health, slow_until=now + SLOW_FOR_S) if slow else health


def failed(health: Health, failure: Failure, now: float, jitter: float) -> Health:
    """Record a failure, already `counted`, and perhaps trip the breaker.

    `jitter`, in (0, 1], shortens the cool-down: replicas do not return at the same moment.
    """
    if failure == "unanswered" and not _failing(health):
        return health
    if now < health.open_until:  # submits that fail together trip once
        return health
    cool_down_s = min(2.0**health.trips, LONGEST_COOL_DOWN_S[failure]) * jitter
    return replace(health, trips=min(health.trips + 1, 12), open_until=now + cool_down_s, because=failure)


def misconfigured_after_all(health: Health, asked_at: float, now: float, jitter: float) -> Health:
    """Trip the breaker because of a DLR for a message accepted at `asked_at`.

    The DLR proves nothing when older than `BELIEVED_S`, or begun before the end of a cool-down with the same cause.
    """
    known = health.because == "misconfigured" and asked_at < health.open_until
    if known or now - asked_at > BELIEVED_S:
        return health
    until = max(health.open_until, now + LONGEST_COOL_DOWN_S["misconfigured"] * jitter)
    return replace(health, trips=min(health.trips + 1, 12), open_until=until, because="misconfigured")


def pause(health: Health, now: float, after_s: float, jitter: float, *, told: bool) -> Health:
    """Open the breaker because the operator asks for a pause.

    `told`: for `after_s`. Otherwise each further pause in a row is twice as long, up to `LONGEST_PAUSE_S`.
    """
    is_open = now < health.open_until
    if is_open and not told:
        return health
    after_s = after_s if told else min(after_s * 2.0**health.trips, LONGEST_PAUSE_S) * jitter
    if now + after_s <= health.open_until:
        return health
    trips = health.trips if is_open else min(health.trips + 1, 12)
    return replace(health, trips=trips, open_until=now + after_s, because=None)


def _failing(health: Health) -> bool:
    return health.trips > 0 or (health.failed >= ENOUGH and health.error_rate > TOO_MANY)
