"""Who gets which text: the same whenever it is asked, in the proportions said, nobody held out ever written to; and the
text that drives the fewest away wins."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from campaign.draw import lot
from campaign.timing import Timetable, Timing
from campaign.variants import HOLDOUT, OWN, REST, Result, Trial, Variant, Winner, winner
from common.law import load

PEOPLE = [f"s{n}" for n in range(4000)]


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


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ({}, "a"),
        ({"a": Result(10, 10, 0, 2), "b": Result(20, 20, 0, 3), "c": Result(10, 10, 0, 9)}, "b"),
        ({"a": Result(10, 10, 0, 1), "b": Result(10, 10, 0, 1)}, "a"),
        ({"a": Result(10, 10, 0, 1), "b": Result(10, 0, 0, 0), "c": Result(10, 1, 0, 0)}, "c"),
    ],
)
def test_the_least_share_of_opt_outs_wins_and_who_reached_nobody_does_not(
    results: dict[str, Result], best: str
) -> None:
    assert winner(TRIAL, results) == best


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ({}, "a"),
        ({"a": Result(10, 10, clicked=2), "b": Result(20, 20, clicked=5), "c": Result(9, 9, clicked=1)}, "b"),
        ({"a": Result(10, 10, opted_out=9, clicked=1), "b": Result(10, 10, clicked=1)}, "a"),
        ({"a": Result(10, 10, clicked=0), "b": Result(10, 0, clicked=0), "c": Result(10, 1, clicked=0)}, "a"),
        ({"a": Result(10, 0), "b": Result(10, 1), "c": Result(10, 0)}, "b"),
    ],
)
def test_by_clicks_the_largest_share_of_who_followed_a_link_wins(results: dict[str, Result], best: str) -> None:
    by_clicks = Winner(by="most_clicks", after_hours=4)
    assert winner(TRIAL.model_copy(update={"winner": by_clicks}), results) == best


def test_the_best_is_chosen_after_the_first_could_leave() -> None:
    sunday = datetime(2026, 11, 29, 9, tzinfo=UTC)
    never = sunday + timedelta(days=99)
    for minutes, decided in (
        (None, datetime(2026, 11, 30, 11, tzinfo=UTC)),
        (60, datetime(2026, 11, 30, 12, tzinfo=UTC)),
    ):
        table = Timetable(Timing(spread_minutes=minutes), "FR", sunday, sunday, never, load("france"))
        assert TRIAL.decided_at(table) == decided


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
