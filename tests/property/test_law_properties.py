"""The next permitted instant is in the window, the least one, stable and monotone, whatever the season."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from common.law import Policy, at_hand_off, is_open, load, next_permitted, zones

FRANCE = load("france-1")
policies = st.sampled_from([FRANCE, at_hand_off(FRANCE)])
territories = st.sampled_from([*FRANCE.territories, "DE", "??"])
anywhere = st.sampled_from([UTC, ZoneInfo("Europe/Paris"), ZoneInfo("Pacific/Noumea"), ZoneInfo("America/Miquelon")])
any_instant = st.datetimes(datetime(2024, 1, 1), datetime(2040, 1, 1), timezones=anywhere)  # noqa: DTZ001
# Nights when a clock changes in Paris or in Miquelon, and the days around.
changes_of_clocks = st.builds(
    lambda day, hours, zone: (day + timedelta(hours=hours)).astimezone(zone),
    st.sampled_from(
        [
            datetime(2026, 3, 28, tzinfo=UTC),
            datetime(2026, 10, 24, tzinfo=UTC),
            datetime(2027, 3, 27, tzinfo=UTC),
            datetime(2027, 3, 13, tzinfo=UTC),  # Miquelon
            datetime(2026, 10, 31, tzinfo=UTC),  # Miquelon
        ]
    ),
    st.floats(0, 72),
    anywhere,
)
instants = st.one_of(any_instant, changes_of_clocks)


@given(instants, territories, policies)
def test_it_is_open_and_in_utc_and_not_before(at: datetime, territory: str, policy: Policy) -> None:
    permitted = next_permitted(at, territory, policy)
    assert permitted.tzinfo is UTC
    assert permitted >= at.astimezone(UTC)
    assert is_open(permitted, territory, policy)
    for zone in zones(territory, policy):
        local = permitted.astimezone(zone)
        assert policy.opens <= local.time() < policy.closes
        assert local.isoweekday() in policy.weekdays


@given(instants, territories, st.data())
def test_nothing_earlier_is_open(at: datetime, territory: str, data: st.DataObject) -> None:
    permitted = next_permitted(at, territory, FRANCE)
    waiting = permitted - at.astimezone(UTC)
    if waiting:
        assert not is_open(at, territory, FRANCE)
        assert not is_open(permitted - timedelta(microseconds=1), territory, FRANCE)
        share = data.draw(st.floats(0, 1, exclude_max=True))
        assert not is_open(at.astimezone(UTC) + waiting * share * 0.999999, territory, FRANCE)


@given(instants, territories)
def test_asking_again_changes_nothing(at: datetime, territory: str) -> None:
    permitted = next_permitted(at, territory, FRANCE)
    assert next_permitted(permitted, territory, FRANCE) == permitted


@given(instants, instants, territories)
def test_a_later_question_never_has_an_earlier_answer(one: datetime, other: datetime, territory: str) -> None:
    earlier, later = sorted((one.astimezone(UTC), other.astimezone(UTC)))
    assert next_permitted(earlier, territory, FRANCE) <= next_permitted(later, territory, FRANCE)


@given(instants, territories)
def test_the_margin_at_hand_off_only_tightens(at: datetime, territory: str) -> None:
    if is_open(at, territory, at_hand_off(FRANCE)):
        assert is_open(at, territory, FRANCE)
