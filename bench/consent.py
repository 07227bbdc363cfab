"""Measure a consent-svc process: single consents over HTTP, imported files, ten thousand numbers checked at once.

Each stands beside the least that Postgres could do:

    one by one   a loop of INSERT … ON CONFLICT through asyncpg: a connection, each statement committed and durable
    imports      a COPY of the ledger's lines in a transaction; and, as a limit with the promises, a COPY of all rows of
                 recorded consents (ledger, person, retention, events in a row for each partition), the events sent to
                 the broker and their rows deleted, with a transaction for each PIECE_LINES, as ours
    check        SELECT … WHERE subject_id = ANY($1) through asyncpg, with ids hashed beforehand; and hashed on the way

The tables of the first two copy the service's own, with indexes and rows. Before, `subjects` people are imported in a
file, under a watch on memory. Afterwards each record must be in the ledger once, and the outbox empty.

The numbers lie among real mobiles, as the range for fiction is too small; the numbers stay on this machine,
and no message is sent.
"""

import asyncio
import base64
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
from aiokafka import AIOKafkaProducer

from bench import load
from bench.ground import Ground, Server
from bench.rounds import Sample, Side, cpu_seconds
from common.contracts import STATES
from common.files.cutting import PIECE_LINES
from common.kafka.broker import BATCH_BYTES
from common.kafka.packing import PACKED, packed, unpacked
from common.keyring import SubjectKeys
from common.settings import SubjectRingSettings

CONNECTIONS = 64
PARTITIONS = 12  # as by default
LINES = 5  # of an imported file, times a round's size
PART_LINES = 200_000  # of a file, in a request
CHECKED = 10_000  # numbers in a question
QUESTIONS = 5  # of a round
FIRST = 10_000_000  # first number, of eight digits after +336
POLL_S = 0.1
LOOK_S = 0.02  # of a round's end, in PostgreSQL: calls over HTTP would take a part of what is measured
OCCURRED_AT = "2026-03-02T13:05:00Z"
SENDER = {
    "sender_id": "bench",
    "legal_name": "Banc SAS",
    "brand": "Banc",
    "contact": "banc.example/contact",
    "country": "FR",
    "oadc": "BANC",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Offres par SMS"}],
}
EVIDENCE = {"source": "shop", "form_id": "checkout", "form_version": "7"}
COLUMNS = (
    *("evidence_id", "subject_id", "position", "kind", "sender_id", "purpose", "basis"),
    *("source", "form_id", "form_version", "text_shown", "actor", "sale_reference", "reference", "answers"),
    *("controller", "occurred_at", "received_at", "recorded_at", "salt", "sealed", "hash"),
)
WRITTEN: dict[str, Sequence[str]] = {  # of a person's first consent: the columns of each table
    "evidence": COLUMNS,
    "subject": (
        *("subject_id", "number", "version", "state", "entries", "head"),
        *("held_since", "erased_at", "updated_at"),
    ),
    "retention_due": (
        *("subject_id", "sender_id", "purpose", "last_contact", "expires_at", "due_at"),
        *("ask_at", "question", "asked_at", "answer_before", "open"),
    ),
    "outbox": ("event_id", "topic", "key", "type", "payload", "traceparent"),
}
TOPIC = STATES.dead_letters  # an existing topic without readers
GC = "50,000 objects, frozen"
BENCH_GC = "Python's"
SHARES = {"single": 0.4, "import": 0.5, "whole": 0.8, "check": 1 / 3}  # of the limit, wanted


@dataclass(frozen=True)
class Bench:
    """consent-svc, and its database by hand. `people`: the next numbers, each used once."""

    ground: Ground
    server: Server
    database: asyncpg.Connection
    client: httpx.AsyncClient
    people: Iterator[int]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.ground.environment.token()}"}

    def new(self, many: int) -> list[int]:
        return [next(self.people) for _ in range(many)]


async def run(ground: Ground) -> None:
    server = await ground.service("consent")
    database = await asyncpg.connect(await ground.database("consent"))
    headers = {"Authorization": f"Bearer {ground.environment.token()}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
        (await client.post("/v1/senders", json=SENDER)).raise_for_status()
        bench = Bench(ground, server, database, client, count(FIRST))
        loaded = await _load(bench)
        await _fill(bench)
        lines = LINES * ground.asked.size
        await ground.compare(
            f"Single consents, {CONNECTIONS} connections, {loaded:,} subjects held: recorded",
            "consents",
            ours=Side("consent-svc, one process, over HTTP", lambda: _singles(bench), GC),
            limit=Side("a loop of INSERT … ON CONFLICT", lambda: _inserts(bench), BENCH_GC, here=True),
            wanted=SHARES["single"],
        )
        await ground.compare(
            f"A file of {lines:,} consents, {loaded:,} subjects held: uploaded, recorded and published",
            "lines",
            ours=Side("consent-svc, one process, over HTTP", lambda: _imports(bench), GC),
            limit=Side("COPY", lambda: _copies(bench), BENCH_GC, here=True),
            wanted=SHARES["import"],
        )
        async with _producer(ground) as producer:
            await ground.compare(
                f"A file of {lines:,} consents, {loaded:,} subjects held: beside all the rows it leaves",
                "lines",
                ours=Side("consent-svc, one process, over HTTP", lambda: _imports(bench), GC),
                limit=Side(
                    "COPY of all rows, events sent and deleted", lambda: _whole(bench, producer), BENCH_GC, here=True
                ),
                wanted=SHARES["whole"],
            )
        for name, hashed in (("hashed beforehand", True), ("and the hashing", False)):
            await ground.compare(
                f"{CHECKED:,} numbers checked at once, of {loaded:,} subjects held",
                "numbers",
                ours=Side("consent-svc, one process, over HTTP", lambda: _checks(bench, loaded), GC),
                limit=Side(f"= ANY($1), {name}", partial(_lookups, bench, loaded, hashed=hashed), BENCH_GC, here=True),
                wanted=SHARES["check"],
            )
        await _all_kept(bench)
    await database.close()


def _number(n: int) -> str:
    return f"+336{n:08d}"


async def _singles(bench: Bench) -> Sample:
    headers = bench.headers | {"Content-Type": "application/json"}
    now = datetime.now(UTC).isoformat()
    said = {"sender_id": "bench", "purpose": "promotions", "occurred_at": now, "evidence": EVIDENCE}
    requests = [
        load.post("/v1/consents", headers, json.dumps(said | {"number": _number(n)}).encode())
        for n in bench.new(bench.ground.asked.size)
    ]
    return await load.send(bench.server.url, requests, CONNECTIONS, bench.ground.folder, bench.server.pid)


async def _inserts(bench: Bench) -> Sample:
    places = ", ".join(f"${place}" for place in range(1, len(COLUMNS) + 1))
    sql = f"INSERT INTO bench_inserted ({', '.join(COLUMNS)}) VALUES ({places}) ON CONFLICT DO NOTHING"
    insert, rows = await bench.database.prepare(sql), [_entry() for _ in range(bench.ground.asked.size)]
    started = time.perf_counter()
    for row in rows:
        await insert.fetch(*row)
    return Sample(len(rows), time.perf_counter() - started)


async def _copies(bench: Bench) -> Sample:
    rows = [_entry() for _ in range(LINES * bench.ground.asked.size)]
    started = time.perf_counter()
    await bench.database.copy_records_to_table("bench_copied", records=rows, columns=COLUMNS)
    return Sample(len(rows), time.perf_counter() - started)


async def _whole(bench: Bench, producer: AIOKafkaProducer) -> Sample:
    """Write all rows by a single connection, in sequence."""
    pieces = [_piece() for _ in range(0, LINES * bench.ground.asked.size, PIECE_LINES)]
    started, database = time.perf_counter(), bench.database
    for piece in pieces:
        async with database.transaction():
            for (table, columns), rows in zip(WRITTEN.items(), piece, strict=True):
                await database.copy_records_to_table(f"bench_{table}", records=rows, columns=columns)
        async with database.transaction():
            waiting = await database.fetch("SELECT id, payload FROM bench_outbox ORDER BY id")
            batch, sent = producer.create_batch(), []
            for key, value in (
                each for row in waiting for each in _events.decode(unpacked(PACKED, row["payload"])[1] or b"")
            ):
                if batch.append(key=key, value=value, timestamp=None) is None:
                    sent.append(await producer.send_batch(batch, TOPIC, partition=0))
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None)
            sent.append(await producer.send_batch(batch, TOPIC, partition=0))
            await asyncio.gather(*sent)
            await database.execute(
                "DELETE FROM bench_outbox WHERE id = ANY($1::bigint[])", [row["id"] for row in waiting]
            )
    return Sample(len(pieces) * PIECE_LINES, time.perf_counter() - started)


