"""SMSFactor: JSON; no signature we could check.

dev.smsfactor.com/en/api/sms/webhook. The scheme of `X-SMSFactor-Signature` is not published: the header is ignored. Use
a secret path, and the addresses 51.159.7.123, 51.159.21.54.

The STOP webhook has the body of the MO webhook: give the STOP webhook our URL with `?webhook=stop`, and its MOs are
opt-outs, whatever the text. `last_message_id` is the message answered, perhaps twice: an MO has no id of its own.
Status 4, "not allowed", may be an opt-out: the DLR blocks. 0, "not sent", is not documented: unknown.
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
    as_addressed,
    identifier,
    nothing_signed,
    text_key,
    text_of,
)

signing: Signing = "never"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities(adds_stop_clause=True, keeps_blacklist=True)  # STOP: unsubscribed automatically
secret_key = text_key
verify = nothing_signed
kind_of = as_addressed

STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "1": "sent",
    "2": "failed",
    "3": "delivered",
    **dict.fromkeys(("4", "5", "6", "7", "9", "11"), "failed"),
    "12": "expired",
}
NO_ERROR = ("1", "3")
BLOCKED = "4"


def parse_messages(callback: Callback) -> Sequence[Message]:
    fields = bodies.json_object(callback)
    return [
        Message(
            provider_message_id=None,
            sender=identifier(fields, "from", most=NUMBER_CHARS),
            short_code="",
            text=text_of(fields, "message"),
            sent_at=bodies.zoned(fields, "date"),
            opted_out=bodies.query(callback).get("webhook") == "stop",
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = bodies.json_object(callback)
    status = identifier(fields, "status")
    return [
        Receipt(
            provider_message_id=identifier(fields, "message_id"),
            reference=None,
            state=STATES.get(status, "unknown"),
            code=None if status in NO_ERROR else status,
            at=bodies.zoned(fields, "date"),
            blocked=status == BLOCKED,
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY
