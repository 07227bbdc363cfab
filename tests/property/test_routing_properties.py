"""Routing, health and rates: what holds for any routes, any history of a gateway, any load."""

from decimal import Decimal
from typing import Literal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from common.contracts.inbound import ReceiptState
from dispatch.gateways import circuit_breaker as health
from dispatch.gateways import token_bucket as rates
from dispatch.gateways.circuit_breaker import Failure, Health
from dispatch.gateways.routing import Route, cheapest, choose, stop_unanswered, ways
from dispatch.sending.receipts import RANK, advances

NAMES = ("cheap", "dear", "island", "codes")
TERRITORIES = ("FR", "RE", "BE")
CATEGORIES = ("marketing", "transactional")

routes_of_some = st.lists(
    st.builds(
        Route,
        gateway=st.sampled_from(NAMES),
        territories=st.frozensets(st.sampled_from(TERRITORIES)),
        senders=st.frozensets(st.sampled_from(("lune", "soleil"))),
        categories=st.frozensets(st.sampled_from(CATEGORIES)),
        price=st.sampled_from((Decimal("0.03"), Decimal("0.05"))),
        weight=st.integers(1, 5),
    ),
    max_size=6,
)
ids = st.uuids()
closed_ones = st.frozensets(st.sampled_from(NAMES))


@given(routes_of_some, st.sampled_from(TERRITORIES), st.sampled_from(CATEGORIES), ids, closed_ones)
def test_a_message_goes_by_the_cheapest_gateway_that_is_for_it_and_open(
    routes: list[Route], territory: str, category: str, identity: UUID, closed: frozenset[str]
) -> None:
    found = ways(routes, territory=territory, sender_id="lune", category=category)
    chosen = choose(cheapest(found, lambda name: name not in closed), identity)
    fits = [
        r
        for r in routes
        if territory in (r.territories or TERRITORIES)
        and "lune" in (r.senders or {"lune"})
        and category in (r.categories or CATEGORIES)
        and r.gateway not in closed
    ]
    if not fits:
        assert chosen is None
        return
    assert chosen in {r.gateway for r in fits if r.price == min(f.price for f in fits)}
    assert chosen == choose(cheapest(found, lambda name: name not in closed), identity), "asked again, the same"


SENDERS = ("lune", "soleil")
ELSEWHERE, ANOTHER = "JP", "etoile"  # named by no route
any_routes = st.lists(
    st.builds(
        Route,
        gateway=st.sampled_from(NAMES),
        territories=st.frozensets(st.sampled_from(TERRITORIES), max_size=2),
        senders=st.frozensets(st.sampled_from(SENDERS), max_size=1),
        categories=st.frozensets(st.sampled_from((*CATEGORIES, "service"))),
    ),
    max_size=6,
)


@given(any_routes, st.frozensets(st.sampled_from(NAMES)))
def test_a_stop_is_answered_wherever_marketing_goes_or_the_first_place_without_is_named(
    routes: list[Route], able: frozenset[str]
) -> None:
    def answered(territory: str, sender_id: str) -> bool:
        found = ways(routes, territory=territory, sender_id=sender_id, category="service")
        return any(route.gateway in able for route in found)

    lacking = stop_unanswered(routes, able)
    if lacking is not None:
        territory, sender_id = lacking.territory or ELSEWHERE, lacking.sender_id or ANOTHER
        goes = ways(routes, territory=territory, sender_id=sender_id, category="marketing")
        assert lacking.gateway in {route.gateway for route in goes}
        assert not answered(territory, sender_id)
        return
    for territory in (*TERRITORIES, ELSEWHERE):
        for sender_id in (*SENDERS, ANOTHER):
            if ways(routes, territory=territory, sender_id=sender_id, category="marketing"):
                assert answered(territory, sender_id)


@given(st.lists(st.sampled_from(NAMES), min_size=2, unique=True), ids, st.sampled_from(NAMES))
def test_when_a_gateway_closes_only_its_own_messages_move(names: list[str], identity: UUID, closing: str) -> None:
    routes = [Route(name) for name in names]
    before = choose(cheapest(routes, lambda name: True), identity)
    after = choose(cheapest(routes, lambda name: name != closing), identity)
    assert after == before or before == closing


def test_weights_share_the_messages() -> None:
    routes = [Route("cheap", weight=3), Route("dear", weight=1)]
    drawn = [choose(cheapest(routes, lambda name: True), UUID(int=n)) for n in range(4000)]
    assert 0.70 < drawn.count("cheap") / len(drawn) < 0.80


def _asked(state: Health, kind: Failure | Literal["answered"], now: float, jitter: float = 1.0) -> Health:
    """One request, and how it ended."""
    if kind == "answered":
        return health.answered(health.counted(state, 1, 0), now, 0.1)
    return health.failed(health.counted(state, 0, 1), kind, now, jitter)


events = st.lists(
    st.tuples(st.sampled_from(("answered", "unreachable", "unanswered", "misconfigured")), st.floats(0, 60)),
    max_size=60,
)


