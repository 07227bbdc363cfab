"""MessageBird (rest.messagebird.com): MOs by POST form, DLRs by GET; a JWT in `MessageBird-Signature-JWT`.

The token is HS256 with `url_hash` and `payload_hash` (SHA-256, hexadecimal; no payload hash without a body), `nbf` and
`jti` (DOMAIN 3.2). Field names: nyaruka/courier handlers/messagebird/handler_test.go; long and short codes differ, and
a name may come twice. A DLR has the id of the submit: id and recipient identify the DLR.

Not supported, because the pages contradict each other on the signed content: the older `MessageBird-Signature`, and
bird.com (`BIRD_GAP`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies, signatures
from inbound.providers.provider import (
    FORM_BYTES,
    NUMBER_CHARS,
    OK,
    UNHURRIED_S,
    Account,
    Answer,
    Callback,
    Capabilities,
    Kind,
    Message,
    Once,
    Receipt,
    Signing,
    WrongField,
    as_addressed,
    optional,
    required,
    text_key,
)

signing: Signing = "always"
signs_url = True
max_body_bytes = FORM_BYTES
takes_get = True
answer_within_s = UNHURRIED_S
capabilities = Capabilities(keeps_blacklist=True, signs=True)  # 103
secret_key = text_key
kind_of = as_addressed

BIRD_GAP = (
    "bird.com's pages differ on what `messagebird-signature` is made over, and no payload is published:"
    " capture a callback of a real account first (DOMAIN 3.2)"
)
STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "scheduled": "queued",
    "sent": "sent",
    "buffered": "sent",
    "delivered": "delivered",
    "expired": "expired",
    "delivery_failed": "failed",
}
OPTED_OUT_CODE = "103"


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    token = signatures.header(callback.headers, "messagebird-signature-jwt")
    claims = signatures.hs256_claims(token, [secret_key(secret) for secret in account.secrets])
    url = (account.public_url or "").rstrip("/") + callback.target
    signatures.is_hash_of(url.encode("latin-1", "replace"), signatures.claimed(claims, "url_hash"))
    if callback.body or "payload_hash" in claims:
        signatures.is_hash_of(callback.body, signatures.claimed(claims, "payload_hash"))
    at = signatures.claimed_time(claims, "nbf")
    signatures.within(at, now)
    return signatures.once(signatures.claimed(claims, "jti") or token, at)


def parse_messages(callback: Callback) -> Sequence[Message]:
    """Return one MO; two different texts are joined: either may be the STOP."""
    bodies.form(callback)
    named: dict[str, list[str]] = {}
    for name, value in bodies.pairs(callback.body):
        named.setdefault(name, []).append(value)
    last = {name: values[-1] for name, values in named.items()}
    texts = dict.fromkeys(named.get("body", []) + named.get("message", []))
    if not texts:
        raise WrongField("body", "missing")
    text = "\n".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return [
        Message(
            provider_message_id=_either(last, "id", "mid"),
            sender=_either(last, "originator", "sender"),
            short_code=_either(last, "shortcode", "recipient", "receiver"),
            text=text,
            sent_at=bodies.zoned(last, "createdDatetime")
            or (bodies.zoned(last, "receive_datetime") or bodies.epoch(last, "date_utc")),
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = bodies.form_or_query(callback)
    state = STATES.get(required(fields, "status"), "unknown")
    code = optional(fields, "statusErrorCode")
    return [
        Receipt(
            provider_message_id=required(fields, "id"),
            reference=None,  # `reference` names the submit
            state="opted_out" if code == OPTED_OUT_CODE else state,
            code=code,
            at=bodies.zoned(fields, "statusDatetime"),
            recipient=required(fields, "recipient", most=NUMBER_CHARS),
        )
    ]


def answer(kind: Kind) -> Answer:
    return OK


def _either(fields: Mapping[str, str], *names: str) -> str:
    """Return the first field with a value."""
    name = next((name for name in names if fields.get(name)), names[0])
    return required(fields, name, most=NUMBER_CHARS)
