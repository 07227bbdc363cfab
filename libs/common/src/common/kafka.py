"""The broker: topics as the topic table says, one partitioner, binary-mode CloudEvents on the wire.

Only `common` talks to Kafka. Everything leaves through `common.outbox` and arrives through `common.consumer`.
"""

import asyncio
import re
import ssl
import struct
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from common.contracts import EVENTS, Event, Topic, Watermark
from common.settings import ServiceSettings
from common.telemetry import traceparent

Headers = list[tuple[str, bytes]]
T = TypeVar("T")

REQUEST_TIMEOUT_MS = 10_000
RETRY_BACK_OFF_MS = 250
KNOWN_WITHIN_S = 15.0
BATCH_BYTES = 1_000_000  # under the broker's default max.message.bytes

_SEED, _MIX, _32_BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF

_encoder = msgspec.json.Encoder()
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000|\x00")  # as JSON escapes it, or bare; Postgres keeps neither
_decoders = {name.encode(): msgspec.json.Decoder(kind) for name, kind in (EVENTS | {Watermark.type: Watermark}).items()}


class Undecodable(ValueError):
    """A record that no version of ours reads: bad headers or a value that is not its type's shape."""


def partition_of(key: str, partitions: int) -> int:
    """Kafka's own default (murmur2), so that any client's records of one subject meet in one partition."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 as Kafka seeds it, 32 bits: aiokafka's own takes three times as long, once for each event."""
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
    """`partition_of` each. Where all are of one length, as subject ids of one key are, in a fifth of the time."""
    alike = len(set(map(len, keys))) == 1 and sys.byteorder == "little"
    digests = _murmur2_alike(keys) if alike else map(murmur2, keys)
    return [(digest & 0x7FFFFFFF) % partitions for digest in digests]


def _murmur2_alike(keys: Sequence[bytes]) -> Iterable[int]:
    """`murmur2` of keys of one length, all at once: each has 64 bits of its own in a few long integers, of which a
    product of two words of 32 needs no more."""
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


def cloud_event_headers(
    event_type: str, event_id: UUID, source: str, time: datetime, traceparent: str | None
) -> Headers:
    """CloudEvents 1.0, Kafka binding, binary mode."""
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


