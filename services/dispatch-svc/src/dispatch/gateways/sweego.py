"""Sweego SMS: JSON, an API key, one message a request (DOMAIN 4.1).

Source: learn.sweego.io, send (docs/sweego/send-send-post), how to send an SMS by API, rules for SMS, error codes;
symfony/symfony, Notifier/Bridge/Sweego. Sweego takes one text for many people, and names each by number in its answer:
each message goes alone, so that no number is compared. Its DLRs name our `campaign-id`. Links stay as they are
(`shorten-urls` is true unless set). Sweego appends the STOP mention to a `market` text to France.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from common.sms.msisdn import territory_of
from dispatch.gateways.gateway import Capabilities, Result, SendError, Submit
from dispatch.gateways.provider import Account, Answer, Request, by_status, decode, encode, json_headers, object_of

URL = "https://api.sweego.io"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {}
capabilities = Capabilities(adds_stop=True, echoes_reference=True)

UNKNOWN = "??"  # `territory_of` an unknown code


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    body = {
        "channel": "sms",
        "provider": "sweego",
        "campaign-type": "market" if m.category == "marketing" else "transac",
        "campaign-id": m.reference,
        "sender-id": m.sender,
        "recipients": [{"num": m.to, "region": _region(m.to)}],
        "message-txt": m.text,
        "shorten-urls": False,
    }
    return Request("/send", json_headers(**{"Api-Key": account.secret}), encode(body))


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    [identity] = object_of(decode(answer), "swg_uids").values()
    if not isinstance(identity, str) or not identity:
        raise ValueError("an id is no text")
    return [Result("accepted", identity, None)]


def _region(number: str) -> str:
    territory = territory_of(number)
    return territory if territory != UNKNOWN else "OTHER"
