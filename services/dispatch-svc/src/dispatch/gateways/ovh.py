"""OVHcloud SMS jobs: JSON, each request signed (DOMAIN 4.1; ovh/python-ovh).

Placet sends jobs of one person, since the ids of an answer do not name their recipient. A job carries no `tag`: a
DLR names the id, and no page says how long a tag may be. The blacklist takes numbers by STOPs alone: the API reads
entries and deletes them (UrielCh/api-ovh-node packages-eu/sms). A wrong signature is a 400, as
are errors of a message; the error code tells them apart. OVH appends the STOP clause to every text not declared
transactional (`noStopClause`; DOMAIN 8.18).
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from msgspec import structs

from common.sms.sms_length import length
from dispatch.gateways.gateway import Capabilities, Misconfigured, Result, SendError, Submit
from dispatch.gateways.provider import (
    Account,
    Answer,
    Request,
    by_status,
    decode,
    encode,
    json_headers,
    list_of,
    minutes_left,
    text_of,
)

URL = "https://eu.api.ovh.com/1.0"
NEEDS = ("user", "secret")  # application key, application secret
OPTIONS: Mapping[str, bool] = {"consumer_key": True, "service": True}
capabilities = Capabilities(adds_stop=True, segments=6)

# our keys, or our clock: OVH accepts a request for some seconds only
OURS = (
    *("INVALID_SIGNATURE", "QUERY_TIME_OUT", "INVALID_CREDENTIAL", "INVALID_KEY"),
    *("NOT_CREDENTIAL", "NOT_GRANTED_CALL"),
)


INVALID_RECEIVER, BLACKLISTED = "invalid_receiver", "blacklisted"


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    minutes = minutes_left(m, now)
    body = encode(
        {
            "receivers": [m.to],
            "message": m.text,
            "sender": m.sender,
            "senderForResponse": False,
            "noStopClause": m.category != "marketing",
            "priority": "medium" if m.category == "marketing" else "high",
            "charset": "UTF-8",
            "coding": "7bit" if length(m.text).encoding == "GSM7" else "8bit",
            **({} if minutes is None else {"validityPeriod": minutes}),
        }
    )
    path = f"/sms/{quote(account.options['service'], safe='')}/jobs"
    return Request(path, _signed("POST", path, body, account, now), body)


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if answer.status == 400 and (code := _code(answer)) in OURS:
        raise Misconfigured(code)
    by_status(answer)
    job = decode(answer)
    if list_of(job, "invalidReceivers"):
        # an invalid number, or one on the blacklist: the answer does not say, see `question`
        return [Result("rejected", None, INVALID_RECEIVER, blocked=True)]
    ids = list_of(job, "ids")
    if not ids:
        raise Misconfigured("no_job")
    return [Result("accepted", str(ids[0]), None)]


def question(message: Submit, result: Result, account: Account, now: datetime) -> Request | None:
    """Ask whether the invalid receiver is on the blacklist, by a STOP (GET /sms/{serviceName}/blacklists/{number})."""
    if result.code != INVALID_RECEIVER:
        return None
    path = f"/sms/{quote(account.options['service'], safe='')}/blacklists/{quote(message.to, safe='+')}"
    return Request(path, _signed("GET", path, b"", account, now), b"", method="GET")


def explained(result: Result, answer: Answer) -> Result:
    """Return an opt-out for a number on the list; a 404 leaves the block."""
    by_status(answer)
    text_of(decode(answer), "number")
    return structs.replace(result, code=BLACKLISTED, opted_out=True, blocked=False)


def _signed(method: str, path: str, body: bytes, account: Account, now: datetime) -> dict[str, str]:
    url = (account.url or URL).rstrip("/") + path
    stamp, consumer = str(int(now.timestamp())), account.options["consumer_key"]
    signed = "+".join((account.secret, consumer, method, url, body.decode(), stamp))
    return json_headers(
        **{
            "X-Ovh-Application": account.user,
            "X-Ovh-Consumer": consumer,
            "X-Ovh-Timestamp": stamp,
            "X-Ovh-Signature": "$1$" + hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest(),
        }
    )


def _code(answer: Answer) -> str:
    """Return the code of an error's body, or "" without a code."""
    try:
        return text_of(decode(answer), "errorCode")
    except (KeyError, ValueError):
        return ""
