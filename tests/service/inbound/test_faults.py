"""What befalls inbound-svc while operators call: what got a 2xx is in the log, exactly once by meaning; all else got an
error, in time."""

import asyncio
import json
import struct
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import make_url

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS, Topic
from common.contracts.inbound import MessageReceived, ReceiptReceived
from common.kafka import encode
from inbound.providers import PROVIDERS
from inbound.service import Settings, build
from tests.builders import now, number
from tests.eventually import eventually
from tests.operators import body, signed
from tests.running import Surroundings, running
from tests.service.common.wire import Wire, wire_to
from tests.service.inbound.published import published

SECRET = "the simulator's secret"
TELNYX = Ed25519PrivateKey.generate()
PASSWORD = ("octopush", "a password of sixteen")
ACCOUNTS: list[dict[str, Any]] = [
    {"provider": "simulator", "account": "main", "secrets": [SECRET]},
    {"provider": "octopush", "account": "main", "basic": [":".join(PASSWORD)]},
    {"provider": "telnyx", "account": "main", "secrets": [b64encode(TELNYX.public_key().public_bytes_raw()).decode()]},
]
IMPATIENT_S, PATIENT_S = 1.5, 12.0  # what a test waits for in vain; what no test waits for
SLOW_MACHINE_S = 1.0
HEALS_WITHIN_S = 45.0  # the relay and aiokafka back off meanwhile
TEXTS = {"STOP": "stop", "à demain": "none", "START": "start", "je ne sais pas, stop ou pas": "review"}

Fault = Literal["gone", "silent"]  # nobody listens any more; or they do what they are asked, and no answer comes


@dataclass
class Faulty:
    """inbound-svc in process, with a wire to its Postgres and one to its broker, and an operator who calls."""

    client: httpx.AsyncClient
    settings: Settings
    postgres: Wire
    broker: Wire
    sent: dict[str, tuple[str, bytes]]  # our name for each callback: its path and body

    def call(self, name: str) -> Awaitable[httpx.Response]:
        path, raw = self.sent[name]
        return self.client.post(f"/v1/callbacks/simulator/main/{path}", content=raw, headers=signed(raw, SECRET, now()))

    def new(self, how_many: int) -> list[str]:
        """Names of as many callbacks that nobody has sent yet: MOs of every meaning, and receipts."""
        names = []
        for text in _round(how_many, [*TEXTS, None]):
            name = f"cb-{len(self.sent)}"
            at = now().isoformat()
            if text is None:
                one: dict[str, Any] = {
                    "id": name,
                    "reference": str(uuid4()),
                    "status": "delivered",
                    "code": None,
                    "at": at,
                }
                self.sent[name] = "receipts", json.dumps({"receipts": [one]}).encode()
            else:
                one = {"id": name, "from": number(len(self.sent)), "to": "36111", "text": text, "sent_at": at}
                self.sent[name] = "messages", json.dumps(one).encode()
            names.append(name)
        return names

    async def meanings(self) -> dict[str, set[bytes]]:
        """In the log, around the wire: what each callback means there. One that is published twice means one thing
        if the two are the same event."""
        found: dict[str, set[bytes]] = defaultdict(set)
        for topic in (INBOUND_MESSAGES, INBOUND_RECEIPTS):
            for event in await self._events(topic):
                found[event.provider_message_id].add(encode(event))
        return found

    async def _events(self, topic: Topic) -> list[MessageReceived | ReceiptReceived]:
        return [
            record.event
            for record in await published(self.settings, topic)
            if isinstance(record.event, MessageReceived | ReceiptReceived)
        ]

    async def intents(self) -> dict[str, str]:
        events = await self._events(INBOUND_MESSAGES)
        return {event.provider_message_id: event.intent for event in events if isinstance(event, MessageReceived)}


def _round(how_many: int, things: list[Any]) -> list[Any]:
    return [things[n % len(things)] for n in range(how_many)]


@asynccontextmanager
async def faulty(surroundings: Surroundings, publish_timeout_s: float = IMPATIENT_S) -> AsyncIterator[Faulty]:
    given = await surroundings.settings("inbound", provider_accounts=ACCOUNTS, publish_timeout_s=publish_timeout_s)
    direct, url = Settings(**given), make_url(given["database_url"])
    host, port = surroundings.broker.bootstrap.split(":")
    assert url.host is not None
    async with wire_to(url.host, url.port or 5432) as postgres, wire_to(host, int(port)) as broker:
        advertised = [host.encode() + struct.pack(">i", at) for at in (int(port), broker.port)]
        broker.rewrite = (advertised[0], advertised[1])  # or its clients would go to the broker itself
        wired = direct.model_copy(
            update={
                "database_url": url.set(port=postgres.port).render_as_string(hide_password=False),
                "kafka_bootstrap": f"{host}:{broker.port}",
            }
        )
        async with running(build(wired), headers={}) as client:
            service = Faulty(client, direct, postgres, broker, {})
            await eventually(lambda: _accepted(service, service.new(1)), within_s=HEALS_WITHIN_S)
            yield service
            for wire in (postgres, broker):  # or it could not be drained
                heal(wire)


