"""The people of an MO that cannot be read."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound.unread import MOST_PEOPLE, Person, people_in
from tests.support.builders import number

ONE, TWO = number(1), number(2)
BARE = ONE.removeprefix("+")
CODE = "36111"
MO = {"sender": ONE, "recipient": CODE}
IN_TEXT = json.dumps({"specversion": "1.0", "data": json.dumps(MO)}).encode()
IN_BASE64 = json.dumps({"data_base64": base64.b64encode(f"MSISDN={BARE}".encode()).decode()}).encode()

FOUND: dict[str, tuple[bytes, str]] = {
    "its sender, whatever else is wrong": (json.dumps(MO).encode(), "36111"),
    "a number as a number": (json.dumps({"sender": int(BARE)}).encode(), ""),
    "a national number": (json.dumps({"sender": "06 39 98 00 01"}).encode(), ""),
    "no other number beside the sender": (json.dumps({**MO, "text": f"call {TWO}", "id": 33639980003}).encode(), CODE),
    "a code that is none": (json.dumps({**MO, "recipient": "\0"}).encode(), ""),
    "in a list": (json.dumps([{"event": MO}]).encode(), "36111"),
    "in the text of a CloudEvent": (IN_TEXT, "36111"),
    "in the base64 of a CloudEvent": (IN_BASE64, ""),
    "in a field of another name": (json.dumps({"from": ONE, "to": "36111", "at": 1764437105123}).encode(), ""),
    "in a form": (f"from=%2B{BARE}&id=20261129170545&text=STOP".encode(), ""),
    "in half a record": (json.dumps(MO).encode()[:-3], ""),
    "in UTF-16": (json.dumps({"from": ONE}).encode("utf-16"), ""),
    "among bytes": (b"\x00\x00\x00\x00\x07\xff" + BARE.encode() + b"\xfe36111", ""),
}  # fmt: skip


@pytest.mark.parametrize(("value", "code"), FOUND.values(), ids=FOUND.keys())
def test_a_number_is_made_out_where_there_is_one(value: bytes, code: str) -> None:
    assert people_in("or-1", value) == [Person(ONE, code)]


def test_a_key_that_is_a_number_counts_and_one_that_holds_digits_does_not() -> None:
    assert people_in(ONE, b"{") == people_in(BARE, None) == [Person(ONE, "")]
    assert people_in(TWO, json.dumps(MO).encode()) == [Person(TWO, ""), Person(ONE, "36111")]
    assert people_in(f"mo-{BARE}", b"{") == []


def test_each_sender_of_a_batch_counts_up_to_a_bound() -> None:
    batch = [{"data": {"sender": number(n)}} for n in range(2 * MOST_PEOPLE)]
    assert people_in(None, json.dumps(batch).encode()) == [Person(number(n), "") for n in range(MOST_PEOPLE)]
    numbers = ";".join(number(n) for n in range(2 * MOST_PEOPLE))
    assert len(people_in(None, numbers.encode())) == MOST_PEOPLE


def test_where_no_number_can_be_made_out_there_is_nobody() -> None:
    for value in (None, b"", b"{", b"36111", b'{"sender": "ACME"}', b'{"sender": true}', b"\xff" * 99, b"[" * 100_000):
        assert people_in(None, value) == []


NAMES = st.sampled_from(["sender", "recipient", "data", "data_base64", "x"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
).map(lambda value: json.dumps(value).encode())


@given(st.none() | st.text(), st.none() | st.binary() | ANY_JSON)
def test_no_record_makes_it_fail(key: str | None, value: bytes | None) -> None:
    for person in people_in(key, value):
        assert person.number.startswith("+")
        assert person.number[1:].isdigit()
