"""Simulate an operator: accept submits, send DLRs and replies, and log every fact.

A development tool on 127.0.0.1 only; /control, /log and /counts need no token. Only this log holds numbers and texts in
clear: the numbers are fictional, and the report compares Placet's account with the log. So the simulator shares no code
with the services, and refuses everything that an operator could refuse.

    python -m stack.simulator       configured by PLACET_SIM_* and PLACET_INBOUND_URL, see `Settings`

Each line of the log is flushed before the answer. A process that finds a log goes on with it: a reply that inbound-svc
has not acknowledged is sent again. Pending DLRs, and replies that were not due, are lost with the process before.
"""

import asyncio
import heapq
import hmac
import math
import os
import random
import secrets
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import aiohttp
import msgspec
import uvicorn
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_S = 620  # as long as in the services: the client closes first
MAX_MESSAGES = 1000
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_SEGMENTS = 10
RECEIPT_BATCH = 100
READ_BYTES = 256 * 1024
CALLBACKS_AT_ONCE = 16
CALLBACK_TIMEOUT_S = 10.0
FIRST_RETRY_S, LONGEST_RETRY_S, GIVE_UP_S = 0.2, 5.0, 300.0
TICK_S = 0.02

GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM7_TWO_SEPTETS = frozenset("\f^{}\\[~]|€")

STOP_SPELLINGS = (
    "STOP", "stop", "Stop", "sToP", "Stop.", "STOP!!!", " stop ", '"STOP"', "« STOP »", "(stop)", "STOP SMS",
    "stop pub", "Stop merci", "stop svp", "Bonjour, stop svp", "STOP au 36111", "STOP 36111", "STOP\n", "STOP STOP",
    "S T O P", "S.T.O.P", "s-t-o-p", "ＳＴＯＰ", "𝐒𝐓𝐎𝐏", "ST0P", "STOPPP", "stooop", "tsop", "STPO",
    "STOP 🙏", "🛑", "🛑 STOP", "⛔", "stop tout", "Stop!", "STOP - merci de ne plus m'écrire", "STOPSMS",
    "ARRET", "Arrêt", "arret svp", "ARRÊTEZ", "arretez vos sms", "désinscription", "DESINSCRIPTION", "désabonner",
    "Je veux me désabonner", "désinscrivez-moi", "je ne veux plus recevoir vos messages", "stop à la pub",
)  # fmt: skip

Rate = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Number = Annotated[str, Meta(pattern=r"^\+[1-9]\d{6,14}$")]
ShortCode = Annotated[str, Meta(pattern=r"^3[68]\d{3}$")]


class Message(Struct, forbid_unknown_fields=True, rename={"sender": "from"}):
    """A submitted SMS. `sender` is the OADC: 3 to 11 letters and digits, at least one letter (DOMAIN 1.7)."""

    reference: Annotated[str, Meta(min_length=1, max_length=64)]
    to: Number
    sender: Annotated[str, Meta(pattern=r"^(?=.*[A-Za-z])[A-Za-z0-9]{3,11}$")]
    short_code: ShortCode
    category: Literal["marketing", "transactional", "service"]
    text: Annotated[str, Meta(pattern=r"\S")]
    deliver_by: Annotated[datetime, Meta(tz=True)] | None = None


class Submits(Struct, forbid_unknown_fields=True):
    messages: Annotated[list[Message], Meta(min_length=1)]


class Result(Struct):
    reference: str
    id: str | None
    status: Literal["accepted", "rejected"]
    code: str | None = None


