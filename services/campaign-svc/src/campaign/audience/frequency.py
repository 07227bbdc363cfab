"""How often a sender writes to a person: its cap, and the days of rest that a campaign leaves. Pure.

Counted are messages of the sender's other campaigns that left, or still may: a promise to stay below a cap is kept only
if what is on its way counts. A campaign counts from its start until so many days after its end, since its last message
may have left with it; so one is counted a little too long rather than too short.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

CAPPED = "frequency_cap"  # reasons, as the audience's exclusions name them
RESTING = "rest_days"

COUNTED = ("pending", "deferred", "accepted", "unknown")  # statuses; who was denied or rejected got nothing
MOST_DAYS = 366


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `messages` within `days`; whoever had as many is left out, and counted under `reason`."""

    reason: str
    messages: int
    days: int


@dataclass(frozen=True, slots=True)
class Campaign:
    """Another campaign of the sender that has begun. `ended_at` None: messages of it may still leave."""

    campaign_id: str
    ended_at: datetime | None


def limits(cap: tuple[int, int] | None, rest_days: int | None) -> tuple[Limit, ...]:
    """`cap`: the sender's, messages and days. `rest_days`: the campaign's."""
    found = []
    if cap is not None:
        found.append(Limit(CAPPED, *cap))
    if rest_days is not None:
        found.append(Limit(RESTING, 1, rest_days))
    return tuple(found)


def counting(others: Iterable[Campaign], limit: Limit, now: datetime) -> list[str]:
    """The campaigns whose messages count for this limit."""
    since = now - timedelta(days=limit.days)
    return [each.campaign_id for each in others if each.ended_at is None or each.ended_at > since]
