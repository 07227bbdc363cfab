"""The Kafka client of a consumer: made, started and ended."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from common.contracts import Topic
from common.db.notify import either
from common.kafka import broker as kafka
from common.kafka import fetching
from common.kafka.fetching import Pace
from common.kafka.reading.dealing import dealer
from common.kafka.subscription import Subscription
from common.kafka.widening import of_topic
from common.settings import ServiceSettings

JOIN_SESSION_MS = 10_000
HEARTBEAT_MS = 1_000
# between two looks of an idle client for partitions to fetch; a seek, answer, read or assignment wakes it at once
LOOK_MS = 2_000
METADATA_MS = 300_000  # a client asks the broker for partitions anew; at once after an error
WIDE_METADATA_MS = 10_000  # the same of a topic that may get more partitions
KNOWN_WITHIN_S = 5.0  # how many there are
END_S = 10.0  # for each part of a client
ISOLATION = "read_committed"  # a record that its producer has taken back was never said (docs/brokers.md)
# of an answer, of each broker to each consumer, and of a partition there; compressed, so the records may have fifteen
# times as many bytes
FETCH_BYTES = 1024 * 1024


def make(
    settings: ServiceSettings, subscription: Subscription, listener: ConsumerRebalanceListener
) -> AIOKafkaConsumer:
    """Return a client of the group, or of every partition where `kafka_groups` is off.

    Shards of people share the group of a topic keyed by subject, each for its own partitions; of other topics, and of
    any topic where shards are of organisations, each shard reads all.
    """
    fetching.hasten()
    topic = settings.topic_prefix + subscription.topic.name
    shared = _is_shared(settings, subscription.topic)
    pace = Pace(subscription, ends_waits=settings.kafka_groups)
    wait_ms, fewest_bytes = pace.following(time.monotonic(), any_records=False)
    client = AIOKafkaConsumer(
        **kafka.connection(settings),
        group_id=group_of(settings, subscription),
        partition_assignment_strategy=(
            dealer(settings.own_partitions, settings.partitions) if shared else RoundRobinPartitionAssignor,
        ),
        metadata_max_age_ms=WIDE_METADATA_MS if subscription.topic.wide else METADATA_MS,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=ISOLATION,
        session_timeout_ms=JOIN_SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        consumer_timeout_ms=LOOK_MS,
        fetch_max_wait_ms=wait_ms,
        fetch_min_bytes=fewest_bytes,
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    if settings.kafka_groups:
        client.subscribe([topic], listener=listener)
    else:
        client.assign([TopicPartition(topic, number) for number in read_of(settings, subscription.topic)])
    fetching.keep_pace(client, pace)
    return client


def group_of(settings: ServiceSettings, subscription: Subscription) -> str:
    """Return the name of the group in Kafka."""
    own = f".{settings.own_shard}" if settings.own_shard and not _is_shared(settings, subscription.topic) else ""
    return f"{settings.topic_prefix}{subscription.group}{own}"


def read_of(settings: ServiceSettings, topic: Topic) -> Sequence[int]:
    """Return the partitions of a topic that the processes with this database read."""
    if topic.keyed_by != "subject_id":
        return range(settings.partitions)
    own, of = frozenset(settings.own_partitions), settings.partitions
    return [partition for partition in range(of_topic(settings, topic)) if partition % of in own]


async def partitions_of(client: AIOKafkaConsumer, topic: str, dealt: Collection[int], wanted: int) -> int:
    """Return how many partitions a topic has, as the broker says now, and so no fewer than when they were dealt.

    Without an answer at least `wanted`, the count of the settings: a share of too many is a lower rate.
    """
    least = wanted
    with contextlib.suppress(Exception):
        async with asyncio.timeout(KNOWN_WITHIN_S):
            await client._client.force_metadata_update()
            least = 1
    return max(len(client.partitions_for_topic(topic) or ()), max(dealt, default=0) + 1, least)


def _is_shared(settings: ServiceSettings, topic: Topic) -> bool:
    """Return whether shards divide the topic: a person is in one partition of each topic keyed by subject."""
    return settings.people_are_divided and topic.keyed_by == "subject_id"


async def started(
    make: Callable[[], AIOKafkaConsumer], stop: asyncio.Event, failed: Callable[[BaseException], None]
) -> AIOKafkaConsumer | None:
    """Return a started client, or None after `stop`, even while joining. `failed` hears each error."""
    while not stop.is_set():
        client = make()  # a failed client cannot start again
        starting = asyncio.ensure_future(client.start())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            starting.cancel()
            await ended(client)
            raise
        finally:
            stopping.cancel()
        starting.cancel()
        await asyncio.wait((starting,))
        error = None if starting.cancelled() else starting.exception()
        if error is None and not starting.cancelled():
            return client
        await ended(client)
        if error is not None:
            failed(error)
        await either(stop, None, 1.0)
    return None


async def ended(client: AIOKafkaConsumer) -> None:
    """End a client in any state, part by part."""
    for end in (client, client._fetcher, client._client):
        if end is None:
            continue
        ending = asyncio.ensure_future(end.stop() if end is client else end.close())
        await asyncio.wait((ending,), timeout=END_S)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


def is_cancelled() -> bool:
    """Return whether this task's runner cancelled it, not the client."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
