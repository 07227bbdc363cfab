"""The broker: topics as in the topic table, a single partitioner, binary-mode CloudEvents on the wire.

Only the gateways over Kafka and SMPP publish without `common.kafka.outbox`.
"""

import asyncio
import contextlib
import functools
import logging
import math
import re
import socket
import ssl
import struct
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Required, TypedDict, TypeVar
from uuid import UUID

import msgspec
from aiokafka import AIOKafkaProducer, codec
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    KafkaError,
    NodeNotReadyError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from common.contracts import EVENTS, Event, Topic, Watermark
from common.db.timer import uptime_s
from common.settings import ServiceSettings

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes]]
NUMBER = "placet-number"  # header: a record's number in its partition, from 1
T = TypeVar("T")

REQUEST_TIMEOUT_MS = 10_000
RETRY_BACK_OFF_MS = 250
ENDS_WITHIN_S = 2.0
KNOWN_WITHIN_S = 15.0
AT_LEAST = frozenset({"min.insync.replicas", "min.compaction.lag.ms"})  # settings whose higher value is safer
AT_ONCE_FROM = 5  # keys: fewer are faster one by one
BATCH_BYTES = 1_000_000  # under the broker's default max.message.bytes
CODEC, CODEC_LEVEL = "zstd", 1  # of what we publish (ADR-0112)
CODECS = ("gzip", "snappy", "lz4", "zstd")  # of Kafka

_SEED, _MIX, _32_BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF

_encoder = msgspec.json.Encoder()
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000|\x00")  # by JSON, or bare; Postgres keeps neither
_decoders = {name.encode(): msgspec.json.Decoder(kind) for name, kind in (EVENTS | {Watermark.type: Watermark}).items()}


class Undecodable(ValueError):
    """A record that no version of ours can read: bad headers or a bad value."""


def partition_of(key: str, partitions: int) -> int:
    """Return the key's partition by Kafka's default (murmur2)."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit MurmurHash2, in a third of the time of aiokafka's own."""
    words, left = divmod(len(data), 4)
    digest = _SEED ^ len(data)
    for word in struct.unpack_from(f"<{words}I", data):
        mixed = word * _MIX & _32_BITS
        digest = (digest * _MIX & _32_BITS) ^ ((mixed ^ mixed >> 24) * _MIX & _32_BITS)
    if left:
        digest = (digest ^ int.from_bytes(data[-left:], "little")) * _MIX & _32_BITS
    digest = (digest ^ digest >> 13) * _MIX & _32_BITS
    return digest ^ digest >> 15


