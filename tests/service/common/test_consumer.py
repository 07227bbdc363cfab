"""The consumer loop on a real Postgres and a real broker: each batch once, whatever dies when, and nothing stepped over
that was not handled or put aside."""

import asyncio
import base64
import gc
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import PartitionRecords
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES, TOPICS, Event, Watermark
from common.contracts.consent import ConsentStateChanged
from common.contracts.dispatch import OptOutEnforced
from common.kafka import broker as kafka
from common.kafka import consumer as consumer_loop
from common.kafka.broker import WrongTopic, ensure_topics
from common.kafka.outbox import MAX_RECORD_BYTES
from common.kafka.reading import client as clients
from common.kafka.reading import lag, log_watch, placement
from common.kafka.reading.offsets import applied_watermark
from common.kafka.reading.placement import Placement
from common.kafka.reading.records import Mark
from common.kafka.subscription import After, Hold, Poison, Received, Stopped
from common.keyring import SubjectKeys, fingerprints
from common.settings import ServiceSettings, SubjectRingSettings
from common.telemetry import tracing
from tests.service.common.pipeline import GROUP, Pipeline, going, pipeline, project, states_of
from tests.support.eventually import eventually, is_so
from tests.support.running import OUTER_RING, SUBJECT_RING, Surroundings

SUBJECT = f"t1-{1:032x}"
OTHER = f"t1-{2:032x}"
OF_DISPATCH = OptOutEnforced(
    subject_id=SUBJECT,
    consent_version=1,
    source="mo",
    reference=None,
    received_at=datetime(2026, 1, 1, tzinfo=UTC),
    enforced_at=datetime(2026, 1, 1, tzinfo=UTC),
)
WITHOUT_OFFSET = kafka.encode(states_of(SUBJECT, 1)[0]).replace(
    b'"suppressions":[]', b'"suppressions":[{"sender_id":null,"since":"2026-01-01T00:00:00"}]'
)
EARLY, LATE = datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2026, 1, 1, 10, tzinfo=UTC)
NEW_OUTER = base64.b64encode(b"n" * 32).decode()
LATER, FUTURE = datetime(2026, 1, 1, 11, tzinfo=UTC), datetime(2126, 1, 1, tzinfo=UTC)
UNREADABLE = (SUBJECT.encode(), b"{broken", ConsentStateChanged.type)


def _until_offset(pipe: Pipeline, offset: int, partition: int = 0) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        assert await pipe.next_offset(partition) == offset
        return True

    return look


async def test_each_event_is_handled_once_with_its_offset(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        got: list[Received] = []

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            got.extend(batch)
            return None

        before = datetime.now(UTC) - timedelta(seconds=1)
        await pipe.publish(*states_of(SUBJECT, 7, 8))
        async with going(pipe.consumer(keep).run):
            await eventually(_until_offset(pipe, 2))
            await pipe.publish(*states_of(SUBJECT, 9))
            await eventually(_until_offset(pipe, 3))
        assert [r.event for r in got] == states_of(SUBJECT, 7, 8, 9)
        assert [(r.key, r.partition, r.offset) for r in got] == [(SUBJECT, 0, 0), (SUBJECT, 0, 1), (SUBJECT, 0, 2)]
        assert all(before < r.published_at < datetime.now(UTC) + timedelta(seconds=1) for r in got)


async def test_records_that_settle_are_handled_by_the_next_process_where_this_one_ends(
    surroundings: Surroundings,
) -> None:
    """Once handled, they lie on record once; and a batch that is full waits for nothing."""
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2))
        settling = pipe.consumer(settle_s=3_600.0)
        async with asyncio.timeout(60), going(settling.run):
            await eventually(lambda: is_so(len(settling._in_flight) == 1))
        assert await pipe.next_offset() in (None, 0)
        async with asyncio.timeout(60), going(pipe.consumer(settle_s=3_600.0, max_records=2).run):
            await eventually(_until_offset(pipe, 2))
        await pipe.publish(*states_of(SUBJECT, 3))
        async with going(pipe.consumer(settle_s=0.1).run):
            await eventually(_until_offset(pipe, 3))
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 2), (SUBJECT, 3)]


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
async def test_a_crash_redoes_what_was_not_committed_and_only_that(surroundings: Surroundings, moment: str) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        there, never = asyncio.Event(), asyncio.Event()

        async def block() -> None:
            there.set()
            await never.wait()

        async def dies(tx: AsyncConnection, batch: list[Received]) -> After | None:
            await project(tx, batch)
            if moment == "before the commit":
                await block()
            return block

        await pipe.publish(*states_of(SUBJECT, 1, 2))
        async with going(pipe.consumer(dies).run) as [consuming]:
            await asyncio.wait_for(there.wait(), 30)
            consuming.cancel()
            with suppress(asyncio.CancelledError):
                await consuming
        committed = moment == "after the commit"
        assert await pipe.next_offset() == (2 if committed else 0)
        assert await pipe.applied() == ([(SUBJECT, 1), (SUBJECT, 2)] if committed else [])
        await pipe.publish(*states_of(SUBJECT, 3))
        await pipe.hand(pipe.consumer())
        assert await pipe.next_offset() == 3
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 2), (SUBJECT, 3)]


async def test_what_is_below_the_stored_offset_is_skipped(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2, 3, 4))
        batch = (await pipe.raw_records()).popitem()
        consumer = pipe.consumer()
        await consumer.offsets.start_of(0)
        await pipe.scalar("UPDATE consumer_offset SET next_offset = 2 RETURNING 1")
        await consumer.batches.apply(dict([batch]))
        assert await pipe.applied() == [(SUBJECT, 3), (SUBJECT, 4)]
        assert await pipe.next_offset() == 4


async def test_a_database_restored_from_its_backup_gets_again_what_it_lost(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka's own commits are ahead then, and the client begins to fetch there while Postgres is still being asked."""
    async with pipeline(surroundings, partitions=1, kafka_groups=True) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2, 3))
        before = replace(pipe, settings=pipe.with_settings(kafka_groups=False))
        async with going(before.consumer().run):
            await eventually(_until_offset(pipe, 3))
        await pipe.scalar("DELETE FROM applied RETURNING 1")
        await pipe.scalar("UPDATE consumer_offset SET next_offset = 0 RETURNING 1")
        await pipe.publish(*states_of(SUBJECT, 4, 5))
        async with pipe.sql() as sql:
            slow = sql.transaction()
            await slow.start()
            await sql.execute("SELECT FROM consumer_offset FOR UPDATE")
            made = _clients(monkeypatch)
            async with going(pipe.consumer().run):
                await eventually(lambda: _waiting_for_a_lock(pipe))
                [client] = made
                [tp] = client.assignment()
                await eventually(lambda: is_so(client.highwater(tp) is not None))  # it has fetched
                await slow.rollback()
                await eventually(_until_offset(pipe, 5))
        assert await pipe.applied() == [(SUBJECT, v) for v in (1, 2, 3, 4, 5)]


