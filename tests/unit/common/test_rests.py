"""What a consumer and a relay leave out while nothing happens."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from common.contracts import STATES
from common.db.database import Database
from common.kafka.outbox import CALM_S as RELAY_CALM_S
from common.kafka.outbox import UNHEARD_S, interval_s, rest_s
from common.kafka.reading import client, lag, polling
from common.kafka.reading.offsets import Offsets
from common.kafka.reading.placement import Placement
from common.kafka.reading.progress import Progress
from common.kafka.subscription import IDLE_MS, POLL_MS, READ_MS, URGENT_MS, After, Subscription
from common.settings import ServiceSettings

ONE = TopicPartition("a.topic", 0)


class Client:
    """What the loop asks of aiokafka's client. `refuses`: the commits that fail."""

    def __init__(self, refuses: int = 0) -> None:
        self.commits: list[dict[TopicPartition, int]] = []
        self._refuses = refuses
        self._fetcher = SimpleNamespace(_fetch_max_wait_ms=0)

    def assignment(self) -> set[TopicPartition]:
        return {ONE}

    def highwater(self, tp: TopicPartition) -> int:
        return 9

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        self.commits.append(offsets)
        if len(self.commits) <= self._refuses:
            raise KafkaError

    @property
    def wait_ms(self) -> int:
        return int(self._fetcher._fetch_max_wait_ms)


async def _nothing(*_: object) -> After | None:
    return None


def _subscription(wait_ms: int = POLL_MS) -> Subscription:
    return Subscription("group", STATES, cast(Any, _nothing), wait_ms=wait_ms)


async def _commits(of: Client, *reached: int) -> list[int]:
    told = lag.Lag("a.topic")
    for offset in reached:
        told.commit(cast(AIOKafkaConsumer, of), {ONE: offset}, now=True)
        await told.committed()
    return [offsets[ONE] for offsets in of.commits]


async def test_an_offset_is_committed_once() -> None:
    assert await _commits(Client(), 1, 1, 2, 2, 2) == [1, 2]


async def test_a_refused_commit_is_repeated() -> None:
    assert await _commits(Client(refuses=1), 1, 1, 1) == [1, 1]


async def test_an_unchanged_offset_is_committed_again_before_kafka_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "REPEAT_S", 0.0)
    assert await _commits(Client(), 1, 1) == [1, 1]


@pytest.mark.parametrize(("wait_ms", "calm"), [(POLL_MS, IDLE_MS), (URGENT_MS, URGENT_MS), (2 * IDLE_MS, 2 * IDLE_MS)])
async def test_a_broker_that_waits_out_is_asked_rarely_on_calm_topics_only(
    monkeypatch: pytest.MonkeyPatch, wait_ms: int, calm: int
) -> None:
    offsets = Offsets(_subscription(wait_ms), cast(Database, None), timedelta())
    ours = polling.Polling(_subscription(wait_ms), Placement("a.topic", offsets), Progress(), waits_out=True)
    of = Client()

    def paced(any_records: bool) -> int:
        ours._pace(cast(AIOKafkaConsumer, of), any_records)
        return of.wait_ms

    assert paced(False) == wait_ms, "the first reads of a process come before any calm"
    assert paced(False) == wait_ms
    late = time.monotonic() + polling.CALM_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert paced(False) == calm
    assert paced(True) == wait_ms
    assert paced(False) == wait_ms


def test_a_broker_that_ends_a_wait_is_waited_for_longer() -> None:
    settings = ServiceSettings.model_construct(kafka_groups=True)
    assert client.wait_ms(settings, _subscription(URGENT_MS)) == IDLE_MS
    assert client.wait_ms(settings.model_copy(update={"kafka_groups": False}), _subscription(URGENT_MS)) == URGENT_MS


async def test_a_read_ends_as_the_process_ends_and_when_a_rested_partition_may_be_read() -> None:
    class Silent(Client):
        waited: list[int]

        async def getmany(self, *_: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
            self.waited.append(timeout_ms)
            await asyncio.Event().wait()
            return {}

    placement = Placement("a.topic", Offsets(_subscription(), cast(Database, None), timedelta()))
    ours = polling.Polling(_subscription(), placement, Progress(), waits_out=False)
    stopping = asyncio.get_running_loop().create_future()
    stopping.set_result(None)
    silent = Silent()
    silent.waited = []
    assert await ours.read(cast(AIOKafkaConsumer, silent), {}, stopping) == {}
    placement.resume_at[ONE] = time.monotonic() + 0.2
    assert await ours.read(cast(AIOKafkaConsumer, silent), {}, stopping) == {}
    placement.resume_at[ONE] = time.monotonic() - 1.0
    assert await ours.read(cast(AIOKafkaConsumer, silent), {}, stopping) == {}
    assert silent.waited[0] == READ_MS
    assert POLL_MS <= silent.waited[1] <= 200
    assert silent.waited[2] == POLL_MS


@pytest.mark.parametrize(("calm_s", "wanted"), [(0.0, 0.25), (RELAY_CALM_S, 0.25), (RELAY_CALM_S + 0.1, 0.5)])
def test_a_calm_relay_publishes_watermarks_half_as_often(calm_s: float, wanted: float) -> None:
    assert interval_s(0.25, calm_s) == wanted


@pytest.mark.parametrize(("every_s", "wanted"), [(None, UNHEARD_S), (0.25, 0.25), (3600.0, UNHEARD_S)])
def test_a_leader_reads_the_outbox_however_rare_its_watermarks_are(every_s: float | None, wanted: float) -> None:
    assert rest_s(every_s) == wanted


class Bringing(Client):
    """Has so many records of one partition at each read."""

    asked = 0
    many = 1

    async def getmany(self, *_: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
        self.asked += 1
        return {ONE: [object()] * self.many}


async def test_records_gather_until_the_next_read_unless_the_last_brought_all_that_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of, brings = replace(_subscription(), gather_s=30.0, max_records=2), Bringing()
    offsets = Offsets(of, cast(Database, None), timedelta())
    ours = polling.Polling(of, Placement("a.topic", offsets), Progress(), waits_out=False)
    going, stopped = (asyncio.get_running_loop().create_future() for _ in range(2))
    stopped.set_result(None)

    async def read(stopping: "asyncio.Future[None]" = going) -> int:
        return sum(map(len, (await ours.read(cast(AIOKafkaConsumer, brings), {}, stopping)).values()))

    assert await read() == 1
    assert await read(stopped) == 0, "others may follow"
    assert brings.asked == 1
    late = time.monotonic() + of.gather_s + 1
    monkeypatch.setattr(time, "monotonic", lambda: late)
    brings.many = 2
    assert await read() == 2
    assert await read() == 2, "others wait already"
