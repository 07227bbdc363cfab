"""Checks of a Placet's inbound edge: an operator's callbacks, as networks, retries, mistakes and strangers change them.

The rule of all: what is acknowledged can be read afterwards, once; what is refused is refused with a 4xx, and does not
count.
"""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import aiohttp

from placet_operator.checking import Broken, Check
from placet_operator.placet.account import Account, body_of
from placet_operator.placet.reading import is_ready
from placet_operator.texts import EDGES, NO_STOPS, STOPS

AT_ONCE = 5
LATE = timedelta(days=3)
OLDER = timedelta(hours=1)
STALE = timedelta(minutes=10)
HUGE_BYTES = 2 * 1024 * 1024
LONG_CHARS = 200_000
PIECES, PAUSE_S = 12, 0.05
DEPTH = 10_000

Change = Callable[[Mapping[str, object]], bytes]


async def stop(account: Account) -> str:
    at = account.reading.moment()
    mo = account.mo("STOP", at)
    await account.safe(mo)
    await account.reading.is_stop(at, "STOP")
    await account.reading.stopped(str(mo["from"]))
    return "acknowledged, read, and an opt-out of its person"


async def words(account: Account) -> str:
    times = {text: account.reading.moment() for text in (*STOPS, *NO_STOPS, *EDGES.values())}
    for text, at in times.items():
        await account.safe(account.mo(text, at))
    for text in STOPS:
        await account.reading.is_stop(times[text], repr(text))
    for text in (*NO_STOPS, *EDGES.values()):
        if (await account.reading.read(times[text])).intent == "stop":
            raise Broken("a text without a STOP is read as one")
    return f"{len(STOPS)} STOPs read or held, {len(NO_STOPS) + len(EDGES)} other texts read"


async def duplicates(account: Account) -> str:
    at = account.reading.moment()
    mo, event = account.mo("STOP", at), f"ev-{uuid4()}"
    await asyncio.gather(*(account.safe(mo, event) for _ in range(AT_ONCE)))
    await account.safe(mo, event)
    await account.safe(mo)  # as another event
    await account.reading.is_stop(at, "STOP")
    return f"{AT_ONCE + 2} times acknowledged, once read"


async def replayed(account: Account) -> str:
    first, second, event = account.reading.moment(), account.reading.moment(), f"ev-{uuid4()}"
    await account.safe(account.mo("START", first), event)
    if 200 <= (status := await account.message(account.mo("START", second), event)) < 300:
        raise Broken(f"a webhook-id with other content is answered with {status}")
    await account.reading.read(first)
    await account.reading.is_nothing(second, "a replayed webhook-id")
    return f"{status}, and does not count"


async def late(account: Account) -> str:
    at = account.reading.moment(LATE)
    mo = account.mo("STOP", at)
    await account.safe(mo)
    await account.reading.is_stop(at, "a STOP of three days ago")
    return "a STOP of three days ago is read, as of its time"


async def reordered(account: Account) -> str:
    stop_at, start_at = account.reading.moment(OLDER), account.reading.moment()
    start = account.mo("START", start_at)
    await account.safe(start)
    await account.reading.read(start_at)
    await account.safe(account.mo("STOP", stop_at) | {"from": start["from"]})
    reply = await account.reading.read(stop_at)
    if reply.intent != "stop" and reply.state != "held":
        raise Broken(f"a STOP behind a newer START is read as {reply.intent!r}")
    return f"a STOP behind a newer START is {reply.state}, {reply.intent}"


async def receipts(account: Account) -> str:
    reference, now = str(uuid4()), datetime.now(UTC).isoformat()
    told: Mapping[str, object] = {"id": f"kit-{uuid4()}", "reference": reference, "code": None, "at": now}
    for status in ("delivered", "sent", "delivered", "sent"):
        if not 200 <= (answered := await account.receipt({**told, "status": status})) < 300:
            raise Broken(f"a DLR is answered with {answered}: twice, or in another order")
    for wrong in ({**told, "status": "perhaps"}, {"status": "sent"}, {**told, "status": 1}):
        if not 400 <= (answered := await account.receipt(wrong)) < 500:
            raise Broken(f"a DLR that is not of the format is answered with {answered}")
    return "twice and in another order acknowledged; 3 of another form refused"


async def compressed(account: Account) -> str:
    said = []
    for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        at = account.reading.moment()
        body = body_of("message.received", account.mo("STOP", at))
        packed = pack(body)
        status = await account.post(packed, {**account.headers(packed), "Content-Encoding": coding})
        said.append(f"{coding} {await _kept_or_refused(account, status, at, f'a body in {coding}')}")
    return ", ".join(said)


async def malformed(account: Account) -> str:
    times: list[tuple[datetime, int]] = []
    for change in CHANGES:
        at = account.reading.moment()
        body = change(account.mo("START", at))
        times.append((at, await account.post(body, account.headers(body))))
    await stop(account)
    for place, (at, status) in enumerate(times):
        await _kept_or_refused(account, status, at, f"malformed body {place}")
    return f"{len(times)} malformed bodies: {sum(status >= 400 for _, status in times)} refused, the others read"


