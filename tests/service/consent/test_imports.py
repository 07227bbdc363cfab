"""Files of consents and of suppressions: uploaded in parts, recorded in pieces, accounted for line by line."""

import asyncio
import gc
import json
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from common.db.database import Database
from common.files import cutting
from common.kafka.relayed import RELAYED
from common.keyring import Unreadable
from common.service import running as held_by
from consent.imports.worker import ABANDONED_AFTER, Importing
from consent.ledger.recorder import Statement, record
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER, consent, opt_out
from tests.support.builders import inner, number, shown, subject, subject_keys
from tests.support.each_of import each_of
from tests.support.eventually import WITHIN_S, eventually
from tests.support.running import Surroundings, bearer, running
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
from tests.unit.common.test_msisdn import EITHER, RECEIVED, TYPED
from tests.unit.consent.evidences import opt_in

pytestmark = pytest.mark.brokerless

AT = "2026-03-02T13:05:00Z"
EVIDENCE = {"source": "old-crm", "form_id": "newsletter", "form_version": "3"}


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The API, and what records imports; no relay: what is published stays in the outbox."""
    async with consent_svc(surroundings) as client, recording(surroundings):
        yield client


@asynccontextmanager
async def consent_svc(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        yield client


@asynccontextmanager
async def recording(surroundings: Surroundings, backlog: int = 1000) -> AsyncIterator[None]:
    """The worker's part that is looked at here, without its subscriptions."""
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    stop = asyncio.Event()
    async with held_by(build(settings)) as (held, _):
        workers = [asyncio.ensure_future(w.run(stop)) for w in Importing(held, backlog=backlog).workers()]
        yield
        stop.set()
        await asyncio.gather(*workers)


def terms(**changes: Any) -> dict[str, Any]:
    body = {"kind": "consents", "sender_id": "acme", "format": "csv", "purpose": "promotions", "evidence": EVIDENCE}
    return body | changes


def suppressions(**changes: Any) -> dict[str, Any]:
    return terms(kind="suppressions", purpose=None, evidence={"source": "national-list"}) | changes


async def opened(client: httpx.AsyncClient, body: dict[str, Any], length: int | None = None) -> str:
    headers = {} if length is None else {"Upload-Length": str(length)}
    answer = await client.post("/v1/imports", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["import_id"])


async def part(
    client: httpx.AsyncClient,
    import_id: str,
    body: bytes,
    offset: int = 0,
    *,
    last: bool = True,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    length = offset + len(body) if last else None
    return await patched(client, f"/v1/imports/{import_id}", body, offset, length, headers)


async def done(client: httpx.AsyncClient, import_id: str, within_s: float = WITHIN_S) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(f"/v1/imports/{import_id}")).json()
        return found if found["status"] == "done" else {}

    return await eventually(look, within_s)


async def imported(client: httpx.AsyncClient, body: dict[str, Any], file: str) -> dict[str, Any]:
    import_id = await opened(client, body)
    answer = await part(client, import_id, file.encode())
    assert answer.status_code == 204, answer.text
    return await done(client, import_id)


async def verdicts(client: httpx.AsyncClient, import_id: str, **query: str) -> list[str]:
    answer = await client.get(f"/v1/imports/{import_id}/verdicts", params=query)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    header, *lines = answer.text.splitlines()
    assert header == "line,verdict,reasons"
    return lines


async def state_of(client: httpx.AsyncClient, n: int) -> dict[str, Any]:
    found: dict[str, Any] = (await client.post("/v1/subjects/lookup", json={"number": number(n)})).json()
    return found


async def checked(client: httpx.AsyncClient, numbers: Iterable[str], purpose: str = "promotions") -> list[str]:
    body = {"sender_id": "acme", "purpose": purpose, "numbers": list(numbers)}
    return [r["state"] for r in (await client.post("/v1/consents/check", json=body)).json()["results"]]


