"""MessageBird messages (rest.messagebird.com): JSON, an access key, one message a request (DOMAIN 4.1).

Fields and the id of an answer: nyaruka/courier handlers/messagebird/handler.go; `validity` in seconds and `datacoding`:
messagebird/python-rest-api messagebird/message.py. Its error codes are published nowhere we could read: the HTTP status
decides. DLRs go to the URL that is set for the account, and name message id and number.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from common.sms.sms_length import length
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
    seconds_left,
    text_of,
)

URL = "https://rest.messagebird.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities()


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body: dict[str, object] = {
        "originator": m.sender,
        "recipients": [digits(m.to)],
        "body": m.text,
        "reference": m.reference,
        "datacoding": "plain" if length(m.text).encoding == "GSM7" else "unicode",
    }
    if (seconds := seconds_left(m, now)) is not None:
        body["validity"] = seconds
    return Request("/messages", json_headers(Authorization=f"AccessKey {account.secret}"), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    [m] = messages
    return [Result("accepted", f"{text_of(decode(answer), 'id')}/{m.subject_id}", None)]
