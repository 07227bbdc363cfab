"""An operator who calls inbound-svc over wires that can be cut: what it sent, what it was told, and what is in the
log."""

import asyncio
import json
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import make_url

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS
from common.contracts.inbound import MessageReceived, ReceiptReceived
from common.kafka.broker import encode
from inbound.service import Settings
from tests.operators import signed
from tests.service.common.wire import Wire, wire_to
from tests.service.inbound.published import published
from tests.support.builders import now, number
from tests.support.running import Surroundings

SECRET = "the simulator's secret"
ACCOUNT = {"provider": "simulator", "account": "main", "secrets": [SECRET]}
TEXTS = {"STOP": "stop", "à demain": "none", "START": "start", "je ne sais pas, stop ou pas": "review"}


@dataclass(frozen=True)
class Wires:
    """`direct`: the settings as they would be without the wires."""

    postgres: Wire
    broker: Wire
    direct: Settings
    database_url: str
    kafka_bootstrap: str


@asynccontextmanager
async def wires(surroundings: Surroundings, **given: Any) -> AsyncIterator[Wires]:
    """To the Postgres and the broker of these settings; whole again when the block ends."""
    url = make_url(given["database_url"])
    host, port = surroundings.broker.bootstrap.split(":")
    assert url.host is not None
    async with wire_to(url.host, url.port or 5432) as postgres, wire_to(host, int(port)) as broker:
        advertised = [host.encode() + struct.pack(">i", at) for at in (int(port), broker.port)]
        broker.rewrite = (advertised[0], advertised[1])  # or its clients would go to the broker itself
        yield Wires(
            postgres,
            broker,
            Settings(**given),
            url.set(port=postgres.port).render_as_string(hide_password=False),
            f"{host}:{broker.port}",
        )


@dataclass
class Operator:
    """`sent`: our name for each callback, its path and its body."""

    client: httpx.AsyncClient
    settings: Settings  # direct: to look at the log
    sent: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def new(self, how_many: int) -> list[str]:
        """Names of as many callbacks that nobody has sent yet: MOs of every meaning, and receipts."""
        return [self._new(n) for n in range(len(self.sent), len(self.sent) + how_many)]

    def _new(self, n: int) -> str:
        name, at, texts = f"cb-{n}", now().isoformat(), [None, *TEXTS]
        text = texts[n % len(texts)]
        if text is None:
            receipt = {"id": name, "reference": str(uuid4()), "status": "delivered", "code": None, "at": at}
            self.sent[name] = "receipts", json.dumps({"receipts": [receipt]}).encode()
        else:
            mo = {"id": name, "from": number(n), "to": "36111", "text": text, "sent_at": at}
            self.sent[name] = "messages", json.dumps(mo).encode()
        return name

    async def call(self, name: str) -> httpx.Response | None:
        """None: it was hung up on."""
        path, raw = self.sent[name]
        headers = signed(raw, SECRET, now())
        try:
            return await self.client.post(f"/v1/callbacks/simulator/main/{path}", content=raw, headers=headers)
        except httpx.TransportError:
            return None

    async def wave(self, names: list[str]) -> dict[str, httpx.Response | None]:
        answers = await asyncio.gather(*(self.call(name) for name in names))
        return dict(zip(names, answers, strict=True))

    async def acknowledged(self, names: list[str]) -> bool:
        """Once each: are all of them good now?"""
        return not refused(await self.wave(names))

    async def meanings(self) -> dict[str, set[bytes]]:
        """In the log: what each callback means there. One that is published twice means one thing if the two are the
        same event."""
        found: dict[str, set[bytes]] = defaultdict(set)
        for event in await self.events():
            found[event.provider_message_id].add(encode(event))
        return found

    async def events(self) -> list[MessageReceived | ReceiptReceived]:
        return [
            record.event
            for topic in (INBOUND_MESSAGES, INBOUND_RECEIPTS)
            for record in await published(self.settings, topic)
            if isinstance(record.event, MessageReceived | ReceiptReceived)
        ]

    async def everything_is_in_the_log_once(self) -> None:
        """Whatever was sent, and nothing else, with its meaning."""
        found = await self.meanings()
        assert set(found) == set(self.sent)
        assert {name for name, meant in found.items() if len(meant) != 1} == set()
        texts = {name: json.loads(raw)["text"] for name, (path, raw) in self.sent.items() if path == "messages"}
        intents = {e.provider_message_id: e.intent for e in await self.events() if isinstance(e, MessageReceived)}
        assert intents == {name: TEXTS[text] for name, text in texts.items()}


def refused(answers: dict[str, httpx.Response | None]) -> list[str]:
    """Those not acknowledged; whoever was told anything was told when to come again."""
    no = {name: answer for name, answer in answers.items() if answer is None or not answer.is_success}
    for answer in filter(None, no.values()):
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert int(answer.headers["retry-after"]) > 0
    return list(no)
