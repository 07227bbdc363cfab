"""No caller goes round its lane: its scope, its code, its template, and no text that looks like advertising."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from common.contracts.campaign import TemplateField
from common.db.database import Database
from dispatch.accepting.bodies import Batch
from dispatch.messages.row import FREE_TEXT
from dispatch.projection import store as projection
from dispatch.projection import templates
from dispatch.service import Settings, build
from tests.support.builders import (
    CODES_SENDER,
    SENDER,
    codes_sender_changed,
    field_keys,
    now,
    number,
    sender_changed,
    template_changed,
)
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

CODE = {
    "sender_id": CODES_SENDER,
    "to": number(1),
    "category": "transactional",
    "template_id": "tpl-code",
    "values": {"code": "4821"},
}
NOTICE = {"sender_id": SENDER, "to": number(1), "category": "service", "text": "Votre colis arrive demain."}
PARCEL = (
    TemplateField(name="parcel", max_chars=12),
    TemplateField(name="link", max_chars=60, links=True),
    TemplateField(name="due", max_chars=12, prices=True),
)


def without(*scopes: str) -> dict[str, str]:
    return bearer(scope=" ".join(scope for scope in ALL_SCOPES.split() if scope not in scopes))


@dataclass
class Lanes:
    """dispatch-svc's API on a real database, where nothing is handed off."""

    client: httpx.AsyncClient
    surroundings: Surroundings

    async def post(self, body: Any, expect: int = 202, headers: dict[str, str] | None = None) -> dict[str, Any]:
        answer = await self.client.post("/v1/messages", json=body, headers=headers)
        assert answer.status_code == expect, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def refused(self, body: Any, expect: int, kind: str, **more: Any) -> list[tuple[str, str]]:
        """The fields and reasons of a refusal, which leaves no message, no key and no number."""
        before = await self.rows("SELECT count(*) FROM message")
        found = await self.post(body, expect, **more)
        assert found["type"] == f"/problems/{kind}"
        assert await self.rows("SELECT count(*) FROM message") == before
        assert number(1)[3:] not in str(found)
        return [(reason["field"], reason["reason"]) for reason in found["reasons"]]

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with self.surroundings.sql("dispatch") as sql:
            return [tuple(row) for row in await sql.fetch(query)]

    async def text(self, identity: str) -> str:
        [(sealed,)] = await self.rows(f"SELECT text FROM message WHERE message_id = '{identity}'")
        return field_keys.unseal(sealed, f"text:{identity}")

    async def audits(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.client.get("/v1/text-audits")).json()["items"]
        return items


@pytest.fixture
async def lanes(surroundings: Surroundings) -> AsyncIterator[Lanes]:
    database = Database(await surroundings.database("dispatch"), pool_size=2)
    async with database.begin() as tx:
        for sender in (sender_changed(), codes_sender_changed()):
            await projection.put_sender(tx, sender)
        for event in (
            template_changed(),
            template_changed(number=2, text="Maison Lune : {code} est votre code."),
            template_changed(template_id="tpl-old", state="retired", version=2),
            template_changed(
                template_id="tpl-parcel",
                sender_id=SENDER,
                category="service",
                text="Maison Lune : colis {parcel}, suivi {link}. Reste {due}.",
                fields=PARCEL,
            ),
        ):
            await templates.put_template(tx, event)
    await database.close()
    async with opened(surroundings) as found:
        yield found


async def test_a_message_leaves_from_the_newest_approved_version_or_the_one_named(lanes: Lanes) -> None:
    newest = (await lanes.post(CODE))["message_id"]
    assert await lanes.text(newest) == "Maison Lune : 4821 est votre code."
    first = (await lanes.post({**CODE, "version": 1}))["message_id"]
    assert await lanes.text(first) == "Maison Lune : votre code est 4821."
    shown = (await lanes.client.get(f"/v1/messages/{first}")).json()
    assert (shown["template"], shown["category"], shown["status"]) == ("tpl-code@1", "transactional", "pending")
    parcel = {"parcel": "6A1", "link": "https://lune.example/6A1", "due": "24,90 €"}
    notice = {**NOTICE, "text": None, "template_id": "tpl-parcel", "values": parcel}
    said = await lanes.text((await lanes.post(notice))["message_id"])
    assert said == "Maison Lune : colis 6A1, suivi https://lune.example/6A1. Reste 24,90 €."