@asynccontextmanager
async def _producer(ground: Ground) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=ground.bootstrap,
        acks="all",
        enable_idempotence=ground.idempotent,
        max_batch_size=BATCH_BYTES,
        max_request_size=4 * BATCH_BYTES,
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def _imports(bench: Bench) -> Sample:
    people = bench.new(LINES * bench.ground.asked.size)
    before = cpu_seconds(bench.server.pid)
    started = time.perf_counter()
    name = await _uploaded(bench, people)
    await _until(lambda: _is_published(bench, name), LOOK_S)
    seconds = time.perf_counter() - started
    await _check_import(bench, name)
    after = cpu_seconds(bench.server.pid)
    return Sample(len(people), seconds, cpu_s=None if before is None or after is None else after - before)


async def _checks(bench: Bench, loaded: int) -> Sample:
    asked = {"sender_id": "bench", "purpose": "promotions"}
    headers = bench.headers | {"Content-Type": "application/json"}
    requests = [
        load.post("/v1/consents/check", headers, json.dumps(asked | {"numbers": numbers}).encode())
        for numbers in _questions(loaded)
    ]
    sample = await load.send(bench.server.url, requests, 1, bench.ground.folder, bench.server.pid)
    cpu_s = sample.cpu_s
    return Sample(QUESTIONS * CHECKED, sample.seconds, sample.p50_ms, sample.p99_ms, cpu_s)


async def _lookups(bench: Bench, loaded: int, *, hashed: bool) -> Sample:
    keys = SubjectKeys(SubjectRingSettings.model_validate_json(bench.ground.environment.subject_keys))
    questions = _questions(loaded)
    ids = [[keys.subject_id(number) for number in numbers] for numbers in questions]
    started, found = time.perf_counter(), 0
    for place, numbers in enumerate(questions):
        asked = ids[place] if hashed else [keys.subject_id(number) for number in numbers]
        sql = "SELECT subject_id, state FROM subject WHERE subject_id = ANY($1::text[])"
        found += len(await bench.database.fetch(sql, asked))
    seconds = time.perf_counter() - started
    if found != QUESTIONS * CHECKED:
        raise RuntimeError(f"{found} subjects found of {QUESTIONS * CHECKED}")
    return Sample(found, seconds)


def _questions(loaded: int) -> list[list[str]]:
    """Return random questions: neither side finds data that the other has just read."""
    people = range(FIRST, FIRST + loaded)
    return [[_number(n) for n in random.sample(people, CHECKED)] for _ in range(QUESTIONS)]


async def _load(bench: Bench) -> int:
    """Import people beforehand in a file, printing the progress; return their count."""
    people = bench.new(max(bench.ground.asked.subjects, CHECKED))
    started = time.perf_counter()
    name = await _uploaded(bench, people)
    uploaded_s, at_rest = time.perf_counter() - started, rss_mb(bench.server.pid)
    print(f"### {len(people):,} consents in one file: uploaded in {uploaded_s:.1f} s\n", flush=True)
    print("| lines recorded | lines/s since the row above | RSS of the process, MB |\n|---:|---:|---:|")
    print(f"| 0 | | {at_rest} |", flush=True)
    mark, done, since = 0, 0, time.perf_counter()
    while done < len(people):
        await asyncio.sleep(0.1)
        done, now = (await _import(bench, name))["created"], time.perf_counter()
        if done - mark >= len(people) // 10 or mark < done == len(people):
            print(f"| {done:,} | {(done - mark) / (now - since):,.0f} | {rss_mb(bench.server.pid)} |", flush=True)
            mark, since = done, now
    await _until(lambda: _is_published(bench))
    print(flush=True)
    return len(people)


async def _fill(bench: Bench) -> None:
    """Make the tables of the limits, with the ledger's rows."""
    names = ", ".join(COLUMNS)
    for table in ("bench_inserted", "bench_copied", "bench_evidence"):
        await bench.database.execute(f"CREATE TABLE {table} (LIKE evidence INCLUDING ALL)")
        await bench.database.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM evidence ORDER BY ordinal")
    for table in ("subject", "retention_due", "outbox"):
        await bench.database.execute(f"CREATE TABLE bench_{table} (LIKE {table} INCLUDING ALL)")
        if table != "outbox":
            await bench.database.execute(f"INSERT INTO bench_{table} SELECT * FROM {table}")
    await bench.database.execute("VACUUM ANALYZE")


async def _uploaded(bench: Bench, people: Sequence[int]) -> str:
    """Return the id of an import whose file has been uploaded in parts."""
    terms = {"kind": "consents", "sender_id": "bench", "format": "csv", "purpose": "promotions", "evidence": EVIDENCE}
    opened = await bench.client.post("/v1/imports", json=terms)
    name, offset = str(opened.raise_for_status().json()["import_id"]), 0
    for start in range(0, len(people), PART_LINES):
        lines = [f"{_number(n)},{OCCURRED_AT}\n" for n in people[start : start + PART_LINES]]
        body = "".join([*(() if start else ("number,occurred_at\n",)), *lines]).encode()
        last = start + PART_LINES >= len(people)
        length = {"Upload-Length": str(offset + len(body))} if last else {}
        octets = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
        part = load.post(f"/v1/imports/{name}", bench.headers | octets | length, body, "PATCH")
        await load.send(bench.server.url, [part], 1, bench.ground.folder, bench.server.pid)
        offset += len(body)
    return name


