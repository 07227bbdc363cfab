"""Inject losses of acknowledged records: logs cut while brokers are down, led by a lagging replica, or made anew.

Each fault ends as in docs/runbook.md: the topic's owner publishes the lost records again, and a person clears each
reader. Until then the system must hold marketing and say so, which the fault checks.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from chaos.checks import Violation, not_noticed
from chaos.segments import batches, cut_before, lost
from chaos.system import System
from chaos.watching import STALE_S
from common.contracts import INBOUND_MESSAGES, STATES, TOPICS
from stack.environment import PARTITIONS
from stack.kafka import Kafka

WATERMARKED = (STATES.name, INBOUND_MESSAGES.name)
READERS = {STATES.name: ("campaign", "dispatch"), INBOUND_MESSAGES.name: ("consent",)}
REPAIRED_WITHIN_S = 300.0  # each command starts a Python
FACTS_LOST = (1, 5)  # batches; in `cut_unseen`, records below the readers' places
FACTS_WITHIN_S = 60.0  # until there are facts to lose
NOTICED_WITHIN_S = 60.0
GROWS_WITHIN_S = 90.0
MADE_WITHIN_S = 30.0
LED_WITHIN_S = 30.0
LOOK_EVERY_S = 0.5
STOOD_FOR_S = 1.0
# files that a broker rebuilds from its segments
WORKED_OUT = ("*.index", "*.timeindex", "*.txnindex", "*.snapshot")
CHECKPOINTS = ("recovery-point-offset-checkpoint", "replication-offset-checkpoint", ".kafka_cleanshutdown")


async def cut(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """Cut the log, as a power loss under all brokers would: unwritten bytes are gone."""
    kafka, numbers = _brokers(system)
    partition = await _partition_with_facts(system, target, facts := chance.randint(*FACTS_LOST))
    await _kill(kafka, numbers)
    _cut(kafka, numbers, target, partition, facts)
    stood = await _stood(system, target, partition)
    await _launch(kafka, numbers)
    return await _held_until_repaired(system, "log cut", target, lasts_s, partition, stood)


async def cut_unseen(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """Cut a log, and start readers only once it has grown past their places: its end tells nothing.

    The cut begins below the readers' places, and loses facts that they have not read.
    """
    kafka, numbers = _brokers(system)
    await _partition_with_facts(system, target, FACTS_LOST[1])
    readers = _readers(system, target)
    for name in readers:
        await asyncio.to_thread(system.supervisor.kill, name)
    began = {n: await _end(system, target, n) for n in range(PARTITIONS)}
    partition = await _grown_with_facts(system, target, began)
    ended = await _end(system, target, partition)
    await _kill(kafka, numbers)
    end = max(began[partition] - chance.randint(*FACTS_LOST), 0)
    for number in numbers:
        _cut_to(kafka, number, target, partition, end)
    stood = await _stood(system, target, partition)
    await _launch(kafka, numbers)
    await _grown_past(system, target, partition, ended)
    await asyncio.gather(*(system.supervisor.restart(name) for name in readers))
    return await _held_until_repaired(system, "log cut unseen", target, lasts_s, partition, stood)


async def unclean_election(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """Elect a leader without the acknowledged records.

    A broker is away during the records; then the two others die, and one returns with a disk as old as the first's. The
    topic lets a lagging replica lead. The third broker returns last, and follows.
    """
    kafka, numbers = _brokers(system)
    await _configure(system, target, {"unclean.leader.election.enable": "true"})
    try:
        away, second, third = chance.sample(numbers, 3)
        await _kill(kafka, [away])
        began = {n: await _led(system, target, n) for n in range(PARTITIONS)}
        partition = await _grown_with_facts(system, target, began)
        await _kill(kafka, [second, third])
        _cut_to(kafka, second, target, partition, _ends_at(kafka, away, target, partition))
        stood = await _stood(system, target, partition)
        await _launch(kafka, [away, second])
        await _led(system, target, partition)
        await _launch(kafka, [third])
    finally:  # before a reader is restarted: a service starts on no topic that may lose records
        await _configure(system, target, {"unclean.leader.election.enable": "false"})
    return await _held_until_repaired(system, "unclean election", target, lasts_s, partition, stood)


async def anew(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """Delete a topic, and create it again with its settings."""
    if system.brokers:
        await _partition_with_facts(system, target, 1)
    topic = next(topic for topic in TOPICS if topic.name == target)
    replicas = max(system.brokers, 1)
    config = topic.config | {"min.insync.replicas": str(max(replicas - 1, 1))}
    admin = AIOKafkaAdminClient(bootstrap_servers=system.broker.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([target])
        deadline = time.monotonic() + MADE_WITHIN_S
        while True:  # a broker deletes in its own time
            answer = await admin.create_topics([NewTopic(target, PARTITIONS, replicas, topic_configs=config)])
            ((_, code, *_),) = answer.topic_errors
            if not code:
                break
            if time.monotonic() > deadline:
                raise for_code(code)(f"creating {target}")
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await admin.close()
    return await _held_until_repaired(system, "topic anew", target, lasts_s)


async def _held_until_repaired(
    system: System,
    kind: str,
    topic: str,
    lasts_s: float,
    partition: int | None = None,
    stood: list[tuple[int, int]] | None = None,
) -> list[Violation]:
    """Wait until the loss is noticed, check it for `lasts_s` and over a reader's restart, then repair.

    `stood`: the readers' places when `partition` lost its tail; readers that had read all of the tail, and find all
    later records, have nothing to notice.
    """
    deadline, red = time.monotonic() + NOTICED_WITHIN_S, list[str]()
    while not red and time.monotonic() < deadline:
        red = [why for why in await system.unready() if topic in why]
        await asyncio.sleep(LOOK_EVERY_S)
    held, restarted = bool(red), False
    await asyncio.sleep(STALE_S + LOOK_EVERY_S if red else 0)  # consent data was fresh until then
    until = time.monotonic() + lasts_s
    while red and (time.monotonic() < until or not restarted):
        age = await system.consent_age_s()
        held = held and (age is None or age > STALE_S)
        if not restarted and time.monotonic() > until - lasts_s / 2:
            restarted = True
            await system.supervisor.restart(_readers(system, topic)[0])
        await asyncio.sleep(LOOK_EVERY_S)
    if red:
        red = [why for why in await system.unready() if topic in why]
    log = b"" if partition is None else _segment(_brokers(system)[0], 1, topic, partition).read_bytes()
    harmed = stood is None or any(lost(log, *place) for place in stood)
    found = not_noticed(kind, topic, red, held) if harmed else []
    try:
        await repair(system, topic)
    except RuntimeError as error:
        found.append(Violation(10, "not repaired", f"{topic}: {error}"))
    return found


async def repair(system: System, topic: str) -> None:
    """Repair a topic as in docs/runbook.md (LogBroken). Raises RuntimeError.

    For consent.states.v1 the owner publishes the broken partitions again; for inbound.messages.v1 the operator's list
    of opt-outs is sent. Then a person clears the readers; faults found meanwhile are repaired too. The repair ends once
    each reader has applied a watermark of after its beginning, and after the reader's own clearing: no reader does so
    over a loss.
    """
    deadline, began = time.monotonic() + REPAIRED_WITHIN_S, datetime.now(UTC)
    while not all([await reads_on(system, service, topic, began) for service in READERS[topic]]):
        broken = {service: await _broken(system, service, topic) for service in READERS[topic]}
        places = [place for each in broken.values() for place in each]
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(places)} partitions stay broken, and a reader's watermarks do not go on")
        if not places:
            await asyncio.sleep(LOOK_EVERY_S)
            continue
        if topic == STATES.name:
            await system.command("consent", "republish", "--partition", *partitions_of(places))
        elif system.callers is not None:
            await system.callers.reconcile(operators_list(system))
        for service, each in broken.items():
            if each:
                with contextlib.suppress(RuntimeError):  # more was found since, and is listed anew
                    await system.command(service, "log", "clear", *each)


def operators_list(system: System) -> dict[str, list[str]]:
    """Return the numbers with an acknowledged STOP, by STOP code, from the operator's log."""
    facts = [msgspec.json.decode(line) for line in system.simulator_log.read_bytes().split(b"\n")[:-1]]
    acknowledged = {fact["id"] for fact in facts if fact["kind"] == "reply_acknowledged"}
    stopped: dict[str, list[str]] = {}
    for fact in facts:
        if fact["kind"] == "reply" and fact["id"] in acknowledged:
            stopped.setdefault(fact["to"], []).append(fact["from"])
    return stopped


