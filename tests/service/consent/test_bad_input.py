"""Bad input is a clear problem, and nothing is half done: every row of every table is as before."""

import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from common.keyring import LinkKeys
from common.settings import KeyRingSettings
from consent.page.link import Link, token
from consent.service import Settings, build
from tests.service.consent.test_imports import opened, part, terms
from tests.support.builders import number, subject_keys
from tests.support.each_of import each_of
from tests.support.running import KEY_RING, Surroundings, running

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
AT = "2026-03-02T14:05:00+01:00"
EVIDENCE = {"source": "shop", "text_shown": "Oui, je veux vos offres"}
PAGE = "http://service"


@dataclass(frozen=True)
class Service:
    client: httpx.AsyncClient
    surroundings: Surroundings

    async def rows(self, *but: str) -> dict[str, str]:
        """A digest of every table, but for these and the audit log, which tells of the refusals."""
        async with self.surroundings.sql("consent") as sql:
            tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename")
            found = {}
            for (table,) in tables:
                if table not in (*but, "audit_line"):
                    rows = await sql.fetch(f'SELECT t::text FROM "{table}" AS t ORDER BY 1')
                    found[table] = hashlib.sha256("\n".join(row[0] for row in rows).encode()).hexdigest()
        assert {"evidence", "subject", "outbox", "keyed_request"} <= set(found)
        return found

    async def link(self) -> str:
        answer = await self.client.post("/v1/preference-links", json={"sender_id": "acme", "number": number(1)})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["url"]).removeprefix(PAGE)


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[Service]:
    settings = Settings(**await surroundings.settings("consent", roles="api", page_url=PAGE))
    async with running(build(settings)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        assert (await client.post("/v1/consents", json=consent(1))).status_code == 201
        yield Service(client, surroundings)


def consent(n: int, **more: Any) -> dict[str, Any]:
    body = {"sender_id": "acme", "purpose": "promotions", "number": number(n), "occurred_at": AT, "evidence": EVIDENCE}
    return body | more


def stop(n: int, **more: Any) -> dict[str, Any]:
    return {"sender_id": "acme", "number": number(n), "evidence": {"source": "shop"}} | more


@each_of(
    ("path", "body", "status", "field"),
    [
        ("consents", consent(2, evidence=None), 422, "evidence"),
        ("consents", {k: v for k, v in consent(2).items() if k != "evidence"}, 422, "evidence"),
        ("consents", consent(2, evidence={"source": "shop"}), 422, "evidence"),
        ("consents", consent(2, occurred_at="2999-01-01T00:00:00Z"), 422, "occurred_at"),
        ("consents", consent(2, purpose="surveys"), 422, "purpose"),
        ("consents", consent(2, sender_id="globex"), 404, "sender_id"),
        ("consents", consent(2, number="01 99 00 12 34"), 422, "number"),
        ("consents", consent(2, number="36111"), 422, "number"),
        ("consents", consent(2, basis="soft_opt_in"), 422, "evidence.sale_reference"),
        ("opt-outs", stop(2, purpose="surveys"), 422, "purpose"),
        ("opt-outs", stop(2, sender_id="globex"), 404, "sender_id"),
        ("opt-outs", stop(2, number="nobody"), 422, "number"),
        ("opt-outs", {k: v for k, v in stop(2).items() if k != "evidence"}, 422, "evidence"),
        ("consents/batch", {"items": []}, 422, "items"),
        ("erasures", {"number": number(1)}, 422, "evidence"),
        ("preference-links", {"sender_id": "globex", "number": number(1)}, 404, "sender_id"),
        ("imports", terms(purpose="surveys"), 422, "purpose"),
        ("senders", SENDER | {"brand": "Autre"}, 409, "sender_id"),
        ("senders", SENDER | {"sender_id": "acme-2", "oadc": "36111"}, 422, "oadc"),
    ],
)
async def test_what_is_refused_names_the_field_and_leaves_every_row_as_it_was(
    service: Service, path: str, body: dict[str, Any], status: int, field: str
) -> None:
    before = await service.rows()
    answer = await service.client.post(f"/v1/{path}", json=body, headers={"Idempotency-Key": "k1"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], [reason["field"] for reason in problem["reasons"]]) == (status, [field])
    assert number(2)[3:] not in answer.text
    assert await service.rows() == before


async def test_of_a_batch_what_is_refused_leaves_nothing_and_the_rest_is_whole(service: Service) -> None:
    bad = [consent(2, evidence={"source": "shop"}), consent(3, number="01 99 00 12 34"), consent(4, purpose="surveys")]
    before = await service.rows()
    answer = await service.client.post("/v1/consents/batch", json={"items": bad})
    assert answer.json()["counts"] == {"recorded": 0, "unchanged": 0, "refused": 3}
    assert await service.rows() == before
    answer = await service.client.post("/v1/consents/batch", json={"items": [*bad, consent(5)]})
    assert answer.json()["counts"] == {"recorded": 1, "unchanged": 0, "refused": 3}
    async with service.surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT count(*) FROM evidence") == 2
        assert await sql.fetchval("SELECT count(*) FROM subject") == 2


@pytest.mark.parametrize("method", ["GET", "POST /stop", "POST /purposes", "POST /copy", "POST /erase"])
async def test_a_link_that_is_forged_or_has_expired_does_nothing(service: Service, method: str) -> None:
    path = await service.link()
    head, written = path.rsplit("/", 1)
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
    async with service.surroundings.sql("consent") as sql:
        link_id = await sql.fetchval("SELECT link_id FROM preference_link")
        expired = token(Link(link_id, past), LinkKeys(KeyRingSettings.model_validate(KEY_RING), subject_keys))
        forged = written[:-1] + ("A" if written[-1] != "A" else "B")
        verb, _, act = method.partition(" ")
        before = await service.rows()
        for tried, status in ((forged, 404), (written[:-4], 404)):
            answer = await act_on(service, verb, f"{head}/{tried}{act}")
            assert answer.status_code == status
            assert "Acme" not in answer.text
        assert await service.rows() == before
        await sql.execute("UPDATE preference_link SET expires_at = $1", past)
    before = await service.rows()
    answer = await act_on(service, verb, f"{head}/{expired}{act}")
    assert (answer.status_code, "Acme" in answer.text) == (410, False)
    assert await service.rows() == before


async def act_on(service: Service, verb: str, path: str, **more: Any) -> httpx.Response:
    service.client.cookies.clear()
    data = {"lang": "fr", "sender": "acme", "purpose": "promotions", "want": "off", "sure": "yes"}
    return await service.client.request(verb, path, data=data if verb == "POST" else None, **more)


async def test_a_link_that_is_another_s_browser_s_shows_and_loosens_nothing(service: Service) -> None:
    path = await service.link()
    service.client.cookies.clear()
    page = (await service.client.get(path)).text
    form = re.search(r'name="form" value="([^"]+)"', page[page.index(f"{path}/copy") :])
    assert form is not None
    taken = await service.client.post(f"{path}/copy", data={"lang": "fr", "form": form[1], "format": "json"})
    assert taken.headers["content-type"] == "application/json", "the link is this browser's from now on"
    await service.client.post(f"{path}/purposes", data={"sender": "acme", "purpose": "promotions", "want": "off"})
    before = await service.rows()
    for verb, act in (("GET", ""), ("POST", "/copy"), ("POST", "/erase")):
        answer = await act_on(service, verb, path + act)
        assert answer.status_code == 403, act
        assert "Acme" not in answer.text
    service.client.cookies.clear()
    loosening = {"lang": "fr", "sender": "acme", "purpose": "promotions", "want": "on", "form": form[1]}
    assert (await service.client.post(f"{path}/purposes", data=loosening)).status_code in (403, 409)
    assert await service.rows() == before


async def test_an_import_cut_in_the_middle_is_said_to_be_and_nothing_of_it_counts(service: Service) -> None:
    file = ("number,occurred_at\n" + "".join(f"{number(n)},{AT}\n" for n in range(2, 40))).encode()
    import_id = await opened(service.client, terms(), len(file))
    files = ("import_file", "import_piece")
    before = await service.rows(*files)
    first = await part(service.client, import_id, file[:300], last=False)
    offset = int(first.headers["Upload-Offset"])
    cut = await part(service.client, import_id, file[offset:-7], offset)
    assert (cut.status_code, cut.headers["content-type"]) == (422, "application/problem+json")
    assert [reason["field"] for reason in cut.json()["reasons"]] == ["Upload-Length"]
    assert await service.rows(*files) == before
    told = (await service.client.get(f"/v1/imports/{import_id}")).json()
    assert (told["status"], told["created"], told["refused"]) == ("uploading", 0, 0)
