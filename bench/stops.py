"""Measure a STOP from the webhook to `enforced`, and a code from its request to its hand-off, under a campaign.

MESSAGES_A_ROUND x size messages leave meanwhile; the comparison is a quiet period. dispatch-svc sends campaigns from a
`worker` and publishes from a `relay`, as on Kubernetes, both with niceness 5. STOPs come
from people spread over the campaign; each must be enforced, and no marketing may be handed off to the person
afterwards: otherwise no figure. The services' own clocks count. Tables then show the time between the instants of a
STOP's events, by Kafka's log and the ledger.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import quantiles
from typing import Any

import aiohttp
import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench import dispatch
from bench.consent import SENDER
from bench.dispatch import MESSAGES_A_ROUND, SUBMITS_AT_ONCE, Bench
from bench.ground import Ground
from bench.inbound import Signed, simulator_signed
from bench.rounds import cpu_seconds, machine, yes_or_no
from common.contracts import CAMPAIGN_REQUESTS, INBOUND_MESSAGES, STATES, Event, Topic, Watermark
from common.contracts.campaign import MessageRequested
from common.contracts.consent import ConsentStateChanged
from common.contracts.inbound import MessageReceived
from common.kafka import broker as kafka
from stack.environment import PARTITIONS

STOPS_EVERY_S = 0.05
CODES_EVERY_S = 0.1
HEAD = "| meanwhile | messages/s | | | p50 ms | p99 ms | worst ms | wanted |\n|---|---:|---|---:|---:|---:|---:|---|"
OPEN = (  # unenforced STOPs, and waiting codes: the slowest count too
    "SELECT (SELECT count(*) FROM enforcement WHERE enforced_at IS NULL)"
    " + (SELECT count(*) FROM message WHERE category = 'transactional' AND handed_off_at IS NULL)"
)
CODES_SENDER = {
    **SENDER,
    "sender_id": "bench-codes",
    "controller": SENDER["sender_id"],
    "oadc": "BANCCODES",
    "stop_code": "38111",
    "purposes": [],
}
CODES_TO = "+33639980000"
QUIET_S = 10.0
FEWEST = 2  # values of a percentile
GIVEN_UP_S = 900.0
ENFORCED_WITHIN_S = 60.0
HOPS = (  # the step before each instant of a STOP; the first instant is the webhook's
    "inbound-svc has begun to keep it",
    "its relay publishes it",
    "consent-svc has begun to record it",
    "its relay publishes the state",
    "dispatch-svc has applied it",
    "nothing of theirs is being handed off: enforced",
)
CODE_HOPS = (  # likewise, of a code
    "it is decided: its turn, what is known",
    "a submit begins with it",
)
Reply = tuple[str, str, str]  # number, code, text
Spans = Mapping[str, tuple[datetime, datetime]]
WANTED = {"STOP": (200, 600), "code": (None, 150)}  # p50 and p99, ms


async def run(ground: Ground) -> None:
    async with dispatch.standing(ground, watermarks=False) as bench, aiohttp.ClientSession() as client:
        for name in ("inbound", "consent"):
            await ground.service(name)
        await dispatch.serving(bench, SUBMITS_AT_ONCE, 100, roles="api,projection")
        await dispatch.serving(bench, SUBMITS_AT_ONCE, 100, roles="relay", nice=5, called="relay")
        server = await dispatch.serving(bench, SUBMITS_AT_ONCE, 100, roles="worker", nice=5, called="worker")
        others = Others(ground, client)
        for sender in (SENDER, CODES_SENDER):
            await others.register(sender)
        many = MESSAGES_A_ROUND * ground.asked.size
        made = bench.requests(many, agreed=True)
        print(f"### A STOP and a code while {many:,} messages leave. {machine()}\n", flush=True)
        print(HEAD, flush=True)
        began = datetime.now(UTC)
        await others.write_while(asyncio.sleep(QUIET_S), _people(bench, bench.requests(1000, agreed=True)))
        await _report("nothing", None, bench, began)
        quiet = began
        bench.reader.expect([request.message_id for request in made])
        began, cpu, started = datetime.now(UTC), cpu_seconds(server.pid), time.perf_counter()
        await others.write_while(_campaign(bench, made), _people(bench, made))
        seconds = time.perf_counter() - started
        await _report("a campaign", many / seconds, bench, began)
        spans = {"nothing": (quiet, began), "a campaign": (began, datetime.now(UTC))}
        await stop_hops(ground, spans)
        await code_hops(ground, spans)
        told = (cpu_seconds(server.pid) or 0.0) - (cpu or 0.0)
        print(f"\n{told / many * 1e6:.0f} µs of dispatch's own processor time for each message.\n", flush=True)


async def _campaign(bench: Bench, made: Sequence[MessageRequested]) -> None:
    await bench.publish(CAMPAIGN_REQUESTS.name, made)
    await bench.reader.all_there.wait()


def _people(bench: Bench, made: Sequence[MessageRequested]) -> Iterator[Reply]:
    """Yield STOPs from the people of `made`, in no order."""
    step = 7919 % len(made) or 1
    for n in count():
        request = made[n * step % len(made)]
        number = bench.field_keys.unseal(request.number, f"number:{request.subject_id}")
        yield number, str(SENDER["stop_code"]), "STOP"


class Others:
    """People who write and who ask for codes during a measurement."""

    def __init__(self, ground: Ground, client: aiohttp.ClientSession) -> None:
        self._client = client
        self._urls = ground.environment.urls
        self._bearer = {"Authorization": f"Bearer {ground.environment.token()}"}
        self._signed: Signed = simulator_signed(ground.environment.simulator_secret.encode())
        self._numbers = count()
        self.stops = 0  # acknowledged

    async def register(self, sender: Mapping[str, object]) -> None:
        url = f"{self._urls['consent']}/v1/senders"
        async with self._client.post(url, json=sender, headers=self._bearer) as told:
            told.raise_for_status()

    async def write_while(
        self,
        going: Awaitable[object],
        replies: Iterator[Reply],
        every_s: tuple[float, float] = (STOPS_EVERY_S, CODES_EVERY_S),
        within_s: float = GIVEN_UP_S,
    ) -> None:
        """Send replies and ask for codes until `going` ends, within `within_s`. `every_s`: of each."""
        tasks = [
            asyncio.create_task(self._every(every_s[0], lambda: self._reply(*next(replies)))),
            asyncio.create_task(self._every(every_s[1], self._code)),
        ]
        try:
            async with asyncio.timeout(within_s):
                await going
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def _every(self, seconds: float, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.TaskGroup() as calls:
            while True:
                calls.create_task(call())
                await asyncio.sleep(seconds)

    async def _reply(self, number: str, to: str, text: str) -> None:
        n = next(self._numbers)
        said = {"id": f"mo-{n}", "from": number, "to": to, "text": text}
        body = json.dumps(said | {"sent_at": datetime.now(UTC).isoformat()}).encode()
        url = f"{self._urls['inbound']}/v1/callbacks/simulator/main/messages"
        async with self._client.post(url, data=body, headers=self._signed(body, n)) as told:
            told.raise_for_status()
        self.stops += 1

    async def _code(self) -> None:
        sender_id = CODES_SENDER["sender_id"]
        asked = {"sender_id": sender_id, "to": CODES_TO, "text": "Code 123456", "category": "transactional"}
        async with self._client.post(f"{self._urls['dispatch']}/v1/messages", json=asked, headers=self._bearer) as told:
            told.raise_for_status()


async def _report(meanwhile: str, rate: float | None, bench: Bench, began: datetime) -> None:
    connection = await asyncpg.connect(await bench.ground.database("dispatch"))
    try:
        async with asyncio.timeout(ENFORCED_WITHIN_S):
            while await connection.fetchval(OPEN):  # noqa: ASYNC110  (another process closes them)
                await asyncio.sleep(0.1)
        after = await connection.fetchval(
            "SELECT count(*) FROM message JOIN enforcement USING (subject_id)"
            " WHERE category = 'marketing' AND handed_off_at > enforced_at"
        )
        if after:
            raise RuntimeError(f"{after} messages were handed off after the STOP was enforced")
        waited = {
            "STOP": "SELECT enforced_at - received_at FROM enforcement WHERE received_at >= $1",
            "code": "SELECT handed_off_at - requested_at FROM message WHERE category = 'transactional'"
            " AND requested_at >= $1",
        }
        for what, query in waited.items():
            ms = [row[0].total_seconds() * 1e3 for row in await connection.fetch(query, began)]
            p50, p99 = WANTED[what]
            cuts = quantiles(ms, n=100, method="inclusive")
            cells = [
                meanwhile,
                f"{rate:,.0f}" if rate else "",
                what,
                len(ms),
                *(f"{x:.0f}" for x in (cuts[49], cuts[98])),
            ]
            reached = yes_or_no((p50 is None or cuts[49] <= p50) and cuts[98] <= p99)
            print(f"| {' | '.join(map(str, cells))} | {max(ms):.0f} | {p50 or ''}, {p99}: {reached} |", flush=True)
    finally:
        await connection.close()


async def stop_hops(ground: Ground, spans: Spans) -> None:
    """Print a table: p50 and p99 of each part of a STOP's way, by span."""
    connection = await asyncpg.connect(await ground.database("dispatch"))
    try:
        ends = await connection.fetch("SELECT reference, received_at, applied_at, enforced_at FROM enforcement")
    finally:
        await connection.close()
    kept: dict[str, tuple[datetime, datetime]] = {}
    async for event, *instants in published(ground, INBOUND_MESSAGES):
        if isinstance(event, MessageReceived):
            kept[event.reference] = instants[0], instants[1]
    told: dict[str, tuple[datetime, datetime]] = {}
    async for event, *instants in published(ground, STATES):
        for cause in event.causes if isinstance(event, ConsentStateChanged) else ():
            told.setdefault(cause.reference or "", (instants[0], instants[1]))
    ways = [
        (end["received_at"], *kept[end["reference"]], *told[end["reference"]], end["applied_at"], end["enforced_at"])
        for end in ends
        if end["reference"] in kept and end["reference"] in told
    ]
    table("a STOP", HOPS, ways, spans)