@given(events, st.floats(0.5, 1.0))
def test_no_cool_down_is_longer_than_its_cause_allows_and_each_ends(
    history: list[tuple[Failure | Literal["answered"], float]], jitter: float
) -> None:
    state, now = Health(), 0.0
    for kind, passed in history:
        now += passed
        before, state = state, _asked(state, kind, now, jitter)
        if kind == "answered":
            assert state.open_until == before.open_until, "an answer opens no breaker"
        else:
            longest = 300.0 if kind == "misconfigured" else 30.0
            assert state.open_until <= max(before.open_until, now + longest)
        assert 0 <= state.error_rate <= 1
    assert health.may_go(state, now + 300.0)


@given(events, st.floats(0.5, 1.0))
def test_after_a_cool_down_the_breaker_is_half_open_until_an_answer_or_another_trip(
    history: list[tuple[Failure | Literal["answered"], float]], jitter: float
) -> None:
    state, now, tripped = Health(), 0.0, False
    for kind, passed in history:
        now += passed
        is_open = now < state.open_until
        assert health.state(state, now) == ("open" if is_open else "half_open" if tripped else "closed")
        before, state = state.open_until, _asked(state, kind, now, jitter)
        if kind == "answered":
            tripped &= is_open
        else:
            assert state.open_until > now or not tripped, "one failure trips again"
            tripped |= state.open_until > before


def test_a_receipt_trips_the_breaker_of_a_gateway_that_answers_and_an_earlier_receipt_does_not() -> None:
    state = health.answered(Health(), 0.0, 0.1)
    state = health.misconfigured_after_all(state, 0.0, 5.0, 1.0)
    assert health.needs_somebody(state, 5.0)
    assert state.open_until == 305.0
    assert health.misconfigured_after_all(state, 4.0, 6.0, 1.0) == state, "what was on its way"
    acted = health.answered(state, 306.0, 0.1)
    assert health.state(acted, 306.0) == "closed"
    assert health.misconfigured_after_all(acted, 4.0, 307.0, 1.0) == acted, "a late one"
    again = health.misconfigured_after_all(acted, 306.0, 307.0, 1.0)
    assert again.open_until == 607.0, "nobody has acted: for as long as before"


def test_what_a_receipt_of_yesterday_says_of_a_gateway_is_not_of_today() -> None:
    state = health.answered(Health(), 86_400.0, 0.1)
    assert health.misconfigured_after_all(state, 85_000.0, 86_400.0, 1.0) == state
    assert health.misconfigured_after_all(state, 86_000.0, 86_400.0, 1.0) != state


def test_an_unreachable_gateway_trips_at_once_and_each_cool_down_is_twice_as_long() -> None:
    state, now, cool_downs = Health(), 0.0, []
    for _ in range(7):
        state = health.failed(state, "unreachable", now, 1.0)
        cool_downs.append(state.open_until - now)
        now = state.open_until
    assert cool_downs == [1, 2, 4, 8, 16, 30, 30]
    assert not health.may_go(health.failed(state, "unreachable", now, 1.0), now)
    state = health.answered(state, now, 0.1)
    assert health.failed(state, "unreachable", now, 1.0).open_until - now == 1, "an answer forgets"


PAUSES = st.lists(st.tuples(st.floats(1, 300), st.booleans(), st.booleans(), st.floats(0, 400)), max_size=30)


@given(PAUSES, st.floats(0.5, 1.0))
def test_a_pause_ends_and_one_that_was_told_holds_to_the_second(
    asked: list[tuple[float, bool, bool, float]], jitter: float
) -> None:
    """How long, whether the operator said so, whether it has answered before, and how much later."""
    state, now = Health(), 0.0
    for after_s, told, answers, passed in asked:
        now += passed
        state = health.answered(state, now, 0.1) if answers else state
        before, state = state, health.pause(state, now, after_s, jitter, told=told)
        if told:
            assert state.open_until == max(before.open_until, now + after_s)
        else:
            assert state.open_until <= max(before.open_until, now + health.LONGEST_PAUSE_S)
        assert not health.may_go(state, now)
        assert health.state(state, state.open_until) == "half_open", "what waited does not come back as one"
        assert health.state(health.answered(state, state.open_until, 0.1), state.open_until) == "closed"


def test_who_asks_to_wait_and_not_for_how_long_is_left_alone_for_longer_each_time() -> None:
    state, now, pauses = Health(), 0.0, []
    for _ in range(8):
        state = health.pause(state, now, 1.0, 1.0, told=False)
        pauses.append(state.open_until - now)
        assert health.pause(state, now + 0.1, 1.0, 1.0, told=False) == state, "what was in flight with it"
        now = state.open_until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert health.pause(state, now, 1.0, 0.5, told=False).open_until - now == 30, "not all replicas at once"
    assert health.pause(state, now, 7.0, 0.5, told=True).open_until - now == 7, "it says so"
    state = health.answered(state, now, 0.1)
    assert health.pause(state, now, 1.0, 1.0, told=False).open_until - now == 1, "an answer forgets"