async def _broken(system: System, service: str, topic: str) -> list[str]:
    """Return the broken places: "<group>:<topic>/<partition>@<offset>"."""
    lines = (await system.command(service, "log", "list")).splitlines()
    return [place for place in (line.partition("\t")[0] for line in lines) if f":{topic}/" in place]


def partitions_of(places: Collection[str]) -> list[str]:
    """Return the partitions of places of one topic, in order."""
    return sorted({place.partition("/")[2].partition("@")[0] for place in places})


async def reads_on(system: System, service: str, topic: str, since: datetime) -> bool:
    """Return whether each partition's last watermark applied is newer than `since` and than the last clearing."""
    sql = await asyncpg.connect(system.databases[service])
    try:
        fresh = "coalesce(fault IS NULL AND as_of > greatest(cleared_at, $2), false)"
        return bool(await sql.fetchval(f"SELECT bool_and({fresh}) FROM consumer_offset WHERE topic = $1", topic, since))
    finally:
        await sql.close()


def _readers(system: System, topic: str) -> list[str]:
    """Return the processes that read a topic."""
    roles = {"campaign": "worker", "consent": "worker", "dispatch": "projection"}
    wanted = [f"{service}-{roles[service]}" for service in READERS[topic]]
    return [name for name in system.health if any(name == each or name == f"{each}-2" for each in wanted)]


