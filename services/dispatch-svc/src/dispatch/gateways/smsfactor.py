"""SMSFactor single sends: JSON, a bearer token (DOMAIN 4.1). `status` 1 is taken; what becomes of a message says the
counts beside it, since ours are of one. `pushtype` marketing gets the STOP mention appended."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dispatch.gateways.gateway import Capabilities, Misconfigured, Refused, Result, SendError, Submit
from dispatch.gateways.provider import (
    Account,
    Answer,
    Request,
    by_status,
    decode,
    digits,
    encode,
    json_headers,
    text_of,
)

URL = "https://api.smsfactor.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(adds_stop=True)

TAKEN = "1"
OURS = ("-1", "-3")  # authentication, credits
REFUSALS = ("invalid", "npai", "duplicated")


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {
        "sms": {
            "message": {
                "text": m.text,
                "sender": m.sender,
                "pushtype": "marketing" if m.category == "marketing" else "alert",
            },
            "recipients": {"gsm": [{"gsmsmsid": m.reference, "value": digits(m.to)}]},
        }
    }
    return Request("/send", json_headers(Authorization=f"Bearer {account.secret}"), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    said = decode(answer)
    status = text_of(said, "status")
    if status in OURS:
        raise Misconfigured(status)
    if status != TAKEN:
        raise Refused(status)
    if said.get("blacklisted"):  # on the account's list: by a STOP, or by hand
        return [Result("rejected", None, "blacklisted", blocked=True)]
    if refused := next((name for name in REFUSALS if said.get(name)), None):
        raise Refused(refused)
    return [Result("accepted", text_of(said, "ticket"), None)]
