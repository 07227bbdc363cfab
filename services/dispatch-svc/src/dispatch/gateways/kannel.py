"""Kannel's smsbox, `/cgi-bin/sendsms`, by POST: text as body, the rest in X-Kannel headers.

Source: Kannel user guide, "Using the HTTP interface to smsbox". A GET might go twice, and its URL would hold a password
and a number. Kannel answers 0 (accepted now) or 3 (queued) for success. Only wording tells two refusals of a single
message from account and request errors (gw/smsbox.c). Kannel silently cuts a text after `max-messages` SMS (a setting
of the group, 1 unless set; gw/urltrans.c, gw/sms.c, `sms_split`), and the STOP mention is lost.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from common.sms.sms_length import length
from dispatch.gateways.gateway import Capabilities, Refused, Result, SendError, Submit, Throttled
from dispatch.gateways.provider import Account, Answer, Request, by_status, minutes_left

URL = ""
NEEDS = ("url", "user", "secret")
OPTIONS: Mapping[str, bool] = {"smsc": False}
capabilities = Capabilities(echoes_reference=True, segments=1)

ALL_RECEIPTS = "31"
TAKEN = (b"0:", b"3:")
NOT_NOW = b"Temporal failure"  # smsbox itself could not pass the message on; a proxy's 503 has other words
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
    if (minutes := minutes_left(m, now)) is not None:
        headers["X-Kannel-Validity"] = str(minutes)  # Kannel user guide, "validity" of sendsms
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
