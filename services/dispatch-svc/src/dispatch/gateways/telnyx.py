"""Telnyx messages from an alphanumeric sender: JSON, a bearer token, one a request (DOMAIN 4.1). `Idempotency-Key`
makes a second submit within 24 h the same SMS. Errors are a list of objects with `code` (DOMAIN 4.3, 4.4)."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dispatch.gateways.gateway import Capabilities, Misconfigured, Refused, Result, SendError, Submit, Throttled
from dispatch.gateways.provider import (
    Account,
    Answer,
    Request,
    by_status,
    decode,
    encode,
    json_headers,
    list_of,
    object_of,
    retry_after_s,
    text_of,
)

URL = "https://api.telnyx.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {"messaging_profile_id": True}
capabilities = Capabilities(idempotent=True)

OPTED_OUT = "40300"
LATER = ("10011", "40002", "40006", "40318")
OURS = ("40001", "40003")  # its sender; filtered for what it says: the account is at stake


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {
        "from": m.sender,
        "to": m.to,
        "text": m.text,
        "messaging_profile_id": account.options["messaging_profile_id"],
    }
    if account.callback_url:
        body["webhook_url"] = account.callback_url
    headers = {"Authorization": f"Bearer {account.secret}", "Idempotency-Key": m.reference}
    return Request("/v2/messages/alphanumeric_sender_id", json_headers(**headers), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    code = _code(answer)
    if code == OPTED_OUT:
        return [Result("rejected", None, code, opted_out=True)]
    if code in LATER:
        raise Throttled(retry_after_s(answer))
    if code in OURS:
        raise Misconfigured(code)
    if code and answer.status in (400, 403, 422):
        raise Refused(code)
    by_status(answer)
    return [Result("accepted", text_of(object_of(decode(answer), "data"), "id"), None)]


def _code(answer: Answer) -> str:
    """Of the first error; "" where there is none."""
    if 200 <= answer.status < 300:
        return ""
    try:
        return text_of(list_of(decode(answer), "errors")[0], "code")
    except (KeyError, ValueError, TypeError, IndexError):
        return ""
