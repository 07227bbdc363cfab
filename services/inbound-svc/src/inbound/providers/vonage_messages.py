"""Vonage Messages API: JSON; a JWT in `Authorization`, HS256, whose `payload_hash` is that of the raw body.

developer.vonage.com/en/messages (inbound-message and message-status webhooks); claims: DOMAIN 3.2. Every callback is
signed. Only the `sms` channel is ours. Not documented: what becomes of concatenated parts (they come joined).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

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
    as_addressed,
    identifier,
    optional,
    required,
    text_key,
    text_of,
)

signing: Signing = "always"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities(keeps_blacklist=True, signs=True)
secret_key = text_key
kind_of = as_addressed

STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "submitted": "sent",
    "delivered": "delivered",
    "read": "delivered",
    "rejected": "failed",
    "undeliverable": "failed",
}


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    scheme, _, token = signatures.header(callback.headers, "authorization").partition(" ")
    if scheme.lower() != "bearer":
        raise NotGenuine("signature_missing")
    claims = signatures.hs256_claims(token.strip(), [secret_key(secret) for secret in account.secrets])
    signatures.is_hash_of(callback.body, signatures.claimed(claims, "payload_hash"))
    at = signatures.claimed_time(claims, "iat")
    signatures.within(at, now)
    return signatures.once(signatures.claimed(claims, "jti") or token, at)


def parse_messages(callback: Callback) -> Sequence[Message]:
    """One MO. Texts alone have `text`; a picture has none."""
    fields = _sms(callback)
    return [
        Message(
            provider_message_id=required(fields, "message_uuid"),
            sender=identifier(fields, "from", most=NUMBER_CHARS),
            short_code=identifier(fields, "to", most=NUMBER_CHARS),
            text=text_of(fields, "text") if required(fields, "message_type") == "text" else "",
            sent_at=bodies.zoned(fields, "timestamp"),
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    """One receipt. The code is at the end of the error's `type`, a URL, or is its `title`."""
    fields = _sms(callback)
    code = None
    if fields.get("error") is not None:
        error = bodies.object_at(fields, "error")
        code = (optional(error, "type", where="error.") or "").rpartition("#")[2] or optional(
            error, "title", where="error."
        )
    return [
        Receipt(
            provider_message_id=required(fields, "message_uuid"),
            reference=optional(fields, "client_ref"),
            state=STATES.get(required(fields, "status"), "unknown"),
            code=code,
            at=bodies.zoned(fields, "timestamp"),
        )
    ]


def answer(kind: Kind) -> Answer:
    return NO_CONTENT


def _sms(callback: Callback) -> Mapping[str, object]:
    fields = bodies.json_object(callback)
    if fields.get("channel", "sms") != "sms":
        raise WrongField("channel", "not_sms")
    return fields
