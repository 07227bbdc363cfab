"""Measure a dispatch-svc process (worker, projection and relay) between a full log and a fast operator.

    batches   100 messages a submit, beside `bench.bare_dispatch`: the least work, on the same bytes
    singles   a request per message, beside aiohttp alone: as many requests at once, to the same operator
    denied    no consent: the filter alone, beside the same bare loop

`subjects` people are stored, half of them opted in (in both databases). A round's requests are in the log before a side
may read them: SIGSTOP stops the side until then. A round ends once each message's status has been read back, exactly
once; at the end each row of the ledger must be settled, and the outbox empty. The numbers lie among real mobiles (see
bench.consent); no message leaves this machine.
"""

import asyncio
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.bare_dispatch import MESSAGES, REQUESTS
from bench.ground import Ground, Server, free_url
from bench.rounds import Sample, Side, cpu_seconds
from common.contracts import CAMPAIGN_REQUESTS, DISPATCH_MESSAGES, STATES, Watermark
from common.contracts.campaign import MessageRequested, MessagesRequested, Request
from common.contracts.consent import Consent
from common.contracts.dispatch import MessagesChanged
from common.kafka import broker as kafka
from common.keyring import FieldKeys, SubjectKeys
from common.settings import KeyRingSettings, SubjectRingSettings
from common.sms.message_id import message_id
from dispatch.gateways import Account, Submit, kannel
from dispatch.gateways.over_http import AT_ONCE
from stack.environment import PARTITIONS

FIRST = 20_000_000  # first number, of eight digits after +336
MESSAGES_A_ROUND = 5  # times a round's size
SINGLES_A_ROUND = 1
LATENCY_MS = 20
SUBMITS_AT_ONCE = 64  # with batches
SINGLES_AT_ONCE = 6 * AT_ONCE  # with single messages: submits, of so many requests each
PURPOSE = "promotions"
CAMPAIGN = "bench"
TEXT = "Banc : -20 % ce samedi dans votre magasin. Sur presentation de ce message. STOP au 36111"
GC = "50,000 objects, frozen"
BENCH_GC = "Python's"
LOST_S = 120.0
TOGETHER = 1_000 // PARTITIONS  # requests of a record: a page of campaign-svc is of all partitions
SHARES = {"batches": 0.5, "denied": 0.45, "singles": 0.6}  # of the limit, wanted
RATES = {"batches": 20_000, "singles": 5_000}  # per second, wanted


class _Told(msgspec.Struct):
    """A message's status, in both sides' form."""

    message_id: str
    status: str
    version: int = 1


class _Batch(msgspec.Struct):
    """The statuses of a record of ours."""

    changes: list[_Told]


_told = msgspec.json.Decoder(_Told)
_batch = msgspec.json.Decoder(_Batch)
_KIND = MessagesChanged.type.encode()


def by_partition(requests: Sequence[MessageRequested]) -> dict[int, list[MessageRequested]]:
    """Return the requests of each partition."""
    found: dict[int, list[MessageRequested]] = {}
    for request in requests:
        found.setdefault(kafka.partition_of(request.subject_id, PARTITIONS), []).append(request)
    return found


def together(requests: Sequence[MessageRequested]) -> Iterator[MessagesRequested]:
    """Yield the requests of a partition as campaign-svc writes them."""
    for at in range(0, len(requests), TOGETHER):
        first, some = requests[at], requests[at : at + TOGETHER]
        yield MessagesRequested(
            campaign_id=CAMPAIGN,
            sender_id=first.sender_id,
            purpose=first.purpose,
            requested_at=first.requested_at,
            send_before=first.send_before,
            requests=tuple(
                Request(message_id=one.message_id, subject_id=one.subject_id, number=one.number, text=one.text)
                for one in some
            ),
        )


def _statuses(record: Any) -> Sequence[_Told]:
    """Return the statuses of a record: a status of the bare loop, or a batch of ours."""
    if not record.headers:
        return [_told.decode(record.value)]
    return _batch.decode(record.value).changes if dict(record.headers)["ce_type"] == _KIND else ()


@dataclass(slots=True)
class _Reader:
    """Reads the statuses of both sides during the benchmark."""

    told: dict[str, list[_Told]] = field(default_factory=dict)
    waited_for: set[str] = field(default_factory=set)
    all_there: asyncio.Event = field(default_factory=asyncio.Event)

    def expect(self, identities: Sequence[str]) -> None:
        self.told.clear()
        self.waited_for = set(identities)
        self.all_there.clear()

    async def run(self, bootstrap: str) -> None:
        topics = [TopicPartition(t, p) for t in (DISPATCH_MESSAGES.name, MESSAGES) for p in range(PARTITIONS)]
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
            consumer.assign(topics)
            for where in topics:
                consumer.seek(where, 0)
            while True:
                for records in (await consumer.getmany(timeout_ms=100, max_records=10_000)).values():
                    for record in records:
                        for told in _statuses(record):
                            self.told.setdefault(told.message_id, []).append(told)
                            if told.status in ("accepted", "denied"):
                                self.waited_for.discard(told.message_id)
                if not self.waited_for:
                    self.all_there.set()


