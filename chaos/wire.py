"""A wire between a client and a server on this machine, and its faults. No root, no kernel feature.

whole     bytes pass
cut       every connection is reset, new ones too
silent    connections stay and no byte passes; a connection that ends meanwhile loses its bytes
slow      bytes come `delay_s` later, in order
deaf      requests arrive, answers do not: the work is done, unheard
garbage   answers are bytes of no protocol
drips     answers come byte by byte
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

State = Literal["whole", "cut", "silent", "slow", "deaf", "garbage", "drips"]

GARBAGE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n\xff{]<\x00 \xc3(\n"
DRIP_EVERY_S = 0.05


@dataclass(eq=False)
class Wire:
    """Forwards 127.0.0.1:`port` to `host:to`.

    `rewrite`: replacements in answers, of the same length: a broker names the brokers, and clients must reach them by
    wires too. (An address split in two would pass unchanged; on one machine an answer comes whole.)
    """

    host: str
    to: int
    rewrite: Sequence[tuple[bytes, bytes]] = ()
    port: int = 0
    state: State = "whole"
    delay_s: float = 0.0
    _ends: "set[_End]" = field(default_factory=set)

    def become(self, state: State, delay_s: float = 0.0) -> None:
        self.state, self.delay_s = state, delay_s
        if state == "cut":
            for end in list(self._ends):
                end.abort()
        for end in list(self._ends):
            end.flush()

    def heal(self) -> None:
        """Let held bytes pass; replaced answers stay replaced."""
        self.become("whole")


class _End(asyncio.Protocol):
    """An end of a connection: bytes received here leave at the other end."""

    def __init__(self, wire: Wire, *, is_server: bool) -> None:
        self.wire = wire
        self.is_server = is_server  # sends answers
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self.held: deque[tuple[float, bytes]] = deque()  # with the earliest time to pass
        self.ended = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's class is no subclass
        if self.wire.state == "cut":
            self.transport.abort()
            return
        self.wire._ends.add(self)
        if self.other is None:
            self.other = _End(self.wire, is_server=True)
            self.other.other = self
            asyncio.get_running_loop().create_task(self._connect(self.other))
        else:
            self.other.flush()

    async def _connect(self, there: "_End") -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: there, self.wire.host, self.wire.to)
        except OSError:
            self.abort()

    def data_received(self, data: bytes) -> None:
        self.held.append((asyncio.get_running_loop().time() + self.wire.delay_s, data))
        self.flush()

    def flush(self) -> None:
        """Forward the bytes that may pass."""
        there = self.other.transport if self.other is not None else None
        if there is None or self._timer is not None:
            return
        state, loop = self.wire.state, asyncio.get_running_loop()
        while self.held and state != "silent" and not (state == "deaf" and self.is_server):
            due, data = self.held[0]
            if due > loop.time():
                self._later(due - loop.time())
                return
            self.held.popleft()
            if self.is_server and state == "garbage":
                data = GARBAGE
            elif self.is_server and state == "drips" and len(data) > 1:
                self.held.appendleft((loop.time() + DRIP_EVERY_S, data[1:]))
                data = data[:1]
            elif self.is_server:
                for one, another in self.wire.rewrite:
                    data = data.replace(one, another)
            there.write(data)
        if self.ended and not self.held:
            there.close()

    def _later(self, wait_s: float) -> None:
        def now() -> None:
            self._timer = None
            self.flush()

        self._timer = asyncio.get_running_loop().call_later(wait_s, now)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        self.wire._ends.discard(self)
        if error is not None or self.wire.state in ("silent", "deaf", "drips"):
            self.held.clear()  # never sent again
            if self.other is not None and self.other.transport is not None:
                self.other.transport.abort() if error is not None else self.other.transport.close()
        self.flush()

    def abort(self) -> None:
        self.held.clear()
        if self.transport is not None:
            self.transport.abort()


@asynccontextmanager
async def wire_to(host: str, port: int) -> AsyncIterator[Wire]:
    """Listen on a free port."""
    wire = Wire(host, port)
    server = await asyncio.get_running_loop().create_server(lambda: _End(wire, is_server=False), "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.become("cut")
