"""The gateway pool: the configured gateways, their health, and the messages each may take now.

Health and rates belong to this process and die with it.
"""

import asyncio
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Protocol, get_args, runtime_checkable
from uuid import UUID

from common.contracts.campaign import Category
from common.db.timer import Worker
from common.sms.sms_length import MAX_SEGMENTS, UCS2_PART, length
from common.telemetry import counter, gauge
from dispatch.gateways import Gateway
from dispatch.gateways import circuit_breaker as healths
from dispatch.gateways import token_bucket as buckets
from dispatch.gateways.circuit_breaker import BreakerState, Failure, Health
from dispatch.gateways.gateway import Capabilities
from dispatch.gateways.routing import Route, cheapest, choose, ways
from dispatch.gateways.token_bucket import Bucket
from dispatch.lane import Lane, lane_of

TRIPS = counter(
    "sms_dispatch_gateway_trips_total",
    "Trips of the circuit breaker of a gateway, or of a sender on the gateway, by cause.",
    ["gateway", "reason"],
)
ERRORS = gauge("sms_dispatch_gateway_errors_ratio", "Of the last requests, those that got no answer.", ["gateway"])
LATENCY = gauge(
    "sms_dispatch_gateway_latency_seconds", "Of the last submits that got an answer, how long.", ["gateway"]
)
SLOW = counter(
    "sms_dispatch_gateway_slow_total",
    "Times that a gateway was passed over for a minute, being much slower than another of its price.",
    ["gateway"],
)
ALERTS = counter(
    "sms_dispatch_gateway_alerts_total",
    "Submits and DLRs that report a gateway account refused for its credentials, credit or sender: a person"
    " has to act.",
    ["gateway"],
)