@dataclass(frozen=True)
class Bench:
    ground: Ground
    producer: AIOKafkaProducer
    reader: _Reader
    operator: str
    bare: Server
    bare_dsn: str
    subject_keys: SubjectKeys
    field_keys: FieldKeys
    rounds: Iterator[int] = field(default_factory=count)
    done: Counter[str] = field(default_factory=Counter)

    async def round(self, server: Server, topic: str, many: int, *, agreed: bool, of: int | None = None) -> Sample:
        """Measure `many` requests from the log to their statuses, on the same bytes for each side.

        `of`: only the first so many people.
        """
        made = self.requests(many, agreed=agreed, of=of)
        self.reader.expect([request.message_id for request in made])
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await self.publish(topic, made)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        cpu_before, started = cpu_seconds(server.pid), time.perf_counter()
        async with asyncio.timeout(LOST_S):
            await self.reader.all_there.wait()
        seconds, cpu_after = time.perf_counter() - started, cpu_seconds(server.pid)
        self._each_told_once(made, "accepted" if agreed else "denied")
        self.done[topic] += many
        return Sample(many, seconds, cpu_s=None if cpu_before is None or cpu_after is None else cpu_after - cpu_before)

    def requests(self, many: int, *, agreed: bool, of: int | None = None) -> list[MessageRequested]:
        """Return sealed requests to people spread over all stored.

        `requested_at` is a minute ago, so that the consent data is as new (ADR-0012).
        """
        now, held, number = datetime.now(UTC), max((of or self.ground.asked.subjects) // 2, 1), next(self.rounds)
        made = []
        for n in range(many):
            who = _number(2 * ((n * 7919 + number) % held) + (0 if agreed else 1))
            subject_id = self.subject_keys.subject_id(who)
            identity = str(message_id(now, str(number), str(n)))
            made.append(
                MessageRequested(
                    message_id=identity,
                    campaign_id=CAMPAIGN,
                    sender_id="bench",
                    purpose=PURPOSE,
                    category="marketing",
                    subject_id=subject_id,
                    number=self.field_keys.seal(who, f"number:{subject_id}"),
                    text=self.field_keys.seal(TEXT, f"text:{identity}"),
                    requested_at=now - timedelta(minutes=1),
                    send_before=now + timedelta(hours=1),
                )
            )
        return made

    async def publish(self, topic: str, made: Sequence[MessageRequested]) -> None:
        acks, now = [], datetime.now(UTC)
        headers = kafka.cloud_event_headers(MessagesRequested.type, uuid4(), "bench", now, None)
        for where, requests in by_partition(made).items():
            batch = self.producer.create_batch()
            for event in together(requests):
                record = {"key": event.key.encode(), "value": kafka.encode(event), "timestamp": None}
                if batch.append(**record, headers=headers) is None:
                    acks.append(await self.producer.send_batch(batch, topic, partition=where))
                    batch = self.producer.create_batch()
                    batch.append(**record, headers=headers)
            acks.append(await self.producer.send_batch(batch, topic, partition=where))
        await asyncio.gather(*acks)

    def _each_told_once(self, made: Sequence[MessageRequested], status: str) -> None:
        """Check that each version came once, the last with this status; a message may be deferred before."""
        wrong: Counter[str] = Counter()
        for request in made:
            told = self.reader.told.get(request.message_id, [])
            versions = [one.version for one in told]
            if versions != sorted(set(versions)) or [one.status for one in told if one.status != "deferred"] != [
                status
            ]:
                wrong[" ".join(f"{one.version}:{one.status}" for one in told) or "nothing"] += 1
        if wrong:
            raise RuntimeError(f"of {len(made)} messages that were to be {status}, told otherwise: {dict(wrong)}")

    async def client_alone(self, many: int) -> Sample:
        """Measure the usual HTTP client alone, aiohttp's session, with a message per request."""
        account = Account(provider="kannel", url=self.operator, user="bench", secret="bench")  # noqa: S106 nobody's
        request = kannel.request([_submit(self.subject_keys.subject_id(_number(0)))], account, datetime.now(UTC))
        left = iter(range(many))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=SINGLES_AT_ONCE)) as session:

            async def caller() -> None:
                for _ in left:
                    async with session.post(
                        self.operator + request.path, data=request.body, headers=request.headers
                    ) as response:
                        await response.read()

            before, started = time.process_time(), time.perf_counter()
            await asyncio.gather(*(caller() for _ in range(SINGLES_AT_ONCE)))
            return Sample(many, time.perf_counter() - started, cpu_s=time.process_time() - before)


