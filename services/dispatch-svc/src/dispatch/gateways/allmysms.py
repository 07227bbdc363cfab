"""AllMySMS single sends: JSON, login and API key, one message a request (DOMAIN 4.1).

Source: symfony/symfony, Notifier/Bridge/AllMySms (path, fields, 201, `smsId`, `code`); osimatic/helpers-php,
src/Messaging/AllMySms.php (the codes, 640 characters). How its DLRs and MOs come is published nowhere we could read
(davaxi/AllMySMS names fields, no request), so no STOP comes: no marketing. What it does with a character
outside GSM 7-bit is not written either.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

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
    basic,
    by_status,
    decode,
    digits,
    encode,
    json_headers,
    text_of,
)

URL = "https://api.allmysms.com"
NEEDS = ("user", "secret")  # login, API key
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(marketing=False, unicode=False, segments=4)

TAKEN = ("100", "101")
OURS = ("102", "103", "104", "108", "118")  # credentials, credits, account
REFUSED = ("105", "106", "107", "109", "110", "111", "112", "113", "114", "115", "117")


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {"from": m.sender, "to": digits(m.to), "text": m.text, "cliMsgId": m.reference}
    return Request("/sms/send/", json_headers(Authorization=basic(account)), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    try:
        said = decode(answer)
        code = text_of(said, "code")
    except (KeyError, ValueError):
        by_status(answer)
        raise
    if code in OURS:
        raise Misconfigured(code)
    if code in REFUSED:
        raise Refused(code)
    by_status(answer)
    if code not in TAKEN:
        raise Unanswered(f"code {code}")
    return [Result("accepted", text_of(said, "smsId"), None)]
