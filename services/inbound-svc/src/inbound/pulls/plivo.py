"""Plivo's message records: both directions, without texts.

GET /v1/Account/{id}/Message/ with `message_direction`, `message_state`, `message_time__gte`, `message_time__lt`
(YYYY-MM-DD hh:mm:ss), `limit` (20 at most) and `offset`; the next page is at `meta.next` (plivo/plivo-python
resources/messages.py, plivo.com/docs/messaging/api/messages). A record keeps no text, so an MO that no callback told is
a person who may have said STOP: the MO goes to review. The pull asks for `undelivered` MOs alone: our URL refused each
of them (plivo.com/docs, the message object).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from inbound.providers import Kind, Message, Receipt, bodies, plivo
from inbound.providers.provider import NUMBER_CHARS, identifier, optional, required
from inbound.pulls.listing import Ask, Keys, Page, Window, basic, items_at, json_of, path_below, read_each

URL = "https://api.plivo.com"
NEEDS = ("user", "secret")  # auth id and auth token
OPTIONS: Mapping[str, bool] = {}
KINDS: tuple[Kind, ...] = ("messages", "receipts")

LIMIT = 20
RECEIPT_STATES = ("delivered", "undelivered", "failed", "rejected")


def headers(keys: Keys, url: str, now: datetime) -> Mapping[str, str]:
    return basic(keys)


def asks(keys: Keys, window: Window, kinds: Sequence[Kind]) -> Sequence[Ask]:
    found = []
    if "messages" in kinds:
        found.append(Ask(_path(keys, window, "inbound", "undelivered"), "messages"))
    if "receipts" in kinds:
        found += [Ask(_path(keys, window, "outbound", state), "receipts") for state in RECEIPT_STATES]
    return found


def page(ask: Ask, body: bytes, keys: Keys, window: Window) -> Page:
    fields = bodies.an_object(json_of(body), "body")
    textless = ask.about == "messages"
    items, unreadable = read_each(items_at(fields, "objects"), _message if textless else _receipt, textless=textless)
    link = path_below(keys.url or URL, bodies.object_at(fields, "meta").get("next"))
    return Page(items, unreadable, Ask(link, ask.about) if link else None)


def _path(keys: Keys, window: Window, direction: str, state: str) -> str:
    asked = {
        "message_direction": direction,
        "message_state": state,
        "message_time__gte": _stamp(window.since),
        "message_time__lt": _stamp(window.until),
        "limit": str(LIMIT),
        "offset": "0",
    }
    return f"/v1/Account/{quote(keys.user, safe='')}/Message/?{urlencode(asked)}"


def _message(fields: Mapping[str, object]) -> Message:
    return Message(
        provider_message_id=required(fields, "message_uuid"),
        sender=identifier(fields, "from_number", most=NUMBER_CHARS),
        short_code=identifier(fields, "to_number", most=NUMBER_CHARS),
        text="",
        sent_at=None,
    )


def _receipt(fields: Mapping[str, object]) -> Receipt:
    return plivo.receipt_of(
        required(fields, "message_uuid"), required(fields, "message_state"), optional(fields, "error_code"), None
    )


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
