"""Reads of a consumer: as many records as the handler takes, in as few batches as it allows."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from common.contracts import STATES
from common.db.database import Database
from common.kafka.reading.offsets import Offsets
from common.kafka.reading.placement import Placement
from common.kafka.reading.polling import Polling, Weights
from common.kafka.reading.progress import Progress
from common.kafka.subscription import After, Subscription

ONE, OTHER = TopicPartition("a.topic", 0), TopicPartition("a.topic", 1)


async def _nothing(*_: object) -> After | None:
    return None


def _subscription(room: int, most: int = 500, *, together: bool = False) -> Subscription:
    """Return a subscription whose records say how many messages they hold."""
    return Subscription(
        *("group", STATES, cast(Any, _nothing)),
        max_records=most,
        may_take=lambda: room,
        weigh=int,
        together=together,
    )


def _records(*weights: int) -> list[Any]:
    return [SimpleNamespace(value=str(weight).encode()) for weight in weights]


def _weights(records: Sequence[Any]) -> list[int]:
    return [int(record.value) for record in records]


class Buffered:
    """The client's records of two partitions: a read drains the first before the other."""

    def __init__(self, of: Mapping[TopicPartition, list[Any]], *, rebalancing: bool = False) -> None:
        self.left = dict(of)
        self._subscription = SimpleNamespace(reassignment_in_progress=rebalancing)

    def assignment(self) -> set[TopicPartition]:
        return set(self.left)

    async def getmany(self, *idle: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
        found = {}
        for tp in self.left:
            if tp in idle and self.left[tp] and max_records:
                found[tp], self.left[tp] = self.left[tp][:max_records], self.left[tp][max_records:]
                max_records -= len(found[tp])
        return found


async def _read(client: Buffered, ours: Subscription) -> dict[TopicPartition, list[int]]:
    """Return the weights of what a read brings, where the records of the read before held 100 messages."""
    polling = Polling(ours, Placement("a.topic", Offsets(ours, cast(Database, None), timedelta())), Progress())
    polling._weights = Weights(100.0)
    going = asyncio.get_running_loop().create_future()
    found = await polling.read(cast(AIOKafkaConsumer, client), {}, going)
    return {tp: _weights(records) for tp, records in found.items()}


async def test_a_read_that_ends_within_a_partition_brings_a_batch_of_it() -> None:
    client = Buffered({ONE: _records(100, 100), OTHER: _records(*[100] * 9)})
    assert await _read(client, _subscription(5_000)) == {ONE: [100, 100], OTHER: [100] * 5}
    assert len(client.left[OTHER]) == 4, "no more than a batch"


async def test_a_read_brings_no_more_than_there_is_room_for() -> None:
    client = Buffered({ONE: _records(100, 100), OTHER: _records(*[100] * 9)})
    assert await _read(client, _subscription(600)) == {ONE: [100, 100], OTHER: [100] * 4}


@pytest.mark.parametrize(("together", "rebalancing"), [(True, False), (False, True)])
async def test_a_read_stays_as_it_is_where_partitions_share_a_batch_or_change(
    together: bool, rebalancing: bool
) -> None:
    client = Buffered({ONE: _records(100, 100), OTHER: _records(*[100] * 9)}, rebalancing=rebalancing)
    found = await _read(client, _subscription(5_000, together=together))
    assert found == {ONE: [100, 100], OTHER: [100] * 3}


@pytest.mark.parametrize(
    ("room", "batches"),
    [
        (5_000, [[100, 100, 100, 100, 100], [100]]),
        (300, [[100, 100, 100], [100, 100, 100]]),
        (0, [[100, 100, 100, 100, 100], [100]]),  # a single record would be in hand as well
    ],
)
def test_records_are_cut_into_batches_by_their_messages(room: int, batches: list[list[int]]) -> None:
    assert [_weights(batch) for batch in _subscription(room).batches(_records(*[100] * 6))] == batches


@given(st.lists(st.integers(1, 200), min_size=1), st.integers(1, 5_000))
def test_records_that_vary_are_asked_for_with_a_margin(weights: list[int], messages: int) -> None:
    mean = sum(weights) / len(weights)
    spread = (sum((weight - mean) ** 2 for weight in weights) / len(weights)) ** 0.5
    many = Weights(mean, spread).records(messages)
    assert many >= 1
    assert many == 1 or many * mean + spread * many**0.5 <= messages + 0.01
    assert (many + 1) * mean + spread * (many + 1) ** 0.5 > messages - 0.01, "as many as fit"


def test_records_alike_fill_a_batch() -> None:
    assert [Weights(166.0).records(500), Weights(100.0).records(500), Weights().records(500)] == [3, 5, 500]