async def test_a_database_that_went_back_under_a_quiet_partition_is_read_again(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further record comes, so no batch of the running consumer finds its stored offset behind."""
    monkeypatch.setattr(log_watch, "WATCH_INTERVAL_S", 0.05)
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2, 3))
        async with going(pipe.consumer().run):
            await eventually(_until_offset(pipe, 3))
            async with pipe.sql() as sql, sql.transaction():
                await sql.execute("DELETE FROM applied")
                await sql.execute("UPDATE consumer_offset SET next_offset = 1")
            await eventually(_until_offset(pipe, 3))
        assert await pipe.applied() == [(SUBJECT, 2), (SUBJECT, 3)]


async def test_what_has_piled_up_comes_in_pieces(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has several consumers, and each asks several brokers: answers of 50 MB made 2 GB of a worker that came
    back after a while."""
    sizes: list[int] = []
    send = AIOKafkaClient.send

    async def noted(client: AIOKafkaClient, *asked: Any, **more: Any) -> Any:
        answer = await send(client, *asked, **more)
        if type(answer).__name__.startswith("FetchResponse"):
            sizes.append(sum(len(partition[-1] or b"") for _, partitions in answer.topics for partition in partitions))
        return answer

    monkeypatch.setattr(AIOKafkaClient, "send", noted)
    large = os.urandom(clients.FETCH_BYTES // 5)  # no codec shrinks it
    people = [f"t1-{n:032x}" for n in range(30)]
    async with pipeline(surroundings, partitions=4) as pipe:
        await pipe.publish_raw(*((person.encode(), large, "unknown.v1") for person in people))
        consumer = pipe.consumer(skips_unknown=True)
        async with going(consumer.run):
            await eventually(lambda: _read(pipe, len(people)))
    assert sum(sizes) >= len(people) * len(large)
    assert max(sizes) < clients.FETCH_BYTES + 2 * len(large)


async def _read(pipe: Pipeline, many: int) -> bool:
    return bool(await pipe.scalar("SELECT sum(next_offset) FROM consumer_offset") == many)


@pytest.mark.parametrize("lost", ["UPDATE consumer_offset SET next_offset = 1", "DELETE FROM consumer_offset"])
@pytest.mark.parametrize("then", [states_of(SUBJECT, 4)[0], Watermark(partition=0, as_of=EARLY, last_number=0)])
async def test_a_running_consumer_reads_again_what_a_failover_lost(
    surroundings: Surroundings, lost: str, then: Event
) -> None:
    """The replica that took over was behind: what was stored is not there any more, and nobody restarts the service."""
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2, 3))
        async with going(pipe.consumer().run):
            await eventually(_until_offset(pipe, 3))
            kept = 1 if lost.startswith("UPDATE") else 0
            async with pipe.database.begin() as tx:
                await tx.execute(text("DELETE FROM applied WHERE version > :kept"), {"kept": kept})
                await tx.execute(text(lost))
            await pipe.publish(then)
            await eventually(_until_offset(pipe, 4))
            await pipe.publish(*states_of(SUBJECT, 5))
            await eventually(_until_offset(pipe, 5))
        assert await pipe.applied() == [(SUBJECT, v) for v in (1, 2, 3, 4, 5) if v != 4 or type(then) is not Watermark]


async def test_what_was_placed_during_a_rebalance_is_placed_again(surroundings: Surroundings) -> None:
    """The loop still sees the old assignment while the new one is made."""
    async with pipeline(surroundings, partitions=1) as pipe:
        consumer, tp = pipe.consumer(), TopicPartition(STATES.name, 0)
        rebalance = consumer_loop._Assignment(consumer)
        await rebalance.on_partitions_revoked({tp})
        consumer.placement.placed.add(tp)
        await rebalance.on_partitions_assigned({tp})
        assert not consumer.placement.placed


def _clients(monkeypatch: pytest.MonkeyPatch) -> list[AIOKafkaConsumer]:
    """Those the consumers make from now on, to look into."""
    made: list[AIOKafkaConsumer] = []

    def make(**options: Any) -> AIOKafkaConsumer:
        made.append(AIOKafkaConsumer(**options))
        return made[-1]

    monkeypatch.setattr(clients, "AIOKafkaConsumer", make)
    return made


async def _waiting_for_a_lock(pipe: Pipeline) -> bool:
    return bool(
        await pipe.scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


async def test_a_zombie_and_its_successor_never_apply_a_batch_twice(surroundings: Surroundings) -> None:
    """Both hold the same batch. The second waits on the offset's row, then sees that it is behind."""
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2, 3))
        [(tp, records)] = (await pipe.raw_records()).items()
        there, go_on = asyncio.Event(), asyncio.Event()

        async def slowly(tx: AsyncConnection, batch: list[Received]) -> After | None:
            there.set()
            await go_on.wait()
            return await project(tx, batch)

        zombie, successor = pipe.consumer(slowly), pipe.consumer()
        for consumer in (zombie, successor):
            await consumer.offsets.start_of(0)
        first = asyncio.ensure_future(zombie.batches.apply({tp: records}))
        await there.wait()
        second = asyncio.ensure_future(successor.batches.apply({tp: records}))
        await eventually(lambda: _waiting_for_a_lock(pipe))
        go_on.set()
        await asyncio.gather(first, second)
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 2), (SUBJECT, 3)]
        assert await pipe.next_offset() == 3