async def run(ground: Ground) -> None:
    async with standing(ground) as bench:
        ours = await serving(bench, SUBMITS_AT_ONCE, 100)
        many = MESSAGES_A_ROUND * ground.asked.size
        for name, agreed in (("batches", True), ("denied", False)):
            title = "Handed off, 100 messages a submit" if agreed else "All denied"
            await ground.compare(
                f"{title}, {ground.asked.subjects:,} subjects held, {many:,} messages",
                "messages",
                ours=side(bench, "dispatch-svc, one process", ours, CAMPAIGN_REQUESTS.name, many, agreed=agreed),
                limit=side(bench, "the bare loop", bench.bare, REQUESTS, many, agreed=agreed),
                wanted=SHARES.get(name),
                at_least=RATES.get(name),
            )
        await ground.supervisor.retire("dispatch")
        ours = await serving(bench, SINGLES_AT_ONCE // AT_ONCE, None)
        many = SINGLES_A_ROUND * ground.asked.size
        await ground.compare(
            f"Handed off, a request per message, {SINGLES_AT_ONCE} at once, {many:,} messages",
            "messages",
            ours=side(bench, "dispatch-svc, one process", ours, CAMPAIGN_REQUESTS.name, many, agreed=True),
            limit=Side("aiohttp alone", lambda: bench.client_alone(many), BENCH_GC, here=True),
            wanted=SHARES["singles"],
            at_least=RATES["singles"],
        )
        await _all_settled(bench)


def side(bench: Bench, name: str, server: Server, topic: str, many: int, *, agreed: bool) -> Side:
    return Side(name, partial(bench.round, server, topic, many, agreed=agreed), GC)


@asynccontextmanager
async def standing(ground: Ground, *, watermarks: bool = True, people: int | None = None) -> AsyncIterator[Bench]:
    """Prepare topics, two databases with the same people, an operator and the bare loop, and yield the bench.

    `watermarks`: publish watermarks in place of consent-svc.
    """
    subject_keys = SubjectKeys(SubjectRingSettings.model_validate_json(ground.environment.subject_keys))
    field_keys = FieldKeys(KeyRingSettings.model_validate_json(ground.environment.field_keys), subject_keys)
    await _make_topics(ground)
    bare_dsn = await ground.postgres.create_service_database("bare", "bare")
    await _prepare(ground, await ground.database("dispatch"), bare_dsn)
    operator, bare = free_url(), free_url()
    arguments = (operator.rpartition(":")[2], str(LATENCY_MS))
    await ground.server("operator", [sys.executable, "-m", "bench.fast_operator", *arguments], operator)
    told = (bare.rpartition(":")[2], bare_dsn, ground.bootstrap, str(ground.idempotent), str(PARTITIONS), operator)
    server = await ground.server("bare", [sys.executable, "-m", "bench.bare_dispatch", *told], bare)
    reader = _Reader()
    async with AIOKafkaProducer(
        bootstrap_servers=ground.bootstrap, enable_idempotence=ground.idempotent, acks="all", max_batch_size=1_000_000
    ) as producer:
        bench = Bench(ground, producer, reader, operator, server, bare_dsn, subject_keys, field_keys)
        await hold(bench, 0, ground.asked.subjects if people is None else people)
        tasks = [asyncio.create_task(reader.run(ground.bootstrap))]
        if watermarks:
            tasks.append(asyncio.create_task(_watermarks(producer)))
        try:
            yield bench
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)


async def serving(
    bench: Bench,
    submits: int,
    batch: int | None,
    roles: str = "worker,projection,relay",
    nice: int = 0,
    called: str | None = None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Server:
    """Start dispatch-svc. `batch`: messages per request to the simulator; `None`: Kannel, a message per request."""
    operator = {"PLACET_GATEWAY_URL": bench.operator, "PLACET_GATEWAY_BATCH": str(batch)}
    if batch is None:
        account = {"provider": "kannel", "url": bench.operator, "user": "bench", "secret": "bench"}
        kannel = account | {"connections": SINGLES_AT_ONCE}
        operator = {"PLACET_GATEWAYS": msgspec.json.encode([kannel]).decode()}
    return await bench.ground.service(
        "dispatch",
        called=called,
        PLACET_ROLES=roles,
        PLACET_NICE=str(nice),
        PLACET_GATEWAY_SUBMITS=str(submits),
        **operator,
        **more,
    )


async def _make_topics(ground: Ground) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=ground.bootstrap)
    await admin.start()
    of_ours = (CAMPAIGN_REQUESTS, DISPATCH_MESSAGES, STATES)
    in_sync = {"min.insync.replicas": "1", "unclean.leader.election.enable": "false"}
    topics = [NewTopic(topic.name, PARTITIONS, 1, topic_configs=topic.config | in_sync) for topic in of_ours]
    await admin.create_topics([*topics, *(NewTopic(name, PARTITIONS, 1) for name in (REQUESTS, MESSAGES))])
    await admin.close()


