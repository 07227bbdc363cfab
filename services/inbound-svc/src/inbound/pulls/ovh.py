"""OVHcloud's list of sent SMS, by result: one list of ids for each final `ptt`.

GET /sms/{serviceName}/outgoing with `creationDatetime.from`, `creationDatetime.to` and `ptt` gives the ids of the SMS
with this result, all on one page (api.ovh.com, /sms; UrielCh/api-ovh-node packages-eu/sms). No page says whether such
an id is the job's; a DLR of another id tells of no message of ours. MOs: `ovh_messages`.

A request is signed as `ovh_messages` says.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from inbound.providers import Kind, Unreadable, ovh
from inbound.pulls.listing import FINAL, Ask, Keys, Listed, Page, Window, json_of

URL = "https://eu.api.ovh.com/1.0"
NEEDS = ("user", "secret")  # application key and application secret
OPTIONS: Mapping[str, bool] = {"consumer_key": True, "service": True}
KINDS: tuple[Kind, ...] = ("receipts",)

RESULTS = tuple(ptt for ptt, state in ovh.STATES.items() if state in FINAL)


def headers(keys: Keys, url: str, now: datetime) -> Mapping[str, str]:
    """Return the signed headers of a GET."""
    stamp, consumer = str(int(now.timestamp())), keys.options["consumer_key"]
    signed = "+".join((keys.secret, consumer, "GET", url, "", stamp))
    return {
        "X-Ovh-Application": keys.user,
        "X-Ovh-Consumer": consumer,
        "X-Ovh-Timestamp": stamp,
        # chosen by OVHcloud
        "X-Ovh-Signature": "$1$" + hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest(),
    }


def asks(keys: Keys, window: Window, kinds: Sequence[Kind]) -> Sequence[Ask]:
    service = quote(keys.options["service"], safe="")
    span = {"creationDatetime.from": _stamp(window.since), "creationDatetime.to": _stamp(window.until)}
    return [Ask(f"/sms/{service}/outgoing?{urlencode({**span, 'ptt': ptt})}", ptt) for ptt in RESULTS]


def page(ask: Ask, body: bytes, keys: Keys, window: Window) -> Page:
    ids = json_of(body)
    if not isinstance(ids, list):
        raise Unreadable("the list of SMS is no list")
    read = [str(one) for one in ids if isinstance(one, int) and not isinstance(one, bool)]
    state = ovh.STATES[ask.about]
    items = [
        Listed(ovh.receipt_of(one, ask.about, state), f'{{"id":{one},"ptt":{ask.about}}}'.encode()) for one in read
    ]
    return Page(items, len(ids) - len(read))


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
