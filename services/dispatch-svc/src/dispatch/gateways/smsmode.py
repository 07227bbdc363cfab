"""smsmode REST: JSON, an API key, one message a request (DOMAIN 4.1).

Source: symfony/symfony, Notifier/Bridge/Smsmode (fields, 201, `messageId`), after dev.smsmode.com/sms/v1. smsmode
publishes no body of its callbacks (inbound.providers.smsmode), so no STOP and no DLR comes: no marketing. Its error
codes and the fate of a character outside GSM 7-bit are published nowhere we could read: the HTTP status decides, and
such a text goes by another gateway unless the account says `unicode`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dispatch.gateways.gateway import Capabilities, Result, SendError, Submit
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

URL = "https://rest.smsmode.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(marketing=False, unicode=False)


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {
        "recipient": {"to": digits(m.to)},
        "body": {"text": m.text},
        "from": m.sender,
        "refClient": m.reference,
    }
    return Request("/sms/v1/messages", json_headers(**{"X-Api-Key": account.secret}), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    return [Result("accepted", text_of(decode(answer), "messageId"), None)]
