"""What a consumer and a relay leave out while nothing happens."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.fetch import FetchRequest, FetchResponse_v11

from common.contracts import STATES
from common.db.database import Database
from common.kafka import fetching
from common.kafka.fetching import GATHERED_BYTES, Pace, Wait
from common.kafka.outbox import CALM_S as RELAY_CALM_S
from common.kafka.outbox import LATER, UNHEARD_S, Relay, interval_s, rest_s
from common.kafka.reading import lag, polling
from common.kafka.reading.offsets import Offsets
from common.kafka.reading.placement import Placement
from common.kafka.reading.progress import Progress
from common.kafka.relayed import IDLE_S, LEADS_S, Relayed, spans
from common.kafka.subscription import (
    AWAKE_MS,
    CALM_MS,
    CALM_READ_MS,
    CALM_S,
    IDLE_MS,
    POLL_MS,
    READ_MS,
    URGENT_MS,
    After,
    Subscription,
)
from tests.support.eventually import eventually, is_so

ONE = TopicPartition("a.topic", 0)


class Client:
    """What the loop asks of aiokafka's client. `refuses`: the commits that fail."""

    def __init__(self, refuses: int = 0) -> None:
        self.commits: list[dict[TopicPartition, int]] = []
        self._refuses = refuses

    def assignment(self) -> set[TopicPartition]:
        return {ONE}

    def highwater(self, tp: TopicPartition) -> int:
        return 9

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        self.commits.append(offsets)
        if len(self.commits) <= self._refuses:
            raise KafkaError


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


async def test_an_offset_is_committed_every_few_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told, of = lag.Lag("a.topic"), Client()
    for at in (100.0, 101.0, 100.0 + lag.COMMIT_INTERVAL_S, 101.0 + lag.COMMIT_INTERVAL_S):
        monkeypatch.setattr(time, "monotonic", lambda at=at: at)
        told.commit(cast(AIOKafkaConsumer, of), {ONE: round(at)})
        await told.committed()
    told.commit(cast(AIOKafkaConsumer, of), {ONE: 200}, now=True)
    await told.committed()
    assert [offsets[ONE] for offsets in of.commits] == [100, 105, 200]


URGENT, USUAL, RARE, GATHERING = (
    _subscription(URGENT_MS),
    _subscription(),
    _subscription(2 * IDLE_MS),
    replace(_subscription(), gather_s=0.4),
)


@pytest.mark.parametrize(
    ("of", "ends_waits", "after_records", "awake", "calm"),
    [
        (URGENT, False, Wait(URGENT_MS), [Wait(URGENT_MS)] * 3, Wait(URGENT_MS)),
        (USUAL, False, Wait(POLL_MS), [Wait(POLL_MS), Wait(2 * POLL_MS), Wait(AWAKE_MS)], Wait(IDLE_MS)),
        (RARE, False, Wait(2 * IDLE_MS), [Wait(2 * IDLE_MS)] * 3, Wait(2 * IDLE_MS)),
        (GATHERING, False, Wait(400), [Wait(POLL_MS), Wait(2 * POLL_MS), Wait(AWAKE_MS)], Wait(IDLE_MS)),
        (URGENT, True, Wait(IDLE_MS), [Wait(IDLE_MS)] * 3, Wait(IDLE_MS)),
        (USUAL, True, Wait(IDLE_MS), [Wait(IDLE_MS)] * 3, Wait(CALM_MS)),
        (RARE, True, Wait(IDLE_MS), [Wait(IDLE_MS)] * 3, Wait(CALM_MS)),
        (GATHERING, True, Wait(400, GATHERED_BYTES), [Wait(IDLE_MS)] * 3, Wait(CALM_MS)),
    ],
)
def test_a_fetch_waits_long_on_calm_topics_only_and_for_more_records_only_where_they_gather(
    of: Subscription, ends_waits: bool, after_records: Wait, awake: Sequence[Wait], calm: Wait
) -> None:
    """`awake`: after none, one and more empty answers in a row, which a broker may give at once."""
    pace = Pace(of, ends_waits)
    assert pace.following(100.0, any_records=False) == awake[0], "the first reads of a process come before any calm"
    assert pace.following(100.0 + CALM_S, any_records=False) == awake[1]
    assert pace.following(100.1 + CALM_S, any_records=False) == calm
    assert pace.following(100.2 + CALM_S, any_records=True) == after_records
    assert pace.following(100.3 + CALM_S, any_records=False) == awake[1], "a record after a pause waits for no other"
    assert pace.following(100.2 + 2 * CALM_S, any_records=False) == awake[2]
    assert pace.following(100.3 + 2 * CALM_S, any_records=False) == calm


async def test_an_answer_sets_the_wait_of_the_next_fetch_before_it_is_read() -> None:
    class Inner:
        async def send(self, node_id: int, request: object, *, group: object = None) -> object:
            return answers.pop(0) if isinstance(request, FetchRequest) else None

    def answer(*records: bytes | None) -> FetchResponse_v11:
        of = [(number, 0, 9, 9, 0, None, -1, each) for number, each in enumerate(records)]
        return FetchResponse_v11(0, 0, 0, [("a.topic", of)])

    answers = [answer(b"", None), answer(b"", b"records"), answer(b"")]
    fetcher = SimpleNamespace(_fetch_max_wait_ms=0, _fetch_min_bytes=0)
    of = SimpleNamespace(_client=Inner(), _fetcher=fetcher)
    fetching.keep_pace(cast(AIOKafkaConsumer, of), pace := Pace(GATHERING, ends_waits=True))
    pace.following(time.monotonic() - CALM_S - 1, any_records=False)
    request = FetchRequest(500, 1, 1, 1, [])
    waits = []
    for _ in range(3):
        assert await of._client.send(0, request) is not None
        assert await of._client.send(0, object()) is None
        waits.append((fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes))
    assert waits == [(CALM_MS, 1), (400, GATHERED_BYTES), (IDLE_MS, 1)]