def partitions_of(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Return `partition_of` each key: for several keys of equal length in a third of the time."""
    return [digest % partitions for digest in digests_of(keys)]


def digests_of(keys: Sequence[bytes]) -> list[int]:
    """Return the hash of each key: the remainder by a count of partitions is the key's partition. Pure."""
    alike = len(keys) >= AT_ONCE_FROM and len(set(map(len, keys))) == 1 and sys.byteorder == "little"
    digests = _murmur2_alike(keys) if alike else map(murmur2, keys)
    return [digest & 0x7FFFFFFF for digest in digests]


def _murmur2_alike(keys: Sequence[bytes]) -> Iterable[int]:
    """Return `murmur2` of keys of equal length, at once, in lanes of 64 bits."""
    many, length = len(keys), len(keys[0])
    whole, width = length // 4, -(-length // 4)
    words = array("I", b"".join(keys if whole == width else [key.ljust(4 * width, b"\0") for key in keys]))
    columns = [int.from_bytes(array("Q", words[at::width]), "little") for at in range(width)]
    low32, low19, low17, low8 = (
        int.from_bytes(array("Q", [(1 << bits) - 1]) * many, "little") for bits in (32, 19, 17, 8)
    )
    digest = int.from_bytes(array("Q", [_SEED ^ length]) * many, "little")
    for word in columns[:whole]:
        mixed = word * _MIX & low32
        digest = (digest * _MIX & low32) ^ ((mixed ^ (mixed >> 24 & low8)) * _MIX & low32)
    for word in columns[whole:]:
        digest = (digest ^ word) * _MIX & low32
    digest = (digest ^ (digest >> 13 & low19)) * _MIX & low32
    return array("Q", (digest ^ (digest >> 15 & low17)).to_bytes(8 * many, "little"))


def encode(event: Event) -> bytes:
    return _encoder.encode(event)


def header_of(headers: Sequence[tuple[str, bytes | None]], wanted: str) -> bytes | None:
    """Return the first value of a header, None where missing."""
    for name, value in headers:
        if name == wanted:
            return value
    return None


def number_of(headers: Sequence[tuple[str, bytes | None]]) -> int | None:
    """Return the relay's number of a record, None where missing or malformed."""
    value = header_of(headers, NUMBER)
    return int(value) if value is not None and value.isdigit() and len(value) < 19 else None


def cloud_event_headers(
    event_type: str, event_id: UUID, source: str, time: datetime, traceparent: str | None
) -> Headers:
    """Return headers of CloudEvents 1.0 (Kafka, binary mode)."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(event_id).encode()),
        ("ce_source", f"/placet/{source}".encode()),
        ("ce_type", event_type.encode()),
        ("ce_time", time.isoformat().encode()),
        ("content-type", b"application/json"),
    ]
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return headers


def decode(value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> Event | None:
    """Return the event, or None for a type unknown to this version. Raises Undecodable."""
    name = header_of(headers, "ce_type")
    if name is None:
        raise Undecodable("no ce_type header")
    return decode_as(name, value)


def decode_as(event_type: bytes, value: bytes | None) -> Event | None:
    """Return an event of this type, or None for a type unknown to this version. Raises Undecodable."""
    decoder = _decoders.get(event_type)
    if decoder is None:
        return None
    if value and _may_hold_a_nul(value) and _NUL.search(value):  # the search alone takes 20 µs
        raise Undecodable("a NUL in a text")
    try:
        return decoder.decode(value or b"")
    except UnicodeDecodeError:
        raise Undecodable("a text that is no UTF-8") from None
    except msgspec.DecodeError as error:
        raise Undecodable(_without_the_value(str(error))) from None  # the cause carries the value
    except RecursionError:
        raise Undecodable("more levels of lists and objects than any event has") from None


def _may_hold_a_nul(value: bytes) -> bool:
    """Look for single bytes first: to look for five takes a third as long as the decoding of the value."""
    return (b"\\" in value and b"u0000" in value) or b"\x00" in value


def _without_the_value(why: str) -> str:
    """Return msgspec's error without the record's value."""
    wrong = "Invalid enum value"
    return f"{wrong} - at {why.rpartition(' - at ')[2]}" if why.startswith(wrong) else why


class Connection(TypedDict, total=False):
    """The arguments of every Kafka client."""

    bootstrap_servers: Required[str]
    security_protocol: str
    ssl_context: ssl.SSLContext
    sasl_mechanism: str
    sasl_plain_username: str | None
    sasl_plain_password: str


def connection(settings: ServiceSettings) -> Connection:
    """Return these arguments. Raises OSError for a file without a certificate."""
    told = Connection(bootstrap_servers=settings.kafka_bootstrap)
    if not settings.kafka_tls:
        return told
    context = ssl.create_default_context(cafile=settings.kafka_ca_file)
    if settings.kafka_cert_file is not None:
        context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
    told["security_protocol"], told["ssl_context"] = "SSL", context
    if settings.kafka_sasl is not None and settings.kafka_password is not None:
        told["security_protocol"] = "SASL_SSL"
        told["sasl_mechanism"] = settings.kafka_sasl
        told["sasl_plain_username"] = settings.kafka_user
        told["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return told


def producer(settings: ServiceSettings, fence: str | None = None, codec: str | None = CODEC) -> AIOKafkaProducer:
    """Return a producer with acks=all, idempotent where the broker can be. `fence`: see `Outlet`."""
    return AIOKafkaProducer(
        transactional_id=fence,
        **connection(settings),
        acks="all",
        compression_type=codec,
        enable_idempotence=settings.kafka_idempotence,
        max_batch_size=BATCH_BYTES,
        max_request_size=4 * BATCH_BYTES,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        retry_backoff_ms=RETRY_BACK_OFF_MS,
    )


def compress_at(level: int) -> None:
    """Set the level of Zstandard for what this process publishes.

    aiokafka has no setting of it, and takes 3: twice the time of 1, for no fewer bytes of ours.
    """
    vars(sys.modules[DefaultRecordBatchBuilder.__module__])["zstd_encode"] = functools.partial(
        codec.zstd_encode, level=level
    )


compress_at(CODEC_LEVEL)


def missing_codecs() -> list[str]:
    """Return the codecs of Kafka that this process cannot decompress: their libraries come with extras of aiokafka."""
    return [name for name in CODECS if not getattr(codec, f"has_{name}")()]


class WrongTopic(RuntimeError):
    """A topic differs from the topic table or the settings; the text has the remedy."""


class Wanted(msgspec.Struct, frozen=True):
    """A topic's required shape.

    `people`: of a wide topic, the partitions of people. The topic may have any multiple of them, from `least` on: its
    publisher adds partitions later, and a process with the settings of before may start again.
    """

    partitions: int
    replicas: int
    config: dict[str, str]
    people: int | None = None
    least: int = 1

    def has_right(self, partitions: int) -> bool:
        """Return whether the count of partitions is right."""
        if self.people is None:
            return partitions == self.partitions
        return partitions >= self.least and partitions % self.people == 0


async def ensure_topics(settings: ServiceSettings, topics: Sequence[Topic]) -> None:
    """Create missing topics, each with its dead letters, and check existing ones.

    Raises WrongTopic; KafkaError where the caller may try again.
    """
    in_sync = {
        "min.insync.replicas": str(max(settings.kafka_replication - 1, 1)),  # one replica may be lost
        "unclean.leader.election.enable": "false",  # a lagging leader loses acknowledged records
    }
    wanted: dict[str, Wanted] = {}
    for topic in topics:
        replicas = settings.kafka_replication
        few, many = settings.partitions, settings.wide_partitions
        shape = Wanted(few, replicas, topic.config | in_sync)
        if topic.wide:  # a broker without groups is asked for no more partitions
            shape = Wanted(many, replicas, shape.config, few, few if settings.kafka_groups else many)
        wanted[settings.topic_prefix + topic.name] = shape
        letters = Wanted(1, replicas, topic.dead_letters_config | in_sync)
        wanted[settings.topic_prefix + topic.dead_letters] = letters
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=REQUEST_TIMEOUT_MS)
    await admin.start()
    try:
        existing = set(await _known(admin.list_topics))
        if missing := wanted.keys() - existing:
            await _create(admin, [_new(name, wanted[name]) for name in sorted(missing)])
        found = await _known(lambda: _replicas(admin, list(wanted)))
        configs = await _known(lambda: _configs(admin, list(wanted)))
    finally:
        await admin.close()
    wrong = [
        line
        for name, shape in wanted.items()
        for line in differences(name, shape, found[name], configs.get(name), missing_codecs())
    ]
    if wrong:
        raise WrongTopic("\n".join(wrong))


def differences(
    name: str,
    wanted: Wanted,
    replicas: Sequence[int],
    config: Mapping[str, str] | None,
    missing_codecs: Collection[str] = (),
) -> list[str]:
    """Return each fault of a topic, with its remedy. Pure.

    `config`: `None` where we may not read the settings. More replicas than wanted, in sync or not, are no fault.
    """
    wrong, least = [], min(replicas, default=0)
    if wanted.people is not None and not wanted.has_right(len(replicas)):
        wrong.append(
            f"{name} has {len(replicas)} partitions, settings say {wanted.partitions}: set PLACET_WORK_PARTITIONS to"
            f" what is there, or add partitions up to a multiple of {wanted.people}; the local broker adds none"
        )
    elif not wanted.has_right(len(replicas)):
        wrong.append(
            f"{name} has {len(replicas)} partitions, settings say {wanted.partitions}: set PLACET_PARTITIONS to what is"
            " there, or make the topic anew; a count that changes moves subjects between partitions"
        )
    if least < wanted.replicas:
        wrong.append(
            f"{name} has {least} replicas, settings say {wanted.replicas}: kafka-reassign-partitions.sh adds them, or"
            f" PLACET_KAFKA_REPLICATION={least} says that there are no more brokers"
        )
    if config is None:
        return [*wrong, f"{name}: its settings cannot be read: allow DescribeConfigs on this topic"]
    for setting, value in wanted.config.items():
        found = config.get(setting)
        enough = setting in AT_LEAST and found is not None and int(found) >= int(value)
        if found != value and not enough:
            wrong.append(_remedy(name, setting, found or "not set", value, value))
    if (size := config.get("retention.bytes", "-1")) != "-1" and "delete" in wanted.config.get("cleanup.policy", ""):
        wrong.append(_remedy(name, "retention.bytes", size, "-1", "-1"))  # else a busy day shortens the seven days
    if (largest := int(config.get("max.message.bytes", BATCH_BYTES))) < BATCH_BYTES:
        wrong.append(_remedy(name, "max.message.bytes", largest, f"{BATCH_BYTES} or more", 1_048_588))
    if (compression := config.get("compression.type")) in missing_codecs:
        readable = "another codec, or this process needs its library (aiokafka[lz4,snappy,zstd])"
        wrong.append(_remedy(name, "compression.type", compression, readable, "producer"))
    return wrong


def _remedy(name: str, setting: str, found: object, must_be: str, value: object) -> str:
    return (
        f"{name}: {setting} is {found}, and must be {must_be}: kafka-configs.sh --alter"
        f" --entity-type topics --entity-name {name} --add-config {setting}={value}"
    )


def _new(name: str, wanted: Wanted) -> NewTopic:
    return NewTopic(name, wanted.partitions, wanted.replicas, topic_configs=wanted.config)


async def add_partitions(settings: ServiceSettings, topics: Sequence[Topic], count: int) -> None:
    """Give each topic `count` partitions, unless it has as many. Raises KafkaError."""
    names = [settings.topic_prefix + topic.name for topic in topics]
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=REQUEST_TIMEOUT_MS)
    await admin.start()
    try:
        there = await _known(lambda: _replicas(admin, names))
        if few := [name for name in names if len(there[name]) < count]:
            await admin.create_partitions({name: NewPartitions(count) for name in few})
    finally:
        await admin.close()


async def _known(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until a broker answers and all know a new topic, for KNOWN_WITHIN_S."""
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        await asyncio.sleep(RETRY_BACK_OFF_MS / 1000)


async def _replicas(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, list[int]]:
    """Return the replicas of each partition, by topic."""
    found = await admin.describe_topics(names)
    for topic in found:
        if topic["error_code"]:
            raise for_code(topic["error_code"])(f"describing {topic['topic']}")
    return {topic["topic"]: [len(part["replicas"]) for part in topic["partitions"]] for topic in found}


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Return the settings that we may read, by topic."""
    found = {}
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names]):
        for code, _, _, name, entries in answer.resources:
            if not code:
                found[name] = {entry[0]: entry[1] for entry in entries}  # the local broker cannot select settings
            elif for_code(code) is not TopicAuthorizationFailedError:
                raise for_code(code)(f"the settings of {name}")
    return found


async def _create(admin: AIOKafkaAdminClient, missing: list[NewTopic]) -> None:
    answer = await admin.create_topics(missing)
    for name, code, *_ in answer.topic_errors:
        if code and for_code(code) is not TopicAlreadyExistsError:  # another service was first
            raise for_code(code)(f"creating {name}")


class Shut(KafkaError):  # type: ignore[misc]
    """An error that aiokafka does not retry."""


class Outlet:
    """A producer that can be shut, and then writes no more; otherwise it retries until success, however late.

    `fence`: a name under which a single producer may write. Starting takes a new epoch from Kafka; a partition with a
    batch of that epoch refuses earlier epochs (ADR-0006). A broker without producer ids has no fence.
    """

    codec: ClassVar[str | None] = CODEC

    def __init__(self, settings: ServiceSettings, fence: str | None = None) -> None:
        self.producer = producer(settings, fence if settings.kafka_idempotence else None, self.codec)
        self.is_shut = False
        self.until = math.inf  # `uptime_s` after which no batch is written
        self._client: AIOKafkaClient = self.producer.client
        self._send = self._client.send
        self._client.send = self._send_unless_shut
        accumulator = self.producer._message_accumulator
        self._begin_batch = accumulator._append_batch
        accumulator._append_batch = self._watched

    async def start(self) -> None:
        """Connect, and take the epoch. The caller must `end` the outlet even where this fails."""
        await self.producer.start()
        if self.producer._txn_manager is not None:
            # Kafka checks every batch's epoch: no transaction is needed
            self.producer._txn_manager.transactional_id = None

    async def _send_unless_shut(self, node_id: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        """Send a request, unless the outlet is shut: checked immediately before the write."""
        if isinstance(request, ProduceRequest):
            if not await self._client.ready(node_id, group=group):
                raise NodeNotReadyError
            now = uptime_s()
            self.is_shut = self.is_shut or now > self.until or not self._may_begin(now)
            if self.is_shut:
                raise Shut
        return await self._send(node_id, request, group=group)

    def _watched(self, builder: BatchBuilder, partition: TopicPartition) -> MessageBatch:
        """Begin a batch whose errors are retrieved in any case.

        A caller that gives up leaves its batch behind, and a shut outlet fails the batch: the log would tell of each of
        the batch's futures as an error that nobody has looked at.
        """
        batch: MessageBatch = self._begin_batch(builder, partition)
        batch.future.add_done_callback(functools.partial(_all_seen, batch))
        return batch

    async def knows(self, topic: str, partitions: int) -> bool:
        """Return whether the producer knows so many partitions of a topic; else the broker is asked anew."""
        if len(self._client.cluster.partitions_for_topic(topic) or ()) >= partitions:
            return True
        await self._client.add_topic(topic)
        await self._client.force_metadata_update()
        return len(self._client.cluster.partitions_for_topic(topic) or ()) >= partitions

    def _may_begin(self, now: float) -> bool:
        """Return whether the waiting batches may be written at `now`."""
        return True

    def shut(self) -> None:
        """Fail waiting batches, and reset connections."""
        self.is_shut = True
        self.producer._message_accumulator.fail_all(Shut())  # else `stop` waits for these writes
        for connection in list(self._client._conns.values()):
            _reset(connection)

    async def end(self) -> None:
        """Shut the outlet and close its connections, ignoring errors, within 2 * ENDS_WITHIN_S.

        The producer stops first: its sender may wait for metadata, which a closed client never asks for.
        """
        self.shut()
        for close in (self.producer.stop, self._client.close):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ENDS_WITHIN_S):
                    await close()


def seen(acknowledged: asyncio.Future[Any]) -> None:
    """Retrieve the error of a future that is done, as the caller may have left."""
    if not acknowledged.cancelled():
        acknowledged.exception()


def _all_seen(batch: MessageBatch, _: asyncio.Future[Any]) -> None:
    """Retrieve the errors of a batch that has ended: its own, its drain's and its messages'."""
    for future in (batch.future, batch._drain_waiter, *(future for future, _ in batch._msg_futures)):
        if future.done():
            seen(future)


def _reset(connection: AIOKafkaConnection) -> None:
    """Close a connection and drop its buffer, which the kernel would send for minutes."""
    if connection._writer is not None:
        transport = connection._writer.transport
        with contextlib.suppress(OSError, ValueError):  # already closed; uvloop says ValueError
            at_once = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        transport.abort()
