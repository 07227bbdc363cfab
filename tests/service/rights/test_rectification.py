"""Rectification (RGPD art. 16): what is wrong is put right wherever it still matters, and nothing is loosened by it."""

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from common.db.database import Database
from common.privacy.signing import PublicKeys
from consent.proof.bundle import check
from consent.rights import rectifications
from tests.service.rights.four import Four, four
from tests.service.rights.test_copies import of
from tests.service.rights.test_erasure import chain_of
from tests.support.builders import CODES_SENDER, SENDER, STOP_CODE, now, number, subject
from tests.support.eventually import eventually
from tests.support.running import Surroundings, bearer

pytestmark = pytest.mark.any_broker

ALONE = ("campaign", "dispatch", "inbound")
TEXT = "Maison Lune : {first_name}, -20 % samedi. {stop}"


async def asked(told: Four, n: int, correct: dict[str, Any], **more: Any) -> Any:
    who = {"source": "call-centre", "actor": "agent-12", "statement": f"C’est faux, dit Zoé {n}"}
    body = {"number": number(n), "asked": who, "correct": correct}
    return await told.call("POST", "consent", "/v1/rectifications", body, **more)


async def complete(told: Four, rectification_id: str) -> Any:
    async def look() -> Any:
        found = await told.call("GET", "consent", f"/v1/rectifications/{rectification_id}")
        assert found["status"] == "complete", found
        return found

    return await eventually(look)


async def scheduled(told: Four) -> str:
    body = {"sender_id": SENDER, "name": "Samedi", "purpose": "promotions", "text": TEXT, "audience": {"all": True}}
    campaign_id = str((await told.call("POST", "campaign", "/v1/campaigns", body))["campaign_id"])
    await told.call("POST", "campaign", f"/v1/campaigns/{campaign_id}/schedule", {})
    return campaign_id


async def stands(told: Four, campaign_id: str, status: str, reason: str | None = None) -> None:
    """Where the one recipient of a campaign does."""

    async def look() -> bool:
        found = await told.call("GET", "campaign", f"/v1/campaigns/{campaign_id}/recipients")
        assert [item["status"] for item in found["items"]] == [status], found
        assert reason is None or reason in found["items"][0]["reasons"], found
        return True

    await eventually(look)


async def waiting(told: Four) -> str:
    """A campaign that was asked for, and is paused before it could leave."""
    told.operator.answer = "throttle"
    campaign_id = await scheduled(told)
    await stands(told, campaign_id, "deferred")
    await told.call("POST", "campaign", f"/v1/campaigns/{campaign_id}/pause", {})
    await stands(told, campaign_id, "deferred", "campaign_paused")
    told.operator.answer = "accept"
    return campaign_id


def texts(told: Four) -> list[str]:
    return [message["text"] for message in told.operator.messages]