async def hostile(account: Account) -> str:
    times = []

    async def tried(what: str, at: datetime, body: bytes, headers: Mapping[str, str], name: str | None = None) -> None:
        status = await account.post(body, headers, name=name)
        if status not in (400, 401, 404):
            raise Broken(f"{what} is answered with {status}")
        times.append((what, at))

    def made() -> tuple[datetime, bytes]:
        at = account.reading.moment()
        return at, body_of("message.received", account.mo("START", at))

    at, body = made()
    await tried("a callback without a signature", at, body, {"Content-Type": "application/json"})
    at, body = made()
    await tried("a signature of another body", at, body, account.headers(body + b" "))
    at, body = made()
    await tried("another webhook-id than the signed one", at, body, account.headers(body) | {"webhook-id": "ev-other"})
    at, body = made()
    signed = account.headers(body)
    await tried(
        "a signature of version 2", at, body, signed | {"webhook-signature": "v2" + signed["webhook-signature"][2:]}
    )
    for away in (-STALE, STALE):
        at, body = made()
        await tried("a time of ten minutes away", at, body, account.headers(body, at=datetime.now(UTC) + away))
    at, body = made()
    await tried("an account that nobody has", at, body, account.headers(body), name="nobody-has-this")
    await stop(account)
    for what, at in times:
        await account.reading.is_nothing(at, what)
    return f"{len(times)} forgeries refused, and none counts"


async def huge(account: Account) -> str:
    at = account.reading.moment()
    body = body_of("message.received", account.mo("x" * HUGE_BYTES, at))
    try:
        status = await account.post(body, account.headers(body))
    except aiohttp.ClientConnectionError:
        status = 413  # closed before the whole body was sent
    await _kept_or_refused(account, status, at, "a body of 2 MiB")
    said = [f"2 MiB: {status}"]
    at = account.reading.moment()
    status = await account.message(account.mo("lune " * (LONG_CHARS // 5) + "STOP", at))
    said.append(f"{LONG_CHARS} characters: {await _kept_or_refused(account, status, at, 'a very long text')}")
    nested = b'{"type": "message.received", "data": ' + b"[" * DEPTH + b"]" * DEPTH + b"}"
    if not 400 <= (status := await account.post(nested, account.headers(nested))) < 500:
        raise Broken(f"a body of {DEPTH} levels is answered with {status}")
    return ", ".join([*said, f"{DEPTH} levels: {status}"])


async def slow(account: Account) -> str:
    at = account.reading.moment()
    body = body_of("message.received", account.mo("STOP", at))
    for sent in (0, len(body) // 2, len(body) - 1):
        await account.in_pieces(body, 1, 0.0, sent=sent)
    status = await account.in_pieces(body, PIECES, PAUSE_S)
    if status is None or not 200 <= status < 300:
        raise Broken(f"a callback that arrives slowly is answered with {status}")
    await account.reading.is_stop(at, "STOP")
    return f"3 callbacks that ended early do not count; one in {PIECES} pieces does"


async def afterwards(account: Account) -> str:
    await is_ready(account.http, account.url)
    return f"ready, and {await stop(account)}"


async def _kept_or_refused(account: Account, status: int, at: datetime, what: str) -> str:
    """Return "read" or the status. Raises Broken for a loss in silence, and for a fault of the server."""
    if 200 <= status < 300:
        await account.reading.read(at)
        return "read"
    if not 400 <= status < 500:
        raise Broken(f"{what} is answered with {status}, which asks for repetitions that never succeed")
    await account.reading.is_nothing(at, what)
    return f"refused with {status}"


def _with(**more: object) -> Change:
    return lambda mo: body_of("message.received", {**mo, **more})


def _without(name: str) -> Change:
    return lambda mo: body_of("message.received", {each: value for each, value in mo.items() if each != name})


CHANGES: Sequence[Change] = (
    lambda mo: b"",
    lambda mo: b"STOP",
    lambda mo: body_of("message.received", mo)[:-1],
    lambda mo: body_of("message.received", mo) + b"}",
    lambda mo: b"\xef\xbb\xbf" + body_of("message.received", mo),
    lambda mo: json.dumps({"type": "message.received", "data": mo}).encode("utf-16"),
    lambda mo: json.dumps([{"type": "message.received", "data": mo}]).encode(),
    lambda mo: json.dumps({"type": "message.received", "data": [mo]}).encode(),
    lambda mo: json.dumps({"data": mo}).encode(),
    lambda mo: body_of("message.seen", mo),
    _without("from"),
    _without("id"),
    _without("text"),
    _with(id=""),
    _with(id="x" * 10_000),
    _with(id="a\x00b"),
    _with(**{"from": 33639980001}),
    _with(**{"from": None}),
    _with(text=["STOP"]),
    _with(text=None),
    _with(to=36111),
)

WORTH = "A STOP that is lost on the way is a STOP all the same."
CHECKS = (
    Check("stop", WORTH, "Ask for the account, the secret, and a sender with this code.", stop),
    Check("words", WORTH, "Report the words.", words),
    Check("duplicates", "Operators repeat.", "Report it.", duplicates),
    Check("replayed id", "A callback caught on its way may come again, changed.", "Report it.", replayed),
    Check("late", "Networks hold texts back for days.", "Report it.", late),
    Check("reordered", "A STOP may come behind a START that was later.", "Report it.", reordered),
    Check("DLRs", "DLRs come twice, in any order, and for messages that nobody knows.", "Report it.", receipts),
    Check("compressed", "A proxy may compress.", "Send bodies as they are.", compressed),
    Check("malformed", "A refusal must be told, and never by a 5xx.", "Report it.", malformed),
    Check("hostile", "Whoever forges a START writes to people who said STOP.", "Report it.", hostile),
    Check("huge", "A single body must not stop the others.", "Report it.", huge),
    Check("slow and cut", "Networks are slow, and break.", "Report it.", slow),
    Check("afterwards", "All of that must leave the edge as it was.", "Report it.", afterwards, turn=1),
)
