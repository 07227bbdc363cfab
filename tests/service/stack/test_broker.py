"""The embedded broker, with the client that Placet uses."""

from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stack.broker import Broker
from stack.processes import DidNotStart


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


async def test_a_record_makes_the_round_trip(broker: Broker, unique: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=False) as producer:
        sent = await producer.send_and_wait(unique, b"value", key=b"key", headers=[("ce_id", b"1")])
    async with AIOKafkaConsumer(unique, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest") as consumer:
        record = await consumer.getone()
    assert (record.key, record.value, record.headers) == (b"key", b"value", (("ce_id", b"1"),))
    assert (record.partition, record.offset) == (sent.partition, sent.offset)


def test_a_taken_port_is_reported_with_the_log(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DidNotStart, match="tansu"):
        Broker(tmp_path_factory.mktemp("second"), port=broker.port).start()
