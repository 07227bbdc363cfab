"""How often a sender writes to a person: which campaigns count."""

from datetime import UTC, datetime, timedelta

from campaign.audience.frequency import CAPPED, RESTING, Campaign, Limit, counting, limits

NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)


def test_the_senders_cap_comes_before_the_campaigns_days_of_rest() -> None:
    assert limits(None, None) == ()
    assert limits((4, 30), 7) == (Limit(CAPPED, 4, 30), Limit(RESTING, 1, 7))


def test_a_campaign_counts_until_so_many_days_after_its_end() -> None:
    week = Limit(RESTING, 1, 7)
    others = [
        Campaign("running", None),
        Campaign("yesterday", NOW - timedelta(days=1)),
        Campaign("just in it", NOW - timedelta(days=7) + timedelta(seconds=1)),
        Campaign("just out of it", NOW - timedelta(days=7)),
    ]
    assert counting(others, week, NOW) == ["running", "yesterday", "just in it"]
