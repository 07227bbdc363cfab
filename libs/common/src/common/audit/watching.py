"""Notice accounts with very many look-ups of people, or very many refusals. Pure: `now` is an argument.

Each process has its own counts. A count begins anew after `WITHIN`, so that a steady caller of a call centre stays
below, and a scan of a list of numbers does not.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

WITHIN = timedelta(minutes=10)
MOST_PEOPLE = 1000  # of an account
MOST_REFUSALS = 50
MOST_ACCOUNTS = 10_000  # watched at once; the watch forgets the oldest count

Alarm = Literal["scan", "refusals"]


@dataclass(slots=True)
class _Account:
    since: datetime
    people: set[str] = field(default_factory=set)
    refusals: int = 0
    raised: set[Alarm] = field(default_factory=set)


@dataclass(slots=True)
class Watch:
    """The accounts of a process."""

    _accounts: dict[str, _Account] = field(default_factory=dict)

    def read(self, account: str, person: str, now: datetime) -> Alarm | None:
        """Count a person looked up by an account; return the alarm, once."""
        seen = self._of(account, now)
        if len(seen.people) < MOST_PEOPLE:
            seen.people.add(person)
        return self._raised(seen, "scan", len(seen.people) >= MOST_PEOPLE)

    def refused(self, account: str, now: datetime) -> Alarm | None:
        """Count a refusal of an account; return the alarm, once."""
        seen = self._of(account, now)
        seen.refusals += 1
        return self._raised(seen, "refusals", seen.refusals >= MOST_REFUSALS)

    def _of(self, account: str, now: datetime) -> _Account:
        seen = self._accounts.get(account)
        if seen is None or now - seen.since >= WITHIN:
            self._accounts.pop(account, None)
            if len(self._accounts) >= MOST_ACCOUNTS:
                del self._accounts[next(iter(self._accounts))]
            seen = self._accounts[account] = _Account(now)
        return seen

    def _raised(self, seen: _Account, alarm: Alarm, over: bool) -> Alarm | None:
        if not over or alarm in seen.raised:
            return None
        seen.raised.add(alarm)
        return alarm