async def test_a_read_ends_as_the_process_ends_and_when_a_rested_partition_may_be_read() -> None:
    class Silent(Client):
        waited: list[int]

        async def getmany(self, *_: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
            self.waited.append(timeout_ms)
            await asyncio.Event().wait()
            return {}

    placement = Placement("a.topic", Offsets(_subscription(), cast(Database, None), timedelta()))
    ours = polling.Polling(_subscription(), placement, Progress())
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


async def test_a_read_waits_longer_on_a_calm_topic_until_a_record_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rarely(Client):
        async def getmany(self, *_: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
            waited.append(timeout_ms)
            return {ONE: [object()]} if len(waited) == 3 else {}

    waited: list[int] = []
    placement = Placement("a.topic", Offsets(_subscription(), cast(Database, None), timedelta()))
    ours = polling.Polling(_subscription(), placement, Progress())
    going = asyncio.get_running_loop().create_future()
    for at in (100.0, 100.0 + CALM_S, 101.0 + CALM_S, 102.0 + CALM_S, 102.0 + 2 * CALM_S):
        monkeypatch.setattr(time, "monotonic", lambda at=at: at)
        await ours.read(cast(AIOKafkaConsumer, Rarely()), {}, going)
    assert waited == [READ_MS, READ_MS, CALM_READ_MS, READ_MS, CALM_READ_MS]


@pytest.mark.parametrize(("calm_s", "wanted"), [(0.0, 0.25), (RELAY_CALM_S, 0.25), (RELAY_CALM_S + 0.1, 0.5)])
def test_a_calm_relay_publishes_watermarks_half_as_often(calm_s: float, wanted: float) -> None:
    assert interval_s(0.25, calm_s) == wanted


@pytest.mark.parametrize(("every_s", "wanted"), [(None, UNHEARD_S), (0.25, 0.25), (3600.0, UNHEARD_S)])
def test_a_leader_reads_the_outbox_however_rare_its_watermarks_are(every_s: float | None, wanted: float) -> None:
    assert rest_s(every_s) == wanted


async def test_a_relay_wakes_at_once_but_for_rows_that_gather() -> None:
    told: dict[str, Any] = {"topic_prefix": "", "own_shard": "", "relay_ack_timeout_s": 5.0}
    told |= {"partitions": 6, "keyless": True, "max_clock_skew_s": 0.1}
    relay, woken = Relay("dispatch", cast(Database, None), cast(Any, SimpleNamespace(**told))), asyncio.Event()
    relay._heard(woken, LATER)
    gathering = relay._gathering
    relay._heard(woken, LATER)
    assert relay._gathering is gathering, "the wait is from the first row"
    assert not woken.is_set()
    relay._heard(woken, "")
    assert woken.is_set(), "a row that somebody waits for"
    woken.clear()
    async with asyncio.timeout(30):
        await woken.wait()
    relay._heard(woken, LATER)
    assert relay._gathering is not gathering, "rows after that gather anew"


async def test_a_notification_asks_for_nobody_whom_the_relay_of_this_process_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relayed, event = Relayed(cast(Database, None), "no query"), uuid4()
    known, unknown = uuid4(), uuid4()
    waits = [
        asyncio.ensure_future(relayed.wait({known: [7]}, 60, {7: event})),
        asyncio.ensure_future(relayed.wait({unknown: [8]}, 60)),
    ]
    await eventually(lambda: is_so(len(relayed._waiters) == 2))
    relayed._heard(spans([7, 8]))
    assert relayed._asked == {known, unknown}, "another process relays"
    relayed._asked.clear()
    relayed.published({5: uuid4()})
    relayed._heard(spans([7, 8]))
    assert relayed._asked == {unknown}
    relayed.published({7: event})
    assert await waits[0] is True
    waits[0] = asyncio.ensure_future(relayed.wait({known: [9]}, 60, {9: event}))
    await eventually(lambda: is_so(len(relayed._waiters) == 2))
    late = time.monotonic() + LEADS_S
    monkeypatch.setattr(time, "monotonic", lambda: late)
    relayed._heard(spans([9]))
    assert known in relayed._asked, "the relay of this process may have died"
    relayed._asked.clear()
    relayed.published({5: uuid4()})
    monkeypatch.setattr(time, "monotonic", lambda: late + IDLE_S)
    relayed._ask_of_old()
    assert relayed._asked == {known, unknown}, "the notification may have been missed, however busy the others are"
    for wait in waits:
        wait.cancel()


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
    ours = polling.Polling(of, Placement("a.topic", offsets), Progress())
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


@dataclass
class Aged:
    """A record. `timestamp`: milliseconds since 1970."""

    timestamp: int
    value: bytes = b"."


@pytest.mark.parametrize(
    ("ages_s", "waits_s"),
    [
        ([0.0], 0.5),
        ([3.0, 0.2], 0.3),
        ([0.6], 0.0),
        ([-9.0], 0.5),  # a clock is wrong
        ([0.0] * 2, 0.5),
        ([0.0] * 3, 0.0),
        ([0.0] * 4, 0.0),
    ],
)
def test_a_batch_waits_until_its_newest_record_has_settled_unless_it_is_whole(
    ages_s: Sequence[float], waits_s: float
) -> None:
    of = replace(_subscription(), settle_s=0.5, max_records=4, weigh=len)
    records = [Aged(round((1_000.0 - age) * 1000)) for age in ages_s]
    assert of.settles_in(records, 1_000.0) == pytest.approx(waits_s)
    assert replace(of, settle_s=0.0).settles_in(records, 1_000.0) == 0.0