def decode(value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> Event | None:
    """The event, or None for a type this version does not know (forward compatibility). Raises Undecodable."""
    name = dict(headers).get("ce_type")
    if name is None:
        raise Undecodable("no ce_type header")
    decoder = _decoders.get(name)
    if decoder is None:
        return None
    if value and (b"u0000" in value or b"\x00" in value) and _NUL.search(value):  # the search alone takes 20 µs
        raise Undecodable("a NUL in a text")
    try:
        return decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(_without_the_value(str(error))) from None  # the cause would carry it into the log


def _without_the_value(why: str) -> str:
    """msgspec names the path and the expected type; only of a wrong enum value it repeats what it was given."""
    wrong = "Invalid enum value"
    return f"{wrong} - at {why.rpartition(' - at ')[2]}" if why.startswith(wrong) else why


def connection(settings: ServiceSettings) -> dict[str, Any]:
    """How any client of ours reaches the brokers: where, over TLS or not, as whom. Raises OSError for a file that holds
    no certificate."""
    told: dict[str, Any] = {"bootstrap_servers": settings.kafka_bootstrap}
    if not settings.kafka_tls:
        return told
    context = ssl.create_default_context(cafile=settings.kafka_ca_file)
    if settings.kafka_cert_file is not None:
        context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
    told |= {"security_protocol": "SSL", "ssl_context": context}
    if settings.kafka_sasl is not None and settings.kafka_password is not None:
        told |= {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": settings.kafka_sasl,
            "sasl_plain_username": settings.kafka_user,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
    return told


def producer(settings: ServiceSettings) -> AIOKafkaProducer:
    """acks=all and idempotent, unless the broker cannot (settings.kafka_idempotence)."""
    return AIOKafkaProducer(
        **connection(settings),
        acks="all",
        enable_idempotence=settings.kafka_idempotence,
        max_batch_size=BATCH_BYTES,
        max_request_size=4 * BATCH_BYTES,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        retry_backoff_ms=RETRY_BACK_OFF_MS,
    )


class WrongTopic(RuntimeError):
    """A topic exists and is not as the topic table and the settings have it. The text says what is wrong in each, and
    what to do."""


class Wanted(msgspec.Struct, frozen=True):
    """How a topic must be."""

    partitions: int
    replicas: int
    config: dict[str, str]


async def ensure_topics(settings: ServiceSettings, topics: Sequence[Topic]) -> None:
    """Create what is missing, each topic with its dead letters; look at what is there. Raises WrongTopic, and
    KafkaError where it may be tried again."""
    in_sync = {"min.insync.replicas": str(max(settings.kafka_replication - 1, 1))}  # one replica may be lost
    wanted: dict[str, Wanted] = {}
    for topic in topics:
        for name, partitions, config in (
            (topic.name, settings.partitions, topic.config),
            (topic.dead_letters, 1, topic.dead_letters_config),
        ):
            wanted[settings.topic_prefix + name] = Wanted(partitions, settings.kafka_replication, config | in_sync)
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=REQUEST_TIMEOUT_MS)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        if missing := wanted.keys() - existing:
            await _create(admin, [_new(name, wanted[name]) for name in sorted(missing)])
        replicas = await _known(lambda: _replicas(admin, list(wanted)))
        configs = await _known(lambda: _configs(admin, list(wanted)))
    finally:
        await admin.close()
    wrong = [
        line for name, topic in wanted.items() for line in differences(name, topic, replicas[name], configs.get(name))
    ]
    if wrong:
        raise WrongTopic("\n".join(wrong))


def differences(name: str, wanted: Wanted, replicas: Sequence[int], config: Mapping[str, str] | None) -> list[str]:
    """What is wrong with a topic, and what to do. `replicas`: of each partition; `config`: as the broker has it, None
    where it does not let us look. More replicas, and more of them in sync, than wanted are right. Pure."""
    wrong, least = [], min(replicas, default=0)
    if len(replicas) != wanted.partitions:
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
        enough = setting == "min.insync.replicas" and found is not None and int(found) >= int(value)
        if found != value and not enough:
            wrong.append(
                f"{name}: {setting} is {found or 'not set'}, and must be {value}: kafka-configs.sh --alter"
                f" --entity-type topics --entity-name {name} --add-config {setting}={value}"
            )
    return wrong


def _new(name: str, wanted: Wanted) -> NewTopic:
    return NewTopic(name, wanted.partitions, wanted.replicas, topic_configs=wanted.config)


async def _known(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer. A topic made a moment ago is not known to every broker yet: within KNOWN_WITHIN_S it is asked for
    again."""
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        await asyncio.sleep(RETRY_BACK_OFF_MS / 1000)


async def _replicas(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, list[int]]:
    """How many there are of each partition."""
    found = await admin.describe_topics(names)
    for topic in found:
        if topic["error_code"]:
            raise for_code(topic["error_code"])(f"describing {topic['topic']}")
    return {topic["topic"]: [len(part["replicas"]) for part in topic["partitions"]] for topic in found}


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """The settings by topic, without those topics whose settings we have no right to see."""
    found = {}
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names]):
        for code, _, _, name, entries in answer.resources:
            if not code:
                found[name] = {entry[0]: entry[1] for entry in entries}  # all: the local broker takes no choice of them
            elif for_code(code) is not TopicAuthorizationFailedError:
                raise for_code(code)(f"the settings of {name}")
    return found


async def _create(admin: AIOKafkaAdminClient, missing: list[NewTopic]) -> None:
    answer = await admin.create_topics(missing)
    for name, code, *_ in answer.topic_errors:
        if code and for_code(code) is not TopicAlreadyExistsError:  # another service was first: fine
            raise for_code(code)(f"creating {name}")


class NotPublished(Exception):
    """Nothing was begun: no broker, or no such topic, or no right to write to it (then it is `ours` to mend)."""

    def __init__(self, why: str, *, ours: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.ours = ours


class Publisher:
    """For the one thing that leaves without an outbox: a message handed to an operator's topic. Its outcome is the
    acknowledgement, and no transaction is open meanwhile. The producer is made when first needed, and anew after an
    error: it may be fenced, or hold a stale sequence."""

    def __init__(self, settings: ServiceSettings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._starting = asyncio.Lock()
        self._producer: AIOKafkaProducer | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def ready(self, topic: Topic, *, until: float) -> None:
        """`until`, here and below: on the loop's clock. Raises NotPublished."""
        try:
            async with asyncio.timeout_at(until), self._starting:
                if self._producer is None:
                    fresh = producer(self._settings)
                    try:
                        await fresh.start()
                    except BaseException:
                        await fresh.stop()
                        raise
                    self._producer = fresh
                await self._producer.partitions_for(self._settings.topic_prefix + topic.name)
        except (KafkaError, TimeoutError, OSError) as error:
            mine = isinstance(error, (UnknownTopicOrPartitionError, TopicAuthorizationFailedError))
            raise NotPublished(type(error).__name__, ours=mine) from None

    async def publish(self, topic: Topic, event: Event, *, until: float) -> None:
        """In the log of all replicas when it returns. Whatever it raises, the event may be there, or get there yet."""
        held = self._producer
        if held is None:
            raise RuntimeError("not ready")
        headers = cloud_event_headers(event.type, uuid4(), self._service, datetime.now(UTC), traceparent())
        try:
            async with asyncio.timeout_at(until):
                acknowledged = await held.send(
                    self._settings.topic_prefix + topic.name,
                    key=event.key.encode(),
                    value=encode(event),
                    headers=headers,
                )
                await asyncio.shield(acknowledged)
        except BaseException:
            if self._producer is held:
                self._producer = None
                self._let_go(held)
            raise

    async def close(self) -> None:
        if self._producer is not None:
            self._let_go(self._producer)
            self._producer = None
        await asyncio.gather(*self._stopping, return_exceptions=True)

    def _let_go(self, held: AIOKafkaProducer) -> None:
        """It waits for what it still has; nobody waits for it."""
        task = asyncio.create_task(held.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
