"""A record's value is read as what it says it is, or not at all."""

import asyncio
import contextlib
import socket

import cramjam
import pytest
import uvloop
from aiokafka import codec
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from common.contracts import INBOUND_MESSAGES, STATES
from common.contracts.consent import SenderChanged
from common.kafka import broker as kafka
from common.kafka.broker import Wanted, differences
from tests.support.builders import sender_changed

HEADERS = [("ce_type", SenderChanged.type.encode())]
BATCH_HEADER_BYTES, ZSTANDARD = 61, 4  # of Kafka's record batches, version 2


@pytest.mark.parametrize("text", ["\0", "a\0", "\\\0", '"\0'])
def test_a_nul_anywhere_is_undecodable(text: str) -> None:
    with pytest.raises(kafka.Undecodable, match="NUL"):
        kafka.decode(kafka.encode(sender_changed(brand=text)), HEADERS)


@pytest.mark.parametrize("text", [r"\u0000", r"\\u0000", "u0000", "\x01", "\\"])
def test_what_only_looks_like_one_is_read_as_it_is(text: str) -> None:
    event = sender_changed(brand=text)
    assert kafka.decode(kafka.encode(event), HEADERS) == event


@given(st.text(max_size=70), st.integers(1, 60))
def test_a_key_is_in_the_partition_where_any_client_of_kafka_puts_it(key: str, partitions: int) -> None:
    assert kafka.partition_of(key, partitions) == (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


@given(st.lists(st.binary(max_size=70)), st.integers(0, 40), st.integers(1, 60))
def test_many_keys_are_where_each_is(keys: list[bytes], length: int, partitions: int) -> None:
    for some in (keys, [key.ljust(length, b"x")[:length] for key in keys]):
        found = kafka.partitions_of(some, partitions)
        assert found == [(murmur2(key) & 0x7FFFFFFF) % partitions for key in some]


WANTED = Wanted(12, 3, STATES.config | {"min.insync.replicas": "2"})
AS_IT_IS = {**WANTED.config, "compression.type": "producer"}


def test_a_topic_that_is_as_wanted_or_safer_is_right() -> None:
    assert differences("t", WANTED, [3] * 12, AS_IT_IS) == []
    safer = {"min.insync.replicas": "3", "min.compaction.lag.ms": "7200000"}
    assert differences("t", WANTED, [4] * 12, AS_IT_IS | safer) == []


@pytest.mark.parametrize(
    ("setting", "found", "wanted"),
    [
        ("cleanup.policy", "delete", "compact"),
        ("cleanup.policy", "compact,delete", "compact"),
        ("max.compaction.lag.ms", "9223372036854775807", "86400000"),
        ("min.compaction.lag.ms", "0", "3600000"),
        ("min.insync.replicas", "1", "2"),
    ],
)
def test_a_wrong_setting_is_named_with_what_puts_it_right(setting: str, found: str, wanted: str) -> None:
    (line,) = differences("t", WANTED, [3] * 12, AS_IT_IS | {setting: found})
    assert line.startswith(f"t: {setting} is {found}, and must be {wanted}: kafka-configs.sh --alter")
    assert line.endswith(f"--entity-name t --add-config {setting}={wanted}")


def test_a_setting_the_broker_does_not_have_is_wrong_and_so_are_those_it_does_not_show() -> None:
    without = {name: value for name, value in AS_IT_IS.items() if name != "max.compaction.lag.ms"}
    assert "max.compaction.lag.ms is not set" in differences("t", WANTED, [3] * 12, without)[0]
    (line,) = differences("t", WANTED, [3] * 12, None)
    assert "allow DescribeConfigs" in line


def test_too_few_partitions_or_replicas_anywhere_are_wrong_and_all_that_is_wrong_is_said() -> None:
    assert (
        "has 11 partitions, settings say 12: set PLACET_PARTITIONS" in differences("t", WANTED, [3] * 11, AS_IT_IS)[0]
    )
    assert "has 2 replicas, settings say 3" in differences("t", WANTED, [3] * 11 + [2], AS_IT_IS)[0]
    assert len(differences("t", WANTED, [], AS_IT_IS | {"cleanup.policy": "delete"})) == 3


@pytest.mark.parametrize(
    ("there", "least", "is_right"), [(12, 12, 1), (36, 12, 1), (24, 24, 1), (18, 12, 0), (12, 24, 0)]
)
def test_a_topic_of_work_may_have_any_multiple_of_the_partitions_of_people(
    there: int, least: int, is_right: int
) -> None:
    """Before its publisher adds some, and for a process with the former setting after that."""
    wrong = differences("t", Wanted(24, 3, WANTED.config, 12, least), [3] * there, AS_IT_IS)
    assert len(wrong) == 1 - is_right
    assert all("set PLACET_WORK_PARTITIONS to what is there" in line for line in wrong)


KEPT = Wanted(12, 3, INBOUND_MESSAGES.config)


@pytest.mark.parametrize(("setting", "found"), [("retention.ms", "604800000"), ("segment.ms", "604800000")])
def test_a_topic_that_keeps_records_longer_than_a_certificate_says_is_wrong(setting: str, found: str) -> None:
    (line,) = differences("t", KEPT, [3] * 12, KEPT.config | {setting: found})
    assert line.startswith(f"t: {setting} is {found}, and must be {KEPT.config[setting]}: kafka-configs.sh --alter")


BY_SIZE = KEPT.config | {"retention.bytes": "1073741824", "max.message.bytes": "500000", "compression.type": "zstd"}


def test_what_forgets_by_size_or_refuses_our_batches_or_cannot_be_read_here_is_wrong() -> None:
    assert (
        differences("t", KEPT, [3] * 12, KEPT.config | {"retention.bytes": "-1", "max.message.bytes": "1048588"}) == []
    )
    by_size, batches, compression = differences("t", KEPT, [3] * 12, BY_SIZE, ["snappy", "zstd"])
    assert by_size.startswith("t: retention.bytes is 1073741824, and must be -1: kafka-configs.sh --alter")
    assert batches.startswith("t: max.message.bytes is 500000, and must be 1000000 or more: kafka-configs.sh")
    assert compression.startswith(
        "t: compression.type is zstd, and must be another codec, or this process needs its library"
    )
    assert compression.endswith("--add-config compression.type=producer")
    assert len(differences("t", KEPT, [3] * 12, BY_SIZE)) == 2, "any codec that can be read is the operator's to choose"
    assert differences("t", WANTED, [3] * 12, AS_IT_IS | {"retention.bytes": "1"}) == [], "a compacted topic has none"


def test_every_codec_is_there_and_one_that_is_not_would_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kafka.missing_codecs() == []
    monkeypatch.setattr(codec, "cramjam", None)
    assert kafka.missing_codecs() == ["snappy", "lz4", "zstd"]


def test_headers_without_a_value_and_values_without_an_end_are_read_as_nothing() -> None:
    assert kafka.number_of([(kafka.NUMBER, None)]) is None
    with pytest.raises(kafka.Undecodable, match="no ce_type"):
        kafka.decode(b"{}", [("ce_type", None)])
    with pytest.raises(kafka.Undecodable, match="levels"):
        kafka.decode(b'{"more":' + b"[" * 100_000, HEADERS)


async def test_a_topic_that_not_every_broker_knows_yet_is_asked_for_again() -> None:
    answers = [UnknownTopicOrPartitionError(), LeaderNotAvailableError(), None]

    async def ask() -> str:
        if (error := answers.pop(0)) is not None:
            raise error
        return "known"

    assert await kafka._known(ask) == "known"
    assert not answers


@pytest.mark.parametrize(
    ("within_s", "error"), [(60.0, TopicAuthorizationFailedError()), (0.0, UnknownTopicOrPartitionError())]
)
async def test_what_waiting_does_not_mend_is_said(
    monkeypatch: pytest.MonkeyPatch, within_s: float, error: KafkaError
) -> None:
    monkeypatch.setattr(kafka, "KNOWN_WITHIN_S", within_s)
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        raise error

    with pytest.raises(type(error)):
        await kafka._known(ask)
    assert asked == 1


def test_a_connection_that_is_closed_already_is_reset_without_an_error() -> None:
    """A relay shuts its outlet twice where its session is lost: the second time must not stop at the first socket."""

    async def twice() -> None:
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        connection = AIOKafkaConnection("127.0.0.1", 9)
        connection._writer = writer
        kafka._reset(connection)
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        kafka._reset(connection)
        connection._writer = None
        theirs.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(twice())


def test_what_is_published_is_compressed_at_our_level() -> None:
    batch = BatchBuilder(
        kafka.BATCH_BYTES, ZSTANDARD, is_transactional=False, key_serializer=None, value_serializer=None
    )
    for place in range(500):
        value = kafka.encode(sender_changed(brand=f"Banc {place * 7919 % 501}"))
        assert batch.append(key=b"a", value=value, timestamp=1_000)
    records = bytes(batch._build())[BATCH_HEADER_BYTES:]
    plain = bytes(cramjam.zstd.decompress(records))
    levels = {level for level in range(1, 10) if bytes(cramjam.zstd.compress(plain, level=level)) == records}
    assert levels == {kafka.CODEC_LEVEL}
