"""The binds of an account, kept open, and the places of their windows.

A bind is opened again as soon as its session ends or is of no use; after a failure with back-off, or at once when a
message asks, though not within RECONNECT_AFTER_S. Submits go by any session: a refused bind takes none, and all fail
only where no bind is held.

A message takes places of one window for all its parts before the first part leaves. Places go to codes and answers
first, then in the order of asking. Where both lanes share the binds, a share of the places is never marketing's.

Where the account's binds are shared with other processes, a bind is opened only while the lease covers it, and opened
again only once its last session has ended.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from common.db.notify import either
from common.db.timer import uptime_s
from common.telemetry import counter, gauge
from dispatch.gateways.by_smpp import pdu
from dispatch.gateways.by_smpp.leases import RENEW_S, Lease
from dispatch.gateways.by_smpp.session import BindRefused, Host, Login, Session
from dispatch.gateways.gateway import Misconfigured, SendError, Unreachable
from dispatch.lane import Lane

log = logging.getLogger(__name__)

BOUND = gauge(
    "sms_dispatch_smpp_bound_ratio", "Of the binds that this process keeps, the share that is held.", ["gateway"]
)
REFUSED = counter(
    "sms_dispatch_smpp_binds_refused_total", "Binds that the SMSC refused; the log has the status.", ["gateway"]
)

# below the breaker's cool-down, or a probe would meet the old failure
RECONNECT_AFTER_S = 0.25
BACK_OFF_S = 15.0  # at most
STEADY_S = 5.0  # a session that ends sooner counts as a failure
LEAVES_WITHIN_S = 10.0  # a session of no use, for the messages in hand there
CODES_PART = 5  # a fifth of the places is for codes and answers
# SMPP 3.4, 5.1.3: name, password, type of the account
OURS = (0x0E, 0x0F, 0x53)


@dataclass(slots=True)
class _Waiter:
    parts: int
    lane: Lane
    found: "asyncio.Future[tuple[Session, int]]"


@dataclass(slots=True, eq=False)
class _Bind:
    """One bind. `failure`: of the last attempt, None while there is a session or an attempt.

    `may_open`: the lease covers the bind. `open`: the SMSC may count the bind.
    """

    login: Login
    hosts: Sequence[Host]
    at: int
    session: Session | None = None
    failure: SendError | None = None
    failed_at: float = 0.0
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    may_open: asyncio.Event = field(default_factory=asyncio.Event)
    open: bool = False


class Binds:
    """The binds of one account in this process, for the gateways of both lanes.

    `together`: logins that count as one bind. `lease`: of binds shared with other processes.
    """

    def __init__(
        self,
        name: str,
        hosts: Sequence[Host],
        logins: Sequence[Login],
        window: int,
        deliver: Callable[[Session, pdu.Pdu], None],
        proven: Callable[[object], None],
        *,
        together: int = 1,
        lease: Lease | None = None,
    ) -> None:
        self.users = 0
        self.total = window * sum(login.transmits for login in logins)
        self._name, self._window = name, window
        self._deliver, self._proven = deliver, proven
        self._binds = [_Bind(login, hosts, at) for at, login in enumerate(logins)]
        self._queues: dict[Lane, deque[_Waiter]] = {Lane.TRANSACTIONAL: deque(), Lane.MARKETING: deque()}
        self._keeping: list[asyncio.Task[None]] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._together, self._lease = together, lease
        self._leasing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()  # set as a bind ends
        if lease is None:
            self._limit(len(self._binds))
        REFUSED.labels(name)
        self._count()

    @property
    def sessions(self) -> list[Session]:
        return [bind.session for bind in self._binds if bind.session is not None]

    def start(self) -> None:
        """Open the binds and keep them. Within the event loop; again: no effect."""
        if not self._keeping and not self._closing.is_set():
            self._keeping = [asyncio.create_task(self._keep(bind)) for bind in self._binds]
            if self._lease is not None:
                self._leasing = asyncio.create_task(self._renew(self._lease))

    async def place(self, parts: int, until: float, lane: Lane) -> tuple[Session, int]:
        """Return a session and the places taken there: one for each part, or all that a window has.

        Raise Unreachable, Misconfigured where no bind is held; TimeoutError at `until` (the loop's clock).
        """
        self.start()
        waiter = _Waiter(parts, lane, asyncio.get_running_loop().create_future())
        self._queues[lane].append(waiter)
        for bind in self._binds:
            if bind.failure is not None and time.monotonic() >= bind.failed_at + RECONNECT_AFTER_S:
                bind.failure = None
                bind.wanted.set()
        self.assign()
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.shield(waiter.found)
        except BaseException:
            if waiter.found.done() and not waiter.found.cancelled() and waiter.found.exception() is None:
                session, places = waiter.found.result()
                session.give_back(places, (), self.assign)
            waiter.found.cancel()
            raise

    def assign(self) -> None:
        """Give free places to those who wait, or all the failure of all binds. No campaign passes a waiting code."""
        for lane, queue in self._queues.items():
            while queue:
                waiter = queue[0]
                if not waiter.found.done() and (failure := self._failure()) is not None:
                    waiter.found.set_exception(failure)
                    waiter.found.exception()  # the asker may have left
                if not waiter.found.done():
                    if (found := self._free(waiter.parts, lane)) is None:
                        return
                    session, places = found
                    session.taken += places
                    session.in_hand += 1
                    waiter.found.set_result(found)
                queue.popleft()

    async def close(self) -> None:
        """Unbind. The callers have no message in flight."""
        self._closing.set()
        await asyncio.gather(*self._keeping)
        await asyncio.gather(*self._leaving)
        if self._leasing is not None and self._lease is not None:
            await self._leasing
            try:
                await self._lease.give_back()
            except Exception as error:  # the lease ends by itself
                log.warning("a lease of binds was not given back", extra={"why": type(error).__name__})

    def _free(self, parts: int, lane: Lane) -> tuple[Session, int] | None:
        """Return the session with most free places, and how many the message takes.

        A process of one lane keeps no place from marketing: the other lane has binds of its own.
        """
        usable = [s for s in self.sessions if s.transmits and not s.of_no_use.is_set() and not s.is_blocked]
        if not usable:
            return None
        total = self._window * len(usable)  # of what is held: a missing bind must not stop a campaign
        shared = self.users > 1 and total > 1 and lane is Lane.MARKETING
        kept = max(1, total // CODES_PART) if shared else 0
        places = min(parts, self._window, total - kept)
        left = {session: self._window - session.taken for session in usable}
        best = max(left, key=left.__getitem__)
        return (best, places) if left[best] >= places and sum(left.values()) - places >= kept else None

    def _failure(self) -> SendError | None:
        """Return the failure of all binds, None while one is held or tried."""
        failures = [
            bind.failure for bind in self._binds if bind.login.transmits and (bind.may_open.is_set() or bind.open)
        ]
        if not failures:
            asked = self._lease is None or self._lease.good_until
            return Unreachable("other processes hold the binds") if asked else None
        if any(failure is None for failure in failures):
            return None
        found = next((each for each in failures if not isinstance(each, Misconfigured)), failures[0])
        return Misconfigured(found.code) if isinstance(found, Misconfigured) else Unreachable(str(found))

    async def _keep(self, bind: _Bind) -> None:
        failures = 0
        while not self._closing.is_set():
            if not bind.may_open.is_set():
                await either(self._closing, bind.may_open, None)
                continue
            opened_at, bind.open = time.monotonic(), True
            session = await self._opened(bind, bind.hosts[(bind.at + failures) % len(bind.hosts)])
            if session is not None:
                await either(self._closing, session.of_no_use, None)
                bind.session = None
                leaving = self._leave(session)
                self._count()
                if self._lease is not None:
                    await asyncio.wait({leaving})
            bind.open = False
            self._closed.set()
            if session is not None and time.monotonic() - opened_at > STEADY_S:
                failures = 0
                continue
            failures += 1
            pause_s = min(BACK_OFF_S, RECONNECT_AFTER_S * 2 ** min(failures - 1, 8))
            bind.wanted.clear()
            await either(self._closing, bind.wanted, pause_s * _jitter())
            bind.failure = None

    async def _opened(self, bind: _Bind, host: Host) -> Session | None:
        opening = asyncio.ensure_future(Session.bound(host, bind.login, self._deliver, self._proven))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({opening, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                opening.cancel()
                with contextlib.suppress(asyncio.CancelledError, BindRefused, OSError, TimeoutError, ValueError):
                    await opening
                return None
            bind.session = opening.result()
            self._count()
            if not bind.may_open.is_set():  # the lease has shrunk meanwhile
                bind.session.of_no_use.set()
            self.assign()
        except (BindRefused, OSError, TimeoutError, ValueError) as error:  # ValueError: a name that is none
            self._note(bind, error)
        finally:
            closing.cancel()
        return bind.session

    def _note(self, bind: _Bind, error: Exception) -> None:
        why = str(error) if isinstance(error, BindRefused) else type(error).__name__
        ours = isinstance(error, BindRefused) and error.status in OURS
        bind.failure = Misconfigured(why) if ours else Unreachable(why)
        bind.failed_at = time.monotonic()
        if isinstance(error, BindRefused):
            REFUSED.labels(self._name).inc()
        log.warning("a bind is not held", extra={"gateway": self._name, "why": why})
        self.assign()

    async def _renew(self, lease: Lease) -> None:
        """Hold as many binds as the lease allows, or none once it could not be renewed."""
        while not self._closing.is_set():
            self._closed.clear()
            held = {bind.at // self._together for bind in self._binds if bind.open}
            try:
                self._limit(await lease.renew(len(held)))
            except Exception as error:
                log.warning("a lease of binds was not renewed", extra={"why": type(error).__name__})
                if uptime_s() >= lease.good_until:
                    self._limit(0)
            await either(self._closing, self._closed, RENEW_S)

    def _limit(self, many: int) -> None:
        """Hold so many binds: those that are open first. The others end once no message is in hand there."""
        units = sorted(range(len(self._binds) // self._together), key=lambda unit: not self._is_open(unit))[:many]
        for bind in self._binds:
            if bind.at // self._together in units:
                bind.may_open.set()
                continue
            bind.may_open.clear()
            if bind.session is not None:
                bind.session.of_no_use.set()
        self._count()
        self.assign()

    def _is_open(self, unit: int) -> bool:
        return any(bind.open for bind in self._binds if bind.at // self._together == unit)

    def _leave(self, session: Session) -> "asyncio.Task[None]":
        """Unbind the session once no message is in hand there."""
        leaving = asyncio.create_task(self._left(session))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return leaving

    async def _left(self, session: Session) -> None:
        session.of_no_use.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVES_WITHIN_S):
                while session.in_hand and not session.ended.is_set():
                    session.idle.clear()
                    await either(session.ended, session.idle, None)
        await session.unbind()

    def _count(self) -> None:
        kept = sum(bind.may_open.is_set() for bind in self._binds)
        BOUND.labels(self._name).set(len(self.sessions) / kept if kept else 0)


def _jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311 replicas must not return all at once
