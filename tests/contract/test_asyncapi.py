"""The AsyncAPI document is the one checked in, has every topic, and its examples fit the schemas of their events."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema_rs import validator_for

from common.contracts import EVENTS, TOPICS
from common.kafka.broker import decode
from tests.contract.asyncapi import DEAD_LETTERS, accepted, breaking, document
from tests.contract.schemas import FOLDER, checked_in

OPERATORS = {"operator.messages.v1", "operator.receipts.v1", "operator.submits.v1"}
STATES = "consent.states.v1"


def test_the_document_is_the_one_checked_in() -> None:
    old, new = accepted(), document()
    assert old is not None
    broken = list(breaking(old, new))
    assert not broken, f'readers of the topics would notice. Keep what is, or: `make schemas BREAKS="why"`: {broken}'
    assert old == new, "the topics changed, and no reader notices: run `make schemas` and commit"


def test_every_topic_is_a_channel_that_somebody_writes_and_somebody_reads() -> None:
    made = document()
    assert made["channels"].keys() == {topic.name for topic in TOPICS} | OPERATORS | {DEAD_LETTERS}
    for name in made["channels"].keys() - {DEAD_LETTERS}:
        actions = {
            each["action"] for each in made["operations"].values() if each["channel"]["$ref"].endswith(f"/{name}")
        }
        assert actions == {"send", "receive"}, name


def test_every_example_is_read_by_a_service_and_fits_the_schema_of_its_event() -> None:
    seen = set()
    for name, message in document()["components"]["messages"].items():
        if name == DEAD_LETTERS:
            continue
        validator = validator_for(checked_in(name) or False, validate_formats=True)
        assert (FOLDER.parent / message["payload"]["schema"]["$ref"]).exists()
        for each in message["examples"]:
            headers = [(header, value.encode()) for header, value in each["headers"].items()]
            assert type(decode(json.dumps(each["payload"]).encode(), headers)) is EVENTS[name]
            assert list(validator.iter_errors(each["payload"])) == [], f"{name}: {each['name']}"
            seen.add(name)
    assert seen == set(EVENTS)


def _channel(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["channels"][STATES]
    return found


def _gone(made: dict[str, Any]) -> None:
    del made["channels"][STATES]


def _other_key(made: dict[str, Any]) -> None:
    _channel(made)["x-key"] = "sender_id"


def _shorter_memory(made: dict[str, Any]) -> None:
    _channel(made)["bindings"]["kafka"]["topicConfiguration"]["max.compaction.lag.ms"] = 1


def _event_gone(made: dict[str, Any]) -> None:
    _channel(made)["messages"].popitem()


def _event_new(made: dict[str, Any]) -> None:
    """To a reader of yesterday an unknown type is poison."""
    _channel(made)["messages"]["consent.state_changed.v2"] = {}


@pytest.mark.parametrize("change", [_gone, _other_key, _shorter_memory, _event_gone, _event_new])
def test_what_a_reader_of_a_topic_would_notice_is_breaking(change: Callable[[dict[str, Any]], None]) -> None:
    new = copy.deepcopy(document())
    change(new)
    assert len(list(breaking(document(), new))) == 1


def test_other_words_a_new_topic_and_a_new_example_break_nobody() -> None:
    new = copy.deepcopy(document())
    _channel(new)["description"] = "In other words."
    new["channels"]["consent.news.v1"] = _channel(new)
    new["components"]["messages"]["consent.state_changed.v1"]["examples"] = []
    assert list(breaking(document(), new)) == []
