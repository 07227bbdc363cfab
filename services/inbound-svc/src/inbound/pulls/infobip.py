"""Infobip's logs of MOs and of outbound SMS, which may be read again for 48 h.

GET /sms/1/inbox/logs with `receivedSince`, `receivedUntil`, `limit` (infobip/infobip-api-php-client, mo/logs: an
earlier client of Infobip's; the present one has no log of MOs); GET /sms/3/logs with `sentSince`, `sentUntil`, `limit`
and a cursor, 1,000 entries at most (infobip.com/docs/api/channels/sms/logs-and-status-reports; PyPI
infobip-api-python-client 6.0.0, api/sms_api.py). The reports (`/inbox/reports`, `/reports`) give each item once, and a
lost answer would lose a STOP: the pull asks for logs alone.

The log of MOs has no cursor: a full page is followed by what came before its oldest MO.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import urlencode

from inbound.providers import Kind, Message, Receipt, Unreadable, bodies, infobip
from inbound.pulls.listing import Ask, Keys, Page, Window, items_at, json_of, read_each

URL = ""  # each customer has a URL of their own
NEEDS = ("url", "secret")
OPTIONS: Mapping[str, bool] = {}
KINDS: tuple[Kind, ...] = ("messages", "receipts")

LIMIT = 1_000


def headers(keys: Keys, url: str, now: datetime) -> Mapping[str, str]:
    return {"Authorization": f"App {keys.secret}", "Accept": "application/json"}


def asks(keys: Keys, window: Window, kinds: Sequence[Kind]) -> Sequence[Ask]:
    firsts = {"messages": _inbox(window, window.until), "receipts": _sent(window)}
    return [firsts[kind] for kind in kinds]


def page(ask: Ask, body: bytes, keys: Keys, window: Window) -> Page:
    fields = bodies.an_object(json_of(body), "body")
    results = items_at(fields, "results")
    if ask.about == "receipts":
        items, unreadable = read_each(results, _receipt)
        cursor = bodies.an_object(fields.get("cursor") or {}, "cursor").get("nextCursor")
        return Page(items, unreadable, _sent(window, cursor) if isinstance(cursor, str) and cursor else None)
    items, unreadable = read_each(results, _message)
    return Page(items, unreadable, _before(results, ask, window) if len(results) >= LIMIT else None)


def _before(results: Sequence[object], ask: Ask, window: Window) -> Ask:
    """Return the page behind a full one. Raises Unreadable where the time of the oldest MO leads nowhere."""
    times = [at for one in results if isinstance(one, dict) and (at := bodies.zoned(one, "receivedAt"))]
    behind = _inbox(window, min(times)) if times else ask
    if behind == ask:
        raise Unreadable("a full page of MOs has no earlier one")
    return behind


def _inbox(window: Window, until: datetime) -> Ask:
    asked = {"receivedSince": _stamp(window.since), "receivedUntil": _stamp(until), "limit": str(LIMIT)}
    return Ask(f"/sms/1/inbox/logs?{urlencode(asked)}", "messages")


def _sent(window: Window, cursor: str | None = None) -> Ask:
    asked = {"sentSince": _stamp(window.since), "sentUntil": _stamp(window.until), "limit": str(LIMIT)}
    asked |= {"useCursor": "true"} | ({"cursor": cursor} if cursor else {})
    return Ask(f"/sms/3/logs?{urlencode(asked)}", "receipts")


def _message(fields: Mapping[str, object]) -> Message:
    return infobip.message_of(fields, "")


def _receipt(fields: Mapping[str, object]) -> Receipt:
    return infobip.receipt_of(fields, "")


def _stamp(at: datetime) -> str:
    """Return a time as yyyy-MM-dd'T'HH:mm:ss.SSSZ, Infobip's form."""
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}+0000"
