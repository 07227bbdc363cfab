"""Sinch SMS (XMS) batches: JSON, a bearer token (DOMAIN 4.1). A batch is one text to up to 1,000 people, with one id
and one `client_reference` for all of them: ours are batches of one, so that each message has its own. Receipts name
batch and recipient."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from dispatch.gateways.gateway import Capabilities, Result, SendError, Submit
from dispatch.gateways.provider import (
    Account,
    Answer,
    Request,
    by_status,
    decode,
    digits,
    encode,
    json_headers,
    text_of,
)

URL = "https://eu.sms.api.sinch.com"
NEEDS = ("user", "secret")  # service plan and its token
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities()


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
    path = f"/xms/v1/{quote(account.user, safe='')}/batches"
    return Request(path, json_headers(Authorization=f"Bearer {account.secret}"), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    [m] = messages
    return [Result("accepted", f"{text_of(decode(answer), 'id')}/{m.subject_id}", None)]
