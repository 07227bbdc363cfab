"""When a campaign that recurs does."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from campaign.schedule.recurrence import Recurring, first, latest, occurrence_id, occurrences, too_often

PARIS = ZoneInfo("Europe/Paris")
NEVER = datetime(2028, 1, 1, tzinfo=UTC)
SATURDAY = datetime(2027, 3, 27, 9, tzinfo=UTC)  # 10:00 in Paris, the day before summer time


def rule(cron: str, until: datetime = NEVER) -> Recurring:
    return Recurring(cron=cron, until=until)


def local(found: datetime) -> str:
    return found.astimezone(PARIS).strftime("%a %d %H:%M")


def test_it_is_read_off_the_sender_s_clock_in_summer_and_in_winter() -> None:
    found = list(islice(occurrences(rule("0 10 * * *"), PARIS, SATURDAY), 3))
    assert [local(each) for each in found] == ["Sat 27 10:00", "Sun 28 10:00", "Mon 29 10:00"]
    assert found[1] - found[0] == timedelta(hours=23)
    assert all(each.tzinfo is UTC for each in found)
    mondays = [local(each) for each in islice(occurrences(rule("30 9 * * MON"), PARIS, SATURDAY), 2)]
    assert mondays == ["Mon 29 09:30", "Mon 05 09:30"]


def test_a_time_that_a_change_of_clocks_leaves_out_comes_and_one_it_has_twice_comes_once() -> None:
    spring = list(islice(occurrences(rule("30 2 * * *"), PARIS, SATURDAY), 2))
    assert [local(each) for each in spring] == ["Sun 28 03:00", "Mon 29 02:30"]
    autumn = datetime(2027, 10, 30, 12, tzinfo=UTC)
    twice = list(islice(occurrences(rule("30 2 * * *"), PARIS, autumn), 2))
    assert [local(each) for each in twice] == ["Sun 31 02:30", "Mon 01 02:30"]


def test_it_begins_at_its_start_and_ends_before_its_end() -> None:
    daily = rule("0 10 * * *", SATURDAY + timedelta(hours=23))
    assert first(daily, PARIS, SATURDAY) == SATURDAY
    assert list(occurrences(daily, PARIS, SATURDAY)) == [SATURDAY]
    assert first(daily, PARIS, SATURDAY + timedelta(seconds=1)) is None


@pytest.mark.parametrize("cron", ["", "* * * *", "0 10 * * * *", "0 25 * * *", "@daily", "0 10 30 2 *", "a b c d e"])
def test_what_is_no_rule_is_refused(cron: str) -> None:
    with pytest.raises(ValidationError):
        rule(cron)


def test_two_within_the_hour_are_too_many_whenever_they_come() -> None:
    assert too_often(rule("* * * * *"), PARIS, SATURDAY)
    assert too_often(rule("0,30 10 1 * *"), PARIS, SATURDAY)
    assert too_often(rule("59 23,0 * * *"), PARIS, SATURDAY) is False
    assert not too_often(rule("0 * * * *"), PARIS, SATURDAY)


def test_of_what_was_missed_the_last_counts_and_the_others_are_counted() -> None:
    daily = rule("0 10 * * *")
    assert latest(daily, PARIS, SATURDAY, SATURDAY) == (SATURDAY, 0)
    assert latest(daily, PARIS, SATURDAY, SATURDAY - timedelta(hours=11)) == (SATURDAY, 0), (
        "with Wallis, before its hour"
    )
    on_tuesday = datetime(2027, 3, 30, 12, tzinfo=UTC)
    assert latest(daily, PARIS, SATURDAY, on_tuesday) == (datetime(2027, 3, 30, 8, tzinfo=UTC), 3)


def test_an_occurrence_has_one_name_however_its_instant_is_written() -> None:
    assert occurrence_id("cmp-1", SATURDAY) == occurrence_id("cmp-1", SATURDAY.astimezone(PARIS))
    names = {occurrence_id(series, SATURDAY + timedelta(days=n)) for series in ("cmp-1", "cmp-2") for n in range(3)}
    assert len(names) == 6
