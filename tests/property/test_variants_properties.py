"""Who gets which text: the same whenever it is asked, in the proportions said, nobody held out ever written to; and the
text that drives the fewest away wins."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from campaign.audience.draw import lot
from campaign.message.variants import (
    HOLDOUT,
    LEAST_FOR_REST,
    LEAST_REACHED,
    OWN,
    REST,
    FirstGroups,
    Result,
    Trial,
    Variant,
    Winner,
    winner,
)
from campaign.schedule.timing import Place, Timetable, Timing
from common.law import load
from common.sms.subject_id import InnerId

PEOPLE = [InnerId(f"s{n}") for n in range(4000)]


@st.composite
def trials(draw: st.DrawFn) -> Trial:
    shares = draw(st.lists(st.integers(1, 24), max_size=3))
    variants = tuple(Variant(name=name, text="…", percent=share) for name, share in zip("bcd", shares, strict=False))
    waits = bool(variants) and draw(st.booleans())
    return Trial(
        variants=variants,
        percent=draw(st.integers(1, 15)) if waits else None,
        holdout_percent=draw(st.integers(0, 10)),
        winner=Winner(after_hours=4) if waits else None,
    )


@given(trials(), st.text("0123456789abcdef", min_size=1, max_size=8))
def test_groups_are_as_large_as_was_said_and_always_the_same(trial: Trial, campaign_id: str) -> None:
    drawn = {person: trial.of(lot(campaign_id, person, "variant")) for person in PEOPLE}
    assert drawn == {person: trial.of(lot(campaign_id, person, "variant")) for person in PEOPLE}
    percent = {HOLDOUT: trial.holdout_percent} | {each.name: each.percent for each in trial.variants}
    percent[OWN] = trial.percent or 100 - sum(percent.values())
    percent[REST] = 100 - sum(percent.values())
    found = Counter(drawn.values())
    assert set(found) <= {name for name, share in percent.items() if share}
    for name, share in percent.items():
        expected = len(PEOPLE) * share / 100
        assert abs(found[name] - expected) <= 6 * (expected * (1 - share / 100)) ** 0.5 + 1, "six standard deviations"


@given(st.floats(0, 1, exclude_max=True), trials())
def test_a_larger_holdout_holds_out_whom_a_smaller_one_did(drawn: float, trial: Trial) -> None:
    if trial.of(drawn) == HOLDOUT:
        larger = trial.model_copy(update={"holdout_percent": trial.holdout_percent + 5})
        assert larger.of(drawn) == HOLDOUT


def test_lots_of_two_campaigns_and_of_two_questions_have_nothing_to_do_with_each_other() -> None:
    half = {p for p in PEOPLE if lot("cmp-1", p, "variant") < 0.5}
    for other in (("cmp-2", "variant"), ("cmp-1", "when")):
        both = sum(lot(other[0], p, other[1]) < 0.5 for p in half)
        assert abs(both - len(half) / 2) < 6 * (len(half) / 4) ** 0.5


B, C = (Variant(name=name, text="…", percent=10) for name in "bc")
TRIAL = Trial(variants=(B, C), percent=10, winner=Winner(after_hours=4))


BY_CLICKS = TRIAL.model_copy(update={"winner": Winner(by="most_clicks", after_hours=4)})
MANY = LEAST_REACHED
FEW = MANY - 1


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ({}, ("a", "too_few")),
        (
            {
                "a": Result(reached=MANY, opted_out=3),
                "b": Result(reached=2 * MANY, opted_out=5),
                "c": Result(reached=MANY, opted_out=9),
            },
            ("b", "best"),
        ),
        ({"a": Result(reached=MANY, opted_out=1), "b": Result(reached=MANY, opted_out=1)}, ("a", "equal")),
        (
            {
                "a": Result(reached=MANY, opted_out=2),
                "b": Result(reached=MANY, opted_out=1),
                "c": Result(reached=2 * MANY, opted_out=2),
            },
            ("b", "equal"),
        ),
        ({"a": Result(reached=1000, opted_out=20), "b": Result(reached=FEW, opted_out=0)}, ("a", "too_few")),
        ({"a": Result(reached=FEW, opted_out=0), "b": Result(reached=1000, opted_out=20)}, ("a", "too_few")),
        (
            {
                "a": Result(reached=1000, opted_out=20),
                "b": Result(reached=MANY, opted_out=1),
                "c": Result(reached=1, opted_out=0),
            },
            ("a", "best"),
        ),
    ],
)
def test_the_least_share_of_opt_outs_wins_among_texts_that_enough_have_got(
    results: dict[str, Result], best: tuple[str, str]
) -> None:
    assert winner(TRIAL, results) == best


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ({}, ("a", "too_few")),
        ({"a": Result(reached=MANY, clicked=2), "b": Result(reached=2 * MANY, clicked=5)}, ("b", "best")),
        ({"a": Result(reached=MANY, opted_out=9, clicked=1), "b": Result(reached=MANY, clicked=1)}, ("a", "equal")),
        (
            {"a": Result(reached=MANY, clicked=1), "b": Result(reached=MANY), "c": Result(reached=1, clicked=1)},
            ("a", "best"),
        ),
    ],
)
def test_by_clicks_the_largest_share_of_who_followed_a_link_wins(
    results: dict[str, Result], best: tuple[str, str]
) -> None:
    assert winner(BY_CLICKS, results) == best


@st.composite
def results(draw: st.DrawFn) -> Result:
    reached = draw(st.integers(0, 3 * LEAST_REACHED))
    reacted = st.integers(0, reached)
    return Result(reached=reached, opted_out=draw(reacted), clicked=draw(reacted))


@given(st.dictionaries(st.sampled_from("abc"), results()), st.sampled_from([TRIAL, BY_CLICKS]))
def test_no_text_wins_by_what_a_few_did_and_none_that_enough_have_got_did_better(
    found: dict[str, Result], trial: Trial
) -> None:
    best, because = winner(trial, found)
    enough = {name: each for name, each in found.items() if each.reached >= LEAST_REACHED}
    assert (because == "too_few") == (len(enough) < 2)
    if because == "too_few":
        assert best == OWN
        return
    did = {
        name: Fraction(each.clicked if trial is BY_CLICKS else each.reached - each.opted_out, each.reached)
        for name, each in enough.items()
    }
    equals = [name for name in did if did[name] == max(did.values())]
    assert best == min(equals)
    assert because == ("best" if len(equals) == 1 else "equal")
    assert winner(trial, enough) == (best, because), "what a few did changes nothing"


SUNDAY = datetime(2026, 11, 29, 9, tzinfo=UTC)


def table_of(minutes: int | None = None, ends: timedelta = timedelta(days=3)) -> Timetable:
    return Timetable(Timing(spread_minutes=minutes), "FR", SUNDAY, SUNDAY, SUNDAY + ends, load("france"))


def test_the_best_is_chosen_at_the_soonest_after_the_first_could_leave() -> None:
    for minutes, soonest in (
        (None, datetime(2026, 11, 30, 11, tzinfo=UTC)),
        (60, datetime(2026, 11, 30, 12, tzinfo=UTC)),
    ):
        assert TRIAL.soonest(table_of(minutes)) == soonest


SPANS = st.timedeltas(timedelta(), timedelta(days=4))


@given(SPANS, SPANS, SPANS)
def test_the_last_moment_leaves_the_rest_the_time_it_needs_within_hours_and_none_to_spare(
    rest: timedelta, more: timedelta, ends: timedelta
) -> None:
    table = table_of(ends=ends)
    last, soonest = TRIAL.last_moment(table, rest), TRIAL.soonest(table)
    needs = max(rest, LEAST_FOR_REST)
    opening = table.openings(Place("FR"), last, table.ends_by)
    left = sum((closes - opens for opens, closes in opening), timedelta())
    assert last >= soonest
    assert left == needs or (left < needs and last == soonest)
    assert TRIAL.last_moment(table, rest + more) <= last


@given(st.booleans(), st.none() | SPANS, SPANS, SPANS)
def test_the_best_is_chosen_so_long_after_the_last_of_the_first_groups_or_in_time_for_the_rest(
    over: bool, ago: timedelta | None, rest: timedelta, later: timedelta
) -> None:
    table, now = table_of(), SUNDAY + later
    last_at = None if ago is None else now - ago
    found = TRIAL.choice(table, FirstGroups(over, last_at), rest, now)
    last_moment = TRIAL.last_moment(table, rest)
    if not over:
        assert (found.at, found.waits_for, found.last_moment) == (last_moment, "first_groups", True)
        return
    assert found.waits_for == "after_hours"
    wanted = now if last_at is None else last_at + timedelta(hours=4)
    assert found.at == (last_moment if found.last_moment else wanted)
    assert found.at <= last_moment
    assert found.last_moment == (wanted > last_moment)


@pytest.mark.parametrize(
    "fields",
    [
        {"variants": (B, B)},
        {"variants": (B,), "percent": 10},
        {"winner": Winner(after_hours=4), "percent": 10},
        {"variants": (B,), "winner": Winner(after_hours=4)},
        {"variants": (B.model_copy(update={"percent": 99}),), "holdout_percent": 1},
        {"variants": (B.model_copy(update={"percent": 60}), C.model_copy(update={"percent": 60}))},
    ],
)
def test_groups_that_do_not_add_up_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Trial.model_validate(fields)
