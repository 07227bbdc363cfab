"""Infobip SMS v3: JSON, an App key, many messages a request, each with an id of our choice (DOMAIN 4.1).

Statuses: DOMAIN 3.4 and infobip.com/docs, response status and error codes; classes: DOMAIN 4.3 and 4.4. A refusal as a
duplicate proves the message accepted. Logs reach back 48 h (`/sms/1/logs`: lykmapipo/bipsms docs/LOGS.md).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

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
    digits,
    each_of,
    encode,
    json_headers,
    list_of,
    minutes_left,
    object_of,
    text_of,
)

URL = ""  # each customer has a URL of their own
NEEDS = ("url", "secret")
OPTIONS: Mapping[str, bool] = {}
# Infobip publishes no limit of a batch: as many as a DLR callback holds
capabilities = Capabilities(batch=100, echoes_reference=True, looks_up=True)

TAKEN_GROUPS = ("0", "1", "3")  # accepted, pending, delivered
REFUSED_GROUPS = ("2", "5")  # undeliverable, rejected
FAILED_LATER = ("2", "4")  # in the logs: accepted, then undeliverable or expired
DUPLICATE = "REJECTED_DUPLICATE_MESSAGE_ID"
ITS_OWN = "REJECTED_SYSTEM_ERROR"
OPTED_OUT = ("REJECTED_DND", "REJECTED_DESTINATION_BLOCKLISTED")
DESTINATION, BLOCKLISTED, INVALID = "REJECTED_DESTINATION", "14", "52"  # two statuses of this name differ by id
OF_SENDER = ("REJECTED_SOURCE", "REJECTED_SENDER")
OURS = (
    "REJECTED_NOT_ENOUGH_CREDITS",
    "REJECTED_PREPAID_PACKAGE_EXPIRED",
    "REJECTED_ROUTE_NOT_AVAILABLE",  # no route is set up for the account
    "REJECTED_DESTINATION_NOT_REGISTERED",  # a trial account
)


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    body = {"messages": [_message(m, account, now) for m in messages]}
    return Request("/sms/3/messages", json_headers(Authorization=f"App {account.secret}"), encode(body))


def _message(m: Submit, account: Account, now: datetime) -> dict[str, object]:
    message: dict[str, object] = {
        "sender": m.sender,
        "destinations": [{"to": digits(m.to), "messageId": m.reference}],
        "content": {"text": m.text},
    }
    if (minutes := minutes_left(m, now)) is not None:  # infobip-api-python-client 6.0.0, models/validity_period.py
        message["options"] = {"validityPeriod": {"amount": minutes, "timeUnit": "MINUTES"}}
    if account.callback_url:
        message["webhooks"] = {"delivery": {"url": account.callback_url}}
    return message


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    said, references = list_of(decode(answer), "messages"), [m.reference for m in messages]
    return each_of(said, "messageId", references, lambda r, one: _result(r, object_of(one, "status")))


def lookup(reference: str, account: Account) -> Request:
    path = f"/sms/1/logs?messageId={quote(reference)}"
    return Request(path, json_headers(Authorization=f"App {account.secret}"), b"", method="GET")


def found(answer: Answer, reference: str, subject_id: str) -> Result | None:
    by_status(answer)
    logs = [each for each in list_of(decode(answer), "results") if text_of(each, "messageId") == reference]
    if not logs:
        return None
    status = object_of(logs[0], "status")
    if text_of(status, "groupId") in FAILED_LATER:  # the DLR tells the rest
        return Result("accepted", reference, None)
    result = _result(reference, status)
    if isinstance(result, Unanswered):
        return None
    return result if isinstance(result, Result) else Result("rejected", reference, text_of(status, "name"))


def _result(reference: str, status: Mapping[str, object]) -> Result | SendError:
    name, group = text_of(status, "name"), text_of(status, "groupId")
    if group in TAKEN_GROUPS or name == DUPLICATE:
        return Result("accepted", reference, None)
    if group not in REFUSED_GROUPS or name == ITS_OWN:
        return Unanswered(f"group {group}")
    number = text_of(status, "id") if name == DESTINATION and "id" in status else None
    if name in OPTED_OUT or number == BLOCKLISTED:
        return Result("rejected", reference, name, opted_out=True)
    if name == DESTINATION and number != INVALID:
        return Result("rejected", reference, name, blocked=True)  # blocked or invalid: Infobip does not say
    if name in OF_SENDER or name in OURS:
        return Misconfigured(name, of_sender=name in OF_SENDER)
    return Refused(name)