class Behaviour(Struct, forbid_unknown_fields=True):
    """The behaviour of the operator and its recipients; POST /control/behaviour changes it."""

    receipt_delay_s: tuple[Seconds, Seconds] = (0.2, 2.0)
    receipt_twice: Rate = 0.0
    receipt_out_of_order: Rate = 0.0  # "delivered" arrives before "sent"; the times inside stay true
    undelivered_rate: Rate = 0.0  # of accepted messages: the last DLR says failed or expired
    reject_rate: Rate = 0.0
    latency_s: Seconds = 0.0  # before the answer to a submit
    drop_answer_rate: Rate = 0.0  # accepts the submit, then closes the connection without an answer
    submits_per_s: Annotated[float, Meta(gt=0)] | None = None  # messages per second; 429 above
    stop_rate: Rate = 0.0  # of recipients of marketing: the same numbers on every run
    reply_delay_s: tuple[Seconds, Seconds] = (0.5, 3.0)
    clock_s: float = 0.0  # error of the operator's clock in callbacks; the log keeps the true time


class Reply(Struct, forbid_unknown_fields=True, rename={"sender": "from"}):
    sender: Number
    to: ShortCode
    text: str
    after_s: Seconds = 0.0


class Replies(Struct, forbid_unknown_fields=True):
    replies: list[Reply]


class Receipt(Struct):
    id: str
    reference: str
    status: str
    code: str | None
    at: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, from the environment.

    PLACET_SIM_PORT, PLACET_SIM_TOKEN (bearer of submits), PLACET_SIM_SECRET (signs callbacks), PLACET_INBOUND_URL,
    PLACET_SIM_ACCOUNT, PLACET_SIM_LOG, PLACET_SIM_IDEMPOTENT (1: a repeated reference is the same SMS).
    """

    port: int
    token: str
    secret: str
    inbound_url: str
    log: Path
    account: str = "main"
    idempotent: bool = False

    @classmethod
    def from_environment(cls) -> "Settings":
        env = _told(os.environ)
        return cls(
            port=int(env["PLACET_SIM_PORT"]),
            token=env["PLACET_SIM_TOKEN"],
            secret=env["PLACET_SIM_SECRET"],
            inbound_url=env["PLACET_INBOUND_URL"].rstrip("/"),
            log=Path(env["PLACET_SIM_LOG"]),
            account=env.get("PLACET_SIM_ACCOUNT", "main"),
            idempotent=env.get("PLACET_SIM_IDEMPOTENT", "0") == "1",
        )


def _told(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment, completed by a folder with a file per variable, as engines mount secrets."""
    if (folder := environment.get("PLACET_SECRETS_DIR")) is None:
        return dict(environment)
    return {path.name.upper(): path.read_text().strip() for path in Path(folder).glob("placet_*")} | dict(environment)


class Fact(Struct):
    """What each line of the log says."""

    kind: str
    id: str | None = None


