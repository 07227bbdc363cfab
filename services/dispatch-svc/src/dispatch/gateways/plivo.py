"""Plivo Message API: JSON, basic authentication (DOMAIN 4.1).

A single wrong number in `dst` refuses the whole request without naming the number, so Placet sends one message a
request. Without credit Plivo refuses every request for two minutes at a time (support.plivo.com, insufficient credit),
with an undocumented HTTP status.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from dispatch.gateways.gateway import Capabilities, Misconfigured, Result, SendError, Submit
from dispatch.gateways.provider import (
    Account,
    Answer,
    Request,
    basic,
    by_status,
    decode,
    digits,
    encode,
    json_headers,
    list_of,
    seconds_left,
)

URL = "https://api.plivo.com"
NEEDS = ("user", "secret")  # auth id and auth token
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities()

NO_CREDIT = b"insufficient credit"


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body: dict[str, object] = {"src": m.sender, "dst": digits(m.to), "text": m.text}
    if (seconds := seconds_left(m, now)) is not None:  # of Plivo's queue: support.plivo.com 14814454609561
        body["message_expiry"] = min(max(seconds, 5), 10_799)
    if account.callback_url:
        body |= {"url": account.callback_url, "method": "POST"}
    path = f"/v1/Account/{quote(account.user, safe='')}/Message/"
    return Request(path, json_headers(Authorization=basic(account)), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if 400 <= answer.status < 500 and NO_CREDIT in answer.body.lower():
        raise Misconfigured("insufficient_credit")
    by_status(answer)
    [identity] = list_of(decode(answer), "message_uuid")
    return [Result("accepted", str(identity), None)]
