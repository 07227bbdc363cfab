"""The lists of consent-svc over HTTP: senders, opt-outs that reach a sender, imports, a person's timeline."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, opt_out
from tests.support.builders import called, edge_ids, number, subject
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

TENANT = ALL_SCOPES.replace(" platform:admin", "")
OURS, THEIRS = (bearer(organisation=each, scope=TENANT) for each in ("tests", "strangers"))
OPERATOR = bearer()
SISTER = called(SENDER, "acme-kids") | {"controller": "acme", "stop_code": "36111"}
STRANGER = called(SENDER, "beta") | {"stop_code": "36222", "legal_name": "Beta SARL"}


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The api role alone: acme and its sister of our organisation, beta of the strangers'."""
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings), OURS) as client:
        for sender in (SENDER | {"controller": "acme"}, SISTER):
            assert (await client.post("/v1/senders", json=sender)).status_code == 201
        assert (await client.post("/v1/senders", json=STRANGER, headers=THEIRS)).status_code == 201
        yield client


async def stop(service: httpx.AsyncClient, who: int, headers: dict[str, str] = OURS, **changes: Any) -> None:
    answer = await service.post("/v1/opt-outs", json=opt_out(number=number(who)) | changes, headers=headers)
    assert answer.status_code == 201, answer.text


async def pages(service: httpx.AsyncClient, path: str, headers: dict[str, str] = OURS, **params: Any) -> list[Any]:
    """The items of all pages, two at a time."""
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await service.get(path, params={**params, "limit": 2} | cursor, headers=headers)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if answer.json()["next"] is None:
            return found
        cursor = {"cursor": answer.json()["next"]}


def who(n: int, controller: str = "acme") -> str:
    return edge_ids.of(controller).shown(subject(n))


async def test_a_token_lists_its_own_senders_by_id(service: httpx.AsyncClient) -> None:
    assert [each["sender_id"] for each in await pages(service, "/v1/senders")] == ["acme", "acme-kids"]
    assert [each["sender_id"] for each in await pages(service, "/v1/senders", THEIRS)] == ["beta"]
    limited = bearer(scope=TENANT, senders=["acme-kids", "beta"])
    assert [each["sender_id"] for each in await pages(service, "/v1/senders", limited)] == ["acme-kids"]


async def test_the_opt_outs_that_reach_a_sender_are_listed_newest_first_with_what_is_in_force(
    service: httpx.AsyncClient,
) -> None:
    await stop(service, 1, purpose="promotions")
    await stop(service, 2)
    await stop(service, 3, sender_id="acme-kids")  # of the controller: `stop_scope`
    for known in (4, 5):
        said = consent(number=number(known), sender_id="acme" if known == 4 else "beta")
        assert (
            await service.post("/v1/consents", json=said, headers=OURS if known == 4 else THEIRS)
        ).status_code == 201
        await stop(service, known, OPERATOR, sender_id=None, evidence={"source": "hot-line"})
    await stop(service, 6, THEIRS, sender_id="beta")
    again = consent(number=number(1), occurred_at="2099-01-01T00:00:00Z")
    assert (await service.post("/v1/consents", json=again)).status_code == 422, "no consent of the future"
    found = await pages(service, "/v1/opt-outs", sender_id="acme")
    told = [(each["subject_id"], each["reach"], each["sender_id"], each["purpose"], each["in_force"]) for each in found]
    assert told == [
        (who(4), "everyone", None, None, True),
        (who(3), "controller", "acme-kids", None, True),
        (who(2), "controller", "acme", None, True),
        (who(1), "purpose", "acme", "promotions", True),
    ]
    assert await pages(service, "/v1/opt-outs", sender_id="acme", sort="oldest") == found[::-1]
    assert "hot-line" not in str(found)
    assert (await pages(service, "/v1/opt-outs", OPERATOR, sender_id="acme"))[0]["source"] == "hot-line"
    theirs = await pages(service, "/v1/opt-outs", THEIRS, sender_id="beta")
    assert [each["subject_id"] for each in theirs] == [who(6, "beta"), who(5, "beta")]
    assert not {each["evidence_id"] for each in found} & {each["evidence_id"] for each in theirs}


