"""What Placet asks of a broker, asked of the one of this run: Tansu (`make test`) or Apache Kafka (`make test-kafka`).
What the two answer differently is in the table of docs/brokers.md, which is what these tests expect."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    KafkaError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)

from common.kafka.broker import BATCH_BYTES, Outlet
from common.kafka.reading.client import ISOLATION
from common.kafka.reading.log_identity import identity_of
from common.settings import ServiceSettings
from stack.broker import Broker as Tansu
from stack.kafka import Kafka
from tests.conformance.client import Client, client_of, read, share
from tests.support.eventually import eventually
from tests.support.infrastructure import Broker, own_broker
from tests.support.running import KEY_RING, SUBJECT_RING

TABLE = Path(__file__).parents[2] / "docs" / "brokers.md"
UNMADE_MS = 10_000  # a producer asks Kafka for a topic that nobody made for as long
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def documented(what: str, broker: Broker | Kafka | Tansu) -> str:
    """The cell of the table: what this broker is known to answer."""
    kafka = broker.idempotent if isinstance(broker, Broker) else isinstance(broker, Kafka)
    rows = {row[0]: row[1:3] for row in ROW.findall(TABLE.read_text(encoding="utf-8"))}
    return str(rows[what][0 if kafka else 1])


async def said(asked: Awaitable[object]) -> str:
    """The name of the error, or "taken"."""
    try:
        await asyncio.wait_for(asked, 90)
    except KafkaError as error:
        return f"refused: {type(error).__name__}"
    return "taken"


@pytest.fixture
async def client(broker: Broker, unique: str) -> AsyncIterator[Client]:
    async with client_of(broker.bootstrap, idempotent=broker.idempotent, topic=unique) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Kafka | Tansu]:
    server = own_broker(tmp_path)
    yield server
    server.stop()


# Order, and what a record may hold


async def test_records_are_read_in_the_order_in_which_they_were_acknowledged(client: Client) -> None:
    producer = await client.producer(linger_ms=5)
    acks = [await producer.send(client.topic, b"%d" % n, partition=0) for n in range(500)]
    written = [ack.offset for ack in await asyncio.gather(*acks)]
    records = await read(await client.consumer(), 500)
    assert written == [record.offset for record in records] == list(range(500))
    assert [record.value for record in records] == [b"%d" % n for n in range(500)]


async def test_nothing_and_emptiness_are_two_things_and_headers_keep_order_repetition_and_bytes(client: Client) -> None:
    headers = [("a", b"1"), ("a", b"2"), ("", b""), ("b", b"\xff\x00"), ("é", b"3")]
    producer = await client.producer()
    await producer.send_and_wait(client.topic, None, key=b"k", partition=0)
    await producer.send_and_wait(client.topic, b"", key=b"", partition=0)
    await producer.send_and_wait(client.topic, b"v", partition=0, headers=headers, timestamp_ms=1_700_000_000_123)
    nothing, empty, full = await read(await client.consumer(), 3)
    assert (nothing.key, nothing.value) == (b"k", None)
    assert (empty.key, empty.value) == (b"", b"")
    assert (full.key, list(full.headers), full.timestamp) == (None, headers, 1_700_000_000_123)


async def test_a_batch_as_large_as_ours_get_is_taken_whole(client: Client) -> None:
    producer = await client.producer(max_batch_size=BATCH_BYTES, max_request_size=4 * BATCH_BYTES)
    batch, count = producer.create_batch(), 0
    while batch.append(key=b"k", value=b"x" * 10_000, timestamp=None) is not None:
        count += 1
    await (await producer.send_batch(batch, client.topic, partition=0))
    assert count > 90
    assert [len(record.value) for record in await read(await client.consumer(), count)] == [10_000] * count


async def test_a_record_over_the_limit(client: Client, broker: Broker) -> None:
    producer = await client.producer(max_batch_size=3_000_000, max_request_size=3_000_000)
    answer = await said(producer.send_and_wait(client.topic, b"x" * 2_000_000, partition=0))
    assert answer == documented("a record of 2 MB, the limit being 1 MB", broker)


# Producers


async def test_an_outlet_writes_nothing_where_a_later_one_of_its_fence_has_written(
    broker: Broker, client: Client, unique: str
) -> None:
    """In each partition for itself. The records are there for a reader that knows of no transactions."""
    settings = ServiceSettings(
        database_url="postgresql://nobody:nothing@127.0.0.1/nothing",
        kafka_bootstrap=broker.bootstrap,
        kafka_idempotence=broker.idempotent,
        subject_keys=SUBJECT_RING,
        field_keys=KEY_RING,
        development=True,
        auth_key="a key of thirty-two bytes or more, for tests",
    )
    former, later = Outlet(settings, f"{unique}.relay"), Outlet(settings, f"{unique}.relay")

    async def write(outlet: Outlet, value: bytes) -> None:
        batch = outlet.producer.create_batch()
        batch.append(key=b"k", value=value, timestamp=None)
        await (await outlet.producer.send_batch(batch, client.topic, partition=0))

    try:
        await former.start()
        await write(former, b"1")
        await later.start()
        await write(former, b"2")  # the later one has not written here yet
        await write(later, b"3")
        what = "a batch of a former epoch of a producer id, after one of a newer epoch"
        assert await said(write(former, b"4")) == documented(what, broker)
    finally:
        await former.end()
        await later.end()
    expected = [b"1", b"2", b"3"] if broker.idempotent else [b"1", b"2", b"3", b"4"]
    assert [record.value for record in await read(await client.consumer(), len(expected))] == expected


async def test_idempotent_producers(client: Client, broker: Broker) -> None:
    async def publish() -> None:
        producer = await client.producer(enable_idempotence=True)
        await producer.send_and_wait(client.topic, b"v", partition=0)

    assert await said(publish()) == documented("an idempotent producer", broker)


async def test_what_a_producer_takes_back_is_not_read_and_the_end_of_the_log_is_reached(
    client: Client, broker: Broker
) -> None:
    """The markers of a transaction take offsets of their own, the last of the log among them."""

    async def transact() -> None:
        producer = await client.producer(enable_idempotence=True, transactional_id=client.topic)
        for value, end in ((b"no", producer.abort_transaction), (b"yes", producer.commit_transaction)) * 2:
            await producer.begin_transaction()
            await producer.send_and_wait(client.topic, value, partition=0)
            await end()

    assert await said(transact()) == documented("a transaction", broker)
    await (await client.producer()).send_and_wait(client.topic, b"plain", partition=0)
    expected = [*([b"yes"] * 2 if broker.idempotent else []), b"plain"]
    consumer = await client.consumer(isolation_level=ISOLATION)
    assert [record.value for record in await read(consumer, len(expected))] == expected

    async def at_the_end() -> bool:
        assert await consumer.getmany(timeout_ms=50) == {}
        ends = consumer.highwater(client.tp), consumer.last_stable_offset(client.tp)
        return set(ends) == {await consumer.position(client.tp)}

    await eventually(at_the_end)


# Topics


async def test_a_topic_is_made_once(client: Client) -> None:
    with pytest.raises(TopicAlreadyExistsError):
        await client.make(client.topic)


async def test_a_topic_made_anew_under_its_name_has_another_id(client: Client) -> None:
    """The cluster's is the same. Where a broker has none, an offset that is beyond the log is all that tells."""
    consumer = await client.consumer()
    before = await identity_of(consumer._client, client.topic)
    assert None not in before
    await client.admin.delete_topics([client.topic])

    async def made() -> bool:
        assert await said(client.make(client.topic)) == "taken"
        return True

    await eventually(made)

    async def known() -> bool:
        try:
            now = await identity_of(consumer._client, client.topic)
        except UnknownTopicOrPartitionError:  # the controller made it, the broker asked has not heard
            return False
        return now.topic_id != before.topic_id and now.cluster_id == before.cluster_id

    await eventually(known)


async def test_a_topic_nobody_made(client: Client, broker: Broker) -> None:
    producer = await client.producer(request_timeout_ms=UNMADE_MS)
    answer = await said(producer.send_and_wait(f"{client.topic}-unmade", b"v"))
    assert answer == documented("a record for a topic that nobody made", broker)


async def test_a_topic_with_more_replicas_than_there_are_brokers(client: Client, broker: Broker) -> None:
    answer = await said(client.make(f"{client.topic}-copied", replicas=9))
    assert answer == documented("a topic with more replicas than there are brokers", broker)


async def test_a_setting_that_is_none(client: Client, broker: Broker) -> None:
    answer = await said(client.make(f"{client.topic}-odd", cleanup_policy="nonsense"))
    assert answer == documented("a topic with a nonsensical setting", broker)


async def test_a_record_without_a_key_where_the_newest_of_each_key_is_kept(client: Client, broker: Broker) -> None:
    await client.make(f"{client.topic}-keyed", cleanup_policy="compact")
    answer = await said((await client.producer()).send_and_wait(f"{client.topic}-keyed", b"v"))
    assert answer == documented("a record without a key for a compacted topic", broker)


async def test_the_settings_of_a_topic_can_be_read(client: Client, broker: Broker) -> None:
    name = f"{client.topic}-set"
    await client.make(name, retention_ms="604800000")
    [answer] = await client.admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    [(code, _, _, _, entries)] = answer.resources
    found = {entry[0]: entry[1] for entry in entries}
    assert (code, found["retention.ms"]) == (0, "604800000")
    told = "all of them" if "cleanup.policy" in found else "those that were set"
    assert told == documented("DescribeConfigs tells", broker)


# Compression


CODECS = ["gzip", "snappy", "lz4", "zstd"]


@pytest.mark.parametrize("codec", CODECS)
async def test_what_its_producer_compressed_is_read(client: Client, codec: str) -> None:
    """An operator's client, or a setting of ours, may choose any of them."""
    producer, consumer = await client.producer(compression_type=codec), await client.consumer()
    batch = producer.create_batch()
    for n in range(20):
        batch.append(key=b"%d" % n, value=b"compressible " * 20, timestamp=None, headers=[("h", b"%d" % n)])
    await (await producer.send_batch(batch, client.topic, partition=0))
    found = await read(consumer, 20)
    assert [(record.offset, record.key, record.headers) for record in found] == [
        (n, b"%d" % n, (("h", b"%d" % n),)) for n in range(20)
    ]
    assert {record.value for record in found} == {b"compressible " * 20}


@pytest.mark.parametrize("codec", CODECS)
async def test_what_the_topic_compresses_is_read(client: Client, codec: str) -> None:
    """`compression.type` of a topic, or a broker: Kafka writes each batch anew."""
    client.topic = f"{client.topic}-{codec}"
    await client.make(client.topic, compression_type=codec)
    await _ten_in_a_batch(client, await client.producer())
    assert [record.value for record in await read(await client.consumer(), 10)] == [b"%d" % n for n in range(10)]


# Offsets


async def test_the_high_watermark_of_a_fetch_is_the_end_of_the_log(client: Client) -> None:
    producer, consumer = await client.producer(), await client.consumer()
    await _ten_in_a_batch(client, producer)
    await read(consumer, 10)
    assert consumer.highwater(client.tp) == 10


async def test_where_the_log_ends(client: Client, broker: Broker) -> None:
    producer, consumer = await client.producer(), await client.consumer()
    await _ten_in_a_batch(client, producer)
    end = (await consumer.end_offsets([client.tp]))[client.tp]
    assert f"{end}" == documented("ListOffsets(latest) after one batch of 10", broker)


