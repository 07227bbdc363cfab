"""The broker: topics as in the topic table, a single partitioner, binary-mode CloudEvents on the wire.

Only `common` talks to Kafka. Every event leaves through `common.kafka.outbox` and arrives through
`common.kafka.consumer`.
"""

import asyncio
import contextlib
import logging
import math
import re
import socket
import ssl
import struct
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Required, TypedDict, TypeVar
from uuid import UUID, uuid4

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    KafkaError,
    NodeNotReadyError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest

from common.contracts import EVENTS, Event, Topic, Watermark
from common.db.timer import uptime_s
from common.settings import ServiceSettings
from common.telemetry import traceparent

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes]]
NUMBER = "placet-number"  # header: the relay's number of a record in its partition, from 1; decimal
T = TypeVar("T")

REQUEST_TIMEOUT_MS = 10_000
RETRY_BACK_OFF_MS = 250
KNOWN_WITHIN_S = 15.0
BATCH_BYTES = 1_000_000  # under the broker's default max.message.bytes

_SEED, _MIX, _32_BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF

_encoder = msgspec.json.Encoder()
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000|\x00")  # escaped by JSON, or bare; Postgres keeps neither
_decoders = {name.encode(): msgspec.json.Decoder(kind) for name, kind in (EVENTS | {Watermark.type: Watermark}).items()}


class Undecodable(ValueError):
    """A record that no version of ours can read: bad headers, or a value not of its type's shape."""


def partition_of(key: str, partitions: int) -> int:
    """Return the key's partition by Kafka's default (murmur2).

    So the records of a subject share a partition, whichever client writes them.
    """
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit MurmurHash2. aiokafka's own takes three times as long, for each event."""
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
    """Return `partition_of` each key: five times as fast for keys of equal length, such as subject ids."""
    alike = len(set(map(len, keys))) == 1 and sys.byteorder == "little"
    digests = _murmur2_alike(keys) if alike else map(murmur2, keys)
    return [(digest & 0x7FFFFFFF) % partitions for digest in digests]


def _murmur2_alike(keys: Sequence[bytes]) -> Iterable[int]:
    """Return `murmur2` of keys of equal length, all at once.

    Each key has a lane of 64 bits in a few long integers; the product of two 32-bit words fits.
    """
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


def number_of(headers: Sequence[tuple[str, bytes]]) -> int | None:
    """Return the relay's number of a record; None where the header is missing or malformed."""
    for name, value in headers:
        if name == NUMBER:
            return int(value) if value.isdigit() and len(value) < 19 else None
    return None


def cloud_event_headers(
    event_type: str, event_id: UUID, source: str, time: datetime, traceparent: str | None
) -> Headers:
    """Return headers of CloudEvents 1.0, Kafka binding, binary mode."""
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
    """Return the event, or None for a type unknown to this version (forward compatibility). Raises Undecodable."""
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
        raise Undecodable(_without_the_value(str(error))) from None  # the cause would carry the value into the log


def _without_the_value(why: str) -> str:
    """Return msgspec's error without the record's value, which msgspec repeats for a wrong enum value."""
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
    """Return the arguments of every Kafka client: brokers, TLS, credentials.

    Raises OSError for a file without a certificate.
    """
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


def producer(settings: ServiceSettings, fence: str | None = None) -> AIOKafkaProducer:
    """Return a producer with acks=all, idempotent where the broker can be (settings.kafka_idempotence).

    `fence`: see `Outlet`.
    """
    return AIOKafkaProducer(
        transactional_id=fence,
        **connection(settings),
        acks="all",
        enable_idempotence=settings.kafka_idempotence,
        max_batch_size=BATCH_BYTES,
        max_request_size=4 * BATCH_BYTES,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        retry_backoff_ms=RETRY_BACK_OFF_MS,
    )


class WrongTopic(RuntimeError):
    """A topic differs from the topic table and the settings. The text says how, and what to do."""


class Wanted(msgspec.Struct, frozen=True):
    """The required shape of a topic."""

    partitions: int
    replicas: int
    config: dict[str, str]


async def ensure_topics(settings: ServiceSettings, topics: Sequence[Topic]) -> None:
    """Create missing topics, each with its dead letters, and check existing topics.

    Raises WrongTopic, and KafkaError where the caller may try again.
    """
    in_sync = {
        "min.insync.replicas": str(max(settings.kafka_replication - 1, 1)),  # one replica may be lost
        "unclean.leader.election.enable": "false",  # a lagging leader loses acknowledged records
    }
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
    """Return each fault of a topic, with its remedy. Pure.

    `replicas`: of each partition. `config`: the broker's; None where we lack the right to read the settings. More
    replicas, or more in-sync replicas, than wanted are no fault.
    """
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
    """Return the answer of `ask`, asking again within KNOWN_WITHIN_S after a retriable error.

    A topic made a moment ago is not known to every broker yet.
    """
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        await asyncio.sleep(RETRY_BACK_OFF_MS / 1000)


