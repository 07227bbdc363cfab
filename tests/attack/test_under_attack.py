"""Every attack at once on inbound-svc, before consent-svc and dispatch-svc: each STOP is acknowledged and enforced.

The memory stays, the logs are quiet, and the issuer of tokens hangs. `make attack` goes on for ten minutes, and then
each STOP is enforced within 3 s of its arrival; the short form, beside other tests, waits longer.
"""

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from stack.processes import Supervisor, free_port
from tests.attack.issuer import key_set
from tests.attack.test_connections import BOMBS, HEADS, TWO_READINGS
from tests.attack.wire import Peer, post
from tests.support.builders import number
from tests.support.eventually import WITHIN_S, eventually
from tests.support.fuzzing import START_WITHIN_S
from tests.support.operators.http import TOKEN, operator
from tests.support.running import Surroundings, bearer, environment

pytestmark = pytest.mark.any_broker

ATTACK_SECONDS = float(os.environ.get("ATTACK_SECONDS", "6"))
LOADED_S = 240
SECRET = "a secret of the simulator, for tests"
PATH = "/v1/callbacks/simulator/main/messages"
MOST_BYTES = 512 * 1024 * 1024  # of the pod
PATIENCE_S = 30.0
ENFORCED_S = 3.0 if ATTACK_SECONDS >= 60 else 30.0
SENDER = {
    "sender_id": "maison-lune",
    "legal_name": "Maison Lune SAS",
    "brand": "Maison Lune",
    "contact": "contact@maison-lune.example",
    "country": "FR",
    "oadc": "MAISONLUNE",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Nos offres"}],
}
MIB = 1024 * 1024
RESETS = struct.pack("ii", 1, 0)  # a close resets the connection


def signed(body: bytes) -> tuple[str, ...]:
    stamp = str(int(time.time()))
    mac = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return (f"Placet-Timestamp: {stamp}", f"Placet-Signature: v1={mac}", "Content-Type: application/json")


def stop(named: int) -> bytes:
    fields = {"id": f"mo-{named}", "from": number(named % 10_000), "to": "36111", "text": "STOP"}
    body = json.dumps({**fields, "sent_at": "2026-11-29T10:00:00+00:00"}).encode()
    return post(PATH, body, *signed(body))


