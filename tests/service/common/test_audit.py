"""The audit log: who read, exported, decided about people and was refused; nothing of the people themselves."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from common.audit import verifying
from common.audit.store import YOUNGEST
from common.db.database import Database
from consent.retention.pruning import Periods, policy
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, opt_out
from tests.support.builders import number, shown, subject
from tests.support.eventually import answered, eventually
from tests.support.holdings import spellings
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

TENANT = ALL_SCOPES.replace(" platform:admin", "")
CAMILLE, EVE = (bearer(subject=each, scope=TENANT) for each in ("camille", "eve"))
STRANGER = bearer(subject="eve", organisation="strangers", scope=TENANT)


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(**await surroundings.settings("consent", roles="api", page_url="https://p.example"))
    async with running(build(settings), CAMILLE) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        yield client


async def lines(service: httpx.AsyncClient, query: str = "", **more: Any) -> list[dict[str, Any]]:
    answer = await answered(lambda: service.get(f"/v1/audit?limit=1000{query}", **more))
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


async def looked_up(service: httpx.AsyncClient, n: int, **more: Any) -> httpx.Response:
    answer = await answered(lambda: service.post("/v1/subjects/lookup", json={"number": number(n)}, **more))
    assert answer.status_code == 200, answer.text
    return answer


async def test_a_look_up_has_its_line_before_its_answer(service: httpx.AsyncClient) -> None:
    answer = await looked_up(service, 1)
    [line] = await lines(service)
    assert line.pop("at") < (await lines(service))[-1]["at"], "and the look into the log has a line as well"
    assert (line.pop("position"), line.pop("previous"), line.pop("hash")) == (None, None, None), "strangers' lines too"
    first = (await lines(service, headers=bearer()))[0]
    assert (first["position"], first["previous"], len(first["hash"])) == (1, "0" * 64, 64)
    assert line == {
        "organisation": "tests",
        "caller": "camille",
        "scope": "consent:read",
        "method": "POST",
        "route": "/v1/subjects/lookup",
        "kind": "read",
        "subject_id": shown(1, "acme"),
        "people": 1,
        "verdict": "allowed",
        "trace_id": answer.headers["traceparent"].split("-")[1],
    }


async def test_each_kind_of_call_has_a_line(service: httpx.AsyncClient) -> None:
    evidence_id = (await service.post("/v1/consents", json=consent(number=number(1)))).json()["evidence_id"]
    asked: list[tuple[str, str, Any, str]] = [
        ("GET", "/v1/opt-outs?sender_id=acme", None, "read"),
        ("GET", "/v1/opt-outs.csv?sender_id=acme", None, "export"),
        ("POST", "/v1/proofs", {"number": number(1)}, "proof"),
        ("GET", f"/v1/receipts/{evidence_id}", None, "proof"),
        ("POST", "/v1/preference-links", {"sender_id": "acme", "number": number(1)}, "decision"),
        ("POST", "/v1/erasures", {"number": number(1), "controller": "acme", "evidence": {"source": "x"}}, "decision"),
    ]
    for method, path, body, _ in asked:
        assert (await service.request(method, path, json=body)).status_code < 300, path
    found = [(line["method"], line["kind"]) for line in await lines(service)]
    assert found == [(method, kind) for method, _, _, kind in asked]
    assert (await service.head("/v1/opt-outs?sender_id=acme")).status_code == 200
    assert [line["method"] for line in await lines(service, "&kind=read")] == ["GET", "GET", "HEAD"]


async def test_a_write_has_no_line_and_no_statement_of_the_log(service: httpx.AsyncClient) -> None:
    """A consent and an opt-out have the caller in the ledger."""
    await service.post("/v1/consents", json=consent(number=number(1)))
    await service.post("/v1/opt-outs", json=opt_out(number=number(1)))
    assert await lines(service) == []


async def test_a_refusal_of_a_caller_has_a_line_with_its_reason(service: httpx.AsyncClient) -> None:
    refused = [
        await service.post("/v1/subjects/lookup", json={"number": number(1)}, headers=bearer(scope="", subject="eve")),
        await service.get("/v1/opt-outs?sender_id=nobody", headers=EVE),
        await service.post("/v1/subjects/lookup", json={}, headers={"Authorization": "Bearer forged"}),
    ]
    assert [answer.status_code for answer in refused] == [403, 404, 401]

    async def look() -> list[dict[str, Any]]:
        found = await lines(service, "&caller=eve")
        assert len(found) == 2
        return found

    found = await eventually(look)
    told = [(line["caller"], line["verdict"], line["subject_id"], line["people"]) for line in found]
    assert told == [("eve", "scope_missing", None, 0), ("eve", "unknown_sender", None, 0)]


async def test_an_organisation_reads_its_own_callers_and_the_operator_all(service: httpx.AsyncClient) -> None:
    await looked_up(service, 1)
    await looked_up(service, 2, headers=STRANGER)
    assert {line["organisation"] for line in await lines(service, headers=STRANGER)} == {"strangers"}
    assert {line["organisation"] for line in await lines(service, headers=EVE)} == {"tests"}
    assert {line["organisation"] for line in await lines(service, headers=bearer())} == {"tests", "strangers"}
    for token, status in ((bearer(scope="consent:read"), 403), (bearer(scope=TENANT, senders=["acme"]), 403)):
        assert (await service.get("/v1/audit", headers=token)).status_code == status
        assert (await service.get("/v1/audit.jsonl", headers=token)).status_code == status


async def test_a_list_narrows_and_pages(service: httpx.AsyncClient) -> None:
    for n in (1, 2, 1):
        await looked_up(service, n)
    await looked_up(service, 1, headers=EVE)
    of_one = await lines(service, f"&subject_id={shown(1, 'acme')}")
    assert [line["caller"] for line in of_one] == ["camille", "camille", "eve"]
    assert [line["caller"] for line in await lines(service, "&caller=eve&kind=read")] == ["eve"]
    assert await lines(service, "&kind=proof") == []
    first = (await service.get("/v1/audit?limit=2", headers=bearer())).json()
    second = (await service.get("/v1/audit", params={"limit": 2, "cursor": first["next"]}, headers=bearer())).json()
    assert [line["position"] for page in (first, second) for line in page["items"]] == [1, 2, 3, 4]


async def test_the_export_has_every_line(service: httpx.AsyncClient) -> None:
    await looked_up(service, 1)
    await looked_up(service, 2)
    answer = await service.get("/v1/audit.jsonl", headers=bearer())
    assert answer.headers["content-type"] == "application/jsonl"
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert found[:2] == (await lines(service, headers=bearer()))[:2]
    assert found[1]["previous"] == found[0]["hash"]


async def test_calls_at_once_make_one_chain_and_no_fork(service: httpx.AsyncClient, surroundings: Surroundings) -> None:
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings), CAMILLE) as other:
        await asyncio.gather(*(looked_up(each, n) for n in range(1, 21) for each in (service, other)))
    database = Database(await surroundings.database("consent"), pool_size=1)
    try:
        kept = [each async for each in verifying.lines(database)]
        assert [each.position for each in kept] == list(range(1, 41))
        pins = {each.position: each.hash for each in kept}
        assert await verifying.verified(database, dict(pins)) == []
        async with surroundings.sql("consent") as sql:
            await sql.execute("ALTER TABLE audit_line DISABLE TRIGGER ALL")
            await sql.execute("UPDATE audit_line SET caller = 'nobody' WHERE position = 7")
            assert await verifying.verified(database, {}) == ["line 7 does not follow"]
            await sql.execute("DELETE FROM audit_line WHERE position = 7")
            assert await verifying.verified(database, {}) == ["line 8 does not follow"]
            await sql.execute("DELETE FROM audit_line WHERE position > 38")
            assert "line 40 is missing" in await verifying.verified(database, {40: pins[40]})
            await sql.execute("DELETE FROM audit_line WHERE position < 20")
        assert await verifying.verified(database, {3: pins[3]}) == [], "past its retention"
    finally:
        await database.close()


async def test_no_statement_changes_a_line_and_only_an_old_line_goes(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    await looked_up(service, 1)
    async with surroundings.sql("consent") as sql:
        for statement in (
            "UPDATE audit_line SET caller = 'nobody'",
            "DELETE FROM audit_line",
            "TRUNCATE audit_line",
        ):
            with pytest.raises(asyncpg.RaiseError, match="append-only"):
                await sql.execute(statement)
        assert await sql.fetchval("SELECT count(*) FROM audit_line") == 1
    [rule] = [each for each in policy(Periods()).pruned if each.table == "audit_line"]
    assert rule.keep > YOUNGEST


async def test_nothing_of_a_person_is_in_a_line(service: httpx.AsyncClient, surroundings: Surroundings) -> None:
    named = bearer(subject=f"agent {number(9)}", scope=TENANT)
    await looked_up(service, 1, headers=named)
    await service.get(f"/v1/opt-outs?sender_id={number(8)}", headers=named)
    await service.get(f"/v1/receipts/{number(7)}", headers=named)
    await service.post("/v1/proofs", json={"number": number(1), "name_the_number": True}, headers=named)

    async def all_there() -> bool:
        return len(await lines(service)) >= 4

    await eventually(all_there)
    async with surroundings.sql("consent") as sql:
        rows = await sql.fetch("SELECT l::text FROM audit_line l")
    text = "\n".join(row[0] for row in rows)
    assert "agent [number]" in text
    for n in (1, 7, 8, 9):
        assert not [each for each in (*spellings(number(n)), subject(n)) if each in text]


async def test_without_its_line_an_answer_does_not_leave(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    async with surroundings.sql("consent") as sql:
        await sql.execute("ALTER TABLE audit_line RENAME TO gone")
        answer = await service.post("/v1/subjects/lookup", json={"number": number(1)})
        assert answer.status_code == 500
        assert shown(1, "acme") not in answer.text
        await sql.execute("ALTER TABLE gone RENAME TO audit_line")
    await looked_up(service, 1)


DECIDED: list[tuple[str, str, dict[str, Any]]] = [  # what is decided, its table, and its body
    ("/v1/erasures", "erasure", {"number": number(1), "controller": "acme", "evidence": {"source": "x"}}),
    ("/v1/copies", "copy", {"number": number(1), "controller": "acme"}),
    (
        "/v1/rectifications",
        "rectification",
        {
            "number": number(1),
            "controller": "acme",
            "asked": {"source": "call-centre", "actor": "agent-12", "statement": "my name is wrong"},
            "correct": {"kind": "contact", "sender_id": "acme", "fields": {"first_name": "Zoé"}},
        },
    ),
    ("/v1/preference-links", "preference_link", {"sender_id": "acme", "number": number(1)}),
    ("/v1/senders/acme/reopening-rules", "reopening_rule", {"purpose": "promotions", "reason": "asked by the board"}),
]


@pytest.mark.parametrize(("path", "table", "body"), DECIDED, ids=[table for _, table, _ in DECIDED])
async def test_a_decision_and_its_line_stand_together(
    service: httpx.AsyncClient, surroundings: Surroundings, path: str, table: str, body: dict[str, Any]
) -> None:
    """A process that ends between the two would leave a decision by nobody."""
    await service.post("/v1/consents", json=consent(number=number(1)))
    async with surroundings.sql("consent") as sql:
        await sql.execute("ALTER TABLE audit_line RENAME TO gone")
        assert (await service.post(path, json=body)).status_code == 500
        assert await sql.fetchval(f"SELECT count(*) FROM {table}") == 0, "no decision without its line"
        await sql.execute("ALTER TABLE gone RENAME TO audit_line")
        answer = await service.post(path, json=body)
        assert answer.status_code < 300, answer.text
        assert await sql.fetchval(f"SELECT xmin::text FROM {table}") == await sql.fetchval(
            "SELECT xmin::text FROM audit_line WHERE kind = 'decision'"
        ), "one transaction"
    [line] = await lines(service, "&kind=decision")
    assert line["subject_id"] == answer.json().get("subject_id")


async def test_a_decision_that_is_refused_within_has_the_refusal_alone(service: httpx.AsyncClient) -> None:
    body = {"purpose": "unknown", "reason": "asked by the board"}
    assert (await service.post("/v1/senders/acme/reopening-rules", json=body)).status_code == 422
    assert (await service.post("/v1/senders/nobody/reopening-rules", json=body)).status_code == 404

    async def look() -> list[dict[str, Any]]:
        found = await lines(service)
        assert "unknown_sender" in [line["verdict"] for line in found]
        return found

    assert [line["verdict"] for line in await eventually(look) if line["kind"] == "decision"] == ["unknown_sender"]
