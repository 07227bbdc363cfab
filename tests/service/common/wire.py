"""A wire to a server that can be held: what the server has done and nobody has heard of yet."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 20


@dataclass
class Wire:
    """`asked` sees what clients send, before the server does. `hold()`: from now on no answer comes back; `answered` is
    set once one is waiting, so the server has acted. `hold_requests()`: from now on no request arrives; `asking` is set
    once one is waiting. `requests_arrive()`: it does, though its client may have gone. `let_go()`: after both. `cut()`:
    every connection is gone, and whoever comes is hung up on, until `heal()`. `rewrite`: in answers, these bytes become
    those."""

    port: int = 0
    asked: Callable[[bytes], None] = lambda _: None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    asking: asyncio.Event = field(default_factory=asyncio.Event)
    rewrite: tuple[bytes, bytes] = (b"", b"")
    whole: bool = True
    connections: set[asyncio.Task[None]] = field(default_factory=set)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _requests_open: asyncio.Event = field(default_factory=asyncio.Event)

    def hold(self) -> None:
        self._open.clear()

    def hold_requests(self) -> None:
        self._requests_open.clear()

    def requests_arrive(self) -> None:
        self._requests_open.set()

    def let_go(self) -> None:
        self._open.set()
        self._requests_open.set()

    def cut(self) -> None:
        self.whole = False
        for connection in list(self.connections):
            connection.cancel()

    def heal(self) -> None:
        """After either."""
        self.whole = True
        self.let_go()

    async def there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                self.asked(data)
                if not self._requests_open.is_set():
                    self.asking.set()
                await self._requests_open.wait()
                writer.write(data)
                await writer.drain()
            writer.close()  # not where the client has reset its end: the server may still answer what it has asked

    async def back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                if not self._open.is_set():
                    self.answered.set()
                await self._open.wait()
                if self.rewrite[0]:
                    data = data.replace(*self.rewrite)
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def wire_to(host: str, port: int) -> AsyncIterator[Wire]:
    """Listens on a free port of this machine and forwards to `host:port`."""
    wire = Wire()
    wire.let_go()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not wire.whole:
            writer.close()
            return
        wire.connections.add(task)
        there_reader, there_writer = await asyncio.open_connection(host, port)
        try:
            with suppress(asyncio.CancelledError):  # the end of the block
                await asyncio.gather(wire.there(reader, there_writer), wire.back(there_reader, writer))
        finally:
            for end in (writer, there_writer):
                end.close()
            wire.connections.discard(task)

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        wire.let_go()
        server.close()
        remaining = list(wire.connections)
        wire.cut()
        await asyncio.gather(*remaining, return_exceptions=True)
