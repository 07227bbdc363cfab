"""Promise 7: erasure reaches everything, and ends in a certificate that says which service erased what and when."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from common.contracts import ERASURES, STATES
from common.contracts.consent import ConsentStateChanged
from common.db.database import Database
from consent.ledger.chain import verify
from consent.ledger.recorder import Statement, record
from consent.ledger.store import history, lock_subjects
from tests.service.rights.four import SERVICES, Four, four
from tests.support.builders import CODES_SENDER, SENDER, inner, now, number, shown, subject
from tests.support.eventually import eventually
from tests.support.reading import reading
from tests.support.running import Surroundings, bearer
from tests.unit.consent.evidences import opt_in

NOTHING: dict[str, list[str]] = {service: [] for service in SERVICES}


async def test_an_erasure_reaches_every_column_of_every_database_and_ends_in_a_certificate(
    surroundings: Surroundings,
) -> None:
    async with four(surroundings) as told:
        await told.everywhere(1)
        await told.everywhere(2)
        before = await told.held(1)
        assert all(before[service] for service in SERVICES), before
        other = await told.held(2)

        asked = await told.erased(1)
        assert asked["subject_id"] == shown(1, "lune")
        done = await eventually(told.complete(asked["erasure_id"]))

        assert await told.held(1) == NOTHING
        assert await told.held(2) == other
        certified = {each["service"]: each for each in done["services"]}
        assert {name: each["erased"] for name, each in certified.items()} == {
            "campaign": {"contacts": 1, "links": 0, "conversions": 0},
            "consent": {"evidence": 4, "links": 1, "copies": 1, "rectifications": 0, "questions": 0},
            "dispatch": {"messages": 1},
            "inbound": {"callbacks": 1, "reviews": 0, "parts": 0},
        }
        for each in certified.values():
            assert done["requested_at"] <= each["erased_at"] <= each["acknowledged_at"] <= done["completed_at"]
        assert done["waiting_for"] == []
        assert done["kept"]
        assert number(1) not in str(done)

        state = await told.state(1)
        assert [c["state"] for c in state["consents"]] == ["opted_out"]
        assert {s["sender_id"] for s in state["suppressions"]} == {SENDER, CODES_SENDER}
        assert {line["text_shown"] for line in state["history"]} == {None}
        assert await chain_of(surroundings, 1) is None


@pytest.mark.any_broker
async def test_what_is_recorded_while_an_erasure_waits_for_the_person_is_erased_as_well(
    surroundings: Surroundings,
) -> None:
    database = Database(await surroundings.database("consent"))
    async with four(surroundings, without=("campaign", "dispatch", "inbound")) as told:
        async with asyncio.TaskGroup() as group, database.begin() as tx:
            await lock_subjects(tx, {subject(1): None})
            asked = group.create_task(told.erased(1))

            async def waits() -> bool:
                async with surroundings.sql("consent") as sql:
                    waiting = await sql.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND datname = current_database()"
                    )
                return asked.done() or bool(waiting)

            assert await eventually(waits)
            given = opt_in(evidence_id="ev-meanwhile", sender_id=SENDER, actor="Zoé 1")
            await record(tx, inner, [Statement(subject(1), None, given)], now())

        async def erased() -> bool:
            return {line["actor"] for line in (await told.state(1))["history"]} == {None}

        assert await eventually(erased)
        assert asked.result()["subject_id"] == shown(1, "lune")
    await database.close()


async def chain_of(surroundings: Surroundings, n: int) -> int | None:
    """The first entry of the person's ledger that does not hold."""
    database = Database(await surroundings.database("consent"), pool_size=1)
    try:
        async with database.begin() as tx:
            return verify(await history(tx, subject(n)), inner)
    finally:
        await database.close()


async def test_the_person_may_ask_by_sms(surroundings: Surroundings) -> None:
    async with four(surroundings) as told, reading(surroundings, STATES) as states:
        await told.everywhere(1)
        await told.texted(1, "SUPPRIMEZ MES DONNEES", mo="mo-erase")

        async def listed() -> Any:
            return (await told.call("GET", "consent", "/v1/erasures?status=complete"))["items"]

        [done] = await eventually(listed)
        assert (done["subject_id"], done["controller"], done["source"]) == (subject(1), None, "mo")
        assert await told.held(1) == NOTHING

        async def told_as_erased() -> bool:
            mine = [e for e in await states() if isinstance(e, ConsentStateChanged) and e.subject_id == subject(1)]
            return bool(mine) and mine[-1].erased

        assert await eventually(told_as_erased)
        await told.texted(1, "SUPPRIMEZ MES DONNEES", mo="mo-erase")
        assert len(await listed()) == 1
        assert (await told.call("GET", "consent", "/v1/erasures"))["items"] == []


