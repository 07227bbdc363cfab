"""Run an operator that accepts every submit after some milliseconds, at next to no cost.

The operator speaks the simulator's protocol and Kannel's (a message per request), and parses requests by hand: the
measurement is of the sender. With a URL for callbacks, and their secret in SECRET, the operator tells two DLRs of each
message of the simulator's protocol, `sent` and `delivered`, so many a callback: those of a submit state after state, or
message after message.

    python -m bench.fast_operator PORT LATENCY_MS [URL DLRS_A_CALLBACK [by_message]]
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

import aiohttp
import msgspec
import uvloop

from bench.inbound import simulator_signed


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


CALLBACKS_AT_ONCE = 64
RETRY_S = 0.2
TAKEN = b"0: Accepted for delivery"  # Kannel's answer

_submits = msgspec.json.Decoder(_Submits)
_encoder = msgspec.json.Encoder()


class _Dlr(msgspec.Struct):
    id: str
    reference: str
    status: str
    at: datetime
    code: str | None = None


class _Dlrs(msgspec.Struct):
    receipts: Sequence[_Dlr]


class _Telling:
    """Tells the DLRs of accepted messages; a callback without a 2xx is sent again."""

    def __init__(self, url: str, a_callback: int, secret: bytes, *, by_message: bool) -> None:
        self._url, self._a_callback, self._by_message = url, a_callback, by_message
        self._signed = simulator_signed(secret)
        self._waiting: asyncio.Queue[_Dlr] = asyncio.Queue()

    def note(self, asked: Sequence[_Message]) -> None:
        now = datetime.now(UTC)
        told = [(message, state) for state in ("sent", "delivered") for message in asked]
        for message, state in sorted(told, key=lambda each: each[0].reference) if self._by_message else told:
            self._waiting.put_nowait(_Dlr(f"op-{message.reference}", message.reference, state, now))

    async def run(self) -> None:
        async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as callers:
            for _ in range(CALLBACKS_AT_ONCE):
                callers.create_task(self._tell(client))

    async def _tell(self, client: aiohttp.ClientSession) -> None:
        while True:
            some = [await self._waiting.get()]
            while len(some) < self._a_callback and not self._waiting.empty():
                some.append(self._waiting.get_nowait())
            body, told = _encoder.encode(_Dlrs(some)), False
            while not told:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with client.post(self._url, data=body, headers=self._signed(body, 0)) as answer:
                        told = answer.status < 300
                if not told:
                    await asyncio.sleep(RETRY_S)


class _Connection(asyncio.Protocol):
    """Answers requests in order, each `latency_s` after its last byte."""

    def __init__(self, latency_s: float, telling: _Telling | None) -> None:
        self._latency_s, self._telling = latency_s, telling
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
        if self._telling is not None:
            self._telling.note(asked)
        self._answer(_encoder.encode(_Results([_Result(m.reference, f"op-{m.reference}") for m in asked])))

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def _serve(port: int, latency_s: float, telling: _Telling | None) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(latency_s, telling), "127.0.0.1", port)
    async with asyncio.TaskGroup() as both:
        both.create_task(server.serve_forever())
        if telling is not None:
            both.create_task(telling.run())


async def _main(port: str, latency_ms: str, url: str = "", a_callback: str = "1", order: str = "") -> None:
    by_message = order == "by_message"
    telling = _Telling(url, int(a_callback), os.environ["SECRET"].encode(), by_message=by_message) if url else None
    await _serve(int(port), float(latency_ms) / 1e3, telling)


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
