"""Measure webhooks: 1,000 events a second to ten destinations, one of them dead and one slow.

Each destination gets the events of a sender of its own: a tenth of all. campaign-svc sends from its role `projection`,
as on Kubernetes. The time of a delivery runs from the event's storage to its arrival, by the clock of this machine. The
dead destination accepts connections and never answers; the slow one takes SLOW_S for each answer. Wanted: the others'
p99 under 2 s. Every event has to arrive at the eight others, or there is no figure.

The limit is a bare HTTP client that posts bodies of the same size to the eight, at their rate, from this process:
without storage, signatures and order.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any
from uuid import uuid4

import aiohttp

from bench.ground import Ground
from campaign.feed import store as feed
from campaign.feed.event import Told, Type
from campaign.senders.store import put_sender
from campaign.webhooks import signing, store
from campaign.webhooks.sender import AT_ONCE
from campaign.webhooks.signing import Secret
from common.contracts.consent import SenderChanged
from common.db.database import Database
from common.keyring import FieldKeys, SubjectKeys
from common.settings import KeyRingSettings, SubjectRingSettings

ORGANISATION = "bench"
DESTINATIONS, DEAD, SLOW = 10, 0, 1
EVENTS_PER_S, FOR_S, EVERY_S = 1_000, 30, 0.05
BARE_FOR_S = 10
SLOW_S = 1.0
ARRIVE_WITHIN_S = 60.0
WANTED_S = 2.0
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


async def run(ground: Ground) -> None:
    dsn = await ground.database("campaign")
    keys = KeyRingSettings.model_validate_json(ground.environment.field_keys)
    subjects = SubjectKeys(SubjectRingSettings.model_validate_json(ground.environment.subject_keys))
    database = Database(dsn, pool_size=4, name="bench")
    others = [n for n in range(DESTINATIONS) if n not in (DEAD, SLOW)]
    bare: list[float] = []
    async with destinations(lambda _, s: bare.append(s)) as urls:
        await _post_bare([urls[n] for n in others])
    took: dict[int, list[float]] = {n: [] for n in range(DESTINATIONS)}
    async with destinations(lambda n, s: took[n].append(s)) as urls:
        await _subscribe(database, FieldKeys(keys, subjects), urls)
        await ground.service("campaign", PLACET_ROLES="projection", PLACET_WEBHOOKS_PRIVATE="true")
        told = await _tell(database, subjects)
        ends = time.monotonic() + ARRIVE_WITHIN_S
        while any(len(took[n]) < told for n in others) and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await database.close()
    missing = {n: told - len(took[n]) for n in others if len(took[n]) < told}
    if missing:
        raise SystemExit(f"events are missing, so there is no figure: {missing}")
    times = sorted(each for n in others for each in took[n])
    good = "yes" if _percentiles(times)[1] < WANTED_S else "NO"
    print(f"webhooks: {EVENTS_PER_S} events/s for {FOR_S} s to {DESTINATIONS} destinations, one dead, one slow")
    print("| the others | p50 s | p99 s | worst s | slow one got | wanted |\n|---|---:|---:|---:|---:|---|")
    for name, figures, got, wanted in (
        ("webhooks", times, f"{len(took[SLOW])} of {told}", f"p99 < {WANTED_S:g}: {good}"),
        ("limit: bare posts", sorted(bare), "-", "-"),
    ):
        p50, p99 = _percentiles(figures)
        print(f"| {name} | {p50:.3f} | {p99:.3f} | {figures[-1]:.3f} | {got} | {wanted} |", flush=True)


def _percentiles(times: list[float]) -> tuple[float, float]:
    cuts = quantiles(times, n=100)
    return cuts[49], cuts[98]


async def _post_bare(urls: list[str]) -> None:
    """Post bodies like an event's at the rate of these destinations."""
    a_turn = int(EVENTS_PER_S * EVERY_S) // DESTINATIONS
    data = {"subject_id": "sub_" + "0" * 64, "sender_id": "bench-0", "message_id": str(uuid4()), "status": "accepted"}
    begun, posts = time.monotonic(), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit_per_host=AT_ONCE)) as http:

        async def post(url: str, now: datetime) -> None:
            event = {"id": f"evt-{uuid4().hex}", "type": "message.accepted", "timestamp": now.isoformat(), "data": data}
            async with http.post(url, json=event) as answer:
                await answer.read()

        for clock in range(int(BARE_FOR_S / EVERY_S)):
            await asyncio.sleep(max(0.0, begun + clock * EVERY_S - time.monotonic()))
            now = datetime.now(UTC)
            posts += [asyncio.create_task(post(url, now)) for url in urls for _ in range(a_turn)]
        await asyncio.gather(*posts)


