"""Is a gateway worth trying? Pure: `now` (monotonic seconds) and the jitter are arguments.

A circuit breaker of one record: what fails before it began closes the gateway at once, what is never answered closes it
when it is more than half of what was asked lately. A request is asked, be it of one message or of a hundred; each of
those counts for its part. It rests for longer each time, and the first answer after a rest tells: success forgets,
failure rests again. Until then one message of each lane tries it. Where a receipt says that what was taken came to
nothing until somebody acts, an answer proves nothing: it rests for as long as it may, each time.

A pause that the operator asks for is a rest as well: as long as it says, to the second; where it does not say, longer
each time. What waited for its end does not come back as one: one message tries it here too.

And is it slow? Then it is not closed: who has another way of the same price takes that, for a minute. Slow is, on the
average of its last ten answers, longer than a quarter of what a submit may take, and three times as long as the fastest
of that price. So the fastest never is; after the minute what was known is forgotten, and it is measured anew.
"""

from dataclasses import dataclass, replace
from typing import Literal

Failure = Literal["unreachable", "unanswered", "misconfigured"]
Standing = Literal["open", "to be tried", "resting"]

LONGEST_REST_S: dict[Failure, float] = {"unreachable": 30.0, "unanswered": 30.0, "misconfigured": 300.0}
LONGEST_PAUSE_S = 60.0  # of those whose length the operator leaves to us
FADE = 0.95  # of what was counted, with each request: the last twenty matter
ENOUGH = 3.0  # failures without which no error rate is believed
TOO_MANY = 0.5  # of what was asked lately

BELIEVED_S = 600.0  # after a message began, what its receipt says of the gateway: later, somebody may have acted

LAST = 10  # answers whose average is the latency
ENOUGH_ANSWERS = 4  # without which no latency is believed
SLOW_PART = 0.25  # of what a submit may take; below it nobody is slow
SLOW_TIMES = 3.0  # as long as the fastest of its price
SLOW_FOR_S = 60.0  # and as long is an average of any use


@dataclass(frozen=True, slots=True)
class Health:
    answered: float = 0.0  # faded counts of requests
    failed: float = 0.0
    latency_s: float = 0.0  # moving average of the last answers, of which there are
    timed: int = 0
    answered_at: float = float("-inf")
    slow_until: float = float("-inf")
    rests: int = 0  # in a row
    rests_until: float = float("-inf")
    because: Failure | None = None  # of the last rest; None: the operator asked for it

    @property
    def error_rate(self) -> float:
        return self.failed / (self.failed + self.answered) if self.failed else 0.0


def standing(health: Health, now: float) -> Standing:
    if now < health.rests_until:
        return "resting"
    return "to be tried" if health.rests else "open"


def may_go(health: Health, now: float) -> bool:
    return standing(health, now) != "resting"


def needs_somebody(health: Health, now: float) -> bool:
    """It rests, and until a person has acted that ends in another rest."""
    return standing(health, now) == "resting" and health.because == "misconfigured"


def is_slow(health: Health, now: float) -> bool:
    return now < health.slow_until


def latency(health: Health, now: float) -> float | None:
    """In seconds; None where too little is known of late."""
    known = health.timed >= ENOUGH_ANSWERS and now - health.answered_at <= SLOW_FOR_S
    return health.latency_s if known else None


def counted(health: Health, answered: float, failed: float) -> Health:
    """Of requests that went together, so many got an answer and so many none: which came first tells nothing."""
    asked = answered + failed
    kept = FADE**asked
    each = (1 - kept) / (1 - FADE) / asked
    return replace(
        health, answered=health.answered * kept + answered * each, failed=health.failed * kept + failed * each
    )


def answered(health: Health, now: float, latency_s: float) -> Health:
    """What was asked got an answer, which is `counted` already."""
    anew = now - health.answered_at > SLOW_FOR_S or health.answered_at < health.slow_until <= now
    timed = 1 if anew else min(health.timed + 1, LAST)
    rests = health.rests if now < health.rests_until else 0  # asked before the rest: tells nothing of now
    return replace(
        health,
        latency_s=latency_s if anew else health.latency_s + (latency_s - health.latency_s) / timed,
        timed=timed,
        answered_at=now,
        rests=rests,
    )


def compared(health: Health, now: float, fastest_s: float | None, timeout_s: float) -> Health:
    """`fastest_s`: of the others of its price; None where nothing is known of any. `timeout_s`: of a submit."""
    took_s = latency(health, now)
    if took_s is None or fastest_s is None or is_slow(health, now):
        return health
    slow = took_s > max(timeout_s * SLOW_PART, fastest_s * SLOW_TIMES)
    return replace(health, slow_until=now + SLOW_FOR_S) if slow else health


def failed(health: Health, failure: Failure, now: float, jitter: float) -> Health:
    """What is `counted` already. `jitter` in (0, 1]: the share of the full rest that is taken, so that replicas do not
    come back as one."""
    if failure == "unanswered" and not _failing(health):
        return health
    if now < health.rests_until:  # several in flight that fail for one reason are one rest
        return health
    rest_s = min(2.0**health.rests, LONGEST_REST_S[failure]) * jitter
    return replace(health, rests=min(health.rests + 1, 12), rests_until=now + rest_s, because=failure)


def misconfigured_after_all(health: Health, asked_at: float, now: float, jitter: float) -> Health:
    """By a receipt of what was asked, and taken, at `asked_at`. Before the end of a rest for that, it tells nothing."""
    known = health.because == "misconfigured" and asked_at < health.rests_until
    if known or now - asked_at > BELIEVED_S:
        return health
    until = max(health.rests_until, now + LONGEST_REST_S["misconfigured"] * jitter)
    return replace(health, rests=min(health.rests + 1, 12), rests_until=until, because="misconfigured")


def pause(health: Health, now: float, after_s: float, jitter: float, *, told: bool) -> Health:
    """The operator asks to wait: for `after_s` where it has `told` for how long, else for longer each time, beginning
    with that. `jitter` as of a failure; what was told is kept as it is."""
    resting = now < health.rests_until
    if resting and not told:  # as of a failure, several in flight are one pause
        return health
    after_s = after_s if told else min(after_s * 2.0**health.rests, LONGEST_PAUSE_S) * jitter
    if now + after_s <= health.rests_until:
        return health
    rests = health.rests if resting else min(health.rests + 1, 12)
    return replace(health, rests=rests, rests_until=now + after_s, because=None)


def _failing(health: Health) -> bool:
    return health.rests > 0 or (health.failed >= ENOUGH and health.error_rate > TOO_MANY)
