"""When a delivery is tried again, when a destination rests, and when a webhook is disabled."""

from datetime import UTC, datetime, timedelta

from campaign.webhooks.rules import (
    BACK_OFF,
    DISABLE_AFTER,
    DOWN_AFTER,
    GIVE_UP_AFTER,
    LONGEST_ASKED,
    REST,
    Attempt,
    Health,
    after,
    next_try,
)

START = datetime(2026, 1, 6, 9, 30, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def attempt(code: int | None, at: timedelta = timedelta(), retry_after: timedelta | None = None) -> Attempt:
    ended_at = START + at
    error = "TimeoutError" if code is None else None
    return Attempt(began_at=ended_at - SECOND, ended_at=ended_at, code=code, error=error, retry_after=retry_after)


def failures(many: int, every: timedelta = HOUR) -> list[Attempt]:
    return [attempt(500, n * every) for n in range(many)]


def test_a_destination_rests_after_failures_in_a_row_and_ever_longer() -> None:
    assert after(Health(), failures(DOWN_AFTER - 1)).rests_until is None
    rests = []
    for many in range(DOWN_AFTER, DOWN_AFTER + 12):
        health = after(Health(), failures(many))
        assert health.rests_until is not None
        assert health.at_once(16) == 1
        rests.append(health.rests_until - (START + (many - 1) * HOUR))
    assert rests == sorted(rests)
    assert (rests[0], rests[-1]) == REST


def test_a_success_ends_the_rest_and_the_count() -> None:
    health = after(Health(), [*failures(20), attempt(204, 20 * HOUR)])
    assert health == Health(accepted_at=START + 20 * HOUR)


def test_attempts_under_way_when_a_destination_goes_down_do_not_lengthen_its_rest() -> None:
    down = after(Health(), failures(DOWN_AFTER, every=SECOND))
    late = Attempt(began_at=START - HOUR, ended_at=START + HOUR, error="TimeoutError")
    assert after(down, [late]) == down


def test_a_webhook_is_disabled_after_days_of_failures_alone_or_at_once_by_a_410() -> None:
    assert after(Health(), [attempt(500), attempt(500, DISABLE_AFTER - SECOND)]).disabled is None
    assert after(Health(), [attempt(500), attempt(500, DISABLE_AFTER)]).disabled == "failing"
    broken_by_a_success = [attempt(500), attempt(200, HOUR), attempt(500, DISABLE_AFTER)]
    assert after(Health(), broken_by_a_success).disabled is None
    assert after(Health(), [attempt(410)]).disabled == "gone"


def accepted(at: timedelta) -> Health:
    return Health(accepted_at=START + at)


def test_a_refused_delivery_is_tried_again_ever_later() -> None:
    waits = []
    for tries in range(1, len(BACK_OFF) + 3):
        due_at = next_try(tries, START, attempt(500), Health(), 0.0)
        assert due_at is not None
        waits.append(due_at - START)
    assert waits == [*BACK_OFF, BACK_OFF[-1], BACK_OFF[-1]]
    spread = next_try(1, START, attempt(500), Health(), 1.0)
    assert spread == START + BACK_OFF[0] * 1.25


def test_whatever_a_delivery_has_waited_for_it_is_due_when_a_destination_that_is_down_has_rested() -> None:
    down = after(Health(), failures(DOWN_AFTER))
    assert next_try(9, START, attempt(500), down, 1.0) == down.rests_until
    later = after(down, [attempt(500, 99 * HOUR)])
    assert next_try(9, START, attempt(500, 99 * HOUR), later, 1.0) == later.rests_until


def test_an_answer_may_ask_for_a_later_try_but_not_for_a_far_one() -> None:
    soon, far = timedelta(minutes=7), timedelta(days=7)
    assert next_try(1, START, attempt(429, retry_after=soon), Health(), 0) == START + soon
    assert next_try(1, START, attempt(429, retry_after=far), Health(), 0) == START + LONGEST_ASKED


def test_a_delivery_fails_for_good_only_where_others_were_accepted() -> None:
    last = attempt(500, GIVE_UP_AFTER)
    assert next_try(9, START, last, Health(), 0) is not None
    assert next_try(9, START, last, accepted(-HOUR), 0) is not None
    assert next_try(9, START, last, accepted(HOUR), 0) is None
    assert next_try(9, START, attempt(500, GIVE_UP_AFTER - SECOND), accepted(HOUR), 0) is not None
