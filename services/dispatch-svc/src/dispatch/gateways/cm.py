"""CM.com Business Messaging: JSON, a product token, up to 1,000 messages a request (DOMAIN 4.1).

Each message has its own reference and result. Error codes 301 to 305 concern the message, 401 to 403 the route, and 500
CM.com's own system. A reference has at most 32 characters, so ours goes without dashes. `validity` is in whole hours or
minutes, or an instant (cmdotcom/text-sdk-java, models/Message).
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
    digits,
    each_of,
    encode,
    json_headers,
    list_of,
    minutes_left,
    text_of,
)

URL = "https://gw.messaging.cm.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(batch=1000, echoes_reference=True)

TAKEN = "0"
OURS = ("101", "102", "103")  # credentials, balance
OF_SENDER = ("301",)
BLACKLISTED = "402"  # CM.com does not say whether the person asked for the block
ITS_OWN = ("500", "999")


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    body = {"messages": {"msg": [_message(m, now) for m in messages]}}
    return Request("/v1.0/message", json_headers(**{"X-CM-PRODUCTTOKEN": account.secret}), encode(body))


def _message(m: Submit, now: datetime) -> dict[str, object]:
    message: dict[str, object] = {
        "from": m.sender,
        "to": [{"number": "00" + digits(m.to)}],
        "body": {"type": "auto", "content": m.text},
        "minimumNumberOfMessageParts": 1,
        "maximumNumberOfMessageParts": capabilities.segments,
        "reference": _reference(m),
    }
    if (minutes := minutes_left(m, now)) is not None:
        message["validity"] = f"{minutes}m"
    return message


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    try:
        said = decode(answer)
        if (code := text_of(said, "errorCode")) in OURS:
            raise Misconfigured(code)
    except (KeyError, ValueError, TypeError):
        by_status(answer)
        raise
    if not said.get("messages"):
        by_status(answer)
    references = [_reference(m) for m in messages]
    return each_of(
        list_of(said, "messages"), "reference", references, lambda r, one: _result(r, text_of(one, "messageErrorCode"))
    )


def _result(reference: str, code: str) -> Result | SendError:
    if code == TAKEN:
        return Result("accepted", reference, None)
    if code == BLACKLISTED:
        return Result("rejected", reference, code, blocked=True)
    if code in OURS or code in OF_SENDER:
        return Misconfigured(code, of_sender=code in OF_SENDER)
    if code in ITS_OWN:
        return Unanswered(f"code {code}")
    return Refused(code)


def _reference(m: Submit) -> str:
    return m.reference.replace("-", "")
