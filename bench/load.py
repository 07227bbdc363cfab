"""Send HTTP load from a separate process: prepared requests over several connections, at some 20 µs a request.

A connection sends its next request after the answer.

    await send(url, requests, connections, folder, pid)     in the benchmark
    python -m bench.load HOST PORT CONNECTIONS FILE         the process

The file holds the requests, each after its length (4 bytes, big-endian). The output is JSON.
"""

import asyncio
import json
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.rounds import Sample, cpu_seconds

GIVEN_UP_S = 120.0


class Refused(RuntimeError):
    """A request got no 2xx: the figure would mean nothing."""


def post(path: str, headers: dict[str, str], body: bytes, method: str = "POST") -> bytes:
    """Return a request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def send(url: str, requests: Sequence[bytes], connections: int, folder: Path, pid: int) -> Sample:
    """Send `requests` from another process: a round. `pid`: of the server under test. Raises Refused."""
    file = folder / "requests"
    file.write_bytes(b"".join(struct.pack(">I", len(request)) + request for request in requests))
    address = urlsplit(url)
    before = cpu_seconds(pid)
    command = ("-m", "bench.load", str(address.hostname), str(address.port), str(connections), str(file))
    sender = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    out, _ = await sender.communicate()
    after = cpu_seconds(pid)
    if sender.returncode:
        raise Refused(f"the load ended with code {sender.returncode}")
    told = json.loads(out)
    if set(told["statuses"]) - {"200", "201", "202", "204"}:
        raise Refused(f"answers: {told['statuses']}")
    cpu_s = None if before is None or after is None else after - before
    return Sample(len(requests), told["seconds"], told["p50_ms"], told["p99_ms"], cpu_s)


@dataclass(slots=True)
class _Answers:
    statuses: dict[str, int]
    seconds: list[float]


class _Connection(asyncio.Protocol):
    """Sends shared requests, in turn. Reads answers with a Content-Length, or without a body."""

    def __init__(self, requests: list[bytes], answers: _Answers, done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._answers = answers
        self._done = done
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is no subclass

    def next(self) -> None:
        assert self._transport is not None
        if not self._requests:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(self._requests.pop())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, ended, rest = self._buffer.partition(b"\r\n\r\n")
        if not ended:
            return
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"),
            0,
        )
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._answers.seconds.append(time.perf_counter() - self._sent_at)
        status = head[9:12].decode()
        self._answers.statuses[status] = self._answers.statuses.get(status, 0) + 1
        self.next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def _load(host: str, port: int, connections: int, requests: list[bytes]) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    answers, wanted = _Answers({}, []), len(requests)
    ended: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    opened = [
        (await loop.create_connection(partial(_Connection, requests, answers, done), host, port))[1] for done in ended
    ]
    started = time.perf_counter()
    for connection in opened:
        connection.next()
    await asyncio.wait_for(asyncio.gather(*ended), GIVEN_UP_S)
    seconds = time.perf_counter() - started
    if missing := wanted - len(answers.seconds):
        answers.statuses["none"] = missing
    in_order = sorted(answers.seconds)
    return {
        "seconds": seconds,
        "statuses": answers.statuses,
        "p50_ms": in_order[len(in_order) // 2] * 1e3,
        "p99_ms": in_order[len(in_order) * 99 // 100] * 1e3,
    }


def main(host: str, port: str, connections: str, file: str) -> None:
    content, requests, at = Path(file).read_bytes(), [], 0
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        requests.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    requests.reverse()  # taken from the end
    print(json.dumps(uvloop.run(_load(host, int(port), int(connections), requests))))


if __name__ == "__main__":
    main(*sys.argv[1:])
