"""Telnyx messages: JSON, a bearer token, one message a request (DOMAIN 4.1).

A name and a number have each a path of their own (team-telnyx/telnyx-go, message.go). Errors: developers.telnyx.com,
messaging error codes; DOMAIN 4.3. `Idempotency-Key` prevents a second SMS within 24 h only at endpoints whose reference
says so, and the one of names does not (developers.telnyx.com, idempotency). Placet sends the key anyway; an operator
with Telnyx's word sets `idempotent` in the account.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dispatch.gateways.gateway import Capabilities, Misconfigured, Refused, Result, SendError, Submit
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
    text_of,
    throttled,
)

URL = "https://api.telnyx.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {"messaging_profile_id": True}
capabilities = Capabilities()

BLOCKED = "40300"
OF_A_STOP = ("stop message", "block rule")  # words of title and detail: a missing profile has the same code
LATER = ("10011", "40002", "40006", "40318")
OF_SENDER = ("40003", "40013", "40305", "40306", "40307", "40315")  # blocked for good, or absent from this profile
# our callback URL, money, the profile, messaging not switched on
OURS = ("10003", "20100", "40311", "40312", "40313", "40314", "40321")
OF_MESSAGE = ("40001", "40012", "40309", "40310")  # no mobile, no number, a region outside the profile


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
    is_number = m.sender.removeprefix("+").isdecimal()
    path = "/v2/messages" if is_number else "/v2/messages/alphanumeric_sender_id"
    return Request(path, json_headers(**headers), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    code, said = _error(answer)
    if code == BLOCKED:
        if said and not any(words in said for words in OF_A_STOP):
            raise Misconfigured(code)
        return [Result("rejected", None, code, opted_out=bool(said), blocked=not said)]
    if code in LATER:
        raise throttled(answer)
    if code in OURS or code in OF_SENDER:
        raise Misconfigured(code, of_sender=code in OF_SENDER)
    if code in OF_MESSAGE or (code and answer.status in (400, 422)):
        raise Refused(code)
    by_status(answer)
    return [Result("accepted", text_of(object_of(decode(answer), "data"), "id"), None)]


def _error(answer: Answer) -> tuple[str, str]:
    """Return (code, title and detail in lower case) of the first error; empty without an error."""
    if 200 <= answer.status < 300:
        return "", ""
    try:
        error = list_of(decode(answer), "errors")[0]
        code = text_of(error, "code")
    except (KeyError, ValueError, TypeError, IndexError):
        return "", ""
    return code, " ".join(said for said in (error.get("title"), error.get("detail")) if isinstance(said, str)).lower()
