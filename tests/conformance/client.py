"""The client that Placet uses, on topics of one test."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from tests.support.eventually import eventually

SESSION_MS = 6_000  # the least that Kafka takes
HEARTBEAT_MS = 500


@dataclass
class Client:
    """`topic` is made with one partition when entered."""

    bootstrap: str
    idempotent: bool
    topic: str
    admin: AIOKafkaAdminClient
    leaving: AsyncExitStack

    @property
    def tp(self) -> TopicPartition:
        return TopicPartition(self.topic, 0)

    async def make(self, topic: str, partitions: int = 1, replicas: int = 1, **config: str) -> None:
        """Make a topic, and return once the broker that is asked knows it. Raises what the broker says.

        `config` has underscores for dots. Kafka's controller answers before the brokers have heard of the topic: a
        request for its settings, its id or its partitions would find none.
        """
        told = {name.replace("_", "."): value for name, value in config.items()}
        answer = await self.admin.create_topics([NewTopic(topic, partitions, replicas, topic_configs=told)])
        for name, code, *_ in answer.topic_errors:
            if code:
                raise for_code(code)(name)

        async def known() -> bool:
            [found] = await self.admin.describe_topics([topic])
            return found["error_code"] == 0 and all(part["leader"] >= 0 for part in found["partitions"])

        await eventually(known)

    async def producer(self, **more: Any) -> AIOKafkaProducer:
        """As ours are (common.kafka.producer), unless told otherwise."""
        told = {"acks": "all", "enable_idempotence": self.idempotent, "request_timeout_ms": 30_000, **more}
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, **told)
        self.leaving.push_async_callback(producer.stop)
        await producer.start()
        return producer

    async def consumer(self, **more: Any) -> AIOKafkaConsumer:
        """Reads the topic's first partition from its beginning."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="none",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            **more,
        )
        self.leaving.push_async_callback(_stopped, consumer)
        await consumer.start()
        consumer.assign([self.tp])
        consumer.seek(self.tp, 0)
        return consumer

    async def member(self, group: str, **more: Any) -> AIOKafkaConsumer:
        """Of a consumer group over all partitions of the topic. It keeps its place only while somebody reads."""
        member = AIOKafkaConsumer(
            self.topic,
            bootstrap_servers=self.bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            fetch_max_wait_ms=50,
            **more,
        )
        self.leaving.push_async_callback(_stopped, member)
        await member.start()
        return member


async def _stopped(consumer: AIOKafkaConsumer) -> None:
    with suppress(asyncio.CancelledError):  # of a fetch that was failing when it was stopped
        await consumer.stop()


@asynccontextmanager
async def client_of(bootstrap: str, *, idempotent: bool, topic: str, replicas: int = 1) -> AsyncIterator[Client]:
    async with AsyncExitStack() as leaving:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        leaving.push_async_callback(admin.close)
        await admin.start()
        client = Client(bootstrap, idempotent, topic, admin, leaving)
        await client.make(topic, replicas=replicas)
        yield client


async def read(consumer: AIOKafkaConsumer, count: int) -> list[Any]:
    """The next `count` records of what it is assigned, in the order of their arrival."""
    found: list[Any] = []

    async def enough() -> bool:
        for batch in (await consumer.getmany(timeout_ms=50)).values():
            found.extend(batch)
        return len(found) >= count

    await eventually(enough)
    return found


async def share(members: Sequence[AIOKafkaConsumer], count: int) -> list[set[TopicPartition]]:
    """Who has which partitions, once all `count` are divided and nobody is without. All of them are read meanwhile."""

    async def divided() -> list[set[TopicPartition]]:
        for member in members:
            await member.getmany(timeout_ms=10)
        shares = [set(member.assignment()) for member in members]
        assert all(shares)
        assert sum(map(len, shares)) == len(set().union(*shares)) == count, shares
        return shares

    return await eventually(divided)
