"""Mailjet SMS: JSON, a bearer token, one message a request (DOMAIN 4.1).

Source: mailjet/api-documentation, guides-sms: send-sms-api, sms-stats (the status codes), error-codes, limitation (no
marketing), encoding (5 SMS at most). Mailjet forbids marketing, and documents no callback: neither DLRs nor MOs come.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dispatch.gateways.gateway import (
    Capabilities,
    Misconfigured,
    Refused,
    Result,
    SendError,
    Submit,
    Unanswered,
)
from dispatch.gateways.provider import (
    Account,
    Answer,
    Request,
    by_status,
    decode,
    encode,
    json_headers,
    object_of,
    text_of,
)

URL = "https://api.mailjet.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(marketing=False, segments=5)

OURS = ("sms-0001", "sms-0003", "sms-0004")  # funds, SMS of a day, account
TAKEN = ("0", "1", "2", "3", "7")  # 7: sent, with a wrong DLR
OF_SENDER = ("10",)
BLOCKED = ("9", "11")  # "do not disturb", a blacklist: Mailjet does not say whose wish
MONEY = ("15", "16")  # funds, SMS of a day
REFUSED = ("4", "5", "6", "8", "12", "14")


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {"From": m.sender, "To": m.to, "Text": m.text}
    return Request("/v4/sms-send", json_headers(Authorization=f"Bearer {account.secret}"), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if answer.status == 400:
        raise _refusal(answer)
    by_status(answer)
    said = decode(answer)
    identity, code = text_of(said, "MessageId"), text_of(object_of(said, "Status"), "Code")
    if code in TAKEN:
        return [Result("accepted", identity, None)]
    if code in BLOCKED:
        return [Result("rejected", identity, code, blocked=True)]
    if code in OF_SENDER or code in MONEY:
        raise Misconfigured(code, of_sender=code in OF_SENDER)
    if code in REFUSED:
        raise Refused(code)
    raise Unanswered(f"status {code}")  # 13: a system error


def _refusal(answer: Answer) -> SendError:
    try:
        code = text_of(decode(answer), "ErrorCode")
    except (KeyError, ValueError):
        return Refused("http_400")
    return Misconfigured(code) if code in OURS else Refused(code)
