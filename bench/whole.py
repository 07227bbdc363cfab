"""Measure a campaign through all four services: from its schedule to its last DLR, told to campaign-svc.

MESSAGES_A_ROUND x size people have opted in. The operator accepts 100 messages a submit, and tells two DLRs of each
message, first DLRS_A_CALLBACK a callback, then one a callback, as most operators do. A round ends once the campaign
counts each message as delivered, and every outbox is empty.

What a message costs hardly depends on the machine, as long as batches fill: processor time of all our processes and of
PostgreSQL, statements, transactions, rows, WAL, bytes in Kafka. The numbers lie among real mobiles (see bench.consent);
no message leaves this machine.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench import growth
from bench.consent import SENDER
from bench.dispatch import LATENCY_MS
from bench.ground import Ground, Server, free_url
from bench.rounds import machine
from campaign.audience.reach import Standing
from common.contracts import TOPICS
from common.contracts.consent import Consent
from common.keyring import FieldKeys, SubjectKeys
from common.settings import KeyRingSettings, SubjectRingSettings
from stack.environment import PARTITIONS

FIRST = 30_000_000  # first number, of eight digits after +336
MESSAGES_A_ROUND = 2
DLRS_A_CALLBACK = 100
PURPOSE = "promotions"
TEXT = "Banc : -20 % ce samedi dans votre magasin. Sur presentation de ce message. {stop}"
WITHIN_S = 900.0
LOOK_EVERY_S = 0.05
POSTGRES = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_planning": "off"}
TICKS = os.sysconf("SC_CLK_TCK")
ROWS = "SELECT sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) FROM pg_stat_user_tables"
SERVER = (
    "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn,"
    " (SELECT sum(calls) FROM pg_stat_statements WHERE toplevel),"
    " (SELECT sum(xact_commit) FROM pg_stat_database WHERE datname = ANY($1))"
)
RELATIONS = (  # of the WAL of a span; the images of whole pages come with the first change after a checkpoint
    "SELECT d.datname, b.relfilenode, sum(b.block_data_length), sum(b.block_fpi_length)"
    " FROM pg_get_wal_block_info($1, $2) AS b JOIN pg_database AS d ON d.oid = b.reldatabase"
    " WHERE d.datname = ANY($3) GROUP BY 1, 2"
)
NOW = "SELECT pg_current_wal_flush_lsn()"
NAMED = "SELECT relname::text FROM pg_class WHERE pg_relation_filenode(oid) = $1"
MOST = 12  # relations shown
WAITING = "SELECT count(*) FROM outbox"
DONE = "SELECT sum(audience) > 0 AND sum(delivered) = sum(audience) FROM campaign_accounts WHERE campaign_id = $1"


@dataclass(frozen=True, slots=True)
class Cost:
    """What was used up to a moment, by name; the difference of two moments is what a round costs."""

    used: Mapping[str, float]

    def __sub__(self, before: "Cost") -> "Cost":
        return Cost({name: used - before.used[name] for name, used in self.used.items()})

    def each(self, many: int) -> dict[str, float]:
        return {name: used / many for name, used in self.used.items()}


@dataclass(frozen=True)
class Whole:
    ground: Ground
    client: httpx.AsyncClient
    admin: asyncpg.Connection
    operator: str
    servers: dict[str, Server] = field(default_factory=dict)
    databases: dict[str, asyncpg.Connection] = field(default_factory=dict)

    async def cost(self) -> Cost:
        for connection in self.databases.values():
            await connection.execute("SELECT pg_stat_force_next_flush()")
        names = [await connection.fetchval("SELECT current_database()") for connection in self.databases.values()]
        wal, statements, transactions = await self.admin.fetchrow(SERVER, names)
        services = {f"µs of {name}": _cpu_s(server.pid) * 1e6 for name, server in self.servers.items()}
        used: dict[str, float] = {
            **services,
            "µs of the services": sum(services.values()),
            "µs of PostgreSQL": _family_s(self.ground.postgres.pid) * 1e6,
            "µs of the broker": growth.used()["broker"][0] * 1e6,
            "statements": statements,
            "transactions": transactions,
            "bytes of WAL": wal,
        }
        for name, connection in self.databases.items():
            used[f"rows of {name}"] = sum(map(int, await connection.fetchrow(ROWS)))
        records, weight = await in_kafka(self.ground.bootstrap)
        return Cost(used | {"records": records, "bytes in Kafka": weight})

    async def by_relation(self, since: str, many: int) -> list[tuple[str, float, float]]:
        """Return the relations with the most WAL since then: bytes a message, and bytes of page images."""
        until = await self.admin.fetchval(NOW)
        rows = await self.admin.fetch(RELATIONS, since, until, list(self.databases))
        found = []
        for database, node, data, images in rows:
            name = await self.databases[database].fetchval(NAMED, node)
            found.append((f"{database}.{name}", float(data) / many, float(images) / many))
        return sorted(found, key=lambda each: -each[1])[:MOST]

    async def round(self, many: int) -> tuple[Cost, float]:
        """Send a campaign to all; return what it cost, and the seconds."""
        before, started = await self.cost(), time.perf_counter()
        body = {"sender_id": SENDER["sender_id"], "name": "Banc", "purpose": PURPOSE, "text": TEXT}
        written = await self.client.post("/v1/campaigns", json=body | {"audience": {"all": True}})
        campaign_id = written.raise_for_status().json()["campaign_id"]
        (await self.client.post(f"/v1/campaigns/{campaign_id}/schedule")).raise_for_status()
        async with asyncio.timeout(WITHIN_S):
            while not await self.databases["campaign"].fetchval(DONE, campaign_id):  # noqa: ASYNC110  (other processes)
                await asyncio.sleep(LOOK_EVERY_S)
            took = time.perf_counter() - started
            while any([await each.fetchval(WAITING) for each in self.databases.values()]):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY_S)
        return await self.cost() - before, took


async def run(ground: Ground) -> None:
    many = MESSAGES_A_ROUND * ground.asked.size
    async with standing(ground, many) as whole:
        print(f"### A campaign to {many:,}, schedule to last DLR, two DLRs a message. {machine()}\n", flush=True)
        for a_callback in (DLRS_A_CALLBACK, 1):
            async with operator(whole, a_callback):
                since = await whole.admin.fetchval(NOW)
                rounds = [await whole.round(many) for _ in range(ground.asked.rounds)]
            _report(a_callback, many, rounds)
            for name, data, images in await whole.by_relation(since, many * ground.asked.rounds):
                print(f"| WAL of {name} | {data:,.0f} | {images:,.0f} |")
            print(flush=True)


@asynccontextmanager
async def standing(ground: Ground, many: int, hours: str = "", *, apart: bool = False) -> AsyncIterator[Whole]:
    """Start the four services, and store so many people who have opted in.

    `hours`: PLACET_HOURS instead of the ground's. `apart`: dispatch-svc takes opt-outs and codes in a process of their
    own, as deployed.
    """
    admin = await asyncpg.connect(ground.postgres.admin_dsn)
    for extension in POSTGRES["shared_preload_libraries"], "pg_walinspect":
        await admin.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
    bearer = {"Authorization": f"Bearer {ground.environment.token()}"}
    async with httpx.AsyncClient(base_url=ground.environment.urls["campaign"], headers=bearer, timeout=60) as client:
        whole = Whole(ground, client, admin, free_url())
        await _serve(whole, hours, apart=apart)
        await _people(whole, many)
        yield whole
        for connection in (admin, *whole.databases.values()):
            await connection.close()


@asynccontextmanager
async def operator(
    whole: Whole, a_callback: int | str, *order: str, latency_ms: float = LATENCY_MS
) -> AsyncIterator[None]:
    """Run the operator, which tells so many DLRs a callback. `order`: of the DLRs, as the operator reads it."""
    url = f"{whole.ground.environment.urls['inbound']}/v1/callbacks/simulator/main/receipts"
    arguments = (whole.operator.rpartition(":")[2], str(latency_ms), url, str(a_callback), *order)
    secret = os.environ | {"SECRET": whole.ground.environment.simulator_secret}
    command = [sys.executable, "-m", "bench.fast_operator", *arguments]
    await whole.ground.server("operator", command, whole.operator, secret)
    try:
        yield
    finally:
        await whole.ground.supervisor.retire("operator")


async def _serve(whole: Whole, hours: str, *, apart: bool) -> None:
    for name in ("consent", "inbound", "campaign", "dispatch"):
        more = {"PLACET_HOURS": hours} if hours and name != "inbound" else {}
        if name == "dispatch":
            more["PLACET_GATEWAY_URL"] = whole.operator
            more |= {} if apart else {"PLACET_ROLES": "all"}
        if name == "dispatch" and apart:
            projection = await whole.ground.service(name, called="projection", **more, PLACET_ROLES="projection")
            whole.servers["dispatch-svc, projection"] = projection
        whole.servers[f"{name}-svc"] = await whole.ground.service(name, **more)
        whole.databases[name] = await asyncpg.connect(await whole.ground.database(name))
    url = f"{whole.ground.environment.urls['consent']}/v1/senders"
    (await whole.client.post(url, json=SENDER)).raise_for_status()
    async with asyncio.timeout(WITHIN_S):
        for name in ("campaign", "dispatch"):
            while not await whole.databases[name].fetchval("SELECT count(*) FROM sender"):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY_S)


async def _people(whole: Whole, many: int) -> None:
    """Store the people, their consents and their contacts, as the services' events would."""
    told = Consent(
        sender_id=str(SENDER["sender_id"]),
        purpose=PURPOSE,
        state="opted_in",
        basis="opt_in",
        occurred_at=datetime.now(UTC) - timedelta(days=9),
        evidence_id=str(uuid4()),
        expires_at=datetime.now(UTC) + timedelta(days=900),
    )
    standing, consents = (msgspec.json.encode(each).decode() for each in (Standing(consents=(told,)), (told,)))
    now, people = datetime.now(UTC), list(_sealed(whole.ground, many))
    campaign, dispatch = whole.databases["campaign"], whole.databases["dispatch"]
    await campaign.copy_records_to_table(
        "contact",
        records=[(SENDER["sender_id"], who, number, "{}", "FR", now, now) for who, number in people],
        columns=("sender_id", "subject_id", "number", "attributes", "territory", "created_at", "updated_at"),
    )
    await campaign.copy_records_to_table(
        "standing", records=[(who, 1, standing) for who, _ in people], columns=("subject_id", "version", "told")
    )
    await dispatch.copy_records_to_table(
        "subject",
        records=[(who, 1, consents, "[]", False) for who, _ in people],
        columns=("subject_id", "version", "consents", "suppressions", "erased"),
    )
    for connection in (campaign, dispatch):
        await connection.execute("VACUUM ANALYZE")


