"""The registry over HTTP: the legal entity behind a sender, its names, its words, and all that it ever was."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from common.contracts.consent import SenderChanged
from common.db.database import Database
from common.db.shards import Shards
from consent.senders.registry import StopPages
from consent.service import Settings, build
from tests.support.each_of import each_of
from tests.support.running import ALL_SCOPES, ORGANISATION, Surroundings, bearer, running

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

LISTED = """{"version": "af2m", "about": "the operator's", "names": [
  {"name": "BANQUELUNE", "list": "forbidden", "source": "AF2M, Strictement Interdit"}]}"""
SHARED = "36999"
STRANGER = bearer(organisation="strangers", scope=ALL_SCOPES.replace("platform:admin", ""))


@pytest.fixture
async def service(surroundings: Surroundings, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    names = tmp_path / "names.json"
    names.write_text(LISTED)
    settings = await surroundings.settings("consent", roles="api", protected_names=names, shared_codes=[SHARED])
    async with running(build(Settings(**settings))) as client:
        yield client


def refused(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(reason["field"], reason["reason"]) for reason in answer.json()["reasons"]]


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
    assert (event.organisation_id, event.controller_id) == (ORGANISATION, "acme")
    assert (event.stop_scope, event.purposes[0].retention_months) == ("controller", 36)


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
        (
            {"purposes": [{"id": "promotions", "wording": "Nos offres : -50 % sur acme.example/x"}]},
            {"purposes.0.wording": ["link", "rebate"]},
        ),
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
    moved = StopPages(Shards.undivided(database, 3), "https://q.example")
    assert await moved.look()
    assert not await moved.look()
    assert await StopPages(Shards.undivided(database, 3), None).look()
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
    names = {"brand": "Deux", "oadc": "DEUX"}
    content |= names
    await service.post("/v1/senders", json=SENDER | names | {"sender_id": "acme-2", "controller": "groupe-acme"})
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
    assert refused(answer) == [("oadc", "refused_name")]


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
    mallory = SENDER | {"sender_id": "mallory", "brand": "Pub Acme", "oadc": "PUBACME", "controller": "mallory"}
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
    globex = SENDER | {"sender_id": "globex", "brand": "Globex", "oadc": "GLOBEX"}
    content = {name: value for name, value in globex.items() if name != "sender_id"}
    for sender in (SENDER, globex):
        assert (await service.post("/v1/senders", json=sender)).status_code == 201
    assert (await service.post("/v1/senders", json=globex, headers=own)).status_code == 200
    changed = await service.put("/v1/senders/globex", json=content | {"contact": "globex.example"}, headers=own)
    assert (changed.status_code, changed.json()["version"]) == (200, 2)


async def test_of_two_who_come_at_once_with_a_code_of_nobody_one_has_it(service: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(
            service.post(
                "/v1/senders",
                json=SENDER | {"sender_id": one, "brand": one, "oadc": one.upper()},
                headers=bearer(senders=[one]),
            )
            for one in ("acme", "globex")
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 403]


def _theirs(**more: Any) -> dict[str, Any]:
    names = {"sender_id": "beta", "brand": "Beta", "legal_name": "Beta SARL", "oadc": "BETA", "stop_code": "36333"}
    return SENDER | names | more


@each_of(
    ("change", "field"),
    [
        ({"oadc": "ACME"}, "oadc"),
        ({"oadc": "acme"}, "oadc"),
        ({"oadc": "AC0RP"}, "oadc"),
        ({"oadc": "ACM3", "brand": "A.C.M.E."}, "brand"),
        ({"brand": "АСМЕ"}, "brand"),
        ({"oadc": "ZEN1TH"}, "oadc"),
        ({"legal_name": "S.A.R.L. ACMÉ"}, "legal_name"),
        ({"legal_name": "Zénith"}, "legal_name"),
        ({"controller": "groupe-acme"}, "controller"),
        ({"stop_code": "36111"}, "stop_code"),
        ({"sender_id": "acme"}, "sender_id"),
    ],
)
async def test_what_another_organisation_has_is_refused_by_field_and_never_by_owner(
    service: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    """The same for a new sender and for one that changes; nothing of the refused call stays."""
    corp = SENDER | {"sender_id": "corp", "brand": "A Corp", "oadc": "ACORP", "stop_code": "36444"}
    corp["legal_name"] = "Zenith SA"
    for sender in (SENDER | {"controller": "groupe-acme"}, corp):
        assert (await service.post("/v1/senders", json=sender)).is_success
    assert (await service.post("/v1/senders", json=_theirs(), headers=STRANGER)).is_success
    new = _theirs(sender_id="beta-2", controller="beta") | change
    answer = await service.post("/v1/senders", json=new, headers=STRANGER)
    assert (answer.status_code, refused(answer)) == (409, [(field, "taken")]), answer.text
    assert not {"groupe-acme", "tests", "ACME SAS"} & {*answer.text.replace('"', " ").split()}
    if field == "sender_id":
        return
    content = {name: value for name, value in _theirs(**change).items() if name != "sender_id"}
    answer = await service.put("/v1/senders/beta", json=content, headers=STRANGER)
    assert (answer.status_code, refused(answer)) == (
        (422, [("controller", "not_changeable")]) if field == "controller" else (409, [(field, "taken")])
    )
    kept = (await service.get("/v1/senders/beta", headers=STRANGER)).json()
    assert (kept["version"], kept["oadc"], kept["brand"], kept["stop_code"]) == (1, "BETA", "Beta", "36333")
    assert kept["legal_name"] == "Beta SARL"


async def test_a_name_stays_its_controller_s_after_a_change(service: httpx.AsyncClient) -> None:
    """Texts under the old name are in people's telephones."""
    await service.post("/v1/senders", json=SENDER)
    await put(service, oadc="ACMESHOP")
    answer = await service.post("/v1/senders", json=_theirs(oadc="ACME"), headers=STRANGER)
    assert (answer.status_code, refused(answer)) == (409, [("oadc", "taken")])
    sister = SENDER | {"sender_id": "acme-2", "controller": "acme", "stop_code": "36444"}
    assert (await service.post("/v1/senders", json=sister)).status_code == 201, "the same legal entity"


