"""Which hand-offs of codes have begun, of which gateway, and who waits for them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from dispatch.gate.candidate import Permit, requested
from dispatch.sending.transactional import Codes
from tests.support import builders
from tests.support.eventually import eventually
from tests.support.ledger import message

HOME, ISLANDS = "simulator", "simulator.islands"


@dataclass
class Handing:
    """Hand-offs, which end when told to."""

    permits: list[Permit] = field(default_factory=list)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    async def send(self, permits: Sequence[Permit]) -> None:
        self.permits += permits
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


def _permit(gateway: str = HOME) -> Permit:
    candidate = requested(builders.requested(1, category="transactional"), 0)
    return Permit(candidate, builders.number(1), "Votre code", "LUNE", "36111", gateway, float("inf"), message())


async def _has_begun(handing: Handing, many: int) -> bool:
    return len(handing.permits) == many


async def test_each_gateway_has_its_own_slots() -> None:
    handing = Handing()
    codes = Codes(handing.send, (HOME, ISLANDS), slots=2)
    await codes.begin([_permit(), _permit()])
    assert codes.full == set(), "they leave together"
    await codes.begin([_permit(), _permit(ISLANDS)])
    assert codes.full == {HOME}
    async with asyncio.timeout(30):
        await codes.free()
    await codes.begin([_permit(ISLANDS)])
    assert codes.full == {HOME, ISLANDS}
    waiting = asyncio.ensure_future(codes.free())
    await eventually(lambda: _has_begun(handing, 5))
    assert not waiting.done()
    handing.may_end.set()
    await waiting
    await asyncio.wait(codes.going or [asyncio.ensure_future(codes.free())])
    assert codes.full == set()


async def test_who_begins_one_as_the_service_stops_waits_for_it_themselves() -> None:
    handing = Handing()
    codes = Codes(handing.send, (HOME,), slots=2)
    await codes.begin([_permit()])
    stopping = asyncio.ensure_future(codes.end())
    await eventually(lambda: _has_begun(handing, 1))
    late = asyncio.ensure_future(codes.begin([_permit()]))
    await eventually(lambda: _has_begun(handing, 2))
    assert not stopping.done()
    assert not late.done()
    assert len(codes.going) == 1
    handing.may_end.set()
    await stopping
    await late
    await codes.close()
    assert codes.going == []


async def test_what_failed_is_told_of_once() -> None:
    handing = Handing(error=ValueError("whatever"))
    handing.may_end.set()
    codes = Codes(handing.send, (HOME,), slots=1)
    await codes.begin([_permit()])
    with pytest.raises(ValueError, match="whatever"):
        await codes.free()
    await codes.free()