def _sealed(ground: Ground, many: int) -> Iterator[tuple[str, str]]:
    """Yield subject id and encrypted number."""
    subjects = SubjectKeys(SubjectRingSettings.model_validate_json(ground.environment.subject_keys))
    fields = FieldKeys(KeyRingSettings.model_validate_json(ground.environment.field_keys), subjects)
    for n in range(many):
        number = f"+336{FIRST + n:08d}"
        subject_id = subjects.subject_id(number)
        yield subject_id, fields.seal(number, f"number:{subject_id}")


def _report(a_callback: int, many: int, rounds: list[tuple[Cost, float]]) -> None:
    """Print the cheapest of each cost, and the median rate."""
    rates = sorted(many / took for _, took in rounds)
    print(f"| a message, {a_callback} DLRs a callback, {rates[len(rates) // 2]:,.0f} messages/s | |\n|---|---:|")
    costs = [cost.each(many) for cost, _ in rounds]
    for name in costs[0]:
        least = min(cost[name] for cost in costs)
        print(f"| {name} | {least:,.{0 if least >= 100 else 2}f} |", flush=True)
    print(flush=True)


async def in_kafka(bootstrap: str) -> tuple[int, int]:
    """Return how many records all topics hold, and their bytes: keys, values, headers."""
    found: Counter[str] = Counter()
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        there = await consumer.topics()
        left = {TopicPartition(t.name, p) for t in TOPICS if t.name in there for p in range(PARTITIONS)}
        consumer.assign(left)
        for where in left:
            consumer.seek(where, 0)
        while left:
            for records in (await consumer.getmany(timeout_ms=100, max_records=50_000)).values():
                for record in records:
                    headers = sum(len(name) + len(value) for name, value in record.headers)
                    found["bytes"] += len(record.key or b"") + len(record.value or b"") + headers
                found["records"] += len(records)
            for where in list(left):
                end = consumer.highwater(where)
                if end is not None and await consumer.position(where) >= end:
                    left.discard(where)
    return found["records"], found["bytes"]


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process, with that of its ended children."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])) / TICKS


def _family_s(pid: int) -> float:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _cpu_s(pid) + sum(_cpu_s(int(child)) for child in children if Path(f"/proc/{child}").exists())
