"""Providers' lists, read: what they ask, which items they give, and that our keys go to the provider alone."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from inbound.providers import Account, Message, Receipt, Unreadable, WrongField
from inbound.pulls import LISTINGS, Keys, infobip, over_http, ovh, twilio, vonage
from inbound.pulls.listing import Ask, Window, path_below
from inbound.pulls.over_http import Refused
from inbound.service import PullSettings
from tests.support.operators.lists import KEYS

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(hours=6), NOW)
MO = {"sid": "SM1", "from": "+33639980001", "to": "36111", "body": "STOP", "direction": "inbound", "status": "received"}


def keys_of(provider: str) -> Keys:
    given = dict(KEYS[provider])
    return Keys(url="https://api.example.com" if provider == "infobip" else None, **given)


def answer(body: object) -> bytes:
    return json.dumps(body).encode()


def sms(**more: Any) -> dict[str, Any]:
    at = "Sun, 29 Nov 2026 11:00:00 +0000"
    return {**MO, "date_sent": at, "date_created": at, "error_code": None, **more}


BOTH = Ask("/", "messages receipts")


def twilios(*messages: object, uri: object = None) -> bytes:
    return answer({"messages": list(messages), "next_page_uri": uri})


def test_an_mo_and_a_receipt_are_those_of_callbacks() -> None:
    sent = sms(sid="SM2", direction="outbound-api", status="undelivered", error_code=21610)
    page = twilio.page(BOTH, twilios(sms(), sent), keys_of("twilio"), WINDOW)
    mo, dlr = (each.item for each in page.items)
    assert mo == Message("SM1", "+33639980001", "36111", "STOP", datetime(2026, 11, 29, 11, tzinfo=UTC))
    assert dlr == Receipt("SM2", None, "opted_out", "21610", None)


@pytest.mark.parametrize("state", ["queued", "sending", "sent", "scheduled", "something new"])
def test_a_state_that_may_change_is_left_out(state: str) -> None:
    page = twilio.page(BOTH, twilios(sms(sid="SM2", direction="outbound-api", status=state)), keys_of("twilio"), WINDOW)
    assert page.items == []


@pytest.mark.parametrize("at", ["Sun, 29 Nov 2026 05:59:59 +0000", "Sun, 29 Nov 2026 12:00:01 +0000"])
def test_twilio_may_give_the_whole_day(at: str) -> None:
    assert twilio.page(BOTH, twilios(sms(date_sent=at)), keys_of("twilio"), WINDOW).items == []


def test_another_channel_of_twilio_is_no_sms() -> None:
    page = twilio.page(BOTH, twilios(sms(**{"from": "whatsapp:+33639980001"})), keys_of("twilio"), WINDOW)
    assert page.items == []


def test_an_item_that_cannot_be_read_loses_no_other() -> None:
    page = twilio.page(BOTH, twilios(sms(sid=None), "no object", sms()), keys_of("twilio"), WINDOW)
    assert [each.item.provider_message_id for each in page.items] == ["SM1"]
    assert page.unreadable == 2


def test_the_next_page_of_twilio_is_below_its_url() -> None:
    uri = "/2010-04-01/Accounts/AC01/Messages.json?Page=1&PageToken=PA1"
    assert twilio.page(BOTH, twilios(uri=uri), keys_of("twilio"), WINDOW).following == Ask(uri, BOTH.about)


@pytest.mark.parametrize(
    "link",
    [
        "https://elsewhere.example/v2/reports/records?cursor=1",
        "http://api.nexmo.com/v2/reports/records",
        "//elsewhere.example/",
        7,
    ],
)
def test_keys_go_to_the_provider_alone(link: object) -> None:
    with pytest.raises(WrongField):
        path_below("https://api.nexmo.com", link)
    body = answer({"records": [], "_links": {"next": {"href": link}}})
    with pytest.raises(WrongField):
        vonage.page(Ask("/", "messages"), body, keys_of("vonage"), WINDOW)


def test_a_link_below_a_path_keeps_its_query() -> None:
    assert path_below("https://x.example/1.0", "https://x.example/1.0/sms?a=1") == "/sms?a=1"
    with pytest.raises(WrongField):
        path_below("https://x.example/1.0", "https://x.example/2.0/sms")


def test_a_full_page_of_infobip_is_followed_by_what_came_before() -> None:
    mos = [
        {
            "messageId": f"m{n}",
            "from": "33639980001",
            "to": "36111",
            "text": "bonjour",
            "receivedAt": (NOW - timedelta(seconds=n + 1)).isoformat(),
        }
        for n in range(infobip.LIMIT)
    ]
    [first] = infobip.asks(keys_of("infobip"), WINDOW, ["messages"])
    page = infobip.page(first, answer({"results": mos}), keys_of("infobip"), WINDOW)
    assert page.following is not None
    asked = parse_qs(urlsplit(page.following.path).query)
    assert asked["receivedUntil"] == ["2026-11-29T11:43:20.000+0000"]
    assert infobip.page(first, answer({"results": mos[1:]}), keys_of("infobip"), WINDOW).following is None
    at_once = [{**mo, "receivedAt": NOW.isoformat()} for mo in mos]
    with pytest.raises(Unreadable):
        infobip.page(first, answer({"results": at_once}), keys_of("infobip"), WINDOW)


def test_ovh_is_asked_about_each_final_result() -> None:
    asks = ovh.asks(keys_of("ovh"), WINDOW, ["receipts"])
    assert {ask.about for ask in asks} == {"4", "5", "8", "20", "21", "23", "27", "28", "29", "33"}
    [barred] = ovh.page(Ask("/", "23"), b"[7001]", keys_of("ovh"), WINDOW).items
    assert barred.item == Receipt("7001", None, "failed", "23", None, blocked=True)


@pytest.mark.parametrize("provider", LISTINGS)
@pytest.mark.parametrize("body", [b"", b"[", b"null", b"[[]]", b'"x"', b"{}", b'{"meta": 1}', b"\xff", b"[" * 100_000])
def test_a_page_that_is_none_is_refused(provider: str, body: bytes) -> None:
    listing = LISTINGS[provider]
    ask = listing.asks(keys_of(provider), WINDOW, listing.KINDS)[0]
    if provider == "ovh" and body == b"[[]]":
        assert listing.page(ask, body, keys_of(provider), WINDOW).unreadable == 1
        return
    with pytest.raises((Unreadable, WrongField)):
        listing.page(ask, body, keys_of(provider), WINDOW)


@pytest.mark.parametrize("provider", LISTINGS)
def test_no_secret_and_no_number_is_printed(provider: str) -> None:
    keys = Keys(**KEYS[provider])
    listing = LISTINGS[provider]
    printed = repr((keys, listing.asks(Keys(**KEYS[provider], numbers=("36111",)), WINDOW, listing.KINDS)))
    assert keys.secret not in printed
    assert "36111" not in printed


# --- settings


@pytest.mark.parametrize(
    ("provider", "given", "why"),
    [
        ("brevo", {"secret": "x"}, "brevo has no list to pull"),
        ("twilio", {"user": "AC01"}, "the pull of twilio needs secret"),
        ("infobip", {"secret": "x"}, "the pull of infobip needs url"),
        ("ovh", {"user": "ak", "secret": "as", "options": {"service": "s"}}, "needs the options consumer_key"),
        ("twilio", {"user": "AC01", "secret": "x", "options": {"service": "s"}}, "has no option service"),
        ("ovh", {**KEYS["ovh"], "kinds": ["messages"]}, "the list of ovh has no messages"),
    ],
)
def test_a_pull_that_could_not_ask_is_refused_at_the_start(provider: str, given: dict[str, Any], why: str) -> None:
    assert why in (PullSettings(**given).lacking(provider) or "")


def test_a_pull_asks_about_all_kinds_unless_told() -> None:
    account = Account("twilio", "main")
    assert PullSettings(**KEYS["twilio"]).lacking("twilio") is None
    assert PullSettings(**KEYS["twilio"]).pull_with_secrets(account).kinds == ("messages", "receipts")
    assert PullSettings(**KEYS["twilio"], kinds=("messages",)).pull_with_secrets(account).kinds == ("messages",)


# --- over HTTP


@asynccontextmanager
async def answering(*answers: web.Response) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve these answers in turn, the last one for ever; yield the URL, and the paths asked."""
    asked: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(request.raw_path)
        return web.Response(status=found.status, body=found.body, headers=found.headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


def busy(status: int) -> web.Response:
    return web.Response(status=status, headers={"Retry-After": "0"})


async def got(url: str) -> bytes:
    async with over_http.session() as client:
        return await over_http.get(client, url, {})


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_provider_is_asked_again(status: int) -> None:
    async with answering(busy(status), busy(status), web.Response(body=b"[]")) as (url, asked):
        assert await got(f"{url}/a?b=%2B1") == b"[]"
    assert asked == ["/a?b=%2B1"] * 3


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404])
async def test_a_refusal_needs_a_person(status: int) -> None:
    refused = web.Response(status=status, headers={"Location": "https://elsewhere.example/"})
    async with answering(refused) as (url, asked):
        with pytest.raises(Refused, match=f"^status {status}$"):
            await got(url)
    assert len(asked) == 1


async def test_tries_end() -> None:
    async with answering(busy(503)) as (url, asked):
        with pytest.raises(Refused):
            await got(url)
    assert len(asked) == over_http.TRIES


async def test_a_page_without_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_http, "MAX_BODY_BYTES", 1000)
    async with answering(web.Response(body=b"x" * 1001)) as (url, _):
        with pytest.raises(Refused, match="larger"):
            await got(url)
