"""Twilio's signature against the published vectors, and its fields."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from inbound.providers import Account, Callback, Message, NotGenuine, Receipt, Unreadable, WrongField, twilio
from tests.operators import body

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
VECTORS: list[dict[str, str]] = json.loads(body("twilio/signature-vectors.json"))
URL = "https://sms.example.org/v1/callbacks/twilio/main/messages"
TARGET = "/v1/callbacks/twilio/main/messages"
TOKEN = "a token of thirty-two characters"


def account(*secrets: str, public_url: str = "https://sms.example.org") -> Account:
    return Account("twilio", "main", secrets or (TOKEN,), public_url)


def callback(raw: bytes, signature: str | None, target: str = TARGET) -> Callback:
    headers: Mapping[str, str] = {} if signature is None else {"x-twilio-signature": signature}
    return Callback(target, headers, raw)


def signature_of(url: str, pairs: list[tuple[str, str]], token: str = TOKEN) -> str:
    """Written again here, from Twilio's text: the test must not share the code it tests."""
    signed = url + "".join(name + value for name, value in sorted(pairs))
    return base64.b64encode(hmac.new(token.encode(), signed.encode(), hashlib.sha1).digest()).decode()


def parse_messages(raw: bytes) -> Sequence[Message]:
    return twilio.parse_messages(callback(raw, None))


def parse_receipts(raw: bytes) -> Sequence[Receipt]:
    return twilio.parse_receipts(callback(raw, None))


MO_PAIRS = [
    ("From", "+33639980001"),
    ("To", "36111"),
    ("Body", "STOP"),
    ("FromCity", ""),
    ("MessageSid", "SM00000000000000000000000000000001"),
]
MO = b"From=%2B33639980001&To=36111&Body=STOP&FromCity=&MessageSid=SM00000000000000000000000000000001"


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{i}-{v['origin'][:60]}" for i, v in enumerate(VECTORS)])
def test_a_published_signature_is_genuine_and_no_other_is(vector: Mapping[str, str]) -> None:
    parts = urlsplit(vector["url"])
    here = account(vector["token"], public_url=f"{parts.scheme}://{parts.netloc}")
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    raw = vector["body"].encode()

    twilio.verify(callback(raw, vector["expected"], target), here, NOW)

    for wrong in (
        callback(raw + b"1", vector["expected"], target),
        callback(raw, vector["expected"], target + "x"),
        callback(raw, vector["expected"].swapcase(), target),
    ):
        with pytest.raises(NotGenuine, match="signature_wrong"):
            twilio.verify(wrong, here, NOW)


def test_all_seven_vectors_are_here() -> None:
    assert len(VECTORS) == 7


@pytest.mark.parametrize(
    ("signed_url", "public_url"),
    [
        ("https://sms.example.org" + TARGET, "https://sms.example.org:443"),
        ("https://sms.example.org:443" + TARGET, "https://sms.example.org"),
        ("http://sms.example.org:80" + TARGET, "http://sms.example.org/"),
        ("https://sms.example.org" + TARGET, "https://sms.example.org:8443"),
        ("https://sms.example.org/placet" + TARGET, "https://sms.example.org/placet/"),
    ],
)
def test_the_url_is_tried_with_and_without_its_port(signed_url: str, public_url: str) -> None:
    twilio.verify(callback(MO, signature_of(signed_url, MO_PAIRS)), account(public_url=public_url), NOW)


@pytest.mark.parametrize(
    "target", ["[", "//[::1/messages", ":99999/messages", "", "*", "\u00e2\u0084\u0080", "/?bodySHA256=["]
)
def test_a_target_that_no_url_ends_in_is_only_not_genuine(target: str) -> None:
    with pytest.raises(NotGenuine, match="signature_wrong"):
        twilio.verify(callback(MO, "AAAA", target), account(), NOW)


def test_the_public_url_comes_from_the_account_and_never_from_the_host_header() -> None:
    raw = callback(MO, signature_of("https://attacker.example.org" + TARGET, MO_PAIRS))

    with pytest.raises(NotGenuine):
        twilio.verify(Callback(raw.target, {**raw.headers, "host": "attacker.example.org"}, raw.body), account(), NOW)


def test_both_secrets_are_good_during_a_rotation() -> None:
    genuine = callback(MO, signature_of(URL, MO_PAIRS, "the old token"))

    twilio.verify(genuine, account("the new token", "the old token"), NOW)
    with pytest.raises(NotGenuine):
        twilio.verify(genuine, account("the new token"), NOW)


def test_a_callback_without_a_signature_is_not_genuine() -> None:
    with pytest.raises(NotGenuine, match="signature_missing"):
        twilio.verify(callback(MO, None), account(), NOW)


@pytest.mark.parametrize("signature", ["é", "=", "\x00"])
def test_a_signature_that_is_no_base64_is_only_wrong(signature: str) -> None:
    with pytest.raises(NotGenuine, match="signature_wrong"):
        twilio.verify(callback(MO, signature), account(), NOW)


