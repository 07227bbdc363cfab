"""When a message is due: open, the first such instant, on the clock of its person; laid out within its window; and
never more of a campaign in any second or any hour than it said, whatever the planner's timer does."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.audience.draw import lot
from campaign.audience.reach import Standing
from campaign.message.wording import wording
from campaign.preflight.findings import load as rules
from campaign.preflight.forecast import Forecast, Plan, lay_out
from campaign.schedule.timing import Pace, Place, Timetable, Timing, starts
from common.contracts.consent import Consent
from common.law import at_hand_off, is_open, load, openings, rules_of, zones
from common.sms.prices import NO_PRICES
from common.sms.subject_id import InnerId

FRANCE = at_hand_off(rules_of(date(2026, 11, 25), load("france-3")))
MINUTE = timedelta(minutes=1)
NEVER = datetime(2099, 1, 1, tzinfo=UTC)
# before a change of clocks, a holiday here and not there, the end of a year, and any day
mornings = st.sampled_from(
    [
        datetime(2026, 3, 28, tzinfo=UTC),
        datetime(2026, 10, 24, tzinfo=UTC),
        datetime(2027, 3, 13, tzinfo=UTC),
        datetime(2026, 12, 24, tzinfo=UTC),
        datetime(2027, 3, 26, tzinfo=UTC),
        datetime(2026, 5, 21, tzinfo=UTC),
        datetime(2026, 12, 31, tzinfo=UTC),
    ]
)
instants = st.builds(lambda day, minutes: day + minutes * MINUTE, mornings, st.integers(0, 3 * 24 * 60))
places = st.builds(
    Place,
    st.sampled_from([code for code, place in FRANCE.places.items() if place.within is None]),
    st.none() | st.just("FR-6AE"),
    st.none() | st.sampled_from(["Indian/Reunion", "Europe/Paris", "America/Miquelon"]),
)
shares = st.floats(0, 1, exclude_max=True)


def table(at: datetime, ends_by: datetime = NEVER, starts_at: datetime | None = None, **timing: object) -> Timetable:
    return Timetable(Timing.model_validate(timing), "FR", starts_at or at, at, ends_by, FRANCE)


@settings(max_examples=60)
@given(instants, instants, places)
def test_it_is_due_at_the_first_minute_that_is_open(at: datetime, now: datetime, place: Place) -> None:
    due = table(at).due(place, 0, now)
    minute = max(at, now)
    found = None
    for _ in range(6 * 24 * 60):
        if is_open(minute, place.territory, FRANCE, region=place.region):
            found = minute
            break
        minute += MINUTE
    assert due == found or (found is None and (due is None or due >= minute))


@given(instants, instants, places)
def test_local_time_is_what_its_person_s_clock_shows_then_or_on_a_later_day(
    at: datetime, now: datetime, place: Place
) -> None:
    timing = Timing(local_time=True)
    starts_at = starts(timing, at, "FR", now, FRANCE)
    wanted = table(at, starts_at=starts_at, local_time=True).wanted(place)
    asked = at.astimezone(ZoneInfo("Europe/Paris"))
    here = [ZoneInfo(place.zone)] if place.zone else zones(place.region or place.territory, FRANCE)
    assert starts_at <= wanted < max(starts_at, at + timedelta(days=1)) + timedelta(days=1, hours=1)
    if len(here) == 1:
        shown = wanted.astimezone(here[0])
        # an hour that a change of clocks leaves out is an hour later
        assert (shown.time() == asked.time()) or (shown - timedelta(hours=1)).utcoffset() != shown.utcoffset()
    if starts_at < now:
        assert starts_at == at
    elif now + timedelta(days=1) < at:
        assert (wanted.astimezone(here[0]).date() - asked.date()).days in (0, 1), "nobody's hour has passed yet"


def test_where_a_number_may_be_in_several_zones_its_hour_has_come_in_all_of_them() -> None:
    at = datetime(2026, 11, 30, 9, tzinfo=UTC)  # 10:00 in Paris
    several = [code for code, place in FRANCE.places.items() if place.within is None and len(place.zones) > 1]
    assert several
    for code in several:
        wanted = table(at, starts_at=at - timedelta(hours=11), local_time=True).wanted(Place(code))
        shown = [wanted.astimezone(zone).time() for zone in zones(code, FRANCE)]
        assert min(shown) == time(10)


def test_a_campaign_by_local_time_begins_where_the_sun_is_first() -> None:
    at = datetime(2026, 11, 30, 9, tzinfo=UTC)
    begins = starts(Timing(local_time=True), at, "FR", at - timedelta(days=2), FRANCE)
    assert begins.astimezone(ZoneInfo("Pacific/Wallis")) == datetime(
        2026, 11, 30, 10, tzinfo=ZoneInfo("Pacific/Wallis")
    )
    assert starts(Timing(local_time=True), at, "FR", at - timedelta(hours=1), FRANCE) == at - timedelta(hours=1)
    assert starts(Timing(), at, "FR", at - timedelta(days=2), FRANCE) == at


@given(instants, places, st.integers(1, 3 * 24 * 60), st.lists(shares, min_size=1, max_size=5))
def test_a_spread_is_open_in_its_window_and_in_order(
    at: datetime, place: Place, minutes: int, drawn: Sequence[float]
) -> None:
    spread = table(at, spread_minutes=minutes)
    first = table(at).planned(place, 0)
    found = [spread.planned(place, share) for share in sorted(drawn)]
    if first is None:
        assert set(found) == {None}
        return
    for due in found:
        assert due is not None
        assert first <= due < first + minutes * MINUTE
        assert is_open(due, place.territory, FRANCE, region=place.region)
    assert found == sorted(due for due in found if due is not None)


@given(instants, places, shares, st.integers(1, 6000), st.integers(0, 6000))
def test_nothing_is_due_after_its_end(at: datetime, place: Place, share: float, spread: int, late: int) -> None:
    ends_by = at + timedelta(hours=30)
    due = table(at, ends_by, spread_minutes=spread).due(place, share, at + late * MINUTE)
    assert due is None or at + late * MINUTE <= due < ends_by


def test_a_spread_is_even() -> None:
    """Of ten thousand people over ten open hours, a thousand in each: within four standard deviations."""
    at = datetime(2026, 11, 24, 7, tzinfo=UTC)
    spread = table(at, spread_minutes=600)
    lots = [lot("cmp-1", InnerId(f"subject-{n}"), "when") for n in range(10_000)]
    hours = [int((due - at) / timedelta(hours=1)) for each in lots if (due := spread.planned(Place("FR"), each))]
    assert all(abs(hours.count(hour) - 1000) < 120 for hour in range(10))


@given(instants, st.dictionaries(places, st.integers(1, 500), min_size=1, max_size=6), st.floats(0.001, 5))
def test_a_forecast_lays_out_each_person_once_within_the_hours_of_their_place_and_no_hour_is_lost(
    at: datetime, people: dict[Place, int], rate: float
) -> None:
    timetable = table(at, local_time=True)
    people = {place: count for place, count in people.items() if timetable.window(place)}
    if not people or (found := lay_out(people, timetable, rate)) is None:
        return
    for place, count in people.items():
        assert math.isclose(sum(each.people for each in found if each.place == place), count)
    left_at = {place: max(each.ends for each in found if each.place == place) for place in people}
    spans = sorted({(each.begins, each.ends) for each in found})
    for begins, ends in spans:
        together = [each for each in found if each.begins == begins]
        assert {each.ends for each in together} == {ends}
        assert math.isclose(sum(each.people for each in together), rate * (ends - begins).total_seconds(), abs_tol=1e-4)
        for place in (each.place for each in together):
            assert timetable.window(place)[0][0] <= begins
            assert openings(begins, ends, place.territory, FRANCE, region=place.region) == ((begins, ends),)
    for (_, idle), (again, _) in pairwise(spans):
        assert idle <= again
        for place in (place for place, last in left_at.items() if last > idle):
            due = max(idle, timetable.window(place)[0][0])
            assert due >= again or not openings(due, again, place.territory, FRANCE, region=place.region)


postcodes = st.sampled_from(["", "75011", "67000", "57000", "97100", "97150", "97200"])
whereabouts = st.tuples(st.sampled_from(["FR", "GP", "MQ", "RE"]), postcodes)


@given(instants, st.lists(whereabouts, max_size=20), st.integers(1, 99), st.booleans())
def test_a_forecast_s_sums_are_its_audience_and_who_waits_is_told_why(
    at: datetime, people: Sequence[tuple[str, str]], hours: int, local_time: bool
) -> None:
    timetable = table(at, at + timedelta(hours=hours), local_time=local_time)
    forecast = Forecast(
        Plan(
            wordings={"a": wording("Lune. {stop}", "fr", {}, "none")},
            sender_id="lune",
            purpose="promotions",
            brand="Lune",
            oadc="LUNE",
            stop_code="36111",
            stop_added="",
            sectors=(),
            timetable=timetable,
            begins_with=lambda _: (),
            prices=NO_PRICES,
            compliance=rules(),
            rate_per_s=None,
            reachable_in=frozenset({"GP", "MQ", "RE"}),
        )
    )
    yes = Consent(
        sender_id="lune",
        purpose="promotions",
        state="opted_in",
        basis="opt_in",
        occurred_at=at - timedelta(days=1),
        evidence_id="e",
        expires_at=NEVER,
    )
    opens = Counter[tuple[str, str | None, datetime]]()
    for territory, postcode in people:
        place = timetable.place(territory, {"postcode": postcode})
        forecast.add({"postcode": postcode}, territory, Standing(consents=(yes,)))
        opens[territory, place.region, timetable.window(place)[0][0]] += 1
    found = forecast.outlook
    late = found.reasons.get("send_before_passed", 0)
    assert found.audience == len(people) == found.would_get + late
    assert sum(part.people for part in found.places) == found.would_get
    first = {part.territory: part.opens_at for part in found.places}
    told = {(wait.territory, wait.region, wait.opens_at): wait for wait in found.waits}
    assert len(told) == len(found.waits)
    for (territory, region, opens_at), count in opens.items():
        wait = told.pop((territory, region, opens_at), None)
        if wait is None:
            wanted = timetable.wanted(Place(territory, region))
            assert opens_at == max(wanted, first.get(territory, wanted)), "nobody waits longer without a word"
            continue
        assert (wait.people, wait.too_late) == (count, opens_at >= timetable.ends_by)
        assert wait.against
    assert not told
    if found.would_get:
        assert found.finishes_at == max(opens_at for *_, opens_at in opens if opens_at < timetable.ends_by)


ticks = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 40)), min_size=1, max_size=120)  # milliseconds, wanted


@given(st.integers(1, 50), st.none() | st.integers(1, 500), ticks)
def test_no_more_leave_than_were_said_in_any_second_or_hour(
    per_second: int, per_hour: int | None, passing: Sequence[tuple[int, int]]
) -> None:
    pace = Pace.of(Timing(per_second=per_second, per_hour=per_hour))
    now, next_slot = datetime(2026, 11, 24, 9, tzinfo=UTC), None
    left: list[datetime] = []
    for milliseconds, wanted in passing:
        now += timedelta(milliseconds=milliseconds)
        room = pace.room(next_slot, now)
        assert room is not None
        used = min(room, wanted)
        next_slot = pace.after(next_slot, now, used)
        left += [now] * used
    for many, span in ((per_second, timedelta(seconds=1)), (per_hour, timedelta(hours=1))):
        if many is not None:
            assert all(sum(start <= each < start + span for each in left) <= many for start in set(left))


@given(st.integers(1, 10), st.integers(-7200, 7200))
def test_a_clock_that_jumps_neither_stops_a_campaign_nor_lets_it_make_up_for_time(rate: int, jump: int) -> None:
    pace = Pace.of(Timing(per_second=rate))
    now, next_slot = datetime(2026, 11, 24, 9, tzinfo=UTC), None
    left: list[int] = []  # by the hundredth of a second that really passed
    for real in range(600):
        shown = now + timedelta(milliseconds=10 * real, seconds=jump if real >= 300 else 0)
        room = pace.room(next_slot, shown)
        assert room is not None
        next_slot = pace.after(next_slot, shown, room)
        left += [real] * room
    within = [sum(start <= each < start + 100 for each in left) for start in left]
    assert max(within) <= (rate if jump <= 0 else rate * 1.25 + 1)
    assert sum(each >= 400 for each in left) >= int(rate * 2 * 0.7), "it goes on"


def test_what_is_not_said_is_not_limited() -> None:
    assert (Pace.of(Timing()).room(None, NEVER), Pace.of(Timing()).after(None, NEVER, 9)) == (None, None)


@given(instants, instants, places)
def test_openings_are_all_that_is_open(start: datetime, end: datetime, place: Place) -> None:
    found = openings(start, end, place.territory, FRANCE, region=place.region)
    assert all(opens < closes for opens, closes in found)
    assert all(one[1] < other[0] for one, other in pairwise(found))
    minute = start
    while minute < end:
        inside = any(opens <= minute < closes for opens, closes in found)
        assert inside == is_open(minute, place.territory, FRANCE, region=place.region)
        minute += 15 * MINUTE