async def code_hops(ground: Ground, spans: Spans) -> None:
    """Print the table for codes."""
    connection = await asyncpg.connect(await ground.database("dispatch"))
    try:
        rows = await connection.fetch(
            "SELECT requested_at, decided_at, handed_off_at FROM message"
            " WHERE category = 'transactional' AND handed_off_at IS NOT NULL"
        )
    finally:
        await connection.close()
    table("a code", CODE_HOPS, [tuple(row) for row in rows], spans)


def table(
    what: str,
    hops: Sequence[str],
    ways: Sequence[tuple[datetime, ...]],
    spans: Spans,
) -> None:
    """Print a table. `ways`: the instants of each STOP or code, the arrival first."""
    print(f"\n| {what} waits until | " + " | ".join(f"{m}: p50 ms | p99 ms" for m in spans) + " |", flush=True)
    print("|---|" + "---:|---:|" * len(spans), flush=True)
    for n, hop in enumerate(hops):
        cells = []
        for first, last in spans.values():
            waited = [(way[n + 1] - way[n]) / timedelta(milliseconds=1) for way in ways if first <= way[0] < last]
            cells.append(p50_p99(waited))
        print(f"| {hop} | " + " | ".join(cells) + " |", flush=True)


def p50_p99(ms: Sequence[float]) -> str:
    """Return two cells of a table."""
    if len(ms) < FEWEST:
        return " | "
    cuts = quantiles(ms, n=100, method="inclusive")
    return f"{cuts[49]:.0f} | {cuts[98]:.0f}"


async def published(ground: Ground, topic: Topic) -> AsyncIterator[tuple[Event, datetime, datetime]]:
    """Yield the events of a topic so far, with the begin of the transaction and the time of publication."""
    left = {TopicPartition(topic.name, partition) for partition in range(PARTITIONS)}
    async with AIOKafkaConsumer(bootstrap_servers=ground.bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign(left)
        for where in left:
            consumer.seek(where, 0)
        while left:
            for records in (await consumer.getmany(*left, timeout_ms=1000, max_records=10_000)).values():
                for record in records:
                    event = kafka.decode(record.value, record.headers)
                    if event is not None and not isinstance(event, Watermark):
                        began = datetime.fromisoformat(dict(record.headers)["ce_time"].decode())
                        yield event, began, datetime.fromtimestamp(record.timestamp / 1000, UTC)
            for where in list(left):
                end = consumer.highwater(where)
                if end is not None and await consumer.position(where) >= end:
                    left.discard(where)
