"""The one thing we fake: an operator, strictly, over real HTTP. It records every message it is handed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

TOKEN = "operator-token"
FIELDS = {"reference", "to", "from", "short_code", "category", "text", "deliver_by"}


@dataclass
class Operator:
    """What it does with a submit.

    answer    accept, reject, throttle, drop (takes it and closes without a word), unknown (does not know our token)
    open      cleared, it makes callers wait before they are answered
    keeps     only those wait whose batch is to this number, if one is named
    latency_s how long it takes to answer anyway
    renames   each submit of a message gets another id, though it is the same SMS
    dislikes  a batch with a text that holds this is refused as a whole, nothing taken
    """

    url: str = ""
    answer: str = "accept"
    latency_s: float = 0.0
    renames: bool = False
    dislikes: str | None = None
    keeps: str | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[dict[str, Any]] = field(default_factory=list)
    received: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0  # submits that wait for their answer
    most_at_once: int = 0

    @property
    def references(self) -> list[str]:
        return [m["reference"] for m in self.messages]

    async def submits(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        body = json.loads(await request.read())
        assert set(body) == {"messages"}
        assert 1 <= len(body["messages"]) <= 1000
        for message in body["messages"]:
            assert set(message) == FIELDS
            assert message["to"].startswith("+")
        if self.answer == "throttle":
            return web.json_response({"type": "throttled"}, status=429, headers={"Retry-After": "0.2"})
        if self.answer == "unknown":
            return web.json_response({"type": "unauthorised"}, status=401)
        if self.dislikes and any(self.dislikes in message["text"] for message in body["messages"]):
            return web.json_response({"type": "malformed"}, status=400)
        at = datetime.now(UTC)
        account = request.match_info.get("account", "main")
        self.messages += [{**message, "at": at, "account": account} for message in body["messages"]]
        self.received.set()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.latency_s)
        if self.keeps is None or any(message["to"] == self.keeps for message in body["messages"]):
            await self.open.wait()
        self.at_once -= 1
        if self.answer == "drop":
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPInternalServerError
        status = "rejected" if self.answer == "reject" else "accepted"
        code = "unknown_subscriber" if self.answer == "reject" else None
        return web.json_response(
            {
                "results": [
                    {"reference": m["reference"], "id": self._name(m["reference"]), "status": status, "code": code}
                    for m in body["messages"]
                ]
            }
        )

    def _name(self, reference: str) -> str:
        return f"op-{reference}" + (f"-{self.references.count(reference)}" if self.renames else "")


@asynccontextmanager
async def operator(fake: Operator | None = None) -> AsyncIterator[Operator]:
    """An operator listening on a free port of this machine."""
    fake = fake or Operator()
    fake.open.set()
    app = web.Application()
    app.router.add_post("/v1/submits", fake.submits)
    app.router.add_post("/{account}/v1/submits", fake.submits)  # more than one account with it
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = str(site.name)
    try:
        yield fake
    finally:
        fake.open.set()
        await runner.cleanup()
