"""The simulator's signature and fields."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from inbound.providers import Account, Callback, Message, NotGenuine, Receipt, Unreadable, WrongField, simulator
from tests.operators import body, signed

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
SECRET = "the simulator's secret"
ACCOUNT = Account("simulator", "main", (SECRET,))
MO = body("simulator/mo.json")


def callback(raw: bytes, headers: dict[str, str]) -> Callback:
    return Callback(
        "/v1/callbacks/simulator/main/messages", {name.lower(): value for name, value in headers.items()}, raw
    )


def parse_messages(raw: bytes) -> Sequence[Message]:
    return simulator.parse_messages(callback(raw, {}))


def parse_receipts(raw: bytes) -> Sequence[Receipt]:
    return simulator.parse_receipts(callback(raw, {}))


def test_what_is_signed_now_is_genuine() -> None:
    simulator.verify(callback(MO, signed(MO, SECRET, NOW)), ACCOUNT, NOW)


@pytest.mark.parametrize("off_s", [-300, 300])
def test_five_minutes_either_way_are_allowed(off_s: int) -> None:
    simulator.verify(callback(MO, signed(MO, SECRET, NOW + timedelta(seconds=off_s))), ACCOUNT, NOW)


@pytest.mark.parametrize("off_s", [-301, 301, -86_400])
def test_a_replay_outside_five_minutes_is_not_genuine(off_s: int) -> None:
    with pytest.raises(NotGenuine, match="timestamp_outside_window"):
        simulator.verify(callback(MO, signed(MO, SECRET, NOW + timedelta(seconds=off_s))), ACCOUNT, NOW)


def test_one_of_several_signatures_and_one_of_several_secrets_is_enough() -> None:
    headers = signed(MO, "the old secret", NOW)
    headers["Placet-Signature"] = f"v1=00, {headers['Placet-Signature']},v2=ff"

    simulator.verify(callback(MO, headers), Account("simulator", "main", ("the new secret", "the old secret")), NOW)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Placet-Signature": ""}, "signature_missing"),
        ({"Placet-Timestamp": ""}, "signature_missing"),
        ({"Placet-Signature": "v1="}, "signature_wrong"),
        ({"Placet-Signature": "v1=é"}, "signature_wrong"),
        ({"Placet-Timestamp": str(int(NOW.timestamp()) + 1)}, "signature_wrong"),
        ({"Placet-Timestamp": "now"}, "signature_wrong"),
    ],
)
def test_a_changed_header_is_not_genuine(change: dict[str, str], reason: str) -> None:
    with pytest.raises(NotGenuine, match=reason):
        simulator.verify(callback(MO, {**signed(MO, SECRET, NOW), **change}), ACCOUNT, NOW)


def test_a_changed_body_is_not_genuine() -> None:
    with pytest.raises(NotGenuine, match="signature_wrong"):
        simulator.verify(callback(MO.replace(b"STOP", b"STAR"), signed(MO, SECRET, NOW)), ACCOUNT, NOW)


def test_an_mo_is_read() -> None:
    (message,) = parse_messages(MO)

    assert message.provider_message_id == "mo-1"
    assert message.sender == "+33639980001"
    assert message.short_code == "36111"
    assert message.text == "STOP"
    assert message.sent_at == NOW


def test_an_empty_text_is_a_text() -> None:
    (message,) = parse_messages(json.dumps({**json.loads(MO), "text": ""}).encode())

    assert message.text == ""


def test_half_an_emoji_does_not_lose_the_stop_before_it() -> None:
    (message,) = parse_messages(MO.replace(b"STOP", b"STOP \\ud83d"))

    assert message.text == "STOP \ufffd"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("id", None, "not_a_string"),
        ("id", 7, "not_a_string"),
        ("id", " ", "empty"),
        ("id", "a\x00b", "not_printable"),
        ("id", "a" * 201, "too_long"),
        ("from", "", "empty"),
        ("to", 36111, "not_a_string"),
        ("text", None, "not_a_string"),
        ("text", ["STOP"], "not_a_string"),
        ("sent_at", "2026-11-24T10:00:00", "no_offset"),
        ("sent_at", "yesterday", "not_a_time"),
        ("sent_at", 1764000000, "not_a_string"),
        ("sent_at", "0001-01-01T00:00:00+14:00", "not_a_time"),
    ],
)
def test_an_mo_with_a_field_of_the_wrong_form_names_it(field: str, value: object, reason: str) -> None:
    with pytest.raises(WrongField) as wrong:
        parse_messages(json.dumps({**json.loads(MO), field: value}).encode())

    assert (wrong.value.field, wrong.value.reason) == (field, reason)


@pytest.mark.parametrize("field", ["id", "from", "to", "text", "sent_at"])
def test_an_mo_without_a_field_names_it(field: str) -> None:
    fields = json.loads(MO)
    del fields[field]

    with pytest.raises(WrongField) as wrong:
        parse_messages(json.dumps(fields).encode())

    assert (wrong.value.field, wrong.value.reason) == (field, "missing")


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 200_000, b"STOP"])
def test_what_is_not_json_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        parse_messages(raw)


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"STOP"'])
def test_json_that_is_no_object_is_named(raw: bytes) -> None:
    with pytest.raises(WrongField, match="body: not_an_object"):
        parse_messages(raw)


def test_receipts_are_read_in_order() -> None:
    receipts = parse_receipts(body("simulator/receipts.json"))

    assert [(r.provider_message_id, r.state, r.code) for r in receipts] == [
        ("op-1", "sent", None),
        ("op-1", "delivered", None),
        ("op-2", "failed", "absent"),
    ]
    assert receipts[0].reference == "0199c5a0-0000-8000-8000-000000000001"
    assert receipts[0].at == NOW


@pytest.mark.parametrize("count", [1, 100])
def test_one_to_a_hundred_receipts_are_taken(count: int) -> None:
    one = json.loads(body("simulator/receipts.json"))["receipts"][:1]

    assert len(parse_receipts(json.dumps({"receipts": one * count}).encode())) == count


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"status": "lost"}, "receipts.1.status", "not_a_status"),
        ({"status": "queued"}, "receipts.1.status", "not_a_status"),
        ({"id": 3}, "receipts.1.id", "not_a_string"),
        ({"reference": None}, "receipts.1.reference", "not_a_string"),
        ({"code": 12}, "receipts.1.code", "not_a_string"),
        ({"at": "2026-11-24"}, "receipts.1.at", "no_offset"),
    ],
)
def test_a_receipt_with_a_field_of_the_wrong_form_names_it(change: dict[str, object], field: str, reason: str) -> None:
    batch: Any = json.loads(body("simulator/receipts.json"))
    batch["receipts"][1] |= change

    with pytest.raises(WrongField) as wrong:
        parse_receipts(json.dumps(batch).encode())

    assert (wrong.value.field, wrong.value.reason) == (field, reason)


@pytest.mark.parametrize("missing", ["id", "reference", "status", "code", "at"])
def test_a_receipt_without_a_field_names_it(missing: str) -> None:
    batch: Any = json.loads(body("simulator/receipts.json"))
    del batch["receipts"][2][missing]

    with pytest.raises(WrongField) as wrong:
        parse_receipts(json.dumps(batch).encode())

    assert (wrong.value.field, wrong.value.reason) == (f"receipts.2.{missing}", "missing")


@pytest.mark.parametrize(
    ("batch", "reason"),
    [({}, "missing"), ({"receipts": {}}, "not_a_list"), ({"receipts": []}, "not_1_to_100")],
)
def test_a_batch_of_another_shape_is_named(batch: object, reason: str) -> None:
    with pytest.raises(WrongField, match=f"receipts: {reason}"):
        parse_receipts(json.dumps(batch).encode())


def test_a_batch_of_more_than_a_hundred_is_refused() -> None:
    one = json.loads(body("simulator/receipts.json"))["receipts"][:1]

    with pytest.raises(WrongField, match="not_1_to_100"):
        parse_receipts(json.dumps({"receipts": one * 101}).encode())
