"""Records that operators write, as real SDKs and bridges write them: read, or refused with a reason without a value."""

import base64
import json
from typing import Any

import msgspec
import pytest
from aiokafka import ConsumerRecord
from cloudevents.core.bindings import kafka as sdk
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as FormerEvent
from cloudevents.v1.kafka import to_binary as former_binary
from cloudevents.v1.kafka import to_structured as former_structured

from common.contracts import Event, operator_topics
from common.contracts.operator import MessageDelivered, ReceiptDelivered
from common.kafka import broker as kafka
from common.kafka.broker import Undecodable
from common.kafka.reading.foreign import ForeignHeaders, decode
from common.kafka.reading.records import received_as, type_of
from tests.support.builders import number, sender_changed, subject_keys

MESSAGES, RECEIPTS = operator_topics("orange")
MO = {"message_id": "or-1", "sender": number(1), "recipient": "36111", "text": "Arrêtez"}
PLAIN = json.dumps(MO, ensure_ascii=False).encode()
TYPE = MessageDelivered.type
ATTRIBUTES = {"id": "1", "source": "/orange", "type": TYPE, "specversion": "1.0"}
JSON = {"datacontenttype": "application/json"}
STRUCTURED = [("content-type", b"application/cloudevents+json")]
READ = msgspec.convert(MO, MessageDelivered)

Record = tuple[bytes | None, ForeignHeaders]


def headers(**said: str) -> ForeignHeaders:
    return [(name, value.encode()) for name, value in said.items()]


def envelope(**more: Any) -> bytes:
    return json.dumps(ATTRIBUTES | more).encode()


def written(message: Any) -> Record:
    return message.value, list(message.headers.items())


SDKS: dict[str, Record] = {
    "binary": written(sdk.to_binary_event(CloudEvent({**ATTRIBUTES, **JSON}, MO))),
    "structured": written(sdk.to_structured_event(CloudEvent({**ATTRIBUTES, **JSON}, MO))),
    "structured, the event as bytes": written(sdk.to_structured_event(CloudEvent({**ATTRIBUTES}, PLAIN))),
    "structured, the event as text": written(sdk.to_structured_event(CloudEvent({**ATTRIBUTES}, PLAIN.decode()))),
    "binary of the SDK before": written(
        former_binary(FormerEvent({**ATTRIBUTES, **JSON}, MO), data_marshaller=json.dumps)
    ),
    # the content type is that of the data here, or none
    "structured of the SDK before": written(former_structured(FormerEvent({**ATTRIBUTES, **JSON}, MO))),
    "structured of the SDK before, without a content type": written(former_structured(FormerEvent({**ATTRIBUTES}, MO))),
}
BY_HAND: dict[str, Record] = {
    "no header at all": (PLAIN, []),
    "a byte order mark": (b"\xef\xbb\xbf" + PLAIN, []),
    "names in another case": (PLAIN, headers(CE_Type=TYPE, CE_ID="1")),
    "names as in HTTP": (PLAIN, [("Ce-Type", TYPE.encode()), ("Content-Type", b"application/json; charset=utf-8")]),
    "a value in quotes": (PLAIN, headers(ce_type=f'"{TYPE}"')),
    "a value with its NUL": (PLAIN, headers(ce_type=f"{TYPE}\0")),
    "a value in UTF-16": (PLAIN, [("ce_type", TYPE.encode("utf-16-le"))]),
    "no value": (PLAIN, [("ce_type", None), ("content-type", None)]),
    "twice the same": (PLAIN, [("ce_type", TYPE.encode()), ("CE_TYPE", TYPE.encode())]),
    "structured, a charset": (envelope(data=MO), [("content-type", b"Application/CloudEvents+JSON; charset=UTF-8")]),
    "structured, other headers of no account": (envelope(data=MO), [*STRUCTURED, ("ce_type", b"com.example.other")]),
    "structured, without a type": (json.dumps({"specversion": "1.0", "data": MO}).encode(), STRUCTURED),
    "structured of 0.3": (
        envelope(specversion="0.3", datacontentencoding="base64", data=base64.b64encode(PLAIN).decode()),
        STRUCTURED,
    ),
    "the word specversion in a field": (json.dumps({**MO, "specversion": "1.0"}).encode(), headers(ce_type=TYPE)),
}


