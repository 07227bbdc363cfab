"""Nobody breaks a neighbour: the events' schemas are those checked in, or differ by what no consumer notices."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from common.contracts import EVENTS
from tests.contract.schemas import FOLDER, breaking, checked_in, schema_of

MO = "inbound.message_received.v1"


@pytest.mark.parametrize("event_type", EVENTS)
def test_an_event_keeps_its_schema(event_type: str) -> None:
    old, new = checked_in(event_type), schema_of(EVENTS[event_type])
    assert old is not None, f"{event_type} has no schema yet: run `make schemas`"
    broken = list(breaking(old, new))
    assert not broken, f"{event_type} breaks its consumers; publish a v2 beside it: {broken}"
    assert old == new, f"{event_type} changed additively: run `make schemas` and commit"


def test_no_schema_is_left_of_an_event_that_is_gone() -> None:
    """A type may still be in a topic for its whole retention: it goes in a change of its own, on purpose."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(EVENTS)


def _struct(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"]["MessageReceived"]
    return found


def _field_with_a_default(schema: dict[str, Any]) -> None:
    _struct(schema)["properties"]["segments"] = {"type": "integer", "default": 1}


def _other_words(schema: dict[str, Any]) -> None:
    _struct(schema)["description"] = "In other words."


def _new_definition(schema: dict[str, Any]) -> None:
    schema["$defs"]["Segment"] = {"type": "object", "properties": {}}


@pytest.mark.parametrize("change", [_field_with_a_default, _other_words, _new_definition])
def test_what_no_consumer_notices_is_additive(change: Callable[[dict[str, Any]], None]) -> None:
    old = schema_of(EVENTS[MO])
    new = copy.deepcopy(old)
    change(new)
    assert old != new
    assert list(breaking(old, new)) == []


def _field_without_a_default(schema: dict[str, Any]) -> None:
    _field_with_a_default(schema)
    _struct(schema)["required"].append("segments")


def _field_gone(schema: dict[str, Any]) -> None:
    del _struct(schema)["properties"]["rule"]


def _field_renamed(schema: dict[str, Any]) -> None:
    properties = _struct(schema)["properties"]
    properties["rule_id"] = properties.pop("rule")


def _field_no_longer_required(schema: dict[str, Any]) -> None:
    _struct(schema)["required"].remove("rule")


def _other_type(schema: dict[str, Any]) -> None:
    _struct(schema)["properties"]["score"]["type"] = "string"


def _now_nullable(schema: dict[str, Any]) -> None:
    _struct(schema)["properties"]["rule"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}


def _value_added(schema: dict[str, Any]) -> None:
    _struct(schema)["properties"]["intent"]["enum"].append("complain")


def _value_gone(schema: dict[str, Any]) -> None:
    _struct(schema)["properties"]["intent"]["enum"].remove("stop")


def _other_format(schema: dict[str, Any]) -> None:
    _struct(schema)["properties"]["received_at"]["format"] = "date"


def _definition_gone(schema: dict[str, Any]) -> None:
    del schema["$defs"]["MessageReceived"]


@pytest.mark.parametrize(
    "change",
    [
        _field_without_a_default,
        _field_gone,
        _field_renamed,
        _field_no_longer_required,
        _other_type,
        _now_nullable,
        _value_added,
        _value_gone,
        _other_format,
        _definition_gone,
    ],
)
def test_what_somebody_would_notice_is_breaking(change: Callable[[dict[str, Any]], None]) -> None:
    old = schema_of(EVENTS[MO])
    new = copy.deepcopy(old)
    change(new)
    assert list(breaking(old, new)) != []


def test_a_change_deep_in_a_list_of_alternatives_is_found() -> None:
    old = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}
    new = {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}
    assert list(breaking(old, new)) == ["/anyOf/0/format: was 'date-time', is 'date'"]
    assert list(breaking(old, {"anyOf": old["anyOf"][:1]})) != []


def test_the_comment_behind_a_field_is_its_description() -> None:
    fields = schema_of(EVENTS["operator.message_submitted.v1"])["$defs"]["MessageSubmitted"]["properties"]
    assert fields["sender"]["description"] == "OADC shown to the person."
