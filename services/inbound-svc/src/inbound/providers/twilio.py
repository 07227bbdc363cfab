"""Twilio Programmable Messaging: form bodies, `X-Twilio-Signature`, TwiML answers.

The signature is base64(HMAC-SHA1(auth token, URL + every name and value, sorted)). The signed URL comes from the
account's `public_url`, never from `Host`. Rules and vectors: twilio/twilio-python tests/unit/test_request_validator.py
(DOMAIN 3.2). Twilio signs no time: deduplication defeats a replay.

Twilio does not retry by itself: give the URL `#rc=5&rp=all`, and a fallback URL. All tries together take 15 s at most
(twilio.com/docs/usage/webhooks/webhooks-connection-overrides).
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies
from inbound.providers.provider import (
    FORM_BYTES,
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
    Unreadable,
    as_addressed,
    required,
    text_key,
    text_of,
)

signing: Signing = "always"
signs_url = True
max_body_bytes = FORM_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities(
    answers_stop=True,  # default opt-out replies
    keeps_blacklist=True,  # 21610
    signs=True,
    retries_for=timedelta(minutes=1),
)
secret_key = text_key
kind_of = as_addressed

STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "accepted": "queued",
    "scheduled": "queued",
    "queued": "queued",
    "sending": "queued",
    "sent": "sent",
    "delivered": "delivered",
    "read": "delivered",
    "undelivered": "failed",
    "failed": "failed",
    "canceled": "failed",
}
OPTED_OUT_CODES = ("21610", "63014")  # DOMAIN 4.3: unsubscribed recipient; blocked by the user (RCS)
BLOCKED_CODE = "30004"  # by the carrier or by an opt-out: twilio.com/docs/api/errors/30004
DEFAULT_PORTS = {"https": 443, "http": 80}
NO_REPLY = b'<?xml version="1.0" encoding="UTF-8"?><Response/>'


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    given = callback.headers.get("x-twilio-signature")
    if not given:
        raise NotGenuine("signature_missing")
    body_hash = parse_qs(callback.target.partition("?")[2]).get("bodySHA256")
    signed = callback.target + ("" if body_hash else _signed_fields(callback.body))
    expected = [
        _signature(secret, origin + signed).encode()
        for secret in account.secrets
        for origin in _port_variants((account.public_url or "").rstrip("/"))
    ]
    genuine = any(hmac.compare_digest(one, given.encode()) for one in expected)
    if body_hash:
        actual = hashlib.sha256(callback.body).hexdigest().encode()
        genuine &= hmac.compare_digest(actual, body_hash[0].lower().encode())
    if not genuine:
        raise NotGenuine("signature_wrong")
    return None


def _signed_fields(body: bytes) -> str:
    """Return every name and value, sorted; a repeated pair counts once.

    Raises NotGenuine for more fields than Twilio sends: the body is not authenticated yet.
    """
    try:
        pairs = bodies.pairs(body)
    except Unreadable as error:
        raise NotGenuine("signature_wrong") from error
    return "".join(name + value for name, value in sorted(set(pairs)))


def _signature(token: str, signed: str) -> str:
    mac = hmac.new(token.encode(), signed.encode("utf-8", "surrogateescape"), hashlib.sha1)
    return base64.b64encode(mac.digest()).decode()


def parse_messages(callback: Callback) -> Sequence[Message]:
    """Return one MO; an MMS has an empty `Body`, Advanced Opt-Out sets `OptOutType`."""
    fields = bodies.form(callback)
    return [
        Message(
            provider_message_id=required(fields, "MessageSid"),
            sender=required(fields, "From", most=NUMBER_CHARS),
            short_code=required(fields, "To", most=NUMBER_CHARS),
            text=text_of(fields, "Body"),
            sent_at=None,
            opted_out=fields.get("OptOutType") == "STOP",
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    """Return one DLR; `ErrorCode` is absent on success."""
    fields = bodies.form(callback)
    code = required(fields, "ErrorCode") if fields.get("ErrorCode") else None
    return [receipt_of(required(fields, "MessageSid"), required(fields, "MessageStatus"), code)]


def receipt_of(sid: str, status: str, code: str | None) -> Receipt:
    """Return the DLR of a callback or of the list."""
    return Receipt(
        provider_message_id=sid,
        reference=None,
        state="opted_out" if code in OPTED_OUT_CODES else STATES.get(status, "unknown"),
        code=code,
        at=None,
        blocked=code == BLOCKED_CODE,
    )


def answer(kind: Kind) -> Answer:
    """Return an empty TwiML document: consent-svc answers people, not Twilio."""
    return Answer(200, "text/xml", NO_REPLY) if kind == "messages" else NO_CONTENT


def _port_variants(url: str) -> list[str]:
    """Return our public URL as configured, and without its port or with the default port.

    Twilio signs either. The target is never parsed: a caller may send any bytes.
    """
    parts = urlsplit(url)
    if parts.port is not None:
        other = parts.netloc.removesuffix(f":{parts.port}")
    else:
        other = f"{parts.netloc}:{DEFAULT_PORTS[parts.scheme]}"
    return [url, url.replace(parts.netloc, other, 1)]
