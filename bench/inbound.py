"""Measure callbacks of an inbound-svc process beside a bare endpoint (`bench.bare_callback`), under the same load.

inbound-svc verifies, parses, journals, and answers 2xx after Kafka's acknowledgement. Afterwards each callback must be
in the journal once, and the outbox empty.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count, islice

import asyncpg

from bench import load
from bench.ground import Ground, Server, free_url
from bench.rounds import Sample, Side
from stack.environment import PARTITIONS

CONNECTIONS = (256, 64)  # the more there are, the more callbacks share a transaction
SHARE = 0.6  # of the limit, wanted
NUMBERS = 10_000  # the range for fiction
TEXTS = (
    "STOP",
    "Stop",
    "Arrêtez vos SMS",
    "stop svp merci",
    "Merci beaucoup ! {n:x}",
    "C'est ouvert demain {n:x} ?",
    "OUI",
)
GC = "50,000 objects, frozen"
BARE_GC = "Python's"

Signed = Callable[[bytes, int], dict[str, str]]  # the headers of a body, by the number of the callback


async def run(ground: Ground) -> None:
    key = os.urandom(32)
    secrets = {"simulator": ground.environment.simulator_secret, "standard": base64.b64encode(key).decode()}
    accounts = [{"provider": name, "account": "bench", "secrets": [secret]} for name, secret in secrets.items()]
    ours = await ground.service("inbound", PLACET_PROVIDER_ACCOUNTS=json.dumps(accounts))
    bare = await _bare(ground)
    numbers = count(1)

    def _side(
        name: str, server: Server, path: str, body: Callable[[int], bytes], signed: Signed, connections: int
    ) -> Side:
        async def measure() -> Sample:
            made = [(n, body(n)) for n in islice(numbers, ground.asked.size)]
            requests = [load.post(path, signed(content, n), content) for n, content in made]
            return await load.send(server.url, requests, connections, ground.folder, server.pid)

        return Side(name, measure, GC if server is ours else BARE_GC)

    sent = 0
    for provider, body, signed in (
        ("simulator", _mo, simulator_signed(secrets["simulator"].encode())),
        ("standard", _standard_mo, _standard(key)),
    ):
        path = f"/v1/callbacks/{provider}/bench/messages"
        for connections in CONNECTIONS:
            await ground.compare(
                f"MOs of {provider}, signed, {connections} connections: journalled and acknowledged",
                "callbacks",
                ours=_side("inbound-svc, one process", ours, path, body, signed, connections),
                limit=_side("bare Starlette: one insert, one produce", bare, "/callback", body, signed, connections),
                wanted=SHARE,
            )
            sent += (ground.asked.rounds + 1) * ground.asked.size
    await _all_kept(await ground.database("inbound"), sent)


async def _bare(ground: Ground) -> Server:
    password = "bare"  # noqa: S105  (of a database that this run makes and throws away)
    dsn, url = await ground.postgres.create_service_database("bare", password), free_url()
    told = (url.rpartition(":")[2], dsn, ground.bootstrap, str(ground.idempotent), str(PARTITIONS))
    return await ground.server("bare", [sys.executable, "-m", "bench.bare_callback", *told], url)


async def _all_kept(dsn: str, sent: int) -> None:
    """Check that each answered callback is in the journal once, and has left the outbox."""
    connection = await asyncpg.connect(dsn)
    try:
        kept = await connection.fetchval("SELECT count(*) FROM callback_item")
        waiting = await connection.fetchval("SELECT count(*) FROM outbox")
    finally:
        await connection.close()
    if (kept, waiting) != (sent, 0):
        raise RuntimeError(f"{sent} callbacks answered, {kept} in the journal, {waiting} in the outbox")
    print(f"{sent} callbacks answered 2xx, each in the journal once, none left in the outbox.\n", flush=True)


def _fields(n: int) -> dict[str, str]:
    sent_at = datetime.now(UTC).isoformat()
    number = f"+3363998{n % NUMBERS:04d}"
    text = TEXTS[n % len(TEXTS)].format(n=n)  # sentences are new each time: their meaning is not remembered
    return {"id": f"mo-{n}", "from": number, "to": "36111", "text": text, "sent_at": sent_at}


def _mo(n: int) -> bytes:
    return json.dumps(_fields(n)).encode()


def _standard_mo(n: int) -> bytes:
    return json.dumps({"type": "message.received", "data": _fields(n)}).encode()


def simulator_signed(secret: bytes) -> Signed:
    def signed(body: bytes, n: int) -> dict[str, str]:
        stamp = str(int(time.time()))
        mac = hmac.digest(secret, stamp.encode() + b"." + body, hashlib.sha256).hex()
        return {"Content-Type": "application/json", "Placet-Timestamp": stamp, "Placet-Signature": f"v1={mac}"}

    return signed


def _standard(key: bytes) -> Signed:
    def signed(body: bytes, n: int) -> dict[str, str]:
        stamp = str(int(time.time()))
        mac = hmac.digest(key, f"event-{n}.{stamp}.".encode() + body, hashlib.sha256)
        signature = f"v1,{base64.b64encode(mac).decode()}"
        names = {"webhook-id": f"event-{n}", "webhook-timestamp": stamp, "webhook-signature": signature}
        return {"Content-Type": "application/json"} | names

    return signed