async def test_a_sender_of_another_organisation_is_one_that_nobody_has(service: httpx.AsyncClient) -> None:
    await service.post("/v1/senders", json=SENDER)
    content = {name: value for name, value in SENDER.items() if name != "sender_id"}
    for token in (STRANGER, bearer(organisation="strangers", senders=["acme", "nobodys"])):
        for method, path, body in (
            ("GET", "/v1/senders/{}", None),
            ("GET", "/v1/senders/{}/versions", None),
            ("PUT", "/v1/senders/{}", content | {"brand": "Mallory"}),
        ):
            told = [
                await service.request(method, path.format(sender_id), json=body, headers=token)
                for sender_id in ("acme", "nobodys")
            ]
            theirs, nobodys = [{**each.json(), "trace_id": ""} for each in told]
            assert [each.status_code for each in told] == [404, 404]
            assert theirs == nobodys
    assert (await service.get("/v1/senders/acme")).json()["version"] == 1


async def test_a_shared_code_is_open_to_every_organisation(service: httpx.AsyncClient) -> None:
    for sender, token in ((SENDER, bearer()), (_theirs(), STRANGER)):
        answer = await service.post("/v1/senders", json=sender | {"stop_code": SHARED}, headers=token)
        assert answer.status_code == 201, answer.text


async def test_an_organisation_takes_codes_and_names_up_to_a_cap_which_the_platform_s_operator_may_exceed(
    surroundings: Surroundings,
) -> None:
    caps = {"shared_codes": [SHARED], "codes_per_organisation": 3, "names_per_organisation": 2}
    async with running(build(Settings(**await surroundings.settings("consent", roles="api", **caps)))) as service:

        async def changed(name: str, code: str, token: dict[str, str] = STRANGER, **more: Any) -> httpx.Response:
            content = _theirs(brand=name, oadc=name.upper(), stop_code=code) | more
            del content["sender_id"]
            return await service.put(f"/v1/senders/{name}", json=content, headers=token)

        for name, code in (("beta", "36333"), ("gamma", "36334")):
            sender = _theirs(sender_id=name, brand=name, oadc=name.upper(), stop_code=code)
            assert (await service.post("/v1/senders", json=sender, headers=STRANGER)).status_code == 201
        answers = await asyncio.gather(changed("beta", "36335"), changed("gamma", "36336"))
        assert sorted(answer.status_code for answer in answers) == [200, 409], "one code was left"
        for code in ("36333", "36334", SHARED):
            assert (await changed("beta", code)).status_code == 200, "their own, or everybody's"
        answer = await changed("beta", "36337")
        assert (answer.status_code, refused(answer)) == (409, [("stop_code", "too_many")])
        answer = await changed("beta", SHARED, oadc="DELTA")
        assert (answer.status_code, refused(answer)) == (409, [("oadc", "too_many"), ("brand", "too_many")])
        delta = _theirs(sender_id="delta", brand="Delta", oadc="DELTA")
        answer = await service.post("/v1/senders", json=delta, headers=STRANGER)
        assert (answer.status_code, refused(answer)) == (409, [("oadc", "too_many"), ("brand", "too_many")])
        assert (await service.get("/v1/senders/delta", headers=STRANGER)).status_code == 404
        operator = bearer(organisation="strangers")
        assert (await changed("beta", "36337", operator, brand="Delta")).status_code == 200
        assert (await changed("beta", "36337", contact="beta.example", brand="Delta")).status_code == 200


async def test_a_protected_name_needs_a_document_that_the_platform_s_operator_has_seen(
    service: httpx.AsyncClient,
) -> None:
    """And the document of one name opens no other."""
    wanted = SENDER | {"oadc": "COLIS"}
    own = bearer(scope="sender:read sender:write")
    answer = await service.post("/v1/senders", json=wanted, headers=own)
    assert (answer.status_code, refused(answer)) == (422, [("oadc", "refused_name")])
    answer = await service.post("/v1/senders", json=wanted | {"authorisation": "lettre 12"}, headers=own)
    assert (answer.status_code, refused(answer)) == (403, [("authorisation", "platform_only")])
    answer = await service.post("/v1/senders", json=wanted | {"authorisation": "lettre 12"})
    assert (answer.status_code, answer.json()["authorisation"]) == (201, "lettre 12")
    content = {name: value for name, value in wanted.items() if name != "sender_id"}
    assert (await service.put("/v1/senders/acme", json=content | {"brand": "Acme Colis"}, headers=own)).is_success
    answer = await service.put("/v1/senders/acme", json=content | {"oadc": "AMELI"}, headers=own)
    assert (answer.status_code, refused(answer)) == (422, [("oadc", "refused_name")])
    assert (await service.get("/v1/senders/acme")).json()["authorisation"] == "lettre 12"


async def test_a_legal_name_of_another_organisation_needs_a_document_that_the_platform_s_operator_has_seen(
    service: httpx.AsyncClient,
) -> None:
    """The law gives one name to several. Their organisation may then change all else, and no third has the name."""
    assert (await service.post("/v1/senders", json=SENDER)).is_success
    namesake = _theirs(legal_name="Acme SARL", authorisation="Kbis 12")
    operator = bearer(organisation="strangers")
    assert (await service.post("/v1/senders", json=namesake, headers=STRANGER)).status_code == 403
    answer = await service.post("/v1/senders", json=namesake, headers=operator)
    assert (answer.status_code, answer.json()["authorisation"]) == (201, "Kbis 12")
    content = {name: value for name, value in namesake.items() if name not in ("sender_id", "authorisation")}
    changed = await service.put("/v1/senders/beta", json=content | {"contact": "beta.example"}, headers=STRANGER)
    assert (changed.status_code, changed.json()["authorisation"]) == (200, "Kbis 12")
    assert (await put(service, contact="acme.example"))["legal_name"] == "ACME SAS"
    names = {"sender_id": "gamma", "brand": "Gamma", "oadc": "GAMMA", "stop_code": "36334"}
    sister = _theirs(**names, legal_name="ACME")
    answer = await service.post("/v1/senders", json=sister, headers=STRANGER)
    assert (answer.status_code, refused(answer)) == (409, [("legal_name", "taken")])
    answer = await service.post("/v1/senders", json=sister | {"legal_name": "Colis SAS"}, headers=STRANGER)
    assert (answer.status_code, refused(answer)) == (422, [("legal_name", "refused_name")])


NAMES = st.sampled_from(["LUNE", "lune", "1UNE", "IUNE", "SOL", "S0L", "50L", "Soleil", "SOLEIL", "S0LE1L", "MARS"])
CALLS = st.lists(st.tuples(st.sampled_from(["un", "deux", "trois"]), NAMES, NAMES, NAMES), min_size=2, max_size=6)


@hypothesis(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=CALLS)
async def test_no_two_controllers_hold_names_that_look_alike_in_any_order_and_all_at_once(
    service: httpx.AsyncClient, surroundings: Surroundings, calls: list[tuple[str, str, str, str]]
) -> None:
    async with surroundings.sql("consent") as sql:
        await sql.execute("TRUNCATE sender, sender_version, controller, owned_name, outbox")
        answers = await asyncio.gather(
            *(
                service.post(
                    "/v1/senders",
                    json=SENDER
                    | {"sender_id": f"{who}-{n}", "controller": who, "brand": brand, "oadc": oadc}
                    | {"stop_code": SHARED, "legal_name": f"{legal} SAS"},
                    headers=bearer(organisation=who),
                )
                for n, (who, oadc, brand, legal) in enumerate(calls)
            )
        )
        assert {answer.status_code for answer in answers} <= {201, 409}
        held = await sql.fetch("SELECT controller, oadc, brand, legal_name FROM sender")
    owners: dict[str, str] = {}
    for sender in held:
        for name in (sender["oadc"], sender["brand"], sender["legal_name"].removesuffix(" SAS")):
            read = name.upper().replace("0", "O").replace("1", "I").replace("L", "I").replace("5", "S")
            assert owners.setdefault(read, sender["controller"]) == sender["controller"]
    assert held, "the first of all comes through"
