"""Plan the faults: every possible fault once, in a random order, then all again. Pure.

The same seed and the same possible faults give the same schedule.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

SESSION_S = 10.0  # a consumer silent for longer loses its partitions

# seconds, at least and at most; faults without an entry take their own time
LASTS_S = {
    "kill": (0.0, 4.0),
    "freeze": (SESSION_S + 2, SESSION_S + 5),
    "cut": (2.0, 8.0),
    "silence": (3.0, 12.0),
    "slow": (5.0, 10.0),
    "answers lost": (10.0, 14.0),  # longer than a submit waits
    "garbage": (2.0, 4.0),
    "drips": (9.0, 12.0),
    "disk full": (3.0, 8.0),
    "clock ahead": (3.0, 8.0),
    "clock behind": (3.0, 8.0),
    "failover": (2.0, 6.0),  # age of the copy
    "two relays": (1.0, 5.0),  # after the cut
    "topic anew": (4.0, 8.0),  # until the repair
    "log cut": (4.0, 8.0),
    "log cut unseen": (4.0, 8.0),
    "unclean election": (4.0, 8.0),
    "aborted": (1.0, 4.0),  # open
}
PAUSE_S = (1.0, 4.0)  # between a recovery and the next fault


@dataclass(frozen=True, slots=True)
class Possible:
    """`kind` to `target`: ("kill", "dispatch-worker"), ("cut", "consent to the broker")."""

    kind: str
    target: str


@dataclass(frozen=True, slots=True)
class Planned:
    """`after_s`: pause in a healthy state before the fault. `chance`: seeds the fault's own draws."""

    number: int
    kind: str
    target: str
    after_s: float
    lasts_s: float
    chance: int

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.kind in LASTS_S else ""
        return f"{self.number:>3}. after {self.after_s:.1f} s: {self.kind}, {self.target}{lasts}"


def schedule(seed: int, possible: Sequence[Possible], many: int) -> list[Planned]:
    """Return the first `many` faults of the endless schedule."""
    chance = random.Random(seed)
    planned: list[Planned] = []
    while len(planned) < many:
        turn = list(possible)
        chance.shuffle(turn)
        for one in turn:
            planned.append(
                Planned(
                    number=len(planned) + 1,
                    kind=one.kind,
                    target=one.target,
                    after_s=round(chance.uniform(*PAUSE_S), 1),
                    lasts_s=round(chance.uniform(*LASTS_S.get(one.kind, (0.0, 0.0))), 1),
                    chance=chance.getrandbits(32),
                )
            )
    return planned[:many]
