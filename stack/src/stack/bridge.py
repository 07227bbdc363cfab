"""Stand between Placet and the simulator as an operator of another kind: topics on Kafka, an SMSC, or Kannel's smsbox.

A development tool on 127.0.0.1 only. The simulator stays the operator: the bridge hands on submits to it, and its
callbacks as records, as deliver_sm, or as Kannel's requests. It answers a callback once the log, Placet's bind or
inbound-svc has acknowledged, so the simulator repeats what was not. It keeps nothing: ids over SMPP say how many parts
there are, and the `dlr-url` of a message at Kannel is of one account.

    python -m stack.bridge kafka|smpp|kannel       configured by PLACET_BRIDGE_*, see `Settings`
"""

import asyncio
import json
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import aiohttp
import smpp34
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stack.environment import KINDS, OPERATOR, Kind

CODE = "36111"  # where a text names none

MOST_MESSAGES = 500
AGAIN_S = 0.2
TIMEOUT = aiohttp.ClientTimeout(total=30.0)
DELIVERED, RECEIVED = b"operator.receipt_delivered.v1", b"operator.message_delivered.v1"
KEEP_ALIVE_S = 620.0

# 3GPP TS 23.038, as octets of SMPP
GSM7 = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = dict(zip(b"\x0a\x14\x28\x29\x2f\x3c\x3d\x3e\x40\x65", "\f^{}\\[~]|€", strict=True))
UCS2, RECEIPT, WITH_HEADER = 8, 0x04, 0x40
INTERNATIONAL, ISDN = 1, 1
RECEIPTED_ID, MESSAGE_PAYLOAD, MESSAGE_STATE = 0x001E, 0x0424, 0x0427
STATES: Mapping[str, tuple[str, int]] = {  # appendix B and 5.2.28
    "sent": ("ENROUTE", 1),
    "delivered": ("DELIVRD", 2),
    "expired": ("EXPIRED", 3),
    "failed": ("UNDELIV", 5),
    "opted_out": ("REJECTD", 8),
}
KANNEL_STATES: Mapping[str, str] = {"sent": "8", "delivered": "1", "expired": "2", "failed": "2", "opted_out": "16"}
SYSTEM_ERROR, BAD_DESTINATION, THROTTLED = 0x08, 0x0B, 0x58
_CODE = re.compile(r"\b3[68]\d{3}\b")


@dataclass(frozen=True, slots=True)
class Settings:
    """PLACET_BRIDGE_PORT, _SIMULATOR, _INBOUND (their URLs), _TOKEN (of submits), _KAFKA (host:port), _SMPP_PORT."""

    port: int
    simulator: str
    inbound: str
    token: str = field(repr=False)
    kafka: str
    smpp_port: int

    @classmethod
    def from_environment(cls) -> "Settings":
        told = {
            name: os.environ[f"PLACET_BRIDGE_{name}"]
            for name in ("PORT", "SIMULATOR", "INBOUND", "TOKEN", "KAFKA", "SMPP_PORT")
        }
        return cls(
            int(told["PORT"]),
            told["SIMULATOR"],
            told["INBOUND"],
            told["TOKEN"],
            told["KAFKA"],
            int(told["SMPP_PORT"]),
        )


class Simulator:
    """The simulator's submits."""

    def __init__(self, settings: Settings, http: aiohttp.ClientSession) -> None:
        self._url = f"{settings.simulator}/v1/submits"
        self._headers = {"Authorization": f"Bearer {settings.token}"}
        self._http = http

    async def submit(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, list[dict[str, Any]]]:
        """Return the status, 503 where the simulator is out of reach, and the results."""
        try:
            body = {"messages": list(messages)}
            async with self._http.post(self._url, json=body, headers=self._headers, timeout=TIMEOUT) as answer:
                return answer.status, (await answer.json())["results"] if answer.status == 200 else []
        except (aiohttp.ClientError, TimeoutError):
            return 503, []


class Operator(Protocol):
    """What stands in front of the simulator. Each call returns once Placet has it, or raises."""

    async def text(self, mo: Mapping[str, Any]) -> None: ...

    async def receipt(self, receipt: Mapping[str, Any]) -> None: ...


class NotTaken(Exception):
    """Placet has not acknowledged."""


