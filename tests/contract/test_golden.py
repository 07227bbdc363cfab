"""What was published once is read for ever: frozen examples of every event, and records of tomorrow's producers."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.contracts import EVENTS, Event
from common.kafka import broker as kafka
from tests.contract.golden import EXAMPLES, FOLDER, event_type_of

each_example = pytest.mark.parametrize("path", EXAMPLES.values(), ids=EXAMPLES.keys())


def _decoded(path: Path) -> Event:
    found = kafka.decode(path.read_bytes(), [("ce_type", event_type_of(path).encode())])
    assert found is not None
    return found


def _says(new: Any, old: Any) -> bool:
    """Does `new` say all that `old` says? A field added since, with its default, is no contradiction."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and _says(new[name], value) for name, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(_says, new, old))
    return bool(new == old)


def test_every_event_has_an_example_and_every_example_is_of_an_event() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(EVENTS)
    assert {event_type_of(path) for path in EXAMPLES.values()} == set(EVENTS)


@each_example
def test_an_example_decodes_and_says_the_same_when_encoded_again(path: Path) -> None:
    event = _decoded(path)
    assert type(event) is EVENTS[event_type_of(path)]
    assert _says(json.loads(kafka.encode(event)), json.loads(path.read_text()))
    assert kafka.decode(kafka.encode(event), [("ce_type", event.type.encode())]) == event


@each_example
def test_a_field_of_tomorrow_is_ignored(path: Path) -> None:
    tomorrow = {**json.loads(path.read_text()), "a_field_of_tomorrow": {"deep": [1]}}
    assert kafka.decode(json.dumps(tomorrow).encode(), [("ce_type", event_type_of(path).encode())]) == _decoded(path)


@each_example
def test_a_type_of_tomorrow_is_not_read_whatever_it_holds(path: Path) -> None:
    owner_and_fact, _ = event_type_of(path).rsplit(".v", 1)
    assert kafka.decode(path.read_bytes(), [("ce_type", f"{owner_and_fact}.v999".encode())]) is None
    assert kafka.decode(b"\xff not even JSON", [("ce_type", b"somebody.did_something.v1")]) is None


@each_example
def test_a_field_that_is_missing_or_of_another_type_is_refused_by_name_and_never_by_value(path: Path) -> None:
    whole = json.loads(path.read_text())
    for field in whole:
        headers = [("ce_type", event_type_of(path).encode())]
        without = {name: value for name, value in whole.items() if name != field}
        if field in _required(path):
            with pytest.raises(kafka.Undecodable, match=field):
                kafka.decode(json.dumps(without).encode(), headers)
        for wrong in ({"value": SECRET}, SECRET):
            if isinstance(wrong, str) and _may_be_any_text(event_type_of(path), field):
                continue
            if isinstance(wrong, dict) and isinstance(whole[field], dict):
                continue  # an object: what it does not know in it, it leaves
            with pytest.raises(kafka.Undecodable, match=field) as refused:
                kafka.decode(json.dumps({**whole, field: wrong}).encode(), headers)
            assert SECRET not in str(refused.value)
            assert refused.value.__cause__ is None
            assert refused.value.__suppress_context__


SECRET = "+33639980001 - at `$.elsewhere`"


def _may_be_any_text(event_type: str, field: str) -> bool:
    return EVENTS[event_type].__annotations__[field] in (str, str | None)


def _required(path: Path) -> set[str]:
    fields = msgspec.structs.fields(EVENTS[event_type_of(path)])
    return {field.name for field in fields if field.required}


@pytest.mark.parametrize("headers", [[], [("content-type", b"application/json")]])
def test_a_record_without_a_type_is_refused(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(kafka.Undecodable):
        kafka.decode(b"{}", headers)


def test_a_tombstone_or_an_empty_value_of_a_known_type_is_refused() -> None:
    for value in (None, b"", b"null", b"[]"):
        with pytest.raises(kafka.Undecodable):
            kafka.decode(value, [("ce_type", b"consent.state_changed.v1")])
