"""Compare the shares of two groups who converted, with a confidence interval. Pure.

Sources: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212;
R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven methods",
Statistics in Medicine 17 (1998), 873-890, method 10. The interval stays within -1 to 1 and holds for small groups and
for shares of zero, where the usual interval of two standard errors fails.
"""

from math import sqrt
from typing import NamedTuple

CONFIDENCE = 0.95
Z = 1.959963984540054  # two-sided, of CONFIDENCE


class Share(NamedTuple):
    """`converted` of `people`."""

    converted: int
    people: int

    @property
    def rate(self) -> float:
        return self.converted / self.people


class Lift(NamedTuple):
    """The difference of two shares. `relative`: to the second share; `None` where the second share is zero."""

    difference: float
    low: float
    high: float
    relative: float | None


def wilson(share: Share) -> tuple[float, float]:
    """Return Wilson's score interval of a share of at least one person."""
    n, rate = share.people, share.rate
    middle = 2 * share.converted + Z * Z
    spread = Z * sqrt(Z * Z + 4 * share.converted * (1 - rate))
    low, high = (middle - spread) / (2 * (n + Z * Z)), (middle + spread) / (2 * (n + Z * Z))
    return min(max(low, 0.0), rate), max(min(high, 1.0), rate)  # rounding


def lift(messaged: Share, held_out: Share) -> Lift | None:
    """Return how much larger the first share is. `None` while a group is empty."""
    if not messaged.people or not held_out.people:
        return None
    (low, high), (least, most) = wilson(messaged), wilson(held_out)
    difference = messaged.rate - held_out.rate
    return Lift(
        difference=difference,
        low=difference - sqrt((messaged.rate - low) ** 2 + (most - held_out.rate) ** 2),
        high=difference + sqrt((high - messaged.rate) ** 2 + (held_out.rate - least) ** 2),
        relative=difference / held_out.rate if held_out.converted else None,
    )