NONE: frozenset[str] = frozenset()
SPREAD = 0.25  # largest share of a wait added at random


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages a second, over all processes: of the gateway, and of each sender there."""

    gateway: float | None = None
    sender: float | None = None


@dataclass(frozen=True, slots=True)
class Ways:
    """The routes open to messages of one kind now, all at the same price.

    Without `gateways`, no route exists, or every breaker is open until `until`.
    """

    gateways: Sequence[Route]
    exist: bool
    until: datetime | None = None
    needs_somebody: bool = False

    def of(self, message_id: UUID) -> str | None:
        return choose(self.gateways, message_id)

    def again(self, now: datetime) -> datetime:
        """Return when a waiting message is decided again: at random, not before `until`."""
        wait = (self.until or now) - now
        return now + wait * random.uniform(1.0, 1.0 + SPREAD)  # noqa: S311 as `_jitter`


@runtime_checkable
class Standing(Protocol):
    """A gateway with connections that stand also while nothing is sent."""

    name: str

    async def run(self, stop: asyncio.Event) -> None:
        """Hold the connections; return once `stop` is set, and leave them to `close`."""
        ...


class Traffic:
    """The gateway pool of one process and lane.

    Its share of each limit is limit x `part` of the lane x partitions held / partitions. A process without partitions
    wakes due messages, so it counts as holding one.
    """

    def __init__(
        self,
        gateways: Sequence[Gateway],
        routes: Sequence[Route] = (),
        rates: Mapping[str, Rates] | None = None,
        partitions: int = 1,
        part: float = 1.0,
    ) -> None:
        self.gateways = {gateway.name: gateway for gateway in gateways}
        self.probes = {  # held by the probe of a half-open gateway, per lane: no code waits for marketing
            (name, lane): asyncio.Semaphore(1) for name in self.gateways for lane in Lane
        }
        self.adding_stop = frozenset(name for name, each in self.gateways.items() if each.capabilities.adds_stop)
        self._segments = {name: each.capabilities.segments for name, each in self.gateways.items()}
        self._fewest_segments = min(self._segments.values(), default=MAX_SEGMENTS)
        self._gsm7_only = frozenset(name for name, each in self.gateways.items() if not each.capabilities.unicode)
        self._routes = routes or [Route(name) for name in self.gateways]
        self._equals = {name: _others_of_its_price(name, self._routes) for name in self.gateways}
        self._rates = rates or {}
        self._part = part
        self.holds(0, partitions)
        self._health: dict[tuple[str, str], Health] = {}  # by gateway and OADC; "" is the whole gateway
        self._buckets: dict[tuple[str, str], Bucket] = {}
        for name in self.gateways:  # from 0, so that the first event is an increase
            for metric in (ALERTS, SLOW, ERRORS, LATENCY):
                metric.labels(name)
            for reason in get_args(Failure):
                TRIPS.labels(name, reason)

    def holds(self, partitions: int, of: int) -> None:
        """Set how many partitions this process reads, of so many."""
        self._share = self._part * max(1, partitions) / of

    @property
    def refuses_marketing(self) -> bool:
        """Return whether no gateway takes marketing now.

        False when every gateway waits for a person: the next messages then say so, and their campaign is paused.
        """
        if any(self._takes(name, Lane.MARKETING) for name in self.gateways):
            return False
        now = time.monotonic()
        return not all(healths.needs_somebody(self._of(name), now) for name in self.gateways)

    def breaker(self, name: str) -> BreakerState:
        return healths.state(self._of(name), time.monotonic())

    def unfit(self, text: str, *, lacks_stop: bool = False) -> frozenset[str]:
        """Return the gateways ineligible for this text: too long, not GSM 7-bit, or a STOP mention not added."""
        unfit = frozenset(self.gateways) - self.adding_stop if lacks_stop else NONE
        fewest = self._fewest_segments
        may_be_too_long = fewest < MAX_SEGMENTS and len(text) > fewest * (UCS2_PART // 2)
        if not may_be_too_long and not self._gsm7_only:
            return unfit
        counted = length(text)
        unfit |= frozenset(name for name, most in self._segments.items() if most < counted.segments)
        return unfit | self._gsm7_only if counted.encoding == "UCS2" else unfit

    def takers(
        self, territory: str, sender_id: str, category: Category, unfit: Collection[str]
    ) -> Sequence[Capabilities]:
        """Return the gateways with a route for such messages, open or not, without those `unfit` for the text."""
        found = ways(self._routes, territory=territory, sender_id=sender_id, category=category)
        names = {route.gateway for route in found if route.gateway not in unfit}
        return [self.gateways[name].capabilities for name in names]

    def ways(
        self,
        *,
        territory: str,
        sender_id: str,
        oadc: str,
        category: Category,
        unfit: Collection[str] = (),
        blocked: Collection[str] = (),
    ) -> Ways:
        """Return the routes for a message now, without gateways `unfit` for the text or `blocked` for the person."""
        now = time.monotonic()

        def health(name: str) -> Health:
            return max(self._of(name), self._of(name, oadc), key=attrgetter("open_until"))

        found = ways(self._routes, territory=territory, sender_id=sender_id, category=category)
        found = [route for route in found if route.gateway not in unfit]
        if not found:
            return Ways((), exist=False)
        found = [route for route in found if route.gateway not in blocked] or found  # all blocked: the gate denies
        may_go = {route.gateway for route in found if healths.may_go(health(route.gateway), now)}
        # during a probe a message takes another route, or waits for the end of the probe
        lane = lane_of(category)
        equals = cheapest(found, lambda gateway: gateway in may_go and self._takes(gateway, lane))
        equals = equals or cheapest(found, lambda gateway: gateway in may_go)
        if not equals:
            refusing = [health(route.gateway) for route in found]
            wait_s = min(each.open_until for each in refusing) - now
            return Ways(
                (),
                exist=True,
                until=datetime.now(UTC) + timedelta(seconds=max(0.0, wait_s)),
                needs_somebody=all(healths.needs_somebody(each, now) for each in refusing),
            )
        if len(equals) > 1:  # a slow gateway beats no gateway
            equals = [way for way in equals if not healths.is_slow(self._of(way.gateway), now)] or equals
        return Ways(equals, exist=True)

    def counted(self, name: str, answered: int, failed: int) -> None:
        """Count the messages of one submit; a request counts once."""
        if answered + failed == 0:
            return
        many = min(answered + failed, self.gateways[name].capabilities.batch)
        self._health[name, ""] = health = healths.counted(self._of(name), answered / many, failed / many)
        ERRORS.labels(name).set(health.error_rate)

    def answered(self, name: str, oadcs: Collection[str], latency_s: float) -> None:
        """Record the answers to a submit, already `counted`."""
        now = time.monotonic()
        health = healths.answered(self._of(name), now, latency_s)
        known = [took_s for each in self._equals[name] if (took_s := healths.latency(self._of(each), now)) is not None]
        compared = healths.compared(health, now, min(known, default=None), self.gateways[name].timeout_s)
        if compared != health:
            SLOW.labels(name).inc()
        self._health[name, ""] = compared
        for oadc in oadcs:
            if (of_sender := self._health.get((name, oadc))) is not None:
                self._health[name, oadc] = healths.answered(of_sender, now, latency_s)
        LATENCY.labels(name).set(compared.latency_s)

    def failed(self, name: str, failure: Failure, oadc: str = "") -> None:
        """Record a failed submit, already `counted`, of the sender `oadc` if any."""
        now = time.monotonic()
        before = self._of(name, oadc)
        health = healths.failed(before, failure, now, _jitter())
        self._health[name, oadc] = health
        if health.open_until > before.open_until:
            TRIPS.labels(name, failure).inc()
        if failure == "misconfigured":
            ALERTS.labels(name).inc()

    def misconfigured_after_all(self, name: str, handed_off_at: datetime, oadc: str = "") -> bool:
        """Trip the breaker for a DLR (`receipt_codes`); return whether it tripped."""
        if name not in self.gateways:
            return False
        now = time.monotonic()
        asked_at = now - (datetime.now(UTC) - handed_off_at).total_seconds()
        before = self._of(name, oadc)
        self._health[name, oadc] = health = healths.misconfigured_after_all(before, asked_at, now, _jitter())
        if health == before:
            return False
        TRIPS.labels(name, "misconfigured").inc()
        ALERTS.labels(name).inc()
        return True

    def pause(self, name: str, after_s: float, *, told: bool) -> None:
        """Pause a gateway at the operator's request. `told`: the operator named the length."""
        before, now = self._of(name), time.monotonic()
        self._health[name, ""] = healths.pause(before, now, after_s, _jitter(), told=told)

    def admit(self, name: str, oadcs: Sequence[str]) -> list[datetime | None]:
        """Return per message: `None` when the message may go now, else when it may return."""
        rates, share, now = self._rates.get(name, Rates()), self._share, time.monotonic()
        limits = {"": rates.gateway, **dict.fromkeys(oadcs, rates.sender)}
        limited = {key: limit * share for key, limit in limits.items() if limit is not None}
        if not limited:
            return [None] * len(oadcs)
        answers: list[datetime | None] = []
        for oadc in oadcs:
            keys = [key for key in ("", oadc) if key in limited]
            held = {key: self._buckets.get((name, key)) or buckets.full(limited[key], now) for key in keys}
            taken = {key: buckets.take(held[key], limited[key], 1, now) for key in keys}
            if all(may for _, may in taken.values()):
                self._buckets |= {(name, key): bucket for key, (bucket, _) in taken.items()}
                answers.append(None)
                continue
            late = min((key for key, (_, may) in taken.items() if not may), key=limited.__getitem__)  # the lowest rate
            self._buckets[name, late], at = buckets.place(held[late], limited[late], now)
            answers.append(datetime.now(UTC) + timedelta(seconds=at - now))
        return answers

    def workers(self) -> list[Worker]:
        """Return what holds the connections of gateways that hear operators by them."""
        standing = [gateway for gateway in self.gateways.values() if isinstance(gateway, Standing)]
        return [Worker(f"connections of {gateway.name}", gateway.run) for gateway in standing]

    async def close(self) -> None:
        for gateway in self.gateways.values():
            await gateway.close()

    def _takes(self, name: str, lane: Lane) -> bool:
        state = self.breaker(name)
        return state == "closed" or (state == "half_open" and not self.probes[name, lane].locked())

    def _of(self, name: str, oadc: str = "") -> Health:
        return self._health.get((name, oadc), Health())


def _others_of_its_price(name: str, routes: Sequence[Route]) -> frozenset[str]:
    prices = {route.price for route in routes if route.gateway == name}
    return frozenset(route.gateway for route in routes if route.price in prices) - {name}


def _jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311 replicas must not return all at once
