"""The settings of a service in shards."""

from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata
from pydantic import ValidationError

from common.contracts import CAMPAIGN_REQUESTS, SENDERS, STATES
from common.kafka.broker import partition_of
from common.kafka.reading.client import group_of, read_of
from common.kafka.reading.dealing import dealer
from common.kafka.subscription import Subscription
from common.kafka.widening import WAITING, Widening
from common.settings.shards import SLOTS, ShardedSettings, SlottedSettings, spans
from tests.support.running import AUTH_KEY, KEY_RING, OUTER_RING, SUBJECT_RING

A, B = "postgresql://p:p@127.0.0.1:5432/a", "postgresql://p:p@127.0.0.1:5432/b"


def told(**more: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "database_url": A,
        "kafka_bootstrap": "127.0.0.1:1",
        "subject_keys": SUBJECT_RING,
        "field_keys": KEY_RING,
        "development": True,
        "auth_key": AUTH_KEY,
        "partitions": 4,
        "shard": "a",
        "shards": {"a": {"partitions": "0-1,3", "database_url": A}, "b": {"partitions": "2", "database_url": B}},
    }
    return usual | more


def shards(a: str, b: str, url: str = B) -> dict[str, Any]:
    return {"a": {"partitions": a, "database_url": A}, "b": {"partitions": b, "database_url": url}}


def test_a_shard_holds_its_partitions_of_what_is_keyed_by_subject_and_all_of_the_rest() -> None:
    settings = ShardedSettings(**told())
    assert list(settings.own_partitions) == [0, 1, 3]
    assert list(read_of(settings, STATES)) == [0, 1, 3]
    assert list(read_of(settings, SENDERS)) == [0, 1, 2, 3]
    assert settings.first_url == A
    whole = ShardedSettings(**told(shards={}, shard=None))
    assert list(read_of(whole, STATES)) == [0, 1, 2, 3]


def test_the_shards_share_the_group_of_what_is_keyed_by_subject_and_have_one_each_of_the_rest() -> None:
    async def handle(*_: Any) -> None: ...

    settings = ShardedSettings(**told(topic_prefix="t."))
    assert group_of(settings, Subscription("dispatch.consents", STATES, handle)) == "t.dispatch.consents"
    assert group_of(settings, Subscription("dispatch.senders", SENDERS, handle)) == "t.dispatch.senders.a"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"shard": None}, "set PLACET_SHARD"),
        ({"shard": "c"}, "one of a, b"),
        ({"shards": {}}, "set both, or neither"),
        ({"shards": shards("0-1", "2")}, "partitions 0 to 3"),
        ({"shards": shards("0-2", "2-3")}, "partitions 0 to 3"),
        ({"shards": shards("0-4", "3")}, "partitions 0 to 3"),
        ({"shards": shards("0-1,3", "2", A)}, "two shards have one database"),
        ({"database_url": B}, "not the database of PLACET_SHARD"),
        ({"shards": shards("3-1", "2")}, "names no partitions"),
        ({"shards": shards("", "2")}, "names no partitions"),
        ({"shards": {"A 1": {"partitions": "0-3", "database_url": A}}, "shard": "A 1"}, "as a group's name"),
        (
            {
                "subject_keys": SUBJECT_RING
                | {"outer": {**OUTER_RING, "keys": {**OUTER_RING["keys"], "older": KEY_RING["keys"]["t1"]}}}
            },
            "move them before",
        ),
    ],
)
def test_settings_that_put_a_person_in_no_shard_or_in_two_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ShardedSettings(**told(**wrong))


def slots(a: str, b: str) -> dict[str, Any]:
    return {"a": {"slots": a, "database_url": A}, "b": {"slots": b, "database_url": B}}


def test_a_shard_of_organisations_reads_every_partition_of_each_topic_in_a_group_of_its_own() -> None:
    async def handle(*_: Any) -> None: ...

    settings = SlottedSettings(**told(topic_prefix="t.", shards=slots("0-511", "512-1023"), work_partitions=8))
    assert list(settings.own_places) == list(range(512))
    assert list(settings.own_partitions) == list(read_of(settings, STATES)) == list(read_of(settings, SENDERS))
    assert list(read_of(settings, CAMPAIGN_REQUESTS)) == list(range(8))
    assert group_of(settings, Subscription("campaign.consents", STATES, handle)) == "t.campaign.consents.a"
    assert [(name, len(places)) for name, places, _ in settings.divided] == [("a", 512), ("b", 512)]
    whole = SlottedSettings(**told(shards={}, shard=None))
    assert list(whole.own_places) == list(range(SLOTS))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"shards": slots("0-511", "513-1023")}, "slots 0 to 1023"),
        ({"shards": slots("0-512", "512-1023")}, "slots 0 to 1023"),
        ({"shards": slots("0-1", "2-3")}, "slots 0 to 1023"),
        ({"shards": slots("0-511", "512-1024")}, "slots 0 to 1023"),
        ({"shards": shards("0-1,3", "2")}, "slots"),
        ({"shards": slots("512-1023", "0-511"), "shard": "b"}, "not the database of PLACET_SHARD"),
    ],
)
def test_settings_that_put_an_organisation_in_no_shard_or_in_two_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        SlottedSettings(**told(**wrong))


def test_an_organisation_keeps_its_slot_for_ever() -> None:
    """Another hash would look for it in a database that has nothing of it."""
    assert [partition_of(name, SLOTS) for name in ("acme", "Maison Lune", "org-1")] == [260, 454, 323]


async def test_a_relay_in_shards_of_organisations_changes_no_count_of_partitions() -> None:
    """Two relays would change at two moments, and a reader waits for the former partitions only once."""

    async def knows(*_: Any) -> bool:
        return True

    settings = SlottedSettings(**told(shards=slots("0-511", "512-1023"), work_partitions=8))
    widening = Widening(settings, [CAMPAIGN_REQUESTS])
    WAITING.set(1)
    session: Any = None  # a refusal asks no database
    await widening.step(session, knows)
    assert widening.count(CAMPAIGN_REQUESTS.name) == 4
    widening._look_at = 0
    await widening.step(session, knows)
    assert WAITING._value.get() == 0, "a refusal for good would keep an alert for good"
    assert "the relays of the shards would change at two moments" in (widening.why or "")


def test_spans_of_partitions_are_read_in_any_order_and_once() -> None:
    assert list(spans("4, 0-2,1")) == [0, 1, 2, 4]


def test_the_dealer_of_a_member_deals_by_what_each_member_says() -> None:
    cluster = ClusterMetadata()
    cluster._partitions = {"t": dict.fromkeys(range(4))}
    first, second = dealer([0, 1, 3], 4), dealer([2], 4)
    members = {"m1": first.metadata(["t"]), "m2": second.metadata(["t"])}
    dealt = {member: dict(told.assignment) for member, told in first.assign(cluster, members).items()}
    assert dealt == {"m1": {"t": [0, 1, 3]}, "m2": {"t": [2]}}
