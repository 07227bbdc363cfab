"""OVHcloud: DLRs by GET; MOs by polling.

OVHcloud publishes no signature or address: use a secret path or basic authentication (ovh/docs
pages/web_cloud/messaging/sms).

**The MO callback is not documented** (`cgiUrl`, `stopCallBack`: ovh/docs issue 1496, open since 2021): refused. MOs are
polled (`polled`).
"""

from collections.abc import Mapping, Sequence

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies
from inbound.providers.provider import (
    FORM_BYTES,
    NUMBER_CHARS,
    OK,
    UNHURRIED_S,
    Answer,
    Callback,
    Capabilities,
    Kind,
    Message,
    Receipt,
    Signing,
    Undocumented,
    as_addressed,
    identifier,
    nothing_signed,
    optional,
    required,
    text_key,
    text_of,
)

signing: Signing = "never"
signs_url = False
max_body_bytes = FORM_BYTES
takes_get = True
answer_within_s = UNHURRIED_S
capabilities = Capabilities(
    adds_stop_clause=True, keeps_blacklist=True
)  # " STOP 36111" unless noStopClause; /blacklists
secret_key = text_key
verify = nothing_signed
kind_of = as_addressed

PENDING = ("1", "2", "24", "25", "26")  # OVHcloud goes on trying
STATES: Mapping[str, ReceiptState] = {  # by ptt, DOMAIN 3.4
    **dict.fromkeys(PENDING, "sent"),
    "3": "sent",
    "4": "delivered",
    "5": "failed",
    "8": "expired",
    **dict.fromkeys(("20", "21", "23", "27", "28", "29", "33"), "failed"),
}
DESCRIPTIONS: Mapping[str, ReceiptState] = {  # where ptt is missing or unknown
    "0": "queued",
    "1": "delivered",
    "2": "failed",
    "4": "queued",
    "8": "sent",
    "16": "failed",
}
BLOCKED = "23"  # invalid, blacklisted or barred: not told which


def parse_messages(callback: Callback) -> Sequence[Message]:
    raise Undocumented("OVHcloud does not document this callback (ovh/docs issue 1496): its MOs are polled")


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = bodies.form_or_query(callback)
    ptt = optional(fields, "ptt")
    described = DESCRIPTIONS.get(fields.get("description", ""), "unknown")
    return [receipt_of(required(fields, "id"), ptt, STATES.get(ptt or "", described))]


def receipt_of(sms: str, ptt: str | None, state: ReceiptState) -> Receipt:
    """Return the DLR of a callback or of the list."""
    return Receipt(
        provider_message_id=sms,
        reference=None,
        state=state,
        code=ptt if state != "delivered" else None,
        at=None,
        blocked=ptt == BLOCKED,
    )


def polled(fields: Mapping[str, object], short_code: str = "") -> Message:
    """Return one MO of GET /sms/{serviceName}/incoming/{id}.

    The API does not tell the number the person wrote to.
    """
    return Message(
        provider_message_id=identifier(fields, "id"),
        sender=required(fields, "sender", most=NUMBER_CHARS),
        short_code=short_code,
        text=text_of(fields, "message"),
        sent_at=bodies.zoned(fields, "creationDatetime"),
    )


def answer(kind: Kind) -> Answer:
    return OK
