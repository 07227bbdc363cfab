"""CM.com: JSON; no signature. CM.com retries until exactly 200 (MOs for a month).

developers.cm.com/messaging/docs/incoming-messages and /incoming-status-report. Plain strings in place of the objects
`from`, `to` and `message`, and `body`, are read too, as some accounts get them. `reference` is the message answered,
perhaps twice: an MO has no id of its own. DLRs must be set to JSON: the XML is not published.
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
    optional,
    text_key,
    text_of,
)

signing: Signing = "never"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities()
secret_key = text_key
verify = nothing_signed
kind_of = as_addressed

STATES: Mapping[str, ReceiptState] = {"0": "sent", "1": "failed", "2": "delivered", "3": "failed"}  # DOMAIN 3.4


def parse_messages(callback: Callback) -> Sequence[Message]:
    fields = bodies.json_object(callback)
    said = "message" if "message" in fields else "body"
    return [
        Message(
            provider_message_id=None,
            sender=_number(fields, "from"),
            short_code=_number(fields, "to"),
            text=text_of(*_inside(fields, said, "text")),
            sent_at=bodies.utc(fields, "timeUtc"),
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    """Return one DLR; the reference is ours, one for each message."""
    messages = bodies.object_at(bodies.json_object(callback), "messages")
    fields = bodies.object_at(messages, "msg", where="messages.")
    status = bodies.object_at(fields, "status", where="messages.msg.")
    reference = identifier(fields, "reference", where="messages.msg.")
    state = STATES.get(identifier(status, "code", where="messages.msg.status."), "unknown")
    return [
        Receipt(
            provider_message_id=reference,
            reference=reference,
            state=state,
            code=optional(status, "errorCode", where="messages.msg.status.") if state != "delivered" else None,
            at=bodies.zoned(fields, "received"),
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY


def _number(fields: Mapping[str, object], name: str) -> str:
    inner, key = _inside(fields, name, "number")
    return identifier(inner, key, most=NUMBER_CHARS)


def _inside(fields: Mapping[str, object], name: str, inner: str) -> tuple[Mapping[str, object], str]:
    """Return the place of the value: within the object `name`, or `name` itself."""
    value = fields.get(name)
    return (value, inner) if isinstance(value, dict) else (fields, name)
