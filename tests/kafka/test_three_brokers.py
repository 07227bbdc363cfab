"""Apache Kafka with three brokers, one or two of which are killed: what was acknowledged is there, once; nothing is
acknowledged that one more loss would take; and relay and consumer go on by themselves.

Each of the three is a controller too, so two that are gone are also no majority: nobody is left to choose a leader."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.kafka import broker as kafka
from stack.kafka import SHORT_LIVED, Kafka, fetch
from tests.service.common.pipeline import Pipeline, going, pipeline, states_of
from tests.support.eventually import eventually
from tests.support.infrastructure import Broker, Postgres
from tests.support.running import Surroundings

SUBJECT = f"t1-{1:032x}"
HEADERS = [("ce_type", ConsentStateChanged.type.encode())]
WITHIN_S = 120.0  # three JVMs, and a machine that has other work
PATIENCE_S = 5.0  # in which nothing may be acknowledged
# A broker that is gone is missed after 6 s instead of 9: no sooner, since one that waits for its turn on a busy machine
# would be taken for gone as well. By themselves they would let one replica acknowledge.
IMPATIENT = {
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "500",
    "min.insync.replicas": "1",
}

pytestmark = pytest.mark.timeout(480)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    cluster = Kafka(tmp_path_factory.mktemp("kafka"), fetch(), brokers=3, more=IMPATIENT, jvm=SHORT_LIVED).start()
    yield cluster
    cluster.stop()


@pytest.fixture
async def surroundings(cluster: Kafka, postgres: Postgres, unique: str) -> AsyncIterator[Surroundings]:
    yield Surroundings(postgres, Broker(cluster.bootstrap, idempotent=True, groups=True, replicas=3), unique)
    await postgres.drop()


async def leader_of(pipe: Pipeline) -> int:
    """The number of the broker that leads the topic's one partition."""
    async with admin_of(pipe) as admin:
        [topic] = await described(admin, [pipe.settings.topic_prefix + STATES.name])
    return int(topic["partitions"][0]["leader"])


async def described(admin: AIOKafkaAdminClient, names: list[str]) -> list[Any]:
    """Topics, once the broker that happens to be asked knows them and their leaders."""

    async def known() -> list[Any]:
        topics = await admin.describe_topics(names)
        assert [topic["error_code"] for topic in topics] == [0] * len(names)
        assert all(part["leader"] > 0 for topic in topics for part in topic["partitions"])
        return list(topics)

    return await eventually(known, within_s=WITHIN_S)


@asynccontextmanager
async def admin_of(pipe: Pipeline) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=pipe.settings.kafka_bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def gone(cluster: Kafka, *numbers: int) -> AsyncIterator[None]:
    """`kill -9`; they are back when this is left."""
    for number in numbers:
        await asyncio.to_thread(cluster.kill, number)
    try:
        yield
    finally:
        for number in numbers:
            cluster.launch(number)
        for number in numbers:
            await asyncio.to_thread(cluster.wait, number)


async def test_topics_are_made_with_three_replicas_of_which_two_acknowledge(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe, admin_of(pipe) as admin:
        names = [pipe.settings.topic_prefix + name for name in (STATES.name, STATES.dead_letters)]
        for topic in await described(admin, names):
            assert [len(part["replicas"]) for part in topic["partitions"]] == [3] * len(topic["partitions"])
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]

        async def told() -> bool:
            for answer in await admin.describe_configs(resources):
                for *_, entries in answer.resources:
                    found = {entry[0]: entry[1] for entry in entries}
                    assert found.get("min.insync.replicas") == "2"
                    assert found.get("unclean.leader.election.enable") == "false"
            return True

        await eventually(told)  # each request asks any of the three, and one may not know the topics yet


