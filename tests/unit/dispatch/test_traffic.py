"""Which gateway a message takes as they are doing, and how many may go."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from common.contracts.campaign import Category
from dispatch.gateways import HTTP_PROVIDERS, Account, HttpGateway, gateway_name
from dispatch.gateways.pool import Rates, Traffic
from dispatch.gateways.routing import Route
from dispatch.lane import Lane

CHEAP, TWIN, DEAR = "simulator", "simulator.twin", "simulator.dear"
ROUTES = [Route(CHEAP), Route(DEAR, categories=frozenset({"marketing"}), price=Decimal(1))]


def _gateway(account: str) -> HttpGateway:
    known = Account("simulator", account, secret="a-token", url="http://127.0.0.1:9")
    return HttpGateway(gateway_name("simulator", account), HTTP_PROVIDERS["simulator"], known, timeout_s=1.0)


@pytest.fixture
async def traffic() -> AsyncIterator[Traffic]:
    rates = {CHEAP: Rates(gateway=12.0, sender=4.0)}
    opened = Traffic([_gateway("main"), _gateway("dear")], ROUTES, rates, partitions=6)
    yield opened
    await opened.close()


@dataclass
class Way:
    gateway: str | None
    exists: bool
    until: datetime | None = None
    needs_somebody: bool = False


def _way(traffic: Traffic, category: Category = "marketing", oadc: str = "LUNE", blocked: tuple[str, ...] = ()) -> Way:
    ways = traffic.ways(territory="FR", sender_id="lune", oadc=oadc, category=category, blocked=blocked)
    gateway = ways.of(UUID(int=1))
    return Way(gateway, ways.exist, ways.until, ways.needs_somebody)


async def test_a_message_avoids_a_gateway_with_an_open_breaker_and_waits_without_another_route(
    traffic: Traffic,
) -> None:
    assert _way(traffic).gateway == CHEAP
    traffic.failed(CHEAP, "unreachable")
    assert _way(traffic).gateway == DEAR
    code = _way(traffic, "transactional")
    assert (code.gateway, code.exists) == (None, True)
    assert code.until is not None
    assert code.until > datetime.now(UTC)
    assert not traffic.refuses_marketing
    traffic.pause(DEAR, 60.0, told=True)
    assert _way(traffic).gateway is None
    assert traffic.refuses_marketing


async def test_a_refused_sender_trips_the_breaker_of_that_sender_alone(traffic: Traffic) -> None:
    traffic.failed(CHEAP, "misconfigured", "LUNE")
    assert _way(traffic, oadc="LUNE").gateway == DEAR
    assert _way(traffic, oadc="SOLEIL").gateway == CHEAP


async def test_during_a_probe_a_message_with_another_route_takes_that_route(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic.failed(CHEAP, "unreachable")
    cooled = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: cooled)
    assert _way(traffic).gateway == CHEAP
    async with traffic.probes[CHEAP, Lane.MARKETING]:
        assert _way(traffic).gateway == DEAR
        only = Traffic([traffic.gateways[CHEAP]])
        assert not only.refuses_marketing
        only._health, only.probes = traffic._health, traffic.probes
        assert only.refuses_marketing, "no use in taking more"
    traffic.answered(CHEAP, [], 0.1)
    async with traffic.probes[CHEAP, Lane.MARKETING]:
        assert _way(traffic).gateway == CHEAP


async def test_a_message_without_another_route_waits_for_the_probe_of_its_own_lane(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Traffic([*traffic.gateways.values()], [Route(CHEAP), Route(DEAR, price=Decimal(1))])
    both.failed(CHEAP, "unreachable")
    cooled = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: cooled)
    async with both.probes[CHEAP, Lane.MARKETING]:
        assert _way(both, "transactional").gateway == CHEAP, "marketing probes: codes have a probe of their own"
    async with both.probes[CHEAP, Lane.TRANSACTIONAL]:
        assert _way(both, "transactional").gateway == DEAR
        both.pause(DEAR, 60.0, told=True)
        assert _way(both, "transactional").gateway == CHEAP, "and waits there"


def _answers(traffic: Traffic, gateway: str, latency_s: float) -> None:
    for _ in range(5):
        traffic.answered(gateway, [], latency_s)


async def test_who_is_much_slower_than_another_of_its_price_is_passed_over_for_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traffic = Traffic([_gateway("main"), _gateway("twin"), _gateway("dear")], [*ROUTES, Route(TWIN)])

    def taken() -> set[str | None]:
        ways = traffic.ways(territory="FR", sender_id="lune", oadc="LUNE", category="marketing")
        return {ways.of(UUID(int=n)) for n in range(50)}

    _answers(traffic, CHEAP, 0.9)
    assert taken() == {CHEAP, TWIN}, "there is nothing to compare it with"
    _answers(traffic, TWIN, 0.1)
    assert taken() == {CHEAP, TWIN}
    passed_over = {"gateway": CHEAP}
    before = REGISTRY.get_sample_value("sms_dispatch_gateway_slow_total", passed_over)
    _answers(traffic, CHEAP, 0.9)
    assert taken() == {TWIN}
    assert REGISTRY.get_sample_value("sms_dispatch_gateway_slow_total", passed_over) == (before or 0) + 1
    assert REGISTRY.get_sample_value("sms_dispatch_gateway_latency_seconds", passed_over) == pytest.approx(0.9)
    traffic.failed(TWIN, "unreachable")
    assert taken() == {CHEAP}, "slow beats an open breaker, and a dearer route"
    traffic.answered(TWIN, [], 0.1)
    a_minute_later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: a_minute_later)
    assert taken() == {CHEAP, TWIN}
    await traffic.close()


async def test_nobody_is_slow_beside_one_of_another_price(traffic: Traffic) -> None:
    _answers(traffic, DEAR, 0.01)
    _answers(traffic, CHEAP, 0.9)
    assert _way(traffic).gateway == CHEAP


async def test_what_waits_for_a_gateway_does_not_come_back_at_once(traffic: Traffic) -> None:
    traffic.pause(CHEAP, 40.0, told=True)
    now = datetime.now(UTC)
    ways = traffic.ways(territory="FR", sender_id="lune", oadc="LUNE", category="transactional")
    back = sorted((ways.again(now) - now).total_seconds() for _ in range(100))
    assert back[0] >= 39.9, "not before it may"
    assert 45.0 < back[-1] <= 50.1


async def test_somebody_is_needed_where_no_way_comes_back_by_itself(traffic: Traffic) -> None:
    traffic.failed(CHEAP, "misconfigured")
    assert not _way(traffic).needs_somebody, "it has another way"
    assert _way(traffic, "transactional").needs_somebody, "it has not, though that gateway is open to others"
    traffic.failed(DEAR, "unreachable")
    assert not _way(traffic).needs_somebody, "that one may come back"
    traffic.pause(CHEAP, 60.0, told=True)
    assert not _way(traffic, "transactional").needs_somebody, "it says itself when"


async def test_somebody_is_needed_by_a_sender_whose_name_is_refused_wherever_it_may_go(traffic: Traffic) -> None:
    for gateway in (CHEAP, DEAR):
        traffic.failed(gateway, "misconfigured", "LUNE")
    assert _way(traffic, oadc="LUNE").needs_somebody
    assert not _way(traffic, oadc="SOLEIL").needs_somebody
    traffic.failed(CHEAP, "unreachable")
    traffic.pause(CHEAP, 60.0, told=True)
    assert not _way(traffic, oadc="LUNE").needs_somebody, "of what keeps it from a gateway, what does for longest"


async def test_a_receipt_says_that_somebody_is_needed_of_a_gateway_or_of_a_sender_on_it(traffic: Traffic) -> None:
    now, alerts = datetime.now(UTC), {"gateway": CHEAP}
    before = REGISTRY.get_sample_value("sms_dispatch_gateway_alerts_total", alerts) or 0
    assert traffic.misconfigured_after_all(CHEAP, now, "LUNE")
    traffic.answered(CHEAP, ["LUNE"], 0.1)
    assert _way(traffic, oadc="LUNE").gateway == DEAR, "what was in flight is answered well, as all that it took"
    assert _way(traffic, oadc="SOLEIL").gateway == CHEAP
    assert not traffic.misconfigured_after_all(CHEAP, now, "LUNE")
    assert not traffic.misconfigured_after_all(CHEAP, now - timedelta(days=1))
    assert not traffic.misconfigured_after_all("of-yesterday", now)
    assert traffic.misconfigured_after_all(CHEAP, now)
    assert _way(traffic, "transactional", oadc="SOLEIL").needs_somebody
    assert REGISTRY.get_sample_value("sms_dispatch_gateway_alerts_total", alerts) == before + 2


async def test_each_trip_of_a_breaker_is_counted_by_its_cause(traffic: Traffic) -> None:
    """Who is out of reach comes back, who needs somebody does not: they are two alerts."""

    def trips(reason: str) -> float:
        told = {"gateway": CHEAP, "reason": reason}
        return REGISTRY.get_sample_value("sms_dispatch_gateway_trips_total", told) or 0

    reasons = ("unreachable", "unanswered", "misconfigured")
    before = {reason: trips(reason) for reason in reasons}
    traffic.failed(CHEAP, "misconfigured", "LUNE")
    traffic.failed(CHEAP, "unreachable")
    assert traffic.misconfigured_after_all(CHEAP, datetime.now(UTC))
    assert [trips(reason) - before[reason] for reason in reasons] == [1, 0, 2]


async def test_where_each_gateway_needs_somebody_more_is_taken_so_that_its_campaign_is_told(traffic: Traffic) -> None:
    for gateway in (CHEAP, DEAR):
        assert not traffic.refuses_marketing
        traffic.failed(gateway, "misconfigured")
    assert not traffic.refuses_marketing
    alone = Traffic([traffic.gateways[CHEAP]])
    alone.failed(CHEAP, "unreachable")
    assert alone.refuses_marketing


async def test_a_gateway_that_is_closed_to_the_person_is_no_way_and_where_all_are_the_gate_has_to_say_so(
    traffic: Traffic,
) -> None:
    assert _way(traffic, blocked=(CHEAP,)).gateway == DEAR
    assert _way(traffic, "transactional", blocked=(CHEAP,)).gateway == CHEAP


async def test_a_text_goes_by_a_gateway_that_can_write_it_or_by_none(traffic: Traffic) -> None:
    plain, dear = traffic.gateways[CHEAP], traffic.gateways[DEAR]
    plain.capabilities = replace(plain.capabilities, unicode=False, segments=2)
    both = Traffic([plain, dear], ROUTES)
    for text, unfit in (
        ("Soldes chez Lune, 5 € offerts. STOP 36111", set()),
        ("Soldes d’été chez Lune. STOP 36111", {CHEAP}),
        ("L" * 306, set()),
        ("L" * 307, {CHEAP}),
    ):
        assert both.unfit(text) == unfit
    wanted: dict[Category, str | None] = {"marketing": DEAR, "transactional": None}
    for category, gateway in wanted.items():
        ways = both.ways(territory="FR", sender_id="lune", oadc="LUNE", category=category, unfit={CHEAP})
        assert (ways.of(UUID(int=1)), ways.exist) == (gateway, gateway is not None)


async def test_a_text_that_lacks_a_stop_mention_goes_by_who_adds_one(traffic: Traffic) -> None:
    adds, dear = traffic.gateways[CHEAP], traffic.gateways[DEAR]
    adds.capabilities = replace(adds.capabilities, adds_stop=True)
    both = Traffic([adds, dear], ROUTES)
    assert both.unfit("Soldes", lacks_stop=True) == {DEAR}
    assert both.unfit("Soldes") == set()
    both.failed(CHEAP, "misconfigured")
    ways = both.ways(territory="FR", sender_id="lune", oadc="LUNE", category="marketing", unfit={DEAR})
    assert (ways.of(UUID(int=1)), ways.exist, ways.needs_somebody) == (None, True, True)


async def test_where_each_gateway_takes_all_texts_none_is_looked_at(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked of each message."""
    monkeypatch.setattr("dispatch.gateways.pool.length", None)
    assert traffic.unfit("’" * 900) == set()