def peak_of(pid: int) -> int:
    """Return the most bytes of memory that the process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def logged(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


class Attackers:
    def __init__(self, port: int) -> None:
        self._port, self.tried = port, Counter[str]()
        self._until = time.monotonic() + ATTACK_SECONDS

    @property
    def go_on(self) -> bool:
        return time.monotonic() < self._until

    @contextlib.asynccontextmanager
    async def _peer(self) -> AsyncIterator[Peer]:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self._port))
        try:
            yield peer
        finally:
            peer.writer.transport.abort()

    async def _says(self, what: str, *pieces: bytes) -> bytes:
        """Send the pieces, and return what is answered first, if anything is."""
        self.tried[what] += 1
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S), self._peer() as peer:
                for piece in pieces:
                    await peer.write(piece)
                return await peer.reader.read(16)
        return b""

    async def half(self, what: str, piece: bytes, many: int) -> None:
        """Keep many connections with a part of a request.

        Bare sockets: what asyncio keeps of 750,000 streams stops the clock of the honest operator for seconds.
        """
        loop, open_ = asyncio.get_running_loop(), deque[socket.socket]()
        while self.go_on:
            open_.append(one := socket.socket())
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await loop.sock_connect(one, ("127.0.0.1", self._port))
                    self.tried[what] += 1
                    await loop.sock_sendall(one, piece)
            while len(open_) > many:
                open_.popleft().close()
        for one in open_:
            one.close()

    async def requests(self, what: str, make: Callable[[], bytes], *, refused: bool = True) -> None:
        while self.go_on:
            told = await self._says(what, make())
            status = int(told[9:12] or b"0")
            assert status == 0 or status < 500 or status == 503, (what, told)
            assert not (refused and 200 <= status < 300), (what, told)

    async def stops(self, numbers: "itertools.count[int]", took: list[float]) -> None:
        """Be an honest operator: each STOP is sent until it is acknowledged."""
        while self.go_on:
            request, begun = stop(next(numbers)), time.monotonic()
            while not (await self._says("a STOP", request)).startswith(b"HTTP/1.1 200"):
                self.tried["a STOP again"] += 1
            took.append(time.monotonic() - begun)


async def registered(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as client:
        assert (await client.post("/v1/senders", json=SENDER, headers=bearer())).status_code == 201


@pytest.mark.timeout(ATTACK_SECONDS + LOADED_S)
async def test_every_stop_is_acknowledged_and_enforced_under_attack(surroundings: Surroundings, tmp_path: Path) -> None:
    port, health, dice = free_port(), free_port(), random.Random(1)
    accounts = [{"provider": "simulator", "account": "main", "secrets": [SECRET]}]
    forged = ("Placet-Timestamp: 1", "Placet-Signature: v1=00")
    replayed = stop(0)
    async with Supervisor(tmp_path) as supervisor, operator() as op, key_set(hangs=True) as issuer:
        more: dict[str, dict[str, object]] = {
            "consent": {"port": free_port()},
            "inbound": {
                "port": port,
                "health_port": health,
                "provider_accounts": accounts,
                "publish_timeout_s": 30.0,
                "auth_jwks_url": issuer.url,
            },
            "dispatch": {  # ready once consents are fresh, which takes the other two
                "port": free_port(),
                "gateway_url": op.url,
                "gateway_token": TOKEN,
                "hours": "demonstration",
                "auth_jwks_url": issuer.url,
            },
        }

        async def start(service: str) -> None:
            told = await surroundings.settings(service, **more[service])
            await supervisor.start(
                service,
                [sys.executable, "-m", service],
                env=environment(told),
                ready=f"http://127.0.0.1:{more[service].get('health_port', more[service]['port'])}/readyz",
                within_s=START_WITHIN_S,
            )

        for service in more:
            await start(service)
        await registered(f"http://127.0.0.1:{more['consent']['port']}")

        async def known() -> bool:
            async with surroundings.sql("inbound") as sql:
                return bool(await sql.fetchval("SELECT count(*) FROM sender_code"))

        await eventually(known)
        attackers, took = Attackers(port), list[float]()
        head = b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: placet\r\n"
        token = f"Authorization: Bearer {issuer.token()}"
        attacks: list[Awaitable[None]] = [
            attackers.half("a half head", head + b"X-Slow: a", 400),
            attackers.half("a half body", post(PATH, b"x" * (MIB - 1), *forged, length=MIB), 200),
            attackers.half("a silent connection", b"", 400),
            attackers.requests("a huge head", lambda: head + dice.choice(HEADS)),
            attackers.requests("two readings", lambda: dice.choice(TWO_READINGS)),
            attackers.requests("a bomb", lambda: post(PATH, dice.choice(BOMBS), *forged)),
            attackers.requests("a forged STOP", lambda: post(PATH, b'{"text": "STOP"}', *forged)),
            attackers.requests("a review without a token", lambda: b"GET /v1/reviews HTTP/1.1\r\nHost: a\r\n\r\n"),
            attackers.requests(
                "a token of an issuer that hangs",
                lambda: f"GET /v1/reviews HTTP/1.1\r\nHost: a\r\n{token}\r\n\r\n".encode(),
            ),
            attackers.requests("metrics", lambda: b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
            attackers.requests("a replay", lambda: replayed, refused=False),
            attackers.stops(itertools.count(1), took),
        ]
        await asyncio.gather(*attacks)
        people = min(len(took) + 1, 10_000)  # of the fictional range
        enforced = await eventually(lambda: enforcements(surroundings, people), WITHIN_S + ATTACK_SECONDS / 10)
        peak = peak_of(supervisor.pid("inbound"))
        lines = [line for service in more for line in logged(supervisor.log(service))]
        print(f"\n{dict(attackers.tried)}\n{len(took)} STOPs, slowest {max(took):.2f} s, peak {peak // MIB} MiB")  # noqa: T201
        print(f"{len(enforced)} enforced, slowest {enforced[-1]:.2f} s, median {enforced[len(enforced) // 2]:.2f} s")  # noqa: T201
    assert took
    assert max(took) < PATIENCE_S
    assert enforced[-1] < ENFORCED_S
    assert peak < MOST_BYTES
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    async with surroundings.sql("inbound") as sql:
        kept = await sql.fetchval("SELECT count(*) FROM callback_item")
    assert kept == len(took) + 1


async def enforcements(surroundings: Surroundings, people: int) -> list[float]:
    """Return the seconds from each person's first STOP to its enforcement, in order, once every STOP is enforced."""
    async with surroundings.sql("dispatch") as sql:
        rows = await sql.fetch(
            """
            SELECT min(extract(epoch FROM enforced_at - received_at)) AS seconds
            FROM enforcement
            GROUP BY subject_id
            HAVING bool_or(enforced_at IS NOT NULL)
            ORDER BY 1
            """
        )
    assert len(rows) == people
    return [float(row["seconds"]) for row in rows]