async def test_what_was_acknowledged_while_the_leader_was_killed_is_there_once_and_in_order(
    surroundings: Surroundings, cluster: Kafka
) -> None:
    """One idempotent producer that knows of nothing: it retries, and the new leader knows what the old one had."""
    async with pipeline(surroundings, partitions=1) as pipe:
        producer = kafka.producer(pipe.settings)
        await producer.start()
        try:
            topic = pipe.settings.topic_prefix + STATES.name

            async def send(versions: range) -> list[int]:
                acks = [
                    await producer.send(topic, kafka.encode(state), key=SUBJECT.encode(), partition=0, headers=HEADERS)
                    for state in states_of(SUBJECT, *versions)
                ]
                return [ack.offset for ack in await asyncio.gather(*acks)]

            offsets = await send(range(1, 201))
            sending = asyncio.create_task(send(range(201, 3_001)))
            await eventually(lambda: _more_than(pipe, 200))
            async with gone(cluster, await leader_of(pipe)):
                offsets += await asyncio.wait_for(sending, WITHIN_S)
                await eventually(lambda: _reads(pipe, 3_000), within_s=WITHIN_S)
            assert offsets == list(range(3_000))
        finally:
            await producer.stop()


async def test_relay_and_consumer_go_on_with_two_of_three_brokers(surroundings: Surroundings, cluster: Kafka) -> None:
    async with pipeline(surroundings, partitions=1) as pipe, going(pipe.relay().run, pipe.consumer().run):
        await pipe.append(*states_of(SUBJECT, *range(1, 6)))
        await eventually(lambda: _applied(pipe, 5))
        async with gone(cluster, await leader_of(pipe)):
            await pipe.append(*states_of(SUBJECT, *range(6, 11)))
            await eventually(lambda: _applied(pipe, 10), within_s=WITHIN_S)
        await pipe.append(*states_of(SUBJECT, *range(11, 16)))
        await eventually(lambda: _applied(pipe, 15), within_s=WITHIN_S)
        await eventually(pipe.drained)


async def test_one_broker_of_three_acknowledges_nothing_and_nothing_is_lost(
    surroundings: Surroundings, cluster: Kafka
) -> None:
    """The leader is the one that is left: it has the record, and says nothing, since nobody else would have it."""
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.append(*states_of(SUBJECT, 1))
        async with going(pipe.relay().run, pipe.consumer().run):
            await eventually(lambda: _applied(pipe, 1))
            await eventually(pipe.drained)  # it is read sooner than the relay has committed that it was acknowledged
            leader = await leader_of(pipe)
            async with gone(cluster, *({1, 2, 3} - {leader})):
                await pipe.append(*states_of(SUBJECT, 2))
                with pytest.raises((KafkaError, TimeoutError)):
                    await _published_directly(pipe)
                assert await pipe.waiting() == 1
                assert await pipe.applied() == [(SUBJECT, 1)]
            await eventually(lambda: _applied(pipe, 2), within_s=WITHIN_S)
            await eventually(pipe.drained, within_s=WITHIN_S)


async def _published_directly(pipe: Pipeline) -> None:
    """By a producer as ours are, which is given up after PATIENCE_S."""
    producer = kafka.producer(pipe.settings.model_copy(update={"kafka_idempotence": False}))
    await producer.start()
    try:
        sent = await producer.send(pipe.settings.topic_prefix + STATES.name, b"", key=b"other", partition=0)
        await asyncio.wait_for(asyncio.shield(sent), PATIENCE_S)
    finally:
        stopping = asyncio.create_task(producer.stop())
        stopping.add_done_callback(lambda task: task.exception())


async def _more_than(pipe: Pipeline, count: int) -> bool:
    return len(await pipe.states()) > count


async def _reads(pipe: Pipeline, last: int) -> bool:
    """A leader that has just been chosen tells of all that was acknowledged once its followers have caught up."""
    assert [state.version for state in await pipe.states()] == list(range(1, last + 1))
    return True


async def _applied(pipe: Pipeline, last: int) -> bool:
    """Every version up to `last`, each for the first time after those before it: what comes again changes nothing."""
    first_seen = list(dict.fromkeys(version for _, version in await pipe.applied()))
    assert first_seen == list(range(1, last + 1))
    return True
