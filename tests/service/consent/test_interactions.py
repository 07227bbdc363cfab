"""What internal services tell of people's own acts, over HTTP: it moves the clock of retention and nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from consent.service import Settings, build
from tests.service.consent.test_consent_api import NUMBER, SENDER, consent, lookup, reasons, states
from tests.support.builders import called
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

STRANGER = "06 39 98 99 99"


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The api role alone, with a customer of acme's."""
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        for sender_id in ("acme", "globex"):
            assert (await client.post("/v1/senders", json=called(SENDER, sender_id))).status_code == 201
        assert (await client.post("/v1/consents", json=consent())).status_code == 201
        yield client


def act(**changes: Any) -> dict[str, Any]:
    body = {
        "sender_id": "acme",
        "number": NUMBER,
        "occurred_at": "2026-04-02T14:05:00+01:00",
        "evidence": {"source": "shop", "sale_reference": "2026-0419"},
    }
    return body | changes


async def told(service: httpx.AsyncClient, *items: dict[str, Any], **more: Any) -> httpx.Response:
    return await service.post("/v1/interactions", json={"items": items}, **more)


async def test_a_purchase_moves_the_end_of_what_the_person_consented_to_and_a_stranger_leaves_no_trace(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    items = [
        act(),
        act(occurred_at="2026-04-02T20:00:00+01:00"),  # the same day
        act(number=STRANGER),
        act(sender_id="globex"),  # they never met
        act(occurred_at="2026-02-01T00:00:00Z"),  # before the consent
        act(occurred_at="2026-05-02T00:00:00Z", evidence={"source": "app", "form_id": "login"}),
    ]
    answer = await told(service, *items)
    assert answer.status_code == 200, answer.text
    assert [r["verdict"] for r in answer.json()["results"]] == [
        "recorded", "unchanged", "unchanged", "unchanged", "unchanged", "recorded",
    ]  # fmt: skip
    assert (await told(service, *items)).json()["counts"] == {"recorded": 0, "unchanged": 6, "refused": 0}
    history = (await lookup(service))["history"]
    assert [(e["kind"], e["sale_reference"], e["form_id"]) for e in history] == [
        ("opt_in", None, "checkout"), ("contact", "2026-0419", None), ("contact", None, "login"),
    ]  # fmt: skip
    assert (await lookup(service, STRANGER))["version"] == 0
    ends = [event.consents[0].expires_at for event in await states(surroundings)]
    assert [end.isoformat() if end else None for end in ends] == [
        "2029-03-02T13:05:00+00:00", "2029-05-02T00:00:00+00:00",
    ]  # fmt: skip


async def test_an_act_without_proof_or_from_the_future_is_refused_and_sinks_no_other(
    service: httpx.AsyncClient,
) -> None:
    answer = await told(
        service,
        act(evidence={"source": "newsletter-opened"}),
        act(occurred_at="2100-01-01T00:00:00Z", evidence={"source": "app", "form_id": "login"}),
        act(evidence={"source": " ", "form_id": "login"}),
        act(number="nobody"),
        act(sender_id="nowhere"),
        act(evidence={"source": "mo", "form_id": "x"}),
        act(purpose="promotions"),
        act(),
    )
    results = answer.json()["results"]
    assert [[r["reason"] for r in result["reasons"]] for result in results] == [
        ["nothing_done"], ["occurred_in_the_future"], ["string_pattern_mismatch"], ["not_a_number"], ["unknown_sender"],
        ["source_reserved"], ["extra_forbidden"], [],
    ]  # fmt: skip
    assert results[-1]["verdict"] == "recorded"
    assert NUMBER not in answer.text


async def test_only_who_may_write_consent_of_that_sender_tells_and_a_key_is_for_one_request(
    service: httpx.AsyncClient,
) -> None:
    assert (await told(service, act(), headers=bearer(scope="consent:read"))).status_code == 403
    globex = await told(service, act(), headers=bearer(scope="consent:write", senders=["globex"]))
    assert globex.json()["results"][0]["reasons"][0]["reason"] == "sender_not_granted"
    key = bearer() | {"Idempotency-Key": "k1"}
    first = await told(service, act(), headers=key)
    assert first.json()["counts"]["recorded"] == 1
    other = await told(service, act(number=STRANGER), headers=key)
    assert (other.status_code, reasons(other)) == (422, [("Idempotency-Key", "reused")])
