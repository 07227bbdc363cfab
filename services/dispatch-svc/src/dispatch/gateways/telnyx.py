"""Telnyx messages from an alphanumeric sender: JSON, a bearer token, one a request (DOMAIN 4.1). Errors are a list of
objects with `code` (developers.telnyx.com, messaging error codes; DOMAIN 4.3).

`Idempotency-Key` makes a second request within 24 h the same, at those endpoints whose reference says so: this one's
does not (developers.telnyx.com, idempotency). The key goes along all the same; who has Telnyx's word for it says
`idempotent` in the account.
"""

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
capabilities = Capabilities()

OPTED_OUT = "40300"
LATER = ("10011", "40002", "40006", "40318")
OF_SENDER = ("40003", "40013", "40305", "40306", "40307", "40315")  # blocked for good, or none of this profile's
OURS = ("20100", "40311", "40312", "40313", "40314", "40321")  # money, the profile, messaging not switched on
OF_MESSAGE = ("40001", "40012", "40309", "40310")  # no mobile, no number, a region that the profile does not name


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
    if code in OURS or code in OF_SENDER:
        raise Misconfigured(code, of_sender=code in OF_SENDER)
    if code in OF_MESSAGE or (code and answer.status in (400, 422)):
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
