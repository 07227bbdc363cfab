"""What goes wrong, in which order, for how long: everything that can go wrong here once, in an order of the seed's,
then all of it again. The same seed on the same ground is the same schedule. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

SESSION_S = 10.0  # of a consumer: who is silent for longer has lost its partitions

# seconds that each lasts, at least and at most; what is not here lasts as long as it takes
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
    "failover": (2.0, 6.0),  # how old the copy is
    "two relays": (1.0, 5.0),  # after the cut is over
    "topic anew": (4.0, 8.0),  # nobody has repaired it
    "log cut": (4.0, 8.0),
    "log cut unseen": (4.0, 8.0),
    "unclean election": (4.0, 8.0),
    "aborted": (1.0, 4.0),  # open
}
PAUSE_S = (1.0, 4.0)  # between a recovery and what comes next


@dataclass(frozen=True, slots=True)
class Possible:
    """`kind` to `target`: ("kill", "dispatch-worker"), ("cut", "consent to the broker")."""

    kind: str
    target: str


@dataclass(frozen=True, slots=True)
class Planned:
    """`after_s`: how long everything has been well before it begins. `chance`: seeds whatever it draws itself."""

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
    """The first `many` of the endless schedule."""
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
