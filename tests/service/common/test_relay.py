"""The relay on a real Postgres and a real broker: order, no loss across kills, one leader, and watermarks that hold."""

import asyncio
import random
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES, Watermark
from common.contracts.consent import ConsentStateChanged
from common.db.database import Database
from common.kafka import outbox, packing
from common.kafka.broker import partition_of
from common.kafka.outbox import AS_OF, LEADER, MAX_RECORD_BYTES, OLDEST, Relay
from common.kafka.relayed import TOLD_CHARS, Relayed, ids_of, spans
from common.telemetry import continue_trace, traceparent
from tests.service.common.pipeline import PUBLISHED, Pipeline, Record, going, pipeline, states_of
from tests.service.common.wire import wire_to
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings

SUBJECTS = [f"t1-{n:032x}" for n in range(5)]
RARELY_S = 3_600.0  # no watermark is on the wire beside a row


def _versions(records: list[Record]) -> dict[str, list[int]]:
    """By subject, in the order of the log."""
    found: dict[str, list[int]] = defaultdict(list)
    for record in records:
        if isinstance(record.event, ConsentStateChanged):
            found[record.event.subject_id].append(record.event.version)
    return dict(found)


def _until_logged(pipe: Pipeline, states: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        assert len(await pipe.states()) >= states
        return True

    return look


async def test_events_of_a_key_leave_in_order_once_and_their_rows_go(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        for version in range(1, 41):
            await pipe.append(*(state for subject in SUBJECTS for state in states_of(subject, version)))
        async with going(pipe.relay(relay_batch=37).run):
            await eventually(pipe.drained)
        assert _versions(await pipe.log()) == {subject: list(range(1, 41)) for subject in SUBJECTS}


async def test_a_record_is_a_cloud_event_in_the_partition_of_its_key(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        continue_trace(None)
        trace = traceparent()
        await pipe.append(*states_of(SUBJECTS[0], 1))
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        [record] = [r for r in await pipe.log() if isinstance(r.event, ConsentStateChanged)]
        assert record.key == SUBJECTS[0]
        assert record.partition == partition_of(SUBJECTS[0], pipe.settings.partitions)
        assert record.headers["ce_specversion"] == "1.0"
        assert record.headers["ce_type"] == "consent.state_changed.v1"
        assert record.headers["ce_source"] == "/placet/consent"
        assert record.headers["content-type"] == "application/json"
        assert record.headers["traceparent"] == trace
        assert datetime.fromisoformat(record.headers["ce_time"]) <= datetime.now(UTC)
        assert len(record.headers["ce_id"]) == 36


@pytest.mark.parametrize("pack_bytes", [1, packing.PACK_BYTES])
async def test_events_that_share_rows_leave_one_by_one_in_their_order(
    pack_bytes: int, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows of their own among them, in turns that take a row each; what is rolled back is not among them. As
    appended, whether a payload is compressed on its way or not."""
    monkeypatch.setattr(packing, "PACK_BYTES", pack_bytes)
    monkeypatch.setattr(outbox, "TOGETHER", 3)
    monkeypatch.setattr(outbox, "TURN_BYTES", 1)
    async with pipeline(surroundings, partitions=1) as pipe:
        for first in range(1, 31, 10):
            async with pipe.database.begin() as tx:
                await outbox.append_by_partition(tx, STATES, states_of(SUBJECTS[0], *range(first, first + 9)), 1)
            await pipe.append(*states_of(SUBJECTS[0], first + 9))
            async with pipe.database.begin() as tx:
                await outbox.append_by_partition(tx, STATES, states_of(SUBJECTS[0], 99), 1)
                await tx.rollback()
        assert await pipe.waiting() == 12
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
            await eventually(lambda: _a_watermark(pipe))
        log = await pipe.log()
        assert _versions(log) == {SUBJECTS[0]: list(range(1, 31))}
        states = [r for r in log if not isinstance(r.event, Watermark)]
        assert {r.headers["ce_type"] for r in states} == {"consent.state_changed.v1"}
        assert len({r.headers["ce_id"] for r in states}) == len(states) == 30


async def test_the_events_of_shared_rows_count_in_the_backlog(surroundings: Surroundings) -> None:
    """As about the events that they are: a writer that waits for its limit lets a STOP pass."""
    async with pipeline(surroundings) as pipe:
        await pipe.append(*states_of(SUBJECTS[0], 1, 2, 3, 4, 5))
        async with pipe.database.begin() as tx:
            assert await outbox.backlog_of_events(tx) == 5
            drawn = random.Random(1)
            ids = [f"t1-{drawn.getrandbits(128):032x}" for _ in range(300)]
            people = [state for subject_id in ids for state in states_of(subject_id, 1)]
            await outbox.append_by_partition(tx, STATES, people, 3)
            assert await outbox.backlog(tx) == 8
            assert 5 + 300 / 4 < await outbox.backlog_of_events(tx) < 5 + 300 * 4


async def test_no_event_that_no_record_can_hold_enters_a_shared_row(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe, pipe.database.begin() as tx:
        with pytest.raises(outbox.TooLarge):
            await outbox.append_encoded(tx, STATES, "x.v1", [b"a", b"b"], [b"", b"x" * MAX_RECORD_BYTES], 3)
        assert await outbox.backlog(tx) == 0


async def test_a_large_turn_holds_the_loop_for_one_partition_at_a_time(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, seen, make = 0, set[int](), AIOKafkaProducer.create_batch

    def counted(producer: AIOKafkaProducer) -> BatchBuilder:
        nonlocal begun
        begun += 1
        return make(producer)

    async def look(stop: asyncio.Event) -> None:
        while not stop.is_set():
            seen.add(begun)
            await asyncio.sleep(0)

    monkeypatch.setattr(AIOKafkaProducer, "create_batch", counted)
    monkeypatch.setattr(outbox, "AT_ONCE_BYTES", 1)
    async with pipeline(surroundings, partitions=3) as pipe:
        await pipe.append(*(state for subject in SUBJECTS for state in states_of(subject, 1)))
        partitions = len({partition_of(subject, 3) for subject in SUBJECTS})
        async with going(look, pipe.relay().run):
            await eventually(pipe.drained)
        assert partitions > 1
        assert set(range(partitions + 1)) <= seen


async def _a_watermark(pipe: Pipeline) -> bool:
    assert await pipe.watermarks()
    return True


async def test_events_that_share_a_row_are_the_same_ones_when_a_relay_has_died_over_them(
    surroundings: Surroundings,
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        async with pipe.database.begin() as tx:
            await outbox.append_by_partition(tx, STATES, states_of(SUBJECTS[0], 1, 2, 3), 1)
        [[row]] = await pipe.rows("SELECT id FROM outbox")
        async with pipe.row_held(row) as let_go, going(pipe.relay().run) as [relaying]:
            await eventually(_until_logged(pipe, 3))
            deleting = await eventually(pipe.who_deletes)
            relaying.cancel()
            with suppress(asyncio.CancelledError):
                await relaying
            await eventually(lambda: pipe.gone(deleting))
            await let_go()
        assert await pipe.waiting() == 1, "deleted before its time"
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        log = [r for r in await pipe.log() if isinstance(r.event, ConsentStateChanged)]
        assert _versions(log) == {SUBJECTS[0]: [1, 2, 3, 1, 2, 3]}
        assert [r.headers["ce_id"] for r in log[:3]] == [r.headers["ce_id"] for r in log[3:]]


async def test_a_row_that_commits_late_is_not_skipped(surroundings: Surroundings) -> None:
    """Its id is lower than what is published already: a cursor would have passed it."""
    async with pipeline(surroundings) as pipe, going(pipe.relay().run):
        async with pipe.database.begin() as tx:
            [late] = await outbox.append(tx, STATES, states_of(SUBJECTS[0], 1))
            [early] = await pipe.append(*states_of(SUBJECTS[1], 1))
            assert late < early
            await eventually(_until_logged(pipe, 1))
            assert _versions(await pipe.log()) == {SUBJECTS[1]: [1]}
        await eventually(_until_logged(pipe, 2))
        assert await eventually(pipe.drained)


async def test_what_is_rolled_back_is_never_published(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe, going(pipe.relay().run):
        async with pipe.database.begin() as tx:
            await outbox.append(tx, STATES, states_of(SUBJECTS[0], 1))
            await tx.rollback()
        await pipe.append(*states_of(SUBJECTS[0], 2))
        await eventually(pipe.drained)
        assert _versions(await pipe.log()) == {SUBJECTS[0]: [2]}


@pytest.mark.parametrize("death", ["cancelled", "connection lost"])
async def test_a_relay_that_dies_between_ack_and_delete_publishes_again_and_loses_nothing(
    surroundings: Surroundings, death: str
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        ids = await pipe.append(*states_of(SUBJECTS[0], 1, 2, 3))
        async with pipe.row_held(ids[1]) as let_go, going(pipe.relay().run) as [relaying]:
            await eventually(_until_logged(pipe, 3))
            assert await pipe.waiting() == 3
            if death == "cancelled":
                deleting = await eventually(pipe.who_deletes)
                relaying.cancel()
                with suppress(asyncio.CancelledError):
                    await relaying
                await eventually(lambda: pipe.gone(deleting))
            else:
                await eventually(lambda: pipe.scalar(KILL_WHO_DELETES))
            await let_go()
            if death == "cancelled":
                assert await pipe.waiting() == 3
                async with going(pipe.relay().run):
                    await eventually(pipe.drained)
            else:
                await eventually(pipe.drained)
        assert _versions(await pipe.log()) == {SUBJECTS[0]: [1, 2, 3, 1, 2, 3]}


KILL_WHO_DELETES = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM outbox%'
"""


async def test_two_relays_on_one_database_elect_one_and_the_other_takes_over(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        second_database = Database(pipe.settings.database_url, name="second-relay")
        [row] = await pipe.append(*states_of(SUBJECTS[0], 1))
        async with pipe.row_held(row) as let_go, going(pipe.relay().run) as [first]:
            await eventually(_until_logged(pipe, 1))
            async with going(pipe.relay(database=second_database).run):
                turns: set[datetime] = set()

                async def stood_by() -> bool:
                    turns.update([at for (at,) in await pipe.rows(LAST_QUERY_OF_THE_SECOND)])
                    return len(turns) > 4

                await eventually(stood_by)
                assert len(await pipe.states()) == 1, "both published"
                assert await pipe.waiting() == 1
                deleting = await pipe.who_deletes()
                first.cancel()
                await eventually(lambda: pipe.gone(deleting))
                await let_go()
                await eventually(pipe.drained)
        assert _versions(await pipe.log()) == {SUBJECTS[0]: [1, 1]}
        await second_database.close()


LAST_QUERY_OF_THE_SECOND = """
SELECT query_start AS at FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'second-relay' AND query <> ''
"""


def _kept_its_word(pipe: Pipeline, records: list[Record]) -> bool:
    """Whatever was acknowledged before a watermark's `as_of` precedes it in its partition."""
    for mark in records:
        if not isinstance(mark.event, Watermark):
            continue
        for record in records:
            if isinstance(record.event, ConsentStateChanged) and record.partition == mark.partition:
                acknowledged = pipe.acknowledged[record.event.subject_id, record.event.version]
                if acknowledged < mark.event.as_of and record.offset > mark.offset:
                    return False
    return True


async def test_a_watermark_waits_until_all_that_its_read_saw_is_in_the_log(surroundings: Surroundings) -> None:
    """Also where the service stands on what another acknowledged: of a row that is left, nobody knows when that was."""
    async with pipeline(surroundings, partitions=1) as pipe:
        for version in range(1, 101):
            await pipe.append(*states_of(SUBJECTS[0], version))
        ceiling = Ceiling()
        ceiling.at = datetime.now(UTC)
        settings = pipe.with_settings(relay_batch=10, watermark_every_s=0.001, max_clock_skew_s=0.0)
        async with going(Relay("consent", pipe.database, settings, [STATES], ceiling).run):
            await eventually(pipe.drained)
            await eventually(lambda: _some(pipe.watermarks()))
        records = await pipe.log()
        first_mark = next(r for r in records if isinstance(r.event, Watermark))
        assert first_mark.offset == 100
        assert _kept_its_word(pipe, records)


async def test_watermarks_go_on_while_there_are_always_rows_left(surroundings: Surroundings) -> None:
    """More is written with each turn than it takes: of what another service acknowledged an hour ago, when and in
    which order is all that its watermark, the ceiling, says. What is left is never spoken for."""
    async with pipeline(surroundings, partitions=1) as pipe:
        ceiling, turns = Ceiling(), 40
        settings = pipe.with_settings(relay_batch=10, watermark_every_s=0.0, max_clock_skew_s=0.0)

        async def applied() -> None:
            """What was acknowledged an hour ago, and then the watermark that covers it."""
            turn = ceiling.asked
            for version in range(turn * 20, turn * 20 + 20):
                await pipe.append(*states_of(SUBJECTS[0], version))
                pipe.acknowledged[SUBJECTS[0], version] = datetime.now(UTC) - timedelta(hours=1)
            ceiling.at = datetime.now(UTC) - timedelta(hours=1)
            ceiling.meanwhile = applied if turn < turns else None

        ceiling.meanwhile = applied
        async with going(Relay("consent", pipe.database, settings, [STATES], ceiling).run):
            await eventually(pipe.drained)
            await eventually(lambda: is_so(ceiling.asked > turns))
            await eventually(pipe.drained)
        records = await pipe.log()
        said = [r.event.as_of for r in records if isinstance(r.event, Watermark) and r.offset < turns * 10]
        assert len(set(said)) >= 3, "while rows were left at the end of each turn"
        assert _kept_its_word(pipe, records)


async def test_a_watermark_does_not_cover_what_came_while_rows_were_being_published(surroundings: Surroundings) -> None:
    """Committed after the read that the watermark speaks for: not in the log yet, so not before `as_of`."""
    async with pipeline(surroundings, partitions=1) as pipe:
        [row] = await pipe.append(*states_of(SUBJECTS[0], 1))
        async with pipe.row_held(row) as let_go, going(pipe.relay(max_clock_skew_s=0.0).run):
            await eventually(_until_logged(pipe, 1))
            await pipe.append(*states_of(SUBJECTS[0], 2))
            await let_go()
            await eventually(pipe.drained)
        records = await pipe.log()
        marks = [r.offset for r in records if isinstance(r.event, Watermark)]
        [second] = [r.offset for r in records if isinstance(r.event, ConsentStateChanged) and r.event.version == 2]
        assert min(marks) < second, "the watermark of the first read was not published: nothing was tested"
        assert _kept_its_word(pipe, records)


async def test_the_clock_of_a_watermark_is_read_before_the_outbox(surroundings: Surroundings) -> None:
    """Postgres has looked, and its answer is on the wire, when an event is committed and acknowledged."""
    async with pipeline(surroundings, partitions=1) as pipe:
        url = make_url(pipe.settings.database_url)
        assert url.host is not None
        async with wire_to(url.host, url.port or 5432) as wire:
            prepared = False

            def asked(request: bytes) -> None:
                nonlocal prepared
                if prepared and request.startswith(b"B"):  # the statement is there: this binds and executes it
                    wire.hold()
                    wire.asked = lambda _: None
                # other connections go by this wire as well, and ask for something else meanwhile
                prepared = prepared or b"AS newest" in request

            wire.asked = asked
            through_wire = Database(url.set(port=wire.port).render_as_string(hide_password=False), name="wired")
            relay = pipe.relay(database=through_wire, max_clock_skew_s=0.0)
            async with going(relay.run):
                await asyncio.wait_for(wire.answered.wait(), 30)
                await pipe.append(*states_of(SUBJECTS[0], 1))
                wire.let_go()
                await eventually(pipe.drained)
                await eventually(lambda: _some(pipe.watermarks()))
            records = await pipe.log()
            assert isinstance(records[0].event, Watermark), "that read found something: nothing was tested"
            assert _kept_its_word(pipe, records)
            await through_wire.close()


@pytest.mark.parametrize("relay_batch", [2000, 3])
async def test_watermarks_hold_while_writers_commit_all_the_time(surroundings: Surroundings, relay_batch: int) -> None:
    """No allowance for skew (there is one clock), and a watermark after every read, or after some that took it all."""
    async with pipeline(surroundings, partitions=1) as pipe:

        async def write(subject: str) -> None:
            for version in range(1, 201):
                await pipe.append(*states_of(subject, version))

        relay = pipe.relay(relay_batch=relay_batch, watermark_every_s=0.0001, max_clock_skew_s=0.0)
        async with going(relay.run):
            await asyncio.gather(*map(write, SUBJECTS))
            await eventually(pipe.drained)
        records = await pipe.log()
        assert _versions(records) == {subject: list(range(1, 201)) for subject in SUBJECTS}
        assert sum(isinstance(r.event, Watermark) for r in records) > 3
        assert _kept_its_word(pipe, records)


class Ceiling:
    """What the service stands on, told by the test of partition 0; counts how often the relay asked."""

    def __init__(self) -> None:
        self.at: datetime | None = None
        self.others: Mapping[int, datetime] = {}
        self.asked = 0
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def __call__(self, tx: AsyncConnection) -> Mapping[int, datetime]:
        self.asked += 1
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return self.others if self.at is None else {0: self.at, **self.others}

    async def asked_more(self) -> bool:
        before = self.asked
        await eventually(lambda: is_so(self.asked > before + 3))
        return True


async def test_no_watermark_while_the_ceiling_is_unknown_and_none_above_it(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        ceiling = Ceiling()
        settings = pipe.with_settings(watermark_every_s=0.01)
        async with going(Relay("consent", pipe.database, settings, [STATES], ceiling).run):
            await ceiling.asked_more()
            assert await pipe.watermarks() == []
            ceiling.at = low = datetime.now(UTC) - timedelta(hours=1)
            await ceiling.asked_more()
            assert {r.event.as_of for r in await pipe.watermarks() if isinstance(r.event, Watermark)} == {low}
            ceiling.at = datetime.now(UTC) + timedelta(hours=1)
            await ceiling.asked_more()
            last = (await pipe.watermarks())[-1].event
            assert isinstance(last, Watermark)
            assert low < last.as_of <= datetime.now(UTC) - timedelta(seconds=settings.max_clock_skew_s)


async def test_a_partition_of_which_nothing_is_known_holds_no_other(surroundings: Surroundings) -> None:
    """One shard of inbound-svc stands still: the people of the others have watermarks, each of its own partition."""
    async with pipeline(surroundings, partitions=3) as pipe:
        ceiling, now = Ceiling(), datetime.now(UTC)
        AS_OF.clear()
        ceiling.others = of_each = {1: now - timedelta(hours=1), 2: now - timedelta(minutes=30)}
        async with going(
            Relay("consent", pipe.database, pipe.with_settings(watermark_every_s=0.01), [STATES], ceiling).run
        ):
            await ceiling.asked_more()
            await eventually(lambda: _some(pipe.watermarks()))
            said = {(mark.partition, mark.as_of) for mark in marks_of(await pipe.watermarks())}
            assert said == {*of_each.items()}
            assert _labelled(AS_OF) == {}, "of a partition nothing was told yet"
            ceiling.at = now - timedelta(hours=2)
            await eventually(lambda: is_so(_labelled(AS_OF) == {STATES.name: (now - timedelta(hours=2)).timestamp()}))
            assert {mark.as_of for mark in marks_of(await pipe.watermarks()) if mark.partition == 0} == {ceiling.at}


async def test_the_ceiling_is_read_before_the_outbox(surroundings: Surroundings) -> None:
    """What the service applied up to the ceiling left rows: they must be in the log before the ceiling is spoken."""
    async with pipeline(surroundings, partitions=1) as pipe:
        ceiling = Ceiling()
        ceiling.at = datetime.now(UTC) - timedelta(hours=1)
        settings = pipe.with_settings(watermark_every_s=0.0001)
        async with going(Relay("consent", pipe.database, settings, [STATES], ceiling).run):
            await ceiling.asked_more()

            async def apply() -> None:
                await pipe.append(*states_of(SUBJECTS[0], 1))
                ceiling.at = applied

            applied = datetime.now(UTC) - timedelta(minutes=30)
            ceiling.meanwhile = apply
            await ceiling.asked_more()
            await eventually(pipe.drained)
        records = await pipe.log()
        [state] = [r.offset for r in records if isinstance(r.event, ConsentStateChanged)]
        assert state < min(r.offset for r in records if isinstance(r.event, Watermark) and r.event.as_of == applied)


async def test_whoever_waits_for_a_row_hears_yes_only_once_kafka_has_it(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        relayed = Relayed(pipe.database, PUBLISHED)
        ids = await pipe.fact(await pipe.append(*states_of(SUBJECTS[0], 1, 2)))
        async with going(relayed.run):
            assert await relayed.wait(ids, 0.3) is False
            answer = asyncio.ensure_future(relayed.wait(ids, 60))
            async with going(pipe.relay().run):
                assert await answer is True
            assert _versions(await pipe.log()) == {SUBJECTS[0]: [1, 2]}
            assert await relayed.wait(ids, 60) is True
            assert await relayed.wait({}, 60) is True


@pytest.mark.parametrize("ids", [[1], [3, 4, 5], [3, 4, 9, 11, 12], list(range(7, 5000, 3))])
def test_the_relay_tells_which_rows_are_gone_or_that_one_has_to_look(ids: list[int]) -> None:
    told = spans(ids)

    assert len(told) <= TOLD_CHARS
    assert ids_of(told) == (ids if told else [])
    assert bool(told) == (len(ids) < 1000)


async def test_who_waits_hears_of_it_however_many_rows_there_were(surroundings: Surroundings) -> None:
    """Nobody looks by himself: all rows of a batch are told; then there are too many gaps; then it was long ago."""
    async with pipeline(surroundings, partitions=1) as pipe:
        relayed = Relayed(pipe.database, PUBLISHED, look_every_s=3600.0)
        async with going(relayed.run):
            await eventually(lambda: _listening(pipe))
            ids = await pipe.fact(await pipe.append(*states_of(SUBJECTS[0], *range(1, 2001))))
            first = asyncio.ensure_future(relayed.wait(ids, 60))
            async with going(pipe.relay().run):
                assert await first is True
            more = await pipe.append(*states_of(SUBJECTS[0], *range(2001, 6001)))
            async with pipe.database.begin() as tx:
                await tx.execute(text("DELETE FROM outbox WHERE id % 2 = 0"))
            left = await pipe.fact([one for one in more if one % 2])
            then = asyncio.ensure_future(relayed.wait(left, 60))
            async with going(pipe.relay().run):
                assert await then is True
            assert await relayed.wait(left, 60) is True


async def test_a_row_that_kafka_has_not_acknowledged_is_not_deleted_and_nobody_hears_yes(
    surroundings: Surroundings,
) -> None:
    """Kafka has the record, and its answer is still on the wire: it might as well never come."""
    host, port = surroundings.broker.bootstrap.split(":")
    async with pipeline(surroundings, partitions=1) as pipe, wire_to(host, int(port)) as wire:
        advertised = [host.encode() + struct.pack(">i", at) for at in (int(port), wire.port)]
        wire.rewrite = (advertised[0], advertised[1])  # or the client would go to the broker itself
        relayed = Relayed(pipe.database, PUBLISHED)
        relay = pipe.relay(kafka_bootstrap=f"{host}:{wire.port}", watermark_every_s=RARELY_S)
        async with going(relayed.run, relay.run):
            await eventually(lambda: _a_watermark(pipe))
            first = await pipe.fact(await pipe.append(*states_of(SUBJECTS[0], 1)))
            assert await relayed.wait(first, 60) is True
            wire.hold()
            second = await pipe.fact(await pipe.append(*states_of(SUBJECTS[0], 2)))
            await asyncio.wait_for(wire.answered.wait(), 30)
            await eventually(_until_logged(pipe, 2))
            assert await relayed.wait(second, 0.5) is False
            assert await pipe.waiting() == 1
            wire.let_go()
            assert await relayed.wait(second, 60) is True


async def test_one_row_of_several_still_waiting_is_a_no(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        relayed = Relayed(pipe.database, PUBLISHED)
        first = await pipe.fact(await pipe.append(*states_of(SUBJECTS[0], 1)))
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        second = await pipe.fact(await pipe.append(*states_of(SUBJECTS[0], 2)))
        async with going(relayed.run):
            assert await relayed.wait(first, 60) is True
            assert await relayed.wait(first | second, 0.5) is False


async def test_a_fact_that_its_database_has_lost_is_a_no(surroundings: Surroundings) -> None:
    """As after a failover: neither row nor fact is there, and the row's id is another event's, now published."""
    async with pipeline(surroundings, partitions=1) as pipe:
        relayed = Relayed(pipe.database, PUBLISHED)
        lost = await pipe.fact(await pipe.append(*states_of(SUBJECTS[0], 1)))
        async with going(relayed.run):
            answer = asyncio.ensure_future(relayed.wait(lost, 3.0))
            async with pipe.sql() as sql, sql.transaction():
                await sql.execute("DELETE FROM fact")
                await sql.execute("UPDATE outbox SET event_id = gen_random_uuid()")
            async with going(pipe.relay().run):
                await eventually(pipe.drained)
                assert await answer is False


async def test_a_relay_of_the_same_process_tells_whoever_waits_without_a_query(surroundings: Surroundings) -> None:
    """No query could tell: `Relayed` neither listens nor polls here."""
    async with pipeline(surroundings, partitions=1) as pipe:
        relayed, drawn = Relayed(pipe.database, PUBLISHED), [uuid4(), uuid4()]
        rows = await pipe.append(*states_of(SUBJECTS[0], 1, 2), event_ids=drawn)
        answer = asyncio.ensure_future(relayed.wait(await pipe.fact(rows), 60, dict(zip(rows, drawn, strict=True))))
        async with going(pipe.relay(published=relayed.published).run):
            assert await answer is True
            assert await pipe.waiting() == 0
        assert _versions(await pipe.log()) == {SUBJECTS[0]: [1, 2]}


async def test_the_relay_of_the_same_process_tells_nobody_of_another_event_under_the_row_id(
    surroundings: Surroundings,
) -> None:
    """As after a failover: the row is lost, and its id is another event's, now published."""
    async with pipeline(surroundings, partitions=1) as pipe:
        relayed, drawn = Relayed(pipe.database, PUBLISHED), uuid4()
        [row] = await pipe.append(*states_of(SUBJECTS[0], 1), event_ids=[drawn])
        async with pipe.sql() as sql:
            await sql.execute("UPDATE outbox SET event_id = gen_random_uuid()")
        answer = asyncio.ensure_future(relayed.wait(await pipe.fact([row]), 3.0, {row: drawn}))
        async with going(pipe.relay(published=relayed.published).run):
            await eventually(pipe.drained)
            assert await answer is False


async def test_the_relay_of_the_same_process_tells_nobody_before_kafka_has_acknowledged(
    surroundings: Surroundings,
) -> None:
    host, port = surroundings.broker.bootstrap.split(":")
    async with pipeline(surroundings, partitions=1) as pipe, wire_to(host, int(port)) as wire:
        advertised = [host.encode() + struct.pack(">i", at) for at in (int(port), wire.port)]
        wire.rewrite = (advertised[0], advertised[1])
        relayed, drawn = Relayed(pipe.database, PUBLISHED), [uuid4(), uuid4()]
        told: dict[str, Any] = {"kafka_bootstrap": f"{host}:{wire.port}", "watermark_every_s": RARELY_S}
        async with going(pipe.relay(published=relayed.published, **told).run):
            await eventually(lambda: _a_watermark(pipe))
            await pipe.append(*states_of(SUBJECTS[0], 1), event_ids=drawn[:1])
            await eventually(pipe.drained)
            wire.hold()
            async with pipe.database.begin() as tx:  # the caller waits before the relay can see the row
                [second] = await outbox.append(tx, STATES, states_of(SUBJECTS[0], 2), event_ids=drawn[1:])
                answer = asyncio.ensure_future(relayed.wait({uuid4(): [second]}, 60, {second: drawn[1]}))
            await asyncio.wait_for(wire.answered.wait(), 30)
            await eventually(_until_logged(pipe, 2))
            assert not answer.done()
            assert await pipe.waiting() == 1
            wire.let_go()
            assert await answer is True


async def test_the_age_of_the_oldest_row_shows_while_kafka_is_down(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        await pipe.append(*states_of(SUBJECTS[0], 1))
        OLDEST.set(0)
        async with going(pipe.relay(kafka_bootstrap="127.0.0.1:1").run):
            await eventually(lambda: is_so(_value(OLDEST) > 0))
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
            await eventually(lambda: is_so(_value(OLDEST) == 0))


async def test_a_relay_that_does_not_lead_says_how_old_the_oldest_row_is(surroundings: Surroundings) -> None:
    """Who leads may stand still, and then says nothing new."""
    async with pipeline(surroundings) as pipe, pipe.sql() as sql:
        stuck = sql.transaction()
        await stuck.start()
        await sql.execute("SELECT pg_advisory_xact_lock(hashtext($1))", LEADER)
        OLDEST.set(-1)
        async with going(pipe.relay().run):
            await eventually(lambda: is_so(_value(OLDEST) == 0))
            await pipe.append(*states_of(SUBJECTS[0], 1))
            await eventually(lambda: is_so(_value(OLDEST) > 0))
            await stuck.rollback()
            await eventually(pipe.drained)
            await eventually(lambda: is_so(_value(OLDEST) == 0))


async def test_when_the_last_watermark_was_is_shown_by_whoever_has_published_one(surroundings: Surroundings) -> None:
    """As an instant: how long ago that is grows by itself, also once nobody publishes any more."""
    async with pipeline(surroundings, partitions=1) as pipe:
        ceiling = Ceiling()
        settings = pipe.with_settings(watermark_every_s=0.01)
        AS_OF.clear()
        async with going(Relay("consent", pipe.database, settings, [STATES], ceiling).run):
            await ceiling.asked_more()
            assert _labelled(AS_OF) == {}, "nothing was published"
            ceiling.at = before = datetime.now(UTC) - timedelta(hours=1)
            await eventually(lambda: is_so(_labelled(AS_OF) == {STATES.name: before.timestamp()}))


async def test_an_event_that_no_record_could_hold_is_refused_where_it_is_written(surroundings: Surroundings) -> None:
    """In the outbox it would be tried for ever, and everything behind it would wait."""
    async with pipeline(surroundings) as pipe:
        with pytest.raises(ValueError, match=r"consent.state_changed.v1 of \d+ bytes"):
            await pipe.append(*states_of("x" * MAX_RECORD_BYTES, 1))
        largest = "x" * (MAX_RECORD_BYTES // 2 - 200)  # it is the key, and in the value
        await pipe.append(*states_of(largest, 1))
        async with going(pipe.relay().run):
            await eventually(pipe.drained)
        assert _versions(await pipe.log()) == {largest: [1]}


def marks_of(records: Iterable[Record]) -> list[Watermark]:
    return [record.event for record in records if isinstance(record.event, Watermark)]


async def _listening(pipe: Pipeline) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%relayed%'"
    return bool(await pipe.scalar(query))


async def _some(found: Awaitable[list[Record]]) -> bool:
    return bool(await found)


def _labelled(gauge: Gauge) -> dict[str, float]:
    """By topic."""
    [family] = gauge.collect()
    return {sample.labels["topic"]: sample.value for sample in family.samples}


def _value(gauge: Gauge) -> float:
    [family] = gauge.collect()
    return family.samples[0].value