@asynccontextmanager
async def destinations(arrived: Callable[[int, float], None]) -> AsyncIterator[list[str]]:
    """The destinations, each on a port of its own. `arrived`: called with the place, and the seconds since storage."""
    servers: list[asyncio.Server] = []
    serving: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
    closing = asyncio.Event()

    def serve(n: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving[writer] = asyncio.current_task()
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while not closing.is_set():
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                    said = json.loads(await reader.readexactly(length))
                    if n == DEAD:
                        await closing.wait()
                        break
                    arrived(n, (datetime.now(UTC) - datetime.fromisoformat(said["timestamp"])).total_seconds())
                    if n == SLOW:
                        await asyncio.sleep(SLOW_S)
                    writer.write(ANSWER)
            writer.close()
            del serving[writer]

        return answer

    for n in range(DESTINATIONS):
        servers.append(await asyncio.start_server(serve(n), "127.0.0.1", 0))
    try:
        yield [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/" for server in servers]
    finally:
        for server in servers:
            server.close()
        closing.set()
        going = [task for task in serving.values() if task is not None]
        for writer in list(serving):
            writer.close()
        await asyncio.gather(*going, return_exceptions=True)


async def _subscribe(database: Database, keys: FieldKeys, urls: list[str]) -> None:
    now = datetime.now(UTC)
    async with database.begin() as tx:
        await feed.begin(tx, ORGANISATION, now)
        for n, url in enumerate(urls):
            sender_id, webhook_id = f"bench-{n}", f"whk-bench-{n}"
            await put_sender(
                tx,
                SenderChanged(
                    sender_id=sender_id,
                    version=1,
                    legal_name="Bench",
                    brand=f"Bench {n}",
                    contact="bench@bench.example",
                    country="FR",
                    oadc=f"BENCH{n}",
                    stop_code=f"361{n:02d}",
                    purposes=(),
                    organisation_id=ORGANISATION,
                    controller_id=sender_id,
                ),
            )
            await store.insert(
                tx,
                webhook_id,
                ORGANISATION,
                url=url,
                types=None,
                senders=[sender_id],
                description="",
                secrets=store.sealed([Secret(signing.secret_of(bytes(32)))], webhook_id, keys),
                created_by="bench",
                fingerprint="",
                now=now,
            )


async def _tell(database: Database, subjects: SubjectKeys) -> int:
    """Store events at the rate, and return how many each destination is owed."""
    begun, told, clock = time.monotonic(), 0, 0
    a_turn = int(EVENTS_PER_S * EVERY_S) // DESTINATIONS
    while clock < FOR_S / EVERY_S:
        await asyncio.sleep(max(0.0, begun + clock * EVERY_S - time.monotonic()))
        clock, now = clock + 1, datetime.now(UTC)
        events = []
        for n in range(DESTINATIONS):
            for place in range(a_turn):
                subject_id = subjects.subject_id(f"+3363998{(told + place) % 10_000:04d}")
                event = Told(
                    type=Type.ACCEPTED,
                    sender_id=f"bench-{n}",
                    subject_id=subject_id,
                    about=subject_id,
                    occasion=(str(uuid4()),),
                    at=now,
                    data={"message_id": str(uuid4()), "campaign_id": None, "category": "service", "status": "accepted"},
                )
                events.append((event, f"bench-{n}"))
        told += a_turn
        async with database.begin() as tx:
            await feed.add(tx, {ORGANISATION: events})
    return told
