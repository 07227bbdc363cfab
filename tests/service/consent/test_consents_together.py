"""Consents that are recorded one by one, many at the same time: one transaction, and each answered for itself."""

import asyncio
from typing import Any

import httpx
import pytest

from common.telemetry import continue_trace, traceparent
from tests.service.consent.test_consent_api import consent, opt_out, service
from tests.support.builders import edge_ids, number
from tests.support.running import Surroundings, bearer

pytestmark = pytest.mark.brokerless

__all__ = ["service"]  # the fixture

TOGETHER = 40


async def test_what_is_asked_at_once_shares_transactions_and_goes_on_with_its_own_trace(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    traces = {}
    for n in range(TOGETHER):
        continue_trace(None)
        traces[n] = str(traceparent())

    answers = await asyncio.gather(
        *(
            service.post("/v1/consents", json=consent(number=number(n)), headers={"traceparent": trace})
            for n, trace in traces.items()
        )
    )

    assert {answer.status_code for answer in answers} == {201}
    async with surroundings.sql("consent") as sql:
        [kept] = await sql.fetch("SELECT count(*) AS lines, count(DISTINCT xmin::text) AS commits FROM evidence")
        told = await sql.fetch(
            "SELECT convert_from(key, 'utf8') AS subject_id, traceparent FROM outbox WHERE topic = 'consent.states.v1'"
        )
    assert kept["lines"] == TOGETHER
    assert kept["commits"] < TOGETHER / 4
    subjects = [edge_ids.of("acme").subject_id(answer.json()["subject_id"]) for answer in answers]
    assert {row["subject_id"]: row["traceparent"] for row in told} == dict(zip(subjects, traces.values(), strict=True))


async def test_whoever_is_refused_in_a_crowd_is_refused_alone_with_its_own_reasons(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    wrong: dict[int, tuple[dict[str, Any], int, str]] = {
        3: ({"json": consent(purpose="surveys")}, 422, "unknown_purpose"),
        11: ({"json": consent(sender_id="nobody")}, 404, "unknown_sender"),
        19: ({"json": consent(number="01 99 00 12 34")}, 422, "not_mobile"),
        27: ({"json": consent(number=number(27)), "headers": bearer(senders=["other"])}, 403, "sender_not_granted"),
        35: ({"json": consent(number=number(35)), "headers": {"Idempotency-Key": "taken"}}, 422, "reused"),
    }
    taken = await service.post("/v1/consents", json=consent(number=number(99)), headers={"Idempotency-Key": "taken"})
    assert taken.status_code == 201

    answers = await asyncio.gather(
        *(
            service.post("/v1/consents", **wrong[n][0] if n in wrong else {"json": consent(number=number(n))})
            for n in range(TOGETHER)
        )
    )

    assert {n: answer.status_code for n, answer in enumerate(answers) if answer.status_code != 201} == {
        n: status for n, (_, status, _) in wrong.items()
    }
    for n, (_, _, reason) in wrong.items():
        assert [why["reason"] for why in answers[n].json()["reasons"]] == [reason]
    async with surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT count(*) FROM evidence") == TOGETHER - len(wrong) + 1


async def test_one_that_cannot_be_kept_takes_no_other_with_it(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    async with surroundings.sql("consent") as sql:
        await sql.execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$"
        )
        await sql.execute(
            "CREATE TRIGGER no BEFORE INSERT ON evidence FOR EACH ROW WHEN (NEW.source = 'wrong') EXECUTE FUNCTION no()"
        )
    shown = consent()["evidence"]

    answers = await asyncio.gather(
        *(
            service.post(
                "/v1/consents",
                json=consent(number=number(n), evidence=shown | {"source": "wrong" if n in (7, 8) else "shop"}),
            )
            for n in range(TOGETHER)
        )
    )

    assert {n: answer.status_code for n, answer in enumerate(answers) if answer.status_code != 201} == {7: 500, 8: 500}
    async with surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT count(*) FROM evidence") == TOGETHER - 2
        assert await sql.fetchval("SELECT count(*) FROM subject WHERE entries = 1") == TOGETHER - 2
        assert await sql.fetchval("SELECT count(*) FROM subject") == TOGETHER - 2


async def test_consents_and_stops_of_one_person_at_once_all_count_and_the_stop_stands(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    asked = [consent(occurred_at=f"2026-03-02T14:05:{n:02}+01:00") for n in range(TOGETHER // 2)]

    answers = await asyncio.gather(
        *(service.post("/v1/consents", json=body) for body in asked), service.post("/v1/opt-outs", json=opt_out())
    )

    assert {answer.status_code for answer in answers} == {201}
    assert answers[-1].json()["state"] == "opted_out"
    async with surroundings.sql("consent") as sql:
        positions = [row["position"] for row in await sql.fetch("SELECT position FROM evidence ORDER BY position")]
    assert positions == list(range(1, len(answers) + 1))
