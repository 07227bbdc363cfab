"""Act as Placet does towards a connector: hand off messages, and look at the simulated phones."""

import asyncio
import json
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
from yarl import URL

from placet_operator.checking import Broken, NotSeen, until
from placet_operator.connector.process import Connector
from placet_operator.connector.receiver import Receiver

SETTLES_S = 0.3  # after which an SMS that is sent a second time is on the phone
MOST_ANSWER_BYTES = 4 * 1024 * 1024
STATUSES = ("accepted", "rejected")
TIMEOUT = aiohttp.ClientTimeout(total=30.0)
HOURS_LEFT = timedelta(hours=1)  # until the hours of marketing end

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Result:
    """The connector's answer for one message."""

    reference: str
    status: str
    id: str


@dataclass(frozen=True, slots=True)
class Sms:
    """One part on a simulated phone."""

    part: int
    parts: int
    text: str = field(repr=False)


@dataclass
class Placet:
    """The seat of Placet before one connector. `sender`, `code`: of messages. `process`: where --start named one."""

    at: str
    token: str = field(repr=False)
    http: aiohttp.ClientSession = field(repr=False)
    receiver: Receiver = field(repr=False)
    numbers: Iterator[str] = field(repr=False)
    sender: str
    code: str
    within_s: float
    process: Connector | None = None

    def message(self, text: str, category: str = "transactional") -> Message:
        ends = {"deliver_by": (datetime.now(UTC) + HOURS_LEFT).isoformat()} if category == "marketing" else {}
        return {
            "reference": str(uuid4()),
            "to": next(self.numbers),
            "from": self.sender,
            "short_code": self.code,
            "category": category,
            "text": text,
            **ends,
        }

    async def submit(self, *messages: Message) -> list[Result]:
        """Hand off messages in one request, and return the results in that order. Raises Broken."""
        status, body = await self.post(body_of(*messages), self.token)
        if status != 200:
            raise Broken(f"a submit of {len(messages)} was answered with {status}")
        return results_of(body, messages)

    async def accepted(self, *messages: Message) -> list[Result]:
        results = await self.submit(*messages)
        if refused := [each for each in results if each.status != "accepted"]:
            raise Broken(f"{len(refused)} of {len(results)} messages were rejected")
        return results

    async def post(self, body: bytes, token: str) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        async with self.http.post(
            f"{self.at}/v1/submits", data=body, headers=headers, allow_redirects=False, timeout=TIMEOUT
        ) as answer:
            return answer.status, await answer.content.read(MOST_ANSWER_BYTES)

    async def in_pieces(self, body: bytes, pieces: int, pause_s: float, sent: int | None = None) -> int | None:
        """Submit over a bare connection, in pieces; return the status, or None where only `sent` bytes are sent."""
        url = URL(self.at)
        tls = ssl.create_default_context() if url.scheme == "https" else None
        reader, writer = await asyncio.open_connection(url.host, url.port, ssl=tls)
        head = (
            f"POST {url.path.rstrip('/')}/v1/submits HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode()
        try:
            writer.write(head)
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

    async def phones(self, reference: str) -> list[Sms]:
        """Return the SMS of a message on the simulated phones. Raises NotSeen."""
        async with self.http.get(f"{self.at}/control/sms", allow_redirects=False, timeout=TIMEOUT) as answer:
            if answer.status != 200:
                raise NotSeen(f"GET /control/sms answers {answer.status}: no simulated phones to look at")
            said = await answer.json(content_type=None)
        try:
            rows = [each for each in said["sms"] if each["reference"] == reference]
            return [Sms(int(each["part"]), int(each["parts"]), str(each["text"])) for each in rows]
        except (KeyError, TypeError, ValueError):
            raise NotSeen("GET /control/sms does not answer as the format says") from None

    async def on_phone(self, reference: str) -> str:
        """Return the text that the phone shows once all of its parts are there. Raises Broken, NotSeen."""

        async def look() -> list[Sms] | None:
            found = await self.phones(reference)
            return found if found and {each.part for each in found} >= set(range(1, found[0].parts + 1)) else None

        parts = await until(look, self.within_s, "an accepted message is not on the phone, or not whole")
        return "".join(each.text for each in sorted(parts, key=lambda each: each.part))

    async def is_sent_once(self, reference: str) -> None:
        """Raise Broken unless exactly one SMS is on the phone, also a moment later."""
        await self.on_phone(reference)
        await asyncio.sleep(SETTLES_S)
        firsts = [each for each in await self.phones(reference) if each.part == 1]
        if len(firsts) != 1:
            raise Broken(f"one message is {len(firsts)} SMS on the phone")

    async def is_not_sent(self, reference: str) -> None:
        await asyncio.sleep(SETTLES_S)
        if await self.phones(reference):
            raise Broken("a message that was not handed off is on the phone")

    async def texts(self, number: str, *texts: str) -> None:
        """Let a simulated phone text the code. Raises NotSeen."""
        body = {"replies": [{"from": number, "to": self.code, "text": text} for text in texts]}
        async with self.http.post(
            f"{self.at}/control/replies", json=body, allow_redirects=False, timeout=TIMEOUT
        ) as answer:
            if not 200 <= answer.status < 300:
                raise NotSeen(f"POST /control/replies answers {answer.status}: no simulated phone to text with")


def body_of(*messages: Message) -> bytes:
    whole: list[dict[str, str | None]] = [{"deliver_by": None, **message} for message in messages]
    return json.dumps({"messages": whole}, ensure_ascii=False).encode()


def results_of(body: bytes, messages: Sequence[Message]) -> list[Result]:
    """Return the result of each message. Raises Broken for an answer that is not of the format."""
    try:
        said: dict[str, Any] = {each["reference"]: each for each in json.loads(body)["results"]}
    except (ValueError, KeyError, TypeError):
        raise Broken('the answer to a submit is not {"results": [{"reference", "status", "id"}]}') from None
    found = []
    for message in messages:
        result = said.get(message["reference"])
        if result is None or result.get("status") not in STATUSES:
            raise Broken("the answer has no result for a message, or its status is neither accepted nor rejected")
        if result["status"] == "accepted" and not (isinstance(result.get("id"), str) and result["id"]):
            raise Broken("an accepted message has no id")
        found.append(Result(message["reference"], result["status"], result.get("id") or ""))
    return found