async def test_an_opt_out_that_a_newer_opt_in_takes_back_is_listed_as_not_in_force(service: httpx.AsyncClient) -> None:
    past: dict[str, Any] = {"occurred_at": "2026-03-01T10:00:00+01:00"}
    for purpose in ("promotions", "loyalty", None):
        await stop(service, 1, purpose=purpose, **past)
    said = consent(number=number(1), occurred_at="2026-03-02T10:00:00+01:00")
    assert (await service.post("/v1/consents", json=said)).json()["effective"]
    found = await pages(service, "/v1/opt-outs", sender_id="acme")
    assert [(each["purpose"], each["in_force"]) for each in found] == [
        (None, False), ("loyalty", True), ("promotions", False),
    ]  # fmt: skip
    of_loyalty = await pages(service, "/v1/opt-outs", sender_id="acme", purpose="loyalty")
    assert [(each["purpose"], each["in_force"]) for each in of_loyalty] == [(None, True), ("loyalty", True)]


async def test_opt_outs_are_narrowed_by_the_time_of_record(service: httpx.AsyncClient) -> None:
    for person in (1, 2, 3):
        await stop(service, person)
    newest, middle, oldest = await pages(service, "/v1/opt-outs", sender_id="acme")
    asked = {"sender_id": "acme", "since": middle["recorded_at"], "until": newest["recorded_at"]}
    assert await pages(service, "/v1/opt-outs", **asked) == [middle]
    assert await pages(service, "/v1/opt-outs", sender_id="acme", until=middle["recorded_at"]) == [oldest]


