"""A timer: run a task at once after a NOTIFY or while work is left, else at an interval.

A failed tick is logged and tried again, for ever.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from common.db.database import Database
from common.db.notify import Listener, either
from common.telemetry import counter

log = logging.getLogger(__name__)

FAILED = counter("sms_timer_failures_total", "Failed runs of a timer; the timer tries again.", ["timer"])
BACK_OFF_S = (0.2, 10.0)

# CLOCK_BOOTTIME (Linux) runs on during a suspension, as do other machines.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime_s() -> float:
    """Return the seconds since boot: the clock of permits."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Worker:
    """A loop that runs until the event is set."""

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Timer:
    """A task, called again at once while `tick` returns True (work was done), else after `every_s`.

    `idle_s`: the longest interval, to which it doubles while no tick finds work. `channel`: a NOTIFY which wakes the
    timer; `heard` gets the payload first.
    """

    name: str
    tick: Callable[[], Awaitable[bool]]
    every_s: float
    database: Database
    channel: str | None = None
    heard: Callable[[str], None] | None = None
    idle_s: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        woken = asyncio.Event()

        def wake(payload: str) -> None:
            if self.heard is not None:
                self.heard(payload)
            woken.set()

        listening = Listener(self.database, self.channel, wake) if self.channel else contextlib.nullcontext()
        failures, rest_s, longest_s = 0, self.every_s, self.idle_s or self.every_s
        async with listening:
            while not stop.is_set():
                woken.clear()
                try:
                    again = await self.tick()
                    failures = 0
                except Exception:
                    failures += 1
                    FAILED.labels(self.name).inc()
                    if failures in (1, 10, 100):
                        log.exception("timer failed, trying again", extra={"timer": self.name, "failures": failures})
                    await either(stop, None, min(BACK_OFF_S[0] * 2 ** min(failures, 8), BACK_OFF_S[1]))
                    continue
                if again:
                    rest_s = self.every_s
                    continue
                await either(stop, woken if self.channel else None, rest_s)
                rest_s = self.every_s if woken.is_set() else min(2 * rest_s, longest_s)
