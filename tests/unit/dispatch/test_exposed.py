"""What alerts ask for is there before it happens: of a series that begins with 1 nothing has increased."""

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from dispatch.audit.invariants import OUT_OF_HOURS, RULES, Checker
from dispatch.gateways import HTTP_PROVIDERS, Account, HttpGateway
from dispatch.gateways.pool import Traffic
from dispatch.messages.store import VIOLATIONS
from dispatch.sending.pipeline import Handoff
from dispatch.sending.second_sms import ACCEPTED_TWICE

NOBODY: Any = None  # who only begins asks no database


def test_each_promise_that_may_be_broken_is_exposed_as_0() -> None:
    VIOLATIONS.clear()
    Checker(NOBODY, NOBODY, NOBODY, timedelta(0)).worker()
    Handoff(NOBODY, Traffic([]), NOBODY, 1)
    for rule in (*RULES, OUT_OF_HOURS, ACCEPTED_TWICE):
        assert REGISTRY.get_sample_value("sms_dispatch_violations_total", {"rule": rule}) == 0


@pytest.mark.parametrize(
    "name",
    ["gateway_trips_total", "gateway_alerts_total", "gateway_slow_total", "gateway_errors_ratio", "outcomes_total"],
)
async def test_each_gateway_is_exposed_as_0(name: str) -> None:
    known = Account("simulator", f"of-{name}", secret="a-token")
    gateway = HttpGateway(known.account, HTTP_PROVIDERS["simulator"], known, timeout_s=1.0)
    traffic = Traffic([gateway])
    Handoff(NOBODY, traffic, NOBODY, 1)
    more_labels = {
        "outcomes_total": [{"outcome": status} for status in ("accepted", "rejected", "unknown", "deferred")],
        "gateway_trips_total": [{"reason": why} for why in ("unreachable", "unanswered", "misconfigured")],
    }
    for more in more_labels.get(name, [{}]):
        assert REGISTRY.get_sample_value(f"sms_dispatch_{name}", {"gateway": gateway.name, **more}) == 0
    await traffic.close()
