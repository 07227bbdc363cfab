"""dispatch-svc and an operator that is on Kafka: it reads as operators do, in a group, JSON by the schema that we have
published, and nothing of ours decodes it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import jsonschema_rs
from aiokafka import AIOKafkaConsumer

from common.contracts import INBOUND_RECEIPTS, operator_submits
from common.kafka import broker as kafka
from common.settings import ServiceSettings
from dispatch.gateways.by_kafka import publisher
from tests.contract.schemas import checked_in
from tests.service.dispatch.test_by_smpp import died_and_come_back
from tests.service.dispatch.test_dispatch import dispatch
from tests.support.builders import TEXT, number, opted_in, receipt, requested
from tests.support.eventually import eventually
from tests.support.failing import Point
from tests.support.infrastructure import Broker, Postgres
from tests.support.operators.http import operator
from tests.support.publish import publish
from tests.support.running import Surroundings

TOPIC = operator_submits("orange")
ON_KAFKA: dict[str, Any] = {"gateway_url": None, "gateways": [{"provider": "kafka", "account": "orange"}]}
Read = Callable[[], Awaitable[list[dict[str, Any]]]]


@asynccontextmanager
async def reading_as_orange(surroundings: Surroundings) -> AsyncIterator[Read]:
    """All that is on its topic by now, each time it is asked."""
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    await kafka.ensure_topics(settings, [TOPIC])
    schema = checked_in("operator.message_submitted.v1")
    assert schema is not None
    consumer = AIOKafkaConsumer(
        settings.topic_prefix + TOPIC.name,
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=f"{surroundings.unique}-orange",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    seen: list[dict[str, Any]] = []

    async def read() -> list[dict[str, Any]]:
        mine = await eventually(_assigned)
        for tp, end in (await consumer.end_offsets(mine)).items():
            while await consumer.position(tp) < end:
                for record in (await consumer.getmany(tp, timeout_ms=1000)).get(tp, ()):
                    told = dict(record.headers)
                    assert told["ce_type"] == b"operator.message_submitted.v1"
                    assert told["content-type"] == b"application/json"
                    message = json.loads(record.value)
                    jsonschema_rs.validate(schema, message)
                    assert record.key.decode() == message["reference"]
                    seen.append(message)
        await consumer.commit()
        return seen

    async def _assigned() -> Any:
        mine = consumer.assignment()
        assert len(mine) == settings.partitions
        return mine

    await consumer.start()
    try:
        yield read
    finally:
        await consumer.stop()


async def test_an_operator_on_kafka_reads_each_message_once_and_its_receipt_finds_the_message(
    surroundings: Surroundings,
) -> None:
    async with (
        reading_as_orange(surroundings) as read,
        operator() as nobody,
        dispatch(surroundings, nobody, **ON_KAFKA) as d,
    ):
        await d.publish_states(opted_in(1), opted_in(2))
        first, second = requested(1), requested(2)
        await d.request(first, second, first)
        for wanted in (first, second):
            found = await eventually(d.becomes(wanted.message_id, "accepted"))
            assert (found["gateway"], found["gateway_message_id"]) == ("kafka.orange", None)
        mine = receipt("delivered", reference=first.message_id, gateway_id="or-1", provider="kafka", account="orange")
        await publish(surroundings, INBOUND_RECEIPTS, [mine])

        async def delivered() -> bool:
            return bool((await d.message(first.message_id))["receipt"] == "delivered")

        await eventually(delivered)
        assert (await d.message(first.message_id))["gateway_message_id"] == "or-1"
        told = sorted(await read(), key=lambda message: message["recipient"])
        usual = {
            "sender": "MAISONLUNE",
            "short_code": "36111",
            "category": "marketing",
            "text": TEXT,
            "deliver_by": None,
        }
        assert told == [
            {"reference": wanted.message_id, "recipient": number(n), **usual} for n, wanted in ((1, first), (2, second))
        ]


SUBMIT = "dispatch.gateways.by_kafka.gateway:KafkaGateway.submit"


async def test_what_a_killed_process_was_publishing_is_unknown_and_on_the_topic_no_second_time(
    postgres: Postgres, broker: Broker, unique: str
) -> None:
    """What is there the operator sends, and its receipt says so."""
    people = (1, 2, 3)

    async def one(surroundings: Surroundings, point: Point, least: int) -> None:
        async with (
            reading_as_orange(surroundings) as read,
            died_and_come_back(surroundings, people, point, read, **ON_KAFKA) as (*unknown, last),
        ):
            there = Counter(message["reference"] for message in await read())
            assert set(there.values()) == {1}
            assert {last} <= set(there) <= {*unknown, last}
            assert least <= len(there) - 1
            told = [
                receipt("delivered", reference=each, gateway_id=f"or-{each}", provider="kafka", account="orange")
                for each in there
            ]
            await publish(surroundings, INBOUND_RECEIPTS, told)

            async def says_so() -> bool:
                async with surroundings.sql("dispatch") as sql:
                    ledger = dict(await sql.fetch("SELECT message_id::text, status FROM message"))
                assert ledger == dict.fromkeys(unknown, "unknown") | dict.fromkeys(there, "accepted")
                return True

            await eventually(says_so)
            assert Counter(message["reference"] for message in await read()) == there

    no_request, every_ack = (
        Point("before", "dispatch.gateways.by_kafka.publisher:Publisher._written"),
        Point("after", SUBMIT),
    )
    here, there = (Surroundings(postgres, broker, f"{unique}{name}", partitions=1) for name in "ab")
    for surroundings in (here, there):
        await surroundings.database("dispatch")
    async with asyncio.TaskGroup() as cases:
        cases.create_task(one(here, no_request, 0))
        cases.create_task(one(there, every_ack, len(people)))


async def test_an_operator_reads_what_has_no_codec_and_our_own_readers_less(surroundings: Surroundings) -> None:
    settings, value = ServiceSettings(**await surroundings.settings("dispatch")), b"a" * 10_000
    sizes = {}
    for kind in (kafka.Outlet, publisher._Outlet):
        outlet = kind(settings)
        batch = outlet.producer.create_batch()
        batch.append(key=None, value=value, timestamp=None)
        batch.close()
        sizes[kind] = len(batch._build())
        await outlet.end()
    assert sizes[kafka.Outlet] < len(value) / 10
    assert sizes[publisher._Outlet] > len(value)
