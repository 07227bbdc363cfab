"""Infobip: JSON, several events in `results`; no signature by default.

An unreadable event is refused once the others are kept. infobip.com/docs/api (receive inbound SMS, outbound SMS
reports). The signed content of the "HMAC" option is not documented, so the option is not checked: use a secret path,
basic authentication or an address list (DOMAIN 3.2). `cleanText` lacks its keyword, perhaps STOP: `text` is read.

DELIVERED_TO_OPERATOR is in the group "delivered", yet intermediate. REJECTED_DESTINATION is 14, of a list, ours or the
operator's, or 52, an impossible number. Without 14 or 52 the status blocks (infobip.com/docs, message status codes,
error code reference).
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
capabilities = Capabilities(keeps_blacklist=True)  # REJECTED_DESTINATION: "blacklisted … or on your account"
secret_key = text_key
verify = nothing_signed
kind_of = as_addressed

MAX_RESULTS = 1_000  # 100 reports at most (DOMAIN 3.1); for MOs no number is published
STATES: Mapping[str, ReceiptState] = {  # by status.groupId, DOMAIN 3.4
    "1": "sent",
    "2": "failed",
    "3": "delivered",
    "4": "expired",
    "5": "failed",
}
TO_OPERATOR = "DELIVERED_TO_OPERATOR"  # another report may follow
OPTED_OUT_NAMES = (  # DOMAIN 4.3
    "REJECTED_DESTINATION_BLOCKLISTED",
    "REJECTED_DND",
    "EC_BLACKLISTED_DESTINATIONADDRESS",  # 2052, as REJECTED_DESTINATION_BLOCKLISTED
    "EC_DEST_ADDRESS_BLACKLISTED",  # 2050, as REJECTED_DND
    "EC_CONTENT_BLOCKED",  # 603, "by user opt-out (MO: STOP)"
    "EC_SC_BLOCKED_BY_END_USER",  # 573, "asked their mobile operator"
)
DESTINATION, BLOCKLISTED, INVALID = "REJECTED_DESTINATION", "14", "52"
NO_ERROR = "NO_ERROR"


def parse_messages(callback: Callback) -> Sequence[Message]:
    return bodies.each(_results(callback), "results", message_of)


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    return bodies.each(_results(callback), "results", receipt_of)


def answer(kind: Kind) -> Answer:
    return EMPTY


def _results(callback: Callback) -> Sequence[object]:
    return bodies.list_at(bodies.json_object(callback), "results", most=MAX_RESULTS)


def message_of(fields: Mapping[str, object], where: str) -> Message:
    """Return an MO of a callback or of the log."""
    return Message(
        provider_message_id=identifier(fields, "messageId", where=where),
        sender=identifier(fields, "from", where=where, most=NUMBER_CHARS),
        short_code=identifier(fields, "to", where=where, most=NUMBER_CHARS),
        text=text_of(fields, "text", where=where),
        sent_at=bodies.zoned(fields, "receivedAt"),
    )


def receipt_of(fields: Mapping[str, object], where: str) -> Receipt:
    """Return the DLR in a callback's event or in an entry of the log."""
    status = bodies.object_at(fields, "status", where=where)
    state = STATES.get(identifier(status, "groupId", where=f"{where}status."), "unknown")
    name = optional(status, "name", where=f"{where}status.")
    error = fields.get("error")
    cause = optional(bodies.an_object(error, f"{where}error"), "name", where=f"{where}error.") if error else None
    refused = next((one for one in (name, cause) if one in OPTED_OUT_NAMES), None)
    number = optional(status, "id", where=f"{where}status.") if name == DESTINATION else None
    if number == BLOCKLISTED:
        refused = name
    if name == TO_OPERATOR and state == "delivered":
        state = "sent"
    failure = name if cause in (None, NO_ERROR) else cause
    return Receipt(
        provider_message_id=identifier(fields, "messageId", where=where),
        reference=None,  # perhaps ours, given at the submit
        state="opted_out" if refused else state,
        code=refused or (failure if state in ("failed", "expired", "unknown") else None),
        at=bodies.zoned(fields, "doneAt"),
        blocked=name == DESTINATION and refused is None and number != INVALID,
    )
