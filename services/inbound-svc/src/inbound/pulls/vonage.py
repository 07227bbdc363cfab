"""Vonage's Reports API: records of an account's SMS, by direction, with the texts of MOs.

GET /v2/reports/records with `account_id`, `product`, `direction`, `date_start` (from), `date_end` (before, 24 h later
at most) and `include_message`; basic authentication (Nexmo/api-specification definitions/reports.yml). Where an answer
has `_links.next`, the next page is there. Vonage charges for records: ask for `messages` alone where receipts are many.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from inbound.providers import Kind, Message, Receipt, bodies, vonage
from inbound.providers.provider import NUMBER_CHARS, identifier, optional, required, text_of
from inbound.pulls.listing import Ask, Keys, Page, Window, basic, items_at, json_of, path_below, read_each, seconds

URL = "https://api.nexmo.com"
NEEDS = ("user", "secret")  # API key and API secret
OPTIONS: Mapping[str, bool] = {}
KINDS: tuple[Kind, ...] = ("messages", "receipts")

DIRECTIONS: Mapping[Kind, str] = {"messages": "inbound", "receipts": "outbound"}


def headers(keys: Keys, url: str, now: datetime) -> Mapping[str, str]:
    return basic(keys)


def asks(keys: Keys, window: Window, kinds: Sequence[Kind]) -> Sequence[Ask]:
    return [Ask(_path(keys, window, kind), kind) for kind in kinds]


def page(ask: Ask, body: bytes, keys: Keys, window: Window) -> Page:
    fields = bodies.an_object(json_of(body), "body")
    read = _message if ask.about == "messages" else _receipt
    items, unreadable = read_each(items_at(fields, "records"), read)
    links = bodies.an_object(fields.get("_links") or {}, "_links")
    following = bodies.an_object(links.get("next") or {}, "_links.next")
    link = path_below(keys.url or URL, following.get("href"))
    return Page(items, unreadable, Ask(link, ask.about) if link else None)


def _path(keys: Keys, window: Window, kind: Kind) -> str:
    asked = {
        "account_id": keys.user,
        "product": "SMS",
        "direction": DIRECTIONS[kind],
        "date_start": seconds(window.since),
        "date_end": seconds(window.until),
        "include_message": "true" if kind == "messages" else "false",
    }
    return f"/v2/reports/records?{urlencode(asked)}"


def _message(fields: Mapping[str, object]) -> Message:
    return Message(
        provider_message_id=identifier(fields, "message_id"),
        sender=identifier(fields, "from", most=NUMBER_CHARS),
        short_code=identifier(fields, "to", most=NUMBER_CHARS),
        text=text_of(fields, "message_body"),
        sent_at=bodies.zoned(fields, "date_received"),
    )


def _receipt(fields: Mapping[str, object]) -> Receipt:
    return vonage.receipt_of(
        identifier(fields, "message_id"),
        optional(fields, "client_ref"),
        required(fields, "status"),
        optional(fields, "error_code"),
        bodies.zoned(fields, "date_finalized"),
    )