@pytest.mark.usefixtures("strangers")
async def test_a_template_that_is_not_approved_sends_nothing(lanes: Lanes) -> None:
    retired = {**CODE, "template_id": "tpl-old"}
    assert await lanes.refused(retired, 409, "template-not-usable") == [("template_id", "template_retired")]
    for unknown in ({**CODE, "template_id": "tpl-nobodys"}, {**CODE, "version": 3}, {**CODE, "sender_id": SENDER}):
        found = await lanes.refused({**unknown, "category": "service"}, 404, "not-found")
        assert found == [("template_id", "unknown_template")]
    another = {**CODE, "category": "service"}
    assert await lanes.refused(another, 409, "template-not-usable") == [("category", "template_of_another_class")]
    async with lanes.surroundings.sql("dispatch") as sql:
        await sql.execute("UPDATE template SET state = 'unreadable' WHERE template_id = 'tpl-code'")
    assert await lanes.refused(CODE, 409, "template-not-usable") == [("template_id", "template_unreadable")]


@pytest.mark.parametrize(
    "other",
    [
        {"text": "Maison Lune : {code} pour vous."},
        {"fields": (TemplateField(name="code", max_chars=160),)},
        {"sender_id": SENDER},
        {"category": "service"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_a_number_used_again_for_another_content_sends_nothing(lanes: Lanes, other: dict[str, Any]) -> None:
    reused = template_changed(number=2, version=9, **{"text": "Maison Lune : {code} est votre code.", **other})
    database = Database(await lanes.surroundings.database("dispatch"), pool_size=1)
    async with database.begin() as tx:
        assert await templates.put_template(tx, template_changed(version=9)), "the same content"
        assert not await templates.put_template(tx, reused)
        assert await templates.put_template(tx, reused), "a duplicate counts once"
    await database.close()
    second = {**CODE, "version": 2}
    assert await lanes.refused(second, 409, "template-not-usable") == [("template_id", "template_unreadable")]
    assert await lanes.text((await lanes.post(CODE))["message_id"]) == "Maison Lune : votre code est 4821."


async def test_a_value_is_limited_and_looked_at(lanes: Lanes) -> None:
    for values, reason in (
        ({"code": "4821 promo"}, ("values.code", "advertising:promo")),
        ({"code": "lune.example"}, ("values.code", "link")),
        ({"code": "1" * 21}, ("values.code", "value_too_long")),
        ({"code": "1\n2"}, ("values.code", "value_not_plain")),
        ({}, ("values.code", "value_missing")),
    ):
        assert await lanes.refused({**CODE, "values": values}, 422, "value-not-usable") == [reason]
    assert [(a["template"], a["result"], a["reasons"]) for a in await lanes.audits()][:2] == [
        ("tpl-code@2", "refused", ["advertising:promo"]),
        ("tpl-code@2", "refused", ["link"]),
    ]


@pytest.mark.parametrize("lane", ["transactional", "service"])
async def test_a_free_text_that_looks_like_advertising_is_refused_with_the_word_and_the_place(
    lanes: Lanes, lane: str
) -> None:
    body = {**NOTICE, "category": lane, "sender_id": CODES_SENDER, "text": "Lune : s o l d e s, -20 % sur lune.example"}
    found = await lanes.post(body, 422)
    assert found["type"] == "/problems/looks-like-advertising"
    assert [(r["field"], r["reason"]) for r in found["reasons"]] == [
        ("text", "advertising:soldes"),
        ("text", "rebate"),
        ("text", "link"),
    ]
    assert "at character 8" in found["reasons"][0]["detail"]
    await lanes.refused(body, 422, "looks-like-advertising")
    assert {(a["result"], a["template"], a["message_id"]) for a in await lanes.audits()} == {
        ("refused", FREE_TEXT, None)
    }
    assert await lanes.rows("SELECT count(*) FROM message") == [(0,)]


async def test_a_free_text_with_an_unfilled_placeholder_is_refused_without_its_words(lanes: Lanes) -> None:
    found = await lanes.post({**NOTICE, "text": "Bonjour ((Zoé)), votre colis arrive demain."}, 422)
    assert [(r["field"], r["reason"]) for r in found["reasons"]] == [("text", "placeholder")]
    assert "((…))" in found["detail"]
    assert "Zoé" not in str(found), "the word may be a person's"


async def test_a_lane_and_a_free_text_need_a_scope_of_their_own(lanes: Lanes) -> None:
    offer = {"sender_id": SENDER, "to": number(1), "category": "marketing", "purpose": "promotions"}
    offer |= {"text": "-20 % samedi. STOP au 36111"}
    for body in (NOTICE, CODE, offer):
        scope = f"message:send:{body['category']}"
        assert await lanes.refused(body, 403, "forbidden", headers=without(scope)) == [("scope", "scope_missing")]
        only = bearer(scope=f"{scope} message:send:free_text")
        assert (await lanes.post(body, headers=only))["status"] == "pending"
    missing = without("message:send:free_text")
    assert await lanes.refused(NOTICE, 403, "forbidden", headers=missing) == [("scope", "scope_missing")]
    assert (await lanes.post(CODE, headers=missing))["status"] == "pending"
    assert (await lanes.post(offer, headers=missing))["status"] == "pending"
    assert await lanes.audits() == []


async def test_an_override_leaves_with_its_reason_on_record(lanes: Lanes) -> None:
    body = {**NOTICE, "text": "Votre échange gratuit est prêt.", "override_reason": "litige 4821, sans achat"}
    missing = without("message:send:override")
    assert await lanes.refused(body, 403, "forbidden", headers=missing) == [("scope", "scope_missing")]
    identity = (await lanes.post(body))["message_id"]
    [audit] = await lanes.audits()
    assert (audit["result"], audit["reasons"], audit["message_id"]) == ("overridden", ["advertising:gratuit"], identity)
    assert (audit["caller"], audit["override_reason"]) == ("tester", "litige 4821, sans achat")
    assert (await lanes.post({**body, "text": "Votre colis arrive."}))["status"] == "pending"
    assert len(await lanes.audits()) == 1, "nothing was overridden"
    await lanes.post({**body, "override_reason": f"demande du {number(2)}"})
    assert (await lanes.audits())[-1]["override_reason"] == "demande du [number]"
    other = bearer(senders=["other"])
    assert (await lanes.client.get("/v1/text-audits", headers=other)).json()["items"] == []
    metrics = (await lanes.client.get("/metrics")).text
    assert 'sms_dispatch_texts_total{kind="free_text",lane="service",result="overridden"}' in metrics


@pytest.mark.usefixtures("strangers")
async def test_what_a_stranger_has_is_what_nobody_has(lanes: Lanes) -> None:
    """Its senders, its templates, the audits of its texts, and the report of its messages."""
    database = Database(await lanes.surroundings.database("dispatch"), pool_size=1)
    async with database.begin() as tx:
        beta = {"sender_id": "beta", "organisation_id": "strangers", "controller_id": "beta"}
        await projection.put_sender(tx, codes_sender_changed(**beta))
    await database.close()
    theirs = bearer(organisation="strangers", scope=ALL_SCOPES.replace(" platform:admin", ""))
    await lanes.refused({**NOTICE, "text": "soldes"}, 422, "looks-like-advertising")
    asked = [
        *({**CODE, "sender_id": sender_id} for sender_id in (CODES_SENDER, "nobodys")),
        *({**CODE, "sender_id": "beta", "template_id": template_id} for template_id in ("tpl-code", "tpl-nobodys")),
    ]
    found = (await lanes.post({"messages": asked}, headers=theirs))["results"]
    for ours, nobodys in (found[:2], found[2:]):
        assert ours == nobodys
    assert [each["refused"]["reasons"][0]["reason"] for each in found[::2]] == ["unknown_sender", "unknown_template"]
    since = (now() - timedelta(days=1)).isoformat()
    assert (await lanes.client.get("/v1/text-audits", headers=theirs)).json()["items"] == []
    report = await lanes.client.get("/v1/reports/to-stopped", params={"since": since}, headers=theirs)
    assert report.json()["items"] == []
    assert len(await lanes.audits()) == 1, "ours"
    assert await lanes.rows("SELECT count(*) FROM message") == [(0,)]


async def test_a_code_keeps_its_lane(lanes: Lanes) -> None:
    code = {**NOTICE, "category": "transactional", "text": "Votre code : 4821"}
    assert await lanes.refused(code, 409, "code-of-another-lane") == [("sender_id", "code_of_another_lane")]
    offer = {"sender_id": CODES_SENDER, "to": number(1), "category": "marketing", "purpose": "promotions"}
    offer |= {"text": "-20 % samedi. STOP au 38111"}
    assert await lanes.refused(offer, 409, "code-of-another-lane") == [("sender_id", "code_of_another_lane")]
    for sender_id in (SENDER, CODES_SENDER):
        assert (await lanes.post({**NOTICE, "sender_id": sender_id}))["status"] == "pending"


async def test_an_audit_of_a_code_names_the_template(lanes: Lanes) -> None:
    async with lanes.surroundings.sql("dispatch") as sql:
        await sql.execute("UPDATE sender SET stop_code = '36222' WHERE sender_id = $1", CODES_SENDER)
    assert await lanes.refused(CODE, 409, "code-of-another-lane") == [("sender_id", "code_of_another_lane")]
    [audit] = await lanes.audits()
    assert (audit["template"], audit["reasons"]) == ("tpl-code@2", ["code_of_another_lane"])


async def test_up_to_a_thousand_messages_are_accepted_at_once_each_with_its_result(lanes: Lanes) -> None:
    batch = [{**CODE, "to": number(n), "values": {"code": f"48{n:03d}"}} for n in range(1000)]
    batch[7] |= {"values": {"code": "promo"}}
    batch[500] |= {"to": "bonjour"}
    results = (await lanes.post({"messages": batch}))["results"]
    refused = {place: each["refused"] for place, each in enumerate(results) if each["refused"]}
    assert {place: (r["status"], r["reasons"][0]["field"]) for place, r in refused.items()} == {
        7: (422, "values.code"),
        500: (422, "to"),
    }
    assert all(each["status"] == "pending" for place, each in enumerate(results) if place not in refused)
    assert len({each["message_id"] for each in results if each["message_id"]}) == 998
    assert await lanes.text(results[998]["message_id"]) == "Maison Lune : 48998 est votre code."
    assert await lanes.rows("SELECT count(*) FROM message") == [(998,)]
    too_many = await lanes.post({"messages": [*batch, CODE]}, 422)
    assert [(r["field"], r["reason"]) for r in too_many["reasons"]] == [("messages", "too_long")]


async def test_a_malformed_message_refuses_no_other_of_its_batch(lanes: Lanes) -> None:
    malformed: list[tuple[object, str]] = [
        ({**CODE, "to": ""}, "to"),
        ({**CODE, "values": {"code": "1" * 161}}, "values.code"),
        ({**CODE, "values": {"Code": "1"}}, "values.Code.[key]"),
        ({**CODE, "postcode": "7" * 17}, "postcode"),
        ({**CODE, "send_before": "2030-01-01T10:00:00"}, "send_before"),
        ({**CODE, "text": "Votre code : 4821"}, "body"),
        ({**CODE, number(1): "1"}, "[number]"),
        (number(1), "body"),
        (None, "body"),
    ]
    body = {"messages": [CODE, *(each for each, _ in malformed), {**CODE, "to": number(2)}]}
    first, *refused, last = (await lanes.post(body))["results"]
    assert (first["status"], last["status"]) == ("pending", "pending")
    assert [each["refused"]["reasons"][0]["field"] for each in refused] == [field for _, field in malformed]
    assert {(each["refused"]["type"], each["refused"]["status"]) for each in refused} == {("/problems/invalid", 422)}
    assert number(1)[3:] not in str(refused)
    assert await lanes.rows("SELECT count(*) FROM message") == [(2,)]
    assert Batch.model_json_schema()["properties"]["messages"]["items"] == {"$ref": "#/$defs/Send"}


@pytest.mark.usefixtures("strangers")
async def test_a_batch_sent_again_under_its_key_sends_nothing_twice(lanes: Lanes) -> None:
    key = {**bearer(), "Idempotency-Key": "batch-1"}
    refused = {**CODE, "template_id": "tpl-later"}
    body = {"messages": [CODE, refused, {**CODE, "to": number(2)}]}
    first = (await lanes.post(body, headers=key))["results"]
    assert [bool(each["refused"]) for each in first] == [False, True, False]
    assert (await lanes.post(body, headers=key))["results"] == first
    assert await lanes.rows("SELECT count(*) FROM message") == [(2,)]
    for other in ({"messages": [CODE]}, {"messages": [*body["messages"], CODE]}):
        await lanes.post(other, 422, headers=key)
    assert await lanes.rows("SELECT count(*) FROM message") == [(2,)]


async def test_a_refused_message_claims_no_key(lanes: Lanes) -> None:
    key = {**bearer(), "Idempotency-Key": "code-1"}
    await lanes.refused({**CODE, "values": {"code": "promo"}}, 422, "value-not-usable", headers=key)
    assert await lanes.rows("SELECT count(*) FROM keyed_request") == [(0,)]
    assert (await lanes.post(CODE, headers=key))["status"] == "pending"


async def test_a_repeat_is_answered_with_its_message_whatever_has_changed_since(lanes: Lanes) -> None:
    key = {**bearer(), "Idempotency-Key": "code-1"}
    first = await lanes.post(CODE, headers=key)
    async with lanes.surroundings.sql("dispatch") as sql:
        await sql.execute("UPDATE template SET state = 'retired'")
    assert await lanes.post(CODE, headers=key) == first


@asynccontextmanager
async def opened(surroundings: Surroundings, **more: Any) -> AsyncIterator[Lanes]:
    told = {"gateway_url": "http://127.0.0.1:1", "gateway_token": "t", "hours": "france", **more}
    settings = Settings(**await surroundings.settings("dispatch", roles="api", **told))
    async with running(build(settings)) as client:
        yield Lanes(client, surroundings)


async def test_a_notice_that_would_expire_before_the_courtesy_hours_is_refused(
    lanes: Lanes, surroundings: Surroundings, tmp_path: Path
) -> None:
    hour = 20 if datetime.now(ZoneInfo("Europe/Paris")).hour in (11, 12) else 12  # half an hour a day, and not now
    rule = {"layer": "house", "source": "a test", "opens": f"{hour}:00", "closes": f"{hour}:30"}
    rules = [{"id": name, **rule} for name in ("ours", "ours.courtesy")]
    house = tmp_path / "house.json"
    house.write_text(json.dumps({"version": "h-1", "about": "tests", "rules": rules[:1], "courtesy": rules[1:]}))
    far = (datetime.now(ZoneInfo("Europe/Paris")) + timedelta(days=4)).isoweekday()
    weekly = tmp_path / "weekly.json"
    courtesy = {**rules[1], "weekdays": [far]}
    weekly.write_text(json.dumps({"version": "h-2", "about": "tests", "rules": rules[:1], "courtesy": [courtesy]}))
    soon, later = (now() + timedelta(**span) for span in ({"minutes": 1}, {"days": 2}))
    async with opened(surroundings, house_rules=weekly) as strict:  # beyond the day that a message is kept for
        assert await strict.refused(NOTICE, 422, "invalid") == [("send_before", "before_courtesy_hours")]
        week = (now() + timedelta(days=7)).isoformat()
        assert (await strict.post({**NOTICE, "send_before": week}))["status"] == "pending"
    async with opened(surroundings, house_rules=house) as strict:
        found = await strict.refused({**NOTICE, "send_before": soon.isoformat()}, 422, "invalid")
        assert found == [("send_before", "before_courtesy_hours")]
        for body in (
            {**NOTICE, "send_before": later.isoformat()},
            NOTICE,
            {**CODE, "send_before": soon.isoformat()},  # a code goes at any hour
        ):
            assert (await strict.post(body))["status"] == "pending"