async def test_every_line_has_its_verdict_and_what_is_taken_is_in_the_ledger_with_its_proof(
    service: httpx.AsyncClient,
) -> None:
    assert (await service.post("/v1/opt-outs", json=opt_out(number=number(4)))).status_code == 201
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    file = f"""number,occurred_at,kind,purpose,basis,sale_reference,text_shown
{number(1)},{AT},,,,,
06 39 98 00 02,2026-03-02T14:05:00+01:00,opt_in,loyalty,soft_opt_in,order-7,
{number(1)},2026-03-02T14:05:00+01:00,,,,,

{number(3)},{AT},opt_out,,,,
{number(4)},{AT},,,,,
01 99 00 12 34,{AT},,,,,
{number(5)},,,,,,
{number(5)},{ahead},,,,,
{number(5)},1980-01-01T00:00:00Z,,,,,
{number(5)},{AT},,newsletter,soft_opt_in,,
{number(6)},{AT},,,,,"Oui,
je veux"
{number(7)},02/03/2026,,,,,
"""
    found = await imported(service, terms(), file)
    assert await verdicts(service, found["import_id"]) == [
        "2,created,",
        "3,created,",
        "4,unchanged,",
        "6,created,",
        "7,outvoted,",
        "8,refused,not_mobile",
        "9,refused,occurred_at_missing",
        "10,refused,occurred_in_the_future",
        "11,refused,occurred_at_not_valid",
        "12,refused,unknown_purpose sale_reference_missing",
        "13,created,",
        "15,refused,occurred_at_ambiguous_day",
    ]
    assert await verdicts(service, found["import_id"], verdict="outvoted") == ["7,outvoted,"]
    path = f"/v1/imports/{found['import_id']}/verdicts"
    in_french = (await service.get(path, params={"titles": "fr", "verdict": "outvoted"})).text
    assert in_french == "ligne,verdict,motifs\n7,outvoted,\n"
    expected = {"created": 4, "unchanged": 1, "outvoted": 1, "refused": 6, "lines": 14, "pieces": 1}
    assert {name: found[name] for name in expected} == expected
    assert found["reasons"] == {
        "not_mobile": 1,
        "occurred_at_missing": 1,
        "occurred_in_the_future": 1,
        "occurred_at_not_valid": 1,
        "occurred_at_ambiguous_day": 1,
        "unknown_purpose": 1,
        "sale_reference_missing": 1,
    }
    proof = (await state_of(service, 1))["history"]
    assert [(p["source"], p["form_id"], p["form_version"], p["actor"]) for p in proof] == [
        ("old-crm", "newsletter", "3", "tester")
    ]
    said = (await state_of(service, 6))["history"][0]
    assert (said["text_shown"], said["form_id"]) == ("Oui,\nje veux", None), (
        "the line's own form, and no half of another"
    )
    assert await checked(service, map(number, (1, 2, 3, 4, 5, 6))) == [
        "opted_in", "unknown", "opted_out", "opted_out", "unknown", "opted_in",
    ]  # fmt: skip
    assert await checked(service, [number(2), number(3)], "loyalty") == ["opted_in", "opted_out"]


async def test_lines_that_are_alike_have_the_verdicts_that_each_has_alone(service: httpx.AsyncClient) -> None:
    """Hundreds of new people, among them lines of other kinds; then a file with some of these people."""
    assert (await service.post("/v1/opt-outs", json=opt_out(number=number(8)))).status_code == 201
    lines = [f"{number(n)},{AT},,," for n in range(1, 400)]
    lines[5:5] = [f"{number(300)},{AT},opt_out,,", f"{number(7)},{AT},,,", f",{AT},,,", f"{number(9)},,,,"]
    lines.append(f"{number(500)},{AT},,loyalty,")
    first = await imported(service, terms(), "\n".join(["number,occurred_at,kind,purpose,text_shown", *lines]))
    odd = {
        "7,created,": "the opt-out",
        "9,refused,empty": "no number",
        "10,refused,occurred_at_missing": "no time",
        "12,unchanged,": "who stands above",
        "13,outvoted,": "an opt-out newer than the file",
        "305,outvoted,": "a tie with the opt-out",
    }
    told = await verdicts(service, first["import_id"])
    assert [line.split(",")[0] for line in told] == [str(line) for line in range(2, len(lines) + 2)]
    assert [line for line in told if not line.endswith(",created,")] == [line for line in odd if "created" not in line]
    newer = "2026-03-03T10:00:00Z"
    rows = [f"{number(n)},{newer}" for n in (8, 1, 2, 300, *range(1000, 1300))]
    again = await imported(service, terms(), "\n".join(["number,occurred_at", *rows]))
    others = [line for line in await verdicts(service, again["import_id"]) if not line.endswith(",created,")]
    assert others == ["2,outvoted,"]
    assert await checked(service, map(number, (1, 8, 300, 399, 1299))) == [
        *("opted_in", "opted_out", "opted_in", "opted_in", "opted_in")
    ]
    assert [len((await state_of(service, n))["history"]) for n in (1, 7, 300, 1299)] == [2, 1, 3, 1]
    for n in (1, 7, 1299):
        [*_, proof] = (await state_of(service, n))["history"]
        assert (proof["source"], proof["form_id"], proof["form_version"]) == ("old-crm", "newsletter", "3")


async def test_the_same_lines_again_or_one_by_one_change_nothing(service: httpx.AsyncClient) -> None:
    lines = "".join(json.dumps({"number": number(n), "occurred_at": AT}) + "\n" for n in range(50))
    first = await imported(service, terms(format="ndjson"), lines)
    again = await imported(service, terms(format="ndjson"), lines)
    assert (first["created"], again["unchanged"]) == (50, 50)
    single = consent(number=number(7), occurred_at=AT, evidence=EVIDENCE)
    assert (await service.post("/v1/consents", json=single)).json()["changed"] is False
    assert len((await state_of(service, 7))["history"]) == 1


