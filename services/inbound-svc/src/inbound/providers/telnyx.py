"""Telnyx: JSON to one URL, `event_type` tells the kind; Ed25519 over time and raw body; 2xx within 2 seconds.

`telnyx-signature-ed25519` is over timestamp + "|" + body; the secret is the public key of the portal, base64
(developers.telnyx.com; DOMAIN 3.2). Only `message.finalized` is terminal.

`autoresponse_type` is "STOP" where Telnyx took an MO for an opt-out. 40300 is "Blocked due to STOP message", but also
seen for a sender without a messaging profile. Title or detail tells the two apart; without either a 40300 blocks
(docs/messaging/messages/advanced-opt-in-out).
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
    optional,
    required,
    text_of,
)

signing: Signing = "always"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = 2.0
capabilities = Capabilities(keeps_blacklist=True, signs=True)  # 40300: per messaging profile

RECEIVED, SENT, FINALIZED = "message.received", "message.sent", "message.finalized"
STATES: Mapping[str, ReceiptState] = {  # of message.finalized, DOMAIN 3.4
    "delivered": "delivered",
    "sending_failed": "failed",
    "delivery_failed": "failed",
}
BLOCKED_CODE = "40300"
OF_A_STOP = ("stop message", "block rule")  # in the error's title or detail
MAX_RECIPIENTS = 100


def secret_key(secret: str) -> bytes:
    """Return the 32 bytes of the public key."""
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
    return messages_of(_data(callback))


def messages_of(data: Mapping[str, object]) -> Sequence[Message]:
    """Return the MO of an event, if any."""
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
            opted_out=fields.get("autoresponse_type") == "STOP",
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    return receipts_of(_data(callback))


def receipts_of(data: Mapping[str, object]) -> Sequence[Receipt]:
    """Return the DLR of an event, if any."""
    event = required(data, "event_type", where="data.")
    if event not in (SENT, FINALIZED):
        return []
    where = "data.payload."
    fields = bodies.object_at(data, "payload", where="data.")
    (recipient, *_), to = _recipients(fields)
    status = required(recipient, "status", where=to)
    errors = _errors(fields)
    said = [text for code, text in errors if code == BLOCKED_CODE]
    opted_out = any(words in text for text in said for words in OF_A_STOP)
    code = BLOCKED_CODE if opted_out else errors[0][0] if errors else None
    state = STATES.get(status, "unknown") if event == FINALIZED else "sent"
    return [
        Receipt(
            provider_message_id=required(fields, "id", where=where),
            reference=None,
            state="opted_out" if opted_out else state,
            code=code,
            at=bodies.zoned(data, "occurred_at"),
            blocked=not opted_out and "" in said,
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY


def _data(callback: Callback) -> Mapping[str, object]:
    return bodies.object_at(bodies.json_object(callback), "data")


def _recipients(fields: Mapping[str, object]) -> tuple[list[Mapping[str, object]], str]:
    """Return the recipients (an SMS has one), and the path of the first."""
    path = "data.payload.to"
    items = bodies.list_at(fields, "to", where="data.payload.", most=MAX_RECIPIENTS)
    return [bodies.an_object(item, f"{path}.{place}") for place, item in enumerate(items)], f"{path}.0."


def _errors(fields: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return code, and title with detail in small letters, of each error."""
    listed = fields.get("errors")
    found = []
    for place, item in enumerate(listed if isinstance(listed, list) else ()):
        path = f"data.payload.errors.{place}"
        error = bodies.an_object(item, path)
        code = optional(error, "code", where=f"{path}.")
        if code:
            said = [error.get(name) for name in ("title", "detail")]
            found.append((code, " ".join(text for text in said if isinstance(text, str)).strip().lower()))
    return found


def _signed_by(key: bytes, given: str, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(given, validate=True), signed)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
