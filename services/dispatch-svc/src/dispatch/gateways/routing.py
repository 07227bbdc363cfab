"""By which gateway a message goes: country, sender and category say which may, price says which rather, weight shares.

Pure, and without dice: a message's draw is made of its id, so it is the same when asked again; when a gateway closes,
only its own share moves (rendezvous hashing: each gateway draws for itself, the highest has it).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Route:
    """What may go by a gateway; an empty set means any. `territories` as `common.sms.msisdn.territory_of` says them.
    `price` of an SMS, in whatever currency, so long as it is one; the cheaper goes first. `weight` among equals."""

    gateway: str
    territories: frozenset[str] = frozenset()
    senders: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    price: Decimal = Decimal(0)
    weight: int = 1


def ways(routes: Iterable[Route], *, territory: str, sender_id: str, category: str) -> list[Route]:
    """Those a message may take, the cheapest first."""
    found = [
        route
        for route in routes
        if (not route.territories or territory in route.territories)
        and (not route.senders or sender_id in route.senders)
        and (not route.categories or category in route.categories)
    ]
    return sorted(found, key=lambda route: route.price)


def cheapest(ways: Sequence[Route], may_go: Callable[[str], bool]) -> list[Route]:
    """Of those that may go at all, the ones of the lowest price."""
    open_ways = [route for route in ways if may_go(route.gateway)]
    return [route for route in open_ways if route.price == open_ways[0].price]


def choose(equals: Sequence[Route], message_id: UUID) -> str | None:
    """The gateway, of these; None where there is none."""
    if len(equals) < 2:
        return equals[0].gateway if equals else None
    return max(equals, key=lambda route: (_draw(message_id, route), route.gateway)).gateway


def _draw(message_id: UUID, route: Route) -> float:
    digest = blake2b(message_id.bytes + route.gateway.encode(), digest_size=8).digest()
    drawn = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)  # in (0, 1)
    return -route.weight / math.log(drawn)
