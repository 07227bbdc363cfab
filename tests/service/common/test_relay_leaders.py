"""Two relays of one database, and a wire to Kafka that fails one of them: the other publishes all there is, and what the
first has still under way changes nothing. And the numbers by which a reader sees that it has missed nothing."""

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

from common import kafka, outbox
from common.contracts import STATES, Watermark
from common.contracts.consent import ConsentStateChanged
from common.database import Database
from common.outbox import LEADER
from common.settings import ServiceSettings
from tests.eventually import eventually
from tests.running import Surroundings
from tests.service.common.pipeline import Pipeline, Record, going, pipeline, states_of
from tests.service.common.wire import Wire, wire_to

SUBJECTS = [f"s1-{n:032x}" for n in range(5)]
ACK_TIMEOUT_S = 1.0


@asynccontextmanager
async def wire_to_kafka(surroundings: Surroundings) -> AsyncIterator[Wire]:
    """A client that bootstraps at the wire's port finds the broker there alone."""
    host, port = surroundings.broker.bootstrap.split(":")
    async with wire_to(host, int(port)) as wire:
        wire.rewrite = (host.encode() + struct.pack(">i", int(port)), host.encode() + struct.pack(">i", wire.port))
        yield wire


@asynccontextmanager
async def led_by_the_wired_one(pipe: Pipeline, wire: Wire) -> AsyncIterator[None]:
    """Two relays. The one that leads reaches Kafka by the wire, the standby reaches it directly."""
    standby = Database(pipe.settings.database_url, name="standby")
    wired = pipe.relay(
        kafka_bootstrap=f"127.0.0.1:{wire.port}", relay_ack_timeout_s=ACK_TIMEOUT_S, watermark_every_s=3600.0
    )
    async with going(wired.run):
        await pipe.append(*states_of(SUBJECTS[0], 1))
        await eventually(pipe.drained)
        async with going(pipe.relay(database=standby).run):
            await eventually(lambda: _stood_by(pipe))
            yield
    await standby.close()


async def _stood_by(pipe: Pipeline) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'standby'"
    return bool(await pipe.scalar(f"{query} AND query LIKE '%FROM outbox ORDER BY id%'"))


def _versions(records: list[Record]) -> list[int]:
    return [record.event.version for record in records if isinstance(record.event, ConsentStateChanged)]


async def test_a_standby_publishes_the_whole_outbox_while_kafka_does_not_answer_the_leader(
    surroundings: Surroundings,
) -> None:
    """And the former leader ends when it is told to, though Kafka still says nothing to it."""
    async with pipeline(surroundings, partitions=1) as pipe, wire_to_kafka(surroundings) as wire:
        async with led_by_the_wired_one(pipe, wire):
            wire.hold()
            await pipe.append(*states_of(SUBJECTS[0], 2))
            await asyncio.wait_for(wire.answered.wait(), 20)
            await pipe.append(*states_of(SUBJECTS[0], *range(3, 40)))
            await eventually(pipe.drained, within_s=30)
        assert list(dict.fromkeys(_versions(await pipe.log()))) == list(range(1, 40))


async def test_what_a_former_leader_has_under_way_is_not_the_newest_of_its_key(surroundings: Surroundings) -> None:
    """The old state arrives at Kafka after the STOP. Compaction keeps the last record of a key: a reader that begins
    anew would know the old state alone. Apache Kafka refuses it. The local broker knows no producer ids, and keeps all."""
    async with pipeline(surroundings, partitions=1) as pipe, wire_to_kafka(surroundings) as wire:
        async with led_by_the_wired_one(pipe, wire):
            wire.hold_requests()
            await pipe.append(*states_of(SUBJECTS[0], 2))
            await asyncio.wait_for(wire.asking.wait(), 20)
            await eventually(pipe.drained)  # by the standby, so the former leader has given up
            await pipe.append(*states_of(SUBJECTS[0], 3))
            await eventually(pipe.drained)
            assert _versions(await pipe.log()) == [1, 2, 3]
            wire.answered.clear()
            wire.hold()  # answers are seen, and kept
            wire._requests_open.set()
            await asyncio.wait_for(wire.answered.wait(), 20)
        late = [] if surroundings.broker.idempotent else [2]
        assert _versions(await pipe.log()) == [1, 2, 3, *late]
