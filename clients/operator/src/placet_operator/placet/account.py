"""Call Placet as an operator with an account of `standard`: signed events, and events that are changed on the way."""

import asyncio
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from uuid import uuid4

import aiohttp
from yarl import URL

from placet_client import webhooks
from placet_operator.checking import Broken
from placet_operator.placet.reading import Reading

TIMEOUT = aiohttp.ClientTimeout(total=30.0)
Data = Mapping[str, object]


@dataclass
class Account:
    """The seat of an operator before one Placet. `url`: of inbound-svc; `code`: that people text to."""

    url: str
    name: str
    secret: str = field(repr=False)
    code: str
    http: aiohttp.ClientSession = field(repr=False)
    reading: Reading
    numbers: Iterator[str] = field(repr=False)

    def mo(self, text: str, at: datetime, **more: object) -> dict[str, object]:
        return {
            "id": f"kit-{uuid4()}",
            "from": next(self.numbers),
            "to": self.code,
            "text": text,
            "sent_at": at.isoformat(),
            **more,
        }

    def headers(self, body: bytes, event: str | None = None, at: datetime | None = None) -> dict[str, str]:
        signed = webhooks.sign(body, event or f"ev-{uuid4()}", at or datetime.now(UTC), self.secret)
        return {"Content-Type": "application/json", **signed}

    async def message(self, mo: Data, event: str | None = None) -> int:
        """Send an MO, and return the status."""
        body = body_of("message.received", mo)
        return await self.post(body, self.headers(body, event))

    async def receipt(self, data: Data) -> int:
        body = body_of("message.receipt", data)
        return await self.post(body, self.headers(body), "receipts")

    async def safe(self, mo: Data, event: str | None = None) -> None:
        """Send an MO. Raises Broken unless Placet acknowledges."""
        if not 200 <= (status := await self.message(mo, event)) < 300:
            raise Broken(f"an MO of the format is answered with {status}")

    async def post(
        self, body: bytes, headers: Mapping[str, str], kind: str = "messages", name: str | None = None
    ) -> int:
        async with self.http.post(
            f"{self.url}{self.path(kind, name)}",
            data=BytesIO(body),
            headers=headers,
            allow_redirects=False,
            timeout=TIMEOUT,
        ) as answer:
            return answer.status

    def path(self, kind: str = "messages", name: str | None = None) -> str:
        return f"/v1/callbacks/standard/{name or self.name}/{kind}"

    async def in_pieces(self, body: bytes, pieces: int, pause_s: float, sent: int | None = None) -> int | None:
        """Send an MO over a bare connection, in pieces; return the status, or None where only `sent` bytes are sent."""
        url = URL(self.url)
        tls = ssl.create_default_context() if url.scheme == "https" else None
        reader, writer = await asyncio.open_connection(url.host, url.port, ssl=tls)
        told = {"Host": f"{url.host}:{url.port}", "Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"{name}: {value}" for name, value in (told | self.headers(body)).items()]
        target = f"{url.path.rstrip('/')}{self.path()}"
        try:
            writer.write("\r\n".join([f"POST {target} HTTP/1.1", *lines, "", ""]).encode())
            whole = body[:sent]
            size = max(1, -(-len(whole) // pieces))
            for start in range(0, len(whole), size):
                writer.write(whole[start : start + size])
                await writer.drain()
                await asyncio.sleep(pause_s)
            if sent is not None:
                return None
            status = await reader.readline()
            return int(status.split()[1]) if status.startswith(b"HTTP/1.") else 0
        finally:
            writer.transport.abort()


def body_of(kind: str, data: Data) -> bytes:
    said: dict[str, Any] = {"type": kind, "data": data}
    return json.dumps(said, ensure_ascii=False).encode()
