"""Vonage SMS API: GET or POST, form or JSON; the signature is a parameter, `sig`.

The signature covers every other parameter, sorted, as "&name=value" with `&` and `=` in names and values as `_`: MD5 of
this text and the secret, or an HMAC with MD5, SHA-1, SHA-256 or SHA-512, in hexadecimal. The account has one of these
schemes: a callback that could choose would choose MD5. Give secrets only to a signed account
(developer.vonage.com/en/getting-started/concepts/signing-messages; DOMAIN 3.2).

Vonage calls a URL without any field to check it, and wants a success (nyaruka/courier handlers/nexmo/handler.go takes
such calls): there is nothing to authenticate, and nothing is kept.

A long MO comes in parts (`concat`), in any order. `message-timestamp` is UTC
(developer.vonage.com/messaging/sms/guides/inbound-sms). A binary MO is not documented: its text is empty.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies, signatures
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
    Part,
    Receipt,
    Signing,
    as_addressed,
    identifier,
    optional,
    required,
    text_key,
    text_of,
)

signing: Signing = "optional"
signs_url = False
max_body_bytes = FORM_BYTES
takes_get = True
answer_within_s = UNHURRIED_S
capabilities = Capabilities(keeps_blacklist=True)  # err-code 9: developer.vonage.com/en/opt-out-assist
secret_key = text_key
kind_of = as_addressed

SCHEMES = ("sha256", "sha512", "sha1", "md5", "md5hash")  # as set for the account; md5hash: no HMAC
STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "accepted": "sent",
    "buffered": "sent",
    "delivered": "delivered",
    "expired": "expired",
    "failed": "failed",
    "rejected": "failed",
}
OPTED_OUT_CODE = "9"  # of a DLR; in the answer to a submit "quota exceeded" (DOMAIN 4.4)
NO_ERROR = "0"
UNDERSCORED = str.maketrans("&=", "__")
MAX_PARTS = 255  # octet of the user data header


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    fields = _fields(callback)
    if not fields:
        return None  # of a check of the URL, as below
    given = fields.get("sig")
    if not isinstance(given, str) or not given:
        raise NotGenuine("signature_missing")
    signed = signatures.octets(canonical(fields))
    keys = [secret_key(secret) for secret in account.secrets]
    scheme = account.scheme or SCHEMES[0]
    signatures.matches([given.lower()], [_expected(scheme, key, signed) for key in keys])
    at = signatures.unix_time(_written(fields.get("timestamp", "")))
    signatures.within(at, now)
    return signatures.once(_written(fields.get("nonce", "")) or given.lower(), at)


def canonical(fields: Mapping[str, object]) -> str:
    """Return the signed text; names are escaped too, so that two fields cannot pass for one."""
    return "".join(
        f"&{name.translate(UNDERSCORED)}={_written(value).translate(UNDERSCORED)}"
        for name, value in sorted(fields.items())
        if name != "sig"
    )


def parse_messages(callback: Callback) -> Sequence[Message]:
    """Return one MO, or one part."""
    fields = _fields(callback)
    if not fields:
        return []
    return [
        Message(
            provider_message_id=identifier(fields, "messageId"),
            sender=identifier(fields, "msisdn", most=NUMBER_CHARS),
            short_code=identifier(fields, "to", most=NUMBER_CHARS),
            text="" if fields.get("type") == "binary" else text_of(fields, "text"),
            sent_at=bodies.utc(fields, "message-timestamp"),
            part=_part(fields),
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = _fields(callback)
    if not fields:
        return []
    return [
        receipt_of(
            identifier(fields, "messageId"),
            optional(fields, "client-ref"),
            required(fields, "status"),
            optional(fields, "err-code"),
            bodies.utc(fields, "message-timestamp"),
        )
    ]


def receipt_of(message_id: str, reference: str | None, status: str, code: str | None, at: datetime | None) -> Receipt:
    """Return the DLR of a callback or of the reports."""
    state = STATES.get(status, "unknown")
    return Receipt(
        provider_message_id=message_id,
        reference=reference,
        state="opted_out" if state == "failed" and code == OPTED_OUT_CODE else state,
        code=None if code == NO_ERROR else code,
        at=at,
    )


def answer(kind: Kind) -> Answer:
    return NO_CONTENT


def _fields(callback: Callback) -> Mapping[str, object]:
    if callback.method != "GET" and "json" in callback.headers.get("content-type", "").lower():
        return bodies.json_object(callback)
    return bodies.form_or_query(callback)


def _part(fields: Mapping[str, object]) -> Part | None:
    """Return the part, or None: implausible numbers make a text of its own."""
    if _written(fields.get("concat", "")).lower() != "true":
        return None
    reference, number, total = (
        _written(fields.get(name, "")) for name in ("concat-ref", "concat-part", "concat-total")
    )
    if not (reference.isprintable() and 0 < len(reference) <= NUMBER_CHARS and _small(number) and _small(total)):
        return None
    part = Part(reference, int(number), int(total))
    return part if 1 <= part.number <= part.total <= MAX_PARTS and part.total > 1 else None


def _small(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) <= 3


def _written(value: object) -> str:
    """Return a JSON value as the form would have it."""
    return value if isinstance(value, str) else json.dumps(value)


def _expected(scheme: str, key: bytes, signed: bytes) -> bytes:
    if scheme == "md5hash":
        return hashlib.md5(signed + key, usedforsecurity=False).hexdigest().encode()  # chosen by Vonage
    return hmac.new(key, signed, scheme).hexdigest().encode()
