"""Decide whether and when a call is sent again. Pure: the dice are an argument."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from placet_client.problem import retry_after_s

NOTHING_KEPT = frozenset([429])  # any call may be repeated
IN_DOUBT = frozenset([500, 502, 503, 504])  # the service may have kept the call


@dataclass(frozen=True, slots=True)
class Retrying:
    """How patient a client is: `times` retries, with waits that double from `base_s` up to `most_s`.

    A wait that a service asks for by `Retry-After` counts in full; a longer one than `longest_s` is not waited for.
    """

    times: int = 4
    base_s: float = 0.5
    most_s: float = 8.0
    longest_s: float = 60.0

    def after_status(
        self, attempt: int, status: int, headers: Mapping[str, str], repeatable: bool, now: datetime, dice: float
    ) -> float | None:
        """Return the seconds to wait before the next attempt, or None: the refusal stands.

        `attempt`: from 0. `dice`: from 0 to 1. A 409 with `Retry-After` is a call with the same key in progress.
        """
        asked_s = retry_after_s(headers, now)
        again = status in NOTHING_KEPT or (status in IN_DOUBT and repeatable) or (status == 409 and asked_s is not None)
        if attempt >= self.times or not again:
            return None
        if asked_s is None:
            return self._back_off(attempt, dice)
        return asked_s if asked_s <= self.longest_s else None

    def after_break(self, attempt: int, repeatable: bool, sent: bool, dice: float) -> float | None:
        """Return the seconds to wait after no answer. `sent`: the call may have arrived."""
        if attempt >= self.times or (sent and not repeatable):
            return None
        return self._back_off(attempt, dice)

    def _back_off(self, attempt: int, dice: float) -> float:
        return dice * min(self.most_s, self.base_s * 2.0**attempt)
