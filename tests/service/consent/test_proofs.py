"""Proof over HTTP: what a caller gets for an opt-in, and what a stranger can do with it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from consent.service import Settings, build
from tests.running import Surroundings, bearer, running

NUMBER = "06 39 98 12 34"
SENDER: dict[str, Any] = {
    "sender_id": "acme",
    "legal_name": "ACME SAS",
    "brand": "Acme",
    "contact": "contact@acme.example",
    "country": "FR",
    "oadc": "ACME",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Nos offres par SMS"}],
}
CONSENT: dict[str, Any] = {
    "sender_id": "acme",
    "purpose": "promotions",
    "number": NUMBER,
    "occurred_at": "2026-03-02T14:05:00+01:00",
    "evidence": {"source": "shop", "text_shown": "Oui, je veux vos offres", "actor": "agent-12"},
}


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        yield client


async def recorded(service: httpx.AsyncClient, path: str = "/v1/consents", **changes: Any) -> str:
    answer = await service.post(path, json=CONSENT | changes)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["evidence_id"])


async def opted_out_of_everyone(service: httpx.AsyncClient) -> str:
    body = {"sender_id": None, "number": NUMBER, "evidence": {"source": "call-centre"}}
    answer = await service.post("/v1/opt-outs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["evidence_id"])


async def test_a_receipt_is_checked_by_any_library_with_the_published_keys(service: httpx.AsyncClient) -> None:
    evidence_id = await recorded(service)
    answer = (await service.get(f"/v1/receipts/{evidence_id}")).json()
    (jwk,) = (await service.get("/.well-known/jwks.json", headers={"Authorization": ""})).json()["keys"]
    read = jwt.decode(answer["receipt"], jwt.PyJWK(jwk), algorithms=["EdDSA"])
    assert read == answer["record"]
    held = (await service.post("/v1/subjects/lookup", json={"number": NUMBER})).json()
    assert read["pii_principal_id"] == held["subject_id"]
    assert read["record_id"] == evidence_id
    assert read["ledger"]["hash"] == held["history"][0]["hash"]
    assert read["events"][0]["event_time"] == "2026-03-02T13:05:00.000000Z"


async def test_a_receipt_holds_no_number_and_no_text_of_the_person(service: httpx.AsyncClient) -> None:
    answer = await service.get(f"/v1/receipts/{await recorded(service)}")
    assert not any(told in answer.text for told in ("98123", "98 12", "Oui", "agent-12"))


async def test_a_receipt_asked_for_again_is_the_same(service: httpx.AsyncClient) -> None:
    evidence_id = await recorded(service)
    first = (await service.get(f"/v1/receipts/{evidence_id}")).json()
    assert await recorded(service) == evidence_id
    await opted_out_of_everyone(service)
    assert (await service.get(f"/v1/receipts/{evidence_id}")).json() == first


async def test_another_senders_evidence_is_not_found_and_nor_is_what_nobody_recorded(
    service: httpx.AsyncClient,
) -> None:
    evidence_id = await recorded(service)
    of_everyone = await opted_out_of_everyone(service)
    stranger = bearer(senders=["zenith"])
    unknown = await service.get("/v1/receipts/ev-0")
    hidden = await service.get(f"/v1/receipts/{evidence_id}", headers=stranger)
    for answer in (unknown, hidden):
        assert answer.status_code == 404
        assert [(r["field"], r["reason"]) for r in answer.json()["reasons"]] == [("evidence_id", "unknown_evidence")]
    assert (await service.get(f"/v1/receipts/{of_everyone}", headers=stranger)).status_code == 200
    without_scope = await service.get(f"/v1/receipts/{evidence_id}", headers=bearer(scope="consent:write"))
    assert without_scope.status_code == 403


async def test_after_a_rotation_old_receipts_still_hold_and_new_ones_are_signed_anew(
    surroundings: Surroundings, service: httpx.AsyncClient
) -> None:
    evidence_id = await recorded(service)
    old = (await service.get(f"/v1/receipts/{evidence_id}")).json()["receipt"]
    ring = {
        "current": "p2",
        "keys": {
            "p1": "cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA=",
            "p2": "cXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXE=",
        },
    }
    settings = Settings(**await surroundings.settings("consent", roles="api", signing_keys=ring))
    async with running(build(settings)) as rotated:
        new = (await rotated.get(f"/v1/receipts/{evidence_id}")).json()["receipt"]
        jwks = jwt.PyJWKSet.from_dict((await rotated.get("/.well-known/jwks.json")).json())
    for token, key_id in ((old, "p1"), (new, "p2")):
        assert jwt.get_unverified_header(token)["kid"] == key_id
        assert jwt.decode(token, jwks[key_id], algorithms=["EdDSA"])["record_id"] == evidence_id