async def _prepare(ground: Ground, dispatch_dsn: str, bare_dsn: str) -> None:
    """Store the sender and the campaign, and create the bare loop's tables."""
    await known(dispatch_dsn)
    bare = await asyncpg.connect(bare_dsn)
    await bare.execute(
        "CREATE TABLE consent (subject_id text PRIMARY KEY, state text NOT NULL);"
        "CREATE TABLE message (message_id uuid PRIMARY KEY, subject_id text NOT NULL, number text, text text,"
        " status text NOT NULL, gateway_message_id text) WITH (fillfactor = 50)"
    )
    await bare.close()


async def known(dispatch_dsn: str) -> None:
    """Store the sender and the campaign."""
    dispatch = await asyncpg.connect(dispatch_dsn)
    await dispatch.execute(
        "INSERT INTO sender (sender_id, organisation_id, controller, version, oadc, stop_code, purposes, countries)"
        " VALUES ('bench', 'development', 'bench', 1, 'BANC', '36111', $1, $2)",
        [PURPOSE],
        ["FR"],
    )
    await dispatch.execute("INSERT INTO campaign (campaign_id, control, version) VALUES ($1, 'running', 1)", CAMPAIGN)
    await dispatch.close()


async def hold(bench: Bench, first: int, last: int, *, bare: bool = True) -> None:
    """Store the people `first` to `last`, in the database of the bare loop too; every second person has opted in."""
    subject_id = bench.subject_keys.subject_id
    dispatch = await asyncpg.connect(await bench.ground.database("dispatch"))
    await dispatch.copy_records_to_table(
        "subject",
        records=((subject_id(_number(n)), 0, consents(n), "[]", False) for n in range(first, last)),
        columns=("subject_id", "version", "consents", "suppressions", "erased"),
    )
    of_bare = await asyncpg.connect(bench.bare_dsn)
    if bare:
        await of_bare.copy_records_to_table(
            "consent",
            records=((subject_id(_number(n)), ("opted_in", "unknown")[n % 2]) for n in range(first, last)),
        )
    for connection in (dispatch, of_bare):
        await connection.execute("VACUUM ANALYZE")
        await connection.close()


def consents(n: int) -> str:
    """Return the consents of a person, as stored: of each who has opted in, another."""
    if n % 2:
        return "[]"
    yes = Consent(
        sender_id="bench",
        purpose=PURPOSE,
        state="opted_in",
        basis="opt_in",
        occurred_at=datetime(2026, 3, 2, tzinfo=UTC) + timedelta(seconds=n % 1_000_000),
        evidence_id=f"bench-{n}",
    )
    return msgspec.json.encode((yes,)).decode()


async def _watermarks(producer: AIOKafkaProducer) -> None:
    while True:
        for where in range(PARTITIONS):
            now = datetime.now(UTC)
            mark = Watermark(partition=where, as_of=now, last_number=0)
            headers = kafka.cloud_event_headers(mark.type, uuid4(), "bench", now, None)
            await producer.send(
                STATES.name, key=mark.key.encode(), value=kafka.encode(mark), partition=where, headers=headers
            )
        await asyncio.sleep(0.25)


async def _all_settled(bench: Bench) -> None:
    """Check that each message is final in the ledger, and has left the outbox."""
    connection = await asyncpg.connect(await bench.ground.database("dispatch"))
    try:
        rows = await connection.fetch("SELECT status, count(*) AS many FROM message GROUP BY status")
        waiting = await connection.fetchval("SELECT count(*) FROM outbox")
    finally:
        await connection.close()
    found = {row["status"]: row["many"] for row in rows}
    sent = bench.done[CAMPAIGN_REQUESTS.name]
    if sum(found.values()) != sent or set(found) - {"accepted", "denied"} or waiting:
        raise RuntimeError(f"{sent} messages requested, in the ledger {found}, in the outbox {waiting}")
    print(f"{sent} messages requested, each told once; in the ledger {found}, none left to publish.\n", flush=True)


def _number(n: int) -> str:
    return f"+336{n + FIRST:08d}"


def _submit(reference: str) -> Submit:
    return Submit(
        reference=reference,
        subject_id=reference,
        to=_number(0),
        sender="BANC",
        short_code="36111",
        category="marketing",
        text=TEXT,
        begin_by=math.inf,
    )
