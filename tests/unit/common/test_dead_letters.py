"""What is shown of a record that could not be read: its shape, and nothing that could be of a person."""

import json

from hypothesis import given
from hypothesis import strategies as st

from common.kafka.dead_letters import shape

SECRETS = ("+33639980001", "0639980001", "33639980001", "Zoé Martin", "STOP svp", "zoe@example.com")
NAMES = st.one_of(st.sampled_from(SECRETS), st.sampled_from(("to", "text", "first_name")))
VALUES = st.recursive(
    st.one_of(st.sampled_from(SECRETS), st.just(33639980001), st.just(639980001.0), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=20,
)


@given(VALUES)
def test_no_value_shows_and_no_name_that_is_one(value: object) -> None:
    shown = json.dumps(shape(json.dumps(value).encode()), ensure_ascii=False)
    assert not any(secret in shown for secret in (*SECRETS, "639980001"))


def test_the_names_of_fields_and_the_kinds_of_values_are_left() -> None:
    record = {"to": "+33639980001", "parts": [1, {"text": "STOP"}], "flash": True, "tag": None, "+33639980001": 1}
    assert shape(json.dumps(record).encode()) == {
        "to": "text of 12",
        "parts": ["number", {"text": "text of 4"}],
        "flash": True,
        "tag": None,
        "name of 12": "number",
    }


def test_what_is_no_json_is_counted_and_what_is_deep_or_long_is_cut() -> None:
    assert shape(None) is None
    assert shape("0639980001 STOP".encode("utf-16")) == "32 bytes that are no JSON"
    assert shape(b"[" * 100_000) == "100000 bytes that are no JSON"
    deep = shape(b'{"a":' * 20 + b"1" + b"}" * 20)
    assert json.dumps(deep).count("a") == 6
    assert len(shape(json.dumps(list(range(1000))).encode())) == 50
