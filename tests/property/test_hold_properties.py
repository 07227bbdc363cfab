"""That marketing is held is told once, and never of what comes and goes."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from dispatch.projection.hold import Hold, looked

START = datetime(2026, 11, 26, 9, tzinfo=UTC)
TOLD_AFTER = timedelta(seconds=10)

# looks: seconds since the one before, and whether marketing is held then
looks = st.lists(st.tuples(st.floats(0.01, 30), st.booleans()), max_size=40)


@given(looks)
def test_what_is_told_has_lasted_and_each_hold_begins_and_ends_once(looks: list[tuple[float, bool]]) -> None:
    told, now, seen = Hold(), START, list[tuple[datetime, bool]]()
    for seconds, held in looks:
        now += timedelta(seconds=seconds)
        seen.append((now, held))
        before, told = told, looked(told, held, now, TOLD_AFTER)
        if told.version == before.version:
            assert (told.since, told.ended_at) == (before.since, before.ended_at)
            continue
        assert told.version == before.version + 1
        assert told.lasts == held != before.lasts
        began = told.since if held else told.ended_at
        assert began is not None
        assert now - began >= TOLD_AFTER
        assert all(was == held for at, was in seen if at >= began)
        if not held:
            assert told.since == before.since


@given(looks, st.booleans())
def test_what_lasts_is_told_whatever_was_before(looks: list[tuple[float, bool]], held: bool) -> None:
    told, now = Hold(), START
    for seconds, was in looks:
        now += timedelta(seconds=seconds)
        told = looked(told, was, now, TOLD_AFTER)
    for _ in range(12):
        now += timedelta(seconds=1)
        told = looked(told, held, now, TOLD_AFTER)
    assert told.lasts == held
