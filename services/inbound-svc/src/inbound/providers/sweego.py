"""Sweego: JSON, signed; its headers are those of Standard Webhooks, its signature is not.

    webhook-id: <the event>
    webhook-timestamp: <unix seconds>
    webhook-signature: <base64 hmac_sha256(key, id + "." + timestamp + "." + raw body)>

Source: learn.sweego.io, docs/webhooks/webhook_signature (the secret is base64 of 64 characters) and sms_payload;
symfony/symfony, Notifier/Bridge/Sweego. One URL takes all. `sms_stop` is an opt-out: Sweego passes on no text, and no
other reply. `sms_sent` proves no arrival: no event does. `campaign_id` is our reference. Times name no zone.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies, signatures
from inbound.providers.provider import (
    EMPTY,
    JSON_BYTES,
    NUMBER_CHARS,
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
    optional,
    required,
)

signing: Signing = "always"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities(adds_stop_clause=True, signs=True)

SECRET_BYTES = 48
STOPPED, CLICKED = "sms_stop", "sms_clicked"
STOP = "STOP"  # the text that Sweego keeps to itself
STATES: Mapping[str, ReceiptState] = {"sms_sent": "sent", "sms_undelivered": "failed"}


def secret_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a secret of sweego is base64") from error
    if len(key) != SECRET_BYTES:
        raise ValueError("a secret of sweego has 64 characters of base64")
    return key


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    event = signatures.header(callback.headers, "webhook-id")
    stamp = signatures.header(callback.headers, "webhook-timestamp")
    given = signatures.header(callback.headers, "webhook-signature")
    signed = signatures.octets(f"{event}.{stamp}.") + callback.body
    keys = [secret_key(secret) for secret in account.secrets]
    signatures.matches([given], [signatures.hmac_base64(key, signed) for key in keys])
    signatures.within(signatures.unix_time(stamp), now)
    return signatures.once(event, now + signatures.REMEMBERED)


def kind_of(callback: Callback, kind: Kind) -> Kind:
    return "messages" if bodies.json_object(callback).get("event_type") == STOPPED else "receipts"


def parse_messages(callback: Callback) -> Sequence[Message]:
    fields = bodies.json_object(callback)
    if required(fields, "event_type") != STOPPED:
        raise WrongField("event_type", "not_known")
    return [
        Message(
            provider_message_id=required(fields, "event_id"),
            sender=required(fields, "phone_number", most=NUMBER_CHARS),
            short_code=optional(fields, "sender_id", most=NUMBER_CHARS) or "",
            text=STOP,
            sent_at=bodies.zoned(fields, "timestamp"),
            opted_out=True,
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = bodies.json_object(callback)
    event = required(fields, "event_type")
    if event == CLICKED:
        return []
    if event not in STATES:
        raise WrongField("event_type", "not_known")
    state = STATES[event]
    return [
        Receipt(
            provider_message_id=required(fields, "swg_uid"),
            reference=optional(fields, "campaign_id"),
            state=state,
            code=event if state == "failed" else None,
            at=bodies.zoned(fields, "timestamp"),
        )
    ]


def answer(kind: Kind) -> Answer:
    return EMPTY
