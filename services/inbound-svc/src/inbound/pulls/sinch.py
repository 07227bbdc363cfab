"""Sinch's lists of MOs and of delivery reports, each by page.

GET /xms/v1/{plan}/inbounds and /xms/v1/{plan}/delivery_reports with `start_date`, `end_date`, `page` from 0 and
`page_size` (100 at most); an answer has `count`, of all pages. MOs are kept for 14 days
(developers.sinch.com/docs/sms/api-reference, Inbounds; sinch/sinch-sdk-python domains/sms/models/v1/internal). The
items are those of the callbacks.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote, urlencode

from inbound.providers import Kind, WrongField, bodies, sinch
from inbound.pulls.listing import Ask, Keys, Page, Window, items_at, json_of, read_each, seconds

URL = "https://eu.sms.api.sinch.com"
NEEDS = ("user", "secret")  # service plan and its token
OPTIONS: Mapping[str, bool] = {}
KINDS: tuple[Kind, ...] = ("messages", "receipts")

PAGE_SIZE = 100
LISTS: Mapping[str, str] = {"messages": "inbounds", "receipts": "delivery_reports"}


def headers(keys: Keys, url: str, now: datetime) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {keys.secret}", "Accept": "application/json"}


def asks(keys: Keys, window: Window, kinds: Sequence[Kind]) -> Sequence[Ask]:
    return [_ask(keys, window, kind, 0) for kind in kinds]


def page(ask: Ask, body: bytes, keys: Keys, window: Window) -> Page:
    fields = bodies.an_object(json_of(body), "body")
    read = sinch.message_of if ask.about == "messages" else sinch.receipt_of
    listed = items_at(fields, LISTS[ask.about])
    items, unreadable = read_each(listed, read)
    count, number = fields.get("count"), fields.get("page")
    if not isinstance(count, int) or not isinstance(number, int):
        raise WrongField("count", "not_a_number")
    more = bool(listed) and (number + 1) * PAGE_SIZE < count
    return Page(items, unreadable, _ask(keys, window, ask.about, number + 1) if more else None)


def _ask(keys: Keys, window: Window, kind: str, number: int) -> Ask:
    asked = {
        "start_date": seconds(window.since),
        "end_date": seconds(window.until),
        "page": str(number),
        "page_size": str(PAGE_SIZE),
    }
    return Ask(f"/xms/v1/{quote(keys.user, safe='')}/{LISTS[kind]}?{urlencode(asked)}", kind)
