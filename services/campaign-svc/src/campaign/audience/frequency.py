"""Limit messages per person: the sender's frequency cap, and a campaign's minimum gap. Pure.

Messages of the sender's other campaigns count if they left or still may: in-flight messages would else break the cap. A
campaign counts until `days` after its end: rather too long than too short.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

CAPPED = "frequency_cap"  # reasons for excluding a contact
RESTING = "rest_days"

COUNTED = ("pending", "deferred", "accepted", "unknown")  # denied and rejected messages never arrive
MOST_DAYS = 366


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `messages` within `days`."""

    reason: str
    messages: int
    days: int


@dataclass(frozen=True, slots=True)
class Campaign:
    """Another started campaign of the sender. `ended_at` `None`: messages may still leave."""

    campaign_id: str
    ended_at: datetime | None


def limits(cap: tuple[int, int] | None, rest_days: int | None) -> tuple[Limit, ...]:
    """Return the limits: `cap` is the sender's (messages, days)."""
    found = []
    if cap is not None:
        found.append(Limit(CAPPED, *cap))
    if rest_days is not None:
        found.append(Limit(RESTING, 1, rest_days))
    return tuple(found)


def counting(others: Iterable[Campaign], limit: Limit, now: datetime) -> list[str]:
    """Return the campaigns whose messages count."""
    since = now - timedelta(days=limit.days)
    return [each.campaign_id for each in others if each.ended_at is None or each.ended_at > since]
