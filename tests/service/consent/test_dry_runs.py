"""A file tried by the terms of an open import: all is told, and nothing is stored."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from consent.imports import reconciliations
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER
from tests.service.consent.test_imports import opened, suppressions, terms
from tests.support.builders import number, shop_export
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

LISTED = {"sender_id": "acme", "provider": "ovh"}


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        yield client


async def tried(client: httpx.AsyncClient, terms: dict[str, Any], file: bytes) -> dict[str, Any]:
    import_id = await opened(client, terms)
    answer = await client.post(f"/v1/imports/{import_id}/dry-run", content=file)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def listing_tried(client: httpx.AsyncClient, listed: str) -> dict[str, Any]:
    answer = await client.post("/v1/reconciliations/dry-run", json=LISTED | {"list": listed})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_dry_run_tells_how_each_line_and_column_is_read_and_stores_nothing(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    rows = [
        (number(1), "03/11/2025 14:05", "yes"),
        (number(2), "03/11/2025 14:05", "no"),
        (number(3), "", "yes"),
        ("01 99 00 12 34", "03/11/2025 14:05", "yes"),
    ]
    file = "Portable;Date de consentement;Accepts SMS Marketing;Pointure\n"
    file += "".join(";".join((*row, "42")) + "\n" for row in rows)
    stated = terms(time_zone="Europe/Paris", date_order="day_first", other_columns="ignore")
    found = await tried(service, stated, file.encode("utf-16"))
    assert found["charset"] == "utf-16-le"
    assert found["delimiter"] == ";"
    assert found["file_refused"] is None
    assert [(c["title"], c["taken_for"]) for c in found["columns"]] == [
        ("Portable", "number"),
        ("Date de consentement", "occurred_at"),
        ("Accepts SMS Marketing", "accepts_sms"),
        ("Pointure", "unknown"),
    ]
    assert found["unknown_columns"] == ["Pointure"]
    assert found["first_lines"] == [
        {"line": 2, "read": {"number": number(1), "occurred_at": "2025-11-03T13:05:00+00:00"}}
    ]
    assert (found["lines"], found["refused"]) == (4, 3)
    assert [(r["line"], r["field"], r["reason"]) for r in found["refusals"]] == [
        (3, "accepts_sms", "consent_not_given"),
        (4, "occurred_at", "occurred_at_missing"),
        (5, "number", "not_mobile"),
    ]
    async with surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT count(*) FROM import_piece") == 0
        assert await sql.fetchval("SELECT count(*) FROM subject") == 0
        assert await sql.fetchval("SELECT max(received_bytes) FROM import_file") == 0


async def test_a_dry_run_of_suppressions_tells_what_each_line_and_column_is_taken_for(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    file = "Téléphone,Accepts SMS Marketing,Consent date,Date du STOP,Email\n"
    file += f"{number(1)},non,02/11/2025 10:00,03/11/2025 14:05,\n"
    file += f"06 39 98 00 02,no,,,zoe@acme.example\n{number(3)},oui,02/11/2025 10:00,,\nZoé,no,,,\n"
    stated = suppressions(time_zone="Europe/Paris", date_order="day_first")
    found = await tried(service, stated, file.encode("cp1252"))
    assert (found["charset"], found["file_refused"], found["unknown_columns"]) == ("windows-1252", None, [])
    assert [c["taken_for"] for c in found["columns"]] == [
        "number", "accepts_sms", "of_no_use", "occurred_at", "of_no_use",
    ]  # fmt: skip
    assert found["first_lines"] == [
        {"line": 2, "read": {"number": number(1), "occurred_at": "2025-11-03T13:05:00+00:00"}},
        {"line": 3, "read": {"number": number(2)}},
    ]
    assert [(r["line"], r["field"], r["reason"]) for r in found["refusals"]] == [
        (4, "accepts_sms", "consent_given"),
        (5, "number", "not_a_number"),
    ]
    async with surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT count(*) FROM import_piece") == 0
        assert await sql.fetchval("SELECT count(*) FROM subject") == 0


async def test_a_dry_run_of_a_provider_list_tells_how_it_is_read_and_opts_nobody_out(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    listed = f"Date;Téléphone;Destinataire\n2026-01-01;06 39 98 00 01;{number(9)}\n2026-01-01;Zoé;\n"
    found = await listing_tried(service, listed)
    assert [(c["place"], c["title"], c["taken_for"]) for c in found["columns"]] == [
        (1, "Date", "unknown"),
        (2, "Téléphone", "number"),
        (3, "Destinataire", "other_number"),
    ]
    assert (found["delimiter"], found["file_refused"], found["unknown_columns"]) == (";", None, ["Date"])
    assert found["first_lines"] == [{"line": 2, "read": {"number": number(1)}}]
    assert (found["lines"], found["refused"], found["reasons"]) == (2, 1, {"not_a_number": 1})
    assert found["refusals"] == [{"line": 3, "field": "number", "reason": "not_a_number"}]

    bare = await listing_tried(service, f"{number(1)}\n{number(2)}\n")
    assert [(c["place"], c["title"], c["taken_for"]) for c in bare["columns"]] == [(1, "", "number")]
    assert [each["line"] for each in bare["first_lines"]] == [1, 2]
    in_json = await listing_tried(service, f'["{number(1)}"]')
    assert (in_json["columns"], in_json["delimiter"], in_json["lines"]) == ([], None, 1)
    assert (await listing_tried(service, ""))["lines"] == 0
    async with surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT count(*) FROM subject") == 0


async def test_a_provider_list_that_would_be_refused_is_refused_in_a_dry_run_as_well(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliations, "LIST_NUMBERS", 2)
    for listed, reason in (
        ("nom,prénom\nDurand,Zoé\n", "not_a_list"),
        ('{"optOuts": []}', "not_a_list"),
        ("".join(f"{number(n)}\n" for n in (1, 2, 3)), "too_long"),
    ):
        found = await listing_tried(service, listed)
        assert found["file_refused"]["reason"] == reason
        refused = await service.post("/v1/reconciliations", json=LISTED | {"list": listed})
        assert (refused.status_code, refused.json()["reasons"][0]["reason"]) == (422, reason)
    assert [c["title"] for c in (await listing_tried(service, "nom,prénom\n"))["columns"]] == ["nom", "prénom"]


async def test_one_export_of_a_shop_fits_consents_suppressions_and_a_provider_list(service: httpx.AsyncClient) -> None:
    export = shop_export()
    as_consents = terms(time_zone="Europe/Paris", date_order="day_first")
    as_suppressions = suppressions(time_zone="Europe/Paris", date_order="day_first")
    consents = await tried(service, as_consents, export.encode())
    listed = await tried(service, as_suppressions, export.encode())
    provider = await listing_tried(service, export)
    assert [found["file_refused"] for found in (consents, listed, provider)] == [None, None, None]
    assert [[each["line"] for each in found["first_lines"]] for found in (consents, listed, provider)] == [
        [2], [3, 4], [2, 3, 4],
    ]  # fmt: skip
    assert [each["read"]["number"] for each in provider["first_lines"]] == [number(1), number(2), number(3)]
    assert consents["reasons"] == {"consent_not_given": 2}
    assert listed["reasons"] == {"consent_given": 1}


async def test_a_dry_run_of_a_file_that_would_be_refused_says_why_and_names_the_columns(
    service: httpx.AsyncClient,
) -> None:
    found = await tried(service, terms(), f"number,pointure\n{number(1)},42\n".encode())
    assert (found["file_refused"]["reason"], found["unknown_columns"], found["lines"]) == (
        "unknown_column", ["pointure"], 0,
    )  # fmt: skip
    assert (await tried(service, terms(), b"PK\x03\x04\x14\x00"))["file_refused"]["reason"] == "spreadsheet"
    assert (await tried(service, suppressions(), b""))["file_refused"]["reason"] == "empty"
    mixed = "number,actor\n0639980001,Zoé\n".encode() + "0639980002,Zoé\n".encode("latin-1")
    told = await tried(service, terms(), mixed)
    assert (told["file_refused"]["reason"], told["charset"]) == ("charset", None)


async def test_an_import_without_its_proof_is_refused_in_a_dry_run_as_in_the_import(service: httpx.AsyncClient) -> None:
    bare = terms(evidence={"source": "old-crm"})
    found = await tried(service, bare, f"number,occurred_at\n{number(1)},2026-03-02T13:05:00Z\n".encode())
    assert found["refused"] == 1
    assert set(found["reasons"]) == {"nothing_shown"}


async def test_only_who_may_import_tries_a_file(service: httpx.AsyncClient) -> None:
    import_id = await opened(service, terms())
    for headers, status in (
        ({"Authorization": ""}, 401),
        (bearer(scope="consent:read"), 403),
        (bearer(senders=["globex"]), 404),
    ):
        answer = await service.post(f"/v1/imports/{import_id}/dry-run", content=b"number\n", headers=headers)
        assert answer.status_code == status
    for headers, status in (
        ({"Authorization": ""}, 401),
        (bearer(scope="consent:read"), 403),
        (bearer(senders=["globex"]), 403),
    ):
        body = LISTED | {"list": number(1)}
        answer = await service.post("/v1/reconciliations/dry-run", json=body, headers=headers)
        assert answer.status_code == status
    assert (await service.post(f"/v1/imports/{import_id}/dry-run", content=b"x" * 9_000_000)).status_code == 413
