"""An operator of another kind before the simulator: submits reach a phone, and what comes back is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import smpp34
import uvicorn
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dispatch.gateways import HTTP_PROVIDERS, Account, HttpGateway, Misconfigured, Refused, Result
from dispatch.gateways.by_smpp.texts import parts_of
from inbound.providers import PROVIDERS, Callback
from stack import bridge, simulator
from stack.environment import Kind
from stack.processes import free_port
from tests.support.eventually import WITHIN_S, eventually
from tests.support.operators.accounts import submit
from tests.support.running import Surroundings

SOON = {"receipt_delay_s": [0, 0.05], "reply_delay_s": [0, 0.05]}
LONG = "Rendez-vous à l'œuvre 😀 " * 8
REPLY = {"from": "+33639980002", "to": "36111", "text": "STOP"}
LONG_REPLY = {"from": "+33639980003", "to": "36111", "text": "Merci, et donc : " * 8 + "STOP"}


@asynccontextmanager
async def bridged(
    kind: Kind, bootstrap: str, folder: Path, inbound: str = ""
) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """Run the simulator behind the bridge; yields the simulator, and the port of the SMSC, or of the bridge."""
    at, port, smpp_port = free_port(), free_port(), free_port()
    told = simulator.Settings(at, "a-token", "a-secret", f"http://127.0.0.1:{port}", folder / "log", "main", True)
    server = uvicorn.Server(uvicorn.Config(simulator.create_app(told), port=at, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    url = f"http://127.0.0.1:{at}"
    settings = bridge.Settings(port, url, inbound, "a-token", bootstrap, smpp_port)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as http, bridge.bridging(kind, settings):

            async def started() -> bool:
                return server.started

            await eventually(started)
            (await http.post("/control/behaviour", json=SOON)).raise_for_status()
            yield http, port if kind == "kannel" else smpp_port
    finally:
        server.should_exit = True
        await serving


async def phones(http: httpx.AsyncClient) -> list[str]:
    log = (await http.get("/log", params={"kind": "submit"})).text
    return [json.loads(line)["text"] for line in log.splitlines()]


@dataclass
class Esme:
    """A client of the SMSC, which keeps what is delivered."""

    session: smpp34.Smsc
    delivered: list[smpp34.DeliverSmEvent] = field(default_factory=list)

    async def listen(self) -> None:
        while isinstance(event := await self.session.next(), smpp34.DeliverSmEvent):
            self.delivered.append(event)

    async def submit(self, octets: bytes, coding: int, header: bool) -> str:
        answer = await self.session.submit_sm(
            "33639980001", octets, source_addr="MAISONLUNE", esm_class=0x40 if header else 0, data_coding=coding
        )
        assert answer.command_status == 0
        return answer.message_id or ""


async def test_an_smsc_stands_before_the_simulator(surroundings: Surroundings, tmp_path: Path) -> None:
    async with bridged("smpp", surroundings.broker.bootstrap, tmp_path) as (http, port):
        client = smpp34.Client("127.0.0.1", port, "placet", "a-secret", bind_type="TRX")

        async def bound() -> smpp34.Smsc | None:
            try:
                return await client.connect()
            except (smpp34.SmppError, OSError):
                return None

        session = await eventually(bound)
        assert session is not None
        esme = Esme(session)
        listening = asyncio.create_task(esme.listen())
        coding, parts = parts_of(LONG, 7)
        names = await asyncio.gather(
            esme.submit(b"Votre code : 4812", 0, False), *(esme.submit(each, coding, True) for each in parts)
        )
        assert len(set(names)) == 1 + len(parts)
        assert sorted(await phones(http)) == sorted(["Votre code : 4812", LONG])
        (await http.post("/control/replies", json={"replies": [REPLY, LONG_REPLY]})).raise_for_status()

        async def told() -> bool:
            finals = {
                each.short_message.split()[0][3:].decode()
                for each in esme.delivered
                if b"DELIVRD" in each.short_message
            }
            mos = [each for each in esme.delivered if not each.esm_class]
            return finals == set(names) and len(mos) == 2

        await eventually(told)
        mos = {each.source_addr: each for each in esme.delivered if not each.esm_class}
        [payload] = [tlv.value for tlv in mos[LONG_REPLY["from"][1:]].tlvs]
        assert mos[REPLY["from"][1:]].short_message.decode("utf-16-be") == "STOP"
        assert payload.decode("utf-16-be") == LONG_REPLY["text"]
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await client.stop()


async def test_topics_stand_before_the_simulator(surroundings: Surroundings, tmp_path: Path) -> None:
    broker = surroundings.broker
    names = [f"operator.demo.{each}.v1" for each in ("submits", "messages", "receipts")]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, broker.replicas) for name in names])
    await admin.close()
    submit = {"reference": surroundings.unique, "recipient": "+33639980001", "sender": "MAISONLUNE"}
    submit |= {"short_code": "36111", "category": "transactional", "text": LONG}
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=False)
    consumer = AIOKafkaConsumer(*names[1:], bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    try:
        async with bridged("kafka", broker.bootstrap, tmp_path) as (http, _):
            for text in (LONG, LONG, " "):  # twice the same, and one that the simulator refuses
                other = {} if text == LONG else {"reference": f"{surroundings.unique}-2", "text": text}
                await producer.send_and_wait(names[0], json.dumps(submit | other).encode())
            (await http.post("/control/replies", json={"replies": [REPLY]})).raise_for_status()
            found: list[dict[str, Any]] = []

            async def told() -> bool:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found.extend(json.loads(record.value) for record in records)
                finals = {(each["reference"], each["state"]) for each in found if "state" in each}
                wanted = {(surroundings.unique, "delivered"), (f"{surroundings.unique}-2", "failed")}
                return wanted <= finals and any(each.get("text") == "STOP" for each in found)

            await eventually(told)
            assert (await http.get("/counts")).json()["references"] == 1
    finally:
        await consumer.stop()
        await producer.stop()


@asynccontextmanager
async def called() -> AsyncIterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """Stand where inbound-svc is: yields its URL, and what Kannel asks of it. The first call is refused."""
    found: list[tuple[str, dict[str, str]]] = []
    refusals = [503]

    async def take(request: web.Request) -> web.Response:
        if refusals:
            return web.Response(status=refusals.pop())
        found.append((request.path, dict(request.query)))
        return web.Response(status=200)

    app = web.Application()
    app.router.add_get("/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
        yield f"http://127.0.0.1:{port}", found
    finally:
        await runner.cleanup()


async def test_kannel_stands_before_the_simulator(tmp_path: Path) -> None:
    """Asked as dispatch-svc asks, and read as inbound-svc reads."""
    account = Account("kannel", user="placet", secret="a-token", callback_url="http://inbound.example/receipts")
    async with called() as (inbound, found), bridged("kannel", "", tmp_path, inbound) as (http, port):
        kannel = HttpGateway("kannel", HTTP_PROVIDERS["kannel"], replace(account, url=f"http://127.0.0.1:{port}"),
                             timeout_s=WITHIN_S)  # fmt: skip
        stranger = HttpGateway("kannel", HTTP_PROVIDERS["kannel"], replace(kannel._account, secret="x"),
                               timeout_s=WITHIN_S)  # fmt: skip
        message = submit(1, text=LONG, category="transactional")
        assert await kannel.submit([message]) == [Result("accepted", message.reference, None)]
        [refused] = await kannel.submit([submit(2, text=" ")])
        assert isinstance(refused, Refused)
        [unknown] = await stranger.submit([submit(3)])
        assert isinstance(unknown, Misconfigured)
        await kannel.close()
        await stranger.close()
        assert await phones(http) == [LONG]
        (await http.post("/control/replies", json={"replies": [REPLY]})).raise_for_status()

        async def told() -> bool:
            finals = [said for path, said in found if path.endswith("/receipts") and said["status"] == "1"]
            mos = [said for path, said in found if path.endswith("/messages")]
            return [said["id"] for said in finals] == [message.reference] and len(mos) == 1

        await eventually(told)
        [target] = [f"{path}?{urlencode(said)}" for path, said in found if path.endswith("/messages")]
    [mo] = PROVIDERS["kannel"].parse_messages(Callback(target, {}, b"", method="GET"))
    assert (mo.sender, mo.short_code, mo.text) == (REPLY["from"], "36111", "STOP")
    assert mo.sent_at is not None
