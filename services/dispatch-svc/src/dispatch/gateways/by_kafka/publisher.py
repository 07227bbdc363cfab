"""Publishing without an outbox: only for messages handed to an operator's topic, and for what an SMSC delivers.

The outcome, and the answer to the SMSC, is Kafka's acknowledgement, so this module alone of the services talks to the
Kafka client.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder

from common.contracts import Event, Topic
from common.db.timer import uptime_s
from common.kafka.broker import Outlet, Shut, cloud_event_headers, encode, partition_of, seen
from common.settings import ServiceSettings
from common.telemetry import traceparent

log = logging.getLogger(__name__)


class NotPublished(Exception):
    """No publishing has begun: no broker, no such topic, or no right to write to the topic.

    `ours`: we must act.
    """

    def __init__(self, why: str, *, ours: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.ours = ours


# logged: acknowledged by all in-sync replicas; not begun: never sent, and never will be; unknown: perhaps in the log
Published = Literal["logged", "not begun", "unknown"]


@dataclass(slots=True, eq=False)
class _Writing:
    """A batch with a waiting caller. `begun`: a request with the batch has gone to a broker."""

    batch: BatchBuilder
    begin_by: float
    begun: bool = False


class _Outlet(Outlet):
    """An outlet whose batches each have a last moment to begin.

    `codec`: any client of an operator reads what has none.
    """

    codec = None

    def __init__(self, settings: ServiceSettings) -> None:
        super().__init__(settings)
        self.writing: set[_Writing] = set()
        self.partitions: dict[str, int] = {}  # of each ready topic

    def _may_begin(self, now: float) -> bool:
        made = [each for each in self.writing if each.batch.closed()]
        if any(now > each.begin_by for each in made if not each.begun):
            return False
        for each in made:  # also a batch about to go to another node
            each.begun = True
        return True


class Publisher:
    """Publishes events while no transaction is open.

    Any error makes a new producer: the old one may be fenced, or hold a stale sequence, and must not write an abandoned
    message.
    """

    def __init__(self, settings: ServiceSettings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._starting = asyncio.Lock()
        self._outlet: _Outlet | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def ready(self, topic: Topic, *, until: float) -> None:
        """Start a producer that knows the topic. Raise NotPublished. `until` is on the loop's clock."""
        try:
            async with asyncio.timeout_at(until), self._starting:
                if self._outlet is None:
                    fresh = _Outlet(self._settings)
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

    async def _written(self, outlet: _Outlet, name: str, partition: int, one: _Writing, until: float) -> Published:
        late_at = asyncio.get_running_loop().time() + one.begin_by - uptime_s()
        acknowledged: asyncio.Future[Any] | None = None
        outlet.writing.add(one)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(late_at, until)):
                    acknowledged = await outlet.producer.send_batch(one.batch, name, partition=partition)
                    acknowledged.add_done_callback(seen)
                    await asyncio.wait({acknowledged})
            if acknowledged is None or not (one.begun or acknowledged.done()):
                raise TimeoutError
            async with asyncio.timeout_at(until):
                await acknowledged
            return "logged"
        except (Shut, TimeoutError):
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

    def _shut(self, outlet: _Outlet) -> None:
        """Retire an outlet. Batches in flight may still be answered."""
        outlet.is_shut = True
        if self._outlet is outlet:
            self._outlet = None

    def _end(self, outlet: _Outlet) -> None:
        task = asyncio.create_task(outlet.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
