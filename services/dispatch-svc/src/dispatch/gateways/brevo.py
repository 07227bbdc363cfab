"""Brevo transactional SMS: JSON, an API key, one message a request (DOMAIN 4.1).

Source: getbrevo/brevo-php docs/Model/SendSms; developers.brevo.com, transactional SMS endpoints. A marketing text must
hold the STOP mention of its sender. Brevo replaces `[STOP_CODE]` by the short code of the route; Placet never writes
`[STOP_CODE]`, since the gate and the ledger would not know the final text (docs/providers.md says what the account then
needs). DLRs name message id and number.
"""

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
