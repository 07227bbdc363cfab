"""The connections to one provider: bounded, opened gradually, and used and kept only where they are good.

A provider's kernel accepts more connections than the provider's program takes: behind a full queue (Kannel's holds 10,
gwlib/socket.c) a connection looks open, and a message written to it is lost, which leaves `unknown`. So at most
`opening` connections are unproven at once. The first byte of the provider proves a connection: of the TLS handshake, or
of an answer.
"""

import asyncio
import math
import select
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from common.db.timer import uptime_s
from dispatch.gateways.gateway import Late, Unreachable

# A server that closes a connection as a request arrives leaves `unknown` messages: well below the idle time of servers
# (many: 5 s)
IDLE_S = 2.0
MOST = 128
OPENING = 4  # of each lane and process: together below Kannel's queue
ENDED = getattr(select, "POLLRDHUP", select.POLLHUP)  # the other side has closed; macOS has no POLLRDHUP


@dataclass(frozen=True, slots=True)
class Bounds:
    """The connections of one process and lane to the provider. `most`: altogether; `opening`: unproven ones."""

    most: int = MOST
    opening: int = OPENING


@dataclass(slots=True)
class Exchange:
    """A request to the provider, and its connection.

    `begun`: the connection is good and given to the request; a byte may have left. `begin_by`: `uptime_s`.
    """

    begin_by: float = math.inf
    begun: bool = False
    connected: bool = False
    unproven: bool = False


exchange_of: ContextVar[Exchange] = ContextVar("exchange_of")


class _NoRoom(Exception):
    """No connection may be opened now."""


class Connections(aiohttp.TCPConnector):
    """The connector of a gateway. Each request runs with its `Exchange` in `exchange_of`, and ends with `done`."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(limit=0, keepalive_timeout=IDLE_S)
        self._bounds = bounds
        self._used = 0
        self._opening = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._polls: dict[int, select.poll] = {}  # by file descriptor, which the kernel gives again

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        """Return a good connection: a kept one, or a new one once there is room.

        Raise Late once `begin_by` has passed, Unreachable where a new connection ends before the request.
        """
        exchange = exchange_of.get()
        waited = False
        while True:
            if self._used >= self._bounds.most:  # aiohttp would look for a kept connection, and there is none
                await self._room(exchange.begin_by, first=waited)
                waited = True
                continue
            try:
                connection = await super().connect(*args, **kwargs)
            except _NoRoom:
                await self._room(exchange.begin_by, first=waited)
                waited = True
                continue
            self._use(exchange)
            if uptime_s() > exchange.begin_by:
                if exchange.unproven:
                    connection.close()
                else:
                    connection.release()
                raise Late("the connection took longer than the permit lasts")
            if self._is_open(connection.transport):
                exchange.begun = True
                return connection
            connection.close()
            if exchange.unproven:
                raise Unreachable("the provider ended the connection before the request")
            self.done(exchange)

    def proven(self, exchange: Exchange) -> None:
        """Note that the provider's program has the connection."""
        if exchange.unproven:
            exchange.unproven = False
            self._opening -= 1
            self._wake()

    def done(self, exchange: Exchange) -> None:
        """Note the end of a request, whose connection aiohttp has kept or closed."""
        if exchange.unproven:
            self.proven(exchange)
        if exchange.connected:
            exchange.connected = False
            self._used -= 1
            if self._waiting:
                self._wake()

    async def _create_connection(self, req: aiohttp.ClientRequest, *args: Any, **kwargs: Any) -> ResponseHandler:
        # aiohttp asks only without a kept connection: all that are open are in use
        if self._used >= self._bounds.most or self._opening >= self._bounds.opening:
            raise _NoRoom
        exchange = exchange_of.get()
        self._use(exchange)
        exchange.unproven = True
        self._opening += 1
        protocol = await super()._create_connection(req, *args, **kwargs)
        if req.is_ssl():
            self.proven(exchange)
        return protocol

    def _use(self, exchange: Exchange) -> None:
        if not exchange.connected:
            exchange.connected = True
            self._used += 1

    async def _room(self, begin_by: float, *, first: bool) -> None:
        """Wait until a connection may be opened, or one is kept. Raise Late at `begin_by`."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[bool] = loop.create_future()  # whether there is room
        if first:
            self._waiting.appendleft(woken)
        else:
            self._waiting.append(woken)
        left_s = begin_by - uptime_s()
        lapses = None if math.isinf(left_s) else loop.call_later(max(0.0, left_s), _lapse, woken)
        try:
            if not await woken:
                raise Late("no connection was free while the permit lasted")
        except BaseException:
            if woken in self._waiting:
                self._waiting.remove(woken)
            elif not woken.cancelled() and woken.result():
                self._wake()  # woken, and cancelled before the next step
            raise
        finally:
            if lapses is not None:
                lapses.cancel()

    def _wake(self) -> None:
        while self._waiting:
            woken = self._waiting.popleft()
            if not woken.done():
                woken.set_result(True)
                return

    def _is_open(self, transport: asyncio.Transport | None) -> bool:
        """Return whether the provider has not closed or reset the connection, which the event loop may learn later."""
        if transport is None or transport.is_closing():
            return False
        fd = transport.get_extra_info("socket").fileno()
        asked = self._polls.get(fd)
        if asked is None:
            asked = self._polls[fd] = select.poll()
            asked.register(fd, ENDED)
        return not asked.poll(0)


def _lapse(woken: "asyncio.Future[bool]") -> None:
    if not woken.done():
        woken.set_result(False)