async def test_an_import_can_only_tighten_unless_a_line_is_newer_than_the_stop(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random people and histories, in pieces of seven lines: who said STOP is out, whatever the file says, but for a
    line that is strictly newer."""
    monkeypatch.setattr(cutting, "PIECE_LINES", 7)
    dice = random.Random(20261125)
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    people = range(40)
    stops = {n: noon + timedelta(minutes=dice.randint(-3, 3)) for n in people if dice.random() < 0.7}
    for n, at in stops.items():
        body = opt_out(number=number(n), occurred_at=at.isoformat())
        assert (await service.post("/v1/opt-outs", json=body)).status_code == 201
    ins: dict[int, list[datetime]] = {n: [] for n in people}
    outs: dict[int, list[datetime]] = {n: [stops[n]] if n in stops else [] for n in people}
    lines = []
    for _ in range(200):
        n, at = dice.choice(people), noon + timedelta(minutes=dice.randint(-4, 4))
        kind = "opt_in" if dice.random() < 0.8 else "opt_out"
        (ins if kind == "opt_in" else outs)[n].append(at)
        lines.append({"number": number(n), "occurred_at": at.isoformat(), "kind": kind})
    file = "".join(json.dumps(line) + "\n" for line in lines)
    found = await imported(service, terms(format="ndjson"), file)
    assert found["recorded_pieces"] == 29
    expected = [
        "unknown" if not (ins[n] or outs[n])
        else "opted_in" if ins[n] and (not outs[n] or max(ins[n]) > max(outs[n]))
        else "opted_out"
        for n in people
    ]  # fmt: skip
    assert await checked(service, map(number, people)) == expected
    assert {"opted_in", "opted_out"} <= set(expected)
    assert found["outvoted"] > 0


async def test_of_a_suppression_list_the_keyed_hash_alone_is_kept(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    file = f"number,subject_id\n{number(1)},\n,{subject(2)}\n01 99 00 12 34,\n,k9-{'0' * 32}\nnobody,\n"
    found = await imported(service, suppressions(sender_id=None), file)
    assert await verdicts(service, found["import_id"]) == [
        "2,created,",
        "3,created,",
        "4,created,",
        "5,refused,subject_id_not_valid",
        "6,refused,not_a_number",
    ]
    async with surroundings.sql("consent") as sql:
        rows = await sql.fetch("SELECT subject_id, number FROM subject ORDER BY subject_id")
        assert {row["subject_id"]: row["number"] for row in rows} == dict.fromkeys(
            (subject(1), subject(2), subject_keys.subject_id("+33199001234"))
        )
        assert await sql.fetchval("SELECT count(body) FROM import_piece") == 0, "the file itself is gone"
    old = f"number,occurred_at\n{number(1)},{AT}\n{number(2)},{AT}\n"
    assert (await imported(service, terms(), old))["outvoted"] == 2
    assert await checked(service, [number(1), number(2)]) == ["opted_out", "opted_out"]


async def test_a_list_for_a_sender_names_people_by_the_ids_that_its_controller_sees(service: httpx.AsyncClient) -> None:
    given = consent(number=number(2), occurred_at="2026-03-02T14:05:00+01:00")
    assert (await service.post("/v1/consents", json=given)).status_code == 201
    people = (shown(2, "acme"), shown(2, "globex"), subject(2))
    found = await imported(service, suppressions(), "subject_id\n" + "\n".join(people) + "\n")
    assert await verdicts(service, found["import_id"]) == [
        "2,created,",
        "3,refused,subject_id_not_valid",
        "4,refused,subject_id_not_valid",
    ]
    assert await checked(service, [number(2)]) == ["opted_out"]


async def test_a_list_that_comes_again_says_something_only_of_those_who_came_back(service: httpx.AsyncClient) -> None:
    file = f"number\n{number(1)}\n{number(2)}\n"
    assert (await imported(service, suppressions(), file))["created"] == 2
    back = consent(number=number(1), occurred_at=datetime.now(UTC).isoformat())
    assert (await service.post("/v1/consents", json=back)).json()["state"] == "opted_in"
    again = await imported(service, suppressions(), file)
    assert await verdicts(service, again["import_id"]) == ["2,created,", "3,unchanged,"]
    assert await checked(service, [number(1), number(2)]) == ["opted_out", "opted_out"]
    assert len((await state_of(service, 2))["history"]) == 1


@pytest.mark.parametrize("files", ["promotions", None])
async def test_a_line_of_a_list_shuts_its_own_purpose_whatever_the_file_or_another_line_says(
    service: httpx.AsyncClient, files: str | None
) -> None:
    """Who is out of one purpose and in for the other, named for both; and the other way around."""
    for n, purpose in ((1, "loyalty"), (2, "promotions")):
        assert (await service.post("/v1/consents", json=consent(number=number(n), purpose=purpose))).status_code == 201
    for n, purpose in ((1, "promotions"), (2, "loyalty")):
        out = opt_out(number=number(n), purpose=purpose)
        assert (await service.post("/v1/opt-outs", json=out)).status_code == 201
    both = [f"{number(n)},{purpose}\n" for n in (1, 2) for purpose in ("promotions", "loyalty")]
    found = await imported(service, suppressions(purpose=files), "number,purpose\n" + "".join(both))
    assert await verdicts(service, found["import_id"]) == [
        "2,unchanged,",
        "3,created,",
        "4,created,",
        "5,unchanged,",
    ]
    for purpose in ("promotions", "loyalty"):
        assert await checked(service, [number(1), number(2)], purpose) == ["opted_out", "opted_out"]


@pytest.mark.parametrize(("whose", "given"), [("acme", "acme"), (None, "acme"), ("acme", "sibling")])
async def test_a_stop_a_list_and_an_opt_in_of_between_amount_to_the_same_in_any_order(
    service: httpx.AsyncClient, whose: str | None, given: str
) -> None:
    """The list says nothing new of who has said STOP, and is newer than the opt-in that comes after it. A STOP is one
    to every sender of the controller."""
    sibling = SENDER | {"sender_id": "sibling", "controller": "acme"}
    assert (await service.post("/v1/senders", json=sibling)).status_code == 201
    stopped, between = "2026-01-10T09:00:00Z", "2026-02-01T09:00:00Z"
    ends = []
    for n, order in enumerate(permutations(("stop", "list", "opt-in"))):
        for what in order:
            match what:
                case "stop":
                    body = opt_out(sender_id=whose, number=number(n), occurred_at=stopped)
                    assert (await service.post("/v1/opt-outs", json=body)).status_code == 201
                case "list":
                    assert (await imported(service, suppressions(sender_id=whose), f"number\n{number(n)}\n"))[
                        "lines"
                    ] == 1
                case "opt-in":
                    body = consent(sender_id=given, number=number(n), occurred_at=between)
                    assert (await service.post("/v1/consents", json=body)).status_code == 201
        found = await state_of(service, n)
        [end] = found["consents"]
        said = {line["evidence_id"]: line for line in found["history"]}
        ends.append((end["state"], said[end["evidence_id"]]["source"], len(said)))
    assert ends == [("opted_out", "national-list", 3)] * 6


async def test_a_daily_list_is_no_line_a_day_and_its_last_word_is_kept(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    body = opt_out(number=number(1), occurred_at="2026-01-10T09:00:00Z")
    assert (await service.post("/v1/opt-outs", json=body)).status_code == 201
    for _ in range(3):
        assert (await imported(service, suppressions(), f"number\n{number(1)}\n{number(1)}\n"))["unchanged"] == 2
    assert len((await state_of(service, 1))["history"]) == 1
    async with surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT count(*) FROM listed") == 1
        last = await sql.fetchval("SELECT max(created_at) FROM import_file")
    for at in ("2026-02-01T09:00:00Z", "2026-02-02T09:00:00Z"):
        await service.post("/v1/consents", json=consent(number=number(1), occurred_at=at))
    [stop, listed, *_] = history = (await state_of(service, 1))["history"]
    assert (stop["kind"], listed["kind"], len(history)) == ("opt_out", "opt_out", 4)
    assert datetime.fromisoformat(listed["occurred_at"]) == last
    new = consent(number=number(1), occurred_at=datetime.now(UTC).isoformat())
    assert (await service.post("/v1/consents", json=new)).json()["state"] == "opted_in"


async def test_a_list_waits_for_who_is_opting_in_at_this_moment(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    body = opt_out(number=number(1), occurred_at="2026-01-10T09:00:00Z")
    assert (await service.post("/v1/opt-outs", json=body)).status_code == 201
    between = opt_in(evidence_id="ev-between")
    database = Database(await surroundings.database("consent"))
    async with asyncio.TaskGroup() as group, database.begin() as tx:
        await record(tx, inner, [Statement(subject(1), None, between)], datetime.now(UTC))
        listed = group.create_task(imported(service, suppressions(), f"number\n{number(1)}\n"))
        assert await eventually(lambda: _waits(surroundings, listed))
    assert listed.result()["created"] == 1
    assert await checked(service, [number(1)]) == ["opted_out"]
    await database.close()


async def test_a_list_that_waits_for_a_stranger_holds_nobody_on_record(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    """Who opts the stranger in may want the other next: each would wait for the other."""
    assert (await service.post("/v1/opt-outs", json=opt_out(number=number(1)))).status_code == 201
    database = Database(await surroundings.database("consent"))
    async with asyncio.TaskGroup() as group, database.begin() as tx:
        await record(tx, inner, [Statement(subject(2), None, opt_in(evidence_id="ev-stranger"))], datetime.now(UTC))
        listed = group.create_task(imported(service, suppressions(), f"number\n{number(1)}\n{number(2)}\n"))
        assert await eventually(lambda: _waits(surroundings, listed))
        await tx.execute(text("SET LOCAL lock_timeout = '200ms'"))
        await record(tx, inner, [Statement(subject(1), None, opt_in(evidence_id="ev-known"))], datetime.now(UTC))
    assert (listed.result()["created"], listed.result()["unchanged"]) == (1, 1)
    await database.close()


async def _waits(surroundings: Surroundings, listed: asyncio.Task[Any]) -> bool:
    """Whether somebody waits for a lock; or is done without."""
    async with surroundings.sql("consent") as sql:
        waiting = await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    return listed.done() or bool(waiting)


async def test_a_list_dated_ahead_shuts_again_who_came_back_before_it_came_again(service: httpx.AsyncClient) -> None:
    tonight = (datetime.now(UTC) + timedelta(hours=8)).isoformat()
    file = f"number,occurred_at\n{number(1)},{tonight}\n"
    for _ in range(2):
        back = consent(number=number(1), occurred_at=datetime.now(UTC).isoformat())
        assert (await service.post("/v1/consents", json=back)).json()["state"] == "opted_in"
        assert (await imported(service, suppressions(occurred_at=AT), file))["created"] == 1
        assert await checked(service, [number(1)]) == ["opted_out"]


async def test_an_upload_goes_on_where_it_broke_and_counts_only_when_it_is_complete(
    service: httpx.AsyncClient, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "PIECE_LINES", 3)
    file = ("number,occurred_at\n" + "".join(f"{number(n)},{AT}\n" for n in range(20))).encode()
    import_id = await opened(service, terms(), len(file))
    offset = 0
    for end in (1, 25, 300, 301):
        answer = await part(service, import_id, file[offset:end], offset, last=False)
        assert answer.headers["Upload-Offset"] == str(end), answer.text
        offset = end
    for elsewhere in (0, offset - 1, offset + 1):
        answer = await part(service, import_id, file[elsewhere:], elsewhere)
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (409, str(offset))
        assert answer.json()["type"] == "/problems/mismatching-upload-offset"
    early = await part(service, import_id, file[offset:-40], offset)
    assert (early.status_code, early.json()["reasons"][0]["field"]) == (422, "Upload-Length"), "it cannot change"
    assert (await part(service, import_id, file[offset:-40], offset, last=False)).status_code == 204
    too_long = await part(service, import_id, file[-40:] + b"0639980001\n", len(file) - 40, last=False)
    assert (too_long.status_code, too_long.json()["reasons"][0]["reason"]) == (413, "too_large")
    found = (await service.get(f"/v1/imports/{import_id}")).json()
    assert (found["status"], found["received_bytes"], found["created"]) == ("uploading", len(file) - 40, 0)
    assert await checked(service, [number(0)]) == ["unknown"], "nothing half done"
    async with surroundings.sql("consent") as sql:
        for body in await sql.fetch("SELECT body FROM import_piece"):
            assert b"3998" not in body["body"]
    assert (await part(service, import_id, file[-40:], len(file) - 40)).status_code == 204
    assert (await done(service, import_id))["created"] == 20
    assert [line.partition(",")[0] for line in await verdicts(service, import_id)] == [str(n) for n in range(2, 22)]
    again = await part(service, import_id, b"", len(file))
    assert (again.status_code, again.json()["type"]) == (409, "/problems/upload-complete")


async def test_the_end_of_a_file_is_published_once_by_its_last_piece(
    service: httpx.AsyncClient, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces are recorded at the same time: neither of the last two may believe that the other is still to come."""
    monkeypatch.setattr(cutting, "PIECE_LINES", 3)
    file = "number,occurred_at\nx,\n" + "".join(f"{number(n)},{AT}\n" for n in range(30))
    made = await imported(service, terms(), file)
    async with surroundings.sql("consent") as sql:
        [published] = await sql.fetch("SELECT payload FROM outbox WHERE topic = 'consent.notices.v1'")
    notice = json.loads(published["payload"])
    assert notice | {"finished_at": ""} == {
        "notice_id": made["import_id"],
        "sender_id": "acme",
        "kind": "consents",
        "lines": 31,
        "refused": 1,
        "finished_at": "",
    }


async def test_a_file_has_a_largest_size_and_the_refusal_names_it(surroundings: Surroundings) -> None:
    settings = Settings(**await surroundings.settings("consent", roles="api", import_max_bytes=1000))
    async with running(build(settings)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        assert (await client.options("/v1/imports")).headers["Tus-Max-Size"] == "1000"
        longer = await client.post("/v1/imports", json=terms(), headers={**TUS, "Upload-Length": "1001"})
        assert (longer.status_code, longer.json()["reasons"][0]["field"]) == (413, "Upload-Length")
        location = f"/v1/imports/{await opened(client, terms())}"
        assert (await patched(client, location, b"x" * 900, 0)).status_code == 204
        assert (await patched(client, location, b"x" * 101, 900)).status_code == 413
        assert (await patched(client, location, b"x", 900, 1001)).status_code == 413


async def test_an_import_is_read_with_a_scope_that_writes_nothing(service: httpx.AsyncClient) -> None:
    import_id, reads = await opened(service, terms()), bearer(scope="consent:read")
    assert (await service.get(f"/v1/imports/{import_id}", headers=reads)).status_code == 200
    assert (await service.get("/v1/imports", headers=reads)).status_code == 200
    assert (await service.post("/v1/imports", json=terms(), headers=reads)).status_code == 403


async def test_an_upload_is_spoken_as_a_client_of_tus_speaks(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consent.imports.upload.PIECE_BYTES", 100)
    monkeypatch.setattr(cutting, "PIECE_LINES", 2)
    file = ("number,occurred_at\n" + "".join(f"{number(n)},{AT}\n" for n in range(20))).encode()
    await check_refusals(service, f"/v1/imports/{await opened(service, terms())}")
    opening = await service.post("/v1/imports", json=terms(), headers={**TUS, "Upload-Length": str(len(file))})
    assert (opening.status_code, opening.headers["Tus-Resumable"]) == (201, "1.0.0")
    location = opening.headers["Location"]
    await resumed(service, location, file, 500)
    assert (await done(service, location.rpartition("/")[2]))["created"] == 20


async def test_the_last_byte_of_a_file_completes_it_in_one_transaction(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    """A client that reads an offset equal to the length sends nothing more."""
    file = f"number,occurred_at\n{number(1)},{AT}\n".encode()
    import_id = await opened(service, terms(), len(file))
    async with surroundings.sql("consent") as sql:
        await sql.execute(
            "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken off'; END $$"
        )
        await sql.execute(
            "CREATE TRIGGER broken BEFORE UPDATE ON import_file FOR EACH ROW WHEN (new.complete)"
            " EXECUTE FUNCTION broken()"
        )
        assert (await part(service, import_id, file)).status_code == 500
        assert await told_offset(service, f"/v1/imports/{import_id}", len(file)) < len(file)
        await sql.execute("DROP TRIGGER broken ON import_file")
    assert (await part(service, import_id, file)).status_code == 204
    assert (await done(service, import_id))["created"] == 1


@pytest.mark.parametrize("extra", [(), (b"x",)])
async def test_a_connection_that_breaks_behind_the_last_byte_leaves_an_upload_that_completes(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, extra: tuple[bytes, ...]
) -> None:
    """A piece would end with the last byte."""
    monkeypatch.setattr("consent.imports.upload.PIECE_BYTES", 1)
    monkeypatch.setattr(cutting, "PIECE_LINES", 2)
    file = f"number,occurred_at\n{number(1)},{AT}\n".encode()
    location = f"/v1/imports/{await opened(service, terms(), len(file))}"
    await check_break_behind_the_last_byte(service, location, file, *extra)


async def test_a_length_named_later_holds_from_then_on(service: httpx.AsyncClient) -> None:
    file = f"number,occurred_at\n{number(1)},{AT}\n".encode()
    first, second = [f"/v1/imports/{await opened(service, terms())}" for _ in range(2)]
    await check_length_named_with_bytes(service, first, file)
    await check_length_named_last(service, second, file)


async def test_a_connection_that_breaks_leaves_whole_pieces_and_no_more(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consent.imports.upload.PIECE_BYTES", 100)
    monkeypatch.setattr(cutting, "PIECE_LINES", 2)
    file = "".join(json.dumps({"number": number(n), "occurred_at": AT}) + "\n" for n in range(12)).encode()
    import_id = await opened(service, terms(format="ndjson"))

    said = {**TUS, **OCTETS, "Upload-Offset": "0", "Upload-Length": str(len(file))}
    answer = await broken_off(service, "PATCH", f"/v1/imports/{import_id}", said, file[:200], file[200:330])
    assert (answer.status, json.loads(answer.body)["reasons"][0]["reason"]) == (400, "disconnected")
    found = (await service.get(f"/v1/imports/{import_id}")).json()
    assert (found["status"], found["created"]) == ("uploading", 0)
    offset = found["received_bytes"]
    assert 0 < offset < 330
    assert file[offset - 1 : offset] == b"\n"
    assert (await part(service, import_id, file[offset:], offset)).status_code == 204
    assert (await done(service, import_id))["created"] == 12


async def test_the_memory_of_an_import_does_not_grow_with_its_length(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times the file, no more of it at once. Most lines are refused, which is quickly done; all are long."""
    monkeypatch.setattr("consent.imports.upload.PIECE_BYTES", 64 * 1024)
    monkeypatch.setattr(cutting, "PIECE_BYTES", 64 * 1024)

    async def lines(first: int, many: int) -> AsyncIterator[bytes]:
        shown = "x" * 2000
        yield b"number,occurred_at,text_shown\n"
        for n in range(first, first + many):
            yield f"{number(n) if n % 20 == 0 else '01 99 00 12 34'},{AT},{shown}\n".encode()

    async def peak_of(first: int, many: int) -> int:
        """The most that an import of `many` lines of 2 kB held at once, in bytes."""
        import_id = await opened(service, terms())
        gc.collect()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        answer = await patched(service, f"/v1/imports/{import_id}", lines(first, many), 0)
        assert answer.status_code == 204, answer.text
        assert (await part(service, import_id, b"", int(answer.headers["Upload-Offset"]))).status_code == 204
        found = await done(service, import_id, 120.0)
        assert (found["created"], found["refused"]) == (many // 20, many - many // 20)
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        await peak_of(0, 400)  # what is made once is made
        short = await peak_of(400, 400)
        long = await peak_of(800, 4000)
    finally:
        tracemalloc.stop()
    assert long < short + 1024 * 1024, "of a file of 8 MB"


async def test_nothing_is_recorded_while_much_waits_to_be_published(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No relay runs here: what is in the outbox stays there, until the test takes it away."""
    monkeypatch.setattr(cutting, "PIECE_LINES", 10)
    file = "number,occurred_at\n" + "".join(f"{number(n)},{AT}\n" for n in range(29))
    async with consent_svc(surroundings) as client, surroundings.sql("consent") as sql:
        import_id = await opened(client, terms())
        await part(client, import_id, file.encode())

        async def recorded() -> int:
            return int((await client.get(f"/v1/imports/{import_id}")).json()["recorded_pieces"])

        async with held_by(build(Settings(**await surroundings.settings("consent", roles="api")))) as (held, _):
            importing = Importing(held, backlog=8)
            for pieces in (0, 1, 2):
                await sql.execute("DELETE FROM outbox")
                assert [await importing.record_piece() for _ in range(3)] == [True, False, False]
                assert await recorded() == pieces + 1
        assert (await done(client, import_id))["created"] == 29


async def test_the_relay_ends_the_pause_of_a_worker(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consent.imports.worker.RELAY_S", 3600.0)
    async with consent_svc(surroundings) as client, surroundings.sql("consent") as sql:
        import_id = await opened(client, terms())
        await part(client, import_id, f"number,occurred_at\n{number(1)},{AT}\n".encode())
        async with held_by(build(Settings(**await surroundings.settings("consent", roles="api")))) as (held, _):
            importing, stop = Importing(held, backlog=0), asyncio.Event()
            [hearing] = [worker for worker in importing.workers() if worker.name == "imports, relay"]
            await sql.execute("INSERT INTO outbox (event_id, topic, type) VALUES (gen_random_uuid(), 'any', 'any')")
            heard, turn = asyncio.ensure_future(hearing.run(stop)), asyncio.create_task(importing.turn())

            async def published() -> bool:
                await sql.execute("SELECT pg_notify($1, '')", RELAYED)
                return turn.done()

            await eventually(published, 60.0)
            assert turn.result(), "a piece waits"
            await sql.execute("DELETE FROM outbox")
            assert await importing.turn()
            stop.set()
            await heard
        assert (await done(client, import_id))["created"] == 1


@pytest.mark.parametrize("dated", [{}, {"occurred_at": AT}])
@pytest.mark.parametrize("listed", [EITHER, RECEIVED])
async def test_a_number_of_a_list_that_may_be_that_of_two_is_out_for_both(
    service: httpx.AsyncClient, listed: str, dated: dict[str, Any]
) -> None:
    for of_either in (RECEIVED, TYPED):
        told = consent(number=of_either, occurred_at="2026-01-01T09:00:00Z")
        assert (await service.post("/v1/consents", json=told)).status_code == 201
    for verdict in ("created", "unchanged"):
        found = await imported(service, suppressions(**dated), f"number\n{listed}\n")
        assert await verdicts(service, found["import_id"]) == [f"2,{verdict},"]
    france = "opted_out" if listed == EITHER else "opted_in"
    assert await checked(service, [RECEIVED, TYPED]) == ["opted_out", france]


async def test_a_line_for_two_is_created_where_one_of_them_was_not_out(service: httpx.AsyncClient) -> None:
    assert (await service.post("/v1/opt-outs", json=opt_out(number=TYPED))).status_code == 201
    assert (await imported(service, suppressions(), f"number\n{EITHER}\n"))["created"] == 1
    assert (await imported(service, suppressions(), f"number\n{EITHER}\n"))["unchanged"] == 1


async def test_a_lone_carriage_return_hides_no_line_of_a_list(service: httpx.AsyncClient) -> None:
    listed = f'number,actor\n{number(1)},"a, b"\r{number(2)},\n{number(3)},\n'
    found = await imported(service, suppressions(), listed)
    assert await verdicts(service, found["import_id"]) == ["2,refused,not_csv", "3,created,"]


async def test_an_import_of_which_a_piece_fails_keeps_no_other_waiting(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes do not unseal, and it comes before all others. Once they do, it is recorded as well."""
    async with consent_svc(surroundings) as client, surroundings.sql("consent") as sql:
        first, second = sorted([await opened(client, terms()) for _ in range(2)])
        for n, import_id in enumerate((first, second)):
            await part(client, import_id, f"number,occurred_at\n{number(n)},{AT}\n".encode())
        body = await sql.fetchval("SELECT body FROM import_piece WHERE import_id = $1", first)
        await sql.execute("UPDATE import_piece SET body = 'broken' WHERE import_id = $1", first)
        async with held_by(build(Settings(**await surroundings.settings("consent", roles="api")))) as (held, _):
            importing = Importing(held, backlog=1000)
            with pytest.raises(Unreadable):
                await importing.record_piece()
            assert [await importing.record_piece() for _ in range(2)] == [True, False]
            assert (await done(client, second))["created"] == 1
            monkeypatch.setattr("consent.imports.worker.PUT_OFF", timedelta(0))
            importing = Importing(held, backlog=1000)
            for _ in range(2):
                with pytest.raises(Unreadable):
                    await importing.record_piece()
            await sql.execute("UPDATE import_piece SET body = $1 WHERE import_id = $2", body, first)
            assert await importing.record_piece()
        assert (await done(client, first))["created"] == 1


async def test_an_upload_that_nobody_goes_on_with_is_forgotten(
    surroundings: Surroundings, service: httpx.AsyncClient
) -> None:
    abandoned, going_on = [await opened(service, terms()) for _ in range(2)]
    for import_id in (abandoned, going_on):
        await part(service, import_id, b"number\n0639980001\n", last=False)
    ready = await imported(service, terms(), f"number,occurred_at\n{number(1)},{AT}\n")
    async with surroundings.sql("consent") as sql:
        before = datetime.now(UTC) - ABANDONED_AFTER - timedelta(minutes=1)
        ids = [abandoned, ready["import_id"]]
        await sql.execute("UPDATE import_file SET touched_at = $1 WHERE import_id = ANY($2)", before, ids)
        async with held_by(build(Settings(**await surroundings.settings("consent", roles="api")))) as (held, _):
            await Importing(held, backlog=1).forget_abandoned()
        assert await sql.fetchval("SELECT count(*) FROM import_piece WHERE import_id = $1", abandoned) == 0
    assert (await service.get(f"/v1/imports/{abandoned}")).status_code == 404
    for import_id in (going_on, ready["import_id"]):
        assert (await service.get(f"/v1/imports/{import_id}")).status_code == 200


async def test_a_key_opens_one_import(service: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "march"}
    first = await service.post("/v1/imports", json=terms(), headers=headers)
    again = await service.post("/v1/imports", json=terms(), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert first.headers["Location"] == f"/v1/imports/{first.json()['import_id']}"
    other = await service.post("/v1/imports", json=terms(purpose="loyalty"), headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert (await service.post("/v1/imports", json=terms())).json()["import_id"] != first.json()["import_id"]


@each_of(
    ("changes", "status", "field", "reason"),
    [
        ({"sender_id": "nobody"}, 404, "sender_id", "unknown_sender"),
        ({"purpose": "newsletter"}, 422, "purpose", "unknown_purpose"),
        ({"sender_id": None}, 422, "body", "value_error"),
        ({"kind": "suppressions", "sender_id": None}, 422, "body", "value_error"),
        ({"occurred_at": AT}, 422, "body", "value_error"),
        ({"evidence": {"source": "mo"}}, 422, "evidence.source", "source_reserved"),
        ({"evidence": {}}, 422, "evidence.source", "missing"),
        ({"format": "xlsx"}, 422, "format", "literal_error"),
        ({"purposes": ["promotions"]}, 422, "purposes", "extra_forbidden"),
    ],
)
async def test_what_cannot_be_imported_is_refused_with_the_field_and_the_reason(
    service: httpx.AsyncClient, changes: dict[str, Any], status: int, field: str, reason: str
) -> None:
    answer = await service.post("/v1/imports", json=terms(**changes))
    assert answer.status_code == status, answer.text
    assert [(r["field"], r["reason"]) for r in answer.json()["reasons"]] == [(field, reason)]


@each_of(
    ("file", "reason"),
    [
        (b"number,pointure\n0639980001,\n", "unknown_column"),
        (b"0639980001\n0639980002\n", "unknown_column"),
        ("number,actor\n0639980001,Zoé\n".encode() + "0639980002,Zoé\n".encode("latin-1"), "charset"),
        (b"number,actor\n0639980001,S\xa8n\n", "charset_unclear"),
        (b"PK\x03\x04\x14\x00\x06\x00xl/workbook.xml", "spreadsheet"),
        (b'number\n"' + b"0639980001\n" * 9000, "line_too_long"),
        (b"number," + b"x" * 140_000 + b"\n0639980001,\n", "line_too_long"),
        (b"number,actor\n0639980001," + b"x" * 140_000 + b"\n", "line_too_long"),
        (b'number,"act"or\n0639980001,\n', "not_csv"),
    ],
)
async def test_a_file_that_will_not_do_is_refused_whole(service: httpx.AsyncClient, file: bytes, reason: str) -> None:
    import_id = await opened(service, terms())
    answer = await part(service, import_id, file)
    assert answer.status_code == 422, answer.text
    assert [(r["field"], r["reason"]) for r in answer.json()["reasons"]] == [("body", reason)]
    assert (await service.get(f"/v1/imports/{import_id}")).json()["status"] == "uploading"


async def test_only_who_may_write_the_senders_consents_imports(service: httpx.AsyncClient) -> None:
    import_id = await opened(service, terms())
    everyone = await opened(service, suppressions(sender_id=None))
    for headers, status, of_the_file, read in (
        ({"Authorization": ""}, 401, 401, 401),
        (bearer(scope="message:read"), 403, 403, 403),
        (bearer(scope="consent:read"), 403, 403, 200),
        (bearer(senders=["globex"]), 403, 404, 404),
    ):
        assert (await service.post("/v1/imports", json=terms(), headers=headers)).status_code == status
        assert (await part(service, import_id, b"number\n", headers=headers)).status_code == of_the_file
        for path in ("", "/verdicts"):
            assert (await service.get(f"/v1/imports/{import_id}{path}", headers=headers)).status_code == read
    own = bearer(senders=["acme"])
    assert (await service.post("/v1/imports", json=suppressions(sender_id=None), headers=own)).status_code == 403
    assert (await service.get(f"/v1/imports/{everyone}", headers=own)).status_code == 404
    assert (await service.get(f"/v1/imports/{import_id}", headers=own)).status_code == 200
    assert (await service.get("/v1/imports/imp-0")).status_code == 404