@pytest.mark.parametrize(("value", "said"), (SDKS | BY_HAND).values(), ids=(SDKS | BY_HAND).keys())
def test_an_event_is_read_however_it_is_written(value: bytes | None, said: ForeignHeaders) -> None:
    assert decode(MESSAGES, value, said) == READ


def test_a_text_that_speaks_of_specversion_is_a_text() -> None:
    value = json.dumps({**MO, "text": 'STOP "specversion"'}).encode()
    assert decode(MESSAGES, value, []) == msgspec.structs.replace(READ, text='STOP "specversion"')


BATCH = b"[" + envelope(data=MO) + b"]"
DEEP = b'{"more":' + b"[" * 100_000
REFUSED: dict[str, tuple[bytes | None, ForeignHeaders, str]] = {
    "a batch": (BATCH, headers(CONTENT_TYPE="application/cloudevents-batch+json"), "record of its own"),
    "a batch without a header": (BATCH, [], "array"),
    "another format": (PLAIN, [("content-type", b"application/cloudevents+avro")], "another format than JSON"),
    "another type": (PLAIN, headers(ce_type="com.example.sms.received"), f"takes {TYPE}"),
    "another type in the envelope": (envelope(type="com.example.sms", data=MO), STRUCTURED, f"takes {TYPE}"),
    "a type of ours": (PLAIN, headers(ce_type=ReceiptDelivered.type), f"takes {TYPE}"),
    "a watermark": (PLAIN, headers(ce_type="placet.watermark_published.v1"), f"takes {TYPE}"),
    "two types": (PLAIN, [("ce_type", TYPE.encode()), ("CE_TYPE", b"x.v1")], "differ"),
    "no value": (None, headers(ce_type=TYPE), "truncated"),
    "no envelope": (PLAIN, STRUCTURED, "specversion"),
    "an envelope without data": (envelope(), STRUCTURED, "null"),
    "no base64": (envelope(data_base64="%"), STRUCTURED, "base64"),
    "another field": (json.dumps({"from": number(1), "text": "STOP"}).encode(), [], "required field"),
    "a number as a number": (json.dumps({**MO, "sender": 33639980001}).encode(), [], "Expected `str`"),
    "a NUL in a text": (json.dumps({**MO, "text": "STOP\0"}).encode(), [], "NUL"),
    "another encoding": (json.dumps(MO).encode("utf-16"), [], "UTF-8"),
    "another encoding in text": (json.dumps(MO, ensure_ascii=False).encode("latin-1"), [], "UTF-8"),
    "a frame": (b"\0\0\0\0\x07" + PLAIN, headers(ce_type=TYPE), "schema registry"),
    "too deep": (DEEP, [], "levels"),
    "too deep, structured": (DEEP, STRUCTURED, "specversion"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "said", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_event_of_the_topic_is_refused_with_a_reason_and_without_its_values(
    value: bytes | None, said: ForeignHeaders, why: str
) -> None:
    with pytest.raises(Undecodable, match=why) as refused:
        decode(MESSAGES, value, said)
    assert not any(secret in str(refused.value) for secret in ("39980001", "STOP", "com.example", "x.v1"))
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("timestamp", [-(2**63), -1, 2**63 - 1])
def test_a_record_with_a_time_of_no_calendar_is_received(timestamp: int) -> None:
    record = ConsumerRecord("t", 0, 7, timestamp, 0, None, PLAIN, None, -1, len(PLAIN), (("traceparent", None),))
    received = received_as(record, READ, subject_keys, 1, MESSAGES)
    assert (received.event, received.traceparent) == (READ, None)
    assert received.published_at.year in (1969, 1970)
    assert type_of(record) is None


@pytest.mark.parametrize("event", [READ, sender_changed()], ids=["an operator's", "a sender's"])
def test_a_key_that_looks_like_a_persons_and_names_none_is_left_as_it_is(event: Event) -> None:
    """Else whoever chooses it stops all that follows in the partition."""
    key = f"mo-{'0f' * 16}"
    record = ConsumerRecord("t", 0, 7, 0, 0, key.encode(), PLAIN, None, -1, len(PLAIN), ())
    assert received_as(record, event, subject_keys, 1, MESSAGES).key == key


def test_a_receipt_is_read_likewise() -> None:
    receipt = ReceiptDelivered(message_id="or-9", state="delivered", reference="ours")
    assert decode(RECEIPTS, kafka.encode(receipt), []) == receipt
    with pytest.raises(Undecodable):
        decode(RECEIPTS, PLAIN, [])
