"""More partitions for the topics of work while everything runs (ADR-0114): each person's records are read in their
order, once, through a change of the count, a kill at each of its points, and a process that packs by the former count.

Apache Kafka is asked for the partitions; the local broker adds none, and has them from the beginning."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.db.database import Database
from common.kafka import broker as kafka
from common.kafka import widening
from common.kafka.broker import partition_of
from common.kafka.consumer import Consumer
from common.kafka.outbox import Relay
from common.kafka.parents import WAITING
from common.kafka.subscription import After, Hold, Received, Subscription
from common.settings import ServiceSettings
from dispatch.messages import events
from dispatch.messages.events import Changed
from dispatch.service import Settings, build
from tests.service.common.pipeline import going
from tests.support.builders import now, subject
from tests.support.eventually import eventually, is_so
from tests.support.failing import Point, ended, start
from tests.support.operators.http import TOKEN
from tests.support.publish import publish_raw
from tests.support.running import Surroundings

FEW, MANY = 3, 6
PEOPLE = [subject(n) for n in range(1, 13)]
MOVED = [who for who in PEOPLE if partition_of(who, MANY) != partition_of(who, FEW)]
BUSY = 40  # transactions in one, whose rows take longer than a look of the relay
WITHIN_S = 90.0
GROUP = "widening.reader"
RELAY = {"roles": "relay", "gateway_url": "http://127.0.0.1:1", "gateway_token": TOKEN}
W = "common.kafka.widening:Widening"


def change(who: str, version: int) -> Changed:
    state = MessageChanged(
        message_id=f"m-{who}",
        sender_id="s",
        subject_id=who,
        category="marketing",
        version=version,
        status="accepted",
        policy_version="1",
        decided_at=now(),
    )
    return Changed(partition_of(who, FEW), state)


@dataclass
class World:
    """A database whose relay gets more partitions, and a reader. `held`: partitions that the reader does not handle."""

    surroundings: Surroundings
    database: Database
    few: ServiceSettings
    many: ServiceSettings
    seen: list[tuple[str, int, int]] = field(default_factory=list)  # who, version, partition
    held: set[int] = field(default_factory=set)
    dealt: list[tuple[int, int]] = field(default_factory=list)  # partitions of the reader, of so many
    written: int = 0

    async def write(self, people: Sequence[str] = PEOPLE) -> None:
        """The next version of each, in one transaction."""
        self.written += 1
        async with self.database.begin() as tx:
            await events.append_changes(tx, [change(who, self.written) for who in people])

    async def handle(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        if self.held & {each.source for each in batch}:
            raise Hold
        for received in batch:
            assert isinstance(received.event, MessagesChanged)
            assert received.partition == received.source % FEW
            homes = {partition_of(each.subject_id, MANY) for each in received.event.changes}
            assert received.source in homes or {home % FEW for home in homes} == {received.source}
            self.seen += [(each.subject_id, each.version, received.source) for each in received.event.changes]
        return None

    def relay(self, settings: ServiceSettings) -> Relay:
        return Relay("dispatch", self.database, settings)

    def reader(self, *, together: bool = False) -> Consumer:
        hear = partial(_note, self.dealt)
        reading = Subscription(GROUP, DISPATCH_MESSAGES, self.handle, on_assigned=hear, together=together)
        return Consumer(reading, self.database, self.many)

    async def stated(self) -> tuple[int, int] | None:
        async with self.surroundings.sql("dispatch") as sql:
            row = await sql.fetchrow("SELECT packed, published FROM widening")
        return None if row is None else (row["packed"], row["published"])

    async def is_wide(self) -> bool:
        assert await self.stated() == (MANY, MANY)
        return True

    async def drained(self) -> bool:
        async with self.surroundings.sql("dispatch") as sql:
            assert await sql.fetchval("SELECT count(*) FROM outbox") == 0
        return True

    async def all_read(self) -> bool:
        last = {who: version for who, version, _ in self.seen}
        assert last == dict.fromkeys(PEOPLE, self.written)
        return True

    def versions(self) -> dict[str, list[int]]:
        """The versions of each person in the order in which they came."""
        found: dict[str, list[int]] = defaultdict(list)
        for who, version, _ in self.seen:
            if version not in found[who]:  # a relay that died publishes again
                found[who].append(version)
        return dict(found)

    def in_order(self) -> None:
        """Each person's versions came in their order, without a gap."""
        found = self.versions()
        assert found == {who: list(range(1, self.written + 1)) for who in PEOPLE}
        moved = {who for who, _, source in self.seen if source >= FEW}
        assert moved == set(MOVED), "people of the new partitions, and nobody else, are there"


