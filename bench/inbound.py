"""Measure callbacks of an inbound-svc process beside a bare endpoint (`bench.bare_callback`), under the same load.

inbound-svc verifies, parses, journals, and answers 2xx after Kafka's acknowledgement. Afterwards each callback must be
in the journal once, and the outbox empty.

A text that came before is not read again, so the texts matter. Three mixes (ONLY=replies measures one of them):

    replies   as replies to an advert mostly are: 18 of 20 are STOP in its writings, as the mention tells people to
              send STOP (docs/domain.md 1.7). 2 of 20 are sentences, two of the corpus's plain ones after each other,
              new each time. No source has the shares: the corpus is invented, and 9 of 10 is an assumption
    seven     seven texts that come again: the mix of the older figures
    once      the same, but each sentence has a number of its own, whose digits look like letters in disguise: such a
              text is read twice. Harder than real traffic

DLRs are measured one a callback, as most operators send them, over as few connections too: `sent` and `delivered` of
each message.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import count, islice, product
from pathlib import Path

import asyncpg

from bench import load
from bench.ground import Ground, Server, free_url
from bench.rounds import Sample, Side
from stack.environment import PARTITIONS

CONNECTIONS = (256, 64)  # the more there are, the more callbacks share a transaction
OF_DLRS = (64, 16)
SHARE = 0.6  # of the limit, wanted
NUMBERS = 10_000  # the range for fiction
WRITINGS = (*["STOP"] * 10, *["Stop"] * 3, *["stop"] * 3, "STOP svp", "STOP 36111")
SENTENCE = "{sentence}"
AGAIN = ("STOP", "Stop", "Arrêtez vos SMS", "stop svp merci", "Merci beaucoup !", "C'est ouvert demain ?", "OUI")
MIXES = {
    "replies": (*WRITINGS[:9], SENTENCE, *WRITINGS[9:], SENTENCE),
    "seven": AGAIN,
    "once": (*AGAIN[:4], "Merci beaucoup ! {n:x}", "C'est ouvert demain {n:x} ?", AGAIN[6]),
}
PLAIN = Path("services/inbound-svc/corpus/plain.tsv")
GC = "50,000 objects, frozen"
BARE_GC = "Python's"

Body = Callable[[int, Sequence[str]], bytes]
Signed = Callable[[bytes, int], dict[str, str]]  # the headers of a body, by the number of the callback


async def run(ground: Ground) -> None:
    key = os.urandom(32)
    secrets = {"simulator": ground.environment.simulator_secret, "standard": base64.b64encode(key).decode()}
    accounts = [{"provider": name, "account": "bench", "secrets": [secret]} for name, secret in secrets.items()]
    ours = await ground.service("inbound", PLACET_PROVIDER_ACCOUNTS=json.dumps(accounts))
    bare = await _bare(ground)
    numbers = count(1)

    sent = 0

    def _side(
        name: str, server: Server, path: str, body: Body, signed: Signed, connections: int, texts: Sequence[str]
    ) -> Side:
        async def measure() -> Sample:
            nonlocal sent
            sent += ground.asked.size if server is ours else 0
            made = [(n, body(n, texts)) for n in islice(numbers, ground.asked.size)]
            requests = [load.post(path, signed(content, n), content) for n, content in made]
            return await load.send(server.url, requests, connections, ground.folder, server.pid)

        return Side(name, measure, GC if server is ours else BARE_GC)

    for connections in OF_DLRS:
        path, by = "/v1/callbacks/simulator/bench/receipts", simulator_signed(secrets["simulator"].encode())
        await ground.compare(
            f"DLRs of simulator, signed, one a callback, {connections} connections: journalled and acknowledged",
            "callbacks",
            ours=_side("inbound-svc, one process", ours, path, _dlr, by, connections, ()),
            limit=_side("bare Starlette: one insert, one produce", bare, "/callback", _dlr, by, connections, ()),
            wanted=SHARE,
        )
    for provider, body, signed in (
        ("simulator", made_mo, simulator_signed(secrets["simulator"].encode())),
        ("standard", _standard_mo, _standard(key)),
    ):
        path = f"/v1/callbacks/{provider}/bench/messages"
        for mix, connections in product(MIXES, CONNECTIONS):
            told = body, signed, connections, MIXES[mix]
            await ground.compare(
                f"MOs of {provider}, signed, {mix}, {connections} connections: journalled and acknowledged",
                "callbacks",
                ours=_side("inbound-svc, one process", ours, path, *told),
                limit=_side("bare Starlette: one insert, one produce", bare, "/callback", *told),
                wanted=SHARE,
            )
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
        kept = await connection.fetchval("SELECT (SELECT count(*) FROM callback_item) + (SELECT count(*) FROM receipt)")
        waiting = await connection.fetchval("SELECT count(*) FROM outbox")
    finally:
        await connection.close()
    if (kept, waiting) != (sent, 0):
        raise RuntimeError(f"{sent} callbacks answered, {kept} in the journal, {waiting} in the outbox")
    print(f"{sent} callbacks answered 2xx, each in the journal once, none left in the outbox.\n", flush=True)


@cache
def _sentences() -> list[str]:
    return [line.partition("\t")[0] for line in PLAIN.read_text(encoding="utf-8").splitlines()[1:]]


def _sentence(n: int) -> str:
    """Return two plain sentences; the same two come again after some 9,500 sentences, when no memory has them."""
    plain = _sentences()
    return f"{plain[n % len(plain)]} {plain[n // len(plain) % len(plain)]}"


def _fields(n: int, texts: Sequence[str]) -> dict[str, str]:
    sent_at = datetime.now(UTC).isoformat()
    number = f"+3363998{n % NUMBERS:04d}"
    text = texts[n % len(texts)].format(n=n, sentence=_sentence(n // (len(texts) // 2)))
    return {"id": f"mo-{n}", "from": number, "to": "36111", "text": text, "sent_at": sent_at}


def _dlr(n: int, _: Sequence[str]) -> bytes:
    message, state = f"{n // 2:032x}", ("sent", "delivered")[n % 2]
    told = {"id": f"op-{message}", "reference": message, "status": state, "code": None}
    return json.dumps({"receipts": [told | {"at": datetime.now(UTC).isoformat()}]}).encode()


def made_mo(n: int, texts: Sequence[str]) -> bytes:
    return json.dumps(_fields(n, texts)).encode()


def _standard_mo(n: int, texts: Sequence[str]) -> bytes:
    return json.dumps({"type": "message.received", "data": _fields(n, texts)}).encode()


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
