"""Evidence that is valid by default: a test overrides what it is about."""

from datetime import UTC, datetime, timedelta
from typing import Any

from consent.ledger.rules import Evidence

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
NOW = NOON + timedelta(days=1)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def opt_in(minutes: float = 0, **changes: Any) -> Evidence:
    """A web opt-in of acme's promotions, `minutes` after noon."""
    return _evidence("opt_in", minutes, {"purpose": "promotions", "basis": "opt_in", "text_shown": "Oui"} | changes)


def opt_out(minutes: float = 0, **changes: Any) -> Evidence:
    """An opt-out of everything acme sends, `minutes` after noon."""
    return _evidence("opt_out", minutes, changes)


def stop(minutes: float = 0, **changes: Any) -> Evidence:
    """As `opt_out`, by SMS."""
    return opt_out(minutes, **({"source": "mo", "reference": f"simulator/fr/mo-{minutes}"} | changes))


def slow_stop(minutes: float = 0, slow: float = 2, **changes: Any) -> Evidence:
    """As `stop`, arrived `minutes` after noon, by an operator's clock that is `slow` minutes behind."""
    came = {"received_at": at(minutes), "arrived_at": at(minutes), "clock": "simulator/fr"}
    return stop(minutes - slow, **(came | changes))


def start(minutes: float = 0, **changes: Any) -> Evidence:
    """START by SMS: an opt-in to acme's promotions, `minutes` after noon."""
    by_text = {"source": "mo", "reference": f"simulator/fr/mo-{minutes}", "clock": "simulator/fr", "text_shown": None}
    return opt_in(minutes, **(by_text | changes))


def on_page(minutes: float = 0, **changes: Any) -> Evidence:
    """A purpose switched on by the person on the preference page, `minutes` after noon: acme's promotions."""
    return opt_in(minutes, **({"source": "preference_page"} | changes))


def request(minutes: float = 0, **changes: Any) -> Evidence:
    """A double opt-in for acme's promotions that was asked, `minutes` after noon."""
    return _evidence("request", minutes, {"purpose": "promotions"} | changes)


def expiry(minutes: float = 0, **changes: Any) -> Evidence:
    """The end of what there was of acme's promotions, `minutes` after noon."""
    return _evidence("expiry", minutes, {"purpose": "promotions", "source": "retention"} | changes)


def contact(minutes: float = 0, **changes: Any) -> Evidence:
    """The person was in touch with acme, `minutes` after noon."""
    return _evidence("contact", minutes, changes)


def correction(minutes: float = 0, **changes: Any) -> Evidence:
    """A line of acme's promotions was wrong, as the person said `minutes` after noon."""
    return _evidence("correction", minutes, {"purpose": "promotions", "source": "rectification"} | changes)


def _evidence(kind: Any, minutes: float, changes: dict[str, Any]) -> Evidence:
    when = at(minutes)
    fields: dict[str, Any] = {
        "evidence_id": f"ev-{kind}-{minutes}-{changes.get('sender_id')}-{changes.get('purpose')}",
        "kind": kind,
        "sender_id": "acme",
        "purpose": None,
        "source": "shop",
        "occurred_at": when,
        "received_at": when,
    }
    return Evidence(**(fields | changes))