async def test_people_who_stopped_at_the_same_instant_are_listed_once_each(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    listed = {"sender_id": "acme", "provider": "ovh", "list": "number\n" + "\n".join(map(number, range(7)))}
    assert (await service.post("/v1/reconciliations", json=listed)).json()["missing_here"] == 7
    found = await pages(service, "/v1/opt-outs", sender_id="acme")
    assert len({each["recorded_at"] for each in found}) == 1
    assert sorted(each["subject_id"] for each in found) == sorted(map(who, range(7)))
    assert await pages(service, "/v1/opt-outs", sender_id="acme", sort="oldest") == found[::-1]
    async with surroundings.sql("consent") as sql:
        await sql.execute("SET enable_seqscan = off; SET enable_sort = off")
        plan = await sql.fetch(
            "EXPLAIN SELECT * FROM evidence WHERE kind = 'opt_out' AND sender_id = 'acme'"
            " ORDER BY recorded_at DESC LIMIT 2"
        )
    assert "evidence_opt_out_ix" in str(plan)


async def test_the_export_of_opt_outs_has_each_line_and_no_number(service: httpx.AsyncClient) -> None:
    for person in (1, 2, 3):
        await stop(service, person)
    answer = await service.get("/v1/opt-outs.csv", params={"sender_id": "acme"})
    assert answer.headers["content-type"].startswith("text/csv")
    told = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [line["subject_id"] for line in told] == sorted(map(who, (1, 2, 3)))
    listed = {each["subject_id"]: each for each in await pages(service, "/v1/opt-outs", sender_id="acme")}
    for line in told:
        shown = listed[line["subject_id"]]
        assert (line["evidence_id"], line["reach"], line["in_force"]) == (shown["evidence_id"], "controller", "True")
    assert "3363998" not in answer.text


@pytest.mark.parametrize("path", ["/v1/opt-outs", "/v1/opt-outs.csv", "/v1/imports"])
async def test_a_stranger_s_sender_is_answered_as_an_unknown_one(service: httpx.AsyncClient, path: str) -> None:
    told = [await service.get(path, params={"sender_id": each}, headers=THEIRS) for each in ("acme", "nobody")]
    assert {answer.status_code for answer in told} == {404}
    assert (await service.get("/v1/opt-outs")).status_code == 422, "a list of opt-outs is one sender's"


async def test_a_cursor_of_another_controller_s_list_is_refused(service: httpx.AsyncClient) -> None:
    for person in (1, 2):
        await stop(service, person)
        await stop(service, person, THEIRS, sender_id="beta")
    first = (await service.get("/v1/opt-outs", params={"sender_id": "acme", "limit": 1})).json()
    asked = {"sender_id": "beta", "cursor": first["next"]}
    assert (await service.get("/v1/opt-outs", params=asked, headers=THEIRS)).status_code == 422


async def test_imports_are_listed_newest_first_with_their_totals(service: httpx.AsyncClient) -> None:
    terms = {"kind": "suppressions", "sender_id": "acme", "format": "csv", "evidence": {"source": "old-crm"}}
    ids = []
    for sender_id in ("acme", "acme-kids", None):
        opened = await service.post("/v1/imports", json={**terms, "sender_id": sender_id}, headers=OPERATOR)
        assert opened.status_code == 201, opened.text
        ids.append(opened.json()["import_id"])
    acme, kids, every = ids
    assert [each["import_id"] for each in await pages(service, "/v1/imports")] == [kids, acme]
    assert [each["import_id"] for each in await pages(service, "/v1/imports", OPERATOR)] == [every, kids, acme]
    assert [each["import_id"] for each in await pages(service, "/v1/imports", OPERATOR, sort="oldest")] == ids
    assert [each["import_id"] for each in await pages(service, "/v1/imports", sender_id="acme")] == [acme]
    assert await pages(service, "/v1/imports", THEIRS) == []
    shown = (await service.get(f"/v1/imports/{acme}")).json()
    assert await pages(service, "/v1/imports", sender_id="acme") == [shown]


async def test_a_person_s_timeline_has_the_ledger_and_the_rights_of_ones_own_senders(
    service: httpx.AsyncClient,
) -> None:
    assert (await service.post("/v1/consents", json=consent(number=number(1)))).status_code == 201
    theirs = consent(number=number(1), sender_id="beta")
    assert (await service.post("/v1/consents", json=theirs, headers=THEIRS)).status_code == 201
    await stop(service, 1, OPERATOR, sender_id=None, evidence={"source": "hot-line"})
    corrected = {"kind": "contact", "sender_id": "acme", "fields": {"city": "Metz"}}
    for path, body in (
        ("rectifications", {"asked": {"source": "desk"}, "correct": corrected}),
        ("erasures", {"evidence": {"source": "letter"}}),
    ):
        answer = await service.post(f"/v1/{path}", json={"number": number(1), "controller": "acme", **body})
        assert answer.status_code == 202, answer.text

    async def timeline(headers: dict[str, str], **more: Any) -> Any:
        answer = await service.post("/v1/timeline", json={"number": number(1), **more}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    found = await timeline(OURS)
    assert {(each["kind"], each["sender_id"], each["detail"]) for each in found["items"]} == {
        ("opt_in", "acme", "shop"),
        ("opt_out", None, None),
        ("opt_out", "acme", "letter"),
        ("opt_out", "acme-kids", "letter"),
        ("rectification", "acme", "desk"),
        ("erasure", None, "letter"),
    }
    assert {each["subject_id"] for each in found["items"]} == {who(1), None}
    assert [each["at"] for each in found["items"]] == sorted((each["at"] for each in found["items"]), reverse=True)
    assert found["whole"]
    shortened = await timeline(OURS, limit=2)
    assert (shortened["items"], shortened["whole"]) == (found["items"][:2], False)
    limited = await timeline(bearer(scope=TENANT, senders=["acme"]))
    assert {each["kind"] for each in limited["items"]} == {"opt_in", "opt_out"}, "a right is the whole controller's"
    others = {(each["kind"], each["sender_id"]) for each in (await timeline(THEIRS))["items"]}
    assert others == {("opt_in", "beta"), ("opt_out", None)}
