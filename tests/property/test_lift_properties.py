"""The difference of two shares and its interval, for any two groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.results.lift import Lift, Share, lift, wilson


@st.composite
def shares(draw: st.DrawFn) -> Share:
    people = draw(st.integers(1, 10**7))
    return Share(draw(st.integers(0, people)), people)


def of(messaged: Share, held_out: Share) -> Lift:
    found = lift(messaged, held_out)
    assert found is not None
    return found


@given(shares())
def test_a_share_lies_within_its_own_interval_and_the_interval_within_none_and_all(share: Share) -> None:
    low, high = wilson(share)
    assert 0 <= low <= share.rate <= high <= 1
    assert low < high


@given(shares(), shares())
def test_the_difference_lies_within_its_interval_and_the_interval_within_what_is_possible(a: Share, b: Share) -> None:
    found = of(a, b)
    assert -1.000001 <= found.low <= found.difference <= found.high <= 1.000001


@given(shares(), shares())
def test_the_groups_exchanged_give_the_interval_exchanged(a: Share, b: Share) -> None:
    one, other = of(a, b), of(b, a)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))


@given(shares(), shares(), st.integers(2, 50))
def test_more_people_with_the_same_shares_narrow_the_interval(a: Share, b: Share, times: int) -> None:
    few = of(a, b)
    many = of(Share(a.converted * times, a.people * times), Share(b.converted * times, b.people * times))
    assert many.high - many.low < few.high - few.low


@given(shares())
def test_equal_groups_show_no_effect(share: Share) -> None:
    found = of(share, share)
    assert found.low < 0 < found.high
    assert found.difference == 0


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        (Share(56, 70), Share(48, 80), 0.0524, 0.3339),
        (Share(9, 10), Share(3, 10), 0.1705, 0.8090),
        (Share(10, 10), Share(0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_is_as_published(a: Share, b: Share, low: float, high: float) -> None:
    found = of(a, b)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_an_empty_group_compares_with_nothing() -> None:
    assert lift(Share(0, 0), Share(1, 2)) is lift(Share(1, 2), Share(0, 0)) is None
    assert of(Share(1, 2), Share(0, 2)).relative is None
    assert of(Share(3, 4), Share(1, 4)).relative == 2
