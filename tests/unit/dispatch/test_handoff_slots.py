"""Who waits for a slot at the gateway, and for how long."""

import asyncio
import time
from typing import Any

from dispatch.pipeline import Handoff
from dispatch.traffic import Traffic


def _handoff() -> Handoff:
    nothing: Any = None  # a slot needs no database and no gate
    return Handoff(database=nothing, traffic=Traffic([]), clearance=nothing, submits_in_flight=1)


async def test_a_permit_that_has_lapsed_gets_no_slot_however_many_are_free() -> None:
    """Else its batch would take one, find that it has lapsed, and take one again: nothing else would ever run."""
    slots = asyncio.Semaphore(3)
    assert not await _handoff()._slot(slots, time.monotonic())
    assert not slots.locked()


async def test_a_permit_that_holds_gets_a_slot_that_is_free() -> None:
    slots = asyncio.Semaphore(1)
    assert await _handoff()._slot(slots, time.monotonic() + 60)
    assert slots.locked()