class Log:
    """A file of JSON lines, append-only. Without the end of a line that a killed process did not finish."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: BinaryIO = path.open("ab")
        whole, _, begun = path.read_bytes().rpartition(b"\n")
        self._file.truncate(path.stat().st_size - len(begun))
        found = [msgspec.json.decode(line, type=Fact) for line in whole.splitlines()]
        self.counts: Counter[str] = Counter(fact.kind for fact in found)
        ended = {fact.id for fact in found if fact.kind in ("reply_acknowledged", "reply_abandoned")}
        self.open_replies = [
            msgspec.json.decode(line, type=dict[str, str])
            for line, fact in zip(whole.splitlines(), found, strict=True)
            if fact.kind == "reply" and fact.id not in ended
        ]

    def write(self, facts: Sequence[Mapping[str, object]]) -> None:
        """Write all facts before returning, `kind` first: `lines` filters by prefix."""
        self._file.write(b"".join(msgspec.json.encode(fact) + b"\n" for fact in facts))
        self._file.flush()
        self.counts.update(str(fact["kind"]) for fact in facts)

    def lines(self, kind: str | None) -> Iterator[bytes]:
        """Yield the lines of a kind, or all."""
        start = b"" if kind is None else b'{"kind":%s,' % msgspec.json.encode(kind)
        with self._path.open("rb") as file:
            while chunk := file.readlines(READ_BYTES):
                yield b"".join(line for line in chunk if line.startswith(start) and line.endswith(b"\n"))
                if not chunk[-1].endswith(b"\n"):
                    return  # an incomplete last line

    def close(self) -> None:
        self._file.close()


class Operator:
    """Accepts messages and calls inbound-svc back later."""

    def __init__(self, settings: Settings) -> None:
        self.behaviour = Behaviour()
        self.log = Log(settings.log)
        self._settings = settings
        self._results: dict[str, Result] = {}  # first result per reference
        self._accepted: Counter[bool] = Counter()
        self._stopped: set[str] = set()
        self._due: list[tuple[float, int, Receipt]] = []
        self._order = count()
        self._in_flight = 0
        self._allowance, self._allowed_at = 0.0, time.monotonic()
        self._slots = asyncio.Semaphore(CALLBACKS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALLBACK_TIMEOUT_S)) as self._http:
            self._go(self._send_receipts())
            for kept in self.log.open_replies:
                self._go(self._deliver({name: value for name, value in kept.items() if name != "kind"}))
            yield
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self.log.close()

    def must_wait_s(self, messages: int) -> float | None:
        """Return the seconds until `messages` may be submitted. A token bucket of one second."""
        rate, now = self.behaviour.submits_per_s, time.monotonic()
        if rate is None:
            return None
        self._allowance = min(rate, self._allowance + (now - self._allowed_at) * rate)
        self._allowed_at = now
        if self._allowance < min(messages, rate):
            return (min(messages, rate) - self._allowance) / rate
        self._allowance -= messages
        return None

    def take(self, messages: Sequence[Message]) -> list[Result]:
        """Log the messages and return the results.

        Each message is a new SMS, unless the operator is idempotent and knows the reference.
        """
        results, facts, at = [], [], _now()
        for message in messages:
            first = self._results.get(message.reference)
            replay = first is not None and self._settings.idempotent
            result = first if first is not None and replay else self._decide(message)
            self._results.setdefault(message.reference, result)
            self._accepted[result.status == "accepted"] += not replay
            results.append(result)
            facts.append({
                "kind": "submit", "at": at, "reference": message.reference, "id": result.id, "to": message.to,
                "from": message.sender, "short_code": message.short_code, "text": message.text,
                "category": message.category, "status": result.status, "replay": replay,
            })  # fmt: skip
            if result.status == "accepted" and not replay:
                self._foresee(message, result)
        self.log.write(facts)
        return results

    def reply(self, sender: str, to: str, text: str, after_s: float) -> None:
        """Send a person's reply to the short code `to` after `after_s` seconds."""
        self._go(self._send_reply(sender, to, text, after_s))

    def counts(self) -> dict[str, int]:
        logged = self.log.counts
        return {
            "submits": logged["submit"],
            "accepted": self._accepted[True],
            "rejected": self._accepted[False],
            "references": len(self._results),
            "replies": logged["reply"],
            "replies_acknowledged": logged["reply_acknowledged"],
            "replies_abandoned": logged["reply_abandoned"],
            "receipts_pending": len(self._due) + self._in_flight,
            "receipts_acknowledged": logged["receipt_acknowledged"],
            "receipts_abandoned": logged["receipt_abandoned"],
        }

    def _decide(self, message: Message) -> Result:
        if random.random() < self.behaviour.reject_rate:
            return Result(message.reference, None, "rejected", "unreachable_destination")
        return Result(message.reference, f"sim-{secrets.token_hex(8)}", "accepted")

    def _foresee(self, message: Message, result: Result) -> None:
        """Plan the effects of an accepted message: two DLRs, perhaps repeated, and perhaps a STOP."""
        wants = self.behaviour
        first, last = sorted(random.uniform(*wants.receipt_delay_s) for _ in range(2))
        end, code = ("delivered", None)
        if random.random() < wants.undelivered_rate:
            end, code = random.choice((("failed", "unknown_subscriber"), ("expired", "absent_subscriber")))
        swapped = random.random() < wants.receipt_out_of_order
        for status, why, happens, arrives in (
            ("sent", None, first, last if swapped else first),
            (end, code, last, first if swapped else last),
        ):
            receipt = Receipt(str(result.id), result.reference, status, why, _now(happens + wants.clock_s))
            self._expect(receipt, arrives)
            if random.random() < wants.receipt_twice:
                self._expect(receipt, arrives + random.uniform(*wants.receipt_delay_s))
        if message.category == "marketing" and message.to not in self._stopped and self._will_stop(message.to):
            self._stopped.add(message.to)
            delay = random.uniform(*wants.reply_delay_s)
            self.reply(message.to, message.short_code, random.choice(STOP_SPELLINGS), delay)

    def _will_stop(self, number: str) -> bool:
        return zlib.crc32(number.encode()) / 2**32 < self.behaviour.stop_rate

    def _expect(self, receipt: Receipt, delay_s: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._order), receipt))

    async def _send_receipts(self) -> None:
        while True:
            due: list[Receipt] = []
            while self._due and self._due[0][0] <= time.monotonic() and len(due) < RECEIPT_BATCH:
                due.append(heapq.heappop(self._due)[2])
            if due:
                self._in_flight += len(due)
                self._go(self._send_batch(due))
            if len(due) < RECEIPT_BATCH:
                await asyncio.sleep(TICK_S)

    async def _send_batch(self, receipts: list[Receipt]) -> None:
        attempts, done = await self._call_back("receipts", msgspec.json.encode({"receipts": receipts}))
        kind = "receipt_acknowledged" if done else "receipt_abandoned"
        at = _now()
        self.log.write([
            {"kind": kind, "id": r.id, "reference": r.reference, "status": r.status, "at": at, "attempts": attempts}
            for r in receipts
        ])  # fmt: skip
        self._in_flight -= len(receipts)

    async def _send_reply(self, sender: str, to: str, text: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        mo = {"id": f"mo-{secrets.token_hex(12)}", "from": sender, "to": to, "text": text, "sent_at": _now()}
        self.log.write([{"kind": "reply", **mo}])
        await self._deliver(mo)

    async def _deliver(self, mo: dict[str, str]) -> None:
        mo["sent_at"] = _later(mo["sent_at"], self.behaviour.clock_s)
        attempts, done = await self._call_back("messages", msgspec.json.encode(mo))
        kind = "reply_acknowledged" if done else "reply_abandoned"
        self.log.write([{"kind": kind, "id": mo["id"], "at": _now(), "attempts": attempts}])

    async def _call_back(self, what: str, body: bytes) -> tuple[int, bool]:
        """Post the same body until a 2xx, for at most GIVE_UP_S. Return the attempts and the success."""
        url = f"{self._settings.inbound_url}/v1/callbacks/simulator/{self._settings.account}/{what}"
        deadline = time.monotonic() + GIVE_UP_S
        for attempt in count(1):
            try:
                async with self._slots, self._http.post(url, data=body, headers=self._signed(body)) as answer:
                    if answer.ok:
                        return attempt, True
            except (aiohttp.ClientError, TimeoutError):
                pass  # retry after any failure, like an operator
            if time.monotonic() > deadline:
                break
            wait = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(attempt - 1, 10))
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
        return attempt, False

    def _signed(self, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        mac = hmac.digest(self._settings.secret.encode(), timestamp.encode() + b"." + body, "sha256").hex()
        return {
            "Content-Type": "application/json",
            "Placet-Timestamp": timestamp,
            "Placet-Signature": f"v1={mac}",
        }

    def _go(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def segments(text: str) -> int:
    """Return the number of SMS parts (3GPP TS 23.038, 23.040).

    GSM-7: 160 septets, or 153 in each of several parts. Otherwise: 70 UTF-16 units, or 67.
    """
    if all(c in GSM7 or c in GSM7_TWO_SEPTETS for c in text):
        units, single, part = len(text) + sum(c in GSM7_TWO_SEPTETS for c in text), 160, 153
    else:
        units, single, part = len(text.encode("utf-16-le")) // 2, 70, 67
    return 1 if units <= single else math.ceil(units / part)


class Submit:
    """POST /v1/submits, as a bare ASGI app, which can leave a caller without an answer."""

    def __init__(self, operator: Operator, token: str) -> None:
        self._operator = operator
        self._authorization = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._authorization):
            return await _refusal(401, "the bearer token is missing or wrong")(scope, receive, send)
        body = await _body(Request(scope, receive))
        if body is None:
            return await _refusal(413, f"more than {MAX_BODY_BYTES} bytes")(scope, receive, send)
        try:
            messages = msgspec.json.decode(body, type=Submits).messages
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return await _refusal(400, str(error))(scope, receive, send)  # names the field, never the value
        if len(messages) > MAX_MESSAGES:
            return await _refusal(413, f"more than {MAX_MESSAGES} messages")(scope, receive, send)
        for place, message in enumerate(messages):
            if (parts := segments(message.text)) > MAX_SEGMENTS:
                detail = f"{parts} segments, at most {MAX_SEGMENTS} - at `$.messages[{place}].text`"
                return await _refusal(400, detail)(scope, receive, send)
        if (wait := self._operator.must_wait_s(len(messages))) is not None:
            refusal = _refusal(429, "too many messages", {"Retry-After": str(math.ceil(wait))})
            return await refusal(scope, receive, send)
        results = self._operator.take(messages)
        wants = self._operator.behaviour
        if wants.latency_s:
            await asyncio.sleep(wants.latency_s)
        if random.random() < wants.drop_answer_rate:
            receive.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's request cycle
            return None
        return await _json({"results": results})(scope, receive, send)


def create_app(settings: Settings) -> Starlette:
    operator: Operator

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with operator.working():
            yield

    async def behaviour(request: Request) -> Response:
        wanted = msgspec.json.encode(operator.behaviour)
        try:
            changes = msgspec.json.decode(await request.body(), type=dict[str, msgspec.Raw])
            merged = msgspec.json.decode(wanted, type=dict[str, msgspec.Raw]) | changes
            operator.behaviour = msgspec.json.decode(msgspec.json.encode(merged), type=Behaviour)
        except msgspec.DecodeError as error:
            return _refusal(400, str(error))
        return _json(operator.behaviour)

    async def replies(request: Request) -> Response:
        try:
            wanted = msgspec.json.decode(await request.body(), type=Replies).replies
        except msgspec.DecodeError as error:
            return _refusal(400, str(error))
        for r in wanted:
            operator.reply(r.sender, r.to, r.text, r.after_s)
        return _json({"replies": len(wanted)}, 202)

    async def log(request: Request) -> Response:
        return StreamingResponse(operator.log.lines(request.query_params.get("kind")), media_type="application/jsonl")

    async def counts(request: Request) -> Response:
        return _json(operator.counts())

    async def livez(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    operator = Operator(settings)
    return Starlette(
        routes=[
            Route("/v1/submits", Submit(operator, settings.token), methods=["POST"]),
            Route("/control/behaviour", behaviour, methods=["POST"]),
            Route("/control/replies", replies, methods=["POST"]),
            Route("/log", log),
            Route("/counts", counts),
            Route("/livez", livez),
        ],
        lifespan=lifespan,
    )


async def _body(request: Request) -> bytes | None:
    """Return the body, or `None` for a body over MAX_BODY_BYTES."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode({"status": status, "detail": detail})
    return Response(body, status, headers, media_type="application/json")


def _now(in_s: float = 0.0) -> str:
    return datetime.fromtimestamp(time.time() + in_s, UTC).isoformat(timespec="microseconds")


def _later(at: str, by_s: float) -> str:
    return (datetime.fromisoformat(at) + timedelta(seconds=by_s)).isoformat(timespec="microseconds")


if __name__ == "__main__":
    chosen = Settings.from_environment()
    uvicorn.run(
        create_app(chosen),
        host="127.0.0.1",
        port=chosen.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
