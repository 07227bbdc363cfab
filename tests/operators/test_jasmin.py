"""Placet behind Jasmin, which nobody here wrote: its HTTP API and throwers, with the npm SMPP server as the SMSC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest

from common.sms.sms_length import length
from stack.calling import Api
from stack.environment import Operators
from stack.processes import Supervisor
from stack.running import running_stack
from tests.support.eventually import eventually
from tests.support.infrastructure import KAFKA
from tests.support.operators import jasmind as operator
from tests.support.operators.behind import OADC, Behind
from tests.support.operators.jasmind import Jasmin
from tests.support.operators.smsc import NPMS, Smsc, smsc

WITHIN_S = 120.0
WIDE = "ê"
PARTS = range(1, 6)
STOPS = {"STOP": "", "Arrêtez": "UCS2", "توقف": "UCS2", "stop svp": "", "STOP ÇA SUFFIT": "UCS2"}
CODE = "36111"  # to which this SMSC delivers

pytestmark = pytest.mark.timeout(600)


@dataclass
class Placet(Behind):
    jasmin: Jasmin
    smsc: Smsc
    receipts: int = 0

    def delivers(self) -> None:
        """Have the SMSC say of each message that it has arrived: it names them in the order of coming."""
        for n, fact in enumerate(self.smsc.submits[self.receipts :], self.receipts + 1):
            self.receipts = n
            if fact["receipt"]:
                self.smsc.deliver(f"dlr-{n}", source=fact["to"], receipt=f"npm-{n}")


@pytest.fixture(scope="module")
async def placet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Placet]:
    folder = tmp_path_factory.mktemp("jasmin")
    async with AsyncExitStack() as held:
        server = await held.enter_async_context(smsc(NPMS))
        supervisor = await held.enter_async_context(Supervisor(folder / "logs"))
        held.push_async_callback(_listened, server, asyncio.create_task(server.listen()))
        jasmin = Jasmin(folder / "jasmin", supervisor, server.port)
        operators = Operators(
            gateways=[
                {
                    "provider": "jasmin",
                    "url": jasmin.url,
                    "user": operator.USER,
                    "secret": operator.PASSWORD,
                    "segments": 10,
                    "callback_url": f"{{inbound}}{operator.CALLBACKS}/receipts",
                }
            ],
            accounts=[{"provider": "jasmin", "account": "main", "path_secrets": [operator.PATH_SECRET]}],
        )
        stack = await held.enter_async_context(
            running_stack(folder / "stack", kafka=KAFKA, durable=False, operators=operators)
        )
        jasmin.inbound = stack.urls["inbound"]
        await jasmin.start()
        headers = {"Authorization": f"Bearer {stack.token}"}
        session = await held.enter_async_context(aiohttp.ClientSession(headers=headers))
        yield Placet(stack, Api(session, stack.urls), WITHIN_S, jasmin, server)


async def _listened(server: Smsc, listening: asyncio.Task[None]) -> None:
    """Kill the server, and read what it said until then."""
    server.kill()
    await listening


async def test_messages_are_accepted_and_every_dlr_comes(placet: Placet) -> None:
    """Texts of one to five parts in both alphabets, full to the last place."""
    sender = await placet.sender(range(100, 100 + 2 * len(PARTS)), lambda code: "")
    texts: dict[str, str] = {}
    for at, person in enumerate(sender.people):
        text, more = f"{OADC} {at}: STOP au {sender.code}", ("€ [à]", WIDE)[at % 2]
        while length(text + more).segments <= PARTS[at // 2]:
            text += more
        texts[person] = text
    messages = [
        {"sender_id": sender.sender_id, "to": to, "category": "marketing", "purpose": "promotions", "text": text}
        for to, text in texts.items()
    ]
    await placet.api.call("POST", "dispatch", "/v1/messages", {"messages": messages}, key="edges")

    async def delivered() -> bool:
        placet.delivers()
        counted = await placet.counted([sender])
        assert counted == {("accepted", "delivered"): len(texts)}, counted
        return True

    await eventually(delivered, within_s=WITHIN_S)


async def test_stops_come_through_also_while_inbound_svc_is_down(placet: Placet) -> None:
    sender = await placet.sender(range(300, 300 + 2 * len(STOPS)), lambda code: f"{OADC} : STOP au {code}", code=CODE)
    first, later = sender.people[: len(STOPS)], sender.people[len(STOPS) :]

    def stop(people: list[str]) -> None:
        for person, (text, coding) in zip(people, STOPS.items(), strict=True):
            octets = text.encode("utf-16-be" if coding else "ascii").hex()
            placet.smsc.deliver(f"stop-{person}", source=person.removeprefix("+"), text=octets, coding=coding)

    async def enforced(many: int) -> bool:
        assert len(await placet.enforced()) == many
        return True

    stop(list(first))
    await eventually(lambda: enforced(len(first)), within_s=WITHIN_S)
    placet.stack.kill("inbound")
    stop(list(later))

    async def taken() -> bool:
        names = {fact["name"] for fact in placet.smsc.facts if fact["kind"] == "delivered"}
        assert names >= {f"stop-{person}" for person in later}, "Jasmin has them"
        return True

    await eventually(taken)
    await placet.stack.restart("inbound")
    await eventually(lambda: enforced(2 * len(STOPS)), within_s=WITHIN_S)
    counts = await placet.finished(await placet.campaign(sender))
    assert (counts["accepted"], counts["denied"]) == (0, 2 * len(STOPS)), counts
