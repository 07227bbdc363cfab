"""A provider's opt-out list against ours."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import httpx
import pytest

from consent.imports import provider_list, reconciliations
from consent.service import Settings, build
from tests.support.builders import called, number
from tests.support.running import Surroundings, bearer, running
from tests.unit.common.test_msisdn import EITHER, RECEIVED, TYPED

pytestmark = pytest.mark.brokerless

SENDER = {
    "sender_id": "acme",
    "legal_name": "ACME SAS",
    "brand": "Acme",
    "contact": "acme.example",
    "country": "FR",
    "oadc": "ACME",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Nos offres"}],
}


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The API of consent-svc; acme registered; 1 opted in, 2 and 3 opted out of acme, 4 of everyone, 5 of globex."""
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        for sender_id in ("acme", "globex"):
            assert (await client.post("/v1/senders", json=called(SENDER, sender_id))).status_code == 201
        given = {
            "sender_id": "acme",
            "purpose": "promotions",
            "number": number(1),
            "occurred_at": "2026-01-01T09:00:00Z",
            "evidence": {"source": "shop", "text_shown": "Oui"},
        }
        assert (await client.post("/v1/consents", json=given)).status_code == 201
        for n, whose in ((2, "acme"), (3, "acme"), (4, None), (5, "globex")):
            out = {"sender_id": whose, "number": number(n), "evidence": {"source": "shop"}}
            assert (await client.post("/v1/opt-outs", json=out)).status_code == 201
        yield client


async def reconcile(client: httpx.AsyncClient, text: str, **changes: Any) -> httpx.Response:
    return await client.post(
        "/v1/reconciliations", json={"sender_id": "acme", "provider": "ovh", "list": text} | changes
    )


async def state_of(client: httpx.AsyncClient, n: int) -> dict[str, Any]:
    found: dict[str, Any] = (await client.post("/v1/subjects/lookup", json={"number": number(n)})).json()
    return found


async def test_what_the_provider_has_and_we_lack_becomes_evidence_and_the_drift_is_told(
    service: httpx.AsyncClient,
) -> None:
    national = "0" + number(1)[3:]
    listed = f"number\n{national}\n{number(1)}\n{number(2)}\n{number(9)}\nhello\n"
    answer = await reconcile(service, listed)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "listed": 3,
        "known_opted_out": 1,
        "missing_here": 2,
        "only_here": 2,
        "unreadable": 1,
        "unreadable_lines": [6],
    }
    known = await state_of(service, 1)
    assert [c["state"] for c in known["consents"]] == ["opted_out"]
    proof = known["history"][-1]
    assert (proof["source"], proof["reference"], proof["actor"]) == ("provider_list", "ovh/opt-out-list", "tester")
    assert (await state_of(service, 9))["suppressions"][0]["sender_id"] == "acme", "a stranger to us, and not to them"
    again = (await reconcile(service, listed)).json()
    assert (again["known_opted_out"], again["missing_here"]) == (3, 0)


@pytest.mark.parametrize("listed", [EITHER, RECEIVED, "00" + RECEIVED[1:]])
async def test_a_number_that_may_be_of_noumea_is_out_there_and_one_in_doubt_in_france_as_well(
    service: httpx.AsyncClient, listed: str
) -> None:
    """Operators leave out the sign of a country code, people the 0: nine digits may be either."""
    for of_either in (RECEIVED, TYPED):
        given = {
            "sender_id": "acme",
            "purpose": "promotions",
            "number": of_either,
            "occurred_at": "2026-01-01T09:00:00Z",
            "evidence": {"source": "shop", "text_shown": "Oui"},
        }
        assert (await service.post("/v1/consents", json=given)).status_code == 201
    doubt = listed == EITHER
    drift = (await reconcile(service, json.dumps([listed]))).json()
    assert (drift["listed"], drift["missing_here"]) == ((2, 2) if doubt else (1, 1))
    states = {}
    for of_either in (RECEIVED, TYPED):
        found = (await service.post("/v1/subjects/lookup", json={"number": of_either})).json()
        states[of_either] = found["consents"][0]["state"]
    assert states == {RECEIVED: "opted_out", TYPED: "opted_out" if doubt else "opted_in"}


async def test_a_stop_to_a_sister_sender_counts_as_ours_where_it_covers_the_controller(
    service: httpx.AsyncClient,
) -> None:
    sisters = {"outlet": "controller", "kids": "sender"}
    for n, (sender_id, scope) in enumerate(sisters.items(), start=30):
        sister = SENDER | {"sender_id": sender_id, "controller": "acme", "stop_scope": scope}
        assert (await service.post("/v1/senders", json=sister)).status_code == 201
        out = {"sender_id": sender_id, "number": number(n), "evidence": {"source": "shop"}}
        assert (await service.post("/v1/opt-outs", json=out)).status_code == 201
    of_acme = (await reconcile(service, f"number\n{number(2)}\n")).json()
    assert of_acme["only_here"] == 3, "3, everyone's 4, and 30; the STOP of 31 covers one sister alone"
    of_outlet = (await reconcile(service, f"number\n{number(2)}\n", sender_id="outlet")).json()
    assert of_outlet["only_here"] == 3, "the same people: the STOP to acme covers it"


