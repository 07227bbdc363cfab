"""Vonage SMS API: a form, one message a request; always HTTP 200, with a `status` per part (DOMAIN 4.1, 4.4).

Source: developer.vonage.com, troubleshooting SMS. The id of the first part names the message, the other parts are known
by `client-ref`. Pitfall: 9 is "no credit" here and "opted out" in a DLR.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from common.sms.sms_length import length
from dispatch.gateways.gateway import (
    Capabilities,
    Misconfigured,
    Refused,
    Result,
    SendError,
    Submit,
    Throttled,
    Unanswered,
)
from dispatch.gateways.provider import (
    Account,
    Answer,
    Request,
    by_status,
    decode,
    digits,
    list_of,
    seconds_left,
    text_of,
)

URL = "https://rest.nexmo.com"
NEEDS = ("user", "secret")  # api_key, api_secret
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(echoes_reference=True)

THROTTLED, TOO_MANY_BINDS = "1", "10"
SHORTEST_TTL_MS = 20_000  # Nexmo/api-specification definitions/sms.yml
INTERNAL_ERROR = "5"  # Vonage may have sent the message
BARRED = "7"  # on a list, perhaps by the person's wish
# credentials, suspended, no credit, no HTTP, signature, callback URL, demo numbers, signature and secret in one
OURS = ("4", "8", "9", "11", "14", "23", "29", "32")
OF_SENDER = ("15",)


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    fields = {
        "api_key": account.user,
        "api_secret": account.secret,
        "from": m.sender,
        "to": digits(m.to),
        "text": m.text,
        "type": "text" if length(m.text).encoding == "GSM7" else "unicode",
        "client-ref": m.reference,  # at most 40 characters
        "status-report-req": "1",
    }
    if (seconds := seconds_left(m, now)) is not None:
        fields["ttl"] = str(max(seconds * 1000, SHORTEST_TTL_MS))
    if account.callback_url:
        fields["callback"] = account.callback_url
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    return Request("/sms/json", headers, urlencode(fields).encode())


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    parts = list_of(decode(answer), "messages")
    refused = [status for part in parts if (status := text_of(part, "status")) != "0"]
    if not refused:
        return [Result("accepted", text_of(parts[0], "message-id"), None)]
    if len(refused) < len(parts) or INTERNAL_ERROR in refused:
        raise Unanswered("some parts may have been taken")
    code = refused[0]
    if code in (THROTTLED, TOO_MANY_BINDS):
        raise Throttled(1.0)
    if code in OURS or code in OF_SENDER:
        raise Misconfigured(code, of_sender=code in OF_SENDER)
    if code == BARRED:
        return [Result("rejected", None, code, blocked=True)]
    raise Refused(code)
