"""Jasmin: forms, by POST or GET; Jasmin retries until `ACK/Jasmin`.

Jasmin runs on our own network: use the address list, and a secret path. `content` is the bytes of the SMS in its
`coding`, which is the octet itself (`coding=%00`, Jasmin 0.10 and 0.11) or a number: 0 is the GSM 03.38 alphabet, not
UTF-8 ("%05v%05nement" is "événement"); 2 and 4 are binary. Names may have a capital (nyaruka/courier
handlers/jasmin/handler_test.go). Older versions send `dlvrd=1` or `err=1` instead of `message_status`.
"""

from collections.abc import Mapping, Sequence

from common.contracts.inbound import ReceiptState
from common.sms import charsets
from inbound.providers import bodies
from inbound.providers.provider import (
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

ACK = Answer(200, "text/plain", b"ACK/Jasmin")
GSM_CODING = 0
COMMAND_STATUS = "ESME_R"  # but for ESME_ROK a refusal of the submit
STATES: Mapping[str, ReceiptState] = {  # DOMAIN 3.4
    "ACCEPTD": "sent",
    "ESME_ROK": "sent",
    "DELIVRD": "delivered",
    "UNDELIV": "failed",
    "REJECTD": "failed",
    "DELETED": "failed",
    "EXPIRED": "expired",
    "UNKNOWN": "unknown",
}


def parse_messages(callback: Callback) -> Sequence[Message]:
    raw = _fields(callback)
    fields = _texts(raw)
    if "content" not in raw:
        raise WrongField("content", "missing")
    return [
        Message(
            provider_message_id=required(fields, "id"),
            sender=required(fields, "from", most=NUMBER_CHARS),
            short_code=required(fields, "to", most=NUMBER_CHARS),
            text=charsets.smpp(raw["content"], _coding(raw.get("coding", b""))) or "",
            sent_at=None,
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    fields = _texts(_fields(callback))
    status = optional(fields, "message_status")
    state = _state(status) if status else _older(fields)
    return [
        Receipt(
            provider_message_id=required(fields, "id"),
            reference=None,
            state=state,
            code=(optional(fields, "err") or status) if state in ("failed", "expired", "unknown") else None,
            at=None,
        )
    ]


def answer(kind: Kind) -> Answer:
    return ACK


def _coding(said: bytes) -> int:
    """Return the coding of an MO: the octet itself, as Jasmin 0.10 and 0.11 write it, or a number as older ones do."""
    if said.isdigit() and len(said) <= 3:
        return int(said)
    if len(said) > 1:
        raise WrongField("coding", "not_a_number")
    return said[0] if said else GSM_CODING


def _fields(callback: Callback) -> Mapping[str, bytes]:
    """Return the first value of each name, in small letters."""
    found: dict[str, bytes] = {}
    for name, value in bodies.byte_fields(callback).items():
        found.setdefault(name.lower(), value)
    return found


def _texts(raw: Mapping[str, bytes]) -> Mapping[str, str]:
    return {name: charsets.named(value, None) for name, value in raw.items()}


def _state(status: str) -> ReceiptState:
    return STATES.get(status, "failed" if status.startswith(COMMAND_STATUS) else "unknown")


def _older(fields: Mapping[str, str]) -> ReceiptState:
    if fields.get("dlvrd", "").lstrip("0") == "1":
        return "delivered"
    return "failed" if fields.get("err", "").lstrip("0") else "unknown"
