"""Define each fault: how it is injected and ended.

`inflict` returns once its fault is over: then the recovery begins.
"""

import asyncio
import random
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from chaos import failover, foreign, logs
from chaos.checks import Violation
from chaos.schedule import Planned, Possible
from chaos.system import CLOCK_JUMP_S, DISK_BYTES, POSTGRES, WORKER, System
from common.contracts import TOPICS, Watermark
from stack.environment import PARTITIONS, SERVICES
from stack.kafka import Kafka

ALL_BROKERS = "all brokers"
OPERATOR, CALLBACKS = "dispatch to the operator", "the operator to us"
OPERATORS_CLOCK = "the operator"
OPERATOR_LASTS = 4  # times as long as another clock's jump, for STOPs to come meanwhile
CLOCK_CACHED = timedelta(seconds=1)  # a process goes on with its old clock
OPERATOR_JUMP_S = 150  # a STOP then seems older than half of the consents
SLOW_S = (0.02, 0.3)  # each way
LOSING = ("log cut", "log cut unseen", "unclean election", "topic anew")
OLD_STATES = ("replay", *LOSING)  # then the last state in the log need not be the newest
POISON = (b"\xff\xfe not JSON", b'{"subject_id": 7}', b"", b"[]")
POISON_RECORDS = 4  # more than 25 in a row end a process, on purpose
STORM_TURNS = 3
SPARE_BYTES = (4096, 1 << 16, 1 << 18, 1 << 20, 1 << 22)  # for bytes written since the look
REPLAYED = 50  # of the first records of each partition
FIRST, WATERMARKS = 200, 5  # per read of a partition
READS, READ_MS = 6, 200

# topics whose readers bury a record without a subject; a state has its subject denied
POISONED = (
    "consent.states.v1",
    "inbound.messages.v1",
    "inbound.receipts.v1",
    "campaign.requests.v1",
    "dispatch.messages.v1",
)


Way = Callable[[System, str, float, random.Random], Awaitable[list[Violation] | None]]


def possible(system: System) -> list[Possible]:
    """Return every fault possible on this system and machine."""
    names = sorted(system.health)
    found = [Possible("kill", name) for name in names] + [Possible("kill", POSTGRES)]
    found += [Possible("freeze", name) for name in names if not name.endswith("-api")]
    for name in sorted(system.wires):
        if name not in (OPERATOR, CALLBACKS):
            found += [Possible(kind, name) for kind in ("cut", "silence", "slow")]
    found += [Possible(kind, OPERATOR) for kind in ("cut", "answers lost", "garbage", "drips")]
    found += [Possible("answers lost", CALLBACKS)]
    found += [Possible(kind, "the topics") for kind in ("replay", "poison")]
    found += [Possible("rolling restart", "with migrations")]
    if system.disk is not None:
        found.append(Possible("disk full", POSTGRES))
    for clock in (*system.clocks, OPERATORS_CLOCK):
        found += [Possible(kind, clock) for kind in ("clock ahead", "clock behind")]
    found += [Possible("failover", f"{service}'s database") for service in SERVICES]
    found += [Possible("two relays", service) for service in SERVICES]
    found += [Possible("topic anew", topic) for topic in logs.WATERMARKED]
    found += [Possible(kind, "our topics") for kind in ("unknown types", "compressed")]
    if system.brokers:
        found.append(Possible("rebalance storm", f"dispatch-{WORKER}"))
        found.append(Possible("aborted", "our topics"))
        found += [Possible(kind, topic) for kind in ("log cut", "log cut unseen") for topic in logs.WATERMARKED]
    if system.brokers == 3:
        brokers = [f"broker-{n}" for n in (1, 2, 3)]
        found += [Possible(kind, broker) for broker in brokers for kind in ("kill", "freeze")]
        found += [Possible("unclean election", topic) for topic in logs.WATERMARKED]
    if system.brokers:
        found.append(Possible("kill", ALL_BROKERS))
    return found


