"""Telnyx's list of webhook deliveries: the events whose every attempt failed, as they would have come.

GET /v2/webhook_deliveries with `filter[status][eq]`, `filter[started_at][gte]` and `[lte]`, `page[number]` from 1 and
`page[size]`; a delivery has the event as `webhook` (developers.telnyx.com/api-reference/webhooks/
list-webhook-deliveries). The list holds the events of every product; the pull takes the events of messages. Message
records (`/v2/detail_records`) have no texts.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from inbound.providers import Kind, Message, Receipt, bodies, telnyx
from inbound.pulls.listing import Ask, Keys, Page, Window, items_at, json_of, read_each, seconds

URL = "https://api.telnyx.com"
NEEDS = ("secret",)  # API key
OPTIONS: Mapping[str, bool] = {}
KINDS: tuple[Kind, ...] = ("messages", "receipts")

PAGE_SIZE = 100
OF_SMS = "message."  # the events of messages


def headers(keys: Keys, url: str, now: datetime) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {keys.secret}", "Accept": "application/json"}


def asks(keys: Keys, window: Window, kinds: Sequence[Kind]) -> Sequence[Ask]:
    return [_ask(window, " ".join(kinds), 1)]


def page(ask: Ask, body: bytes, keys: Keys, window: Window) -> Page:
    fields = bodies.an_object(json_of(body), "body")
    kinds = ask.about.split()

    def read(delivery: Mapping[str, object]) -> Message | Receipt | None:
        event = bodies.object_at(delivery, "webhook")
        kind = event.get("event_type")
        if not isinstance(kind, str) or not kind.startswith(OF_SMS):
            return None
        if kind == telnyx.RECEIVED:
            return next(iter(telnyx.messages_of(event)), None) if "messages" in kinds else None
        return next(iter(telnyx.receipts_of(event)), None) if "receipts" in kinds else None

    items, unreadable = read_each(items_at(fields, "data"), read)
    meta = bodies.object_at(fields, "meta")
    number, pages = meta.get("page_number"), meta.get("total_pages")
    more = isinstance(number, int) and isinstance(pages, int) and number < pages
    return Page(items, unreadable, _ask(window, ask.about, int(str(number)) + 1) if more else None)


def _ask(window: Window, about: str, number: int) -> Ask:
    asked = {
        "filter[status][eq]": "failed",
        "filter[started_at][gte]": seconds(window.since),
        "filter[started_at][lte]": seconds(window.until),
        "page[number]": str(number),
        "page[size]": str(PAGE_SIZE),
    }
    return Ask(f"/v2/webhook_deliveries?{urlencode(asked)}", about)
