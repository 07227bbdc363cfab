"""Ten thousand numbers in one question: who may be written to, and why not."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from consent.checks import CHECK_NUMBERS
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, opt_out
from tests.support.builders import number, shown, subject
from tests.support.each_of import each_of
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.brokerless


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """1 opted in; 2 too, and then out of acme; 3 was never asked and is out of everything; nobody knows 4."""
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        for n in (1, 2):
            assert (await client.post("/v1/consents", json=consent(number=number(n)))).status_code == 201
        for body in (opt_out(number=number(2)), opt_out(number=number(3), sender_id=None)):
            assert (await client.post("/v1/opt-outs", json=body)).status_code == 201
        yield client


async def check(client: httpx.AsyncClient, *numbers: str, **more: Any) -> httpx.Response:
    body = {"sender_id": "acme", "purpose": "promotions", "numbers": numbers} | more.pop("body", {})
    return await client.post("/v1/consents/check", json=body, **more)


async def test_each_number_is_answered_in_its_place_with_its_state_and_every_reason(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    asked = (number(3), "0" + number(1)[3:], number(2), number(4), "01 99 00 12 34", number(1), "36111", "?")
    answer = await check(service, *asked)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [(r["state"], r["allowed"], r["reasons"]) for r in found["results"]] == [
        ("opted_out", False, ["no_consent", "suppressed"]),
        ("opted_in", True, []),
        ("opted_out", False, ["opted_out", "suppressed"]),
        ("unknown", False, ["no_consent"]),
        ("unknown", False, ["not_mobile"]),
        ("opted_in", True, []),
        ("unknown", False, ["short_code"]),
        ("unknown", False, ["not_a_number"]),
    ]
    assert [r["subject_id"] for r in found["results"][:4]] == [shown(n, "acme") for n in (3, 1, 2, 4)]
    assert found["results"][4]["subject_id"] is None
    assert found["counts"] == {"allowed": 2, "denied": 6}


async def test_a_consent_is_for_its_own_purpose_alone(service: httpx.AsyncClient) -> None:
    found = (await check(service, number(1), body={"purpose": "loyalty"})).json()
    assert found["results"][0]["reasons"] == ["no_consent"]


async def test_who_waits_for_a_text_to_be_read_may_not_be_written_to_yet(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    async with surroundings.sql("consent") as sql:
        await sql.execute("UPDATE subject SET held_since = $2 WHERE subject_id = $1", subject(1), datetime.now(UTC))
    found = (await check(service, number(1))).json()
    assert found["results"][0] == {
        "subject_id": shown(1, "acme"),
        "state": "opted_in",
        "allowed": False,
        "reasons": ["under_review"],
    }


async def test_an_erased_person_may_not_be_written_to_even_where_the_ledger_still_holds_an_opt_in(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    async with surroundings.sql("consent") as sql:  # by no way of the recorder, which ends such a consent
        await sql.execute("UPDATE subject SET erased_at = $2 WHERE subject_id = $1", subject(1), datetime.now(UTC))
    (found,) = (await check(service, number(1))).json()["results"]
    assert (found["state"], found["allowed"], found["reasons"]) == ("unknown", False, ["no_consent"])


async def test_ten_thousand_numbers_are_one_question_and_no_more_are_taken(service: httpx.AsyncClient) -> None:
    everyone = [number(n) for n in range(CHECK_NUMBERS)]
    found = (await check(service, *everyone)).json()
    assert found["counts"] == {"allowed": 1, "denied": CHECK_NUMBERS - 1}
    assert [n for n, r in enumerate(found["results"]) if r["allowed"]] == [1]
    assert (await check(service, *everyone, number(1))).status_code == 422


@each_of(
    ("changes", "status", "field", "reason"),
    [
        ({"sender_id": "nobody"}, 404, "sender_id", "unknown_sender"),
        ({"purpose": "newsletter"}, 422, "purpose", "unknown_purpose"),
        ({"numbers": []}, 422, "numbers", "too_short"),
        ({"numbers": [number(1), 639981234]}, 422, "numbers.1", "string_type"),
        ({"numbers": [number(1), "0" * 65]}, 422, "numbers.1", "string_too_long"),
        ({"limit": 3}, 422, "limit", "extra_forbidden"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_the_field_and_the_reason(
    service: httpx.AsyncClient, changes: dict[str, Any], status: int, field: str, reason: str
) -> None:
    answer = await check(service, number(1), body=changes)
    assert answer.status_code == status, answer.text
    assert [(r["field"], r["reason"]) for r in answer.json()["reasons"]] == [(field, reason)]


async def test_only_who_may_read_the_senders_consents_asks(service: httpx.AsyncClient) -> None:
    for headers, status in (
        ({"Authorization": ""}, 401),
        (bearer(scope="consent:write"), 403),
        (bearer(senders=["globex"]), 403),
    ):
        assert (await check(service, number(1), headers=headers)).status_code == status
