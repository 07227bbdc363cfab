"""Compare a campaign with what the limits of its organisation leave, before its approval. Pure.

dispatch-svc counts, and refuses: messages beyond the day wait for the next, or are denied. campaign-svc knows only the
messages that its own campaigns have requested.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from common.limits import Limits, day_of
from common.texts.findings import Finding

REQUESTED_OF_DAY = "campaign_messages_of_day"  # name of the tally of an organisation


@dataclass(frozen=True, slots=True)
class Left:
    """The limits, and what is left of the day of the start, as far as campaign-svc knows.

    `spend`: of a month, in ten-thousandths of a euro.
    """

    messages_per_day: int | None
    messages_left: int | None
    spend: int | None


def left(limits: Limits, requested_today: int, starts_at: datetime, now: datetime) -> Left:
    """Return what a start at `starts_at` finds. `requested_today`: messages of the organisation's campaigns."""
    limit = limits.messages_per_day
    if limit is None:
        return Left(None, None, limits.spend)
    today = starts_at < day_of(now)[1]
    return Left(limit, max(0, limit - requested_today) if today else limit, limits.spend)


def of_limits(people: int, cost: int | None, unpriced: int, found: Left) -> Iterator[Finding]:
    """Yield the findings against messages to `people`, of whom `unpriced` are in places without a price."""
    if found.messages_left is not None and people > found.messages_left:
        yield Finding("over_daily_limit", people=people - found.messages_left)
    if found.spend is not None and cost is not None and cost > found.spend:
        yield Finding("over_monthly_spend")
    if found.spend is not None and unpriced:
        yield Finding("price_unknown", people=unpriced)
