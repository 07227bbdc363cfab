"""Brevo transactional SMS: JSON, an API key, one message a request (DOMAIN 4.1; getbrevo/brevo-php docs/Model/SendSms).
`type` says what it is; a marketing text must hold its sender's STOP mention. Brevo knows a mention of its own,
`[STOP_CODE]`, which becomes the short code of the route; on some routes that short code takes the sender's name's place
where a marketing text is without it (developers.brevo.com, transactional SMS endpoints). We do not write it: the gate
and the ledger would not know what is said. So the sender's `stop_code` must be that of the route, and the account's
routes such as keep the name: see docs/providers.md. Receipts name message id and number."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from common.sms.sms_length import length
from dispatch.gateways.gateway import Capabilities, Misconfigured, Result, SendError, Submit
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

URL = "https://api.brevo.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities()

NO_CREDITS = b"not_enough_credits"


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {
        "sender": m.sender,
        "recipient": digits(m.to),
        "content": m.text,
        "type": "marketing" if m.category == "marketing" else "transactional",
        "unicodeEnabled": length(m.text).encoding == "UCS2",
        "tag": m.reference,
    }
    if account.callback_url:
        body["webUrl"] = account.callback_url
    return Request("/v3/transactionalSMS/send", json_headers(**{"api-key": account.secret}), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if answer.status == 400 and NO_CREDITS in answer.body:
        raise Misconfigured("not_enough_credits")
    by_status(answer)
    [m] = messages
    return [Result("accepted", f"{text_of(decode(answer), 'messageId')}/{m.subject_id}", None)]
