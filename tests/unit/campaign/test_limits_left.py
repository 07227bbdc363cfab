"""The pre-flight says before the approval what the limits would hold back."""

from datetime import UTC, datetime, timedelta

from campaign.preflight.limits import left, of_limits
from common.limits import Limits

NOON = datetime(2026, 7, 1, 10, tzinfo=UTC)
LIMITS = Limits(messages_per_day=1000, spend_per_month="10")


def test_a_campaign_larger_than_what_is_left_of_its_day_is_told_by_how_much() -> None:
    today = left(LIMITS, 300, NOON + timedelta(hours=1), NOON)
    assert (today.messages_per_day, today.messages_left) == (1000, 700)
    assert [(found.id, found.people) for found in of_limits(900, None, 0, today)] == [("over_daily_limit", 200)]
    assert list(of_limits(700, None, 0, today)) == []
    tomorrow = left(LIMITS, 300, NOON + timedelta(days=1), NOON)
    assert list(of_limits(1000, None, 0, tomorrow)) == [], "nothing of tomorrow is used"
    assert list(of_limits(10**9, 10**9, 7, left(Limits(), 300, NOON, NOON))) == []


def test_a_campaign_dearer_than_the_month_or_without_a_price_is_told() -> None:
    today = left(LIMITS, 0, NOON, NOON)
    assert [found.id for found in of_limits(1, 100_001, 0, today)] == ["over_monthly_spend"]
    assert [(found.id, found.people) for found in of_limits(1, 100_000, 3, today)] == [("price_unknown", 3)]
