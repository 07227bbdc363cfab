"""A file of contacts tried against an open import: all is told, and nothing is stored."""

from typing import Any

import pytest

from tests.service.campaign.campaigns import Campaigns
from tests.service.campaign.test_resumed_imports import opened
from tests.support.builders import number, shop_export
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless


async def tried(campaigns: Campaigns, file: bytes) -> dict[str, Any]:
    import_id = (await opened(campaigns))["import_id"]
    answer = await campaigns.client.post(f"/v1/imports/{import_id}/dry-run", content=file)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_dry_run_tells_how_each_line_and_column_is_read_and_stores_nothing(campaigns: Campaigns) -> None:
    rows = f"{number(1)};Zoé;01 99 00 12 34\n01 99 00 12 34;Léa;\n{number(2)};A;;de trop\n"
    found = await tried(campaigns, f"Portable;Prénom;Téléphone\n{rows}".encode("cp1252"))
    assert (found["charset"], found["delimiter"], found["file_refused"]) == ("windows-1252", ";", None)
    assert [(c["title"], c["taken_for"]) for c in found["columns"]] == [
        ("Portable", "number"),
        ("Prénom", "attribute"),
        ("Téléphone", "other_number"),
    ]
    assert found["first_lines"] == [{"line": 2, "read": {"number": number(1), "prenom": "Zoé"}}]
    assert (found["lines"], found["refused"]) == (3, 2)
    assert [(r["line"], r["field"], r["reason"]) for r in found["refusals"]] == [
        (3, "number", "not_mobile"),
        (4, None, "too_many_cells"),
    ]
    async with campaigns.surroundings.sql("campaign") as sql:
        assert await sql.fetchval("SELECT count(*) FROM import_piece") == 0
        assert await sql.fetchval("SELECT count(*) FROM contact") == 0
        assert await sql.fetchval("SELECT max(received_bytes) FROM contact_import") == 0


async def test_the_export_of_a_shop_that_fits_the_other_files_fits_contacts_too(campaigns: Campaigns) -> None:
    found = await tried(campaigns, shop_export().encode())
    assert (found["file_refused"], found["lines"], found["refused"]) == (None, 3, 0)
    assert [each["read"]["number"] for each in found["first_lines"]] == [number(1), number(2), number(3)]
    assert {each["title"]: each["taken_for"] for each in found["columns"]} == {
        "Customer ID": "attribute",
        "First Name": "attribute",
        "Phone": "number",
        "Default Address Phone": "other_number",
        "Accepts SMS Marketing": "attribute",
        "Consent date": "attribute",
    }


async def test_a_dry_run_of_a_file_that_would_be_refused_says_why(campaigns: Campaigns) -> None:
    found = await tried(campaigns, b"prenom;ville\nZoe;Lyon\n")
    assert found["file_refused"]["reason"] == "number_column_missing"
    assert [c["title"] for c in found["columns"]] == ["prenom", "ville"]
    assert (await tried(campaigns, b""))["file_refused"]["reason"] == "empty"
    in_json = await tried(campaigns, f'{{"mobile": "{number(1)}", "ville": "Lyon"}}\n[]\n'.encode())
    assert (in_json["columns"], in_json["delimiter"], in_json["reasons"]) == ([], None, {"not_an_object": 1})
    assert in_json["first_lines"] == [{"line": 1, "read": {"number": number(1), "ville": "Lyon"}}]


async def test_only_who_may_import_tries_a_file(campaigns: Campaigns) -> None:
    import_id = (await opened(campaigns))["import_id"]
    for headers, status in (
        ({"Authorization": ""}, 401),
        (bearer(scope="contact:read"), 403),
        (bearer(senders=["globex"]), 404),
    ):
        path = f"/v1/imports/{import_id}/dry-run"
        assert (await campaigns.client.post(path, content=b"mobile\n", headers=headers)).status_code == status
