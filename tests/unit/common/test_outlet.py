"""An answer leaves in one write, and a head whose body takes time leaves alone."""

import asyncio

from common.web.edge.connection import Outlet


class Wire(asyncio.Transport):
    """A transport as asyncio has them, which keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = list[bytes]()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def connected() -> tuple[Wire, Outlet]:
    wire = Wire()
    return wire, Outlet(wire, asyncio.get_running_loop())


async def test_a_head_leaves_with_the_body_of_the_same_round() -> None:
    wire, outlet = connected()
    outlet.write(b"head ")
    outlet.write(b"body")
    outlet.write(b" more")
    await asyncio.sleep(0)
    assert wire.writes == [b"head body", b" more"]


async def test_a_head_without_a_body_leaves_in_the_next_round() -> None:
    wire, outlet = connected()
    outlet.write(b"head ")
    assert wire.writes == []
    await asyncio.sleep(0)
    outlet.write(b"body")
    assert wire.writes == [b"head ", b"body"]


async def test_a_head_leaves_before_the_connection_is_closed_and_none_after() -> None:
    wire, outlet = connected()
    outlet.write(b"head")
    outlet.close()
    assert (wire.writes, wire.closed, outlet.is_closing()) == ([b"head"], True, True)

    wire, outlet = connected()
    outlet.write(b"head")
    wire.close()
    await asyncio.sleep(0)
    assert wire.writes == []
