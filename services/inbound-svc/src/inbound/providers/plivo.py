"""Plivo: form bodies; HMAC-SHA256 with a nonce, V3 over the URL and the form, V2 over the URL alone.

V3 (`X-Plivo-Signature-V3`, or `-MA-V3` of the main account; several, by commas; `-V3-Nonce`):
    base64(HMAC-SHA256(token, url + "?" + [sorted query + "."] + sorted names and values + "." + nonce))
V2 (`X-Plivo-Signature-V2`, or `-MA-V2`; `-V2-Nonce`): base64(HMAC-SHA256(token, url without query + nonce)).
plivo/plivo-python plivo/utils/signature_v3.py and plivo/utils; vectors: DOMAIN 3.2. No time is signed, and V2 does not
cover the body. So a nonce is remembered for the longest retry period, V2 counts for an account that says `v2` alone,
and V3 counts where both are present.

A DLR has four times, without a zone, and `ParentMessageUUID`, reserved for future use and the same as `MessageUUID`
(docs.plivo.com/docs/messaging/api/message/message-status-callbacks): all are left out.

`ErrorCode` 200 is an opt-out. Plivo retries for some eight minutes (support.plivo.com 360041344652), or for 24 h
(360041749951): the longer counts. An MMS has its text in `Body`
(docs.plivo.com/docs/messaging/api/message/handling-incoming).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies, signatures
from inbound.providers.provider import (
    EMPTY,
    FORM_BYTES,
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
    as_addressed,
    optional,
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
    keeps_blacklist=True,  # 200: the recipient has opted out
    signs=True,
    retries_for=timedelta(hours=24),
)
secret_key = text_key
kind_of = as_addressed

STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "queued": "queued",
    "sent": "sent",
    "delivered": "delivered",
    "undelivered": "failed",
    "rejected": "failed",
    "failed": "failed",
}
OPTED_OUT_CODE = "200"
NO_ERRORS = ("000", "0")
SCHEMES = ("v3", "v2")
V3, V3_MAIN = "x-plivo-signature-v3", "x-plivo-signature-ma-v3"
V2, V2_MAIN = "x-plivo-signature-v2", "x-plivo-signature-ma-v2"

Pairs = Iterable[tuple[str, str]]


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    headers = callback.headers
    url = (account.public_url or "").rstrip("/") + callback.target
    keys = [secret_key(secret) for secret in account.secrets]
    if V3 in headers or V3_MAIN in headers:
        nonce = signatures.header(headers, f"{V3}-nonce")
        given = _given(headers, V3, V3_MAIN)
        signed = signed_v3(url, bodies.pairs(callback.body), nonce)
    elif account.scheme == "v2" and (V2 in headers or V2_MAIN in headers):
        nonce = signatures.header(headers, f"{V2}-nonce")
        given = _given(headers, V2, V2_MAIN)
        signed = url.partition("?")[0] + nonce
    else:
        raise NotGenuine("signature_missing")
    signatures.matches(given, [signatures.hmac_base64(key, signatures.octets(signed)) for key in keys])
    return signatures.once(nonce, now + signatures.REMEMBERED)


def _given(headers: Mapping[str, str], *names: str) -> list[str]:
    return [one.strip() for name in names for one in headers.get(name, "").split(",")]


def signed_v3(url: str, form: Pairs, nonce: str) -> str:
    """Return the text V3 signs; a repeated name gives its values sorted."""
    base, _, query = url.partition("?")
    asked = "&".join(f"{name}={value}" for name, value in sorted(bodies.pairs(query.encode("latin-1", "replace"))))
    posted = "".join(name + value for name, value in sorted(form))
    if asked or posted:
        base += "?" + asked
    if asked and posted:
        base += "."
    return f"{base}{posted}.{nonce}"


def parse_messages(callback: Callback) -> Sequence[Message]:
    fields = bodies.form(callback)
    is_mms = fields.get("Type") == "mms"
    return [
        Message(
            provider_message_id=required(fields, "MessageUUID"),
            sender=required(fields, "From", most=NUMBER_CHARS),
            short_code=required(fields, "To", most=NUMBER_CHARS),
            text=text_of({"Body": "", **fields}, "Body" if is_mms and "Text" not in fields else "Text"),
            sent_at=None,
            opted_out=fields.get("MessageIntent") == "optout",
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = bodies.form(callback)
    code = optional(fields, "ErrorCode")
    return [receipt_of(required(fields, "MessageUUID"), required(fields, "Status"), code, None)]


def receipt_of(uuid: str, status: str, code: str | None, at: datetime | None) -> Receipt:
    """Return the DLR of a callback or of the records."""
    return Receipt(
        provider_message_id=uuid,
        reference=None,
        state="opted_out" if code == OPTED_OUT_CODE else STATES.get(status, "unknown"),
        code=None if code in NO_ERRORS else code,
        at=at,
    )


def answer(kind: Kind) -> Answer:
    return EMPTY
