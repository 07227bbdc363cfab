"""Measure a campaign-svc process over HTTP: an import, a segment's count, a pre-flight, an expansion.

The audience is `subjects` contacts, four fifths with consent. Each figure stands beside its limit:

    import       a COPY through asyncpg of prepared rows into a table with as many rows and the same indexes; half of it
                 is wanted
    count        SELECT count(*) through asyncpg of all contacts; wanted is a second, on a million and on five. Ours may
                 answer from a sample, and says so
    pre-flight   a cursor over the same rows, without work on them; wanted is a million within a minute
    expansion    a campaign to one in seven, until Kafka has the last request; the limit reads the same recipients and
                 produces as many bytes under the same keys, and nothing else; half of it is wanted

The contacts come as a file in parts, under a watch on memory. With more than a million, only import and count run:
`SUBJECTS=5000000`. The numbers lie among real mobiles (see bench.consent); no message leaves this machine.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
from aiokafka import AIOKafkaProducer

from bench.consent import rss_mb
from bench.ground import Ground, Server
from bench.rounds import Sample, Side, cpu_seconds
from campaign.audience.reach import Standing
from common.contracts import CAMPAIGN_REQUESTS
from common.contracts.campaign import MessagesRequested
from common.contracts.consent import Consent
from common.kafka.broker import cloud_event_headers, partition_of
from common.keyring import FieldKeys, SubjectKeys
from common.settings import KeyRingSettings, SubjectRingSettings

FIRST = 20_000_000  # first number, of eight digits after +336
HEADER = "mobile;first_name;city;loyalty;points\n"
PIECE = 5_000  # lines of a file sent at a time
PART = 500_000  # lines of a file in a request
SENDER, PURPOSE = "bench", "promotions"
CHUNK = 20_000  # contacts written at a time
PAGE = 2_000  # rows read at a time, by both sides
SERVICE_GC = "50,000 objects, frozen"
BENCH_GC = "Python's"
WITHIN_S = 600.0
MANY = 1_000_000  # with more contacts, only import and count
LOOK_EVERY_S = 0.005
TEXT = (
    "{if loyalty = or}-30 %{else}-20 %{end} chez Banc {city|et en ligne} ce samedi, {first_name|cher client}."
    " Sur présentation de ce SMS. {stop}"
)
NAMES = ("Zoé", "Loïc", "Ana", "Benoît", "Inès")  # ï and î force UCS-2, and so perhaps a second SMS
SEGMENT = {
    "all": [
        {"attribute": "points", "gte": 100},
        {"attribute": "city", "in": ["Lyon", "Sète"]},
        {"consent": PURPOSE, "is": "opted_in"},
        {"not": {"received": {"days": 7}}},
    ]
}
BY_HAND = (
    "SELECT count(*) FROM contact AS c JOIN standing AS k ON k.subject_id = c.subject_id WHERE c.sender_id = $1"
    " AND c.attributes ->> 'city' IN ('Lyon', 'Sète') AND (c.attributes ->> 'points')::integer >= 100"
    " AND k.told @> $2::jsonb AND NOT EXISTS (SELECT FROM recipient AS r WHERE r.subject_id = c.subject_id)"
)
COLUMNS = ("sender_id", "subject_id", "number", "attributes", "territory", "created_at", "updated_at")
SOME = {"where": {"city": "Nîmes"}}
RUNS = "SELECT status <> 'scheduled' FROM campaign WHERE campaign_id = $1"
ASKED = "SELECT expanded AND NOT EXISTS (SELECT FROM outbox) FROM campaign WHERE campaign_id = $1"
AUDIENCE = "SELECT sum(audience) FROM campaign_accounts WHERE campaign_id = $1"
RECIPIENTS = "SELECT subject_id FROM recipient WHERE campaign_id = $1 ORDER BY subject_id"
TOPIC = CAMPAIGN_REQUESTS.name
REQUEST_BYTES = 380  # of a request with TEXT in a record with others
TOGETHER = 83  # requests of a record: a page of campaign-svc is of all partitions
ROWS = (
    "SELECT c.subject_id, c.number, c.attributes::text, k.told::text FROM contact AS c"
    " LEFT JOIN standing AS k ON k.subject_id = c.subject_id WHERE c.sender_id = $1 ORDER BY c.subject_id"
)


@dataclass
class Bench:
    """The service and its limits.

    `next_one`: the first unused number. `last`: the last expanded campaign.
    """

    ground: Ground
    server: Server
    database: asyncpg.Connection
    client: httpx.AsyncClient
    producer: AIOKafkaProducer
    people: int
    next_one: int
    counted: dict[str, Any] = field(default_factory=dict)
    last: str = ""

    def new(self, many: int) -> range:
        found = range(self.next_one, self.next_one + many)
        self.next_one += many
        return found

    async def imported(self, numbers: range) -> float:
        """Import people; return the seconds."""
        pieces = _file(numbers)  # prepared: writing the file is not measured
        headers = {"Content-Type": "text/csv"}

        async def body() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        started = time.perf_counter()
        answer = await self.client.post("/v1/imports", params={"sender_id": SENDER}, content=body(), headers=headers)
        took = time.perf_counter() - started
        found = answer.raise_for_status().json()
        assert (found["lines"], found["created"]) == (len(numbers), len(numbers)), found
        return took

    async def uploaded(self, numbers: range) -> dict[str, Any]:
        """Upload a file in parts; return the import."""
        deferred = {"Upload-Defer-Length": "1"}
        opened = await self.client.post("/v1/imports", params={"sender_id": SENDER}, headers=deferred)
        path, offset = opened.raise_for_status().headers["Location"], 0
        starts = range(numbers.start, numbers.stop, PART)
        for start in starts:
            part = b"".join(_file(range(start, min(start + PART, numbers.stop)), header=start == numbers.start))
            said = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
            offset += len(part)
            if start == starts[-1]:
                said["Upload-Length"] = str(offset)
            (await self.client.patch(path, content=part, headers=said)).raise_for_status()
        return dict((await self.client.get(path)).raise_for_status().json())

    async def our_import(self) -> Sample:
        numbers = self.new(self.people)
        before = cpu_seconds(self.server.pid)
        took = await self.imported(numbers)
        after = cpu_seconds(self.server.pid)
        await self.database.execute("DELETE FROM contact WHERE updated_at > (SELECT min(updated_at) FROM contact)")
        await self.database.execute("VACUUM contact")
        return Sample(len(numbers), took, cpu_s=None if before is None or after is None else after - before)

    async def copy(self) -> Sample:
        now = datetime.now(UTC)
        rows = [
            (SENDER, subject_id, number, held, "FR", now, now)
            for subject_id, number, held in _rows(self.ground, self.new(self.people))
        ]
        started = time.perf_counter()
        await self.database.copy_records_to_table("bench_contact", records=rows, columns=COLUMNS)
        took = time.perf_counter() - started
        await self.database.execute("DELETE FROM bench_contact WHERE created_at >= $1", now)
        await self.database.execute("VACUUM bench_contact")
        return Sample(len(rows), took)

    async def our_count(self) -> Sample:
        started = time.perf_counter()
        answer = await self.client.post("/v1/segments/count", json={"sender_id": SENDER, "expression": SEGMENT})
        took = time.perf_counter() - started
        found = answer.raise_for_status().json()
        right = sum(1 for n in range(self.people) if _selected(n))
        assert abs(found["selected"] - right) <= 2 * found["margin"], (found, right)
        self.counted = found
        return Sample(self.people, took, p50_ms=took * 1e3)

    async def count(self) -> Sample:
        yes = msgspec.json.encode(
            {"consents": [{"sender_id": SENDER, "purpose": PURPOSE, "state": "opted_in"}]}
        ).decode()
        started = time.perf_counter()
        found = await self.database.fetchval(BY_HAND, SENDER, yes)
        took = time.perf_counter() - started
        assert found == sum(1 for n in range(self.people) if _selected(n)), found
        return Sample(self.people, took, p50_ms=took * 1e3)

    async def our_pre_flight(self) -> Sample:
        body = {"sender_id": SENDER, "name": "Banc", "purpose": PURPOSE, "text": TEXT, "audience": {"all": True}}
        written = (await self.client.post("/v1/campaigns", json=body)).raise_for_status().json()
        started = time.perf_counter()
        answer = await self.client.post(f"/v1/campaigns/{written['campaign_id']}/pre-flight")
        took = time.perf_counter() - started
        found = answer.raise_for_status().json()
        assert found["audience"] == self.people, found
        assert found["would_get"] == sum(found["lengths"]["segments"].values()) == self.people - self.people // 5, found
        return Sample(self.people, took)

    async def expansion(self) -> Sample:
        """Measure the expansion, with the audience frozen before, as for the limit."""
        body = {"sender_id": SENDER, "name": "Banc", "purpose": PURPOSE, "text": TEXT, "audience": SOME}
        self.last = (await self.client.post("/v1/campaigns", json=body)).raise_for_status().json()["campaign_id"]
        (await self.client.post(f"/v1/campaigns/{self.last}/schedule")).raise_for_status()
        await self._until(RUNS)
        started = time.perf_counter()
        await self._until(ASKED)
        took = time.perf_counter() - started
        return Sample(await self.database.fetchval(AUDIENCE, self.last), took)

    async def _until(self, query: str) -> None:
        async with asyncio.timeout(WITHIN_S):
            while True:
                if await self.database.fetchval(query, self.last):
                    return
                await asyncio.sleep(LOOK_EVERY_S)

    async def bare_expansion(self) -> Sample:
        partitions = len(await self.producer.partitions_for(TOPIC))  # `send_batch` does not wait for it
        started, read = time.perf_counter(), 0
        headers = cloud_event_headers(MessagesRequested.type, uuid4(), "bench", datetime.now(UTC), None)
        async with self.database.transaction():
            cursor = await self.database.cursor(RECIPIENTS, self.last)
            while page := await cursor.fetch(PAGE):
                pages: dict[int, list[bytes]] = defaultdict(list)
                for (subject_id,) in page:
                    pages[partition_of(subject_id, partitions)].append(subject_id.encode())
                acks = []
                for partition, keys in pages.items():
                    batch = self.producer.create_batch()
                    for at in range(0, len(keys), TOGETHER):
                        some = keys[at : at + TOGETHER]
                        key, value = some[0], b"x" * (REQUEST_BYTES * len(some))
                        if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                            acks.append(await self.producer.send_batch(batch, TOPIC, partition=partition))
                            batch = self.producer.create_batch()
                            batch.append(key=key, value=value, timestamp=None, headers=headers)
                    acks.append(await self.producer.send_batch(batch, TOPIC, partition=partition))
                await asyncio.gather(*acks)
                read += len(page)
        return Sample(read, time.perf_counter() - started)

    async def cursor(self) -> Sample:
        started, read = time.perf_counter(), 0
        async with self.database.transaction():
            cursor = await self.database.cursor(ROWS, SENDER)
            while page := await cursor.fetch(PAGE):
                read += len(page)
        assert read == self.people
        return Sample(read, time.perf_counter() - started)


async def run(ground: Ground) -> None:
    database = await asyncpg.connect(await ground.database("campaign"))
    await database.execute(
        "INSERT INTO sender (sender_id, organisation_id, controller, version, brand, oadc, country, stop_code,"
        " purposes) VALUES ($1, 'development', 'banc', 1, 'Banc', 'BANC', 'FR', '36111', ARRAY[$2])",
        SENDER,
        PURPOSE,
    )
    server = await ground.service(
        "campaign",
        PLACET_IMPORT_MAX_BYTES="1000000000",
    )
    headers = {"Authorization": f"Bearer {ground.environment.token()}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=WITHIN_S) as client:
        producer = AIOKafkaProducer(bootstrap_servers=ground.bootstrap, acks="all", max_batch_size=1_000_000)
        await producer.start()
        bench = Bench(ground, server, database, client, producer, ground.asked.subjects, 0)
        await _load(bench)
        await _consents(bench)
        await database.execute("CREATE TABLE bench_contact (LIKE contact INCLUDING ALL)")
        await database.execute("INSERT INTO bench_contact SELECT * FROM contact")
        await database.execute("VACUUM ANALYZE")
        held = f"{ground.asked.subjects:,} contacts"
        await ground.compare(
            f"A segment of {held}, counted: points, city, consent, nothing received of late",
            "contacts",
            ours=Side("campaign-svc, one process, over HTTP", bench.our_count, SERVICE_GC),
            limit=Side("SELECT count(*), by hand, everybody read", bench.count, BENCH_GC, here=True),
        )
        print(f"The last count: {bench.counted}\n", flush=True)
        if ground.asked.subjects <= MANY:
            await ground.compare(
                f"A file of as many lines imported beside {held}",
                "lines",
                ours=Side("campaign-svc, one process, over HTTP", bench.our_import, SERVICE_GC),
                limit=Side(
                    "COPY of rows that are ready, into a table with its indexes", bench.copy, BENCH_GC, here=True
                ),
                wanted=0.5,
            )
            await ground.compare(
                f"Pre-flight of {held}: who would get it, why not, its lengths and its cost",
                "contacts",
                ours=Side("campaign-svc, one process, over HTTP", bench.our_pre_flight, SERVICE_GC),
                limit=Side("a cursor over the same rows, and nothing else", bench.cursor, BENCH_GC, here=True),
            )
            await bench.expansion()  # recipients for the limit to read
            await ground.compare(
                "Expansion of a campaign to one in seven of them: until Kafka has every request",
                "recipients",
                ours=Side("campaign-svc, one process: planner and relay", bench.expansion, SERVICE_GC),
                limit=Side("the same ids read, and as many bytes produced", bench.bare_expansion, BENCH_GC, here=True),
                wanted=0.5,
            )
        await producer.stop()
    await database.close()


async def _load(bench: Bench) -> None:
    """Import the contacts as a file in parts, printing the progress."""
    numbers = bench.new(bench.people)
    started, at_rest = time.perf_counter(), rss_mb(bench.server.pid)
    found = await bench.uploaded(numbers)
    uploaded_s, uploaded_mb = time.perf_counter() - started, rss_mb(bench.server.pid)
    print(f"### {len(numbers):,} contacts in one file: uploaded in {uploaded_s:.1f} s\n", flush=True)
    print("| lines recorded | lines/s since the row above | RSS of the process, MB |\n|---:|---:|---:|")
    print(f"| before it came | | {at_rest} |\n| 0 | | {uploaded_mb} |", flush=True)
    mark, since = 0, time.perf_counter()
    while found["status"] != "done":
        await asyncio.sleep(0.1)
        found = (await bench.client.get(f"/v1/imports/{found['import_id']}")).raise_for_status().json()
        done, now = found["lines"], time.perf_counter()
        if done - mark >= len(numbers) // 10 or mark < done == len(numbers):
            print(f"| {done:,} | {(done - mark) / (now - since):,.0f} | {rss_mb(bench.server.pid)} |", flush=True)
            mark, since = done, now
    took = time.perf_counter() - started
    assert found["created"] == len(numbers), found
    print(f"\nIn {took:.1f} s, {len(numbers) / took:,.0f} a second.\n", flush=True)


def _file(numbers: range, *, header: bool = True) -> list[bytes]:
    pieces = [HEADER.encode()] if header else []
    for start in range(numbers.start, numbers.stop, PIECE):
        lines = []
        for n in range(start, min(start + PIECE, numbers.stop)):
            held = _held(n)
            lines.append(f"06{FIRST + n:08d};{';'.join(held.values())}\n")
        pieces.append("".join(lines).encode())
    return pieces


def _held(n: int) -> dict[str, str]:
    return {
        "first_name": NAMES[n % 5],
        "city": "Nîmes" if n % 7 == 0 else "Lyon",
        "loyalty": "or" if n % 3 else "",
        "points": str(n % 1000),
    }


def _consented(n: int) -> bool:
    return n % 5 != 4


def _selected(n: int) -> bool:
    """Return whether SEGMENT selects the n-th person."""
    return n % 1000 >= 100 and n % 7 != 0 and _consented(n)


def _rows(ground: Ground, numbers: range) -> Iterator[tuple[str, str, str]]:
    """Yield subject id, encrypted number and attributes."""
    subjects = SubjectKeys(SubjectRingSettings.model_validate_json(ground.environment.subject_keys))
    fields = FieldKeys(KeyRingSettings.model_validate_json(ground.environment.field_keys), subjects)
    for n in numbers:
        number = f"+336{FIRST + n:08d}"
        subject_id = subjects.subject_id(number)
        sealed = fields.seal(number, f"number:{subject_id}")
        yield subject_id, sealed, msgspec.json.encode(_held(n)).decode()


async def _consents(bench: Bench) -> None:
    """Store the consents of four fifths, as published by consent-svc."""
    subjects = SubjectKeys(SubjectRingSettings.model_validate_json(bench.ground.environment.subject_keys))
    now = datetime.now(UTC)
    told = Consent(
        sender_id=SENDER,
        purpose=PURPOSE,
        state="opted_in",
        basis="opt_in",
        occurred_at=now - timedelta(days=9),
        evidence_id=str(uuid4()),
        expires_at=now + timedelta(days=900),
    )
    said = msgspec.json.encode(Standing(consents=(told,))).decode()
    for start in range(0, bench.people, CHUNK):
        numbers = range(start, min(start + CHUNK, bench.people))
        await bench.database.copy_records_to_table(
            "standing",
            records=[(subjects.subject_id(f"+336{FIRST + n:08d}"), 1, said) for n in numbers if _consented(n)],
            columns=("subject_id", "version", "told"),
        )
