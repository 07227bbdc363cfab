"""Vonage Messages API: JSON; an HS256 JWT in `Authorization`, whose `payload_hash` covers the raw body.

developer.vonage.com/en/messages (inbound-message and message-status webhooks); claims: DOMAIN 3.2. Only the `sms`
channel is supported. Concatenated parts arrive joined, which is not documented.

1240, "illegal number", is of a person who "has already sent a STOP"; 1050, "number barred", does not tell who barred
(Nexmo/nexmo-oas-renderer _open_api/errors/messages-olympus.md).
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
OPTED_OUT_CODE, BARRED_CODE = "1240", "1050"


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
    """Return one MO; a picture has an empty text."""
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
    fields = _sms(callback)
    code = _code(fields)
    state = STATES.get(required(fields, "status"), "unknown")
    return [
        Receipt(
            provider_message_id=required(fields, "message_uuid"),
            reference=optional(fields, "client_ref"),
            state="opted_out" if state == "failed" and code == OPTED_OUT_CODE else state,
            code=code,
            at=bodies.zoned(fields, "timestamp"),
            blocked=state == "failed" and code == BARRED_CODE,
        )
    ]


def answer(kind: Kind) -> Answer:
    return NO_CONTENT


def _code(fields: Mapping[str, object]) -> str | None:
    """Return the number in the error's `type` URL or `title`, else the first present.

    The error may be nested in another `error`.
    """
    if fields.get("error") is None:
        return None
    error = bodies.object_at(fields, "error")
    inner = error.get("error")
    error = inner if isinstance(inner, dict) else error
    link, title = optional(error, "type", where="error."), optional(error, "title", where="error.")
    said = [one for one in ((link or "").rpartition("#")[2], title) if one]
    return next((one for one in said if one.isdecimal()), said[0] if said else None)


def _sms(callback: Callback) -> Mapping[str, object]:
    fields = bodies.json_object(callback)
    if fields.get("channel", "sms") != "sms":
        raise WrongField("channel", "not_sms")
    return fields
