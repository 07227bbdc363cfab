"""Run an operator that accepts every submit after some milliseconds, at next to no cost.

The operator speaks the simulator's protocol and Kannel's (a message per request), and parses requests by hand: the
measurement is of the sender. With a URL for callbacks, and their secret in SECRET, the operator tells two DLRs of each
message of the simulator's protocol, `sent` and `delivered`, so many a callback: those of a submit state after state, or
message after message.

With several sizes of a callback ("1,1,1,100"), messages take them in turn, as of operators that differ. `later`: the
handset is on the way, so `delivered` follows DELIVERED_S after `sent`, and DLRs gather GATHER_S for a callback of many.

GET /taken answers with what has been accepted: `Taken` as JSON.

    python -m bench.fast_operator PORT LATENCY_MS [URL DLRS_A_CALLBACK [by_message | later]]
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from typing import cast

import aiohttp
import msgspec
import uvloop

from bench.inbound import simulator_signed


class Submitted(msgspec.Struct):
    reference: str
    to: str = ""
    category: str = ""


class _Submits(msgspec.Struct):
    messages: list[Submitted]


class _Result(msgspec.Struct):
    reference: str
    id: str
    status: str = "accepted"
    code: str | None = None


class _Results(msgspec.Struct):
    results: list[_Result]


CALLBACKS_AT_ONCE = 64
RETRY_S = 0.2
DELIVERED_S = (1.0, 5.0)
GATHER_S = 1.0
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


class Taken(msgspec.Struct):
    """What the operator has accepted: adverts and the last one's arrival (seconds since 1970) by number.

    `others`: other messages, by category. `repeated`: messages whose reference came before.
    """

    adverts: dict[str, int] = {}
    others: dict[str, int] = {}
    last: dict[str, float] = {}
    repeated: int = 0


class _Log:
    def __init__(self) -> None:
        self.taken = Taken()
        self._references: set[str] = set()

    def note(self, asked: Sequence[Submitted]) -> None:
        taken, now, before = self.taken, time.time(), len(self._references)
        for message in asked:
            if message.category == "marketing":
                taken.adverts[message.to] = taken.adverts.get(message.to, 0) + 1
                taken.last[message.to] = now
            else:
                taken.others[message.category] = taken.others.get(message.category, 0) + 1
            self._references.add(message.reference)
        taken.repeated += before + len(asked) - len(self._references)


class Telling:
    """Tells the DLRs of accepted messages; a callback without a 2xx is sent again."""

    def __init__(self, url: str, sizes: Sequence[int], secret: bytes, order: str) -> None:
        self._url, self._order = url, order
        self._signed = simulator_signed(secret)
        self.waiting: Sequence[tuple[int, asyncio.Queue[_Dlr]]] = [(size, asyncio.Queue()) for size in sizes]
        self._turns = count()

    def note(self, asked: Sequence[Submitted]) -> None:
        told = [(message, state) for state in ("sent", "delivered") for message in asked]
        if self._order == "by_message":
            told.sort(key=lambda each: each[0].reference)
        queues = {message.reference: self.waiting[next(self._turns) % len(self.waiting)][1] for message in asked}
        loop = asyncio.get_running_loop()
        for message, state in told:
            queue = queues[message.reference]
            if self._order == "later" and state == "delivered":
                loop.call_later(random.uniform(*DELIVERED_S), self._put, queue, message, state)  # noqa: S311  (no secret)
            else:
                self._put(queue, message, state)

    def _put(self, queue: asyncio.Queue[_Dlr], message: Submitted, state: str) -> None:
        queue.put_nowait(_Dlr(f"op-{message.reference}", message.reference, state, datetime.now(UTC)))

    async def run(self) -> None:
        each = CALLBACKS_AT_ONCE // len(self.waiting)
        connector = aiohttp.TCPConnector(limit=each * len(self.waiting))
        async with aiohttp.ClientSession(connector=connector) as client, asyncio.TaskGroup() as callers:
            for size, queue in self.waiting:
                gathers = self._order == "later" and size > 1
                for _ in range(1 if gathers else each):
                    callers.create_task(self._tell(client, size, queue, gathers=gathers))

    async def _tell(
        self, client: aiohttp.ClientSession, size: int, queue: asyncio.Queue[_Dlr], *, gathers: bool
    ) -> None:
        while True:
            some = [await queue.get()]
            if gathers and queue.qsize() < size - 1:
                await asyncio.sleep(GATHER_S)
            while len(some) < size and not queue.empty():
                some.append(queue.get_nowait())
            body, told = _encoder.encode(_Dlrs(some)), False
            while not told:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with client.post(self._url, data=body, headers=self._signed(body, 0)) as answer:
                        told = answer.status < 300
                if not told:
                    await asyncio.sleep(RETRY_S)


class _Connection(asyncio.Protocol):
    """Answers requests in order, each `latency_s` after its last byte."""

    def __init__(self, latency_s: float, telling: Telling | None, log: _Log) -> None:
        self._latency_s, self._telling, self._log = latency_s, telling, log
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
                asked = _submits.decode(rest[:length]).messages
                self._log.note(asked)
                asyncio.get_running_loop().call_later(self._latency_s, self._accept, asked)
            elif lines[0].startswith(b"GET /taken"):
                self._answer(_encoder.encode(self._log.taken))
            else:
                self._answer(b"ok\n")

    def _accept(self, asked: Sequence[Submitted]) -> None:
        if self._telling is not None:
            self._telling.note(asked)
        self._answer(_encoder.encode(_Results([_Result(m.reference, f"op-{m.reference}") for m in asked])))

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def _serve(port: int, latency_s: float, telling: Telling | None) -> None:
    log = _Log()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(latency_s, telling, log), "127.0.0.1", port)
    async with asyncio.TaskGroup() as both:
        both.create_task(server.serve_forever())
        if telling is not None:
            both.create_task(telling.run())


async def _main(port: str, latency_ms: str, url: str = "", a_callback: str = "1", order: str = "") -> None:
    sizes = [int(size) for size in a_callback.split(",")]
    telling = Telling(url, sizes, os.environ["SECRET"].encode(), order) if url else None
    await _serve(int(port), float(latency_ms) / 1e3, telling)


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
