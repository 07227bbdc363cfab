"""What is in hand leaves on its permits: the slower submits are, the fewer messages come."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from dispatch.sending.in_hand import TURNS_AHEAD, InHand, turns_ahead


@given(st.floats(0.0, 100.0), st.floats(0.1, 10.0))
def test_the_last_submit_in_hand_begins_within_half_of_a_permit(submit_s: float, permit_s: float) -> None:
    turns = turns_ahead(submit_s, permit_s)
    assert 1 <= turns <= TURNS_AHEAD
    assert turns == 1 or turns * submit_s <= permit_s / 2
    assert turns == TURNS_AHEAD or (turns + 1) * max(submit_s, 0.001) > permit_s / 2


def test_a_slow_gateway_leaves_room_for_the_others_and_any_may_always_come() -> None:
    hand = InHand(a_turn=5, all_slots=10)
    assert (hand.most, hand.at_once) == (20, 10)
    hand.submitted(30.0, 1.0)
    assert (hand.most, hand.at_once) == (10, 5)
    one = InHand(a_turn=1, all_slots=1)
    one.submitted(30.0, 1.0)
    assert (one.most, one.at_once, one.may_take) == (1, 1, 1)


def test_submits_that_are_fast_again_make_room_again() -> None:
    hand = InHand(a_turn=5, all_slots=5)
    hand.submitted(10.0, 1.0)
    assert hand.most == 5
    for _ in range(50):
        hand.submitted(0.02, 1.0)
    assert hand.most == 5 * TURNS_AHEAD


async def test_who_waits_for_room_goes_on_once_there_is_some() -> None:
    hand = InHand(a_turn=1, all_slots=1)
    with hand.holding(TURNS_AHEAD):
        assert hand.is_behind
        assert not hand.may_take
        waiting = asyncio.ensure_future(hand.room())
        assert await asyncio.wait({waiting}, timeout=0.01) == (set(), {waiting})
    await waiting
    assert hand.many == 0


def test_messages_that_are_read_and_not_decided_yet_are_not_read_twice() -> None:
    hand = InHand(a_turn=1, all_slots=1)
    with hand.deciding(TURNS_AHEAD):
        assert not hand.may_take
        assert not hand.is_behind, "the decision has the room"
    assert hand.may_take
