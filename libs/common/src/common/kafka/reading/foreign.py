"""Records on topics that operators write (CloudEvents 1.0.2, Kafka binding §3 and JSON format §3). No I/O.

    binary       the header `ce_type`, the event in the value
    structured   the header `content-type: application/cloudevents+json`, or neither header and a value with
                 `specversion`: the event is its `data`, or `data_base64`
    bare         neither header: the value is an event of the topic's one type, if it fits the type's schema

A batch of CloudEvents and formats other than JSON are refused. SDKs and bridges write header names in any case, with
`-` for `_`, and header values in quotes, with a NUL at the end, or in UTF-16: all are read.
"""

import base64
import binascii
import json
from collections.abc import Sequence

import msgspec

from common.contracts import Event, Topic
from common.kafka import broker as kafka
from common.kafka.broker import Undecodable

ForeignHeaders = Sequence[tuple[str, bytes | None]]

CLOUD_EVENTS = "application/cloudevents"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
FRAME_BYTES = 5  # a zero and the schema's id
_AROUND = " \t\r\n\"'"


class _Envelope(msgspec.Struct):
    specversion: str
    type: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: str | None = None
    datacontentencoding: str | None = None  # of CloudEvents 0.3


_envelope = msgspec.json.Decoder(_Envelope)


def decode(topic: Topic, value: bytes | None, headers: ForeignHeaders) -> Event:
    """Return the event of the topic's one type. Raises Undecodable, with a reason that repeats no value."""
    [kind] = topic.events
    said, content = _content(_utf8(value) if value else value, headers)
    if said not in (None, kind.type):
        raise Undecodable(f"another event type: this topic takes {kind.type}, or no type")
    event = kafka.decode_as(kind.type.encode(), content)
    assert event is not None, "each type of the topic table has a decoder"
    return event


def _utf8(value: bytes) -> bytes:
    if value.startswith(b"\0") and value[FRAME_BYTES:].startswith(b"{"):
        raise Undecodable("a value framed for a schema registry: write the JSON alone")
    if not json.detect_encoding(value).startswith("utf-8"):
        raise Undecodable("JSON in another encoding: write UTF-8")
    return value.removeprefix(BYTE_ORDER_MARK)


def _content(value: bytes | None, headers: ForeignHeaders) -> tuple[str | None, bytes | None]:
    """Return the type, `None` without one, and the event's JSON."""
    types, media_type = set[str](), ""
    for name, raw in headers:
        match name.strip().lower().replace("-", "_"):
            case "ce_type":
                types |= {_text(raw)} - {""}
            case "content_type":
                media_type = media_type or _text(raw).partition(";")[0].strip().lower()
    if media_type.startswith(CLOUD_EVENTS):
        if media_type not in (CLOUD_EVENTS, f"{CLOUD_EVENTS}+json"):
            batch = media_type.startswith(f"{CLOUD_EVENTS}-batch")
            raise Undecodable(
                "a batch of CloudEvents: write each event as a record of its own"
                if batch
                else f"CloudEvents in another format than JSON: write {CLOUD_EVENTS}+json"
            )
        return _structured(_enveloped(value))
    if len(types) > 1:
        raise Undecodable("several headers ce_type that differ: set one")
    if not types and value and b'"specversion"' in value:
        try:
            return _structured(_enveloped(value))
        except Undecodable:
            return None, value  # the word in a text, perhaps
    return (types.pop() if types else None), value


def _text(raw: bytes | None) -> str:
    """Return a header's value without what surrounds it, "" for none."""
    return (raw or b"").decode(errors="replace").replace("\0", "").strip(_AROUND)


def _enveloped(value: bytes | None) -> _Envelope:
    try:
        return _envelope.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Undecodable("a CloudEvent in structured mode is a JSON object with `specversion`") from None


def _structured(envelope: _Envelope) -> tuple[str | None, bytes]:
    data = bytes(envelope.data)
    if envelope.data_base64 is not None:
        return envelope.type, _unpacked(envelope.data_base64)
    if not data.startswith(b'"'):
        return envelope.type, data
    try:
        inner = msgspec.json.decode(data, type=str)  # an SDK that was given the event as text
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Undecodable("the data of a CloudEvent is no JSON") from None
    packed = (envelope.datacontentencoding or "").lower() == "base64"
    return envelope.type, _unpacked(inner) if packed else inner.encode(errors="replace")


def _unpacked(packed: str) -> bytes:
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise Undecodable("the data of a CloudEvent is no base64") from None
