"""The next permitted instant is open, the least one, stable and monotone, in every place and season; what forbids an
instant is said, and nothing that the house adds opens anything."""

import json
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from common.law import Aspect, Policy, at_hand_off, closed_by, is_open, load, next_permitted, rules_of, zones

FRANCE = load("france-3")
TODAY = rules_of(date(2026, 11, 25), FRANCE)
policies = st.sampled_from([FRANCE, at_hand_off(FRANCE), TODAY])
territories = st.sampled_from(list(FRANCE.places))
regions = st.none() | st.sampled_from([code for code, place in FRANCE.places.items() if place.within])
anywhere = st.sampled_from([UTC, ZoneInfo("Europe/Paris"), ZoneInfo("Pacific/Noumea"), ZoneInfo("America/Miquelon")])
any_instant = st.datetimes(datetime(2024, 1, 1), datetime(2040, 1, 1), timezones=anywhere)  # noqa: DTZ001
# Nights when a clock changes in Paris, in Miquelon and the US, and the days around; and when a charter takes over.
changes_of_clocks = st.builds(
    lambda day, hours, zone: (day + timedelta(hours=hours)).astimezone(zone),
    st.sampled_from(
        [
            datetime(2026, 3, 28, tzinfo=UTC),
            datetime(2026, 10, 24, tzinfo=UTC),
            datetime(2027, 3, 27, tzinfo=UTC),
            datetime(2027, 3, 13, tzinfo=UTC),  # North America
            datetime(2026, 10, 31, tzinfo=UTC),  # North America
            datetime(2024, 8, 31, tzinfo=UTC),
            datetime(2026, 2, 28, tzinfo=UTC),
        ]
    ),
    st.floats(0, 72),
    anywhere,
)
instants = st.one_of(any_instant, changes_of_clocks)


@given(instants, territories, regions, policies)
def test_it_is_open_and_in_utc_and_not_before(at: datetime, territory: str, region: str | None, policy: Policy) -> None:
    permitted = next_permitted(at, territory, policy, region=region)
    if permitted is None:  # two places whose days never meet
        assert not is_open(at, territory, policy, region=region)
        assert region is not None
        return
    assert permitted.tzinfo is UTC
    assert permitted >= at.astimezone(UTC)
    assert is_open(permitted, territory, policy, region=region)
    for zone in zones(region if region and FRANCE.places[region].within == territory else territory, policy):
        local = permitted.astimezone(zone)
        assert time(8) <= local.time() < time(20)
        assert local.isoweekday() != 7


@given(instants, territories, regions, policies, st.data())
def test_nothing_earlier_is_open(
    at: datetime, territory: str, region: str | None, policy: Policy, data: st.DataObject
) -> None:
    permitted = next_permitted(at, territory, policy, region=region)
    if permitted is None:
        return
    waiting = permitted - at.astimezone(UTC)
    if waiting:
        assert not is_open(at, territory, policy, region=region)
        assert not is_open(permitted - timedelta(microseconds=1), territory, policy, region=region)
        share = data.draw(st.floats(0, 1, exclude_max=True))
        assert not is_open(at.astimezone(UTC) + waiting * share * 0.999999, territory, policy, region=region)


@given(instants, st.none() | st.floats(7, 20.5), territories, regions, policies)
def test_it_is_open_exactly_where_no_rule_is_named_against_it(
    at: datetime, clock: float | None, territory: str, region: str | None, policy: Policy
) -> None:
    """`closed_by` looks at each rule by the clock on the wall, `is_open` at spans of UTC: two ways to one answer."""
    if clock is not None:  # of the day, where it is likelier to be open than at any instant
        midnight = at.astimezone(zones(territory, policy)[0]).replace(hour=0, minute=0, second=0, microsecond=0)
        at = midnight + timedelta(hours=clock)
    assert is_open(at, territory, policy, region=region) == (not closed_by(at, territory, policy, region=region))


@given(instants, territories, policies, st.timedeltas(timedelta(0), timedelta(10)))
def test_none_where_there_is_none_before(at: datetime, territory: str, policy: Policy, within: timedelta) -> None:
    permitted = next_permitted(at, territory, policy)
    assert permitted is not None
    found = next_permitted(at, territory, policy, before=at.astimezone(UTC) + within)
    assert found == (permitted if permitted < at.astimezone(UTC) + within else None)


@given(instants, territories, policies)
def test_asking_again_changes_nothing(at: datetime, territory: str, policy: Policy) -> None:
    permitted = next_permitted(at, territory, policy)
    assert permitted is not None
    assert next_permitted(permitted, territory, policy) == permitted


@given(instants, instants, territories)
def test_a_later_question_never_has_an_earlier_answer(one: datetime, other: datetime, territory: str) -> None:
    earlier, later = sorted((one.astimezone(UTC), other.astimezone(UTC)))
    first, second = next_permitted(earlier, territory, FRANCE), next_permitted(later, territory, FRANCE)
    assert first is not None
    assert second is not None
    assert first <= second


@given(instants, territories)
def test_the_margin_at_hand_off_only_tightens(at: datetime, territory: str) -> None:
    if is_open(at, territory, at_hand_off(FRANCE)):
        assert is_open(at, territory, FRANCE)


@given(
    instants,
    territories,
    st.integers(4, 22).flatmap(lambda opens: st.tuples(st.just(opens), st.integers(opens + 1, 23))),
    st.sets(st.integers(1, 7), min_size=1),
    st.booleans(),
)
def test_no_house_opens_what_is_closed(
    at: datetime, territory: str, window: tuple[int, int], weekdays: set[int], holidays: bool
) -> None:
    rule = {
        "id": "ours",
        "layer": "house",
        "source": "us",
        "opens": f"{window[0]:02}:00",
        "closes": f"{window[1]:02}:00",
        "weekdays": sorted(weekdays),
        **({"holidays": "closed"} if holidays else {}),
    }
    ours = load("france-3", json.dumps({"version": "ours-1", "about": "ours", "rules": [rule]}).encode())
    if is_open(at, territory, ours):
        assert is_open(at, territory, FRANCE)
        assert all(window[0] <= at.astimezone(z).hour < window[1] for z in zones(territory, ours))


@given(instants, territories)
def test_who_has_two_places_is_written_to_when_both_are_open(at: datetime, territory: str) -> None:
    """A number of one place and an address in another."""
    together = is_open(at, territory, FRANCE, region="FR-57")
    alone = is_open(at, territory, FRANCE) and is_open(at, "FR-57", FRANCE)
    assert together == (is_open(at, "FR-57", FRANCE) if territory == "FR" else alone)


@given(instants, st.sampled_from(["JP", "??", "PR", "XX"]))
def test_nothing_is_open_where_no_rules_are_known(at: datetime, territory: str) -> None:
    assert not is_open(at, territory, FRANCE)
    assert next_permitted(at, territory, FRANCE) is None


@given(instants)
def test_every_aspect_that_forbids_is_told(at: datetime) -> None:
    local = at.astimezone(ZoneInfo("Europe/Paris"))
    found = {closure.aspect for closure in closed_by(at, "FR", FRANCE)}
    assert (Aspect.WEEKDAY in found) == (local.isoweekday() == 7)
    assert (Aspect.HOURS in found) == (not time(8) <= local.time() < time(20))
