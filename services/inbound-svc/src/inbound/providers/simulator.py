"""Our own operator simulator: JSON, signed with HMAC-SHA256 over a timestamp and the raw body.

    Placet-Timestamp: <unix seconds>
    Placet-Signature: v1=<hex hmac_sha256(secret, timestamp + "." + raw body)>[, v1=...]

No nonce is needed: a signature covers one body, and a repeated body is a duplicate.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from common.contracts.inbound import ReceiptState
from inbound.providers import bodies, signatures
from inbound.providers.provider import (
    JSON_BYTES,
    NUMBER_CHARS,
    UNHURRIED_S,
    Account,
    Answer,
    Callback,
    Capabilities,
    Kind,
    Message,
    NotGenuine,
    Once,
    Receipt,
    Signing,
    WrongField,
    as_addressed,
    required,
    text_key,
    text_of,
)

signing: Signing = "always"
signs_url = False
max_body_bytes = JSON_BYTES
takes_get = False
answer_within_s = UNHURRIED_S
capabilities = Capabilities(signs=True)
secret_key = text_key
kind_of = as_addressed

TOLERANCE_S = 300  # DOMAIN 3.2
MAX_RECEIPTS = 100
STATES: Mapping[str, ReceiptState] = {
    "sent": "sent",
    "delivered": "delivered",
    "failed": "failed",
    "expired": "expired",
    "opted_out": "opted_out",
}
UNIX_SECONDS = re.compile(r"[0-9]{1,11}")


class _Mo(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, rename={"sender": "from"}):
    id: bodies.Name
    sender: bodies.Number
    to: bodies.Number
    text: str
    sent_at: bodies.Name


class _Dlr(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    id: bodies.Name
    reference: bodies.Name
    status: Literal["sent", "delivered", "failed", "expired", "opted_out"]
    code: bodies.Name | None
    at: bodies.Name


class _Dlrs(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    receipts: Annotated[list[_Dlr], msgspec.Meta(min_length=1, max_length=MAX_RECEIPTS)]


_mo, _told = msgspec.json.Decoder(_Mo), msgspec.json.Decoder(_Dlrs)


def verify(callback: Callback, account: Account, now: datetime) -> Once | None:
    stamp = callback.headers.get("placet-timestamp", "")
    given = [
        value.strip().removeprefix("v1=").encode()
        for value in callback.headers.get("placet-signature", "").split(",")
        if value.strip().startswith("v1=")
    ]
    if not stamp or not given:
        raise NotGenuine("signature_missing")
    signed = stamp.encode() + b"." + callback.body
    expected = [signatures.hmac_sha256(secret.encode(), signed).hex().encode() for secret in account.secrets]
    if not any(hmac.compare_digest(one, other) for one in expected for other in given):
        raise NotGenuine("signature_wrong")
    if not UNIX_SECONDS.fullmatch(stamp) or abs(now.timestamp() - int(stamp)) > TOLERANCE_S:
        raise NotGenuine("timestamp_outside_window")
    return None


def parse_messages(callback: Callback) -> Sequence[Message]:
    """Return one MO from `{"id", "from", "to", "text", "sent_at"}`."""
    return usual_messages(callback.body) or any_messages(callback)


def usual_messages(body: bytes) -> Sequence[Message]:
    """Return the MO of a body in which nothing is wrong, in a third of the time; else none: see `any_messages`."""
    try:
        told = _mo.decode(body)
        if not bodies.are_names(f"{told.id}{told.sender}{told.to}{told.sent_at}"):
            return ()
        return [Message(told.id, told.sender, told.to, told.text, _utc(told.sent_at))]
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return ()


def any_messages(callback: Callback) -> Sequence[Message]:
    """Return the MO of any body. Raises Unreadable, WrongField."""
    fields = bodies.json_object(callback)
    return [
        Message(
            provider_message_id=required(fields, "id"),
            sender=required(fields, "from", most=NUMBER_CHARS),
            short_code=required(fields, "to", most=NUMBER_CHARS),
            text=text_of(fields, "text"),
            sent_at=_instant(fields, "sent_at"),
        )
    ]


def parse_receipts(callback: Callback) -> Sequence[Receipt]:
    """Return 1 to 100 DLRs from `{"receipts": [{"id", "reference", "status", "code", "at"}]}`."""
    return usual_receipts(callback.body) or any_receipts(callback)


def usual_receipts(body: bytes) -> Sequence[Receipt]:
    """Return the DLRs of a body in which nothing is wrong, in a fifth of the time; else none: see `any_receipts`."""
    try:
        told = _told.decode(body).receipts
        if not bodies.are_names("".join([f"{each.id}{each.reference}{each.at}{each.code}" for each in told])):
            return ()
        return [Receipt(each.id, each.reference, each.status, each.code, _utc(each.at)) for each in told]
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return ()


def _utc(value: str) -> datetime:
    """Return a time in UTC. Raises ValueError, OverflowError."""
    at = datetime.fromisoformat(value)
    if at.tzinfo is None:
        raise ValueError("no offset")
    return at if at.tzinfo is UTC else at.astimezone(UTC)


def any_receipts(callback: Callback) -> Sequence[Receipt]:
    """Return the DLRs of any body. Raises Unreadable, WrongField."""
    fields = bodies.json_object(callback)
    if "receipts" not in fields:
        raise WrongField("receipts", "missing")
    items = fields["receipts"]
    if not isinstance(items, list):
        raise WrongField("receipts", "not_a_list")
    if not 1 <= len(items) <= MAX_RECEIPTS:
        raise WrongField("receipts", "not_1_to_100")
    return [_receipt(item, f"receipts.{place}") for place, item in enumerate(items)]


def answer(kind: Kind) -> Answer:
    return Answer(200, "application/json", b'{"status":"ok"}')


def _receipt(item: object, path: str) -> Receipt:
    fields, where = bodies.an_object(item, path), f"{path}."
    status = required(fields, "status", where=where)
    if status not in STATES:
        raise WrongField(f"{where}status", "not_a_status")
    if "code" not in fields:
        raise WrongField(f"{where}code", "missing")
    return Receipt(
        provider_message_id=required(fields, "id", where=where),
        reference=required(fields, "reference", where=where),
        state=STATES[status],
        code=None if fields["code"] is None else required(fields, "code", where=where),
        at=_instant(fields, "at", where=where),
    )


def _instant(fields: Mapping[str, object], name: str, *, where: str = "") -> datetime:
    value = required(fields, name, where=where)
    try:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is None:
            raise WrongField(where + name, "no_offset")
        return instant.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise WrongField(where + name, "not_a_time") from error
