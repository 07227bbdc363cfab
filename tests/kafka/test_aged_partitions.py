"""A new partition whose people's former ones have lost their records to retention: nobody waits for what is gone.

Of the run's own Apache Kafka (`PLACET_TEST_BROKERS=1`): the local broker deletes no records."""

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import OptOutEnforced
from common.db.database import Database
from common.kafka import broker as kafka
from common.kafka.broker import partition_of
from common.kafka.consumer import Consumer
from common.kafka.subscription import After, Received, Subscription
from common.settings import ServiceSettings
from tests.service.common.pipeline import going
from tests.support.builders import now, subject
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings

FEW, MANY = 3, 6
PEOPLE = [subject(n) for n in range(1, 13)]
MOVED = [who for who in PEOPLE if partition_of(who, MANY) >= FEW]
WITHIN_S = 120.0


def enforced(who: str) -> OptOutEnforced:
    return OptOutEnforced(
        subject_id=who, consent_version=1, source="mo", reference=None, received_at=now(), enforced_at=now()
    )


async def test_a_new_partition_does_not_wait_for_records_that_are_gone(surroundings: Surroundings) -> None:
    settings = ServiceSettings(**await surroundings.settings("dispatch", partitions=FEW, work_partitions=MANY))
    topic = settings.topic_prefix + DISPATCH_MESSAGES.name
    await kafka.ensure_topics(settings, [DISPATCH_MESSAGES])
    await publish(settings, topic, FEW, PEOPLE)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        whole = RecordsToDelete(before_offset=-1)  # up to the end
        await admin.delete_records({TopicPartition(topic, partition): whole for partition in range(FEW)})
    finally:
        await admin.close()
    await publish(settings, topic, MANY, MOVED)
    seen: set[tuple[str, int]] = set()

    async def handle(tx: AsyncConnection, batch: list[Received]) -> After | None:
        seen.update((received.key, received.source) for received in batch)
        return None

    database = Database(settings.database_url, name="dispatch")
    wanted = {(who, partition_of(who, MANY)) for who in MOVED}
    try:
        consumer = Consumer(Subscription("aged.reader", DISPATCH_MESSAGES, handle), database, settings)
        async with going(consumer.run):
            await eventually(lambda: is_so(seen == wanted), within_s=WITHIN_S)
    finally:
        await database.close()


async def publish(settings: ServiceSettings, topic: str, count: int, people: list[str]) -> None:
    """An event of each person, in one of so many partitions."""
    producer = kafka.producer(settings)
    await producer.start()
    try:
        for event in map(enforced, people):
            partition = partition_of(event.subject_id, count)
            headers = [("ce_type", event.type.encode())]
            key, value = event.key.encode(), kafka.encode(event)
            await producer.send_and_wait(topic, value, key=key, partition=partition, headers=headers)
    finally:
        await producer.stop()