def _note(dealt: list[tuple[int, int]], held: int, of: int) -> None:
    dealt.append((held, of))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """By what this process packs: at first, as a process that has just started."""
    fresh: dict[str, int] = {}
    monkeypatch.setattr(widening, "_counts", fresh)
    return fresh


@pytest.fixture
async def world(surroundings: Surroundings, counts: dict[str, int]) -> AsyncIterator[World]:
    told = await surroundings.settings("dispatch", partitions=FEW)
    few, many = ServiceSettings(**told), ServiceSettings(**told, work_partitions=MANY)
    await kafka.ensure_topics(few if surroundings.broker.groups else many, [DISPATCH_MESSAGES])
    database = Database(few.database_url, name="dispatch")
    try:
        yield World(surroundings, database, few, many)
    finally:
        await database.close()


@asynccontextmanager
async def writing(world: World) -> AsyncIterator[None]:
    """Somebody writes on and on."""
    stop = asyncio.Event()

    async def on() -> None:
        while not stop.is_set():
            await world.write()

    task = asyncio.create_task(on())
    try:
        yield
    finally:
        stop.set()
        await task


async def test_the_records_of_each_person_are_read_in_order_while_partitions_are_added(world: World) -> None:
    async with going(world.reader().run):
        async with writing(world):
            async with going(world.relay(world.few).run):
                await eventually(lambda: is_so(bool(world.seen)), within_s=WITHIN_S)
            assert await world.stated() is None
            async with going(world.relay(world.many).run):
                await eventually(world.is_wide, within_s=WITHIN_S)
                await eventually(lambda: is_so(any(source >= FEW for *_, source in world.seen)), within_s=WITHIN_S)
        async with going(world.relay(world.few).run):  # a process of before the change leads again
            await world.write()
            await eventually(world.all_read, within_s=WITHIN_S)
    world.in_order()
    assert await world.stated() == (MANY, MANY)
    assert world.dealt[-1] == (MANY, MANY), "by which a gateway's rate is dealt"


async def test_a_new_partition_waits_for_what_its_people_have_in_the_former_one(world: World) -> None:
    """Whatever the order in which the partitions are read."""
    world.held = set(range(FEW))
    await world.write()
    async with going(world.relay(world.few).run):
        await eventually(world.drained, within_s=WITHIN_S)
    async with going(world.relay(world.many).run, world.reader().run):
        await eventually(world.is_wide, within_s=WITHIN_S)
        await world.write()
        await eventually(world.drained, within_s=WITHIN_S)
        topic = DISPATCH_MESSAGES.name
        await eventually(lambda: is_so(waiting(topic) > 2.0), within_s=WITHIN_S)
        assert world.seen == []
        world.held = set()
        await eventually(world.all_read, within_s=WITHIN_S)
        assert waiting(topic) == 0
    world.in_order()


async def test_a_new_partition_is_read_though_its_first_batch_fails(world: World) -> None:
    """A bad record is the first there, and stands with a good one in a batch."""
    await world.write()
    async with going(world.relay(world.few).run):
        await eventually(world.drained, within_s=WITHIN_S)
    async with going(world.relay(world.many).run):
        await eventually(world.is_wide, within_s=WITHIN_S)
        wide = replace(world.surroundings, partitions=MANY)
        for who in MOVED:
            await publish_raw(wide, DISPATCH_MESSAGES, who.encode(), b"?", [])
        await world.write()
        await eventually(world.drained, within_s=WITHIN_S)
    async with going(world.reader().run):
        await eventually(world.all_read, within_s=WITHIN_S)
    world.in_order()
    async with world.surroundings.sql("dispatch") as sql:
        assert await sql.fetchval("SELECT count(*) FROM dead_letter") == len(MOVED)


