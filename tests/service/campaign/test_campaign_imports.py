"""Importing contacts: exact counts, all or nothing, and no number where it does not belong."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from campaign.service import Settings, build
from common.web.edge.bodies import BODY_BYTES
from tests.service.campaign.campaigns import Campaigns
from tests.support.builders import SENDER, field_keys, number, shown, subject
from tests.support.each_of import each_of
from tests.support.eventually import eventually
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

EXAMPLES = Path(__file__).parents[3] / "examples"


async def contacts(surroundings: Surroundings) -> dict[str, Any]:
    """By subject: number unsealed, and attributes."""
    async with surroundings.sql("campaign") as sql:
        rows = await sql.fetch("SELECT subject_id, number, attributes::text AS attributes FROM contact")
    return {
        r["subject_id"]: (field_keys.unseal(r["number"], f"number:{r['subject_id']}"), r["attributes"]) for r in rows
    }


async def test_the_example_file_is_counted_to_the_line(campaigns: Campaigns) -> None:
    found = await campaigns.imported((EXAMPLES / "contacts.csv").read_bytes())
    counts = {name: found[name] for name in ("lines", "created", "updated", "duplicates", "refused")}
    assert counts == {"lines": 10_000, "created": 9_800, "updated": 0, "duplicates": 30, "refused": 170}
    assert found["reasons"] == {"not_mobile": 40, "too_short": 40, "not_a_number": 30, "empty": 30, "short_code": 30}
    again = await campaigns.imported((EXAMPLES / "contacts.csv").read_bytes())
    assert (again["created"], again["updated"], again["duplicates"]) == (0, 9_800, 30)
    assert again["import_id"] != found["import_id"]
    shown = await campaigns.get(f"imports/{found['import_id']}")
    assert shown == {name: found[name] for name in shown}


async def test_a_contact_keeps_what_a_later_file_does_not_say(campaigns: Campaigns) -> None:
    await campaigns.imported(f"mobile;prenom;ville\n{number(1)};Zoé;Lyon\n{number(2)};Bob;Metz\n{number(2)};Aimé;\n")
    found = await campaigns.imported(f"Ville,Mobile\nNîmes,06 39 98 00 01\nSète,{number(1)}\n".encode("cp1252"))
    assert (found["created"], found["updated"], found["duplicates"]) == (0, 1, 1)
    assert await contacts(campaigns.surroundings) == {
        subject(1): (number(1), '{"ville": "Sète", "prenom": "Zoé"}'),
        subject(2): (number(2), '{"ville": "", "prenom": "Aimé"}'),
    }


async def test_refused_lines_can_be_looked_up_page_by_page_and_repeat_no_number(campaigns: Campaigns) -> None:
    found = await campaigns.imported("mobile\n" + "01 99 00 12 34\n" + "06 39 98 12\n" + f"{number(1)}\n" + "36111\n")
    path = f"imports/{found['import_id']}/refusals"
    first = await campaigns.get(f"{path}?limit=2")
    assert [(r["line"], r["reason"]) for r in first["items"]] == [(2, "not_mobile"), (3, "too_short")]
    assert first["items"][0]["detail"] == "a fixed line or a special number"
    rest = await campaigns.get(f"{path}?limit=2&cursor={first['next']}")
    assert [(r["line"], r["reason"]) for r in rest["items"]] == [(5, "short_code")]
    assert rest["next"] is None
    assert "9900" not in str(first).replace(" ", "")


async def test_no_table_holds_a_number_in_the_clear(campaigns: Campaigns) -> None:
    await campaigns.started(1, 2)
    assert await campaigns.planner.expand()
    file = await campaigns.imported(f"Téléphone;mobile;ville\n{number(91)};{number(3)};Lyon\n")
    assert file["read_as"]["other_numbers"] == ["telephone"]
    objects = await campaigns.imported(json.dumps({"tel": number(92), "phone": number(4), "city": "Metz"}))
    assert objects["read_as"]["other_numbers"] == ["tel"]
    one = {"number": number(5), "attributes": {"phone": number(93), "city": "Metz"}}
    put = await campaigns.post("contacts", json={"sender_id": SENDER, "contacts": [one]})
    assert (put["items"][0]["result"], put["other_numbers"]) == ("created", ["phone"])
    refused = await campaigns.put(f"senders/{SENDER}/attributes/phone", 422, json={"kind": "number"})
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("name", "number_column")]
    assert set(await campaigns.get(f"senders/{SENDER}/attributes")) == {"city", "first_name", "ville"}
    held = await contacts(campaigns.surroundings)
    assert [held[subject(n)] for n in (3, 4, 5)] == [
        (number(3), '{"ville": "Lyon"}'),
        (number(4), '{"city": "Metz"}'),
        (number(5), '{"city": "Metz"}'),
    ]
    async with campaigns.surroundings.sql("campaign") as sql:
        tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for table in tables:
            rows = await sql.fetch(f"SELECT t::text AS line FROM {table['tablename']} AS t")
            assert not any("639980" in row["line"] for row in rows), table["tablename"]
        payloads = await sql.fetch("SELECT payload FROM outbox")
        assert payloads
        assert not any(b"639980" in row["payload"] for row in payloads)


@each_of(
    ("body", "status", "reason"),
    [
        (b"", 400, "empty"),
        (b"PK\x03\x04\x00\x00", 400, "spreadsheet"),
        (b"mobile;ville\n0639981234;\x00\n", 400, "not_text"),
        ("mobile;prénom\n".encode() + "0639981234;Zoé\n".encode("cp1252"), 400, "charset"),
        (b"prenom;ville\nZoe;Lyon\n", 422, "number_column_missing"),
        (b"mobile;ville;Ville\n0639981234;a;b\n", 422, "column_twice"),
        (b"mobile\n" + b"0639981234\n" * 100_000, 413, "too_large"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_whole(
    campaigns: Campaigns, body: bytes, status: int, reason: str
) -> None:
    refused = await campaigns.imported(body, status)
    assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [("body", reason)]
    assert await contacts(campaigns.surroundings) == {}


async def test_what_breaks_at_its_end_leaves_nothing_behind(campaigns: Campaigns) -> None:
    body = b"mobile\n" + b"".join(b"063998%04d\n" % n for n in range(3000)) + b"\xff\xfe\x00"
    await campaigns.imported(body, 400)
    assert await contacts(campaigns.surroundings) == {}
    async with campaigns.surroundings.sql("campaign") as sql:
        assert await sql.fetchval("SELECT count(*) FROM import_refusal") == 0


async def test_a_body_whose_length_is_not_announced_is_cut_off_at_the_limit(campaigns: Campaigns) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b"mobile\n"
        while True:
            sent += 1
            yield b"0639981234\n" * 1000

    refused = await campaigns.client.post("/v1/imports", params={"sender_id": SENDER}, content=endless())
    assert refused.status_code == 413
    assert sent < 200


async def test_a_file_may_be_larger_than_other_bodies(surroundings: Surroundings) -> None:
    settings = Settings(**await surroundings.settings("campaign", roles="api", import_max_bytes=2 * BODY_BYTES))
    async with running(build(settings)) as client:
        async with surroundings.sql("campaign") as sql:
            await sql.execute("INSERT INTO sender VALUES ('acme', 'tests', 'acme', 1, 'Acme', 'FR', '36111', '{}')")
        body = b"mobile\n" + b"36111\n" * (BODY_BYTES // 6)
        answered = await client.post("/v1/imports", params={"sender_id": "acme"}, content=body)
    assert len(body) > BODY_BYTES
    assert answered.status_code == 201


async def test_contacts_and_imports_are_read_with_a_scope_that_writes_nothing(campaigns: Campaigns) -> None:
    reads = bearer(scope="contact:read")
    for path in ("imports", "contacts"):
        told = await campaigns.client.get(f"/v1/{path}", params={"sender_id": SENDER}, headers=reads)
        assert told.status_code == 200
    refused = await campaigns.client.post("/v1/imports", params={"sender_id": SENDER}, content=b"a", headers=reads)
    assert refused.status_code == 403
    assert (await campaigns.client.post("/v1/contacts", json={}, headers=reads)).status_code == 403


async def test_other_kinds_of_bodies_are_told_what_is_wanted(campaigns: Campaigns) -> None:
    refused = await campaigns.client.post(
        "/v1/imports", params={"sender_id": SENDER}, files={"file": ("contacts.csv", b"mobile\n0639981234\n")}
    )
    assert refused.status_code == 400
    assert refused.json()["reasons"][0]["reason"] == "content_type"


async def test_the_same_key_and_file_again_imports_nothing_and_answers_the_same(campaigns: Campaigns) -> None:
    key = {"Idempotency-Key": "november"}
    body = f"mobile\n{number(1)}\n"
    first = await campaigns.imported(body, headers=key)
    again = await campaigns.imported(body, 201, headers=key)
    assert again == first
    other = await campaigns.imported(f"mobile\n{number(2)}\n", 422, headers=key)
    assert other["type"] == "/problems/idempotency-key-reused"
    assert list(await contacts(campaigns.surroundings)) == [subject(1)]


async def test_a_second_request_with_a_key_that_is_at_work_is_told_so_at_once(campaigns: Campaigns) -> None:
    key = {"Idempotency-Key": "november"}
    begun, go_on = asyncio.Event(), asyncio.Event()
    lines = [b"mobile\n", b"36111\n" * 20_000, f"{number(1)}\n".encode()]

    async def slow() -> AsyncIterator[bytes]:
        yield lines[0] + lines[1]
        begun.set()
        await go_on.wait()
        yield lines[2]

    first = asyncio.ensure_future(
        campaigns.client.post("/v1/imports", params={"sender_id": SENDER}, content=slow(), headers=key)
    )
    await begun.wait()
    refused = await asyncio.wait_for(campaigns.imported(b"".join(lines), 409, headers=key), 30)
    assert refused["type"] == "/problems/idempotency-key-in-progress"
    go_on.set()
    done = await first
    assert (done.status_code, done.json()["created"], done.json()["refused"]) == (201, 1, 20_000)
    assert await campaigns.imported(b"".join(lines), 201, headers=key) == done.json()


async def test_of_two_requests_with_one_key_at_the_same_moment_one_imports(campaigns: Campaigns) -> None:
    body = ["mobile\n36111\n" + f"{number(1)}\n"] * 4
    answers = await asyncio.gather(
        *(
            campaigns.client.post(
                "/v1/imports", params={"sender_id": SENDER}, content=each, headers={"Idempotency-Key": "november"}
            )
            for each in body
        )
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses.count(201) == 1
    assert set(statuses) <= {200, 201, 409}


async def test_imports_of_the_same_people_at_once_all_count(campaigns: Campaigns) -> None:
    people = list(range(300))
    bodies = ["number;n\n" + "".join(f"{number(n)};{i}\n" for n in people[:: 1 if i % 2 else -1]) for i in range(6)]
    found = await asyncio.gather(*(campaigns.imported(body) for body in bodies))
    assert sum(each["created"] for each in found) == 300
    assert sum(each["updated"] for each in found) == 5 * 300


async def test_who_is_brought_by_another_at_the_same_moment_is_updated_and_the_others_are_created(
    campaigns: Campaigns,
) -> None:
    async with campaigns.surroundings.sql("campaign") as other, campaigns.surroundings.sql("campaign") as look:
        not_yet = other.transaction()
        await not_yet.start()
        await other.execute(
            "INSERT INTO contact (sender_id, subject_id, number, attributes, created_at, updated_at)"
            " VALUES ($1, $2, '', '{}', now(), now())",
            SENDER,
            subject(1),
        )
        importing = asyncio.ensure_future(campaigns.imported(f"mobile\n{number(1)}\n{number(2)}\n"))

        async def waits() -> bool:
            there = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            return bool(await look.fetchval(f"SELECT EXISTS ({there})"))

        await eventually(waits)
        await not_yet.commit()
        found = await importing
    assert (found["created"], found["updated"], found["duplicates"]) == (1, 1, 0)
    assert {held for held, _ in (await contacts(campaigns.surroundings)).values()} == {number(1), number(2)}


async def test_the_loop_stays_free_while_a_file_is_read(campaigns: Campaigns) -> None:
    """By processor time: on a busy machine a thread may be kept from going on for as long as it likes."""
    body = (EXAMPLES / "contacts.csv").read_bytes()
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    watching = asyncio.create_task(watch())
    started = time.process_time()
    await campaigns.imported(body)
    watching.cancel()
    assert longest < (time.process_time() - started) / 3  # reading 10,000 lines at one go would be most of it


async def test_an_unknown_sender_and_a_sender_of_others_are_refused(campaigns: Campaigns) -> None:
    unknown = await campaigns.client.post("/v1/imports", params={"sender_id": "nobody"}, content=b"mobile\n")
    assert (unknown.status_code, unknown.json()["reasons"][0]["reason"]) == (404, "unknown_sender")
    other = bearer(senders=["somebody-else"])
    refused = await campaigns.client.post(f"/v1/imports?sender_id={SENDER}", content=b"mobile\n", headers=other)
    assert refused.status_code == 403
    mine = await campaigns.imported(f"mobile\n{number(1)}\n")
    for path in (f"/v1/imports/{mine['import_id']}", f"/v1/imports/{mine['import_id']}/refusals"):
        assert (await campaigns.client.get(path, headers=other)).status_code == 404
    assert (await campaigns.client.get("/v1/imports/imp-nothing")).status_code == 404
    reader = bearer(scope="campaign:write")
    assert (await campaigns.client.post(f"/v1/imports?sender_id={SENDER}", headers=reader)).status_code == 403
    assert (await campaigns.client.get("/v1/campaigns", headers={"Authorization": ""})).status_code == 401


# --- NDJSON, kinds, and contacts without a file ----------------------------------------------------------------------


async def test_objects_come_by_the_same_door_and_say_how_they_were_read(campaigns: Campaigns) -> None:
    lines = [
        f'{{"number": "{number(1)}", "first_name": "Zoé", "points": 120, "vip": true}}',
        f'{{"number": "{number(2)}", "points": 7}}',
        '{"number": "36111"}',
        f'{{"number": "{number(3)}", "poi',
    ]
    found = await campaigns.imported("\n".join(lines), headers={"Content-Type": "application/x-ndjson"})
    assert (found["lines"], found["created"], found["refused"]) == (4, 2, 2)
    assert found["reasons"] == {"short_code": 1, "cut_off": 1}
    assert found["read_as"] == {
        "format": "ndjson", "charset": "utf-8", "delimiter": None, "encoded_twice": False, "other_numbers": [],
    }  # fmt: skip
    assert (await campaigns.get(f"imports/{found['import_id']}"))["read_as"] == found["read_as"]
    assert (await contacts(campaigns.surroundings))[subject(1)] == (
        number(1),
        '{"vip": "true", "points": "120", "first_name": "Zoé"}',
    )
    assert await campaigns.get(f"senders/{SENDER}/attributes") == {
        "first_name": "text", "points": "number", "vip": "boolean",
    }  # fmt: skip


async def test_values_come_back_as_they_were_whatever_is_in_them(campaigns: Campaigns) -> None:
    held = {
        "a": "C:\\new\\table",
        "b": "a\tb\nc\rd",
        "c": "\\N",
        "d": 'dit "oui"',
        "e": "\\.",
        "f": "{É;ß,😀}",
        "g": "a\u2028b\x85c",
    }
    await campaigns.imported(json.dumps({"number": number(1), **held}))
    found = await campaigns.post("contacts/lookup", json={"sender_id": SENDER, "number": number(1)})
    assert found["attributes"] == held


async def test_lines_hold_what_was_inferred_before_or_declared_or_are_refused(campaigns: Campaigns) -> None:
    await campaigns.put(f"senders/{SENDER}/attributes/born", json={"kind": "date"})
    await campaigns.imported(f"mobile;points;born\n{number(1)};12;26/11/1990\n")
    found = await campaigns.imported(
        f"mobile;points;born\n{number(1)};1 000,5;\n{number(2)};douze;\n{number(3)};1;hier\n{number(4)};;\n"
    )
    assert (found["created"], found["updated"], found["refused"]) == (1, 1, 2)
    assert found["reasons"] == {"no_number:points": 1, "no_date:born": 1}
    refused = await campaigns.get(f"imports/{found['import_id']}/refusals")
    assert [(r["line"], r["reason"], r["detail"]) for r in refused["items"]] == [
        (3, "no_number:points", "the attribute holds numbers, and this is none"),
        (4, "no_date:born", "the attribute holds dates, and this is none"),
    ]
    assert await contacts(campaigns.surroundings) == {
        subject(1): (number(1), '{"born": "", "points": "1000.5"}'),
        subject(4): (number(4), '{"born": "", "points": ""}'),
    }
    await campaigns.put(f"senders/{SENDER}/attributes/points", json={"kind": "text"})
    assert (await campaigns.imported(f"mobile;points\n{number(2)};douze\n"))["created"] == 1


async def test_contacts_come_go_and_are_read_without_a_file(campaigns: Campaigns) -> None:
    async def put(*people: tuple[str, dict[str, Any]]) -> list[tuple[str, str | None]]:
        body = {"sender_id": SENDER, "contacts": [{"number": n, "attributes": held} for n, held in people]}
        return [(each["result"], each["reason"]) for each in (await campaigns.post("contacts", json=body))["items"]]

    zone = {"timezone": "America/Martinique"}
    assert await put(
        (number(1), {"first_name": "Zoé", "points": 12.5, "vip": True, **zone}),
        ("36111", {}),
        (number(2), {"points": "13"}),
        (number(3), {"timezone": "Mars"}),
        (number(2), {"points": "beaucoup"}),
        (number(2), {"points": 14, "stop": "x"}),
        ("06 39 98 00 01", {"first_name": None}),
    ) == [
        ("duplicate", None),
        ("refused", "short_code"),
        ("created", None),
        ("refused", "no_timezone:timezone"),
        ("refused", "no_number:points"),
        ("refused", "reserved_column"),
        ("created", None),
    ]
    assert await put((number(1), {"first_name": "Zoé", "points": 12.5, "vip": True, **zone})) == [("updated", None)]
    found = await campaigns.post("contacts/lookup", json={"sender_id": SENDER, "number": "06 39 98 00 01"})
    assert found["attributes"] == {"first_name": "Zoé", "points": "12.5", "vip": "true", **zone}
    assert (found["subject_id"], found["territory"]) == (shown(1), "FR")
    assert await campaigns.post("contacts/lookup", json={"sender_id": SENDER, "subject_id": shown(1)}) == found
    gone = {"sender_id": SENDER, "contacts": [{"number": number(1)}, {"subject_id": shown(2)}, {"number": number(9)}]}
    await campaigns.post("contacts/delete", 403, json=gone, headers=bearer(senders=["other"]))
    for foreign in (subject(2), shown(2, "another"), f"{shown(2)}0", "sub_é", "\u0663" * 68):
        unread = gone | {"contacts": [{"subject_id": foreign}]}
        refused = await campaigns.post("contacts/delete", 422, json=unread)
        assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [
            ("contacts.0.subject_id", "subject_id_not_valid")
        ]
    wrong = await campaigns.post(
        "contacts/delete", 422, json={"sender_id": SENDER, "contacts": [{"number": number(1)}, {"number": "36111"}]}
    )
    assert [(r["field"], r["reason"]) for r in wrong["reasons"]] == [("contacts.1.number", "short_code")]
    assert await campaigns.post("contacts/delete", json=gone) == {"deleted": 2}
    assert await contacts(campaigns.surroundings) == {}
    await campaigns.post("contacts/lookup", 404, json={"sender_id": SENDER, "number": number(1)})


async def test_what_an_attribute_holds_is_learnt_of_contacts_that_are_kept(campaigns: Campaigns) -> None:
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute(
            "INSERT INTO erasing (subject_id, erasure_id, requested_at) VALUES ($1, 'era-1', now())", subject(1)
        )
    people: list[tuple[str, dict[str, Any]]] = [
        ("36111", {"points": "beaucoup", "size": 41}),
        (number(1), {"points": "beaucoup", "vip": True}),
        (number(2), {"points": "beaucoup", "timezone": "Mars"}),
        (number(3), {"born": 1990, "points": 12}),
        (number(3), {"points": 12, "city": "Lyon"}),
        (number(4), {"points": "douze"}),
    ]
    body = {"sender_id": SENDER, "contacts": [{"number": n, "attributes": held} for n, held in people]}
    found = await campaigns.post("contacts", json=body)
    assert [(each["result"], each["reason"]) for each in found["items"]] == [
        ("refused", "short_code"),
        ("refused", "erased"),
        ("refused", "no_timezone:timezone"),
        ("duplicate", None),
        ("created", None),
        ("refused", "no_number:points"),
    ]
    assert await campaigns.get(f"senders/{SENDER}/attributes") == {"points": "number", "city": "text"}


async def test_no_request_brings_back_who_was_erased(campaigns: Campaigns) -> None:
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute(
            "INSERT INTO erasing (subject_id, erasure_id, requested_at) VALUES ($1, 'era-1', now())", subject(1)
        )
    body = {"sender_id": SENDER, "contacts": [{"number": number(1)}, {"number": number(2)}]}
    found = await campaigns.post("contacts", json=body)
    assert [(each["result"], each["reason"]) for each in found["items"]] == [("refused", "erased"), ("created", None)]
    assert list(await contacts(campaigns.surroundings)) == [subject(2)]