def strike(wire: Wire, fault: Fault) -> None:
    wire.cut() if fault == "gone" else wire.hold()


def heal(wire: Wire) -> None:
    wire.mend()
    wire.let_go()


async def _accepted(service: Faulty, names: list[str]) -> bool:
    """As operators do it: what was not acknowledged is sent again."""
    return not _refused(await _wave(service, names))


async def _wave(service: Faulty, names: list[str]) -> dict[str, httpx.Response]:
    answers = await asyncio.gather(*(service.call(name) for name in names))
    return dict(zip(names, answers, strict=True))


def _refused(answers: dict[str, httpx.Response]) -> list[str]:
    """Those not acknowledged; each was told so, and when to come again."""
    refused = {name: answer for name, answer in answers.items() if not answer.is_success}
    for answer in refused.values():
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert int(answer.headers["retry-after"]) > 0
    return list(refused)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["gone", "silent"])
@pytest.mark.parametrize("struck", [("broker",), ("postgres",), ("broker", "postgres")], ids="+".join)
async def test_whatever_is_acknowledged_is_in_the_log_once_and_all_else_hears_an_error(
    surroundings: Surroundings, struck: tuple[str, ...], fault: Fault
) -> None:
    """The fault strikes while callbacks are in flight, and stays until a whole wave was refused."""
    async with faulty(surroundings) as service:
        wires = [getattr(service, name) for name in struck]
        numbers = count()

        async def struck_in_the_middle(name: str) -> httpx.Response:
            if next(numbers) == 20:
                for wire in wires:
                    strike(wire, fault)
            return await service.call(name)

        caught = service.new(40)
        answers = dict(zip(caught, await asyncio.gather(*map(struck_in_the_middle, caught)), strict=True))
        hopeless = service.new(10)
        answers |= await _wave(service, hopeless)
        refused = _refused(answers)
        at_once = await service.meanings()

        assert set(hopeless) <= set(refused), "the fault was none: nothing was tested"
        assert set(answers) - set(refused) <= set(at_once)

        for wire in wires:
            heal(wire)
        await eventually(lambda: _accepted(service, refused), within_s=HEALS_WITHIN_S)

        found = await service.meanings()
        assert set(found) == set(service.sent)
        assert {name for name, meant in found.items() if len(meant) != 1} == set()
        texts = {name: json.loads(raw)["text"] for name, (path, raw) in service.sent.items() if path == "messages"}
        assert await service.intents() == {name: TEXTS[text] for name, text in texts.items()}


async def hurried(service: Faulty, provider: str) -> httpx.Response:
    """A callback of one who gives up early."""
    if provider == "octopush":
        raw = body("octopush/mo.json")
        return await service.client.post("/v1/callbacks/octopush/main/messages", content=raw, auth=PASSWORD)
    raw, stamp = body("telnyx/mo.json"), str(int(now().timestamp()))
    signature = b64encode(TELNYX.sign(stamp.encode() + b"|" + raw)).decode()
    headers = {"telnyx-signature-ed25519": signature, "telnyx-timestamp": stamp}
    return await service.client.post("/v1/callbacks/telnyx/main/messages", content=raw, headers=headers)


@pytest.mark.parametrize("slow", ["broker", "postgres"])
@pytest.mark.parametrize("provider", ["octopush", "telnyx"])
async def test_who_gives_up_early_hears_an_error_before_it_does(
    surroundings: Surroundings, provider: str, slow: str
) -> None:
    """While one who has more patience, and called before, is still waiting for a good answer, and gets it."""
    async with faulty(surroundings, publish_timeout_s=PATIENT_S) as service:
        wire: Wire = getattr(service, slow)
        wire.hold()
        patient = asyncio.ensure_future(service.call(*service.new(1)))
        within_s = PROVIDERS[provider].answer_within_s + SLOW_MACHINE_S
        refused = await asyncio.wait_for(hurried(service, provider), within_s)
        still_waiting = not patient.done()
        wire.let_go()

        assert still_waiting
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert (await patient).status_code == 200

        async def acknowledged() -> bool:
            return (await hurried(service, provider)).status_code == 200

        await eventually(acknowledged, within_s=HEALS_WITHIN_S)
        assert [len(meant) for meant in (await service.meanings()).values()] == [1, 1, 1]