def test_more_fields_than_twilio_ever_sends_are_not_genuine() -> None:
    pairs = [*MO_PAIRS, *((f"p{n}", "") for n in range(200 - len(MO_PAIRS)))]
    raw = MO + b"".join(f"&{name}=".encode() for name, _ in pairs[len(MO_PAIRS) :])

    twilio.verify(callback(raw, signature_of(URL, pairs)), account(), NOW)
    with pytest.raises(NotGenuine, match="signature_wrong"):
        twilio.verify(callback(raw + b"&one=", signature_of(URL, [*pairs, ("one", "")])), account(), NOW)
    with pytest.raises(Unreadable, match="too many fields"):
        twilio.parse_messages(callback(raw + b"&one=", None))


def test_the_body_hash_must_be_that_of_the_body() -> None:
    vector = next(v for v in VECTORS if "bodySHA256" in v["url"])
    target = urlsplit(vector["url"]).path + "?" + urlsplit(vector["url"]).query

    here = account(vector["token"], public_url="https://mycompany.com")
    with pytest.raises(NotGenuine, match="signature_wrong"):
        twilio.verify(callback(b"{}", vector["expected"], target), here, NOW)


def test_an_mo_is_read() -> None:
    (message,) = parse_messages(body("twilio/mo.form"))

    assert message.provider_message_id == "SM00000000000000000000000000000001"
    assert message.sender == "+33639980001"
    assert message.short_code == "36111"
    assert message.text == "Arrêtez 🙏"
    assert message.sent_at is None


def test_an_mms_has_an_empty_text() -> None:
    (message,) = parse_messages(body("twilio/mo-mms.form"))

    assert message.text == ""


def test_a_text_that_is_not_utf_8_keeps_what_can_be_read() -> None:
    (message,) = parse_messages(MO.replace(b"Body=STOP", b"Body=STOP+%E9"))

    assert message.text == "STOP \ufffd"


@pytest.mark.parametrize("field", ["MessageSid", "From", "To", "Body"])
def test_an_mo_without_a_field_names_it(field: str) -> None:
    with pytest.raises(WrongField) as wrong:
        parse_messages(MO.replace(field.encode() + b"=", b"Other="))

    assert (wrong.value.field, wrong.value.reason) == (field, "missing")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("From", "", "empty"),
        ("From", "1" * 65, "too_long"),
        ("MessageSid", "S" * 201, "too_long"),
        ("MessageSid", "SM%00", "not_printable"),
    ],
)
def test_an_mo_with_a_field_of_the_wrong_form_names_it(field: str, value: str, reason: str) -> None:
    pairs = {**dict(MO_PAIRS), "From": "%2B33639980001", field: value}

    with pytest.raises(WrongField) as wrong:
        parse_messages("&".join(f"{name}={given}" for name, given in pairs.items()).encode())

    assert (wrong.value.field, wrong.value.reason) == (field, reason)


def test_a_body_that_is_not_text_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        parse_messages(b"Body=\xff\xfe")


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("accepted", None, "queued"),
        ("queued", None, "queued"),
        ("sending", None, "queued"),
        ("sent", None, "sent"),
        ("delivered", None, "delivered"),
        ("undelivered", "30003", "failed"),
        ("failed", "30008", "failed"),
        ("failed", "21610", "opted_out"),
        ("undelivered", "63014", "opted_out"),
        ("a status of tomorrow", None, "unknown"),
    ],
)
def test_a_receipt_says_what_became_of_the_message(status: str, code: str | None, state: str) -> None:
    raw = f"MessageSid=SM3&MessageStatus={status}" + (f"&ErrorCode={code}" if code else "")

    (receipt,) = parse_receipts(raw.encode())

    assert (receipt.state, receipt.code, receipt.reference, receipt.at) == (state, code, None, None)


@pytest.mark.parametrize(("name", "state"), [("receipt-sent", "sent"), ("receipt-opted-out", "opted_out")])
def test_the_receipts_courier_saw_are_read(name: str, state: str) -> None:
    (receipt,) = parse_receipts(body(f"twilio/{name}.form"))

    assert (receipt.provider_message_id, receipt.state) == ("SM00000000000000000000000000000003", state)


@pytest.mark.parametrize("field", ["MessageSid", "MessageStatus"])
def test_a_receipt_without_a_field_names_it(field: str) -> None:
    raw = "MessageSid=SM3&MessageStatus=sent".replace(field, "Other")

    with pytest.raises(WrongField) as wrong:
        parse_receipts(raw.encode())

    assert wrong.value.field == field


def test_the_answer_replies_nothing() -> None:
    messages, receipts = twilio.answer("messages"), twilio.answer("receipts")

    assert (messages.status, messages.media_type) == (200, "text/xml")
    assert messages.body.endswith(b"<Response/>")
    assert (receipts.status, receipts.body) == (204, b"")


def test_nothing_personal_is_in_what_is_printed() -> None:
    (message,) = parse_messages(body("twilio/mo.form"))
    printed: Any = [message, account(), callback(MO, "signature")]

    assert not any(word in repr(printed) for word in ("639980001", "STOP", "Arr", TOKEN))
