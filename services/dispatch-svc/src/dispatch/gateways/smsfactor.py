"""SMSFactor single sends: JSON, a bearer token (DOMAIN 4.1).

Source: dev.smsfactor.com, getting started and campaign. Beside `status` 1, the counts tell the outcome. -8 is a
moderation passed by most campaigns: accepted where the answer names a ticket. SMSFactor appends the STOP mention to
`pushtype` marketing. `unicode` must be set for a UCS-2 text.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from common.sms.sms_length import length
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
    encode,
    json_headers,
    text_of,
)

URL = "https://api.smsfactor.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(adds_stop=True)

TAKEN, MODERATED = "1", "-8"
OURS = ("-1", "-3")  # authentication, credits
REFUSED = ("-2", "-4", "-5", "-6", "-7")  # an unreadable request, or an unknown name in it
REFUSALS = ("invalid", "npai", "duplicated", "flood", "not_allowed", "country_limit")  # counts of refused messages


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {
        "sms": {
            "message": {
                "text": m.text,
                "sender": m.sender,
                "pushtype": "marketing" if m.category == "marketing" else "alert",
                "unicode": int(length(m.text).encoding == "UCS2"),
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
    if status in REFUSED:
        raise Refused(status)
    if status not in (TAKEN, MODERATED):
        raise Unanswered(f"status {status}")
    if _count(said, "blacklisted"):  # on the account's list: by a STOP, or by hand
        return [Result("rejected", None, "blacklisted", blocked=True)]
    if refused := next((name for name in REFUSALS if _count(said, name)), None):
        raise Refused(refused)
    if status == TAKEN and _count(said, "sent") == 0:  # left out under an unknown count
        raise Refused("sent_0")
    return [Result("accepted", text_of(said, "ticket"), None)]


def _count(said: Mapping[str, object], name: str) -> int | None:
    """Return the count, if any. Raise ValueError."""
    return int(text_of(said, name)) if name in said else None
