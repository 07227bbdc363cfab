"""Which limit of a number refuses, and until when."""

from datetime import UTC, datetime, timedelta

import pytest

from common.limits import Limits
from dispatch.accepting.rules import Had, reached

NOW = datetime(2026, 11, 27, 10, tzinfo=UTC)
LIMITS = Limits(per_number_hour=2, per_number_day=3)


@pytest.mark.parametrize(
    ("first_of_day", "name", "waits"),
    [
        (timedelta(hours=23, minutes=59), "per_number_hour", timedelta(minutes=50)),
        (timedelta(hours=2), "per_number_day", timedelta(hours=22)),
    ],
)
def test_of_the_limits_that_a_number_has_reached_the_one_that_lasts_longest_refuses(
    first_of_day: timedelta, name: str, waits: timedelta
) -> None:
    found = reached(Had(2, 3, NOW - timedelta(minutes=10), NOW - first_of_day), LIMITS, NOW)
    assert found is not None
    assert (found.name, found.until) == (name, NOW + waits)


def test_no_limit_of_a_number_refuses_a_message_below_each() -> None:
    assert reached(Had(1, 2, NOW, NOW), LIMITS, NOW) is None