@pytest.mark.any_broker
async def test_late_and_old_evidence_brings_nothing_back_and_new_evidence_does(surroundings: Surroundings) -> None:
    async with four(surroundings) as told:
        await told.everywhere(1)
        asked = await told.erased(1)
        await eventually(told.complete(asked["erasure_id"]))

        old = await told.consented(1, occurred_at=now() - timedelta(days=1))
        assert (old["changed"], old["state"]) == (False, "opted_out")
        assert (await told.imported(1))["reasons"] == {"erased": 1}
        await told.texted(1, "START")  # what it would reopen was erased
        await told.call("GET", "consent", f"/v1/erasures/{asked['erasure_id']}")
        assert {
            service: await_held for service, await_held in (await told.held(1)).items() if service != "inbound"
        } == {
            "consent": [],
            "campaign": [],
            "dispatch": [],
        }
        assert (await told.state(1))["consents"][0]["state"] == "opted_out"
        assert await chain_of(surroundings, 1) is None

        new = await told.consented(1, occurred_at=now())
        assert (new["changed"], new["state"]) == (True, "opted_in")

        async def back() -> bool:
            return bool((await told.imported(1))["created"])

        assert await eventually(back)
        held = await told.held(1)
        assert "subject.number" in held["consent"]
        assert "contact.number" in held["campaign"]
        again = await told.erased(1)
        assert again["erasure_id"] != asked["erasure_id"]
        await eventually(told.complete(again["erasure_id"]))
        assert (await told.held(1))["campaign"] == []
        assert (await told.held(1))["consent"] == []


@pytest.mark.any_broker
async def test_the_same_again_while_it_is_under_way_is_that_one(surroundings: Surroundings) -> None:
    async with four(surroundings, without=("campaign", "dispatch", "inbound")) as told:
        first = await told.erased(1)
        assert (first["status"], first["waiting_for"]) == ("open", sorted(SERVICES))
        assert (await told.erased(1))["erasure_id"] == first["erasure_id"]
        body = {"number": number(2), "evidence": {"source": "shop"}}
        key = {"Idempotency-Key": "k1"}
        keyed = await told.call("POST", "consent", "/v1/erasures", body, headers=key)
        assert await told.call("POST", "consent", "/v1/erasures", body, headers=key) == keyed
        other = await told.clients["consent"].post("/v1/erasures", json={**body, "number": number(3)}, headers=key)
        assert (other.status_code, other.json()["reasons"][0]["field"]) == (422, "Idempotency-Key")


@pytest.mark.any_broker
async def test_who_came_back_is_erased_again_under_a_key_that_was_forgotten(surroundings: Surroundings) -> None:
    async with four(surroundings, without=("campaign", "dispatch", "inbound")) as told:
        body = {"number": number(1), "evidence": {"source": "shop"}}
        key = {"Idempotency-Key": "k1"}
        asked = set()
        for _ in range(2):
            assert (await told.consented(1, occurred_at=now()))["state"] == "opted_in"
            erasure = await told.call("POST", "consent", "/v1/erasures", body, headers=key)
            assert (await told.state(1))["consents"][0]["state"] == "opted_out"
            async with surroundings.sql("consent") as sql:
                await sql.execute("UPDATE erasure SET completed_at = now()")
            again = await told.call("POST", "consent", "/v1/erasures", body, headers=key)
            assert again["erasure_id"] == erasure["erasure_id"]
            asked.add(erasure["erasure_id"])
            async with surroundings.sql("consent") as sql:
                await sql.execute("DELETE FROM keyed_request")
        assert len(asked) == 2


@pytest.mark.any_broker
async def test_one_that_is_late_is_asked_for_again_and_completes(surroundings: Surroundings) -> None:
    """Campaign was down, and what it had read of the log was lost."""
    async with four(surroundings, erasure_late_after_s=0.5) as told, reading(surroundings, ERASURES) as read:
        await told.imported(1)
        async with surroundings.sql("campaign") as sql:
            await sql.execute("ALTER TABLE contact RENAME TO away")
            asked = await told.erased(1)

            async def late() -> Any:
                found = await told.call("GET", "consent", f"/v1/erasures/{asked['erasure_id']}")
                assert found["asked_again_at"] is not None
                assert found["waiting_for"] == ["campaign"]
                return found

            await eventually(late)
            await sql.execute("ALTER TABLE away RENAME TO contact")
        done = await eventually(told.complete(asked["erasure_id"]))
        assert done["asked_again_at"]

        async def asked_again() -> bool:
            return len([e for e in await read() if e.key == subject(1)]) >= 2

        assert await eventually(asked_again)
        metrics = (await told.clients["consent"].get("/metrics")).text
        assert 'sms_consent_late_erasures_total{service="campaign"}' in metrics


