"""Telnyx: JSON to one URL, `event_type` says what it is; Ed25519 over time and raw body; 2xx within 2 seconds.

`telnyx-signature-ed25519` is base64 of the signature of timestamp + "|" + body; the account's secret is the public key
of the portal, base64 (developers.telnyx.com; DOMAIN 3.2). Only `message.finalized` is terminal. Events that are not of
messages are genuine and nothing for us.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies, signatures
from inbound.providers.provider import (
    EMPTY,
    JSON_BYTES,
    NUMBER_CHARS,
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
    identifier,
    optional,
    required,
    text_of,
)

signing: Signing = "always"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = 2.0
capabilities = Capabilities(keeps_blacklist=True, signs=True)  # 40300: a block per messaging profile

RECEIVED, SENT, FINALIZED = "message.received", "message.sent", "message.finalized"
STATES: Mapping[str, ReceiptState] = {  # of message.finalized, DOMAIN 3.4
    "delivered": "delivered",
    "sending_failed": "failed",
    "delivery_failed": "failed",
}
OPTED_OUT_CODE = "40300"
MAX_RECIPIENTS = 100


def secret_key(secret: str) -> bytes:
    """The 32 bytes of the public key."""
    try:
        key = base64.b64decode(secret, validate=True)
        Ed25519PublicKey.from_public_bytes(key)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a secret of telnyx is its public key: base64 of 32 bytes") from error
    return key


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    given = signatures.header(callback.headers, "telnyx-signature-ed25519")
    stamp = signatures.header(callback.headers, "telnyx-timestamp")
    signed = stamp.encode() + b"|" + callback.body
    if not any(_signed_by(secret_key(secret), given, signed) for secret in account.secrets):
        raise NotGenuine("signature_wrong")
    at = signatures.unix_time(stamp)
    signatures.within(at, now)
    return signatures.once(f"{stamp}|{given}", at)


def kind_of(callback: Callback, kind: Kind) -> Kind:
    return "messages" if _data(callback).get("event_type") == RECEIVED else "receipts"


def parse_messages(callback: Callback) -> Sequence[Message]:
    data = _data(callback)
    if required(data, "event_type", where="data.") != RECEIVED:
        return []
    where = "data.payload."
    fields = bodies.object_at(data, "payload", where="data.")
    sender = bodies.object_at(fields, "from", where=where)
    (recipient, *_), to = _recipients(fields)
    return [
        Message(
            provider_message_id=required(fields, "id", where=where),
            sender=required(sender, "phone_number", where=f"{where}from.", most=NUMBER_CHARS),
            short_code=required(recipient, "phone_number", where=to, most=NUMBER_CHARS),
            text="" if fields.get("text", "") is None else text_of(fields, "text", where=where),  # null: an MMS
            sent_at=bodies.zoned(data, "occurred_at"),
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    data = _data(callback)
    event = required(data, "event_type", where="data.")
    if event not in (SENT, FINALIZED):
        return []
    where = "data.payload."
    fields = bodies.object_at(data, "payload", where="data.")
    (recipient, *_), to = _recipients(fields)
    status = required(recipient, "status", where=to)
    code = _code(fields)
    state = STATES.get(status, "unknown") if event == FINALIZED else "sent"
    return [
        Receipt(
            provider_message_id=required(fields, "id", where=where),
            reference=None,
            state="opted_out" if code == OPTED_OUT_CODE else state,
            code=code,
            at=bodies.zoned(data, "occurred_at"),
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY


def _data(callback: Callback) -> Mapping[str, object]:
    return bodies.object_at(bodies.json_object(callback), "data")


def _recipients(fields: Mapping[str, object]) -> tuple[list[Mapping[str, object]], str]:
    """(the recipients, path of the first). An SMS has one."""
    path = "data.payload.to"
    items = bodies.list_at(fields, "to", where="data.payload.", most=MAX_RECIPIENTS)
    return [bodies.an_object(item, f"{path}.{place}") for place, item in enumerate(items)], f"{path}.0."


def _code(fields: Mapping[str, object]) -> str | None:
    """Of the first error, if there is one."""
    errors = fields.get("errors")
    if not isinstance(errors, list) or not errors:
        return None
    path = "data.payload.errors.0"
    error = bodies.an_object(errors[0], path)
    return identifier(error, "code", where=f"{path}.") if optional(error, "code", where=f"{path}.") else None


def _signed_by(key: bytes, given: str, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(given, validate=True), signed)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
