"""Octopush: JSON; no signature: use a secret path. Octopush expects an empty body within a second.

dev.octopush.com (callbacks, inbounds, opt-out). The date field tells the kind: `reception_date` an MO (`answer_date` on
another page), `stop_date` an MO taken for an opt-out, `delivery_date` a DLR. `message_id` is the message answered,
perhaps twice: an MO has no id of its own, and id and number identify a DLR.
"""

from collections.abc import Mapping, Sequence

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies
from inbound.providers.provider import (
    EMPTY,
    JSON_BYTES,
    NUMBER_CHARS,
    Answer,
    Callback,
    Capabilities,
    Kind,
    Message,
    Receipt,
    Signing,
    WrongField,
    identifier,
    nothing_signed,
    optional,
    required,
    text_key,
    text_of,
)

signing: Signing = "never"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = 1.0
capabilities = Capabilities(adds_stop_clause=True, keeps_blacklist=True, idempotent_submit=True)  # request_id
secret_key = text_key
verify = nothing_signed

RECEIVED, ANSWERED, STOPPED = "reception_date", "answer_date", "stop_date"
OF_AN_MO = (RECEIVED, ANSWERED, STOPPED)
STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "ACK": "sent",
    "DELIVERED": "delivered",
    "NOT_DELIVERED": "failed",
    "BAD_DESTINATION": "failed",
    "NOT_ALLOWED": "failed",
    "BLACKLISTED_NUMBER": "opted_out",
    "UNKNOWN_DELIVERY": "unknown",
    "UNDEFINED": "unknown",
}
NO_ERROR = ("ACK", "DELIVERED")


def kind_of(callback: Callback, kind: Kind) -> Kind:
    fields = bodies.json_object(callback)
    return "messages" if any(name in fields for name in OF_AN_MO) else "receipts"


def parse_messages(callback: Callback) -> Sequence[Message]:
    fields = bodies.json_object(callback)
    if not any(name in fields for name in OF_AN_MO):
        raise WrongField(RECEIVED, "missing")
    return [
        Message(
            provider_message_id=None,
            sender=identifier(fields, "number", most=NUMBER_CHARS),
            short_code=optional(fields, "sim_card_number", most=NUMBER_CHARS) or "",
            text=text_of(fields, "text"),
            sent_at=next(filter(None, (bodies.zoned(fields, name) for name in OF_AN_MO)), None),
            opted_out=STOPPED in fields,
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = bodies.json_object(callback)
    status = required(fields, "status")
    return [
        Receipt(
            provider_message_id=identifier(fields, "message_id"),
            reference=None,
            state=STATES.get(status, "unknown"),
            code=None if status in NO_ERROR else status,
            at=bodies.zoned(fields, "delivery_date"),
            recipient=identifier(fields, "number", most=NUMBER_CHARS),
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY
