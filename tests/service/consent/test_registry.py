"""The registry over HTTP: the legal entity behind a sender, its names, its words, and all that it ever was."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from common.contracts.consent import SenderChanged
from common.db.database import Database
from consent.senders.registry import StopPages
from consent.service import Settings, build
from tests.support.each_of import each_of
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

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


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(**await surroundings.settings("consent", roles="api"), refused_oadcs=["BANQUELUNE"])
    async with running(build(settings)) as client:
        yield client


async def put(service: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    content = {name: value for name, value in (SENDER | changes).items() if name != "sender_id"}
    answer = await service.put("/v1/senders/acme", json=content)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_what_a_sender_does_not_say_is_the_strictest(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    body = (await service.post("/v1/senders", json=SENDER)).json()
    assert (body["controller"], body["stop_scope"]) == ("acme", "controller")
    assert body["stop_code_class"] == "marketing"
    assert body["purposes"] == [SENDER["purposes"][0] | {"retention_months": 36}]
    assert set(body["replies"].values()) == {None}
    async with surroundings.sql("consent") as sql:
        event = msgspec.json.decode(await sql.fetchval("SELECT payload FROM outbox"), type=SenderChanged)
    assert (event.controller, event.stop_scope, event.purposes[0].retention_months) == ("acme", "controller", 36)


async def test_a_sender_says_who_is_behind_it_what_a_stop_shuts_and_what_it_answers(
    service: httpx.AsyncClient,
) -> None:
    wanted = SENDER | {
        "controller": "groupe-acme",
        "stop_scope": "sender",
        "replies": {"stop": "Acme : c'est noté."},
        "purposes": [{"id": "promotions", "wording": "Nos offres par SMS", "retention_months": 12}],
    }
    body = (await service.post("/v1/senders", json=wanted)).json()
    assert (body["controller"], body["stop_scope"], body["stop_code_class"]) == (
        "groupe-acme",
        "sender",
        "marketing",
    )
    assert (body["replies"]["stop"], body["replies"]["contact"]) == ("Acme : c'est noté.", None)
    assert (await service.post("/v1/senders", json=wanted)).status_code == 200
    assert (await service.get("/v1/senders/acme")).json() == body


@each_of(
    ("changes", "against"),
    [
        ({"replies": {"stop": "Acme : c'est noté. Soldes -50 %"}}, {"replies.stop": ["advertising", "rebate"]}),
        (
            {"replies": {"stop": "C'est noté. lune.example/offres"}},
            {"replies.stop": ["advertising", "link", "brand_missing"]},
        ),
        ({"replies": {"contact": "Acme, 1 rue de la Paix"}}, {"replies.contact": ["editor_missing"]}),
        ({"replies": {"start": "Acme, bienvenue"}}, {"replies.start": ["stop_missing"]}),
        (
            {"replies": {"double_opt_in": "{brand} : {purpose} ? 9 € offerts. OUI, ou STOP {stop_code}"}},
            {"replies.double_opt_in": ["advertising", "price"]},
        ),
        ({"contact": "Nos promos : acme.example"}, {"contact": ["advertising"]}),
    ],
)
async def test_an_advert_in_an_answer_is_refused_with_what_to_write_instead_and_leaves_no_trace(
    service: httpx.AsyncClient, changes: dict[str, Any], against: dict[str, list[str]]
) -> None:
    await service.post("/v1/senders", json=SENDER)
    before = (await service.get("/v1/senders/acme")).json()
    content = {name: value for name, value in (SENDER | changes).items() if name != "sender_id"}
    refused = await service.put("/v1/senders/acme", json=content)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    reasons = refused.json()["reasons"]
    [(field, rules)] = against.items()
    assert {reason["field"] for reason in reasons} == {field}
    assert sorted(reason["reason"] for reason in reasons) == sorted(rules)
    assert all(reason["detail"] for reason in reasons)
    assert (await service.get("/v1/senders/acme")).json() == before
    new = await service.post("/v1/senders", json=SENDER | changes | {"sender_id": "acme-2"})
    assert new.status_code == 422
    assert (await service.get("/v1/senders/acme-2")).status_code == 404


async def test_a_code_of_the_transactional_class_asks_no_consent(service: httpx.AsyncClient) -> None:
    """Marketing from 38xxx is against the operators' rules, whatever was consented to."""
    refused = await service.post("/v1/senders", json=SENDER | {"stop_code": "38200"})
    assert refused.status_code == 422
    assert "stop_code" in refused.json()["reasons"][0]["detail"]
    alerts = (await service.post("/v1/senders", json=SENDER | {"stop_code": "38200", "purposes": []})).json()
    assert (alerts["stop_code_class"], alerts["version"]) == ("transactional", 1)
    content = {name: value for name, value in SENDER.items() if name != "sender_id"}
    assert (await service.put("/v1/senders/acme", json=content | {"stop_code": "38200"})).status_code == 422
    assert (await service.get("/v1/senders/acme")).json() == alerts
    assert (await put(service))["stop_code_class"] == "marketing"


async def test_all_that_a_sender_ever_was_is_kept(service: httpx.AsyncClient) -> None:
    first = (await service.post("/v1/senders", json=SENDER)).json()
    reworded = [{"id": "promotions", "wording": "Nos offres, deux fois par mois"}]
    second = await put(service, purposes=reworded)
    assert second["version"] == (await put(service, purposes=reworded))["version"] == 2
    await put(service)
    versions = (await service.get("/v1/senders/acme/versions")).json()
    in_force = [item.pop("in_force_from") for item in versions["items"]]
    assert in_force == sorted(in_force)
    assert versions["items"] == [first, second, first | {"version": 3}]
    assert versions["next"] is None
    page = (await service.get("/v1/senders/acme/versions", params={"limit": 2})).json()
    assert [item["version"] for item in page["items"]] == [1, 2]
    rest = (await service.get("/v1/senders/acme/versions", params={"limit": 2, "cursor": page["next"]})).json()
    assert ([item["version"] for item in rest["items"]], rest["next"]) == ([3], None)
    assert (await service.get("/v1/senders/globex/versions")).status_code == 404


async def test_a_sender_states_where_its_code_is_reachable_and_who_stated_it_is_kept(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    ana, zoe = (bearer(subject=name) for name in ("ana", "zoe"))
    first = (await service.post("/v1/senders", json=SENDER | {"reachable_in": ["RE", "GP", "GP"]}, headers=ana)).json()
    assert first["reachable_in"] == ["GP", "RE"]
    assert [(s["place"], s["stated_by"]) for s in first["reach_stated"]] == [("GP", "ana"), ("RE", "ana")]
    content = {name: value for name, value in SENDER.items() if name != "sender_id"}
    same = await service.put("/v1/senders/acme", json=content | {"reachable_in": ["RE", "GP"]}, headers=zoe)
    assert same.json() == first, "what was stated once is not stated again"
    second = await service.put("/v1/senders/acme", json=content | {"reachable_in": ["GP", "MQ"]}, headers=zoe)
    assert [(s["place"], s["stated_by"]) for s in second.json()["reach_stated"]] == [("GP", "ana"), ("MQ", "zoe")]
    withdrawn = await put(service)
    assert (withdrawn["version"], withdrawn["reachable_in"], withdrawn["reach_stated"]) == (3, [], [])
    versions = (await service.get("/v1/senders/acme/versions")).json()["items"]
    assert [item["reachable_in"] for item in versions] == [["GP", "RE"], ["GP", "MQ"], []]
    assert versions[0]["reach_stated"] == first["reach_stated"]
    async with surroundings.sql("consent") as sql:
        events = [
            msgspec.json.decode(payload, type=SenderChanged)
            for payload in await sql.fetchval("SELECT array_agg(payload ORDER BY id) FROM outbox")
        ]
    assert [event.reachable_in for event in events] == [("GP", "RE"), ("GP", "MQ"), ()]


async def test_a_place_that_no_statement_opens_is_refused_with_its_field(service: httpx.AsyncClient) -> None:
    """In France the code works anyway; abroad no statement of ours makes a French short code reachable."""
    for wrong in ("FR", "GB", "JP"):
        refused = await service.post("/v1/senders", json=SENDER | {"reachable_in": ["MQ", wrong]})
        assert refused.status_code == 422
        assert [(r["field"], r["reason"]) for r in refused.json()["reasons"]] == [
            ("reachable_in.1", "not_by_statement")
        ]
        assert "MQ" in refused.json()["reasons"][0]["detail"]
    assert (await service.post("/v1/senders", json=SENDER | {"reachable_in": ["mq"]})).status_code == 422
    assert (await service.get("/v1/senders/acme")).status_code == 404


async def test_stop_pages_follow_the_setting(surroundings: Surroundings) -> None:
    """A link below an old address would stop nobody: every sender is published again."""
    settings = await surroundings.settings("consent", roles="api", page_url="https://p.example/")
    async with running(build(Settings(**settings))) as service:
        first = (await service.post("/v1/senders", json=SENDER)).json()
        assert first["stop_page"] == "https://p.example/s/acme/"
    database = Database(settings["database_url"])
    moved = StopPages(database, "https://q.example")
    assert await moved.look()
    assert not await moved.look()
    assert await StopPages(database, None).look()
    await database.close()
    async with surroundings.sql("consent") as sql:
        events = [
            msgspec.json.decode(payload, type=SenderChanged)
            for payload in await sql.fetchval("SELECT array_agg(payload ORDER BY id) FROM outbox")
        ]
    assert [(event.version, event.stop_page) for event in events] == [
        (1, "https://p.example/s/acme/"),
        (2, "https://q.example/s/acme/"),
        (3, None),
    ]


async def test_a_caller_who_does_not_know_controllers_does_not_lose_one(service: httpx.AsyncClient) -> None:
    await service.post("/v1/senders", json=SENDER | {"controller": "groupe-acme"})
    assert (await put(service, brand="Acme !"))["controller"] == "groupe-acme"


async def test_nobody_joins_a_controller_that_is_not_theirs(service: httpx.AsyncClient) -> None:
    """Its senders would be shut by the STOPs that a stranger records."""
    own = bearer(senders=["acme"])
    refused = await service.post("/v1/senders", json=SENDER | {"controller": "globex"}, headers=own)
    assert (refused.status_code, refused.json()["reasons"][0]["field"]) == (403, "controller")
    assert (await service.post("/v1/senders", json=SENDER, headers=own)).status_code == 201
    content = {name: value for name, value in SENDER.items() if name != "sender_id"}
    await service.post("/v1/senders", json=SENDER | {"sender_id": "acme-2", "controller": "groupe-acme"})
    other = content | {"controller": "groupe-acme"}
    kept = await service.put("/v1/senders/acme-2", json=other, headers=bearer(senders=["acme-2"]))
    assert kept.status_code == 200, "what somebody else decided may be repeated"


async def test_another_legal_entity_is_another_sender(service: httpx.AsyncClient) -> None:
    """Consents do not pass to it, and the STOPs of the one before hold."""
    await service.post("/v1/senders", json=SENDER)
    content = {name: value for name, value in SENDER.items() if name != "sender_id"}
    refused = await service.put("/v1/senders/acme", json=content | {"controller": "globex"})
    assert refused.status_code == 422
    assert [(r["field"], r["reason"]) for r in refused.json()["reasons"]] == [("controller", "not_changeable")]


@pytest.mark.parametrize("oadc", ["BANQUELUNE", "BanqueLune", "BANQUE1UNE", "BANQUEIUNE"])
async def test_a_name_that_operators_refuse_or_that_passes_for_one_is_refused(
    service: httpx.AsyncClient, oadc: str
) -> None:
    answer = await service.post("/v1/senders", json=SENDER | {"oadc": oadc})
    assert answer.status_code == 422
    assert [(r["field"], r["reason"]) for r in answer.json()["reasons"]] == [("oadc", "refused_oadc")]


@each_of(
    ("change", "field"),
    [
        ({"purposes": [{"id": "promotions", "wording": "x", "retention_months": 37}]}, "purposes.0.retention_months"),
        ({"purposes": [{"id": "promotions", "wording": "x", "retention_months": 0}]}, "purposes.0.retention_months"),
        ({"stop_scope": "purpose"}, "stop_scope"),
        ({"controller": "Groupe ACME"}, "controller"),
        ({"replies": {"stop": "x" * 307}}, "replies.stop"),
        ({"replies": {"erase": "x"}}, "replies.erase"),
        ({"oadc": "ACME SHOP"}, "oadc"),
        ({"oadc": "ACMEACMEACME"}, "oadc"),
        ({"oadc": "36111"}, "oadc"),
    ],
)
async def test_what_is_wrong_with_a_sender_is_said(
    service: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await service.post("/v1/senders", json=SENDER | change)
    assert answer.status_code == 422
    assert [r["field"] for r in answer.json()["reasons"]] == [field]


def _code_refused(answer: httpx.Response) -> bool:
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json"), answer.text
    return [(r["field"], r["reason"]) for r in answer.json()["reasons"]] == [("stop_code", "sender_not_granted")]


async def test_nobody_joins_a_stop_code_that_is_or_was_another_s(service: httpx.AsyncClient) -> None:
    """A brand like a word that people say beside STOP would take the STOPs of the code's other senders."""
    own = bearer(senders=["mallory", "mallory-2"])
    assert (await service.post("/v1/senders", json=SENDER)).status_code == 201
    await put(service, stop_code="36222")
    mallory = SENDER | {"sender_id": "mallory", "brand": "Pub Acme"}
    for code in ("36111", "36222"):
        assert _code_refused(await service.post("/v1/senders", json=mallory | {"stop_code": code}, headers=own))
    assert (await service.get("/v1/senders/mallory")).status_code == 404
    created = await service.post("/v1/senders", json=mallory | {"stop_code": "36333"}, headers=own)
    assert created.status_code == 201, created.text
    content = {name: value for name, value in mallory.items() if name != "sender_id"}
    assert _code_refused(await service.put("/v1/senders/mallory", json=content, headers=own))
    second = await service.post(
        "/v1/senders", json=mallory | {"sender_id": "mallory-2", "stop_code": "36333"}, headers=own
    )
    assert second.status_code == 201, "their own code"


async def test_a_shared_code_is_set_up_by_a_token_for_all_and_kept_by_any(service: httpx.AsyncClient) -> None:
    own = bearer(senders=["globex"])
    globex = SENDER | {"sender_id": "globex", "brand": "Globex"}
    content = {name: value for name, value in globex.items() if name != "sender_id"}
    for sender in (SENDER, globex):
        assert (await service.post("/v1/senders", json=sender)).status_code == 201
    assert (await service.post("/v1/senders", json=globex, headers=own)).status_code == 200
    changed = await service.put("/v1/senders/globex", json=content | {"contact": "globex.example"}, headers=own)
    assert (changed.status_code, changed.json()["version"]) == (200, 2)


async def test_of_two_who_come_at_once_with_a_code_of_nobody_one_has_it(service: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(
            service.post("/v1/senders", json=SENDER | {"sender_id": one}, headers=bearer(senders=[one]))
            for one in ("acme", "globex")
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 403]