async def test_a_name_is_put_right_in_what_has_not_left_and_what_left_is_history(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        await told.consented(1)
        await told.imported(1)
        first = await scheduled(told)
        await stands(told, first, "accepted")
        second = await waiting(told)

        right = {"kind": "contact", "sender_id": None, "fields": {"first_name": "Nina", "city": "Nîmes"}}
        done = await complete(told, (await asked(told, 1, right))["rectification_id"])
        assert done["rectified"] == {"campaign": {"contacts": 1, "messages": 1}}
        assert (await told.imported(1))["updated"] == 1, "the file still says Zoé"
        await told.call("POST", "campaign", f"/v1/campaigns/{second}/resume", {})
        await stands(told, second, "accepted")
        await stands(told, await scheduled(told), "accepted")
        said = [text.split(" : ")[1].split(",")[0] for text in texts(told)]
        assert said == ["Zoé 1", "Nina", "Nina"]

        copy = await told.copied(1)
        [contact] = of(copy, "campaign", "contact")
        assert contact["attributes"] == {"first_name": "Nina", "city": "Nîmes"}
        [record] = of(copy, "consent", "rectification")
        assert (record["about"], record["source"], record["asked"]["actor"]) == ("contact", "call-centre", "agent-12")
        assert record["asked"]["fields"] == {"first_name": "Nina", "city": "Nîmes"}
        assert (record["requested_at"], record["rectified"]) == (done["requested_at"], done["rectified"])
        left = [m["text"] for m in of(copy, "dispatch", "message")]
        assert len([text for text in left if "Zoé 1" in text]) == 1


async def test_what_cannot_be_written_without_the_mistake_does_not_leave(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        await told.consented(1)
        await told.imported(1)
        campaign_id = await waiting(told)
        gone = {"kind": "contact", "sender_id": SENDER, "fields": {"first_name": None}}
        await complete(told, (await asked(told, 1, gone))["rectification_id"])
        await told.call("POST", "campaign", f"/v1/campaigns/{campaign_id}/resume", {})
        await stands(told, campaign_id, "denied")
        found = await told.call("GET", "campaign", f"/v1/campaigns/{campaign_id}/recipients")
        assert "cannot_be_written" in found["items"][0]["reasons"]
        assert texts(told) == []
        await told.imported(1)
        [contact] = of(await told.copied(1), "campaign", "contact")
        assert contact["attributes"] == {}


async def test_a_number_that_was_wrong_is_shut_and_its_consent_moves_nowhere(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        await told.consented(1)
        await told.imported(1)
        campaign_id = await waiting(told)
        wrong = {"kind": "number", "sender_id": SENDER}
        begun = await asked(told, 1, wrong)
        done = await complete(told, begun["rectification_id"])
        assert done["rectified"]["campaign"]["contacts"] == 1
        state = await told.state(1)
        assert [c["state"] for c in state["consents"]] == ["opted_out"]
        shut = state["history"][-1]
        assert (shut["kind"], shut["source"], shut["sender_id"]) == ("opt_out", "rectification", SENDER)
        assert (shut["evidence_id"], shut["actor"]) == (done["evidence_id"], "agent-12")
        await told.call("POST", "campaign", f"/v1/campaigns/{campaign_id}/resume", {})
        await stands(told, campaign_id, "denied")
        assert of(await told.copied(1), "campaign", "contact") == []

        ask = {"sender_id": SENDER, "purpose": "promotions", "numbers": [number(2)]}
        checked = await told.call("POST", "consent", "/v1/consents/check", ask)
        assert "no_consent" in str(checked), "the new number starts from nothing"
        assert subject(2) not in str(await told.copied(1))
        assert (await told.consented(2))["state"] == "opted_in"
        assert (await told.state(1))["consents"][0]["state"] == "opted_out"


@pytest.mark.parametrize("sender_id", [SENDER, None], ids=["of one brand", "of all"])
async def test_who_has_the_number_now_takes_back_by_start_nothing_that_another_had_chosen(
    surroundings: Surroundings, sender_id: str | None
) -> None:
    async with four(surroundings, without=("campaign", "dispatch")) as told:
        sister = {"sender_id": "lune-bebe", "brand": "Lune Bébé", "oadc": "LUNEBEBE", "controller": "lune"}
        same = {"legal_name": "Maison Lune SAS", "contact": "contact@maison-lune.example", "country": "FR"}
        purposes = [{"id": "promotions", "wording": "Nos offres"}]
        body = same | sister | {"stop_code": STOP_CODE, "purposes": purposes}
        await told.call("POST", "consent", "/v1/senders", body)
        await told.consented(1)
        await told.consented(1, sender_id="lune-bebe")
        await asked(told, 1, {"kind": "number", "sender_id": sender_id})
        await told.texted(1, "START")
        await told.texted(1, "STOP", mo="mo-after")  # on the partition of the START

        async def heard() -> list[Any]:
            history: list[Any] = (await told.state(1))["history"]
            assert "mo-after" in str(history)
            return history

        lines = [(line["kind"], line["source"]) for line in await eventually(heard)]
        assert ("opt_in", "mo") not in lines


async def test_of_every_sender_a_number_is_shut_also_while_it_is_unknown(surroundings: Surroundings) -> None:
    async with four(surroundings, without=ALONE) as told:
        begun = await asked(told, 7, {"kind": "number", "sender_id": None})
        assert (begun["status"], begun["waiting_for"]) == ("open", ["campaign"])
        assert {s["sender_id"] for s in (await told.state(7))["suppressions"]} == {SENDER, CODES_SENDER}
        assert (await told.consented(7, occurred_at=now() - timedelta(days=1)))["state"] == "opted_out"
        listed = await told.call("GET", "consent", "/v1/rectifications")
        assert [each["rectification_id"] for each in listed["items"]] == [begun["rectification_id"]]


async def test_a_wrong_reference_is_corrected_beside_the_line_wherever_it_is_shown(surroundings: Surroundings) -> None:
    async with four(surroundings, without=ALONE) as told:
        line = (await told.consented(1))["evidence_id"]
        right = {"form_id": "checkout", "form_version": "4", "text_shown": "Oui aux offres de la Maison"}
        wrong = {"kind": "evidence", "evidence_id": line, "wrong": ["form", "text_shown"], "right": right}
        done = await asked(told, 1, wrong)
        assert (done["status"], done["annulled"]) == ("complete", False)

        state = await told.state(1)
        assert [c["state"] for c in state["consents"]] == ["opted_in"]
        first, second = state["history"]
        assert (first["corrected_by"], first["form_version"]) == ([done["evidence_id"]], "3")
        assert (second["kind"], second["answers"], second["form_version"]) == ("correction", line, "4")

        client = told.clients["consent"]
        receipt = await told.call("GET", "consent", f"/v1/receipts/{line}")
        [correction] = receipt["corrections"]
        assert correction["record"]["ledger"]["corrects"] == line
        assert correction["sealed"]["text_shown"] == right["text_shown"]
        assert "corrects" not in receipt["record"]["ledger"]
        keys = PublicKeys((await client.get("/.well-known/jwks.json")).json())
        bundle = await client.post("/v1/proofs", json={"number": number(1)})
        report = check(bundle.content.splitlines(keepends=True), keys)
        assert report.holds, report.problems
        assert [entry.evidence.corrects for entry in report.entries] == [None, line]
        assert await chain_of(surroundings, 1) is None


async def test_a_consent_that_was_none_is_annulled_and_what_is_newer_stands(surroundings: Surroundings) -> None:
    async with four(surroundings, without=ALONE) as told:
        for n, wrong in enumerate((["person"], ["time"], ["purpose", "form"], ["text_shown"])):
            first, second = 2 * n, 2 * n + 1
            line = (await told.consented(first, occurred_at=now() - timedelta(hours=2)))["evidence_id"]
            other = (await told.consented(second, occurred_at=now() - timedelta(hours=2)))["evidence_id"]
            newer = await told.consented(second, occurred_at=now() - timedelta(hours=1))
            for person, evidence_id in ((first, line), (second, other)):
                done = await asked(told, person, {"kind": "evidence", "evidence_id": evidence_id, "wrong": wrong})
                assert done["annulled"]
            [consent] = (await told.state(first))["consents"]
            assert (consent["state"], consent["evidence_id"] == line) == ("opted_out", False)
            [consent] = (await told.state(second))["consents"]
            assert (consent["state"], consent["evidence_id"]) == ("opted_in", newer["evidence_id"])
            assert (await told.state(first))["history"][0]["corrected_by"]
            assert await chain_of(surroundings, first) is None


async def test_a_stop_that_was_wrong_stays_a_stop_and_the_correction_stands_beside_it(
    surroundings: Surroundings,
) -> None:
    async with four(surroundings, without=ALONE) as told:
        await told.consented(1)
        body = {"sender_id": None, "number": number(1), "evidence": {"source": "shop"}}
        stop = (await told.call("POST", "consent", "/v1/opt-outs", body))["evidence_id"]
        done = await asked(told, 1, {"kind": "evidence", "evidence_id": stop, "wrong": ["person", "time"]})
        assert done["annulled"] is False
        state = await told.state(1)
        assert [c["state"] for c in state["consents"]] == ["opted_out"]
        assert state["history"][1]["corrected_by"] == [done["evidence_id"]]


async def test_an_erasure_takes_what_was_said_and_leaves_that_it_was_asked(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        await told.consented(1)
        await told.imported(1)
        right = {"kind": "contact", "sender_id": None, "fields": {"first_name": "Zoé 1 bis"}}
        done = await complete(told, (await asked(told, 1, right))["rectification_id"])
        await told.call("POST", "consent", "/v1/rectifications", self_described(1))
        assert "rectification.asked" in (await told.held(1))["consent"]
        erased = await eventually(told.complete((await told.erased(1))["erasure_id"]))
        counts = {each["service"]: each["erased"] for each in erased["services"]}
        assert counts["consent"]["rectifications"] == 2
        assert all(not columns for columns in (await told.held(1)).values())
        kept = await told.call("GET", "consent", f"/v1/rectifications/{done['rectification_id']}")
        assert (kept["asked"], kept["source"], kept["status"]) == (None, "call-centre", "complete")


def self_described(n: int) -> dict[str, Any]:
    return {
        "number": number(n),
        "asked": {"source": "shop", "statement": f"Je suis Zoé {n}"},
        "correct": {"kind": "number", "sender_id": SENDER},
    }


async def test_the_same_key_is_the_same_rectification(surroundings: Surroundings) -> None:
    async with four(surroundings, without=ALONE) as told:
        key = {"Idempotency-Key": "k1"}
        first = await asked(told, 1, {"kind": "number", "sender_id": None}, headers=key)
        assert await asked(told, 1, {"kind": "number", "sender_id": None}, headers=key) == first
        assert len((await told.state(1))["history"]) == 2, "from each sender of the controller"
        other = self_described(2)
        refused = await told.clients["consent"].post("/v1/rectifications", json=other, headers=key)
        assert (refused.status_code, refused.json()["reasons"][0]["field"]) == (422, "Idempotency-Key")


async def test_under_a_key_that_was_forgotten_it_is_another_rectification(surroundings: Surroundings) -> None:
    async with four(surroundings, without=ALONE) as told:
        key = {"Idempotency-Key": "k1"}
        for n in (1, 1, 2):
            await asked(told, n, {"kind": "number", "sender_id": None}, headers=key)
            async with surroundings.sql("consent") as sql:
                await sql.execute("DELETE FROM keyed_request")
        assert [len((await told.state(n))["history"]) for n in (1, 2)] == [4, 2]


async def test_who_may_and_what_is_wrong_with_a_request(surroundings: Surroundings) -> None:
    async with four(surroundings, without=ALONE) as told:
        line = (await told.consented(2))["evidence_id"]
        client = told.clients["consent"]
        body = self_described(1)
        one_sender, reader = bearer(senders=[SENDER]), bearer(scope="rectification:read")
        for answer in (
            await client.post("/v1/rectifications", json=body | {"controller": "lune"}, headers=one_sender),
            await client.post("/v1/rectifications", json=body, headers=reader),
        ):
            assert answer.status_code == 403
        assert (await client.get("/v1/rectifications", headers=one_sender)).json()["items"] == []
        assert (await client.get("/v1/rectifications/nobody", headers=reader)).status_code == 404
        contact: dict[str, Any] = {"kind": "contact", "sender_id": None}
        for correct, status in (
            ({"kind": "number", "sender_id": "nobody"}, 404),
            ({"kind": "number"}, 422),
            ({**contact, "fields": {}}, 422),
            ({**contact, "fields": {"First Name": "Zoé"}}, 422),
            ({**contact, "fields": {"stop": "x"}}, 422),
            ({**contact, "fields": {"city": " "}}, 422),
            ({"kind": "evidence", "evidence_id": line, "wrong": ["person"]}, 422),  # somebody else's
            ({"kind": "evidence", "evidence_id": "ev-none", "wrong": ["person"]}, 422),
            ({"kind": "evidence", "evidence_id": line, "wrong": []}, 422),
        ):
            refused = await client.post("/v1/rectifications", json={**body, "correct": correct})
            assert refused.status_code == status, refused.text
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["reasons"]
        forged = {"source": "rectification"}
        for path, sent in (
            ("/v1/rectifications", {**body, "asked": forged}),
            ("/v1/opt-outs", {"sender_id": None, "number": number(1), "evidence": forged}),
        ):
            assert (await client.post(path, json=sent)).status_code == 422
        async with surroundings.sql("consent") as sql:
            assert await sql.fetchval("SELECT count(*) FROM rectification") == 0
            assert await sql.fetchval("SELECT count(*) FROM evidence") == 1
            assert await sql.fetchval("SELECT count(*) FROM subject WHERE subject_id = $1", subject(1)) == 0


async def test_how_long_the_oldest_has_waited_is_told(surroundings: Surroundings) -> None:
    database = Database(await surroundings.database("consent"), name="rectifications")
    waiting = rectifications.Waiting(database)
    async with surroundings.sql("consent") as sql:
        row = (
            "INSERT INTO rectification (rectification_id, subject_id, controller_id, kind, source, annulled,"
            " requested_at, completed_at, rectified)"
            " VALUES ($1, $2, 'lune', 'number', 'call-centre', false, $3, $4, '{}')"
        )
        ages = []
        await sql.execute(row, "r-1", subject(1), now() - timedelta(days=9), now())
        await waiting.look()
        ages.append(REGISTRY.get_sample_value("sms_consent_oldest_rectification_age_seconds"))
        await sql.execute(row, "r-2", subject(1), now() - timedelta(days=3), None)
        await sql.execute(row, "r-3", subject(2), now() - timedelta(days=1), None)
        await waiting.look()
        ages.append(REGISTRY.get_sample_value("sms_consent_oldest_rectification_age_seconds"))
    await database.close()
    assert ages[0] == 0
    assert timedelta(days=3) <= timedelta(seconds=ages[1] or 0) < timedelta(days=4)
