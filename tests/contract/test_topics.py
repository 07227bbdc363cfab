"""The topic table is whole: each topic has an owner, readers, a key that its events carry, and a bounded memory."""

import re
from collections import Counter
from datetime import timedelta

import msgspec
import pytest
from aiokafka import partitioner
from annotated_types import Le
from hypothesis import given
from hypothesis import strategies as st

from common.contracts import (
    EVENTS,
    OPERATOR_EVENTS,
    TOPICS,
    Event,
    Topic,
    Watermark,
    operator_submits,
    operator_topics,
)
from common.contracts.campaign import MessagesRequested
from common.contracts.dispatch import MessagesChanged
from common.contracts.inbound import ReceiptsReceived
from common.kafka import broker as kafka
from consent.rights.api import LOG_FORGETS
from dispatch.service import Settings
from tests.contract.golden import EXAMPLES, event_type_of

SERVICES = {"consent", "campaign", "dispatch", "inbound"}
# Facts of one service that another's topic carries: dispatch owns the lane, whoever asks writes campaign's request.
GUESTS = {("dispatch.requests.v1", "campaign.message_requested.v1")}
DAY_MS = 24 * 3600 * 1000
LOOK_MS = 6 * 60 * 1000  # log.retention.check.interval.ms and file.delete.delay.ms, as Kafka has them

each_topic = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)


@each_topic
def test_a_topic_is_named_after_its_owner_and_what_it_holds(topic: Topic) -> None:
    assert re.fullmatch(rf"{topic.owner}\.[a-z]+(-[a-z]+)*s\.v[1-9]\d*", topic.name)
    assert topic.dead_letters == f"{topic.name}.dlq"


@each_topic
def test_a_topic_has_an_owner_and_somebody_reads_it(topic: Topic) -> None:
    assert topic.owner in SERVICES
    assert topic.consumers
    assert set(topic.consumers) <= SERVICES
    assert topic.events


@each_topic
def test_an_event_is_named_after_the_topics_owner_and_a_fact_in_the_past(topic: Topic) -> None:
    for event in topic.events:
        owner = "[a-z]+" if (topic.name, event.type) in GUESTS else topic.owner
        assert re.fullmatch(rf"{owner}\.[a-z]+(_[a-z]+)*ed\.v[1-9]\d*", event.type)
        assert event.__doc__


@each_topic
def test_the_key_is_a_field_of_every_event(topic: Topic) -> None:
    for event in topic.events:
        examples = [path for path in EXAMPLES.values() if event_type_of(path) == event.type]
        assert examples
        for path in examples:
            example = msgspec.json.decode(path.read_bytes(), type=event)
            match example:
                case MessagesChanged():
                    first: object = example.changes[0]
                case ReceiptsReceived():
                    first = example.receipts[0]
                case MessagesRequested():
                    first = example.requests[0]
                case _:
                    first = example
            assert example.key == getattr(first, topic.keyed_by)


def longest_ms(config: dict[str, str]) -> int:
    """Return how long Kafka keeps a record at most: a segment goes as a whole, when its last record is old enough."""
    return int(config["retention.ms"]) + int(config["segment.ms"]) + LOOK_MS


@each_topic
def test_dead_letters_are_forgotten_as_soon_as_records(topic: Topic) -> None:
    assert topic.dead_letters_config["cleanup.policy"] == "delete"
    assert longest_ms(topic.dead_letters_config) <= 7 * DAY_MS


def test_a_certificate_names_the_day_by_which_the_log_has_forgotten() -> None:
    assert timedelta(milliseconds=7 * DAY_MS) == LOG_FORGETS


@each_topic
def test_anything_personal_is_forgotten_in_time(topic: Topic) -> None:
    if topic.cleanup == "delete":
        assert topic.config["cleanup.policy"] == "delete"
        assert int(topic.config["retention.ms"]) >= 6 * DAY_MS, "a reader may be away for so long"
        assert longest_ms(topic.config) <= 7 * DAY_MS
    else:
        assert topic.config["cleanup.policy"] == "compact"
        assert topic.config["max.compaction.lag.ms"] == str(DAY_MS)


def test_no_record_that_a_fresh_watermark_may_be_behind_is_old_enough_to_replace_another() -> None:
    """The gate may believe a watermark of ten minutes at most: a compacted topic waits far longer."""
    assert [limit.le for limit in Settings.model_fields["max_staleness_s"].metadata if isinstance(limit, Le)] == [600]
    lags = {int(topic.config["min.compaction.lag.ms"]) for topic in TOPICS if topic.cleanup == "compact"}
    assert lags == {3600 * 1000}


@each_topic
def test_what_compaction_keeps_is_the_whole_state_and_its_version(topic: Topic) -> None:
    if topic.cleanup == "compact":
        for event in topic.events:
            assert "version" in event.__struct_fields__


def test_an_operators_topics_bear_its_name_and_keep_nothing_longer_than_ours() -> None:
    topics = (*operator_topics("orange"), operator_submits("orange"))
    kinds = ("messages", "receipts", "submits")
    assert [topic.name for topic in topics] == [f"operator.orange.{kind}.v1" for kind in kinds]
    assert {event for topic in topics for event in topic.events} == set(OPERATOR_EVENTS)
    for topic in topics:
        test_anything_personal_is_forgotten_in_time(topic)
        test_the_key_is_a_field_of_every_event(topic)


def test_subject_keyed_topics_have_one_partition_count() -> None:
    """No topic has a count of its own: `ensure_topics` gives each the platform's, and refuses another."""
    assert not [name for name in Topic.__dataclass_fields__ if "partition" in name]
    assert all(topic.keyed_by == "subject_id" for topic in TOPICS if topic.watermarked)


def test_names_are_unique() -> None:
    assert max(Counter(topic.name for topic in TOPICS).values()) == 1
    types: set[type[Event]] = {event for topic in TOPICS for event in topic.events} | {Watermark, *OPERATOR_EVENTS}
    assert max(Counter(event.type for event in types).values()) == 1
    assert set(EVENTS.values()) == types


def test_every_event_is_frozen_and_typed() -> None:
    for event in EVENTS.values():
        assert event.__struct_config__.frozen
        assert issubclass(event, Event)


def test_a_watermark_compacts_to_the_latest_of_its_partition() -> None:
    """Keyed, since compacted topics refuse null keys; and never like a subject."""
    first, second = (
        msgspec.json.decode(b'{"partition":3,"as_of":"2026-01-06T09:30:0%dZ","last_number":7}' % n, type=Watermark)
        for n in (1, 2)
    )
    assert first.key == second.key == "watermark-3"


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_a_key_meets_the_partition_that_kafkas_own_clients_choose(key: str, murmur2: int) -> None:
    """Vectors of Apache Kafka's UtilsTest.testMurmur2: an operator's Java producer puts a subject where we do."""
    for partitions in (1, 3, 12, 60):
        assert kafka.partition_of(key, partitions) == (murmur2 & 0x7FFFFFFF) % partitions


@given(st.binary(max_size=70))
def test_our_hash_of_a_key_is_the_librarys(key: bytes) -> None:
    assert kafka.murmur2(key) == partitioner.murmur2(key)
