"""Esendex: XML push notifications; no signature: use a secret path.

developers.esendex.com/APIs/Push-Notifications describes InboundMessage, MessageDelivered and MessageFailed; other roots
are refused.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

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
    Undocumented,
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
capabilities = Capabilities(retries_for=timedelta(hours=72))  # DOMAIN 3.1
secret_key = text_key
verify = nothing_signed

INBOUND = "InboundMessage"
STATES: Mapping[str, ReceiptState] = {"MessageDelivered": "delivered", "MessageFailed": "failed"}  # DOMAIN 3.4


def kind_of(callback: Callback, kind: Kind) -> Kind:
    return "messages" if bodies.xml(callback)[0] == INBOUND else "receipts"


def parse_messages(callback: Callback) -> Sequence[Message]:
    root, fields = bodies.xml(callback)
    if root != INBOUND:
        raise _not_described()
    return [
        Message(
            provider_message_id=required(fields, "MessageId"),
            sender=required(fields, "From", most=NUMBER_CHARS),
            short_code=required(fields, "To", most=NUMBER_CHARS),
            text=text_of(fields, "MessageText"),
            sent_at=None,
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    root, fields = bodies.xml(callback)
    if root not in STATES:
        raise _not_described()
    return [
        Receipt(
            provider_message_id=required(fields, "MessageId"),
            reference=None,
            state=STATES[root],
            code=None,
            at=bodies.zoned(fields, "OccurredAt"),
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY


def _not_described() -> Undocumented:
    return Undocumented("developers.esendex.com/APIs/Push-Notifications does not describe this notification")
