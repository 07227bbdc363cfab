"""Transactions of foreign producers, by librdkafka: what was taken back was never said, to no reader of ours; one that
is not ended is a stall with its reason, and nothing is lost behind it."""

import asyncio
from typing import Self
from uuid import uuid4

from confluent_kafka import Producer

from common.contracts import STATES, Event, Topic
from common.contracts.consent import ConsentStateChanged
from common.kafka import broker as kafka
from common.kafka.reading.completeness import Seen
from common.kafka.replaying import Replaying
from inbound.service import Settings, build
from tests.service.common.pipeline import going, pipeline, states_of
from tests.service.inbound.operated import MESSAGES, Operated, mo
from tests.support.builders import number, subject
from tests.support.eventually import eventually
from tests.support.publish import ensured
from tests.support.running import Surroundings, running

SUBJECT = f"t1-{1:032x}"
WITHIN_S = 60.0


class Transactional:
    """A producer of one transaction at a time, to a topic's first partition."""

    def __init__(self, surroundings: Surroundings, topic: Topic) -> None:
        self.topic = f"{surroundings.unique}.{topic.name}"
        told = {"bootstrap.servers": surroundings.broker.bootstrap, "transactional.id": uuid4().hex, "log_level": 0}
        self.producer = Producer(told)

    async def start(self) -> Self:
        await asyncio.to_thread(self.producer.init_transactions, WITHIN_S)
        return self

    async def begin(self, *events: Event) -> None:
        """Returns once the events of a new transaction are in the log."""
        self.producer.begin_transaction()
        for event in events:
            headers: list[tuple[str, str | bytes | None]] = [("ce_type", event.type)]
            self.producer.produce(self.topic, kafka.encode(event), event.key, partition=0, headers=headers)
        assert await asyncio.to_thread(self.producer.flush, WITHIN_S) == 0

    async def abort(self) -> None:
        await asyncio.to_thread(self.producer.abort_transaction, WITHIN_S)

    async def commit(self) -> None:
        await asyncio.to_thread(self.producer.commit_transaction, WITHIN_S)


async def test_what_an_operator_took_back_was_never_said_and_what_it_committed_was(surroundings: Surroundings) -> None:
    settings = Settings(**await surroundings.settings("inbound", kafka_operators=("orange",)))
    await ensured(settings, MESSAGES)
    operator = await Transactional(surroundings, MESSAGES).start()
    for n, end in enumerate((operator.abort, operator.commit, operator.abort, operator.commit, operator.abort)):
        await operator.begin(mo(name=f"or-{n}", sender=number(n)))
        await end()
    async with running(build(settings)):
        found = await Operated(settings, surroundings).messages(2)
    assert {event.subject_id for event in found} == {subject(1), subject(3)}


async def test_no_reader_of_ours_hears_what_was_taken_back_and_one_that_is_open_is_red(
    surroundings: Surroundings,
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        foreign = await Transactional(surroundings, STATES).start()
        await pipe.publish(*states_of(SUBJECT, 1))
        await foreign.begin(*states_of(SUBJECT, 2))
        await pipe.publish(*states_of(SUBJECT, 3))
        consumer = pipe.consumer()
        async with going(consumer.run):

            async def red() -> bool:
                assert await pipe.applied() == [(SUBJECT, 1)]
                return any("has not ended its transaction" in line for line in consumer.stalls(0.5))

            await eventually(red)
            await foreign.abort()

            async def well() -> bool:
                return await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 3)] and not consumer.stalls(0.5)

            await eventually(well)
        end = await pipe.next_offset()
        assert end is not None
        async with Replaying(consumer.subscription, pipe.settings) as replay:
            seen = Seen()
            versions = []
            async for batch in replay.read({0: seen}, {0: end}, 100):
                versions += [
                    each.event.version for each in batch.received if isinstance(each.event, ConsentStateChanged)
                ]
        assert versions == [1, 3]
