"""Run an operator that accepts every submit after some milliseconds, at next to no cost.

The operator speaks the simulator's protocol and Kannel's (a message per request), and parses requests by hand: the
measurement is of the sender.

    python -m bench.fast_operator PORT LATENCY_MS
"""

import asyncio
import sys
from typing import cast

import msgspec
import uvloop


class _Message(msgspec.Struct):
    reference: str


class _Submits(msgspec.Struct):
    messages: list[_Message]


class _Result(msgspec.Struct):
    reference: str
    id: str
    status: str = "accepted"
    code: str | None = None


class _Results(msgspec.Struct):
    results: list[_Result]


TAKEN = b"0: Accepted for delivery"  # Kannel's answer

_submits = msgspec.json.Decoder(_Submits)
_encoder = msgspec.json.Encoder()


class _Connection(asyncio.Protocol):
    """Answers requests in order, each `latency_s` after its last byte."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, ended, rest = self._buffer.partition(b"\r\n\r\n")
            if not ended:
                return
            lines = head.split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line[:15].lower() == b"content-length:"), 0)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            if lines[0].startswith(b"POST /cgi-bin/sendsms"):
                asyncio.get_running_loop().call_later(self._latency_s, self._answer, TAKEN)
            elif lines[0].startswith(b"POST"):
                asyncio.get_running_loop().call_later(self._latency_s, self._accept, rest[:length])
            else:
                self._answer(b"ok\n")

    def _accept(self, body: bytes) -> None:
        asked = _submits.decode(body).messages
        self._answer(_encoder.encode(_Results([_Result(m.reference, f"op-{m.reference}") for m in asked])))

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def _serve(port: int, latency_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(latency_s), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1e3))