async def _import(bench: Bench, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await bench.client.get(f"/v1/imports/{name}")).raise_for_status().json()
    if found["refused"] or found["outvoted"] or found["unchanged"]:
        raise RuntimeError(f"not every line was recorded: {found}")
    return found


async def _check_import(bench: Bench, name: str) -> None:
    if (found := await _import(bench, name))["status"] != "done":
        raise RuntimeError(f"not every piece was recorded: {found}")


async def _is_published(bench: Bench, name: str = "") -> bool:
    """Return whether the outbox is empty, and no piece of the import `name` waits: one look at both."""
    sql = (
        "SELECT NOT EXISTS (SELECT FROM import_piece WHERE import_id = $1 AND recorded_at IS NULL)"
        " AND NOT EXISTS (SELECT FROM outbox)"
    )
    return bool(await bench.database.fetchval(sql, name))


async def _until(look: Callable[[], Awaitable[bool]], every_s: float = POLL_S) -> None:
    while True:
        if await look():
            return
        await asyncio.sleep(every_s)


async def _all_kept(bench: Bench) -> None:
    """Check that each consent is in the ledger once, and has left the outbox."""
    came = next(bench.people) - FIRST
    await _until(lambda: _is_published(bench))
    sql = "SELECT (SELECT count(*) FROM evidence), (SELECT count(*) FROM subject WHERE version > 0 AND entries = 1)"
    kept = tuple(await bench.database.fetchrow(sql))
    if kept != (came, came):
        raise RuntimeError(f"{came} people came; in the ledger are {kept[0]} lines and {kept[1]} people")
    print(f"{came:,} consents recorded: each in the ledger once, none left in the outbox.\n", flush=True)


_events = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


def _piece() -> tuple[Sequence[tuple[object, ...]], ...]:
    """Return the rows of each table of WRITTEN, of fictitious people; the events in a row for each partition."""
    *people, events = zip(*(_consent() for _ in range(PIECE_LINES)), strict=True)
    shared: dict[int, list[tuple[object, object]]] = defaultdict(list)
    for place, (_, _, key, _, event, _) in enumerate(events):
        shared[place % PARTITIONS].append((key, event))
    rows = [packed(msgspec.msgpack.encode(some)) for some in shared.values()]
    return (*people, [(uuid4(), STATES.name, b"", "consent.state_changed.v1", row, None) for row in rows])


def _consent() -> tuple[tuple[object, ...], ...]:
    """Return a row for each table of WRITTEN, and an event, of a fictitious person."""
    entry = _entry()
    now, who, head = entry[-4], entry[1], entry[-1]
    said = {"sender_id": "bench", "purpose": "promotions", "basis": "opt_in", "evidence_id": entry[0]}
    state = {"marks": [said | {"kind": "opt_in", "at": OCCURRED_AT, "controller": "bench"}]}
    told = {"subject_id": who, "version": 1, "consents": [said | {"state": "opted_in", "occurred_at": OCCURRED_AT}]}
    cause = {"kind": "opt_in", "source": "shop", "evidence_id": entry[0], "received_at": OCCURRED_AT, "reference": None}
    event = json.dumps(told | {"suppressions": [], "erased": False, "causes": [cause], "held_since": None}).encode()
    number = base64.b64encode(os.urandom(40)).decode()
    return (
        entry,
        (who, number, 1, json.dumps(state), 1, head, None, None, now),
        (who, "bench", "promotions", now, now, now, None, None, None, None, True),
        (uuid4(), STATES.name, str(who).encode(), "consent.state_changed.v1", event, None),
    )


def _entry() -> tuple[object, ...]:
    """Return a line of the ledger, of a fictitious person."""
    now, name = datetime.now(UTC), os.urandom(16).hex()
    shown = ("shop", "checkout", "7", None, "developer", None, None, None, "bench")
    seal, link = os.urandom(32).hex(), os.urandom(32).hex()
    said = ("opt_in", "bench", "promotions", "opt_in", *shown)
    return (f"ev-{name}", f"s1-{name}", 1, *said, now, now, now, os.urandom(16).hex(), seal, link)


def rss_mb(pid: int) -> int:
    """Return the memory of a process in MB; 0 without /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000