@pytest.mark.parametrize("together", [False, True])
async def test_a_new_partition_waits_for_its_own_former_partition_alone(world: World, together: bool) -> None:
    first, *_, last = sorted({partition_of(who, FEW) for who in MOVED})
    world.held = {last}
    await world.write()
    async with going(world.relay(world.few).run):
        await eventually(world.drained, within_s=WITHIN_S)
    async with going(world.relay(world.many).run):
        await eventually(world.is_wide, within_s=WITHIN_S)
        await world.write()
        await eventually(world.drained, within_s=WITHIN_S)
    async with going(world.reader(together=together).run):
        others = {who for who in PEOPLE if partition_of(who, FEW) != last}
        assert others & set(MOVED), first
        await eventually(lambda: is_so(world.versions() == {who: [1, 2] for who in others}), within_s=WITHIN_S)
        world.held = set()
        await eventually(world.all_read, within_s=WITHIN_S)
    world.in_order()


def waiting(topic: str) -> float:
    return float(WAITING.labels(topic, GROUP)._value.get())


async def test_what_a_slow_transaction_packed_by_the_former_count_is_published_by_it(world: World) -> None:
    """The transaction has packed before the count was stated, and commits after: the change waits for it."""
    async with going(world.relay(world.few).run, world.reader().run):
        await world.write()
        await eventually(world.all_read, within_s=WITHIN_S)
    row_by_row = world.many.model_copy(update={"relay_batch": 1})
    relay = world.relay(row_by_row)
    async with going(relay.run, world.reader().run):
        async with world.database.begin() as tx:
            for _ in range(BUSY):
                world.written += 1
                await events.append_changes(tx, [change(who, world.written) for who in PEOPLE])

            async def packs() -> bool:
                assert await world.stated() == (MANY, FEW)
                return True

            await eventually(packs, within_s=WITHIN_S)
            await eventually(
                lambda: is_so(widening.WAITING._value.get() > 4 * widening.LOOK_EVERY_S), within_s=WITHIN_S
            )
            assert await packs()
            # another than ours may have been under way when the count was stated
            await eventually(lambda: is_so("1 transactions began before" in str(relay.widens.why)), within_s=WITHIN_S)
        await eventually(world.is_wide, within_s=WITHIN_S)
        await world.write()
        await eventually(world.all_read, within_s=WITHIN_S)
    world.in_order()
    assert {source for _, version, source in world.seen if version <= BUSY + 1} <= set(range(FEW))


async def test_a_process_that_packs_by_a_former_count_packs_again(world: World, counts: dict[str, int]) -> None:
    async with going(world.relay(world.many).run, world.reader().run):
        await eventually(world.is_wide, within_s=WITHIN_S)
        assert counts == {}
        await world.write()
        assert counts == {DISPATCH_MESSAGES.name: MANY}
        await world.write()
        await eventually(world.all_read, within_s=WITHIN_S)
    world.in_order()


@pytest.mark.parametrize(
    "point",
    [
        Point("after", "common.kafka.broker:add_partitions"),
        Point("before", f"{W}._pack"),
        Point("after", f"{W}._pack"),
        Point("after", f"{W}._all_see"),
        Point("before", f"{W}._publish"),
        Point("after", f"{W}._publish"),
    ],
    ids=lambda point: f"{point.when}-{point.function.rpartition('.')[2].rpartition(':')[2].strip('_')}",
)
async def test_a_relay_killed_while_partitions_are_added(world: World, point: Point) -> None:
    told = await world.surroundings.settings("dispatch", partitions=FEW, work_partitions=MANY, **RELAY)
    settings = Settings(**told)
    async with going(world.relay(world.few).run):
        await world.write()
        await eventually(world.drained, within_s=WITHIN_S)
    async with going(world.reader().run):
        async with writing(world):
            dying = await start(build, settings, point)
            assert await ended(dying, WITHIN_S) == -9
            another = await start(build, settings)
            try:
                await eventually(world.is_wide, within_s=WITHIN_S)
                await eventually(lambda: is_so(any(source >= FEW for *_, source in world.seen)), within_s=WITHIN_S)
            except BaseException:
                another.kill()
                raise
        try:
            await eventually(world.all_read, within_s=WITHIN_S)
        finally:
            another.kill()
            await ended(another, WITHIN_S)
    world.in_order()