@pytest.mark.any_broker
async def test_who_may_and_what_is_wrong_with_a_request(surroundings: Surroundings) -> None:
    async with four(surroundings, without=("campaign", "dispatch", "inbound")) as told:
        client = told.clients["consent"]
        body: dict[str, Any] = {"number": number(1), "evidence": {"source": "shop"}}
        one_sender = bearer(senders=[SENDER])
        assert (await client.post("/v1/erasures", json=body, headers=one_sender)).status_code == 403
        assert (await client.get("/v1/erasures", headers=one_sender)).json()["items"] == []
        for answer in (
            await client.post("/v1/erasures", json=body | {"controller": "lune"}, headers=one_sender),
            await client.post("/v1/erasures", json=body, headers=bearer(scope="consent:write")),
        ):
            assert answer.status_code == 403
        unknown = await client.get("/v1/erasures/nobody")
        assert (unknown.status_code, unknown.json()["reasons"][0]["reason"]) == (404, "unknown_erasure")
        for change, field in (
            ({"number": "---"}, "number"),
            ({"evidence": {"source": " mo "}}, "evidence.source"),
            ({"evidence": {"source": " "}}, "evidence.source"),
        ):
            refused = await client.post("/v1/erasures", json={**body, **change})
            assert (refused.status_code, refused.json()["reasons"][0]["field"]) == (422, field)


async def test_no_import_no_late_text_and_no_replay_of_the_log_brings_a_person_back(surroundings: Surroundings) -> None:
    """Each as old as what was erased. What stays all along is the keyed hash, opted out of every sender."""
    async with four(surroundings) as told:
        await told.consented(1)
        await told.imported(1)
        await told.texted(1, "Bonjour, ici Zoé 1, merci", mo="mo-late", sent_at=now() - timedelta(hours=1))
        asked = await told.erased(1)
        await eventually(told.complete(asked["erasure_id"]))
        file = f"number,occurred_at\n{number(1)},{(now() - timedelta(days=1)).isoformat()}\n"
        assert (await told.consents_imported(file))["outvoted"] == 1
        await told.texted(1, "OUI Zoé 1", mo="mo-later", sent_at=now() - timedelta(hours=1))
        await told.texted(1, "Bonjour, ici Zoé 1, merci", mo="mo-late", sent_at=now() - timedelta(hours=1))
        assert await told.held(1) == NOTHING
        assert await out_of_everyone(told)
    reached = {service: await offsets(surroundings, service) for service in SERVICES}
    for service in SERVICES:
        async with surroundings.sql(service) as sql:
            await sql.execute("UPDATE consumer_offset SET next_offset = 0")
    async with four(surroundings) as told:

        async def replayed() -> bool:
            for service in SERVICES:
                now_at = await offsets(surroundings, service)
                assert all(now_at[of] >= offset for of, offset in reached[service].items()), (service, now_at)
            return True

        await eventually(replayed)
        done = await eventually(told.complete(asked["erasure_id"]))
        assert done["completed_at"]
        assert await told.held(1) == NOTHING
        assert await out_of_everyone(told)
        assert await chain_of(surroundings, 1) is None

        fresh = f"number,occurred_at\n{number(1)},{now().isoformat()}\n"
        assert (await told.consents_imported(fresh))["created"] == 1
        state = await told.state(1)
        assert [c["state"] for c in state["consents"]] == ["opted_in"]
        assert {s["sender_id"] for s in state["suppressions"]} == {SENDER, CODES_SENDER}, "for every other purpose"
        assert "subject.number" in (await told.held(1))["consent"]


async def out_of_everyone(told: Four) -> bool:
    """By the keyed hash alone."""
    state = await told.state(1)
    async with told.surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT number FROM subject WHERE subject_id = $1", subject(1)) is None
    return {c["state"] for c in state["consents"]} == {"opted_out"} and {
        s["sender_id"] for s in state["suppressions"]
    } == {SENDER, CODES_SENDER}


async def offsets(surroundings: Surroundings, service: str) -> dict[tuple[str, str, int], int]:
    async with surroundings.sql(service) as sql:
        rows = await sql.fetch("SELECT consumer_group, topic, partition, next_offset FROM consumer_offset")
    assert any(row["next_offset"] for row in rows)
    return {tuple(row)[:3]: row["next_offset"] for row in rows}
