"""Sinch SMS (XMS): JSON; HMAC-SHA256 over body, nonce and time.

Signature: base64(HMAC-SHA256(secret, body + "." + nonce + "." + timestamp)); for SMS the account manager activates the
signature, or basic authentication (developers.sinch.com/docs/sms; DOMAIN 3.2).

A batch id names a submit: batch and recipient identify a DLR. `Deleted` is "invalid number or opted out": a failure
which blocks. Reports of a whole batch (`delivery_report_sms`) name no recipient, and are ignored: ask for
`per_recipient`. A binary MO has no text; an MMS (`mo_media`) has subject and message. Sinch does not retry after a 4xx,
except 429.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies, signatures
from inbound.providers.provider import (
    EMPTY,
    JSON_BYTES,
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
    identifier,
    optional,
    required,
    text_key,
    text_of,
)

signing: Signing = "optional"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities(keeps_blacklist=True)
secret_key = text_key

ALGORITHM = "hmacsha256"
TEXT, BINARY, MEDIA = "mo_text", "mo_binary", "mo_media"
RECIPIENT_REPORTS = ("recipient_delivery_report_sms", "recipient_delivery_report_mms")
BATCH_REPORTS = ("delivery_report_sms", "delivery_report_mms")
STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "Queued": "queued",
    "Dispatched": "sent",
    "Delivered": "delivered",
    "Aborted": "failed",
    "Rejected": "failed",
    "Failed": "failed",
    "Cancelled": "failed",
    "Deleted": "failed",
    "Expired": "expired",
}
BLOCKED = "Deleted"


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    given = signatures.header(callback.headers, "x-sinch-webhook-signature")
    nonce = signatures.header(callback.headers, "x-sinch-webhook-signature-nonce")
    stamp = signatures.header(callback.headers, "x-sinch-webhook-signature-timestamp")
    named = callback.headers.get("x-sinch-webhook-signature-algorithm", ALGORITHM)
    if named.lower() != ALGORITHM:
        raise NotGenuine("algorithm_not_known")
    keys = [secret_key(secret) for secret in account.secrets]
    signatures.matches([given], [signature(key, callback.body, nonce, stamp) for key in keys])
    at = signatures.unix_time(stamp)
    signatures.within(at, now)
    return signatures.once(nonce, at)


def signature(key: bytes, body: bytes, nonce: str, stamp: str) -> bytes:
    return signatures.hmac_base64(key, body + f".{nonce}.{stamp}".encode())


def kind_of(callback: Callback, kind: Kind) -> Kind:
    return "messages" if bodies.json_object(callback).get("type") in (TEXT, BINARY, MEDIA) else "receipts"


def parse_messages(callback: Callback) -> Sequence[Message]:
    return [message_of(bodies.json_object(callback))]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = bodies.json_object(callback)
    return [] if required(fields, "type") in BATCH_REPORTS else [receipt_of(fields)]


def message_of(fields: Mapping[str, object]) -> Message:
    """Return an MO of a callback or of the list."""
    kind = required(fields, "type")
    if kind not in (TEXT, BINARY, MEDIA):
        raise WrongField("type", "not_known")
    return Message(
        provider_message_id=required(fields, "id"),
        sender=identifier(fields, "from", most=NUMBER_CHARS),
        short_code=identifier(fields, "to", most=NUMBER_CHARS),
        text=_text(fields, kind),
        sent_at=bodies.zoned(fields, "sent_at") or bodies.zoned(fields, "received_at"),
    )


def receipt_of(fields: Mapping[str, object]) -> Receipt:
    """Return the DLR of one recipient, of a callback or of the list."""
    if required(fields, "type") not in RECIPIENT_REPORTS:
        raise WrongField("type", "not_known")
    status = required(fields, "status")
    return Receipt(
        provider_message_id=required(fields, "batch_id"),
        reference=None,  # `client_reference` names the batch
        state=STATES.get(status, "unknown"),
        code=status if status == BLOCKED else optional(fields, "code"),
        at=bodies.zoned(fields, "operator_status_at") or bodies.zoned(fields, "at"),
        recipient=identifier(fields, "recipient", most=NUMBER_CHARS),
        blocked=status == BLOCKED,
    )


def answer(kind: Kind) -> Answer:
    return EMPTY


def _text(fields: Mapping[str, object], kind: str) -> str:
    if kind != MEDIA:
        return text_of(fields, "body") if kind == TEXT else ""
    said = fields.get("body")
    if not isinstance(said, dict):  # Sinch does not retry after a 4xx, and the MO may be a STOP
        return said if isinstance(said, str) else ""
    return "\n".join(text_of(said, name, where="body.") for name in ("subject", "message") if said.get(name))
