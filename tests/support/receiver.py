"""A receiver of webhooks, as strict as Standard Webhooks asks: it refuses what is not signed, and counts every repeat.

The one thing of webhooks that a test may fake: whoever receives them is somebody else.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from campaign.feed.bodies import AnyEvent

EVENT: TypeAdapter[Any] = TypeAdapter(AnyEvent)


@dataclass
class Receiver:
    """`secrets`: those that it accepts. `answers`: the next statuses, then 204. `delay_s`: before each answer."""

    url: str = ""
    secrets: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    answer_headers: dict[str, str] = field(default_factory=dict)
    always: int = 204
    refuses: set[str] = field(default_factory=set)  # people whose events are answered 500
    delay_s: float = 0.0
    arrived: list[dict[str, Any]] = field(default_factory=list)  # every genuine request, in order, accepted or not
    accepted: list[dict[str, Any]] = field(default_factory=list)
    forged: int = 0
    at_once: int = 0
    most_at_once: int = 0
    _running: int = 0

    @property
    def repeats(self) -> int:
        """How many requests had an id that had been accepted before."""
        return sum(many - 1 for many in Counter(each["id"] for each in self.accepted).values())

    async def take(self, request: web.Request) -> web.Response:
        body = await request.text()
        genuine = False
        for secret in self.secrets:
            try:
                Webhook(secret).verify(body, dict(request.headers))
                genuine = True
            except WebhookVerificationError:
                continue
        if not genuine:
            self.forged += 1
            return web.Response(status=401)
        event = json.loads(body)
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["webhook-id"] == event["id"]
        EVENT.validate_python(event)
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            self.arrived.append(event)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            status = self.answers.pop(0) if self.answers else self.always
            if event["data"].get("subject_id") in self.refuses:
                status = 500
            if 200 <= status < 300:
                self.accepted.append(event)
            return web.Response(status=status, headers=self.answer_headers)
        finally:
            self._running -= 1


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a port of this machine."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    receiver.url = f"http://127.0.0.1:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()
