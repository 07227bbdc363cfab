"""Replay of dead letters, each on a person's request (`dead_letters.py`).

The worker handles the record as the consumer does, with the partition's offset locked: no batch of the partition is
handled meanwhile. The letter ends as `replayed`, as `open` again with the reason of the failure, or as `gone`, where
the topic no longer holds the record.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)

from common.contracts import Watermark
from common.db.database import Database
from common.db.timer import Timer
from common.kafka import broker as kafka
from common.kafka import dead_letters
from common.kafka.dead_letters import DeadLetter, Place
from common.kafka.reading import broken_logs
from common.kafka.reading.client import ISOLATION
from common.kafka.reading.records import event_of, received_as
from common.kafka.subscription import After, Hold, Poison, Subscription
from common.keyring import SubjectKeys
from common.settings import ServiceSettings
from common.telemetry import continue_trace

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 5.0
READ_WITHIN_S = 10.0
MOST_HELD = 3  # letters of a partition in a tick: a hold mostly concerns the whole partition


class Unread(RuntimeError):
    """The record of a letter cannot be read now."""


@dataclass(frozen=True, slots=True)
class Retrying:
    database: Database
    settings: ServiceSettings
    subscriptions: Sequence[Subscription]

    def timer(self) -> Timer:
        return Timer("dead-letters", self.tick, POLL_INTERVAL_S, self.database, dead_letters.ASKED)

    async def tick(self) -> bool:
        """Replay the letter that has waited longest; return whether a replay ended.

        A letter whose handler asks to hold stays asked for, and the next one has its turn. The letters of an unreadable
        partition, and those behind MOST_HELD held letters of a partition, wait for another tick. Raises Unread after
        every other letter had its turn.
        """
        ours = {(s.group, s.topic.name): s for s in self.subscriptions}
        held = dict[int, Place]()
        unread = dict[Place, Unread]()
        while True:
            full = {place for place, letters in Counter(held.values()).items() if letters >= MOST_HELD}
            async with self.database.begin() as tx:
                await dead_letters.count_open(tx, [s.topic.name for s in self.subscriptions])
                letter = await dead_letters.next_asked(tx, list(ours), but=held, not_of=full | unread.keys())
            if letter is None:
                break
            try:
                ended = await self._replay(letter, ours[letter.consumer_group, letter.topic])
            except Unread as error:
                unread[letter.place] = error
                continue
            if not ended:
                held[letter.id] = letter.place
            elif not unread:
                return True
        if unread:
            raise next(iter(unread.values()))
        return False

    async def _replay(self, letter: DeadLetter, subscription: Subscription) -> bool:
        """Replay a letter; return False where the handler asks to hold. Raises Unread."""
        try:
            record = await self._read(letter)
        except Poison as error:  # Unread leaves the letter asked for
            await self._open_again(letter, str(error))
            return True
        try:
            after = await self._handle(letter, subscription, record)
        except Hold:
            return False
        except Exception as error:
            why = str(error) if isinstance(error, Poison) else f"the replay failed: {type(error).__name__}"
            await self._open_again(letter, why)
            return True
        if after is not None:
            await after()
        return True

    async def _open_again(self, letter: DeadLetter, why: str) -> None:
        log.warning("a dead letter could not be handled", extra={"id": letter.id, "why": why})
        async with self.database.begin() as tx:
            await dead_letters.end(tx, letter.id, "open", why)

    async def _handle(self, letter: DeadLetter, subscription: Subscription, record: Any) -> After | None:
        async with self.database.begin() as tx:
            await broken_logs.lock(tx, subscription.group, subscription.topic, [letter.partition])
            now = await dead_letters.find(tx, letter.id, lock=True)
            if now is None or now.state != "asked":
                return None  # another worker was quicker, or a person has discarded the letter
            if record is None:
                await dead_letters.end(tx, letter.id, "gone")
                return None
            event = event_of(subscription, record)
            if event is None:
                raise Poison("an event type that is not known here")
            after = None
            if not isinstance(event, Watermark):
                people = SubjectKeys(self.settings.subject_keys)
                received = received_as(record, event, people, self.settings.partitions, subscription.topic)
                continue_trace(received.traceparent)
                after = await subscription.handle(tx, [received])
            await dead_letters.end(tx, letter.id, "replayed")
        log.info("a dead letter was handled", extra={"id": letter.id, "topic": letter.topic, "by": letter.decided_by})
        return after

    async def _read(self, letter: DeadLetter) -> Any | None:
        """Return the record, or None where the topic no longer holds it.

        Raises Poison where the Kafka client cannot read the record, and Unread where the record does not come.
        """
        place = TopicPartition(self.settings.topic_prefix + letter.topic, letter.partition)
        consumer = AIOKafkaConsumer(
            **kafka.connection(self.settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=ISOLATION,
        )
        await consumer.start()
        try:
            consumer.assign([place])
            consumer.seek(place, letter.offset)
            async with asyncio.timeout(READ_WITHIN_S):
                while True:
                    for record in (await consumer.getmany(place, timeout_ms=100)).get(place, []):
                        return record if record.offset == letter.offset else None
                    end = consumer.highwater(place)
                    if end is not None and await consumer.position(place) >= end:
                        return None
        except OffsetOutOfRangeError:
            return None
        except (CorruptRecordException, UnsupportedCodecError) as error:
            raise Poison(f"the Kafka client cannot read it: {type(error).__name__}") from error
        except Exception as error:  # as TimeoutError of a partition without a leader
            raise Unread(f"the record of dead letter {letter.id} cannot be read: {type(error).__name__}") from error
        finally:
            await consumer.stop()