def _brokers(system: System) -> tuple[Kafka, list[int]]:
    assert isinstance(system.broker, Kafka)
    return system.broker, list(range(1, system.brokers + 1))


async def _stood(system: System, topic: str, partition: int) -> list[tuple[int, int]]:
    """Return `next_offset` and `last_number` of each reader, once fetched records are stored."""
    stood = list[tuple[int, int]]()
    while True:
        before, stood = stood, []
        for service in READERS[topic]:
            sql = await asyncpg.connect(system.databases[service])
            try:
                rows = await sql.fetch(
                    "SELECT next_offset, last_number FROM consumer_offset WHERE topic = $1 AND partition = $2",
                    topic,
                    partition,
                )
            finally:
                await sql.close()
            stood += [(row["next_offset"], row["last_number"]) for row in rows]
        if stood == before:
            return stood
        await asyncio.sleep(STOOD_FOR_S)


async def _kill(kafka: Kafka, numbers: list[int]) -> None:
    for number in numbers:
        await asyncio.to_thread(kafka.kill, number)


async def _launch(kafka: Kafka, numbers: list[int]) -> None:
    for number in numbers:
        await asyncio.to_thread(kafka.launch, number)
    for number in numbers:
        await asyncio.to_thread(kafka.wait, number)


def _segment(kafka: Kafka, number: int, topic: str, partition: int) -> Path:
    """Return the last segment."""
    return max((kafka.data(number) / f"{topic}-{partition}").glob("*.log"))


async def _partition_with_facts(system: System, topic: str, facts: int) -> int:
    """Wait until a partition has `facts` to lose; return the partition with the newest."""
    kafka, _ = _brokers(system)
    deadline = time.monotonic() + FACTS_WITHIN_S
    while True:
        newest: dict[int, int] = {}
        for partition in range(PARTITIONS):
            log = _segment(kafka, 1, topic, partition).read_bytes()
            if (found := cut_before(log, facts)) is not None:
                newest[partition] = len(log) - found.at
        if newest:
            return min(newest, key=newest.__getitem__)
        if time.monotonic() > deadline:
            raise RuntimeError(f"{topic} has nothing that could be lost")
        await asyncio.sleep(LOOK_EVERY_S)


