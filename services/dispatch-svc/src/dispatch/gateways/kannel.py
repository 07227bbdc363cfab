"""Kannel's smsbox, `/cgi-bin/sendsms`, by POST: the text is the body, all else is in X-Kannel headers (its user guide,
"Using the HTTP interface to smsbox"). Not by GET: a GET may be sent twice by a client, and holds a password and a
number in its URL. It answers with a line of text: 0 and 3 are taken (now, and queued). Two refusals of one message
share their status with what is wrong with the account or the request, and are known by their words (gw/smsbox.c).
A text of more SMS than the group's `max-messages`, 1 unless set, it cuts off and says nothing (gw/urltrans.c, gw/sms.c,
`sms_split`): with it goes the STOP mention.

Receipts come to the `dlr-url` that each message names, with our reference and Kannel's %d in it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from common.sms.sms_length import length
from dispatch.gateways.gateway import Capabilities, Refused, Result, SendError, Submit, Throttled
from dispatch.gateways.provider import Account, Answer, Request, by_status

URL = ""
NEEDS = ("url", "user", "secret")
OPTIONS: Mapping[str, bool] = {"smsc": False}
capabilities = Capabilities(echoes_reference=True, segments=1)

ALL_RECEIPTS = "31"
TAKEN = (b"0:", b"3:")
NOT_NOW = b"Temporal failure"  # smsbox could not pass it on, and says so itself; a proxy's 503 says nothing of it
NOT_ROUTABLE = b"Not routable"
DENIED = b"denied by white- and/or black-lists"
BUSY_S = 5.0


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    unicode = length(m.text).encoding == "UCS2"
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "X-Kannel-Username": account.user,
        "X-Kannel-Password": account.secret,
        "X-Kannel-From": m.sender,
        "X-Kannel-To": m.to,
        "X-Kannel-Charset": "UTF-8",
        "X-Kannel-Coding": "2" if unicode else "0",
    }
    if smsc := account.options.get("smsc"):
        headers["X-Kannel-SMSC"] = smsc
    if account.callback_url:
        joint = "&" if "?" in account.callback_url else "?"
        headers["X-Kannel-DLR-Mask"] = ALL_RECEIPTS
        headers["X-Kannel-DLR-Url"] = f"{account.callback_url}{joint}id={quote(m.reference)}&status=%d"
    return Request("/cgi-bin/sendsms", headers, m.text.encode())


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if answer.status == 503 and answer.body.startswith(NOT_NOW):
        raise Throttled(BUSY_S)
    if answer.status == 403 and answer.body.startswith(NOT_ROUTABLE):
        raise Refused("not_routable")
    if answer.status == 400 and DENIED in answer.body:
        return [Result("rejected", None, "denied_by_list", blocked=True)]
    by_status(answer)
    if not answer.body.startswith(TAKEN):
        raise ValueError("neither accepted nor queued")
    [m] = messages
    return [Result("accepted", m.reference, None)]
