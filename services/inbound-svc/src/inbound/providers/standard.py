"""Any operator without a format of its own: our JSON, signed after Standard Webhooks.

    webhook-id: <the event, the same at each attempt>
    webhook-timestamp: <unix seconds of this attempt>
    webhook-signature: v1,<base64 hmac_sha256(key, id + "." + timestamp + "." + raw body)>[ v1,...]

The secret is "whsec_" and the key in base64 (standard-webhooks/standard-webhooks spec/standard-webhooks.md). A single
URL takes both kinds:

    {"type": "message.received", "data": {"id", "from", "to", "text", "sent_at"}}
    {"type": "message.receipt", "data": {"id", "reference", "status", "code", "at"}}

Times have an offset. `to`, `sent_at`, `reference`, `code` and `at` may be null or missing.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies, signatures
from inbound.providers.provider import (
    JSON_BYTES,
    NO_CONTENT,
    NUMBER_CHARS,
    UNHURRIED_S,
    Account,
    Answer,
    Callback,
    Capabilities,
    Kind,
    Message,
    NotGenuine,
    Once,
    Receipt,
    Signing,
    WrongField,
    optional,
    required,
    text_of,
)

signing: Signing = "always"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities(signs=True)

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)  # by the specification
RECEIVED, RECEIPT = "message.received", "message.receipt"
STATES: Mapping[str, ReceiptState] = {state: state for state in get_args(ReceiptState)}


class _Kind(msgspec.Struct, frozen=True, gc=False):
    type: str


class _Data(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, rename={"sender": "from"}):
    id: bodies.Name
    sender: bodies.Number
    text: str
    to: bodies.Number | None = None
    sent_at: str | None = None


class _Mo(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    type: Literal["message.received"]
    data: _Data


_kind, _mo = msgspec.json.Decoder(_Kind), msgspec.json.Decoder(_Mo)


def secret_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'a secret of standard is "{PREFIX}" and base64') from error
    if len(key) not in KEY_BYTES:
        raise ValueError("a secret of standard has 24 to 64 bytes")
    return key


_key = lru_cache(maxsize=signatures.KEYS_REMEMBERED)(secret_key)


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    event = signatures.header(callback.headers, "webhook-id")
    stamp = signatures.header(callback.headers, "webhook-timestamp")
    listed = signatures.header(callback.headers, "webhook-signature").split(" ")
    given = [one.removeprefix("v1,") for one in listed if one.startswith("v1,")]
    if not given:
        raise NotGenuine("signature_missing")
    signed = signatures.octets(f"{event}.{stamp}.") + callback.body
    signatures.matches(given, [signatures.hmac_base64(_key(secret), signed) for secret in account.secrets])
    signatures.within(signatures.unix_time(stamp), now)
    # the id, not the attempt: a retry has another time
    return signatures.once(event, now + signatures.REMEMBERED)


def kind_of(callback: Callback, kind: Kind) -> Kind:
    try:
        told = _kind.decode(callback.body).type  # the rest is read with the items
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "messages" if bodies.json_object(callback).get("type") == RECEIVED else "receipts"
    return "messages" if told == RECEIVED else "receipts"


def parse_messages(callback: Callback) -> Sequence[Message]:
    return usual_messages(callback.body) or any_messages(callback)


def usual_messages(body: bytes) -> Sequence[Message]:
    """Return the MO of a body in which nothing is wrong, in a third of the time; else none: see `any_messages`."""
    try:
        told = _mo.decode(body).data
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()
    if not bodies.are_names(f"{told.id}{told.sender}{told.to}"):
        return ()
    return [Message(told.id, told.sender, told.to or "", told.text, bodies.zoned({"": told.sent_at}, ""))]


def any_messages(callback: Callback) -> Sequence[Message]:
    """Return the MO of any body. Raises Unreadable, WrongField."""
    fields = _data(callback, RECEIVED)
    return [
        Message(
            provider_message_id=required(fields, "id", where="data."),
            sender=required(fields, "from", where="data.", most=NUMBER_CHARS),
            short_code=optional(fields, "to", where="data.", most=NUMBER_CHARS) or "",
            text=text_of(fields, "text", where="data."),
            sent_at=bodies.zoned(fields, "sent_at"),
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = _data(callback, RECEIPT)
    status = required(fields, "status", where="data.")
    if status not in STATES:
        raise WrongField("data.status", "not_a_status")
    return [
        Receipt(
            provider_message_id=required(fields, "id", where="data."),
            reference=optional(fields, "reference", where="data."),
            state=STATES[status],
            code=optional(fields, "code", where="data."),
            at=bodies.zoned(fields, "at"),
        )
    ]


def answer(kind: Kind) -> Answer:
    return NO_CONTENT


def _data(callback: Callback, kind: str) -> Mapping[str, object]:
    body = bodies.json_object(callback)
    if required(body, "type") != kind:
        raise WrongField("type", "not_known")
    return bodies.object_at(body, "data")
