"""An approval is of exactly what was seen."""

from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any

import pytest
from msgspec.json import encode

from campaign.preflight.approval import AGREED, SEEN, digest

AT = datetime(2026, 11, 28, 10, tzinfo=UTC)
CAMPAIGN: dict[str, Any] = {
    "sender_id": "lune",
    "purpose": "promotions",
    "text": "Bonjour",
    "language": "fr",
    "translations": {"en": "Hello", "es": "Hola"},
    "folding": "none",
    "selection": {"where": {"city": ["Nîmes"]}},
    "rest_days": None,
    "sectors": [],
    "send_before": None,
    "timing": {},
    "recurring": None,
    "trial": None,
}
LUNE = {"brand": "Maison Lune", "oadc": "LUNE", "stop_code": "36111", "country": "FR"}


@pytest.mark.parametrize("name", [*AGREED, "timing", "recurring", "trial"])
def test_any_change_of_the_campaign_is_another_digest(name: str) -> None:
    changed = AT if name == "send_before" else "another"
    assert digest({**CAMPAIGN, name: changed}, LUNE, AT) != digest(CAMPAIGN, LUNE, AT)


@pytest.mark.parametrize("name", SEEN)
def test_any_change_of_the_sender_is_another_digest(name: str) -> None:
    assert digest(CAMPAIGN, {**LUNE, name: "another"}, AT) != digest(CAMPAIGN, LUNE, AT)


def test_another_start_is_another_digest() -> None:
    assert len({digest(CAMPAIGN, LUNE, at) for at in (None, AT, AT + timedelta(seconds=1))}) == 3


def test_the_same_said_otherwise_is_the_same_digest() -> None:
    paris = AT.astimezone(timezone(timedelta(hours=1)))
    turned = {**CAMPAIGN, "translations": {"es": "Hola", "en": "Hello"}, "name": "not among what is agreed to"}
    assert digest(turned, LUNE, paris) == digest(CAMPAIGN, LUNE, AT)


def test_what_was_approved_before_there_was_a_pace_still_is() -> None:
    before = {name: CAMPAIGN[name] for name in AGREED} | LUNE | {"at": AT.isoformat()}
    assert digest(CAMPAIGN, LUNE, AT) == sha256(encode(before, order="deterministic")).hexdigest()
