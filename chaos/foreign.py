"""Write foreign records to our topics: unknown types, no headers, each codec, aborted transactions.

No key is a subject's.
"""

import asyncio
import random
import time
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest

from chaos.checks import Violation, stepped_over
from chaos.segments import CODECS, Codec, packed
from chaos.system import System
from common.contracts import INBOUND_MESSAGES, STATES, Topic
from stack.environment import PARTITIONS

UNKNOWN_TYPE = b"somebody.wrote_this.v1"
VALUE = b'{"subject_id": "nobody", "text": "' + b"x" * 3000 + b'"}'  # longer than an element of each codec
OF_EACH = 4  # in a row fewer than end a reader
BURIED_WITHIN_S = 30.0
LOOK_EVERY_S = 0.5
REQUEST_MS = 10_000
# readers that bury unreadable records
READERS = {STATES: ("campaign", "dispatch"), INBOUND_MESSAGES: ("consent",)}
BURIED = "SELECT count(*) FROM dead_letter WHERE topic = $1"


async def unknown_types(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """Write records of an unknown type or without headers; each reader must bury each record."""
    found: list[Violation] = []
    for topic, readers in READERS.items():
        before = {service: await _buried(system, service, topic) for service in readers}
        producer = AIOKafkaProducer(bootstrap_servers=system.broker.bootstrap, acks="all")
        await producer.start()
        try:
            for n in range(2 * OF_EACH):
                headers = [("ce_type", UNKNOWN_TYPE), ("ce_id", str(uuid4()).encode())] if n % 2 else []
                await producer.send_and_wait(
                    topic.name, VALUE, key=_nobody(), headers=headers, partition=n % PARTITIONS
                )
        finally:
            await producer.stop()
        for service in readers:
            found += await _all_buried(system, service, topic, before[service], 2 * OF_EACH)
    return found


async def compressed(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """Write each codec once to each partition; readers must read the records behind."""
    producer = AIOKafkaProducer(bootstrap_servers=system.broker.bootstrap, acks="all")
    await producer.start()
    try:
        for topic in READERS:
            for number in range(PARTITIONS):
                await producer.partitions_for(topic.name)
                for codec in chance.sample(CODECS, len(CODECS)):
                    await _write(producer, topic, number, codec)
    finally:
        await producer.stop()
    return []


async def aborted(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """Abort transactions after a while; no reader may apply their records."""
    producer = AIOKafkaProducer(bootstrap_servers=system.broker.bootstrap, transactional_id=f"somebody-{uuid4().hex}")
    await producer.start()
    try:
        for topic in READERS:
            await producer.begin_transaction()
            for number in range(PARTITIONS):
                headers = [("ce_type", UNKNOWN_TYPE), ("ce_id", str(uuid4()).encode())]
                await producer.send_and_wait(topic.name, VALUE, key=_nobody(), headers=headers, partition=number)
            await asyncio.sleep(lasts_s / len(READERS))
            await producer.abort_transaction()
    finally:
        await producer.stop()
    return []


async def _write(producer: AIOKafkaProducer, topic: Topic, partition: int, codec: Codec) -> None:
    """Write a batch as it is: our producer may lack the codec."""
    kind = next(iter(topic.events)).type.encode()
    batch = packed(_nobody(), VALUE, [("ce_type", kind), ("ce_id", str(uuid4()).encode())], codec)
    leader = producer.client.cluster.leader_for_partition(TopicPartition(topic.name, partition))
    request = ProduceRequest(None, -1, REQUEST_MS, [(topic.name, [(partition, batch)])])
    answer = await producer.client.send(leader, request)
    ((_, ((_, code, *_),)),) = answer.topics
    if code:
        raise for_code(code)(f"{codec} to {topic.name}")


def _nobody() -> bytes:
    return f"nobody-{uuid4().hex}".encode()


async def _all_buried(system: System, service: str, topic: Topic, before: int, written: int) -> list[Violation]:
    deadline = time.monotonic() + BURIED_WITHIN_S
    while True:
        buried = await _buried(system, service, topic) - before
        if buried >= written or time.monotonic() > deadline:
            return stepped_over(f"{topic.name}, by {service}-svc", written, buried)
        await asyncio.sleep(LOOK_EVERY_S)


async def _buried(system: System, service: str, topic: Topic) -> int:
    sql = await asyncpg.connect(system.databases[service])
    try:
        return int(await sql.fetchval(BURIED, topic.name))
    finally:
        await sql.close()
