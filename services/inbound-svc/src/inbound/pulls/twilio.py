"""Twilio's list of messages: both directions, newest first, with texts.

GET /2010-04-01/Accounts/{sid}/Messages.json with `DateSent>`, `DateSent<`, `To`, `PageSize` (1,000 at most); the next
page is at `next_page_uri`. Times are RFC 2822 (twilio/twilio-python rest/api/v2010/account/message, base/page.py).
The times of the filter are documented as days and sent with seconds, as by Twilio's own client: both are read, since
the page is filtered here again. An MO's `date_created` is its arrival at Twilio.

A campaign's messages are in the same list: `numbers` asks for the MOs to our numbers alone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlencode

from inbound.providers import Kind, Message, Receipt, bodies, twilio
from inbound.providers.provider import NUMBER_CHARS, optional, required, text_of
from inbound.pulls.listing import Ask, Keys, Page, Window, basic, items_at, json_of, path_below, read_each, seconds

URL = "https://api.twilio.com"
NEEDS = ("user", "secret")  # account SID and auth token
OPTIONS: Mapping[str, bool] = {}
KINDS: tuple[Kind, ...] = ("messages", "receipts")

PAGE_SIZE = 1_000
INBOUND = "inbound"
BOTH = "messages receipts"


def headers(keys: Keys, url: str, now: datetime) -> Mapping[str, str]:
    return basic(keys)


def asks(keys: Keys, window: Window, kinds: Sequence[Kind]) -> Sequence[Ask]:
    if "messages" in kinds and keys.numbers:
        mine = [Ask(_path(keys, window, To=number), "messages") for number in keys.numbers]
        return [*mine, Ask(_path(keys, window), "receipts")] if "receipts" in kinds else mine
    return [Ask(_path(keys, window), " ".join(kinds))]


def page(ask: Ask, body: bytes, keys: Keys, window: Window) -> Page:
    fields = bodies.an_object(json_of(body), "body")
    kinds = ask.about.split()

    def read(one: Mapping[str, object]) -> Message | Receipt | None:
        kind = "messages" if one.get("direction") == INBOUND else "receipts"
        at = _time(one, "date_sent") or _time(one, "date_created")
        if kind not in kinds or (at is not None and not window.since <= at <= window.until) or _is_of_a_channel(one):
            return None
        return _message(one) if kind == "messages" else _receipt(one)

    items, unreadable = read_each(items_at(fields, "messages"), read)
    link = path_below(keys.url or URL, fields.get("next_page_uri"))
    return Page(items, unreadable, Ask(link, ask.about) if link else None)


def _path(keys: Keys, window: Window, **more: str) -> str:
    asked = {"DateSent>": seconds(window.since), "DateSent<": seconds(window.until), "PageSize": str(PAGE_SIZE), **more}
    return f"/2010-04-01/Accounts/{quote(keys.user, safe='')}/Messages.json?{urlencode(asked)}"


def _is_of_a_channel(fields: Mapping[str, object]) -> bool:
    """Return whether the message is no SMS: the addresses of other channels have a prefix, "whatsapp:+33…"."""
    return any(":" in value for name in ("from", "to") if isinstance(value := fields.get(name), str))


def _message(fields: Mapping[str, object]) -> Message:
    return Message(
        provider_message_id=required(fields, "sid"),
        sender=required(fields, "from", most=NUMBER_CHARS),
        short_code=required(fields, "to", most=NUMBER_CHARS),
        text=text_of(fields, "body"),
        sent_at=_time(fields, "date_created"),
    )


def _receipt(fields: Mapping[str, object]) -> Receipt:
    return twilio.receipt_of(required(fields, "sid"), required(fields, "status"), optional(fields, "error_code"))


def _time(fields: Mapping[str, object], name: str) -> datetime | None:
    value = fields.get(name)
    try:
        at = parsedate_to_datetime(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None