def test_failures_of_one_moment_are_one_trip() -> None:
    once = health.failed(Health(), "unreachable", 5.0, 1.0)
    assert health.failed(once, "unreachable", 5.1, 1.0).open_until == once.open_until


def test_a_lost_answer_now_and_then_closes_nothing_and_most_of_them_do() -> None:
    state = Health()
    for n in range(100):
        state = _asked(state, "unanswered" if n % 4 == 0 else "answered", n)
        assert health.may_go(state, n)
    for n in range(100, 130):
        state = _asked(state, "unanswered", n)
    assert not health.may_go(state, 129)


@given(st.integers(0, 40), st.integers(1, 200), st.floats(0, 1))
def test_what_is_asked_together_counts_as_much_as_one_after_the_other_whichever_fails(
    before: int, asked: int, share: float
) -> None:
    state = together = one_by_one = health.counted(Health(), before, 1)
    together = health.counted(state, asked * (1 - share), asked * share)
    for _ in range(asked):
        one_by_one = health.counted(one_by_one, 1 - share, share)
    assert abs(together.answered - one_by_one.answered) < 1e-6
    assert abs(together.failed - one_by_one.failed) < 1e-6


submits = st.lists(st.tuples(st.booleans(), st.floats(0, 8), st.floats(0, 30)), max_size=80)


@given(submits)
def test_who_is_slow_is_so_for_a_minute_and_beside_one_that_is_faster(taken: list[tuple[bool, float, float]]) -> None:
    """Of two of one price, each answer of one or the other: how long it took, and how much later."""
    states, now = {True: Health(), False: Health()}, 0.0
    for which, took_s, passed in taken:
        now += passed
        before, other = states[which], health.latency(states[not which], now)
        states[which] = after = health.compared(health.answered(before, now, took_s), now, other, 8.0)
        assert health.may_go(after, now), "slow closes nothing"
        if after.slow_until != before.slow_until:
            assert not health.is_slow(before, now), "not longer while it is"
            assert other is not None
            assert after.latency_s > max(2.0, 3 * other)
            assert not health.is_slow(after, now + 60.0)


def test_a_late_answer_makes_nobody_slow_and_late_ones_do_until_they_are_forgotten() -> None:
    def answers(state: Health, at: float, took_s: float, many: int) -> Health:
        for n in range(many):
            state = health.compared(health.answered(state, at + n / 10, took_s), at + n / 10, 0.1, 8.0)
        return state

    usual = answers(Health(), 0.0, 0.1, 10)
    assert not health.is_slow(answers(usual, 1.0, 8.0, 1), 1.0)
    slow = answers(usual, 1.0, 8.0, 4)
    assert health.is_slow(slow, 2.0)
    in_flight = answers(slow, 9.0, 8.0, 4)
    assert in_flight.slow_until == slow.slow_until
    assert not health.is_slow(answers(in_flight, 62.0, 0.1, 4), 63.0)
    assert health.is_slow(answers(in_flight, 62.0, 8.0, 4), 63.0)


def test_a_first_answer_may_take_its_time() -> None:
    state = health.compared(health.answered(Health(), 0.0, 4.0), 0.0, 0.1, 8.0)
    for n in range(1, 10):
        state = health.compared(health.answered(state, n, 0.1), n, 0.1, 8.0)
        assert not health.is_slow(state, n)


@given(
    st.floats(0.05, 200),
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 3)), min_size=1, max_size=40),
)
def test_no_more_than_the_rate_ever_goes(per_s: float, asked: list[tuple[int, float]]) -> None:
    now = 100.0
    bucket, gone, since = rates.full(per_s, now), 0, now
    for wanted, passed in asked:
        now += passed
        bucket, may = rates.take(bucket, per_s, wanted, now)
        assert 0 <= may <= wanted
        gone += may
        assert gone <= max(1.0, per_s) + (now - since) * per_s + 1e-6
    if asked[-1][0]:
        _, may = rates.take(bucket, per_s, 1, now + 1 / per_s)
        assert may == 1, "who waits for one place's time gets one"


@given(st.floats(0.05, 200), st.integers(1, 50))
def test_who_has_to_wait_comes_back_one_after_the_other(per_s: float, waiting: int) -> None:
    bucket, places = rates.full(per_s, 100.0), []
    for _ in range(waiting):
        bucket, at = rates.place(bucket, per_s, 100.0)
        places.append(at)
    gaps = [b - a for a, b in zip([100.0, *places], places, strict=False)]
    assert all(abs(gap - 1 / per_s) < 1e-6 for gap in gaps)


states = st.sampled_from(("queued", "sent", "delivered", "failed", "expired", "opted_out", "unknown"))


@given(st.lists(states, min_size=1, max_size=8))
def test_whoever_says_opted_out_is_heard_and_nothing_moves_back(told: list[ReceiptState]) -> None:
    standing: ReceiptState | None = None
    for state in told:
        before = standing
        if advances(standing, state):
            standing = state
        assert before is None or RANK[standing] >= RANK[before]
        assert not advances(standing, state), "a receipt that comes twice changes nothing"
    assert ("opted_out" in told) == (standing == "opted_out")
