"""The quick reading of a usual callback, and the reading of any body: the same items, and the same errors."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from inbound.providers import Callback, Message, Receipt, Unreadable, WrongField, simulator, standard

AT = "2026-11-24T09:00:00+00:00"
USUAL: dict[str, Any] = {"id": "op-1", "reference": "m-1", "status": "delivered", "code": None, "at": AT}
WHOLE = json.dumps({"receipts": [USUAL, USUAL | {"status": "sent", "code": "30003"}]}).encode()
TEXTS = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["", " ", "a b", "\u3000", "\u00a0", "a\x00b", "\ud83d", "\u00e9", "a" * 200, "a" * 201, "\U0001f600" * 200]
)
TIMES = st.datetimes().map(str) | st.sampled_from(
    [
        "2026-11-24T09:00:00Z",
        "2026-11-24 09:00:00+02:00",
        "2026-11-24T09:00:00.1234567+01:00",
        "2026-11-24T09:00:00,5Z",
        "20261124T090000Z",
        "2026-W48-2T09:00:00Z",
        "2026-11-24T09:00:60Z",
        "2026-11-24T09:00:00",
        "2026-11-24",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "yesterday",
    ]
)
STATUSES = st.sampled_from([*simulator.STATES, "queued", "Delivered"])
OTHERS = st.none() | st.booleans() | st.integers() | st.floats() | st.lists(TEXTS, max_size=2)
FIELDS = {
    "id": TEXTS,
    "reference": TEXTS,
    "status": STATUSES | TEXTS,
    "code": TEXTS,
    "at": TIMES | TEXTS,
    "more": TEXTS,
}


MO: dict[str, Any] = {"id": "mo-1", "from": "+33639980001", "to": "36111", "text": "STOP", "sent_at": AT}
MO_FIELDS = dict.fromkeys(MO, TEXTS) | {"sent_at": TIMES | TEXTS, "more": TEXTS}
WHOLE_MO = json.dumps(MO).encode()
Fields = dict[str, st.SearchStrategy[str]]


@st.composite
def items(draw: st.DrawFn, usual: dict[str, Any] = USUAL, fields: Fields = FIELDS) -> object:
    """A usual item, mostly with a field or two changed, put in, or left out."""
    item = dict(usual)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        if draw(st.booleans()):
            item[name] = draw(fields[name] | OTHERS)
        else:
            item.pop(name, None)
    return item


@st.composite
def changed(draw: st.DrawFn, whole: bytes = WHOLE) -> bytes:
    """A usual body, with some bytes changed, left out or put in."""
    raw = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)))
        raw[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


def body(receipts: object, **more: object) -> bytes:
    return json.dumps({"receipts": receipts, **more}).encode()


BODIES = (
    st.lists(items() | OTHERS, max_size=4).map(body)
    | st.builds(body, st.lists(items(), max_size=2), more=OTHERS)
    | changed()
    | st.integers(99, 101).map(lambda many: body([USUAL] * many))
)


MOS = items(MO, MO_FIELDS).map(lambda item: json.dumps(item).encode()) | changed(WHOLE_MO)
Item = Message | Receipt


def wrapped(raw: bytes, kind: str = "message.received", more: bytes = b"") -> bytes:
    return b'{"type": "%s", "data": %s%s}' % (kind.encode(), raw, more)


def read(parse: Callable[[Callback], Sequence[Item]], raw: bytes) -> Sequence[Item] | tuple[object, ...]:
    try:
        return [*parse(Callback("/", {}, raw))]
    except WrongField as wrong:
        return wrong.field, wrong.reason, wrong.readable
    except Unreadable as unreadable:
        return (str(unreadable),)


@settings(max_examples=1_000, deadline=None)
@given(raw=BODIES)
@example(raw=WHOLE)
@example(raw=WHOLE.replace(b'"op-1"', b'"op-1", "more": "\xff"', 1))
@example(raw=WHOLE.replace(b'"op-1"', b'"\\ud83d"', 1))
@example(raw=WHOLE.replace(b'"op-1"', b'" "', 1))
@example(raw=WHOLE.replace(b'"op-1"', b'"\\u00a0"', 1))
@example(raw=WHOLE.replace(b'"op-1"', b'"op-1", "id": 7', 1))
@example(raw=WHOLE.replace(b'"op-1"', b'7, "id": "op-1"', 1))
@example(raw=b'{"receipts": ' * 100_000)
def test_the_quick_reading_of_dlrs_reads_what_the_other_reads(raw: bytes) -> None:
    assert read(simulator.parse_receipts, raw) == read(simulator.any_receipts, raw)


@settings(max_examples=1_000, deadline=None)
@given(raw=MOS)
@example(raw=WHOLE_MO)
@example(raw=WHOLE_MO.replace(b'"mo-1"', b'"mo-1", "more": "\xff"'))
@example(raw=WHOLE_MO.replace(b"STOP", b"STOP \\ud83d"))
@example(raw=WHOLE_MO.replace(b'"mo-1"', b'" "'))
def test_the_quick_reading_of_an_mo_reads_what_the_other_reads(raw: bytes) -> None:
    assert read(simulator.parse_messages, raw) == read(simulator.any_messages, raw)
    for body in (wrapped(raw), wrapped(raw, more=b', "more": 1'), wrapped(raw, "message.receipt"), raw):
        assert read(standard.parse_messages, body) == read(standard.any_messages, body)


@settings(deadline=None)
@given(raw=MOS, kind=st.sampled_from(["message.received", "message.receipt", ""]))
def test_a_readable_callback_is_of_the_kind_that_its_type_names(raw: bytes, kind: str) -> None:
    """Of a callback that cannot be read, the kind is of no account."""
    told = Callback("/", {}, wrapped(raw, kind))
    readable = not isinstance(read(lambda callback: [standard.any_messages(callback)[0]], wrapped(raw)), tuple)
    if readable:
        assert standard.kind_of(told, "messages") == ("messages" if kind == "message.received" else "receipts")


def test_a_usual_callback_is_read_quickly() -> None:
    assert simulator.usual_receipts(WHOLE) == simulator.any_receipts(Callback("/", {}, WHOLE))
    assert simulator.usual_messages(WHOLE_MO) == simulator.any_messages(Callback("/", {}, WHOLE_MO))
    assert standard.usual_messages(wrapped(WHOLE_MO)) == standard.any_messages(Callback("/", {}, wrapped(WHOLE_MO)))
