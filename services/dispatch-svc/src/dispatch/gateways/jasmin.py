"""Jasmin's HTTP API, `/send`: a form by POST, one message a request; it answers `Success "<id>"` or `Error "<why>"`
(DOMAIN 4.1; jookies/jasmin, jasmin/protocols/http). The text goes as hex: GSM 7-bit octets, else UTF-16."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from dispatch.gateways import gsm7
from dispatch.gateways.gateway import Capabilities, Misconfigured, Result, SendError, Submit, Throttled
from dispatch.gateways.provider import Account, Answer, Request, by_status

URL = ""
NEEDS = ("url", "user", "secret")
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities()

SUCCESS = re.compile(rb'Success "([^"]{1,200})"')
TOO_FAST = b"throughput"
NO_ROUTE = 412


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    octets = gsm7.encode(m.text)
    fields = {
        "username": account.user,
        "password": account.secret,
        "to": m.to,
        "from": m.sender,
        "coding": "8" if octets is None else "0",
        "hex-content": (m.text.encode("utf-16-be") if octets is None else octets).hex(),
    }
    if account.callback_url:
        fields |= {"dlr": "yes", "dlr-url": account.callback_url, "dlr-level": "3", "dlr-method": "POST"}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request("/send", headers, urlencode(fields).encode())


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if answer.status == 403 and TOO_FAST in answer.body.lower():
        raise Throttled(1.0)
    if answer.status == NO_ROUTE:
        raise Misconfigured("http_412")
    by_status(answer)
    found = SUCCESS.match(answer.body)
    if found is None:
        raise ValueError("no success")
    return [Result("accepted", found[1].decode(), None)]