async def test_reading_beyond_the_log(client: Client, broker: Broker) -> None:
    consumer = await client.consumer()
    await (await client.producer()).send_and_wait(client.topic, b"v", partition=0)
    consumer.seek(client.tp, 5_000)

    async def refused() -> bool:
        try:
            found = await consumer.getmany(timeout_ms=50)
        except OffsetOutOfRangeError:
            return True
        if found:
            pytest.fail("records beyond the log")
        raise AssertionError("nothing comes")

    what = "reading at an offset beyond the log"
    await _as_documented(what, "refused: OffsetOutOfRangeError", "nothing comes", refused, broker)


# Groups: commits, redelivery, rebalances


async def test_what_was_not_committed_is_delivered_again_and_what_was_is_not(client: Client, unique: str) -> None:
    producer = await client.producer()
    for n in range(6):
        await producer.send_and_wait(client.topic, b"%d" % n, partition=0)
    first = await client.member(unique)
    assert await first.committed(client.tp) is None
    assert [record.offset for record in await read(first, 6)] == list(range(6))
    await first.commit({client.tp: 4})
    await first.stop()
    second = await client.member(unique)
    assert await second.committed(client.tp) == 4
    assert [record.offset for record in await read(second, 2)] == [4, 5]


async def test_a_commit_needs_no_membership(client: Client, unique: str) -> None:
    """As consumers without groups commit, for dashboards."""
    await (await client.consumer(group_id=unique, enable_auto_commit=False)).commit({client.tp: 1})
    assert await (await client.consumer(group_id=unique, enable_auto_commit=False)).committed(client.tp) == 1


async def test_members_divide_the_partitions_and_take_over_from_who_leaves(client: Client, unique: str) -> None:
    client.topic = f"{unique}-divided"
    await client.make(client.topic, partitions=6)
    everything = {TopicPartition(client.topic, number) for number in range(6)}
    first = await client.member(unique)
    assert await share([first], 6) == [everything]
    second = await client.member(unique)
    assert [len(each) for each in await share([first, second], 6)] == [3, 3]
    await second.stop()
    assert await share([first], 6) == [everything]


async def test_a_zombie_is_thrown_out_and_its_commit_refused(client: Client, broker: Broker, unique: str) -> None:
    """Nobody reads for it and its heart has stopped: the group goes on without it, and hears no more from it."""
    zombie = await client.member(unique)
    assert len(zombie.assignment()) == 1
    zombie._coordinator._heartbeat_task.cancel()
    await asyncio.wait([zombie._coordinator._heartbeat_task])
    heir = await client.member(unique)
    assert await share([heir], 1) == [{client.tp}]
    with pytest.raises((CommitFailedError, IllegalGenerationError, UnknownMemberIdError)):
        await zombie.commit({client.tp: 1})


# Memory, and its end


async def test_only_the_newest_record_of_a_key_is_kept(client: Client, broker: Broker) -> None:
    client.topic = f"{client.topic}-compacted"
    await client.make(
        client.topic,
        cleanup_policy="compact",
        segment_ms="100",
        segment_bytes="1048576",
        min_cleanable_dirty_ratio="0.01",
        max_compaction_lag_ms="100",
        delete_retention_ms="0",
    )
    producer = await client.producer()
    for n in range(20):
        await producer.send_and_wait(client.topic, b"%d" % n, key=b"a", partition=0)
    await producer.send_and_wait(client.topic, b"b", key=b"b", partition=0)
    await producer.send_and_wait(client.topic, None, key=b"b", partition=0)

    async def old_ones() -> list[bytes | None]:
        """Of the first 22: another record lets the segment before it end, and the active one is never compacted."""
        last = await producer.send_and_wait(client.topic, b"", key=b"c", partition=0)
        consumer = await client.consumer()
        return [record.value for record in await _until(consumer, client.tp, last.offset) if record.offset < 22]

    async def compacted() -> bool:
        assert await old_ones() == [b"19"]
        return True

    await _as_documented("compaction", "of each key the newest record", "all is kept", compacted, broker)


