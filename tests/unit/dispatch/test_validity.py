"""How long a marketing message may be tried: to the end of the hours in which it may reach the person."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest

from common.law import at_hand_off, closes_after, load
from dispatch.gate.rules import Request, deliver_by
from dispatch.gateways import HTTP_PROVIDERS
from dispatch.gateways.provider import minutes_left, seconds_left
from tests.support.operators.accounts import ACCOUNTS, submit

NOW = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)  # a Monday, 18:00 in Paris
LAW = load("france-3")
GATE = at_hand_off(LAW)


def said(provider: str, left: timedelta | None) -> dict[str, Any]:
    """What the provider is told of `submit(1)`: header names in lower case, and the fields of the body."""
    message = submit(1, deliver_by=None if left is None else NOW + left)
    request = HTTP_PROVIDERS[provider].request([message], ACCOUNTS[provider].account, NOW)
    body = request.body.decode()
    fields: dict[str, Any] = json.loads(body) if body.startswith("{") else dict(parse_qsl(body))
    if body.startswith("<"):
        fields = dict(re.findall(r"<(\w+)>([^<]*)</", body))
    listed = fields.get("messages", [{}])
    [inner] = listed["msg"] if isinstance(listed, dict) else listed
    return {**{name.lower(): value for name, value in request.headers.items()}, **inner, **fields}


TOLD: dict[str, tuple[str, object]] = {
    "twilio": ("ValidityPeriod", "5430"),
    "vonage": ("ttl", "5430000"),
    "sinch": ("expire_at", "2026-11-30T18:30:30.000Z"),
    "messagebird": ("validity", 5430),
    "infobip": ("options", {"validityPeriod": {"amount": 90, "timeUnit": "MINUTES"}}),
    "ovh": ("validityPeriod", 90),
    "plivo": ("message_expiry", 5430),
    "esendex": ("validity", "1"),
    "kannel": ("x-kannel-validity", "90"),
    "jasmin": ("validity-period", "90"),
    "cm": ("validity", "90m"),
    "standard": ("deliver_by", "2026-11-30T18:30:30Z"),
    "simulator": ("deliver_by", "2026-11-30T18:30:30Z"),
}


NO_FIELD = {"brevo", "telnyx", "octopush", "smsfactor", "sweego"}  # docs/providers.md, "Validity"
NO_MARKETING = {name for name, each in HTTP_PROVIDERS.items() if not each.capabilities.marketing}


def test_each_provider_is_told_or_documents_no_field() -> None:
    assert sorted(HTTP_PROVIDERS) == sorted([*TOLD, *NO_FIELD, *NO_MARKETING])


@pytest.mark.parametrize("provider", TOLD)
def test_a_provider_is_told_until_when(provider: str) -> None:
    name, value = TOLD[provider]
    assert said(provider, timedelta(minutes=90, seconds=30))[name] == value
    assert said(provider, None).get(name) is None


@pytest.mark.parametrize(
    ("provider", "left", "value"),
    [
        ("twilio", timedelta(hours=12), "36000"),
        ("twilio", timedelta(seconds=-5), "1"),
        ("esendex", timedelta(days=4), "72"),
        ("esendex", timedelta(minutes=5), "1"),
        ("vonage", timedelta(seconds=3), "20000"),
        ("ovh", timedelta(seconds=40), 1),
        ("plivo", timedelta(hours=12), 10_799),
        ("plivo", timedelta(seconds=1), 5),
        ("cm", timedelta(seconds=-5), "1m"),
    ],
)
def test_a_provider_is_told_no_more_and_no_less_than_it_takes(provider: str, left: timedelta, value: object) -> None:
    assert said(provider, left)[TOLD[provider][0]] == value


def test_whole_units_never_reach_past_the_end() -> None:
    message = submit(1, deliver_by=NOW + timedelta(minutes=2, seconds=59.9))
    assert (seconds_left(message, NOW), minutes_left(message, NOW)) == (179, 2)


def request(category: str, territory: str = "FR") -> Request:
    return Request(
        category=category,  # type: ignore[arg-type]
        sender_id="maison-lune",
        purpose="offers",
        campaign_id=None,
        requested_at=NOW,
        send_before=NOW + timedelta(days=2),
        territory=territory,
        mentions_stop=True,
    )


def test_the_hours_of_the_law_end_and_not_those_of_the_hand_off() -> None:
    """The margin before the end is for the operator's queue: a message handed off in it may still arrive."""
    end = closes_after(NOW, "FR", LAW)
    assert end is not None
    assert end.astimezone(UTC).date() == NOW.date()
    assert deliver_by(request("marketing"), NOW, GATE) == end
    last = end - LAW.hand_off_margin - timedelta(seconds=1)
    assert deliver_by(request("marketing"), last, GATE) == end


@pytest.mark.parametrize("category", ["transactional", "service"])
def test_only_marketing_has_an_end(category: str) -> None:
    assert deliver_by(request(category), NOW, GATE) is None


def test_a_place_that_is_closed_or_never_closes_has_no_end() -> None:
    night = NOW.replace(hour=2)
    assert closes_after(night, "FR", LAW) is None
    assert closes_after(NOW, "FR", load("demonstration-3")) is None
