"""Brevo: JSON to one URL, `msg_status` tells the kind; no signature.

Basic authentication in the URL, and the addresses 1.179.112.0/20, 172.246.240.0/20
(developers.brevo.com/docs/transactional-webhooks). A reply is `replied`, with the person in `to` and the text in
`reply` (schemas.apis.io brevo-smseventreport: no example is published). `messageId` is the message answered, perhaps
twice: an MO has no id of its own. `messageId` may name a submit: id and recipient identify a DLR.
"""

from collections.abc import Mapping, Sequence

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies
from inbound.providers.provider import (
    EMPTY,
    JSON_BYTES,
    NUMBER_CHARS,
    UNHURRIED_S,
    Answer,
    Callback,
    Capabilities,
    Kind,
    Message,
    Receipt,
    Signing,
    identifier,
    nothing_signed,
    required,
    text_key,
    text_of,
)

signing: Signing = "never"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities(keeps_blacklist=True)  # STOP mention only with [STOP_CODE]
secret_key = text_key
verify = nothing_signed

REPLY = "replied"
STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "sent": "sent",
    "accepted": "sent",
    "delivered": "delivered",
    "softbounce": "failed",
    "hardbounce": "failed",
    "rejected": "failed",
    "skip": "failed",
    "unsubscribe": "opted_out",
}


def kind_of(callback: Callback, kind: Kind) -> Kind:
    return "messages" if bodies.json_object(callback).get("msg_status") == REPLY else "receipts"


def parse_messages(callback: Callback) -> Sequence[Message]:
    fields = bodies.json_object(callback)
    return [
        Message(
            provider_message_id=None,
            sender=identifier(fields, "to", most=NUMBER_CHARS),
            short_code="",
            text=text_of(fields, "reply"),
            sent_at=bodies.zoned(fields, "date"),
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = bodies.json_object(callback)
    status = required(fields, "msg_status")
    state = STATES.get(status.lower().replace("_", ""), "unknown")
    return [
        Receipt(
            provider_message_id=identifier(fields, "messageId"),
            reference=None,
            state=state,
            code=status if state in ("failed", "opted_out", "unknown") else None,
            at=bodies.zoned(fields, "date"),
            recipient=identifier(fields, "to", most=NUMBER_CHARS),
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY
