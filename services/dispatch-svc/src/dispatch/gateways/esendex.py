"""Esendex message dispatcher: XML, basic authentication, one message a request (DOMAIN 4.1).

Source: esendex/esendex-php-sdk, src/Esendex: DispatchService, Parser/DispatchXmlParser, Http/HttpClient (its statuses);
Codesleuth/esendex-raml, schemas/v1.0 (`validity` is in whole hours, 72 at most; `characterset` is GSM unless set). The
id of the one `messageheader` is the one that its notifications bear. Error bodies are published nowhere we could read:
the HTTP status decides.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from xml.sax.saxutils import escape

from common.sms.sms_length import length
from dispatch.gateways.gateway import Capabilities, Refused, Result, SendError, Submit
from dispatch.gateways.provider import Account, Answer, Request, basic, by_status, digits, seconds_left

URL = "https://api.esendex.com"
NEEDS = ("user", "secret")
OPTIONS: Mapping[str, bool] = {"account_reference": True}
capabilities = Capabilities()

MOST_HOURS = 72
_HEADER = re.compile(rb"<messageheader\b[^>]*\sid=[\"']([0-9A-Za-z-]+)[\"']")
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    if _NO_XML.search(m.text):
        raise Refused("text_no_xml")
    fields = {"from": m.sender, "to": digits(m.to), "body": m.text, "type": "SMS"}
    if (seconds := seconds_left(m, now)) is not None:
        fields["validity"] = str(min(max(1, seconds // 3600), MOST_HOURS))
    fields["characterset"] = "GSM" if length(m.text).encoding == "GSM7" else "Unicode"
    message = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    reference = escape(account.options["account_reference"])
    body = (
        '<?xml version="1.0" encoding="utf-8"?><messages xmlns="http://api.esendex.com/ns/">'
        f"<accountreference>{reference}</accountreference><message>{message}</message></messages>"
    )
    headers = {"Content-Type": "application/xml; charset=utf-8", "Authorization": basic(account)}
    return Request("/v1.0/messagedispatcher", headers, body.encode())


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    [identity] = _HEADER.findall(answer.body)
    return [Result("accepted", identity.decode(), None)]
