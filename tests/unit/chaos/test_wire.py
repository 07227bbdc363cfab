"""A wire between a client and a server, and what may happen to it."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chaos.wire import GARBAGE, Wire, wire_to
from tests.support.eventually import eventually


@dataclass
class Server:
    """Answers each line with itself."""

    heard: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.heard.append(line)
            writer.write(line)
        writer.close()


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def says(self, line: bytes) -> None:
        self.writer.write(line)
        await self.writer.drain()

    async def hears_nothing_of(self, server: Server, heard: int) -> None:
        """Once the server has heard that much, no answer has come."""

        async def there() -> bool:
            return len(server.heard) == heard

        await eventually(there)
        reading = asyncio.ensure_future(self.reader.read(1))
        await asyncio.wait([reading], timeout=0.05)
        assert not reading.done()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Server, Wire]]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening, wire_to("127.0.0.1", listening.sockets[0].getsockname()[1]) as wire:
        yield server, wire


@asynccontextmanager
async def client(wire: Wire) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def test_what_comes_goes_on_and_a_broker_names_the_way_back() -> None:
    one, another = (b"127.0.0.1" + struct.pack(">i", port) for port in (1111, 2222))
    async with wired() as (_, wire):
        wire.rewrite = [(one, another)]
        async with client(wire) as caller:
            await caller.says(b"at " + one + b"\n")
            assert await caller.reader.readline() == b"at " + another + b"\n"


async def test_a_cut_ends_connections_and_whoever_comes_is_hung_up_on() -> None:
    async with wired() as (_, wire), client(wire) as caller:
        await caller.says(b"one\n")
        assert await caller.reader.readline() == b"one\n"
        wire.become("cut")
        assert await _is_over(caller)
        async with client(wire) as late:
            assert await _is_over(late)
        wire.heal()
        async with client(wire) as again:
            await again.says(b"two\n")
            assert await again.reader.readline() == b"two\n"


async def test_what_was_silent_goes_on_in_order() -> None:
    async with wired() as (server, wire), client(wire) as caller:
        wire.become("silent")
        await caller.says(b"one\n")
        await caller.says(b"two\n")
        await caller.hears_nothing_of(server, 0)
        wire.heal()
        assert await caller.reader.readline() == b"one\n"
        assert await caller.reader.readline() == b"two\n"
        assert server.heard == [b"one\n", b"two\n"]


async def test_of_a_connection_that_ended_while_it_was_silent_nothing_comes_later() -> None:
    async with wired() as (server, wire):
        async with client(wire) as gone:
            await gone.says(b"one\n")
            assert await gone.reader.readline() == b"one\n"
            wire.become("silent")
            await gone.says(b"never\n")
            await eventually(lambda: _holds_something(wire))
        await eventually(lambda: _has_no_connection(wire))
        wire.heal()
        async with client(wire) as caller:
            await caller.says(b"two\n")
            assert await caller.reader.readline() == b"two\n"
        assert server.heard == [b"one\n", b"two\n"]


async def test_when_answers_are_lost_the_server_has_done_what_was_asked() -> None:
    async with wired() as (server, wire), client(wire) as caller:
        wire.become("deaf")
        await caller.says(b"one\n")
        await caller.hears_nothing_of(server, 1)


async def test_answers_may_be_garbage_or_come_byte_by_byte() -> None:
    async with wired() as (_, wire), client(wire) as caller:
        wire.become("garbage")
        await caller.says(b"one\n")
        assert await caller.reader.readexactly(len(GARBAGE)) == GARBAGE
        wire.become("drips")
        await caller.says(b"two\n")
        assert await caller.reader.read(100) == b"t"
        wire.heal()
        assert await caller.reader.readline() == b"wo\n"


async def test_what_is_slow_comes_later_and_in_order() -> None:
    async with wired() as (_, wire), client(wire) as caller:
        wire.become("slow", 0.2)
        await caller.says(b"one\n")
        await eventually(lambda: _holds_something(wire))
        wire.heal()
        await caller.says(b"two\n")
        assert await caller.reader.readline() == b"one\n"
        assert await caller.reader.readline() == b"two\n"


async def _is_over(caller: Client) -> bool:
    try:
        return await caller.reader.read(1) == b""
    except ConnectionError:
        return True


async def _holds_something(wire: Wire) -> bool:
    return any(end.held for end in wire._ends)


async def _has_no_connection(wire: Wire) -> bool:
    return not wire._ends
