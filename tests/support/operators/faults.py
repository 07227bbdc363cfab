"""A provider that goes wrong, over real local HTTP: one way of going wrong at a time, each with its one right answer.

It speaks bytes, not HTTP: what a client may meet is not what a server library would let it send.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal[
    "refuses_connections",
    "no_tls",
    "silent",
    "closes_before_the_answer",
    "resets_before_the_answer",
    "resets_after_the_head",
    "resets_within_the_answer",
    "half_closed",
    "drips",
    "cut_short",
    "endless",
    "not_http",
    "garbage",
    "empty",
    "throttled",
    "throttled_until",
    "throttled_without_a_time",
    "unavailable",
    "bad_gateway",
    "error",
    "redirect",
    "unauthorised",
    "no_money",
    "not_found",
    "bad_request",
]

ANSWERS: dict[str, bytes] = {
    "throttled": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
    "throttled_until": b"HTTP/1.1 429 Too Many Requests\r\nDate: Wed, 07 Jan 2026 09:00:00 GMT\r\n"
    b"Retry-After: Wed, 07 Jan 2026 09:00:09 GMT\r\nContent-Length: 0\r\n\r\n",
    "throttled_without_a_time": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n",
    "unavailable": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
    "bad_gateway": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 11\r\n\r\n<html></html>"[:-2],
    "error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    "unauthorised": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    "no_money": b"HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\n\r\n",
    "not_found": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "bad_request": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "garbage": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n\xff{]<\x00 \xc3(\n",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "not_http": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "cut_short": b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"results": [',
}


@dataclass
class FaultServer:
    """`requests`: what was read of each, whole. Once `fault` is None it answers `answer`."""

    url: str = ""
    fault: Fault | None = None
    answer: bytes = b""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await _request(reader, with_body=self.fault != "resets_after_the_head")) is not None:
                self.requests.append(request)
                if not await self._answer(writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays."""
        match self.fault:
            case None:
                writer.write(self.answer)
            case "silent":
                await self._closing.wait()
                return False
            case "closes_before_the_answer":
                return False
            case "resets_before_the_answer" | "resets_after_the_head":
                writer.transport.abort()
                return False
            case "resets_within_the_answer":
                writer.write(ANSWERS["cut_short"])
                await writer.drain()
                writer.transport.abort()
                return False
            case "half_closed":  # no more will come from here, and it goes on listening
                writer.write_eof()
                await self._closing.wait()
                return False
            case "drips":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                await self._forever(writer, b" ", pause_s=0.02)
            case "endless":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await self._forever(writer, b"10000\r\n" + b" " * 0x10000 + b"\r\n", pause_s=0)
            case fault:
                writer.write(ANSWERS[fault])
                if fault == "cut_short":
                    return False
        await writer.drain()
        return True

    async def _forever(self, writer: asyncio.StreamWriter, piece: bytes, pause_s: float) -> None:
        while not self._closing.is_set():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)


async def _request(reader: asyncio.StreamReader, *, with_body: bool) -> bytes | None:
    """One HTTP/1.1 request."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    return head + await reader.readexactly(length if with_body else 0)


@asynccontextmanager
async def fault_server() -> AsyncIterator[FaultServer]:
    """On a free port of this machine; on leaving every connection is closed."""
    faulty = FaultServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await faulty.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    faulty.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield faulty
    finally:
        faulty._closing.set()
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)