async def test_what_no_route_is_for_has_no_way(traffic: Traffic) -> None:
    only = Traffic([*traffic.gateways.values()], [Route(CHEAP, territories=frozenset({"RE"}))])
    assert _way(only) == Way(None, exists=False)


async def test_a_process_that_no_partition_is_assigned_to_yet_sends_as_with_one(traffic: Traffic) -> None:
    """It wakes what is due meanwhile, as do the others that start with it."""
    when = traffic.admit(CHEAP, ["LUNE", "SOLEIL", "ETOILE"])
    assert [at is None for at in when] == [True, True, False], "a sixth of 12 a second"


async def test_a_process_sends_its_partitions_part_of_a_rate_and_the_rest_comes_back_in_turn(traffic: Traffic) -> None:
    traffic.holds(3, 6)  # of 6: half of 12 a second, and of 4 for each sender
    when = traffic.admit(CHEAP, ["LUNE"] * 3 + ["SOLEIL"] * 3 + ["ETOILE"] * 3)
    assert [at is None for at in when] == [True, True, False] * 3
    assert traffic.admit(DEAR, ["LUNE"] * 50) == [None] * 50
    later = [at for at in traffic.admit(CHEAP, ["LUNE"] * 4) if at is not None]
    assert len(later) == 4
    gaps = [(b - a).total_seconds() for a, b in pairwise(later)]
    assert all(abs(gap - 0.5) < 0.05 for gap in gaps), "at two a second"