async def test_long_lists_are_compared_chunk_by_chunk(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliations, "CHUNK", 2)
    answer = await reconcile(service, "\n".join(number(n) for n in range(10, 17)))
    assert (answer.json()["missing_here"], answer.json()["only_here"]) == (7, 3)


async def test_a_list_may_be_as_long_as_it_is_said_to_be(service: httpx.AsyncClient) -> None:
    """Longer than other bodies. Of few people here, as each takes its time to be opted out."""
    numbers = provider_list.LIST_NUMBERS
    width = reconciliations.LIST_CHARS // numbers - 2
    listed = "number\n" + "".join(f"{number(1 + n % 3):<{width}}\n" for n in range(numbers))
    answer = await reconcile(service, listed)
    assert answer.status_code == 200, answer.text
    assert answer.json()["listed"] == 3


async def test_an_opt_out_of_one_purpose_is_not_one_of_the_sender(service: httpx.AsyncClient) -> None:
    out = {"sender_id": "acme", "purpose": "promotions", "number": number(1), "evidence": {"source": "shop"}}
    assert (await service.post("/v1/opt-outs", json=out)).status_code == 201
    assert (await reconcile(service, number(1))).json()["missing_here"] == 1


@pytest.mark.parametrize("opt_ins", [("acme",), ("sibling",), ("acme", "sibling")])
async def test_a_stop_a_provider_s_list_and_opt_ins_of_between_amount_to_the_same_in_any_order(
    service: httpx.AsyncClient, opt_ins: tuple[str, ...]
) -> None:
    """A STOP is one to every sender of the controller."""
    sibling = SENDER | {"sender_id": "sibling", "controller": "acme"}
    assert (await service.post("/v1/senders", json=sibling)).status_code == 201
    ends = []
    for n, order in enumerate(permutations(("stop", "list", *opt_ins)), start=20):
        for what in order:
            said = {"sender_id": "acme", "number": number(n), "evidence": {"source": "shop", "text_shown": "Oui"}}
            match what:
                case "stop":
                    body = said | {"occurred_at": "2026-01-10T09:00:00Z"}
                    assert (await service.post("/v1/opt-outs", json=body)).status_code == 201
                case "list":
                    assert (await reconcile(service, number(n))).json()["listed"] == 1
                case given:
                    body = said | {"sender_id": given, "purpose": "promotions", "occurred_at": "2026-02-01T09:00:00Z"}
                    assert (await service.post("/v1/consents", json=body)).status_code == 201
        found = await state_of(service, n)
        lines = {line["evidence_id"]: line for line in found["history"]}
        ends += [(c["state"], lines[c["evidence_id"]]["source"], len(lines)) for c in found["consents"]]
    assert set(ends) == {("opted_out", "provider_list", 2 + len(opt_ins))}


async def test_only_a_token_for_every_sender_reports_a_stop_of_the_persons_own(service: httpx.AsyncClient) -> None:
    """Any caller can name a provider: its list is its own word, and a newer opt-in of a caller takes it back."""
    for n, claims, source, opens in (
        (50, {}, "provider_list", False),
        (51, {"senders": ["acme"]}, "sender_list", True),
    ):
        body = {"sender_id": "acme", "provider": "ovh", "list": number(n)}
        answer = await service.post("/v1/reconciliations", json=body, headers=bearer(**claims))
        assert answer.json()["missing_here"] == 1
        assert (await state_of(service, n))["history"][-1]["source"] == source
        given = {
            "sender_id": "acme",
            "purpose": "promotions",
            "number": number(n),
            "occurred_at": datetime.now(UTC).isoformat(),
            "evidence": {"source": "shop", "text_shown": "Oui"},
        }
        assert (await service.post("/v1/consents", json=given)).json()["effective"] is opens


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"list": '{"optOuts": []}'}, 422, "list"),
        ({"list": "nom\nDurand"}, 422, "list"),
        ({"sender_id": "nobody"}, 404, "sender_id"),
        ({"provider": "Not A Slug"}, 422, "provider"),
        ({"list": None}, 422, "list"),
    ],
)
async def test_what_cannot_be_compared_is_refused(
    service: httpx.AsyncClient, changes: dict[str, Any], status: int, field: str
) -> None:
    answer = await reconcile(service, "", **changes)
    assert answer.status_code == status, answer.text
    assert answer.json()["reasons"][0]["field"] == field


async def test_only_who_may_write_the_senders_consents_reconciles(service: httpx.AsyncClient) -> None:
    body = {"sender_id": "acme", "provider": "ovh", "list": number(1)}
    for headers, status in (
        ({"Authorization": ""}, 401),
        (bearer(scope="consent:read"), 403),
        (bearer(senders=["globex"]), 403),
    ):
        assert (await service.post("/v1/reconciliations", json=body, headers=headers)).status_code == status
    assert [c["state"] for c in (await state_of(service, 1))["consents"]] == ["opted_in"]