def _cut(kafka: Kafka, numbers: list[int], topic: str, partition: int, facts: int) -> None:
    """Cut every replica at the same offset; batches are the same on all."""
    lost = cut_before(_segment(kafka, numbers[0], topic, partition).read_bytes(), facts)
    assert lost is not None, "it had been seen"
    for number in numbers:
        _cut_to(kafka, number, topic, partition, lost.first)


def _cut_to(kafka: Kafka, number: int, topic: str, partition: int, end: int) -> None:
    """Make `end` the next offset of a replica's log, for the broker's start."""
    segment = _segment(kafka, number, topic, partition)
    log = segment.read_bytes()
    keep = next((batch.at for batch in batches(log) if batch.first >= end), len(log))
    with segment.open("r+b") as file:
        file.truncate(keep)
    for pattern in WORKED_OUT:
        for file_ in segment.parent.glob(pattern):
            file_.unlink()
    for name in CHECKPOINTS:
        (kafka.data(number) / name).unlink(missing_ok=True)


def _ends_at(kafka: Kafka, number: int, topic: str, partition: int) -> int:
    log = _segment(kafka, number, topic, partition).read_bytes()
    return max((batch.last + 1 for batch in batches(log)), default=0)


async def _end(system: System, topic: str, partition: int) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=system.broker.bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        place = TopicPartition(topic, partition)
        return int((await consumer.end_offsets([place]))[place])
    finally:
        await consumer.stop()


async def _grown_past(system: System, topic: str, partition: int, end: int) -> None:
    deadline = time.monotonic() + GROWS_WITHIN_S
    while await _end_or_none(system, topic, partition) <= end:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{topic} {partition} has not grown past {end}: it tells nothing new")
        await asyncio.sleep(LOOK_EVERY_S)


async def _end_or_none(system: System, topic: str, partition: int) -> int:
    """Return the end, or -1 without a leader."""
    try:
        return await _end(system, topic, partition)
    except KafkaError:
        return -1


async def _led(system: System, topic: str, partition: int) -> int:
    """Return the end, once the partition has a leader."""
    deadline = time.monotonic() + LED_WITHIN_S
    while (end := await _end_or_none(system, topic, partition)) < 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{topic} {partition} has no leader")
        await asyncio.sleep(LOOK_EVERY_S)
    return end


async def _grown_with_facts(system: System, topic: str, began: dict[int, int]) -> int:
    """Return a partition with facts written since `began`, on two replicas at least."""
    kafka, numbers = _brokers(system)
    if topic == INBOUND_MESSAGES.name and system.callers is not None:
        await system.callers.stop()  # without its reader, marketing is held, and nobody has a reason to reply
    deadline = time.monotonic() + FACTS_WITHIN_S
    while time.monotonic() < deadline:
        for partition, at in began.items():
            logs = [_segment(kafka, n, topic, partition).read_bytes() for n in numbers]
            fresh = [{batch.first for batch in batches(log) if batch.fact and batch.first >= at} for log in logs]
            if sum(bool(each) for each in fresh) >= 2:
                return partition
        await asyncio.sleep(LOOK_EVERY_S)
    raise RuntimeError(f"{topic}: nothing was written while a broker was away")


async def _configure(system: System, topic: str, config: dict[str, str]) -> None:
    """Configure a topic; its other settings are repeated, as aiokafka replaces all."""
    described = next(each for each in TOPICS if each.name == topic)
    kept = described.config | {"min.insync.replicas": str(max(system.brokers - 1, 1))}
    admin = AIOKafkaAdminClient(bootstrap_servers=system.broker.bootstrap)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=kept | config)])
    finally:
        await admin.close()