async def test_poison_goes_to_the_dead_letters_with_its_reason_and_the_rest_goes_on(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        marked: list[tuple[str | None, int]] = []

        async def mark(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
            marked.append((key, partition))

        async def picky(tx: AsyncConnection, batch: list[Received]) -> After | None:
            for received in batch:
                if isinstance(received.event, ConsentStateChanged) and received.event.version == 13:
                    raise Poison("thirteen is not handled")
            return await project(tx, batch)

        await pipe.publish(*states_of(OTHER, 1))
        await pipe.publish_raw(UNREADABLE, (b"\xff\xfe", b"{}", ConsentStateChanged.type))
        await pipe.publish(*states_of(SUBJECT, 13), *states_of(OTHER, 2))
        async with going(pipe.consumer(picky, mark).run):
            await eventually(_until_offset(pipe, 5))
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        assert await pipe.applied() == [(OTHER, 1), (OTHER, 2)]
        assert marked == [(SUBJECT, 0), (None, 0), (SUBJECT, 0)]
        broken, keyless, thirteen = await pipe.dead_letters()
        assert (broken.key, broken.value) == (SUBJECT, b"{broken")
        assert keyless.value == b"{}"
        assert "thirteen is not handled" in thirteen.headers["ce_type"]
        assert "malformed" in broken.headers["ce_type"]
        assert "missing" in keyless.headers["ce_type"]


async def test_no_transaction_is_a_span_of_the_record_before(surroundings: Surroundings) -> None:
    """Each record around a poisoned one has a transaction of its own, which is the span of that record."""
    exporter = InMemorySpanExporter()
    tracing.start_with("consent", exporter, at_once=True)
    try:
        async with pipeline(surroundings, partitions=1) as pipe:
            await pipe.publish(*states_of(OTHER, 1))
            await pipe.publish_raw(UNREADABLE)
            await pipe.publish(*states_of(OTHER, 2))
            async with going(pipe.consumer().run):
                await eventually(_until_offset(pipe, 3))
            assert await pipe.applied() == [(OTHER, 1), (OTHER, 2)]
    finally:
        tracing.stop()
    assert [span.name for span in exporter.get_finished_spans()] == ["process consent.states.v1"] * 2


async def test_on_poison_and_the_step_over_it_are_one_transaction(surroundings: Surroundings) -> None:
    """What cannot be marked is not stepped over: it is tried again, and buried once."""
    async with pipeline(surroundings, partitions=1) as pipe:
        attempts = 0

        async def mark(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                raise ConnectionError("the database went away")

        await pipe.publish_raw(UNREADABLE)
        async with going(pipe.consumer(on_poison=mark).run):
            await eventually(_until_offset(pipe, 1))
        assert attempts == 3
        assert await pipe.waiting() == 1


async def test_a_poison_too_large_for_a_record_of_ours_does_not_stop_the_relay(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish_raw((SUBJECT.encode(), b"{" * (MAX_RECORD_BYTES + 1), ConsentStateChanged.type))
        await pipe.hand(pipe.consumer())
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        [letter] = await pipe.dead_letters()
        assert letter.value is None
        assert "not kept" in letter.headers["ce_type"]


async def test_one_more_than_25_poison_in_a_row_stops_the_consumer_on_it(surroundings: Surroundings) -> None:
    """The watermarks between them are no sign of health: they come whatever the deploy."""
    async with pipeline(surroundings, partitions=1) as pipe:
        mark = Watermark(partition=0, as_of=datetime(2026, 1, 1, tzinfo=UTC), last_number=0)
        await pipe.publish_raw(*[UNREADABLE, (mark.key.encode(), kafka.encode(mark), mark.type)] * 26)
        with pytest.raises(Stopped):
            await asyncio.wait_for(pipe.consumer().run(asyncio.Event()), 30)
        assert await pipe.waiting() == 25
        assert await pipe.next_offset() == 50


async def test_25_poison_in_a_row_and_then_an_event_is_survived(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        for _ in range(2):
            await pipe.publish_raw(*[UNREADABLE] * 25)
            await pipe.publish(*states_of(OTHER, 1))
        await pipe.hand(pipe.consumer())
        assert await pipe.next_offset() == 52
        assert await pipe.waiting() == 50


OF_TOMORROW = (SUBJECT.encode(), b"whatever", "consent.state_changed.v9")


async def test_a_type_of_tomorrow_is_poison_and_its_person_is_marked(surroundings: Surroundings) -> None:
    """It may be the opt-out that a newer consent-svc tells of."""
    async with pipeline(surroundings, partitions=1) as pipe:
        marked: list[tuple[str | None, int]] = []

        async def mark(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
            marked.append((key, offset))

        await pipe.publish_raw(OF_TOMORROW)
        await pipe.publish(*states_of(OTHER, 1))
        await pipe.hand(pipe.consumer(on_poison=mark))
        assert (marked, await pipe.next_offset(), await pipe.applied()) == ([(SUBJECT, 0)], 2, [(OTHER, 1)])
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        [letter] = await pipe.dead_letters()
        assert (letter.key, letter.value) == (SUBJECT, b"whatever")


async def test_a_watermark_of_tomorrow_makes_nobody_unreadable(surroundings: Surroundings) -> None:
    """Its key is no person's, and a mark that is not read only makes knowledge older."""
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish_raw((b"watermark-0", b"{}", "placet.watermark_published.v9"))
        await pipe.publish(*states_of(SUBJECT, 1))
        await pipe.hand(pipe.consumer())
        assert (await pipe.applied(), await pipe.waiting()) == ([(SUBJECT, 1)], 0)
        assert await pipe.scalar("SELECT as_of FROM consumer_offset") is None


async def test_a_type_of_tomorrow_is_stepped_over_where_nothing_of_its_topic_can_forbid_anything(
    surroundings: Surroundings,
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        consumer = pipe.consumer(skips_unknown=True)
        await pipe.publish_raw(OF_TOMORROW)
        await pipe.publish(*states_of(SUBJECT, 1))
        await pipe.hand(consumer)
        assert (await pipe.applied(), await pipe.waiting(), await pipe.next_offset()) == ([(SUBJECT, 1)], 0, 2)


async def test_a_version_that_is_behind_fills_no_dead_letters_and_stops_no_other_partition(
    surroundings: Surroundings,
) -> None:
    """Beside a newer publisher: 25 of a partition are put aside, the next waits, with all behind it, for the newer
    version of the reader, which reads on from there."""
    async with pipeline(surroundings, partitions=2) as pipe:
        here, there = f"t1-{2:032x}", f"t1-{5:032x}"
        assert [kafka.partition_of(subject, 2) for subject in (here, there)] == [0, 1]
        behind = pipe.consumer()
        await pipe.publish_raw(*[(here.encode(), b"whatever", "consent.state_changed.v9")] * 30)
        await pipe.publish(*states_of(here, 7))
        async with going(behind.run) as [running]:
            await eventually(_until_offset(pipe, 25))
            await eventually(lambda: is_so(behind.failing_s > 0))
            await pipe.publish(*states_of(there, 1))
            await eventually(_until_offset(pipe, 1, 1))
            assert not running.done()
        assert (await pipe.next_offset(0), await pipe.waiting()) == (25, 25)
        newer = pipe.consumer(skips_unknown=True)
        await pipe.hand(newer)
        assert await pipe.applied() == [(there, 1), (here, 7)]


@pytest.mark.parametrize(
    ("value", "event_type", "why"),
    [
        (WITHOUT_OFFSET, ConsentStateChanged.type, "timezone"),
        (kafka.encode(states_of("s1-\0", 1)[0]), ConsentStateChanged.type, "NUL"),
        (kafka.encode(OF_DISPATCH), OptOutEnforced.type, "dispatch.opt_out_enforced.v1 on consent.states.v1"),
    ],
    ids=["a time without its offset", "a NUL in an id", "a type of another topic"],
)
async def test_what_no_producer_of_ours_writes_is_poison(
    surroundings: Surroundings, value: bytes, event_type: str, why: str
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish_raw(
            (b"s1", value, event_type)
        )  # of a topic that is compacted: Kafka takes nothing without a key
        await pipe.hand(pipe.consumer())
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        [letter] = await pipe.dead_letters()
        assert why in letter.headers["ce_type"]
        assert await pipe.applied() == []


async def test_a_key_that_no_column_takes_is_no_key(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        marked: list[str | None] = []

        async def mark(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
            marked.append(key)

        await pipe.publish_raw((b"s1-\0", b"{broken", ConsentStateChanged.type))
        await pipe.hand(pipe.consumer(on_poison=mark))
        assert marked == [None]


@pytest.mark.parametrize(("trouble", "is_failing"), [(Hold, False), (RuntimeError, True)])
async def test_a_hold_is_no_failure_and_any_other_error_is_tried_for_ever(
    surroundings: Surroundings, trouble: type[Exception], is_failing: bool
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        attempts, seen_failing = 0, False

        async def not_yet(tx: AsyncConnection, batch: list[Received]) -> After | None:
            nonlocal attempts, seen_failing
            attempts += 1
            seen_failing |= consumer.failing_s > 0
            await project(tx, batch)
            if attempts < 4:
                raise trouble("not yet")
            return None

        consumer = pipe.consumer(not_yet)
        await pipe.publish(*states_of(SUBJECT, 1, 2))
        async with going(consumer.run):
            await eventually(_until_offset(pipe, 2))
            await eventually(lambda: is_so(consumer.failing_s == 0))
        assert attempts == 4
        assert seen_failing is is_failing
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 2)]


async def test_what_a_hold_throws_away_is_not_kept(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it lasts, and though nobody else collects: a service is told to do that rarely."""
    monkeypatch.setattr(placement, "COLLECT_INTERVAL_S", 0.0)
    async with pipeline(surroundings, partitions=1) as pipe:
        holds = 0

        async def not_yet(tx: AsyncConnection, batch: list[Received]) -> After | None:
            nonlocal holds
            holds += 1
            raise Hold

        rest = Placement.rest

        def no_longer(self: Placement, kafka_consumer: Any, tp: TopicPartition, offset: int, seconds: float) -> None:
            rest(self, kafka_consumer, tp, offset, 0.0)

        monkeypatch.setattr(Placement, "rest", no_longer)
        await pipe.publish(*states_of(SUBJECT, *range(1, 21)))
        gc.collect()
        gc.disable()
        try:
            consumer = pipe.consumer(not_yet, max_records=2)
            async with going(consumer.run):
                await eventually(lambda: is_so(holds >= 12))
                kept = sum(type(each) is PartitionRecords for each in gc.get_objects())
        finally:
            gc.enable()
        assert kept <= 3, "an answer of each hold"


async def test_a_hold_that_lasts_is_looked_at_less_often_and_begins_anew(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        rests: list[float] = []
        holds = {1: 6, 2: 7}  # so many in all before this version is handled
        rest = Placement.rest

        def noted(self: Placement, kafka_consumer: Any, tp: TopicPartition, offset: int, seconds: float) -> None:
            rests.append(seconds)
            rest(self, kafka_consumer, tp, offset, 0.0)

        async def not_yet(tx: AsyncConnection, batch: list[Received]) -> After | None:
            assert isinstance(batch[0].event, ConsentStateChanged)
            if len(rests) < holds[batch[0].event.version]:
                raise Hold
            return None

        monkeypatch.setattr(Placement, "rest", noted)
        await pipe.publish(*states_of(SUBJECT, 1))
        async with going(pipe.consumer(not_yet).run):
            await eventually(_until_offset(pipe, 1))
            await pipe.publish(*states_of(SUBJECT, 2))
            await eventually(_until_offset(pipe, 2))
        assert rests == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.1]


async def test_a_partition_that_fails_does_not_hold_up_the_others(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=2) as pipe:
        by_partition = {kafka.partition_of(f"t1-{n:032x}", 2): f"t1-{n:032x}" for n in range(20)}

        async def half(tx: AsyncConnection, batch: list[Received]) -> After | None:
            if batch[0].partition == 0:
                raise RuntimeError("only this partition")
            return await project(tx, batch)

        async with going(pipe.consumer(half).run):
            for version in (1, 2, 3):
                await pipe.publish(*states_of(by_partition[0], version), *states_of(by_partition[1], version))
                await eventually(_until_offset(pipe, version, partition=1))
        assert await pipe.next_offset(0) == 0
        assert {subject for subject, _ in await pipe.applied()} == {by_partition[1]}


async def test_a_partition_that_takes_its_time_does_not_hold_up_the_others(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=2) as pipe:
        slow, quick = f"t1-{2:032x}", f"t1-{5:032x}"
        assert [kafka.partition_of(subject, 2) for subject in (slow, quick)] == [0, 1]
        let_go = asyncio.Event()

        async def handle(tx: AsyncConnection, batch: list[Received]) -> After | None:
            await project(tx, batch)
            return _wait(let_go) if batch[0].key == slow else None

        await pipe.publish(*states_of(slow, 1), *states_of(quick, 1))
        async with going(pipe.consumer(handle).run):
            await eventually(_until_offset(pipe, 1, 0))
            await eventually(_until_offset(pipe, 1, 1))
            await pipe.publish(*states_of(slow, 2), *states_of(quick, 2), *states_of(quick, 3))
            await eventually(_until_offset(pipe, 3, 1))
            assert await pipe.next_offset(0) == 1, "the next batch of a partition before the first has ended"
            let_go.set()
            await eventually(_until_offset(pipe, 2, 0))
        assert [v for s, v in await pipe.applied() if s == slow] == [1, 2]


def _wait(event: asyncio.Event) -> After:
    async def wait() -> None:
        await event.wait()

    return wait


async def test_what_follows_a_batch_runs_after_its_commit_and_before_the_next(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        happened: list[str] = []

        async def handle(tx: AsyncConnection, batch: list[Received]) -> After | None:
            last = batch[-1].offset
            happened.append(f"handle to {last}")

            async def after() -> None:
                assert await pipe.next_offset() == last + 1, "not committed yet"
                await asyncio.wait([asyncio.ensure_future(pipe.publish(*states_of(SUBJECT, 9)))])
                happened.append(f"after {last}")
                if last >= 2:
                    done.set()

            return after

        done = asyncio.Event()
        await pipe.publish(*states_of(SUBJECT, 1))
        async with going(pipe.consumer(handle).run):
            await asyncio.wait_for(done.wait(), 30)
        assert happened[:6] == ["handle to 0", "after 0", "handle to 1", "after 1", "handle to 2", "after 2"]


async def test_the_applied_watermark_is_that_of_the_partition_furthest_behind(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=3) as pipe:

        async def applied() -> datetime | None:
            async with pipe.database.begin() as tx:
                return await applied_watermark(tx, GROUP, STATES, range(3))

        published = 0

        async def all_read() -> bool:
            assert await pipe.scalar("SELECT sum(next_offset) FROM consumer_offset") == published
            return True

        async with going(pipe.consumer().run):
            for marks, as_of in (
                ([(0, LATE), (1, LATE)], None),
                ([(2, EARLY)], EARLY),
                ([(2, LATE)], LATE),
                ([(2, EARLY)], LATE),  # of a relay that no longer leads
                ([(0, FUTURE), (1, FUTURE), (2, FUTURE)], LATE),  # of one whose clock is wrong
            ):
                await pipe.publish(
                    *(Watermark(partition=partition, as_of=at, last_number=0) for partition, at in marks)
                )
                published += len(marks)
                await eventually(all_read)
                assert await applied() == as_of


async def test_partitions_with_nothing_but_watermarks_share_a_transaction(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=3) as pipe:
        consumer = pipe.consumer()
        of = [TopicPartition(consumer.subscription.topic.name, partition) for partition in range(3)]
        for tp in of:
            await consumer.offsets.start_of(tp.partition)
        await pipe.scalar(
            "UPDATE consumer_offset SET next_offset = 9, as_of = :at WHERE partition = 1 RETURNING 1", at=LATE
        )
        assert not await consumer.offsets.step_over_watermarks({tp: [Mark(1, EARLY, 0)] for tp in of})
        rows = await pipe.rows("SELECT next_offset, as_of, xmin::text FROM consumer_offset ORDER BY partition")
        assert [row[:2] for row in rows] == [(2, EARLY), (9, LATE), (2, EARLY)], "another had read further"
        assert rows[0][2] == rows[2][2] != rows[1][2]


KNOWN_CHANGES = {
    "nothing": ("", 1, (2, LATE), True),
    "a gap is found": ("fault = 'records_missing', fault_at = 1, fault_why = 'a test'", 1, (2, EARLY), True),
    "another log is found": ("fault = 'other_log', fault_at = 1, fault_why = 'a test'", 1, (1, EARLY), False),
    "a person trusts the log again": ("cleared_at = now()", 1, (2, EARLY), True),
    "another process reads further": ("next_offset = 9", 1, (9, EARLY), True),
    "the database loses a commit": ("next_offset = 0", 1, (0, EARLY), False),
    "the database loses what was read since": ("", 5, (1, EARLY), False),
}


@pytest.mark.parametrize("change", KNOWN_CHANGES)
async def test_a_watermark_is_stepped_over_by_the_row_as_it_is_and_not_as_it_was(
    surroundings: Surroundings, change: str
) -> None:
    to, read, row, stays = KNOWN_CHANGES[change]
    async with pipeline(surroundings, partitions=1) as pipe:
        offsets = pipe.consumer().offsets
        tp = TopicPartition(offsets.subscription.topic.name, 0)
        await offsets.start_of(0)
        assert not await offsets.step_over_watermarks({tp: [Mark(0, EARLY, 0)]})
        if to:
            await pipe.scalar(f"UPDATE consumer_offset SET {to} RETURNING 1")
        offsets.reached[tp] = read
        went_back = await offsets.step_over_watermarks({tp: [Mark(read, LATE, 0)]})
        assert went_back == (set() if stays else {tp})
        assert tuple(*await pipe.rows("SELECT next_offset, as_of FROM consumer_offset")) == row


async def test_watermarks_of_known_rows_are_believed_and_leave_gaps_as_all_are(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=2) as pipe:
        offsets = pipe.consumer().offsets
        one, other = (TopicPartition(offsets.subscription.topic.name, partition) for partition in range(2))
        for tp in (one, other):
            await offsets.start_of(tp.partition)
        for number, (at, as_of, last_number) in enumerate(
            ((EARLY, EARLY, 0), (FUTURE, EARLY, 0), (LATE, LATE, 0), (EARLY, LATE, 0), (LATE, LATE, 3))
        ):
            marks = {one: [Mark(number, at, 0)], other: [Mark(number, at, last_number)]}
            assert not await offsets.step_over_watermarks(marks)
            rows = await pipe.rows("SELECT next_offset, as_of, fault FROM consumer_offset ORDER BY partition")
            fault = "records_missing" if last_number else None
            assert [*map(tuple, rows)] == [(number + 1, as_of, None), (number + 1, as_of, fault)]
        assert not await offsets.step_over_watermarks({one: [Mark(5, LATER, 0)], other: [Mark(5, LATER, 3)]})
        rows = await pipe.rows("SELECT next_offset, as_of FROM consumer_offset ORDER BY partition")
        assert [*map(tuple, rows)] == [(6, LATER), (6, LATE)], "a watermark behind a gap is not believed"


async def test_a_watermark_from_the_future_is_not_believed(surroundings: Surroundings) -> None:
    """Else it would be once that instant has come, whatever has been acknowledged and not told by then."""
    async with pipeline(surroundings, partitions=1) as pipe:
        consumer = pipe.consumer()
        for version, (at, believed) in enumerate(((EARLY, EARLY), (FUTURE, EARLY), (LATE, LATE)), start=1):
            await pipe.publish(*states_of(SUBJECT, version), Watermark(partition=0, as_of=at, last_number=0))
            await pipe.hand(consumer)
            assert await pipe.scalar("SELECT as_of FROM consumer_offset") == believed


@pytest.mark.parametrize("alone", [True, False])
async def test_a_watermark_of_whoever_has_another_subject_key_does_not_count(
    surroundings: Surroundings, *, alone: bool
) -> None:
    """What it speaks of is under other ids. The events before it count all the same."""
    ours = fingerprints(SubjectRingSettings.model_validate(SUBJECT_RING))
    async with pipeline(surroundings, partitions=1) as pipe:
        consumer = pipe.consumer()

        async def hears(version: int, keys: dict[str, str], at: datetime) -> datetime | None:
            states = [] if alone else states_of(SUBJECT, version)
            await pipe.publish(*states, Watermark(partition=0, as_of=at, last_number=0, subject_keys=keys))
            end = version * (len(states) + 1)

            async def read() -> bool:
                return bool(await pipe.scalar("SELECT count(*) FROM consumer_offset WHERE next_offset = :n", n=end))

            await eventually(read)
            as_of: datetime | None = await pipe.scalar("SELECT as_of FROM consumer_offset")
            return as_of

        async with going(consumer.run):
            assert await hears(1, {"t1": "0" * 16}, EARLY) is None
            assert consumer.keys_differ is not None
            assert "consent-svc" in consumer.keys_differ
            assert "'t1'" in consumer.keys_differ
            assert await hears(2, ours | {"t2": "0" * 16}, EARLY) == EARLY  # that they know one more is a rotation
            assert consumer.keys_differ is None
            assert await hears(3, {"t1": "0" * 16}, LATE) == EARLY


RINGS = {  # of the outer keys: of before, while both are read, afterwards
    name: SubjectRingSettings.model_validate(SUBJECT_RING | {"outer": {"current": current, "keys": keys}})
    for name, current, keys in (
        ("both", "t2", OUTER_RING["keys"] | {"t2": NEW_OUTER}),
        ("new", "t2", {"t2": NEW_OUTER}),
    )
}


async def test_a_person_of_an_older_outer_key_is_read_by_the_current_one(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        got: list[Received] = []
        poisoned: list[str | None] = []

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            got.extend(batch)
            return None

        async def note(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
            poisoned.append(key)

        rotating = replace(pipe, settings=pipe.with_settings(subject_keys=RINGS["both"]))
        now = SubjectKeys(RINGS["both"]).current(SUBJECT)
        assert now.startswith("t2-")
        await pipe.publish(*states_of(SUBJECT, 1), *states_of(now, 2), *states_of("no id", 3))
        await pipe.publish_raw(UNREADABLE, (b"somebody", b"{broken", ConsentStateChanged.type))
        await rotating.hand(rotating.consumer(keep, note))
        assert [r.event for r in got] == [*states_of(now, 1, 2), *states_of("no id", 3)]
        assert [r.key for r in got] == [now, now, "no id"]
        assert poisoned == [now, "somebody"]


async def test_a_person_of_an_unknown_outer_key_stalls_the_partition(surroundings: Surroundings) -> None:
    """Under the id of now the STOP would count; under an id of nobody it would not, and no one would see that."""
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1))
        later = replace(pipe, settings=pipe.with_settings(subject_keys=RINGS["new"]))
        consumer = later.consumer(on_poison=_no_poison)
        async with going(consumer.run):
            await eventually(lambda: is_so(consumer.failing_s > 0))
            assert await pipe.next_offset() == 0
        rotating = replace(pipe, settings=pipe.with_settings(subject_keys=RINGS["both"]))
        async with going(rotating.consumer(on_poison=_no_poison).run):
            await eventually(_until_offset(pipe, 1))


async def test_an_unreadable_record_of_an_unknown_outer_key_stops_nothing(surroundings: Surroundings) -> None:
    """Whoever writes it, with any key, would hold all marketing."""
    async with pipeline(surroundings, partitions=1) as pipe:
        poisoned: list[str | None] = []

        async def note(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
            poisoned.append(key)

        nobody = f"nobody-{'0f' * 16}"
        await pipe.publish_raw((nobody.encode(), b"{broken", ConsentStateChanged.type))
        await pipe.publish(*states_of(SUBJECT, 1))
        async with going(pipe.consumer(on_poison=note).run):
            await eventually(_until_offset(pipe, 2))
        assert set(poisoned) == {nobody}


@pytest.mark.parametrize("ring", ["both", "new"])
async def test_a_tombstone_of_another_outer_key_is_stepped_over_and_one_of_the_current_key_is_poison(
    surroundings: Surroundings, ring: str
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        poisoned: list[str | None] = []

        async def note(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
            poisoned.append(key)

        later = replace(pipe, settings=pipe.with_settings(subject_keys=RINGS[ring]))
        now = SubjectKeys(RINGS["both"]).current(SUBJECT)
        await pipe.publish_raw((SUBJECT.encode(), None, "placet.tombstone.v1"))
        await pipe.publish(*states_of(now, 2))
        await later.hand(later.consumer(on_poison=note))
        assert (await pipe.applied(), poisoned, await pipe.next_offset()) == ([(now, 2)], [], 2)
        await pipe.publish_raw((now.encode(), None, ConsentStateChanged.type))
        await later.hand(later.consumer(on_poison=note))
        assert poisoned == [now]


@pytest.mark.parametrize("value", ["a state", "unreadable"])
async def test_a_record_of_an_older_outer_key_is_of_the_partition_of_the_id_of_now(
    surroundings: Surroundings, value: str
) -> None:
    """There the lock is under which decisions about the person are made."""
    people = [f"t1-{n:032x}" for n in range(20)]
    of_now = {who: kafka.partition_of(SubjectKeys(RINGS["both"]).current(who), 4) for who in people}
    async with pipeline(surroundings, partitions=4) as pipe:
        homes: list[int] = []

        async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
            homes.extend(each.home for each in batch)
            return None

        async def note(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
            homes.append(partition)

        if value == "a state":
            await pipe.publish(*[state for who in people for state in states_of(who, 1)])
        else:
            await pipe.publish_raw(*[(who.encode(), b"{broken", ConsentStateChanged.type) for who in people])
        rotating = replace(pipe, settings=pipe.with_settings(subject_keys=RINGS["both"]))
        await rotating.hand(rotating.consumer(keep, note))
        assert sorted(homes) == sorted(of_now.values())
        assert any(kafka.partition_of(who, 4) != place for who, place in of_now.items())


async def _no_poison(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
    assert key is not None


async def test_a_watermark_counts_only_with_what_precedes_it(surroundings: Surroundings) -> None:
    """While the state before it cannot be applied, knowledge does not get younger."""
    async with pipeline(surroundings, partitions=1) as pipe:

        async def never(tx: AsyncConnection, batch: list[Received]) -> After | None:
            raise RuntimeError("not today")

        await pipe.publish(
            *states_of(SUBJECT, 1), Watermark(partition=0, as_of=datetime(2026, 1, 1, tzinfo=UTC), last_number=0)
        )
        with pytest.raises(RuntimeError):
            await pipe.hand(pipe.consumer(never))
        assert await pipe.scalar("SELECT as_of FROM consumer_offset") is None


async def test_a_batch_of_a_partition_that_is_somebody_elses_by_now_ends_nothing(surroundings: Surroundings) -> None:
    """A group forms anew while the batch is handled. What it stored is stored: the next owner reads on from there."""
    async with pipeline(surroundings, partitions=2) as pipe, reading(pipe, 0) as (kafka_consumer, _):
        lost = TopicPartition(f"{surroundings.unique}.{STATES.name}", 1)
        consumer = pipe.consumer()
        consumer._failed(kafka_consumer, lost, 0, 1.0)
        assert consumer.failing_s == 0.0
        consumer._went_well(kafka_consumer, lost, 1)
        assert consumer.failing_s == 0.0


@pytest.mark.parametrize("revoked", [True, False], ids=["as it goes", "handled meanwhile"])
async def test_of_a_partition_that_went_to_somebody_else_nothing_is_shown(
    surroundings: Surroundings, revoked: bool
) -> None:
    """Its owner shows how far behind it is: what we showed would stand beside that for as long as we run."""
    async with pipeline(surroundings, partitions=2) as pipe, reading(pipe, 0) as (read, place):
        consumer = pipe.consumer()
        rebalance = consumer_loop._Assignment(consumer)
        consumer._went_well(read, place, 0)
        consumer._failed(read, place, 0, 1.0)
        assert place.partition in _shown()
        assert consumer.failing_s > 0
        if revoked:
            await rebalance.on_partitions_revoked({place})
        else:
            await rebalance.on_partitions_assigned({TopicPartition(place.topic, 1)})
        assert place.partition not in _shown()
        assert consumer.failing_s == 0.0


async def test_nor_of_one_that_went_before_anything_of_it_was_handled(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=2) as pipe, reading(pipe, 0) as (read, place):
        consumer = pipe.consumer()
        read._subscription.subscription.assignment.state_value(place).highwater = 5
        consumer.lag.show_all(read, {place: 2})
        assert _lag()[place.partition] == 3
        await consumer_loop._Assignment(consumer).on_partitions_assigned({TopicPartition(place.topic, 1)})
        assert place.partition not in _shown()


async def test_a_batch_that_ends_after_its_partition_went_ends_as_any_other(surroundings: Surroundings) -> None:
    """It is committed: what is to be done then is done."""
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1))
        [(tp, records)] = (await pipe.raw_records()).items()

        async def dealt_out(tx: AsyncConnection, batch: list[Received]) -> After | None:
            await consumer_loop._Assignment(consumer).on_partitions_assigned(set())
            return after

        async def after() -> None: ...

        consumer = pipe.consumer(dealt_out)
        await consumer.offsets.start_of(0)
        assert await consumer.batches.apply({tp: records}) is after


async def test_how_far_behind_it_is_shows_before_anything_is_handled(surroundings: Surroundings) -> None:
    """Whoever waits until all is read must not take what nobody has looked at for it."""

    async def not_now(tx: AsyncConnection, batch: list[Received]) -> None:
        raise Hold

    lag.LAG.clear()
    async with pipeline(surroundings, partitions=2) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2, 3))
        async with going(pipe.consumer(not_now).run):
            await eventually(lambda: is_so(sorted(_lag().values()) == [0, 3]))


def _shown() -> set[int]:
    """Partitions of which it is shown how far behind we are."""
    return set(_lag())


def _lag() -> dict[int, float]:
    [family] = lag.LAG.collect()
    return {int(one.labels["partition"]): one.value for one in family.samples if one.labels["topic"] == STATES.name}


@pytest.mark.parametrize("groups", [True, False], ids=["where leaders change", "on a broker that is alone"])
async def test_a_log_that_ends_before_what_was_read(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, groups: bool
) -> None:
    """A leader that was chosen a moment ago does not know yet how far all have come, and any may answer with records
    that came after it looked where the log ends. That ends nothing before a later answer says the same."""
    async with pipeline(surroundings, partitions=1, kafka_groups=groups) as pipe, reading(pipe, 0) as (read, place):
        consumer = pipe.consumer()
        consumer.placement.placed.add(place)
        answers = itertools.count(1)

        async def answered(end: int, next_offset: int) -> None:
            read.seek(place, next_offset)
            known = read._subscription.subscription.assignment.state_value(place)
            known.highwater, known.timestamp = end, next(answers)
            await consumer.logs.within_the_log(read)
            await consumer.logs.within_the_log(read)  # of the same answer

        await answered(end=5, next_offset=5)
        await answered(end=5, next_offset=6)  # one was appended while it was read
        await answered(end=7, next_offset=8)  # and again: the log goes on
        await answered(end=8, next_offset=8)
        await answered(end=3, next_offset=8)
        if groups:
            await answered(end=3, next_offset=8)
            await answered(end=8, next_offset=8)
            await answered(end=3, next_offset=8)
            monkeypatch.setattr(log_watch, "NEW_LEADER_S", -1.0)
        assert place in consumer.placement.placed
        await consumer.offsets.start_of(0)
        await answered(end=3, next_offset=8)
        assert place not in consumer.placement.placed
        [broken] = await pipe.broken()
        assert (broken.fault, broken.why) == ("other_log", "offset 8 is beyond the log, which ends at 3")


@asynccontextmanager
async def reading(pipe: Pipeline, partition: int) -> AsyncIterator[tuple[AIOKafkaConsumer, TopicPartition]]:
    """What the loop reads with, of one partition, in our hands."""
    place = TopicPartition(pipe.settings.topic_prefix + STATES.name, partition)
    kafka_consumer = AIOKafkaConsumer(bootstrap_servers=pipe.settings.kafka_bootstrap)
    await kafka_consumer.start()
    kafka_consumer.assign([place])
    await kafka_consumer.seek_to_beginning(place)
    try:
        yield kafka_consumer, place
    finally:
        await kafka_consumer.stop()


@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
async def test_consumers_that_come_and_go_apply_everything_once_and_in_order(
    surroundings: Surroundings, together: bool
) -> None:
    async with pipeline(surroundings, partitions=3, kafka_groups=True) as pipe:
        subjects = [f"t1-{n:032x}" for n in range(12)]
        published = 0
        written = asyncio.Event()

        async def write() -> None:
            nonlocal published
            while not written.is_set():
                published += 1
                await pipe.publish(*(state for s in subjects for state in states_of(s, published)))
                with suppress(TimeoutError):
                    await asyncio.wait_for(written.wait(), 0.1)

        first, second = pipe.consumer(together=together), pipe.consumer(together=together)
        writing = asyncio.ensure_future(write())
        async with going(second.run) as [running]:
            await asyncio.wait_for(second.assigned.wait(), 60)
            async with going(first.run):
                await asyncio.wait_for(first.assigned.wait(), 60)
                await eventually(lambda: is_so(len(second.placement.placed) < 3))
                at = published
                await eventually(lambda: is_so(published > at + 2))
            await eventually(lambda: is_so(len(second.placement.placed) == 3))
            written.set()
            await writing
            await eventually(lambda: _count(pipe.applied(), published * len(subjects)))
            assert not running.done()
        by_subject: dict[str, list[int]] = {}
        for subject, version in await pipe.applied():
            by_subject.setdefault(subject, []).append(version)
        assert by_subject == {s: list(range(1, published + 1)) for s in subjects}


@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
async def test_two_that_take_every_partition_apply_everything_once_and_in_order(
    surroundings: Surroundings, together: bool
) -> None:
    """Without groups nothing but the offset's row keeps them apart."""
    async with pipeline(surroundings, partitions=2, kafka_groups=False) as pipe:
        subjects = [f"t1-{n:032x}" for n in range(8)]
        first, second = pipe.consumer(together=together), pipe.consumer(together=together)
        async with going(first.run, second.run):
            await asyncio.gather(first.assigned.wait(), second.assigned.wait())
            for version in range(1, 11):
                await pipe.publish(*(state for s in subjects for state in states_of(s, version)))
            await eventually(lambda: _count(pipe.applied(), 80))
            await eventually(lambda: is_so(all(len(c.offsets.reached) == 2 for c in (first, second))))
        by_subject: dict[str, list[int]] = {}
        for subject, version in await pipe.applied():
            by_subject.setdefault(subject, []).append(version)
        assert by_subject == {s: list(range(1, 11)) for s in subjects}


async def test_topics_are_made_once_all_with_one_partition_count(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=2) as pipe:
        await asyncio.gather(*(ensure_topics(pipe.settings, TOPICS) for _ in range(3)))
        await ensure_topics(pipe.settings, TOPICS)
        for topic in TOPICS:
            assert await pipe.log(topic) == []  # which fails on a partition that is not there
            assert await pipe.dead_letters(topic) == []


async def test_a_topic_with_another_partition_count_is_refused(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=2) as pipe:
        with pytest.raises(WrongTopic, match=r"consent.states.v1 has 2 partitions, settings say 3"):
            await ensure_topics(pipe.with_settings(partitions=3), [STATES])


async def test_a_topic_with_other_settings_is_refused_with_what_to_do(surroundings: Surroundings) -> None:
    settings = ServiceSettings(**await surroundings.settings("dispatch"))
    name = settings.topic_prefix + STATES.name
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        in_sync = {"min.insync.replicas": "1", "unclean.leader.election.enable": "false"}
        kept_too_long = STATES.config | in_sync | {"max.compaction.lag.ms": "604800000"}
        await admin.create_topics([NewTopic(name, settings.partitions, 1, topic_configs=kept_too_long)])
    finally:
        await admin.close()
    said = rf"^{name}: max.compaction.lag.ms is 604800000, and must be 86400000: kafka-configs.sh .*=86400000$"
    with pytest.raises(WrongTopic, match=said):
        await ensure_topics(settings, [STATES])


async def test_of_an_offset_that_is_not_in_the_log_nothing_is_read_and_the_others_go_on(
    surroundings: Surroundings,
) -> None:
    """Records that were needed are gone, or the topic is another one: a person decides, and a restart does not."""
    async with pipeline(surroundings, partitions=2) as pipe:
        far, near = f"t1-{2:032x}", f"t1-{5:032x}"
        assert [kafka.partition_of(subject, 2) for subject in (far, near)] == [0, 1]
        await pipe.publish(*states_of(far, 1))
        await pipe.consumer().offsets.start_of(0)
        await pipe.scalar("UPDATE consumer_offset SET next_offset = 4 RETURNING 1")
        async with going(pipe.consumer().run):
            await eventually(pipe.broken)
            await pipe.publish(*states_of(near, 1))
            await eventually(_until_offset(pipe, 1, 1))
        await pipe.publish(*states_of(far, *range(2, 9)))
        async with going(pipe.consumer().run):
            await pipe.publish(*states_of(near, 2))
            await eventually(_until_offset(pipe, 2, 1))
        assert await pipe.next_offset() == 4
        assert await pipe.applied() == [(near, 1), (near, 2)]


async def _count(found: Awaitable[list[tuple[str, int]]], count: int) -> bool:
    assert len(await found) == count
    return True
