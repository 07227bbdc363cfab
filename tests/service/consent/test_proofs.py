"""Proof over HTTP: what a caller gets for an opt-in, and what a stranger can do with it."""

import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest

from common.db.database import Database
from common.privacy.erasing import Whom
from common.privacy.signing import PublicKeys
from consent.ledger import recorder
from consent.proof import api as proofs
from consent.proof import store
from consent.proof.bundle import Report, Standing, check
from consent.proof.store import HandedOff
from consent.service import Settings, build
from tests.support.builders import called, number, subject
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

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
    assert read["pii_principal_id"] == held["subject_ids"]["acme"]
    assert read["record_id"] == evidence_id
    assert read["ledger"]["sealed"] == held["history"][0]["sealed"]
    assert read["events"][0]["event_time"] == "2026-03-02T13:05:00.000000Z"


async def test_whoever_records_is_told_where_the_receipt_is(service: httpx.AsyncClient) -> None:
    """Also of what was known, and of each in a batch."""
    opt_out = {"sender_id": "acme", "number": NUMBER, "evidence": {"source": "call-centre"}}
    for path, body in (("/v1/consents", CONSENT), ("/v1/consents", CONSENT), ("/v1/opt-outs", opt_out)):
        answer = await service.post(path, json=body)
        receipt = await service.get(answer.headers["location"])
        assert receipt.json()["evidence_id"] == answer.json()["evidence_id"]
    batch = (await service.post("/v1/consents/batch", json={"items": [CONSENT, {}]})).json()
    recorded, refused = batch["results"]
    assert (await service.get(f"/v1/receipts/{recorded['evidence_id']}")).status_code == 200
    assert refused["evidence_id"] is None


async def test_a_receipt_holds_no_number_and_no_text_of_the_person(service: httpx.AsyncClient) -> None:
    answer = await service.get(f"/v1/receipts/{await recorded(service)}")
    told = json.dumps(answer.json()["record"])
    assert not any(personal in told for personal in ("98123", "98 12", "Oui", "agent-12"))


