"""Jasmin's HTTP API, `/send`: a form by POST, one message a request (DOMAIN 4.1).

Source: jookies/jasmin, jasmin/protocols/http. The text goes as hex. Jasmin silently cuts a text after
`long_content_max_parts` SMS (its configuration; 5 unless set), and the STOP mention is lost.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from dispatch.gateways import gsm7
from dispatch.gateways.gateway import (
    Capabilities,
    Misconfigured,
    Result,
    SendError,
    Submit,
    Throttled,
    Unreachable,
)
from dispatch.gateways.provider import Account, Answer, Request, by_status, minutes_left

URL = ""
NEEDS = ("url", "user", "secret")
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(segments=5)

SUCCESS = re.compile(rb'Success "([^"]{1,200})"')
TOO_FAST = b"throughput"
NO_ROUTE = 412
NONE_BOUND = b"no bound connectors"  # a failover route: no message was queued
OURS: Mapping[bytes, str] = {  # of a 400; any other text concerns the message
    b"Authorization failed": "authorization",
    b"Argument [username]": "argument",
    b"Argument [password]": "argument",
    b"Argument [dlr-url]": "argument",
    b"(source_address filter": "source_address",
}
OF_SENDER = "source_address"


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
    if (minutes := minutes_left(m, now)) is not None:
        fields["validity-period"] = str(minutes)  # docs.jasminsms.com, HTTP API
    if account.callback_url:
        fields |= {"dlr": "yes", "dlr-url": account.callback_url, "dlr-level": "3", "dlr-method": "POST"}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request("/send", headers, urlencode(fields).encode())


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if answer.status == 403 and TOO_FAST in answer.body.lower():
        raise Throttled(1.0)
    if answer.status == NO_ROUTE:
        raise Unreachable("no bound connector") if NONE_BOUND in answer.body else Misconfigured("http_412")
    if answer.status == 400 and (code := next((code for words, code in OURS.items() if words in answer.body), None)):
        raise Misconfigured(code, of_sender=code == OF_SENDER)
    by_status(answer)
    found = SUCCESS.match(answer.body)
    if found is None:
        raise ValueError("no success")
    return [Result("accepted", found[1].decode(), None)]
