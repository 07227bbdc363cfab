"""The lists of MOs and DLRs at providers, strictly by what each documents: keys, parameters, times and pages.

The sources are those that each module of `inbound.pulls` names. A request that the provider would refuse ends in a 4xx,
and a failed pull. `Listed` is what the provider had, whichever callbacks it lost.
"""

import base64
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from aiohttp import web

ON_A_PAGE = 2  # as little as a provider may put on one


@dataclass(frozen=True)
class Listed:
    """An SMS at the provider. `state`: as its DLR has it, "" of an MO."""

    name: str
    sender: str
    to: str
    text: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    state: str = ""


@dataclass
class Lists:
    """A provider's lists. `down`: each request is answered with this status."""

    held: list[Listed] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    down: int | None = None
    url: str = ""

    def within(self, since: datetime, until: datetime, *, mo: bool) -> list[Listed]:
        found = [one for one in self.held if bool(one.state) != mo and since <= one.at < until]
        return sorted(found, key=lambda one: one.at, reverse=True)


Handler = Callable[[Lists, web.Request], Awaitable[web.Response]]


class Wrong(Exception):
    """The provider refuses the request."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


def need(holds: bool, why: str, status: int = 400) -> None:
    if not holds:
        raise Wrong(why, status)


def only(request: web.Request, *names: str) -> dict[str, str]:
    """Return the query, which must have no other names, and none twice."""
    need(len(set(request.query)) == len(request.query), "a parameter twice")
    need(set(request.query) <= set(names), f"unknown parameters {set(request.query) - set(names)}")
    return dict(request.query)


def instant(value: str, form: str = "%Y-%m-%dT%H:%M:%S%z") -> datetime:
    try:
        return datetime.strptime(value, form)  # noqa: DTZ007 each form has %z
    except ValueError as error:
        raise Wrong(f"no time of the form {form}") from error


def known(request: web.Request, user: str, secret: str) -> None:
    given = base64.b64encode(f"{user}:{secret}".encode()).decode()
    need(request.headers.get("Authorization") == f"Basic {given}", "not authorised", 401)


def paged(found: Sequence[Listed], start: int, most: int) -> tuple[Sequence[Listed], int | None]:
    """Return a page, and where the next one starts."""
    end = start + min(most, ON_A_PAGE)
    return found[start:end], end if end < len(found) else None


async def twilio(lists: Lists, request: web.Request) -> web.Response:
    known(request, "AC01", "a-token")
    need(request.path == "/2010-04-01/Accounts/AC01/Messages.json", "no such account", 404)
    asked = only(request, "DateSent>", "DateSent<", "PageSize", "To", "Page", "PageToken")
    need(1 <= int(asked["PageSize"]) <= 1000, "PageSize is 1 to 1000")
    since, until = instant(asked["DateSent>"]), instant(asked["DateSent<"])
    found = [*lists.within(since, until, mo=True), *lists.within(since, until, mo=False)]
    found = [one for one in found if asked.get("To") in (None, one.to)]
    page, following = paged(found, int(asked.get("Page", "0")), int(asked["PageSize"]))
    following_uri = request.rel_url.update_query({"Page": str(following), "PageToken": "PA"}) if following else None
    messages = [
        {
            "sid": one.name,
            "account_sid": "AC01",
            "from": one.sender,
            "to": one.to,
            "body": one.text,
            "direction": "outbound-api" if one.state else "inbound",
            "status": one.state or "received",
            "error_code": 30003 if one.state == "undelivered" else None,
            "date_created": format_datetime(one.at),
            "date_sent": format_datetime(one.at),
            "num_segments": "1",
        }
        for one in page
    ]
    return web.json_response(
        {"messages": messages, "next_page_uri": str(following_uri) if following_uri else None, "page_size": 2}
    )


async def vonage(lists: Lists, request: web.Request) -> web.Response:
    known(request, "abcd1234", "a-secret")
    need(request.path == "/v2/reports/records", "no such page", 404)
    names = ("account_id", "product", "direction", "date_start", "date_end", "include_message", "cursor", "iv")
    asked = only(request, *names)
    need(asked["account_id"] == "abcd1234" and asked["product"] == "SMS", "no such account or product", 403)
    since, until = instant(asked["date_start"]), instant(asked["date_end"])
    need((until - since).total_seconds() <= 24 * 3600, "more than 24 hours", 422)
    mo = {"inbound": True, "outbound": False}[asked["direction"]]
    page, following = paged(lists.within(since, until, mo=mo), int(asked.get("cursor", "0")), 1000)
    links: dict[str, Any] = {"self": {"href": str(request.url)}}
    if following:
        links["next"] = {"href": str(request.url.update_query({"cursor": str(following), "iv": "aa"}))}
    records = [_record(one, text=asked["include_message"] == "true") for one in page]
    return web.json_response({"_links": links, "request_status": "SUCCESS", "items_count": 2, "records": records})


def _record(one: Listed, *, text: bool) -> dict[str, Any]:
    at = one.at.strftime("%Y-%m-%dT%H:%M:%S+0000")
    return {
        "account_id": "abcd1234",
        "message_id": one.name,
        "from": one.sender.removeprefix("+"),
        "to": one.to.removeprefix("+"),
        "direction": "outbound" if one.state else "inbound",
        "date_received": at,
        **({"message_body": one.text} if text else {}),
        **({"status": one.state, "error_code": "0", "date_finalized": at, "client_ref": "r1"} if one.state else {}),
    }


async def infobip(lists: Lists, request: web.Request) -> web.Response:
    need(request.headers.get("Authorization") == "App a-key", "not authorised", 401)
    form = "%Y-%m-%dT%H:%M:%S.%f%z"
    if request.path == "/sms/1/inbox/logs":
        asked = only(request, "receivedSince", "receivedUntil", "limit", "to", "keyword")
        need(1 <= int(asked["limit"]) <= 1000, "limit is 1 to 1000")
        found = lists.within(instant(asked["receivedSince"], form), instant(asked["receivedUntil"], form), mo=True)
        results = [
            {
                "messageId": one.name,
                "from": one.sender.removeprefix("+"),
                "to": one.to,
                "text": one.text,
                "cleanText": "",
                "keyword": "STOP",
                "receivedAt": one.at.isoformat(timespec="milliseconds"),
                "smsCount": 1,
            }
            for one in found[: int(asked["limit"])]
        ]
        return web.json_response({"results": results})
    need(request.path == "/sms/3/logs", "no such page", 404)
    asked = only(request, "sentSince", "sentUntil", "limit", "useCursor", "cursor")
    need(asked["useCursor"] == "true" and 1 <= int(asked["limit"]) <= 1000, "limit is 1 to 1000")
    found = lists.within(instant(asked["sentSince"], form), instant(asked["sentUntil"], form), mo=False)
    page, following = paged(found, int(asked.get("cursor", "0")), int(asked["limit"]))
    results = [
        {
            "messageId": one.name,
            "sender": one.sender,
            "destination": one.to.removeprefix("+"),
            "sentAt": one.at.isoformat(timespec="milliseconds"),
            "doneAt": one.at.isoformat(timespec="milliseconds"),
            "status": {"groupId": 3, "groupName": "DELIVERED", "id": 5, "name": "DELIVERED_TO_HANDSET"},
            "error": {"groupId": 0, "groupName": "OK", "id": 0, "name": "NO_ERROR", "permanent": False},
        }
        for one in page
    ]
    return web.json_response({"results": results, "cursor": {"limit": 2, "nextCursor": following and str(following)}})


async def sinch(lists: Lists, request: web.Request) -> web.Response:
    need(request.headers.get("Authorization") == "Bearer a-token", "not authorised", 401)
    asked = only(request, "start_date", "end_date", "page", "page_size", "to", "client_reference", "status", "code")
    need(1 <= int(asked["page_size"]) <= 100, "page_size is 1 to 100")
    since, until = instant(asked["start_date"]), instant(asked["end_date"])
    mo = request.path == "/xms/v1/plan-1/inbounds"
    need(mo or request.path == "/xms/v1/plan-1/delivery_reports", "no such page", 404)
    found = lists.within(since, until, mo=mo)
    start = int(asked["page"]) * int(asked["page_size"])
    page = found[start : start + int(asked["page_size"])]
    listed = [_inbound(one) if mo else _report(one) for one in page]
    name = "inbounds" if mo else "delivery_reports"
    return web.json_response(
        {"count": len(found), "page": int(asked["page"]), "page_size": int(asked["page_size"]), name: listed}
    )


def _inbound(one: Listed) -> dict[str, Any]:
    return {
        "type": "mo_text",
        "id": one.name,
        "from": one.sender.removeprefix("+"),
        "to": one.to,
        "body": one.text,
        "received_at": one.at.isoformat(timespec="milliseconds"),
        "operator_id": "20801",
    }


def _report(one: Listed) -> dict[str, Any]:
    return {
        "type": "recipient_delivery_report_sms",
        "batch_id": one.name,
        "recipient": one.to.removeprefix("+"),
        "code": 0,
        "status": one.state,
        "at": one.at.isoformat(timespec="milliseconds"),
    }


async def ovh(lists: Lists, request: web.Request) -> web.Response:
    stamp = request.headers["X-Ovh-Timestamp"]
    signed = "+".join(("as", "ck", "GET", str(request.url.with_query(None)) + f"?{request.query_string}", "", stamp))
    signed = signed.replace(f"?{request.query_string}", "?" + request.raw_path.partition("?")[2])
    mac = hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest()
    need(request.headers["X-Ovh-Signature"] == f"$1${mac}" and abs(time.time() - int(stamp)) < 60, "signature", 403)
    need(request.headers["X-Ovh-Application"] == "ak" and request.headers["X-Ovh-Consumer"] == "ck", "key", 403)
    need(request.path == "/1.0/sms/sms-ab1-1/outgoing", "no such page", 404)
    asked = only(request, "creationDatetime.from", "creationDatetime.to", "ptt", "deliveryReceipt", "receiver", "tag")
    since, until = (instant(asked[f"creationDatetime.{end}"], "%Y-%m-%dT%H:%M:%S%z") for end in ("from", "to"))
    found = lists.within(since, until, mo=False)
    return web.json_response([int(one.name) for one in found if one.state == asked["ptt"]])


async def plivo(lists: Lists, request: web.Request) -> web.Response:
    known(request, "MA01", "a-token")
    need(request.path == "/v1/Account/MA01/Message/", "no such account", 404)
    times = ("message_time__gte", "message_time__lt")
    asked = only(request, "message_direction", "message_state", *times, "limit", "offset")
    need(1 <= int(asked["limit"]) <= 20, "limit is 1 to 20")
    since, until = (instant(f"{asked[name]}+0000", "%Y-%m-%d %H:%M:%S%z") for name in times)
    mo = {"inbound": True, "outbound": False}[asked["message_direction"]]
    found = [one for one in lists.within(since, until, mo=mo) if (one.state or "undelivered") == asked["message_state"]]
    offset = int(asked["offset"])
    page, following = paged(found, offset, int(asked["limit"]))
    objects = [
        {
            "message_uuid": one.name,
            "message_direction": asked["message_direction"],
            "message_state": one.state or "undelivered",
            "message_time": one.at.isoformat(sep=" "),
            "message_type": "sms",
            "from_number": one.sender.removeprefix("+"),
            "to_number": one.to.removeprefix("+"),
            "error_code": "000",
        }
        for one in page
    ]
    link = str(request.rel_url.update_query(offset=str(following))) if following else None
    meta = {"limit": int(asked["limit"]), "offset": offset, "next": link, "previous": None}
    return web.json_response({"api_id": "a", "meta": meta, "objects": objects})


async def telnyx(lists: Lists, request: web.Request) -> web.Response:
    need(request.headers.get("Authorization") == "Bearer a-key", "not authorised", 401)
    need(request.path == "/v2/webhook_deliveries", "no such page", 404)
    times = ("filter[started_at][gte]", "filter[started_at][lte]")
    asked = only(request, "filter[status][eq]", *times, "page[number]", "page[size]")
    need(asked["filter[status][eq]"] == "failed", "status is failed here")
    since, until = (instant(asked[name]) for name in times)
    found = [*lists.within(since, until, mo=True), *lists.within(since, until, mo=False)]
    number = int(asked["page[number]"])
    page, _ = paged(found, (number - 1) * ON_A_PAGE, int(asked["page[size]"]))
    data = [{"record_type": "webhook_delivery", "status": "failed", "webhook": _event(one)} for one in page]
    pages = -(-len(found) // ON_A_PAGE)
    return web.json_response({"data": data, "meta": {"page_number": number, "page_size": 2, "total_pages": pages}})


def _event(one: Listed) -> dict[str, Any]:
    return {
        "record_type": "event",
        "id": f"e-{one.name}",
        "event_type": "message.finalized" if one.state else "message.received",
        "occurred_at": one.at.isoformat(timespec="milliseconds"),
        "payload": {
            "id": one.name,
            "record_type": "message",
            "from": {"phone_number": one.sender},
            "to": [{"phone_number": one.to, "status": one.state or "webhook_delivered"}],
            "text": one.text,
            "errors": [],
        },
    }


PROVIDERS: dict[str, Handler] = {
    "infobip": infobip,
    "ovh": ovh,
    "plivo": plivo,
    "sinch": sinch,
    "telnyx": telnyx,
    "twilio": twilio,
    "vonage": vonage,
}
KEYS: dict[str, dict[str, Any]] = {
    "infobip": {"secret": "a-key"},
    "ovh": {"user": "ak", "secret": "as", "options": {"consumer_key": "ck", "service": "sms-ab1-1"}},
    "plivo": {"user": "MA01", "secret": "a-token"},
    "sinch": {"user": "plan-1", "secret": "a-token"},
    "telnyx": {"secret": "a-key"},
    "twilio": {"user": "AC01", "secret": "a-token"},
    "vonage": {"user": "abcd1234", "secret": "a-secret"},
}


@asynccontextmanager
async def serving(provider: str, lists: Lists) -> AsyncIterator[Lists]:
    """Serve a provider's lists on a free port of this machine."""

    async def answer(request: web.Request) -> web.Response:
        lists.asked.append(request.path_qs)
        if lists.down is not None:
            return web.json_response({"message": "down"}, status=lists.down, headers={"Retry-After": "0"})
        try:
            return await PROVIDERS[provider](lists, request)
        except (Wrong, KeyError, ValueError) as wrong:
            lists.refused.append(f"{type(wrong).__name__}: {wrong}")
            return web.json_response({"message": "refused"}, status=wrong.status if isinstance(wrong, Wrong) else 400)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    lists.url = f"http://127.0.0.1:{runner.addresses[0][1]}" + ("/1.0" if provider == "ovh" else "")
    try:
        yield lists
    finally:
        await runner.cleanup()
