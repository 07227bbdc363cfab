"""Octopush SMS campaigns: JSON, API key and login (DOMAIN 4.1; octopush/sms-api).

Placet sends campaigns of one person. Octopush answers a second submit of a `request_id` within 24 h with a validation
error, and sends nothing. No publication tells this error from others, so a message refused after a resubmit stays
`unknown`. Octopush appends the STOP mention to `wholesale` texts, and would rewrite the text by `auto_optimize_text`.
Error codes are unpublished: the HTTP status decides.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dispatch.gateways.gateway import Capabilities, Result, SendError, Submit
from dispatch.gateways.provider import Account, Answer, Request, by_status, decode, encode, json_headers, text_of

URL = "https://api.octopush.com"
NEEDS = ("user", "secret")  # api-login, api-key
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(idempotent=True, adds_stop=True, segments=8)  # 1,224 characters


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {
        "recipients": [{"phone_number": m.to}],
        "text": m.text,
        "type": "sms_premium",
        "purpose": "wholesale" if m.category == "marketing" else "alert",
        "sender": m.sender,
        "with_replies": False,
        "auto_optimize_text": False,
        "request_id": m.reference,
    }
    headers = {"api-login": account.user, "api-key": account.secret}
    return Request("/v1/public/sms-campaign/send", json_headers(**headers), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    [m] = messages
    return [Result("accepted", f"{text_of(decode(answer), 'sms_ticket')}/{m.subject_id}", None)]