def left_out(system: System) -> list[str]:
    """Return the impossible faults, with the reasons."""
    told = []
    if system.disk is None:
        told.append("disk full: only root can give Postgres a small disk")
    if not system.clocks:
        told.append("clock jumps: not asked for, or there is no libfaketime")
    if not system.brokers:
        told.append(
            "brokers killed, rebalances, logs cut, aborted transactions: the local stack's broker keeps its log in"
            " memory, is alone and has no transactions"
        )
    if system.brokers != 3:
        told.append("an unclean election: it takes three brokers")
    return told


async def inflict(system: System, planned: Planned) -> list[Violation]:
    """Inject a fault, and take it back; return the violations found meanwhile."""
    chance = random.Random(planned.chance)
    system.foreign = system.foreign or planned.kind in OLD_STATES
    system.lost_records = system.lost_records or planned.kind in LOSING
    return await _WAYS[planned.kind](system, planned.target, planned.lasts_s, chance) or []


async def _kill(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
    if target == POSTGRES:
        await asyncio.to_thread(system.postgres.kill)
        await asyncio.sleep(lasts_s)
        await asyncio.to_thread(system.postgres.resume)
    elif target == ALL_BROKERS or target.startswith("broker-"):
        assert isinstance(system.broker, Kafka)
        numbers = range(1, system.brokers + 1) if target == ALL_BROKERS else [int(target.removeprefix("broker-"))]
        for number in numbers:
            await asyncio.to_thread(system.broker.kill, number)
        await asyncio.sleep(lasts_s)
        for number in numbers:
            await asyncio.to_thread(system.broker.launch, number)
        for number in numbers:
            await asyncio.to_thread(system.broker.wait, number)
    else:
        await asyncio.to_thread(system.supervisor.kill, target)
        await asyncio.sleep(lasts_s)
        await system.supervisor.restart(target)


async def _freeze(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
    """Freeze a process: a zombie wakes in the middle of its work, and other processes have gone on."""
    system.signal(target, signal.SIGSTOP)
    try:
        await asyncio.sleep(lasts_s)
    finally:
        system.signal(target, signal.SIGCONT)


def _wire(state: str) -> Way:
    async def hurt(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
        delay_s = chance.uniform(*SLOW_S) if state == "slow" else 0.0
        for wire in system.wires[target]:
            wire.become(state, delay_s)  # type: ignore[arg-type]  # a wire's state
        try:
            await asyncio.sleep(lasts_s)
        finally:
            for wire in system.wires[target]:
                wire.heal()

    return hurt


async def _disk_full(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
    """Fill the disk; restart a Postgres that gives up, as a platform would."""
    assert system.disk is not None
    for spare in SPARE_BYTES:
        used = (await asyncio.to_thread(shutil.disk_usage, system.disk)).used
        if await _resize(system, used + spare):
            break
    else:
        raise RuntimeError("the disk grew faster than it could be made small")
    try:
        await asyncio.sleep(lasts_s)
    finally:
        assert await _resize(system, DISK_BYTES)
    if not system.postgres.running:
        await asyncio.to_thread(system.postgres.resume)


async def _resize(system: System, size: int) -> bool:
    """Return False where the disk holds more already."""
    command = ["mount", "-o", f"remount,size={size}", str(system.disk)]
    return (await asyncio.to_thread(subprocess.run, command, capture_output=True)).returncode == 0


def _clock(direction: int) -> Way:
    async def jump(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
        if target == OPERATORS_CLOCK:
            await _operators_clock(system, direction * OPERATOR_JUMP_S)
            try:
                await asyncio.sleep(OPERATOR_LASTS * lasts_s)
            finally:
                await _operators_clock(system, 0)
            return
        began = datetime.now(UTC)
        if target == "dispatch":
            system.jumps.append((began, datetime.max.replace(tzinfo=UTC) - timedelta(days=1)))
        system.clocks[target].write_text(f"{direction * CLOCK_JUMP_S:+d}\n")
        try:
            await asyncio.sleep(lasts_s)
        finally:
            system.clocks[target].write_text("+0\n")
            if target == "dispatch":
                system.jumps[-1] = began, datetime.now(UTC) + CLOCK_CACHED

    return jump


async def _operators_clock(system: System, ahead_s: float) -> None:
    """Move the clock of the operator's callbacks; its log keeps the true time."""
    url = f"{system.environment.urls['simulator']}/control/behaviour"
    async with aiohttp.ClientSession() as http, http.post(url, json={"clock_s": ahead_s}) as answer:
        answer.raise_for_status()


async def _replay(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
    """Publish earlier records of every topic again, shuffled and twice, each in its partition.

    A reader that takes the last record for the newest returns to an old state.
    """
    consumer = AIOKafkaConsumer(bootstrap_servers=system.broker.bootstrap, enable_auto_commit=False)
    producer = AIOKafkaProducer(bootstrap_servers=system.broker.bootstrap, acks="all")
    await consumer.start()
    await producer.start()
    try:
        for topic in TOPICS:
            for place, said in (await _beginnings(consumer, topic.name)).items():
                again = chance.sample(said, min(REPLAYED, len(said)))
                for record in [*again, *reversed(again)]:
                    await producer.send(
                        place.topic,
                        value=record.value,
                        key=record.key,
                        headers=list(record.headers),
                        partition=place.partition,
                    )
        await producer.flush()
    finally:
        await producer.stop()
        await consumer.stop()


async def _beginnings(consumer: AIOKafkaConsumer, topic: str) -> dict[TopicPartition, list[Any]]:
    """Return the first records of each partition, with few watermarks."""
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    found: dict[TopicPartition, list[Any]] = {place: [] for place in places}
    for _ in range(READS):
        for place, records in (await consumer.getmany(*places, timeout_ms=READ_MS)).items():
            marks = [record for record in records if _is_watermark(record)]
            facts = [record for record in records if not _is_watermark(record)]
            found[place] += facts[:FIRST] + marks[:WATERMARKS]
    return found


def _is_watermark(record: Any) -> bool:
    return ("ce_type", Watermark.type.encode()) in record.headers


async def _poison(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
    """Write unreadable records, under keys of no subject."""
    producer = AIOKafkaProducer(bootstrap_servers=system.broker.bootstrap, acks="all")
    await producer.start()
    try:
        for topic in TOPICS:
            if topic.name in POISONED:
                for _ in range(POISON_RECORDS):
                    kind = next(iter(topic.events)).type
                    headers = [("ce_type", kind.encode()), ("ce_id", str(uuid4()).encode())]
                    value = chance.choice(POISON)
                    await producer.send(topic.name, value=value, key=f"nobody-{uuid4().hex}".encode(), headers=headers)
        await producer.flush()
    finally:
        await producer.stop()


async def _rolling_restart(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
    """Upgrade all services at once, to today's sources: the schema under the old processes, then each process."""
    system.earlier = None

    async def roll(service: str) -> None:
        await system.migrate(service)
        for name in sorted(name for name in system.health if name.startswith(f"{service}-")):
            await system.renew(name)

    await asyncio.gather(*(roll(service) for service in SERVICES))


async def _rebalance_storm(system: System, target: str, lasts_s: float, chance: random.Random) -> None:
    """Start and retire a third worker, again and again: each time all partitions are reassigned."""
    service, _, role = target.partition("-")
    for turn in range(STORM_TURNS):
        name = f"{target}-storm-{turn}"
        await system.start(name, service, role)
        await asyncio.sleep(chance.uniform(0.5, 2.0))
        await system.retire(name)


_WAYS: dict[str, Way] = {
    "kill": _kill,
    "freeze": _freeze,
    "cut": _wire("cut"),
    "silence": _wire("silent"),
    "slow": _wire("slow"),
    "answers lost": _wire("deaf"),
    "garbage": _wire("garbage"),
    "drips": _wire("drips"),
    "disk full": _disk_full,
    "clock ahead": _clock(1),
    "clock behind": _clock(-1),
    "failover": failover.failover,
    "two relays": failover.two_relays,
    "topic anew": logs.anew,
    "log cut": logs.cut,
    "log cut unseen": logs.cut_unseen,
    "unclean election": logs.unclean_election,
    "unknown types": foreign.unknown_types,
    "compressed": foreign.compressed,
    "aborted": foreign.aborted,
    "replay": _replay,
    "poison": _poison,
    "rolling restart": _rolling_restart,
    "rebalance storm": _rebalance_storm,
}