async def test_what_is_older_than_the_retention_goes(client: Client, broker: Broker) -> None:
    client.topic = f"{client.topic}-retained"
    await client.make(client.topic, cleanup_policy="delete", retention_ms="1000", segment_ms="100")
    producer = await client.producer()
    for n in range(5):
        await producer.send_and_wait(client.topic, b"%d" % n, partition=0, timestamp_ms=1_700_000_000_000 + n)
    consumer = await client.consumer()

    async def gone() -> bool:
        await producer.send_and_wait(client.topic, b"new", partition=0)
        assert (await consumer.beginning_offsets([client.tp]))[client.tp] >= 5
        return True

    await _as_documented("retention", "what is older goes", "all is kept", gone, broker)


async def test_a_record_goes_with_its_segment_whatever_follows(client: Client, broker: Broker) -> None:
    """A partition that is written to all the time: with `segment.ms` at its default the first record stays for days."""
    client.topic = f"{client.topic}-busy"
    await client.make(client.topic, cleanup_policy="delete", retention_ms="1000", segment_ms="500")
    producer = await client.producer()
    await producer.send_and_wait(client.topic, b"first", partition=0)
    consumer = await client.consumer()

    async def gone() -> bool:
        await producer.send_and_wait(client.topic, b"new", partition=0)
        assert (await consumer.beginning_offsets([client.tp]))[client.tp] >= 1
        return True

    await _as_documented("retention of a busy partition", "a record goes with its segment", "all is kept", gone, broker)


async def test_a_broker_that_comes_back(own: Kafka | Tansu, unique: str) -> None:
    """The same producer and the same consumer go on, and what was acknowledged is there, or is not."""
    await asyncio.to_thread(own.start)
    async with client_of(own.bootstrap, idempotent=isinstance(own, Kafka), topic=unique) as client:
        producer, consumer = await client.producer(request_timeout_ms=20_000), await client.consumer()
        await producer.send_and_wait(client.topic, b"before", partition=0)
        assert [record.value for record in await read(consumer, 1)] == [b"before"]
        await asyncio.to_thread(own.stop)
        await asyncio.to_thread(own.start)
        if isinstance(own, Tansu):
            await client.make(client.topic)
        written = await eventually(lambda: producer.send_and_wait(client.topic, b"after", partition=0))
        fresh = await client.consumer()
        found = [record.value for record in await read(fresh, written.offset + 1)]
        kept = "is there" if found == [b"before", b"after"] else "is gone"
        assert found[-1] == b"after"
        assert kept == documented("what was acknowledged, after a restart of the broker", own)
        if kept == "is there":
            assert [record.value for record in await read(consumer, 1)] == [b"after"]


async def _ten_in_a_batch(client: Client, producer: AIOKafkaProducer) -> None:
    batch = producer.create_batch()
    for n in range(10):
        batch.append(key=None, value=b"%d" % n, timestamp=None)
    await (await producer.send_batch(batch, client.topic, partition=0))


async def _until(consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> list[Any]:
    """All records up to that of `offset`, which is there."""
    found: list[Any] = []

    async def reached() -> bool:
        found.extend((await consumer.getmany(timeout_ms=50)).get(tp, []))
        return bool(found) and found[-1].offset >= offset

    await eventually(reached)
    return found


async def _as_documented(
    what: str, happens: str, does_not: str, look: Callable[[], Awaitable[bool]], broker: Broker
) -> None:
    """Where it happens it is waited for; where it does not, ten looks are enough to keep the table honest."""
    if documented(what, broker) == happens:
        await eventually(look)
        return
    assert documented(what, broker) == does_not
    for _ in range(10):
        with pytest.raises(AssertionError):
            await look()
