"""Kannel: MOs by the `get-url` or `post-url` of our own smskannel.conf, DLRs by the `dlr-url` of the submit.

Kannel runs on our own network: use the address list, and a secret path. docs/operators/kannel.md has the whole file.
The names are those of nyaruka/courier:

    get-url = ".../messages?backend=%i&sender=%p&to=%P&message=%b&charset=%C&ts=%T&id=%I"
    post-url = ".../messages"             headers X-Kannel-From, X-Kannel-To; the body is the text
    dlr-url = ".../receipts?id=<our message id>&status=%d"    dlr-mask 31
    max-messages = 0                      no answer of ours, and no failure, becomes an SMS to the person

`%c`, the coding, counts from 0 or from 1 by version: not read. The zone of X-Kannel-Time is not documented: the header
is only `written_at`. (kannel.org user guide; names: courier handlers/kannel/handler_test.go)
"""

from collections.abc import Mapping, Sequence
from email.message import Message as MimeHeaders

from common.contracts.inbound import ReceiptState
from common.sms import charsets
from inbound.providers import bodies
from inbound.providers.provider import (
    EMPTY,
    FORM_BYTES,
    NUMBER_CHARS,
    UNHURRIED_S,
    Answer,
    Callback,
    Capabilities,
    Kind,
    Message,
    Receipt,
    Signing,
    WrongField,
    as_addressed,
    nothing_signed,
    optional,
    required,
    text_key,
)

signing: Signing = "never"
signs_url = False
max_body_bytes = FORM_BYTES
takes_get = True
answer_within_s = UNHURRIED_S
capabilities = Capabilities()
secret_key = text_key
verify = nothing_signed
kind_of = as_addressed

STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "1": "delivered",
    "2": "failed",
    "4": "sent",
    "8": "sent",
    "16": "failed",
}


def parse_messages(callback: Callback) -> Sequence[Message]:
    return [_from_headers(callback) if callback.method == "POST" else _from_query(callback)]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    """Return one DLR; the id is our reference."""
    fields = bodies.query(callback)
    status = required(fields, "status")
    reference = required(fields, "id")
    state = STATES.get(status, "unknown")
    return [
        Receipt(
            provider_message_id=reference,
            reference=reference,
            state=state,
            code=status if state in ("failed", "unknown") else None,
            at=None,
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY


def _from_query(callback: Callback) -> Message:
    raw = bodies.byte_fields(callback)
    fields = {name: charsets.named(value, None) for name, value in raw.items()}
    if "message" not in raw:
        raise WrongField("message", "missing")
    return Message(
        provider_message_id=optional(fields, "id"),
        sender=required(fields, "sender", most=NUMBER_CHARS),
        short_code=required(fields, "to", most=NUMBER_CHARS),
        text=charsets.named(raw["message"], fields.get("charset")),
        sent_at=bodies.epoch(fields, "ts"),
    )


def _from_headers(callback: Callback) -> Message:
    headers = callback.headers
    content_type = MimeHeaders()
    content_type["content-type"] = headers.get("content-type", "text/plain").replace("\r", " ").replace("\n", " ")
    charset = content_type.get_param("charset")
    return Message(
        provider_message_id=None,
        sender=required(headers, "x-kannel-from", most=NUMBER_CHARS),
        short_code=required(headers, "x-kannel-to", most=NUMBER_CHARS),
        text=charsets.named(callback.body, charset if isinstance(charset, str) else None).rstrip("\r\n"),
        sent_at=None,
        written_at=headers.get("x-kannel-time", ""),
    )
