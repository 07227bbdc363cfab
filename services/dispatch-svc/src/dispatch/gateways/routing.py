"""The route of a message: country, sender and category filter, price ranks, weight shares.

Pure, without randomness: the choice is a hash of the message id, so a repeat gives the same gateway, and a gateway that
drops out moves only its own share (rendezvous hashing).
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Route:
    """The messages a gateway may take; an empty set means any.

    The cheaper `price` of an SMS goes first, in one currency for all routes; `weight` shares messages at the same
    price.
    """

    gateway: str
    territories: frozenset[str] = frozenset()
    senders: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    price: Decimal = Decimal(0)
    weight: int = 1


def ways(routes: Iterable[Route], *, territory: str, sender_id: str, category: str) -> list[Route]:
    """Return the routes open to a message, cheapest first."""
    found = [
        route
        for route in routes
        if (not route.territories or territory in route.territories)
        and (not route.senders or sender_id in route.senders)
        and (not route.categories or category in route.categories)
    ]
    return sorted(found, key=lambda route: route.price)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """People who get marketing by `gateway`, and no answer to their STOP. `None` means any."""

    gateway: str
    territory: str | None
    sender_id: str | None


def stop_unanswered(routes: Sequence[Route], able: Collection[str]) -> NoAnswer | None:
    """Return people whose STOP no route answers, if any. `able`: the gateways that take the longest answer.

    A route of marketing to any place, or of any sender, needs one of `service` for any.
    """
    answers = [route for route in routes if route.gateway in able and _is_for("service", route)]
    for route in routes:
        if not _is_for("marketing", route):
            continue
        for territory in _each_or_any(route.territories):
            for sender_id in _each_or_any(route.senders):
                if not any(
                    (not answer.territories or territory in answer.territories)
                    and (not answer.senders or sender_id in answer.senders)
                    for answer in answers
                ):
                    return NoAnswer(route.gateway, territory, sender_id)
    return None


def _each_or_any(named: frozenset[str]) -> Sequence[str | None]:
    return sorted(named) if named else [None]


def _is_for(category: str, route: Route) -> bool:
    return not route.categories or category in route.categories


def cheapest(ways: Sequence[Route], may_go: Callable[[str], bool]) -> list[Route]:
    """Return the cheapest routes among the gateways that `may_go`."""
    open_ways = [route for route in ways if may_go(route.gateway)]
    return [route for route in open_ways if route.price == open_ways[0].price]


def choose(equals: Sequence[Route], message_id: UUID) -> str | None:
    """Return the gateway for this message, if any."""
    if len(equals) < 2:
        return equals[0].gateway if equals else None
    return max(equals, key=lambda route: (_draw(message_id, route), route.gateway)).gateway


def _draw(message_id: UUID, route: Route) -> float:
    digest = blake2b(message_id.bytes + route.gateway.encode(), digest_size=8).digest()
    drawn = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)  # in (0, 1)
    return -route.weight / math.log(drawn)
