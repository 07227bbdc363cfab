"""A file of contacts in parts, and one whose recording was broken off: as if it had come and been recorded at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from campaign.imports import store
from campaign.imports import worker as importing
from campaign.service import Settings, build
from common.keyring import Unreadable
from common.service import Resources
from common.service import running as held_by
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import SENDER, number, subject
from tests.support.running import Surroundings, bearer
from tests.support.uploading import (
    OCTETS,
    TUS,
    broken_off,
    check_break_behind_the_last_byte,
    check_length_named_last,
    check_length_named_with_bytes,
    check_refusals,
    patched,
    resumed,
    told_offset,
)

pytestmark = pytest.mark.brokerless

KEY = {"Idempotency-Key": "november"}
COUNTS = ("lines", "created", "updated", "duplicates", "refused", "reasons")
# 900 people on 12,000 lines, so most come again, in other pieces and transactions too; every 50th is nobody's number
LINES = [f"{number(n % 900)};Zoé {n}" if n % 50 else "36111;" for n in range(12_000)]
FILE = ("mobile;prénom\n" + "\n".join(LINES) + "\n").encode()


@pytest.fixture(autouse=True)
def _in_several_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "AT_ONCE", 4_000)


@pytest.fixture
async def held(campaigns: Campaigns) -> AsyncIterator[Resources[Any]]:
    """What the worker has, which a test makes go on."""
    async with held_by(build(Settings(**await campaigns.surroundings.settings("campaign", roles="api")))) as (held, _):
        yield held


async def opened(campaigns: Campaigns, expect: int = 201, key: str = "november") -> dict[str, Any]:
    return await campaigns.imported(b"", expect, headers={**TUS, "Idempotency-Key": key, "Upload-Defer-Length": "1"})


async def part(
    client: httpx.AsyncClient, found: dict[str, Any], body: bytes, *, last: bool, headers: dict[str, str] | None = None
) -> httpx.Response:
    offset = found["received_bytes"]
    length = offset + len(body) if last else None
    return await patched(client, f"/v1/imports/{found['import_id']}", body, offset, length, headers)


async def arrived(campaigns: Campaigns, found: dict[str, Any], body: bytes, *, last: bool = True) -> dict[str, Any]:
    """The import, once this part of its file is here."""
    answer = await part(campaigns.client, found, body, last=last)
    assert answer.status_code == 204, answer.text
    found = await campaigns.get(f"imports/{found['import_id']}")
    assert answer.headers["Upload-Offset"] == str(found["received_bytes"])
    return found


async def rows(surroundings: Surroundings, query: str) -> list[tuple[Any, ...]]:
    async with surroundings.sql("campaign") as sql:
        return [tuple(row) for row in await sql.fetch(query)]


async def test_a_file_in_parts_goes_on_where_it_stands_and_counts_once_it_is_whole(
    campaigns: Campaigns, held: Resources[Any]
) -> None:
    found = first = await opened(campaigns)
    assert (found["status"], found["received_bytes"]) == ("uploading", 0)
    parts = [FILE[:10], FILE[10:70_001], FILE[70_001:]]  # within the header's é, and within a line
    for body, last in zip(parts, (False, False, True), strict=True):
        assert await rows(campaigns.surroundings, "SELECT FROM contact") == []
        found = await arrived(campaigns, found, body, last=last)
    assert (found["status"], found["received_bytes"]) == ("recording", len(FILE))
    assert await importing.go_on(held)
    assert not await importing.go_on(held)
    done = await campaigns.get(f"imports/{found['import_id']}")
    assert {name: done[name] for name in COUNTS} == {
        "lines": 12_000,
        "created": 882,
        "updated": 0,
        "duplicates": 10_878,
        "refused": 240,
        "reasons": {"short_code": 240},
    }
    assert done["status"] == "done"
    assert await rows(campaigns.surroundings, "SELECT FROM import_piece") == []
    person = await campaigns.post("contacts/lookup", json={"sender_id": SENDER, "number": number(899)})
    assert person["attributes"] == {"prenom": "Zoé 11699"}, "of several lines of one number the last stands"
    assert await opened(campaigns, 201) == first
    assert await campaigns.imported(FILE, 201, headers=KEY) == done, "the same file, in one go"
    assert (await campaigns.imported(FILE + b"36111;\n", 422, headers=KEY))["type"].endswith("key-reused")


async def test_an_upload_is_told_where_it_stands_and_takes_nothing_elsewhere(campaigns: Campaigns) -> None:
    found = await opened(campaigns)
    await arrived(campaigns, found, FILE[:500], last=False)
    for offset in (0, 499, 501):
        elsewhere = await part(campaigns.client, {**found, "received_bytes": offset}, FILE[offset:], last=True)
        assert (elsewhere.status_code, elsewhere.json()["type"]) == (409, "/problems/mismatching-upload-offset")
    assert await opened(campaigns, 201) == found
    assert await told_offset(campaigns.client, f"/v1/imports/{found['import_id']}", None) == 500
    other = bearer(senders=["somebody-else"])
    assert (await part(campaigns.client, found, b"", last=False, headers=other)).status_code == 404
    too_large = {**found, "received_bytes": 500}
    assert (await part(campaigns.client, too_large, b"x" * 1_000_000, last=True)).status_code == 413
    too_long = {"Idempotency-Key": "too long", "Upload-Length": "1000001"}
    assert (await campaigns.imported(b"", 413, headers=too_long))["reasons"][0]["field"] == "Upload-Length"
    whole = await campaigns.imported(b"mobile\n36111\n", headers=KEY)
    assert (whole["received_bytes"], whole["refused"]) == (13, 1), "a whole file under its key begins anew"
    late = await part(campaigns.client, whole, b"36111\n", last=True)
    assert (late.status_code, late.json()["type"]) == (409, "/problems/upload-complete")
    named = await campaigns.imported(b"mobile\n", 400, headers={"Idempotency-Key": "other", "Upload-Length": "7"})
    assert named["reasons"][0]["reason"] == "not_here"


async def test_an_upload_is_spoken_as_a_client_of_tus_speaks(campaigns: Campaigns, held: Resources[Any]) -> None:
    await check_refusals(campaigns.client, f"/v1/imports/{(await opened(campaigns, key='other'))['import_id']}")
    headers = {**TUS, "Upload-Length": str(len(FILE))}
    opening = await campaigns.client.post(f"/v1/imports?sender_id={SENDER}", headers=headers)
    assert (opening.status_code, opening.headers["Tus-Resumable"]) == (201, "1.0.0")
    await resumed(campaigns.client, opening.headers["Location"], FILE, 70_001)
    assert await importing.go_on(held)
    assert (await campaigns.client.get(opening.headers["Location"])).json()["lines"] == 12_000


async def test_the_last_byte_of_a_file_completes_it_in_one_transaction(campaigns: Campaigns) -> None:
    """A client that reads an offset equal to the length sends nothing more."""
    headers = {"Idempotency-Key": "november", "Upload-Length": str(len(FILE))}
    found = await campaigns.imported(b"", headers=headers)
    location = f"/v1/imports/{found['import_id']}"
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute(
            "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken off'; END $$"
        )
        await sql.execute(
            "CREATE TRIGGER broken BEFORE UPDATE ON contact_import FOR EACH ROW WHEN (new.complete)"
            " EXECUTE FUNCTION broken()"
        )
        assert (await part(campaigns.client, found, FILE, last=True)).status_code == 500
        offset = await told_offset(campaigns.client, location, len(FILE))
        assert offset < len(FILE)
        await sql.execute("DROP TRIGGER broken ON contact_import")
    found = await arrived(campaigns, {**found, "received_bytes": offset}, FILE[offset:])
    assert found["status"] == "recording"


async def test_a_length_named_later_holds_from_then_on(campaigns: Campaigns) -> None:
    first, second, large = [
        f"/v1/imports/{(await opened(campaigns, key=key))['import_id']}" for key in ("first", "second", "large")
    ]
    await check_length_named_with_bytes(campaigns.client, first, FILE)
    await check_length_named_last(campaigns.client, second, FILE)
    refused = await patched(campaigns.client, large, FILE[:4], 0, 1_000_001)
    assert (refused.status_code, refused.json()["reasons"][0]["field"]) == (413, "Upload-Length")
    assert await told_offset(campaigns.client, large, None) == 0


@pytest.mark.parametrize("extra", [(), (b"x",)])
async def test_a_connection_that_breaks_behind_the_last_byte_leaves_an_upload_that_completes(
    campaigns: Campaigns, extra: tuple[bytes, ...]
) -> None:
    found = await campaigns.imported(b"", headers={**TUS, "Upload-Length": str(len(FILE))})
    await check_break_behind_the_last_byte(campaigns.client, f"/v1/imports/{found['import_id']}", FILE, *extra)


async def test_where_a_connection_breaks_what_has_come_is_kept_and_nothing_counts(
    campaigns: Campaigns, held: Resources[Any]
) -> None:
    found = await opened(campaigns)
    headers = {**OCTETS, "Upload-Offset": "0", "Upload-Length": str(len(FILE))}
    answer = await broken_off(campaigns.client, "PATCH", f"/v1/imports/{found['import_id']}", headers, FILE[:333])
    assert answer.status == 400
    found = await campaigns.get(f"imports/{found['import_id']}")
    assert (found["status"], found["received_bytes"]) == ("uploading", 333)
    assert not await importing.go_on(held)
    assert (await arrived(campaigns, found, FILE[333:]))["status"] == "recording"
    assert await importing.go_on(held)
    assert (await campaigns.get(f"imports/{found['import_id']}"))["lines"] == 12_000

    for key, kept in ((None, 1), ("again", 2)):  # nobody could go on with what has no key
        headers = {"Idempotency-Key": key} if key else {}
        answer = await broken_off(campaigns.client, "POST", f"/v1/imports?sender_id={SENDER}", headers, FILE[:333])
        assert answer.status == 400
        assert len(await rows(campaigns.surroundings, "SELECT FROM contact_import")) == kept


async def test_a_file_in_parts_that_cannot_be_used_is_refused_whole_at_its_end(campaigns: Campaigns) -> None:
    found = await opened(campaigns)
    found = await arrived(campaigns, found, FILE, last=False)
    answer = await part(campaigns.client, found, b"\x81\xff", last=True)
    assert (answer.status_code, answer.json()["reasons"][0]["reason"]) == (400, "charset")
    for table in ("contact", "contact_import", "import_piece", "import_refusal"):
        assert await rows(campaigns.surroundings, f"SELECT FROM {table}") == [], table


@pytest.mark.parametrize("line", [1, 5_001, 10_001])
async def test_a_recording_that_was_broken_off_is_gone_on_with_and_no_line_counts_twice(
    campaigns: Campaigns, held: Resources[Any], line: int
) -> None:
    """The database refuses to keep how far it is: nothing of that transaction stays, as when a process is killed."""
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute(
            "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken off'; END $$"
        )
        await sql.execute(
            f"CREATE TRIGGER broken BEFORE UPDATE ON contact_import FOR EACH ROW WHEN (new.line > {line})"
            " EXECUTE FUNCTION broken()"
        )
    assert (await campaigns.client.post(f"/v1/imports?sender_id={SENDER}", content=FILE)).status_code == 500
    [(import_id, reached, lines, attempts)] = await rows(
        campaigns.surroundings, "SELECT import_id, line, lines, attempts FROM contact_import"
    )
    assert attempts == (0 if reached else 1), "one that gets further is none of those that get nowhere"
    assert (reached, lines) == ((reached, max(0, reached - 1)) if reached else (0, 0))
    assert reached <= line
    assert len(await rows(campaigns.surroundings, "SELECT FROM import_refusal")) == len(
        [n for n in range(0, 12_000, 50) if n + 2 <= reached]
    )
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("DROP TRIGGER broken ON contact_import")
    assert await importing.go_on(held)
    done = await campaigns.get(f"imports/{import_id}")
    assert [done[name] for name in COUNTS] == [12_000, 882, 0, 10_878, 240, {"short_code": 240}]
    assert done["read_as"]["delimiter"] == ";"
    assert (await campaigns.get(f"senders/{SENDER}/attributes")) == {"prenom": "text"}
    assert len(await rows(campaigns.surroundings, "SELECT FROM contact")) == 882
    assert subject(1) in {row[0] for row in await rows(campaigns.surroundings, "SELECT subject_id FROM contact")}


async def test_what_cannot_be_recorded_lets_others_go_first_and_is_given_up(
    campaigns: Campaigns, held: Resources[Any]
) -> None:
    keys = ("1st", "2nd")
    told = [await arrived(campaigns, await opened(campaigns, key=key), FILE) for key in keys]
    broken, other = (f"imports/{each['import_id']}" for each in told)
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE import_piece SET body = body || 'x' WHERE import_id = $1", told[0]["import_id"])
        for attempt in range(1, importing.MAX_ATTEMPTS + 1):
            with pytest.raises(Unreadable):
                await importing.go_on(held)
            if attempt == 1:
                await sql.execute("UPDATE contact_import SET lines = lines WHERE import_id = $1", other.split("/")[1])
                assert await importing.go_on(held), "wherever its row lies"
            assert (await campaigns.get(other))["status"] == "done"
            assert (await campaigns.get(broken))["status"] == "recording"
            if attempt > 4:  # half a minute and more
                assert not await importing.go_on(held), "it is not its turn"
            await sql.execute("UPDATE contact_import SET due_at = now()")
    assert await importing.go_on(held)
    found = await campaigns.get(broken)
    assert [found[name] for name in ("status", "line", *COUNTS)] == ["failed", 0, 0, 0, 0, 0, 0, {}]
    assert await rows(campaigns.surroundings, "SELECT FROM import_piece") == [], "nobody's data are left behind"
    assert not await importing.go_on(held)
    assert (await opened(campaigns, 201, "1st"))["import_id"] == found["import_id"]


async def test_each_pause_is_longer_and_all_of_them_some_minutes() -> None:
    pauses = [importing.pause(attempts).total_seconds() for attempts in range(1, importing.MAX_ATTEMPTS + 1)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0, "whoever was killed is followed at once"
    assert 300 < sum(pauses) < 900


@asynccontextmanager
async def at_work(campaigns: Campaigns, import_id: str) -> AsyncIterator[None]:
    """Another process that holds the import, until it ends."""
    async with campaigns.surroundings.sql("campaign") as sql, sql.transaction():
        await sql.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", import_id)
        yield


async def test_nobody_records_what_another_is_at_and_somebody_does_once_that_one_is_gone(
    campaigns: Campaigns, held: Resources[Any]
) -> None:
    found = await arrived(campaigns, await opened(campaigns), FILE)
    async with at_work(campaigns, found["import_id"]):
        assert not await importing.go_on(held)
        refused = await campaigns.imported(FILE, 409, headers=KEY)
        assert refused["type"] == "/problems/idempotency-key-in-progress"
    assert (await campaigns.imported(FILE, 201, headers=KEY))["status"] == "done", "by who sends the file again"


async def test_who_is_at_an_import_may_stand_still_while_it_arrives_and_is_recorded(
    campaigns: Campaigns, held: Resources[Any]
) -> None:
    """Their transaction holds up nothing but this import. Of all others the server ends what stands still."""
    found = await opened(campaigns)
    limit = text("SHOW idle_in_transaction_session_timeout")
    async with held.database.begin() as claim:
        assert await claim.scalar(limit) == "1min"
        assert await store.claim_import(claim, found["import_id"])
        assert await claim.scalar(limit) == "0"
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("UPDATE contact_import SET complete = true")
    async with held.database.begin() as claim:
        assert await store.claim_waiting(claim, datetime.now(UTC) + timedelta(days=1)) == found["import_id"]
        assert await claim.scalar(limit) == "0"
