"""Stand where Placet's inbound edge stands: keep each callback of the connector, and answer as a check plans.

A callback that is not genuine or not of the format is kept with the reason and acknowledged: the checks `signature` and
`format` tell, and no other check fails for it.
"""

import asyncio
import json
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from aiohttp import web

from placet_client import webhooks
from placet_operator.checking import until

Kind = Literal["messages", "receipts"]
Plan = int | Literal["cut"] | asyncio.Event  # a status, an end without an answer, an answer once the event is set

MOST_BYTES = 1024 * 1024
MOST_CALLS = 20_000
KEEP_ALIVE_S = 620.0
TYPES: Mapping[Kind, str] = {"messages": "message.received", "receipts": "message.receipt"}
NEEDED: Mapping[Kind, tuple[str, ...]] = {"messages": ("id", "from", "text"), "receipts": ("id", "status")}
KNOWN: Mapping[Kind, frozenset[str]] = {
    "messages": frozenset(("id", "from", "to", "text", "sent_at")),
    "receipts": frozenset(("id", "reference", "status", "code", "at")),
}
STATES = frozenset(("sent", "delivered", "failed", "expired", "opted_out"))
FINAL = STATES - {"sent"}
NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")


@dataclass(frozen=True, slots=True)
class Call:
    """One callback as it came. `answered`: the status; None where the connection was cut."""

    kind: Kind
    webhook_id: str
    body: bytes = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    at: datetime
    answered: int | None
    not_genuine: str | None
    wrong: str | None

    @property
    def safe(self) -> bool:
        return self.answered is not None and 200 <= self.answered < 300

    def text(self, name: str) -> str:
        value = self.data.get(name)
        return value if isinstance(value, str) else ""


class Receiver:
    """The callbacks, in the order of their arrival."""

    def __init__(self, secret: str, within_s: float) -> None:
        self.calls: list[Call] = []
        self.within_s = within_s
        self._secret = secret
        self._plans: dict[str, deque[Plan]] = defaultdict(deque)

    def plan(self, key: str, *answers: Plan) -> None:
        """Answer the next callbacks of a message or a number so, and later ones by 204.

        `key`: the reference or id of a receipt, or the number that texts.
        """
        self._plans[key].extend(answers)

    def forget_plans(self, key: str) -> None:
        self._plans.pop(key, None)

    def receipts(self, names: Iterable[str]) -> list[Call]:
        """Return the receipts of a message. `names`: our reference, and the operator's id where it is known."""
        wanted = {name for name in names if name}
        return [
            each
            for each in self.calls
            if each.kind == "receipts" and {each.text("reference"), each.text("id")} & wanted
        ]

    def texts(self, number: str) -> list[Call]:
        return [each for each in self.calls if each.kind == "messages" and each.text("from") == number]

    async def until(self, found: Callable[[], list[Call]], otherwise: str) -> list[Call]:
        """Return the calls once there are any. Raises Broken."""

        async def look() -> list[Call] | None:
            return found() or None

        return await until(look, self.within_s, otherwise)

    async def take(self, request: web.Request) -> web.Response:
        kind: Kind = "messages" if request.path.endswith("/messages") else "receipts"
        body = await request.read()
        not_genuine: str | None = None
        try:
            webhooks.verify(body, request.headers, self._secret)
        except webhooks.NotGenuine as error:
            not_genuine = str(error)
        kind, data, wrong = read(kind, body)
        answer = self._next(value for name in ("reference", "id", "from") if isinstance(value := data.get(name), str))
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = 204
        status = None if answer == "cut" else int(answer)
        webhook_id = request.headers.get("webhook-id", "")
        call = Call(kind, webhook_id, body, data, datetime.now(UTC), status, not_genuine, wrong)
        if len(self.calls) < MOST_CALLS:
            self.calls.append(call)
        if status is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)  # reaches nobody
        headers = {"Retry-After": "1"} if status in (429, 503) else {}
        return web.Response(status=status, headers=headers)

    def _next(self, keys: Iterable[str]) -> Plan:
        for key in keys:
            if self._plans.get(key):
                return self._plans[key].popleft()
        return 204


def read(kind: Kind, body: bytes) -> tuple[Kind, Mapping[str, Any], str | None]:
    """Return the kind and the fields of a callback, and what is not of the format. Pure."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return kind, {}, "the body is not JSON in UTF-8"
    if not isinstance(said, dict) or not isinstance(data := said.get("data"), dict):
        return kind, {}, "the body is not an object with `type` and the object `data`"
    kind = "messages" if said.get("type") == TYPES["messages"] else "receipts"
    if said.get("type") != TYPES[kind]:
        return kind, data, f"`type` is neither {' nor '.join(TYPES.values())}"
    return kind, data, _wrong(kind, data)


def _wrong(kind: Kind, data: Mapping[str, Any]) -> str | None:
    if missing := [name for name in NEEDED[kind] if not isinstance(data.get(name), str)]:
        return f"`data.{missing[0]}` is missing, or no text"
    if unknown := sorted(data.keys() - KNOWN[kind]):
        return f"`data` has a field that the format does not know: {unknown[0]!r}"
    if other := [name for name, value in data.items() if value is not None and not isinstance(value, str)]:
        return f"`data.{other[0]}` is neither a text nor null"
    if not data["id"].strip():
        return "`data.id` is empty"
    if kind == "receipts" and data["status"] not in STATES:
        return f"`data.status` is none of {', '.join(sorted(STATES))}"
    if kind == "messages" and not NUMBER.fullmatch(data["from"]):
        return "`data.from` is no number as E.164 writes numbers: + and digits"
    return None


@asynccontextmanager
async def listening(host: str, port: int, receiver: Receiver) -> AsyncIterator[int]:
    """Serve the receiver; yields the port."""
    app = web.Application(client_max_size=MOST_BYTES)
    app.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEP_ALIVE_S, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