async def test_what_a_receipt_does_not_tell_comes_beside_it_and_can_be_held_against_it(
    service: httpx.AsyncClient,
) -> None:
    answer = (await service.get(f"/v1/receipts/{await recorded(service)}")).json()
    personal = answer["sealed"]
    assert personal["text_shown"] == "Oui, je veux vos offres"
    salt = personal.pop("salt")
    written = json.dumps(personal, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256((salt + written).encode()).hexdigest() == answer["record"]["ledger"]["sealed"]


async def test_a_receipt_and_a_bundle_name_who_asked_in_the_words_of_then(service: httpx.AsyncClient) -> None:
    evidence_id = await recorded(service)
    reworded = SENDER | {"legal_name": "ACME Group", "purposes": [{"id": "promotions", "wording": "Tout par SMS"}]}
    assert (await service.put("/v1/senders/acme", json=reworded)).status_code == 200
    again = await recorded(service, occurred_at="2026-03-03T14:05:00+01:00")
    for identity, name, wording in (
        (evidence_id, "ACME SAS", "Nos offres par SMS"),
        (again, "ACME Group", "Tout par SMS"),
    ):
        record = (await service.get(f"/v1/receipts/{identity}")).json()["record"]
        assert [party["party_name"] for party in record["party_identification"]] == [name]
        assert [purpose["purpose_description"] for purpose in record["purposes"]] == [wording]
    report = await checked(service, await bundle(service))
    assert report.problems == []
    assert [(p.version, p.wording("promotions")) for p in report.senders] == [
        (1, "Nos offres par SMS"),
        (2, "Tout par SMS"),
    ]


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
    of_all = await service.get(f"/v1/receipts/{of_everyone}", headers=stranger)
    for answer in (unknown, hidden, of_all):
        assert answer.status_code == 404
        assert [(r["field"], r["reason"]) for r in answer.json()["reasons"]] == [("evidence_id", "unknown_evidence")]
    assert (await service.get(f"/v1/receipts/{of_everyone}")).status_code == 200, "the platform's operator wrote it"
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


async def bundle(service: httpx.AsyncClient, of: str = NUMBER, **more: Any) -> bytes:
    headers = more.pop("headers", {})
    answer = await service.post("/v1/proofs", json={"number": of, **more}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jsonl"
    return answer.content


async def checked(service: httpx.AsyncClient, file: bytes) -> Report:
    jwks = (await service.get("/.well-known/jwks.json")).json()
    return check(file.splitlines(keepends=True), PublicKeys(jwks))


async def test_the_bundle_of_a_subject_holds_and_tells_all_that_was_recorded(service: httpx.AsyncClient) -> None:
    given = await recorded(service)
    stopped = await opted_out_of_everyone(service)
    report = await checked(service, await bundle(service))
    assert report.problems == []
    assert [entry.evidence.evidence_id for entry in report.entries] == [given, stopped]
    assert report.entries[0].evidence.text_shown == "Oui, je veux vos offres"
    (subject,) = report.subjects
    held = (await service.post("/v1/subjects/lookup", json={"number": NUMBER})).json()
    assert subject.subject_id == held["subject_id"]
    assert [c.state for c in subject.consents] == ["opted_out"]
    assert [s.sender_id for s in subject.suppressions] == [None]


async def test_a_bundle_names_the_number_only_where_it_is_asked_to(service: httpx.AsyncClient) -> None:
    await recorded(service)
    assert b"3363998" not in await bundle(service)
    report = await checked(service, await bundle(service, name_the_number=True))
    assert report.holds
    assert [subject.number for subject in report.subjects] == ["+33639981234"]


async def test_a_person_of_whom_nothing_is_held_gets_it_signed(service: httpx.AsyncClient) -> None:
    report = await checked(service, await bundle(service, of="06 39 98 99 99"))
    assert report.holds
    assert (report.entries, [s.entries for s in report.subjects]) == ([], [0])


async def test_a_caller_of_one_sender_sees_of_its_controllers_other_senders_only_that_something_is_there(
    service: httpx.AsyncClient,
) -> None:
    zenith = called(SENDER, "zenith") | {"stop_code": "36222"}
    sister = SENDER | {"sender_id": "acme-kids", "stop_code": "36333", "controller": "acme"}
    for sender in (zenith, sister):
        assert (await service.post("/v1/senders", json=sender)).status_code == 201
    for sender_id in ("zenith", "acme-kids", "acme"):
        await recorded(service, sender_id=sender_id)
    file = await bundle(service, headers=bearer(senders=["acme"]))
    report = await checked(service, file)
    assert report.holds
    assert [entry.position for entry in report.entries] == [2]
    assert (report.withheld, report.subjects[0].entries) == (1, 2), "nothing of another controller"
    assert not any(other in file for other in (b"zenith", b"kids"))


async def test_a_row_changed_behind_our_back_shows_in_the_bundle(
    surroundings: Surroundings, service: httpx.AsyncClient
) -> None:
    await recorded(service)
    await opted_out_of_everyone(service)
    async with surroundings.sql("consent") as sql:
        await sql.execute("ALTER TABLE evidence DISABLE TRIGGER only_erased")
        await sql.execute("UPDATE evidence SET text_shown = 'Non' WHERE position = 1")
    report = await checked(service, await bundle(service))
    assert [problem.why for problem in report.problems] == [
        "the chain does not hold here: this entry or an entry before was changed"
    ]


async def test_a_number_that_is_none_has_no_bundle(service: httpx.AsyncClient) -> None:
    answer = await service.post("/v1/proofs", json={"number": "nobody"})
    assert answer.status_code == 422
    assert [r["field"] for r in answer.json()["reasons"]] == ["number"]
    forbidden = await service.post("/v1/proofs", json={"number": NUMBER}, headers=bearer(scope="consent:write"))
    assert forbidden.status_code == 403


async def test_after_an_erasure_the_bundle_holds_the_receipts_are_the_same_and_nothing_personal_is_left(
    surroundings: Surroundings, service: httpx.AsyncClient
) -> None:
    evidence_id = await recorded(service)
    before = (await service.get(f"/v1/receipts/{evidence_id}")).json()
    held = (await service.post("/v1/subjects/lookup", json={"number": NUMBER})).json()
    database = Database(await surroundings.database("consent"), pool_size=2, name="erasing")
    async with database.begin() as tx:
        await recorder.erase(tx, {Whom(held["subject_id"], None): datetime.now(UTC)})
    await database.close()
    file = await bundle(service)
    report = await checked(service, file)
    assert report.problems == []
    assert [entry.erased for entry in report.entries] == [True]
    assert b"Oui, je veux" not in file
    assert b"agent-12" not in file
    after = (await service.get(f"/v1/receipts/{evidence_id}")).json()
    assert after == before | {"sealed": None}


async def campaign_bundle(service: httpx.AsyncClient, campaign_id: str = "c1", **kwargs: Any) -> httpx.Response:
    return await service.get(f"/v1/proofs/campaigns/{campaign_id}", **kwargs)


def left(n: int, subject_id: str, at: datetime, **changes: Any) -> HandedOff:
    fields: dict[str, Any] = {
        "message_id": f"m-{n}",
        "subject_id": subject_id,
        "sender_id": "acme",
        "purpose": "promotions",
        "campaign_id": "c1",
        "handed_off_at": at,
        "status": "accepted",
        "version": 1,
    }
    return HandedOff(**(fields | changes))


async def kept(surroundings: Surroundings, *messages: HandedOff) -> None:
    database = Database(await surroundings.database("consent"), pool_size=2, name="keeping")
    async with database.begin() as tx:
        await store.add_handed_off(tx, messages)
    await database.close()


async def test_the_bundle_of_a_campaign_says_on_what_each_message_stood(
    surroundings: Surroundings, service: httpx.AsyncClient
) -> None:
    """More people than are read at once; one of whom nothing is on record, one who stopped before it left."""
    asked = datetime.now(UTC)
    body = {"items": [CONSENT | {"number": number(n)} for n in range(proofs.SUBJECTS + 1)]}
    assert (await service.post("/v1/consents/batch", json=body)).json()["counts"]["recorded"] == proofs.SUBJECTS + 1
    stop = {"sender_id": "acme", "number": number(0), "evidence": {"source": "call-centre"}}
    assert (await service.post("/v1/opt-outs", json=stop)).status_code == 201
    sent = datetime.now(UTC)
    later = sent + timedelta(minutes=1)
    people = [subject(n) for n in range(1, proofs.SUBJECTS + 1)]
    await kept(
        surroundings,
        *(left(n, who, sent) for n, who in enumerate(people)),
        left(900, people[0], sent),
        left(901, subject(0), later),
        left(902, subject(9000), sent),
        left(903, people[0], asked - timedelta(minutes=1)),
        left(904, people[0], asked, campaign_id="c2"),
    )
    answer = await campaign_bundle(service)
    assert answer.status_code == 200
    report = await checked(service, answer.content)
    assert report.problems == []
    assert report.standings == {Standing.CONSENT: proofs.SUBJECTS + 1, Standing.NOTHING: 3}
    assert {message.message_id for message, _ in report.doubtful} == {"m-901", "m-902", "m-903"}
    assert b"3363998" not in answer.content


async def test_a_campaigns_bundle_tells_nothing_of_other_senders(
    surroundings: Surroundings, service: httpx.AsyncClient
) -> None:
    zenith = called(SENDER, "zenith") | {"stop_code": "36222"}
    assert (await service.post("/v1/senders", json=zenith)).status_code == 201
    await recorded(service)
    await recorded(service, sender_id="zenith")
    await opted_out_of_everyone(service)
    held = (await service.post("/v1/subjects/lookup", json={"number": NUMBER})).json()
    await kept(surroundings, left(1, held["subject_id"], datetime.now(UTC)))
    answer = await campaign_bundle(service)
    report = await checked(service, answer.content)
    assert report.holds
    assert (report.withheld, report.standings[Standing.OVERTAKEN]) == (0, 1)
    assert b"zenith" not in answer.content


async def test_a_stop_to_another_sender_of_the_same_controller_is_shown_as_it_shuts_this_one(
    surroundings: Surroundings, service: httpx.AsyncClient
) -> None:
    sister = SENDER | {"sender_id": "acme-kids", "stop_code": "36222", "controller": "acme"}
    assert (await service.post("/v1/senders", json=sister)).status_code == 201
    await recorded(service)
    stop = {"sender_id": "acme-kids", "number": NUMBER, "evidence": {"source": "call-centre"}}
    assert (await service.post("/v1/opt-outs", json=stop)).status_code == 201
    held = (await service.post("/v1/subjects/lookup", json={"number": NUMBER})).json()
    await kept(surroundings, left(1, held["subject_id"], datetime.now(UTC)))
    report = await checked(service, (await campaign_bundle(service)).content)
    assert report.problems == []
    assert (report.withheld, report.standings) == (0, {Standing.OVERTAKEN: 1})


async def test_a_campaign_of_another_sender_or_of_nobody_has_no_bundle(
    surroundings: Surroundings, service: httpx.AsyncClient
) -> None:
    await kept(surroundings, left(1, subject(1), datetime.now(UTC)))
    assert (await campaign_bundle(service, headers=bearer(senders=["acme"]))).status_code == 200
    for answer in (
        await campaign_bundle(service, headers=bearer(senders=["zenith"])),
        await campaign_bundle(service, "c9"),
    ):
        assert answer.status_code == 404
        assert [r["reason"] for r in answer.json()["reasons"]] == ["unknown_campaign"]
    assert (await campaign_bundle(service, headers=bearer(scope="consent:write"))).status_code == 403