async def _replicas(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, list[int]]:
    """Return the count of replicas of each partition, by topic."""
    found = await admin.describe_topics(names)
    for topic in found:
        if topic["error_code"]:
            raise for_code(topic["error_code"])(f"describing {topic['topic']}")
    return {topic["topic"]: [len(part["replicas"]) for part in topic["partitions"]] for topic in found}


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Return the settings by topic, without topics whose settings we have no right to read."""
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


class NotPublished(Exception):
    """No publishing has begun: no broker, no such topic, or no right to write to the topic.

    `ours`: the topic or the right is missing, and we must act; without a broker False.
    """

    def __init__(self, why: str, *, ours: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.ours = ours


# The outcome of a record. logged: acknowledged by all in-sync replicas. not begun: never sent, and never will be.
# unknown: may be in the log.
Published = Literal["logged", "not begun", "unknown"]


class _Shut(KafkaError):  # type: ignore[misc]
    """An error that aiokafka does not retry."""


@dataclass(slots=True, eq=False)
class _Writing:
    """A batch with a waiting caller. `begun`: a request with the batch has gone to a broker."""

    batch: BatchBuilder
    begin_by: float
    begun: bool = False


def _seen(acknowledged: asyncio.Future[Any]) -> None:
    """Retrieve the error, as the caller may have left."""
    if not acknowledged.cancelled():
        acknowledged.exception()


class Outlet:
    """A producer that can be shut, and then writes no more.

    By itself an idempotent producer retries until success, however late, even while stopping.

    `fence`: a name under which a single producer may write. A producer which starts under the name takes a new epoch of
    the name's producer id from Kafka; a partition with a batch of that epoch refuses batches of earlier epochs
    (ADR-0006). A broker without producer ids (settings.kafka_idempotence) has no fence.
    """

    def __init__(self, settings: ServiceSettings, fence: str | None = None) -> None:
        self.producer = producer(settings, fence if settings.kafka_idempotence else None)
        self.is_shut = False
        self.until = math.inf  # `uptime_s` after which no batch is written
        self.writing: set[_Writing] = set()
        self.partitions: dict[str, int] = {}  # of each ready topic
        self._client: AIOKafkaClient = self.producer.client
        self._send = self._client.send
        self._client.send = self._send_unless_shut

    async def start(self) -> None:
        """Connect, and take the epoch. The caller must `end` the outlet even where this fails."""
        await self.producer.start()
        if self.producer._txn_manager is not None:
            # Kafka checks the epoch of every batch, so batches need no transaction.
            self.producer._txn_manager.transactional_id = None

    async def _send_unless_shut(self, node_id: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        """Send a request of the producer, unless the outlet is shut.

        Connecting may take a while, so the checks follow the connection and the write follows the checks at once.
        """
        if isinstance(request, ProduceRequest):
            if not await self._client.ready(node_id, group=group):
                raise NodeNotReadyError
            made, now = [each for each in self.writing if each.batch.closed()], uptime_s()
            self.is_shut = self.is_shut or now > self.until
            self.is_shut = self.is_shut or any(now > each.begin_by for each in made if not each.begun)
            if self.is_shut:
                raise _Shut
            for each in made:  # also a batch about to go to another node
                each.begun = True
        return await self._send(node_id, request, group=group)

    def shut(self) -> None:
        """Write no more: fail waiting batches, and reset connections with their unsent bytes."""
        self.is_shut = True
        self.producer._message_accumulator.fail_all(_Shut())  # else `stop` waits for these writes
        for connection in list(self._client._conns.values()):
            _reset(connection)

    async def end(self) -> None:
        """Shut the outlet and close its connections, ignoring errors."""
        self.shut()
        with contextlib.suppress(Exception):
            await self._client.close()
        with contextlib.suppress(Exception):
            await self.producer.stop()


def _reset(connection: AIOKafkaConnection) -> None:
    """Close a connection at once.

    By default the kernel goes on sending its buffer for minutes; a linger of 0 s drops the buffer.
    """
    if connection._writer is not None:
        transport = connection._writer.transport
        with contextlib.suppress(OSError, ValueError):  # already closed; uvloop says ValueError
            at_once = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        transport.abort()


class Publisher:
    """Publishes without an outbox: only for messages handed to an operator's topic.

    Their outcome is Kafka's acknowledgement, and no transaction is open meanwhile. The publisher makes its producer on
    first use, and a new producer after any error: the old producer may be fenced, or hold a stale sequence, and must
    not write an abandoned message.
    """

    def __init__(self, settings: ServiceSettings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._starting = asyncio.Lock()
        self._outlet: Outlet | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def ready(self, topic: Topic, *, until: float) -> None:
        """Start a producer that knows the topic. Raises NotPublished.

        `until`, here and in `publish`: on the loop's clock.
        """
        try:
            async with asyncio.timeout_at(until), self._starting:
                if self._outlet is None:
                    fresh = Outlet(self._settings)
                    try:
                        await fresh.start()
                    except BaseException:
                        await fresh.end()
                        raise
                    self._outlet = fresh
                name = self._settings.topic_prefix + topic.name
                self._outlet.partitions[name] = len(await self._outlet.producer.partitions_for(name))
        except (KafkaError, TimeoutError, OSError) as error:
            mine = isinstance(error, (UnknownTopicOrPartitionError, TopicAuthorizationFailedError))
            raise NotPublished(type(error).__name__, ours=mine) from None

    async def publish(self, topic: Topic, events: Sequence[Event], *, until: float, begin_by: float) -> list[Published]:
        """Publish, and return the outcome of each event. The caller must have called `ready`.

        No batch is sent after `begin_by` (`uptime_s`). A batch sent by then is awaited until `until`; the producer may
        resend the batch meanwhile.
        """
        outlet = self._outlet
        if outlet is None:
            raise RuntimeError("not ready")
        name = self._settings.topic_prefix + topic.name
        partitions = outlet.partitions[name]
        by_partition: dict[int, list[int]] = {}
        for place, event in enumerate(events):
            by_partition.setdefault(partition_of(event.key, partitions), []).append(place)
        batches: list[tuple[int, BatchBuilder, list[int]]] = []
        for partition, places in by_partition.items():
            batches.append((partition, outlet.producer.create_batch(), []))
            for place in places:
                if not self._appended(batches[-1][1], events[place]):
                    batches.append((partition, outlet.producer.create_batch(), []))
                    if not self._appended(batches[-1][1], events[place]):
                        raise ValueError("an event larger than a batch")
                batches[-1][2].append(place)
        outcomes = await asyncio.gather(
            *(self._written(outlet, name, at, _Writing(batch, begin_by), until) for at, batch, _ in batches)
        )
        by_place = {place: said for (*_, places), said in zip(batches, outcomes, strict=True) for place in places}
        return [by_place[place] for place in range(len(events))]

    def _appended(self, batch: BatchBuilder, event: Event) -> bool:
        headers = cloud_event_headers(event.type, uuid4(), self._service, datetime.now(UTC), traceparent())
        added = batch.append(key=event.key.encode(), value=encode(event), timestamp=None, headers=headers)
        return added is not None

    async def _written(self, outlet: Outlet, name: str, partition: int, one: _Writing, until: float) -> Published:
        late_at = asyncio.get_running_loop().time() + one.begin_by - uptime_s()
        acknowledged: asyncio.Future[Any] | None = None
        outlet.writing.add(one)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(late_at, until)):
                    acknowledged = await outlet.producer.send_batch(one.batch, name, partition=partition)
                    acknowledged.add_done_callback(_seen)
                    await asyncio.wait({acknowledged})
            if acknowledged is None or not (one.begun or acknowledged.done()):
                raise TimeoutError
            async with asyncio.timeout_at(until):
                await acknowledged
            return "logged"
        except (_Shut, TimeoutError):
            self._shut(outlet)
            return "unknown" if one.begun else "not begun"
        except Exception as error:  # no blind retry: the error may come again at once, for ever
            log.warning("a batch could not be written", extra={"topic": name, "why": type(error).__name__})
            self._shut(outlet)
            return "unknown"
        except BaseException:
            self._shut(outlet)
            raise
        finally:
            outlet.writing.discard(one)
            if outlet.is_shut and not outlet.writing:
                self._end(outlet)

    async def close(self) -> None:
        if self._outlet is not None:
            held, self._outlet = self._outlet, None
            await held.end()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _shut(self, outlet: Outlet) -> None:
        """Retire an outlet. Batches in flight may still be answered."""
        outlet.is_shut = True
        if self._outlet is outlet:
            self._outlet = None

    def _end(self, outlet: Outlet) -> None:
        task = asyncio.create_task(outlet.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
