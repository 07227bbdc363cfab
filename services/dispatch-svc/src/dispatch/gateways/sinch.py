"""Sinch SMS (XMS) batches: JSON, a bearer token (DOMAIN 4.1).

A Sinch batch is one text to many people, with one id and one `client_reference` for all, so Placet sends batches of a
single person. DLRs name batch and recipient. Sinch lists the batches of the last 24 h by `client_reference`
(developers.sinch.com, list batches). A 403 with an illegal number type concerns the number (community.sinch.com, common
SMS HTTP statuses).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from dispatch.gateways.gateway import Capabilities, Refused, Result, SendError, Submit
from dispatch.gateways.provider import (
    Account,
    Answer,
    Request,
    by_status,
    decode,
    digits,
    encode,
    json_headers,
    list_of,
    text_of,
)

URL = "https://eu.sms.api.sinch.com"
NEEDS = ("user", "secret")  # service plan and its token
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(looks_up=True)

OF_MESSAGE = b"llegal_number_type"  # some answers lack the first letter


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body: dict[str, object] = {
        "from": m.sender,
        "to": [digits(m.to)],
        "body": m.text,
        "client_reference": m.reference,
        "delivery_report": "per_recipient",
    }
    if account.callback_url:
        body["callback_url"] = account.callback_url
    if m.deliver_by is not None:
        body["expire_at"] = m.deliver_by.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    path = f"/xms/v1/{quote(account.user, safe='')}/batches"
    return Request(path, json_headers(Authorization=f"Bearer {account.secret}"), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if answer.status == 403 and OF_MESSAGE in answer.body:
        raise Refused("illegal_number_type")
    by_status(answer)
    [m] = messages
    return [Result("accepted", _identity(decode(answer), m.subject_id), None)]


def lookup(reference: str, account: Account) -> Request:
    path = f"/xms/v1/{quote(account.user, safe='')}/batches?client_reference={quote(reference)}"
    return Request(path, json_headers(Authorization=f"Bearer {account.secret}"), b"", method="GET")


def found(answer: Answer, reference: str, subject_id: str) -> Result | None:
    by_status(answer)
    batches = list_of(decode(answer), "batches")
    return Result("accepted", _identity(batches[0], subject_id), None) if batches else None


def _identity(batch: Mapping[str, object], subject_id: str) -> str:
    """Return the provider reference as inbound-svc names it in DLRs."""
    return f"{text_of(batch, 'id')}/{subject_id}"