class Topics:
    """An operator who integrates by Kafka: reads the submits from the first on, and writes MOs and DLRs.

    The simulator takes a repeated reference for the same SMS, so that a new process reads the topic again.
    """

    def __init__(self, settings: Settings, simulator: Simulator) -> None:
        self._simulator = simulator
        self._consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka, auto_offset_reset="earliest")
        self._producer = AIOKafkaProducer(bootstrap_servers=settings.kafka, acks="all", enable_idempotence=False)

    async def text(self, mo: Mapping[str, Any]) -> None:
        said = {"message_id": mo["id"], "sender": mo["from"], "recipient": mo["to"]}
        await self._write("messages", RECEIVED, said | {"text": mo["text"], "sent_at": mo["sent_at"]})

    async def receipt(self, receipt: Mapping[str, Any]) -> None:
        said = {name: receipt[name] for name in ("reference", "code", "at")}
        await self._write("receipts", DELIVERED, said | {"message_id": receipt["id"], "state": receipt["status"]})

    async def _write(self, of: str, kind: bytes, said: Mapping[str, Any]) -> None:
        topic, key = f"operator.{OPERATOR}.{of}.v1", str(said["message_id"]).encode()
        headers = [("ce_type", kind), ("content-type", b"application/json")]
        await self._producer.send_and_wait(topic, json.dumps(said).encode(), key=key, headers=headers)

    async def run(self) -> None:
        """Hand on each submit, and never return."""
        topic = f"operator.{OPERATOR}.submits.v1"
        await self._producer.start()
        await self._consumer.start()
        try:
            # dispatch-svc makes the topic
            while not (partitions := await self._partitions(topic)):  # noqa: ASYNC110 (no event tells)
                await asyncio.sleep(AGAIN_S)
            self._consumer.assign([TopicPartition(topic, each) for each in partitions])
            while True:
                found = await self._consumer.getmany(timeout_ms=1000, max_records=MOST_MESSAGES)
                messages = [_submitted(json.loads(record.value)) for records in found.values() for record in records]
                if messages:
                    await self._hand_on(messages)
        finally:
            await self._consumer.stop()
            await self._producer.stop()

    async def _partitions(self, topic: str) -> set[int]:
        await self._consumer.topics()  # asks the broker; naming a topic that is missing might make it
        return self._consumer.partitions_for_topic(topic) or set()

    async def _hand_on(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Submit until the simulator has decided; what the simulator refuses is a DLR."""
        while True:
            status, results = await self._simulator.submit(messages)
            if status == 200:
                refused = [(each["reference"], each["code"]) for each in results if each["status"] == "rejected"]
                break
            if status == 400 and len(messages) == 1:
                refused = [(messages[0]["reference"], "refused")]
                break
            if status == 400:
                for message in messages:
                    await self._hand_on([message])
                return
            await asyncio.sleep(AGAIN_S)
        for reference, code in refused:
            said = {"id": f"refused-{reference}", "reference": reference, "status": "failed", "code": code, "at": None}
            await self.receipt(said)


def _submitted(said: Mapping[str, str]) -> dict[str, str]:
    names = {"reference": "reference", "to": "recipient", "from": "sender", "short_code": "short_code"}
    return {ours: said[theirs] for ours, theirs in (names | {"category": "category", "text": "text"}).items()}


class Smsc:
    """An SMSC: takes submit_sm, its parts put together, and delivers MOs and DLRs by any bind that receives."""

    def __init__(self, settings: Settings, simulator: Simulator) -> None:
        self._simulator = simulator
        self._server = smpp34.Server("127.0.0.1", settings.smpp_port, system_id=OPERATOR)
        self._binds: dict[str, smpp34.Esme] = {}
        self._parts: dict[tuple[str, str, int], dict[int, smpp34.SubmitSmEvent]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def text(self, mo: Mapping[str, Any]) -> None:
        octets = str(mo["text"]).encode("utf-16-be")
        payload = [smpp34.Tlv(MESSAGE_PAYLOAD, octets)] if len(octets) > 140 else []
        await self._deliver(
            str(mo["to"]), b"" if payload else octets, source_addr=str(mo["from"])[1:], data_coding=UCS2, tlvs=payload
        )

    async def receipt(self, receipt: Mapping[str, Any]) -> None:
        word, state = STATES[str(receipt["status"])]
        reference = str(receipt["reference"])
        for name in ids_of(reference):
            said = f"id:{name} sub:001 dlvrd:001 stat:{word} err:000 text:".encode()
            tlvs = [
                smpp34.Tlv(RECEIPTED_ID, name.encode() + b"\0"),
                smpp34.Tlv(MESSAGE_STATE, bytes((state,))),
            ]
            await self._deliver(CODE, said, esm_class=RECEIPT, tlvs=tlvs)

    async def _deliver(self, to: str, message: bytes, **more: Any) -> None:
        for session, bind in list(self._binds.items()):
            try:
                answer = await bind.deliver_sm(to, message, source_addr_ton=INTERNATIONAL, source_addr_npi=ISDN, **more)
            except (smpp34.SmppError, RuntimeError, OSError):
                self._binds.pop(session, None)
                continue
            if answer.command_status == 0:
                return
        raise NotTaken("no bind has acknowledged")

    async def run(self) -> None:
        """Serve, and never return."""
        await self._server.start()
        while True:
            event = await self._server.next()
            match event:
                case smpp34.Esme():
                    if event.can_receive:
                        self._binds[event.session_id] = event
                case smpp34.Unbound():
                    self._binds.pop(event.session_id, None)
                case smpp34.SubmitSmEvent():
                    self._take(event)

    def _take(self, event: smpp34.SubmitSmEvent) -> None:
        """Keep a part; hand on the message with its last one."""
        if not event.esm_class & WITH_HEADER:
            whole = [event]
        else:
            reference, total, number = event.short_message[3:6]
            place = (event.source_addr, event.destination_addr, reference)
            parts = self._parts.setdefault(place, {})
            parts[number] = event
            if len(parts) < total:
                return
            whole = [parts[each] for each in sorted(self._parts.pop(place))]
        task = asyncio.create_task(self._hand_on(whole))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hand_on(self, parts: Sequence[smpp34.SubmitSmEvent]) -> None:
        octets = b"".join(each.short_message[6 if each.esm_class & WITH_HEADER else 0 :] for each in parts)
        payload = b"".join(tlv.value for tlv in parts[0].tlvs if tlv.tag == MESSAGE_PAYLOAD)
        text = text_of(octets or payload, parts[0].data_coding)
        named = _CODE.search(text)
        reference = f"smpp-{len(parts)}-{uuid.uuid4()}"
        message = {
            "reference": reference,
            "to": f"+{parts[0].destination_addr.lstrip('+')}",
            "from": parts[0].source_addr,
            "short_code": named[0] if named else CODE,
            "category": "marketing" if named else "transactional",  # SMPP does not tell
            "text": text,
        }
        status, results = await self._simulator.submit([message])
        accepted = status == 200 and results[0]["status"] == "accepted"
        for name, part in zip(ids_of(reference), parts, strict=True):
            if accepted:
                part.accept(message_id=name)
            elif status == 429:
                part.reject(THROTTLED)
            else:
                part.reject(BAD_DESTINATION if status in (200, 400) else SYSTEM_ERROR)


class Kannel:
    """An smsbox of Kannel, set up as docs/operators/kannel.md says: takes `/cgi-bin/sendsms`, and calls inbound-svc.

    The message's name is the `id` of its `dlr-url`.
    """

    def __init__(self, settings: Settings, simulator: Simulator, http: aiohttp.ClientSession) -> None:
        self._simulator = simulator
        self._http = http
        self._token = settings.token
        self._url = f"{settings.inbound}/v1/callbacks/kannel/{OPERATOR}"

    async def text(self, mo: Mapping[str, Any]) -> None:
        said = {"backend": "simulator", "sender": mo["from"], "to": mo["to"], "message": mo["text"], "charset": "UTF-8"}
        await self._call("messages", said | {"ts": _unix(mo["sent_at"]), "id": mo["id"]})

    async def receipt(self, receipt: Mapping[str, Any]) -> None:
        await self._call("receipts", {"id": receipt["reference"], "status": KANNEL_STATES[str(receipt["status"])]})

    async def _call(self, kind: str, said: Mapping[str, Any]) -> None:
        async with self._http.get(f"{self._url}/{kind}", params=said, timeout=TIMEOUT) as answer:
            if answer.status not in (200, 202):
                raise NotTaken(f"inbound-svc answers {answer.status}")

    async def run(self) -> None:
        """Never return: the requests come by the app."""
        await asyncio.Event().wait()

    async def sendsms(self, request: web.Request) -> web.Response:
        told = request.headers
        if told.get("X-Kannel-Password") != self._token:
            return web.Response(status=403, text="Authorization failed for sendsms")
        [name] = parse_qs(urlsplit(told["X-Kannel-DLR-Url"]).query)["id"]
        text = await request.text()
        named = _CODE.search(text)
        message = {
            "reference": name,
            "to": told["X-Kannel-To"],
            "from": told["X-Kannel-From"],
            "short_code": named[0] if named else CODE,
            "category": "marketing" if named else "transactional",  # Kannel is not told
            "text": text,
        }
        status, results = await self._simulator.submit([message])
        if status == 200 and results[0]["status"] == "accepted":
            return web.Response(status=202, text="0: Accepted for delivery")
        if status in (200, 400):
            return web.Response(status=403, text="Not routable. Do not try again.")
        return web.Response(status=503, text="Temporal failure, try again later.")


def _unix(at: str) -> str:
    return str(int(datetime.fromisoformat(at).timestamp()))


def ids_of(reference: str) -> list[str]:
    """Return the ids of a message's parts. The reference says how many there are. Pure."""
    return [f"{reference}-{number}" for number in range(1, int(reference.split("-")[1]) + 1)]


def text_of(octets: bytes, coding: int) -> str:
    """Return the text of a submit_sm, in UCS-2 or in GSM 7-bit, an octet for each septet. Pure."""
    if coding == UCS2:
        return octets.decode("utf-16-be", "replace")
    shown = re.sub(rb"\x1b(.)", lambda found: bytes((128 + found[1][0] % 128,)), octets, flags=re.DOTALL)
    return "".join(GSM7[each] if each < 128 else EXTENSION.get(each - 128, "?") for each in shown)


def app_of(operator: Operator) -> web.Application:
    """Return the app that takes the simulator's callbacks."""

    def taking(each: Callable[[Any], Awaitable[None]], items: Callable[[Any], Sequence[Any]]) -> Any:
        async def called(request: web.Request) -> web.Response:
            try:
                await asyncio.gather(*(each(item) for item in items(await request.json())))
            except Exception as error:  # the simulator must repeat
                return web.Response(status=503, text=type(error).__name__)
            return web.json_response({"status": "ok"})

        return called

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_get("/livez", livez)
    if isinstance(operator, Kannel):
        app.router.add_post("/cgi-bin/sendsms", operator.sendsms)
    app.router.add_post("/v1/callbacks/simulator/{account}/messages", taking(operator.text, lambda mo: [mo]))
    app.router.add_post(
        "/v1/callbacks/simulator/{account}/receipts", taking(operator.receipt, lambda body: body["receipts"])
    )
    return app


@asynccontextmanager
async def bridging(kind: Kind, settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Run the bridge; yields the task of the submits, which never ends by itself."""
    async with aiohttp.ClientSession() as http:
        simulator = Simulator(settings, http)
        operator = _operator(kind, settings, simulator, http)
        task = asyncio.create_task(operator.run())
        runner = web.AppRunner(app_of(operator), access_log=None, keepalive_timeout=KEEP_ALIVE_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", settings.port).start()
            yield task
        finally:
            await runner.cleanup()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _operator(
    kind: Kind, settings: Settings, simulator: Simulator, http: aiohttp.ClientSession
) -> Topics | Smsc | Kannel:
    match kind:
        case "kafka":
            return Topics(settings, simulator)
        case "smpp":
            return Smsc(settings, simulator)
        case "kannel":
            return Kannel(settings, simulator, http)


async def main(kind: Kind) -> None:
    async with bridging(kind, Settings.from_environment()) as task:
        await task


if __name__ == "__main__":
    [asked] = [each for each in KINDS if each == sys.argv[1]]
    asyncio.run(main(asked))
